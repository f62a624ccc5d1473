"""The worker's intake: the latest frame of each camera, and no other."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["LatestMailbox"]

Item = TypeVar("Item")

BYTES_MAX = 256_000_000
"""What may wait by default: about 500 cameras at 4K and quality 80."""


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[Item]):
    item: Item
    size_bytes: int


class LatestMailbox(Generic[Item]):
    """Holds the newest item of each camera; an older one that was not taken is dropped and counted.

    A camera keeps its place in the line when its item is replaced, so that a fast camera never overtakes a slow
    one. When everything together is more than `bytes_max`, the items that wait longest make way.

    Concurrency: `put` never blocks and may be called from any thread; so may everything else.

    Args:
        bytes_max: the most bytes that wait at one time.
    """

    def __init__(self, *, bytes_max: int = BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._ready = threading.Condition()
        # Insertion order is the line: replacing a value keeps the key's place, taking it gives the place up.
        self._waiting: dict[str, _Waiting[Item]] = {}
        self._bytes = 0
        self._dropped: Counter[str] = Counter()
        self._closed = False

    def put(self, camera: str, item: Item, size_bytes: int) -> None:
        """Leave an item in the place of the camera's older one; ignored after `close`.

        Args:
            camera: whose item it is.
            item: what `take` returns.
            size_bytes: what it counts against `bytes_max`.
        """
        with self._ready:
            if self._closed:
                return
            replaced = self._waiting.get(camera)
            self._waiting[camera] = _Waiting(item, size_bytes)
            self._bytes += size_bytes
            if replaced is not None:
                self._bytes -= replaced.size_bytes
                self._dropped[camera] += 1
            while self._bytes > self._bytes_max and len(self._waiting) > 1:
                self._drop_first(spare=camera)
            self._ready.notify()

    def _drop_first(self, *, spare: str) -> None:
        first = next(camera for camera in self._waiting if camera != spare)
        self._bytes -= self._waiting.pop(first).size_bytes
        self._dropped[first] += 1

    def take(self, batch_max: int, timeout_s: float) -> list[Item]:
        """Take the items of several cameras, the camera that waits longest first.

        Args:
            batch_max: at most so many, one a camera.
            timeout_s: how long to wait for the first.

        Returns:
            The items; none when the time passed or the mailbox was closed.
        """
        with self._ready:
            self._ready.wait_for(lambda: self._waiting or self._closed, timeout_s)
            cameras = list(self._waiting)[:batch_max]
            taken = [self._waiting.pop(camera) for camera in cameras]
            self._bytes -= sum(waiting.size_bytes for waiting in taken)
            return [waiting.item for waiting in taken]

    def close(self) -> None:
        """Take nothing more in and wake whoever waits; what is there can still be taken."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()

    def __len__(self) -> int:
        """Items that wait."""
        with self._ready:
            return len(self._waiting)

    def dropped(self) -> Counter[str]:
        """Items dropped so far, by camera."""
        with self._ready:
            return self._dropped.copy()
