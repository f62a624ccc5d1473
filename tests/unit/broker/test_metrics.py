"""`/metrics`: what a process tells is scraped under names that the page lists."""

from __future__ import annotations

import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import structlog
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from broker import Distribution, Figures, Presence
from broker.bus import Bus
from broker.memory import MemoryBroker
from broker.messages import CameraHealth, NodeHealth
from broker.outbox import Outbox
from broker.scrape import ScrapePoint, metrics_port, metrics_url, scraped
from broker.series import SERIES, Reading, metrics_page, samples_of
from config.settings import MetricsSettings, Settings
from tests.support.ports import free_port
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[3]
AT = datetime(2026, 1, 1, tzinfo=UTC)


def scrape(port: int) -> dict[str, Metric]:
    """The families that somebody who scrapes gets, by name."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        return {family.name: family for family in text_string_to_metric_families(answer.read().decode())}


def value(families: dict[str, Metric], family: str, sample: str | None = None, **labels: str) -> float:
    found = [s.value for s in families[family].samples if s.name == (sample or family) and s.labels == labels]
    assert len(found) == 1, families[family].samples
    return found[0]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Of an edge, whose port is that of the broker and one."""
    return Settings(site="home", node="porch", state_dir=tmp_path, metrics=MetricsSettings(port=free_port() - 1))


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[Bus]:
    broker = MemoryBroker()
    outbox = Outbox(tmp_path / "outbox.db", origin="porch.edge")
    bus = Bus(site="home", origin="porch.edge", transports=broker.transports("edge"), outbox=outbox)
    yield bus
    bus.close(0)


def port_of(settings: Settings) -> int:
    port = metrics_port(settings.metrics, "edge")
    assert port is not None
    return port


def test_a_real_scrape_finds_queues_drops_counts_cameras_and_distributions(settings: Settings, bus: Bus) -> None:
    took = Distribution()
    for took_s in (0.004, 0.004, 0.2):
        took.note(took_s)
    figures = Figures(
        queues={"clips_owed": 3},
        drops={"frames_late": 4},
        counts={"cameras": 1, "frames_captured": 90, "frames_percent": 50, "frames_dropped.yard": 7},
        cameras={"yard": CameraHealth(fps=8.0, sent_fps=2.0, late=4, reopened=1)},
        distributions={"capture_to_publish": took},
    )
    presence = Presence(bus, settings, "edge", figures=lambda: figures)
    bus.start()
    presence.start()
    wait_until(lambda: presence._reading() is not None)
    families = scrape(port_of(settings))
    presence.close()
    assert value(families, "vigil_queue_depth", queue="clips_owed") == 3
    assert value(families, "vigil_outbox_depth") == 0
    assert value(families, "vigil_drops", "vigil_drops_total", queue="frames_late") == 4
    assert value(families, "vigil_drops", "vigil_drops_total", queue="frames_expired") == 0
    assert value(families, "vigil_frames_captured", "vigil_frames_captured_total") == 90
    assert value(families, "vigil_frames_pace_ratio") == 0.5
    assert value(families, "vigil_camera_frames_dropped", "vigil_camera_frames_dropped_total", camera="yard") == 7
    assert value(families, "vigil_camera_frames_per_second", camera="yard") == 8
    assert value(families, "vigil_bus_connected") == 1
    assert (families["vigil_frames_captured"].type, families["vigil_queue_depth"].type) == ("counter", "gauge")
    name = "vigil_capture_to_publish_seconds"
    assert families[name].type == "histogram"
    assert value(families, name, f"{name}_bucket", le="0.0025") == 0
    assert value(families, name, f"{name}_bucket", le="0.005") == 2
    assert value(families, name, f"{name}_bucket", le="+Inf") == value(families, name, f"{name}_count") == 3
    assert value(families, name, f"{name}_sum") == pytest.approx(0.208)
    assert value(families, "process_resident_memory_bytes") > 10**6
    (info,) = families["vigil_info"].samples
    assert info.labels["origin"] == "porch.edge"
    documented = {series.name.removesuffix("_total") for series in SERIES}
    assert {found for found in families if found.startswith("vigil_")} <= documented


