"""How the outbox empties: what is new goes first, what is old in order, and all of it again until its receipt comes.

Bookkeeping over an outbox and a `send` function; the bus owns the connection and calls in from its threads. In memory
is only which messages are on their way, never their payloads.
"""

from __future__ import annotations

import heapq
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from broker.outbox import Outbox, OutboxEntry, OutboxStream
from broker.transport import Outbound, packet_bytes
from config.errors import BadPayloadError
from config.log import get_logger

__all__ = ["OutboxDrain"]

Send = Callable[[Outbound], int]
"""Hands a message to the connection and returns its number; TransientError when there is none."""

_LIVE_S = 10.0
"""How long a message is live; after that it is backlog. Source: docs/design/0004."""
_MARK_EVERY_S = 0.25
_RECEIPT_WINDOWS = 8
"""Backlog without receipt, in windows, for each stream: 512 by default, of which Mosquitto queues 1000 for a bridge."""
_LIVE_WINDOWS = 12
"""The same for everything, while somebody answers: a burst must not run a broker's queue over, which drops without a
word. While nobody answers, live messages go unbounded: others listen too."""
_SENT_MAX = 4_096
"""Messages that are remembered as sent. What is forgotten is sent again, later."""
_DOUBLINGS_MAX = 5
_DELAYS = 2.0
"""A receipt that takes this many times as long as the last ones is overdue. A bridge or a broker that is behind would
be buried under copies otherwise: 7,590 for 2,546 messages on an overloaded machine."""
_DELAY_SHARE = 0.05
"""How much one quicker receipt shortens what is thought of the next; a slower one counts at once,"""
_DELAY_MAX_S = 60.0
"""but no longer than this: a message that was lost must not wait for ever."""
_SCAN_MAX = 256
_PROBES = 4
_PROBE_DOUBLINGS_MAX = 2
"""While nobody answers, so many of the oldest are sent again after 10, 20, then every 40 s: a bridge that comes back
and finds nothing new to receive does not wait longer for the old."""


@dataclass(slots=True, eq=False)
class _Sent:
    """A message on its way: on the wire, or with the broker and without a receipt."""

    entry: OutboxEntry
    live: bool
    sent_s: float
    tries: int
    acknowledged: bool = False


