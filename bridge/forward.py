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

from bridge.sink import ESCALATIONS, EVENTS, Backlog, Record, Sink, StoredAt
from bridge.tracing import trace_forwarded
from broker import Bus, Delivery, Distribution, Figures, Topic
from broker.messages import Receipt, Receipts
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
_BACKLOG_ROWS_MAX = 2_000
"""Old records that the sink may have unconfirmed: live ones wait behind no more than these."""
_RECEIPT_BYTES_MAX = 1_024
"""Of one receipt, as JSON: id, hash and place are at most 213, 64 and 280 characters."""
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
    is_let_go: bool = False


@dataclass(slots=True)
class _Counts:
    escalations: int = 0
    events: int = 0
    stored: int = 0
    repeated: int = 0
    quarantined: int = 0
    drained: int = 0
    foreign: int = 0
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
        serves: whether a camera is this bridge's; asked from any thread. What is another's is acknowledged without a
            receipt: its sender sends it again until its own bridge has it.
        backlog: old records that go into the sink while nothing live waits.
        keeps_unreadable: hand the sink also what is no message of the contract; else the reject topic tells of it, and
            that is all.
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
        serves: Callable[[str], bool] = lambda _camera: True,
        backlog: Backlog | None = None,
        keeps_unreadable: bool = False,
        rows_max: int = _ROWS_MAX,
        bytes_max: int = _BYTES_MAX,
        patience_s: float = _PATIENCE_S,
        clock: Clock | None = None,
        on_fatal: Callable[[Exception], None] | None = None,
    ) -> None:
        self._bus = bus
        self._sink = sink
        self._lines = (*ESCALATIONS, *events)
        self._serves = serves
        self._backlog = backlog
        self._keeps_unreadable = keeps_unreadable
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
        self._losses: list[Callable[[str], bool]] = []
        self._old_unwritten: deque[Record] = deque()
        self._old_written: dict[tuple[str, bytes], str] = {}
        self._old_stored: list[tuple[Record, StoredAt]] = []
        self._work = threading.Event()
        self._closing = False
        self._stop = threading.Event()
        self._counts = _Counts()
        self._latencies_s: deque[float] = deque(maxlen=_LATENCIES)
        self._took = Distribution()
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
            self._bus.subscribe(line, self._on_delivery, manual_ack=True, raw=True)
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

    def give_up(self, is_lost: Callable[[str], bool]) -> None:
        """Wait no more for the sink's word on messages of cameras that another bridge has now.

        They are acknowledged without a receipt, as what comes later is: their sender sends them to the other one.
        """
        with self._lock:
            self._losses.append(is_lost)
        self._work.set()

    # --- in ----------------------------------------------------------------------------------------------------

    def _on_delivery(self, delivery: Delivery) -> None:
        if not self._serves(delivery.topic.camera):
            self._counts.foreign += 1
            delivery.ack()
            return
        try:
            record = Record.of(delivery, self._clock.monotonic_s())
        except BadPayloadError as error:
            self._bus.reject(str(delivery.topic), error.reason, len(delivery.payload))
            if not self._keeps_unreadable:
                delivery.ack()
                return
            record = Record.unreadable(delivery, error.reason, self._clock.monotonic_s())
        with self._lock:
            admitted = self._has_room(record) or self._room.wait_for(
                lambda: self._closing or self._has_room(record), self._patience_s
            )
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
            if not self._work.is_set():
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
            self._pending.setdefault(_name_of(record), []).append(pending)
            if not self._old_written or record.key not in self._old_written:
                self._unwritten.append(record)
        pending.arrivals += 1
        self._arrivals.append((delivery, pending))
        self._arrival_bytes += len(record.payload)

    def _pending_of(self, record: Record) -> _Pending | None:
        """What waits under the same id with the same bytes; see `Record.key`."""
        for pending in self._pending.get(_name_of(record), ()):
            if pending.record.payload == record.payload:
                return pending
        return None

    def _forget(self, pending: _Pending) -> None:
        name = _name_of(pending.record)
        same_id = self._pending[name]
        same_id.remove(pending)
        if not same_id:
            del self._pending[name]

    # --- to the sink -------------------------------------------------------------------------------------------

    def _write_once(self) -> None:
        self._work.wait(_IDLE_S)
        self._work.clear()
        self._let_go()
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
            self._let_go()
        if self._backlog is not None and not self._stop.is_set():
            self._write_old(self._backlog)

    def _let_go(self) -> None:
        """Finish what another bridge has now; on the thread that takes from `_unwritten`."""
        with self._lock:
            head = self._unwritten[0] if self._unwritten else None
            if not self._losses and (head is None or self._serves(head.camera)):
                return
            losses, self._losses = self._losses, []

            def is_lost(camera: str) -> bool:
                return not self._serves(camera) or any(loss(camera) for loss in losses)

            self._unwritten = deque(record for record in self._unwritten if not is_lost(record.camera))
            waiting = {id(pending): pending for _, pending in self._arrivals if pending.stored is None}
            for pending in waiting.values():
                if not pending.is_let_go and is_lost(pending.record.camera):
                    pending.is_let_go = True
                    self._forget(pending)
                    self._counts.foreign += pending.arrivals
        self._answer()

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

    def _write_old(self, backlog: Backlog) -> None:
        """One batch from the backlog; then live ones are looked for again."""
        if self._old_stored:
            with self._lock:
                stored = list(self._old_stored)
            backlog.done(stored)
            with self._lock:
                del self._old_stored[: len(stored)]
        room = _BACKLOG_ROWS_MAX - len(self._old_written) - len(self._old_unwritten)
        if room > 0:
            self._old_unwritten.extend(backlog.next(min(room, _BATCH_ROWS)))
        batch = self._next_old(backlog)
        if not batch:
            return
        taken = 0
        try:
            taken = self._sink.write(batch)
        finally:
            self._take_back_old(batch[taken:])
        if taken == len(batch):
            self._work.set()
        else:
            self._clock.wait(self._stop, _NO_ROOM_S)

    def _take_back_old(self, untaken: Sequence[Record]) -> None:
        with self._lock:
            for record in untaken:
                self._old_written.pop(record.key, None)
            self._old_unwritten.extendleft(reversed(untaken))

    def _next_old(self, backlog: Backlog) -> list[Record]:
        """Everything old that waits; what is on its way as a live one is left to that, and asked for again."""
        batch: list[Record] = []
        with self._lock:
            waiting, self._old_unwritten = self._old_unwritten, deque()
            for record in waiting:
                if not backlog.serves(record.camera):
                    continue
                if self._pending_of(record) is None:
                    self._old_written[record.key] = record.camera
                    batch.append(record)
                else:
                    self._old_unwritten.append(record)
            if not batch:
                # Nobody may report what was on its way when its camera became another bridge's.
                served = {key: camera for key, camera in self._old_written.items() if backlog.serves(camera)}
                self._old_written = served
        return batch

    # --- and back ----------------------------------------------------------------------------------------------

    def _on_stored(self, stored: Sequence[tuple[Record, StoredAt]]) -> None:
        now_s = self._clock.monotonic_s()
        live: list[tuple[Record, StoredAt]] = []
        with self._lock:
            for record, place in stored:
                pending = self._pending_of(record)
                if pending is not None:
                    pending.stored = place
                    self._latencies_s.append(now_s - record.received_s)
                    self._took.note(now_s - record.received_s)
                    live.append((record, place))
                if self._old_written and record.key in self._old_written:
                    del self._old_written[record.key]
                    self._old_stored.append((record, place))
                    self._counts.drained += 1
                self._count(record, place)
        self._answer()
        if self._bus.tracer.on:
            trace_forwarded(self._bus.tracer, live, self._clock)

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
            finished = self._finished()
            now_s = self._clock.monotonic_s()
            receipts: dict[tuple[str, str], list[Receipt]] = {}
            for _, pending in finished:
                if not pending.answered and pending.stored is not None:
                    pending.answered = True
                    if not pending.record.event_id:
                        continue  # whose it is nobody can say
                    sender = (pending.record.site, pending.record.origin)
                    receipts.setdefault(sender, []).append(_receipt(pending.record, pending.stored, now_s))
            for sender, some in receipts.items():
                self._send_receipts(_receipt_topic(*sender), some)
            for delivery, _ in finished:
                delivery.ack()

    def _finished(self) -> list[tuple[Delivery, _Pending]]:
        """Take the arrivals from the head of the queue that are stored, or another bridge's."""
        finished = []
        with self._lock:
            while self._arrivals and (self._arrivals[0][1].stored is not None or self._arrivals[0][1].is_let_go):
                delivery, pending = self._arrivals.popleft()
                self._arrival_bytes -= len(delivery.payload)
                pending.arrivals -= 1
                if not pending.arrivals and not pending.is_let_go:
                    self._forget(pending)
                finished.append((delivery, pending))
            self._room.notify()
        return finished

    def _send_receipts(self, topic: Topic, receipts: Sequence[Receipt]) -> None:
        most = max(1, self._bus.payload_bytes_max(topic) // _RECEIPT_BYTES_MAX)
        for start in range(0, len(receipts), most):
            some = tuple(receipts[start : start + most])
            try:
                self._bus.publish(topic, Receipts(receipts=some))
                self._counts.receipts += len(some)
            except TransientError:
                # Their sender sends them again and is answered then.
                self._counts.receipts_unsent += len(some)

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
            distributions={"receive_to_stored": self._took},
        )


def _name_of(record: Record) -> str:
    """What it waits under."""
    return record.event_id or record.digest.hex()


def _by_origin(name: str, counter: Counter[tuple[str, str]]) -> dict[str, int]:
    """The largest few, such as ``gaps/camera_motion/node-1.edge``."""
    largest = counter.most_common(_ORIGINS_TOLD)
    return {f"{name}/{stream}/{origin}": count for (stream, origin), count in largest}


def _receipt(record: Record, place: StoredAt, now_s: float) -> Receipt:
    return Receipt(
        event_id=record.event_id,
        sha256=record.digest.hex(),
        sink=place.sink,
        location=place.location,
        stored_at=place.at,
        latency_ms=round((now_s - record.received_s) * 1000.0, 3),
        repeated=place.repeated,
    )


@lru_cache(maxsize=_ORIGINS_MAX)
def _receipt_topic(site: str, origin: str) -> Topic:
    return RECEIPT.at(site, origin=origin)


def _percentile_us(ordered_s: Sequence[float], share: float) -> int:
    """The value below which `share` of the ordered ones lie, in microseconds; 0 when there are none."""
    return round(ordered_s[min(len(ordered_s) - 1, int(len(ordered_s) * share))] * 1e6) if ordered_s else 0
