"""`vigil detect` on pictures and videos, as it is called."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from config import ConfigError, PermanentError
from config.settings import Settings
from detector import detecting, films
from detector.detect_cli import detect
from detector.films import open_video, read_image, write_image
from detector.recording import read_recording
from detector.rule_trial import try_rules
from detector.track_log import read_track_log
from detector.zones import ZoneMap
from tests.unit.detector.walks import HEIGHT_PX, WIDTH_PX, SpotBackend, save_video, scene, walk

CAMERAS = {
    "yard": {
        "source": "synthetic:street",
        "zones": {
            "left": {"points": [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]},
            "wall": {"points": [[0.7, 0], [1, 0], [1, 1], [0.7, 1]], "kind": "exclude"},
        },
    }
}
RULES = {
    "somebody": {"kind": "presence", "for_s": 1, "cooldown_s": 60},
    "loiter": {"kind": "dwell", "zones": ["left"], "for_s": 2},
    "gate": {"kind": "presence", "cameras": ["gate"]},
}


@pytest.fixture(autouse=True)
def backend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SpotBackend:
    """The model; everything is written where the test is, and videos as they are without GStreamer."""
    spot = SpotBackend()
    monkeypatch.setattr(films, "_h264_encoder", lambda: None)
    monkeypatch.setattr(detecting, "open_backend", lambda _settings: spot)
    monkeypatch.chdir(tmp_path)
    return spot


@pytest.fixture
def street(tmp_path: Path) -> Path:
    """Somebody walks for 4 seconds, then is gone for 3."""
    return save_video(tmp_path / "street.avi", [*walk(20, step_px=8), *[scene(None)] * 15], fps=5)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    write_image(tmp_path / "street.png", scene(100))
    return tmp_path / "street.png"


def load(_overrides: Mapping[str, Any]) -> Settings:
    return Settings.model_validate({"cameras": CAMERAS, "detector": {"rules": RULES}})


def run(*arguments: object) -> Result:
    return CliRunner().invoke(detect, [str(argument) for argument in arguments], obj=load)


def said(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result
    return result.stdout


class TestPicture:
    def test_it_is_drawn_and_told(self, picture: Path, backend: SpotBackend) -> None:
        told = said(picture)
        assert "street.png: 320x240, seen by spot" in told
        assert "person           0.90   from 100,80 to 130,160" in told
        assert "found 1 person" in told
        drawn = read_image(Path("street-detected.jpg"))
        assert drawn.shape == (960, 1280, 3)
        enlarged = cv2.resize(scene(100), (1280, 960))
        assert np.abs(drawn[320:640, 402].astype(int) - enlarged[320:640, 402]).mean() > 40, "the box's side"

    def test_what_was_found_is_looked_at_again_closely(self, picture: Path, backend: SpotBackend) -> None:
        found = json.loads(said(picture, "--json"))
        assert backend.looks == 2 + len(found["parts"])
        assert len(found["parts"]) >= 1
        left, top, right, bottom = found["parts"][0]
        assert left < 100 / WIDTH_PX < 130 / WIDTH_PX < right
        assert top <= 80 / HEIGHT_PX < 160 / HEIGHT_PX <= bottom

    def test_json_is_one_line_and_draws_nothing_unless_asked(self, picture: Path) -> None:
        told = said(picture, "--json")
        assert told.count("\n") == 1
        found = json.loads(told)
        assert found["model"]["name"] == "spot"
        assert (found["width"], found["height"], found["drawn"]) == (320, 240, None)
        assert [one["box_px"] for one in found["detections"]] == [[100, 80, 130, 160]]
        assert not list(Path.cwd().glob("*-detected*"))
        assert json.loads(said(picture, "--json", "--out", "b.png"))["drawn"] == "b.png"
        assert read_image(Path("b.png")).shape == (960, 1280, 3)

    def test_what_stands_in_a_zone_that_is_left_out_is_not_there(self, tmp_path: Path) -> None:
        write_image(tmp_path / "wall.png", scene(260))
        assert "found 1 person" in said(tmp_path / "wall.png")
        assert "found nothing" in said(tmp_path / "wall.png", "--camera", "yard")

    def test_tracks_take_a_video(self, picture: Path) -> None:
        result = run(picture, "--tracks", "t.jsonl")
        assert result.exit_code == 2
        assert "a track takes a video" in result.output


class TestVideo:
    def test_objects_and_firings_are_told_and_drawn(self, street: Path) -> None:
        told = said(street, "--camera", "yard")
        assert "objects: 1 person" in told
        lines = [line.split()[:2] for line in told.splitlines() if line.startswith("  0:00")]
        assert [rule for _, rule in lines] == ["somebody", "loiter"]
        assert "gate" not in told
        with open_video(Path("street-detected.mp4")) as film:
            shots = list(film.shots(100))
            assert film.fps == 5
        assert len(shots) == 35
        assert shots[0].picture.shape == (960, 1280, 3)

    def test_json_says_the_same(self, street: Path) -> None:
        found = json.loads(said(street, "--camera", "yard", "--json"))
        assert (found["pictures"], found["fps"], found["objects"]) == (35, 5, {"person": 1})
        firings = found["firings"]
        assert [(one["rule"], one["kind"]) for one in firings] == [("somebody", "presence"), ("loiter", "dwell")]
        assert firings[0]["at_s"] == pytest.approx(1.0, abs=0.35)
        assert firings[1]["at_s"] == pytest.approx(2.0, abs=0.35)
        assert firings[0]["tracks"] == firings[1]["tracks"] == ["1"]
        assert not list(Path.cwd().glob("*.mp4"))

    def test_the_track_log_has_every_picture_that_was_looked_at(self, street: Path) -> None:
        assert "vigil rules test --camera street --replay t.jsonl" in said(street, "--tracks", "t.jsonl")
        scenes = list(read_track_log(Path("t.jsonl")))
        assert len(scenes) == 35
        assert max(len(one.tracks) for one in scenes) == 1
        middle = next(track for one in scenes[16:] for track in one.tracks)
        assert len(middle.path) > 10
        assert [step.at_s for step in middle.path] == sorted(step.at_s for step in middle.path)

    def test_a_replay_of_the_log_fires_as_the_video_did(self, street: Path) -> None:
        found = json.loads(said(street, "--camera", "yard", "--tracks", "t.jsonl", "--json"))
        settings = load({})
        zones = ZoneMap(settings.cameras["yard"].zones)
        scenes = tuple(read_recording(Path("t.jsonl"), "yard").scenes(zones, settings.detector.tracking.lost_s))
        replayed = try_rules(settings.detector.rules, "yard", zones, scenes).firings
        assert len(replayed) == 2
        for one, other in zip(found["firings"], replayed, strict=True):
            assert (one["rule"], one["summary"], one["tracks"]) == (other.rule, other.summary, list(other.tracks))
            assert one["at_s"] == pytest.approx(other.at_s, abs=0.01)

    def test_its_beginning_can_be_told(self, street: Path) -> None:
        said(street, "--tracks", "t.jsonl", "--start", "2026-01-05 22:30:00", "--json")
        first = next(iter(read_track_log(Path("t.jsonl"))))
        assert first.local.strftime("%Y-%m-%d %H:%M") == "2026-01-05 22:30"

    def test_parts_are_looked_at_closely_where_something_moves(self, street: Path, backend: SpotBackend) -> None:
        said(street, "--json")
        assert backend.looks > 35


class TestRefusals:
    def test_a_file_that_is_not_there_is_wrong_usage(self) -> None:
        result = run("nowhere.jpg")
        assert result.exit_code == 2
        assert "nowhere.jpg" in result.output

    def test_what_is_neither_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("milk, bread")
        error = run(tmp_path / "notes.txt").exception
        assert isinstance(error, PermanentError)
        assert "notes.txt is neither a picture nor a video" in str(error)

    @pytest.mark.parametrize(
        ("camera", "hint"),
        [("yrad", "did you mean 'yard'?"), ("gate", "the site file has no such camera; there: yard")],
    )
    def test_a_camera_that_is_not_there_is_named(self, picture: Path, camera: str, hint: str) -> None:
        error = run(picture, "--camera", camera).exception
        assert isinstance(error, ConfigError)
        assert hint in str(error)

    @pytest.mark.parametrize("out", ["a.gif", "a.mp4"])
    def test_a_picture_goes_into_no_other_file(self, picture: Path, out: str) -> None:
        error = run(picture, "--out", out).exception
        assert isinstance(error, PermanentError)
        assert "a picture is written as .jpg" in str(error)

    def test_a_log_that_cannot_be_written_is_named(self, street: Path) -> None:
        error = run(street, "--tracks", "nowhere/t.jsonl").exception
        assert isinstance(error, PermanentError)
        assert "nowhere/t.jsonl cannot be written" in str(error)
