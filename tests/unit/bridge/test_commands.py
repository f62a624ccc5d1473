"""What a command says, who may say it, and how far a topic of them is done with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.commands.answered import Answered
from bridge.commands.known import Known
from bridge.commands.messages import REQUEST_BYTES_MAX, CommandReply, CommandRequest, Received, Request, read_request
from bridge.commands.offsets import Offsets
from bridge.commands.registry import read_document
from bridge.commands.rules import refusal_of
from broker import Delivery
from broker.messages import Command, CommandValue, Message, NodeStatus
from broker.topics import CAMERA_STATE, NODE_STATUS, Topic
from config import BadPayloadError
from config.outside import CommandRule
from tests.support.messages import AT, camera_state

MODE = {"id": "c1", "camera": "yard", "property": "mode", "value": "eco"}
RELOAD = {"id": "c2", "node": "porch", "name": "reload"}


def received(content: object, *, key: bytes | None, **headers: str) -> Received:
    value = content if isinstance(content, bytes | None) else json.dumps(content).encode()
    return Received(("commands", 0, 7), key, value, {name: text.encode() for name, text in headers.items()})


def request(content: object, **headers: str) -> Request:
    return read_request(received(content, key=b"yard", **headers), "home")


def test_a_command_to_a_camera_becomes_a_wanted_value() -> None:
    read = request(MODE, ce_source="/cloud")
    assert str(read.topic) == "vigil/v1/home/camera/yard/set/mode"
    assert read.order == CommandValue(value="eco", correlation_id="c1")
    assert (read.source, read.origin) == ("/cloud", "")


def test_a_command_to_a_process_becomes_an_order() -> None:
    read = request({**RELOAD, "role": "detector.2", "arguments": {"camera": "yard"}})
    assert str(read.topic) == "vigil/v1/home/node/porch/detector.2/command"
    assert read.order == Command(correlation_id="c2", name="reload", arguments={"camera": "yard"})
    assert read.origin == "porch.detector.2"


def test_a_cloud_event_brings_its_id_in_a_header() -> None:
    assert request({**MODE, "id": ""}, ce_id="e7").id == "e7"
    assert request(MODE, ce_id="e7").id == "c1"


def test_the_same_asked_later_is_the_same_and_another_value_is_not() -> None:
    assert request({**MODE, "issued_at": "2026-01-01T00:00:00Z"}).digest == request(MODE).digest
    assert request({**MODE, "value": "off"}).digest != request(MODE).digest


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "empty"),
        (b"{", "not JSON"),
        (b'{"id": 7}', "Expected `str`, got `int`"),
        (b" " * (REQUEST_BYTES_MAX + 1), "more than the"),
        ({**MODE, "v": 2}, "unknown schema version"),
        ({**MODE, "id": ""}, "no `id`"),
        ({**MODE, "node": "porch"}, "either a `camera`"),
        ({"id": "c1"}, "either a `camera`"),
        ({"id": "c1", "camera": "yard"}, "no `property`"),
        ({"id": "c1", "node": "porch"}, "no `name`"),
        ({**MODE, "camera": "a/b"}, "not a name"),
        ({**RELOAD, "role": "Edge"}, "role"),
        ({**MODE, "expires_at": "2026-01-01T00:00:00"}, "timezone"),
    ],
)
def test_what_cannot_be_read_is_refused_with_what_to_write(content: object, reason: str) -> None:
    with pytest.raises(BadPayloadError) as refusal:
        request(content)
    assert reason in refusal.value.reason


def test_the_document_says_every_field() -> None:
    page = (Path(__file__).parents[3] / "docs" / "commands.md").read_text()
    fields = {field.name for kind in (CommandRequest, CommandReply) for field in msgspec.structs.fields(kind)}
    assert not {name for name in fields if f"`{name}`" not in page and f'"{name}"' not in page}


@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_be_refused(value: bytes) -> None:
    try:
        request(value)
    except BadPayloadError:
        return
    raise AssertionError("random bytes made a command")


RULES = (
    CommandRule(source="/cloud", cameras=("yard",), commands=("mode",)),
    CommandRule(cameras=(), nodes=("porch.edge",), commands=("*",)),
)


@pytest.mark.parametrize(
    ("content", "source", "allowed"),
    [
        (MODE, "/cloud", True),
        (MODE, "/else", False),
        (MODE, "", False),
        ({**MODE, "camera": "door"}, "/cloud", False),
        ({**MODE, "property": "privacy"}, "/cloud", False),
        (RELOAD, "", True),
        ({**RELOAD, "role": "detector"}, "", False),
    ],
)
def test_only_what_a_rule_allows_passes(content: dict[str, Any], source: str, *, allowed: bool) -> None:
    assert (not refusal_of(request(content, ce_source=source), RULES)) == allowed


def test_without_rules_nothing_passes_and_the_refusal_says_which_rule_would_do() -> None:
    assert "{cameras: [yard], commands: [mode]}" in refusal_of(request(MODE), ())
    assert '{source: "/cloud", cameras: [], nodes: [porch.edge], commands: [reload]}' in refusal_of(
        request(RELOAD, ce_source="/cloud"), ()
    )


def told(topic: Topic, content: Message | None) -> Delivery:
    return Delivery(topic, content, b"", retained=True, received_at=AT, _acknowledge=lambda: None)


def test_who_is_not_there_is_named_with_who_is() -> None:
    known = Known()
    assert "known are none" in known.refusal_of(request(MODE))
    known.fold(told(CAMERA_STATE.at("home", camera="yard"), camera_state("yard", state="offline")))
    status = NodeStatus(node="porch", role="edge", state="offline", at=AT, started_at=AT)
    known.fold(told(NODE_STATUS.at("home", node="porch", role="edge"), status))
    assert known.refusal_of(request(MODE)) == ""
    assert "did you mean yard?" in known.refusal_of(request({**MODE, "camera": "yrad"}))
    assert known.refusal_of(request(RELOAD)) == ""
    assert "known are porch.edge" in known.refusal_of(request({**RELOAD, "node": "gate"}))
    assert "says that it is offline" in known.silence_of(request(MODE))
    assert "porch.edge is offline" in known.silence_of(request(RELOAD))
    known.fold(told(CAMERA_STATE.at("home", camera="yard"), None))
    assert "no camera 'yard'" in known.refusal_of(request(MODE))


@given(st.permutations(range(8)))
def test_a_topic_is_done_with_up_to_the_first_that_is_not(order: list[int]) -> None:
    offsets = Offsets()
    for offset in range(8):
        offsets.take("commands", 0, offset)
    done, reached = set[int](), 0
    for offset in order:
        done.add(offset)
        reached = offsets.finish("commands", 0, offset) or reached
        assert reached == next(first for first in range(9) if first not in done)
    assert reached == 8


def test_a_partition_that_was_lost_is_not_spoken_for() -> None:
    offsets = Offsets()
    offsets.take("commands", 0, 5)
    offsets.lose("commands", 0)
    assert offsets.finish("commands", 0, 5) is None
    offsets.take("commands", 0, 9)
    assert offsets.finish("commands", 0, 5) is None
    assert offsets.finish("commands", 0, 9) == 10


def test_answers_outlive_the_process_and_the_oldest_make_room(tmp_path: Path) -> None:
    answered = Answered(tmp_path / "answered.db", rows_max=2)
    for number in range(300):
        answered.put(f"c{number}", b"d", b"r%d" % number)
    answered.close()
    again = Answered(tmp_path / "answered.db")
    assert again.find("c299") == (b"d", b"r299")
    assert again.find("c0") is None
    again.close()


DOCUMENT = {"camera": "yard", "source": "rtsp://10.0.0.7/main", "settings": {"motion_fps": 2}}


@pytest.mark.parametrize(
    ("content", "key", "reason"),
    [
        (DOCUMENT, b"door", "is of camera 'yard'"),
        (DOCUMENT, None, "key must be the camera's name"),
        (DOCUMENT, b"a/b", "key must be the camera's name"),
        ({**DOCUMENT, "source": "rtsp://me:secret@10.0.0.7/main"}, b"yard", "has a login in it"),
        ({**DOCUMENT, "settings": {"mode": "fast"}}, b"yard", "cameras.yard.mode"),
        ({"camera": "yard"}, b"yard", "source"),
    ],
)
def test_a_document_that_cannot_be_used_is_refused(content: object, key: bytes | None, reason: str) -> None:
    with pytest.raises(BadPayloadError) as refusal:
        read_document(received(content, key=key))
    assert reason in refusal.value.reason
    assert "secret" not in refusal.value.reason


def test_a_record_without_a_value_takes_the_camera_away() -> None:
    assert read_document(received(None, key=b"yard")) == ("yard", None)
    name, document = read_document(received(DOCUMENT, key=b"yard"))
    assert document is not None
    assert (name, document.settings) == ("yard", {"motion_fps": 2})
