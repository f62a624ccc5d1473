"""Where footage lies and what its files are called.

::

    FOLDER/index.db                                   what there is; made anew when it is deleted
    FOLDER/recordings/yard/2026-11-21/20261121T101500.250Z_yard_5f0c….mp4        a closed segment
    FOLDER/recordings/yard/2026-11-21/20261121T102000.250Z_yard_91ab….part.mp4   one that is being written
    FOLDER/unreadable/                                what was left behind without a picture in it
    FOLDER/clips/                                     clips, where they are delivered to no other place

A segment's name is the wall-clock time of its first picture, its camera and a random id, so that no two are the same
and the folder alone tells what there is.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from broker.references import file_time
from config.names import check_name

__all__ = ["FootageFolder", "Segment", "SegmentName"]

_SUFFIX = ".mp4"
_OPEN_SUFFIX = ".part.mp4"
_NAME = re.compile(r"(\d{8}T\d{6}\.\d{3})Z_([A-Za-z0-9_-]+)_([0-9a-f]{32})(\.part)?\.mp4")


@dataclass(frozen=True, slots=True)
class SegmentName:
    """What the name of a segment's file says.

    Attributes:
        camera: the camera's name.
        starts_at: wall-clock time of its first picture; aware, UTC, in milliseconds.
        id: 32 hexadecimal digits, its own.
    """

    camera: str
    starts_at: datetime
    id: str

    @classmethod
    def new(cls, camera: str, starts_at: datetime) -> SegmentName:
        """A name that nobody else has."""
        return cls(camera, starts_at, uuid.uuid4().hex)

    @classmethod
    def parse(cls, file_name: str) -> SegmentName | None:
        """The name of a file; None when it is not a segment's."""
        match = _NAME.fullmatch(file_name)
        if match is None:
            return None
        moment, camera, identity, _open = match.groups()
        try:
            starts_at = datetime.strptime(moment, "%Y%m%dT%H%M%S.%f").replace(tzinfo=UTC)
            return cls(check_name(camera), starts_at, identity)
        except ValueError:
            return None

    def file_name(self, *, closed: bool) -> str:
        """The file's name."""
        return f"{file_time(self.starts_at)}_{self.camera}_{self.id}{_SUFFIX if closed else _OPEN_SUFFIX}"


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of footage in one file.

    Attributes:
        name: camera, beginning and id.
        path: its file.
        duration_s: from its first picture to the end of its last.
        size_bytes: of the file.
        closed: False while it is written.
    """

    name: SegmentName
    path: Path
    duration_s: float
    size_bytes: int
    closed: bool = True

    @property
    def starts_at(self) -> datetime:
        """Wall-clock time of its first picture."""
        return self.name.starts_at

    @property
    def ends_at(self) -> datetime:
        """Wall-clock time at which its last picture ends."""
        return self.name.starts_at + timedelta(seconds=self.duration_s)

    def overlaps(self, start: datetime, end: datetime) -> bool:
        """Whether a picture of it is shown between two moments."""
        return self.starts_at < end and start < self.ends_at


class FootageFolder:
    """The footage of one node on the disk.

    Args:
        root: the folder; it is made when something is written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.index_file = root / "index.db"
        self.recordings = root / "recordings"
        self.clips = root / "clips"
        self.unreadable = root / "unreadable"

    def path_of(self, name: SegmentName, *, closed: bool) -> Path:
        """Where a segment lies."""
        day = name.starts_at.strftime("%Y-%m-%d")
        return self.recordings / name.camera / day / name.file_name(closed=closed)

    def cameras(self) -> list[str]:
        """Cameras of which there is footage, by name.

        Raises:
            OSError: the folder cannot be read.
        """
        if not self.recordings.is_dir():
            return []
        return sorted(path.name for path in self.recordings.iterdir() if path.is_dir())

    def files(self, camera: str, *, closed: bool) -> Iterator[tuple[SegmentName, Path]]:
        """A camera's segments, in order of time.

        Raises:
            OSError: a folder cannot be read.
        """
        for path in sorted((self.recordings / check_name(camera)).glob(f"*/*{_SUFFIX}")):
            name = SegmentName.parse(path.name)
            if name is not None and closed != path.name.endswith(_OPEN_SUFFIX):
                yield name, path
