"""The outbox: events and escalations on disk until somebody else provably has them.

One SQLite file a process, write-ahead log, group commit: callers that come at the same time share one transaction and
one flush of the disk. Each stream of messages (one line of the contract) has its own epoch, made with the database
file, and a sequence that starts at 1 and has no gaps: the identity of an event is ``{origin}:{epoch}:{seq}``, so that
anybody downstream can prove a loss (a gap) or a repeat.

Source: https://sqlite.org/wal.html for what WAL with ``synchronous=FULL`` promises after a power cut.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from broker.figures import Distribution
from broker.outbox_file import (
    Backlog,
    OpenEvent,
    OutboxLock,
    event_id,
    open_file,
    read_backlogs,
    row_id,
    split_event_id,
    split_row,
    translated,
)
from broker.outbox_store import Gathered, OutboxStore, OutboxStream, Removed
from config.clock import Clock, SystemClock
from config.errors import BacklogFullError, TransientError, VigilError
from config.log import get_logger

__all__ = [
    "Backlog",
    "OpenEvent",
    "Outbox",
    "OutboxEntry",
    "OutboxMessage",
    "OutboxStream",
    "event_id",
    "read_backlogs",
    "split_event_id",
]

_EVENT_SHARE = 0.75
"""The last quarter is the escalations' own. Source: docs/design/0004."""
_SPARE_OF = 1_000
"""At the events' bound a thousandth of it is freed on top, so that not every further event costs a transaction."""
_LEAVING_S = 5.0
_FLUSH_EVERY_S = 0.05
_RAN_STORED_EVERY_S = 60.0
_SETTLED_MAX = 20_000
"""Receipts that are not yet on disk. One that is forgotten costs a repeat and comes again."""


@dataclass(frozen=True, slots=True)
class OutboxMessage:
    """A message to put in.

    Attributes:
        stream: the sequence it belongs to.
        topic: where it goes.
        build: makes the payload from the event id; it must not use the outbox, and may be called again.
        priority: of the stream; the lower, the sooner it goes.
        durable: of the stream: it waits for its receipt for ever. Otherwise it may be released once the broker has it.
        opens: it starts an event that stays open until a message closes it.
        closes: id of the start of the event that it ends.
    """

    stream: str
    topic: str
    build: Callable[[str], bytes]
    priority: int
    durable: bool
    opens: bool = False
    closes: str | None = None


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """One message that waits, without its payload.

    Attributes:
        sha256: of the payload.
        put_at: seconds since 1970, by this machine's clock at that time.
    """

    seq: int
    topic: str
    size_bytes: int
    sha256: bytes
    put_at: float


@dataclass(slots=True)
class _Staged:
    """What one call wants to put in: numbered and built, not yet accepted."""

    gathered: Gathered = field(default_factory=Gathered)
    ids: list[str] = field(default_factory=list)