@dataclass(slots=True)
class _Lane:
    """One stream of the outbox, and how far it was sent.

    Attributes:
        live_after: sequences above are live, the others are backlog.
        live_sent: up to here, what is live was sent or passed over,
        backlog_sent: and up to here what is backlog.
        marks: times, and the newest sequence then.
        sent: what is on its way.
        unanswered: of this, what the broker has; by tries, in the order in which it was sent.
        backlog_out: how many of `sent` were sent as backlog.
        tries: of messages that will be sent again.
        heard_s: when the last receipt came,
        delay_s: and how long receipts take now.
        probes: while nobody answers, how often that was tried; otherwise None.
        probe_s: when it is tried next.
        too_large: messages that the broker does not take for their size.
    """

    stream: OutboxStream
    live_after: int = 0
    live_sent: int = 0
    backlog_sent: int = 0
    marks: deque[tuple[float, int]] = field(default_factory=deque)
    sent: dict[int, _Sent] = field(default_factory=dict)
    unanswered: list[dict[int, _Sent]] = field(default_factory=lambda: [{} for _ in range(_DOUBLINGS_MAX + 1)])
    backlog_out: int = 0
    tries: dict[int, int] = field(default_factory=dict)
    heard_s: float = float("-inf")
    delay_s: float = 0.0
    probes: int | None = None
    probe_s: float = 0.0
    too_large: set[int] = field(default_factory=set)

    def age(self, now_s: float) -> None:
        """Let time pass: what was live for long enough is backlog."""
        newest = self.stream.stored_seq
        if self.marks and now_s - self.marks[-1][0] < _MARK_EVERY_S:
            self.marks[-1] = (self.marks[-1][0], newest)
        elif newest > (self.marks[-1][1] if self.marks else self.live_after):
            self.marks.append((now_s, newest))
        while self.marks and now_s - self.marks[0][0] >= _LIVE_S:
            self.live_after = self.marks.popleft()[1]

    def level(self, tries: int) -> dict[int, _Sent]:
        return self.unanswered[min(tries - 1, _DOUBLINGS_MAX)]

    def add(self, sent: _Sent) -> None:
        self.sent[sent.entry.seq] = sent
        self.backlog_out += not sent.live

    def drop(self, sent: _Sent) -> None:
        """It is on its way no longer."""
        del self.sent[sent.entry.seq]
        self.level(sent.tries).pop(sent.entry.seq, None)
        self.backlog_out -= not sent.live

    def learn_delay(self, took_s: float) -> None:
        """A receipt took so long, or longer where it is for an earlier copy; after a silence that says nothing."""
        if self.probes is None:
            took_s = min(took_s, _DELAY_MAX_S)
            self.delay_s = max(took_s, self.delay_s + (took_s - self.delay_s) * _DELAY_SHARE)

    def rewind(self, seq: int) -> None:
        """Look again at everything from here on."""
        self.live_sent = min(self.live_sent, seq - 1)
        self.backlog_sent = min(self.backlog_sent, seq - 1)

    def again(self, sent: _Sent) -> None:
        """Send it again in its turn."""
        seq = sent.entry.seq
        self.drop(sent)
        if len(self.tries) < _SENT_MAX:
            self.tries[seq] = sent.tries + 1
        if seq > self.live_after:
            self.live_sent = min(self.live_sent, seq - 1)
        else:
            self.backlog_sent = min(self.backlog_sent, seq - 1)

    def forget(self, sent: _Sent) -> None:
        """There is no room to remember that it was sent: it comes again with the backlog, once it is no longer live."""
        self.drop(sent)
        self.backlog_sent = min(self.backlog_sent, sent.entry.seq - 1)

    def hear(self, now_s: float) -> bool:
        """Somebody answers; True when nobody did before.

        Then all that was sent meanwhile went into the void, and goes again in its order, with a new patience.
        """
        self.heard_s = now_s
        if self.probes is None:
            return False
        self.probes = None
        for sent in [sent for level in self.unanswered for sent in level.values()]:
            self.again(sent)
            self.tries[sent.entry.seq] = 2
        return True


@dataclass(slots=True)
class _Refusal:
    """A topic on which the broker refuses to take messages.

    Attributes:
        until_s: nothing of this topic is sent before; None once that has passed.
        passed_over: by stream id, the first message that was not sent.
    """

    times: int = 0
    until_s: float | None = None
    passed_over: dict[int, int] = field(default_factory=dict)


