"""The bridge as a process: its sink, its place on the bus, its orderly end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from bridge.forward import Forwarder
from bridge.journal import Journal
from bridge.sink import Sink, forwarded_events
from broker import Presence, connect
from broker.topics import origin_of
from config import get_logger, stop_on_signals
from config.settings import KafkaSettings, Settings

__all__ = ["find_ledgers", "journal_path", "run_bridge"]

_DRAIN_S = 5.0


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
    stop = threading.Event()
    ends: list[Exception] = []

    def on_fatal(error: Exception) -> None:
        ends.append(error)
        stop.set()

    sink = _make_sink(settings, role, None if to_journal else settings.bridge.kafka, on_fatal)
    bus = connect(settings, role, persistent=True, on_fatal=on_fatal)
    forwarder = Forwarder(bus, sink, events=forwarded_events(settings.bridge.forward), on_fatal=on_fatal)
    presence = Presence(bus, settings, role, figures=forwarder.figures)
    forwarder.start()
    # Not earlier: while Kafka does not answer there is nothing to finish, and a signal ends the process at once.
    stop_on_signals(stop)
    bus.start()
    presence.start()
    get_logger().info("bridge.started", sink=sink.name, bus=settings.bus.url)
    stop.wait()
    forwarder.close(0.0 if ends else _DRAIN_S)
    presence.close()
    bus.close()
    get_logger().info("bridge.stopped", **forwarder.figures().counts)
    if ends:
        raise ends[0]


def _make_sink(
    settings: Settings, role: str, kafka: KafkaSettings | None, on_fatal: Callable[[Exception], None]
) -> Sink:
    if kafka is None:
        return Journal(journal_path(settings))
    from bridge.kafka import KafkaSink
    from bridge.ledger import Ledger

    ledger = Ledger(_ledger_path(settings, role))
    events = forwarded_events(settings.bridge.forward)
    return KafkaSink(kafka, site=settings.site, ledger=ledger, events=events, on_fatal=on_fatal)
