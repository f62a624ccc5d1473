"""What a role's log says to a person: hints, cures and errors, each once."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from config.text import printable

__all__ = ["LogTail"]

_READ_BYTES_MAX = 65_536
"""Looked at in one go; of a log that grows faster only the end is."""
_TOLD_OTHERWISE = frozenset({"thread.ended"})
"""What ends a thread for good is told by the role's last words, or by its camera's state."""


class _Line(msgspec.Struct):
    event: str = ""
    level: str = ""
    error: str = ""
    hint: str = ""
    cure: str = ""


class LogTail:
    """Follows one role's log, as JSON lines.

    Args:
        path: the file; it may not be there yet, and may be emptied.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0
        self._told: set[str] = set()

    def words(self) -> list[str]:
        """What a person should know that was not told before, a line each."""
        told = []
        for line in self._new_lines():
            words = _for_people(line)
            if words and words not in self._told and len(self._told) < 1000:
                self._told.add(words)
                told.append(words)
        return told

    def _new_lines(self) -> list[bytes]:
        try:
            with self._path.open("rb") as log:
                size = log.seek(0, os.SEEK_END)
                if size < self._position:
                    self._position = 0
                self._position = max(self._position, size - _READ_BYTES_MAX)
                log.seek(self._position)
                content = log.read(size - self._position)
        except FileNotFoundError:
            return []
        whole, _, _ = content.rpartition(b"\n")
        self._position += len(whole) + 1 if whole else 0
        return whole.splitlines()


def _for_people(line: bytes) -> str:
    try:
        said = msgspec.json.decode(line, type=_Line)
    except msgspec.DecodeError:
        return ""
    advice = said.hint or said.cure
    if said.event in _TOLD_OTHERWISE or (not advice and said.level != "error"):
        return ""
    parts = [said.event.replace(".", " ").replace("_", " "), said.error, advice]
    return printable(": ".join(part for part in parts if part), 400)
