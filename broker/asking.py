"""Asking a process on the bus to do something, and waiting for its answer: what commands for people are made of."""

from __future__ import annotations

import queue
import secrets
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from broker.bus import Bus, Delivery
from broker.messages import Command, CommandValue, Reply
from broker.session import listen
from broker.topics import CAMERA_SET, NODE_COMMAND, NODE_REPLY, Topic
from config.errors import TransientError
from config.settings import Settings

__all__ = ["Asker"]

_CONNECT_WAIT_S = 5.0
_ASK_AGAIN_S = 2.0
"""The same order, by its id: a process that has it already only answers again."""


class Asker:
    """A place on the bus for somebody who asks; a context manager.

    Concurrency: one thread asks.

    Args:
        settings: the site's settings.
        role: what it calls itself; on a secure bus this machine's person is used.
        prepare: asks for further topics of the bus before it connects.

    Raises:
        TransientError: there is no broker.
    """

    def __init__(self, settings: Settings, role: str, *, prepare: Callable[[Bus], None] = lambda _bus: None) -> None:
        self._settings = settings
        self._answers: queue.SimpleQueue[Reply] = queue.SimpleQueue()
        self.bus = listen(settings, role)
        self.bus.subscribe(NODE_REPLY, self._on_reply)
        prepare(self.bus)

    def __enter__(self) -> Self:
        self.bus.start()
        if not self.bus.wait_connected(_CONNECT_WAIT_S):
            self.bus.close()
            raise TransientError(f"no broker at {self._settings.bus.url}: start one, or name another with --bus URL")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bus.close()

    def set(self, camera: str, name: str, value: str, wait_s: float) -> Reply | None:
        """Ask a camera's node for a value of a property; None when nobody answers within `wait_s` seconds."""
        order = CommandValue(value=value, correlation_id=_new_id())
        return self._ask(CAMERA_SET.at(self.bus.site, camera=camera, property=name), order, wait_s)

    def order(self, node: str, role: str, name: str, arguments: Mapping[str, str], wait_s: float) -> Reply | None:
        """Give a process an order; None when it does not answer within `wait_s` seconds."""
        order = Command(correlation_id=_new_id(), name=name, arguments=dict(arguments))
        return self._ask(NODE_COMMAND.at(self.bus.site, node=node, role=role), order, wait_s)

    def _ask(self, topic: Topic, order: Command | CommandValue, wait_s: float) -> Reply | None:
        end_s = time.monotonic() + wait_s
        while (left_s := end_s - time.monotonic()) > 0:
            self.bus.publish(topic, order)
            reply = self._answer(order.correlation_id, min(_ASK_AGAIN_S, left_s))
            if reply is not None:
                return reply
        return None

    def _answer(self, correlation_id: str, wait_s: float) -> Reply | None:
        end_s = time.monotonic() + wait_s
        while (left_s := end_s - time.monotonic()) > 0:
            try:
                reply = self._answers.get(timeout=left_s)
            except queue.Empty:
                return None
            if reply.correlation_id == correlation_id:
                return reply
        return None

    def _on_reply(self, delivery: Delivery) -> None:
        if isinstance(delivery.content, Reply):
            self._answers.put(delivery.content)


def _new_id() -> str:
    return f"cli-{secrets.token_hex(8)}"
