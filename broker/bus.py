"""The bus: typed messages in and out, with the promise of each topic's delivery class.

`publish` and `publish_event` are acknowledged, queued durably, or raise; they never log and return. What each class
promises stands at :class:`broker.topics.DeliveryClass`.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from broker.drain import OutboxDrain
from broker.figures import Distribution
from broker.intake import Content, Delivery, Handler, Intake, Subscription
from broker.lanes import FrameLane
from broker.link import Link, LinkEvents, LinkStatistics
from broker.messages import Message, Receipts, decode_json, encode_json
from broker.outbox import Outbox, OutboxMessage
from broker.overrides import in_force
from broker.spans import Tracer
from broker.topics import RECEIPT, DeliveryClass, PayloadKind, Topic, TopicSpec, parse_topic
from broker.transport import Inbound, Limits, Outbound, TransportFactory, packet_bytes
from config.clock import Clock, SystemClock
from config.errors import BadPayloadError, PermanentError, TransientError
from config.log import get_logger
from config.settings import BusSettings
from config.supervise import Supervised

__all__ = ["Bus", "BusStatistics", "Content", "Delivery", "Handler", "NewEvent"]

_PRIORITY = {"camera_escalation": 0, "camera_motion": 1}
"""Order in which a backlog drains. Source: the design, delivery classes."""
_PRIORITY_OTHERS = 2
_PUMP_INTERVAL_S = 0.25
_SETTLE_INTERVAL_S = 0.05


class NewEvent(NamedTuple):
    """An event or escalation that is to be published.

    Attributes:
        topic: of class event or durable.
        build: makes the message from its event id.
        opens: it starts something that stays open, also over the death of this process, until it is closed.
        closes: id of the start of what it ends.
    """

    topic: Topic
    build: Callable[[str], Message]
    opens: bool = False
    closes: str | None = None


@dataclass(slots=True)
class BusStatistics:
    """What a bus has done since its start.

    Attributes:
        link: the connection: how often, why it ended, what the broker said.
        published: messages handed in, by delivery class.
        received: messages that were decoded and handled.
        rejected: messages that could not be used.
        frames_dropped: frames that made way for newer ones or had no connection.
        frames_expired: frames that waited too long for the network.
        frames_stale: frames that came too late to be looked at.
        states_republished: states told again to a new connection.
        states_unsent: of these, those that the broker's packet limit keeps back.
        frame_bytes_in_flight: bytes of frames not yet on the wire.
        outbox_rows: messages that wait on disk.
        outbox_bytes: their bytes.
        awaiting_receipt: of these, those that the broker has.
        too_large: of these, those that the broker does not take for their size.
        resent: escalations and events sent again for want of a receipt.
        refused: escalations and events that the broker refused; they are tried again.
        released: events given up, because the broker had them for long and nobody sent a receipt.
        local_handed_over: frames, scores and events that went from one component to another inside the process.
        local_replaced: frames and scores that made way for newer ones on that way.
        local_missed: events that found too many others waiting on that way; they are on disk all the same.
        frames_kept_back: frames that were not sent, because they are only for this process.
        distributions: how long its steps take, by step.
    """

    link: LinkStatistics = field(default_factory=LinkStatistics)
    published: dict[str, int] = field(default_factory=dict)
    received: int = 0
    rejected: int = 0
    frames_dropped: int = 0
    frames_expired: int = 0
    frames_stale: int = 0
    states_republished: int = 0
    states_unsent: int = 0
    frame_bytes_in_flight: int = 0
    outbox_rows: int = 0
    outbox_bytes: int = 0
    awaiting_receipt: int = 0
    too_large: int = 0
    resent: int = 0
    refused: int = 0
    released: int = 0
    local_handed_over: int = 0
    local_replaced: int = 0
    local_missed: int = 0
    frames_kept_back: int = 0
    distributions: dict[str, Distribution] = field(default_factory=dict)


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
        tracer: notes what this process does to pictures; default nothing.
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
        tracer: Tracer | None = None,
        clock: Clock | None = None,
        on_fatal: Callable[[Exception], None] | None = None,
    ) -> None:
        self.site = site
        self.origin = origin
        self.tracer = tracer or Tracer(site)
        self._settings = settings or BusSettings()
        self._outbox = outbox
        self._clock: Clock = clock or SystemClock()
        self._will = will
        self._log = get_logger(origin=origin)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._work = threading.Event()
        self._states: dict[str, Outbound] = {}
        self._numbers = BusStatistics()
        self._link = Link(
            origin=origin,
            transports=transports,
            will=lambda: self._will and self._outbound(*self._will),
            events=LinkEvents(self._on_up, self._on_message, self._on_sent, self._on_down),
            clock=self._clock,
            stop=self._stop,
            on_fatal=on_fatal,
        )
        self._intake = Intake(
            site=site,
            origin=origin,
            clock=self._clock,
            frame_age_max_s=self._settings.frame_age_max_s,
            publish=self.publish,
            catch_up=self._link.renew,
        )
        self._frames = FrameLane(
            self._link.send,
            bytes_max=self._settings.frame_bytes_in_flight_max,
            age_max_s=self._settings.frame_age_max_s,
            clock=self._clock,
        )
        limits = self._settings.outbox
        self._drain = (
            OutboxDrain(outbox, self._link.send, window=limits.window, resend_after_s=limits.resend_after_s)
            if outbox is not None
            else None
        )
        self._settling = False
        self._pump = Supervised("outbox", self._pump_once, stop=self._stop, on_fatal=on_fatal)

    def start(self) -> None:
        """Connect, and stay connected until `close`. Returns at once."""
        if self._drain is not None:
            self.subscribe(RECEIPT, self._on_receipts, origin=self.origin)
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
        self._link.close(3.0)
        self._pump.join(3.0)
        if self._outbox is not None:
            self._outbox.close()

    def wait_connected(self, timeout_s: float) -> bool:
        """Wait at most `timeout_s` for the connection; True when it is there."""
        return self._link.wait_connected(timeout_s)

    @property
    def connected(self) -> bool:
        """Whether the connection is there now."""
        return self._link.connected

    @property
    def connections(self) -> int:
        """How many connections there were so far; another number means that something may have been missed."""
        return self._link.connections

    def wants(self, topic: Topic) -> bool:
        """Whether a frame that is published there now has a way to go; without one, making it is in vain."""
        del topic
        return self.connected

    def statistics(self) -> BusStatistics:
        """A copy of the figures as they are now."""
        numbers = self._numbers
        return BusStatistics(
            link=self._link.statistics(),
            published=dict(numbers.published),
            received=self._intake.received,
            rejected=self._intake.rejected,
            frames_dropped=self._frames.dropped,
            frames_expired=self._frames.expired,
            frames_stale=self._intake.frames_stale,
            states_republished=numbers.states_republished,
            states_unsent=numbers.states_unsent,
            frame_bytes_in_flight=self._frames.bytes_in_flight,
            outbox_rows=self._outbox.rows if self._outbox else 0,
            outbox_bytes=self._outbox.size_bytes if self._outbox else 0,
            awaiting_receipt=self._drain.awaiting_receipt if self._drain else 0,
            too_large=self._drain.too_large if self._drain else 0,
            resent=self._drain.resent if self._drain else 0,
            refused=self._drain.refused if self._drain else 0,
            released=self._outbox.released if self._outbox else 0,
            distributions={"outbox_to_receipt": self._outbox.confirmed} if self._outbox else {},
        )

    # --- out ---------------------------------------------------------------------------------------------------

    def publish(self, topic: Topic, content: Message | bytes | str, *, expires_s: float | None = None) -> None:
        """Publish state, frames, commands and replies.

        State is kept and published again after every reconnect, so it never fails. A frame that finds no connection
        or no room is dropped and counted.

        Args:
            topic: where to.
            content: a struct, a JPEG or a text, as the topic wants it.
            expires_s: seconds after which a broker with MQTT 5 forgets it; frames have `bus.frame_age_max_s`.

        Raises:
            BadPayloadError: the payload is larger than the topic or the broker takes.
            TransientError: a command or a reply finds no connection.
            ValueError: the topic's class is one of `publish_event`'s.
        """
        spec = topic.spec
        if spec.delivery in (DeliveryClass.EVENT, DeliveryClass.DURABLE):
            raise ValueError(f"{spec.name} goes through publish_event, which gives it an identity")
        message = self._outbound(topic, content, expires_s)
        self._count(spec.delivery)
        if spec.delivery is DeliveryClass.FRAME:
            self._frames.offer(message)
        elif spec.delivery is DeliveryClass.STATE:
            self._publish_state(message)
        else:
            self._link.send(message)

    def republish(self) -> None:
        """Publish every state again that is this process's to say.

        Raises:
            TransientError: there is no connection; they are published with the next one.
        """
        with self._lock:
            states = list(self._states.values())
        for state in states:
            try:
                self._link.send(state)
                self._numbers.states_republished += 1
            except BadPayloadError as error:
                self._numbers.states_unsent += 1
                self._log.error("bus.state_too_large", topic=state.topic, error=error.reason)

    def disown(self, topic: Topic) -> None:
        """Do not publish this state again after a reconnect: from now on it is somebody else's to say."""
        with self._lock:
            self._states.pop(str(topic), None)

    def publish_event(
        self, topic: Topic, build: Callable[[str], Message], *, opens: bool = False, closes: str | None = None
    ) -> str:
        """Publish an event or an escalation: on disk when this returns.

        Args:
            topic: a topic of class event or durable.
            build: makes the message from its event id; it must not publish, and may be called again.
            opens: it starts something that stays open, also over the death of this process, until it is closed.
            closes: id of the start of what it ends.

        Returns:
            The event id.

        Raises:
            BacklogFullError: the outbox is full; the caller still owns the event.
            BadPayloadError: the message is larger than the topic or the broker takes.
            PermanentError: this bus has no outbox, or its file is damaged.
            TransientError: the disk did not take it; it may be full.
        """
        return self.publish_events([NewEvent(topic, build, opens, closes)])[0]

    def publish_events(self, events: Sequence[NewEvent], *, forget: Sequence[str] = ()) -> list[str]:
        """Publish events or escalations, all or none of them, with one flush of the disk; as `publish_event` does.

        Args:
            events: may be none.
            forget: ids of starts that are somebody else's to end; `open_events` names them no more.
        """
        if self._outbox is None:
            raise PermanentError("this bus has no outbox, so it cannot promise to keep an event")
        messages = [self._stored(event) for event in events]
        ids = self._outbox.put_many(messages, forget=forget)
        for message in messages:
            self._count(DeliveryClass.DURABLE if message.durable else DeliveryClass.EVENT)
        self._work.set()
        return ids

    def open_events(self, spec: TopicSpec, **params: str) -> list[tuple[str, Message]]:
        """What this process or a predecessor has started on one line of the contract, and nobody has ended.

        Args:
            spec: the line.
            params: names that the topic must have; what is left out matches everything.

        Returns:
            The id of each start, and the start; the oldest first.

        Raises:
            TransientError: the disk fails.
        """
        found: list[tuple[str, Message]] = []
        for event in self._outbox.open_events() if self._outbox is not None else ():
            topic = parse_topic(event.topic)
            if topic.spec is not spec or spec.payload is None or not params.items() <= topic.params.items():
                continue
            try:
                found.append((event.event_id, decode_json(spec.payload, event.payload, max_bytes=spec.max_bytes)))
            except BadPayloadError as error:  # of another version of Vigil
                self.reject(event.topic, error.reason, len(event.payload))
        return found

    def has_raised(self, event_id: str) -> bool:
        """Whether this event id is of this process's outbox, by itself or a predecessor."""
        return self._outbox is not None and self._outbox.find(event_id) is not None

    def _stored(self, event: NewEvent) -> OutboxMessage:
        topic, spec = event.topic, event.topic.spec
        return OutboxMessage(
            stream=spec.name,
            topic=str(topic),
            build=lambda event_id: self._checked(topic, encode_json(event.build(event_id))),
            priority=_PRIORITY.get(spec.name, _PRIORITY_OTHERS),
            durable=spec.delivery is DeliveryClass.DURABLE,
            opens=event.opens,
            closes=event.closes,
        )

    def payload_bytes_max(self, topic: Topic) -> int:
        """The largest payload that a topic takes now: by the contract, by `bus.frame_bytes_max`, and by the broker."""
        limit = topic.spec.max_bytes
        if topic.spec.kind is PayloadKind.JPEG:
            limit = min(limit, self._settings.frame_bytes_max)
        packet_max = self._link.packet_bytes_max
        if packet_max is not None:
            limit = min(limit, packet_max - packet_bytes(str(topic), 0))
        return max(0, limit)

    def _publish_state(self, message: Outbound) -> None:
        with self._lock:
            self._states[message.topic] = message
        try:
            self._link.send(message)
        except TransientError:
            self._log.debug("bus.state_kept", topic=message.topic)

    def _outbound(self, topic: Topic, content: Message | bytes | str, expires_s: float | None = None) -> Outbound:
        spec = topic.spec
        if isinstance(content, Message):
            payload = encode_json(content)
        else:
            payload = content.encode() if isinstance(content, str) else content
        if expires_s is None and spec.delivery is DeliveryClass.FRAME:
            expires_s = self._settings.frame_age_max_s
        qos, retain = in_force(spec, self._settings.delivery)
        expiry_s = None if expires_s is None else math.ceil(expires_s)
        return Outbound(str(topic), self._checked(topic, payload), qos, retain, expiry_s)

    def _checked(self, topic: Topic, payload: bytes) -> bytes:
        limit = self.payload_bytes_max(topic)
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

    def _wake_pump(self) -> None:
        """After an answer: when it made room, or when it is the first that is to be written down."""
        if self._drain is not None and (self._drain.starved or not self._settling):
            self._work.set()

    def _pump_once(self) -> None:
        self._settling = self._outbox is not None and self._outbox.unwritten
        self._work.wait(_SETTLE_INTERVAL_S if self._settling else _PUMP_INTERVAL_S)
        self._work.clear()
        if self._drain is None or self._stop.is_set():
            return
        now_s = self._clock.monotonic_s()
        if not self.connected:
            self._drain.tick(now_s)
            return
        try:
            self._drain.pump(now_s, self._link.packet_bytes_max)
        except TransientError:
            self._drain.clear()

    # --- in ----------------------------------------------------------------------------------------------------

    def subscribe(
        self, spec: TopicSpec, handler: Handler, *, manual_ack: bool = False, raw: bool = False, **params: str
    ) -> None:
        """Call `handler` for every message of one line of the contract.

        Args:
            spec: the line.
            handler: called with each message that decodes; on the connection's thread.
            manual_ack: the handler, or somebody after it, calls `ack`; otherwise it is called when the handler returns.
            raw: the handler judges payloads itself: it gets all, as they came, unless another subscription of this bus
                takes the same messages decoded.
            params: names that the topic must have; what is left out matches everything.
        """
        qos = 1 if spec.qos else 0
        self._add(Subscription(spec.topic_filter(self.site, **params), qos, spec, params, handler, manual_ack, raw))

    def unsubscribe(self, spec: TopicSpec, **params: str) -> None:
        """Undo every `subscribe` to this line with these names."""
        self._intake.remove(spec, params)
        topic_filter = spec.topic_filter(self.site, **params)
        if topic_filter not in dict(self._intake.filters()):
            self._link.unsubscribe([topic_filter])

    def subscribe_filter(self, topic_filter: str, handler: Handler, *, qos: int = 1) -> None:
        """Call `handler` for everything under an MQTT topic filter, as a live tail does."""
        self._add(Subscription(topic_filter, qos, None, {}, handler, manual_ack=False))

    def _add(self, subscription: Subscription) -> None:
        self._intake.add(subscription)
        self._link.subscribe([(subscription.topic_filter, subscription.qos)])

    def reject(self, topic: str, reason: str, size_bytes: int) -> None:
        """Count a message that cannot be used, and tell the reject topic; at most one a second."""
        self._intake.reject(topic, reason, size_bytes)

    def _on_receipts(self, delivery: Delivery) -> None:
        if self._drain is not None and isinstance(delivery.content, Receipts):
            receipts = delivery.content.receipts
            self._drain.on_receipts([(receipt.event_id, bytes.fromhex(receipt.sha256)) for receipt in receipts])
            self._wake_pump()

    # --- the connection ------------------------------------------------------------------------------------------

    def _on_up(self, _limits: Limits) -> None:
        self._intake.connected()
        self._link.subscribe(self._intake.filters())
        self.republish()
        self._work.set()

    def _on_message(self, inbound: Inbound, acknowledge: Callable[[], None]) -> None:
        self._intake.on_message(inbound, acknowledge)

    def _on_down(self) -> None:
        self._frames.clear()
        if self._drain is not None:
            self._drain.clear()

    def _on_sent(self, number: int, refusal: str | None) -> bool:
        if self._frames.on_sent(number) or self._drain is None or not self._drain.on_sent(number, refusal):
            return False
        self._wake_pump()
        return True
