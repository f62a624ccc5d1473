"""A picture of a camera, taken now: asked of its node, and waited for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from broker import Bus, Delivery, Frame
from broker.topics import CAMERA_SNAPSHOT
from config import Clock, TransientError
from fleet.schedules.orders import CameraOrders

__all__ = ["Photographer"]


class _Wait:
    """What comes while somebody waits."""

    def __init__(self) -> None:
        self.kept: Frame | None = None
        self.fresh: Frame | None = None
        self.news = threading.Condition()


class Photographer:
    """Has cameras take snapshots.

    Concurrency: may be used from any thread; each camera by one at a time, the others wait.

    Args:
        bus: to listen on.
        orders: to ask with.
        clock: time.
    """

    def __init__(self, bus: Bus, orders: CameraOrders, clock: Clock) -> None:
        self._bus = bus
        self._orders = orders
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: dict[str, _Wait] = {}
        self._turns: dict[str, threading.Lock] = {}

    def take(self, camera: str, wait_s: float) -> Frame:
        """A picture that was taken after this was called.

        Args:
            camera: whose.
            wait_s: how long to wait for it.

        Raises:
            PermanentError: its node refuses; the message says why.
            TransientError: none comes.
        """
        with self._listening(camera) as wait:
            end_s = self._clock.monotonic_s() + wait_s
            self._orders.set(camera, "snapshot", "now", wait_s)
            with wait.news:
                wait.news.wait_for(lambda: wait.fresh is not None, max(0.0, end_s - self._clock.monotonic_s()))
                if wait.fresh is not None:
                    return wait.fresh
        raise TransientError(f"no fresh picture came within {wait_s:g} s")

    def kept(self, camera: str, wait_s: float = 1.0) -> Frame | None:
        """The last picture that the broker keeps; None where none comes."""
        with self._listening(camera) as wait, wait.news:
            wait.news.wait_for(lambda: wait.kept is not None, wait_s)
            return wait.kept

    @contextmanager
    def _listening(self, camera: str) -> Iterator[_Wait]:
        wait = _Wait()
        with self._lock:
            turn = self._turns.setdefault(camera, threading.Lock())
        with turn:
            with self._lock:
                self._waiting[camera] = wait
            # Only while somebody waits: a site's snapshots on a schedule of their own are none of our business.
            self._bus.subscribe(CAMERA_SNAPSHOT, self._on_picture, camera=camera)
            try:
                yield wait
            finally:
                self._bus.unsubscribe(CAMERA_SNAPSHOT, camera=camera)
                with self._lock:
                    del self._waiting[camera]

    def _on_picture(self, delivery: Delivery) -> None:
        frame = delivery.content
        with self._lock:
            wait = self._waiting.get(delivery.topic.camera)
        if wait is None or not isinstance(frame, Frame):
            return
        with wait.news:
            if delivery.retained:
                wait.kept = frame
            # By the camera's own clock, which may be wrong: it only has to go on.
            elif wait.kept is None or frame.meta.captured_at != wait.kept.meta.captured_at:
                wait.fresh = frame
            wait.news.notify_all()
