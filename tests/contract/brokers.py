"""The three brokers that the contract suite runs on, behind one small face."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Literal, Protocol

from broker._paho import paho_transports
from broker.memory import MemoryBroker
from broker.transport import Outbound, TransportEvents, TransportFactory
from config.settings import BusSettings
from tests.support.embedded import EmbeddedBroker
from tests.support.mosquitto import Mosquitto

__all__ = ["AmqttSite", "MemorySite", "MosquittoSite", "Site"]


class Site(Protocol):
    """A broker under test."""

    def transports(self, client_id: str, *, persistent: bool = False) -> TransportFactory:
        """Connections of one client."""
        ...

    def restart_empty(self, while_down: Callable[[], None] | None = None) -> None:
        """Stop it, call `while_down` when given, and start it without anything that it kept."""
        ...

    def die(self, client_id: str, topic: str, payload: str) -> None:
        """Let a client with this will connect and die."""
        ...


class MemorySite:
    """The broker in memory."""

    def __init__(self, broker: MemoryBroker | None = None) -> None:
        self._broker = broker or MemoryBroker()

    def transports(self, client_id: str, *, persistent: bool = False) -> TransportFactory:
        """Connections of one client."""
        return self._broker.transports(client_id, persistent=persistent)

    def restart_empty(self, while_down: Callable[[], None] | None = None) -> None:
        """Stop it, call `while_down` when given, and start it without anything that it kept."""
        self._broker.stop()
        self._broker.forget()
        if while_down is not None:
            while_down()
        self._broker.start()

    def die(self, client_id: str, topic: str, payload: str) -> None:
        """Let a client with this will connect and die."""
        events = TransportEvents(lambda _message: None, lambda _number, _refusal: None)
        self.transports(client_id)(events, Outbound(topic, payload.encode(), 1, retain=True)).open()
        self._broker.cut(client_id)


_DYING_CLIENT = textwrap.dedent(
    """
    import os, signal, sys
    from broker._paho import paho_transports
    from broker.transport import Outbound, TransportEvents
    from config.settings import BusSettings
    url, client_id, topic, payload = sys.argv[1:]
    make = paho_transports(BusSettings(url=url, protocol="3.1.1"), client_id=client_id, persistent=False)
    events = TransportEvents(lambda _message: None, lambda _number, _refusal: None)
    make(events, Outbound(topic, payload.encode(), 1, retain=True)).open()
    os.kill(os.getpid(), signal.SIGKILL)
    """
)


class _ServerSite:
    protocol: Literal["5", "3.1.1"] = "5"

    def __init__(self, server: EmbeddedBroker | Mosquitto, protocol: Literal["5", "3.1.1"] | None = None) -> None:
        self._server = server
        self.protocol = protocol or self.protocol

    @property
    def _url(self) -> str:
        return f"mqtt://{self._server.host}:{self._server.port}"

    def transports(self, client_id: str, *, persistent: bool = False) -> TransportFactory:
        """Connections of one client."""
        settings = BusSettings(url=self._url, protocol=self.protocol)
        return paho_transports(settings, client_id=client_id, persistent=persistent)

    def restart_empty(self, while_down: Callable[[], None] | None = None) -> None:
        """Stop it, call `while_down` when given, and start it without anything that it kept."""
        self._server.kill()
        if while_down is not None:
            while_down()
        self._server.start()

    def die(self, client_id: str, topic: str, payload: str) -> None:
        """Let a client with this will connect and die."""
        arguments = [sys.executable, "-c", _DYING_CLIENT, self._url, client_id, topic, payload]
        assert subprocess.run(arguments, check=False, timeout=20).returncode < 0


class AmqttSite(_ServerSite):
    """amqtt in a process of its own."""

    protocol = "3.1.1"


class MosquittoSite(_ServerSite):
    """A real Mosquitto."""
