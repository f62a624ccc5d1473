"""What the commands of the registry have in common."""

from __future__ import annotations

import sys

import click

from config import TransientError, configure_logging
from config.names import check_name
from config.settings import Settings
from fleet.registry.settling import settle

__all__ = ["camera_argument", "cameras_argument", "publish_or_tell", "quiet", "read_names"]

Names = str | tuple[str, ...] | None


def read_names(_context: click.Context, _parameter: click.Parameter, value: Names) -> Names:
    """A click callback: the value where it is a name, or are names; None passes.

    Raises:
        click.BadParameter: it is none.
    """
    try:
        for name in (value,) if isinstance(value, str) else (value or ()):
            check_name(name)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    return value


camera_argument = click.argument("camera", metavar="CAMERA", callback=read_names)
"""A camera's name."""
cameras_argument = click.argument("cameras", metavar="CAMERA...", nargs=-1, required=True, callback=read_names)
"""Names of cameras."""


def quiet(settings: Settings) -> None:
    """Keep logs out of a command's result."""
    configure_logging("error" if settings.log.level == "info" else settings.log.level, stream=sys.stderr)


def publish_or_tell(settings: Settings) -> bool:
    """Let the bus say what the folder says; whether it does. Where there is no broker, say what will."""
    try:
        settle(settings)
    except TransientError as error:
        click.echo(f"not published yet: {error}", err=True)
        click.echo("`vigil fleet` publishes it once it runs, `vigil registry sync` does so by hand", err=True)
        return False
    return True
