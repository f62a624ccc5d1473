"""What must hold after a run, whatever was done to the mesh.

`vigil audit` is asked, and beside it stand checks that do not trust the code under test: they look into the journal
with plain SQL, and hold it against what a drill has printed.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from broker.topics import CAMERA_ESCALATION
from console.verdict import AuditedStream, AuditReport

__all__ = ["JournalContent", "Tally", "check_audit", "check_journal", "check_promises", "read_journal", "tally"]

_SHOWN = 5


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """What the audit counts of escalations, or of events.

    Attributes:
        raised: in the outboxes' count.
        present: different ones in the sink.
        missing: that are nowhere.
        repeated: beyond one of each in the sink.
        waiting: in an outbox still.
        released: given up after the broker had them.
    """

    raised: int = 0
    present: int = 0
    missing: int = 0
    repeated: int = 0
    waiting: int = 0
    released: int = 0


def tally(streams: Iterable[AuditedStream]) -> Tally:
    """The sums over streams."""
    found = tuple(streams)
    return Tally(
        raised=sum(stream.raised or 0 for stream in found),
        present=sum(stream.present for stream in found),
        missing=sum(last - first + 1 for stream in found for first, last in stream.missing_ranges),
        repeated=sum(stream.repeated for stream in found),
        waiting=sum(stream.waiting for stream in found),
        released=sum(stream.released for stream in found),
    )


def split(report: AuditReport) -> tuple[Tally, Tally]:
    """The sums of escalations, and of events."""
    escalations = [stream for stream in report.streams if stream.stream == CAMERA_ESCALATION.name]
    return tally(escalations), tally(stream for stream in report.streams if stream.stream != CAMERA_ESCALATION.name)


def check_audit(report: AuditReport, *, may_repeat: bool) -> list[str]:
    """Everything that was raised is in the sink, once.

    Args:
        report: what the audit says.
        may_repeat: the sink is Kafka, which a bridge that dies between a write and its note of it writes to again.
    """
    findings = []
    for stream in report.streams:
        name = f"{stream.stream} of {stream.origin}"
        missing = tally([stream]).missing
        if missing:
            findings.append(f"{missing} missing: {name}, {_told(stream.missing_ranges)}")
        if stream.repeated and not may_repeat:
            findings.append(f"{stream.repeated} repeated in the journal: {name}")
        if stream.waiting:
            findings.append(f"{stream.waiting} still waiting in an outbox: {name}")
        if stream.released:
            findings.append(f"{stream.released} released without a receipt: {name}")
        if stream.raised is None:
            findings.append(f"nobody has raised {name}, yet the sink has some")
        elif stream.raised != stream.present and not (missing or stream.waiting or stream.released):
            findings.append(f"{stream.raised} raised and {stream.present} in the sink: {name}")
    findings += [f"no {what} was raised" for what, sums in zip(_KINDS, split(report), strict=True) if not sums.raised]
    return findings


_KINDS = ("escalation", "event")


def check_promises(report: AuditReport, promised: Collection[str]) -> list[str]:
    """Every id that a drill printed is in the sink, as the audit tells it: for a sink that cannot be looked into."""
    streams = {(stream.origin, stream.epoch): stream for stream in report.streams}
    lost = [identity for identity in sorted(promised) if not _is_present(identity, streams)]
    return [f"{len(lost)} that were promised are not in the sink: {_told(lost)}"] if lost else []


def _is_present(identity: str, streams: Mapping[tuple[str, str], AuditedStream]) -> bool:
    origin, epoch, seq = identity.split(":")
    stream = streams.get((origin, epoch))
    if stream is None or stream.raised is None or int(seq) > stream.raised:
        return False
    return not any(first <= int(seq) <= last for first, last in stream.missing_ranges)


@dataclass(slots=True)
class JournalContent:
    """What is in a journal.

    Attributes:
        ids: every row's event id.
        starts: ids of movements that started.
        ends: ids of movements that ended.
    """

    ids: Counter[str] = field(default_factory=Counter)
    starts: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)


def read_journal(path: Path) -> JournalContent:
    """Read a journal with plain SQL."""
    content = JournalContent()
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
        content.ids.update(row[0] for row in db.execute("SELECT event_id FROM escalation"))
        for event_id, kind, payload in db.execute("SELECT event_id, type, payload FROM event"):
            content.ids[event_id] += 1
            said = json.loads(payload)
            movement = said.get("motion_id") or said["track_id"]
            if kind != "update":
                (content.starts if kind == "start" else content.ends)[movement] += 1
    return content


def check_journal(content: JournalContent, promised: Collection[str]) -> list[str]:
    """What was promised is there, nothing is there twice, and what began has one end.

    Args:
        content: of the journal, after every process has ended in order.
        promised: every id that a drill printed, which it does once it is on disk.
    """
    lost = sorted(set(promised) - content.ids.keys())
    found = {
        "that were promised are not in the journal": lost,
        "are in the journal more than once": [identity for identity, count in content.ids.items() if count > 1],
        "began and have no end": sorted(content.starts.keys() - content.ends.keys()),
        "have an end and never began": sorted(content.ends.keys() - content.starts.keys()),
        "ended more than once": [identity for identity, count in content.ends.items() if count > 1],
    }
    return [f"{len(ids)} {what}: {_told(ids)}" for what, ids in found.items() if ids]


def _told(things: Sequence[object]) -> str:
    more = f" and {len(things) - _SHOWN} more" if len(things) > _SHOWN else ""
    return ", ".join(str(thing) for thing in things[:_SHOWN]) + more
