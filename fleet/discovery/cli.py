"""`vigil discover`: what cameras and Vigil nodes there are."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from pydantic import SecretStr

from config import ConfigError, PermanentError, SystemClock, configure_logging
from config.durations import DURATION
from config.files import write_atomically
from config.names import check_name
from config.registry import Login
from config.settings import Settings
from config.text import printable
from fleet.discovery.adding import EVERYTHING, add, chosen, follow, has_moved, known_cameras
from fleet.discovery.cameras import Camera, ask_cameras
from fleet.discovery.known import KnownCameras, host_of
from fleet.discovery.mdns import Announced
from fleet.discovery.page import make_page
from fleet.discovery.proposals import Proposal, propose
from fleet.discovery.report import camera_object, camera_rows, columns, is_waiting, node_object
from fleet.discovery.scan import ONVIF_PORTS, RTSP_PORTS, check_network, count_hosts
from fleet.discovery.sightings import Found, Search, look_around
from fleet.registry.folder import RegistryFolder
from fleet.registry.settling import settle

__all__ = ["asked_password", "discover"]

Load = Callable[[Mapping[str, Any]], Settings]

_PASSWORD_VARIABLE = "VIGIL_CAMERA_PASSWORD"  # noqa: S105 - the variable's name
_PASSWORD_CHARACTERS_MAX = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class _Result:
    """What was found, and what could be made of it."""

    found: Found
    cameras: Sequence[Camera]
    known: KnownCameras
    proposals: Sequence[Proposal]
    refused: Mapping[str, str]
    moved: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> dict[str, str]:
        """Proposed names, by host."""
        return {one.camera.sighting.host: one.name for one in self.proposals}


@click.command()
@click.option("--scan", "network", metavar="NET", help="Ask every address of this network too, such as 10.0.0.0/24.")
@click.option(
    "--port",
    "ports",
    type=click.IntRange(1, 65535),
    multiple=True,
    help=f"Look there too, with --scan.  [besides {', '.join(map(str, (*RTSP_PORTS, *ONVIF_PORTS)))}]",
)
@click.option("--username", metavar="NAME", help="Log in to cameras that are not in the registry as this user.")
@click.option("--interface", "interfaces", metavar="IF", multiple=True, help="Name or address.  [default: all]")
@click.option("--wait", "wait_s", type=DURATION, default="3s", show_default=True, help="For answers to multicast.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option(
    "--thumbnails", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="A picture of each into it."
)
@click.option(
    "--html", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="A page of all, with pictures."
)
@click.option("--add", "names", metavar="ALL|NAME", multiple=True, help="Add new ones to the registry,")
@click.option("--node", metavar="NODE", help="to be watched by this node,")
@click.option("--pool", metavar="POOL", help="or by the nodes of this pool.")
@click.option("--follow", "is_following", is_flag=True, help="Write down where known ones are now.")
@click.option("--yes", is_flag=True, help="The network of --scan is mine, although it is a public one.")
@click.pass_obj
def discover(
    load: Load,
    /,
    *,
    network: str | None,
    ports: Sequence[int],
    username: str | None,
    interfaces: Sequence[str],
    wait_s: float,
    as_json: bool,
    thumbnails: Path | None,
    html: Path | None,
    names: Sequence[str],
    node: str | None,
    pool: str | None,
    is_following: bool,
    yes: bool,
) -> None:
    """Find cameras and Vigil nodes in the network.

    Asks by multicast (WS-Discovery and mDNS) on every interface, and asks who answers over ONVIF what it is. Nobody who
    has not answered is touched, unless --scan names a network. A known camera is asked with its own login, and known
    again by its MAC or serial number when its address has changed.

    The password of --username is asked for, read from standard input, or taken from VIGIL_CAMERA_PASSWORD; never from
    the command line, where everybody on this machine could read it. Each camera is tried once.

    \b
    Examples:
      vigil discover
      vigil discover --username admin --html cameras.html
      vigil discover --username admin --add ALL --pool house
      vigil discover --scan 10.0.0.0/24 --username admin --add drive --node porch
      vigil discover --follow                        cameras that have another address now
    """
    settings = load({})
    configure_logging("error", settings.log.style, stream=sys.stderr)  # the output is the result
    where = _where(names, node, pool)
    target = check_network(network, public_too=yes) if network is not None else None
    if ports and target is None:
        raise click.UsageError("--port belongs to --scan")
    login = asked_password(username) if username is not None else None
    folder = RegistryFolder(settings.fleet.registry)
    search = Search(interfaces=tuple(interfaces), wait_s=wait_s, network=target, ports=tuple(ports))
    result = _look(search, folder, login, with_pictures=thumbnails is not None or html is not None)
    _tell(result, as_json=as_json)
    _write_pictures(result, thumbnails, html)
    _change(settings, folder, result, names, where, is_following=is_following)


def asked_password(username: str) -> Login:
    """The login of that name, with the password from the environment, standard input, or a person.

    Raises:
        ConfigError: nobody can be called so.
    """
    given = os.environ.get(_PASSWORD_VARIABLE)
    if given is None and not sys.stdin.isatty():
        given = sys.stdin.readline(_PASSWORD_CHARACTERS_MAX).rstrip("\r\n")
    if given is None:
        given = str(click.prompt(f"password of {username}", hide_input=True, err=True))
    if not username:
        raise ConfigError("a user name has at least one character", field="--username")
    return Login(username=username, password=SecretStr(given))


def _where(names: Sequence[str], node: str | None, pool: str | None) -> dict[str, str]:
    if names and (node is None) == (pool is None):
        raise click.UsageError("--add needs --node NODE or --pool POOL: who is to watch them")
    if not names and (node or pool):
        raise click.UsageError("--node and --pool belong to --add")
    where = {key: value for key, value in (("node", node), ("pool", pool)) if value is not None}
    for key, value in where.items():
        try:
            check_name(value)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint=f"--{key}") from error
    return where


def _look(search: Search, folder: RegistryFolder, login: Login | None, *, with_pictures: bool) -> _Result:
    silent = not sys.stderr.isatty()
    count = count_hosts(search.network) if search.network is not None else 0
    label = f"asking {search.network}" if search.network is not None else f"listening for {search.wait_s:g} s"
    if not count and not silent:
        click.echo(f"{label} ...", err=True)
    with click.progressbar(length=count or 1, label=label, file=sys.stderr, hidden=silent or not count) as bar:
        found = look_around(search, bar.update)
    known = known_cameras(folder)
    label = "asking cameras" + (", with a picture" if with_pictures else "")
    hidden = silent or not found.sightings
    with click.progressbar(length=len(found.sightings), label=label, file=sys.stderr, hidden=hidden) as bar:
        cameras = ask_cameras(
            found.sightings,
            known,
            login=login,
            logins=folder.logins(),
            with_pictures=with_pictures,
            progress=bar.update,
        )
    proposals, refused = propose(cameras, known.entries)
    moved = {
        name: host_of(known.entries[name])
        for camera in cameras
        if (name := camera.known_as) is not None and has_moved(camera, known.entries[name])
    }
    return _Result(found=found, cameras=cameras, known=known, proposals=proposals, refused=refused, moved=moved)


def _tell(result: _Result, *, as_json: bool) -> None:
    by_host = {one.camera.sighting.host: one for one in result.proposals}
    if as_json:
        for camera in result.cameras:
            click.echo(json.dumps(camera_object(camera, by_host.get(camera.sighting.host))))
        for node in result.found.nodes:
            click.echo(json.dumps(node_object(node)))
        return
    if result.cameras:
        for line in columns(camera_rows(result.cameras, result.names, result.moved)):
            click.echo(line)
    else:
        click.echo("no camera has answered")
    _tell_nodes(result.found.nodes)
    for line in _notes(result):
        click.echo(line)


def _tell_nodes(nodes: Sequence[Announced]) -> None:
    waiting = [node for node in nodes if is_waiting(node)]
    if waiting:
        click.echo("\nVigil nodes that belong to no site yet:")
    for node in waiting:
        address = node.addresses[0] if node.addresses else node.host
        identity = printable(node.properties.get("id", ""), 16)
        click.echo(f"  {printable(node.name, 63)} at {address}: vigil node adopt {identity}")


def _notes(result: _Result) -> list[str]:
    hosts: dict[str, list[str]] = {}
    for camera in result.cameras:
        if camera.trouble:
            host = camera.sighting.host
            hosts.setdefault(camera.trouble.removeprefix(f"{host} "), []).append(host)
    troubles = [f"  {', '.join(where)}: {printable(trouble, 400)}" for trouble, where in hosts.items()]
    troubles += [f"  {host}: cannot be added: {printable(reason, 400)}" for host, reason in result.refused.items()]
    lines = ["", "not told by a camera:", *troubles] if troubles else []
    if result.found.untried:
        lines += ["", "not tried:", *(f"  {line}" for line in result.found.untried)]
    return lines


def _write_pictures(result: _Result, thumbnails: Path | None, html: Path | None) -> None:
    try:
        if thumbnails is not None:
            thumbnails.mkdir(parents=True, exist_ok=True)
            for camera in result.cameras:
                name = camera.known_as or result.names.get(camera.sighting.host) or camera.sighting.host
                if camera.picture is not None:
                    write_atomically(thumbnails / f"{name.replace(':', '-')}.jpg", camera.picture)
        if html is not None:
            page = make_page(result.cameras, result.names, SystemClock().now())
            write_atomically(html, page)
            click.echo(f"wrote {html}", err=True)
    except OSError as error:
        raise PermanentError(f"{error.filename or html}: cannot be written ({error.strerror})") from error


def _change(
    settings: Settings,
    folder: RegistryFolder,
    result: _Result,
    names: Sequence[str],
    where: Mapping[str, str],
    *,
    is_following: bool,
) -> None:
    moved = follow(folder, result.cameras) if is_following else {}
    for name, (before, now) in moved.items():
        click.echo(f"{name}: from {before} to {now}", err=True)
    added = add(folder, chosen(result.proposals, names), where) if names else []
    if added:
        click.echo(f"added {', '.join(added)}", err=True)
    elif EVERYTHING in names:
        click.echo("nothing to add: every camera that tells its streams is in the registry", err=True)
    if added or moved:
        settle(settings)
