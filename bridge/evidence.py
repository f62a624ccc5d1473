"""Large pictures of escalations go into an object store before the escalation goes into the sink.

The escalation then says where they are (`Evidence.uri`) in place of carrying them. A picture's name follows from what
it is, so one that is put there again replaces itself. As long as the store is away such escalations wait, not
acknowledged, as all do while Kafka is away; those without large pictures pass them by, but for those of the same
camera, which stay in order.
"""

from __future__ import annotations

import binascii
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from bridge.sink import OnStored, Record, Sink
from broker import Figures
from config import Backoff, Clock, Supervised, SystemClock, TransientError, get_logger
from config.object_store import ObjectStore

__all__ = ["EvidenceSink"]

_WORKERS = 4
"""Pictures that are on their way at one time: most of it is waiting for the store."""
_HELD_BYTES_MAX = 64_000_000
_IDLE_S = 0.2
_NO_ROOM_S = 0.02
_ENDINGS = {"image/jpeg": "jpg", "image/png": "png", "image/webp": "webp"}


class EvidenceSink:
    """Another sink, whose large pictures are put into an object store first.

    Concurrency: as `Sink` says; what waits for its pictures is written to the other sink by threads of this object,
    one at a time with `write`.

    Args:
        sink: the other one, which gets everything.
        store: takes the pictures.
        inline_bytes_max: pictures of one escalation that are not larger than this together stay in it.
        serves: whether a camera is this bridge's; what is another's meanwhile is let go of.
        clock: time.
        on_fatal: called with the error after which nothing more can be written.
    """

    def __init__(
        self,
        sink: Sink,
        store: ObjectStore,
        *,
        inline_bytes_max: int,
        serves: Callable[[str], bool] = lambda _camera: True,
        clock: Clock | None = None,
        on_fatal: Callable[[Exception], None] | None = None,
    ) -> None:
        self._sink = sink
        self._store = store
        self._inline_bytes_max = inline_bytes_max
        self._serves = serves
        self._clock: Clock = clock or SystemClock()
        self._log = get_logger()
        self._lock = threading.Lock()
        """Held while something is written to the other sink, too: nothing of a camera overtakes what waits."""
        self._work = threading.Condition(self._lock)
        self._held: dict[str, deque[Record]] = {}
        self._held_bytes = 0
        self._idle: deque[str] = deque()
        """Cameras of which something waits and nothing is on its way."""
        self._put = 0
        self._away = False
        self._again_at_s = 0.0
        self._backoff = Backoff(0.25, 15.0)
        self._stop = threading.Event()
        self._workers = [
            Supervised(f"evidence-{number}", self._work_once, stop=self._stop, on_fatal=on_fatal, clock=self._clock)
            for number in range(_WORKERS)
        ]

    @property
    def name(self) -> str:
        """Of the other sink."""
        return self._sink.name

    def open(self, on_stored: OnStored) -> None:
        """Open the other sink.

        Raises:
            TransientError: it is away.
            PermanentError: it cannot be used.
        """
        self._sink.open(on_stored)
        for worker in self._workers:
            worker.start()

    def write(self, records: Sequence[Record]) -> int:
        """Hand records on, and keep those whose pictures have to go first.

        Raises:
            TransientError: none was taken; try again.
            PermanentError: none was taken, and trying again cannot help.
        """
        taken = 0
        with self._lock:
            while taken < len(records):
                step = self._hold(records[taken]) if self._waits(records[taken]) else self._pass(records, taken)
                taken += step
                if not step:
                    break
        return taken

    def gaps(self) -> Counter[tuple[str, str]]:
        """Of the other sink."""
        return self._sink.gaps()

    def close(self, timeout_s: float) -> None:
        """Close the other sink; what still waits for its pictures is not reported, so it is sent again."""
        self._stop.set()
        with self._lock:
            self._work.notify_all()
        for worker in self._workers:
            worker.join(1.0)
        self._sink.close(timeout_s)

    def figures(self) -> Figures:
        """What this adds to the bridge's health."""
        with self._lock:
            waiting = sum(len(records) for records in self._held.values())
            return Figures(queues={"evidence": waiting}, counts={"evidence_put": self._put})

    # --- in: with the lock -------------------------------------------------------------------------------------

    def _waits(self, record: Record) -> bool:
        return record.camera in self._held or self._is_large(record)

    def _is_large(self, record: Record) -> bool:
        """Whether it may have large pictures: Base64 makes 4 bytes of 3."""
        return (
            record.table == "escalation"
            and not (record.rewritten or record.fault)
            and len(record.payload) * 3 > self._inline_bytes_max * 4
        )

    def _hold(self, record: Record) -> int:
        if self._held_bytes and self._held_bytes + len(record.payload) > _HELD_BYTES_MAX:
            return 0
        self._held_bytes += len(record.payload)
        if record.camera not in self._held:
            self._held[record.camera] = deque()
            self._idle.append(record.camera)
            self._work.notify()
        self._held[record.camera].append(record)
        return 1

    def _pass(self, records: Sequence[Record], start: int) -> int:
        """Hand the next ones on that do not wait."""
        end = start
        while end < len(records) and not self._waits(records[end]):
            end += 1
        try:
            return self._sink.write(records[start:end])
        except TransientError:
            if not start:
                raise
            return 0  # those before are taken; it is said at the next try

    # --- out: the workers --------------------------------------------------------------------------------------

    def _work_once(self) -> None:
        camera = self._next_camera()
        if camera is None:
            return
        try:
            self._send_next(camera)
        finally:
            self._leave(camera)

    def _next_camera(self) -> str | None:
        with self._work:
            if not self._idle:
                self._work.wait(_IDLE_S)
            pause_s = self._again_at_s - self._clock.monotonic_s()
            if self._idle and pause_s <= 0:
                return self._idle.popleft()
        if pause_s > 0:
            self._clock.wait(self._stop, min(pause_s, _IDLE_S))
        return None

    def _send_next(self, camera: str) -> None:
        with self._lock:
            waiting = self._held[camera]
            record = waiting[0]
        if self._is_large(record):
            try:
                record = self._without_pictures(record)
            except TransientError as error:
                self._note_away(error)
                return
            self._note_back()
        with self._lock:
            # What is there already is not put there again, should there be no room for the escalation now.
            waiting[0] = record
            if self._sink.write([record]):
                self._held_bytes -= len(record.payload)
                waiting.popleft()
                return
            if not self._serves(camera):
                # Its sender sends it to the bridge that has the camera now.
                self._held_bytes -= sum(len(each.payload) for each in waiting)
                waiting.clear()
                return
        self._clock.wait(self._stop, _NO_ROOM_S)

    def _leave(self, camera: str) -> None:
        with self._lock:
            if self._held[camera]:
                self._idle.append(camera)
                self._work.notify()
            else:
                del self._held[camera]

    def _without_pictures(self, record: Record) -> Record:
        """The record as it goes into the sink; its pictures are in the store when this returns."""
        escalation: dict[str, Any] = msgspec.json.decode(record.payload)  # fields that we do not know stay
        pictures = [binascii.a2b_base64(entry.get("data", "")) for entry in escalation.get("evidence", ())]
        if sum(map(len, pictures)) <= self._inline_bytes_max:
            return msgspec.structs.replace(record, rewritten=record.payload)
        for number, (entry, picture) in enumerate(zip(escalation["evidence"], pictures, strict=True), start=1):
            if picture:
                entry |= {"data": "", "uri": self._put_there(record, number, entry, picture)}
        return msgspec.structs.replace(record, rewritten=msgspec.json.encode(escalation))

    def _put_there(self, record: Record, number: int, entry: dict[str, Any], picture: bytes) -> str:
        # With a checksum: an outbox that was restored from a copy gives old numbers to new escalations.
        ending = _ENDINGS.get(entry["content_type"], "bin")
        name = f"{record.event_id}-{number}-{binascii.crc32(picture):08x}.{ending}"
        uri = self._store.put(
            f"{record.site}/{record.camera}/{record.at[:10]}/{name}",
            [picture],
            size_bytes=len(picture),
            content_type=entry["content_type"],
        )
        with self._lock:
            self._put += 1
        return uri

    def _note_away(self, error: TransientError) -> None:
        with self._lock:
            delay_s = self._backoff.delay_s()
            self._again_at_s = self._clock.monotonic_s() + delay_s
            self._away = True
        self._log.warning("evidence.store_away", error=str(error), delay_s=round(delay_s, 2))

    def _note_back(self) -> None:
        with self._lock:
            was_away, self._away = self._away, False
            self._backoff.reset()
        if was_away:
            self._log.info("evidence.store_back")
