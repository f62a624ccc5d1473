"""What every part of the settings is made of."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["DAYS", "Day", "Fraction", "Point", "Polygon", "Section"]

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Point = tuple[Fraction, Fraction]
Polygon = Annotated[tuple[Point, ...], Field(min_length=3, max_length=64)]
"""Corners ``[x, y]`` as fractions of the picture's width and height, from the top left."""
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
"""As :meth:`datetime.date.weekday` counts them."""


class Section(BaseModel):
    """A part of the settings."""

    # What a setting means stands below it for whoever reads or documents the source. Handing that to pydantic would
    # parse the source of every model at each start: a third of what building them takes.
    model_config = ConfigDict(frozen=True, extra="forbid")
