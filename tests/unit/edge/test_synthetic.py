"""The synthetic street: repeatable, true to what it says about itself, and real enough for people detectors."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from edge.synthetic.pedestrian import draw_pedestrian, random_look
from edge.synthetic.street import StreetPerson, SyntheticStreet, encode_jpeg, luma_thumbnail

Picture = NDArray[np.uint8]
Box = tuple[float, float, float, float]

WAVE_S = 20.0
STREET = SyntheticStreet(seed=7)


def overlap(first: Sequence[float], second: Sequence[float]) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return width * height / (areas - width * height)


def test_seed_and_instant_decide_every_pixel() -> None:
    twin = SyntheticStreet(seed=7)
    for at_s in (31.7, 0.0, 4.4, 7203.25):
        assert np.array_equal(STREET.picture(at_s), twin.picture(at_s))
        assert STREET.people(at_s) == twin.people(at_s)
    assert not np.array_equal(STREET.picture(4.4), SyntheticStreet(seed=8).picture(4.4))


@pytest.mark.parametrize("size", [(640, 360), (320, 240), (64, 48), (1280, 720), (641, 363)])
def test_pictures_come_in_the_size_asked_for(size: tuple[int, int]) -> None:
    width, height = size
    street = SyntheticStreet(seed=1, width_px=width, height_px=height)
    picture = street.picture(5.0)
    assert picture.shape == (height, width, 3)
    assert picture.dtype == np.uint8
    for person in street.people(5.0):
        assert person.box_xyxy_px == pytest.approx(np.multiply(person.box_xyxy, (width, height, width, height)))


@pytest.mark.parametrize("first_wave", [0, 500])
def test_people_come_in_waves_with_nobody_in_between(first_wave: int) -> None:
    for wave in range(first_wave, first_wave + 6):
        present = [bool(STREET.people(wave * WAVE_S + second)) for second in np.arange(0, WAVE_S, 0.25)]
        assert any(present[:12]), "the first comes within three seconds"
        assert not any(present[54:]), "the last third is quiet"
        assert 0.3 < np.mean(present) < 0.68


def test_people_keep_their_id_walk_steadily_and_differ() -> None:
    tracks: dict[int, list[tuple[float, Box]]] = {}
    for at_s in np.arange(0, 60, 0.1):
        for person in STREET.people(float(at_s)):
            if person.fully_visible:
                tracks.setdefault(person.person_id, []).append((float(at_s), person.box_xyxy_px))
    assert len(tracks) >= 9
    speeds = []
    for track in tracks.values():
        middles = [(box[0] + box[2]) / 2 for _, box in track]
        speed = (middles[-1] - middles[0]) / (track[-1][0] - track[0][0])
        expected = [middles[0] + speed * (at_s - track[0][0]) for at_s, _ in track]
        # Limbs swing and perspective bends the way a little.
        assert np.abs(np.subtract(middles, expected)).max() < 40
        speeds.append(speed)
    assert min(speeds) < -50
    assert max(speeds) > 50
    heights = [box[3] - box[1] for track in tracks.values() for _, box in track]
    assert 88 < min(heights) < 115
    assert 135 < max(heights) < 180


def test_the_truth_is_where_the_picture_changed() -> None:
    quiet = STREET.picture(15.0).astype(np.int16)
    for at_s in (3.0, 5.0, 7.0, 23.0, 26.0):
        picture = STREET.picture(at_s).astype(np.int16)
        # The two differ in light too, which is one factor for all.
        level = np.median(picture[..., 1] / np.maximum(quiet[..., 1], 1))
        changed = np.abs(picture - quiet * level).max(axis=2) > 24
        elsewhere = changed.copy()
        for person in STREET.people(at_s):
            left, top, right, bottom = (round(edge) for edge in person.box_xyxy_px)
            if person.fully_visible:
                assert changed[top:bottom, left:right].mean() > 0.2
                assert changed[[top + 1, bottom - 2], left:right].any(axis=1).all(), "the box is tight"
            elsewhere[max(0, top - 3) : bottom + 12, max(0, left - 12) : right + 20] = False
        assert elsewhere.mean() < 0.002, "nothing but people and their shadows changed"


def test_fully_visible_means_inside_and_in_front() -> None:
    seen = {True: 0, False: 0}
    for at_s in np.arange(0, 200, 0.5):
        people = STREET.people(float(at_s))
        for k, person in enumerate(people):
            left, top, right, bottom = person.box_xyxy_px
            at_edge = left == 0 or right == 640
            nearer = [other.box_xyxy_px for other in people[k + 1 :]]
            hidden = any(overlap(person.box_xyxy_px, box) > 0.3 for box in nearer)
            seen[person.fully_visible] += 1
            assert 0 <= left < right <= 640
            assert 0 <= top < bottom <= 360
            assert not (person.fully_visible and (at_edge or hidden))
    assert seen[True] > seen[False] > 20


def test_light_changes_slowly_and_noise_is_slight_and_new_in_each_picture() -> None:
    quiet = [np.arange(wave * WAVE_S + 14, (wave + 1) * WAVE_S, 0.5) for wave in range(6)]
    levels = [STREET.picture(float(at_s)).mean() for span in quiet for at_s in span]
    assert max(levels) - min(levels) > 12
    assert max(abs(np.diff(np.reshape(levels, (6, -1)), axis=1)).ravel()) < 2.5
    first, second = (STREET.picture(at_s).astype(np.int16) for at_s in (15.0, 15.04))
    assert 1.5 < (first - second).std() < 6


@settings(max_examples=40, deadline=None)
@given(at_s=st.floats(0, 100_000))
def test_noise_never_wraps_around(at_s: float) -> None:
    picture = STREET.picture(at_s)
    smooth = cv2.medianBlur(picture, 5).astype(np.int16)
    assert np.abs(picture - smooth).max() < 200


@pytest.mark.parametrize("at_s", [-0.1, math.nan, math.inf])
def test_before_the_beginning_there_is_no_street(at_s: float) -> None:
    with pytest.raises(ValueError, match="begins at 0 s"):
        STREET.picture(at_s)
    with pytest.raises(ValueError, match="begins at 0 s"):
        STREET.people(at_s)


def test_people_of_all_looks_and_directions_stand_on_the_ground_and_fill_their_height() -> None:
    rng = np.random.default_rng(1)
    for _ in range(60):
        look = random_look(rng)
        phase, yaw_rad = float(rng.random()), float(rng.uniform(0, 2 * math.pi))
        sprite = draw_pedestrian(look, phase=phase, yaw_rad=yaw_rad, height_px=160)
        rows, columns = np.nonzero(sprite[..., 3] > 127)
        assert 150 < rows.max() - rows.min() < 172
        assert 25 < columns.max() - columns.min() < 110
        assert (sprite[[0, -1], :, 3] < 127).all()
        assert (sprite[:, [0, -1], 3] == 0).all()


def test_jpeg_halves_the_colours_and_obeys_the_quality() -> None:
    picture = STREET.picture(5.0)
    good, poor = encode_jpeg(picture, 90), encode_jpeg(picture, 40)
    assert len(poor) < len(good) < 100_000
    with Image.open(io.BytesIO(good)) as image:
        assert (image.format, image.size, image.mode) == ("JPEG", (640, 360), "RGB")
        assert np.abs(np.asarray(image).astype(np.int16) - picture).mean() < 4
        assert [(h, v) for _, h, v, _ in image.layer] == [(2, 2), (1, 1), (1, 1)]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("size", "expected"),
    [((640, 360), (100, 178)), ((1280, 720), (100, 178)), ((480, 360), (100, 133)), ((64, 48), (48, 64))],
)
def test_the_thumbnail_is_what_averaging_gives(size: tuple[int, int], expected: tuple[int, int]) -> None:
    picture = SyntheticStreet(seed=2, width_px=size[0], height_px=size[1]).picture(4.0)
    thumbnail = luma_thumbnail(picture)
    assert thumbnail.shape == expected
    assert thumbnail.dtype == np.uint8
    reference = cv2.resize(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), expected[::-1], interpolation=cv2.INTER_AREA)
    difference = thumbnail.astype(np.int16) - reference
    assert np.abs(difference).mean() < 2.5
    assert abs(difference.mean()) < 0.5


def hog_eye() -> Callable[[Picture], list[Box]]:
    """OpenCV's default people detector; its windows have a rim, which is cut off."""
    detector = cv2.HOGDescriptor()
    detector.setSVMDetector(np.asarray(cv2.HOGDescriptor.getDefaultPeopleDetector(), np.float32))

    def see(picture: Picture) -> list[Box]:
        windows, _ = detector.detectMultiScale(
            picture[..., ::-1].copy(), hitThreshold=0.0, winStride=(8, 8), padding=(8, 8), scale=1.15, groupThreshold=1
        )
        return [(x + 0.2 * w, y + 0.11 * h, x + 0.8 * w, y + 0.89 * h) for x, y, w, h in windows]

    return see


