"""The bus: typed messages in and out, with the promise of each topic's delivery class.

`publish` and `publish_event` are acknowledged, queued durably, or raise; they never log and return. What each class
promises stands at :class:`broker.topics.DeliveryClass`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from broker.frames import Frame, decode_frame
from broker.lanes import FrameLane, OutboxDrain
from broker.messages import Message, Receipt, Reject, decode_json, encode_json
from broker.outbox import Outbox
from broker.topics import (
    RECEIPT,
    REJECT,
    DeliveryClass,
    PayloadKind,
    Topic,
    TopicSpec,
    parse_topic,
)
from broker.transport import Inbound, Outbound, Transport, TransportEvents, TransportFactory
from config.backoff import Backoff
from config.clock import Clock, SystemClock
from config.errors import BadPayloadError, PermanentError, TransientError
from config.log import get_logger
from config.settings import BusSettings
from config.supervise import Supervised

__all__ = ["Bus", "BusStatistics", "Content", "Delivery", "Handler"]

Content = Message | Frame | bytes | str
"""A struct for JSON topics, a JPEG for picture topics (bytes out, :class:`Frame` in), bare text for the others."""

_PRIORITY = {"camera_escalation": 0, "camera_motion": 1}
"""Order in which a backlog drains. Source: the design, delivery classes."""
_PRIORITY_OTHERS = 2
_PUMP_INTERVAL_S = 0.25
_REJECT_INTERVAL_S = 1.0


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message that came.

    Attributes:
        topic: where it came.
        content: the struct, the :class:`~broker.frames.Frame`, or the text.
        payload: the bytes as they came.
        retained: the broker kept it; it may be old.
        received_at: when this process had it.
    """

    topic: Topic
    content: Content
    payload: bytes
    retained: bool
    received_at: datetime
    _acknowledge: Callable[[], None]

    def ack(self) -> None:
        """Confirm it to the broker; from any thread, once the work is durable.

        A confirmation that comes after the connection was lost is ignored: the message comes again.
        """
        self._acknowledge()


Handler = Callable[[Delivery], None]


@dataclass(frozen=True, slots=True)
class _Subscription:
    topic_filter: str
    qos: int
    spec: TopicSpec | None
    params: Mapping[str, str]
    handler: Handler
    manual_ack: bool


@dataclass(slots=True)
class BusStatistics:
    """What a bus has done since its start.

    Attributes:
        connections: successful ones; the first is 1.
        published: messages handed in, by delivery class.
        received: messages that were decoded and handled.
        rejected: messages that could not be used.
        frames_dropped: frames that made way for newer ones or had no connection.
        frame_bytes_in_flight: bytes of frames not yet on the wire.
        outbox_rows: messages that wait on disk.
        outbox_bytes: their bytes.
        awaiting_receipt: of these, those that the broker has.
        resent: escalations sent again for want of a receipt.
    """

    connected: bool = False
    connections: int = 0
    published: dict[str, int] = field(default_factory=dict)
    received: int = 0
    rejected: int = 0
    frames_dropped: int = 0
    frame_bytes_in_flight: int = 0
    outbox_rows: int = 0
    outbox_bytes: int = 0
    awaiting_receipt: int = 0
    resent: int = 0


