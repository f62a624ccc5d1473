"""`vigil rules`: what is there, and what would have fired in a recording, whichever way it was recorded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from broker.messages import Detections, ModelRef, PathPoint, TrackEvent, encode_json
from broker.topics import CAMERA_DETECTIONS, CAMERA_TRACK
from config import PermanentError
from config.cameras import CameraSettings
from config.settings import Settings
from detector.rules_cli import rules
from detector.scene import Scene
from detector.track_log import log_line
from tests.support.scenes import BEGIN, HEIGHT_PX, WIDTH_PX, Actor, Stage, lying, play, upright

RULES: Mapping[str, Mapping[str, Any]] = {
    "fall": {"kind": "on-the-ground", "beds": ["bed"]},
    "stays": {"kind": "dwell", "for_s": 60},
    "in-bed": {"zones": ["bed"]},
    "dogs": {"label": "dog"},
    "night": {"hours": [{"start": "22:00", "end": "06:00", "days": ["sat"]}]},
    "sure": {"min_score": 0.95},
    "elsewhere": {"cameras": ["yard"]},
}
BED = [[0, 0], [0.2, 0], [0.2, 1], [0, 1]]
SETTINGS = Settings.model_validate({"cameras": {"room": {"zones": {"bed": {"points": BED}}}, "yard": {}},
                                    "detector": {"rules": RULES}})  # fmt: skip
FALLS = Actor(((2, upright(0.5)), (12, upright(0.5)), (12.8, lying(0.55)), (40, lying(0.55))))
MODEL = ModelRef(name="drawn", sha256="0" * 64)


def ask(*arguments: str) -> Result:
    return CliRunner().invoke(rules, arguments, obj=lambda _overrides: SETTINGS, catch_exceptions=True)


def log(scenes: Sequence[Scene]) -> bytes:
    return b"".join(map(log_line, scenes))


def watched(scenes: Sequence[Scene]) -> bytes:
    """As `vigil watch --kind detections --json` prints them."""
    topic = str(CAMERA_DETECTIONS.at("home", camera="room"))
    lines = []
    for seq, scene in enumerate(scenes):
        at = BEGIN + timedelta(seconds=scene.at_s - BEGIN.timestamp())
        message = Detections(
            camera="room", frame_seq=seq, worker="node-1.detector", model=MODEL, width=WIDTH_PX, height=HEIGHT_PX,
            captured_at=at, received_at=at, infer_started_at=at, infer_ms=1, batch=1, published_at=at,
            detections=scene.detections,
        )  # fmt: skip
        lines.append(json.dumps({"topic": topic, "retained": False, "payload": json.loads(encode_json(message))}))
    return "\n".join(lines).encode()


def listed(scenes: Sequence[Scene]) -> bytes:
    """As `vigil events --stream track --json` lists them: a start, an update every 5 s, an end."""
    lines = []
    seen = [scene for scene in scenes if scene.detections]
    for number, scene in enumerate(seen):
        if number % 25 and number != len(seen) - 1:
            continue
        (track,) = scene.tracks
        at = BEGIN + timedelta(seconds=scene.at_s - BEGIN.timestamp())
        path = [
            PathPoint(at=BEGIN + timedelta(seconds=step.at_s - BEGIN.timestamp()), x=step.foot[0], y=step.foot[1])
            for step in track.path[max(0, len(track.path) - 25) :: 10]
        ]
        event = TrackEvent(
            id=f"o:e:{number}", track_id=track.track_id, camera="room", type="end" if scene is seen[-1] else "update",
            label=track.label, started_at=BEGIN, at=at, score=track.score, box=track.box, path=tuple(path),
        )  # fmt: skip
        stored = {
            "id": number,
            "stream": CAMERA_TRACK.name,
            "camera": "room",
            "message": json.loads(encode_json(event)),
        }
        lines.append(json.dumps(stored))
    return "\n".join(lines).encode()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "room.jsonl"


@pytest.mark.parametrize(("record", "exactly_s"), [(log, 0.0), (watched, 0.0), (listed, 4.0)])
def test_what_would_have_fired_and_why_the_others_would_not(file: Path, record: Any, exactly_s: float) -> None:  # noqa: ANN401 - any of the three
    file.write_bytes(record([scene for _, scene in play(Stage((FALLS,), 40))]))
    answer = ask("test", "--camera", "room", "--replay", str(file), "--json")
    assert answer.exit_code == 0, answer.output
    result = json.loads(answer.stdout)
    (fired,) = result["firings"]
    assert (fired["rule"], fired["kind"], fired["severity"]) == ("fall", "on-the-ground", "critical")
    begin_s = 2.0 if record is listed else 0.0
    assert fired["at_s"] + begin_s == pytest.approx(22.6, abs=exactly_s + 0.01)
    assert "lies on the ground for 1" in fired["summary"]
    reasons = {rule["rule"]: rule["reason"] for rule in result["rules"]}
    assert reasons.pop("fall") == ""
    assert reasons.pop("stays").endswith("s more")
    assert reasons == {
        "in-bed": "no person was in bed",
        "dogs": "no dog was there, only person",
        "night": "the recording is not within its hours",
        "sure": "the best score of a person is 0.80, less than its 0.95",
        "elsewhere": "it does not watch this camera, but yard",
    }


def test_a_person_reads_when_and_how_near_the_others_came(file: Path) -> None:
    file.write_bytes(log([scene for _, scene in play(Stage((FALLS,), 40))]))
    told = ask("test", "--camera", "room", "--replay", str(file), "--rule", "fall", "--rule", "stays").stdout
    assert "room, 40 s from 2026-01-" in told
    assert "objects: 1 person" in told
    assert "fall (on-the-ground, critical): person on room lies on the ground for 10 s" in told
    assert "not stays (dwell): 63%, after 40 s: person on room stays for 38 s; missing: 22.0 s more" in told


def test_zones_are_those_of_the_site_file_and_not_of_the_recording(file: Path) -> None:
    in_bed = Actor(((0, lying(0.1)), (30, lying(0.1))))
    file.write_bytes(log([scene for _, scene in play(Stage((in_bed,), 30))]))
    result = json.loads(ask("test", "--camera", "room", "--replay", str(file), "--json").stdout)
    assert {firing["rule"] for firing in result["firings"]} == {"in-bed"}


@pytest.mark.parametrize(
    ("content", "arguments", "complaint"),
    [
        (b"hello", (), "this is no recording of tracks"),
        (b"", (), "this is no recording of tracks"),
        (b'{"topic": "vigil/v1/home/camera/room/motion", "payload": {}}', (), "has nothing of camera room: record one"),
        (b"{}", ("--rule", "fal"), "there is no rule 'fal'; there are fall, stays"),
        (b"{}", ("--camera", "attic"), "the site file has no camera 'attic'; it has room, yard"),
    ],
)
def test_what_is_no_recording_says_how_to_make_one(
    file: Path, content: bytes, arguments: tuple[str, ...], complaint: str
) -> None:
    file.write_bytes(content)
    answer = ask("test", "--camera", "room", "--replay", str(file), *arguments)
    assert answer.exception is not None
    assert complaint in str(answer.exception)


def test_a_recording_of_another_camera_says_whose_it_is(file: Path) -> None:
    file.write_bytes(watched([scene for _, scene in play(Stage((FALLS,), 5))]))
    answer = ask("test", "--camera", "yard", "--replay", str(file))
    assert isinstance(answer.exception, PermanentError)
    assert "has nothing of camera yard: it has room" in str(answer.exception)


def test_the_list_says_what_each_waits_for_and_where() -> None:
    lines = dict(line.split("  ", 1) for line in ask("list").stdout.replace("\x1b", "").splitlines())
    assert "person lies for 10 s, score 0.5; room, yard" in lines["fall"]
    assert "person is there for 1 s in bed, score 0.5; room" in lines["in-bed"]
    assert "person is there for 1 s (22:00-06:00 sat), score 0.5; room, yard" in lines["night"]
    first = json.loads(ask("list", "--json").stdout.splitlines()[0])
    assert (first["rule"], first["kind"], first["severity"], first["cameras"]) == (
        "fall", "on-the-ground", "critical", ["room", "yard"],
    )  # fmt: skip


def test_a_cameras_own_rules_are_listed_last_and_take_the_place_of_one_of_the_same_name() -> None:
    own = {"fall": {"kind": "on-the-ground", "for_s": 3}, "gate": {"kind": "presence"}}
    settings = SETTINGS.model_validate(
        {"cameras": {"room": {"rules": own}, "yard": {}}, "detector": {"rules": {"fall": {"kind": "on-the-ground"}}}}
    )
    answer = CliRunner().invoke(rules, ["list", "--json"], obj=lambda _overrides: settings)
    found = [json.loads(line) for line in answer.stdout.splitlines()]
    assert [(rule["rule"], rule["cameras"]) for rule in found] == [
        ("fall", ["yard"]),
        ("fall", ["room"]),
        ("gate", ["room"]),
    ]
    assert found[1]["for_s"] == 3


def test_a_cameras_own_rule_names_no_cameras() -> None:
    with pytest.raises(ValueError, match="leave `cameras` out"):
        CameraSettings.model_validate({"rules": {"gate": {"kind": "presence", "cameras": ["yard"]}}})
