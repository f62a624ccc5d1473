"""A broker in memory, for unit tests: the same bus, on wires that are queues.

It does what the contract suite asks of amqtt and Mosquitto alike: filters, retained messages, wills, persistent
sessions, QoS 1 until acknowledged in order; and what it asks of Mosquitto with MQTT 5: refusals, a packet limit, a
receive window, expiry, and one connection a client id.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from broker.acks import OrderedAcks
from broker.transport import (
    ConnectionLostError,
    Inbound,
    Limits,
    LossCause,
    Outbound,
    Transport,
    TransportEvents,
    TransportFactory,
    packet_bytes,
)
from config.clock import Clock, SystemClock
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


@dataclass(frozen=True, slots=True)
class _Sent:
    """Word that a message arrived at the broker."""

    number: int
    refusal: str | None


@dataclass(frozen=True, slots=True)
class _Cut:
    """The end of a connection."""

    cause: LossCause


_Wire = queue.SimpleQueue[Inbound | _Sent | _Cut | None]


@dataclass(frozen=True, slots=True)
class _Kept:
    """A message that the broker holds, until it expires."""

    message: Outbound
    until_s: float


@dataclass(slots=True)
class _Session:
    filters: dict[str, int] = field(default_factory=dict)
    unacknowledged: dict[int, Inbound] = field(default_factory=dict)
    queued: list[tuple[Inbound, float]] = field(default_factory=list)
    wire: _Wire | None = None
    will: Outbound | None = None
    persistent: bool = False


class MemoryBroker:
    """Routes messages between the connections that it makes.

    Concurrency: safe between threads; each connection's events are called from the thread that runs it.

    Args:
        packet_bytes_max: the largest packet that it takes; a larger one ends the connection.
        tells_limit: say so when a connection is made, as MQTT 5 does.
        receive_window: messages of QoS 1 that a client may leave unacknowledged.
        refuses: why a message on this topic is refused; None takes it.
        clock: when messages expire.
    """

    def __init__(
        self,
        *,
        packet_bytes_max: int | None = None,
        tells_limit: bool = True,
        receive_window: int = 1000,
        refuses: Callable[[str], str | None] = lambda _topic: None,
        clock: Clock | None = None,
    ) -> None:
        self._packet_bytes_max = packet_bytes_max
        self._tells_limit = tells_limit
        self._receive_window = receive_window
        self._refuses = refuses
        self._clock: Clock = clock or SystemClock()
        self._lock = threading.RLock()
        self._sessions: dict[str, _Session] = {}
        self._retained: dict[str, _Kept] = {}
        self._numbers = itertools.count(1)
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
                    session.wire.put(_Cut("closed"))
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
                self._throw_out(client_id, session, session.wire, "closed")

    def _throw_out(self, client_id: str, session: _Session, wire: _Wire, cause: LossCause) -> None:
        wire.put(_Cut(cause))
        self._leave(client_id, session, with_will=True)

    def connect(self, client: _MemoryTransport) -> Limits:
        """Take a connection; an older one of the same client ends."""
        with self._lock:
            if not self._up:
                raise TransientError("no broker: it is stopped")
            session = self._sessions.get(client.client_id)
            if session is not None and session.wire is not None:
                self._throw_out(client.client_id, session, session.wire, "taken_over")
            session = self._sessions.get(client.client_id)
            present = session is not None and client.persistent
            if session is None or not client.persistent:
                session = self._sessions[client.client_id] = _Session()
            session.persistent, session.will, session.wire = client.persistent, client.will, client.wire
            for message in session.unacknowledged.values():
                client.wire.put(message)
            self._deliver_queued(session)
            return Limits(
                version="5",
                packet_bytes_max=self._packet_bytes_max if self._tells_limit else None,
                receive_max=65_535,
                keepalive_s=60,
                session_present=present,
            )

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
            session = self._sessions.get(client.client_id)
            if session is None or session.wire is not client.wire:
                return
            session.filters.update(filters)
            for topic_filter, qos in filters:
                for kept in list(self._retained.values()):
                    if topic_matches(topic_filter, kept.message.topic) and kept.until_s > self._clock.monotonic_s():
                        self._send(session, kept.message, min(qos, kept.message.qos), retained=True)

    def unsubscribe(self, client: _MemoryTransport, filters: Sequence[str]) -> None:
        """Take filters away."""
        with self._lock:
            session = self._sessions.get(client.client_id)
            if session is not None and session.wire is client.wire:
                for topic_filter in filters:
                    session.filters.pop(topic_filter, None)

    def publish(self, client: _MemoryTransport, message: Outbound) -> int:
        """Route a message, or refuse it; it counts as sent at once."""
        with self._lock:
            session = self._sessions.get(client.client_id)
            if session is None or session.wire is not client.wire:
                raise TransientError("not connected")
            number = next(self._numbers)
            limit = self._packet_bytes_max
            if limit is not None and packet_bytes(message.topic, len(message.payload)) > limit:
                if not message.qos:
                    client.wire.put(_Sent(number, None))
                self._throw_out(client.client_id, session, client.wire, "closed")
                return number
            refusal = self._refuses(message.topic)
            if refusal is None:
                self._publish(message)
            client.wire.put(_Sent(number, refusal if message.qos else None))
            return number

    def _publish(self, message: Outbound) -> None:
        if message.retain:
            if message.payload:
                self._retained[message.topic] = _Kept(message, self._until_s(message))
            else:
                self._retained.pop(message.topic, None)
        for session in list(self._sessions.values()):
            matching = [qos for wanted, qos in session.filters.items() if topic_matches(wanted, message.topic)]
            if matching:
                self._send(session, message, min(max(matching), message.qos), retained=False)

    def _until_s(self, message: Outbound) -> float:
        return float("inf") if message.expiry_s is None else self._clock.monotonic_s() + message.expiry_s

    def _send(self, session: _Session, message: Outbound, qos: int, *, retained: bool) -> None:
        inbound = Inbound(message.topic, message.payload, qos, retained, next(self._numbers))
        if qos and (session.wire is not None or session.persistent):
            session.queued.append((inbound, self._until_s(message)))
            self._deliver_queued(session)
        elif session.wire is not None:
            session.wire.put(inbound)

    def _deliver_queued(self, session: _Session) -> None:
        while session.wire is not None and session.queued and len(session.unacknowledged) < self._receive_window:
            inbound, until_s = session.queued.pop(0)
            if until_s > self._clock.monotonic_s():
                session.unacknowledged[inbound.token] = inbound
                session.wire.put(inbound)

    def acknowledge(self, client: _MemoryTransport, packet_id: int) -> None:
        """Forget a delivered message."""
        with self._lock:
            session = self._sessions.get(client.client_id)
            if session is not None and session.wire is client.wire:
                session.unacknowledged.pop(packet_id, None)
                self._deliver_queued(session)


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
        self.wire: _Wire = queue.SimpleQueue()
        self._events = events
        self._limits: Limits | None = None
        self._acks = OrderedAcks(lambda packet_id: broker.acknowledge(self, packet_id))

    def open(self) -> None:
        self._limits = self._broker.connect(self)

    @property
    def limits(self) -> Limits:
        if self._limits is None:
            raise RuntimeError("only an open connection has limits")
        return self._limits

    @property
    def unacknowledged(self) -> int:
        return len(self._acks)

    def run(self) -> None:
        try:
            cut = self._serve()
        finally:
            self._acks.close()
        self._broker.disconnect(self, with_will=cut is not None)
        if cut is not None:
            raise ConnectionLostError("connection cut", cut.cause)

    def _serve(self) -> _Cut | None:
        """Report until the connection ends; None when this side ended it."""
        while True:
            match self.wire.get():
                case _Sent(number, refusal):
                    self._events.on_sent(number, refusal)
                case Inbound() as message:
                    token = self._acks.arrived(message.token) if message.qos else 0
                    self._events.on_message(
                        Inbound(message.topic, message.payload, message.qos, message.retained, token)
                    )
                case _Cut() as cut:
                    return cut
                case None:
                    return None

    def publish(self, message: Outbound) -> int:
        return self._broker.publish(self, message)

    def subscribe(self, filters: Sequence[tuple[str, int]]) -> None:
        self._broker.subscribe(self, filters)

    def unsubscribe(self, filters: Sequence[str]) -> None:
        self._broker.unsubscribe(self, filters)

    def acknowledge(self, message: Inbound) -> bool:
        return not message.qos or self._acks.settle(message.token)

    def close(self) -> None:
        self.wire.put(None)
