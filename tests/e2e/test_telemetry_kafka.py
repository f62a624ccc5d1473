"""One escalation from the shutter to Kafka's word: every role is scraped, and its spans make one tree."""

from __future__ import annotations

import json
import socket
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.test_up import free_ports
from tests.e2e.vigil_process import Vigil
from tests.support.collector import Collector, ReceivedSpan, collector
from tests.support.kafka import Kafka, Record
from tests.support.ports import free_port
from tests.support.waiting import wait_until

ROLES = ("broker", "edge", "detector", "bridge", "console")
HISTOGRAMS = {
    "edge": ("capture_to_publish",),
    "detector": ("frame_age", "inference", "score_to_escalation", "outbox_to_receipt"),
    "bridge": ("receive_to_stored", "produce_to_report"),
}


@pytest.fixture
def received() -> Iterator[Collector]:
    with collector() as one:
        yield one


def free_row() -> int:
    """The first of as many free ports in a row as there are roles."""
    while True:
        first = free_port()
        if all(port_is_free("127.0.0.1", first + place) for place in range(1, len(ROLES))):
            return first


def port_is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) != 0


def scrape(port: int) -> dict[str, Metric]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        return {family.name: family for family in text_string_to_metric_families(answer.read().decode())}


def lacking(port: int) -> list[str]:
    """Distributions that have counted nothing, such as those of a process that has only just started."""
    lacking = []
    for role, names in HISTOGRAMS.items():
        families = scrape(port + ROLES.index(role))
        for name in (f"vigil_{name}_seconds" for name in names):
            counts = [s.value for s in families[name].samples if s.name == f"{name}_count"] if name in families else []
            if not sum(counts):
                lacking.append(f"{role}: {name}")
    return lacking


def tree_of(received: Collector, trace_id: str) -> dict[str, ReceivedSpan]:
    """The steps of one trace, where there is one of each."""
    return {span.name: span for span in received.spans if span.trace_id == trace_id}


def traced(records: list[Record], received: Collector) -> tuple[Record, dict[str, ReceivedSpan]] | None:
    """A record of which all steps have come."""
    for record in records:
        trace_id = str(record.headers["traceparent"], "ascii").split("-")[1]  # type: ignore[arg-type]
        tree = tree_of(received, trace_id)
        if len(tree) == 4:
            return record, tree
    return None


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_figures_and_traces_follow_an_escalation_into_kafka(kafka: Kafka, received: Collector, tmp_path: Path) -> None:
    topic, port = f"test.{uuid.uuid4().hex}", free_row()
    site = {
        "site": "depot",
        "node": "porch",
        "metrics": {"port": port},
        # No picture is drawn: only what becomes an escalation is traced, and that whole.
        "tracing": {"endpoint": received.url, "share": 0.0},
        "bridge": {"forward": [], "kafka": {"bootstrap": kafka.bootstrap, "topics": {"escalation": topic}}},
        "detector": {"rules": {"presence": {"for_s": 0, "cooldown_s": 1}}},
    }
    (tmp_path / "site.yaml").write_text(json.dumps(site))
    options = ("--config", str(tmp_path / "site.yaml"), "--state", str(tmp_path / "state"), "up", *free_ports())
    with Vigil(*options, folder=tmp_path) as vigil:
        wait_until(lambda: topic in kafka.topics(), timeout_s=90, what=f"the topic\n{vigil.output}")
        records = kafka.consume(topic, at_least=2, timeout_s=90)
        wait_until(lambda: traced(records, received), timeout_s=60, what="all four spans of an escalation")
        wait_until(lambda: lacking(port) == [], timeout_s=60, what="a figure in every distribution")
        told = {role: scrape(port + place) for place, role in enumerate(ROLES)}
        vigil.interrupt()
        vigil.wait_end(90)

    found = traced(records, received)
    assert found is not None
    record, tree = found
    capture, score, escalate, forward = (tree[name] for name in ("capture", "score", "escalate", "forward"))
    assert (capture.parent_id, score.parent_id) == ("", capture.span_id)
    assert (escalate.parent_id, forward.parent_id) == (score.span_id, escalate.span_id)
    assert record.headers["traceparent"] == f"00-{forward.trace_id}-{forward.span_id}-01".encode()
    event_id = str(record.headers["ce_id"], "ascii")  # type: ignore[arg-type]
    assert escalate.attributes["vigil.event_id"] == forward.attributes["vigil.event_id"] == event_id
    assert str(forward.attributes["vigil.location"]).startswith(f"{topic}/")
    services = [span.service for span in (capture, score, escalate, forward)]
    assert services == ["vigil-edge", "vigil-detector", "vigil-detector", "vigil-bridge"]
    assert {span.resource["vigil.site"] for span in received.spans} == {"depot"}
    assert capture.start_ns <= score.start_ns <= escalate.start_ns <= forward.start_ns <= forward.end_ns

    for role, families in told.items():
        assert families["vigil_info"].samples[0].labels["origin"] == f"porch.{role}"
        unnamed = [sample for name in ("vigil_count", "vigil_step_seconds") for sample in samples_of(families, name)]
        assert unnamed == [], f"{role}: give them a series in broker/series.py"
    assert told["edge"]["vigil_bus_connected"].samples[0].value == 1


def samples_of(families: dict[str, Metric], name: str) -> list[dict[str, str]]:
    return [sample.labels for sample in families[name].samples] if name in families else []
