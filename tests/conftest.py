"""What every test may ask for: real data, real brokers, a real Kafka."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import structlog

from tests.support.kafka import Kafka, KafkaServer, why_no_kafka
from tests.support.mosquitto import Mosquitto, mosquitto_program
from tests.support.skips import pytest_make_collect_report, pytest_runtest_makereport
from tests.support.workers import (
    comes_last,
    is_worker,
    pytest_xdist_auto_num_workers,
    pytest_xdist_make_scheduler,
)

__all__ = [
    "fresh_logging",
    "kafka",
    "kafka_server",
    "mosquitto",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_make_collect_report",
    "pytest_runtest_makereport",
    "pytest_xdist_auto_num_workers",
    "pytest_xdist_make_scheduler",
    "shared_data",
]

_ROOT = Path(__file__).parents[1]
_SERVERS = {"homeassistant": "homeassistant", "kafka": "kafka", "kafka_server": "kafka", "mosquitto": "mosquitto"}
"""Markers by fixture."""

# The same examples in every run, and no judgement on their time: a run fails for a reason, never by chance.
hypothesis.settings.register_profile("short", max_examples=50, derandomize=True, deadline=None)
hypothesis.settings.register_profile("long", max_examples=2_000, deadline=None)
hypothesis.settings.load_profile("long" if os.environ.get("VIGIL_TEST_LONG") else "short")


def pytest_configure() -> None:
    """Let a test run that is asked to end (SIGTERM) end its servers first, as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests that ask for a server, so that `-m "not kafka"` leaves them out."""
    for item in items:
        for fixture in _SERVERS.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker(_SERVERS[fixture])
    if is_worker(config):
        items.sort(key=comes_last)


@pytest.fixture(autouse=True)
def fresh_logging() -> None:
    """Forget what an earlier test made of the logs; loggers are made when a part is, so each test has its own."""
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with the real test videos and models, beside the checkout."""
    folder = _ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no shared test data")
    return folder


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    """A Mosquitto of the test's own."""
    if mosquitto_program() is None:
        pytest.skip("no mosquitto: sudo apt-get install mosquitto")
    folder = tmp_path / "mosquitto"
    folder.mkdir()
    with Mosquitto(folder) as server:
        yield server


@pytest.fixture(scope="session")
def kafka_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """The session's Kafka, for a test that kills it (it leaves it running), or that comes through one of its other
    doors (`security`) or takes rights away (`deny`)."""
    reason = why_no_kafka()
    if reason is not None:
        pytest.skip(reason)
    with KafkaServer(tmp_path_factory.mktemp("kafka"), secured=True) as server:
        yield server


@pytest.fixture(scope="session")
def kafka(request: pytest.FixtureRequest) -> Kafka:
    """A Kafka: the one at VIGIL_TEST_KAFKA, else the session's own. Each test takes topics of its own."""
    address = os.environ.get("VIGIL_TEST_KAFKA")
    if address:
        return Kafka(address)
    own: KafkaServer = request.getfixturevalue("kafka_server")
    return own
