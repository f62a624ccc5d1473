"""Asking the fleet's process for something that takes a while: what this package's commands are made of."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from broker import Bus, Delivery
from broker.asking import Asker
from broker.messages import NodeStatus
from broker.topics import NODE_STATUS
from config import PermanentError, TransientError
from config.durations import format_duration
from config.settings import Settings
from config.text import printable

__all__ = ["FleetAsker"]

_ROLE = "fleet"
_FIND_WAIT_S = 3.0
_ANSWER_WAIT_S = 10.0
_POLL_S = 0.2
_REASON_MAX = 1000


class FleetAsker:
    """A place on the bus from which the fleet's process is asked; a context manager.

    Concurrency: one thread.

    Args:
        settings: the site's.

    Raises:
        TransientError: there is no broker, or no such process.
    """

    def __init__(self, settings: Settings) -> None:
        self._site = settings.site
        self._found: dict[str, NodeStatus] = {}
        self._news = threading.Condition()
        self._asker = Asker(settings, "schedule", prepare=self._prepare)
        self._node = ""

    def __enter__(self) -> Self:
        self._asker.__enter__()
        with self._news:
            if not self._news.wait_for(self._online, _FIND_WAIT_S):
                self._asker.__exit__(None, None, None)
                raise TransientError(f"nobody keeps the schedules of site {self._site!r}: start `vigil fleet`")
            self._node = self._online()[0]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._asker.__exit__(kind, error, trace)

    def order(self, name: str, **arguments: str) -> Mapping[str, str]:
        """Give an order, and return the answer.

        Raises:
            PermanentError: it is refused; the message says why.
            TransientError: there is no answer.
        """
        reply = self._asker.order(self._node, _ROLE, name, arguments, _ANSWER_WAIT_S)
        if reply is None:
            raise TransientError(f"{self._node}.{_ROLE} has not answered within {format_duration(_ANSWER_WAIT_S)}")
        if not reply.ok:
            raise PermanentError(printable(reply.reason, _REASON_MAX))
        return reply.result

    def ended(self, job: str) -> Mapping[str, str] | None:
        """What came of a job; None while it is under way."""
        found = self.order("job", job=job)
        return None if found.get("state") == "running" else found

    def wait_ended(self, job: str, wait_s: float) -> Mapping[str, str]:
        """Wait for a job's end, and return what came of it.

        Raises:
            PermanentError: it failed; the message says why.
            TransientError: it is still under way after `wait_s` seconds.
        """
        end_s = time.monotonic() + wait_s
        while (found := self.ended(job)) is None:
            if time.monotonic() > end_s:
                raise TransientError(
                    f"under way still after {format_duration(wait_s)}; `vigil schedule list` shows what comes of it"
                )
            time.sleep(_POLL_S)
        if found["state"] == "failed":
            raise PermanentError(printable(found.get("reason", ""), _REASON_MAX))
        return found

    def _prepare(self, bus: Bus) -> None:
        bus.subscribe(NODE_STATUS, self._on_status, role=_ROLE)

    def _on_status(self, delivery: Delivery) -> None:
        status = delivery.content
        if isinstance(status, NodeStatus):
            with self._news:
                self._found[status.node] = status
                self._news.notify_all()

    def _online(self) -> list[str]:
        return sorted(node for node, status in self._found.items() if status.state == "online")
