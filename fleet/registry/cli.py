"""`vigil registry init|sync|diff|export`: the folder as a whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import msgspec
import yaml

from config import ConfigError, PermanentError
from config.files import make_private_folder, write_atomically
from config.logins import with_login
from config.names import check_name
from config.registry import CameraEntry, Login
from config.section import Section
from config.settings import Settings, default_registry
from config.text import printable
from fleet.registry.compare import Difference, compare
from fleet.registry.documents import camera_settings
from fleet.registry.folder import Registry, RegistryFolder
from fleet.registry.options import quiet
from fleet.registry.settling import settle
from fleet.registry.sight import Sight

__all__ = ["diff", "export", "init", "sync"]

Load = Callable[[Mapping[str, Any]], Settings]

_SITE_TEMPLATE = """\
# What holds for the whole site. Cameras are in cameras/NAME.yaml, nodes in nodes/NAME.yaml.
# time_zone: Europe/Berlin
"""


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), required=False)
@click.pass_obj
def init(load: Load, *, folder: Path | None) -> None:
    """Make the folder of the registry: one YAML file for each camera and node, fit for git.

    \b
    Examples:
      vigil registry init
      vigil registry init /srv/site/registry
    """
    settings = load({"fleet": {"registry": folder}})
    path = settings.fleet.registry
    try:
        make_private_folder(path)
        for below in ("cameras", "nodes"):
            (path / below).mkdir(exist_ok=True)
        if not (path / "site.yaml").exists():
            write_atomically(path / "site.yaml", _SITE_TEMPLATE)
    except OSError as error:
        raise PermanentError(f"{error.filename or path}: cannot be made ({error.strerror})") from error
    RegistryFolder(path).change_site({})
    click.echo(f"the registry is {path}")
    if path != default_registry():
        click.echo(f"name it in the site file: fleet: {{registry: {path.absolute()}}}")
    click.echo("add a camera with `vigil camera add NAME`")


@click.command()
@click.pass_obj
def sync(load: Load) -> None:
    """Let the bus say what the folder says, now, and say what was published and cleared.

    `vigil fleet` does this by itself, about once a second.

    \b
    Examples:
      vigil registry sync
      git -C registry pull && vigil registry sync

    Exit status: 0 the bus says what the folder says, 69 no broker, 78 a file is broken (the others were published).
    """
    settings = load({})
    quiet(settings)
    differences = settle(settings)
    for difference in differences:
        click.echo(f"{'cleared' if difference.kind == 'left over' else 'published'} {difference.name}")
    registry = RegistryFolder(settings.fleet.registry).read()
    if not differences:
        counts = f"{_count(len(registry.cameras), 'camera')} and {_count(len(registry.nodes), 'node')}"
        click.echo(f"nothing to do: {counts} are on the bus")
    _refuse_broken(registry)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_obj
def diff(load: Load, *, as_json: bool) -> None:
    """Show where folder and bus differ: what `vigil registry sync` would change.

    \b
    Examples:
      vigil registry diff
      vigil registry diff --json

    Exit status: 0 they say the same, 1 they do not, 69 no broker, 78 a file is broken.
    """
    settings = load({})
    quiet(settings)
    registry = RegistryFolder(settings.fleet.registry).read()
    with Sight(settings) as sight:
        sight.wait_known()
        differences = compare(registry, sight.facts.cameras, sight.facts.nodes)
    for difference in differences:
        if as_json:
            click.echo(msgspec.json.encode(difference))
        else:
            _show_difference(difference)
    _refuse_broken(registry)
    if differences:
        raise click.exceptions.Exit(1)


def _show_difference(difference: Difference) -> None:
    words = {"unpublished": "only in the folder", "left over": "only on the bus", "different": "differs"}
    click.echo(f"{difference.name} {words[difference.kind]}")
    for place, (there, here) in difference.fields.items():
        click.echo(printable(f"  {place}: {_value(there)} on the bus, {_value(here)} in the folder", 300))


def _value(value: object) -> str:
    return "nothing" if value is None else json.dumps(value)


def _refuse_broken(registry: Registry) -> None:
    if registry.troubles:
        raise ConfigError("\n".join(str(trouble.error) for trouble in registry.troubles))


@click.command()
@click.option("--format", "style", type=click.Choice(["yaml", "json"]), default="yaml", help="How; default yaml.")
@click.option("--site-file", is_flag=True, help="As a site file: what a machine without a registry runs with.")
@click.option("--node", metavar="NAME", help="Only this node and its cameras.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Where to, for its owner's eyes; default standard output.",
)
@click.option("--with-logins", is_flag=True, help="With user names and passwords; into a file only.")
@click.pass_obj
def export(load: Load, *, style: str, site_file: bool, node: str | None, out: Path | None, with_logins: bool) -> None:
    """Write everything that the registry says as one document.

    \b
    Examples:
      vigil registry export > registry.yaml
      vigil registry export --format json | jq '.cameras | keys'
      vigil registry export --site-file --node porch --with-logins --out porch.yaml
    """
    settings = load({})
    quiet(settings)
    if with_logins and out is None:
        raise click.UsageError("--with-logins needs --out FILE: passwords are not for a terminal")
    folder = RegistryFolder(settings.fleet.registry)
    registry = folder.read()
    _refuse_broken(registry)
    logins = folder.logins() if with_logins else {}
    if node is not None:
        registry = _of_node(folder, registry, node)
    content = _site_file(settings, registry, logins, node) if site_file else _everything(registry, logins)
    text = f"{json.dumps(content, indent=2)}\n" if style == "json" else yaml.safe_dump(content, sort_keys=False)
    if out is None:
        click.echo(text, nl=False)
        return
    try:
        write_atomically(out, text)
    except OSError as error:
        raise PermanentError(f"{out}: cannot be written ({error.strerror})") from error


def _of_node(folder: RegistryFolder, registry: Registry, name: str) -> Registry:
    """What concerns one node: itself, its cameras, and those of its pools."""
    own = folder.node(name)
    cameras = {
        camera: held
        for camera, held in registry.cameras.items()
        if held.entry.node == name or held.entry.pool in own.entry.pools
    }
    return Registry(cameras, {name: own}, registry.site)


def _everything(registry: Registry, logins: Mapping[str, Login]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if registry.site is not None:
        content["site"] = _plain(registry.site.entry)
    content["cameras"] = {name: _plain(held.entry) for name, held in sorted(registry.cameras.items())}
    content["nodes"] = {name: _plain(held.entry) for name, held in sorted(registry.nodes.items())}
    if logins:
        content["logins"] = {
            name: {"username": login.username, "password": login.password.get_secret_value()}
            for name, login in sorted(logins.items())
        }
    return content


def _plain(entry: Section) -> dict[str, Any]:
    return entry.model_dump(mode="json", exclude_unset=True)


def _site_file(settings: Settings, registry: Registry, logins: Mapping[str, Login], node: str | None) -> dict[str, Any]:
    """The same for a machine that reads no registry; cameras that nobody is to touch are left out."""
    own = registry.nodes[check_name(node)].entry.settings if node else {}
    cameras = {
        name: _camera(held.entry, logins.get(name))
        for name, held in sorted(registry.cameras.items())
        if not held.entry.excluded
    }
    return {"site": settings.site, **({"node": node} if node else {}), **own, "cameras": cameras}


def _camera(entry: CameraEntry, login: Login | None) -> dict[str, Any]:
    content = camera_settings(entry).model_dump(mode="json", exclude_unset=True)
    for key in ("source", "sub_source"):
        if login is not None and content.get(key):
            content[key] = with_login(content[key], login)
    return content
