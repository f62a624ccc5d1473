"""Options that the commands of several components share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import click

from config.names import check_name, check_role

__all__ = ["camera_option", "role_option"]

F = TypeVar("F", bound=Callable[..., object])


def camera_option(about: str) -> Callable[[F], F]:
    """``--camera NAME=SOURCE``, which may be given again; hands over settings of cameras by name."""
    return click.option("--camera", "cameras", metavar="NAME=SOURCE", multiple=True, callback=_read_cameras, help=about)


def role_option(default: str) -> Callable[[F], F]:
    """``--role``, for a second process of one kind on a machine."""
    return click.option(
        "--role",
        default=default,
        show_default=True,
        callback=_read_role,
        help=f"This process's role; a second one on the machine is '{default}.2'.",
    )


def _read_role(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    try:
        return check_role(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _read_cameras(
    _context: click.Context, _parameter: click.Parameter, values: Sequence[str]
) -> dict[str, dict[str, str]]:
    cameras: dict[str, dict[str, str]] = {}
    for value in values:
        name, _, source = value.partition("=")
        if not source:
            raise click.BadParameter(f"{value!r}: write NAME=SOURCE, such as yard=file:yard.mp4")
        try:
            check_name(name)
        except ValueError as error:
            raise click.BadParameter(str(error)) from error
        if name in cameras:
            raise click.BadParameter(f"two cameras cannot both be called {name!r}")
        cameras[name] = {"source": source}
    return cameras
