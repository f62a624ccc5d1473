"""`vigil node adopt`: take in a machine that belongs to no site yet."""

from __future__ import annotations

import hmac
import http.client
import secrets
import socket
import ssl
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlsplit

import click
import msgspec

from broker.authority import Authority
from broker.certs import fingerprint, read_certificate
from config import PermanentError, TransientError, configure_logging
from config.durations import DURATION, format_duration
from config.names import check_name
from config.settings import Settings
from config.text import printable
from fleet.enrolment.client import AuthorityAddress
from fleet.enrolment.door import open_door
from fleet.enrolment.membership import reachable_name
from fleet.enrolment.token import JoinToken
from fleet.nodes.cli_members import own_authority, read_roles
from fleet.nodes.handover import ADOPT_PATH, PROOF_PATH, Handover, id_of, proof_of, shown
from fleet.nodes.load import Load
from fleet.registry.folder import RegistryFolder
from fleet.registry.settling import settle

__all__ = ["adopt"]

_TIMEOUT_S = 40.0
_REACHED_S = 2.0
_ANSWER_BYTES_MAX = 4_096
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class _Machine:
    """One that waits.

    Attributes:
        fingerprint: of its certificate as it shows it, hexadecimal.
    """

    addresses: tuple[AuthorityAddress, ...]
    name: str
    model: str
    version: str
    fingerprint: str


@click.command()
@click.argument("machine", metavar="[ID]", required=False)
@click.option("--all", "every", is_flag=True, help="All that wait.")
@click.option("--name", help="Its name in the site.  [default: its host name]")
@click.option(
    "--role",
    "roles",
    metavar="ROLE[=COUNT]",
    multiple=True,
    callback=read_roles,
    help="What runs there; may be given again.  [default: edge]",
)
@click.option("--at", metavar="HOST:PORT", help="Where it waits, where multicast DNS does not get through.")
@click.option("--code", help="The code of its log: it must prove that it has it.")
@click.option(
    "--wait", "wait_s", type=DURATION, metavar="DURATION", default="3s", help="To hear who waits; default 3s."
)
@click.option("--yes", is_flag=True, help="Without asking whether the fingerprint is right.")
@click.pass_obj
def adopt(
    load: Load,
    *,
    machine: str | None,
    every: bool,
    name: str | None,
    roles: Mapping[str, int],
    at: str | None,
    code: str | None,
    wait_s: float,
    yes: bool,
) -> None:
    """Take in a machine that waits: `vigil node run` without settings announces itself as _vigil._tcp.

    Without ID, --all or --at it lists those that wait. The machine gets a one-time token over TLS and joins with a key
    that it makes itself; then its door closes, so it is adopted once.

    \b
    What protects against what:
      the fingerprint, compared with the machine's log (`journalctl -u vigil-node`), or --code from that log:
        against somebody on the network who poses as your machine and would get its place in your site
      the token: it names one node, holds once and for 15 minutes; nobody who only listens sees it
      the authority's fingerprint inside the token: the machine joins your authority and no other
    What does not: whoever reaches the machine before you can adopt it into a site of his own; you then do not find it
    waiting. Where you do not trust the network, write the token on its card (`vigil flash`), or type it (`vigil join`).

    \b
    Examples:
      vigil node adopt
      vigil node adopt 3f2a91c0 --name porch
      vigil node adopt 3f2a91c0 --code K7QF-2MXA-9TWD-LB3E
      vigil node adopt --all --yes
    """
    settings = load.read()
    configure_logging("error" if settings.log.level == "info" else settings.log.level, stream=sys.stderr)
    if sum((machine is not None, every, at is not None)) > 1:
        raise click.UsageError("give an ID, or --all, or --at")
    if every and (name or code):
        raise click.UsageError("--name and --code are of one machine, not of --all")
    waiting = [_look(AuthorityAddress.read(at))] if at is not None else _heard(wait_s)
    if machine is None and not every and at is None:
        _list(waiting)
        return
    chosen = waiting if machine is None else [one for one in waiting if id_of(one.fingerprint) == machine.lower()]
    if not chosen:
        raise TransientError(
            f"nothing {'waits' if machine is None else f'with the id {machine[:20]!r} waits'} on this network: heard "
            f"{len(waiting)} within {format_duration(wait_s)}; --wait longer, or --at HOST:PORT"
        )
    for one in chosen:
        _adopt(settings, one, name or one.name, roles, code=code, is_sure=yes)
    settle(settings)


def _heard(wait_s: float) -> list[_Machine]:
    from fleet.discovery.mdns import VIGIL_KIND, browse

    return [
        _Machine(
            addresses=tuple(AuthorityAddress(address, one.port) for address in one.addresses),
            name=one.name,
            model=one.properties.get("model", ""),
            version=one.properties.get("version", ""),
            fingerprint=one.properties["fingerprint"],
        )
        for one in browse(wait_s, kinds=(VIGIL_KIND,))
        if one.properties.get("claimed") == "0" and one.addresses and "fingerprint" in one.properties
    ]


def _look(address: AuthorityAddress) -> _Machine:
    with _calling(address) as connection:
        connection.connect()
        return _Machine((address,), "", "", "", _fingerprint(connection))


def _list(waiting: Sequence[_Machine]) -> None:
    if not waiting:
        click.echo("no machine waits on this network; `vigil node run` without settings makes one wait")
    for one in waiting:
        model = printable(f"{one.model} {one.version}".strip(), 60)
        click.echo(f"{id_of(one.fingerprint)}  {printable(one.name, 40):<20} {one.addresses[0]}  {model}")
        click.echo(f"          {shown(one.fingerprint)}")


