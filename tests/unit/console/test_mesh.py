from __future__ import annotations

import pytest

from broker import Delivery
from broker.messages import CameraOwner
from broker.topics import CAMERA_OWNER, CAMERA_STATE
from console import mesh as mesh_module
from console.mesh import CAMERAS_MAX, ESCALATIONS_KEPT, CameraFigures, MeshView
from tests.support.messages import AT, camera_state
from tests.unit.console.deliveries import (
    delivery,
    detections,
    escalated,
    frame,
    health,
    motion_active,
    receipt,
    reject,
    status,
)


def camera(view: MeshView, now_s: float = 0.0, name: str = "yard") -> CameraFigures:
    return next(figures for figures in view.snapshot(now_s).cameras if figures.name == name)


def test_a_camera_is_known_from_its_first_message_of_any_kind() -> None:
    view = MeshView()
    view.fold(motion_active(), 0.0)
    assert camera(view).state == "unknown"
    assert camera(view).motion


def test_rates_are_counted_over_the_last_seconds_and_fall_to_zero() -> None:
    view = MeshView()
    for number in range(50):
        view.fold(frame(seq=number), number / 5)
        if number % 2:
            view.fold(detections(seq=number), number / 5)
    assert camera(view, 9.8).fps_in == pytest.approx(5.0)
    assert camera(view, 9.8).fps_scored == pytest.approx(2.5, abs=0.2)
    assert camera(view, 20.0).fps_in == 0.0
    assert (camera(view, 20.0).frames, camera(view, 20.0).scored) == (50, 25)


def test_a_rate_is_right_from_the_second_second_on() -> None:
    view = MeshView()
    for number in range(11):
        view.fold(frame(seq=number), number / 5)
    assert camera(view, 2.0).fps_in == pytest.approx(5.0, abs=0.3)


def test_latencies_are_from_capture_to_the_published_score() -> None:
    view = MeshView()
    for milliseconds in range(1, 101):
        view.fold(detections(seq=milliseconds, latency_ms=milliseconds), 0.0)
    assert camera(view).latency_p50_ms == pytest.approx(50.5)
    assert camera(view).latency_p99_ms == pytest.approx(99.0)


def owner(worker: str, epoch: int) -> Delivery:
    message = CameraOwner(camera="yard", worker=worker, epoch=epoch, at=AT)
    return delivery(CAMERA_OWNER.at("home", camera="yard"), message)


def test_scores_of_a_worker_that_has_lost_the_camera_are_passed_over_and_counted() -> None:
    view = MeshView()
    assert view.fold(detections(seq=1), 0.0)
    view.fold(owner("two.detector", 5), 0.0)
    assert not view.fold(detections(seq=2), 10.0)
    assert (camera(view).scored, view.snapshot(0.0).late_scores) == (1, 1)
    assert (camera(view).worker, camera(view).orphan) == ("two.detector", False)


def test_a_camera_that_no_worker_takes_is_an_orphan() -> None:
    view = MeshView()
    view.fold(owner("", 6), 0.0)
    assert camera(view).orphan


def test_without_a_score_there_is_no_latency() -> None:
    view = MeshView()
    view.fold(frame(), 0.0)
    assert camera(view).latency_p50_ms is None
    assert camera(view).latency_p99_ms is None


def test_an_escalation_that_is_sent_again_counts_once_and_a_receipt_confirms_it_once() -> None:
    view = MeshView()
    for _ in range(3):
        view.fold(escalated(1), 0.0)
    view.fold(escalated(2), 0.0)
    for _ in range(2):
        view.fold(receipt(1), 0.0)
    view.fold(escalated(1), 0.0)
    view.fold(receipt(99), 0.0)
    assert (camera(view).escalations, camera(view).confirmed) == (2, 1)


def test_a_camera_in_error_says_why() -> None:
    view = MeshView()
    topic = CAMERA_STATE.at("home", camera="yard")
    view.fold(delivery(topic, camera_state(state="error", error="no such file")), 0.0)
    assert (camera(view).state, camera(view).error) == ("error", "no such file")


def test_drops_go_on_counting_when_a_process_is_started_again() -> None:
    view = MeshView()
    view.fold(health(uptime_s=50, mailbox=7, rejected=2), 0.0)
    view.fold(health(uptime_s=55, mailbox=9, rejected=2), 0.0)
    view.fold(health(uptime_s=1, mailbox=1), 0.0)
    assert view.snapshot(0.0).dropped() == {"detector.mailbox": 10}


def test_a_will_says_that_a_process_is_gone() -> None:
    view = MeshView()
    view.fold(status(), 0.0)
    view.fold(status(state="offline"), 0.0)
    assert [(role.role, role.state) for role in view.snapshot(0.0).roles] == [("detector", "offline")]


def test_rejects_are_counted_from_the_reject_topic_and_from_health() -> None:
    view = MeshView()
    view.fold(reject(3), 0.0)
    view.fold(reject(1), 0.0)
    view.fold(health("bridge", rejected=4), 0.0)
    view.fold(health("detector", rejected=5), 0.0)
    snapshot = view.snapshot(0.0)
    assert snapshot.rejects == {"node-1.bridge": 4, "node-1.detector": 5}
    assert snapshot.rejected == 9


def test_invented_cameras_are_bounded_and_counted() -> None:
    view = MeshView()
    for number in range(CAMERAS_MAX + 5):
        view.fold(motion_active(camera=f"c{number}"), 0.0)
    snapshot = view.snapshot(0.0)
    assert (len(snapshot.cameras), snapshot.ignored) == (CAMERAS_MAX, 5)


def test_remembered_escalations_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ESCALATIONS_KEPT > 1000
    monkeypatch.setattr(mesh_module, "ESCALATIONS_KEPT", 3)
    view = MeshView()
    for number in range(10):
        view.fold(escalated(number + 1), 0.0)
    view.fold(receipt(1), 0.0)
    assert (camera(view).escalations, camera(view).confirmed) == (10, 0)
