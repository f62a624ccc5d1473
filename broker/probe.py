"""A broker as a client sees it: what it promises, and whether it keeps that.

Everything is sent to the prober's own topic, ``probe/{origin}``, and nobody else may read there on a secure bus. One
connection at a time, because a secure broker knows a process by its certificate's name and takes the second
connection of that name for a successor. What is left behind, a session and a retained message, is removed at the end.

Bounded: at most about 3 MB and half a minute.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Literal

from broker._paho import paho_transports
from broker.identity import identity_folder
from broker.messages import NodeHealth, Probe, decode_json, encode_json
from broker.tls import client_context
from broker.topics import BROKER_FIGURES, NODE_HEALTH, NODE_STATUS, PROBE, origin_of, parse_topic
from broker.transport import Inbound, Limits, Outbound, TransportEvents, TransportFactory
from config.errors import BadPayloadError, TransientError
from config.settings import Settings

__all__ = ["BURST", "ROLE", "WINDOW", "BurstReport", "ProbeReport", "Prober", "Rights", "Version"]

ROLE = "doctor"
BURST = 1_100
"""Probes for a session that does not acknowledge: 100 more than Mosquitto keeps by default, and 20 for its window."""
WINDOW = 20
"""Messages that the prober lets the broker have unacknowledged."""
_ECHO_S = 2.0
"""Seconds after which a message that has not come does not come."""
_QUIET_S = 0.4
_HEALTH_S = 5.5
"""Every process reports its health, and with it its clock, every five seconds."""
_BURST_S = 15.0
_PACKET_S = 10.0
_SMALLER_PACKETS_BYTES = (500_000, 100_000, 30_000)
_FIGURES = BROKER_FIGURES.replace("#", "broker/")
Version = Literal["5", "3.1.1"]
Rights = Literal["open", "told", "silent", "none"]
"""Of a topic that is another's: may be written; refused, and MQTT 5 says so; refused, and acknowledged all the same;
not even the prober's own topic may be used, so that nothing can be said."""


@dataclass(frozen=True, slots=True)
class BurstReport:
    """What became of many messages for a session that did not acknowledge and then went away.

    Attributes:
        sent: messages.
        acknowledged: those that the broker took with success.
        refused: those that it refused and said so.
        window_max: the most that it sent without waiting for an acknowledgement.
        session_kept: it still knew the session.
        came_again: messages that came to the session when it was back.
        lost: messages that never came.
        newest_lost: those are the newest ones.
    """

    sent: int
    acknowledged: int
    refused: int
    window_max: int
    session_kept: bool
    came_again: int
    lost: int
    newest_lost: bool


@dataclass(slots=True)
class ProbeReport:
    """What was found; None where it could not be looked at.

    Attributes:
        limits: as the broker told them.
        figures: what it says of itself, by what stands behind ``$SYS/broker/``.
        rights: what it does with a topic of somebody else.
        round_trip_ms: of one small message.
        retained_kept: a retained message was there for a later subscriber.
        shared_works: a shared subscription delivers.
        packet_bytes_max: the largest packet that it was seen to take.
        burst: see there.
        clocks_s: by how much the clocks of other processes are ahead of this one's, by origin.
    """

    limits: Limits
    figures: dict[str, str] = field(default_factory=dict)
    rights: Rights = "none"
    round_trip_ms: float | None = None
    retained_kept: bool | None = None
    shared_works: bool | None = None
    packet_bytes_max: int | None = None
    burst: BurstReport | None = None
    clocks_s: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Arrival:
    message: Inbound
    at: datetime


