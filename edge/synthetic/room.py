"""A room with one person, drawn by code, who comes in, sits, bends over, falls, lies, gets up and leaves.

Everything happens every two minutes at the same seconds, so that rules about people who lie or do not move can be tried
without anybody getting hurt, and a test knows when they must fire.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image, ImageDraw

from edge.synthetic.pedestrian import Look, Pose, draw_pose, random_look
from edge.synthetic.scenery import Viewpoint

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["PERIOD_S", "RoomPerson", "SyntheticRoom"]

PERIOD_S = 120.0
Posture = Literal["upright", "seated", "bent", "fallen"]
_AWAY_M = 6.0
"""Where everything happens: somebody is 139 px tall in a picture 360 px high."""
_CHAIR_M, _TABLE_M, _FALLS_M, _DOOR_M = -1.2, 0.3, 0.9, 4.2
_BEND_RAD, _LIE_RAD = 1.3, 1.54
_STRIDE_M = 1.45
_WALKS = (
    (2.0, -_DOOR_M, 8.0, _CHAIR_M),
    (40.0, _CHAIR_M, 43.0, _TABLE_M),
    (51.0, _TABLE_M, 53.0, _FALLS_M),
    (97.0, _FALLS_M, 102.0, _DOOR_M),
)
"""From when and where until when and where; metres to the right of the middle. In between one stands."""
_POSTURES: tuple[tuple[float, float, float, float, Posture], ...] = (
    (8.0, 9.0, 39.0, 40.0, "seated"),
    (43.0, 44.0, 50.0, 51.0, "bent"),
    (60.0, 60.8, 95.0, 97.0, "fallen"),
)
"""When it begins, is reached, begins to end, and is over."""
_PHASES, _STEPS = 14, 12
_SPRITE_PX = 168
_SPRITES_KEPT = 80
_NOISE_SIGMA = 2.0
_NOISE_MARGIN_PX = 64
_BLACK_LEVEL = 12


@dataclass(frozen=True, slots=True)
class RoomPerson:
    """Where the person is: the truth a detector is measured against.

    Attributes:
        box_xyxy: left, top, right, bottom around the visible outline, fractions 0..1 of the picture.
        posture: what the person does; on the way to it too.
    """

    box_xyxy: tuple[float, float, float, float]
    posture: Posture


@dataclass(frozen=True, slots=True)
class _Sprite:
    """The person, drawn, and the box around the outline within it, in its pixels."""

    image: Image.Image
    outline: tuple[int, int, int, int]


class SyntheticRoom:
    """A room as a camera sees it.

    Concurrency: one thread at a time; sprites are drawn when first needed.

    Args:
        seed: decides who it is, and the noise.
        width_px: of the picture.
        height_px: of the picture.
    """

    period_s = PERIOD_S

    def __init__(self, seed: int = 0, width_px: int = 640, height_px: int = 360) -> None:
        self._view = Viewpoint(width_px, height_px)
        rng = np.random.default_rng([seed, 2])
        self._look = random_look(rng)
        self._background = _paint_room(self._view)
        noise = rng.normal(_BLACK_LEVEL, _NOISE_SIGMA, (height_px + _NOISE_MARGIN_PX, width_px + _NOISE_MARGIN_PX, 3))
        self._noise = np.clip(noise, 0, 2 * _BLACK_LEVEL).round().astype(np.uint8)
        self._sprite = lru_cache(maxsize=_SPRITES_KEPT)(self._draw_sprite)

    def picture(self, t_s: float) -> NDArray[np.uint8]:
        """The picture at an instant.

        Args:
            t_s: seconds since the room is watched, from 0 on.

        Returns:
            Shape (height, width, 3), red, green, blue; a new array each time.
        """
        image = self._background.copy()
        placed = self._place(t_s)
        if placed is not None:
            sprite, left, top, _ = placed
            image.paste(sprite.image, (left, top), sprite.image)
        picture: NDArray[np.uint8] = np.minimum(np.asarray(image), 255 - 2 * _BLACK_LEVEL)
        jump = int(t_s * 1000) * 2654435761 % 2**32
        top, left = jump % _NOISE_MARGIN_PX, jump // _NOISE_MARGIN_PX % _NOISE_MARGIN_PX
        return picture + self._noise[top : top + self._view.height_px, left : left + self._view.width_px]

    def person(self, t_s: float) -> RoomPerson | None:
        """The person at an instant; None while nobody is in the picture."""
        placed = self._place(t_s)
        if placed is None:
            return None
        sprite, left, top, posture = placed
        width, height = self._view.width_px, self._view.height_px
        x1, x2 = (min(max((left + x) / width, 0.0), 1.0) for x in sprite.outline[0::2])
        y1, y2 = (min(max((top + y) / height, 0.0), 1.0) for y in sprite.outline[1::2])
        return RoomPerson((x1, y1, x2, y2), posture) if x1 < x2 and y1 < y2 else None

    def _place(self, t_s: float) -> tuple[_Sprite, int, int, Posture] | None:
        """The person's sprite, and where its left upper corner is; None while nobody is there."""
        second = t_s % PERIOD_S
        if not _WALKS[0][0] <= second <= _WALKS[-1][2]:
            return None
        right_m, rightwards, phase = _whereabouts(second)
        posture, part = _posture(second)
        sprite = self._sprite(posture, round(part * _STEPS), rightwards, phase)
        x, y = self._view.project(right_m, _AWAY_M)
        return sprite, round(x - sprite.image.width / 2), round(y - sprite.image.height / 2), posture

    def _draw_sprite(self, posture: Posture, step: int, rightwards: bool, phase: int | None) -> _Sprite:  # noqa: FBT001 - a key of the cache
        part = step / _STEPS
        pose = Pose(
            phase=None if phase is None else (phase + 0.5) / _PHASES,
            seated=part if posture == "seated" else 0.0,
            bent_rad=part * _BEND_RAD if posture == "bent" else 0.0,
            fallen_rad=part * _LIE_RAD if posture == "fallen" else 0.0,
        )
        return _reduced(self._look, pose, 0.0 if rightwards else math.pi, 1.72 * self._view.scale(_AWAY_M))