def yolox_eye(model: Path) -> Callable[[Picture], list[Box]]:
    """YOLOX-nano; every box of a person that scores at least one half."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    cells = [(x, y, s) for s in (8, 16, 32) for y in range(416 // s) for x in range(416 // s)]
    grid, stride = np.array([cell[:2] for cell in cells]), np.array([cell[2] for cell in cells])[:, None]

    def see(picture: Picture) -> list[Box]:
        zoom = 416 / max(picture.shape[:2])
        canvas = np.full((416, 416, 3), 114, np.uint8)
        scaled = cv2.resize(picture[..., ::-1], None, fx=zoom, fy=zoom)
        canvas[: scaled.shape[0], : scaled.shape[1]] = scaled
        output = session.run(None, {"images": canvas.transpose(2, 0, 1)[None].astype(np.float32)})[0][0]
        people = output[:, 4] * output[:, 5] >= 0.5
        middle = (output[people, :2] + grid[people]) * stride[people]
        half = np.exp(output[people, 2:4]) * stride[people] / 2
        return [tuple(box) for box in (np.hstack([middle - half, middle + half]) / zoom).tolist()]

    return see


def look_around(see: Callable[[Picture], list[Box]]) -> tuple[float, float, int]:
    """Recall of people in full view, precision of boxes, and boxes where nobody is."""
    seen: list[bool] = []
    right: list[bool] = []
    ghosts = 0
    for seed in range(4):
        street = SyntheticStreet(seed=seed)
        for at_s in np.arange(1.3, 40, 3.1):
            people = street.people(float(at_s))
            with Image.open(io.BytesIO(encode_jpeg(street.picture(float(at_s))))) as image:
                boxes = see(np.asarray(image))
            seen += [found(person, boxes) for person in people if person.fully_visible]
            right += [any(overlap(box, person.box_xyxy_px) >= 0.4 for person in people) for box in boxes]
            ghosts += 0 if people else len(boxes)
    assert len(seen) > 40
    return float(np.mean(seen)), float(np.mean(right)), ghosts


def found(person: StreetPerson, boxes: Sequence[Box]) -> bool:
    return any(overlap(person.box_xyxy_px, box) >= 0.4 for box in boxes)


def test_opencvs_hog_detector_takes_them_for_people() -> None:
    recall, precision, ghosts = look_around(hog_eye())
    assert recall >= 0.7
    assert precision >= 0.8
    assert ghosts == 0


def test_yolox_takes_them_for_people(shared_data: Path) -> None:
    recall, precision, ghosts = look_around(yolox_eye(shared_data / "yolox_nano.onnx"))
    assert recall >= 0.85
    assert precision >= 0.95
    assert ghosts == 0
