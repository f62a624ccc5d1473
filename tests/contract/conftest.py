from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest

from broker.memory import MemoryBroker
from tests.contract.brokers import AmqttSite, MemorySite, MosquittoSite, Site
from tests.support.embedded import EmbeddedBroker
from tests.support.mosquitto import Mosquitto

SiteMaker = Callable[..., Site]


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


@pytest.fixture(params=["memory", "mosquitto"])
def able_site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SiteMaker]:
    """The brokers that do more than amqtt, made to measure."""
    with contextlib.ExitStack() as stack:

        def in_memory(packet_bytes_max: int | None = None, refused: str = "", *, tells: bool = True) -> Site:
            def refuses(topic: str) -> str | None:
                return "Not authorized" if refused and topic == refused else None

            return MemorySite(MemoryBroker(packet_bytes_max=packet_bytes_max, tells_limit=tells, refuses=refuses))

        def mosquitto(packet_bytes_max: int | None = None, refused: str = "", *, tells: bool = True) -> Site:
            folder = tmp_path / "mosquitto"
            folder.mkdir()
            rules = folder / "acl"
            rules.write_text(f"topic readwrite #\ntopic deny {refused}\n" if refused else "topic readwrite #\n")
            rules.chmod(0o644)
            settings = [f"acl_file {rules}"]
            if packet_bytes_max is not None:
                settings.append(f"max_packet_size {packet_bytes_max}")
            protocol: Literal["5", "3.1.1"] = "5" if tells else "3.1.1"
            return MosquittoSite(stack.enter_context(Mosquitto(folder, settings=settings)), protocol)

        yield in_memory if request.param == "memory" else mosquitto
