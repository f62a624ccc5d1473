"""From a frame as it came to what the model takes: decoded no larger than needed, cut, made to fit."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from broker import Bus
from broker.messages import FrameMeta
from config import BadPayloadError, Clock, get_logger
from detector.flow import Arrival, Readable
from detector.pictures import read_picture
from detector.regions import Region
from detector.slot import BackendSlot
from detector.tallies import Tallies

__all__ = ["PlanParts", "Preparer"]

_HANDS_MAX = 4
"""Threads that decode: each does some 900 frames a second of 480x360, and the model's own threads want the rest."""


class PlanParts(Protocol):
    """Chooses the parts of a frame that are worth a closer look."""

    def __call__(self, meta: FrameMeta, input_px: tuple[int, int]) -> tuple[Region, ...]:
        """Choose.

        Args:
            meta: of the frame.
            input_px: width and height that the model looks at.
        """
        ...


class Preparer:
    """Makes frames ready for the model in use; what is too old or no picture is left out and counted.

    Concurrency: `prepare` is called from one thread, and works on several frames at a time; `is_fresh` from any.

    Args:
        bus: hears of what is no picture.
        slot: the model in use.
        plan: chooses parts.
        tallies: counts what is too old.
        age_max_s: frames that are older are left out.
        clock: time.
    """

    def __init__(
        self, bus: Bus, slot: BackendSlot, plan: PlanParts, tallies: Tallies, *, age_max_s: float, clock: Clock
    ) -> None:
        self._bus = bus
        self._slot = slot
        self._plan = plan
        self._tallies = tallies
        self._age_max_s = age_max_s
        self._clock = clock
        self._log = get_logger(origin=bus.origin)
        hands = max(1, min(_HANDS_MAX, (os.cpu_count() or 1) // 2))
        self._pool = ThreadPoolExecutor(hands, "decodes") if hands > 1 else None

    def prepare(self, arrivals: Sequence[Arrival]) -> Iterator[Readable]:
        """Make frames ready, in their order, each as soon as it is."""
        fresh = [arrival for arrival in arrivals if self.is_fresh(arrival)]
        done = map(self._read, fresh) if self._pool is None or len(fresh) == 1 else self._pool.map(self._read, fresh)
        return (readable for readable in done if readable is not None)

    def close(self) -> None:
        """End the threads that decode."""
        if self._pool is not None:
            self._pool.shutdown()

    def is_fresh(self, arrival: Arrival) -> bool:
        """Whether a frame is still worth scoring; counted when not."""
        meta, age_s = arrival.frame.meta, arrival.age_s(self._clock.monotonic_s())
        if age_s <= arrival.age_max_s(self._age_max_s):
            return True
        self._tallies.late(meta.camera)
        self._log.warning("frame.stale", camera=meta.camera, seq=meta.seq, age_s=round(age_s, 2))
        return False

    def _read(self, arrival: Arrival) -> Readable | None:
        backend = self._slot.current
        regions = self._plan(arrival.frame.meta, backend.input_px)
        try:
            # A part is looked at as closely as the frame allows, so then nothing of it may be left out.
            picture = read_picture(arrival.frame, None if regions else backend.input_px)
        except BadPayloadError as error:
            self._bus.reject(arrival.topic, error.reason, error.size_bytes)
            return None
        return Readable(
            arrival,
            backend,
            size_px=(picture.shape[1], picture.shape[0]),
            whole=backend.prepare(picture),
            regions=regions,
            parts=tuple(backend.prepare(region.cut(picture)) for region in regions),
            picture=picture if picture.shape[1::-1] == (arrival.frame.meta.width, arrival.frame.meta.height) else None,
        )
