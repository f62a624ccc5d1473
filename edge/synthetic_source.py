"""The synthetic street as a source: pictures at their own pace, from a clock that is passed in."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Generator
from functools import partial

from config.clock import Clock
from edge.source import LUMA_HEIGHT_PX, CapturedFrame, Pacer, SyntheticUri
from edge.synthetic import SyntheticStreet, encode_jpeg, luma_thumbnail

__all__ = ["SyntheticSource"]


class SyntheticSource:
    """Draws a street.

    The picture with number `seq` shows the scene at ``seq / fps`` seconds, also when earlier ones were dropped as late,
    so a test that knows the seed knows where everybody is.

    Args:
        uri: what to draw.
        clock: how to wait, and what time it is.
    """

    def __init__(self, uri: SyntheticUri, *, clock: Clock) -> None:
        self._uri = uri
        self._clock = clock
        self._street = SyntheticStreet(seed=uri.seed, width_px=uri.width_px, height_px=uri.height_px)

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
        picture = self._street.picture(at_s)
        return CapturedFrame(
            seq=seq,
            captured_at=self._clock.now(),
            at_s=at_s,
            luma=luma_thumbnail(picture, height_px=LUMA_HEIGHT_PX),
            width_px=self._uri.width_px,
            height_px=self._uri.height_px,
            encode=partial(encode_jpeg, picture),
        )

    def close(self) -> None:
        """Nothing to let go."""