class OutboxDrain:
    """Sends what the outbox holds, and keeps sending it until its receipt comes.

    A message younger than 10 s is live and goes first, by priority and then in order; everything else is backlog, by
    priority and then in order. A quarter of the window is kept for each of the two.

    A message without receipt is sent again after `resend_after_s`, then after twice as long, up to 32 times as long.
    While nobody answers for a stream at all, only its oldest few are, and no backlog: the broker must not fill with
    copies. The first receipt says that the bridge is back, and everything goes again at once.

    Concurrency: safe between threads.

    Args:
        outbox: the queue on disk.
        send: hands a message to the connection.
        window: messages that may be without PUBACK.
        resend_after_s: seconds without a receipt before the first repeat.

    Attributes:
        starved: there was more to send than the window took: an answer makes room for it.
        resent: messages sent again for want of a receipt.
        refused: PUBACKs that said no.
    """

    def __init__(self, outbox: Outbox, send: Send, *, window: int, resend_after_s: float) -> None:
        self._outbox = outbox
        self._send = send
        self._window = window
        self._reserve = 0 if window == 1 else max(1, window // 4)
        self._resend_after_s = resend_after_s
        self._packet_bytes_max: int | None = None
        self._log = get_logger()
        self._lock = threading.RLock()
        self._now_s = 0.0
        self._pressed = False
        self._flights: dict[int, tuple[_Lane, _Sent]] = {}
        self._live_flights = 0
        self._refusals: dict[str, _Refusal] = {}
        # What was there before this process is backlog, however young it is.
        self._lanes = {stream.id: _Lane(stream, live_after=stream.stored_seq) for stream in outbox.streams()}
        self.starved = False
        self.resent = 0
        self.refused = 0

    @property
    def awaiting_receipt(self) -> int:
        """Messages that the broker has and nobody has confirmed, as far as they are remembered."""
        with self._lock:
            return sum(len(level) for lane in self._lanes.values() for level in lane.unanswered)

    @property
    def too_large(self) -> int:
        """Messages that wait because the broker does not take packets of their size."""
        with self._lock:
            return sum(len(lane.too_large) for lane in self._lanes.values())

    def tick(self, now_s: float) -> None:
        """Let time pass, also without a connection.

        Args:
            now_s: monotonic seconds.
        """
        with self._lock:
            self._now_s = now_s
            for stream in self._outbox.streams():
                lane = self._lanes.setdefault(stream.id, _Lane(stream))
                lane.stream = stream
                lane.age(now_s)
        self._outbox.tick(now_s)

    def pump(self, now_s: float, packet_bytes_max: int | None = None) -> None:
        """Send what may be sent now.

        Args:
            now_s: monotonic seconds.
            packet_bytes_max: the largest packet that the broker takes; None where it takes any.

        Raises:
            TransientError: the connection went away; call `clear` and pump again after the next one.
        """
        self.tick(now_s)
        with self._lock:
            self.starved = False
            self._hold_all_when_pressed()
            self._set_packet_limit(packet_bytes_max)
            self._lift_refusals()
            lanes = sorted(self._lanes.values(), key=lambda lane: (lane.stream.priority, lane.stream.id))
            for lane in lanes:
                self._take_back_overdue(lane)
            behind = [lane for lane in lanes if lane.probes is None and lane.backlog_sent < lane.live_after]
            kept = self._reserve if behind else 0
            for lane in lanes:
                self._send_live(lane, kept)
            for lane in behind:
                self._send_backlog(lane)
            for lane in lanes:
                self._probe(lane)
            self._forget_oldest(lanes)

    def _hold_all_when_pressed(self) -> None:
        was_pressed, self._pressed = self._pressed, self._outbox.pressed
        if self._pressed and not was_pressed:
            for lane in self._lanes.values():
                self._outbox.hold(lane.stream, [seq for level in lane.unanswered for seq in level])

    def _set_packet_limit(self, packet_bytes_max: int | None) -> None:
        if packet_bytes_max == self._packet_bytes_max:
            return
        self._packet_bytes_max = packet_bytes_max
        for lane in self._lanes.values():
            for seq in lane.too_large:
                lane.rewind(seq)
            lane.too_large.clear()

    # --- what goes ---------------------------------------------------------------------------------------------

    def _send_live(self, lane: _Lane, kept: int) -> None:
        backlog_flights = len(self._flights) - self._live_flights
        room = self._window - len(self._flights) - max(0, kept - backlog_flights)
        if self._now_s < lane.heard_s + self._resend_after_s:
            room = min(room, self._window * _LIVE_WINDOWS - len(lane.sent))
        after = max(lane.live_sent, lane.live_after)
        if after < lane.stream.stored_seq:
            lane.live_sent = self._send_range(lane, after, lane.stream.stored_seq, room, live=True)

    def _send_backlog(self, lane: _Lane) -> None:
        room = min(
            self._window - len(self._flights) - max(0, self._reserve - self._live_flights),
            self._window * _RECEIPT_WINDOWS - lane.backlog_out,
        )
        lane.backlog_sent = self._send_range(lane, lane.backlog_sent, lane.live_after, room, live=False)

    def _send_range(self, lane: _Lane, after: int, up_to: int, room: int, *, live: bool) -> int:
        """Send at most `room` messages of a range; returns the sequence up to which nothing is left to send."""
        while room > 0:
            limit = min(_SCAN_MAX, room + 1)
            entries = self._outbox.entries(lane.stream, after=after, up_to=up_to, limit=limit)
            for entry in entries:
                if room == 0:
                    break
                if self._may_go(lane, entry) and self._send_entry(lane, entry, live=live):
                    room -= 1
                after = entry.seq
            if len(entries) < limit and room > 0:
                return up_to
        self.starved = True
        return after

    def _may_go(self, lane: _Lane, entry: OutboxEntry) -> bool:
        if entry.seq in lane.sent or self._outbox.is_settled(lane.stream, entry):
            return False
        refusal = self._refusals.get(entry.topic)
        if refusal is not None and refusal.until_s is not None:
            refusal.passed_over.setdefault(lane.stream.id, entry.seq)
            return False
        limit = self._packet_bytes_max
        if limit is not None and packet_bytes(entry.topic, entry.size_bytes) > limit:
            self._pass_over_large(lane, entry, limit)
            return False
        return True

    def _pass_over_large(self, lane: _Lane, entry: OutboxEntry, limit: int | None) -> None:
        if entry.seq not in lane.too_large and len(lane.too_large) < _SENT_MAX:
            lane.too_large.add(entry.seq)
            self._log.warning("outbox.too_large", topic=entry.topic, size_bytes=entry.size_bytes, packet_max=limit)

    def _send_entry(self, lane: _Lane, entry: OutboxEntry, *, live: bool) -> bool:
        payload = self._outbox.payload(lane.stream, entry.seq)
        if payload is None:  # a receipt was quicker
            return False
        try:
            number = self._send(Outbound(entry.topic, payload, 1, retain=False))
        except BadPayloadError:  # the limit became smaller in this moment
            self._pass_over_large(lane, entry, self._packet_bytes_max)
            return False
        sent = _Sent(entry, live, self._now_s, lane.tries.pop(entry.seq, 1))
        self.resent += sent.tries > 1
        lane.add(sent)
        self._flights[number] = (lane, sent)
        self._live_flights += live
        return True

    # --- what goes again ---------------------------------------------------------------------------------------

    def _take_back_overdue(self, lane: _Lane) -> None:
        for doublings, level in enumerate(lane.unanswered):
            due_s = self._now_s - max(self._patience_s(doublings), _DELAYS * lane.delay_s)
            while level and (sent := next(iter(level.values()))).sent_s <= due_s:
                if sent.sent_s > lane.heard_s:  # nobody has answered anything since it was sent
                    self._fall_silent(lane)
                    break
                self._outbox.hold(lane.stream, (sent.entry.seq,))
                lane.again(sent)

    def _fall_silent(self, lane: _Lane) -> None:
        if lane.probes is None:
            lane.probes, lane.probe_s = 0, self._now_s
            self._outbox.hold(lane.stream, [seq for level in lane.unanswered for seq in level])

    def _patience_s(self, doublings: int) -> float:
        return self._resend_after_s * 2.0**doublings

    def _probe(self, lane: _Lane) -> None:
        """Send the oldest few again, to see whether anybody answers."""
        room = min(_PROBES, self._window - len(self._flights))
        if lane.probes is None or self._now_s < lane.probe_s or room <= 0:
            return
        oldest = heapq.nsmallest(room, (seq for level in lane.unanswered for seq in level))
        for seq in oldest:
            sent = lane.sent[seq]
            lane.drop(sent)
            lane.tries[seq] = sent.tries + 1
            self._send_entry(lane, sent.entry, live=sent.live)
        lane.probes += 1
        lane.probe_s = self._now_s + self._patience_s(min(lane.probes, _PROBE_DOUBLINGS_MAX))

    def _forget_oldest(self, lanes: list[_Lane]) -> None:
        excess = sum(len(lane.sent) for lane in lanes) - _SENT_MAX
        for lane in reversed(lanes):
            for level in reversed(lane.unanswered):
                while excess > 0 and level:
                    oldest = next(iter(level.values()))
                    self._outbox.hold(lane.stream, (oldest.entry.seq,))
                    lane.forget(oldest)
                    excess -= 1

    # --- answers -----------------------------------------------------------------------------------------------

    def on_sent(self, number: int, refusal: str | None = None) -> bool:
        """The broker has answered for a message; True when it was one of the outbox.

        Args:
            number: what `send` returned.
            refusal: why the broker does not take it; None when it does.
        """
        with self._lock:
            flight = self._flights.pop(number, None)
            if flight is None:
                return False
            lane, sent = flight
            self._live_flights -= sent.live
            if lane.sent.get(sent.entry.seq) is not sent:  # its receipt was quicker
                return True
            if refusal is not None:
                self._refuse(lane, sent, refusal)
            else:
                self._acknowledge(lane, sent)
            return True

    def _acknowledge(self, lane: _Lane, sent: _Sent) -> None:
        sent.acknowledged = True
        refusal = self._refusals.get(sent.entry.topic)
        if refusal is not None and refusal.until_s is None:
            del self._refusals[sent.entry.topic]
        lane.level(sent.tries)[sent.entry.seq] = sent
        if self._outbox.event_hold_s <= 0 and not lane.stream.durable:
            lane.drop(sent)  # the broker's word is enough
        if lane.probes is not None or self._outbox.pressed:
            self._outbox.hold(lane.stream, (sent.entry.seq,))

    def _refuse(self, lane: _Lane, sent: _Sent, reason: str) -> None:
        topic, seq = sent.entry.topic, sent.entry.seq
        lane.drop(sent)
        self.refused += 1
        refusal = self._refusals.setdefault(topic, _Refusal())
        refusal.passed_over[lane.stream.id] = min(seq, refusal.passed_over.get(lane.stream.id, seq))
        if refusal.until_s is None:
            refusal.until_s = self._now_s + self._patience_s(min(refusal.times, _DOUBLINGS_MAX))
            refusal.times += 1
            again_s = round(refusal.until_s - self._now_s, 1)
            self._log.warning("bus.refused", topic=topic, reason=reason, again_s=again_s)

    def _lift_refusals(self) -> None:
        for refusal in self._refusals.values():
            if refusal.until_s is not None and self._now_s >= refusal.until_s:
                refusal.until_s = None
                for number, seq in refusal.passed_over.items():
                    self._lanes[number].rewind(seq)
                refusal.passed_over.clear()

    def on_receipts(self, receipts: Sequence[tuple[str, bytes]]) -> None:
        """Somebody has messages.

        Args:
            receipts: event ids, each with the SHA-256 of the payload that is there; a receipt for another payload than
                ours settles nothing.
        """
        heard: dict[int, _Lane] = {}
        with self._lock:
            ours = [receipt for receipt in receipts if self._settle(heard, *receipt)]
            self._outbox.settle(ours)
            # Not sooner: a lane that hears for the first time sends everything again that is not settled.
            revived = [lane.hear(self._now_s) for lane in heard.values()]
            if any(revived):
                for lane in self._lanes.values():
                    lane.probe_s = self._now_s

    def _settle(self, heard: dict[int, _Lane], event_id: str, sha256: bytes) -> bool:
        """Send this one no more, and note whose it was; False when it is none of ours."""
        found = self._outbox.find(event_id)
        if found is None:
            return False
        stream, seq = found
        lane = self._lanes.setdefault(stream.id, _Lane(stream))
        sent = lane.sent.get(seq)
        if sent is not None:
            if sent.entry.sha256 != sha256:
                return False
            lane.learn_delay(self._now_s - sent.sent_s)
            self._outbox.note_confirmed(sent.entry)
            lane.drop(sent)
        lane.tries.pop(seq, None)
        heard[stream.id] = lane
        return True

    def clear(self) -> None:
        """The connection is gone: everything still in the outbox will be sent again."""
        with self._lock:
            self._flights.clear()
            self._live_flights = 0
            self._refusals.clear()
            for number, lane in self._lanes.items():
                self._lanes[number] = _Lane(lane.stream, live_after=lane.live_after, marks=lane.marks)
