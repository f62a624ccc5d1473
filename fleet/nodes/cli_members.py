"""Who is a node of the site: `vigil node accept`, `vigil node remove`."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence

import click

from broker.asking import Asker
from broker.authority import Authority
from broker.members import ca_folder
from config import PermanentError, TransientError, VigilError, configure_logging
from config.errors import ConfigError
from config.names import check_name
from config.settings import Settings
from fleet.nodes.cli_orders import check_node, node_argument, ordered, wait_option
from fleet.nodes.keeper import entry_of
from fleet.nodes.load import Load
from fleet.nodes.roll import Roll
from fleet.registry.folder import RegistryFolder
from fleet.registry.settling import settle

__all__ = ["accept", "own_authority", "own_registry", "read_roles", "release_cameras", "remove"]

_DEFAULT_ROLES = {"edge": 1}


def read_roles(_context: click.Context, _parameter: click.Parameter, values: Sequence[str]) -> dict[str, int]:
    """Roles and how many of each, as a command takes them."""
    roles: dict[str, int] = {}
    for value in values:
        role, _, count = value.partition("=")
        try:
            check_name(role)
        except ValueError as error:
            raise click.BadParameter(str(error)) from error
        if count and not (count.isdecimal() and int(count) <= 64):
            raise click.BadParameter(f"{value[:80]!r}: write a role, or a role and how many of it, as detector=2")
        roles[role] = int(count or 1)
    return roles


def own_registry(settings: Settings, roll: Roll) -> RegistryFolder:
    """The site's registry, where it is on this machine.

    Raises:
        PermanentError: it is elsewhere.
    """
    folder = RegistryFolder(settings.fleet.registry)
    if not folder.path.is_dir() and roll.index is not None and (roll.index.nodes or roll.index.cameras):
        raise PermanentError(
            f"the site has a registry, and {folder.path} on this machine is none: run this where it is, or name its "
            "folder in fleet.registry"
        )
    return folder


def own_authority(settings: Settings) -> Authority | None:
    """The site's authority, where it is on this machine."""
    folder = ca_folder(settings)
    return Authority(folder) if folder.exists else None


@click.command()
@click.argument("node", metavar="[NAME]", required=False)
@click.option("--all", "every", is_flag=True, help="All that greet now.")
@click.option(
    "--role",
    "roles",
    metavar="ROLE[=COUNT]",
    multiple=True,
    callback=read_roles,
    help="What runs there; may be given again.  [default: what it was enrolled for, else edge]",
)
@click.pass_obj
def accept(load: Load, *, node: str | None, every: bool, roles: Mapping[str, int]) -> None:
    """Make a machine that greets a node of the site: write its file into the registry, and tell it what to run.

    On a secure bus a node that was enrolled is accepted by itself, by `vigil fleet`. Without certificates anybody on
    the network can greet under any name; look at `vigil node list` before you accept one.

    \b
    Examples:
      vigil node accept porch
      vigil node accept gpu --role detector=2
      vigil node accept --all
    """
    settings = _quietly(load.read())
    if (node is None) != every:
        raise click.UsageError("name a node that greets, or all of them with --all")
    roll = Roll()
    with Asker(settings, "node", prepare=roll.prepare):
        roll.wait_complete()
    folder = own_registry(settings, roll)
    chosen = [check_node(click.get_current_context(), _ARGUMENT, node)] if node is not None else _greeting(roll)
    if not chosen:
        click.echo("no node greets; `vigil node list` shows those that there are")
        return
    for name in chosen:
        if not roll.state(name):
            greeting = ", ".join(_greeting(roll)) or "nobody"
            raise PermanentError(f"no node {name!r} was heard; those that greet now: {greeting}")
        entry = {"roles": dict(roles) or _granted(settings, name)}
        held = folder.change_node(name, entry, etag="" if not roles else None)
        told = ", ".join(f"{role} {count}" for role, count in held.entry.roles.items())
        click.echo(f"{name} is a node of site {settings.site}: {told}; {held.file}")
    settle(settings)


