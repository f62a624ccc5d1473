"""`vigil workers`: what it says of a pool, and of a real broker."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from broker import Bus, listen
from broker.messages import CameraOwner, ModelRef, NodeStatus, ScoredCamera, WorkerBeat, WorkerStatus
from broker.pool import Pool
from broker.topics import CAMERA_OWNER, CAMERA_STATE, NODE_STATUS, NODE_WORKER, NODE_WORKER_BEAT, Topic, TopicSpec
from config.settings import BusSettings, Settings
from console.cli import cli
from console.workers_cli import CameraRow, PoolReport, report
from tests.support.messages import AT, camera_state
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import wait_until
from tests.unit.console.deliveries import delivery


def worker_topic(spec: TopicSpec, node: str) -> Topic:
    return spec.at("home", node=node, role="detector")


def status_of(node: str, **changes: object) -> WorkerStatus:
    status = WorkerStatus(
        worker=f"{node}.detector", state="online", at=AT, capacity_fps=10.0, labels=("person",),
        model=ModelRef(name="yolox_nano", sha256="0" * 64),
    )  # fmt: skip
    return msgspec.structs.replace(status, **changes)


def beat_of(node: str, **cameras: ScoredCamera) -> WorkerBeat:
    return WorkerBeat(worker=f"{node}.detector", seq=1, at=AT, cameras=cameras)


@pytest.fixture
def pool() -> Pool:
    pool = Pool()
    for node in ("a", "b", "c"):
        pool.fold(delivery(worker_topic(NODE_WORKER, node), status_of(node)), 0.0)
    gone = NodeStatus(node="c", role="detector", state="offline", at=AT, started_at=AT)
    scored = ScoredCamera(since=AT - timedelta(minutes=5), epoch=3, fps=4.5, age_ms=21.0, dropped=2, late=1)
    pool.fold(delivery(worker_topic(NODE_WORKER_BEAT, "a"), beat_of("a", yard=scored)), 0.0)
    pool.fold(delivery(worker_topic(NODE_STATUS, "c"), gone), 0.0)
    cameras: dict[str, dict[str, object]] = {
        "yard": {"demand_fps": 8.0},
        "door": {"demand_fps": 8.0},
        "gate": {"demand_fps": 8.0},
        "hall": {"demand_fps": 1.0, "worker_class": "gpu"},
        "barn": {"demand_fps": 1.0, "labels": ("horse", "person")},
        "bath": {"privacy": True},
        "cave": {"scored_by": "node"},
    }
    for camera, changes in cameras.items():
        pool.fold(delivery(CAMERA_STATE.at("home", camera=camera), camera_state(camera, **changes)), 0.0)
    for camera, worker in {"yard": "a.detector", "door": "b.detector", "gate": ""}.items():
        owner = CameraOwner(camera=camera, worker=worker, epoch=3, at=AT)
        pool.fold(delivery(CAMERA_OWNER.at("home", camera=camera), owner), 0.0)
    return pool


def row(found: PoolReport, camera: str) -> CameraRow:
    return next(row for row in found.cameras if row.camera == camera)


def test_workers_have_their_load_and_rate(pool: Pool) -> None:
    first, silent, gone = report(pool, AT).workers
    assert (first.worker, first.state, first.model) == ("a.detector", "online", "yolox_nano")
    assert (first.capacity_fps, first.load_fps, first.scored_fps, first.cameras) == (10.0, 8.0, 4.5, 1)
    assert (silent.state, gone.state) == ("silent", "offline")


def test_a_camera_has_its_worker_since_when_and_its_figures(pool: Pool) -> None:
    yard = row(report(pool, AT), "yard")
    assert (yard.worker, yard.epoch, yard.reason) == ("a.detector", 3, "")
    assert yard.since == AT - timedelta(minutes=5)
    assert (yard.demand_fps, yard.scored_fps, yard.age_ms, yard.dropped, yard.late) == (8.0, 4.5, 21.0, 2, 1)


@pytest.mark.parametrize(
    ("camera", "reason"),
    [
        ("gate", "orphan: no room"),
        ("hall", "orphan: no worker of class gpu"),
        ("barn", "orphan: no worker knows horse"),
        ("bath", "privacy is on"),
        ("cave", "scored by its node node-1"),
    ],
)
def test_a_camera_that_nobody_scores_has_the_reason(pool: Pool, camera: str, reason: str) -> None:
    for node in ("a", "b"):
        pool.fold(delivery(worker_topic(NODE_WORKER, node), status_of(node, capacity_fps=0.9)), 0.0)
    found = row(report(pool, AT), camera)
    assert (found.worker, found.reason) == ("", reason)


def test_a_camera_whose_worker_died_is_about_to_be_taken_over_where_there_is_room(pool: Pool) -> None:
    owner = CameraOwner(camera="attic", worker="c.detector", epoch=3, at=AT)
    pool.fold(delivery(CAMERA_STATE.at("home", camera="attic"), camera_state("attic", demand_fps=1.0)), 0.0)
    pool.fold(delivery(CAMERA_OWNER.at("home", camera="attic"), owner), 0.0)
    assert row(report(pool, AT), "attic").reason == "about to be taken over from c.detector"


@pytest.fixture
def site(tmp_path: Path) -> Mosquitto:
    (tmp_path / "broker").mkdir()
    return Mosquitto(tmp_path / "broker")


def tell(url: str) -> Bus:
    """A site with one worker that beats, one camera that it has, and one that nobody can take."""
    bus = listen(Settings(bus=BusSettings(url=url)), "test")
    bus.start()
    assert bus.wait_connected(30)
    bus.publish(worker_topic(NODE_WORKER, "a"), status_of("a"))
    for camera, worker_class in {"yard": "", "hall": "gpu"}.items():
        state = camera_state(camera, demand_fps=5.0, worker_class=worker_class)
        bus.publish(CAMERA_STATE.at("home", camera=camera), state)
    owner = CameraOwner(camera="yard", worker="a.detector", epoch=2, at=AT)
    bus.publish(CAMERA_OWNER.at("home", camera="yard"), owner)
    wait_until(lambda: bus.statistics().published.get("state", 0) >= 4, what="the states")
    return bus


def test_the_command_prints_workers_and_cameras_and_fails_for_orphans(site: Mosquitto) -> None:
    with site:
        bus = tell(site.url)
        shown = CliRunner().invoke(cli, ["--bus", site.url, "workers"], catch_exceptions=False)
        asked = CliRunner().invoke(cli, ["--bus", site.url, "workers", "--json"], catch_exceptions=False)
        bus.close(0)
    assert shown.exit_code == asked.exit_code == 1
    assert "a.detector: silent; 1 camera; asked for 5 of 10 fps" in shown.output
    assert "hall  orphan: no worker of class gpu" in shown.output
    found = msgspec.json.decode(asked.stdout, type=PoolReport)
    assert [camera.camera for camera in found.cameras] == ["hall", "yard"]
    assert row(found, "yard").worker == "a.detector"
