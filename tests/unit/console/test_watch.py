from __future__ import annotations

import dataclasses
import json

import pytest

from broker import CONTRACT, Delivery
from broker.messages import CommandValue
from broker.topics import CAMERA_MOTION, CAMERA_SET, CAMERA_STATE
from console.watch import KINDS, describe, json_line, text_line
from tests.support.messages import camera_state, motion
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
SET = CAMERA_SET.at("home", camera="yard", property="mode")


def test_every_line_of_the_contract_has_a_kind_of_its_own() -> None:
    assert len(KINDS) == len(CONTRACT)
    assert {"frame", "detections", "escalation", "motion", "motion/active", "status", "reject"} <= set(KINDS)


@pytest.mark.parametrize(
    ("message", "essence"),
    [
        (frame(seq=12), "64x48 1 kB seq 12 idle"),
        (detections(seq=3), "person 0.87, person 0.87, 2 boxes, 80 ms (inference 34 ms of 1) seq 3 by hog"),
        (delivery(MOTION, motion("i:e:1", score=0.031)), "start 3.1% in 0 boxes"),
        (delivery(MOTION, motion("i:e:1", type="end", ended="quiet")), "end (quiet) 0.0% in 0 boxes"),
        (motion_active("OFF"), "OFF"),
        (escalated(), "warning presence: person at yard [node-1.detector:abcd:1]"),
        (receipt(), "node-1.detector:abcd:1 in journal/1 after 2.5 ms"),
        (health(mailbox=3), "up 10 s, CPU 12%, 80 MB, 0 messages wait, 3 dropped"),
        (status(), "online"),
        (reject(4), "vigil/v1/home/x (3 bytes, number 4): not JSON"),
        (delivery(STATE, camera_state(state="error", error="gone")), "error on node-1, idle 0 fps 0x0: gone"),
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
    line = json_line(dataclasses.replace(delivery(SET, CommandValue(value="idle")), payload=payload))
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
