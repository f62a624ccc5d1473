"""Drawing one walking person: a jointed figure of shaded round limbs, as a sprite with transparency.

Lengths are in body heights. The body's own axes are forward, left and up, with the origin on the ground below the
hips. A figure is a list of solids (limbs that taper, and a trunk of elliptical slices), painted from far to near.
Each is shaded as if round and lit from the upper left, which is what both gradient histograms and neural detectors
take for a person, where flat silhouettes leave the latter unsure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Look", "Pose", "Rgb", "draw_pedestrian", "draw_pose", "random_look"]

Rgb = tuple[int, int, int]
_Point = tuple[float, float, float]

_SKIN: tuple[Rgb, ...] = ((222, 178, 150), (198, 148, 118), (150, 104, 76), (96, 66, 50), (232, 190, 166))
_HAIR: tuple[Rgb, ...] = ((28, 24, 22), (62, 42, 30), (110, 78, 48), (168, 132, 84), (136, 134, 132))
_TOPS: tuple[Rgb, ...] = (
    (34, 38, 46),
    (38, 54, 92),
    (132, 34, 38),
    (44, 78, 60),
    (66, 60, 58),
    (26, 66, 88),
    (92, 48, 84),
    (172, 122, 40),
    (206, 204, 198),
    (46, 42, 40),
)
_BOTTOMS: tuple[Rgb, ...] = ((32, 34, 40), (40, 52, 82), (58, 54, 52), (30, 30, 32), (84, 76, 62), (50, 62, 84))
_SHOES: tuple[Rgb, ...] = ((24, 22, 22), (58, 40, 30), (190, 188, 184))

_LIGHT = (-0.42, -0.58, 0.70)
"""Towards the sun in picture axes right, down and out of the picture; length 1."""
_AMBIENT, _DIFFUSE = 0.52, 0.62
_TILT = 0.16
"""How much lower in the picture something appears that is nearer: the camera looks down a little."""
_BRIGHTEST = 228
"""Leaves the camera's noise room above."""
_LEG_NEARER = -0.3
"""Trousers go under the jacket, whichever leg is in front."""
_STANDING = 1.03
"""Height of the figure built here, with its weight on one straight leg."""
_ROOM = 1.12, 0.82
"""Sprite height and width in body heights: room for the nearer foot, soft edges and the longest stride."""
_ROOM_TO_FALL = 2.4
"""The same for a square in the middle of which somebody stands, who may fall to any side."""
_FEET_APART = 0.28
"""Where in the walking cycle both feet are near the ground and each other: standing, as far as this figure can."""
_SEATED_RAD = math.radians(86)
"""By how much hips and knees of one who sits are bent."""


@dataclass(frozen=True, slots=True)
class Look:
    """What somebody looks like.

    Attributes:
        skin: colour of face and hands.
        hair: colour of hair.
        top: colour of jacket or coat.
        bottom: colour of trousers.
        shoes: colour of shoes.
        build: width over that of an average person.
        coat: whether the jacket reaches down to the knees.
        long_hair: whether hair covers the neck.
        backpack: colour of a backpack, or None.
    """

    skin: Rgb
    hair: Rgb
    top: Rgb
    bottom: Rgb
    shoes: Rgb
    build: float
    coat: bool
    long_hair: bool
    backpack: Rgb | None


def random_look(rng: np.random.Generator) -> Look:
    """Dress somebody."""

    def pick(colours: Sequence[Rgb]) -> Rgb:
        return colours[int(rng.integers(len(colours)))]

    return Look(
        skin=pick(_SKIN),
        hair=pick(_HAIR),
        top=pick(_TOPS),
        bottom=pick(_BOTTOMS),
        shoes=pick(_SHOES),
        build=float(rng.uniform(0.92, 1.12)),
        coat=bool(rng.random() < 0.3),
        long_hair=bool(rng.random() < 0.4),
        backpack=pick(_TOPS) if rng.random() < 0.25 else None,
    )


