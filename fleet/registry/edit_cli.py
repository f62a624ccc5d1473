"""`vigil camera edit`: a camera's file in the person's own editor, or a setting of it without one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from config import ConfigError, PermanentError
from config.settings import Settings
from fleet.registry.folder import RegistryFolder
from fleet.registry.options import camera_argument, publish_or_tell, quiet
from fleet.registry.values import read_assignments

__all__ = ["edit"]

Load = Callable[[Mapping[str, Any]], Settings]


@click.command()
@camera_argument
@click.option("--set", "assignments", metavar="FIELD=VALUE", multiple=True, help="A setting, without an editor.")
@click.option("--unset", "removed", metavar="FIELD", multiple=True, help="One that goes back to its default.")
@click.pass_obj
def edit(load: Load, *, camera: str, assignments: Sequence[str], removed: Sequence[str]) -> None:
    """Change a camera's file with $EDITOR, or some of its settings without.

    What is saved is checked before it counts; where it is wrong you may go on editing. Where somebody else has changed
    the file meanwhile nothing is written: you see what he changed, and your text is kept beside the file.

    \b
    Examples:
      vigil camera edit yard
      vigil camera edit yard --set idle_fps=2 --set area=Garden
      vigil camera edit yard --set node=door --unset motion.sensitivity

    Exit status: 0 changed or left as it was, 1 somebody else was quicker, 78 it is wrong.
    """
    settings = load({})
    quiet(settings)
    folder = RegistryFolder(settings.fleet.registry)
    file = folder.camera_file(camera)
    text, etag = folder.text(file)
    if not etag:
        raise PermanentError(f"there is no camera {camera!r} in {folder.path}: `vigil camera list` lists them")
    if assignments or removed:
        changed = folder.change_camera(camera, read_assignments(assignments, removed)).etag != etag
    else:
        changed = _edited(folder, camera, text, etag)
    if not changed:
        click.echo(f"{camera} stays as it was")
        return
    click.echo(f"changed {camera}: {file}")
    publish_or_tell(settings)


def _edited(folder: RegistryFolder, camera: str, before: str, etag: str) -> bool:
    """Let the person edit until the text can be used, or he gives up; whether anything was changed."""
    text = before
    while True:
        text = click.edit(text, extension=".yaml", require_save=False) or ""
        if text == before:
            return False
        try:
            folder.replace_camera(camera, text, etag=etag)
        except ConfigError as error:
            click.echo(f"vigil: {error}", err=True)
            if not (sys.stdin.isatty() and click.confirm("Go on editing?", default=True)):
                kept = folder.keep_beside(camera, text)
                click.echo(f"nothing was written; your text is kept in {kept}", err=True)
                raise click.exceptions.Exit(error.exit_code) from None
        else:
            return True