class _Client:
    """One connection, with everything that came and went on it.

    Concurrency: the callbacks run on the connection's thread, everything else on the prober's.
    """

    def __init__(self, transports: TransportFactory, *, acknowledges: bool = True) -> None:
        self.arrivals: list[_Arrival] = []
        self.probes: list[int] = []
        self.refusals: dict[int, str] = {}
        self.sent: set[int] = set()
        self.is_lost = False
        self._acknowledges = acknowledges
        self._changed = threading.Condition()
        self._transport = transports(TransportEvents(self._on_message, self._on_sent), None)
        self._transport.open()
        self.limits = self._transport.limits
        self._thread = threading.Thread(target=self._run, name="probe", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._transport.run()
        except TransientError:
            with self._changed:
                self.is_lost = True
                self._changed.notify_all()

    def _on_message(self, message: Inbound) -> None:
        if self._acknowledges:
            self._transport.acknowledge(message)
        with self._changed:
            self.arrivals.append(_Arrival(message, datetime.now(UTC)))
            if (number := _number_of(message)) is not None:
                self.probes.append(number)
            self._changed.notify_all()

    def _on_sent(self, number: int, refusal: str | None) -> None:
        with self._changed:
            self.sent.add(number)
            if refusal is not None:
                self.refusals[number] = refusal
            self._changed.notify_all()

    def acknowledge(self, count: int) -> None:
        """Confirm the first messages."""
        for one in self.arrivals[:count]:
            self._transport.acknowledge(one.message)

    def subscribe(self, topic_filter: str, qos: int = 1) -> None:
        self._transport.subscribe([(topic_filter, qos)])

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> int:
        return self._transport.publish(Outbound(topic, payload, 1, retain))

    def wait(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Whether it came true in time, and before the connection broke."""
        with self._changed:
            self._changed.wait_for(lambda: self.is_lost or condition(), timeout_s)
            return condition()

    def wait_quiet(
        self, timeout_s: float, quiet_s: float = _QUIET_S, enough: Callable[[], bool] = lambda: False
    ) -> None:
        """Until nothing new has come for `quiet_s`, or it is enough."""
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s and not enough():
            seen = len(self.arrivals)
            if not self.wait(partial(self._has_more_than, seen), quiet_s):
                return

    def _has_more_than(self, count: int) -> bool:
        return len(self.arrivals) > count

    def close(self) -> None:
        self._transport.close()
        self._thread.join(_ECHO_S)


def _number_of(message: Inbound) -> int | None:
    try:
        return decode_json(Probe, message.payload, max_bytes=PROBE.max_bytes).number
    except BadPayloadError:
        return None


class Prober:
    """Looks at the broker of `settings`.

    Args:
        settings: the site's settings.
        version: which MQTT version to speak.
    """

    def __init__(self, settings: Settings, version: Version) -> None:
        self._settings = settings
        self._version = version
        self._own = str(PROBE.at(settings.site, origin=origin_of(settings.node, ROLE)))
        self._other = str(PROBE.at(settings.site, origin=origin_of(settings.node, f"{ROLE}.9999")))

    def look(self) -> ProbeReport:
        """Probe everything.

        Raises:
            ConfigError: this machine's certificates cannot be used.
            TransientError, PermanentError: there is no broker, or it does not let the prober in.
        """
        with self._client() as client:
            report = ProbeReport(client.limits)
            self._look_around(client, report)
        if report.round_trip_ms is None:
            return report
        try:
            # A step whose connection breaks has told that; the others are still worth their while.
            for step in (self._probe_rights, self._probe_retained, self._probe_burst, self._probe_packets):
                with contextlib.suppress(TransientError):
                    step(report)
        finally:
            self._clean_up()
        return report

    @contextmanager
    def _client(self, *, persistent: bool = False, acknowledges: bool = True) -> Iterator[_Client]:
        settings = self._settings
        # 3.1.1 knows no window: the prober would only stop to read.
        window = WINDOW if self._version == "5" else 2 * BURST
        changes = {"protocol": self._version, "receive_window": window}
        transports = paho_transports(
            settings.bus.model_copy(update=changes),
            client_id=f"vigil-{settings.site}-{settings.node}-{ROLE}",
            persistent=persistent,
            window=BURST,
            tls=partial(client_context, settings.bus, identity_folder(settings).path, ROLE),
        )
        client = _Client(transports, acknowledges=acknowledges)
        try:
            yield client
        finally:
            client.close()

    def _echo(self, client: _Client, number: int) -> float | None:
        """Seconds until a probe was back; None when it did not come."""
        started_s = time.monotonic()
        while time.monotonic() - started_s < _ECHO_S:
            # Again and again: amqtt may look at a message before it looks at the subscription that came before it.
            sent_s = time.monotonic()
            client.publish(self._own, _probe(number))
            if client.wait(lambda: number in client.probes, _QUIET_S):
                return time.monotonic() - sent_s
        return None

    def _look_around(self, client: _Client, report: ProbeReport) -> None:
        site = self._settings.site
        for topic_filter in (BROKER_FIGURES, NODE_STATUS.topic_filter(site), NODE_HEALTH.topic_filter(site)):
            client.subscribe(topic_filter, 0)
        client.subscribe(self._own)
        round_trip_s = self._echo(client, 1)
        report.round_trip_ms = None if round_trip_s is None else round(round_trip_s * 1000, 1)
        client.wait_quiet(_ECHO_S)
        expected = {one.message.topic for one in client.arrivals if b'"online"' in one.message.payload}
        if expected:
            client.wait(lambda: len(_clocks(client.arrivals)) >= len(expected), _HEALTH_S)
        report.clocks_s = _clocks(client.arrivals)
        for one in client.arrivals:
            if one.message.topic.startswith(_FIGURES):
                figure = one.message.topic.removeprefix(_FIGURES)
                report.figures[figure] = one.message.payload[:200].decode(errors="replace")

    def _probe_rights(self, report: ProbeReport) -> None:
        with self._client() as client:
            client.subscribe(self._other)
            number = client.publish(self._other, _probe(2))
            client.wait(lambda: number in client.refusals or (number in client.sent and 2 in client.probes), _ECHO_S)
            if number in client.refusals:
                report.rights = "told"
            elif number in client.sent:
                report.rights = "open" if client.probes else "silent"

    def _probe_retained(self, report: ProbeReport) -> None:
        with self._client() as client:
            client.subscribe(f"$share/{ROLE}/{self._own}")
            report.shared_works = self._echo(client, 3) is not None
            client.publish(self._own, _probe(4), retain=True)
        with self._client() as client:
            client.subscribe(self._own)
            report.retained_kept = client.wait(lambda: 4 in client.probes, _ECHO_S)

    def _probe_burst(self, report: ProbeReport) -> None:
        numbers = range(10, 10 + BURST)
        with self._client(persistent=True, acknowledges=False) as client:
            client.subscribe(self._own)
            self._echo(client, 5)
            sent = [client.publish(self._own, _probe(number)) for number in numbers]
            client.wait(lambda: client.sent.issuperset(sent), _BURST_S)
            client.wait_quiet(_BURST_S, _ECHO_S, lambda: len(client.arrivals) >= BURST)
            window_max = len(client.arrivals)
            client.acknowledge(2)
            client.wait_quiet(_ECHO_S)
            window_max = max(window_max, len(client.arrivals) - 2)
            seen = set(client.probes)
            refused = len(client.refusals)
            acknowledged = len(client.sent.intersection(sent)) - refused
        with self._client(persistent=True) as client:
            session_kept = client.limits.session_present
            client.wait_quiet(_BURST_S, _ECHO_S, lambda: seen.union(client.probes).issuperset(numbers))
            again = set(client.probes)
        lost = set(numbers) - seen - again
        report.burst = BurstReport(
            sent=len(sent),
            acknowledged=acknowledged,
            refused=refused,
            window_max=window_max,
            session_kept=session_kept,
            came_again=len(again.intersection(numbers)),
            lost=len(lost),
            newest_lost=bool(lost) and lost == set(numbers[-len(lost) :]),
        )

    def _probe_packets(self, report: ProbeReport) -> None:
        if report.limits.packet_bytes_max is not None:
            report.packet_bytes_max = report.limits.packet_bytes_max
            return
        largest = self._settings.bus.frame_bytes_max
        for size_bytes in (largest, *(size for size in _SMALLER_PACKETS_BYTES if size < largest)):
            with self._client() as client, contextlib.suppress(TransientError):
                number = client.publish(self._own, _probe(6, size_bytes))
                if client.wait(lambda: number in client.sent, _PACKET_S):  # noqa: B023 - waited for within the loop
                    report.packet_bytes_max = size_bytes
                    return

    def _clean_up(self) -> None:
        """Leave nothing behind: a connection that wants no session ends the one that is there."""
        with contextlib.suppress(TransientError), self._client() as client:
            number = client.publish(self._own, b"", retain=True)
            client.wait(lambda: number in client.sent, _ECHO_S)


def _probe(number: int, size_bytes: int = 0) -> bytes:
    return encode_json(Probe(number=number, padding="." * size_bytes))


def _clocks(arrivals: list[_Arrival]) -> dict[str, float]:
    """By how much the clocks of other processes are ahead, from what they have just said."""
    ahead: dict[str, float] = {}
    for one in arrivals:
        with contextlib.suppress(BadPayloadError):
            topic = parse_topic(one.message.topic)
            if topic.spec is NODE_HEALTH and not one.message.retained:
                health = decode_json(NodeHealth, one.message.payload, max_bytes=NODE_HEALTH.max_bytes)
                ahead[origin_of(health.node, health.role)] = round((health.at - one.at).total_seconds(), 3)
    return ahead
