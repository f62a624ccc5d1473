"""Telling cameras something from a process that lives on, and hearing what came of it."""

from __future__ import annotations

import queue
import secrets
import threading

from broker import Bus, Delivery
from broker.messages import CommandValue, Reply
from broker.topics import CAMERA_SET, NODE_REPLY
from config import Clock, PermanentError, TransientError

__all__ = ["CameraOrders"]

_ASK_AGAIN_S = 3.0
"""The same order, by its id: a node that has it already only answers again."""


class CameraOrders:
    """Gives cameras orders.

    Concurrency: may be used from any thread.

    Args:
        bus: to ask on.
        clock: time.
    """

    def __init__(self, bus: Bus, clock: Clock) -> None:
        self._bus = bus
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: dict[str, queue.SimpleQueue[Reply]] = {}

    def start(self) -> None:
        """Ask for answers of nodes."""
        self._bus.subscribe(NODE_REPLY, self._on_reply)

    def set(self, camera: str, name: str, value: str, wait_s: float) -> Reply:
        """Set a property of a camera.

        Args:
            camera: which one.
            name: of the property.
            value: what it is to be.
            wait_s: how long to wait for the answer.

        Returns:
            What its node says; not that it did it.

        Raises:
            PermanentError: its node refuses; the message says why.
            TransientError: nobody answers, or there is no connection.
        """
        topic = CAMERA_SET.at(self._bus.site, camera=camera, property=name)
        order = CommandValue(value=value, correlation_id=f"fleet-{secrets.token_hex(8)}")
        answers: queue.SimpleQueue[Reply] = queue.SimpleQueue()
        with self._lock:
            self._waiting[order.correlation_id] = answers
        try:
            end_s = self._clock.monotonic_s() + wait_s
            while (left_s := end_s - self._clock.monotonic_s()) > 0:
                self._bus.publish(topic, order)
                try:
                    return _accepted(answers.get(timeout=min(_ASK_AGAIN_S, left_s)))
                except queue.Empty:
                    continue
        finally:
            with self._lock:
                del self._waiting[order.correlation_id]
        raise TransientError(f"no node answers for it within {wait_s:g} s")

    def _on_reply(self, delivery: Delivery) -> None:
        reply = delivery.content
        if not isinstance(reply, Reply):
            return
        with self._lock:
            answers = self._waiting.get(reply.correlation_id)
        if answers is not None:
            answers.put(reply)


def _accepted(reply: Reply) -> Reply:
    if not reply.ok:
        raise PermanentError(reply.reason)
    return reply
