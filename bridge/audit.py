"""The proof: what every origin has raised, held against what the sink has.

An event's identity carries a sequence without gaps: what the sink lacks can be counted, and what it has twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bridge.sequences import SequenceSet
from broker.outbox import Backlog

__all__ = ["Audit", "StreamAudit", "audit_streams"]

COUNTS = ("raised", "expected", "present", "quarantined", "waiting", "missing", "repeated")

Identity = tuple[str, str, int]
"""Origin, epoch and sequence of an event."""


@dataclass(frozen=True, slots=True)
class StreamAudit:
    """What is known of one origin's escalations of one epoch.

    Attributes:
        raised: how many its outbox says there were; None when the outbox is not on this machine.
        expected: sequences from 1 to this one must be somewhere.
        present: how many different ones the sink has.
        quarantined: how many the sink will never take, and the bridge has put aside.
        waiting: how many are still in the outbox and in neither.
        missing: ranges, first and last included, of those that are nowhere.
        repeated: how many the sink has beyond one of each.
    """

    origin: str
    epoch: str
    raised: int | None
    expected: int
    present: int
    quarantined: int
    waiting: int
    missing: tuple[tuple[int, int], ...]
    repeated: int

    @property
    def missing_count(self) -> int:
        """How many are nowhere."""
        return sum(last - first + 1 for first, last in self.missing)


def audit_streams(
    identities: Iterable[Identity],
    backlogs: Mapping[tuple[str, str], Backlog] | None = None,
    quarantined: Iterable[Identity] = (),
) -> list[StreamAudit]:
    """Hold what a sink has against what was raised.

    Args:
        identities: of everything in the sink, in any order, repeats included.
        backlogs: outboxes by origin and epoch, read before the sink: what is stored in between then counts as present.
        quarantined: of everything that a bridge has put aside for good.

    Returns:
        One line an origin and epoch, sorted.
    """
    seen = {stream: _Seen(backlog) for stream, backlog in (backlogs or {}).items()}
    for origin, epoch, seq in identities:
        stream = seen.setdefault((origin, epoch), _Seen())
        if stream.numbers.add(seq):
            stream.present += 1
        else:
            stream.repeated += 1
    for origin, epoch, seq in quarantined:
        stream = seen.setdefault((origin, epoch), _Seen())
        stream.quarantined += stream.numbers.add(seq)
    return [seen[key].audited(*key) for key in sorted(seen)]


@dataclass(slots=True)
class _Seen:
    backlog: Backlog | None = None
    numbers: SequenceSet = field(default_factory=SequenceSet)
    present: int = 0
    quarantined: int = 0
    repeated: int = 0

    def audited(self, origin: str, epoch: str) -> StreamAudit:
        raised = self.backlog.last_seq if self.backlog else None
        waiting = sum(self.numbers.add(seq) for seq in self.backlog.waiting) if self.backlog else 0
        expected = max(self.numbers.highest, raised or 0)
        return StreamAudit(
            origin=origin,
            epoch=epoch,
            raised=raised,
            expected=expected,
            present=self.present,
            quarantined=self.quarantined,
            waiting=waiting,
            missing=tuple(self.numbers.missing(expected)),
            repeated=self.repeated,
        )


@dataclass(frozen=True, slots=True)
class Audit:
    """What `vigil audit` found.

    Attributes:
        sink: where it looked.
        streams: one line an origin and epoch.
        foreign: records of the sink that are no escalations.
    """

    sink: str
    streams: tuple[StreamAudit, ...]
    foreign: int = 0

    def as_dict(self) -> dict[str, Any]:
        """As JSON takes it: the sums, and every stream."""
        streams = [
            {**asdict(stream), "missing": stream.missing_count, "missing_ranges": stream.missing}
            for stream in self.streams
        ]
        sums = {name: sum(stream[name] or 0 for stream in streams) for name in COUNTS}
        return {"sink": self.sink, **sums, "foreign": self.foreign, "streams": streams}

    def told(self) -> str:
        """For a person: a table, what is missing, and one line that sums up."""
        content = self.as_dict()
        lines = [self.sink, *_table(("origin", "epoch", *COUNTS), content["streams"])]
        lines += [
            f"missing of {stream.origin} {stream.epoch}: {_ranges(stream.missing)}"
            for stream in self.streams
            if stream.missing
        ]
        if self.foreign:
            lines.append(f"{self.foreign} records without an event id were left out")
        aside = f"quarantined {content['quarantined']}, " if content["quarantined"] else ""
        lines.append(
            f"raised {content['expected']}, stored {content['present']}, {aside}waiting {content['waiting']}, "
            f"missing {content['missing']}, repeated {content['repeated']}"
        )
        return "\n".join(lines)


def _table(columns: Sequence[str], streams: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [list(columns)]
    rows += [["?" if stream[column] is None else str(stream[column]) for column in columns] for stream in streams]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    return ["  ".join(["", *(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))]) for row in rows]


def _ranges(ranges: Iterable[tuple[int, int]]) -> str:
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
