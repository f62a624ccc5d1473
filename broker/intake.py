"""What comes in: decoded by the contract, judged for its age, handed to whoever asked for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

import msgspec

from broker.frames import Frame, decode_frame
from broker.freshness import Freshness
from broker.messages import CommandValue, Message, Reject, decode_json
from broker.topics import REJECT, PayloadKind, Topic, TopicSpec, parse_topic
from broker.transport import Inbound
from broker.values import decode_command_value
from config.clock import Clock
from config.errors import BadPayloadError, TransientError
from config.log import get_logger

__all__ = ["Content", "Delivery", "Handler", "Intake", "Subscription"]

Content = Message | Frame | bytes | str | None
"""A struct for JSON topics, a JPEG for picture topics (bytes out, :class:`Frame` in), another system's JSON as bytes,
bare text for the others; None where something retained is taken back."""

_REJECT_INTERVAL_S = 1.0
_ROUTES_MAX = 4_096
"""Topics that are remembered, taken apart, with who wants them. A stranger may invent topics; he may not fill the
memory with them."""


class Delivery(msgspec.Struct, frozen=True):
    """A message that came.

    Attributes:
        topic: where it came.
        content: the struct, the :class:`~broker.frames.Frame`, or the text; None: what was retained there is no more;
            the payload where everybody wants it raw.
        payload: the bytes as they came.
        retained: the broker kept it; it may be old.
        received_at: when this process had it.
        delay_s: of a frame: how much longer than the camera's fastest frame it was on its way; else 0.
    """

    topic: Topic
    content: Content
    payload: bytes
    retained: bool
    received_at: datetime
    _acknowledge: Callable[[], None]
    delay_s: float = 0.0

    def ack(self) -> None:
        """Confirm it to the broker; from any thread, once the work is durable.

        The broker hears of it when everything that came before is confirmed too. A confirmation that comes after the
        connection was lost is ignored: the message comes again.
        """
        self._acknowledge()


Handler = Callable[[Delivery], None]


@dataclass(frozen=True, slots=True)
class Subscription:
    """What somebody asked for; without `spec` it is everything under the filter."""

    topic_filter: str
    qos: int
    spec: TopicSpec | None
    params: Mapping[str, str]
    handler: Handler
    manual_ack: bool
    raw: bool = False

    def wants(self, topic: Topic) -> bool:
        """Whether this message is asked for."""
        if self.spec is None:
            return True
        return self.spec is topic.spec and all(topic.params[name] == value for name, value in self.params.items())


@dataclass(frozen=True, slots=True)
class _Route:
    """Where a topic's messages go; `manual_ack` and `raw` say what its takers do themselves."""

    topic: Topic
    handlers: tuple[Handler, ...]
    manual_ack: bool
    raw: bool


