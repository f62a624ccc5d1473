from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import DTypeLike

from broker.messages import ModelInput
from detector.decoding import Fit, Found, to_picture
from detector.inputs import IMAGENET, UNIT_RGB, InputConvention, InputSpec, Placing, place, to_numbers
from detector.pictures import Picture

FLOAT = InputSpec(4, 2, None, np.dtype(np.float32), channels_first=True)


def spec(dtype: DTypeLike, *, channels_first: bool = False, scale: float = 0.0, zero: int = 0) -> InputSpec:
    return InputSpec(4, 2, None, np.dtype(dtype), channels_first, scale, zero)


def colour(*values: int) -> Picture:
    return np.full((2, 4, 3), values, np.uint8)


def test_a_letterboxed_picture_keeps_its_shape_and_has_grey_around_it() -> None:
    canvas, fit = place(np.full((360, 480, 3), 200, np.uint8), 416, 416, "corner")
    assert fit == Fit(480, 360, 416 / 480, 416 / 480)
    assert canvas.shape == (416, 416, 3)
    assert (canvas[:312] == 200).all()
    assert (canvas[312:] == 114).all()


def test_it_may_lie_in_the_middle() -> None:
    canvas, fit = place(np.full((360, 480, 3), 200, np.uint8), 416, 416, "centre")
    assert fit == Fit(480, 360, 416 / 480, 416 / 480, 0, 52)
    assert (canvas[52:364] == 200).all()
    assert (canvas[:52] == 114).all()
    assert (canvas[364:] == 114).all()


def test_a_stretched_picture_fills_the_input() -> None:
    canvas, fit = place(np.full((360, 480, 3), 200, np.uint8), 300, 320, "stretch")
    assert fit == Fit(480, 360, 300 / 480, 320 / 360)
    assert canvas.shape == (320, 300, 3)
    assert (canvas == 200).all()


@given(
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
    st.sampled_from([(32, 416), (416, 32), (640, 640)]),
    st.sampled_from(["corner", "centre", "stretch"]),
)
def test_any_picture_lies_inside_the_input(picture: tuple[int, int], sides: tuple[int, int], how: Placing) -> None:
    width, height = picture
    canvas, fit = place(np.zeros((height, width, 3), np.uint8), *sides, how)
    assert canvas.shape == (sides[1], sides[0], 3)
    assert 0 <= fit.left <= fit.left + width * fit.scale_x <= sides[0] + 1
    assert 0 <= fit.top <= fit.top + height * fit.scale_y <= sides[1] + 1
    all_of_it = np.array([[0, 0, *sides]], np.float32)
    back = to_picture(Found(all_of_it, np.ones(1, np.float32), np.zeros(1, np.int64)), fit)
    assert back.boxes_px[0] == pytest.approx([0, 0, width, height], abs=max(1, 0.6 / fit.scale_x, 0.6 / fit.scale_y))


@pytest.mark.parametrize(
    ("convention", "numbers"),
    [
        (InputConvention(colour="bgr"), [10, 20, 30]),
        (InputConvention(colour="rgb"), [30, 20, 10]),
        (UNIT_RGB, [30 / 255, 20 / 255, 10 / 255]),
        (IMAGENET, [(30 - 123.675) / 58.395, (20 - 116.28) / 57.12, (10 - 103.53) / 57.375]),
    ],
)
@pytest.mark.parametrize("channels_first", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_pixels_become_the_numbers_of_the_convention(
    convention: InputConvention, numbers: list[float], dtype: DTypeLike, *, channels_first: bool
) -> None:
    made = to_numbers(colour(10, 20, 30), spec(dtype, channels_first=channels_first), convention)
    assert made.shape == ((3, 2, 4) if channels_first else (2, 4, 3))
    assert made.dtype == dtype
    assert made.flags.c_contiguous
    seen = made[:, 1, 2] if channels_first else made[1, 2]
    assert seen == pytest.approx(numbers, rel=1e-3)


def test_whole_numbers_are_the_pixels() -> None:
    made = to_numbers(colour(10, 20, 30), spec(np.uint8), UNIT_RGB)
    assert made[0, 0].tolist() == [30, 20, 10]
    assert to_numbers(colour(10, 20, 30), spec(np.uint8, channels_first=True), UNIT_RGB)[:, 0, 0].tolist() == [
        30,
        20,
        10,
    ]


@pytest.mark.parametrize(
    ("dtype", "scale", "zero", "convention", "numbers"),
    [
        (np.uint8, 1 / 255, 0, UNIT_RGB, [255, 200, 0]),
        (np.int8, 1 / 255, -128, UNIT_RGB, [127, 72, -128]),
        (np.int8, 1.0, -128, InputConvention(), [127, 72, -128]),
        (np.int8, 0.5, 0, InputConvention(), [127, 127, 0]),  # what is too much is the most
    ],
)
def test_a_quantised_network_gets_its_own_numbers(
    dtype: DTypeLike, scale: float, zero: int, convention: InputConvention, numbers: list[int]
) -> None:
    made = to_numbers(colour(0, 200, 255), spec(dtype, scale=scale, zero=zero), convention)
    assert made.dtype == dtype
    assert made[0, 0].tolist() == numbers


def test_what_is_stated_of_a_model_goes_before_its_layout() -> None:
    assert UNIT_RGB.changed(None) is UNIT_RGB
    changed = UNIT_RGB.changed(ModelInput(colour="bgr", fit="centre"))
    assert changed == InputConvention("bgr", "centre", std=(255.0, 255.0, 255.0))
    assert UNIT_RGB.changed(ModelInput(mean=(1.0, 2.0, 3.0))).mean == (1.0, 2.0, 3.0)