def _adopt(
    settings: Settings, machine: _Machine, name: str, roles: Mapping[str, int], *, code: str | None, is_sure: bool
) -> None:
    name = _checked_name(name)
    authority = own_authority(settings)
    if authority is None and settings.bus.url.startswith("mqtts:"):
        raise PermanentError("the site's authority is not on this machine: run this where `vigil ca show` shows it")
    _check_free(settings, authority, name)
    address = _reached(machine)
    if code is not None:
        _check_code(address, machine.fingerprint, code)
    elif not is_sure:
        click.echo(f"{address} shows {shown(machine.fingerprint)}")
        click.confirm(f"does its log say the same, and is it to be {name} of site {settings.site}?", abort=True)
    asked = dict(roles) or {"edge": 1}
    here = "" if authority is None else _own_name(authority, address)
    with _invited(settings, authority, here, name, asked) as (place, token):
        _hand_over(
            address,
            machine.fingerprint,
            Handover(site=settings.site, node=name, bus=_bus_for(settings, here), authority=place, token=token),
        )
    RegistryFolder(settings.fleet.registry).change_node(name, {"roles": asked})
    click.echo(f"{name} at {address} belongs to site {settings.site} now")


def _checked_name(name: str) -> str:
    if not name:
        raise click.UsageError("say what it is to be called: --name NAME")
    try:
        return check_name(name)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--name") from error


def _check_free(settings: Settings, authority: Authority | None, name: str) -> None:
    member = authority.roster().member(name) if authority is not None else None
    if name in RegistryFolder(settings.fleet.registry).read().nodes or (member is not None and not member.is_revoked):
        raise PermanentError(f"there is a {name} already: give another --name, or `vigil node remove {name}` first")


@contextmanager
def _invited(
    settings: Settings, authority: Authority | None, here: str, name: str, roles: Mapping[str, int]
) -> Iterator[tuple[str, str]]:
    """Where it joins, and the token that lets it in for as long as this lasts."""
    if authority is None:
        yield "", ""
        return
    with ExitStack() as stack:
        port = stack.enter_context(open_door(authority, settings.broker, None))
        names = [f"{role}.{number}" if number > 1 else role for role, n in roles.items() for number in range(1, n + 1)]
        secret = authority.invite(name, "node", names)
        stack.callback(authority.withdraw, name)
        token = JoinToken.of(secret, authority.folder.ca.read_bytes())
        yield str(AuthorityAddress(here, port)), token.text()


def _own_name(authority: Authority, machine: AuthorityAddress) -> str:
    """How the machine reaches this one: by the way it was reached itself, where the broker's certificate names that."""
    names = read_certificate(authority.folder.server.read_bytes()).names
    with suppress(OSError), socket.create_connection((machine.host, machine.port), _REACHED_S) as connection:
        own = str(connection.getsockname()[0])
        if own in names:
            return own
    return reachable_name(names)


def _bus_for(settings: Settings, here: str) -> str:
    """The broker's address as another machine reaches it."""
    url = urlsplit(settings.bus.url)
    if not here or url.hostname not in _LOOPBACK:
        return settings.bus.url
    return f"{url.scheme}://{AuthorityAddress(here, url.port or 0)}"


def _reached(machine: _Machine) -> AuthorityAddress:
    """The first of its addresses at which it answers: some may be of networks that only it is in.

    Raises:
        TransientError: it answers at none.
    """
    for address in machine.addresses:
        with suppress(OSError), socket.create_connection((address.host, address.port), _REACHED_S):
            return address
    raise TransientError(
        f"no answer from {', '.join(map(str, machine.addresses))}: does it still wait, and is this its port?"
    )


def _check_code(address: AuthorityAddress, known: str, code: str) -> None:
    nonce = secrets.token_hex(16)
    with _calling(address) as connection:
        connection.connect()
        is_same = _fingerprint(connection) == known
        connection.request("GET", f"{PROOF_PATH}?nonce={nonce}")
        response = connection.getresponse()
        said = response.read(_ANSWER_BYTES_MAX).decode(errors="replace")
    if not is_same or not hmac.compare_digest(said.encode(), proof_of(code, known, nonce).encode()):
        raise PermanentError(
            f"{address} cannot prove that it has this code, so nothing was handed to it: read the code in its "
            "log again. If that is right, something else poses as your machine"
        )


def _hand_over(address: AuthorityAddress, known: str, handover: Handover) -> None:
    with _calling(address) as connection:
        connection.connect()
        if _fingerprint(connection) != known:
            raise PermanentError(
                f"{address} shows another certificate than before, so nothing was handed to it: adopt again"
            )
        connection.request("POST", ADOPT_PATH, msgspec.json.encode(handover))
        response = connection.getresponse()
        said = response.read(_ANSWER_BYTES_MAX).decode(errors="replace")
    if response.status != HTTPStatus.OK:
        raise PermanentError(f"{address} could not join: {printable(said, 1000) or response.status}")


def _fingerprint(connection: http.client.HTTPSConnection) -> str:
    if not isinstance(connection.sock, ssl.SSLSocket):
        raise TransientError("the connection ended")
    certificate = connection.sock.getpeercert(binary_form=True) or b""
    return fingerprint(ssl.DER_cert_to_PEM_cert(certificate).encode()).hex()


@contextmanager
def _calling(address: AuthorityAddress) -> Iterator[http.client.HTTPSConnection]:
    # Nobody has signed its certificate: it is known by its fingerprint, which whoever calls compares.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    connection = http.client.HTTPSConnection(address.host, address.port, timeout=_TIMEOUT_S, context=context)
    try:
        yield connection
    except (OSError, http.client.HTTPException) as error:
        raise TransientError(
            f"no answer from {address} ({error}): does it still wait, and is this its port?"
        ) from error
    finally:
        connection.close()
