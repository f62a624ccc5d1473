"""What was taken out of another system's configuration, and what of it was left behind. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from config.names import check_name
from config.registry import Login

__all__ = ["Imported", "Left", "Section", "free_name"]


@dataclass(frozen=True, slots=True)
class Left:
    """One setting that was not carried over.

    Attributes:
        place: where it stands in the other configuration: ``cameras.yard.birdseye``.
        reason: why, and where Vigil has the like.
    """

    place: str
    reason: str


@dataclass(slots=True)
class Imported:
    """Cameras as their files in the registry are to say.

    Attributes:
        cameras: settings of each, nested as in its file; without logins.
        logins: how one logs in to them.
        left: what was not carried over.
        notes: what was carried over as something that is not quite the same.
    """

    cameras: dict[str, dict[str, Any]] = field(default_factory=dict)
    logins: dict[str, Login] = field(default_factory=dict)
    left: list[Left] = field(default_factory=list)
    notes: list[Left] = field(default_factory=list)

    def leave(self, place: str, reason: str) -> None:
        """Say that something was not carried over."""
        self.left.append(Left(place, reason))

    def note(self, place: str, reason: str) -> None:
        """Say that something was carried over as something like it."""
        self.notes.append(Left(place, reason))


class Section:
    """A part of another system's configuration, which remembers what of it was looked at.

    Args:
        content: what stands there; anything but a mapping counts as empty.
        place: where that is.
    """

    def __init__(self, content: object, place: str = "") -> None:
        self._content: Mapping[str, Any] = content if isinstance(content, Mapping) else {}
        self._place = place
        self._taken: set[str] = set()
        self._below: dict[str, Section] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._content

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    def place(self, key: str) -> str:
        """Where a key of it stands in the file."""
        return f"{self._place}.{key}" if self._place else str(key)

    def take(self, key: str, default: object = None) -> Any:  # noqa: ANN401 - as the file has it
        """A value that is carried over."""
        self._taken.add(key)
        value = self._content.get(key)
        return default if value is None else value

    def below(self, key: str) -> Section:
        """A part of it."""
        if key not in self._below:
            self._below[key] = Section(self._content.get(key), self.place(key))
        return self._below[key]

    @property
    def is_untouched(self) -> bool:
        """Whether nobody has looked at anything of it."""
        return not self._taken and not self._below

    def whole(self) -> Mapping[str, Any]:
        """All that stands there; it counts as carried over."""
        self._taken.update(self._content)
        return self._content

    def left(self) -> Iterator[str]:
        """Places that nobody has looked at; a part of which nothing was taken is one place."""
        for key in self._content:
            below = self._below.get(key)
            if key in self._taken:
                continue
            if below is None or below.is_untouched:
                yield self.place(key)
            else:
                yield from below.left()


def free_name(wanted: str, taken: Mapping[str, object]) -> str:
    """A name for a camera that may be one, like the wanted one, and that no other has.

    Args:
        wanted: as another system calls it.
        taken: names that are given already.
    """
    try:
        name = check_name(wanted)
    except ValueError:
        cleaned = "".join(sign if sign.isascii() and (sign.isalnum() or sign in "_-") else "-" for sign in wanted)
        name = cleaned.strip("-_")[:60] or "camera"
    number, free = 2, name
    while free in taken:
        free = f"{name}-{number}"
        number += 1
    return free
