"""Trying out motion detection on pictures of one camera, at several sensitivities, and what to set. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from config.cameras import MotionSettings
from config.section import Polygon
from edge.modes import Movement
from edge.motion.blobs import find_blobs
from edge.motion.detector import BoxXyxy, MotionDetector, MotionResult, limits_of
from edge.motion.grid import Grid

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Advice", "Seen", "Trial", "Tuning"]

SENSITIVITIES = (0.25, 0.375, 0.5, 0.625, 0.75, 0.875)
_BRIEF_S = 0.7
"""Something moved for less than this: a drop, a flash, a bird, or noise; a person takes longer to go anywhere."""
_BRIEF_PER_H = 6.0
"""So many brief movements an hour are borne for the sake of sensitivity."""
_RESTLESS = 0.5
"""A cell that changes for more of the time than this is of a place that always moves: a tree, a flag, a screen."""
_RESTLESS_MIN_S = 20.0
"""Before that nobody knows what moves always."""
_MARGIN = 1.2
"""A least size stands so far above what it is to keep out."""
_SIZE_OF_LASTING = 0.25
"""Part of the smallest lasting movement's size that is asked for, at most: it was smaller when it came."""


@dataclass(slots=True)
class Seen:
    """One movement.

    Attributes:
        began_s: when it began.
        moved_s: when something last moved.
        score: the largest share of the picture that moved.
        peak_s: when that was.
        boxes_xyxy: where, at that time.
    """

    began_s: float
    moved_s: float
    score: float = 0.0
    peak_s: float = 0.0
    boxes_xyxy: tuple[BoxXyxy, ...] = ()

    @property
    def brief(self) -> bool:
        """Whether it was gone at once."""
        return self.moved_s - self.began_s < _BRIEF_S


@dataclass(slots=True)
class Trial:
    """What one sensitivity saw.

    Attributes:
        sensitivity: 0..1.
        movements: in order.
        scores: of each frame, share of the picture that moves.
    """

    sensitivity: float
    hold_s: float
    detector: MotionDetector
    movements: list[Seen] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    _movement: Movement = field(init=False)

    def __post_init__(self) -> None:
        self._movement = Movement(self.hold_s)

    def step(self, luma: NDArray[np.uint8], at_s: float) -> MotionResult:
        """Look at the next frame."""
        result = self.detector.step(luma, at_s)
        self.scores.append(result.score)
        if self._movement.step(moving=bool(result.boxes_xyxy), at_s=at_s) == "start":
            self.movements.append(Seen(at_s, at_s))
        if result.boxes_xyxy:
            seen = self.movements[-1]
            seen.moved_s = at_s
            if result.score > seen.score:
                seen.score, seen.peak_s, seen.boxes_xyxy = result.score, at_s, result.boxes_xyxy
        return result

    @property
    def cells_min(self) -> int:
        """Cells that a thing needs."""
        return limits_of(self.sensitivity).cells

    @property
    def lasting(self) -> list[Seen]:
        """Movements that were more than brief."""
        return [seen for seen in self.movements if not seen.brief]

    @property
    def brief(self) -> int:
        """How many movements were gone at once."""
        return len(self.movements) - len(self.lasting)


@dataclass(frozen=True, slots=True)
class Advice:
    """What to set.

    Attributes:
        sensitivity: as in the settings, like the next two.
        min_size: 0 where the sensitivity is enough.
        masks: places that always move, beside those there are.
        reasons: why, in a sentence each.
    """

    sensitivity: float
    min_size: float
    masks: dict[str, Polygon]
    reasons: tuple[str, ...]


