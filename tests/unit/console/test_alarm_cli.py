"""`vigil alarm fake`: which rules it knows, and what it takes from them."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from broker import Bus
from broker.memory import MemoryBroker
from broker.messages import Escalation, decode_json
from broker.outbox import Outbox
from broker.outbox_file import read_waiting
from config import ConfigError
from config.clock import ManualClock
from config.settings import Settings
from console.alarm_cli import alarm, alarm_of
from console.drill import Drill

RULES: Mapping[str, Mapping[str, Any]] = {
    "hall-fall": {"kind": "on-the-ground", "zones": ["floor"]},
    "gate": {"kind": "line-cross", "line": [[0, 0], [1, 1]], "label": "car", "severity": "info", "cameras": ["yard"]},
    "day": {},
    "night": {"severity": "critical"},
}
SETTINGS = Settings.model_validate({"detector": {"rules": RULES}})


@pytest.mark.parametrize("name", ["hall-fall", "on-the-ground"])
def test_it_looks_as_the_rule_would_and_says_that_it_is_a_drill(name: str, tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    bus = Bus(
        site="home",
        origin="node-1.drill",
        transports=MemoryBroker().transports("drill"),
        outbox=Outbox(path, origin="node-1.drill"),
    )
    Drill(bus, "hall", alarm_of(SETTINGS, name, "hall"), clock=ManualClock(), tell=lambda _: None).run(
        threading.Event(), rate=1.0, count=1
    )
    (stored,) = read_waiting(path)
    bus.close(0)
    raised = decode_json(Escalation, stored.payload, max_bytes=2**20)
    assert (raised.rule, raised.kind, raised.severity, raised.label) == (
        "hall-fall", "on-the-ground", "critical", "person",
    )  # fmt: skip
    assert (raised.camera, raised.zones, raised.drill) == ("hall", ("floor",), True)
    assert "a fake alarm" in raised.summary
    assert len(raised.evidence) == 1


@pytest.mark.parametrize(
    ("name", "camera", "complaint"),
    [
        ("hal-fall", "hall", "no rule 'hal-fall'; did you mean 'hall-fall'"),
        ("xyz", "hall", "no rule 'xyz'; there are hall-fall, gate, day, night"),
        ("gate", "hall", "does not watch camera 'hall', but yard"),
        ("presence", "hall", "several rules are of the kind 'presence': name one of day, night"),
    ],
)
def test_a_rule_that_could_not_have_fired_is_refused_and_those_there_are_named(
    name: str, camera: str, complaint: str
) -> None:
    load = SimpleNamespace(read=lambda: SETTINGS)
    refused = CliRunner().invoke(alarm, ["fake", "--rule", name, "--camera", camera], obj=load)
    assert isinstance(refused.exception, ConfigError)
    assert complaint in str(refused.exception)
