"""Letting somebody in, on the authority's machine: `vigil enrol`."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import msgspec
from msgspec.structs import replace

from broker.acl import PERSON_ROLES
from broker.authority import INVITATION_S, Authority
from broker.certs import read_certificate
from broker.members import Kind, Member, ca_folder
from config import PermanentError, configure_logging, stop_on_signals
from config.clock import SystemClock
from config.errors import ConfigError
from config.files import write_atomically
from config.settings import BrokerSettings, Settings
from fleet.enrolment.client import AuthorityAddress
from fleet.enrolment.door import open_door
from fleet.enrolment.membership import (
    cameras_option,
    reachable_name,
    rights_option,
    rights_text,
    roles_option,
    tell_shared_cameras,
)
from fleet.enrolment.token import JoinToken
from fleet.enrolment.wire import DEFAULT_PORT

__all__ = ["enrol"]

Load = Callable[[Mapping[str, Any]], Settings]

_POLL_S = 0.3
_FILE = click.Path(dir_okay=False, path_type=Path)


@dataclass(frozen=True, slots=True)
class _Newcomer:
    name: str
    kind: Kind
    roles: tuple[str, ...]
    cameras: tuple[str, ...]


@click.command()
@click.argument("node", required=False)
@click.option("--person", metavar="NAME", help="Let a person in, not a node.")
@rights_option
@roles_option
@cameras_option
@click.option(
    "--port", type=click.IntRange(1, 65535), help=f"TCP port to wait on.  [default: {DEFAULT_PORT} or a free one]"
)
@click.option("--csr", metavar="FILE", type=_FILE, help="Answer the request in this file, without a token.")
@click.option("--out", metavar="FILE", type=_FILE, help="Where the answer goes.")
@click.pass_obj
def enrol(
    load: Load,
    *,
    node: str | None,
    person: str | None,
    rights: str | None,
    roles: Sequence[str],
    cameras: Sequence[str],
    port: int | None,
    csr: Path | None,
    out: Path | None,
) -> None:
    """Let a node or a person onto the secure bus.

    Prints a one-time token and the command that takes it, then waits until that was run on the node. The node makes
    its own key, which never leaves it. A node that is a member already may join again; its earlier certificates are
    revoked then.

    \b
    Examples:
      vigil enrol porch --role edge --camera yard --camera door
      vigil enrol gpu --role detector --role detector.2
      vigil enrol --person alice --rights viewer
      vigil enrol porch --role edge --camera yard --csr porch.csr --out porch.json   by hand, without a network
    """
    settings = load({})
    configure_logging(settings.log.level, settings.log.style, stream=sys.stderr)
    authority = Authority(ca_folder(settings))
    newcomer = _newcomer(authority, node or "", person or "", rights, (roles, cameras))
    tell_shared_cameras(authority.roster(), newcomer.name, newcomer.cameras)
    if csr is None and out is None:
        _wait_joined(authority, newcomer, settings.broker, port)
    elif csr is None or out is None:
        raise click.UsageError("--csr and --out belong together")
    else:
        _answer_request(authority, newcomer, settings.broker, csr, out)


def _newcomer(
    authority: Authority, node: str, person: str, rights: str | None, wanted: tuple[Sequence[str], Sequence[str]]
) -> _Newcomer:
    roles, cameras = wanted
    if bool(node) == bool(person):
        raise click.UsageError("name a node, or a person with --person NAME")
    if person:
        if roles or cameras:
            raise click.UsageError("a person has no roles or cameras; --rights says what a person may do")
        return _Newcomer(person, "person", (rights or PERSON_ROLES[0],), ())
    if rights:
        raise click.UsageError("--rights are a person's; a node has roles: --role edge --camera yard")
    before = authority.roster().member(node)
    if before is not None and not roles and not cameras:
        roles, cameras = before.roles, before.cameras
    if not roles:
        raise click.UsageError(f"say what {node} may be: --role edge --camera yard, --role detector, --role bridge ...")
    return _Newcomer(node, "node", tuple(roles), tuple(cameras))


def _answer_request(authority: Authority, newcomer: _Newcomer, broker: BrokerSettings, csr: Path, out: Path) -> None:
    try:
        request = csr.read_bytes()
    except OSError as error:
        raise ConfigError(f"{csr} cannot be read: {error.strerror}", field="--csr") from error
    admission = authority.admit(newcomer.name, newcomer.kind, newcomer.roles, newcomer.cameras, request)
    port = broker.secure_port if newcomer.kind == "node" else broker.people_port
    try:
        write_atomically(out, msgspec.json.encode(replace(admission, port=port)), mode=0o644)
    except OSError as error:
        raise ConfigError(f"{out} cannot be written: {error.strerror}", field="--out") from error
    click.echo(f"wrote {out}, which holds nothing secret. On {newcomer.name}: vigil join --install {out.name}")


def _wait_joined(authority: Authority, newcomer: _Newcomer, broker: BrokerSettings, port: int | None) -> None:
    stop = threading.Event()
    stop_on_signals(stop)
    with open_door(authority, broker, port) as door_port:
        secret = authority.invite(newcomer.name, newcomer.kind, newcomer.roles, newcomer.cameras)
        token = JoinToken.of(secret, authority.folder.ca.read_bytes())
        _tell_invited(authority, newcomer, door_port, token)
        try:
            member = _joined(authority, newcomer.name, stop)
        finally:
            authority.withdraw(newcomer.name)
    if member is None:
        raise PermanentError(
            f"{newcomer.name} has not joined, and its token is worth nothing now: run `vigil enrol` again"
        )
    ends = member.expires_at(SystemClock().now())
    click.echo(
        f"{member.name} has joined; its certificates hold until {ends:%Y-%m-%d}, `vigil renew` there renews them"
    )


def _tell_invited(authority: Authority, newcomer: _Newcomer, port: int, token: JoinToken) -> None:
    names = read_certificate(authority.folder.server.read_bytes()).names
    address = AuthorityAddress(reachable_name(names), port)
    here = address.host if port == DEFAULT_PORT and ":" not in address.host else str(address)
    who = f"vigil --node {newcomer.name} join" if newcomer.kind == "node" else f"vigil join --person {newcomer.name}"
    place = f"on {newcomer.name}" if newcomer.kind == "node" else f"on {newcomer.name}'s machine"
    click.echo(
        f"{newcomer.name} may join as {rights_text(newcomer.roles, newcomer.cameras)}.\n"
        f"Run this {place} within {INVITATION_S // 60} minutes:\n\n"
        f"    {who} {here}\n\n"
        f"and paste this when it asks for the token:\n\n"
        f"    {token.text()}\n"
    )


def _joined(authority: Authority, name: str, stop: threading.Event) -> Member | None:
    """Wait for the member; None when the time is over, or somebody has stopped us."""
    while True:
        roster, now = authority.roster(), SystemClock().now()
        promise = next((one for one in roster.invitations if one.name == name), None)
        if promise is None:
            member = roster.member(name)
            _tell_progress("")
            return member if member is not None and member.in_force(now) else None
        left_s = (promise.expires_at - now).total_seconds()
        if left_s <= 0 or stop.wait(_POLL_S):
            _tell_progress("")
            return None
        _tell_progress(f"waiting for {name}, {int(left_s) // 60}:{int(left_s) % 60:02d} left; Ctrl-C ends it")


def _tell_progress(text: str) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r\x1b[K{text}", nl=False, err=True)
