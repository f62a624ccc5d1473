"""What is taken over of a Frigate configuration, and what is said of the rest."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from config.registry import CameraEntry
from fleet.registry.frigate import looks_like_frigate, read_frigate
from fleet.registry.imported import Imported

REFERENCE = yaml.safe_load((Path(__file__).parent / "frigate.yml").read_text())
ENVIRONMENT = {"FRIGATE_RTSP_USER": "eye", "FRIGATE_RTSP_PASSWORD": "p@ss"}


@pytest.fixture
def reference() -> dict[str, Any]:
    return deepcopy(REFERENCE)


@pytest.fixture(scope="module")
def imported() -> Imported:
    return read_frigate(REFERENCE, ENVIRONMENT)


def places(imported: Imported) -> set[str]:
    return {left.place for left in imported.left}


def with_camera(**camera: object) -> dict[str, Any]:
    inputs = [{"path": "rtsp://10.0.0.1/s", "roles": ["detect"]}]
    return {"cameras": {"yard": {"ffmpeg": {"inputs": inputs}, **camera}}}


def test_every_camera_is_one_that_the_registry_takes(imported: Imported) -> None:
    entries = {name: CameraEntry.model_validate(content) for name, content in imported.cameras.items()}
    assert list(entries) == ["drive", "Front-Door"]
    assert entries["Front-Door"].name == "The front door"
    assert [name for name, entry in entries.items() if entry.excluded] == ["Front-Door"]


def test_streams_are_found_behind_go2rtc_and_their_roles_kept(imported: Imported) -> None:
    drive = imported.cameras["drive"]
    assert drive["source"] == "rtsp://10.0.0.20:554/main"
    assert drive["sub_source"] == "rtsp://10.0.0.20:554/sub"
    assert imported.cameras["Front-Door"]["source"] == "file:/media/door.mp4"
    assert "sub_source" not in imported.cameras["Front-Door"]


def test_a_login_leaves_the_address_and_is_never_in_a_cameras_file(imported: Imported) -> None:
    login = imported.logins["drive"]
    assert (login.username, login.password.get_secret_value()) == ("eye", "p@ss")
    assert "p@ss" not in str(imported.cameras)
    assert "secret" not in str(imported.left)


def test_a_password_that_nobody_gave_is_asked_for_and_onvifs_taken_meanwhile() -> None:
    imported = read_frigate(REFERENCE, {"FRIGATE_RTSP_USER": "eye"})
    assert imported.logins["drive"].username == "admin"
    (left,) = (left for left in imported.left if left.place == "cameras.drive.ffmpeg.inputs.0.path")
    assert "FRIGATE_RTSP_PASSWORD" in left.reason
    assert read_frigate(REFERENCE, {}).cameras["drive"]["source"] == "rtsp://10.0.0.20:554/main"


def test_zones_masks_and_objects(imported: Imported) -> None:
    drive = imported.cameras["drive"]
    zones = drive["zones"]
    assert zones["driveway"] == {"points": [(0.0, 1.0), (1.0, 1.0), (0.5, 0.2778)], "labels": ["person", "car"]}
    assert zones["no-objects-1"]["kind"] == "exclude"
    assert zones["no-person-1"]["labels"] == ["person"]
    assert set(zones) == {"driveway", "no-objects-1", "no-person-1"}
    assert len(drive["motion"]["masks"]) == 2
    assert drive["labels"] == ["person", "car"]


def test_alerts_become_rules_that_replace_the_sites_own(imported: Imported) -> None:
    rules = imported.cameras["drive"]["rules"]
    assert rules["presence"] == {
        "kind": "presence",
        "label": "person",
        "zones": ["driveway"],
        "cooldown_s": 40.0,
        "min_score": 0.7,
    }
    assert rules["presence-car"]["label"] == "car"
    assert rules["dwell-driveway-person"]["for_s"] == 20
    assert imported.cameras["Front-Door"]["rules"]["presence"]["cooldown_s"] == 5


def test_rates_and_retention(imported: Imported) -> None:
    drive, door = imported.cameras["drive"], imported.cameras["Front-Door"]
    assert (drive["motion_fps"], drive["frame_height_px"], drive["zoom_height_px"]) == (5.0, 720, 1080)
    assert (door["motion_fps"], door["frame_height_px"], door["zoom_height_px"]) == (10.0, 1440, 1440)
    assert drive["recording"] == {
        "mode": "continuous",
        "keep_hours": 168,
        "protect_hours": 720,
        "pre_s": 5,
        "post_s": 8,
    }
    assert (door["recording"]["mode"], door["recording"]["keep_hours"]) == ("motion", 24)


def test_what_has_no_counterpart_is_listed_once_and_says_where_to_look(imported: Imported) -> None:
    listed = [left.place for left in imported.left]
    assert len(listed) == len(set(listed))
    assert {
        "mqtt",
        "detectors",
        "database",
        "birdseye",
        "snapshots",
        "camera_groups",
        "record.export",
        "detect.stationary",
        "cameras.drive.onvif.autotracking",
        "cameras.drive.zones.driveway.inertia",
        "cameras.drive.live",
        "cameras.drive.objects.track.face",
        "cameras.drive.ffmpeg.inputs.0.roles.audio",
        "cameras.drive.zones.gate.enabled",
    } <= set(listed)
    reasons = {left.place: left.reason for left in imported.left}
    assert "vigil models use" in read_frigate({"model": {"path": "/x"}, "cameras": {}}, {}).left[0].reason
    assert "autotracking" not in reasons["mqtt"]


def test_nothing_of_the_file_vanishes_without_a_word(reference: dict[str, Any]) -> None:
    reference["cameras"]["drive"]["something_new"] = {"deep": 1}
    reference["another"] = True
    assert {"cameras.drive.something_new", "another"} <= places(read_frigate(reference, ENVIRONMENT))


@pytest.mark.parametrize(
    ("coordinates", "reason"),
    [
        ("0,0,1", "three corners"),
        ("a,b,c,d,e,f", "no coordinates"),
        ("0,0,640,0,640,360", "pixels"),
    ],
)
def test_a_polygon_that_cannot_be_used_says_why(coordinates: str, reason: str) -> None:
    imported = read_frigate(with_camera(zones={"bed": {"coordinates": coordinates}}), {})
    assert "zones" not in imported.cameras["yard"]
    (left,) = imported.left
    assert left.place == "cameras.yard.zones.bed.coordinates"
    assert reason in left.reason


def test_a_list_of_numbers_is_one_polygon() -> None:
    imported = read_frigate(with_camera(motion={"mask": ["0", "0", "1", "0", "1", "1"]}), {})
    assert list(imported.cameras["yard"]["motion"]["masks"]) == ["mask-1"]


def test_without_review_the_sites_own_rules_hold() -> None:
    assert "rules" not in read_frigate(with_camera(), {}).cameras["yard"]
    switched_off = read_frigate(with_camera(review={"alerts": {"enabled": False}}), {})
    assert "rules" not in switched_off.cameras["yard"]


def test_only_events_are_kept_where_only_they_are_retained() -> None:
    record = {"enabled": True, "events": {"pre_capture": 7, "retain": {"default": 10}}}
    recording = read_frigate(with_camera(record=record), {}).cameras["yard"]["recording"]
    assert recording == {"mode": "motion", "keep_hours": 1.0, "protect_hours": 240.0, "pre_s": 7.0}


def test_an_address_that_go2rtc_makes_itself_is_told() -> None:
    document = with_camera() | {"go2rtc": {"streams": {"x": "exec:ffmpeg -i /dev/video0"}}}
    document["cameras"]["yard"]["ffmpeg"]["inputs"][0]["path"] = "rtsp://127.0.0.1:8554/x"
    (left,) = read_frigate(document, {}).left
    assert "go2rtc" in left.reason


def test_a_frigate_configuration_is_known_by_its_cameras() -> None:
    assert looks_like_frigate(REFERENCE)
    assert not looks_like_frigate({"cameras": {"yard": {"source": "rtsp://x"}}})
    assert not looks_like_frigate([1])
