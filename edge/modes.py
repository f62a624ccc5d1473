"""When a movement starts and ends, and which frames are sent. Pure: time comes in.

Every time is in seconds on the source's own time line, so a file at ``pace=max`` gives the events of its own length.
"""

from __future__ import annotations

from typing import Literal

from broker.messages import Mode
from config.cameras import CameraSettings

__all__ = ["FrameGate", "Movement", "MovementStep", "frames_per_s", "keyframes_suffice"]

MovementStep = Literal["start", "update", "end"]

_UPDATE_EVERY_S = 1.0
"""Source: the contract, motion ("at most once a second")."""
_EARLY_S = 0.02
_EARLY = 0.1
"""A frame may come so many seconds, and such a part of its period, early: a camera's clock is not ours."""


class Movement:
    """Whether something moves, as one movement from its start to its end.

    Args:
        hold_s: stillness that ends a movement.
    """

    def __init__(self, hold_s: float) -> None:
        self._hold_s = hold_s
        self._moved_s = 0.0
        self._told_s = 0.0
        self.active = False

    def step(self, *, moving: bool, at_s: float) -> MovementStep | None:
        """Look at the next frame.

        Returns:
            What there is to tell, if anything: an update only while something does move.
        """
        if moving:
            self._moved_s = at_s
            if self.active and at_s - self._told_s < _UPDATE_EVERY_S:
                return None
            step: MovementStep = "update" if self.active else "start"
            self.active, self._told_s = True, at_s
            return step
        if self.active and at_s - self._moved_s >= self._hold_s:
            self.active = False
            return "end"
        return None


class FrameGate:
    """Lets frames through at a rate."""

    def __init__(self) -> None:
        self._due_s = float("-inf")

    def open_now(self) -> None:
        """Let the next frame through, whenever it comes."""
        self._due_s = float("-inf")

    def passes(self, at_s: float, fps: float) -> bool:
        """Whether to send this frame.

        Args:
            at_s: the frame's time; never falls.
            fps: the rate wanted now.
        """
        period_s = 1.0 / fps
        if at_s < self._due_s - min(_EARLY_S, _EARLY * period_s):
            return False
        # From the due time, not from this frame's: 5 of 12 a second would otherwise become 4.
        self._due_s = self._due_s + period_s if at_s - self._due_s < period_s else at_s + period_s
        return True


def frames_per_s(settings: CameraSettings, mode: Mode, *, moving: bool) -> float:
    """How many frames a second are sent in a mode."""
    fps = settings.motion_fps if moving else settings.idle_fps
    return max(fps, settings.zoom_fps) if mode == "zoom" else fps


def keyframes_suffice(mode: Mode, *, busy: bool) -> bool:
    """Whether the pictures between keyframes need not be decoded.

    Args:
        mode: how the camera is watched.
        busy: something moves, moved just before, or what stands still is still being learnt.
    """
    return mode == "eco" and not busy
