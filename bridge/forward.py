"""From the bus into a sink, and back with a receipt: acknowledged only once the sink has it.

An arrival waits in one bounded queue, in the order in which it came, until the sink reports it durable. Then its
receipt goes out and the broker gets its acknowledgement, both in order of arrival (MQTT 5, 4.6: a receiver acknowledges
in that order). While the sink is away nothing is acknowledged: the broker stops sending at its window, the senders keep
everything in their outboxes, and the session stays.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import islice

from bridge.sink import ESCALATIONS, EVENTS, Record, Sink, StoredAt
from broker import Bus, Delivery, Figures, Topic
from broker.messages import Receipt
from broker.topics import RECEIPT, TopicSpec
from config import BadPayloadError, Clock, Supervised, SystemClock, TransientError, get_logger

__all__ = ["Forwarder"]

_ROWS_MAX = 10_000
_BYTES_MAX = 64_000_000
_PATIENCE_S = 1.0
"""Mosquitto 2.0 sends more than the window it was told (2,480 instead of 1,000 in one of our runs), so this queue does
get full. Then the connection is not read for so long, which lets the broker wait; longer would break its keep-alive."""
_BATCH_ROWS = 1_000
_BATCH_BYTES = 16_000_000
_IDLE_S = 0.2
_NO_ROOM_S = 0.02
_LATENCIES = 4_096
_ORIGINS_MAX = 1_024
"""A node may invent origins as it likes; it may not fill the bridge's memory with them."""
_ORIGINS_TOLD = 16
"""Origins in the health report, those with the most gaps or repeats."""


@dataclass(slots=True, eq=False)
class _Pending:
    """A message that is not finished: `arrivals` copies of it wait for their acknowledgement."""

    record: Record
    arrivals: int = 0
    stored: StoredAt | None = None
    answered: bool = False


@dataclass(slots=True)
class _Counts:
    escalations: int = 0
    events: int = 0
    stored: int = 0
    repeated: int = 0
    quarantined: int = 0
    refused: int = 0
    receipts: int = 0
    receipts_unsent: int = 0


