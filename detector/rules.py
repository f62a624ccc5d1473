"""When scores become an escalation. Pure: what was seen and when comes in, a firing or nothing comes out."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from broker.messages import Detection
from config.settings import PresenceRule

__all__ = ["Firing", "PresenceWatch"]

_BACKWARDS_S = 1.0
"""Frames of a camera come in order; a capture time that is further back than this is a clock that was set."""


@dataclass(frozen=True, slots=True)
class Firing:
    """A rule says that a person should know.

    Attributes:
        rule: the rule's name.
        settings: what it waits for.
        camera: where.
        hits: frames of the last ones in which it was seen.
        frames: how many those last ones were.
        detections: what counts in the frame that made it fire, the best first; at least one.
    """

    rule: str
    settings: PresenceRule
    camera: str
    hits: int
    frames: int
    detections: tuple[Detection, ...]

    @property
    def summary(self) -> str:
        """One sentence for a person."""
        best = self.detections[0]
        others = f" and {len(self.detections) - 1} more" if len(self.detections) > 1 else ""
        seen = f"seen in {self.hits} of {self.frames} frames, best score {best.score:.2f}"
        return f"{best.label}{others} on {self.camera}: {seen}"


@dataclass(slots=True)
class _Camera:
    """One camera under a rule."""

    seen: deque[bool]
    last_s: float = field(default=float("-inf"))
    quiet_until_s: float = field(default=float("-inf"))


class PresenceWatch:
    """Somebody is there: seen in `hits` of the last `window` scored frames, then quiet for `cooldown_s`.

    It fires on a frame in which it is seen, so that the evidence shows it. The cooldown runs on the frames' capture
    time: the camera's seconds count, however late its frames come. When a camera's clock is set back, the rule starts
    over for it: one escalation too many is better than an hour of silence.

    Args:
        name: the rule's name.
        settings: what it waits for.
    """

    def __init__(self, name: str, settings: PresenceRule) -> None:
        self.name = name
        self.settings = settings
        self._cameras: dict[str, _Camera] = {}

    def feed(self, camera: str, captured_s: float, detections: Sequence[Detection]) -> Firing | None:
        """Look at the scores of one frame.

        Args:
            camera: whose frame it is.
            captured_s: when it was captured, in seconds of the camera's clock.
            detections: everything that was found in it.

        Returns:
            The firing, when this frame makes the rule fire.
        """
        settings = self.settings
        if settings.cameras and camera not in settings.cameras:
            return None
        watched = self._camera(camera, captured_s)
        counting = [d for d in detections if d.label == settings.label and d.score >= settings.min_score]
        watched.seen.append(bool(counting))
        hits = sum(watched.seen)
        if not counting or hits < settings.hits or captured_s < watched.quiet_until_s:
            return None
        watched.quiet_until_s = captured_s + settings.cooldown_s
        counting.sort(key=lambda detection: -detection.score)
        return Firing(self.name, settings, camera, hits, len(watched.seen), tuple(counting))

    def _camera(self, camera: str, captured_s: float) -> _Camera:
        watched = self._cameras.get(camera)
        if watched is None or captured_s < watched.last_s - _BACKWARDS_S:
            watched = self._cameras[camera] = _Camera(deque(maxlen=self.settings.window))
        watched.last_s = captured_s
        return watched
