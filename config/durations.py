"""Durations as people write them: ``90s``, ``5m``, ``1h``."""

from __future__ import annotations

import re

import click

__all__ = ["DURATION", "Duration", "format_duration", "parse_duration"]

_UNITS_S = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_PATTERN = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|)")


def parse_duration(text: str) -> float:
    """Seconds of a duration such as ``60s``, ``5m``, ``1.5h``; a bare number is seconds.

    Raises:
        ValueError: it is not one, or it is zero.
    """
    match = _PATTERN.fullmatch(text.strip().lower())
    seconds = float(match.group(1)) * _UNITS_S[match.group(2)] if match else 0.0
    if seconds <= 0:
        raise ValueError(f"{text!r} is not a duration: write 60s, 5m or 1h")
    return seconds


def format_duration(seconds: float) -> str:
    """A duration for people: ``42 s``, ``5 min 3 s``, ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class Duration(click.ParamType[float]):
    """A click type: seconds, from what people write."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds."""
        if isinstance(value, float):
            return value
        try:
            return parse_duration(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION = Duration()