class Outbox:
    """A durable queue. One process at a time has it.

    Where the disk fails in the very moment of a commit, a message that `put` reported as not taken can be there all
    the same: it is sent, and a caller that tries again sends a second one, with an id of its own.

    Concurrency: every method may be called from any thread.

    Args:
        path: the database file; made with its folder when missing.
        origin: ``{node}.{role}`` of this process.
        rows_max: messages it holds before `put` refuses.
        bytes_max: payload bytes it holds before `put` refuses.
        event_hold_s: seconds, counted while the outbox is in use, that an event the broker has waits for a receipt.
        leaving_s: how long to wait for a predecessor that is leaving.
        clock: by which a person is told how old a message is.

    Attributes:
        event_hold_s: as given.
        released: events that were released since the start.
        confirmed: how long messages were here until somebody else had them.

    Raises:
        PermanentError: another process has it, or the file is damaged, no outbox, or of another origin or version.
        TransientError: the disk is full or fails.
    """

    def __init__(
        self,
        path: Path,
        *,
        origin: str,
        rows_max: int = 200_000,
        bytes_max: int = 2_000_000_000,
        event_hold_s: float = 86_400.0,
        leaving_s: float = _LEAVING_S,
        clock: Clock | None = None,
    ) -> None:
        self._path = path
        self._origin = origin
        self._rows_max = rows_max
        self._bytes_max = bytes_max
        self.event_hold_s = event_hold_s
        self._clock: Clock = clock or SystemClock()
        self._log = get_logger(origin=origin)
        self._store = OutboxStore(path, origin)
        self._writing = threading.Lock()
        """Held by the thread that uses the store; who needs both locks takes this one first."""
        self._lock = threading.Lock()
        self._reading = threading.Lock()
        self._closed = False
        self._streams: dict[str, OutboxStream] = {}
        self._gathering = Gathered()
        self._settled: dict[int, bytes] = {}
        self._held: dict[int, None] = {}
        self._ran_s = 0.0
        self._now_s: float | None = None
        self._ran_stored_s = 0.0
        self._ticked_s = float("-inf")
        self._oldest_held_s: float | None = None
        self._emptied = False
        self.released = 0
        self.confirmed = Distribution()
        self._file_lock = OutboxLock(path, wait_s=leaving_s)
        try:
            with self._writing:
                self._ensure_open()
            self._reader = open_file(path, origin)
        except VigilError:
            self._store.close()
            self._file_lock.release()
            raise

    # --- in ----------------------------------------------------------------------------------------------------

    def put(
        self,
        stream: str,
        topic: str,
        build: Callable[[str], bytes],
        *,
        priority: int,
        durable: bool,
        opens: bool = False,
        closes: str | None = None,
    ) -> str:
        """Queue one message, on disk when this returns. :class:`OutboxMessage` describes the arguments.

        Returns:
            The event id.

        Raises:
            BacklogFullError: the outbox is full; nothing was queued.
            TransientError: the disk did not take it; it may be full.
            PermanentError: the file is damaged, or was moved away.
        """
        return self.put_many((OutboxMessage(stream, topic, build, priority, durable, opens, closes),))[0]

    def put_many(self, messages: Sequence[OutboxMessage], *, forget: Sequence[str] = ()) -> list[str]:
        """Queue messages, all of them or none, on disk when this returns.

        What a `build` raises comes out here, leaves no gap, and harms nobody who shares the transaction.

        Args:
            messages: may be none.
            forget: ids of starts that are somebody else's to end.

        Returns:
            Their event ids.

        Raises:
            BacklogFullError: there is no room for all; nothing was queued.
            TransientError: the disk did not take them; it may be full.
            PermanentError: the file is damaged, or was moved away.
        """
        ids, gathered = self._gather(messages, forget)
        with self._writing:
            if not gathered.done:
                self._write()
        if gathered.error is not None:
            raise type(gathered.error)(str(gathered.error)) from gathered.error
        return ids

    def _gather(self, messages: Sequence[OutboxMessage], forget: Sequence[str]) -> tuple[list[str], Gathered]:
        while True:
            staged = None
            with self._lock:
                if self._store.is_open:
                    staged = self._stage(messages)
                    staged.gathered.closed += [(identity,) for identity in forget]
                    if self._lacking(staged.gathered) == (0, 0):
                        return staged.ids, self._accept(staged.gathered)
            with self._writing:
                self._ensure_open()
                if staged is not None:
                    self._make_room(staged.gathered)

    def _stage(self, messages: Sequence[OutboxMessage]) -> _Staged:
        staged = _Staged()
        gathered = staged.gathered
        put_at = self._clock.now().timestamp()
        for message in messages:
            stream = gathered.grown.get(message.stream) or self._begin(message, gathered)
            identity = event_id(self._origin, stream.epoch, stream.last_seq + 1)
            payload = message.build(identity)
            stream.last_seq += 1
            stream.rows += 1
            stream.size_bytes += len(payload)
            staged.ids.append(identity)
            row = row_id(stream.id, stream.last_seq)
            gathered.entries.append((row, message.topic, put_at, hashlib.sha256(payload).digest(), payload))
            if message.opens:
                gathered.opened.append((identity, message.topic, payload))
            if message.closes is not None:
                gathered.closed.append((message.closes,))
        return staged

    def _begin(self, message: OutboxMessage, gathered: Gathered) -> OutboxStream:
        """The stream as it is before what is staged, to count from; what is staged may still be refused."""
        known = self._streams.get(message.stream)
        number = known.id if known else len(self._streams.keys() | gathered.grown.keys()) + 1
        epoch = known.epoch if known else secrets.token_hex(4)
        last_seq = known.last_seq if known else 0
        stream = OutboxStream(number, message.stream, epoch, message.priority, message.durable, last_seq)
        gathered.grown[message.stream] = stream
        return stream

    def _accept(self, staged: Gathered) -> Gathered:
        """Add it to what goes to the disk next."""
        gathered = self._gathering
        for name, more in staged.grown.items():
            stream = self._streams.setdefault(
                name, OutboxStream(more.id, name, more.epoch, more.priority, more.durable)
            )
            stream.priority, stream.durable, stream.last_seq = more.priority, more.durable, more.last_seq
            stream.rows += more.rows
            stream.size_bytes += more.size_bytes
            before = gathered.grown.get(name)
            if before is not None:
                more.rows += before.rows
                more.size_bytes += before.size_bytes
            gathered.grown[name] = more
        gathered.entries += staged.entries
        gathered.opened += staged.opened
        gathered.closed += staged.closed
        return gathered

    # --- room --------------------------------------------------------------------------------------------------

    def _lacking(self, wanted: Gathered) -> tuple[int, int]:
        """Rows and bytes that must go before what is wanted fits."""
        known, more = list(self._streams.values()), list(wanted.grown.values())
        rows = sum(s.rows for s in known + more) - self._rows_max
        size = sum(s.size_bytes for s in known + more) - self._bytes_max
        if not all(s.durable for s in more):
            events = [s for s in known + more if not s.durable]
            rows = max(rows, sum(s.rows for s in events) - int(self._rows_max * _EVENT_SHARE))
            size = max(size, sum(s.size_bytes for s in events) - int(self._bytes_max * _EVENT_SHARE))
        return max(0, rows), max(0, size)

    def _make_room(self, wanted: Gathered) -> None:
        """Forget what is settled, and where that is not enough, release events. The writing lock is held."""
        self._write()
        self._ensure_open()
        with self._lock:
            rows, size = self._lacking(wanted)
        if (rows, size) == (0, 0):
            return
        spare = self._rows_max // _SPARE_OF
        released = self._stored(lambda: self._store.release_oldest(rows, size, spare))
        if released:
            self._note_released(released)
            return
        raise BacklogFullError(
            "the outbox",
            rows=self.rows,
            size_bytes=self.size_bytes,
            limit=f"{self._rows_max} messages, {self._bytes_max} bytes, of which motion and tracks three quarters",
        )

    @property
    def pressed(self) -> bool:
        """Whether events fill half of what they may: who knows which of them the broker has says so at once."""
        events = [stream for stream in list(self._streams.values()) if not stream.durable]
        return (
            self.event_hold_s <= 0
            or sum(s.rows for s in events) > self._rows_max * _EVENT_SHARE / 2
            or sum(s.size_bytes for s in events) > self._bytes_max * _EVENT_SHARE / 2
        )

    # --- the disk ----------------------------------------------------------------------------------------------

    def _ensure_open(self) -> None:
        """The writing lock is held."""
        if self._closed:
            raise TransientError("the outbox is closed: this process is leaving")
        if self._store.is_open:
            return
        streams, ran_s = self._store.open()
        self._oldest_held_s = self._store.oldest_held_s()
        with self._lock:
            self._streams = {stream.name: stream for stream in streams}
            self._ran_s = max(self._ran_s, ran_s)

    def _write(self) -> None:
        """Commit what has gathered; a failure is left in it. The writing lock is held."""
        with self._lock:
            gathered, self._gathering = self._gathering, Gathered()
            settled, held = list(self._settled.items()), list(self._held)
        try:
            removed = self._store.write(gathered, settled, held, self._ran_s)
        except VigilError as error:
            self._fail(gathered, error)
            return
        self._ran_stored_s = self._ran_s
        if held and self._oldest_held_s is None:
            self._oldest_held_s = self._ran_s
        self._emptied = self._emptied or bool(removed)
        with self._lock:
            for name, grown in gathered.grown.items():
                self._streams[name].stored_seq = grown.last_seq
            self._subtract(removed)
            for row, _ in settled:
                self._settled.pop(row, None)
            for row in held:
                self._held.pop(row, None)
        gathered.done = True

    def _stored(self, change: Callable[[], Removed]) -> Removed:
        try:
            return change()
        except VigilError as error:
            self._fail(Gathered(), error)
            raise

    def _fail(self, gathered: Gathered, error: VigilError) -> None:
        """What came while it was written has numbers that follow: it fails too, and the file says where to go on."""
        with self._lock:
            for failed in (gathered, self._gathering):
                failed.error, failed.done = error, True
                for name, grown in failed.grown.items():
                    stream = self._streams[name]
                    stream.last_seq = stream.stored_seq
                    stream.rows -= grown.rows
                    stream.size_bytes -= grown.size_bytes
            self._gathering = Gathered()
        self._log.warning("outbox.disk_failed", error=str(error), messages=len(gathered.entries))

    def _subtract(self, removed: Removed) -> None:
        by_id = {stream.id: stream for stream in self._streams.values()}
        for number, (rows, size) in removed.items():
            by_id[number].rows -= rows
            by_id[number].size_bytes -= size

    def _note_released(self, removed: Removed) -> None:
        count = sum(rows for rows, _ in removed.values())
        with self._lock:
            self._subtract(removed)
            self.released += count
        if count and self.event_hold_s > 0:
            self._log.warning("outbox.released", events=count, released=self.released)

    # --- out ---------------------------------------------------------------------------------------------------

    def streams(self) -> list[OutboxStream]:
        """The streams, the most urgent first."""
        with self._lock:
            return sorted(self._streams.values(), key=lambda stream: (stream.priority, stream.id))

    def entries(self, stream: OutboxStream, *, after: int, up_to: int, limit: int) -> list[OutboxEntry]:
        """What is there of one stream, in order.

        Args:
            stream: of this outbox.
            after: the sequence before the first.
            up_to: the last sequence.
            limit: at most so many.

        Raises:
            TransientError: the disk fails.
        """
        columns = "id, topic, length(payload), sha256, put_at"
        query = f"SELECT {columns} FROM entry WHERE id > ? AND id <= ? ORDER BY id LIMIT ?"  # noqa: S608 - a constant
        rows = self._read(query, (row_id(stream.id, after), row_id(stream.id, up_to), limit))
        return [OutboxEntry(split_row(row)[1], *entry) for row, *entry in rows]

    def note_confirmed(self, entry: OutboxEntry) -> None:
        """Somebody else has it now: count how long that took since it was put in."""
        self.confirmed.note(self._clock.now().timestamp() - entry.put_at)

    def is_settled(self, stream: OutboxStream, entry: OutboxEntry) -> bool:
        """Whether it is still there only because that was not yet written down."""
        return self._settled.get(row_id(stream.id, entry.seq)) == entry.sha256

    def payload(self, stream: OutboxStream, seq: int) -> bytes | None:
        """The payload of a message; None when it is gone.

        Raises:
            TransientError: the disk fails.
        """
        rows = self._read("SELECT payload FROM entry WHERE id = ?", (row_id(stream.id, seq),))
        return bytes(rows[0][0]) if rows else None

    def open_events(self) -> list[OpenEvent]:
        """The events that have started and not ended, in the order of their starts.

        Raises:
            TransientError: the disk fails.
        """
        return [OpenEvent(*row) for row in self._read("SELECT event_id, topic, payload FROM open_event ORDER BY id")]

    def _read(self, query: str, values: Sequence[int] = ()) -> list[Any]:
        with self._reading, translated(self._path):
            rows: list[Any] = self._reader.execute(query, values).fetchall()
        return rows

    # --- away --------------------------------------------------------------------------------------------------

    def settle(self, receipts: Iterable[tuple[str, bytes]]) -> None:
        """Somebody else has these messages: forget them, at the next `tick` or with the next `put`.

        A message that is not there is no fault: receipts repeat. One with another payload stays: an outbox that was
        restored from a copy gives numbers again that the sink knows.

        Args:
            receipts: event ids, each with the SHA-256 of the payload that the other one has.
        """
        places = [(self.find(identity), sha256) for identity, sha256 in receipts]
        with self._lock:
            for place, sha256 in places:
                if place is not None:
                    self._settled[row_id(place[0].id, place[1])] = sha256
            while len(self._settled) > _SETTLED_MAX:
                del self._settled[next(iter(self._settled))]

    def find(self, identity: str) -> tuple[OutboxStream, int] | None:
        """Stream and sequence of an event id; None when it is none of this outbox's."""
        try:
            origin, epoch, seq = split_event_id(identity)
        except ValueError:
            return None
        streams = [s for s in list(self._streams.values()) if s.epoch == epoch and seq <= s.last_seq]
        return (streams[0], seq) if streams and origin == self._origin else None

    def hold(self, stream: OutboxStream, seqs: Iterable[int]) -> None:
        """The broker has these events: from now on their time runs."""
        if not stream.durable:
            with self._lock:
                self._held.update(dict.fromkeys(row_id(stream.id, seq) for seq in seqs))

    def tick(self, now_s: float) -> None:
        """Write what `settle` and `hold` left to do, and release what was held for long enough.

        A disk that takes nothing is said in the log, and tried again.

        Args:
            now_s: monotonic seconds. Time counts while the outbox is in use: no step of a clock, and no night in which
                the machine was off, releases an event.
        """
        self._ran_s += max(0.0, now_s - self._now_s) if self._now_s is not None else 0.0
        self._now_s = now_s
        if now_s < self._ticked_s + _FLUSH_EVERY_S:
            return
        self._ticked_s = now_s
        held_since_s = self._oldest_held_s
        runs = held_since_s is not None
        if self._settled or self._held or (runs and self._ran_s >= self._ran_stored_s + _RAN_STORED_EVERY_S):
            self.flush()
        if held_since_s is not None and held_since_s + self.event_hold_s <= self._ran_s:
            self._release_due()
        if self._emptied:
            self._give_back()

    def flush(self) -> None:
        """Write what `settle` and `hold` left to do; a disk that takes nothing is said in the log, and tried again."""
        with self._writing:
            try:
                self._ensure_open()
            except VigilError as error:
                self._log.warning("outbox.disk_failed", error=str(error))
                return
            self._write()

    def _release_due(self) -> None:
        with self._writing:
            try:
                self._note_released(self._stored(lambda: self._store.release_due(self._ran_s - self.event_hold_s)))
                self._oldest_held_s = self._store.oldest_held_s()
            except VigilError as error:
                self._log.warning("outbox.disk_failed", error=str(error))

    def _give_back(self) -> None:
        with self._writing:
            try:
                self._emptied = self.rows == 0 and self._store.is_open and self._store.give_back()
            except VigilError as error:
                self._log.warning("outbox.disk_failed", error=str(error))

    @property
    def unwritten(self) -> bool:
        """Whether `tick` has something to write soon."""
        return bool(self._settled or self._held)

    @property
    def rows(self) -> int:
        """Messages that wait."""
        return sum(stream.rows for stream in list(self._streams.values()))

    @property
    def size_bytes(self) -> int:
        """Payload bytes that wait."""
        return sum(stream.size_bytes for stream in list(self._streams.values()))

    def close(self) -> None:
        """Close the file; what waits stays for the next process."""
        if self._closed:
            return
        self.flush()
        with self._writing, self._reading:
            self._closed = True
            self._store.close()
            self._reader.close()
            self._file_lock.release()
