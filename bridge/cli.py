"""The bridge's commands: `vigil bridge`, `vigil escalations`, `vigil events`, `vigil audit`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any

import click

from bridge.audit import Audit, Identity, Ranges, StreamKey, audit_streams
from bridge.journal import JournalReader
from bridge.journal_cli import journal_option
from bridge.role import find_ledgers, journal_path, run_bridge
from bridge.sink import ESCALATIONS, EVENTS, identity_of
from broker.outbox import Backlog, read_backlogs
from broker.session import find_outboxes
from config import BadPayloadError
from config.options import role_option
from config.settings import KafkaSettings, Settings

__all__ = ["audit", "bridge"]

Load = Callable[[Mapping[str, Any]], Settings]

kafka_option = click.option("--kafka", metavar="HOST:PORT", help="Kafka; several addresses separated by commas.")
topic_option = click.option("--topic", metavar="NAME", help="The topic of escalations.  [default: vigil.escalations]")


def _overrides(kafka: str | None, topic: str | None, journal: Path | None) -> dict[str, Any]:
    if journal is not None and (kafka or topic):
        raise click.UsageError("--journal and --kafka are two sinks: give one")
    wanted = {"bootstrap": kafka, "topics": {"escalation": topic} if topic else None}
    section: dict[str, Any] = {"kafka": {key: value for key, value in wanted.items() if value is not None}}
    if not section["kafka"]:
        del section["kafka"]
    if journal is not None:
        section["journal"] = str(journal)
    return {"bridge": section}


@click.command()
@kafka_option
@topic_option
@journal_option
@role_option("bridge")
@click.pass_obj
def bridge(load: Load, kafka: str | None, topic: str | None, journal: Path | None, role: str) -> None:
    """Carry escalations and events into the journal, or into Kafka, and send a receipt for each.

    A message stays with its sender until the receipt comes, so this process, the broker and Kafka may die at any
    time. The journal is one SQLite file; Kafka's topics are created when they are missing. `bridge.forward`
    says what goes out besides escalations.

    \b
    Examples:
      vigil bridge
      vigil bridge --journal /var/lib/vigil/journal.db
      vigil bridge --kafka kafka-1:9092,kafka-2:9092 --topic site.escalations
    """
    settings = load(_overrides(kafka, topic, journal))
    run_bridge(settings, role, to_journal=journal is not None)


@click.command()
@journal_option
@kafka_option
@topic_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_obj
def audit(load: Load, journal: Path | None, kafka: str | None, topic: str | None, as_json: bool) -> None:
    """Prove that no escalation or event is missing or repeated: exit status 0 when none is missing, else 1.

    Each carries a number without gaps, by kind, origin and epoch. This command reads them all from the sink and, where
    the sender's outbox is on this machine, holds them against what it has raised and what still waits there. Released
    are events that the broker had and no bridge confirmed for `bus.outbox.event_hold_s`. Of Kafka it reads what is
    committed, in whichever mode it was written, also in a topic a camera; quarantined are dead letters. Expired is what
    the journal's retention has deleted, and what a journal has not yet sent into Kafka waits.

    \b
    Examples:
      vigil audit
      vigil audit --journal /var/lib/vigil/journal.db --json
      vigil audit --kafka 127.0.0.1:9092 --topic vigil.escalations
    """
    settings = load(_overrides(kafka, topic, journal))
    backlogs = _backlogs(settings)
    if settings.bridge.kafka is not None and journal is None:
        found = _audit_kafka(settings, settings.bridge.kafka, backlogs)
    else:
        path = journal_path(settings)
        with closing(JournalReader(path)) as reader:
            streams = audit_streams(reader.identities(), backlogs, expired=reader.expired())
        found = Audit(f"journal {path}", tuple(streams))
    click.echo(json.dumps(found.as_dict()) if as_json else found.told())
    if any(stream.missing for stream in found.streams):
        raise SystemExit(1)


def _backlogs(settings: Settings) -> dict[StreamKey, Backlog]:
    lines = {spec.name for spec in ESCALATIONS + EVENTS}
    return {
        (backlog.name, origin, backlog.epoch): backlog
        for origin, path in find_outboxes(settings).items()
        for backlog in read_backlogs(path)
        if backlog.name in lines
    }


def _audit_kafka(settings: Settings, kafka: KafkaSettings, backlogs: Mapping[StreamKey, Backlog]) -> Audit:
    from bridge.kafka import read_dead_letters, read_event_ids, read_written
    from bridge.ledger import read_quarantine

    # In this order: what is written meanwhile then counts as stored.
    undrained, expired = _left_in_journal(journal_path(settings))
    written = read_written(kafka, settings.site)
    kept = [found for path in find_ledgers(settings) for found in read_quarantine(path)]
    put_aside = [(found.stream, found.event_id) for found in kept if found.event_id]
    counts = Counter[str]()
    streams = audit_streams(
        _identities(read_event_ids(kafka, settings.site), counts),
        backlogs,
        _identities(chain(put_aside, read_dead_letters(kafka, settings.site)), counts),
        written,
        undrained=undrained,
        expired=expired,
    )
    templates = {kafka.topics.escalation, kafka.topics.motion, kafka.topics.track, kafka.topics.clip}
    topics = sorted(template.replace("{site}", settings.site) for template in templates)
    return Audit(f"Kafka topics {', '.join(topics)} at {kafka.bootstrap}", tuple(streams), counts["foreign"])


def _left_in_journal(path: Path) -> tuple[Mapping[StreamKey, Ranges], Mapping[StreamKey, Ranges]]:
    """What the journal of the time before Kafka has still to send, and what its retention has deleted."""
    if not path.exists():
        return {}, {}
    with closing(JournalReader(path)) as reader:
        return reader.undrained(), reader.expired()


def _identities(found: Iterable[tuple[str, str]], counts: Counter[str]) -> Iterator[Identity]:
    for stream, event_id in found:
        try:
            identity = identity_of(event_id)
        except BadPayloadError:
            identity = None
        if stream and identity:
            yield stream, *identity
        else:
            counts["foreign"] += 1
