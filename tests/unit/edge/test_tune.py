"""Trying out motion detection: what is counted, suggested, painted and printed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

from config.cameras import CameraSettings, MotionSettings, PrivacySettings
from config.errors import ConfigError
from config.settings import Settings
from edge.motion.cli import motion
from edge.motion.tune import Tuning
from edge.motion.tune_picture import paint_tuning

Luma = NDArray[np.uint8]
FPS = 5.0


def wall() -> Luma:
    return np.random.default_rng(3).integers(90, 130, (50, 90)).astype(np.uint8)


def yard(at_s: float, *, screen: bool = False, flashes: bool = False) -> Luma:
    """A wall, from 10 s to 16 s somebody before it; a screen that never rests; small flashes every 3 s."""
    picture = wall()
    if 10 <= at_s < 16:
        left = int(10 + 8 * (at_s - 10))
        picture[20:36, left : left + 6] = 20
    if screen:
        picture[2:12, 70:84] = 255 * (int(at_s / 0.6) % 2)
    if flashes and 1 <= at_s % 4 < 1.5:
        picture[40:42, 60:62] = 220
    return picture


def tuned(length_s: float = 30.0, *, screen: bool = False, flashes: bool = False, **settings: object) -> Tuning:
    tuning = Tuning(MotionSettings.model_validate({"hold_s": 1.0, **settings}))
    for k in range(int(length_s * FPS)):
        tuning.step(yard(k / FPS, screen=screen, flashes=flashes), k / FPS)
    return tuning


def test_somebody_is_one_lasting_movement_at_every_sensitivity_and_nothing_needs_to_change() -> None:
    tuning = tuned()
    assert [(len(trial.lasting), trial.brief) for trial in tuning.trials] == [(1, 0)] * len(tuning.trials)
    advice = tuning.advise()
    assert (advice.sensitivity, advice.min_size, advice.masks) == (0.5, 0.0, {})
    seen = tuning.current.movements[0]
    assert seen.began_s == pytest.approx(10, abs=0.5)
    assert 10 < seen.peak_s < 16.5
    assert seen.boxes_xyxy


def test_the_camera_s_own_sensitivity_is_tried_as_well() -> None:
    tuning = tuned(3.0, sensitivity=0.42)
    assert tuning.current.sensitivity == 0.42
    assert tuning.current in tuning.trials


def test_a_place_that_always_moves_is_to_be_masked() -> None:
    advice = tuned(screen=True).advise()
    ((name, polygon),) = advice.masks.items()
    assert name == "restless-1"
    (left, top), _, (right, bottom), _ = polygon
    assert (left, right) == pytest.approx((70 / 90, 84 / 90), abs=0.03)
    assert (top, bottom) == pytest.approx((0.04, 0.24), abs=0.04)
    masked = tuned(screen=True, masks={name: polygon})
    assert len(masked.current.movements) == 1


def test_a_short_look_suggests_no_masks() -> None:
    advice = tuned(12.0, screen=True).advise()
    assert advice.masks == {}
    assert any("no masks" in reason for reason in advice.reasons)


def test_small_brief_movements_are_kept_out_by_a_least_size() -> None:
    tuning = tuned(flashes=True)
    assert tuning.current.brief > 3
    advice = tuning.advise()
    assert advice.sensitivity == 0.5
    assert 4 / (50 * 90) < advice.min_size < 0.01
    again = tuned(flashes=True, min_size=advice.min_size)
    assert (len(again.current.lasting), again.current.brief) == (1, 0)


def test_large_brief_movements_lead_to_less_sensitivity() -> None:
    tuning = Tuning(MotionSettings(hold_s=1.0, sensitivity=0.875))
    for k in range(150):
        picture = np.where(yard(k / FPS) == 20, 20, 110).astype(np.uint8)
        if k % 20 in (5, 6, 7):
            picture[38:46, 20:60] += 5
        tuning.step(picture, k / FPS)
    assert tuning.current.brief > 3
    advice = tuning.advise()
    assert advice.sensitivity < 0.875
    assert tuning.trial(advice.sensitivity).brief == 0
    assert len(tuning.trial(advice.sensitivity).lasting) == 1


def test_heat_is_the_share_of_the_time_in_which_a_place_changed() -> None:
    heat = tuned(screen=True).heat
    assert heat.shape == (50, 90)
    assert heat[2:12, 71:83].mean() > 0.4
    assert heat[45:].max() == 0


def test_the_picture_shows_heat_boxes_zones_and_masks() -> None:
    area = ((0.0, 0.5), (0.3, 0.5), (0.3, 1.0), (0.0, 1.0))
    tuning = tuned(screen=True, zones={"door": ((0.1, 0.1), (0.9, 0.1), (0.5, 0.9))}, masks={"hedge": area})
    plain = Image.new("RGB", (320, 180), (90, 90, 90))
    picture = paint_tuning(tuning, plain, tuning.advise(), "yard")
    assert picture.width == 1232
    assert picture.height > 48 + 675
    pixels = np.asarray(picture)[48 : 48 + 675, 16 : 16 + 1200].astype(int)
    red = pixels[40:150, 950:1100].reshape(-1, 3).mean(axis=0)
    assert red[0] > red[2] + 60
    assert (np.abs(pixels - (110, 220, 130)).sum(axis=2) == 0).sum() > 500


def test_a_picture_is_painted_of_nothing_too() -> None:
    tuning = Tuning(MotionSettings())
    assert paint_tuning(tuning, Image.new("RGB", (32, 18)), tuning.advise(), "yard").width == 1232


def run_tune(*arguments: str, cameras: dict[str, CameraSettings] | None = None) -> Result:
    settings = Settings(cameras=cameras or {})
    return CliRunner().invoke(motion, ["tune", *arguments], obj=lambda _overrides: settings)


def test_a_camera_is_tuned_and_the_yaml_fits_the_settings(tmp_path: Path) -> None:
    out = tmp_path / "street.png"
    camera = CameraSettings.model_validate(
        {"source": "synthetic:street?seed=3&fps=5&width=320&height=180&pace=max", "motion": {"zones": {"door": SQUARE}}}
    )
    result = run_tune("street", "--for", "12s", "--out", str(out), cameras={"street": camera})
    assert result.exit_code == 0, result.output
    printed = yaml.safe_load(result.output)
    MotionSettings.model_validate(printed["cameras"]["street"]["motion"])
    with Image.open(out) as picture:
        assert picture.width == 1232


SQUARE = ((0.2, 0.2), (0.8, 0.2), (0.8, 0.9), (0.2, 0.9))


def test_of_a_private_camera_no_picture_is_shown(tmp_path: Path) -> None:
    out = tmp_path / "street.jpg"
    camera = CameraSettings(
        source="synthetic:street?seed=3&fps=5&width=320&height=180&pace=max", privacy=PrivacySettings(enabled=True)
    )
    assert run_tune("street", "--for", "2s", "--out", str(out), cameras={"street": camera}).exit_code == 0
    with Image.open(out) as picture:
        shown = np.asarray(picture)[60:180, 100:1100]
    assert shown.std(axis=(0, 1)).max() < 1


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("gate",), "gate: no camera of the site file"),
        (("synthetic:street", "--out", "street.gif"), "ends in one of .png, .jpg"),
        (("carrier-pigeon:coop", "--out", "coop.png"), "carrier-pigeon"),
    ],
)
def test_what_cannot_be_tuned_is_refused(arguments: tuple[str, ...], complaint: str) -> None:
    result = run_tune(*arguments)
    assert isinstance(result.exception, ConfigError)
    assert complaint in str(result.exception)
