"""`vigil registry import`: cameras out of another system's configuration."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import yaml
from pydantic import ValidationError

from config import ConfigError
from config.registry import CameraEntry
from config.settings import Settings
from config.sources import explain_camera
from config.text import printable
from fleet.registry.camera_list import read_camera_list
from fleet.registry.folder import RegistryFolder
from fleet.registry.frigate import looks_like_frigate, read_frigate
from fleet.registry.imported import Imported, Left
from fleet.registry.options import publish_or_tell, quiet, read_names

__all__ = ["import_"]

Load = Callable[[Mapping[str, Any]], Settings]

_BYTES_MAX = 10_000_000
_SHOWN_MAX = 300


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--camera", "only", metavar="NAME", multiple=True, help="Only this one; may be given again.")
@click.option("--node", metavar="NAME", callback=read_names, help="The node that is to watch them.")
@click.option("--pool", metavar="NAME", callback=read_names, help="The pool whose nodes are to share them.")
@click.option("--replace", is_flag=True, help="Also cameras that the registry has already.")
@click.option("--dry-run", is_flag=True, help="Print what would be written, and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print what was taken over and what was left as one object.")
@click.pass_obj
def import_(
    load: Load,
    *,
    file: Path,
    only: Sequence[str],
    node: str | None,
    pool: str | None,
    replace: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Take cameras over from a Frigate configuration, or from a JSON list of cameras.

    Of Frigate's `config.yml`: streams (also behind go2rtc), ONVIF addresses, logins, zones, masks, objects, alerts,
    rates, recording and its retention. What Vigil has no counterpart for is listed, with where it has the like. Of a
    list: `id`, `name`, `rtspUrl`, `excluded`, and other spellings of these. Logins go into logins.yaml, never into a
    camera's file. `{FRIGATE_...}` is taken from the environment.

    \b
    Examples:
      vigil registry import frigate.yml --dry-run
      vigil registry import frigate.yml --pool outdoors
      FRIGATE_RTSP_PASSWORD=... vigil registry import frigate.yml --camera drive --node porch
      vigil registry import cameras.json --replace

    Exit status: 0 every camera was taken over, 78 one cannot be (the others were).
    """
    settings = load({})
    quiet(settings)
    if node and pool:
        raise click.UsageError("a camera has a --node or a --pool, not both")
    imported = _read(file)
    if only:
        _narrow(imported, only)
    place = {key: value for key, value in (("node", node), ("pool", pool)) if value}
    for entry in imported.cameras.values():
        entry.update(place)
    refused = _drop_refused(imported, file)
    folder = RegistryFolder(settings.fleet.registry)
    known = set(folder.read().cameras) if folder.path.is_dir() else set()
    kept = [] if replace else sorted(known & imported.cameras.keys())
    for name in kept:
        del imported.cameras[name]
        imported.leave(name, "the registry has this camera already; --replace writes over it")
    if not dry_run:
        _write(folder, imported)
    _tell(imported, folder, dry_run=dry_run, as_json=as_json)
    if not dry_run and imported.cameras:
        publish_or_tell(settings)
    if refused:
        raise ConfigError("\n".join(str(error) for error in refused))


def _read(file: Path) -> Imported:
    """What another system's file says.

    Raises:
        ConfigError: it cannot be read, or is neither of the two.
    """
    try:
        with file.open(encoding="utf-8") as stream:
            text = stream.read(_BYTES_MAX)
        # JSON is YAML, but for tabs.
        content = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", file=file) from error
    except (yaml.YAMLError, json.JSONDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark is not None else getattr(error, "lineno", None)
        raise ConfigError(f"is no YAML or JSON: {getattr(error, 'problem', error)}", file=file, line=line) from error
    if looks_like_frigate(content):
        return read_frigate(content, os.environ)
    imported = read_camera_list(content)
    if not imported.cameras:
        raise ConfigError(
            "has no cameras: this takes a Frigate configuration (`cameras` with `ffmpeg` inputs), or a JSON list of "
            "objects with `id` and `rtspUrl`",
            file=file,
        )
    return imported


def _narrow(imported: Imported, only: Sequence[str]) -> None:
    for name in only:
        if name not in imported.cameras:
            raise click.BadParameter(f"{name!r} is not in it: {', '.join(imported.cameras)}", param_hint="--camera")
    imported.cameras = {name: entry for name, entry in imported.cameras.items() if name in only}
    imported.logins = {name: login for name, login in imported.logins.items() if name in only}


def _drop_refused(imported: Imported, file: Path) -> list[ConfigError]:
    """Take out what cannot be a camera here."""
    refused = []
    for name, entry in list(imported.cameras.items()):
        try:
            CameraEntry.model_validate(entry)
        except ValidationError as error:
            first = explain_camera(name, error)[0]
            refused.append(ConfigError(first.message, field=first.field, file=file))
            del imported.cameras[name]
    return refused


def _write(folder: RegistryFolder, imported: Imported) -> None:
    for name, entry in imported.cameras.items():
        folder.change_camera(name, _plain(entry))
        if name in imported.logins:
            folder.set_login(name, imported.logins[name])


def _tell(imported: Imported, folder: RegistryFolder, *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        parts = {
            "cameras": imported.cameras,
            "logins": sorted(imported.logins),
            "notes": [asdict(note) for note in imported.notes],
            "left": [asdict(left) for left in imported.left],
        }
        click.echo(json.dumps(parts, indent=2))
        return
    for name, entry in imported.cameras.items():
        fields = ", ".join(field for field in entry if field != "name")
        login = "; its login goes into logins.yaml" if name in imported.logins else ""
        click.echo(printable(f"{name}: {fields}{login}", _SHOWN_MAX))
        if dry_run:
            click.echo("".join(f"    {line}\n" for line in yaml.safe_dump(_plain(entry)).splitlines()), nl=False)
    _list("taken over as something like it:", imported.notes)
    _list("left behind:", imported.left)
    noun = "camera" if len(imported.cameras) == 1 else "cameras"
    done = "would be written" if dry_run else "written"
    click.echo(f"{len(imported.cameras)} {noun} {done} to {folder.path / 'cameras'}")


def _list(title: str, what: Sequence[Left]) -> None:
    if what:
        click.echo(title)
    for one in what:
        click.echo(printable(f"  {one.place:<44} {one.reason}", _SHOWN_MAX))


def _plain(entry: Mapping[str, Any]) -> Any:  # noqa: ANN401 - as YAML has it
    """Without tuples, which YAML would spell out."""
    return json.loads(json.dumps(entry))