_ARGUMENT = click.Argument(["node"])


def _quietly(settings: Settings) -> Settings:
    configure_logging("error" if settings.log.level == "info" else settings.log.level, stream=sys.stderr)
    return settings


def _greeting(roll: Roll) -> list[str]:
    return [row.node for row in roll.rows() if row.state == "greeting"]


def _granted(settings: Settings, node: str) -> dict[str, int]:
    authority = own_authority(settings)
    member = authority.roster().member(node) if authority is not None else None
    granted = entry_of(member)["roles"] if member is not None else {}
    return granted or dict(_DEFAULT_ROLES)


@click.command()
@node_argument
@click.option("--now", is_flag=True, help="Without waiting until it has sent what it can.")
@click.option("--yes", is_flag=True, help="Without asking.")
@wait_option
@click.pass_obj
def remove(load: Load, *, node: str, now: bool, yes: bool, wait_s: float) -> None:
    """Take a node out of the site: it stops, its file and what it left at the broker go, its certificates are revoked.

    It is drained first, so that nothing it has raised is left behind; --now is for one that is gone. Its cameras stay
    in the registry, without a node. Where the site's authority is on another machine, run `vigil revoke` there.

    \b
    Examples:
      vigil node remove porch
      vigil node remove porch --now --yes       it was stolen
    """
    settings = _quietly(load.read())
    if not yes:
        click.confirm(f"take {node} out of site {settings.site}?", abort=True)
    roll = Roll()
    with Asker(settings, "node", prepare=roll.prepare) as asker:
        roll.wait_complete()
        folder = own_registry(settings, roll)
        is_known = node in folder.read().nodes
        if not roll.state(node) and not is_known:
            raise PermanentError(f"there is no node {node!r}; `vigil node list` lists them")
        if not now and roll.state(node) in {"running", "draining", "drained", "greeting"}:
            _drain(asker, roll, node, wait_s)
        lost = release_cameras(folder, node)
        if is_known:
            folder.remove_node(node)
    _shut_out(settings, node)
    settle(settings)
    click.echo(f"{node} is no node of site {settings.site} any more")
    if lost:
        click.echo(
            f"without a node now: {', '.join(lost)}; `vigil camera edit {lost[0]}` gives one to another", err=True
        )


def _drain(asker: Asker, roll: Roll, node: str, wait_s: float) -> None:
    if roll.state(node) == "greeting":
        return  # it runs nothing
    try:
        ordered(asker, node, "drain", wait_s=wait_s)
    except VigilError as error:
        raise TransientError(f"{error}. Nothing was changed; --now removes it without that") from error
    end_s = time.monotonic() + wait_s
    while roll.state(node) not in {"drained", "offline"}:
        if time.monotonic() > end_s:
            raise TransientError(
                f"{node} still runs something; nothing was changed: wait longer with --wait, or --now removes it as "
                "it is"
            )
        time.sleep(0.1)


def release_cameras(folder: RegistryFolder, node: str, to: str | None = None) -> list[str]:
    """Give the cameras of one node to another, or to nobody; which they are."""
    cameras = [name for name, held in folder.read().cameras.items() if held.entry.node == node]
    for name in cameras:
        folder.change_camera(name, {"node": to})
    return cameras


def _shut_out(settings: Settings, node: str) -> None:
    authority = own_authority(settings)
    if authority is None:
        if settings.bus.url.startswith("mqtts:"):
            click.echo(f"its certificates still hold: run `vigil revoke {node}` where the authority is", err=True)
        return
    try:
        member = authority.revoke(node)
    except ConfigError:
        return  # it never joined: there is nothing to take back
    count = sum(1 for one in member.certificates if one.revoked_at is not None)
    click.echo(f"{node} is shut out: {count} certificate{'' if count == 1 else 's'} revoked")
