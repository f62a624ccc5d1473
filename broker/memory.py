"""A broker in memory, for unit tests: the same bus, on wires that are queues.

It does what the contract suite asks of amqtt and Mosquitto alike: filters, retained messages, wills, persistent
sessions, QoS 1 until acknowledged.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from broker.transport import Inbound, Outbound, Transport, TransportEvents, TransportFactory
from config.errors import TransientError

__all__ = ["MemoryBroker", "topic_matches"]


def topic_matches(topic_filter: str, topic: str) -> bool:
    """Whether an MQTT topic filter matches a topic.

    Source: MQTT 3.1.1, section 4.7.
    """
    wanted, levels = topic_filter.split("/"), topic.split("/")
    for position, level in enumerate(wanted):
        if level == "#":
            return True
        if position >= len(levels) or level not in ("+", levels[position]):
            return False
    return len(wanted) == len(levels)


@dataclass(slots=True)
class _Session:
    filters: dict[str, int] = field(default_factory=dict)
    unacknowledged: dict[int, Inbound] = field(default_factory=dict)
    wire: queue.SimpleQueue[Inbound | int | None] | None = None
    will: Outbound | None = None
    persistent: bool = False


class MemoryBroker:
    """Routes messages between the connections that it makes.

    Concurrency: safe between threads; each connection's events are called from the thread that runs it.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._sessions: dict[str, _Session] = {}
        self._retained: dict[str, Outbound] = {}
        self._tokens = itertools.count(1)
        self._up = True

    def transports(self, client_id: str, *, persistent: bool = False) -> TransportFactory:
        """A maker of connections for one client."""

        def make(events: TransportEvents, will: Outbound | None) -> Transport:
            return _MemoryTransport(self, client_id, events, will, persistent=persistent)

        return make

    def stop(self) -> None:
        """Cut every connection and take no new ones; retained messages and sessions stay."""
        with self._lock:
            self._up = False
            for session in self._sessions.values():
                if session.wire is not None:
                    session.wire.put(None)
                session.wire = None

    def start(self) -> None:
        """Take connections again."""
        with self._lock:
            self._up = True

    def forget(self) -> None:
        """Lose every retained message and session, as a broker without persistence does in a crash."""
        with self._lock:
            self._retained.clear()
            self._sessions.clear()

    def cut(self, client_id: str) -> None:
        """Cut one client's connection as its death would: the will is published."""
        with self._lock:
            session = self._sessions.get(client_id)
            if session is not None and session.wire is not None:
                session.wire.put(None)
                self._leave(client_id, session, with_will=True)

    def _connect(self, client: _MemoryTransport) -> bool:
        with self._lock:
            if not self._up:
                raise TransientError("no broker: it is stopped")
            session = self._sessions.get(client.client_id)
            present = session is not None and client.persistent
            if session is None or not client.persistent:
                session = self._sessions[client.client_id] = _Session()
            session.persistent, session.will, session.wire = client.persistent, client.will, client.wire
            for message in session.unacknowledged.values():
                client.wire.put(message)
            return present

    def _leave(self, client_id: str, session: _Session, *, with_will: bool) -> None:
        session.wire = None
        if not session.persistent:
            self._sessions.pop(client_id, None)
        if with_will and session.will is not None:
            self._publish(session.will)

    def disconnect(self, client: _MemoryTransport, *, with_will: bool) -> None:
        """Take a connection away, when it is still the client's."""
        with self._lock:
            session = self._sessions.get(client.client_id)
            if session is not None and session.wire is client.wire:
                self._leave(client.client_id, session, with_will=with_will)

    def subscribe(self, client: _MemoryTransport, filters: Sequence[tuple[str, int]]) -> None:
        """Add filters and send what is retained under them."""
        with self._lock:
            session = self._sessions[client.client_id]
            session.filters.update(filters)
            for topic_filter, qos in filters:
                for message in list(self._retained.values()):
                    if topic_matches(topic_filter, message.topic):
                        self._send(session, message, min(qos, message.qos), retained=True)

    def publish(self, client: _MemoryTransport, message: Outbound) -> int:
        """Route a message; it counts as sent at once."""
        with self._lock:
            session = self._sessions.get(client.client_id)
            if session is None or session.wire is not client.wire:
                raise TransientError("not connected")
            token = next(self._tokens)
            self._publish(message)
            client.wire.put(token)
            return token

    def _publish(self, message: Outbound) -> None:
        if message.retain:
            if message.payload:
                self._retained[message.topic] = message
            else:
                self._retained.pop(message.topic, None)
        for session in list(self._sessions.values()):
            matching = [qos for wanted, qos in session.filters.items() if topic_matches(wanted, message.topic)]
            if matching:
                self._send(session, message, min(max(matching), message.qos), retained=False)

    def _send(self, session: _Session, message: Outbound, qos: int, *, retained: bool) -> None:
        inbound = Inbound(message.topic, message.payload, qos, retained, next(self._tokens))
        if qos and (session.wire is not None or session.persistent):
            session.unacknowledged[inbound.token] = inbound
        if session.wire is not None:
            session.wire.put(inbound)

    def acknowledge(self, client: _MemoryTransport, token: int) -> None:
        """Forget a delivered message."""
        with self._lock:
            session = self._sessions.get(client.client_id)
            if session is not None and session.wire is client.wire:
                session.unacknowledged.pop(token, None)


class _MemoryTransport:
    def __init__(
        self,
        broker: MemoryBroker,
        client_id: str,
        events: TransportEvents,
        will: Outbound | None,
        *,
        persistent: bool,
    ) -> None:
        self._broker = broker
        self.client_id = client_id
        self.will = will
        self.persistent = persistent
        self.wire: queue.SimpleQueue[Inbound | int | None] = queue.SimpleQueue()
        self._events = events
        self._closing = threading.Event()

    def open(self) -> bool:
        return self._broker._connect(self)  # noqa: SLF001 - two halves of one module

    def run(self) -> None:
        while (item := self.wire.get()) is not None:
            if isinstance(item, int):
                self._events.on_sent(item)
            else:
                self._events.on_message(item)
        self._broker.disconnect(self, with_will=not self._closing.is_set())
        if not self._closing.is_set():
            raise TransientError("connection cut")

    def publish(self, message: Outbound) -> int:
        return self._broker.publish(self, message)

    def subscribe(self, filters: Sequence[tuple[str, int]]) -> None:
        self._broker.subscribe(self, filters)

    def acknowledge(self, message: Inbound) -> None:
        self._broker.acknowledge(self, message.token)

    def close(self) -> None:
        self._closing.set()
        self.wire.put(None)
