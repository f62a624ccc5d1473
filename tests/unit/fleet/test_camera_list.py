"""What is taken over of a JSON list of cameras."""

from __future__ import annotations

import pytest

from config.registry import CameraEntry
from fleet.registry.camera_list import read_camera_list

HALL = {"id": "hall", "name": "Hall", "rtspUrl": "rtsp://eye:p%40ss@10.0.0.4/s1", "excluded": True, "ward": "B"}


def test_a_camera_with_its_login_apart() -> None:
    imported = read_camera_list([HALL])
    assert imported.cameras == {"hall": {"name": "Hall", "source": "rtsp://10.0.0.4/s1", "excluded": True}}
    assert imported.logins["hall"].password.get_secret_value() == "p@ss"
    assert CameraEntry.model_validate(imported.cameras["hall"]).excluded
    assert [(left.place, left.reason) for left in imported.left] == [("0.ward", "no counterpart")]


@pytest.mark.parametrize(
    "content",
    [
        {"cameras": [{"id": 7, "url": "rtsp://10.0.0.4/s1"}]},
        {"7": {"rtsp_url": "rtsp://10.0.0.4/s1"}},
        {"cameras": {"7": {"source": "rtsp://10.0.0.4/s1"}}},
    ],
)
def test_lists_in_other_clothes(content: object) -> None:
    assert read_camera_list(content).cameras == {"7": {"source": "rtsp://10.0.0.4/s1"}}


def test_names_that_cannot_be_names_and_that_come_twice() -> None:
    cameras = [{"name": "Küche / links", "rtspUrl": "rtsp://a/1"}, {"name": "Küche / links", "rtspUrl": "rtsp://a/2"}]
    imported = read_camera_list(cameras)
    assert list(imported.cameras) == ["K-che---links", "K-che---links-2"]
    assert [entry["name"] for entry in imported.cameras.values()] == ["Küche / links"] * 2
    assert len(imported.notes) == 2


def test_a_login_of_its_own_and_an_area() -> None:
    camera = {"id": "a", "url": "rtsp://h/1", "subUrl": "rtsp://u:p@h/2", "user": "eye", "password": 5, "room": "12"}
    imported = read_camera_list([camera | {"enabled": False}])
    assert imported.cameras["a"] == {
        "area": "12",
        "source": "rtsp://h/1",
        "sub_source": "rtsp://h/2",
        "excluded": True,
    }
    assert imported.logins["a"].password.get_secret_value() == "5"


def test_a_camera_without_an_address_is_left_out_with_a_word() -> None:
    imported = read_camera_list([{"id": "a", "name": "b"}, 5])
    assert not imported.cameras
    assert len(imported.left) == 2
    assert "no address" in imported.left[0].reason
