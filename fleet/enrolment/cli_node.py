"""Commands on a node, or on a person's machine: `vigil join`, `vigil renew`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from broker.certs import make_key, make_request, read_certificate
from broker.identity import Admission, IdentityFolder, identity_folder
from config.clock import SystemClock
from config.errors import ConfigError
from config.files import write_atomically
from config.names import check_name
from config.settings import Settings
from fleet.enrolment.client import AuthorityAddress
from fleet.enrolment.joining import install_checked, join_as
from fleet.enrolment.renewal import days_left, renew_identity
from fleet.enrolment.token import JoinToken
from fleet.enrolment.wire import read_admission

__all__ = ["join", "renew"]

Load = Callable[[Mapping[str, Any]], Settings]

_TOKEN_VARIABLE = "VIGIL_TOKEN"  # noqa: S105 - the variable's name
_TOKEN_CHARACTERS_MAX = 256


@click.command()
@click.argument("address", metavar="HOST[:PORT]", required=False)
@click.option("--person", metavar="NAME", help="Join as a person, not as this node.")
@click.option(
    "--csr-out",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Make a key and write a request, to be answered by hand with `vigil enrol NODE --csr FILE`.",
)
@click.option(
    "--install", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path), help="Take the answer to that."
)
@click.pass_obj
def join(load: Load, address: str | None, person: str | None, csr_out: Path | None, install: Path | None) -> None:
    """Join the secure bus, with the one-time token that `vigil enrol` has printed.

    The token is asked for, read from standard input, or taken from VIGIL_TOKEN; never from the command line, where
    everybody on this machine could read it. The private key is made here and stays here.

    \b
    Examples:
      vigil --node porch join 10.0.0.2
      vigil join --person alice 10.0.0.2
      vigil --node porch join --csr-out porch.csr      by hand, without a network ...
      vigil --node porch join --install porch.json     ... with the file that `vigil enrol` has made of it
    """
    settings = load({})
    if sum(one is not None for one in (address, csr_out, install)) != 1:
        raise click.UsageError("give the authority's address (HOST or HOST:PORT), or --csr-out, or --install")
    identity = identity_folder(settings)
    name = _checked_name(person) if person is not None else settings.node
    if csr_out is not None:
        _write_request(identity, csr_out, name, is_person=person is not None)
    elif install is not None:
        _install_answer(identity, install, name)
    else:
        _join_over_network(identity, AuthorityAddress.read(address or ""), name)


def _checked_name(name: str) -> str:
    try:
        return check_name(name)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--person") from error


def _join_over_network(identity: IdentityFolder, address: AuthorityAddress, name: str) -> None:
    token = JoinToken.read(_asked_token())
    admission = join_as(identity, address, token, name)
    _tell_joined(identity, admission, address.host)


def _asked_token() -> str:
    given = os.environ.get(_TOKEN_VARIABLE)
    if given is None and not sys.stdin.isatty():
        given = sys.stdin.readline(_TOKEN_CHARACTERS_MAX)
    if given is None:
        given = str(click.prompt("token", hide_input=True))
    return given.strip()


def _write_request(identity: IdentityFolder, path: Path, name: str, *, is_person: bool) -> None:
    identity.check_writable()
    key = make_key()
    write_atomically(identity.pending_key, key)
    try:
        write_atomically(path, make_request(key), mode=0o644)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}", field="--csr-out") from error
    who = f"--person {name}" if is_person else f"{name} --role edge --camera NAME"
    again = f"join --person {name}" if is_person else f"--node {name} join"
    click.echo(
        f"wrote {path}, which holds nothing secret. Take it to the authority's machine and run there:\n\n"
        f"    vigil enrol {who} --csr {path.name} --out {name}.json\n\n"
        f"then bring {name}.json here and run:\n\n"
        f"    vigil {again} --install {name}.json"
    )


def _install_answer(identity: IdentityFolder, path: Path, name: str) -> None:
    try:
        key = identity.pending_key.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{identity.pending_key} cannot be read ({error.strerror}): `vigil join --csr-out FILE` makes it, and its "
            "answer belongs to that request only"
        ) from error
    try:
        admission = read_admission(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", field="--install") from error
    install_checked(identity, admission, key, name)
    identity.pending_key.unlink(missing_ok=True)
    _tell_joined(identity, admission, "HOST")


def _tell_joined(identity: IdentityFolder, admission: Admission, host: str) -> None:
    host = f"[{host}]" if ":" in host else host
    roles = f" as {', '.join(sorted(admission.certificates))}" if admission.kind == "node" else ""
    node = f"\n    node: {admission.name}" if admission.kind == "node" else ""
    click.echo(
        f"{admission.name} has joined site {admission.site}{roles}; its certificates are in {identity.path}.\n"
        f"Put this into vigil.yaml, with the broker's own host where that is another:\n\n"
        f"    site: {admission.site}{node}\n"
        f"    bus:\n      url: mqtts://{host}:{admission.port}"
    )


@click.command()
@click.argument("address", metavar="[HOST[:PORT]]", required=False)
@click.option("--if-days-left", "days", type=click.IntRange(0, 3650), help="Only when fewer days are left than this.")
@click.pass_obj
def renew(load: Load, address: str | None, days: int | None) -> None:
    """Get new certificates for this machine, with those it has; and the ones of roles that were granted since.

    Needs `vigil ca serve` at the authority. Processes that run take the new ones when they connect again.

    \b
    Examples:
      vigil renew
      vigil renew --if-days-left 30     once a day, from a timer
    """
    identity = identity_folder(load({}))
    now = SystemClock().now()
    if not identity.kinds():
        raise ConfigError(f"there are no certificates in {identity.path}: `vigil join` with a token of `vigil enrol`")
    left = days_left(identity, now)
    if days is not None and left >= days:
        click.echo(f"{left} days left, nothing to do")
        return
    place = _authority_address(identity, address)
    for admission in renew_identity(identity, place):
        ends = min(read_certificate(one.encode()).not_after for one in admission.certificates.values())
        click.echo(f"{admission.name} as {', '.join(sorted(admission.certificates))}: until {ends:%Y-%m-%d}")
    if address is not None:
        write_atomically(identity.authority, str(place))


def _authority_address(identity: IdentityFolder, given: str | None) -> AuthorityAddress:
    if given is not None:
        return AuthorityAddress.read(given)
    try:
        return AuthorityAddress.read(identity.authority.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError("say where the authority answers: vigil renew HOST[:PORT]") from error