def _reduced(look: Look, pose: Pose, yaw_rad: float, tall_px: float) -> _Sprite:
    """A sprite in the size in which it is shown, drawn larger and reduced."""
    # Who sits is seen from the front at an angle: exactly from the side, one leg hides the other.
    turned = yaw_rad + 0.5 if pose.seated or pose.fallen_rad else yaw_rad
    sprite = Image.fromarray(draw_pose(look, pose, yaw_rad=turned, height_px=_SPRITE_PX))
    side_px = max(1, round(sprite.width * tall_px / _SPRITE_PX))
    reduced = sprite.resize((side_px, side_px), Image.Resampling.BILINEAR)
    rows, columns = np.nonzero(np.asarray(reduced)[..., 3] > 127)
    outline = int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1
    return _Sprite(reduced, outline)


def _whereabouts(second: float) -> tuple[float, bool, int | None]:
    """Metres to the right of the middle, whether looking to the right, and the phase of the walk; None standing."""
    right_m = _WALKS[0][1]
    for start_s, start_m, end_s, end_m in _WALKS:
        if second < start_s:
            break
        if second < end_s:
            walked_m = (end_m - start_m) * (second - start_s) / (end_s - start_s)
            return start_m + walked_m, end_m > start_m, int(abs(walked_m) / _STRIDE_M % 1 * _PHASES)
        right_m = end_m
    return right_m, True, None


def _posture(second: float) -> tuple[Posture, float]:
    """What the person does, and how far that has come: 0 upright, 1 altogether."""
    for begins_s, reached_s, ends_s, over_s, posture in _POSTURES:
        if begins_s <= second < over_s:
            there = min((second - begins_s) / (reached_s - begins_s), (over_s - second) / (over_s - ends_s), 1.0)
            return posture, there
    return "upright", 0.0


def _paint_room(view: Viewpoint) -> Image.Image:
    width, height = view.width_px, view.height_px
    picture = Image.new("RGB", (width, height), (186, 180, 168))
    draw = ImageDraw.Draw(picture)
    floor_row = view.project(0, _AWAY_M + 1.6)[1]
    draw.rectangle((0, floor_row, width, height), fill=(142, 118, 92))
    for board in range(24):
        row = floor_row + (height - floor_row) * (board / 24) ** 1.6
        draw.line((0, row, width, row), fill=(128, 106, 82))
    draw.rectangle((0, floor_row - 0.025 * height, width, floor_row), fill=(208, 204, 196))
    window = (0.08 * width, 0.06 * height, 0.3 * width, 0.36 * height)
    draw.rectangle(window, fill=(150, 176, 198), outline=(222, 220, 214), width=max(1, height // 90))
    _paint_chair(draw, view)
    return picture


def _paint_chair(draw: ImageDraw.ImageDraw, view: Viewpoint) -> None:
    """Seat, back and legs; who sits hides the seat."""
    scale = view.scale(_AWAY_M)
    x, y = view.project(_CHAIR_M, _AWAY_M + 0.1)
    seat = y - 0.45 * scale
    wood = (96, 70, 50)
    draw.rectangle((x - 0.3 * scale, seat - 0.5 * scale, x - 0.24 * scale, y), fill=wood)
    draw.rectangle((x - 0.3 * scale, seat, x + 0.2 * scale, seat + 0.06 * scale), fill=wood)
    draw.rectangle((x + 0.14 * scale, seat, x + 0.2 * scale, y), fill=wood)
