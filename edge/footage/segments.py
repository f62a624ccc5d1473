"""A segment while it is written, and what a crash left of one."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from config.errors import PermanentError, TransientError
from config.log import get_logger
from edge.footage.index import FootageIndex
from edge.footage.layout import FootageFolder, Segment, SegmentName
from edge.footage.mp4 import read_extent

if TYPE_CHECKING:
    from edge.picture import Packet

__all__ = ["OpenSegment", "OpenWriter", "PacketWriter", "find_segments", "open_writer", "read_segment", "repair_camera"]


_LENGTH_MAX = timedelta(hours=2)
"""No segment is longer: an hour, and what passes until the next keyframe."""


class PacketWriter(Protocol):
    """Writes one file; :class:`edge.gst.writer.SegmentWriter` does."""

    def accepts(self, packet: Packet) -> bool:
        """Whether a picture has the codec and the size of those in the file."""
        ...

    def write(self, packet: Packet) -> None:
        """Add the next picture."""
        ...

    def finish(self, *, durable: bool = True) -> None:
        """Make it a plain MP4 and close it."""
        ...

    def close(self) -> None:
        """Let go of the file as it is."""
        ...


OpenWriter = Callable[[Path, "Packet"], PacketWriter]


def open_writer(path: Path, first: Packet) -> PacketWriter:
    """Begin a file, with GStreamer.

    Raises:
        TransientError: it cannot be made.
        PermanentError: pictures of this kind cannot be recorded, or a part of GStreamer is missing.
    """
    from edge.gst.writer import SegmentWriter

    return SegmentWriter(path, first)


class OpenSegment:
    """A segment that is being written.

    Concurrency: belongs to one thread.

    Args:
        folder: where it goes.
        camera: whose it is.
        starts_at: wall-clock time of its first picture.
        first: that picture; it is not written by this.
        open_writer: makes the file.

    Attributes:
        trouble: why it could not be finished, once it is closed.

    Raises:
        TransientError: the file cannot be made.
        PermanentError: pictures of this kind cannot be recorded.
    """

    def __init__(
        self, folder: FootageFolder, camera: str, starts_at: datetime, first: Packet, *, open_writer: OpenWriter
    ) -> None:
        self._folder = folder
        self._name = SegmentName.new(camera, starts_at)
        self._path = folder.path_of(self._name, closed=False)
        self._writer = open_writer(self._path, first)
        self.trouble: str | None = None

    def accepts(self, packet: Packet) -> bool:
        """Whether a picture may go into the same file."""
        return self._writer.accepts(packet)

    def write(self, packet: Packet) -> None:
        """Add the next picture.

        Raises:
            TransientError: the disk is full, fails or hangs.
            PermanentError: this picture and those before do not fit into one file.
        """
        self._writer.write(packet)

    def close(self) -> Segment | None:
        """Finish it. What cannot be finished is kept as far as it can be played, and `trouble` says why.

        Returns:
            The closed segment; None when there is no picture in it, and no file then.
        """
        try:
            self._writer.finish()
        except (TransientError, PermanentError) as error:
            self.trouble = str(error)
        finally:
            self._writer.close()
        try:
            return _close_file(self._folder, self._name, self._path, unreadable=_remove)
        except OSError as error:  # it stays as it is, and the next start closes it
            self.trouble = f"{self._path}: {error.strerror}; is the disk failing?"
            return None


def repair_camera(folder: FootageFolder, index: FootageIndex, camera: str) -> None:
    """Close what a crash left open of a camera, and make the index what its folder is.

    A segment that another process writes now is left alone. One without a picture in it is moved aside.

    Raises:
        TransientError: the disk is full or fails.
        PermanentError: the folder may not be used.
    """
    log = get_logger(camera=camera)
    try:
        for name, path in list(folder.files(camera, closed=False)):
            if _nobody_writes(path):
                segment = _close_file(folder, name, path, unreadable=lambda left: _set_aside(folder, left))
                if segment is None:
                    log.warning("footage.unreadable", file=path.name, moved_to=str(folder.unreadable))
                else:
                    log.info("footage.salvaged", file=segment.path.name, seconds=round(segment.duration_s, 1))
        _relist(folder, index, camera)
    except OSError as error:
        raise _explained(error, folder) from error


def _relist(folder: FootageFolder, index: FootageIndex, camera: str) -> None:
    """List what is there and not listed, drop what is listed and gone; a file that is listed is not read again."""
    listed = index.segment_ids(camera)
    there = {name.id: (name, path) for name, path in folder.files(camera, closed=True)}
    found = []
    for identity in there.keys() - listed:
        try:
            found.append(read_segment(*there[identity]))
        except PermanentError as error:
            path = there[identity][1]
            get_logger(camera=camera).warning("footage.unreadable", file=path.name, error=str(error))
            _set_aside(folder, path)
    index.replace_segments(sorted(listed - there.keys()), found)


def find_segments(folder: FootageFolder, camera: str, start: datetime, end: datetime) -> Iterator[Segment]:
    """Segments with a picture between two moments as the folder has them, the one that is being written too.

    Raises:
        OSError: the folder cannot be read.
    """
    names = [*folder.files(camera, closed=True), *folder.files(camera, closed=False)]
    for name, path in sorted(names, key=lambda one: one[0].starts_at):
        if name.starts_at >= end:
            return
        if name.starts_at < start - _LENGTH_MAX:
            continue
        try:
            segment = read_segment(name, path)
        except (PermanentError, FileNotFoundError):
            continue  # it has no picture yet, or the ring was quicker
        if segment.overlaps(start, end):
            yield segment


def read_segment(name: SegmentName, path: Path) -> Segment:
    """What a file holds, also while it is written.

    Raises:
        PermanentError: there is no picture in it.
        OSError: it cannot be read.
    """
    extent = read_extent(path)
    closed = not path.name.endswith(".part.mp4")
    return Segment(name, path, extent.duration_s, path.stat().st_size, closed)


def _close_file(
    folder: FootageFolder, name: SegmentName, path: Path, *, unreadable: Callable[[Path], None]
) -> Segment | None:
    """Cut off what cannot be played, and give the file its name; needs no room on the disk."""
    try:
        extent = read_extent(path)
    except PermanentError:
        unreadable(path)
        return None
    if extent.whole_bytes < path.stat().st_size:
        os.truncate(path, extent.whole_bytes)
    closed = folder.path_of(name, closed=True)
    path.rename(closed)
    return Segment(name, closed, extent.duration_s, extent.whole_bytes)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _set_aside(folder: FootageFolder, path: Path) -> None:
    folder.unreadable.mkdir(parents=True, exist_ok=True)
    path.rename(folder.unreadable / path.name)


def _nobody_writes(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _explained(error: OSError, folder: FootageFolder) -> Exception:
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return PermanentError(
            f"footage folder {folder.root}: {error.strerror} ({error.filename}); give it to the user that Vigil runs "
            "as, or name another in edge.footage.folder"
        )
    return TransientError(f"footage folder {folder.root}: {error.strerror} ({error.filename}); is the disk failing?")
