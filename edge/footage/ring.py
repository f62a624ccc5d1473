"""What goes so that there is room: by hours, by bytes, and by what is free on the disk."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from config.cameras import RecordingSettings
from config.errors import TransientError
from config.log import get_logger
from edge.footage.index import FootageIndex
from edge.footage.layout import FootageFolder, Segment

__all__ = ["FootageRing"]

_SPARE_OF = 20
"""What is freed on top when the disk is full, as a part of what must be free: not a file each second."""


class FootageRing:
    """Deletes what is too old or too much.

    Unprotected footage goes first, the oldest first. Where that is not enough, protected footage goes too, and it is
    said, and then clips that were delivered to no other place: a camera in front of which something always moves would
    otherwise stop recording for days.

    Concurrency: belongs to one thread.

    Args:
        folder: the footage.
        index: what there is.
        disk_free_min_bytes: what must stay free on the disk.
    """

    def __init__(self, folder: FootageFolder, index: FootageIndex, *, disk_free_min_bytes: int) -> None:
        self._folder = folder
        self._index = index
        self._disk_free_min_bytes = disk_free_min_bytes
        self.deleted = 0
        """Segments that went."""

    def trim(self, camera: str, settings: RecordingSettings, now: datetime) -> None:
        """Delete what is too old of a camera, or more than it may have; clips beside the recordings, too.

        Raises:
            TransientError: the disk fails.
        """
        self.keep_less(camera, settings.keep_hours, now)
        over_bytes = self._index.size_bytes(camera) - settings.keep_bytes
        if over_bytes > 0:
            self._free(camera, over_bytes, now, why="keep_bytes")
        kept_hours = max(settings.keep_hours, settings.protect_hours)
        for path, day in self._clip_folders(camera):
            if day < now - timedelta(hours=kept_hours, days=1):
                shutil.rmtree(path, ignore_errors=True)

    def keep_less(self, camera: str, hours: float, now: datetime) -> int:
        """Delete what is older than that of a camera and that nothing protects; returns how many files.

        Raises:
            TransientError: the disk fails.
        """
        expired = self._index.expired(camera, now - timedelta(hours=hours), now)
        for segment in expired:
            self._delete(segment)
        return len(expired)

    def free_disk(self, now: datetime) -> str | None:
        """Delete until enough is free on the disk.

        Returns:
            Why nothing may be recorded now; None when there is room.

        Raises:
            TransientError: the disk fails.
        """
        short_bytes = self._short_bytes()
        if short_bytes <= 0:
            return None
        spare_bytes = self._disk_free_min_bytes // _SPARE_OF
        self._free(None, short_bytes + spare_bytes, now, why="disk_free_min_bytes")
        if self._short_bytes() > 0:
            self._free_clips(self._short_bytes() + spare_bytes)
        short_bytes = self._short_bytes()
        if short_bytes <= 0:
            return None
        free = max(0, self._disk_free_min_bytes - short_bytes)
        return (
            f"the disk of {self._folder.root} has {free} bytes free, and edge.footage.disk_free_min_bytes are "
            f"{self._disk_free_min_bytes}: free space, or lower it"
        )

    def _short_bytes(self) -> int:
        try:
            return self._disk_free_min_bytes - shutil.disk_usage(self._folder.root).free
        except OSError as error:
            raise TransientError(f"footage folder {self._folder.root}: {error.strerror}; is the disk there?") from error

    def _free(self, camera: str | None, wanted_bytes: int, now: datetime, *, why: str) -> None:
        for segment, is_protected in self._index.spare(camera, now):
            if wanted_bytes <= 0:
                return
            if is_protected:
                get_logger(camera=segment.name.camera).warning(
                    "footage.protected_deleted", file=segment.path.name, limit=why
                )
            wanted_bytes -= segment.size_bytes
            self._delete(segment)

    def _free_clips(self, wanted_bytes: int) -> None:
        """Delete clips beside the recordings, the oldest first: their names begin with the time."""
        for path in sorted(self._folder.clips.glob("*/*/*.mp4"), key=lambda path: path.name):
            if wanted_bytes <= 0:
                return
            with contextlib.suppress(OSError):
                wanted_bytes -= path.stat().st_size
                path.unlink()

    def _delete(self, segment: Segment) -> None:
        """The file first: an entry without one is found at the next start, a file without an entry needs room."""
        try:
            segment.path.unlink(missing_ok=True)
        except OSError as error:
            raise TransientError(f"{segment.path} cannot be deleted: {error.strerror}") from error
        self._index.remove_segment(segment.name.id)
        self.deleted += 1
        with contextlib.suppress(OSError):  # another segment of the day is there
            segment.path.parent.rmdir()

    def _clip_folders(self, camera: str) -> Iterator[tuple[Path, datetime]]:
        folder = self._folder.clips / camera
        if not folder.is_dir():
            return
        for path in sorted(folder.iterdir()):
            with contextlib.suppress(ValueError):
                yield path, datetime.fromisoformat(f"{path.name}T00:00:00+00:00")