class Tuning:
    """Collects what motion detection makes of a camera's frames.

    Args:
        settings: what the camera's owner has chosen so far.
    """

    def __init__(self, settings: MotionSettings) -> None:
        self.settings = settings
        self.times_s: list[float] = []
        levels = sorted({*SENSITIVITIES, settings.sensitivity})
        self.trials = [
            Trial(level, settings.hold_s, MotionDetector(settings.model_copy(update={"sensitivity": level})))
            for level in levels
        ]
        self._grid: Grid | None = None
        self._changed_s = np.zeros((1, 1))
        self._watched_s = 0.0

    @property
    def current(self) -> Trial:
        """The trial at the camera's own sensitivity."""
        return self.trial(self.settings.sensitivity)

    def trial(self, sensitivity: float) -> Trial:
        """The trial nearest to a sensitivity."""
        return min(self.trials, key=lambda trial: abs(trial.sensitivity - sensitivity))

    @property
    def heat(self) -> NDArray[np.float64]:
        """Share of the time in which each cell changed, shape (rows, columns), 0..1."""
        return self._changed_s / max(self._watched_s, 1e-9)

    @property
    def length_s(self) -> float:
        """How long was looked at."""
        return self.times_s[-1] - self.times_s[0] if self.times_s else 0.0

    @property
    def size_min(self) -> float:
        """The least share of the picture that makes a movement as things are set."""
        needed = self.current.cells_min / self.heat.size
        return max(needed, self.settings.min_size)

    def step(self, luma: NDArray[np.uint8], at_s: float) -> MotionResult:
        """Look at the next frame with every sensitivity.

        Args:
            luma: as in :meth:`edge.motion.detector.MotionDetector.step`.
            at_s: the same.

        Returns:
            What the camera's own sensitivity makes of it.
        """
        results = {trial.sensitivity: trial.step(luma, at_s) for trial in self.trials}
        result = results[self.settings.sensitivity]
        changed = self.current.detector.changed
        if self._grid is None or self._grid.picture != luma.shape:
            self._grid = Grid(*luma.shape)
            self._changed_s, self._watched_s = np.zeros(changed.shape), 0.0
        elif not result.calibrating:
            dt_s = max(0.0, at_s - self.times_s[-1])
            self._changed_s += changed * dt_s
            self._watched_s += dt_s
        self.times_s.append(at_s)
        return result

    def advise(self) -> Advice:
        """What to set, from what was seen; a minute in which people walk about, and some of none, tells most."""
        reasons: list[str] = []
        masks = self._find_masks(reasons)
        allowed = max(1.0, _BRIEF_PER_H * self.length_s / 3600)
        quiet = [trial for trial in self.trials if _count_stubborn(trial) <= allowed]
        # Of those that find most, the one that changes least.
        chosen = max(
            quiet,
            key=lambda trial: (len(trial.lasting), -abs(trial.sensitivity - self.settings.sensitivity)),
            default=self.trials[0],
        )
        reasons.insert(0, self._explain(chosen, noisy=chosen not in quiet))
        return Advice(chosen.sensitivity, self._find_size(chosen, reasons), masks, tuple(reasons))

    def _explain(self, chosen: Trial, *, noisy: bool) -> str:
        found = f"{len(chosen.lasting)} lasting and {chosen.brief} brief movements"
        before = f"{len(self.current.lasting)} and {self.current.brief} at {self.current.sensitivity:g}"
        if noisy:
            return f"sensitivity {chosen.sensitivity:g}, the least tried: even so {found} ({before}); think of masks"
        if chosen is self.current:
            return f"sensitivity {chosen.sensitivity:g} stays: {found}, and no other finds more without more brief ones"
        return f"sensitivity {chosen.sensitivity:g}: {found} ({before})"

    def _find_size(self, chosen: Trial, reasons: list[str]) -> float:
        """A least size between the brief movements' and the lasting ones', where there is room."""
        brief, smallest = [seen.score for seen in chosen.movements if seen.brief], _smallest(chosen)
        wanted = max(brief, default=0.0) * _MARGIN
        if not brief or wanted > smallest * _SIZE_OF_LASTING:
            return self.settings.min_size
        reasons.append(f"min_size above the {max(brief):.2%} of brief movements; lasting ones reach {smallest:.2%}")
        return max(self.settings.min_size, math.ceil(wanted * 1e5) / 1e5)

    def _find_masks(self, reasons: list[str]) -> dict[str, Polygon]:
        """A rectangle around each place that changes most of the time."""
        if self._grid is None or self._watched_s < _RESTLESS_MIN_S:
            reasons.append(f"no masks: what always moves shows after {_RESTLESS_MIN_S:.0f} s, this was shorter")
            return {}
        masks: dict[str, Polygon] = {}
        always = (self.heat > _RESTLESS).ravel()
        for blob in find_blobs(self._grid, always, always):
            if blob.cells < self.current.cells_min:
                continue
            name = _free_name((*self.settings.masks, *masks))
            left, top, right, bottom = (
                round(side, 3) for side in self._grid.box(blob.left, blob.top, blob.right, blob.bottom)
            )
            masks[name] = ((left, top), (right, top), (right, bottom), (left, bottom))
            reasons.append(f"mask {name}: it changes for more than {_RESTLESS:.0%} of the time")
        return masks


def _smallest(trial: Trial) -> float:
    """Size of the smallest lasting movement; 0 where there is none."""
    return min((seen.score for seen in trial.lasting), default=0.0)


def _count_stubborn(trial: Trial) -> int:
    """Brief movements that no least size would keep out without the lasting ones."""
    bound = _smallest(trial) * _SIZE_OF_LASTING
    return sum(seen.brief and seen.score * _MARGIN > bound for seen in trial.movements)


def _free_name(taken: Sequence[str]) -> str:
    return next(name for k in range(1, len(taken) + 2) if (name := f"restless-{k}") not in taken)
