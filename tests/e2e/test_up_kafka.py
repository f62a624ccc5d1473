"""The main job on real input: people of a video become escalations in a real Kafka that asks who comes."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest
import yaml

from broker.schemas import message_kinds, schema_uri
from tests.e2e.test_up import free_ports
from tests.e2e.vigil_process import Vigil
from tests.support.kafka import KafkaServer, Record
from tests.support.schemas import faults_of
from tests.support.waiting import wait_until

KINDS = {schema_uri(kind).encode(): kind for kind in message_kinds()}


def site_file_of(kafka: KafkaServer, topics: dict[str, str], folder: Path) -> Path:
    """Everything by configuration that there is on the way up, but for the password."""
    doors = kafka.security
    security = {"protocol": "sasl_ssl", "ca_file": str(doors.ca_file), "username": doors.user}
    settings = {
        "site": "depot",
        "bridge": {
            "forward": ["motion", "track", "clip", "state", "health"],
            "evidence_store": str(folder / "evidence"),
            "kafka": {
                "bootstrap": doors.bootstrap("sasl_ssl"),
                "security": security,
                "topics": topics,
                "evidence_inline_bytes_max": 0,
            },
        },
    }
    site_file = folder / "site.yaml"
    site_file.write_text(yaml.safe_dump(settings))
    return site_file


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_people_of_a_video_become_escalations_in_a_real_kafka(
    kafka_server: KafkaServer, shared_data: Path, tmp_path: Path
) -> None:
    topic = f"test.{uuid.uuid4().hex}"
    lines = ("escalation", "motion", "track", "clip", "state", "health", "dead_letters")
    topics = {line: topic if line == "escalation" else f"{topic}.{line}" for line in lines}
    flags = (
        *("--camera", f"yard=file:{shared_data}/pedestrians.avi"),
        *("--model", str(shared_data / "yolox_nano.onnx")),
        *free_ports(),
    )
    site_file = site_file_of(kafka_server, topics, tmp_path)
    options = ("--config", str(site_file), "--state", str(tmp_path / "state"), "up", *flags)
    environment = {"VIGIL_BRIDGE__KAFKA__SECURITY__PASSWORD": kafka_server.security.password}
    with Vigil(*options, folder=tmp_path, environment=environment) as vigil:
        wait_until(lambda: topic in kafka_server.topics(), timeout_s=60, what=f"the topic\n{vigil.output}")
        records = kafka_server.consume(topic, at_least=3, timeout_s=90)
        states = kafka_server.consume(topics["state"], at_least=1)
        health = kafka_server.consume(topics["health"], at_least=1)
        vigil.interrupt()
        assert vigil.wait_end(90) == 0, vigil.output + vigil.errors
    assert re.search(r"(\d+) escalations raised, \1 in Kafka, 0 missing, 0 repeated", vigil.output), vigil.output
    numbers = [int(str(record.headers["ce_id"], "ascii").rsplit(":", 1)[1]) for record in records]  # type: ignore[arg-type]
    assert numbers == list(range(1, len(records) + 1))
    for record in records:
        assert record.key == b"depot/yard"
        assert {"ce_id", "ce_type", "ce_source", "ce_time", "traceparent"} <= set(record.headers)
        assert json.loads(record.payload or b"")["label"] == "person"
        assert_picture_is_elsewhere(record)
    assert [fault for record in (*records, *states, *health) for fault in schema_faults(record)] == []
    assert b"depot/camera/yard/state" in {record.key for record in states}
    everywhere = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in everywhere if kafka_server.security.password.encode() in path.read_bytes()] == []


def assert_picture_is_elsewhere(record: Record) -> None:
    (picture,) = json.loads(record.payload or b"")["evidence"]
    assert picture["data"] == ""
    content = Path(url2pathname(urlsplit(picture["uri"]).path)).read_bytes()
    assert hashlib.sha256(content).hexdigest() == picture["sha256"]


def schema_faults(record: Record) -> list[str]:
    """What is wrong with it by the schema that its own header names."""
    return faults_of(KINDS[record.headers["ce_dataschema"] or b""], record.payload or b"")
