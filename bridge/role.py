"""The bridge as a process: its sink, its place on the bus, its orderly end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from bridge.evidence import EvidenceSink
from bridge.forward import Forwarder
from bridge.journal import Journal, JournalBacklog
from bridge.schema_registry import SchemaRegistration
from bridge.shards import Shards, shard_of
from bridge.sink import EVENTS, ShardedSink, Sink, forwarded_events
from bridge.status_feed import StatusFeed, forwarded_statuses
from broker import Bus, Distribution, Figures, Presence, connect
from broker.topics import origin_of
from config import get_logger, stop_on_signals
from config.object_store import open_store
from config.settings import KafkaSettings, Settings

__all__ = ["find_ledgers", "journal_path", "run_bridge"]

_DRAIN_S = 5.0
_FENCED_PAUSE_S = 3.0
"""For a shard that another bridge has taken in Kafka: by then its beats say so too."""
_HAND_OVER_S = 5.0
"""For other bridges to take the shards of one that leaves: they decide once a second."""


def journal_path(settings: Settings) -> Path:
    """Where the journal is."""
    return settings.bridge.journal or settings.state_dir / "journal.db"


def _ledger_path(settings: Settings, role: str) -> Path:
    return settings.state_dir / "bridge" / settings.site / f"{origin_of(settings.node, role)}.db"


def find_ledgers(settings: Settings) -> list[Path]:
    """The ledgers of this site's bridges on this machine."""
    return sorted((settings.state_dir / "bridge" / settings.site).glob("*.db"))


def run_bridge(settings: Settings, role: str, *, to_journal: bool = False) -> None:
    """Carry escalations and events until the process is asked to stop.

    Args:
        settings: the site's settings.
        role: the process's role.
        to_journal: use the journal even where the settings name a Kafka.

    Raises:
        TransientError: Kafka does not answer at the start, or the disk fails.
        PermanentError: the sink or the broker refuses us for good.
    """
    _Bridge(settings, role, None if to_journal else settings.bridge.kafka).run()


class _Bridge:
    """The parts of a bridge, joined."""

    def __init__(self, settings: Settings, role: str, kafka: KafkaSettings | None) -> None:
        self._settings = settings
        self._stop = threading.Event()
        self._ends: list[Exception] = []
        self._reported = Distribution()
        old = _old_journal(settings, kafka)
        self._sink = self._make_sink(role, kafka, drains=old is not None)
        # With several bridges what waits in a session is mostly what another has written meanwhile.
        persistent = kafka is None or settings.bridge.shards == 1
        self._bus = connect(settings, role, persistent=persistent, on_fatal=self._on_fatal)
        shared = None if kafka is None else _shared_sink(kafka, settings.site)
        self._shards = Shards(self._bus, sink=shared, shards=settings.bridge.shards)
        self._backlog = _make_backlog(settings, old, self._shards)
        self._evidence = _make_evidence(settings, kafka, self._sink, self._shards.serves, self._on_fatal)
        self._forwarder = Forwarder(
            self._bus,
            self._evidence or self._sink,
            events=forwarded_events(settings.bridge.forward),
            serves=self._shards.serves,
            backlog=self._backlog,
            keeps_unreadable=kafka is not None,
            on_fatal=self._on_fatal,
        )
        self._feed = _make_feed(settings, kafka, self._bus, self._shards.serves, self._on_fatal)
        registry = kafka.schema_registry if kafka is not None else None
        self._schemas = SchemaRegistration(registry) if registry is not None else None
        self._presence = Presence(self._bus, settings, role, figures=self._figures)

    def run(self) -> None:
        """Until a signal, or until it cannot go on; then its error is raised."""
        self._forwarder.start()
        if self._backlog is not None:
            self._backlog.open()
        if self._feed is not None:
            self._feed.start()
        if self._schemas is not None:
            self._schemas.start()
        self._shards.start(self._on_gain, self._on_lose)
        # Not earlier: while Kafka does not answer there is nothing to finish, and a signal ends the process at once.
        stop_on_signals(self._stop)
        self._bus.start()
        self._presence.start()
        get_logger().info("bridge.started", sink=self._sink.name, bus=self._settings.bus.url)
        self._stop.wait()
        self._close()
        get_logger().info("bridge.stopped", **self._figures().counts)
        if self._ends:
            raise self._ends[0]

    def _close(self) -> None:
        if not self._ends:
            self._shards.drain(_HAND_OVER_S)
        self._forwarder.close(0.0 if self._ends else _DRAIN_S)
        if self._backlog is not None:
            self._backlog.close()
        if self._feed is not None:
            self._feed.close()
        if self._schemas is not None:
            self._schemas.close()
        self._shards.close()
        self._presence.close()
        self._bus.close()

    def _figures(self) -> Figures:
        own = Figures(
            queues={} if self._backlog is None else {"journal": self._backlog.waiting},
            distributions={"produce_to_report": self._reported},
        )
        more = [part.figures() for part in (self._evidence, self._feed) if part is not None]
        return _joined([self._forwarder.figures(), self._shards.figures(), own, *more])

    def _on_fatal(self, error: Exception) -> None:
        self._ends.append(error)
        self._stop.set()

    def _on_fenced(self, shard: int) -> None:
        self._shards.yield_shard(shard, _FENCED_PAUSE_S)

    def _on_gain(self, shard: int) -> None:
        if isinstance(self._sink, ShardedSink):
            self._sink.gain(shard)

    def _on_lose(self, shard: int) -> None:
        if isinstance(self._sink, ShardedSink):
            self._sink.lose(shard)
        shards = self._settings.bridge.shards
        self._forwarder.give_up(lambda camera: shard_of(camera, shards) == shard)

    def _make_sink(self, role: str, kafka: KafkaSettings | None, *, drains: bool) -> Sink:
        settings = self._settings
        if kafka is None:
            return Journal(journal_path(settings), retention=settings.bridge.retention)
        from bridge.kafka import ExactKafkaSink, KafkaSink
        from bridge.ledger import Ledger

        ledger = Ledger(_ledger_path(settings, role))
        # What is in a journal goes into Kafka, also where the settings want it no more.
        events = EVENTS if drains else forwarded_events(settings.bridge.forward)
        common: dict[str, Any] = {
            "site": settings.site,
            "ledger": ledger,
            "events": events,
            "reported": self._reported,
            "on_fatal": self._on_fatal,
        }
        if kafka.mode == "exactly-once":
            return ExactKafkaSink(kafka, shards=settings.bridge.shards, on_fenced=self._on_fenced, **common)
        return KafkaSink(kafka, **common)


