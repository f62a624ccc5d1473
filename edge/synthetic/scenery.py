"""The street without people: a façade with windows and a door, two trees, a kerb and paving in perspective.

Everything is painted once, at twice the size and then reduced, so that nothing has jagged edges. Ground positions are
metres: `right` of the middle of the picture and `away` from the camera, which hangs on a lamp post and looks along
the horizontal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Viewpoint", "paint_scenery"]

_Area = tuple[float, float, float, float]

_CAMERA_HEIGHT_M = 2.9
_WALL_AWAY_M = 10.3
_KERB_AWAY_M = 9.2
_SLAB_M = 0.62
_OVERSAMPLING = 2
_BRIGHTEST = 228
"""Leaves the camera's noise room above."""


@dataclass(frozen=True, slots=True)
class Viewpoint:
    """Where the camera hangs, for a picture of some size.

    Attributes:
        width_px: of the picture.
        height_px: of the picture.
    """

    width_px: int
    height_px: int

    @property
    def horizon_px(self) -> float:
        """Row of the horizon."""
        return self.height_px / 6

    def scale(self, away_m: float) -> float:
        """Pixels a metre takes at that distance."""
        return 1.39 * self.height_px / away_m

    def project(self, right_m: float, away_m: float, up_m: float = 0.0) -> tuple[float, float]:
        """Column and row of a point."""
        scale = self.scale(away_m)
        return self.width_px / 2 + right_m * scale, self.horizon_px + (_CAMERA_HEIGHT_M - up_m) * scale

    def on_wall(self, left_m: float, low_m: float, right_m: float, high_m: float) -> _Area:
        """Left, top, right, bottom in pixels of a rectangle on the wall."""
        left, top = self.project(left_m, _WALL_AWAY_M, high_m)
        right, bottom = self.project(right_m, _WALL_AWAY_M, low_m)
        return left, top, right, bottom