def draw_pedestrian(look: Look, *, phase: float, yaw_rad: float, height_px: int) -> NDArray[np.uint8]:
    """Draw a person in mid-stride.

    Args:
        look: what they look like.
        phase: where in the walking cycle of two steps, 0..1; at 0 the left heel touches the ground in front.
        yaw_rad: walking direction: 0 to the right, pi/2 towards the viewer, pi to the left.
        height_px: of the person standing upright.

    Returns:
        Shape (rows, columns, 4), red, green, blue and alpha, not premultiplied. The ground point below the hips is in
        the middle column and in row `(rows + height_px) / 2`.
    """
    rows, columns = (round(height_px * room) for room in _ROOM)
    canvas = _Canvas(height_px, yaw_rad, (rows, columns), (rows + height_px) / 2)
    canvas.paint(_build_figure(look, phase))
    return canvas.to_rgba()


@dataclass(frozen=True, slots=True)
class Pose:
    """How somebody holds themselves.

    Attributes:
        phase: where in the walking cycle, 0..1; None stands.
        seated: how far hips and knees are bent, 0 to 1: sitting on a chair.
        bent_rad: how far the trunk is bent forward.
        fallen_rad: how far the whole body is turned round its feet: pi/2 lies, the head to the right.
    """

    phase: float | None = None
    seated: float = 0.0
    bent_rad: float = 0.0
    fallen_rad: float = 0.0


def draw_pose(look: Look, pose: Pose, *, yaw_rad: float, height_px: int) -> NDArray[np.uint8]:
    """Draw a person who stands, walks, sits, bends over, falls or lies.

    Args:
        look: what they look like.
        pose: how they hold themselves.
        yaw_rad: direction in which they look: 0 to the right, pi/2 towards the viewer, pi to the left.
        height_px: of the person standing upright.

    Returns:
        As :func:`draw_pedestrian`, but square, and the ground point is in the middle.
    """
    side_px = round(height_px * _ROOM_TO_FALL)
    phase = _FEET_APART if pose.phase is None else pose.phase
    legs = {side: _bent_leg(_leg_joints(phase + turn), pose.seated) for side, turn in ((+1, 0.0), (-1, 0.5))}
    hip_z = -min(z - 0.02 for joints in legs.values() for _, z in joints[2:])
    lower: list[_Limb | _Trunk] = [s for side in (+1, -1) for s in _build_leg(look, side, hip_z, legs[side])]
    upper: list[_Limb | _Trunk] = [_build_trunk(look, hip_z), *_build_head(look, hip_z)]
    for side, turn in ((+1, 0.0), (-1, 0.5)):
        upper += _build_arm(look, side, hip_z, phase + turn)
    hips = (side_px / 2, side_px / 2 - hip_z * height_px / _STANDING)
    forward = 1 if math.cos(yaw_rad) >= 0 else -1
    trunk = _paint(upper, height_px, yaw_rad, side_px).rotate(
        -forward * math.degrees(pose.bent_rad), Image.Resampling.BILINEAR, center=hips
    )
    whole = _paint(lower, height_px, yaw_rad, side_px)
    # Knees of one who sits are before the trunk, and the jacket of one who stands is over the trousers.
    whole = Image.alpha_composite(*((trunk, whole) if pose.seated > 0.5 else (whole, trunk)))
    turned = whole.rotate(-math.degrees(pose.fallen_rad), Image.Resampling.BILINEAR)
    return np.asarray(turned)


@dataclass(frozen=True, slots=True)
class _Limb:
    """A round solid between two joints; radii in body heights."""

    start: _Point
    end: _Point
    start_radius: float
    end_radius: float
    colour: Rgb
    nearer: float = 0.0
    """Added to how near it is when the order of painting is decided."""


@dataclass(frozen=True, slots=True)
class _Trunk:
    """A solid of elliptical slices, from the lowest up: (centre, half width, half depth)."""

    slices: tuple[tuple[_Point, float, float], ...]
    colour: Rgb
    nearer: float = 0.03


def _build_figure(look: Look, phase: float) -> list[_Limb | _Trunk]:
    """All solids of a person, feet on the ground."""
    strides = {+1: phase, -1: phase + 0.5}
    legs = {side: _leg_joints(stride) for side, stride in strides.items()}
    hip_z = -min(z - 0.02 for joints in legs.values() for _, z in joints[2:])
    solids: list[_Limb | _Trunk] = []
    for side in (+1, -1):
        solids += _build_leg(look, side, hip_z, legs[side])
        solids += _build_arm(look, side, hip_z, strides[side])
    solids += [_build_trunk(look, hip_z), *_build_head(look, hip_z)]
    if look.backpack:
        solids.append(_Limb((-0.085, 0, hip_z + 0.12), (-0.085, 0, hip_z + 0.25), 0.06, 0.05, look.backpack))
    return solids


