"""Which numbers of a gapless sequence have been seen: a set of ranges that stays small while nothing is missing."""

from __future__ import annotations

from bisect import bisect_right

__all__ = ["SequenceSet"]


class SequenceSet:
    """Numbers from 1 up, as ranges.

    Adding in order costs one step; a number out of order costs a search.

    Args:
        ranges_max: ranges that are kept; beyond it the lowest gap counts as filled. None keeps all.
    """

    def __init__(self, ranges_max: int | None = None) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        self._ranges_max = ranges_max
        self._count = 0

    def add(self, number: int) -> bool:
        """Note a number; False when it was there already."""
        at = bisect_right(self._firsts, number) - 1
        if at >= 0 and number <= self._lasts[at]:
            return False
        self._count += 1
        joins_left = at >= 0 and self._lasts[at] == number - 1
        joins_right = at + 1 < len(self._firsts) and self._firsts[at + 1] == number + 1
        if joins_left and joins_right:
            self._close_gap(at)
        elif joins_left:
            self._lasts[at] = number
        elif joins_right:
            self._firsts[at + 1] = number
        else:
            self._firsts.insert(at + 1, number)
            self._lasts.insert(at + 1, number)
            self._limit()
        return True

    def _close_gap(self, at: int) -> None:
        self._lasts[at] = self._lasts.pop(at + 1)
        del self._firsts[at + 1]

    def _limit(self) -> None:
        if self._ranges_max is not None and len(self._firsts) > self._ranges_max:
            self._count += self._firsts[1] - self._lasts[0] - 1
            self._close_gap(0)

    @property
    def count(self) -> int:
        """How many different numbers there are."""
        return self._count

    @property
    def highest(self) -> int:
        """The highest; 0 when there is none."""
        return self._lasts[-1] if self._lasts else 0

    @property
    def gaps(self) -> int:
        """How many numbers are missing between the lowest and the highest."""
        return self._lasts[-1] - self._firsts[0] + 1 - self._count if self._firsts else 0

    def missing(self, up_to: int) -> list[tuple[int, int]]:
        """The ranges, first and last included, of what is missing from 1 to `up_to`."""
        ranges: list[tuple[int, int]] = []
        expected = 1
        for first, last in zip(self._firsts, self._lasts, strict=True):
            if first > up_to:
                break
            if first > expected:
                ranges.append((expected, first - 1))
            expected = last + 1
        if expected <= up_to:
            ranges.append((expected, up_to))
        return ranges
