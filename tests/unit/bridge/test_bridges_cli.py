"""What `vigil bridges` says."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec
import pytest
from click.testing import CliRunner

from bridge.bridges_cli import BridgesReport, report
from bridge.shards import Bridges
from broker import Delivery, listen
from broker.messages import BridgeBeat, Message, NodeHealth, NodeStatus
from broker.topics import NODE_BRIDGE_BEAT, NODE_HEALTH, NODE_STATUS, Topic
from config.settings import BusSettings, Settings
from console.cli import cli
from tests.support.messages import AT
from tests.support.mosquitto import Mosquitto

SINK = "kafka c1 vigil.escalations"


def status_of(node: str, state: Literal["online", "offline"] = "online") -> NodeStatus:
    return NodeStatus(node=node, role="bridge", state=state, at=AT, started_at=AT)


def beat_of(node: str, own: tuple[int, ...], *, shards: int = 4) -> BridgeBeat:
    return BridgeBeat(bridge=f"{node}.bridge", seq=1, at=AT, sink=SINK, shards=shards, own=own)


def health_of(node: str) -> NodeHealth:
    counts = {"stored": 7, "foreign": 3, "stored_p99_us": 12_500}
    return NodeHealth(
        node=node, role="bridge", at=AT, uptime_s=1, cpu_percent=1, memory_bytes=1, disk_free_bytes=1,
        queues={"bridge": 2}, counts=counts,
    )  # fmt: skip


def told(known: Bridges, topic: Topic, content: Message) -> None:
    known.fold(Delivery(topic, content, b"", retained=False, received_at=AT, _acknowledge=lambda: None), 0.0)


@pytest.fixture
def known() -> Bridges:
    known = Bridges()
    for node, own in {"one": (0, 1), "two": (2,)}.items():
        told(known, NODE_STATUS.at("home", node=node, role="bridge"), status_of(node))
        told(known, NODE_BRIDGE_BEAT.at("home", node=node, role="bridge"), beat_of(node, own))
    return known


def test_each_bridge_has_its_shards_and_what_waits_and_what_nobody_has_is_said(known: Bridges) -> None:
    told(known, NODE_STATUS.at("home", node="gone", role="bridge"), status_of("gone", "offline"))
    told(known, NODE_STATUS.at("home", node="mute", role="bridge"), status_of("mute"))
    found = report(known, {"one.bridge": health_of("one")})
    rows = {row.bridge: row for row in found.bridges}
    assert {name: row.state for name, row in rows.items()} == {
        "gone.bridge": "offline", "mute.bridge": "silent", "one.bridge": "online", "two.bridge": "online",
    }  # fmt: skip
    one = rows["one.bridge"]
    assert (one.own, one.waiting, one.stored, one.foreign, one.stored_p99_ms) == ((0, 1), 2, 7, 3, 12.5)
    assert rows["two.bridge"].waiting is None
    assert found.faults == (f"{SINK}: shard 3 is of nobody; it may be changing hands",)


def test_bridges_that_split_differently_are_told(known: Bridges) -> None:
    told(known, NODE_BRIDGE_BEAT.at("home", node="two", role="bridge"), beat_of("two", (0,), shards=2))
    (fault,) = report(known, {}).faults
    assert "one.bridge into 4, two.bridge into 2" in fault


@pytest.fixture
def beating(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker, and a bridge that beats there."""
    (tmp_path / "broker").mkdir()
    stop = threading.Event()
    with Mosquitto(tmp_path / "broker") as server:
        bus = listen(Settings(bus=BusSettings(url=server.url)), "test")
        bus.start()
        assert bus.wait_connected(30)
        bus.publish(NODE_STATUS.at("home", node="one", role="bridge"), status_of("one"))

        def beat() -> None:
            while not stop.wait(0.05):
                bus.publish(NODE_BRIDGE_BEAT.at("home", node="one", role="bridge"), beat_of("one", (0, 1, 3)))
                bus.publish(NODE_HEALTH.at("home", node="one", role="bridge"), health_of("one"))

        thread = threading.Thread(target=beat)
        thread.start()
        yield server
        stop.set()
        thread.join()
        bus.close(0)


def test_the_command_prints_the_bridges_and_fails_while_a_shard_is_nobodys(beating: Mosquitto) -> None:
    shown = CliRunner().invoke(cli, ["--bus", beating.url, "bridges"], catch_exceptions=False)
    asked = CliRunner().invoke(cli, ["--bus", beating.url, "bridges", "--json"], catch_exceptions=False)
    assert shown.exit_code == asked.exit_code == 1
    line = f"one.bridge: online; into {SINK}; shards 0-1, 3 of 4; 2 wait, 7 stored (p99 12.5 ms), 3 left"
    assert line in shown.output
    assert "shard 2 is of nobody" in shown.output
    assert msgspec.json.decode(asked.stdout, type=BridgesReport).bridges[0].own == (0, 1, 3)
