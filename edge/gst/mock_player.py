"""A mock camera: its film, what is wrong with it, and how its pictures come into a pipeline in real time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, get_args

from edge.gst.elements import Gst
from edge.gst.mock_clip import Clip, Codec, Film

if TYPE_CHECKING:
    from typing import TypeAlias

__all__ = ["FAULTS", "SOURCE", "Fault", "Part", "PlayedCamera", "Player"]

Fault = Literal["none", "freeze", "drop", "404", "password", "resolution", "codec"]
FAULTS: tuple[Fault, ...] = get_args(Fault)
Part: TypeAlias = Literal["main", "sub"]

SOURCE = "appsrc name=src is-live=true format=time max-bytes=1"
"""Where a player puts its pictures: one at a time, so that a film that freezes does so at once."""
_CAPS: dict[Codec, str] = {
    "h264": "video/x-h264,stream-format=byte-stream,alignment=au",
    "h265": "video/x-h265,stream-format=byte-stream,alignment=au",
    "jpeg": "image/jpeg",
}
_SUB_HEIGHT_MAX_PX = 360


class PlayedCamera:
    """A film that runs since the process began, for everybody the same, and the fault that the camera has.

    Concurrency: any thread.

    Args:
        name: its place in the URLs.
        film: what it shows.
    """

    def __init__(self, name: str, film: Film) -> None:
        self.name = name
        self.film = film
        self.drops = 0
        self._fault: Fault = "none"
        self._lock = threading.Lock()
        self._listeners: list[Callable[[Fault, Fault], None]] = []
        self._start_ns = time.monotonic_ns()

    @property
    def fault(self) -> Fault:
        """What is wrong with it."""
        return self._fault

    @property
    def now_ns(self) -> int:
        """Where in the endless film the camera is."""
        return time.monotonic_ns() - self._start_ns

    def clip(self, part: Part) -> Clip:
        """What is played now; made when it is wanted for the first time."""
        return self._clip_with(self._fault, part)

    def _clip_with(self, fault: Fault, part: Part) -> Clip:
        native = self.film.native
        if part == "sub":
            return self.film.clip("h264", min(_SUB_HEIGHT_MAX_PX, native.size_px[1] // 2) & ~1)
        if fault == "codec":
            return self.film.clip("h264" if native.codec == "h265" else "h265")
        if fault == "resolution":
            return self.film.clip(native.codec, native.size_px[1] * 3 // 4 & ~1)
        return native

    def on_fault(self, listener: Callable[[Fault, Fault], None]) -> None:
        """Call `listener` with the old and the new fault at each change."""
        self._listeners.append(listener)

    def break_with(self, fault: Fault) -> None:
        """Take a fault, instead of the one it had; return when it is there.

        ``drop`` closes every connection, and nothing more is wrong then.
        """
        with self._lock:
            self._clip_with(fault, "main")
            old, self._fault = self._fault, "none" if fault == "drop" else fault
            if fault in ("drop", "404", "password"):
                self.drops += 1
            for listener in self._listeners:
                listener(old, fault)


class Player:
    """Puts a camera's pictures into a pipeline's source, each at its time.

    The pipeline paces: its sinks hold each picture until its time has come, and a source asks for the next one then.

    Concurrency: the source's thread asks; `resume` may be called from any.

    Args:
        camera: what is played.
        part: which of its streams.
        source: the element of `SOURCE`, not started.
    """

    def __init__(self, camera: PlayedCamera, part: Part, source: Any) -> None:  # noqa: ANN401 - GStreamer has no types
        self._camera = camera
        self._part = part
        self._source = source
        self._lock = threading.Lock()
        self._waiting = False
        self._clip = camera.clip(part)
        self._number = 0
        self._offset_ns = 0
        source.set_property("caps", Gst.Caps.from_string(_CAPS[self._clip.codec]))
        self._seek()
        source.connect("need-data", self._on_need)

    def _seek(self) -> None:
        """Go to where the camera is now: to the last keyframe, which is shown at once."""
        self._number = self._clip.begin(self._camera.now_ns)
        running_ns = int(self._source.get_current_running_time())
        if running_ns == Gst.CLOCK_TIME_NONE:  # it has not begun
            running_ns = 0
        unit, round_ns = self._clip.unit(self._number)
        self._offset_ns = running_ns - (round_ns + unit.dts_ns)

    def _on_need(self, _source: object, _size_bytes: int) -> None:
        with self._lock:
            if self._camera.fault == "freeze":
                self._waiting = True
            else:
                self._push()

    def resume(self) -> None:
        """Go on after a freeze, with what the camera sees now."""
        with self._lock:
            if self._waiting:
                self._waiting = False
                self._seek()
                self._push()

    def _push(self) -> None:
        clip = self._camera.clip(self._part)
        # A clip in another codec is for who connects next: this one's caps cannot change.
        if clip is not self._clip and clip.codec == self._clip.codec:
            self._clip = clip
            self._seek()
        unit, round_ns = self._clip.unit(self._number)
        buffer = Gst.Buffer.new_wrapped(unit.content)
        buffer.pts = self._offset_ns + round_ns + unit.pts_ns
        buffer.dts = self._offset_ns + round_ns + unit.dts_ns
        self._number += 1
        self._source.push_buffer(buffer)