def paint_scenery(view: Viewpoint, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Paint the street.

    Args:
        view: where from.
        rng: decides colours and textures.

    Returns:
        Shape (height, width, 3), red, green, blue.
    """
    large = Viewpoint(view.width_px * _OVERSAMPLING, view.height_px * _OVERSAMPLING)
    picture = Image.new("RGB", (large.width_px, large.height_px), (172, 160, 143))
    draw = ImageDraw.Draw(picture)
    _paint_wall(draw, large, rng)
    _paint_ground(draw, large)
    picture = _roughen(picture, rng, amount=9.0)
    for right_m in (-3.9, 4.4):
        _paint_tree(picture, large, right_m, rng)
    softened = picture.filter(ImageFilter.GaussianBlur(_OVERSAMPLING * 0.6))
    return np.asarray(_shade(softened.reduce(_OVERSAMPLING), view))


def _paint_wall(draw: ImageDraw.ImageDraw, view: Viewpoint, rng: np.random.Generator) -> None:
    for course in range(60):
        # Rows of brick: faint, so that they are texture and not edges.
        left, top, right, _ = view.on_wall(-9, 0, 9, course * 0.09)
        tone = int(rng.integers(148, 160))
        draw.line((left, top, right, top), fill=(tone + 6, tone - 6, tone - 24), width=_OVERSAMPLING)
    draw.rectangle(view.on_wall(-9, 0, 9, 0.55), fill=(128, 122, 114))
    draw.rectangle(view.on_wall(-9, 0.55, 9, 0.62), fill=(150, 144, 134))
    for left_m in (-6.5, -3.2, 2.1, 5.3):
        _paint_window(draw, view, left_m)
    draw.rectangle(view.on_wall(-0.95, 0, 0.95, 2.75), fill=(120, 112, 102))
    draw.rectangle(view.on_wall(-0.8, 0, 0.8, 2.6), fill=(84, 66, 54))
    draw.rectangle(view.on_wall(-0.62, 1.15, 0.62, 2.4), fill=(104, 112, 116))
    draw.rectangle(view.on_wall(-1.7, 2.95, 1.7, 3.3), fill=(124, 66, 56))


def _paint_window(draw: ImageDraw.ImageDraw, view: Viewpoint, left_m: float) -> None:
    draw.rectangle(view.on_wall(left_m - 0.12, 0.98, left_m + 2.32, 2.72), fill=(196, 188, 174))
    draw.rectangle(view.on_wall(left_m, 1.1, left_m + 2.2, 2.6), fill=(102, 114, 122))
    # The sky mirrored in the upper half.
    draw.rectangle(view.on_wall(left_m, 1.9, left_m + 2.2, 2.6), fill=(128, 142, 152))
    draw.rectangle(view.on_wall(left_m + 1.07, 1.1, left_m + 1.13, 2.6), fill=(180, 172, 160))
    draw.rectangle(view.on_wall(left_m - 0.18, 0.9, left_m + 2.38, 0.98), fill=(160, 154, 144))


def _paint_ground(draw: ImageDraw.ImageDraw, view: Viewpoint) -> None:
    width, height = view.width_px, view.height_px
    wall_row, kerb_row = view.project(0, _WALL_AWAY_M)[1], view.project(0, _KERB_AWAY_M)[1]
    draw.rectangle((0, wall_row, width, kerb_row), fill=(146, 142, 136))
    draw.rectangle((0, kerb_row, width, height), fill=(158, 154, 147))
    nearest_m = 4.2
    reach_m = width / view.scale(_KERB_AWAY_M)
    for k in range(round(-reach_m / _SLAB_M), round(reach_m / _SLAB_M) + 1):
        ends = view.project(k * _SLAB_M, _KERB_AWAY_M), view.project(k * _SLAB_M, nearest_m)
        draw.line(ends, fill=(140, 136, 129), width=_OVERSAMPLING)
    away_m = _KERB_AWAY_M
    while away_m > nearest_m:
        row = view.project(0, away_m)[1]
        draw.line((0, row, width, row), fill=(140, 136, 129), width=_OVERSAMPLING)
        away_m -= _SLAB_M
    draw.rectangle((0, kerb_row, width, kerb_row + height * 0.012), fill=(182, 178, 170))
    draw.rectangle((0, kerb_row + height * 0.012, width, kerb_row + height * 0.022), fill=(112, 108, 103))


def _paint_tree(picture: Image.Image, view: Viewpoint, right_m: float, rng: np.random.Generator) -> None:
    """A tree beside the kerb: trunk, and a crown of many translucent leaves that hides it above head height."""
    away_m = _KERB_AWAY_M + 0.5
    scale = view.scale(away_m)
    draw = ImageDraw.Draw(picture, "RGBA")
    foot_x, foot_y = view.project(right_m, away_m)
    draw.ellipse(
        (foot_x - 0.5 * scale, foot_y - 0.1 * scale, foot_x + 0.5 * scale, foot_y + 0.1 * scale), (84, 72, 58, 255)
    )
    top_y = view.project(right_m, away_m, 2.5)[1]
    half = 0.09 * scale
    draw.polygon(
        [(foot_x - half * 1.3, foot_y), (foot_x - half, top_y), (foot_x + half, top_y), (foot_x + half * 1.3, foot_y)],
        (92, 80, 66, 255),
    )
    centre_y = view.project(right_m, away_m, 3.2)[1]
    for _ in range(900):
        angle, reach = rng.uniform(0, 2 * np.pi), np.sqrt(rng.random()) * 1.5
        x = foot_x + np.cos(angle) * reach * scale
        y = centre_y + np.sin(angle) * reach * scale * 0.75
        size = rng.uniform(0.04, 0.11) * scale
        # Leaves lit from the upper left.
        light = 1.0 - 0.28 * (np.cos(angle) + np.sin(angle)) * reach / 1.5 + rng.uniform(-0.15, 0.15)
        colour = (int(70 * light), int(92 * light), int(52 * light), 200)
        draw.ellipse((x - size, y - size * 0.8, x + size, y + size * 0.8), fill=colour)


def _roughen(picture: Image.Image, rng: np.random.Generator, amount: float) -> Image.Image:
    """Add grain of several sizes: stone, dirt and wear."""
    rough = np.zeros((picture.height, picture.width), np.float32)
    for size, weight in ((2, 0.35), (6, 0.25), (28, 0.25), (90, 0.35)):
        coarse = rng.normal(0, 1, (picture.height // size + 2, picture.width // size + 2)).astype(np.float32)
        spread = Image.fromarray(coarse).resize(picture.size, Image.Resampling.BICUBIC)
        rough += weight * np.asarray(spread)
    painted = np.asarray(picture, np.float32) + amount * rough[..., None]
    return Image.fromarray(np.clip(painted, 0, _BRIGHTEST).astype(np.uint8))


def _shade(picture: Image.Image, view: Viewpoint) -> Image.Image:
    """Darken the foot of the wall, the ground before it and the corners of the picture."""
    rows = np.arange(view.height_px, dtype=np.float32)[:, None]
    columns = np.arange(view.width_px, dtype=np.float32)[None, :]
    wall_row = view.project(0, _WALL_AWAY_M)[1]
    corner = np.exp(-(((rows - wall_row) / (0.05 * view.height_px)) ** 2))
    from_middle = ((columns / view.width_px - 0.5) ** 2 + (rows / view.height_px - 0.5) ** 2) / 0.5
    shade = 1 - 0.16 * corner - 0.1 * from_middle
    return Image.fromarray((np.asarray(picture, np.float32) * shade[..., None]).astype(np.uint8))
