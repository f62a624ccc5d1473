"""States and health of the mesh on their way into Kafka: the latest of each, never in the way of an escalation.

Nothing here is acknowledged late, has an identity or waits on disk: what is missed is said again when it changes, and a
retained state with each new connection. While Kafka is away the latest of each topic waits here, in bounded room.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from bridge.sink import utc_text
from broker import Bus, Delivery, Figures, Topic
from broker.topics import (
    CAMERA_OWNER,
    CAMERA_STATE,
    MODEL,
    NODE_HEALTH,
    NODE_STATUS,
    NODE_WORKER,
    REGISTRY_CAMERA,
    TopicSpec,
)
from config import Clock, Supervised, SystemClock

__all__ = ["HEALTH", "STATES", "Status", "StatusFeed", "StatusWriter", "forwarded_statuses"]

STATES = (CAMERA_STATE, CAMERA_OWNER, NODE_STATUS, NODE_WORKER, MODEL, REGISTRY_CAMERA)
"""Lines of the contract that are the `state` of `bridge.forward`."""
HEALTH = (NODE_HEALTH,)
"""Those that are its `health`."""
_TOPICS_MAX = 10_000
_BYTES_MAX = 16_000_000
_BATCH_ROWS = 200
_IDLE_S = 0.5
_NO_ROOM_S = 0.2


def forwarded_statuses(forward: Sequence[str]) -> tuple[TopicSpec, ...]:
    """Those of `STATES` and `HEALTH` that `bridge.forward` names."""
    return (*(STATES if "state" in forward else ()), *(HEALTH if "health" in forward else ()))


@dataclass(frozen=True, slots=True)
class Status:
    """What is said of a camera, a process or a model.

    Attributes:
        topic: where it was said.
        payload: the JSON as it came; empty: it is taken back.
        at: when it was so, by whoever said it, as RFC 3339 in UTC; empty where the message does not say.
        number: grows with each arrival.
    """

    topic: Topic
    payload: bytes
    at: str
    number: int = 0

    @property
    def lasts(self) -> bool:
        """Whether it holds until something else is said."""
        return self.topic.spec not in HEALTH


class StatusWriter(Protocol):
    """Where they go. Concurrency: one thread."""

    def open(self) -> None:
        """Make it ready.

        Raises:
            TransientError: it is away.
            PermanentError: it cannot be used; the message names the cure.
        """
        ...

    def write(self, statuses: Sequence[Status]) -> int:
        """Take the first ones; how many."""
        ...

    def settle(self) -> tuple[int, list[Status]]:
        """How many more are there now, and those that did not arrive."""
        ...

    def close(self, timeout_s: float) -> None:
        """Finish what was taken within `timeout_s`."""
        ...


class StatusFeed:
    """Carries states and health from the bus to a writer.

    Concurrency: arrivals come on the bus's thread, and one thread of this object writes.

    Args:
        bus: subscribe before it starts.
        writer: where they go.
        lines: lines of the contract.
        serves: whether a name (a camera's, node's or model's) is this bridge's; asked from any thread. What is
            another's is kept, should it become this one's.
        clock: time.
        on_fatal: called with the error after which nothing more can be written.
    """

    def __init__(
        self,
        bus: Bus,
        writer: StatusWriter,
        *,
        lines: Sequence[TopicSpec],
        serves: Callable[[str], bool] = lambda _name: True,
        clock: Clock | None = None,
        on_fatal: Callable[[Exception], None] | None = None,
    ) -> None:
        self._bus = bus
        self._writer = writer
        self._lines = lines
        self._serves = serves
        self._clock: Clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._waiting: OrderedDict[str, Status] = OrderedDict()
        self._bytes = 0
        self._arrivals = 0
        self._newest: OrderedDict[str, int] = OrderedDict()
        self._written = 0
        self._replaced = 0
        self._dropped = 0
        self._work = threading.Event()
        self._stop = threading.Event()
        self._thread = Supervised("status", self._feed_once, stop=self._stop, on_fatal=on_fatal, clock=self._clock)

    def start(self) -> None:
        """Open the writer and take what comes.

        Raises:
            TransientError: it is away.
            PermanentError: it cannot be used.
        """
        self._writer.open()
        for line in self._lines:
            self._bus.subscribe(line, self._on_delivery)
        self._thread.start()

    def close(self, timeout_s: float = 1.0) -> None:
        """Write nothing more; what is on its way is finished within `timeout_s`."""
        self._stop.set()
        self._work.set()
        if self._thread.join(3.0):
            self._writer.close(timeout_s)

    def figures(self) -> Figures:
        """What this adds to the bridge's health."""
        with self._lock:
            return Figures(
                queues={"status": len(self._waiting)},
                drops={"status_replaced": self._replaced, "status_dropped": self._dropped},
                counts={"status_written": self._written},
            )

    # --- in ----------------------------------------------------------------------------------------------------

    def _on_delivery(self, delivery: Delivery) -> None:
        moment = getattr(delivery.content, "at", None)
        self._arrivals += 1
        at = utc_text(moment) if moment is not None else ""
        status = Status(delivery.topic, delivery.payload, at, self._arrivals)
        if not status.lasts and not self._is_ours(status):
            return
        self._keep([status])
        self._work.set()

    def _is_ours(self, status: Status) -> bool:
        # The first name of a topic: its camera, node or model.
        return self._serves(next(iter(status.topic.params.values())))

    def _keep(self, statuses: Iterable[Status]) -> None:
        """Let them wait, but for those of which something newer has come."""
        with self._lock:
            for status in statuses:
                place = str(status.topic)
                if status.number < self._newest.get(place, 0):
                    self._replaced += 1
                    continue
                self._note_newest(place, status.number)
                other = self._waiting.get(place)
                if other is not None:
                    self._replaced += 1
                    self._bytes -= len(other.payload)
                elif len(self._waiting) >= _TOPICS_MAX or self._bytes + len(status.payload) > _BYTES_MAX:
                    self._dropped += 1
                    continue
                self._waiting[place] = status
                self._bytes += len(status.payload)

    def _note_newest(self, place: str, number: int) -> None:
        self._newest[place] = number
        self._newest.move_to_end(place)
        if len(self._newest) > 2 * _TOPICS_MAX:
            self._newest.popitem(last=False)

    # --- out ---------------------------------------------------------------------------------------------------

    def _feed_once(self) -> None:
        self._work.wait(_IDLE_S)
        self._work.clear()
        while not self._stop.is_set():
            self._settle()
            batch = self._take_batch()
            taken = self._writer.write(batch) if batch else 0
            self._keep(batch[taken:])
            if taken < len(batch):
                self._clock.wait(self._stop, _NO_ROOM_S)
            if not batch:
                return

    def _settle(self) -> None:
        written, failed = self._writer.settle()
        lasting = [status for status in failed if status.lasts]
        with self._lock:
            self._written += written
            self._dropped += len(failed) - len(lasting)
        self._keep(lasting)

    def _take_batch(self) -> list[Status]:
        with self._lock:
            ours = [place for place, status in self._waiting.items() if self._is_ours(status)][:_BATCH_ROWS]
            batch = [self._waiting.pop(place) for place in ours]
            self._bytes -= sum(len(status.payload) for status in batch)
        return batch