def test_without_a_broker_it_still_tells(settings: Settings, bus: Bus) -> None:
    presence = Presence(bus, settings, "edge", figures=lambda: Figures(counts={"cameras": 2}))
    presence.start()  # and the bus is never started
    wait_until(lambda: presence._reading() is not None)
    families = scrape(port_of(settings))
    assert value(families, "vigil_cameras") == 2
    assert value(families, "vigil_bus_connected") == 0
    presence.close()


def test_a_port_that_is_taken_is_named_once_and_used_when_it_is_free(settings: Settings) -> None:
    structlog.reset_defaults()
    with capture_logs() as logs, socket.create_server(("127.0.0.1", port_of(settings))):
        point = ScrapePoint(settings, "edge")
        point.open()
        point.open()
    (line,) = logs
    assert (line["event"], line["port"]) == ("metrics.unavailable", port_of(settings))
    assert "choose another metrics.port" in line["error"]
    point.open()
    assert "vigil_info" in scrape(port_of(settings))
    point.close()
    with pytest.raises(OSError, match="refused"):
        scrape(port_of(settings))


def test_a_process_without_a_bus_tells_who_it_is(tmp_path: Path) -> None:
    port = free_port()
    settings = Settings(site="home", node="porch", state_dir=tmp_path, metrics=MetricsSettings(port=port - 5))
    with scraped(settings, "fleet", child="sleep"):
        families = scrape(port)
        assert "sleep_process_cpu_seconds" not in families
        with subprocess.Popen(["sleep", "60"]) as child:
            wait_until(lambda: "sleep_process_cpu_seconds" in scrape(port))
            child.kill()
    assert families["vigil_info"].samples[0].labels["origin"] == "porch.fleet"
    assert value(families, "process_cpu_seconds", "process_cpu_seconds_total") > 0


def test_nothing_listens_unless_a_port_is_set(tmp_path: Path) -> None:
    point = ScrapePoint(Settings(site="home", node="porch", state_dir=tmp_path), "edge")
    point.open()
    assert point._server is None
    assert MetricsSettings().host == "127.0.0.1"


def test_each_role_has_a_port_of_its_own() -> None:
    settings = MetricsSettings(port=9460)
    roles = ("broker", "edge", "detector", "bridge", "console", "fleet", "commands", "homeassistant")
    assert [metrics_port(settings, role) for role in roles] == list(range(9460, 9468))
    assert metrics_port(settings, "detector.2") == 9472
    assert metrics_port(settings, "edge.3") == 9481
    assert metrics_port(settings, "drill") is None
    assert metrics_port(MetricsSettings(), "edge") is None
    assert metrics_port(settings, "edge.6000") is None
    assert metrics_url(MetricsSettings(port=9460, host="0.0.0.0"), "edge") == "http://127.0.0.1:9461/metrics"
    assert metrics_url(MetricsSettings(port=9460, host="::1"), "edge") == "http://[::1]:9461/metrics"


def test_a_figure_nobody_named_is_told_all_the_same() -> None:
    health = NodeHealth(
        node="porch", role="bridge", at=AT, uptime_s=1, cpu_percent=0, memory_bytes=1, disk_free_bytes=1,
        counts={"novelties": 2, "gaps/camera_motion/porch.edge": 5, "escalations": 3},
    )  # fmt: skip
    told = {
        (sample.series.name, sample.labels): sample.value
        for sample in samples_of(Reading(health, connected=True, distributions={"novelty": Distribution()}))
    }
    assert told["vigil_count", ("novelties",)] == 2
    assert told["vigil_bridge_gaps_of_origin", ("camera_motion", "porch.edge")] == 5
    assert told["vigil_bridge_escalations_total", ()] == 3
    assert ("vigil_step_seconds", ("novelty",)) in told


def test_the_page_lists_every_series() -> None:
    assert (ROOT / "docs" / "metrics.md").read_text() == metrics_page(), "run `vigil metrics --write docs`"
    assert all(series.name.endswith("_total") == (series.kind == "counter") for series in SERIES)
