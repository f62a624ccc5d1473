"""Commands of the root that are groups, and whose own commands belong to several components."""

from __future__ import annotations

import click

from console.lazy import CommandEntry, LazyGroup

__all__ = ["camera"]


@click.group(
    cls=LazyGroup,
    entries=(CommandEntry("set", "console.camera_cli:set_", "Set a property of a camera, and print what it is then."),),
)
def camera() -> None:
    """The site's cameras.

    \b
    Examples:
      vigil camera set yard mode eco
    """
