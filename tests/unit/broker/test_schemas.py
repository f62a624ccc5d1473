"""The published schemas: well formed, complete, and never stricter than what Vigil itself takes and sends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from broker.documents import SCHEMAS, stale_documents, write_documents
from broker.messages import Escalation, Evidence, FrameMeta, Message, decode_json, encode_json
from broker.schemas import message_kinds, schema_of, schema_text, schema_uri
from broker.topics import CONTRACT
from config.errors import BadPayloadError
from tests.support import messages
from tests.support.schemas import faults_of

DIALECT = jsonschema.Draft202012Validator
EVENT_ID = "node-1.edge:e1:7"
PICTURE = Evidence(content_type="image/jpeg", sha256="0" * 64, width=2, height=3, data=b"\xff\xd8")

SAMPLES: list[Message] = [
    messages.camera_state(),
    messages.camera_state(zoom_until=messages.AT, error="gone", labels=("person",)),
    messages.frame_meta(),
    messages.motion(EVENT_ID, boxes=((0.0, 0.1, 0.2, 1.0),), ended="quiet"),
    messages.escalation(EVENT_ID, evidence=(PICTURE,), drill=True),
    messages.track(EVENT_ID),
    messages.clip(EVENT_ID, error="disk full"),
    messages.receipt(EVENT_ID, b"x"),
]
"""What makers of messages make, with what is optional too."""


@pytest.mark.parametrize("kind", message_kinds(), ids=lambda kind: kind.__name__)
def test_a_schema_is_one_of_its_dialect_and_says_what_it_is(kind: type[Message]) -> None:
    schema = json.loads(schema_text(kind))
    DIALECT.check_schema(schema)
    assert schema["$schema"] == DIALECT.META_SCHEMA["$id"]
    assert schema["$id"] == schema_uri(kind) == f"urn:vigil:schema:{kind.__name__}:1"
    assert (schema["title"], schema["type"]) == (kind.__name__, "object")
    assert schema["description"]
    assert "Attributes:" not in schema_text(kind)
    references = set(_references(schema))
    assert references == {f"#/$defs/{name}" for name in schema.get("$defs", {})}


def _references(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        for value in node.values():
            yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)


def test_every_message_has_one_and_its_fields_are_told_where_the_struct_tells_them() -> None:
    assert {spec.payload for spec in CONTRACT if spec.payload is not None} | {FrameMeta} == set(message_kinds())
    schema = schema_of(Escalation)
    assert schema["properties"]["id"]["description"].startswith("`{origin}:{epoch}:{seq}`; seq has no gaps")
    # Its docstring goes over two lines there.
    assert schema["properties"]["clip"]["description"].endswith("empty where the node does not record.")
    assert schema["$defs"]["Evidence"]["properties"]["uri"]["description"]
    assert schema["description"] == "Something a person should know."


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: type(sample).__name__)
def test_what_is_sent_is_valid(sample: Message) -> None:
    assert faults_of(type(sample), encode_json(sample)) == []


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: type(sample).__name__)
def test_whatever_vigil_takes_is_valid_and_what_is_wrong_is_not(sample: Message) -> None:
    """One field after the other is left out, and given other values."""
    document: dict[str, Any] = json.loads(encode_json(sample))
    kind, refused = type(sample), 0
    for changed in _changed(document):
        payload = json.dumps(changed).encode()
        try:
            decode_json(kind, payload, max_bytes=2**20)
        except BadPayloadError:
            refused += bool(faults_of(kind, payload))
        else:
            assert faults_of(kind, payload) == [], changed
    assert refused > len(document)


def _changed(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield document | {"somebody's own": {"x": 1}}
    for field in document:
        yield {name: value for name, value in document.items() if name != field}
        for value in (None, True, -1, 2, 0.5, 1e300, 2**70, "", "x" * 300, "ON", [], ["a"], {}, {"a": 1}):
            yield document | {field: value}


def test_a_schema_that_is_gone_or_left_over_is_stale(tmp_path: Path) -> None:
    write_documents(tmp_path)
    assert stale_documents(tmp_path) == []
    (tmp_path / SCHEMAS / "Escalation.json").unlink()
    (tmp_path / SCHEMAS / "Forgotten.json").write_text("{}")
    stale = [tmp_path / SCHEMAS / name for name in ("Escalation.json", "Forgotten.json")]
    assert stale_documents(tmp_path) == stale
    write_documents(tmp_path)
    assert stale_documents(tmp_path) == []
