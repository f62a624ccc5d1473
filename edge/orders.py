"""Orders over the bus: each is carried out once and answered each time that it comes.

The bus's thread hands them over to a bounded queue; the node's own thread carries them out.
"""

from __future__ import annotations

import queue
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from broker import Bus, Delivery
from broker.messages import Command, CommandValue, Reply
from broker.standing import STANDING_ORDERS
from broker.topics import CAMERA_SET, NODE_COMMAND, NODE_REPLY
from config import BadPayloadError, TransientError, get_logger

__all__ = ["Answer", "Order", "OrderBook"]

_WAITING_MAX = 256
_REMEMBERED_MAX = 512
"""Orders whose answers are remembered: somebody who asks again does so within seconds."""
_TEXT_MAX = 1000

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of an order.

    Attributes:
        result: the new state.
        reason: why not.
    """

    result: Mapping[str, str]
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """Something that a camera or this process is told to do.

    Attributes:
        topic: where it came in.
        correlation_id: by which its answer is known; empty where nobody waits for one.
        content: what it says.
        camera: that it is for; empty for the process.
        property: of the camera.
        answer: to be called once, from any thread.
    """

    topic: str
    correlation_id: str
    content: Command | CommandValue
    camera: str
    property: str
    answer: Callable[[Answer], None]


class OrderBook:
    """Takes orders in and gives their answers out.

    Concurrency: `on_delivery` runs on the bus's thread, `take` on the one that carries orders out; answers may come
    from any.

    Args:
        bus: where orders come from and answers go to.
        node: this machine's name.
        role: this process's role.
    """

    def __init__(self, bus: Bus, *, node: str, role: str) -> None:
        self._bus = bus
        self._replies = NODE_REPLY.at(bus.site, node=node, role=role)
        self._log = get_logger()
        self._lock = threading.Lock()
        self._waiting: queue.Queue[Order] = queue.Queue(_WAITING_MAX)
        self._replied: OrderedDict[Key, Reply | None] = OrderedDict()
        self._node, self._role = node, role
        self.taken = 0

    def start(self) -> None:
        """Ask for orders to this process."""
        self._bus.subscribe(NODE_COMMAND, self.on_delivery, node=self._node, role=self._role)

    def watch(self, camera: str) -> None:
        """Ask for orders to a camera."""
        self._bus.subscribe(CAMERA_SET, self.on_delivery, camera=camera)

    def unwatch(self, camera: str) -> None:
        """Ask for orders to a camera no more."""
        self._bus.unsubscribe(CAMERA_SET, camera=camera)

    def on_delivery(self, delivery: Delivery) -> None:
        """Take in an order, or answer again what was carried out before."""
        content, topic = delivery.content, delivery.topic
        if not isinstance(content, Command | CommandValue):
            return
        if isinstance(content, Command) and content.name in STANDING_ORDERS:
            return  # every process answers those by itself
        if delivery.retained:
            # It would be carried out again at each connection, for ever.
            self._bus.reject(str(topic), "an order must not be retained: send it without", len(delivery.payload))
            return
        key = (str(topic), content.correlation_id)
        if content.correlation_id and not self._is_new(key):
            return
        size_bytes = len(delivery.payload)
        order = Order(
            topic=str(topic),
            correlation_id=content.correlation_id,
            content=content,
            camera=topic.camera,
            property=topic.params.get("property", ""),
            answer=lambda answer: self._answer(key, answer, size_bytes),
        )
        try:
            self._waiting.put_nowait(order)
        except queue.Full:
            order.answer(Answer({}, f"{_WAITING_MAX} orders wait already: send fewer, and ask again"))

    def take(self, timeout_s: float) -> Order | None:
        """The next order; None when `timeout_s` has passed."""
        try:
            order = self._waiting.get(timeout=timeout_s)
        except queue.Empty:
            return None
        self.taken += 1
        return order

    def _is_new(self, key: Key) -> bool:
        """Whether it is to be carried out; what was is answered again, what is under way will be."""
        with self._lock:
            if key not in self._replied:
                self._replied[key] = None
                if len(self._replied) > _REMEMBERED_MAX:
                    self._replied.popitem(last=False)
                return True
            reply = self._replied[key]
        if reply is not None:
            self._send(reply)
        return False

    def _answer(self, key: Key, answer: Answer, size_bytes: int) -> None:
        topic, correlation_id = key
        self._log.info("edge.ordered", topic=topic, ok=answer.reason is None, reason=answer.reason, **answer.result)
        if not correlation_id:
            # The camera's state is the answer; what cannot be done is said where everything that cannot is.
            if answer.reason is not None:
                self._bus.reject(topic, answer.reason, size_bytes)
            return
        reply = Reply(
            correlation_id=correlation_id,
            ok=answer.reason is None,
            reason=(answer.reason or "")[:_TEXT_MAX],
            result=dict(answer.result),
        )
        with self._lock:
            if key in self._replied:
                self._replied[key] = reply
        self._send(reply)

    def _send(self, reply: Reply) -> None:
        try:
            self._bus.publish(self._replies, reply)
        except (TransientError, BadPayloadError) as error:
            self._log.debug("edge.reply_unsent", error=str(error))  # whoever waits asks again
