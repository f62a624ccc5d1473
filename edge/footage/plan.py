"""Which pictures go into which file: no I/O, no clock."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge.picture import Packet

__all__ = ["SILENCE_S", "PreRoll", "SegmentPlan", "SegmentStep"]

SILENCE_S = 5.0
"""A longer silence of the stream ends a segment; within one it shows as a picture that stands still."""
_DRIFT_MAX_S = 0.5
"""Arrival jitters by less; a camera's clock that drifts further from the node's is set right with the next segment."""
_CLOCK_STEP_S = 2.0
"""The node's clock was set: what follows gets a segment with the right time."""
_HELD_BYTES_MAX = 64_000_000
"""Of a pre-roll: 60 s of an 8 Mbit/s stream."""


class SegmentStep(Enum):
    """What becomes of a coded picture."""

    DROP = "drop"
    """Nothing: no decoder could begin with it."""
    BEGIN = "begin"
    """A new segment begins with it; one that is open ends."""
    WRITE = "write"
    """It goes into the open segment."""
    END = "end"
    """The open segment ends, and nothing is written before the next keyframe."""


@dataclass(slots=True)
class SegmentPlan:
    """Cuts a stream into segments, at keyframes.

    Args:
        segment_s: length of one; it ends with the next keyframe.
    """

    segment_s: float
    _starts_at: datetime | None = None
    _start_s: float = 0.0
    _last_s: float = 0.0

    @property
    def starts_at(self) -> datetime:
        """Wall-clock time of the open segment's first picture."""
        if self._starts_at is None:
            raise ValueError("no segment is open")
        return self._starts_at

    def step(self, packet: Packet, *, same_format: bool) -> SegmentStep:
        """Decide about the next coded picture of the stream.

        Args:
            packet: it.
            same_format: codec and size are those of the open segment.
        """
        if self._starts_at is None:
            return self._begin(packet, packet.at) if packet.keyframe else SegmentStep.DROP
        follows = 0 <= packet.at_s - self._last_s <= SILENCE_S
        expected = self._starts_at + timedelta(seconds=packet.at_s - self._start_s)
        off_s = abs((packet.at - expected).total_seconds())
        if not follows or not same_format:
            self._starts_at = None
            return self._begin(packet, packet.at) if packet.keyframe else SegmentStep.END
        if packet.keyframe and (packet.at_s - self._start_s >= self.segment_s or off_s > _CLOCK_STEP_S):
            return self._begin(packet, expected if off_s <= _DRIFT_MAX_S else packet.at)
        self._last_s = packet.at_s
        return SegmentStep.WRITE

    def close(self) -> None:
        """The open segment has ended, whatever the reason."""
        self._starts_at = None

    def _begin(self, packet: Packet, starts_at: datetime) -> SegmentStep:
        # A file's name holds milliseconds; the segment is exactly where its name says.
        self._starts_at = starts_at.replace(microsecond=starts_at.microsecond // 1000 * 1000)
        self._start_s = self._last_s = packet.at_s
        return SegmentStep.BEGIN


class PreRoll:
    """The last seconds of a stream, from a keyframe on.

    Args:
        length_s: what is held at least, where the stream is that old.
        bytes_max: the oldest goes before more than this is held.
    """

    def __init__(self, length_s: float, *, bytes_max: int = _HELD_BYTES_MAX) -> None:
        self._length_s = length_s
        self._bytes_max = bytes_max
        self._groups: deque[list[Packet]] = deque()
        self._last_s = float("-inf")
        self.size_bytes = 0

    def add(self, packet: Packet) -> None:
        """Hold one more coded picture, and let go of what is too old."""
        if not 0 <= packet.at_s - self._last_s <= SILENCE_S:
            self.clear()
        if packet.keyframe:
            self._groups.append([packet])
        elif self._groups:
            self._groups[-1].append(packet)
        else:
            return
        self._last_s = packet.at_s
        self.size_bytes += packet.size_bytes
        while len(self._groups) > 1 and self._oldest_is_spare():
            self.size_bytes -= sum(one.size_bytes for one in self._groups.popleft())
        if self.size_bytes > self._bytes_max:
            self.clear()

    def take(self) -> list[Packet]:
        """All of it, the first a keyframe; nothing is held then."""
        held = [packet for group in self._groups for packet in group]
        self.clear()
        return held

    def clear(self) -> None:
        """Forget it."""
        self._groups.clear()
        self._last_s = float("-inf")
        self.size_bytes = 0

    def _oldest_is_spare(self) -> bool:
        """Whether the second group alone is long enough, or there is too much."""
        return self._last_s - self._groups[1][0].at_s >= self._length_s or self.size_bytes > self._bytes_max
