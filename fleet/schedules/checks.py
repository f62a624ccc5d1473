"""Whether a camera's picture is one: not black, blurred, covered, turned away or frozen. Pure.

What is looked at is structure, not light: a camera at night sees the same edges with less light, and somebody who walks
through hides some of them. A reference picture says what there should be to see, and how sharp this lens is; there may
be several (day, night, infrared), and the one that fits best counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from broker.messages import Finding
from config.schedules import CheckName

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["NO_REFERENCE", "Look", "judge", "judge_frozen"]

NO_REFERENCE = "no reference picture of this size: `vigil camera check NAME --take-reference`"
_OF_A_PICTURE: tuple[CheckName, ...] = ("black", "covered", "turned", "blurred")
"""In the order in which one makes the next pointless."""
_FINE_WIDTH_PX = 640
"""Enlarged detail says nothing more about a lens than this, and noise grows with each further pixel."""
_COARSE = 4
_BLOCK_PX = 8
_SEEN_OF_LIGHT = 0.02
"""The least difference between a block and its neighbours that is structure, as a part of how bright it is."""
_DARK = 6.0
"""Grey levels that are added to how bright something is: below, a difference of one level says nothing."""
_NOISE_BLOCKS = 4.0
"""How many times the noise of a block's mean a difference must be: one block in 10,000 is taken for structure then."""
_CODED = 3.0
"""Grey levels by which a JPEG's own rounding makes a block differ from both of its neighbours together."""
_BLACK_MAX = 26.0
"""Grey level of the brightest blocks, up to which a picture without structure is black: a sensor's own glow, and what
is left of the offset of video's black (16)."""
_EDGE_MIN = 1.0
"""Grey levels from one pixel to the next of the coarse picture; less is what coding leaves of a plain wall."""
_CLEAR = 0.4
"""How clear an edge of the reference picture must be to count."""
_UNSEEN = 0.3
"""How much a clear edge counts against a picture that shows nothing there; one that shows it otherwise counts fully."""
_EDGES_OF_A_KIND = 0.1
"""Share of all edges from which the upright ones, or the level ones, are looked at by themselves: a room whose camera
was panned has the same floor still."""
_SHIFT_PX = 2
"""Of the coarse picture: a pole in the wind moves a camera by that much."""
_STRONG_EDGES = 0.1
_EDGES_MIN = 40
_FROZEN_LEVELS = 1.0
_FROZEN_SHARE = 0.999


@dataclass(frozen=True)
class Look:
    """One picture, as the checks need it.

    Attributes:
        grey: brightness, uint8 [h, w], at its own size.
    """

    grey: NDArray[np.uint8]

    @cached_property
    def fine(self) -> NDArray[np.float32]:
        """Brightness 0 to 255, float32 [h, w], about 640 px wide."""
        return _reduced(self.grey.astype(np.float32), max(1, round(self.grey.shape[1] / _FINE_WIDTH_PX)))

    @cached_property
    def coarse(self) -> NDArray[np.float32]:
        """The same, a quarter as wide."""
        return _reduced(self.fine, _COARSE)

    @cached_property
    def noise(self) -> float:
        """Standard deviation of its noise, grey levels. Source: Immerkaer 1996, Fast Noise Variance Estimation."""
        p = self.fine
        corners = p[:-2, :-2] + p[:-2, 2:] + p[2:, :-2] + p[2:, 2:]
        sides = p[:-2, 1:-1] + p[2:, 1:-1] + p[1:-1, :-2] + p[1:-1, 2:]
        # The median, not the mean: edges are few, noise is everywhere.
        return float(np.median(np.abs(corners - 2 * sides + 4 * p[1:-1, 1:-1]))) / (6.0 * 0.6745)

    @cached_property
    def blocks(self) -> NDArray[np.float32]:
        """Mean brightness of blocks of 8 px."""
        return _reduced(self.fine, _BLOCK_PX)

    @cached_property
    def structure(self) -> NDArray[np.bool_]:
        """In which blocks there is something to see.

        They differ from their neighbours by more than noise, and by more than a slope of light does.
        """
        inner = self.blocks[1:-1, 1:-1]
        across = np.abs(2 * inner - self.blocks[1:-1, :-2] - self.blocks[1:-1, 2:])
        along = np.abs(2 * inner - self.blocks[:-2, 1:-1] - self.blocks[2:, 1:-1])
        least = np.maximum(_SEEN_OF_LIGHT * 2 * (inner + _DARK), _CODED + _NOISE_BLOCKS * 2.5 * self.noise / _BLOCK_PX)
        return np.asarray(np.maximum(across, along) > least)

    @cached_property
    def directions(self) -> NDArray[np.complex64]:
        """Which way edges run in the coarse picture, and up to 1 how clearly.

        It is their angle twice, so that light and dark may change places.
        """
        smooth = _smoothed(self.coarse)
        dy, dx = np.gradient(smooth)
        edges = (dx + 1j * dy).astype(np.complex64)
        size = np.abs(edges)
        common = 2.0 * float(np.median(size)) + _EDGE_MIN
        return np.asarray(edges * edges / np.maximum(size, 1e-6) / (size + common))

    @cached_property
    def sharpness(self) -> float | None:
        """How steep the strongest edges of the coarse picture are in the fine one, without noise.

        None where there are too few.
        """
        dy, dx = np.gradient(self.coarse)
        size = np.hypot(dx, dy)
        least = max(float(np.quantile(size, 1 - _STRONG_EDGES)), 1.0 + self.noise)
        strong = size >= least
        if np.count_nonzero(strong) < _EDGES_MIN:
            return None
        fine_y, fine_x = np.gradient(self.fine)
        steep = _largest(np.hypot(fine_x, fine_y), _COARSE)
        steep, size = steep[strong], size[strong]
        # The largest of 16 gradients of mere noise is about so much.
        clear = np.sqrt(np.maximum(steep**2 - (1.8 * self.noise) ** 2, 0.0))
        return float(clear.mean() / size.mean())


