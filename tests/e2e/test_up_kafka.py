"""The main job on real input: people of a video become escalations in a real Kafka."""

from __future__ import annotations

import json
import re
import uuid
from pathlib import Path

import pytest

from tests.e2e.test_up import free_ports
from tests.e2e.vigil_process import Vigil
from tests.support.kafka import Kafka
from tests.support.waiting import wait_until


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_people_of_a_video_become_escalations_in_a_real_kafka(kafka: Kafka, shared_data: Path, tmp_path: Path) -> None:
    topic = f"test.{uuid.uuid4().hex}"
    site_file = tmp_path / "site.yaml"
    site_file.write_text(f"site: depot\nbridge:\n  kafka: {{bootstrap: '{kafka.bootstrap}', topic: {topic}}}\n")
    flags = (
        *("--camera", f"yard=file:{shared_data}/pedestrians.avi"),
        *("--model", str(shared_data / "yolox_nano.onnx")),
        *free_ports(),
    )
    options = ("--config", str(site_file), "--state", str(tmp_path / "state"), "up", *flags)
    with Vigil(*options, folder=tmp_path) as vigil:
        wait_until(lambda: topic in kafka.topics(), timeout_s=60, what="the topic")
        records = kafka.consume(topic, at_least=3, timeout_s=90)
        vigil.interrupt()
        assert vigil.wait_end(90) == 0, vigil.output + vigil.errors
    assert re.search(r"(\d+) escalations raised, \1 in Kafka, 0 missing, 0 repeated", vigil.output), vigil.output
    numbers = [int(str(record.headers["ce_id"], "ascii").rsplit(":", 1)[1]) for record in records]  # type: ignore[arg-type]
    assert numbers == list(range(1, len(records) + 1))
    for record in records:
        assert record.key == b"depot/yard"
        assert {"ce_id", "ce_type", "ce_source", "ce_time"} <= set(record.headers)
        assert json.loads(record.payload or b"")["label"] == "person"