class Forwarder:
    """Carries escalations and events from the bus into one sink.

    Concurrency: arrivals come on the bus's thread, one thread of this object writes to the sink, and the sink reports
    from a thread of its choice; the queue between them has one lock, and answers go out under another, in order.

    Args:
        bus: with a persistent session; start it after this object, or the broker's backlog finds no reader.
        sink: where they go.
        events: lines of the contract that are carried besides escalations.
        rows_max: arrivals that may wait.
        bytes_max: their payload bytes.
        patience_s: how long an arrival may hold up the connection when there is no room for it.
        clock: time.
        on_fatal: called with the error after which nothing more can be forwarded.
    """

    def __init__(
        self,
        bus: Bus,
        sink: Sink,
        *,
        events: Sequence[TopicSpec] = EVENTS,
        rows_max: int = _ROWS_MAX,
        bytes_max: int = _BYTES_MAX,
        patience_s: float = _PATIENCE_S,
        clock: Clock | None = None,
        on_fatal: Callable[[Exception], None] | None = None,
    ) -> None:
        self._bus = bus
        self._sink = sink
        self._lines = (*ESCALATIONS, *events)
        self._rows_max = rows_max
        self._bytes_max = bytes_max
        self._patience_s = patience_s
        self._clock: Clock = clock or SystemClock()
        self._log = get_logger(sink=sink.name)
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._answering = threading.RLock()
        self._arrivals: deque[tuple[Delivery, _Pending]] = deque()
        self._arrival_bytes = 0
        self._pending: dict[str, list[_Pending]] = {}
        self._unwritten: deque[Record] = deque()
        self._work = threading.Event()
        self._closing = False
        self._stop = threading.Event()
        self._counts = _Counts()
        self._latencies_s: deque[float] = deque(maxlen=_LATENCIES)
        self._repeats: Counter[tuple[str, str]] = Counter()
        self._writer = Supervised("bridge", self._write_once, stop=self._stop, on_fatal=on_fatal, clock=self._clock)

    def start(self) -> None:
        """Open the sink and take what comes.

        Raises:
            TransientError: the sink is away.
            PermanentError: the sink cannot be used.
        """
        self._sink.open(self._on_stored)
        for line in self._lines:
            self._bus.subscribe(line, self._on_delivery, manual_ack=True)
        self._writer.start()

    def close(self, drain_s: float = 5.0) -> None:
        """Take nothing more, finish what came within `drain_s`, and close the sink.

        What is left is not acknowledged: the broker keeps it for the next bridge, and its sender does in any case.
        """
        with self._lock:
            self._closing = True
            self._room.notify_all()
        deadline_s = self._clock.monotonic_s() + drain_s
        pause = threading.Event()
        while self._arrivals and self._clock.monotonic_s() < deadline_s and not self._stop.is_set():
            self._clock.wait(pause, 0.01)
        self._stop.set()
        self._work.set()
        self._writer.join(3.0)
        self._sink.close(max(0.0, deadline_s - self._clock.monotonic_s()))

    # --- in ----------------------------------------------------------------------------------------------------

    def _on_delivery(self, delivery: Delivery) -> None:
        try:
            record = Record.of(delivery, self._clock.monotonic_s())
        except BadPayloadError as error:
            self._bus.reject(str(delivery.topic), error.reason, len(delivery.payload))
            delivery.ack()
            return
        with self._lock:
            admitted = self._room.wait_for(lambda: self._closing or self._has_room(record), self._patience_s)
            if self._closing:
                return
            if record.table == "escalation":
                self._counts.escalations += 1
            else:
                self._counts.events += 1
            if admitted:
                self._admit(delivery, record)
            else:
                self._counts.refused += 1
        if admitted:
            self._work.set()
        else:
            # Acknowledged without a receipt: its sender sends it again. An unacknowledged one would hold up every
            # acknowledgement after it, and a window full of them would stop the flow for good.
            delivery.ack()

    def _has_room(self, record: Record) -> bool:
        rows, size = len(self._arrivals), self._arrival_bytes + len(record.payload)
        return not rows or (rows < self._rows_max and size <= self._bytes_max)

    def _admit(self, delivery: Delivery, record: Record) -> None:
        pending = self._pending_of(record)
        if pending is None:
            pending = _Pending(record)
            self._pending.setdefault(record.event_id, []).append(pending)
            self._unwritten.append(record)
        pending.arrivals += 1
        self._arrivals.append((delivery, pending))
        self._arrival_bytes += len(record.payload)

    def _pending_of(self, record: Record) -> _Pending | None:
        """What waits under the same id with the same bytes; see `Record.key`."""
        same_id = self._pending.get(record.event_id, ())
        return next((pending for pending in same_id if pending.record.payload == record.payload), None)

    def _forget(self, pending: _Pending) -> None:
        same_id = self._pending[pending.record.event_id]
        same_id.remove(pending)
        if not same_id:
            del self._pending[pending.record.event_id]

    # --- to the sink -------------------------------------------------------------------------------------------

    def _write_once(self) -> None:
        self._work.wait(_IDLE_S)
        self._work.clear()
        while not self._stop.is_set() and (batch := self._next_batch()):
            try:
                taken = self._sink.write(batch)
            except TransientError:
                self._work.set()
                raise
            with self._lock:
                for _ in range(taken):
                    self._unwritten.popleft()
            if taken < len(batch):
                self._clock.wait(self._stop, _NO_ROOM_S)

    def _next_batch(self) -> list[Record]:
        batch: list[Record] = []
        size = 0
        with self._lock:
            for record in islice(self._unwritten, _BATCH_ROWS):
                size += len(record.payload)
                if batch and size > _BATCH_BYTES:
                    break
                batch.append(record)
        return batch

    # --- and back ----------------------------------------------------------------------------------------------

    def _on_stored(self, stored: Sequence[tuple[Record, StoredAt]]) -> None:
        now_s = self._clock.monotonic_s()
        with self._lock:
            for record, place in stored:
                pending = self._pending_of(record)
                if pending is not None:
                    pending.stored = place
                self._latencies_s.append(now_s - record.received_s)
                self._count(record, place)
        self._answer()

    def _count(self, record: Record, place: StoredAt) -> None:
        if place.repeated:
            self._counts.repeated += 1
            origin = (record.stream, record.origin)
            if origin in self._repeats or len(self._repeats) < _ORIGINS_MAX:
                self._repeats[origin] += 1
        elif place.sink == self._sink.name:
            self._counts.stored += 1
        else:
            self._counts.quarantined += 1

    def _answer(self) -> None:
        with self._answering:
            for delivery, pending in self._finished():
                if not pending.answered:
                    pending.answered = True
                    self._send_receipt(pending)
                delivery.ack()

    def _finished(self) -> list[tuple[Delivery, _Pending]]:
        """Take the arrivals from the head of the queue that are stored."""
        finished = []
        with self._lock:
            while self._arrivals and self._arrivals[0][1].stored is not None:
                delivery, pending = self._arrivals.popleft()
                self._arrival_bytes -= len(delivery.payload)
                pending.arrivals -= 1
                if not pending.arrivals:
                    self._forget(pending)
                finished.append((delivery, pending))
            self._room.notify()
        return finished

    def _send_receipt(self, pending: _Pending) -> None:
        record, place = pending.record, pending.stored
        if place is None:
            return
        receipt = Receipt(
            event_id=record.event_id,
            sha256=record.digest.hex(),
            sink=place.sink,
            location=place.location,
            stored_at=place.at,
            latency_ms=round((self._clock.monotonic_s() - record.received_s) * 1000.0, 3),
            repeated=place.repeated,
        )
        try:
            self._bus.publish(_receipt_topic(record.site, record.origin), receipt)
            self._counts.receipts += 1
        except TransientError:
            # Its sender sends it again and is answered then.
            self._counts.receipts_unsent += 1

    def figures(self) -> Figures:
        """What the bridge adds to its health; latencies are from arrival to stored, of the last few thousand."""
        with self._lock:
            counts = asdict(self._counts)
            refused = counts.pop("refused")
            waiting = len(self._arrivals)
            latencies_s = sorted(self._latencies_s)
            repeats = self._repeats.copy()
        gaps = self._sink.gaps()
        return Figures(
            queues={"bridge": waiting},
            drops={"bridge_refused": refused},
            counts={
                **counts,
                "gaps": gaps.total(),
                "stored_p50_us": _percentile_us(latencies_s, 0.50),
                "stored_p99_us": _percentile_us(latencies_s, 0.99),
                **_by_origin("gaps", gaps),
                **_by_origin("repeated", repeats),
            },
        )


def _by_origin(name: str, counter: Counter[tuple[str, str]]) -> dict[str, int]:
    """The largest few, such as ``gaps/camera_motion/node-1.edge``."""
    largest = counter.most_common(_ORIGINS_TOLD)
    return {f"{name}/{stream}/{origin}": count for (stream, origin), count in largest}


@lru_cache(maxsize=_ORIGINS_MAX)
def _receipt_topic(site: str, origin: str) -> Topic:
    return RECEIPT.at(site, origin=origin)


def _percentile_us(ordered_s: Sequence[float], share: float) -> int:
    """The value below which `share` of the ordered ones lie, in microseconds; 0 when there are none."""
    return round(ordered_s[min(len(ordered_s) - 1, int(len(ordered_s) * share))] * 1e6) if ordered_s else 0