class Intake:
    """Decodes and hands out what comes.

    Concurrency: `on_message` and `connected` belong to the connection's thread; the others may be called from any.

    Args:
        site: the site's name.
        origin: ``{node}.{role}`` of this process.
        clock: time.
        frame_age_max_s: frames that were longer on their way are dropped and counted.
        publish: tells the reject topic.
        catch_up: called when nothing but old frames comes.
    """

    def __init__(
        self,
        *,
        site: str,
        origin: str,
        clock: Clock,
        frame_age_max_s: float,
        publish: Callable[[Topic, Reject], None],
        catch_up: Callable[[], bool],
    ) -> None:
        self._own_rejects = REJECT.at(site, origin=origin)
        self._clock = clock
        self._publish = publish
        self._catch_up = catch_up
        self._log = get_logger(origin=origin)
        self._lock = threading.Lock()
        self._subscriptions: list[Subscription] = []
        self._routes: dict[str, _Route] = {}
        self._freshness = Freshness(frame_age_max_s)
        self._last_reject_s = float("-inf")
        self.received = 0
        self.rejected = 0
        self.frames_stale = 0

    def add(self, subscription: Subscription) -> None:
        """From now on hand this out too."""
        with self._lock:
            self._subscriptions.append(subscription)
            self._routes = {}

    def remove(self, spec: TopicSpec, params: Mapping[str, str]) -> None:
        """Hand this out to nobody any more."""
        with self._lock:
            self._subscriptions = [s for s in self._subscriptions if s.spec is not spec or s.params != params]
            self._routes = {}

    def connected(self) -> None:
        """A new connection stands: what is late is judged anew."""
        self._freshness.connected()

    def filters(self) -> list[tuple[str, int]]:
        """The topic filters to ask for, each with its QoS."""
        with self._lock:
            return [(s.topic_filter, s.qos) for s in self._subscriptions]

    def on_message(self, inbound: Inbound, acknowledge: Callable[[], None]) -> None:
        """Decode one message and hand it out; it is acknowledged afterwards, unless somebody does so himself."""
        try:
            route = self._routes.get(inbound.topic) or self._find_route(inbound.topic)
            content = inbound.payload if route.raw else _decode(route.topic.spec, inbound.payload)
        except BadPayloadError as error:
            self.reject(inbound.topic, error.reason, len(inbound.payload))
            acknowledge()
            return
        topic = route.topic
        delay_s = self._delay_s(topic, content, retained=inbound.retained)
        if delay_s is None:
            acknowledge()
            return
        delivery = Delivery(topic, content, inbound.payload, inbound.retained, self._clock.now(), acknowledge, delay_s)
        self.received += 1
        for handler in route.handlers:
            handler(delivery)
        if not route.manual_ack:
            delivery.ack()

    def _find_route(self, text: str) -> _Route:
        topic = parse_topic(text)
        with self._lock:
            takers = [subscription for subscription in self._subscriptions if subscription.wants(topic)]
            route = _Route(
                topic,
                tuple(subscription.handler for subscription in takers),
                manual_ack=any(subscription.manual_ack for subscription in takers),
                raw=bool(takers) and all(subscription.raw for subscription in takers),
            )
            if len(self._routes) >= _ROUTES_MAX:
                self._routes = {}
            self._routes[text] = route
        return route

    def _delay_s(self, topic: Topic, content: Content, *, retained: bool) -> float | None:
        """How late a frame is; None when it is too late. What a broker keeps is old by nature."""
        if not isinstance(content, Frame) or topic.spec.retain or retained:
            return 0.0
        now_s = self._clock.monotonic_s()
        delay_s = self._freshness.delay_s(topic.camera, content.meta.captured_at.timestamp(), now_s)
        if delay_s is None:
            self.frames_stale += 1
            if self._freshness.is_behind(now_s) and self._catch_up():
                self._log.warning("bus.behind", frames_stale=self.frames_stale)
        return delay_s

    def reject(self, topic: str, reason: str, size_bytes: int) -> None:
        """Count a message that cannot be used, and tell the reject topic; at most one a second."""
        now_s = self._clock.monotonic_s()
        self._log.warning("bus.rejected", topic=topic[:256], reason=reason)
        with self._lock:
            self.rejected += 1
            count = self.rejected
            if topic.startswith(str(self._own_rejects)) or now_s - self._last_reject_s < _REJECT_INTERVAL_S:
                return
            self._last_reject_s = now_s
        message = Reject(
            topic=topic[:1024], reason=reason[:1024], size_bytes=size_bytes, count=count, at=self._clock.now()
        )
        try:
            self._publish(self._own_rejects, message)
        except TransientError:
            self._log.debug("bus.reject_unsent", topic=topic[:256])


def _decode(spec: TopicSpec, payload: bytes) -> Content:
    if spec.retain and not payload:
        return None
    if spec.payload is CommandValue:
        return decode_command_value(payload, max_bytes=spec.max_bytes)
    if spec.kind is PayloadKind.JPEG:
        return decode_frame(payload, max_bytes=spec.max_bytes)
    if spec.payload is not None:
        return decode_json(spec.payload, payload, max_bytes=spec.max_bytes)
    if spec.kind is PayloadKind.JSON:
        return _as_it_came(payload, spec.max_bytes)
    word = next((word for word in spec.words if payload == word.encode()), None)
    if word is None:
        raise BadPayloadError(f"neither {' nor '.join(spec.words)}", size_bytes=len(payload))
    return word


def _as_it_came(payload: bytes, max_bytes: int) -> bytes:
    if len(payload) > max_bytes:
        raise BadPayloadError(
            f"{len(payload)} bytes are more than the {max_bytes} that this topic takes", size_bytes=len(payload)
        )
    return payload