def _bump(stride: float, centre: float, width: float) -> float:
    """A smooth hill around one part of the walking cycle."""
    away = (stride - centre + 0.5) % 1 - 0.5
    return math.exp(-((away / width) ** 2))


def _leg_joints(stride: float) -> tuple[tuple[float, float], ...]:
    """Knee, ankle, heel and toe as (forward, up) from the hip, for a leg whose heel strikes at stride 0.

    Source: the shape of the angles over the cycle follows D. Winter, Biomechanics and Motor Control of Human
    Movement, chapter on kinematics of normal gait: the hip swings like a cosine, the knee gives a little
    under the weight and bends by some 60 degrees while the leg swings forward.
    """
    hip = math.radians(23) * math.cos(2 * math.pi * stride) + math.radians(3)
    knee = math.radians(6 + 12 * _bump(stride, 0.13, 0.08) + 54 * _bump(stride, 0.73, 0.13))
    foot = math.radians(16 * _bump(stride, 0.0, 0.07) - 42 * _bump(stride, 0.62, 0.10))
    shin = hip - knee
    knee_x, knee_z = 0.245 * math.sin(hip), -0.245 * math.cos(hip)
    ankle_x, ankle_z = knee_x + 0.235 * math.sin(shin), knee_z - 0.235 * math.cos(shin)
    along, across = (math.cos(foot), math.sin(foot)), (math.sin(foot), -math.cos(foot))
    heel = (ankle_x - 0.022 * along[0] + 0.025 * across[0], ankle_z - 0.022 * along[1] + 0.025 * across[1])
    toe = (ankle_x + 0.095 * along[0] + 0.032 * across[0], ankle_z + 0.095 * along[1] + 0.032 * across[1])
    return (knee_x, knee_z), (ankle_x, ankle_z), heel, toe


def _bent_leg(joints: tuple[tuple[float, float], ...], seated: float) -> tuple[tuple[float, float], ...]:
    """A leg on its way from how it stands to how it sits, knee, ankle, heel and toe as (forward, up) from the hip."""
    angle = seated * _SEATED_RAD
    knee = (0.245 * math.sin(angle), -0.245 * math.cos(angle))
    ankle = (knee[0], knee[1] - 0.235)
    bent = (knee, ankle, (ankle[0] - 0.022, ankle[1] - 0.025), (ankle[0] + 0.095, ankle[1] - 0.032))
    return bent if seated else joints


def _build_leg(look: Look, side: int, hip_z: float, joints: tuple[tuple[float, float], ...]) -> list[_Limb | _Trunk]:
    y = side * 0.05 * look.build
    knee, ankle, heel, toe = ((x, y * 0.9, hip_z + z) for x, z in joints)
    thick = 0.5 + 0.5 * look.build
    return [
        _Limb(heel, toe, 0.026, 0.02, look.shoes, _LEG_NEARER),
        _Limb(knee, ankle, 0.043 * thick, 0.031 * thick, look.bottom, _LEG_NEARER),
        _Limb((0, y, hip_z), knee, 0.066 * thick, 0.046 * thick, look.bottom, _LEG_NEARER),
    ]


def _build_arm(look: Look, side: int, hip_z: float, stride: float) -> list[_Limb | _Trunk]:
    swing = -math.radians(20) * math.cos(2 * math.pi * stride)
    bend = swing + math.radians(24) - 0.25 * math.cos(2 * math.pi * stride)
    y = side * 0.113 * look.build
    shoulder = (0.0, y, hip_z + 0.29)
    elbow = (0.165 * math.sin(swing), y * 1.12, shoulder[2] - 0.165 * math.cos(swing))
    wrist = (elbow[0] + 0.14 * math.sin(bend), y * 1.1, elbow[2] - 0.14 * math.cos(bend))
    hand = (wrist[0] + 0.035 * math.sin(bend), y * 1.08, wrist[2] - 0.035 * math.cos(bend))
    return [
        _Limb(wrist, hand, 0.022, 0.02, look.skin, nearer=side * 0.001),
        _Limb(elbow, wrist, 0.034, 0.026, look.top),
        _Limb(shoulder, elbow, 0.043 * look.build, 0.036, look.top),
    ]


