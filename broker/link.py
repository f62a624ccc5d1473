"""Staying connected: one connection after another, and what is known of all of them together."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from broker.packets import PacketLimit
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
from config.backoff import Backoff
from config.clock import Clock
from config.errors import BadPayloadError, TransientError
from config.log import get_logger
from config.supervise import Supervised, beat

__all__ = ["Link", "LinkEvents", "LinkStatistics"]

_STEADY_S = 5.0
"""A connection that stands so long is a success: the next loss is answered at once again."""
_SHORT_LIVES = 5
"""So many connections in a row that do not, to a broker that takes the next one at once: most likely somebody else
uses our client id. MQTT 3.1.1 cannot say so."""
_PEACE_S: dict[LossCause, tuple[float, float]] = {"taken_over": (10.0, 30.0), "closed": (4.0, 10.0)}
"""How long to leave the broker to whoever took our place; by chance within this range, so that two do not alternate."""
_OPENING_MAX_S = 180.0
"""Looking up a name that no server answers for takes minutes, and the connecting some seconds more."""
_TWO_NAMES = "stop one, or give it another node or --role"
_RENEW_INTERVAL_S = 5.0
"""At most one new connection in so long for the sake of catching up."""


@dataclass(frozen=True, slots=True)
class LinkEvents:
    """What a link reports, on its own thread.

    Attributes:
        on_up: a connection stands; nobody else can send before this returns.
        on_message: a message came; the second argument acknowledges it.
        on_sent: see :class:`broker.transport.TransportEvents`; True when a refusal is dealt with.
        on_down: the connection is gone.
    """

    on_up: Callable[[Limits], None]
    on_message: Callable[[Inbound, Callable[[], None]], None]
    on_sent: Callable[[int, str | None], bool]
    on_down: Callable[[], None]


@dataclass(slots=True)
class LinkStatistics:
    """What a link has seen since its start.

    Attributes:
        connected: whether a connection stands now.
        connections: successful ones; the first is 1.
        losses: how often a connection ended, by cause; ``renewed`` are those that this side ended to catch up.
        last_loss: the last cause in words.
        limits: what the broker said of the present or last connection.
        packet_bytes_max: the largest packet that may be sent; None while nothing speaks for a limit.
        packet_limit_learned: whether that was learned and not told.
        unacknowledged: messages that came and are not confirmed.
        acks_ignored: confirmations that came too late, or twice.
        refused: messages that the broker said no to (MQTT 5).
    """

    connected: bool = False
    connections: int = 0
    losses: dict[str, int] = field(default_factory=dict)
    last_loss: str = ""
    limits: Limits | None = None
    packet_bytes_max: int | None = None
    packet_limit_learned: bool = False
    unacknowledged: int = 0
    acks_ignored: int = 0
    refused: int = 0


class Link:
    """One process's connection to its broker, made again whenever it is lost.

    Concurrency: everything may be called from any thread; events come on the link's own.

    Args:
        origin: whose it is, for messages.
        transports: makes connections.
        will: called for each connection: what the broker says when this process dies.
        events: what is reported.
        clock: time.
        stop: ends it.
        on_fatal: called when the broker refuses us for good.
    """

    def __init__(
        self,
        *,
        origin: str,
        transports: TransportFactory,
        will: Callable[[], Outbound | None],
        events: LinkEvents,
        clock: Clock,
        stop: threading.Event,
        on_fatal: Callable[[Exception], None] | None = None,
    ) -> None:
        self._origin = origin
        self._transports = transports
        self._will = will
        self._events = events
        self._clock = clock
        self._stop = stop
        self._log = get_logger(origin=origin)
        self._lock = threading.RLock()
        self._transport: Transport | None = None
        self._connected = threading.Event()
        self._packets = PacketLimit()
        self._unconfirmed: dict[int, str] = {}
        self._numbers = LinkStatistics()
        self._losses: Counter[str] = Counter()
        self._short_lives = 0
        self._renewed_s = float("-inf")
        self._renewing = False
        self._backoff = Backoff(0.1, 5.0)
        self._thread = Supervised(
            "bus", self._serve, stop=stop, on_fatal=on_fatal, backoff=self._backoff, vital="alone"
        )

    def start(self) -> None:
        """Connect, and stay connected until `stop` is set and `close` is called. Returns at once."""
        self._thread.start()

    def close(self, timeout_s: float) -> None:
        """Leave, and wait at most `timeout_s` for that; `stop` must be set."""
        with self._lock:
            if self._transport is not None:
                self._transport.close()
        self._thread.join(timeout_s)

    @property
    def connected(self) -> bool:
        """Whether a connection stands now."""
        return self._connected.is_set()

    @property
    def connections(self) -> int:
        """Successful connections so far."""
        return self._numbers.connections

    def wait_connected(self, timeout_s: float) -> bool:
        """Wait at most `timeout_s` for the connection; True when it is there."""
        return self._connected.wait(timeout_s)

    @property
    def packet_bytes_max(self) -> int | None:
        """The largest packet that may be sent; None while nothing speaks for a limit."""
        with self._lock:
            return self._packets.bytes_max

    def send(self, message: Outbound) -> int:
        """Hand a message to the connection; its number comes back in `on_sent`.

        Raises:
            BadPayloadError: it is larger than the broker takes; sending it would end the connection.
            TransientError: there is no connection.
        """
        size_bytes = packet_bytes(message.topic, len(message.payload))
        with self._lock:
            if self._transport is None:
                raise TransientError("not connected to the broker")
            limit = self._packets.bytes_max
            if limit is not None and size_bytes > limit:
                raise BadPayloadError(
                    f"a packet of {size_bytes} bytes is more than the {limit} that the broker takes: raise its limit "
                    "(Mosquitto: max_packet_size)",
                    topic=message.topic,
                    size_bytes=len(message.payload),
                )
            number = self._transport.publish(message)
            self._packets.handed_over(number, size_bytes, message.qos)
            if message.qos:
                self._unconfirmed[number] = message.topic
            return number

    def subscribe(self, filters: Sequence[tuple[str, int]]) -> None:
        """Ask for topic filters, each with its QoS; without a connection nothing happens."""
        with self._lock:
            if self._transport is not None:
                self._transport.subscribe(filters)

    def unsubscribe(self, filters: Sequence[str]) -> None:
        """Ask for topic filters no more; without a connection nothing happens."""
        with self._lock:
            if self._transport is not None:
                self._transport.unsubscribe(filters)

    def renew(self) -> bool:
        """End this connection and make a new one at once; False when the last such was just before.

        What the broker still holds for the old connection is dropped there, except for QoS 1 and 2 of a persistent
        session, which come again. No will is sent.
        """
        now_s = self._clock.monotonic_s()
        with self._lock:
            if self._transport is None or now_s - self._renewed_s < _RENEW_INTERVAL_S:
                return False
            self._renewed_s, self._renewing = now_s, True
            self._transport.close()
            return True

    def statistics(self) -> LinkStatistics:
        """A copy of the figures as they are now."""
        with self._lock:
            numbers = self._numbers
            return LinkStatistics(
                connected=self.connected,
                connections=numbers.connections,
                losses=dict(self._losses),
                last_loss=numbers.last_loss,
                limits=numbers.limits,
                packet_bytes_max=self._packets.bytes_max,
                packet_limit_learned=self._packets.learned is not None,
                unacknowledged=self._transport.unacknowledged if self._transport is not None else 0,
                acks_ignored=numbers.acks_ignored,
                refused=numbers.refused,
            )

    # --- on the link's own thread --------------------------------------------------------------------------------

    def _serve(self) -> None:
        transport: Transport
        events = TransportEvents(lambda inbound: self._on_message(transport, inbound), self._on_sent)
        transport = self._transports(events, self._will())
        self._open(transport)
        opened_s = self._clock.monotonic_s()
        lost: ConnectionLostError | None = None
        try:
            self._enter(transport)
            transport.run()
        except ConnectionLostError as error:
            self._note_loss(error, self._clock.monotonic_s() - opened_s)
            lost = error
        finally:
            self._leave()
        if lost is not None:
            self._keep_the_peace(lost.cause)
            raise lost

    def _open(self, transport: Transport) -> None:
        beat(_OPENING_MAX_S)
        try:
            transport.open()
        except TransientError:
            self._short_lives = 0  # the broker is away: nobody took our place
            raise

    def _enter(self, transport: Transport) -> None:
        limits = transport.limits
        with self._lock:
            if self._stop.is_set():
                transport.close()
            self._transport = transport
            self._renewing = False
            self._packets.connected(limits.packet_bytes_max)
            self._unconfirmed.clear()
            self._numbers.connections += 1
            self._numbers.limits = limits
            try:
                self._events.on_up(limits)
            except TransientError as error:  # it broke again at once; let `run` find out, and clean up
                self._log.debug("bus.broken", error=str(error))
            self._connected.set()
        self._log.info(
            "bus.connected",
            session_present=limits.session_present,
            connections=self._numbers.connections,
            mqtt=limits.version,
        )

    def _leave(self) -> None:
        with self._lock:
            self._transport = None
            self._connected.clear()
            renewed = self._renewing and not self._stop.is_set()
            if renewed:
                self._losses["renewed"] += 1
                self._numbers.last_loss = "ended from this side, to catch up"
        self._events.on_down()
        if not self._stop.is_set() and not renewed:
            self._log.warning("bus.disconnected", reason=self._numbers.last_loss)

    def _note_loss(self, error: ConnectionLostError, lived_s: float) -> None:
        too_large = error.cause == "packet_too_large"
        suspected = False
        with self._lock:
            self._losses[error.cause] += 1
            self._numbers.last_loss = str(error)
            if too_large or error.cause == "closed":
                suspected = self._packets.lost(self._clock.monotonic_s(), too_large=too_large)
        if lived_s >= _STEADY_S:
            self._backoff.reset()
        self._short_lives = 0 if suspected or lived_s >= _STEADY_S else self._short_lives + 1

    def _keep_the_peace(self, cause: LossCause) -> None:
        """Do not fight over a client id: leave the broker to the other one for a while, and say so."""
        if cause not in _PEACE_S or (cause == "closed" and self._short_lives < _SHORT_LIVES):
            return
        wait_s = round(random.uniform(*_PEACE_S[cause]), 1)
        if cause == "taken_over":
            reason = f"another process uses the same site, node and role: {_TWO_NAMES}"
            self._log.error("bus.taken_over", reason=reason, wait_s=wait_s)
        else:
            reason = f"connections end within seconds; another process may use the same names: {_TWO_NAMES}"
            self._log.error("bus.unsteady", reason=reason, wait_s=wait_s)
        self._short_lives = 0
        beat(wait_s)
        self._clock.wait(self._stop, wait_s)

    def _on_message(self, transport: Transport, inbound: Inbound) -> None:
        def acknowledge() -> None:
            if not transport.acknowledge(inbound):
                with self._lock:
                    self._numbers.acks_ignored += 1

        self._events.on_message(inbound, acknowledge)

    def _on_sent(self, number: int, refusal: str | None) -> None:
        with self._lock:
            self._packets.sent(number, self._clock.monotonic_s())
            topic = self._unconfirmed.pop(number, None)
            self._numbers.refused += refusal is not None
        if not self._events.on_sent(number, refusal) and refusal is not None:
            self._log.warning("bus.refused", topic=topic, reason=refusal)
