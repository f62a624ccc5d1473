"""A bus of the test's own, on a real Mosquitto; and real Home Assistants."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broker import Bus, connect
from config.settings import Settings
from config.sources import load_settings
from tests.support.homeassistant import Installation, installations
from tests.support.mosquitto import Mosquitto

Join = Callable[[str], Bus]


@pytest.fixture
def settings(mosquitto: Mosquitto, tmp_path: Path) -> Settings:
    return load_settings(None, {"bus": {"url": mosquitto.url}, "state_dir": tmp_path / "state", "node": "node-1"})


@pytest.fixture
def join(settings: Settings) -> Iterator[Join]:
    """Joins the bus in a role, with an outbox."""
    buses: list[Bus] = []

    def joined(role: str) -> Bus:
        bus = connect(settings, role, with_outbox=True)
        bus.start()
        buses.append(bus)
        assert bus.wait_connected(30)
        return bus

    yield joined
    for bus in buses:
        bus.close(0.0)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for a Home Assistant runs with the oldest and the newest one that this machine's Pythons run."""
    if "homeassistant" in metafunc.fixturenames:
        metafunc.parametrize("homeassistant", installations(), ids=str, indirect=True, scope="module")


@pytest.fixture(scope="module")
def homeassistant(request: pytest.FixtureRequest) -> Installation:
    """A Home Assistant that can be started."""
    chosen: Installation = request.param
    return chosen