def _build_trunk(look: Look, hip_z: float) -> _Trunk:
    jacket = (((0.0, 0.0, -0.035), 0.09, 0.072), ((0.0, 0.0, 0.02), 0.092, 0.072))
    coat = (((0.0, 0.0, -0.20), 0.112, 0.092), ((0.0, 0.0, 0.0), 0.108, 0.08))
    profile = (
        *(coat if look.coat else jacket),
        ((0.005, 0.0, 0.12), 0.084, 0.066),
        ((0.012, 0.0, 0.22), 0.104, 0.078),
        ((0.012, 0.0, 0.29), 0.126, 0.07),
        ((0.012, 0.0, 0.322), 0.106, 0.06),
        ((0.014, 0.0, 0.348), 0.05, 0.045),
    )
    slices = tuple(((x, y, hip_z + z), wide * look.build, deep) for (x, y, z), wide, deep in profile)
    return _Trunk(slices, look.top)


def _build_head(look: Look, hip_z: float) -> list[_Limb | _Trunk]:
    x, z = 0.022, hip_z + 0.425
    solids: list[_Limb | _Trunk] = [
        _Limb((x - 0.008, 0, z - 0.09), (x, 0, z - 0.05), 0.034, 0.034, look.skin, nearer=0.04),
        _Limb((x - 0.006, 0, z + 0.008), (x - 0.006, 0, z + 0.022), 0.057, 0.056, look.hair, nearer=0.05),
        _Limb((x + 0.012, 0, z - 0.024), (x + 0.013, 0, z + 0.008), 0.042, 0.05, look.skin, nearer=0.055),
    ]
    if look.long_hair:
        solids.append(_Limb((x - 0.03, 0, z), (x - 0.034, 0, z - 0.075), 0.046, 0.038, look.hair, nearer=0.045))
    return solids


def _paint(solids: Sequence[_Limb | _Trunk], height_px: int, yaw_rad: float, side_px: int) -> Image.Image:
    """A square sprite with the ground in its middle."""
    canvas = _Canvas(height_px, yaw_rad, (side_px, side_px), side_px / 2)
    canvas.paint(solids)
    return Image.fromarray(canvas.to_rgba())


