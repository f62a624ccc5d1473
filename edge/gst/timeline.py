"""A stream as it passes: the times of its pictures, which of them are decoded, and when it counts as broken. Pure."""

from __future__ import annotations

from typing import Literal

__all__ = ["SLICE_S", "KeyframeGate", "TimeLine", "Trouble", "Watch"]

Trouble = Literal["silent", "undecoded", "no keyframe"]

SLICE_S = 0.1
"""How long one wait for a picture is."""
_ROUNDING_S = SLICE_S / 2

_JUMP_MAX_S = 60.0
"""Nobody waits so long for a picture: the camera has set its clock."""
_BACK_MAX_S = 1.0
"""A picture is this much earlier than the one before at most, or the stream began anew."""
_KEYFRAME_EVERY_S = 1.0
_EARLY_S = 0.1
"""A keyframe each second need not be one to the hundredth."""
_KEYFRAME_WITHIN_S = 30.0
"""Cameras that save bandwidth send one each 10 or 20 s where nothing moves."""
_UNDECODED_MAX = 60
"""Coded pictures without a decoded one: the slowest decoders hold back some 20."""


class TimeLine:
    """Times that begin at 0 and never fall, whatever the stream says."""

    def __init__(self) -> None:
        self._begun = False
        self._origin_s: float | None = None
        self.last_s = 0.0

    def place(self, stamp_s: float | None, period_s: float) -> float:
        """The next picture's time, seconds.

        Args:
            stamp_s: as the stream has it; None: it says nothing.
            period_s: to the picture before, where the stream cannot be believed.
        """
        if not self._begun:
            self._begun, self._origin_s = True, stamp_s
            return 0.0
        at_s = following_s = self.last_s + period_s
        if stamp_s is not None:
            since_s = None if self._origin_s is None else stamp_s - self._origin_s
            if since_s is not None and -_BACK_MAX_S <= since_s - self.last_s <= _JUMP_MAX_S:
                at_s = since_s
            else:
                self._origin_s = stamp_s - following_s
        self.last_s = max(self.last_s, at_s)
        return self.last_s


class KeyframeGate:
    """Which coded pictures are decoded: all from the first keyframe on, or keyframes only.

    Concurrency: `passes` is called on one thread; `only` may be set on any.

    Attributes:
        only: decode keyframes only, at most one a second.
        passed: coded pictures that were let through.
    """

    def __init__(self) -> None:
        self.only = False
        self.passed = 0
        self._decodable = False
        self._keyframe_s = float("-inf")

    def passes(self, at_s: float, *, keyframe: bool) -> bool:
        """Whether to decode this one.

        Args:
            at_s: its time.
            keyframe: whether decoding may begin here.
        """
        if not keyframe:
            # What follows a picture that was left out cannot be decoded until the next keyframe.
            self._decodable = self._decodable and not self.only
        elif self.only and at_s - self._keyframe_s < _KEYFRAME_EVERY_S - _EARLY_S:
            self._decodable = False
            return False
        else:
            self._decodable, self._keyframe_s = True, at_s
        self.passed += self._decodable
        return self._decodable


class Watch:
    """Says when a stream is as good as broken. It counts time in waits, of `SLICE_S` each.

    Args:
        stall_timeout_s: silence that is too long.
    """

    def __init__(self, stall_timeout_s: float) -> None:
        self._stall_timeout_s = stall_timeout_s
        self._heard = self._passed = 0
        self._silent_s = self._unseen_s = 0.0

    def saw(self, heard: int, passed: int) -> None:
        """A picture came; arguments as for `misses`."""
        self._heard, self._passed = heard, passed
        self._silent_s = self._unseen_s = 0.0

    def misses(self, heard: int, passed: int, *, pictures: bool = True) -> Trouble | None:
        """What is wrong, if anything, after one more wait without a picture.

        Args:
            heard: how much has come from the source so far.
            passed: how many coded pictures the decoder got so far.
            pictures: whether there should be any.
        """
        self._silent_s = 0.0 if heard != self._heard else self._silent_s + SLICE_S
        self._heard = heard
        self._unseen_s += SLICE_S
        if self._silent_s >= self._stall_timeout_s - _ROUNDING_S:
            return "silent"
        if not pictures:
            return None
        undecoded = passed - self._passed
        if undecoded > _UNDECODED_MAX and self._unseen_s >= self._stall_timeout_s:
            return "undecoded"
        if not undecoded and self._unseen_s >= _KEYFRAME_WITHIN_S:
            return "no keyframe"
        return None
