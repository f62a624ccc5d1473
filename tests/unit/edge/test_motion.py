"""Motion detection, through `step` only: what moves is boxed, what does not is not."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from config.cameras import MotionSettings
from edge.motion.detector import MotionDetector, MotionResult
from edge.synthetic.street import StreetPerson, SyntheticStreet, luma_thumbnail

Luma = NDArray[np.uint8]

STREET = SyntheticStreet(seed=3)
QUIET_S = 15.0


def empty_street() -> Luma:
    return luma_thumbnail(STREET.picture(QUIET_S))


def watch(pictures: Iterable[Luma], *, fps: float = 10.0, detector: MotionDetector | None = None) -> list[MotionResult]:
    detector = detector or MotionDetector()
    return [detector.step(luma, k / fps) for k, luma in enumerate(pictures)]


def noisy(
    picture: Luma, frames: int, *, sigma: float, change: Callable[[int], float] = lambda k: 1.0
) -> Iterable[Luma]:
    """A picture with sensor noise, its brightness multiplied by `change` of the frame's number."""
    rng = np.random.default_rng(5)
    for k in range(frames):
        yield np.clip(picture * change(k) + rng.normal(0, sigma, picture.shape), 0, 255).astype(np.uint8)


def with_square(picture: Luma, left: int, top: int, side: int = 12, level: int = 30) -> Luma:
    changed = picture.copy()
    changed[top : top + side, left : left + side] = level
    return changed


def covers(result: MotionResult, person: StreetPerson) -> bool:
    left, top, right, bottom = person.box_xyxy
    x, y = (left + right) / 2, (top + bottom) / 2
    return any(box[0] <= x <= box[2] and box[1] <= y <= box[3] for box in result.boxes_xyxy)


def boxed_area(result: MotionResult) -> float:
    return sum((right - left) * (bottom - top) for left, top, right, bottom in result.boxes_xyxy)


@pytest.mark.parametrize("fps", [2.0, 10.0, 25.0])
def test_everybody_in_the_street_is_boxed_at_any_frame_rate(fps: float) -> None:
    detector = MotionDetector()
    found, areas, people_areas = [], [], []
    for k in range(int((12 if fps < 20 else 8) * fps)):
        at_s = k / fps
        result = detector.step(luma_thumbnail(STREET.picture(at_s)), at_s)
        people = [person for person in STREET.people(at_s) if person.fully_visible]
        if people and not result.calibrating:
            found += [covers(result, person) for person in people]
            areas.append(boxed_area(result))
            people_areas.append(sum((b[2] - b[0]) * (b[3] - b[1]) for b in (p.box_xyxy for p in people)))
    assert len(found) > 8 * fps
    assert np.mean(found) > 0.99
    assert np.mean(people_areas) < np.mean(areas) < 2 * np.mean(people_areas)


def test_a_quiet_street_has_no_boxes() -> None:
    detector = MotionDetector()
    results = {at_s: detector.step(luma_thumbnail(STREET.picture(at_s)), at_s) for at_s in np.arange(10, 40, 0.4)}
    quiet = [result for at_s, result in results.items() if at_s % 20 > 13.6 and at_s > 12]
    assert len(quiet) > 25
    assert all(result.boxes_xyxy == () and result.score == 0 for result in quiet)


def test_a_person_is_found_in_the_second_in_which_they_come() -> None:
    detector = MotionDetector()
    watch([empty_street()] * 30, detector=detector)
    enters_s = next(t for t in np.arange(20, 30, 0.1) if any(p.fully_visible for p in STREET.people(float(t))))
    results = [detector.step(luma_thumbnail(STREET.picture(enters_s + t)), 3.0 + t) for t in (0.0, 0.1, 0.2)]
    # One frame may be a drop of rain; the second is believed.
    assert [bool(result.boxes_xyxy) for result in results] == [False, True, True]


