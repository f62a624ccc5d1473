"""The proof: what every origin has raised, held against what the sink has.

The identity of an escalation or event carries a sequence without gaps: what the sink lacks can be counted, and what it
has twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bridge.sequences import SequenceSet
from bridge.sink import ESCALATIONS
from broker.outbox import Backlog

__all__ = ["Audit", "Identity", "StreamAudit", "audit_streams"]

COUNTS = ("raised", "expected", "present", "quarantined", "released", "expired", "waiting", "missing", "repeated")
_RARE = ("quarantined", "released", "expired")
"""Told only where there are some."""

Identity = tuple[str, str, str, int]
"""Line of the contract, origin, epoch and sequence of an escalation or event."""
StreamKey = tuple[str, str, str]
"""Line of the contract, origin and epoch."""
Ranges = Iterable[tuple[int, int]]
"""Of sequences, first and last included."""


@dataclass(frozen=True, slots=True)
class StreamAudit:
    """What is known of one origin's escalations, or events of one kind, of one epoch.

    Attributes:
        stream: the line of the contract, such as ``camera_escalation``.
        raised: how many its outbox says there were; None when the outbox is not on this machine.
        expected: sequences from 1 to this one must be somewhere.
        present: how many different ones the sink has.
        quarantined: how many the sink will never take, and the bridge has put aside.
        released: how many events the broker had and no bridge receipted for so long that their sender let them go.
        expired: how many the journal had and has deleted by its retention.
        waiting: how many are still in the outbox, or in a journal that Kafka has not got yet, and in none of these.
        missing: ranges, first and last included, of those that are nowhere.
        repeated: how many the sink has beyond one of each.
        written: how many its ledger topic says were written; 0 where it has none.
        unfound: how many of those are nowhere in it.
    """

    stream: str
    origin: str
    epoch: str
    raised: int | None
    expected: int
    present: int
    quarantined: int
    released: int
    expired: int
    waiting: int
    missing: tuple[tuple[int, int], ...]
    repeated: int
    written: int = 0
    unfound: int = 0

    @property
    def missing_count(self) -> int:
        """How many are nowhere."""
        return sum(last - first + 1 for first, last in self.missing)

    @property
    def kind(self) -> str:
        """Its stream as a person calls it: ``escalation``, ``motion``, ``track``."""
        return self.stream.removeprefix("camera_")

    @property
    def is_escalation(self) -> bool:
        """Whether it is of escalations, not of events."""
        return self.stream in _ESCALATION_NAMES


_ESCALATION_NAMES = frozenset(spec.name for spec in ESCALATIONS)


def audit_streams(
    identities: Iterable[Identity],
    backlogs: Mapping[StreamKey, Backlog] | None = None,
    quarantined: Iterable[Identity] = (),
    written: Iterable[Identity] = (),
    *,
    undrained: Mapping[StreamKey, Ranges] | None = None,
    expired: Mapping[StreamKey, Ranges] | None = None,
) -> list[StreamAudit]:
    """Hold what a sink has against what was raised.

    Args:
        identities: of everything in the sink, in any order, repeats included.
        backlogs: outboxes by line of the contract, origin and epoch, read before the sink: what is stored in between
            then counts as present.
        quarantined: of everything that a bridge has put aside for good.
        written: of everything that the sink says of itself it has or has put aside.
        undrained: what is in a journal and is yet to go into the sink, read before the sink.
        expired: what a journal's retention has deleted.

    Returns:
        One line a stream, origin and epoch, sorted.
    """
    seen = {key: _Seen(backlog) for key, backlog in (backlogs or {}).items()}
    for *key, seq in identities:
        seen.setdefault((key[0], key[1], key[2]), _Seen()).store(seq)
    for *key, seq in quarantined:
        seen.setdefault((key[0], key[1], key[2]), _Seen()).put_aside(seq)
    for *key, seq in written:
        seen.setdefault((key[0], key[1], key[2]), _Seen()).hold_against(seq)
    for stream, ranges in (undrained or {}).items():
        seen.setdefault(stream, _Seen()).await_drain(ranges)
    for stream, ranges in (expired or {}).items():
        seen.setdefault(stream, _Seen()).expire(ranges)
    return [seen[key].audited(*key) for key in sorted(seen)]


@dataclass(slots=True)
class _Seen:
    backlog: Backlog | None = None
    numbers: SequenceSet = field(default_factory=SequenceSet)
    present: int = 0
    quarantined: int = 0
    repeated: int = 0
    written: int = 0
    unfound: int = 0
    waiting: int = 0
    expired: int = 0

    def store(self, seq: int) -> None:
        if self.numbers.add(seq):
            self.present += 1
        else:
            self.repeated += 1

    def put_aside(self, seq: int) -> None:
        self.quarantined += self.numbers.add(seq)

    def hold_against(self, seq: int) -> None:
        self.written += 1
        self.unfound += seq not in self.numbers

    def await_drain(self, ranges: Ranges) -> None:
        self.waiting += sum(self.numbers.fill(first, last) for first, last in ranges)

    def expire(self, ranges: Ranges) -> None:
        self.expired += sum(self.numbers.fill(first, last) for first, last in ranges)

    def audited(self, stream: str, origin: str, epoch: str) -> StreamAudit:
        raised, waiting, released = None, self.waiting, 0
        if self.backlog is not None:
            raised = self.backlog.last_seq
            waiting += sum(self.numbers.add(seq) for seq in self.backlog.waiting)
            released = sum(self.numbers.fill(first, last) for first, last in self.backlog.released)
        expected = max(self.numbers.highest, raised or 0)
        return StreamAudit(
            stream=stream,
            origin=origin,
            epoch=epoch,
            raised=raised,
            expected=expected,
            present=self.present,
            quarantined=self.quarantined,
            released=released,
            expired=self.expired,
            waiting=waiting,
            missing=tuple(self.numbers.missing(expected)),
            repeated=self.repeated,
            written=self.written,
            unfound=self.unfound,
        )


@dataclass(frozen=True, slots=True)
class Audit:
    """What `vigil audit` found.

    Attributes:
        sink: where it looked.
        streams: one line a stream, origin and epoch.
        foreign: records of the sink that are neither escalations nor events.
    """

    sink: str
    streams: tuple[StreamAudit, ...]
    foreign: int = 0

    def as_dict(self) -> dict[str, Any]:
        """As JSON takes it: the sums of escalations and of events, and every stream."""
        return {
            "sink": self.sink,
            "escalations": _sums([stream for stream in self.streams if stream.is_escalation]),
            "events": _sums([stream for stream in self.streams if not stream.is_escalation]),
            "foreign": self.foreign,
            "ledger": {name: sum(getattr(stream, name) for stream in self.streams) for name in ("written", "unfound")},
            "streams": [{**_counts(stream), "missing_ranges": stream.missing} for stream in self.streams],
        }

    def told(self) -> str:
        """For a person: a table, what is missing, and a line each that sums up."""
        content = self.as_dict()
        rows = [
            {**counts, "stream": stream.kind} for counts, stream in zip(content["streams"], self.streams, strict=True)
        ]
        shown = [name for name in COUNTS if name not in _RARE or any(row[name] for row in rows)]
        lines = [self.sink, *_table(("stream", "origin", "epoch", *shown), rows)]
        lines += [
            f"missing of {stream.kind} {stream.origin} {stream.epoch}: {_ranges(stream.missing)}"
            for stream in self.streams
            if stream.missing
        ]
        ledger = content["ledger"]
        if ledger["written"]:
            lines.append(f"ledger: {ledger['written']} written, {ledger['unfound']} of them nowhere to be found")
        if self.foreign:
            lines.append(f"{self.foreign} records without a known type and id were left out")
        lines += [_summary(kind, content[kind]) for kind in ("events", "escalations")]
        return "\n".join(lines)


def _counts(stream: StreamAudit) -> dict[str, Any]:
    return {**asdict(stream), "missing": stream.missing_count}


def _sums(streams: Sequence[StreamAudit]) -> dict[str, int]:
    counted = [_counts(stream) for stream in streams]
    return {name: sum(counts[name] or 0 for counts in counted) for name in COUNTS}


def _summary(kind: str, sums: Mapping[str, int]) -> str:
    aside = "".join(f"{name} {sums[name]}, " for name in _RARE if sums[name])
    return (
        f"{kind}: raised {sums['expected']}, stored {sums['present']}, {aside}waiting {sums['waiting']}, "
        f"missing {sums['missing']}, repeated {sums['repeated']}"
    )


def _table(columns: Sequence[str], streams: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [list(columns)]
    rows += [["?" if stream[column] is None else str(stream[column]) for column in columns] for stream in streams]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    return ["  ".join(["", *(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))]) for row in rows]


def _ranges(ranges: Iterable[tuple[int, int]]) -> str:
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
