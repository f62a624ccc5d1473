"""Settings as people write them on a command line: ``idle_fps=2``, ``motion.sensitivity=0.7``. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from config import ConfigError
from fleet.registry.roundtrip import read_mapping

__all__ = ["read_assignments"]


def read_assignments(assignments: Sequence[str], removed: Sequence[str] = ()) -> dict[str, Any]:
    """The changes that they ask for, nested.

    Args:
        assignments: ``FIELD=VALUE`` each; the value is YAML.
        removed: fields that go back to their defaults.

    Raises:
        click.UsageError: one is none.
    """
    changes: dict[str, Any] = {}
    for assignment in assignments:
        place, sign, text = assignment.partition("=")
        if not sign or not place:
            raise click.UsageError(f"{assignment!r} is no setting: write FIELD=VALUE, such as idle_fps=2")
        try:
            value = read_mapping(f"value: {text}", Path("--set")).get("value")
        except ConfigError as error:
            raise click.UsageError(f"{place}: {error.message}") from None
        if value is None:
            raise click.UsageError(f"{place} has no value; --unset {place} takes it away")
        _put(changes, place.split("."), value)
    for place in removed:
        _put(changes, place.split("."), None)
    return changes


def _put(changes: dict[str, Any], place: Sequence[str], value: object) -> None:
    for part in place[:-1]:
        changes = changes.setdefault(part, {})
    changes[place[-1]] = value
