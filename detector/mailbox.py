"""What threads of the worker hand to each other: the latest frame of each camera, and a short line that never grows."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from config import Clock, SystemClock

__all__ = ["LatestMailbox", "WaitingLine"]

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
    one. Cameras that are preferred for a while come first, but not before those whose last turn was so long ago that
    they would get less than `min_rate_fps`. When everything together is more than `bytes_max`, the items that wait
    longest make way.

    Concurrency: `put` never blocks and may be called from any thread; so may everything else.

    Args:
        min_rate_fps: turns a second that a camera gets whoever is preferred, as far as there are so many.
        clock: time.
        bytes_max: the most bytes that wait at one time.
    """

    def __init__(self, *, min_rate_fps: float = 0.5, clock: Clock | None = None, bytes_max: int = BYTES_MAX) -> None:
        self._turn_every_s = 1 / min_rate_fps
        self._clock: Clock = clock or SystemClock()
        self._bytes_max = bytes_max
        self._ready = threading.Condition()
        # Insertion order is the line: replacing a value keeps the key's place, taking it gives the place up.
        self._waiting: dict[str, _Waiting[Item]] = {}
        self._preferred_until_s: dict[str, float] = {}
        self._last_turn_s: dict[str, float] = {}
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

    def prefer(self, camera: str, for_s: float) -> None:
        """Let a camera come first for some seconds from now on."""
        with self._ready:
            self._preferred_until_s[camera] = self._clock.monotonic_s() + for_s

    def take(self, most: int, timeout_s: float) -> list[Item]:
        """Take the items of several cameras, the camera that waits longest first.

        Args:
            most: at most so many, one a camera.
            timeout_s: how long to wait for the first.

        Returns:
            The items; none when the time passed or the mailbox was closed.
        """
        with self._ready:
            self._ready.wait_for(lambda: self._waiting or self._closed, timeout_s)
            now_s = self._clock.monotonic_s()
            cameras = self._line(now_s)[:most]
            taken = [self._waiting.pop(camera) for camera in cameras]
            self._last_turn_s.update(dict.fromkeys(cameras, now_s))
            self._bytes -= sum(waiting.size_bytes for waiting in taken)
            return [waiting.item for waiting in taken]

    def _line(self, now_s: float) -> list[str]:
        """Who comes first, next, last."""
        self._preferred_until_s = {camera: s for camera, s in self._preferred_until_s.items() if s > now_s}
        if not self._preferred_until_s:
            return list(self._waiting)
        overdue_s = now_s - self._turn_every_s

        def rank(camera: str) -> int:
            if self._last_turn_s.get(camera, float("-inf")) <= overdue_s:
                return 0
            return 1 if camera in self._preferred_until_s else 2

        return sorted(self._waiting, key=rank)  # of one rank, the longest waiting stays first

    def close(self) -> None:
        """Take nothing more in and wake whoever waits; what is there can still be taken."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()

    @property
    def is_over(self) -> bool:
        """Whether it is closed and nothing waits any more."""
        with self._ready:
            return self._closed and not self._waiting

    def __len__(self) -> int:
        """Items that wait."""
        with self._ready:
            return len(self._waiting)

    def dropped(self) -> Counter[str]:
        """Items dropped so far, by camera."""
        with self._ready:
            return self._dropped.copy()


class WaitingLine(Generic[Item]):
    """A line between two threads with little room: whoever fills it waits for room before making more.

    So what waits in it is never old, and the thread behind it never without work while there is some.

    Concurrency: one thread fills it, and ends it; one empties it; the rest may be called from any.
    """

    def __init__(self) -> None:
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def wait_room(self, room: int, timeout_s: float) -> int:
        """Wait until fewer than `room` items wait.

        Returns:
            How many more may come; 0 when the time passed.
        """
        with self._changed:
            self._changed.wait_for(lambda: len(self._items) < room, timeout_s)
            return max(0, room - len(self._items))

    def put(self, item: Item) -> None:
        """Stand in the line; after `wait_room`."""
        with self._changed:
            self._items.append(item)
            self._changed.notify_all()

    def take(self, choose: Callable[[Sequence[Item]], int], timeout_s: float) -> list[Item]:
        """Take the first ones.

        Args:
            choose: told all that wait, at least one, says how many are taken.
            timeout_s: how long to wait for the first.

        Returns:
            The items; none when the time passed, or nothing comes any more.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._closed, timeout_s)
            count = choose(tuple(self._items)) if self._items else 0
            taken = [self._items.popleft() for _ in range(count)]
            self._changed.notify_all()
            return taken

    def close(self) -> None:
        """Nothing comes any more; what is there can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def is_over(self) -> bool:
        """Whether it is closed and nothing waits any more."""
        with self._changed:
            return self._closed and not self._items

    def __len__(self) -> int:
        """Items that wait."""
        return len(self._items)
