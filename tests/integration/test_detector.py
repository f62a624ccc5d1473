"""The detector as a process, on a real broker, with a real model and real pictures."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import cv2
import pytest

from broker import Bus, Delivery, encode_frame, listen
from broker.messages import Detections, Escalation, FrameMeta, NodeStatus, WorkerBeat
from broker.outbox import split_event_id
from broker.topics import (
    CAMERA_DETECTIONS,
    CAMERA_ESCALATION,
    CAMERA_FRAME,
    CAMERA_STATE,
    NODE_STATUS,
    NODE_WORKER_BEAT,
    RECEIPT,
)
from config.settings import BusSettings, Settings
from tests.support.messages import camera_state, receipt
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
SITE_FILE = """
site: home
node: node-1
detector:
  rules:
    presence: {for_s: 0, cooldown_s: 0, min_score: 0.55}
  tracking: {confirm_s: 0, lost_s: 600}
"""


def command(folder: Path, url: str, *arguments: str) -> list[str]:
    """`vigil ... detector ...`, with its state below `folder`."""
    site_file = folder / "site.yaml"
    site_file.write_text(SITE_FILE)
    root = ["--config", str(site_file), "--bus", url, "--state", str(folder / "state"), "--log-format", "json"]
    return [sys.executable, "-m", "console", *root, "detector", *arguments]


@dataclass(slots=True)
class Site:
    """A site whose detector is a process of its own; this end is the camera, the listener and the bridge."""

    folder: Path
    url: str
    model: Path
    frames: Sequence[bytes]
    bus: Bus
    scored: list[Detections] = field(default_factory=list)
    raised: dict[str, Escalation] = field(default_factory=dict)
    status: list[NodeStatus] = field(default_factory=list)
    confirming: bool = True
    owned: bool = False

    def on_message(self, delivery: Delivery) -> None:
        match delivery.content:
            case Detections() as scores:
                self.scored.append(scores)
            case NodeStatus() as status:
                self.status.append(status)
                self.owned = False
            case WorkerBeat() as beat:
                self.owned = "yard" in beat.cameras
            case Escalation() as escalation:
                self.raised[escalation.id] = escalation
                if self.confirming:
                    stored = receipt(escalation.id, delivery.payload)
                    self.bus.publish(RECEIPT.at("home", origin=escalation.worker), stored)

    @contextlib.contextmanager
    def detector(self) -> Iterator[subprocess.Popen[bytes]]:
        self.status.clear()
        log = self.folder / "detector.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                command(self.folder, self.url, "--model", str(self.model), "--threads", "1"),
                cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip
        try:
            wait_until(lambda: self._is_online() and self.owned, timeout_s=30, what="the detector's birth")
            yield process
        finally:
            process.kill()
            process.wait(10)

    def _is_online(self) -> bool:
        return any(status.state == "online" and status.role == "detector" for status in self.status)

    def score(self, seq: int) -> Detections:
        """Publish one frame, and wait for its scores."""
        jpeg = self.frames[seq % len(self.frames)]
        meta = FrameMeta(
            camera="yard", node="node-1", seq=seq, captured_at=datetime.now(UTC), width=480, height=360, moving=True
        )
        self.bus.publish(CAMERA_FRAME.at("home", camera="yard"), encode_frame(jpeg, meta))
        wait_until(lambda: self.scored and self.scored[-1].frame_seq == seq, timeout_s=30, what=f"frame {seq}'s scores")
        return self.scored[-1]


@pytest.fixture(scope="module")
def frames(shared_data: Path) -> list[bytes]:
    video = cv2.VideoCapture(str(shared_data / "pedestrians.avi"))
    pictures = [video.read()[1] for _ in range(10)]
    return [cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes() for picture in pictures]


@pytest.fixture
def site(tmp_path: Path, mosquitto: Mosquitto, shared_data: Path, frames: list[bytes]) -> Iterator[Site]:
    settings = Settings(site="home", node="node-2", bus=BusSettings(url=mosquitto.url))
    bus = listen(settings, "test")
    site = Site(tmp_path, mosquitto.url, shared_data / "yolox_nano.onnx", frames, bus)
    for spec in (CAMERA_DETECTIONS, CAMERA_ESCALATION, NODE_STATUS, NODE_WORKER_BEAT):
        bus.subscribe(spec, site.on_message)
    bus.start()
    assert bus.wait_connected(30)
    bus.publish(CAMERA_STATE.at("home", camera="yard"), camera_state("yard", demand_fps=1.0))
    yield site
    bus.close(0)


def test_people_in_the_street_become_escalations_and_a_stopped_worker_says_goodbye(site: Site) -> None:
    with site.detector() as process:
        site.score(0)
        scores = site.score(1)
        assert sum(d.label == "person" for d in scores.detections) >= 2
        assert (scores.worker, scores.model.name) == ("node-1.detector", "yolox_nano")
        wait_until(lambda: site.raised)
        (escalation,) = site.raised.values()
        assert escalation.evidence[0].data[:2] == b"\xff\xd8"
        assert escalation.label == "person"
        assert site.status[0].capacity["frames_per_s"] > 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        wait_until(lambda: site.status[-1].state == "offline")


def test_escalations_go_on_without_gap_or_repeat_when_the_worker_is_killed(site: Site) -> None:
    site.confirming = False
    with site.detector() as process:
        for seq in range(4):
            site.score(seq)
        wait_until(lambda: len(site.raised) == 3)
        process.kill()
        process.wait(10)
    site.raised.clear()
    site.confirming = True
    with site.detector():
        for seq in range(4, 6):
            site.score(seq)
        wait_until(lambda: len(site.raised) == 5, what="the escalations of before and after")
    assert sorted(split_event_id(event_id)[2] for event_id in site.raised) == [1, 2, 3, 4, 5]
    assert len({split_event_id(event_id)[:2] for event_id in site.raised}) == 1
    assert [e.frame_seq for _, e in sorted(site.raised.items(), key=lambda item: split_event_id(item[0])[2])] == [
        1, 2, 3, 4, 5,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"these are not the weights\n" * 30, "is not a model that ONNX Runtime"),
        (b"", "0 bytes"),
        (None, "there is no such file"),
    ],
)
def test_a_bad_model_ends_it_with_one_clear_line(tmp_path: Path, content: bytes | None, said: str) -> None:
    model = tmp_path / "model.onnx"
    if content is not None:
        model.write_bytes(content)
    ended = subprocess.run(
        command(tmp_path, "mqtt://127.0.0.1:9", "--model", str(model)),
        cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 78
    assert ended.stderr.startswith(f"vigil: detector.model: {model}")
    assert said in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert "Traceback" not in ended.stdout + ended.stderr
