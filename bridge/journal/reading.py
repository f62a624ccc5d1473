"""Questions to the journal, also while a bridge writes it.

Every question is short. A read that lasts keeps SQLite from emptying its write-ahead log, so what is long (an export)
goes page by page: each page begins where the last one ended, at a time and a row, which an index finds at once.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridge._sqlite import open_read_only, translated
from bridge.journal.expired import Ranges, StreamKey, read_expired
from bridge.journal.filters import EscalationFilter, EventFilter, Filter
from bridge.journal.schema import AT, VERSION, WHAT
from bridge.sequences import SequenceSet
from bridge.sink import Table
from broker.topics import CAMERA_ESCALATION
from config import PermanentError

__all__ = ["Entry", "EventEntry", "JournalReader"]

_PAGE_BYTES = 16_000_000
_LISTED: Mapping[Table, str] = {
    "escalation": (
        "id, event_id, origin, epoch, seq, site, camera, rule, kind, severity, summary, label, zones, score, "
        "captured_at, raised_at, stored_at, drill"
    ),
    "event": "id, event_id, stream, origin, epoch, seq, site, camera, type, label, zones, at, stored_at, payload",
}
_STREAM: Mapping[Table, str] = {"escalation": f"'{CAMERA_ESCALATION.name}'", "event": "stream"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One escalation in the journal, without its payload.

    Attributes:
        id: its place in the journal.
        event_id: ``{origin}:{epoch}:{seq}``.
        captured_at: RFC 3339 in UTC.
        raised_at: RFC 3339 in UTC, by the clock of whoever raised it.
        stored_at: RFC 3339 in UTC, by the bridge's clock.
    """

    id: int
    event_id: str
    origin: str
    epoch: str
    seq: int
    site: str
    camera: str
    rule: str
    kind: str
    severity: str
    summary: str
    label: str
    zones: tuple[str, ...]
    score: float
    captured_at: str
    raised_at: str
    stored_at: str
    drill: bool


@dataclass(frozen=True, slots=True)
class EventEntry:
    """One event in the journal.

    Attributes:
        id: its place among the journal's events.
        event_id: ``{origin}:{epoch}:{seq}``.
        stream: its line of the contract, such as ``camera_motion``.
        type: ``start``, ``update`` or ``end``.
        at: RFC 3339 in UTC, by the clock of whoever published it.
        stored_at: RFC 3339 in UTC, by the bridge's clock.
        payload: the JSON as it came.
    """

    id: int
    event_id: str
    stream: str
    origin: str
    epoch: str
    seq: int
    site: str
    camera: str
    type: str
    label: str
    zones: tuple[str, ...]
    at: str
    stored_at: str
    payload: bytes