def judge(now: Look, references: Sequence[Look], sensitivity: float) -> list[Finding]:
    """What can be said of one picture.

    Args:
        now: the picture.
        references: of the same camera when all was well; of another size or shape they are of another camera.
        sensitivity: 0 to 1: how little counts as blurred, covered or turned.

    Returns:
        A finding for each of black, covered, turned and blurred. What could not be told, since something worse is
        the matter or nothing is known of the camera, is well and says so.
    """
    known = [reference for reference in references if reference.fine.shape == now.fine.shape]
    fitting = max(known, key=lambda reference: _agreement(now, reference), default=None)
    findings = [_judge_black(now)]
    if findings[0].ok:
        findings.append(_judge_covered(now, known, sensitivity))
    if all(finding.ok for finding in findings) and fitting is not None:
        findings.append(_judge_turned(now, fitting, sensitivity))
        if findings[-1].ok:
            findings.append(_judge_blurred(now, fitting, sensitivity))
    why = "there is nothing to compare" if fitting is not None else NO_REFERENCE
    missing = _OF_A_PICTURE[len(findings) :]
    return findings + [Finding(check=check, ok=True, about=why) for check in missing]


def judge_frozen(first: Look, later: Look) -> Finding:
    """Whether two pictures that were taken seconds apart are the same one: a sensor's noise never is."""
    if first.grey.shape != later.grey.shape:
        return Finding(check="frozen", ok=True, about="the picture has changed its size")
    change = np.abs(first.grey.astype(np.int16) - later.grey)
    value = float(np.quantile(change, _FROZEN_SHARE))
    about = "" if value > _FROZEN_LEVELS else "the picture does not change any more, not even its noise: restart it"
    return Finding(check="frozen", ok=value > _FROZEN_LEVELS, value=value, limit=_FROZEN_LEVELS, about=about)


def _judge_black(now: Look) -> Finding:
    brightest = float(np.quantile(now.blocks, 0.99))
    ok = brightest > _BLACK_MAX or float(now.structure.mean()) > 0.02
    about = "" if ok else "the picture is black: is there light, is the lens free, does the infrared lamp work?"
    return Finding(check="black", ok=ok, value=round(brightest, 1), limit=_BLACK_MAX, about=about)


def _judge_covered(now: Look, references: Sequence[Look], sensitivity: float) -> Finding:
    """The share of what there should be to see that is seen; without a reference, of the whole picture."""
    seen = now.structure
    shares = [
        float(np.count_nonzero(seen & reference.structure) / np.count_nonzero(reference.structure))
        for reference in references
        if np.count_nonzero(reference.structure) >= _EDGES_MIN
    ]
    value, limit = (max(shares), 0.4 * sensitivity) if shares else (float(seen.mean()), 0.02 * sensitivity)
    about = "" if value >= limit else "there is almost nothing to see: is something before the lens, or on it?"
    return Finding(check="covered", ok=value >= limit, value=round(value, 3), limit=limit, about=about)


def _judge_turned(now: Look, reference: Look, sensitivity: float) -> Finding:
    value, limit = _agreement(now, reference), 0.1 + 0.22 * sensitivity
    about = "" if value >= limit else "it shows something else than its reference picture: has it been turned or moved?"
    return Finding(check="turned", ok=value >= limit, value=round(value, 3), limit=limit, about=about)


def _judge_blurred(now: Look, reference: Look, sensitivity: float) -> Finding:
    here, there = now.sharpness, reference.sharpness
    if here is None or not there:
        return Finding(check="blurred", ok=True, about="there are too few edges to tell")
    value, limit = here / there, sensitivity
    about = "" if value >= limit else "it is less sharp than its reference picture: clean the lens, or focus it"
    return Finding(check="blurred", ok=value >= limit, value=round(value, 3), limit=limit, about=about)


def _agreement(now: Look, reference: Look) -> float:
    """How much of the clear edges of the reference picture is there: 1 all, 0 as by chance, -1 all across.

    The worse of upright and level edges counts.
    """
    border = _SHIFT_PX
    there = reference.directions[border:-border, border:-border]
    clear = np.abs(there)
    there = there * (np.maximum(clear - _CLEAR, 0.0) / np.maximum(clear, 1e-6))
    weight = np.abs(there)
    kinds = [kind for kind in (there.real > 0, there.real <= 0) if weight[kind].sum() > _EDGES_OF_A_KIND * weight.sum()]
    height, width = there.shape
    best = -1.0
    for down in range(2 * border + 1):
        for right in range(2 * border + 1):
            product = there * now.directions[down : down + height, right : right + width].conj()
            counted = np.abs(product) + _UNSEEN * weight
            shares = [product.real[kind].sum() / max(float(counted[kind].sum()), 1e-6) for kind in kinds]
            best = max(best, float(min(shares, default=0.0)))
    return best


def _reduced(picture: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    """Means of blocks of `factor` px; what is left over at the right and below is left out."""
    return np.asarray(_tiles(picture, factor).mean(axis=(1, 3)))


def _largest(picture: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    return np.asarray(_tiles(picture, factor).max(axis=(1, 3)))


def _tiles(picture: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    height, width = picture.shape[0] // factor, picture.shape[1] // factor
    return picture[: height * factor, : width * factor].reshape(height, factor, width, factor)


def _smoothed(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means of 3 by 3 px; a border of 1 px is lost."""
    rows = picture[:-2] + picture[1:-1] + picture[2:]
    return np.asarray((rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / 9.0)
