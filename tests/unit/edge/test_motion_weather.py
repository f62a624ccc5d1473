"""Rain, wind and light: what changes the picture and is nobody, and that people are still found in it."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from config.cameras import MotionSettings
from edge.motion.detector import MotionDetector, MotionResult
from edge.synthetic.street import SyntheticStreet, luma_thumbnail

Luma = NDArray[np.uint8]
Field = NDArray[np.float64]

FPS = 5.0
HEIGHT, WIDTH = 100, 178
SETTLED_S = 6.0
"""By then the weather is known, where it is bad from the start."""


@functools.cache
def street() -> Field:
    """Without people; larger than the picture, so that the camera can look aside."""
    picture = luma_thumbnail(SyntheticStreet(seed=3).picture(15.0), 120).astype(np.float64)
    return np.pad(picture, 20, mode="reflect")


def looking_at(right_px: float = 0.0, down_px: float = 0.0) -> Field:
    """The street from a little aside, between pixels as well."""
    y, x = 20 + down_px, 20 + right_px
    top, left = int(y), int(x)
    window = street()[top : top + HEIGHT + 1, left : left + WIDTH + 1]
    rows = window[:-1] * (1 - (y - top)) + window[1:] * (y - top)
    return np.asarray(rows[:, :-1] * (1 - (x - left)) + rows[:, 1:] * (x - left))


def watch(
    length_s: float,
    scene: Callable[[float, np.random.Generator], Field],
    *,
    settings: MotionSettings | None = None,
    noise: float = 1.0,
    walker_from_s: float = 1e9,
) -> list[MotionResult]:
    """Frames of a scene, from a time on with somebody in black who walks through it."""
    rng = np.random.default_rng(5)
    detector = MotionDetector(settings)
    results = []
    for k in range(int(length_s * FPS)):
        at_s = k / FPS
        picture = scene(at_s, rng)
        if at_s >= walker_from_s:
            left = int(10 + 12 * (at_s - walker_from_s))
            picture = picture.copy()
            picture[50:80, left : left + 9] = 15
        noisy = picture + rng.normal(0, noise, picture.shape)
        results.append(detector.step(noisy.clip(0, 255).astype(np.uint8), at_s))
    return results


def boxed(results: list[MotionResult], begin_s: float = 0.0, end_s: float = 1e9) -> int:
    return sum(bool(result.boxes_xyxy) for k, result in enumerate(results) if begin_s <= k / FPS < end_s)


def finds_walker(results: list[MotionResult], begin_s: float, walker_from_s: float) -> float:
    found = []
    for k, result in enumerate(results):
        if k / FPS >= begin_s:
            x = (14.5 + 12 * (k / FPS - walker_from_s)) / WIDTH
            found.append(any(box[0] <= x <= box[2] and box[1] <= 0.65 <= box[3] for box in result.boxes_xyxy))
    return float(np.mean(found))


def gust(at_s: float, rng: np.random.Generator) -> Field:
    if at_s < 4:
        return looking_at()
    return looking_at(1.4 * np.sin(7 * at_s) + 0.3 * rng.normal(), 0.7 * np.sin(9.1 * at_s))


def rain(at_s: float, rng: np.random.Generator) -> Field:
    picture = 0.6 * looking_at()
    for _ in range(8):
        x, y, length = int(rng.integers(WIDTH)), int(rng.integers(HEIGHT - 20)), int(rng.integers(4, 20))
        picture[y : y + length, x] += rng.uniform(10, 45)
    return picture


def lamp(at_s: float, rng: np.random.Generator) -> Field:
    x, y = np.arange(WIDTH), np.arange(HEIGHT)[:, None]
    glow = 1 / (1 + ((x - 60) / 45) ** 2 + ((y - 40) / 60) ** 2) ** 1.5
    return looking_at() * (0.4 + 0.5 * glow * (at_s > 4 and int(at_s / 4) % 2))


def cloud(at_s: float, rng: np.random.Generator) -> Field:
    edge = (at_s - 4) * 45
    return looking_at() * (1.0 - 0.35 / (1 + np.exp((np.arange(WIDTH) - edge) / 10)))


def beam(at_s: float, rng: np.random.Generator) -> Field:
    x, y = np.arange(WIDTH), np.arange(HEIGHT)[:, None]
    middle = -80 + (at_s - 4) * 100
    return looking_at() * (0.4 + 0.6 * np.exp(-(((x - middle) / 30) ** 2) - ((y - 55) / 30) ** 2))


SCENES = {scene.__name__: scene for scene in (gust, rain, lamp, cloud, beam)}


@pytest.mark.parametrize("name", SCENES)
def test_weather_and_light_are_no_motion(name: str) -> None:
    assert boxed(watch(30, SCENES[name]), SETTLED_S) == 0


@pytest.mark.parametrize(("name", "from_s"), [("gust", 15), ("rain", 20), ("lamp", 13), ("cloud", 12), ("beam", 12)])
def test_somebody_is_found_in_it(name: str, from_s: float) -> None:
    results = watch(from_s + 12, SCENES[name], walker_from_s=from_s)
    assert boxed(results, SETTLED_S, from_s) == 0
    assert finds_walker(results, from_s + 1.5, from_s) > 0.9


def test_a_shaking_camera_is_motion_where_it_is_not_to_be_steadied() -> None:
    assert boxed(watch(15, gust, settings=MotionSettings(steady=False))) > 10


def test_a_camera_that_was_turned_a_little_calibrates_on_the_new_view() -> None:
    results = watch(34, lambda at_s, rng: looking_at(*((0, 0) if at_s < 4 else (2.5, 1.0))), walker_from_s=22)
    assert boxed(results, 18, 22) == 0
    assert finds_walker(results, 23, 22) > 0.9


def test_a_plain_thing_before_a_plain_wall_is_no_light() -> None:
    wall = np.full((HEIGHT, WIDTH), 120.0)

    def lorry(at_s: float, rng: np.random.Generator) -> Field:
        picture = wall.copy()
        if at_s >= 5:
            picture[30:80, 50:120] = 90
        return picture

    results = watch(6, lorry, noise=0.5)
    assert results[-1].boxes_xyxy
    left, top, right, bottom = results[-1].boxes_xyxy[0]
    assert (left, right) == pytest.approx((50 / WIDTH, 120 / WIDTH), abs=0.03)
    assert (top, bottom) == pytest.approx((0.3, 0.8), abs=0.04)


def test_a_drop_in_one_frame_is_nobody_but_keyframes_only_are_believed_at_once() -> None:
    drop = np.full((HEIGHT, WIDTH), 120, np.uint8)
    dropped = drop.copy()
    dropped[40:60, 60:64] = 200

    def last(gap_s: float) -> MotionResult:
        detector = MotionDetector()
        frames = [drop] * 20 + [dropped]
        return [detector.step(luma, k * gap_s) for k, luma in enumerate(frames)][-1]

    assert last(0.1).boxes_xyxy == ()
    assert last(1.0).boxes_xyxy


def test_rain_does_not_keep_a_movement_alive() -> None:
    results = watch(60, rain, walker_from_s=20)
    assert boxed(results, 21, 30) > 40
    assert boxed(results, 40) == 0