def _shared_sink(kafka: KafkaSettings, site: str) -> str:
    """What bridges have in common that write to the same place."""
    from bridge.kafka import cluster_id

    return f"kafka {cluster_id(kafka)} {kafka.topics.escalation.replace('{site}', site)}"


def _old_journal(settings: Settings, kafka: KafkaSettings | None) -> Path | None:
    """The journal of the time before Kafka, which this machine's bridge alone can send."""
    path = journal_path(settings)
    return path if kafka is not None and settings.bridge.drain_journal and path.exists() else None


def _make_backlog(settings: Settings, old: Path | None, shards: Shards) -> JournalBacklog | None:
    kafka = settings.bridge.kafka
    if kafka is None or old is None:
        return None
    # At least once, any bridge may write any camera's; exactly once, only who has its shard.
    serves = shards.serves if kafka.mode == "exactly-once" else _serves_all
    return JournalBacklog(old, serves=serves, retention=settings.bridge.retention)


def _serves_all(_camera: str) -> bool:
    return True


def _joined(parts: Iterable[Figures]) -> Figures:
    """All of them as one; none counts what another does."""
    whole = Figures()
    for part in parts:
        whole.queues |= part.queues
        whole.drops |= part.drops
        whole.counts |= part.counts
        whole.distributions |= part.distributions
    return whole


def _make_feed(
    settings: Settings,
    kafka: KafkaSettings | None,
    bus: Bus,
    serves: Callable[[str], bool],
    on_fatal: Callable[[Exception], None],
) -> StatusFeed | None:
    """States and health, where they are wanted; a journal has no room for them."""
    lines = forwarded_statuses(settings.bridge.forward)
    if kafka is None or not lines:
        return None
    from bridge.kafka import KafkaStatusWriter

    writer = KafkaStatusWriter(kafka, site=settings.site, lines=lines)
    return StatusFeed(bus, writer, lines=lines, serves=serves, on_fatal=on_fatal)


def _make_evidence(
    settings: Settings,
    kafka: KafkaSettings | None,
    sink: Sink,
    serves: Callable[[str], bool],
    on_fatal: Callable[[Exception], None],
) -> EvidenceSink | None:
    """What puts large pictures elsewhere on the way into Kafka; a journal keeps its own."""
    if kafka is None or settings.bridge.evidence_store is None:
        return None
    store = open_store(settings.bridge.evidence_store, "bridge.evidence_store")
    inline_bytes_max = kafka.evidence_inline_bytes_max
    return EvidenceSink(sink, store, inline_bytes_max=inline_bytes_max, serves=serves, on_fatal=on_fatal)
