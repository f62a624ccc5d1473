"""Pictures into coded pictures, for cameras whose own stream does not exist or must not be kept."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any

from edge.gst.elements import Gst, rank_of, require_elements
from edge.gst.pixels import sample_of
from edge.picture import Packet, Picture

__all__ = ["Recoder"]

_KEYFRAME_EVERY_S = 2.0
_WAITING_PICTURES_MAX = 4
_SOFTWARE = "x264enc tune=zerolatency speed-preset=ultrafast threads=1 pass=qual quantizer=26 key-int-max=300"
# Before the level is set, some versions of the driver refuse to start. Source: raspberrypi/linux, issue 3519.
_HARDWARE = (
    'v4l2h264enc extra-controls="controls,repeat_sequence_header=1,video_bitrate=4000000" '
    "! video/x-h264,level=(string)4"
)
_ENCODE = (
    "appsrc name=in format=time block=false is-live=true ! {encoder} ! h264parse config-interval=-1 "
    "! video/x-h264,stream-format=byte-stream,alignment=au ! appsink name=out async=false sync=false emit-signals=true"
)


class Recoder:
    """Encodes pictures of one size as H.264.

    Concurrency: `take`, `accepts` and `close` take turns; `on_packet` is called on the encoder's thread.

    Args:
        first: decides the size; it is not encoded by this.
        on_packet: takes each coded picture; must not wait.

    Raises:
        PermanentError: there is no H.264 encoder.
    """

    def __init__(self, first: Picture, on_packet: Callable[[Packet], None]) -> None:
        self._size_px = _size_px(first)
        self._full_range = first.full_range
        self._on_packet = on_packet
        self._lock = threading.Lock()
        self._waiting: dict[int, tuple[datetime, float]] = {}
        self._start_s: float | None = None
        self._last_ns = -1
        self._keyframe_s = float("-inf")
        self._pipeline = Gst.parse_launch(_ENCODE.format(encoder=_encoder()))
        self._source = self._pipeline.get_by_name("in")
        self._caps = Gst.Caps.from_string(_caps(self._size_px, full_range=self._full_range))
        self._source.set_property("caps", self._caps)
        self._out = self._pipeline.get_by_name("out")
        self._taking: int | None = self._out.connect("new-sample", self._on_sample)
        self._pipeline.set_state(Gst.State.PLAYING)

    def accepts(self, picture: Picture) -> bool:
        """Whether a picture has the size and the range of the first."""
        return _size_px(picture) == self._size_px and picture.full_range == self._full_range

    def take(self, picture: Picture, *, at: datetime, at_s: float) -> bool:
        """Encode the next picture.

        Args:
            picture: it; it may be changed when this returns.
            at: when it was taken; aware.
            at_s: the same on the source's own time line, seconds.

        Returns:
            False when the encoder is behind, and the picture was left out.
        """
        with self._lock:
            if len(self._waiting) >= _WAITING_PICTURES_MAX:
                return False
            next_s = (self._last_ns + 1) / Gst.SECOND
            if self._start_s is None or at_s - self._start_s < next_s:  # the source was opened anew
                self._start_s = at_s - next_s
            stamp_ns = max(self._last_ns + 1, round((at_s - self._start_s) * Gst.SECOND))
            self._waiting[stamp_ns] = (at, at_s)
            self._last_ns = stamp_ns
        self._ask_keyframe(at_s)
        buffer = sample_of(_even(picture), self._caps).get_buffer()
        buffer.pts = stamp_ns
        self._source.push_buffer(buffer)
        return True

    def close(self) -> None:
        """Stop; what is inside the encoder is lost. May be called twice."""
        self._pipeline.set_state(Gst.State.NULL)
        if self._taking is not None:  # it holds this object, which holds the pipeline: neither would ever be freed
            self._out.disconnect(self._taking)
            self._taking = None

    def _ask_keyframe(self, at_s: float) -> None:
        """By time, not by count: pictures come at any rate, and a clip begins with a keyframe."""
        if not 0 <= at_s - self._keyframe_s < _KEYFRAME_EVERY_S:
            self._keyframe_s = at_s
            wish = Gst.Structure.new_from_string("GstForceKeyUnit, all-headers=(boolean)true")
            self._out.get_static_pad("sink").push_event(Gst.Event.new_custom(Gst.EventType.CUSTOM_UPSTREAM, wish))

    def _on_sample(self, sink: Any) -> Any:  # noqa: ANN401 - GStreamer has no types
        sample = sink.emit("pull-sample")
        buffer = sample.get_buffer()
        # x264enc starts at 1,000 hours, so that no time is negative, and says so in the segment.
        stamp_ns = sample.get_segment().to_running_time(Gst.Format.TIME, buffer.pts)
        with self._lock:
            taken = self._waiting.pop(stamp_ns, None)
        if taken is not None:
            self._on_packet(
                Packet(
                    sample=sample,
                    at=taken[0],
                    at_s=taken[1],
                    keyframe=not buffer.has_flags(Gst.BufferFlags.DELTA_UNIT),
                    size_bytes=buffer.get_size(),
                )
            )
        return Gst.FlowReturn.OK


def _encoder() -> str:
    if rank_of("v4l2h264enc") is not None:
        return _HARDWARE
    require_elements(["x264enc", "h264parse"])
    return _SOFTWARE


def _size_px(picture: Picture) -> tuple[int, int]:
    """Width and height, even: a coded picture has no half colour."""
    height, width = picture.y.shape
    return width & ~1, height & ~1


def _caps(size_px: tuple[int, int], *, full_range: bool) -> str:
    colours = "1:4:0:0" if full_range else "bt601"
    width, height = size_px
    return f"video/x-raw,format=I420,width={width},height={height},framerate=0/1,colorimetry={colours}"


def _even(picture: Picture) -> Picture:
    width, height = _size_px(picture)
    half = (slice(height // 2), slice(width // 2))
    return Picture(picture.y[:height, :width], picture.u[half], picture.v[half], full_range=picture.full_range)
