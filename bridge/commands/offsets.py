"""How far a topic is done with, where answers come in any order. Pure."""

from __future__ import annotations

from collections import deque

__all__ = ["Offsets"]

_Partition = tuple[str, int]


class Offsets:
    """Records that were taken, and those of them that are done with.

    What is done with counts once everything before it in its partition is: who goes on from there misses nothing.
    """

    def __init__(self) -> None:
        self._taken: dict[_Partition, deque[int]] = {}
        self._done: dict[_Partition, set[int]] = {}

    def take(self, topic: str, partition: int, offset: int) -> None:
        """A record was read."""
        self._taken.setdefault((topic, partition), deque()).append(offset)

    def finish(self, topic: str, partition: int, offset: int) -> int | None:
        """A record is done with.

        Returns:
            The offset from which to go on after a restart; None where that has not changed.
        """
        taken = self._taken.get((topic, partition))
        if not taken or offset not in taken:
            return None
        done = self._done.setdefault((topic, partition), set())
        done.add(offset)
        upto = None
        while taken and taken[0] in done:
            upto = taken.popleft()
            done.discard(upto)
        return None if upto is None else upto + 1

    def lose(self, topic: str, partition: int) -> None:
        """A partition is somebody else's now."""
        self._taken.pop((topic, partition), None)
        self._done.pop((topic, partition), None)
