from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.memory import MemoryBroker
from tests.unit.detector.street import Street


@pytest.fixture
def street(tmp_path: Path) -> Iterator[Street]:
    """A site in memory."""
    site = Street(MemoryBroker(), tmp_path)
    site.open()
    yield site
    for bus in site.buses:
        bus.close(0)
