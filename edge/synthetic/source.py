"""A scene drawn by code as a source: pictures at their own pace, from a clock that is passed in."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Generator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from config.clock import Clock
from edge.picture import Picture, Retouch, reduced_size
from edge.source import LUMA_HEIGHT_PX, CapturedFrame, Pacer
from edge.synthetic.scenes import open_scene
from edge.synthetic.street import encode_jpeg, luma_thumbnail
from edge.uris import SyntheticUri

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SyntheticSource"]


class SyntheticSource:
    """Draws a scene.

    The picture with number `seq` shows the scene at ``seq / fps`` seconds, also when earlier ones were dropped as late,
    so a test that knows the seed knows where everybody is.

    Args:
        uri: what to draw.
        clock: how to wait, and what time it is.
    """

    gives_packets = False

    def __init__(self, uri: SyntheticUri, *, clock: Clock) -> None:
        self._uri = uri
        self._clock = clock
        self._scene = open_scene(uri, uri.width_px, uri.height_px)

    def frames(self, stop: threading.Event) -> Generator[CapturedFrame, None, None]:
        """Pictures without end, until `stop` is set."""
        pacer = Pacer(self._clock)
        period_s = 1.0 / self._uri.fps
        for seq in itertools.count():
            at_s = seq * period_s
            due = self._uri.pace == "max" or pacer.wait_due(stop, at_s, period_s)
            if stop.is_set():
                return
            if due:
                yield self._draw(seq, at_s)

    def _draw(self, seq: int, at_s: float) -> CapturedFrame:
        picture = self._scene.picture(at_s)
        return CapturedFrame(
            seq=seq,
            captured_at=self._clock.now(),
            at_s=at_s,
            luma=luma_thumbnail(picture, height_px=LUMA_HEIGHT_PX),
            width_px=self._uri.width_px,
            height_px=self._uri.height_px,
            encode=partial(_encode, picture),
            picture=partial(_i420, picture),
        )

    def keyframes_only(self, *, only: bool) -> None:
        """Nothing changes: what is drawn has no keyframes."""

    def close(self) -> None:
        """Nothing to let go."""


def _i420(rgb: NDArray[np.uint8]) -> Picture:
    """The same picture as brightness and colour differences, full range as JPEG has them."""
    y, u, v = Image.fromarray(rgb).convert("YCbCr").split()
    return Picture(np.array(y), np.array(u.reduce(2)), np.array(v.reduce(2)), full_range=True)


def _rgb(picture: Picture) -> NDArray[np.uint8]:
    height, width = picture.y.shape
    # Whole pixels: a soft transition would carry colours from beside a mask into it.
    planes = [
        Image.fromarray(plane).resize((width, height), Image.Resampling.NEAREST)
        for plane in (picture.y, picture.u, picture.v)
    ]
    return np.asarray(Image.merge("YCbCr", planes).convert("RGB"))


def _encode(
    rgb: NDArray[np.uint8], quality: int, *, height_px: int | None = None, retouch: Retouch | None = None
) -> bytes:
    if retouch is not None:
        picture = _i420(rgb)
        retouch(picture)
        rgb = _rgb(picture)
    height, width = rgb.shape[:2]
    size_px = reduced_size(width, height, height_px)
    if size_px != (width, height):
        rgb = np.asarray(Image.fromarray(rgb).resize(size_px, Image.Resampling.BILINEAR))
    return encode_jpeg(rgb, quality)
