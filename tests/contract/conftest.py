from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.brokers import AmqttSite, MemorySite, MosquittoSite, Site
from tests.support.embedded import EmbeddedBroker
from tests.support.mosquitto import Mosquitto


@pytest.fixture(params=["memory", "amqtt", "mosquitto"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """Each broker in turn; whatever the bus promises, it promises on all of them."""
    if request.param == "memory":
        yield MemorySite()
    elif request.param == "amqtt":
        with EmbeddedBroker(tmp_path) as embedded:
            yield AmqttSite(embedded)
    else:
        mosquitto: Mosquitto = request.getfixturevalue("mosquitto")
        yield MosquittoSite(mosquitto)
