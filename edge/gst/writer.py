"""Coded pictures into one file, as they are: a small pipeline of its own a file.

Nothing here touches the pipeline that watches: a full disk or a broken muxer ends this file and nothing else. The file
is fragmented once a second while it is written, so that whoever kills the process loses that second, and made into one
plain MP4 when it is finished. Each fragment goes to the system as it is made; when it goes to the card is the system's
business, and the file is flushed to it once, at its end.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any

from config.errors import PermanentError, TransientError
from edge.gst.elements import Gst, require_elements
from edge.picture import Packet

__all__ = ["SegmentWriter"]

_FRAGMENTS = "name=mux fragment-duration=1000 fragment-mode=first-moov-then-finalise"
_MUXERS = {
    "video/x-h264": ("h264parse", "mp4mux"),
    "video/x-h265": ("h265parse", "mp4mux"),
    # JPEG is no part of what mp4mux takes; QuickTime's container is the same but for the brand.
    "image/jpeg": ("jpegparse", "qtmux"),
}
_WRITE = "appsrc name=in format=time block=false max-bytes=0 ! {parse} ! {mux} ! fdsink name=out sync=false async=false"
_WAITING_BYTES_MAX = 32_000_000
"""A disk that is so far behind hangs."""
_HUNG_S = 10.0
_FINISH_S = 5.0
_TICK_NS = 1_000_000
"""The least distance of two pictures: a container with two at one time is refused by some players."""
_FULL = "free space on the disk, or give edge.footage.folder another"


class SegmentWriter:
    """One file of coded pictures, the first of them a keyframe.

    While it is open it holds a lock on the file (`flock`), which the system lets go of also when the process is killed:
    who finds the file without the lock knows that nobody writes it.

    Concurrency: belongs to one thread.

    Args:
        path: the file; there must be none yet.
        first: its first picture, which is not written by this; it decides the container.

    Attributes:
        written: pictures that were handed over.

    Raises:
        TransientError: the file cannot be made.
        PermanentError: pictures of this kind cannot be recorded, or a part of GStreamer is missing.
    """

    def __init__(self, path: Path, first: Packet) -> None:
        self._path = path
        caps = first.sample.get_caps()
        self._format = _format(caps)
        self._start_s = first.at_s
        self._last_ns = -_TICK_NS
        self.written = 0
        muxer = _MUXERS.get(self._format[0])
        if muxer is None:
            raise PermanentError(f"{self._format[0]} cannot be recorded: set the camera to H.264, H.265 or MJPEG")
        require_elements(muxer)
        self._pipeline = Gst.parse_launch(_WRITE.format(parse=muxer[0], mux=f"{muxer[1]} {_FRAGMENTS}"))
        self._source = self._pipeline.get_by_name("in")
        # Once: what changes later without another size, such as the frame rate that a container gives, is not said
        # again, since no container takes a second description.
        self._source.set_property("caps", caps)
        self._descriptor = _create(path)
        self._pipeline.get_by_name("out").set_property("fd", self._descriptor)
        self._pipeline.set_state(Gst.State.PLAYING)

    def accepts(self, packet: Packet) -> bool:
        """Whether a picture has the codec and the size of those in the file."""
        return _format(packet.sample.get_caps()) == self._format

    def write(self, packet: Packet) -> None:
        """Add the next picture.

        Raises:
            TransientError: the disk is full, fails or hangs.
            PermanentError: this picture and those before do not fit into one file.
        """
        dts_ns = max(round((packet.at_s - self._start_s) * Gst.SECOND), self._last_ns + _TICK_NS)
        self._last_ns = dts_ns
        self._source.push_buffer(_stamped(packet.sample.get_buffer(), dts_ns))
        self.written += 1
        self._check()
        if self._source.get_current_level_bytes() > _WAITING_BYTES_MAX:
            self._wait_written()

    def finish(self, *, durable: bool = True) -> None:
        """Make it a plain MP4 and close it.

        Args:
            durable: have it on the disk when this returns.

        Raises:
            TransientError: it could not be finished; what was written until the last second can be played.
            PermanentError: the same, because the last pictures do not fit.
        """
        try:
            self._source.end_of_stream()
            message = self._pop(int(_FINISH_S * Gst.SECOND))
            if message is None:
                raise TransientError(f"{self._path} was not finished within {_FINISH_S:g} s: the disk hangs")
            self._raise_error(message)
            self._pipeline.set_state(Gst.State.NULL)
            if durable:
                self._flush()
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the file as it is; may be called twice."""
        self._pipeline.set_state(Gst.State.NULL)
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _flush(self) -> None:
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise TransientError(f"{self._path} is not on the disk: {error.strerror}; {_FULL}") from error

    def _check(self) -> None:
        message = self._pop(0)
        if message is not None:
            self._raise_error(message)

    def _wait_written(self) -> None:
        for _ in range(int(_HUNG_S / 0.1)):
            message = self._pop(Gst.SECOND // 10)
            if message is not None:
                self._raise_error(message)
            if self._source.get_current_level_bytes() <= _WAITING_BYTES_MAX // 2:
                return
        raise TransientError(f"{self._path}: the disk took nothing for {_HUNG_S:g} s; is it failing?")

    def _pop(self, timeout_ns: int) -> Any:  # noqa: ANN401 - GStreamer has no types
        kinds = Gst.MessageType.ERROR | Gst.MessageType.EOS
        return self._pipeline.get_bus().timed_pop_filtered(timeout_ns, kinds)

    def _raise_error(self, message: Any) -> None:  # noqa: ANN401 - GStreamer has no types
        if message.type != Gst.MessageType.ERROR:
            return
        error, _debug = message.parse_error()
        said = error.message.rstrip(".")
        if error.domain == "gst-resource-error-quark":
            raise TransientError(f"{self._path}: {said}; {_FULL}")
        raise PermanentError(f"{self._path}: {said}; the pictures do not fit into one file")


def _create(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise TransientError(f"{path} cannot be made: {error.strerror}; {_FULL}") from error
    return descriptor


def _format(caps: Any) -> tuple[str, int, int]:  # noqa: ANN401 - GStreamer has no types
    """Codec and size in pixels."""
    layout = caps.get_structure(0)
    return layout.get_name(), layout.get_value("width"), layout.get_value("height")


def _stamped(buffer: Any, dts_ns: int) -> Any:  # noqa: ANN401 - GStreamer has no types
    """The same coded picture, not copied, at another time.

    The camera's pictures may be shown in another order than they come in: the distance of the two times stays.
    """
    shown_after_ns = 0
    if Gst.CLOCK_TIME_NONE not in (buffer.pts, buffer.dts):
        shown_after_ns = max(0, buffer.pts - buffer.dts)
    stamped = buffer.copy()
    stamped.dts = dts_ns
    stamped.pts = dts_ns + shown_after_ns
    stamped.duration = Gst.CLOCK_TIME_NONE
    return stamped
