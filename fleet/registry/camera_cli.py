"""`vigil camera add|remove|exclude`: what cameras the registry has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from config import PermanentError
from config.durations import DURATION
from config.logins import split_login
from config.registry import CameraEntry, Login
from config.settings import Settings
from config.text import printable
from fleet.registry.asked import asked_password, asked_source
from fleet.registry.folder import RegistryFolder
from fleet.registry.options import camera_argument, cameras_argument, publish_or_tell, quiet, read_names
from fleet.registry.sight import Sight
from fleet.registry.values import read_assignments

__all__ = ["add", "exclude", "remove"]

Load = Callable[[Mapping[str, Any]], Settings]


@click.command()
@camera_argument
@click.argument("source", required=False)
@click.option("--sub", "sub_source", metavar="URI", help="A smaller stream of it to look at.")
@click.option("--node", metavar="NAME", callback=read_names, help="Who watches it.")
@click.option("--pool", metavar="NAME", callback=read_names, help="Whose nodes share it out.")
@click.option("--area", metavar="TEXT", help="Room or part of the premises.")
@click.option("--name", metavar="TEXT", help="What people call it.")
@click.option("--username", metavar="NAME", help="How one logs in there; the password is asked for.")
@click.option("--set", "assignments", metavar="FIELD=VALUE", multiple=True, help="A setting, such as idle_fps=2.")
@click.option("--wait", "wait_s", type=DURATION, metavar="DURATION", default="15s", help="For it to run; default 15s.")
@click.pass_obj
def add(
    load: Load,
    *,
    camera: str,
    source: str | None,
    sub_source: str | None,
    node: str | None,
    pool: str | None,
    area: str | None,
    name: str | None,
    username: str | None,
    assignments: Sequence[str],
    wait_s: float,
) -> None:
    """Add a camera to the registry, and see whether it works.

    A login never stands on the command line, where everybody on this machine could read it. Leave SOURCE out and it is
    asked for (or read from standard input), login and all; or give --username, and the password is asked for, read from
    standard input, or taken from VIGIL_CAMERA_PASSWORD. It goes into logins.yaml, not into the camera's file.

    Without --node and --pool this machine watches it.

    \b
    Examples:
      vigil camera add yard rtsp://10.0.0.7/s1 --node porch --area Garden
      vigil camera add yard rtsp://10.0.0.7/s1 --sub rtsp://10.0.0.7/s2 --username admin --pool house
      vigil camera add desk v4l2:/dev/video0 --set idle_fps=2 --set motion.sensitivity=0.7
      echo "rtsp://admin:secret@10.0.0.7/s1" | vigil camera add yard --node porch

    Exit status: 0 added (the last line says whether it runs), 1 there is one of that name, 78 a setting is wrong.
    """
    settings = load({})
    quiet(settings)
    folder = RegistryFolder(settings.fleet.registry)
    if folder.camera_file(camera).exists():
        raise PermanentError(f"there is a camera {camera!r} already: `vigil camera edit {camera}` changes it")
    uri, login = split_login(asked_source(source))
    if username is not None:
        login = Login(username=username, password=asked_password(username, camera))
    changes = {
        "source": uri,
        "sub_source": sub_source,
        "node": node or (None if pool else _own_node(folder, settings)),
        "pool": pool,
        "name": name,
        "area": area,
    }
    held = folder.change_camera(camera, {**changes, **read_assignments(assignments)}, etag="")
    if login is not None:
        folder.set_login(camera, login)
    click.echo(f"added {camera}: {held.file}")
    _tell_strangers(folder, held.entry)
    if publish_or_tell(settings):
        _tell_running(settings, held.entry, camera, wait_s)


def _own_node(folder: RegistryFolder, settings: Settings) -> str:
    nodes = folder.read().nodes
    if nodes and settings.node not in nodes:
        raise click.UsageError(f"say who watches it: --node {' or '.join(sorted(nodes)[:5])}, or --pool NAME")
    return settings.node


def _tell_strangers(folder: RegistryFolder, entry: CameraEntry) -> None:
    """Say where nobody of the registry is to watch a camera; that may come later."""
    nodes = folder.read().nodes
    if entry.node and nodes and entry.node not in nodes:
        click.echo(f"no node {entry.node!r} is in the registry yet: there are {', '.join(sorted(nodes))}", err=True)
    if entry.pool and not any(entry.pool in held.entry.pools for held in nodes.values()):
        click.echo(f"no node is in the pool {entry.pool!r} yet: set `pools: [{entry.pool}]` for one", err=True)


def _tell_running(settings: Settings, entry: CameraEntry, camera: str, wait_s: float) -> None:
    who = entry.node or f"a node of the pool {entry.pool}"
    with Sight(settings) as sight:
        state = sight.wait_running(camera, wait_s)
    if state is None:
        click.echo(
            f"{camera} does not run yet: {who} has said nothing of it within {wait_s:g} s; does `vigil edge` (or "
            "`vigil node run`) run there?"
        )
    elif state.state == "online":
        click.echo(printable(f"{camera} is online on {state.node}: {state.width}x{state.height}", 300))
    else:
        click.echo(printable(f"{camera} does not run: {state.node} says {state.state}: {state.error or ''}", 1000))


@click.command()
@cameras_argument
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def remove(load: Load, *, cameras: Sequence[str], yes: bool) -> None:
    """Take cameras out of the registry, and their logins. Who watches them stops; what was recorded stays.

    \b
    Examples:
      vigil camera remove yard
      vigil camera remove yard door --yes
    """
    settings = load({})
    quiet(settings)
    folder = RegistryFolder(settings.fleet.registry)
    for camera in cameras:
        if not folder.camera_file(camera).exists():
            raise PermanentError(f"there is no camera {camera!r} in {folder.path}: `vigil camera list` lists them")
    if not yes:
        click.confirm(f"Remove {', '.join(cameras)}?", abort=True)
    for camera in cameras:
        folder.remove_camera(camera)
        click.echo(f"removed {camera}")
    publish_or_tell(settings)


@click.command()
@cameras_argument
@click.option("--undo", is_flag=True, help="Watch them again.")
@click.pass_obj
def exclude(load: Load, *, cameras: Sequence[str], undo: bool) -> None:
    """Leave cameras alone: nobody connects to them, also where a node's own settings name them.

    \b
    Examples:
      vigil camera exclude yard
      vigil camera exclude yard --undo
    """
    settings = load({})
    quiet(settings)
    folder = RegistryFolder(settings.fleet.registry)
    for camera in cameras:
        folder.camera(camera)
    for camera in cameras:
        folder.change_camera(camera, {"excluded": None if undo else True})
        click.echo(f"{camera} is {'watched again' if undo else 'excluded'}")
    publish_or_tell(settings)
