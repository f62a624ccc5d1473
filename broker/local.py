"""The bus of a process in which one component works on what another publishes, with or without a broker.

Frames and scores are handed over inside the process, and sent on as well where somebody else may want them. Events
and escalations are handed over once they are on disk; those of other processes come from the broker as always. States,
commands and replies go by the broker only.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from broker.bus import Bus, BusStatistics, NewEvent
from broker.frames import Frame, decode_frame
from broker.intake import Content, Delivery, Handler, Subscription
from broker.messages import Message, encode_json
from broker.outbox import split_event_id
from broker.topics import DeliveryClass, Topic, TopicSpec
from config.clock import SystemClock
from config.supervise import Supervised

__all__ = ["Forward", "LocalBus"]

Forward = Callable[[Frame], bytes | None]
"""What of a frame is sent on to the broker: the JPEG with its metadata, or None to send nothing."""

_LOOK_INTERVAL_S = 0.25
"""How soon the thread notices that it is to end."""
_EVENTS_MAX = 1000
"""Events that wait for their handlers in this process; they are on disk and on their way to the bridge all the same."""
_JOIN_S = 3.0


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A message for the handlers of this process."""

    topic: Topic
    content: Content
    payload: bytes


class LocalBus(Bus):
    """One process's place on the bus, for several components that work together in it.

    Concurrency: as a bus. What comes from this process is handed over on a thread of its own: a handler of events may
    be called on that thread and on the connection's at one time. Publishing never waits for a handler; of a topic
    with frames or scores only the newest waits.

    Args:
        forward: what of each frame goes to the broker; default all of it.
        bus: as :class:`Bus` takes it.
    """

    def __init__(self, *, forward: Forward | None = None, **bus: Any) -> None:  # noqa: ANN401 - Bus checks them
        super().__init__(**bus)
        self._forward = forward
        self._here = BusStatistics()
        self._ready = threading.Condition()
        self._handlers: list[Subscription] = []
        # Insertion order is the line; a newer message takes its predecessor's place in it.
        self._latest: OrderedDict[str, _Waiting] = OrderedDict()
        self._events: deque[_Waiting] = deque()
        self._first_seq: dict[str, int] = {}
        self._ended = threading.Event()
        self._clerk = Supervised("local", self._hand_over_once, stop=self._ended, clock=bus.get("clock", SystemClock()))

    def start(self) -> None:
        """Hand over what is published here, and connect; returns at once."""
        self._clerk.start()
        super().start()

    def close(self, drain_s: float = 2.0) -> None:
        """Hand over nothing more, then leave as a bus does."""
        self._ended.set()
        with self._ready:
            self._ready.notify_all()
        self._clerk.join(_JOIN_S)
        super().close(drain_s)

    def wants(self, topic: Topic) -> bool:
        """Whether a frame that is published there now has a way to go: to somebody here, or to the broker."""
        return bool(self._matching(topic)) or super().wants(topic)

    def statistics(self) -> BusStatistics:
        """A copy of the figures as they are now, those of what stays in the process included."""
        here = self._here
        return replace(
            super().statistics(),
            local_handed_over=here.local_handed_over,
            local_replaced=here.local_replaced,
            local_missed=here.local_missed,
            frames_kept_back=here.frames_kept_back,
        )

    # --- out ---------------------------------------------------------------------------------------------------

    def publish(self, topic: Topic, content: Message | bytes | str, *, expires_s: float | None = None) -> None:
        """Publish as a bus does, and hand frames and scores to whoever asked for them here.

        Raises:
            BadPayloadError: as a bus; also what is published as a frame is none.
            TransientError: as a bus.
            ValueError: as a bus.
        """
        if topic.spec.delivery is not DeliveryClass.FRAME:
            super().publish(topic, content, expires_s=expires_s)
            return
        read = decode_frame(content) if isinstance(content, bytes) else content
        self._offer(topic, read)
        sent = content
        if isinstance(read, Frame) and self._forward is not None:
            forwarded = self._forward(read) if self.connected else None
            if forwarded is None:
                self._here.frames_kept_back += 1
                return
            sent = forwarded
        super().publish(topic, sent, expires_s=expires_s)

    def publish_events(self, events: Sequence[NewEvent], *, forget: Sequence[str] = ()) -> list[str]:
        """Publish events or escalations as a bus does; then hand them to whoever asked for them in this process."""
        noted = [_Noted(event.build, self._note_own) for event in events]
        ids = super().publish_events(
            [event._replace(build=build) for event, build in zip(events, noted, strict=True)], forget=forget
        )
        for event, message in zip(events, noted, strict=True):
            self._tell(event.topic, message)
        return ids

    def _offer(self, topic: Topic, content: Content) -> None:
        """Let a frame or its scores wait in the place of older ones."""
        if not self._matching(topic):
            return
        payload = content.jpeg if isinstance(content, Frame) else _payload(content)
        key = str(topic)
        with self._ready:
            self._here.local_replaced += key in self._latest
            self._latest[key] = _Waiting(topic, content, payload)
            self._ready.notify()

    def _tell(self, topic: Topic, noted: _Noted) -> None:
        """Let an event that is on disk wait for its handlers."""
        if noted.message is None or not self._matching(topic):
            return
        with self._ready:
            if len(self._events) >= _EVENTS_MAX:
                self._here.local_missed += 1
                return
            self._events.append(_Waiting(topic, noted.message, encode_json(noted.message)))
            self._ready.notify()

    def _note_own(self, event_id: str) -> None:
        """Remember from which number on a stream's events are handed over here, before the first can come back."""
        _, epoch, seq = split_event_id(event_id)
        with self._ready:
            self._first_seq[epoch] = min(seq, self._first_seq.get(epoch, seq))

    # --- in ----------------------------------------------------------------------------------------------------

    def subscribe(
        self, spec: TopicSpec, handler: Handler, *, manual_ack: bool = False, raw: bool = False, **params: str
    ) -> None:
        """Call `handler` for every message of one line of the contract.

        Frames and scores are those of this process; events and escalations also those of others; the rest comes from
        the broker.
        """
        if spec.delivery in (DeliveryClass.FRAME, DeliveryClass.EVENT, DeliveryClass.DURABLE):
            place = spec.topic_filter(self.site, **params)
            with self._ready:
                self._handlers.append(Subscription(place, 0, spec, params, handler, manual_ack=False))
        if spec.delivery is DeliveryClass.FRAME:
            return
        if spec.delivery in (DeliveryClass.EVENT, DeliveryClass.DURABLE):
            handler = partial(self._pass_foreign, handler)
        super().subscribe(spec, handler, manual_ack=manual_ack, raw=raw, **params)

    def unsubscribe(self, spec: TopicSpec, **params: str) -> None:
        """Undo every `subscribe` to this line with these names."""
        with self._ready:
            self._handlers = [s for s in self._handlers if s.spec is not spec or s.params != params]
        if spec.delivery is not DeliveryClass.FRAME:
            super().unsubscribe(spec, **params)

    def _pass_foreign(self, handler: Handler, delivery: Delivery) -> None:
        """Hand over what the broker sends, unless it was handed over when it was published here."""
        if self._was_told(getattr(delivery.content, "id", "")):
            delivery.ack()
        else:
            handler(delivery)

    def _was_told(self, event_id: str) -> bool:
        try:
            origin, epoch, seq = split_event_id(event_id)
        except ValueError:  # somebody else's: ours are well-formed
            return False
        with self._ready:
            first_seq = self._first_seq.get(epoch)
        return origin == self.origin and first_seq is not None and seq >= first_seq

    def _matching(self, topic: Topic) -> list[Subscription]:
        with self._ready:
            return [subscription for subscription in self._handlers if subscription.wants(topic)]

    def _hand_over_once(self) -> None:
        waiting = self._take()
        if waiting is None:
            return
        delivery = Delivery(
            topic=waiting.topic,
            content=waiting.content,
            payload=waiting.payload,
            retained=False,
            received_at=self._clock.now(),
            _acknowledge=_no_broker,
        )
        for subscription in self._matching(waiting.topic):
            self._here.local_handed_over += 1
            subscription.handler(delivery)

    def _take(self) -> _Waiting | None:
        """What is handed over next: events first; None when the time has passed."""
        with self._ready:
            self._ready.wait_for(lambda: self._events or self._latest or self._ended.is_set(), _LOOK_INTERVAL_S)
            if self._ended.is_set():
                return None
            if self._events:
                return self._events.popleft()
            return self._latest.popitem(last=False)[1] if self._latest else None


class _Noted:
    """Makes a message, and keeps what it made."""

    def __init__(self, build: Callable[[str], Message], note: Callable[[str], None]) -> None:
        self._build = build
        self._note = note
        self.message: Message | None = None

    def __call__(self, event_id: str) -> Message:
        self._note(event_id)
        self.message = self._build(event_id)
        return self.message


def _payload(content: Content) -> bytes:
    if isinstance(content, Message):
        return encode_json(content)
    return content if isinstance(content, bytes) else str(content).encode()


def _no_broker() -> None:
    """Nobody waits for the confirmation of what never left the process."""
