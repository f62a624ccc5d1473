"""A camera that needs no camera: a street with people, drawn by code, the same for the same seed and instant.

Pedestrians come in waves, with nobody in between, and walk in perspective at their own pace. Where everybody is
follows from the seed and the time alone, so a test can ask for the truth at any instant, hours in as well.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFilter

from edge.synthetic.pedestrian import Look, draw_pedestrian, random_look
from edge.synthetic.scenery import Viewpoint, paint_scenery

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["StreetPerson", "SyntheticStreet", "encode_jpeg", "luma_thumbnail"]

_WAVE_S = 20.0
"""A wave of people every so often; the last third of it is quiet."""
_ENTRIES_S = 5.0
"""Everybody enters within this much of a wave and needs at most 8.3 s, so its last third is quiet."""
_PEOPLE = (3, 5)
_NEAR_M, _FAR_M = 5.5, 8.3
"""Where people walk: nearer than this they fill the picture, farther away detectors lose them."""
_TALL_M = (1.62, 1.86)
_STRIDE = 0.86
"""Two steps, in body heights."""
_PHASES = 14
_YAWS = 16
_SPRITE_PX = 168
"""Sprites are drawn once at this height, for a picture 360 px high, and reduced to where the person is."""
_SPRITE_MARGIN_PX = 3
_SPRITES_KEPT = 160
"""All of two waves, 8 MB."""
_HIDDEN = 0.1
"""A person of whom more than this is behind others is not fully visible."""
_LUMA = (0.299, 0.587, 0.114)
"""Source: ITU-R BT.601, section 2.5.1, which is also what JPEG uses."""
_NOISE_SIGMA = 2.2
_NOISE_MARGIN_PX = 64
_BLACK_LEVEL = 12
"""Black of the camera: leaves the noise room below, so that adding it never wraps around."""


@dataclass(frozen=True, slots=True)
class StreetPerson:
    """Where somebody is: the truth a detector is measured against.

    Attributes:
        person_id: the same from entering to leaving, never used again.
        box_xyxy: left, top, right, bottom around the visible outline, fractions 0..1 of the picture.
        box_xyxy_px: the same in pixels.
        fully_visible: whether all of them is in the picture and nobody stands before them.
    """

    person_id: int
    box_xyxy: tuple[float, float, float, float]
    box_xyxy_px: tuple[float, float, float, float]
    fully_visible: bool


@dataclass(frozen=True, slots=True)
class _Walker:
    """Somebody's way through the picture, straight and steady; metres and seconds."""

    person_id: int
    look: Look
    tall_m: float
    enters_s: float
    speed_m_s: float
    start_m: tuple[float, float]
    end_m: tuple[float, float]

    def place(self, t_s: float) -> tuple[float, float] | None:
        """Metres right and away at that instant, or None while not in the street."""
        length_m = math.dist(self.start_m, self.end_m)
        done = (t_s - self.enters_s) * self.speed_m_s / length_m
        if not 0 <= done <= 1:
            return None
        (x0, z0), (x1, z1) = self.start_m, self.end_m
        return x0 + done * (x1 - x0), z0 + done * (z1 - z0)

    @property
    def yaw_rad(self) -> float:
        """Walking direction, 0 to the right, pi/2 towards the viewer."""
        (x0, z0), (x1, z1) = self.start_m, self.end_m
        return math.atan2(z0 - z1, x1 - x0)

    def phase(self, t_s: float) -> float:
        """Where in the walking cycle, 0..1."""
        return (t_s - self.enters_s) * self.speed_m_s / (_STRIDE * self.tall_m) % 1


@dataclass(frozen=True, slots=True)
class _Sprite:
    """A drawn person: the picture, the outline's box within it, and the ground point, all in its pixels."""

    image: Image.Image
    outline: tuple[int, int, int, int]
    ground: tuple[float, float]
    tall_px: int