class JournalReader:
    """Questions to a journal, also while a bridge writes it.

    Args:
        path: the file.

    Raises:
        PermanentError: there is no such file, or it is no journal.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db = open_read_only(path, what=WHAT, version=VERSION)
        self._db.row_factory = sqlite3.Row

    def entries(
        self, wanted: EscalationFilter | None = None, *, before: int | None = None, limit: int = 100
    ) -> list[Entry]:
        """The newest escalations that match, oldest first.

        Args:
            wanted: which; None: all.
            before: only those that are older than this one: the page before the one that begins with it.
            limit: at most so many.

        Raises:
            PermanentError: there is no escalation `before`.
        """
        return [_entry(row) for row in self._newest(wanted or EscalationFilter(), before, limit)]

    def events(
        self, wanted: EventFilter | None = None, *, before: int | None = None, limit: int = 100
    ) -> list[EventEntry]:
        """The newest events that match, oldest first; see `entries`."""
        return [_event_entry(row) for row in self._newest(wanted or EventFilter(), before, limit)]

    def _newest(self, wanted: Filter, before: int | None, limit: int) -> list[sqlite3.Row]:
        at, conditions = AT[wanted.table], dict(wanted.conditions())
        values: list[str | int] = list(conditions.values())
        if before is not None:
            conditions[f"({at}, id) < (?, ?)"] = 0
            values += [self._time_of(wanted.table, before), before]
        query = f"SELECT {_LISTED[wanted.table]} FROM {wanted.table} {_where(conditions)} ORDER BY {at} DESC, id DESC"  # noqa: S608 - constants only
        return self._rows(f"{query} LIMIT ?", (*values, limit))[::-1]

    def _time_of(self, table: Table, place: int) -> str:
        rows = self._rows(f"SELECT {AT[table]} FROM {table} WHERE id = ?", (place,))  # noqa: S608 - constants only
        if not rows:
            raise PermanentError(f"{WHAT} {self._path} has no {table} {place} (any more): begin with the newest again")
        return str(rows[0][0])

    def entries_after(self, place: int, wanted: EscalationFilter | None = None, *, limit: int = 100) -> list[Entry]:
        """The next escalations that match, in the order in which they came.

        Args:
            place: the id after which to look; see `newest_place`.
            wanted: which; None: all.
            limit: at most so many.
        """
        return [_entry(row) for row in self._next(wanted or EscalationFilter(), place, limit)]

    def events_after(self, place: int, wanted: EventFilter | None = None, *, limit: int = 100) -> list[EventEntry]:
        """The next events that match, in the order in which they came; see `entries_after`."""
        return [_event_entry(row) for row in self._next(wanted or EventFilter(), place, limit)]

    def _next(self, wanted: Filter, place: int, limit: int) -> list[sqlite3.Row]:
        conditions = {"id > ?": place, **wanted.conditions()}
        query = (
            f"SELECT {_LISTED[wanted.table]} FROM {wanted.table} NOT INDEXED {_where(conditions)} ORDER BY id LIMIT ?"  # noqa: S608 - constants only
        )
        return self._rows(query, (*conditions.values(), limit))

    def newest_place(self, table: Table) -> int:
        """The highest id of a table; 0 when it is empty."""
        return int(self._rows(f"SELECT coalesce(max(id), 0) FROM {table}")[0][0])  # noqa: S608 - constants only

    def count(self, wanted: Filter) -> int:
        """How many match."""
        conditions = wanted.conditions()
        query = f"SELECT count(*) FROM {wanted.table} {_where(conditions)}"  # noqa: S608 - constants only
        return int(self._rows(query, tuple(conditions.values()))[0][0])

    def pages(self, wanted: Filter, *, rows_max: int = 1_000) -> Iterator[list[Mapping[str, Any]]]:
        """All that match now, with their payloads, the oldest first, some at a time.

        What retention deletes meanwhile is left out; what comes meanwhile is, too.
        """
        at, conditions = AT[wanted.table], dict(wanted.conditions())
        columns = _LISTED[wanted.table].removesuffix(", payload")
        conditions |= {"id <= ?": self.newest_place(wanted.table), f"({at}, id) > (?, ?)": 0}
        values = [*conditions.values()][:-1]
        query = f"SELECT {columns}, payload FROM {wanted.table} {_where(conditions)} ORDER BY {at}, id LIMIT ?"  # noqa: S608 - constants only
        place: tuple[str, int] = ("", 0)
        while page := self._page(query, (*values, *place, rows_max)):
            yield page
            place = (page[-1][at], page[-1]["id"])

    def _page(self, query: str, values: tuple[str | int, ...]) -> list[Mapping[str, Any]]:
        page: list[Mapping[str, Any]] = []
        size_bytes = 0
        with translated(WHAT, self._path):
            rows = self._db.execute(query, values)
            for row in rows:
                page.append(_told(row))
                size_bytes += len(row["payload"])
                if size_bytes >= _PAGE_BYTES:
                    break
            rows.close()
        return page

    def payload(self, place: int) -> bytes:
        """The JSON of one escalation as it came, pictures included.

        Raises:
            PermanentError: there is none; retention may have deleted it.
        """
        rows = self._rows("SELECT payload FROM escalation WHERE id = ?", (place,))
        if not rows:
            raise PermanentError(f"{WHAT} {self._path} has no escalation {place} (any more)")
        return bytes(rows[0][0])

    def identities(self) -> Iterator[tuple[str, str, str, int]]:
        """Line of the contract, origin, epoch and sequence of everything, in the order of arrival.

        Escalations come first, then events.
        """
        with translated(WHAT, self._path):
            for table, stream in _STREAM.items():
                query = f"SELECT {stream}, origin, epoch, seq FROM {table} ORDER BY id"  # noqa: S608 - constants only
                yield from map(tuple, self._db.execute(query))

    def undrained(self) -> Mapping[StreamKey, Ranges]:
        """What has not gone into Kafka yet: ranges of sequences by line of the contract, origin and epoch."""
        found: dict[StreamKey, SequenceSet] = {}
        with translated(WHAT, self._path):
            for table, stream in _STREAM.items():
                query = (
                    f"SELECT {stream}, origin, epoch, seq FROM {table} WHERE id > "  # noqa: S608 - constants only
                    f"coalesce((SELECT max(up_to) FROM drained WHERE kind = ? AND camera IN ('', {table}.camera)), 0)"
                )
                for *key, seq in self._db.execute(query, (table,)):
                    found.setdefault((key[0], key[1], key[2]), SequenceSet()).add(seq)
        return {key: tuple(numbers.ranges()) for key, numbers in found.items()}

    def expired(self) -> Mapping[StreamKey, Ranges]:
        """What retention has deleted: ranges of sequences by line of the contract, origin and epoch."""
        with translated(WHAT, self._path):
            return read_expired(self._db)

    def _rows(self, query: str, values: tuple[str | int, ...] = ()) -> list[sqlite3.Row]:
        with translated(WHAT, self._path):
            return self._db.execute(query, values).fetchall()

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def _where(conditions: Mapping[str, object]) -> str:
    return f"WHERE {' AND '.join(conditions)}" if conditions else ""


def _told(row: sqlite3.Row) -> dict[str, Any]:
    """A row as its reader wants it: zones are several, and a drill is one or is none."""
    told = dict(row)
    told["zones"] = tuple(zone for zone in told["zones"].split(",") if zone)
    if "drill" in told:
        told["drill"] = bool(told["drill"])
    return told


def _entry(row: sqlite3.Row) -> Entry:
    return Entry(**_told(row))


def _event_entry(row: sqlite3.Row) -> EventEntry:
    return EventEntry(**_told(row))
