"""A node that scores its own frames: without any network, switched off in the middle, and told later."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from broker import Bus, Delivery, Frame, listen
from broker.messages import Detections
from broker.outbox import split_event_id
from broker.topics import CAMERA_DETECTIONS, CAMERA_FRAME
from config.settings import BusSettings, Settings
from tests.e2e.vigil_process import Vigil, run_vigil
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(90)

SITE_FILE = """
node: porch
edge: {detector: true}
bus: {outbox: {resend_after_s: 0.5}}
detector: {rules: {presence: {for_s: 0, cooldown_s: 0.5, min_score: 0.3}}}
cameras: {street: {source: "synthetic:street?seed=3", idle_fps: 5}}
"""


@pytest.fixture
def porch(mosquitto: Mosquitto, tmp_path: Path) -> tuple[str, ...]:
    """Options of every command of a node whose broker is not there."""
    mosquitto.kill()
    site_file = tmp_path / "vigil.yaml"
    site_file.write_text(SITE_FILE)
    return ("--config", str(site_file), "--bus", mosquitto.url, "--state", str(tmp_path / "state"))


@pytest.fixture
def console(mosquitto: Mosquitto) -> Iterator[Bus]:
    """Somebody who looks on, not started."""
    bus = listen(Settings(bus=BusSettings(url=mosquitto.url)), "console")
    yield bus
    bus.close(drain_s=0)


def waiting(porch: tuple[str, ...]) -> dict[str, Any]:
    """The outbox's stream of escalations, as `vigil outbox show` tells it."""
    status, said, told = run_vigil(*porch, "outbox", "show", "--json")
    assert status == 0, told
    (outbox,) = json.loads(said)["outboxes"]
    assert outbox["origin"] == "porch.edge"
    streams: list[dict[str, Any]] = outbox["streams"]
    return next(stream for stream in streams if stream["stream"] == "camera_escalation")


def stored(journal: Path) -> list[str]:
    """Ids of the journal's escalations, in order of arrival."""
    if not journal.exists():
        return []
    with closing(sqlite3.connect(f"{journal.as_uri()}?mode=ro", uri=True)) as db:
        try:
            rows = db.execute("SELECT event_id FROM escalation ORDER BY id").fetchall()
        except sqlite3.OperationalError:  # the bridge makes it at this moment
            return []
    return [str(row[0]) for row in rows]


def test_alarms_are_raised_without_a_broker_and_arrive_when_there_is_one(
    porch: tuple[str, ...], mosquitto: Mosquitto, console: Bus, tmp_path: Path
) -> None:
    with Vigil(*porch, "edge", folder=tmp_path) as alone:
        alone.wait_said("escalation.raised", timeout_s=40)
        alone.process.kill()  # the power is gone
        alone.process.wait(10)
    before = waiting(porch)
    assert before["waiting"] == before["raised"] >= 1

    frames: list[Frame] = []
    scores: list[Detections] = []

    def note(delivery: Delivery) -> None:
        content = delivery.content
        if isinstance(content, Frame):
            frames.append(content)
        elif isinstance(content, Detections):
            scores.append(content)

    console.subscribe(CAMERA_FRAME, note)
    console.subscribe(CAMERA_DETECTIONS, note)
    mosquitto.start()
    console.start()
    journal = tmp_path / "state" / "journal.db"
    (tmp_path / "hub").mkdir()
    with Vigil(*porch, "bridge", folder=tmp_path / "hub") as bridge, Vigil(*porch, "edge", folder=tmp_path) as edge:
        wait_until(lambda: len(stored(journal)) >= before["raised"] and scores and frames, timeout_s=40)
        for vigil in (edge, bridge):
            vigil.process.terminate()
            assert vigil.wait_end(20) == 0, vigil.output
    sequences = [split_event_id(event_id)[2] for event_id in stored(journal)]
    backlog = [seq for seq in sequences if seq <= before["raised"]]
    assert backlog == list(range(1, before["raised"] + 1))
    status, said, _ = run_vigil(*porch, "audit")
    assert status == 0, said
    assert not any(frame.meta.detect for frame in frames)  # so that nobody scores them a second time
    assert {message.worker for message in scores} == {"porch.edge"}
