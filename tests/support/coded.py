"""Coded pictures that carry their number, and an independent reader of it.

The number is painted as bits, each a large block, black or white: it survives any encoder. GStreamer encodes; FFmpeg,
inside OpenCV, decodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.picture import Packet, Picture

__all__ = ["START", "coded_pictures", "numbered_luma", "numbered_picture", "picture_count", "read_numbers"]

START = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
_BITS = 16
_BLOCK_PX = 20
_SIZE_PX = (_BITS * _BLOCK_PX, 2 * _BLOCK_PX)


def numbered_luma(number: int, size_px: tuple[int, int] = _SIZE_PX) -> NDArray[np.uint8]:
    """A picture's brightness, uint8 [h, w], with its number in the first row of blocks."""
    luma = np.full(size_px[::-1], 120, np.uint8)
    for bit in range(_BITS):
        luma[:_BLOCK_PX, bit * _BLOCK_PX : (bit + 1) * _BLOCK_PX] = 235 if number >> bit & 1 else 16
    return luma


def numbered_picture(number: int, size_px: tuple[int, int] = _SIZE_PX) -> Picture:
    """The same as a picture without colour."""
    width, height = size_px
    grey = np.full((height // 2, width // 2), 128, np.uint8)
    return Picture(numbered_luma(number, size_px), grey, grey.copy())


def coded_pictures(
    count: int,
    *,
    fps: float = 10.0,
    group: int = 10,
    first: int = 0,
    start: datetime = START,
    at_s: float = 100.0,
    size_px: tuple[int, int] = _SIZE_PX,
) -> list[Packet]:
    """Coded pictures of H.264, as a camera gives them.

    Args:
        count: how many.
        fps: how many a second.
        group: a keyframe every so many.
        first: the first one's number.
        start: when it arrived.
        at_s: its time on the camera's own time line.
        size_px: width and height; the width at least 320.
    """
    samples = _encode(first, count, group, size_px)
    return [
        Packet(
            sample=sample,
            at=start + timedelta(seconds=index / fps),
            at_s=at_s + index / fps,
            keyframe=index % group == 0,
            size_bytes=sample.get_buffer().get_size(),
        )
        for index, sample in enumerate(samples)
    ]


@cache
def _encode(first: int, count: int, group: int, size_px: tuple[int, int]) -> Sequence[Any]:
    import gi

    gi.require_version("Gst", "1.0")
    gi.require_version("GstApp", "1.0")
    from gi.repository import Gst, GstApp  # noqa: F401 - importing GstApp gives the application sinks their methods

    Gst.init(None)
    width, height = size_px
    pipeline = Gst.parse_launch(
        "appsrc name=in format=time ! videoconvert ! video/x-raw,format=I420 ! x264enc tune=zerolatency "
        f"speed-preset=ultrafast threads=1 key-int-max={group} option-string=scenecut=0 "
        "! h264parse config-interval=-1 ! video/x-h264,stream-format=byte-stream,alignment=au "
        "! appsink name=out sync=false"
    )
    source, sink = pipeline.get_by_name("in"), pipeline.get_by_name("out")
    caps = f"video/x-raw,format=GRAY8,width={width},height={height},framerate=10/1"
    source.set_property("caps", Gst.Caps.from_string(caps))
    pipeline.set_state(Gst.State.PLAYING)
    try:
        for index in range(count):
            buffer = Gst.Buffer.new_wrapped(numbered_luma(first + index, size_px).tobytes())
            buffer.pts = index * Gst.SECOND // 10
            source.push_buffer(buffer)
        source.end_of_stream()
        samples = [sink.try_pull_sample(10 * Gst.SECOND) for _ in range(count)]
    finally:
        pipeline.set_state(Gst.State.NULL)
    assert all(samples), "x264enc gave too few pictures"
    return samples


def read_numbers(path: Path) -> list[int]:
    """The numbers of all pictures of a file in the order in which a player shows them."""
    video = cv2.VideoCapture(str(path))
    numbers = []
    try:
        while (read := video.read())[0]:
            centres = np.asarray(read[1])[_BLOCK_PX // 2, _BLOCK_PX // 2 :: _BLOCK_PX, 1][:_BITS]
            numbers.append(sum(1 << bit for bit, value in enumerate(centres) if value > 128))
    finally:
        video.release()
    return numbers


def picture_count(path: Path) -> int:
    """How many pictures of a file can be decoded."""
    video = cv2.VideoCapture(str(path))
    try:
        count = 0
        while video.grab():
            count += 1
        return count
    finally:
        video.release()
