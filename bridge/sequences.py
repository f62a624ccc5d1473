"""Which numbers of a gapless sequence have been seen: a set of ranges that stays small while nothing is missing."""

from __future__ import annotations

from bisect import bisect_right

__all__ = ["SequenceSet"]


class SequenceSet:
    """Numbers from 1 up, as ranges.

    Adding in order costs one step; a number out of order costs a search.
    """

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []

    def __contains__(self, number: int) -> bool:
        """Whether a number is there."""
        at = bisect_right(self._firsts, number) - 1
        return at >= 0 and number <= self._lasts[at]

    def add(self, number: int) -> bool:
        """Note a number; False when it was there already."""
        at = bisect_right(self._firsts, number) - 1
        if at >= 0 and number <= self._lasts[at]:
            return False
        self._insert(at + 1, number, number)
        return True

    def fill(self, first: int, last: int) -> int:
        """Note every number from `first` to `last`, both included.

        Returns:
            How many of them were not there.
        """
        holes = self.missing(last, first)
        for hole_first, hole_last in holes:
            self._insert(bisect_right(self._firsts, hole_first), hole_first, hole_last)
        return sum(hole_last - hole_first + 1 for hole_first, hole_last in holes)

    def _insert(self, at: int, first: int, last: int) -> None:
        """Put a range, of which nothing is there, before the range at `at`."""
        joins_left = at > 0 and self._lasts[at - 1] == first - 1
        joins_right = at < len(self._firsts) and self._firsts[at] == last + 1
        if joins_left and joins_right:
            self._lasts[at - 1] = self._lasts.pop(at)
            del self._firsts[at]
        elif joins_left:
            self._lasts[at - 1] = last
        elif joins_right:
            self._firsts[at] = first
        else:
            self._firsts.insert(at, first)
            self._lasts.insert(at, last)

    @property
    def highest(self) -> int:
        """The highest; 0 when there is none."""
        return self._lasts[-1] if self._lasts else 0

    def ranges(self) -> list[tuple[int, int]]:
        """All of them, first and last included, in order."""
        return list(zip(self._firsts, self._lasts, strict=True))

    def missing(self, up_to: int, expected: int = 1) -> list[tuple[int, int]]:
        """The ranges, first and last included, of what is missing from `expected` to `up_to`."""
        ranges: list[tuple[int, int]] = []
        at = max(0, bisect_right(self._firsts, expected) - 1)
        for first, last in zip(self._firsts[at:], self._lasts[at:], strict=True):
            if first > up_to:
                break
            if first > expected:
                ranges.append((expected, first - 1))
            expected = max(expected, last + 1)
        if expected <= up_to:
            ranges.append((expected, up_to))
        return ranges
