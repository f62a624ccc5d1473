"""Commands out of Kafka, onto the bus, and their answers back.

A command is done with, and not read again, once its answer lies in Kafka. What was carried out is remembered on disk
before it is answered; so a repeat, also one after a crash, is answered and not carried out again. What was sent and not
answered when this process died is sent again under the same correlation id, by which its receiver knows it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Protocol

from bridge.commands.answered import Answered
from bridge.commands.known import KNOWN_TOPICS, Known
from bridge.commands.messages import CommandReply, Received, Request, read_request
from bridge.commands.rules import refusal_of
from broker import Bus, Delivery, Figures
from broker.messages import Reply, encode_json
from broker.topics import NODE_REPLY, origin_of
from config import BadPayloadError, Clock, SystemClock, TransientError, get_logger
from config.outside import CommandRule

__all__ = ["Dispatcher", "Replies"]

_OPEN_MAX = 256
"""Commands that wait for their answer: more stay in Kafka. As many wait in the order book of one node."""
_FACTS_S = 2.0
"""A new connection has brought what is retained by then: until then nobody is taken for unknown."""
_TEXT_MAX = 4_000


class Replies(Protocol):
    """Where answers go."""

    def reply(self, received: Received, command: str, payload: bytes) -> None:
        """Write an answer with the key and the trace of its command, which is done with once the answer is written.

        Args:
            received: the command.
            command: its id.
            payload: the answer.
        """
        ...


@dataclass(slots=True)
class _Open:
    """A command without an answer.

    Attributes:
        received: the records that ask for it.
        sent_s: when it went out on the bus.
        connection: on which connection.
    """

    request: Request
    received: list[Received]
    sent_s: float = 0.0
    connection: int = 0


@dataclass(slots=True)
class _Counts:
    commands_taken: int = 0
    commands_done: int = 0
    commands_refused: int = 0
    commands_repeated: int = 0
    commands_unanswered: int = 0


@dataclass(slots=True)
class _Answer:
    """What is answered: `is_last` is remembered, since it was carried out or refused by who knows."""

    by: str
    reason: str = ""
    ok: bool = False
    result: Mapping[str, str] = field(default_factory=dict)
    is_last: bool = False


class Dispatcher:
    """Carries commands.

    Concurrency: `start` first; then everything belongs to one thread, but for what the bus's thread brings.

    Args:
        bus: started after `start`.
        replies: where answers go.
        answered: what was answered before.
        rules: who may command what.
        reply_within_s: seconds that a process has for its answer.
        clock: time.
    """

    def __init__(
        self,
        bus: Bus,
        replies: Replies,
        answered: Answered,
        *,
        rules: Sequence[CommandRule],
        reply_within_s: float,
        clock: Clock | None = None,
    ) -> None:
        self._bus = bus
        self._replies = replies
        self._answered = answered
        self._rules = tuple(rules)
        self._reply_within_s = reply_within_s
        self._clock: Clock = clock or SystemClock()
        self._log = get_logger()
        self._known = Known()
        self._heard: deque[Delivery] = deque(maxlen=4 * _OPEN_MAX)
        self._open: dict[str, _Open] = {}
        self._connection = 0
        self._connected_s = 0.0
        self._counts = _Counts()

    @property
    def known(self) -> Known:
        """What the site has."""
        return self._known

    @property
    def has_room(self) -> bool:
        """Whether another command may be taken."""
        return len(self._open) < _OPEN_MAX

    def start(self) -> None:
        """Ask the bus for what is needed."""
        for spec in KNOWN_TOPICS:
            self._bus.subscribe(spec, self._known.fold)
        self._bus.subscribe(NODE_REPLY, self._heard.append)

    def take(self, received: Received) -> None:
        """Begin with a command, or answer it.

        Raises:
            TransientError: the disk fails; nothing was done.
        """
        try:
            request = read_request(received, self._bus.site)
        except BadPayloadError as error:
            self._refuse(received, received.header("ce_id"), error.reason)
            return
        open_ = self._open.get(request.id)
        before = self._answered.find(request.id) if open_ is None else None
        digest = before[0] if before is not None else open_.request.digest if open_ is not None else request.digest
        if digest != request.digest:
            self._refuse(received, request.id, "this id was another command's: give each command one of its own")
        elif before is not None:
            self._counts.commands_repeated += 1
            self._replies.reply(received, request.id, before[1])
        elif open_ is not None:
            self._counts.commands_repeated += 1
            open_.received.append(received)
        elif refusal := refusal_of(request, self._rules):
            self._refuse(received, request.id, refusal)
        else:
            self._counts.commands_taken += 1
            self._open[request.id] = _Open(request, [received])

    def tend(self) -> None:
        """Take what the bus has brought, send what can be sent, give up what has waited for too long.

        Raises:
            TransientError: the disk fails; what was carried out is answered the next time.
        """
        now_s = self._clock.monotonic_s()
        if self._bus.connections != self._connection:
            self._connection, self._connected_s = self._bus.connections, now_s
        while self._heard:
            self._on_reply(self._heard[0])
            self._heard.popleft()
        for open_ in list(self._open.values()):
            self._tend(open_, now_s)

    def forget(self, is_lost: Callable[[Received], bool]) -> None:
        """Leave records to others that they are given to now."""
        for open_ in list(self._open.values()):
            open_.received = [received for received in open_.received if not is_lost(received)]
            if not open_.received:
                del self._open[open_.request.id]

    def figures(self) -> Figures:
        """What was done."""
        return Figures(queues={"commands_open": len(self._open)}, counts=asdict(self._counts))

    # --- one command ---------------------------------------------------------------------------------------------

    def _tend(self, open_: _Open, now_s: float) -> None:
        if not self._bus.connected:
            self._check_expiry(open_)
        elif open_.connection != self._connection:
            self._send(open_, now_s)
        elif now_s - open_.sent_s > self._reply_within_s:
            self._counts.commands_unanswered += 1
            silence = self._known.silence_of(open_.request)
            reason = f"no answer within {self._reply_within_s:g} s: {silence}; it may still be carried out"
            self._finish(open_, _Answer(self._bus.origin, reason))

    def _check_expiry(self, open_: _Open) -> bool:
        """Whether it is too late; what was sent before may have been carried out, and is asked for again."""
        expires_at = open_.request.content.expires_at
        if open_.connection or expires_at is None or self._clock.now() < expires_at:
            return False
        self._counts.commands_refused += 1
        self._finish(open_, _Answer(self._bus.origin, f"expired at {expires_at.isoformat()}: not carried out"))
        return True

    def _send(self, open_: _Open, now_s: float) -> None:
        if self._check_expiry(open_):
            return
        unknown = self._known.refusal_of(open_.request)
        if unknown:
            if now_s - self._connected_s > _FACTS_S:
                self._counts.commands_refused += 1
                self._finish(open_, _Answer(self._bus.origin, unknown))
            return
        try:
            self._bus.publish(open_.request.topic, open_.request.order)
        except TransientError:
            return
        except BadPayloadError as error:
            self._finish(open_, _Answer(self._bus.origin, error.reason))
            return
        open_.sent_s, open_.connection = now_s, self._connection

    def _on_reply(self, delivery: Delivery) -> None:
        reply = delivery.content
        open_ = self._open.get(reply.correlation_id) if isinstance(reply, Reply) else None
        if open_ is None or not isinstance(reply, Reply):
            return
        by = origin_of(delivery.topic.params["node"], delivery.topic.params["role"])
        if open_.connection and open_.request.origin in ("", by):
            self._counts.commands_done += 1
            self._finish(open_, _Answer(by, reply.reason, ok=reply.ok, result=reply.result, is_last=True))

    def _refuse(self, received: Received, command: str, reason: str) -> None:
        self._counts.commands_refused += 1
        self._replies.reply(received, command, self._encoded(command, _Answer(self._bus.origin, reason)))

    def _finish(self, open_: _Open, answer: _Answer) -> None:
        request = open_.request
        payload = self._encoded(request.id, answer)
        if answer.is_last:
            self._answered.put(request.id, request.digest, payload)
        del self._open[request.id]
        self._log.info(
            "commands.answered", command=request.id, topic=str(request.topic), ok=answer.ok, reason=answer.reason
        )
        for received in open_.received:
            self._replies.reply(received, request.id, payload)

    def _encoded(self, command: str, answer: _Answer) -> bytes:
        reply = CommandReply(
            id=command,
            ok=answer.ok,
            by=answer.by,
            at=self._clock.now(),
            reason=answer.reason[:_TEXT_MAX],
            result=dict(answer.result),
        )
        return encode_json(reply)
