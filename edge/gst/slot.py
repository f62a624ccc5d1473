"""Where a picture waits on its way from GStreamer's thread to the camera's."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

__all__ = ["Slot"]

_Item = TypeVar("_Item")


class Slot(Generic[_Item]):
    """Room for one: a newer one takes the place of the one that waits, or waits in turn.

    Concurrency: any thread may call any method.

    Args:
        keeps_all: whether `put` waits until there is room, instead of taking the older one's place.
    """

    def __init__(self, *, keeps_all: bool) -> None:
        self._keeps_all = keeps_all
        self._changed = threading.Condition()
        self._item: _Item | None = None
        self._closed = False

    def put(self, item: _Item) -> None:
        """Leave one there; in vain when it is closed."""
        with self._changed:
            if self._keeps_all:
                self._changed.wait_for(lambda: self._item is None or self._closed)
            if not self._closed:
                self._item = item
                self._changed.notify_all()

    def take(self, timeout_s: float) -> _Item | None:
        """Take the one that is there; None when none comes in time."""
        with self._changed:
            self._changed.wait_for(lambda: self._item is not None or self._closed, timeout_s)
            item, self._item = self._item, None
            self._changed.notify_all()
            return item

    def close(self) -> None:
        """Let everybody go who waits; nobody waits any more."""
        with self._changed:
            self._closed, self._item = True, None
            self._changed.notify_all()