@dataclass(frozen=True, slots=True)
class _Placed:
    """A sprite put in its place in the picture."""

    walker: _Walker
    sprite: _Sprite
    left_px: float
    top_px: float
    scale: float
    away_m: float

    @property
    def ground_px(self) -> tuple[float, float]:
        """Column and row of the ground below the person."""
        x, y = self.sprite.ground
        return self.left_px + x * self.scale, self.top_px + y * self.scale

    @property
    def box_px(self) -> tuple[float, float, float, float]:
        """The outline's box in the picture, possibly beyond its edges."""
        left, top, right, bottom = self.sprite.outline
        return (
            self.left_px + left * self.scale,
            self.top_px + top * self.scale,
            self.left_px + right * self.scale,
            self.top_px + bottom * self.scale,
        )


class SyntheticStreet:
    """A street with people, as a camera sees it.

    Concurrency: one thread at a time; sprites are drawn when first needed.

    Args:
        seed: decides everything: people, times, colours, light and noise.
        width_px: of the picture.
        height_px: of the picture; at 360 people are 95 to 170 px tall.
    """

    period_s = _WAVE_S

    def __init__(self, seed: int = 0, width_px: int = 640, height_px: int = 360) -> None:
        self._seed = seed
        self._view = Viewpoint(width_px, height_px)
        rng = np.random.default_rng([seed, 0])
        self._background = Image.fromarray(paint_scenery(self._view, rng))
        self._shadow = _soft_ellipse()
        self._noise = _noise_bank(width_px + _NOISE_MARGIN_PX, height_px + _NOISE_MARGIN_PX, rng)
        self._light_phases = rng.uniform(0, 2 * math.pi, 2)
        self._sprite = lru_cache(maxsize=_SPRITES_KEPT)(self._draw_sprite)
        self._wave = lru_cache(maxsize=4)(self._plan_wave)

    def picture(self, t_s: float) -> NDArray[np.uint8]:
        """The picture at an instant.

        Args:
            t_s: seconds since the street began, from 0 on.

        Returns:
            Shape (height, width, 3), red, green, blue; a new array each time.

        Raises:
            ValueError: the instant is before the street began, or not a finite number.
        """
        image = self._background.copy()
        for placed in self._placements(t_s):
            self._paste_shadow(image, placed)
            self._paste_person(image, placed)
        lit = np.multiply(np.asarray(image), np.uint16(self._light(t_s)), dtype=np.uint16)
        lit >>= 8
        picture: NDArray[np.uint8] = lit.astype(np.uint8)
        picture += self._noise_at(t_s)
        return picture

    def people(self, t_s: float) -> list[StreetPerson]:
        """Everybody who is at least partly in the picture at an instant, nearest last.

        Raises:
            ValueError: the instant is before the street began, or not a finite number.
        """
        placements = self._placements(t_s)
        people = []
        for k, placed in enumerate(placements):
            person = self._truth(placed, [nearer.box_px for nearer in placements[k + 1 :]])
            if person:
                people.append(person)
        return people

    def _truth(self, placed: _Placed, nearer: list[tuple[float, float, float, float]]) -> StreetPerson | None:
        width, height = self._view.width_px, self._view.height_px
        left, top, right, bottom = placed.box_px
        inside = max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height))
        if inside[0] >= inside[2] or inside[1] >= inside[3]:
            return None
        hidden = max((_overlap(inside, box) for box in nearer), default=0.0)
        return StreetPerson(
            person_id=placed.walker.person_id,
            box_xyxy=(inside[0] / width, inside[1] / height, inside[2] / width, inside[3] / height),
            box_xyxy_px=inside,
            fully_visible=inside == placed.box_px and hidden <= _HIDDEN,
        )

    def _placements(self, t_s: float) -> list[_Placed]:
        """Everybody in the street at an instant, farthest first."""
        if not 0 <= t_s < math.inf:
            message = f"t_s is {t_s}; the street begins at 0 s"
            raise ValueError(message)
        placements = []
        for walker in self._wave(int(t_s // _WAVE_S)):
            place = walker.place(t_s)
            if place:
                placements.append(self._put(walker, place, walker.phase(t_s)))
        return sorted(placements, key=lambda placed: -placed.away_m)

    def _put(self, walker: _Walker, place: tuple[float, float], phase: float) -> _Placed:
        right_m, away_m = place
        yaw = round(walker.yaw_rad / (2 * math.pi) * _YAWS) % _YAWS
        sprite = self._sprite(walker.look, yaw, int(phase * _PHASES))
        x, y = self._view.project(right_m, away_m)
        scale = walker.tall_m * self._view.scale(away_m) / sprite.tall_px
        return _Placed(walker, sprite, x - sprite.ground[0] * scale, y - sprite.ground[1] * scale, scale, away_m)

    def _draw_sprite(self, look: Look, yaw: int, phase: int) -> _Sprite:
        tall_px = round(_SPRITE_PX * self._view.height_px / 360)
        rgba = draw_pedestrian(
            look, phase=(phase + 0.5) / _PHASES, yaw_rad=yaw * 2 * math.pi / _YAWS, height_px=tall_px
        )
        ground = rgba.shape[1] / 2, (rgba.shape[0] + tall_px) / 2
        rows, columns = np.nonzero(rgba[..., 3] > 127)
        left, top = int(columns.min()), int(rows.min())
        right, bottom = int(columns.max()) + 1, int(rows.max()) + 1
        margin = _SPRITE_MARGIN_PX
        padded = np.pad(rgba, ((margin, margin), (margin, margin), (0, 0)))
        return _Sprite(
            image=Image.fromarray(padded[top : bottom + 2 * margin, left : right + 2 * margin]),
            outline=(margin, margin, margin + right - left, margin + bottom - top),
            ground=(ground[0] - left + margin, ground[1] - top + margin),
            tall_px=tall_px,
        )

    def _plan_wave(self, number: int) -> tuple[_Walker, ...]:
        rng = np.random.default_rng([self._seed, 1 + number])
        count = int(rng.integers(_PEOPLE[0], _PEOPLE[1] + 1))
        entries = np.sort(rng.uniform(0.8, _ENTRIES_S, count))
        entries[0] = 0.2
        lanes = rng.permutation(np.linspace(_NEAR_M, _FAR_M, count))
        return tuple(
            self._plan_walker(number * 16 + k, number * _WAVE_S + float(entries[k]), float(lanes[k]), rng)
            for k in range(count)
        )

    def _plan_walker(self, person_id: int, enters_s: float, lane_m: float, rng: np.random.Generator) -> _Walker:
        drift = float(np.clip(lane_m + rng.normal(0, 0.7), _NEAR_M, _FAR_M))
        ends = []
        for side, away_m in ((-1, lane_m), (+1, drift)):
            edge_m = self._view.width_px / 2 / self._view.scale(away_m) + 0.7
            ends.append((side * edge_m, away_m))
        start_m, end_m = ends if rng.random() < 0.5 else ends[::-1]
        # Whoever has farther to go walks faster, or the street would not be empty in time.
        speed_m_s = float(rng.uniform(1.15, 1.6)) * max(1.0, math.dist(start_m, end_m) / 9.5)
        return _Walker(person_id, random_look(rng), float(rng.uniform(*_TALL_M)), enters_s, speed_m_s, start_m, end_m)

    def _paste_person(self, image: Image.Image, placed: _Placed) -> None:
        sprite, scale = placed.sprite, placed.scale
        left, top = math.ceil(placed.left_px), math.ceil(placed.top_px)
        # Pasted at whole pixels; the rest of the position goes into the resampling, so that walking is smooth.
        x0, y0 = (left - placed.left_px) / scale, (top - placed.top_px) / scale
        width = math.floor((sprite.image.width - x0) * scale)
        height = math.floor((sprite.image.height - y0) * scale)
        box = (x0, y0, x0 + width / scale, y0 + height / scale)
        person = sprite.image.resize((width, height), Image.Resampling.BILINEAR, box)
        image.paste(person, (left, top), person)

    def _paste_shadow(self, image: Image.Image, placed: _Placed) -> None:
        wide = round(placed.walker.tall_m * 0.62 * self._view.scale(placed.away_m))
        x, y = placed.ground_px
        mask = self._shadow.resize((wide, max(1, wide // 4)), Image.Resampling.BILINEAR)
        # A little to the right: the sun is on the left.
        image.paste((38, 36, 36), (round(x - wide * 0.42), round(y - wide / 8)), mask)

    def _light(self, t_s: float) -> int:
        """Brightness in 256ths: clouds come and go over a minute or so."""
        slow, slower = self._light_phases
        return round(232 + 16 * math.sin(t_s * 2 * math.pi / 53 + slower) + 7 * math.sin(t_s * 2 * math.pi / 19 + slow))

    def _noise_at(self, t_s: float) -> NDArray[np.uint8]:
        """A window of the bank that jumps about with time."""
        jump = int(t_s * 1000) * 2654435761 % 2**32
        top, left = jump % _NOISE_MARGIN_PX, jump // _NOISE_MARGIN_PX % _NOISE_MARGIN_PX
        return self._noise[top : top + self._view.height_px, left : left + self._view.width_px]


def encode_jpeg(rgb: NDArray[np.uint8], quality: int = 80) -> bytes:
    """Compress a picture, colours at half the resolution (4:2:0).

    Args:
        rgb: shape (height, width, 3).
        quality: 1..95.
    """
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    return buffer.getvalue()


def luma_thumbnail(rgb: NDArray[np.uint8], height_px: int = 100) -> NDArray[np.uint8]:
    """Brightness of a picture, made smaller by averaging areas; for motion.

    Args:
        rgb: shape (height, width, 3).
        height_px: of the thumbnail; a picture that is lower already keeps its size.

    Returns:
        Shape (height_px, width in proportion).
    """
    height, width = rgb.shape[:2]
    # Whole areas first: rows added, then columns and colours weighted by BLAS, twice as fast as Pillow. A rim of less
    # than half a percent may be left over.
    side = max(
        k for k in range(1, max(2, height // height_px + 1)) if height % k * 200 <= height and width % k * 200 <= width
    )
    rows, columns = height // side, width // side
    bands = rgb[: rows * side].reshape(rows, side, width * 3)[..., : columns * side * 3]
    sums = bands[:, 0].astype(np.uint16)
    for k in range(1, side):
        sums += bands[:, k]
    weights = np.tile(np.array(_LUMA, np.float32) / side**2, side)
    luma = (sums.astype(np.float32).reshape(-1, side * 3) @ weights).reshape(rows, columns)
    reduced = Image.fromarray((luma + np.float32(0.5)).astype(np.uint8))
    if rows > height_px:
        reduced = reduced.resize((max(1, round(width * height_px / height)), height_px), Image.Resampling.BILINEAR)
    return np.asarray(reduced)


def _overlap(box: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> float:
    """Part of a box that another one covers, 0..1."""
    wide = min(box[2], other[2]) - max(box[0], other[0])
    high = min(box[3], other[3]) - max(box[1], other[1])
    return max(wide, 0.0) * max(high, 0.0) / ((box[2] - box[0]) * (box[3] - box[1]))


def _soft_ellipse() -> Image.Image:
    """A shadow's mask: dark in the middle, fading out."""
    y, x = np.mgrid[-1:1:24j, -1:1:96j]
    mask = 150 * np.clip(1 - (x**2 + y**2), 0, 1) ** 0.8
    return Image.fromarray(mask.astype(np.uint8)).filter(ImageFilter.GaussianBlur(2))


def _noise_bank(width_px: int, height_px: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Sensor noise around the black level: mostly brightness, a little colour; shape (height, width, 3)."""
    luma = rng.normal(_BLACK_LEVEL, _NOISE_SIGMA, (height_px, width_px, 1))
    colour = rng.normal(0, _NOISE_SIGMA / 2, (height_px, width_px, 3))
    return np.clip(luma + colour, 0, 2 * _BLACK_LEVEL).round().astype(np.uint8)
