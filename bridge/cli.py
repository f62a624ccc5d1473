"""The bridge's commands: `vigil bridge`, `vigil escalations`, `vigil events`, `vigil audit`."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import msgspec

from bridge.audit import Audit, Identity, StreamKey, audit_streams
from bridge.journal import Entry, EventEntry, JournalReader
from bridge.role import find_ledgers, journal_path, run_bridge
from bridge.sink import ESCALATIONS, EVENTS, identity_of, utc_text
from broker.messages import Evidence
from broker.outbox import Backlog, read_backlogs
from broker.session import find_outboxes
from config import BadPayloadError
from config.options import role_option
from config.settings import KafkaSettings, Settings

__all__ = ["audit", "bridge", "escalations", "events"]

Load = Callable[[Mapping[str, Any]], Settings]

_UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_AGO = re.compile(r"(\d+)([smhd])")
_COLOURS = {"critical": "red", "warning": "yellow"}
_STREAM_NAMES = {spec.name.removeprefix("camera_"): spec.name for spec in EVENTS}

kafka_option = click.option("--kafka", metavar="HOST:PORT", help="Kafka; several addresses separated by commas.")
topic_option = click.option("--topic", metavar="NAME", help="The topic of escalations.  [default: vigil.escalations]")
journal_option = click.option(
    "--journal",
    metavar="PATH",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The journal's file.  [default: journal.db in the state folder]",
)


def _since(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """A time in the journal's form, from ``10m`` or RFC 3339."""
    if value is None:
        return None
    ago = _AGO.fullmatch(value)
    try:
        if ago is not None:
            return utc_text(datetime.now(UTC) - timedelta(seconds=int(ago[1]) * _UNITS_S[ago[2]]))
        return utc_text(datetime.fromisoformat(value))
    except (ValueError, OverflowError, BadPayloadError):
        raise click.BadParameter(
            f"{value!r} is neither 10m, 2h, 1d nor a time such as 2026-01-31T08:00:00+01:00"
        ) from None


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
@click.option("--camera", metavar="NAME", help="Only of this camera.")
@click.option("--rule", metavar="NAME", help="Only of this rule.")
@click.option("--severity", type=click.Choice(["info", "warning", "critical"]), help="Only of this severity.")
@click.option("--since", callback=_since, metavar="TIME", help="Only those raised since then: 10m, 2h, 1d, or a time.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="The newest so many.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option(
    "--save-pictures", type=click.Path(file_okay=False, path_type=Path), help="Write their pictures into this folder."
)
@click.pass_obj
def escalations(
    load: Load,
    *,
    journal: Path | None,
    camera: str | None,
    rule: str | None,
    severity: str | None,
    since: str | None,
    limit: int,
    as_json: bool,
    save_pictures: Path | None,
) -> None:
    """List the escalations in the journal, the newest last.

    \b
    Examples:
      vigil escalations --since 1h
      vigil escalations --camera yard --severity critical --limit 5
      vigil escalations --json | jq .summary
      vigil escalations --limit 1 --save-pictures .
    """
    settings = load(_overrides(None, None, journal))
    with closing(JournalReader(journal_path(settings))) as reader:
        entries = reader.entries(since=since, camera=camera, rule=rule, severity=severity, limit=limit)
        for entry in entries:
            click.echo(json.dumps(asdict(entry)) if as_json else _told(entry))
        if save_pictures is not None:
            _save_pictures(reader, entries, save_pictures)


def _told(entry: Entry) -> str:
    raised_at = datetime.fromisoformat(entry.raised_at).astimezone()
    severity = click.style(f"{entry.severity:<8}", fg=_COLOURS.get(entry.severity))
    drill = "  (drill)" if entry.drill else ""
    told = f"{entry.camera:<12}  {entry.rule:<12}  {entry.score:.2f}  {entry.summary}{drill}  {entry.event_id}"
    return f"{raised_at:%Y-%m-%d %H:%M:%S}  {severity}  {_printable(told)}"


@click.command()
@journal_option
@click.option("--camera", metavar="NAME", help="Only of this camera.")
@click.option("--stream", type=click.Choice(sorted(_STREAM_NAMES)), help="Only of this kind.")
@click.option("--since", callback=_since, metavar="TIME", help="Only those since then: 10m, 2h, 1d, or a time.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="The newest so many.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_obj
def events(
    load: Load,
    *,
    journal: Path | None,
    camera: str | None,
    stream: str | None,
    since: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """List the events (motion, track, clip) in the journal, the newest last.

    \b
    Examples:
      vigil events --since 10m
      vigil events --camera yard --stream motion --limit 5
      vigil events --json | jq .message.score
    """
    settings = load(_overrides(None, None, journal))
    line = _STREAM_NAMES[stream] if stream else None
    with closing(JournalReader(journal_path(settings))) as reader:
        for entry in reader.events(since=since, camera=camera, stream=line, limit=limit):
            click.echo(_as_json(entry) if as_json else _told_event(entry))


def _as_json(entry: EventEntry) -> str:
    content = asdict(entry)
    content["message"] = json.loads(content.pop("payload"))
    return json.dumps(content)


class _Sight(msgspec.Struct):
    """What a line of the list tells of any event."""

    score: float = 0.0
    label: str = ""
    motion_id: str = ""
    track_id: str = ""
    about: str = ""
    uri: str = ""
    error: str | None = None


def _told_event(entry: EventEntry) -> str:
    at = datetime.fromisoformat(entry.at).astimezone()
    sight = msgspec.json.decode(entry.payload, type=_Sight)
    told = (
        f"{entry.stream.removeprefix('camera_'):<6}  {entry.type:<10}  {entry.camera:<12}  {sight.score:.2f}  "
        f"{sight.label:<8}  {sight.motion_id or sight.track_id or sight.about}  {entry.event_id}  "
        f"{sight.error or sight.uri}"
    )
    return f"{at:%Y-%m-%d %H:%M:%S}  {_printable(told).rstrip()}"


def _printable(text: str) -> str:
    """A stranger's text without what would move the cursor or change the terminal."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


class _Pictures(msgspec.Struct):
    evidence: tuple[Evidence, ...] = ()


def _save_pictures(reader: JournalReader, entries: Sequence[Entry], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    saved = 0
    for entry in entries:
        content = msgspec.json.decode(reader.payload(entry.id), type=_Pictures)
        for number, picture in enumerate(content.evidence, start=1):
            if hashlib.sha256(picture.data).hexdigest() != picture.sha256:
                click.echo(f"{_printable(entry.event_id)}: picture {number} is not what was sent", err=True)
                continue
            (folder / _file_name(entry, number, picture)).write_bytes(picture.data)
            saved += 1
    click.echo(f"saved {saved} pictures in {folder}", err=True)


def _file_name(entry: Entry, number: int, picture: Evidence) -> str:
    raised_at = datetime.fromisoformat(entry.raised_at)
    suffix = "jpg" if picture.content_type == "image/jpeg" else "bin"
    extra = "" if number == 1 else f"-{number}"
    name = f"{raised_at:%Y%m%dT%H%M%SZ}_{entry.camera}_{entry.origin}-{entry.epoch}-{entry.seq}"
    return f"{name}{extra}.{suffix}"


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
    are events that the broker had and no bridge confirmed for `bus.outbox.event_hold_s`.

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
            found = Audit(f"journal {path}", tuple(audit_streams(reader.identities(), backlogs)))
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
    from bridge.kafka import read_event_ids
    from bridge.ledger import read_quarantine

    put_aside = (found for path in find_ledgers(settings) for found in read_quarantine(path))
    aside = [(stream, *identity_of(event_id)) for stream, event_id in put_aside]
    counts = Counter[str]()
    streams = audit_streams(_identities(read_event_ids(kafka), counts), backlogs, aside)
    where = f"Kafka topics {kafka.topics.escalation}, {kafka.topics.motion} at {kafka.bootstrap}"
    return Audit(where, tuple(streams), counts["foreign"])


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