class _Canvas:
    """A sprite in the making: planes of premultiplied red, green and blue, 0..255, and of coverage, 0..1.

    Args:
        height_px: of the person.
        yaw_rad: walking direction, 0 to the right, pi/2 towards the viewer.
        size: rows and columns of the sprite.
        ground_px: row of the ground.
    """

    def __init__(self, height_px: int, yaw_rad: float, size: tuple[int, int], ground_px: float) -> None:
        self._unit = height_px / _STANDING
        self._cos, self._sin = math.cos(yaw_rad), math.sin(yaw_rad)
        self._ground = ground_px
        self._middle = size[1] / 2
        self._paint = np.zeros((4, *size), np.float32)

    def paint(self, solids: Sequence[_Limb | _Trunk]) -> None:
        """Paint solids, the far ones first."""
        for solid in sorted(solids, key=self.nearness):
            if isinstance(solid, _Limb):
                self.paint_limb(solid)
            else:
                self.paint_trunk(solid)

    def nearness(self, solid: _Limb | _Trunk) -> float:
        """How near to the viewer a solid is, for painting the far ones first."""
        if isinstance(solid, _Trunk):
            return solid.nearer
        (x0, y0, _), (x1, y1, _) = solid.start, solid.end
        # What is worn on the head goes round with it: hair behind the face in front, before it from behind.
        return (x0 + x1) / 2 * self._sin - (y0 + y1) / 2 * self._cos + solid.nearer

    def _project(self, point: _Point) -> tuple[float, float]:
        x, y, z = point
        near = x * self._sin - y * self._cos
        right = x * self._cos + y * self._sin
        return self._middle + right * self._unit, self._ground - (z - near * _TILT) * self._unit

    def paint_limb(self, limb: _Limb) -> None:
        """Paint a round solid between two joints."""
        (x0, y0), (x1, y1) = self._project(limb.start), self._project(limb.end)
        r0, r1 = limb.start_radius * self._unit, limb.end_radius * self._unit
        margin = max(r0, r1) + 1
        window = self._window(min(x0, x1) - margin, min(y0, y1) - margin, max(x0, x1) + margin, max(y0, y1) + margin)
        rows, columns = np.ogrid[window]
        right, down = columns + 0.5 - x0, rows + 0.5 - y0
        dx, dy = x1 - x0, y1 - y0
        along = np.clip((right * dx + down * dy) / max(dx * dx + dy * dy, 1e-6), 0, 1).astype(np.float32)
        radius = r0 + along * (r1 - r0)
        across_right, across_down = (right - along * dx) / radius, (down - along * dy) / radius
        cover = np.clip((1 - np.hypot(across_right, across_down)) * radius + 0.5, 0, 1)
        self._blend(window, limb.colour, cover, across_right, across_down)

    def paint_trunk(self, trunk: _Trunk) -> None:
        """Paint slices as one smooth body."""
        places = [self._project(centre) for centre, _, _ in trunk.slices]
        widths = [math.hypot(wide * self._sin, deep * self._cos) * self._unit for _, wide, deep in trunk.slices]
        heights = [y for _, y in places]
        order = np.argsort(heights)
        reach = max(widths) + 1
        middle = [x for x, _ in places]
        window = self._window(min(middle) - reach, min(heights) - 1, max(middle) + reach, max(heights) + 1)
        rows, columns = np.ogrid[window]
        at = rows[:, 0] + 0.5
        heights_up = np.take(heights, order)
        centre = np.interp(at, heights_up, np.take(middle, order))[:, None].astype(np.float32)
        width = np.interp(at, heights_up, np.take(widths, order))[:, None].astype(np.float32)
        right = columns.astype(np.float32) + np.float32(0.5) - centre
        inside = np.clip(heights_up[-1] - at + 0.5, 0, 1) * np.clip(at - heights_up[0] + 0.5, 0, 1)
        cover = np.clip(width - np.abs(right) + 0.5, 0, 1) * inside[:, None].astype(np.float32)
        # Folds in the cloth: faint slanted waves.
        wave = (rows * 0.9 + columns * 0.35).astype(np.float32) * np.float32(38 / self._unit)
        down = 0.1 * np.sin(wave)
        self._blend(window, trunk.colour, cover, right / width, down)

    def _window(self, left: float, top: float, right: float, bottom: float) -> tuple[slice, slice]:
        _, rows, columns = self._paint.shape
        return (
            slice(max(0, math.floor(top)), min(rows, math.ceil(bottom))),
            slice(max(0, math.floor(left)), min(columns, math.ceil(right))),
        )

    def _blend(
        self,
        window: tuple[slice, slice],
        colour: Rgb,
        cover: NDArray[np.floating],
        normal_right: NDArray[np.floating],
        normal_down: NDArray[np.floating],
    ) -> None:
        """Lay a shaded colour over what is there; the normals' third part follows from their length of 1."""
        outward = np.sqrt(np.maximum(1 - normal_right * normal_right - normal_down * normal_down, 0))
        lit = normal_right * _LIGHT[0] + normal_down * _LIGHT[1] + outward * _LIGHT[2]
        shade = _AMBIENT + _DIFFUSE * np.maximum(lit, 0)
        paint = self._paint[:, window[0], window[1]]
        paint *= 1 - cover
        for k, level in enumerate(colour):
            paint[k] += np.minimum(level * shade, _BRIGHTEST) * cover
        paint[3] += cover

    def to_rgba(self) -> NDArray[np.uint8]:
        """The sprite, its colours no longer premultiplied."""
        cover = self._paint[3]
        self._paint[:3] /= np.maximum(cover, 1e-3)
        cover *= 255
        return np.ascontiguousarray(self._paint.round().astype(np.uint8).transpose(1, 2, 0))