class Bus:
    """One process's place on the bus.

    Concurrency: `publish`, `publish_event`, `subscribe` and `ack` may be called from any thread. Handlers run on the
    one thread of the connection: they must be short, and hand work over to a bounded mailbox of their own.

    Args:
        site: the site's name.
        origin: ``{node}.{role}`` of this process.
        transports: makes connections; see :func:`broker.connect` and :class:`broker.memory.MemoryBroker`.
        settings: limits and delivery overrides.
        outbox: the disk queue; without one, events and escalations cannot be published.
        will: what the broker says when this process dies.
        clock: time.
        on_fatal: called when the broker refuses us for good.
    """

    def __init__(
        self,
        *,
        site: str,
        origin: str,
        transports: TransportFactory,
        settings: BusSettings | None = None,
        outbox: Outbox | None = None,
        will: tuple[Topic, Message] | None = None,
        clock: Clock | None = None,
        on_fatal: Callable[[Exception], None] | None = None,
    ) -> None:
        self.site = site
        self.origin = origin
        self._transports = transports
        self._settings = settings or BusSettings()
        self._outbox = outbox
        self._clock: Clock = clock or SystemClock()
        self._will = will
        self._log = get_logger(origin=origin)
        self._lock = threading.RLock()
        self._transport: Transport | None = None
        self._connected = threading.Event()
        self._stop = threading.Event()
        self._work = threading.Event()
        self._states: dict[str, Outbound] = {}
        self._subscriptions: list[_Subscription] = []
        self._numbers = BusStatistics()
        self._last_reject_s = float("-inf")
        self._frames = FrameLane(self._send, bytes_max=self._settings.frame_bytes_in_flight_max)
        limits = self._settings.outbox
        self._drain = (
            OutboxDrain(outbox, self._send, window=limits.window, resend_after_s=limits.resend_after_s)
            if outbox is not None
            else None
        )
        self._link = Supervised(
            "bus", self._serve_connection, stop=self._stop, on_fatal=on_fatal, backoff=Backoff(0.1, 5.0)
        )
        self._pump = Supervised("outbox", self._pump_once, stop=self._stop)

    def start(self) -> None:
        """Connect, and stay connected until `close`. Returns at once."""
        if self._drain is not None:
            self.subscribe(RECEIPT, self._on_receipt, origin=self.origin)
            self._pump.start()
        self._link.start()

    def close(self, drain_s: float = 2.0) -> None:
        """Wait at most `drain_s` for the outbox to empty, then leave; what is left stays on disk."""
        deadline_s = self._clock.monotonic_s() + drain_s
        pause = threading.Event()
        while self._outbox is not None and self._outbox.rows and self._clock.monotonic_s() < deadline_s:
            self._work.set()
            self._clock.wait(pause, 0.02)
        self._stop.set()
        self._work.set()
        with self._lock:
            if self._transport is not None:
                self._transport.close()
        self._link.join(3.0)
        self._pump.join(3.0)
        if self._outbox is not None:
            self._outbox.close()

    def wait_connected(self, timeout_s: float) -> bool:
        """Wait at most `timeout_s` for the connection; True when it is there."""
        return self._connected.wait(timeout_s)

    @property
    def connected(self) -> bool:
        """Whether the connection is there now."""
        return self._connected.is_set()

    def statistics(self) -> BusStatistics:
        """A copy of the figures as they are now."""
        numbers = self._numbers
        return BusStatistics(
            connected=self.connected,
            connections=numbers.connections,
            published=dict(numbers.published),
            received=numbers.received,
            rejected=numbers.rejected,
            frames_dropped=self._frames.dropped,
            frame_bytes_in_flight=self._frames.bytes_in_flight,
            outbox_rows=self._outbox.rows if self._outbox else 0,
            outbox_bytes=self._outbox.size_bytes if self._outbox else 0,
            awaiting_receipt=self._drain.awaiting_receipt if self._drain else 0,
            resent=self._drain.resent if self._drain else 0,
        )

    # --- out ---------------------------------------------------------------------------------------------------

    def publish(self, topic: Topic, content: Message | bytes | str) -> None:
        """Publish state, frames, commands and replies.

        State is kept and published again after every reconnect, so it never fails. A frame that finds no connection
        or no room is dropped and counted.

        Raises:
            BadPayloadError: the payload is larger than the topic or the broker takes.
            TransientError: a command or a reply finds no connection.
            ValueError: the topic's class is one of `publish_event`'s.
        """
        spec = topic.spec
        if spec.delivery in (DeliveryClass.EVENT, DeliveryClass.DURABLE):
            raise ValueError(f"{spec.name} goes through publish_event, which gives it an identity")
        message = self._outbound(topic, content)
        self._count(spec.delivery)
        if spec.delivery is DeliveryClass.FRAME:
            self._frames.offer(message)
        elif spec.delivery is DeliveryClass.STATE:
            self._publish_state(message)
        else:
            self._send(message)

    def publish_event(self, topic: Topic, build: Callable[[str], Message]) -> str:
        """Publish an event or an escalation: on disk when this returns.

        Args:
            topic: a topic of class event or durable.
            build: makes the message from its event id.

        Returns:
            The event id.

        Raises:
            BacklogFullError: the outbox is full; the caller still owns the event.
            BadPayloadError: the message is larger than the topic takes.
            PermanentError: this bus has no outbox.
            TransientError: the disk did not take it; it may be full.
        """
        if self._outbox is None:
            raise PermanentError("this bus has no outbox, so it cannot promise to keep an event")
        spec = topic.spec
        identity = self._outbox.put(
            spec.name,
            str(topic),
            lambda event_id: self._checked(topic, encode_json(build(event_id))),
            priority=_PRIORITY.get(spec.name, _PRIORITY_OTHERS),
            needs_receipt=spec.delivery is DeliveryClass.DURABLE,
        )
        self._count(spec.delivery)
        self._work.set()
        return identity

    def _publish_state(self, message: Outbound) -> None:
        with self._lock:
            self._states[message.topic] = message
        try:
            self._send(message)
        except TransientError:
            self._log.debug("bus.state_kept", topic=message.topic)

    def _outbound(self, topic: Topic, content: Message | bytes | str) -> Outbound:
        spec = topic.spec
        if isinstance(content, Message):
            payload = encode_json(content)
        else:
            payload = content.encode() if isinstance(content, str) else content
        override = self._settings.delivery.get(spec.name)
        qos = spec.qos if override is None or override.qos is None else override.qos
        retain = spec.retain if override is None or override.retain is None else override.retain
        return Outbound(str(topic), self._checked(topic, payload), qos, retain)

    def _checked(self, topic: Topic, payload: bytes) -> bytes:
        limit = topic.spec.max_bytes
        if topic.spec.kind is PayloadKind.JPEG:
            limit = min(limit, self._settings.frame_bytes_max)
        if len(payload) > limit:
            raise BadPayloadError(
                f"{len(payload)} bytes are more than the {limit} that may be sent: lower the picture's size or "
                "jpeg_quality, or raise bus.frame_bytes_max together with the broker's packet limit",
                topic=str(topic),
                size_bytes=len(payload),
            )
        return payload

    def _count(self, delivery: DeliveryClass) -> None:
        with self._lock:
            self._numbers.published[delivery] = self._numbers.published.get(delivery, 0) + 1

    def _send(self, message: Outbound) -> int:
        with self._lock:
            if self._transport is None:
                raise TransientError("not connected to the broker")
            return self._transport.publish(message)

    def _pump_once(self) -> None:
        self._work.wait(_PUMP_INTERVAL_S)
        self._work.clear()
        if self._drain is None or not self.connected or self._stop.is_set():
            return
        try:
            self._drain.pump(self._clock.monotonic_s())
        except TransientError:
            self._drain.clear()

    # --- in ----------------------------------------------------------------------------------------------------

    def subscribe(self, spec: TopicSpec, handler: Handler, *, manual_ack: bool = False, **params: str) -> None:
        """Call `handler` for every message of one line of the contract.

        Args:
            spec: the line.
            handler: called with each message that decodes; on the connection's thread.
            manual_ack: the handler, or somebody after it, calls `ack`; otherwise it is called when the handler returns.
            params: names that the topic must have; what is left out matches everything.
        """
        qos = 1 if spec.qos else 0
        self._add(_Subscription(spec.topic_filter(self.site, **params), qos, spec, params, handler, manual_ack))

    def subscribe_filter(self, topic_filter: str, handler: Handler, *, qos: int = 1) -> None:
        """Call `handler` for everything under an MQTT topic filter, as a live tail does."""
        self._add(_Subscription(topic_filter, qos, None, {}, handler, manual_ack=False))

    def _add(self, subscription: _Subscription) -> None:
        with self._lock:
            self._subscriptions.append(subscription)
            if self._transport is not None and self.connected:
                self._transport.subscribe([(subscription.topic_filter, subscription.qos)])

    def _on_message(self, transport: Transport, inbound: Inbound) -> None:
        received_at = self._clock.now()
        try:
            topic, content = self._decode(inbound)
        except BadPayloadError as error:
            self.reject(inbound.topic, error.reason, len(inbound.payload))
            transport.acknowledge(inbound)
            return
        delivery = Delivery(
            topic, content, inbound.payload, inbound.retained, received_at, lambda: transport.acknowledge(inbound)
        )
        self._numbers.received += 1
        manual = False
        for subscription in self._matching(topic):
            manual = manual or subscription.manual_ack
            subscription.handler(delivery)
        if not manual:
            delivery.ack()

    def _matching(self, topic: Topic) -> list[_Subscription]:
        with self._lock:
            return [
                s
                for s in self._subscriptions
                if s.spec is None or (s.spec is topic.spec and all(topic.params[k] == v for k, v in s.params.items()))
            ]

    def _decode(self, inbound: Inbound) -> tuple[Topic, Content]:
        topic = parse_topic(inbound.topic)
        spec = topic.spec
        if spec.kind is PayloadKind.JPEG:
            return topic, decode_frame(inbound.payload, max_bytes=spec.max_bytes)
        if spec.payload is not None:
            return topic, decode_json(spec.payload, inbound.payload, max_bytes=spec.max_bytes)
        if inbound.payload not in (b"ON", b"OFF"):
            raise BadPayloadError("neither ON nor OFF", size_bytes=len(inbound.payload))
        return topic, inbound.payload.decode()

    def reject(self, topic: str, reason: str, size_bytes: int) -> None:
        """Count a message that cannot be used, and tell the reject topic; at most one a second."""
        now_s = self._clock.monotonic_s()
        self._log.warning("bus.rejected", topic=topic[:256], reason=reason)
        with self._lock:
            self._numbers.rejected += 1
            count = self._numbers.rejected
            own = topic.startswith(str(REJECT.at(self.site, origin=self.origin)))
            if own or now_s - self._last_reject_s < _REJECT_INTERVAL_S:
                return
            self._last_reject_s = now_s
        message = Reject(
            topic=topic[:1024], reason=reason[:1024], size_bytes=size_bytes, count=count, at=self._clock.now()
        )
        try:
            self.publish(REJECT.at(self.site, origin=self.origin), message)
        except TransientError:
            self._log.debug("bus.reject_unsent", topic=topic[:256])

    def _on_receipt(self, delivery: Delivery) -> None:
        if self._drain is not None and isinstance(delivery.content, Receipt):
            self._drain.on_receipt(delivery.content.event_id)
            self._work.set()

    # --- the connection ------------------------------------------------------------------------------------------

    def _serve_connection(self) -> None:
        will = self._will and self._outbound(*self._will)
        transport: Transport
        events = TransportEvents(lambda inbound: self._on_message(transport, inbound), self._on_sent)
        transport = self._transports(events, will)
        session_present = transport.open()
        try:
            self._enter(transport, session_present=session_present)
            transport.run()
        finally:
            self._leave()

    def _enter(self, transport: Transport, *, session_present: bool) -> None:
        with self._lock:
            if self._stop.is_set():
                transport.close()
            transport.subscribe([(s.topic_filter, s.qos) for s in self._subscriptions])
            for state in self._states.values():
                transport.publish(state)
            self._transport = transport
            self._numbers.connections += 1
            self._connected.set()
        self._log.info("bus.connected", session_present=session_present, connections=self._numbers.connections)
        self._work.set()

    def _leave(self) -> None:
        with self._lock:
            self._transport = None
            self._connected.clear()
        self._frames.clear()
        if self._drain is not None:
            self._drain.clear()
        if not self._stop.is_set():
            self._log.warning("bus.disconnected")

    def _on_sent(self, number: int) -> None:
        if not self._frames.on_sent(number) and self._drain is not None and self._drain.on_sent(number):
            self._work.set()
