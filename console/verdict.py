"""The last lines of `vigil up`: did every escalation and every event of this run arrive?

Counted from the sequences in the outboxes and the sink, by `vigil audit`; not from what this process happened to see.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from broker.outbox import Backlog, read_backlogs
from broker.session import find_outboxes
from broker.topics import CAMERA_ESCALATION
from config.process import vigil_command
from config.settings import Settings
from config.text import printable

__all__ = ["AuditReport", "AuditedStream", "Marks", "Verdict", "judge", "read_marks", "run_audit"]

Marks = Mapping[tuple[str, str], int]
"""How far the sequences had come, by origin and epoch."""
AUDIT_TIMEOUT_S = 120.0
_NOTHING = "no escalation was raised"


class AuditedStream(msgspec.Struct, frozen=True, kw_only=True):
    """One origin's escalations, or events of one kind, of one epoch, as `vigil audit --json` tells it.

    Attributes:
        stream: the line of the contract.
        raised: how many its outbox says there were; None when that is not on this machine.
        released: events that their sender gave up after the broker had them.
        missing_ranges: first and last, included, of those that are nowhere.
    """

    stream: str
    origin: str
    epoch: str
    raised: int | None
    present: int
    released: int
    waiting: int
    repeated: int
    missing_ranges: tuple[tuple[int, int], ...]


class AuditReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `vigil audit --json` prints."""

    sink: str
    streams: tuple[AuditedStream, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a run ended.

    Attributes:
        lines: for the person.
        complete: nothing that was raised is lost.
    """

    lines: tuple[str, ...]
    complete: bool


def read_marks(settings: Settings) -> Marks:
    """How many escalations and events the processes of this machine have raised so far; each epoch is of one stream."""
    return {(origin, backlog.epoch): backlog.last_seq for origin, backlog in _backlogs(settings)}


def _backlogs(settings: Settings) -> list[tuple[str, Backlog]]:
    return [(origin, backlog) for origin, path in find_outboxes(settings).items() for backlog in read_backlogs(path)]


def run_audit(settings: Settings, site_file: Path, environment: Mapping[str, str], before: Marks) -> Verdict:
    """Ask `vigil audit` about this run.

    Args:
        settings: the settings of the run.
        site_file: what its processes ran with.
        environment: theirs.
        before: how far the sequences had come before it.
    """
    if not any(read_marks(settings).values()):
        return Verdict((_NOTHING,), complete=True)
    command = vigil_command(site_file, ("audit", "--json"))
    try:
        done = subprocess.run(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=AUDIT_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return _unknown(settings, before, f"no answer within {AUDIT_TIMEOUT_S:.0f} s")
    try:
        report = msgspec.json.decode(done.stdout, type=AuditReport)
    except msgspec.DecodeError:
        return _unknown(settings, before, done.stderr.decode(errors="replace").strip().removeprefix("vigil: "))
    return judge(report, before, "Kafka" if settings.bridge.kafka else "the journal")


def _unknown(settings: Settings, before: Marks, reason: str) -> Verdict:
    """Without the sink's answer there is only what the outboxes say."""
    own = [(origin, backlog) for origin, backlog in _backlogs(settings) if backlog.name == CAMERA_ESCALATION.name]
    raised = sum(backlog.last_seq - before.get((origin, backlog.epoch), 0) for origin, backlog in own)
    waiting = sum(len(backlog.waiting) for _, backlog in own)
    return Verdict(
        (
            f"{raised} escalations raised; {waiting} wait in the outbox and are sent at the next start",
            f"the sink could not be asked for the others: {printable(reason, 400)}",
        ),
        complete=False,
    )


def judge(report: AuditReport, before: Marks, sink: str) -> Verdict:
    """The verdict on this run, and on everything so far where that is more.

    Args:
        report: what the audit says; streams of which this machine has no outbox are other machines' business.
        before: how far the sequences had come before this run.
        sink: what to call the sink.
    """
    own = [stream for stream in report.streams if stream.raised is not None]
    escalations = [stream for stream in own if stream.stream == CAMERA_ESCALATION.name]
    this_run = _tally(escalations, before)
    so_far = _tally(escalations, {})
    lines = [this_run.told("escalations", sink) if so_far.raised else _NOTHING]
    if so_far.raised != this_run.raised:
        lines.append(f"with earlier runs: {so_far.told('escalations', sink)}")
    events = _tally([stream for stream in own if stream.stream != CAMERA_ESCALATION.name], before)
    if events.missing or events.waiting:
        lines.append(events.told("events", sink))
    return Verdict(tuple(lines), complete=not (this_run.missing or events.missing))


@dataclass(frozen=True, slots=True)
class _Tally:
    raised: int
    missing: int
    released: int
    waiting: int
    repeated: int

    def told(self, kind: str, sink: str) -> str:
        present = max(0, self.raised - self.missing - self.released - self.waiting)
        line = f"{self.raised} {kind} raised, {present} in {sink}, {self.missing} missing, {self.repeated} repeated"
        if self.released:
            line += f"; {self.released} were released: the broker had them, and no bridge confirmed them"
        if self.waiting:
            line += f"; {self.waiting} still wait in the outbox and are sent at the next start"
        return line


def _tally(streams: Sequence[AuditedStream], marks: Marks) -> _Tally:
    after = [(stream, marks.get((stream.origin, stream.epoch), 0)) for stream in streams]
    return _Tally(
        raised=sum((stream.raised or 0) - mark for stream, mark in after),
        missing=sum(_missing_after(stream, mark) for stream, mark in after),
        released=sum(stream.released for stream in streams),
        waiting=sum(stream.waiting for stream in streams),
        repeated=sum(stream.repeated for stream in streams),
    )


def _missing_after(stream: AuditedStream, mark: int) -> int:
    return sum(max(0, last - max(first, mark + 1) + 1) for first, last in stream.missing_ranges)