@pytest.mark.parametrize("shape", [(48, 64), (100, 133), (100, 178), (97, 131), (360, 480), (720, 1280)])
def test_any_size_of_picture_works(shape: tuple[int, int]) -> None:
    height, width = shape
    scene = np.full(shape, 120, np.uint8)
    side = height // 6
    pictures = [scene] * 15 + [with_square(scene, width // 2, height // 2, side) for _ in range(3)]
    result = watch(pictures)[-1]
    assert len(result.boxes_xyxy) == 1
    left, top, right, bottom = result.boxes_xyxy[0]
    cell = 2 / 50
    assert (left, top) == pytest.approx((0.5, 0.5), abs=cell)
    assert (right, bottom) == pytest.approx((0.5 + side / width, 0.5 + side / height), abs=cell)
    assert result.score == pytest.approx(side**2 / (height * width), rel=0.6)


def test_the_first_second_is_calibration_and_has_no_boxes() -> None:
    scene = empty_street()
    results = watch([with_square(scene, 10 + 4 * k, 40) for k in range(12)])
    assert [result.calibrating for result in results] == [True] * 10 + [False] * 2
    assert all(result.boxes_xyxy == () for result in results[:10])
    assert results[-1].boxes_xyxy


def test_an_unchanging_picture_has_no_motion() -> None:
    assert all(result.score == 0 for result in watch([empty_street()] * 50))


@pytest.mark.parametrize("sigma", [1.0, 4.0, 10.0])
def test_noise_is_no_motion(sigma: float) -> None:
    results = watch(noisy(empty_street(), 200, sigma=sigma))
    assert sum(bool(result.boxes_xyxy) for result in results) == 0


LIGHTS: dict[str, Callable[[int], float]] = {
    "slowly darker": lambda k: 1 - 0.003 * k,
    "slowly brighter": lambda k: 0.6 + 0.003 * k,
    "a cloud": lambda k: 0.75 if 50 <= k < 100 else 1.0,
    "a lamp": lambda k: 1.35 if k >= 60 else 1.0,
    "nearly off": lambda k: 0.15 if k >= 60 else 1.0,
    "flicker": lambda k: 1 + 0.08 * np.sin(0.7 * k),
}


@pytest.mark.parametrize("fps", [2.0, 10.0])
@pytest.mark.parametrize("light", LIGHTS)
def test_light_that_changes_everywhere_is_no_motion(light: str, fps: float) -> None:
    results = watch(noisy(empty_street(), 150, sigma=1.5, change=LIGHTS[light]), fps=fps)
    assert [k for k, result in enumerate(results) if result.boxes_xyxy] == []


@pytest.mark.parametrize("light", ["a cloud", "a lamp", "flicker"])
def test_light_that_jumps_blinds_nobody(light: str) -> None:
    pictures = list(noisy(empty_street(), 150, sigma=1.5, change=LIGHTS[light]))
    assert not any(result.calibrating for result in watch(pictures)[10:])


def test_somebody_is_found_while_the_light_changes() -> None:
    scene = empty_street()
    walk = [with_square(scene, 20 + 2 * max(0, k - 30), 50) if k >= 30 else scene for k in range(80)]
    dimmed = [(luma * (1 - 0.006 * k)).astype(np.uint8) for k, luma in enumerate(walk)]
    assert all(result.boxes_xyxy for result in watch(dimmed)[31:])


def test_a_switch_to_infrared_is_learnt_anew_without_boxes() -> None:
    scene = empty_street()
    infrared = 255 - scene
    results = watch([scene] * 30 + [infrared] * 30 + [with_square(infrared, 60, 50, level=255)] * 2)
    assert [result.calibrating for result in results[30:40]] == [True] * 10
    assert not any(result.boxes_xyxy for result in results[:60])
    assert results[-1].boxes_xyxy
    assert not results[-1].calibrating


def test_a_big_thing_that_comes_near_is_motion_and_no_change_of_light() -> None:
    scene = empty_street()
    results = watch([scene] * 40 + [with_square(scene, 0, 0, side=60)] * 3)
    assert results[-1].boxes_xyxy
    assert results[-1].score == pytest.approx(60 * 60 / scene.size, rel=0.2)


def test_what_stays_becomes_background_and_leaving_shows() -> None:
    scene = empty_street()
    parked = with_square(scene, 60, 50)
    settings_ = MotionSettings(still_s=5.0)
    results = watch([scene] * 300 + [parked] * 100 + [scene] * 5, detector=MotionDetector(settings_))
    boxed = [bool(result.boxes_xyxy) for result in results]
    assert not any(boxed[:300])
    assert all(boxed[301:345])
    assert not any(boxed[365:400])
    assert all(boxed[401:])


def test_whoever_was_there_at_the_start_leaves_no_lasting_ghost() -> None:
    scene = empty_street()
    results = watch([with_square(scene, 60, 50)] * 20 + [scene] * 80)
    assert results[25].boxes_xyxy
    assert not any(result.boxes_xyxy for result in results[60:])


def fidget(k: int, fps: float) -> Luma:
    """Low contrast that changes a little twice a second, in one place."""
    return with_square(np.full((100, 178), 120, np.uint8), 60, 50, level=106 if int(2 * k / fps) % 2 else 100)


@pytest.mark.parametrize("fps", [2.0, 10.0])
def test_somebody_who_fidgets_in_one_place_stays_in_motion(fps: float) -> None:
    detector = MotionDetector()
    calm_s = 10
    watch([np.full((100, 178), 120, np.uint8)] * int(calm_s * fps), fps=fps, detector=detector)
    results = [detector.step(fidget(k, fps), calm_s + k / fps) for k in range(int(10 * fps))]
    assert all(result.boxes_xyxy for result in results[1:])


@pytest.mark.parametrize("fps", [1.0, 4.0])
@pytest.mark.parametrize(("every_s", "boxed"), [(10, False), (2, True)])
def test_a_creeping_shadow_is_no_motion_but_a_quick_one_is(fps: float, every_s: int, *, boxed: bool) -> None:
    shades = [with_square(np.full((100, 178), 120, np.uint8), 60, 50, side=20, level=120 - 2 * k) for k in range(15)]
    pictures = [shades[0]] * int(300 * fps) + [shade for shade in shades for _ in range(int(every_s * fps))]
    results = watch(pictures, fps=fps, detector=MotionDetector(MotionSettings(still_s=1000)))
    assert any(result.boxes_xyxy for result in results) == boxed


def test_a_swaying_branch_is_learnt_while_the_rest_stays_sensitive() -> None:
    scene = empty_street()
    rng = np.random.default_rng(8)

    def sway(luma: Luma) -> Luma:
        swaying = luma.copy()
        branch = swaying[5:25, 10:40]
        branch[...] = np.where(rng.random(branch.shape) < 0.3, 60, branch)
        return swaying

    results = watch([sway(scene) for _ in range(500)] + [sway(with_square(scene, 100, 60)) for _ in range(12)])
    assert sum(bool(result.boxes_xyxy) for result in results[400:500]) <= 5
    assert any(box[0] > 0.5 for box in results[-1].boxes_xyxy)


def test_one_thing_with_gaps_is_one_box_and_two_things_are_two() -> None:
    scene = np.full((100, 178), 120, np.uint8)
    dressed = with_square(with_square(scene, 40, 30), 40, 46)
    apart = with_square(with_square(scene, 40, 30), 90, 30)
    assert len(watch([scene] * 15 + [dressed] * 2)[-1].boxes_xyxy) == 1
    assert len(watch([scene] * 15 + [apart] * 2)[-1].boxes_xyxy) == 2


def test_boxes_come_largest_first() -> None:
    scene = np.full((100, 178), 120, np.uint8)
    picture = with_square(with_square(scene, 20, 30, side=8), 120, 30, side=30)
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in watch([scene] * 15 + [picture] * 2)[-1].boxes_xyxy]
    assert len(areas) == 2
    assert areas == sorted(areas, reverse=True)


def test_sensitivity_decides_how_little_counts() -> None:
    scene = np.full((100, 178), 120, np.uint8)
    faint = with_square(scene, 60, 50, level=132)
    seen, unseen = (
        watch([scene] * 15 + [faint] * 2, detector=MotionDetector(MotionSettings(sensitivity=sensitivity)))[-1]
        for sensitivity in (0.5, 0.1)
    )
    assert seen.boxes_xyxy
    assert not unseen.boxes_xyxy


def test_the_same_frames_give_the_same_results() -> None:
    pictures = [luma_thumbnail(STREET.picture(k / 5)) for k in range(50)]
    assert watch(pictures, fps=5) == watch(pictures, fps=5)


def test_another_size_or_a_step_back_in_time_starts_anew() -> None:
    detector = MotionDetector()
    watch([empty_street()] * 20, detector=detector)
    assert not detector.step(empty_street(), 2.0).calibrating
    assert detector.step(np.zeros((90, 160), np.uint8), 2.1).calibrating
    watch([np.zeros((90, 160), np.uint8)] * 20, detector=detector)
    assert detector.step(np.zeros((90, 160), np.uint8), 0.5).calibrating


def test_a_long_gap_between_frames_does_no_harm() -> None:
    detector = MotionDetector()
    watch([empty_street()] * 20, detector=detector)
    result = detector.step(with_square(empty_street(), 60, 50), 3600.0)
    assert len(result.boxes_xyxy) == 1
    assert not detector.step(empty_street(), 3600.1).calibrating


def test_a_picture_that_is_a_window_into_a_larger_one_works() -> None:
    padded = np.zeros((100, 200), np.uint8)
    window = padded[:, 11:189]
    window[...] = empty_street()
    assert watch([window] * 15)[-1] == watch([window.copy()] * 15)[-1]


@pytest.mark.parametrize(
    ("luma", "complaint"),
    [
        (np.zeros((100, 178), np.float32), "float32 of shape"),
        (np.zeros((100, 178, 3), np.uint8), "pass uint8 of shape"),
        (np.zeros((100, 15), np.uint8), "15x100 px"),
        (np.zeros((0, 0), np.uint8), "at least 16 px"),
    ],
)
def test_what_is_no_picture_is_refused(luma: NDArray[np.uint8], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        MotionDetector().step(luma, 0.0)


@pytest.mark.parametrize("at_s", [float("nan"), float("inf")])
def test_what_is_no_time_is_refused(at_s: float) -> None:
    with pytest.raises(ValueError, match="at_s"):
        MotionDetector().step(empty_street(), at_s)


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(16, 130), st.integers(16, 200)),
    seed=st.integers(0, 2**32 - 1),
    gaps_s=st.lists(st.floats(0, 100), min_size=4, max_size=8),
)
def test_whatever_comes_the_results_are_in_range(shape: tuple[int, int], seed: int, gaps_s: list[float]) -> None:
    rng = np.random.default_rng(seed)
    scene = rng.integers(0, 256, shape, np.uint8)
    detector = MotionDetector(MotionSettings(sensitivity=1.0))
    at_s = 0.0
    for gap_s in gaps_s:
        at_s += gap_s
        top, left = int(rng.integers(shape[0])), int(rng.integers(shape[1]))
        picture = scene.copy()
        picture[top : top + int(rng.integers(40)), left : left + int(rng.integers(40))] = rng.integers(256)
        result = detector.step(picture, at_s)
        assert 0 <= result.score <= 1
        assert all(0 <= left < right <= 1 and 0 <= top < bottom <= 1 for left, top, right, bottom in result.boxes_xyxy)
        assert bool(result.boxes_xyxy) == (result.score > 0)
