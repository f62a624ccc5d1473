"""How far each stream has come in a sink: the lowest and the highest sequence, and how many are there.

Kept in the sink's own database, in the transaction that stores what they count: a bridge that was killed finds gaps
where its predecessor left them, and no others. A gap that shrinks is a backlog behind live traffic; one that stays is
a loss, or events that their sender has released. `vigil audit` tells them apart.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bridge.sink import Record

__all__ = ["MARK_SCHEMA", "Mark", "Marks", "StreamKey"]

MARK_SCHEMA = """
CREATE TABLE IF NOT EXISTS mark (
    id INTEGER PRIMARY KEY,
    stream TEXT NOT NULL,
    origin TEXT NOT NULL,
    epoch TEXT NOT NULL,
    lowest INTEGER NOT NULL,
    highest INTEGER NOT NULL,
    present INTEGER NOT NULL,
    UNIQUE (stream, origin, epoch)
) STRICT;
"""
_COLUMNS = "stream, origin, epoch, lowest, highest, present"
_STREAMS_MAX = 1_024
"""A node may invent epochs as it likes; it may fill neither the memory with them nor the table."""

StreamKey = tuple[str, str, str]
"""Line of the contract, origin and epoch."""


@dataclass(frozen=True, slots=True)
class Mark:
    """How far one stream has come.

    Attributes:
        lowest: the lowest sequence that was ever stored.
        highest: the highest.
        present: how many were.
    """

    lowest: int
    highest: int
    present: int

    @property
    def gaps(self) -> int:
        """How many are not there between the lowest and the highest."""
        return max(0, self.highest - self.lowest + 1 - self.present)

    def joined(self, other: Mark) -> Mark:
        """Both together, of the same stream."""
        return Mark(min(self.lowest, other.lowest), max(self.highest, other.highest), self.present + other.present)


class Marks:
    """The marks of one sink, those of the last thousand streams.

    Concurrency: one thread at a time advances and accepts; `gaps` may be asked from any.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._marks: OrderedDict[StreamKey, Mark] = OrderedDict()

    def load(self, db: sqlite3.Connection) -> None:
        """Read what an earlier process left."""
        query = f"SELECT {_COLUMNS} FROM mark ORDER BY id DESC LIMIT ?"  # noqa: S608 - a constant
        rows = db.execute(query, (_STREAMS_MAX,)).fetchall()
        self.accept({(stream, origin, epoch): Mark(*numbers) for stream, origin, epoch, *numbers in reversed(rows)})

    def perhaps_stored(self, records: Iterable[Record]) -> list[Record]:
        """Those that may have been stored before: not above the highest of their stream."""
        with self._lock:
            if len(self._marks) >= _STREAMS_MAX:
                return list(records)
            return [record for record in records if record.seq <= self._highest(record)]

    def _highest(self, record: Record) -> int:
        mark = self._marks.get((record.stream, record.origin, record.epoch))
        return mark.highest if mark is not None else 0

    def advance(self, db: sqlite3.Connection, stored: Iterable[Record]) -> Mapping[StreamKey, Mark]:
        """Write down what was stored for the first time, within the transaction that stores it.

        Returns:
            What to accept once that transaction is committed.
        """
        sequences: dict[StreamKey, list[int]] = {}
        for record in stored:
            if record.seq:  # else it is unreadable, and has no id
                sequences.setdefault((record.stream, record.origin, record.epoch), []).append(record.seq)
        changed = {key: self._advanced(key, numbers) for key, numbers in sequences.items()}
        # Replaced, not updated: the newest ids are then those of the streams that were heard last.
        db.executemany(
            f"INSERT OR REPLACE INTO mark ({_COLUMNS}) VALUES (?,?,?,?,?,?)",  # noqa: S608 - a constant
            [(*key, mark.lowest, mark.highest, mark.present) for key, mark in changed.items()],
        )
        if len(self._marks.keys() | changed.keys()) > _STREAMS_MAX:
            kept = "SELECT id FROM mark ORDER BY id DESC LIMIT ?"
            db.execute(f"DELETE FROM mark WHERE id NOT IN ({kept})", (_STREAMS_MAX,))  # noqa: S608 - a constant
        return changed

    def _advanced(self, key: StreamKey, sequences: list[int]) -> Mark:
        mark = Mark(min(sequences), max(sequences), len(sequences))
        before = self._marks.get(key)
        return mark if before is None else mark.joined(before)

    def accept(self, changed: Mapping[StreamKey, Mark]) -> None:
        """Take over what is committed; the streams that were silent longest make room."""
        with self._lock:
            for key, mark in changed.items():
                self._marks[key] = mark
                self._marks.move_to_end(key)
            while len(self._marks) > _STREAMS_MAX:
                self._marks.popitem(last=False)

    def gaps(self) -> Counter[tuple[str, str]]:
        """How many sequences are not there, by line of the contract and origin; those without gaps are left out."""
        found = Counter[tuple[str, str]]()
        with self._lock:
            for (stream, origin, _), mark in self._marks.items():
                if mark.gaps:
                    found[stream, origin] += mark.gaps
        return found
