"""Every picture that a site let out: of each message on the bus, and of each file on the disk."""

from __future__ import annotations

import base64
import contextlib
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from broker import Delivery
from tests.support.secrecy import Bgr, pictures_in, pictures_of_video

__all__ = ["Leak", "pictures_of_delivery", "pictures_of_folder"]

_JPEG_AS_TEXT = re.compile(rb"/9j/[A-Za-z0-9+/]{64,}={0,2}")
"""A JPEG in Base64, as JSON has it."""
_VIDEO = b"ftyp"
_SQLITE = b"SQLite format 3\x00"


@dataclass(frozen=True, slots=True)
class Leak:
    """A picture that can be had.

    Attributes:
        where: kind of message or file.
        picture: what it shows.
    """

    where: str
    picture: Bgr


def pictures_of_delivery(delivery: Delivery) -> Iterator[Leak]:
    """Every picture in a message."""
    for picture in _pictures(delivery.payload):
        yield Leak(delivery.topic.spec.name, picture)


def pictures_of_folder(folder: Path) -> Iterator[Leak]:
    """Every picture in the files below a folder, databases included."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if content[4:8] == _VIDEO:
            found = pictures_of_video(path)
        elif content.startswith(_SQLITE):
            found = (picture for value in _values(path) for picture in _pictures(value))
        else:
            found = _pictures(content)
        for picture in found:
            yield Leak(str(path.relative_to(folder).parent), picture)


def _pictures(content: bytes) -> Iterator[Bgr]:
    yield from pictures_in(content)
    for text in _JPEG_AS_TEXT.findall(content):
        yield from pictures_in(base64.b64decode(text + b"=" * (-len(text) % 4)))


def _values(path: Path) -> Iterator[bytes]:
    """Everything that a database holds; a long value lies in several pages of its file."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for row in database.execute(f'SELECT * FROM "{table}"'):
                yield from (
                    value if isinstance(value, bytes) else str(value).encode()
                    for value in row
                    if isinstance(value, bytes | str)
                )
