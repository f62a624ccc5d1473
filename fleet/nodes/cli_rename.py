"""`vigil node rename`: another name for a node, in its certificates, its topics and the registry."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import click

from broker.acl import ALWAYS_ROLES
from broker.asking import Asker
from broker.authority import Authority
from config import PermanentError, TransientError, configure_logging
from config.durations import DURATION, format_duration
from config.settings import Settings
from fleet.enrolment.door import open_door
from fleet.enrolment.token import JoinToken
from fleet.nodes.cli_members import own_authority, own_registry, release_cameras
from fleet.nodes.cli_orders import check_node, ordered
from fleet.nodes.load import Load
from fleet.nodes.roll import Roll
from fleet.registry.folder import RegistryFolder
from fleet.registry.settling import settle

__all__ = ["rename"]

_ANSWER_S = 15.0
_LOOK_S = 0.1


@click.command()
@click.argument("old", metavar="OLD", callback=check_node)
@click.argument("new", metavar="NEW", callback=check_node)
@click.option("--wait", "wait_s", type=DURATION, metavar="DURATION", default="5m", help="Until it is done; default 5m.")
@click.pass_obj
def rename(load: Load, *, old: str, new: str, wait_s: float) -> None:
    """Give a node another name.

    The name is in the node's certificates and in its topics, so the node stops what it runs, delivers what its outboxes
    hold, joins the site again under the new name with a new key, and goes on. Its file, its cameras and its rights go
    with it; what it left under the old name goes away. If anything of that fails, it stays who it was.

    \b
    Examples:
      vigil node rename porch garden-gate

    Run it where the registry is; on a secure site the authority must be on the same machine.
    """
    settings = load.read()
    configure_logging("error" if settings.log.level == "info" else settings.log.level, stream=sys.stderr)
    is_secure = settings.bus.url.startswith("mqtts:")
    authority = own_authority(settings) if is_secure else None
    if is_secure and authority is None:
        raise PermanentError("the site's authority is not on this machine: run this where `vigil ca show` shows it")
    roll = Roll()
    with Asker(settings, "node", prepare=roll.prepare) as asker:
        roll.wait_complete()
        folder = own_registry(settings, roll)
        _check(folder, roll, authority, old, new)
        with _written_down(folder, old, new):
            settle(settings)
            _move(asker, roll, (settings, authority), (old, new), wait_s)
        release_cameras(folder, old, to=new)
        folder.remove_node(old)
    if authority is not None:
        authority.revoke(old)
    settle(settings)
    click.echo(f"{old} is {new} now")


def _check(folder: RegistryFolder, roll: Roll, authority: Authority | None, old: str, new: str) -> None:
    folder.node(old)
    if roll.state(old) not in {"running", "draining", "drained"}:
        raise TransientError(
            f"{old} is {roll.state(old) or 'unknown'}: it must run to take another name; `vigil node list` shows it"
        )
    known = authority.roster().member(new) if authority is not None else None
    if new in folder.read().nodes or roll.state(new) or (known is not None and not known.is_revoked):
        raise PermanentError(f"there is a {new} already: choose another name, or `vigil node remove {new}` first")


@contextmanager
def _written_down(folder: RegistryFolder, old: str, new: str) -> Iterator[None]:
    """The file under the new name, which stays only if the node takes it."""
    held = folder.node(old)
    folder.change_node(new, held.entry.model_dump(mode="json", exclude_unset=True), etag="")
    with ExitStack() as undo:
        undo.callback(folder.remove_node, new)
        yield
        undo.pop_all()


def _move(
    asker: Asker, roll: Roll, site: tuple[Settings, Authority | None], names: tuple[str, str], wait_s: float
) -> None:
    settings, authority = site
    if authority is None:
        _order(asker, roll, names, "", wait_s)
        return
    old, new = names
    member = authority.roster().member(old)
    if member is None or member.is_revoked:
        raise PermanentError(f"{old} is no member of the site: `vigil members` lists them")
    roles = [role for role in member.roles if role not in ALWAYS_ROLES]
    with open_door(authority, settings.broker, settings.fleet.door_port or None):
        # Cameras of the registry become its own with their documents, when it is there to watch them.
        placed = RegistryFolder(settings.fleet.registry).read().cameras
        secret = authority.invite(new, "node", roles, [one for one in member.cameras if one not in placed])
        try:
            token = JoinToken.of(secret, authority.folder.ca.read_bytes())
            _order(asker, roll, names, token.text(), wait_s)
        finally:
            authority.withdraw(new)


def _order(asker: Asker, roll: Roll, names: tuple[str, str], token: str, wait_s: float) -> None:
    """Tell the node, and wait until it is heard under its new name."""
    old, new = names
    before = roll.reports[old].at
    ordered(asker, old, "rename", {"name": new, **({"token": token} if token else {})}, wait_s=_ANSWER_S)
    end_s = time.monotonic() + wait_s
    while roll.state(new) not in {"running", "draining", "drained"}:
        report = roll.reports.get(old)
        failed = next((one.reason for one in report.problems if one.part == "name"), "") if report else ""
        if failed and report is not None and report.at > before:
            raise PermanentError(f"{old}: {failed}")
        if time.monotonic() > end_s:
            raise TransientError(
                f"{new} was not heard within {format_duration(wait_s)}: `vigil node show {old}` and `vigil node logs "
                f"{old}` say more"
            )
        time.sleep(_LOOK_S)
