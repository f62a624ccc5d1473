from __future__ import annotations

import json
from datetime import timedelta

import msgspec
import pytest

from broker import CONTRACT, Delivery
from broker.messages import (
    CameraDocument,
    CameraOwner,
    ClipEvent,
    Command,
    CommandValue,
    MotionHour,
    MotionTrend,
    Reply,
    WorkerBeat,
    WorkerStatus,
)
from broker.topics import (
    CAMERA_CLIP,
    CAMERA_MOTION,
    CAMERA_MOTION_TREND,
    CAMERA_OWNER,
    CAMERA_SET,
    CAMERA_SNAPSHOT,
    CAMERA_STATE,
    NODE_COMMAND,
    NODE_REPLY,
    NODE_WORKER,
    NODE_WORKER_BEAT,
    REGISTRY_CAMERA,
)
from console.watch import KINDS, describe, json_line, text_line
from tests.support.messages import AT, camera_state, motion
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

MOTION = CAMERA_MOTION.at("home", camera="yard")
STATE = CAMERA_STATE.at("home", camera="yard")
SNAPSHOT = CAMERA_SNAPSHOT.at("home", camera="yard")
CLIP = CAMERA_CLIP.at("home", camera="yard")
TREND = CAMERA_MOTION_TREND.at("home", camera="yard")
REGISTRY = REGISTRY_CAMERA.at("home", camera="yard")
OWNER = CAMERA_OWNER.at("home", camera="yard")
WORKER = NODE_WORKER.at("home", node="node-1", role="detector")
BEAT = NODE_WORKER_BEAT.at("home", node="node-1", role="detector")
COMMAND = NODE_COMMAND.at("home", node="node-1", role="edge")
REPLY = NODE_REPLY.at("home", node="node-1", role="edge")
COMMAND_WORDS = "restart camera=yard [c]"
HOUR = MotionHour(start=AT, movements=2, moving_s=10.0, watched_s=3600.0)


def clip(error: str | None = None) -> ClipEvent:
    return ClipEvent(
        id="n:e:2",
        camera="yard",
        reason="escalation",
        about="n:e:1",
        at=AT,
        starts_at=AT,
        ends_at=AT + timedelta(seconds=12),
        uri="file:///clips/a.mp4",
        size_bytes=1_500_000,
        missing_s=2.0,
        error=error,
    )


SET = CAMERA_SET.at("home", camera="yard", property="mode")


def test_every_line_of_the_contract_has_a_kind_of_its_own() -> None:
    assert len(KINDS) == len(CONTRACT)
    assert {"frame", "detections", "escalation", "motion", "motion/active", "status", "reject"} <= set(KINDS)


@pytest.mark.parametrize(
    ("message", "essence"),
    [
        (frame(seq=12), "64x48 1 kB seq 12 monitor"),
        (detections(seq=3), "person 0.87, person 0.87, 2 boxes, 80 ms (inference 34 ms of 1) seq 3 by hog"),
        (delivery(MOTION, motion("i:e:1", score=0.031)), "start 3.1% in 0 boxes"),
        (delivery(MOTION, motion("i:e:1", type="end", ended="quiet")), "end (quiet) 0.0% in 0 boxes"),
        (motion_active("OFF"), "OFF"),
        (
            delivery(OWNER, CameraOwner(camera="yard", worker="a.detector", epoch=3, at=AT)),
            "a.detector, epoch 3",
        ),
        (delivery(OWNER, CameraOwner(camera="yard", worker="", epoch=4, at=AT)), "nobody: an orphan, epoch 4"),
        (
            delivery(WORKER, WorkerStatus(worker="a.detector", state="online", at=AT, capacity_fps=20.0)),
            "online, takes 20 fps",
        ),
        (delivery(BEAT, WorkerBeat(worker="a.detector", seq=1, at=AT)), "0 cameras, scored 0.0 fps"),
        (escalated(), "warning presence: person at yard [node-1.detector:abcd:1]"),
        (receipt(), "node-1.detector:abcd:1 in journal/1 after 2.5 ms"),
        (health(mailbox=3), "up 10 s, CPU 12%, 80 MB, 0 messages wait, 3 dropped"),
        (status(), "online"),
        (reject(4), "vigil/v1/home/x (3 bytes, number 4): not JSON"),
        (delivery(STATE, camera_state(state="error", error="gone")), "error on node-1, monitor 0 fps 0x0: gone"),
        (
            delivery(STATE, camera_state(mode="eco", moving=True, privacy=True, detection=False, recording="failed")),
            "online on node-1, eco 0 fps 0x0, moving, private, not scored, recording failed",
        ),
        (delivery(SNAPSHOT, None), "taken back"),
        (delivery(SET, CommandValue(value="eco")), "eco"),
        (delivery(COMMAND, Command(correlation_id="c", name="restart", arguments={"camera": "yard"})), COMMAND_WORDS),
        (delivery(REPLY, Reply(correlation_id="c", ok=True, result={"mode": "eco"})), "mode eco [c]"),
        (delivery(REPLY, Reply(correlation_id="c", ok=False, reason="no")), "refused: no [c]"),
        (
            delivery(REGISTRY, CameraDocument(camera="yard", source="rtsp://10.0.0.7/a", node="node-1", revision=3)),
            "revision 3 on node-1, rtsp://10.0.0.7/a",
        ),
        (
            delivery(TREND, MotionTrend(camera="yard", at=AT, hours=(HOUR, HOUR))),
            "4 movements and 20 s of motion in 2 h 0 min of watching",
        ),
        (delivery(CLIP, clip()), "12.0 s of escalation n:e:1, 1.5 MB, 2.0 s missing: file:///clips/a.mp4"),
        (delivery(CLIP, clip(error="disk full")), "no clip of escalation n:e:1: disk full"),
    ],
)
def test_the_essence_is_told_in_words(message: Delivery, essence: str) -> None:
    assert describe(message) == essence


def test_a_line_is_aligned_and_says_whose_it_is() -> None:
    assert text_line(detections())[13:].startswith("yard               detections    person 0.87")
    assert text_line(status())[13:].startswith("node-1.detector    status        online")
    assert text_line(delivery(STATE, camera_state(), retained=True)).endswith("(retained)")


def test_nothing_from_the_bus_can_play_with_the_terminal() -> None:
    line = text_line(escalated(summary="\x1b[2J\x1b]0;owned\x07\r\n\u202efake line"))
    assert line.isprintable()
    assert "owned" in line


def test_a_line_is_cut() -> None:
    assert len(text_line(escalated(summary="x" * 4000))) < 400


def test_json_is_the_payload_as_it_is_with_its_topic_and_unknown_fields() -> None:
    payload = b'{"v": 1,\n "value": "idle", "new": [1]}'
    line = json_line(msgspec.structs.replace(delivery(SET, CommandValue(value="idle")), payload=payload))
    assert b"\n" not in line
    assert json.loads(line) == {
        "topic": "vigil/v1/home/camera/yard/set/mode",
        "received_at": "2026-01-01T12:00:01Z",
        "retained": False,
        "payload": {"v": 1, "value": "idle", "new": [1]},
    }


def test_json_of_a_picture_is_its_metadata_and_of_text_the_text() -> None:
    shown = json.loads(json_line(frame(seq=12)))["payload"]
    assert (shown["seq"], shown["width"]) == (12, 64)
    assert shown["size_bytes"] == len(frame(seq=12).payload)
    assert json.loads(json_line(motion_active("ON")))["payload"] == "ON"


def test_what_is_taken_back_is_null_as_json() -> None:
    assert json.loads(json_line(delivery(SNAPSHOT, None)))["payload"] is None
