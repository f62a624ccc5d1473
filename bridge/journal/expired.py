"""What retention has deleted, so that an audit never calls it missing: ranges of sequences, by stream.

Written in the transaction that deletes. It stays small: what is deleted in order is one range, a stream keeps its last
few hundred, and streams that were silent longest are forgotten.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping

import msgspec

from bridge.sequences import SequenceSet

__all__ = ["EXPIRED_SCHEMA", "note_expired", "read_expired"]

EXPIRED_SCHEMA = """
CREATE TABLE IF NOT EXISTS expired (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    stream TEXT NOT NULL,
    origin TEXT NOT NULL,
    epoch TEXT NOT NULL,
    ranges TEXT NOT NULL,
    UNIQUE (stream, origin, epoch)
) STRICT;
"""
_STREAMS_MAX = 4_096
_RANGES_MAX = 256
"""Between two ranges lies what never came. Beyond so many the lowest are joined: the oldest losses are forgotten."""

Ranges = tuple[tuple[int, int], ...]
StreamKey = tuple[str, str, str]
"""Line of the contract, origin and epoch."""


def note_expired(db: sqlite3.Connection, identities: Iterable[tuple[str, str, str, int]]) -> None:
    """Write down what is deleted, within the transaction that deletes it.

    Args:
        db: in that transaction.
        identities: line of the contract, origin, epoch and sequence of each row.
    """
    sequences: dict[StreamKey, list[int]] = {}
    for stream, origin, epoch, seq in identities:
        sequences.setdefault((stream, origin, epoch), []).append(seq)
    for key, numbers in sequences.items():
        known = SequenceSet()
        for first, last in _ranges(db, key):
            known.fill(first, last)
        for seq in numbers:
            known.add(seq)
        # Replaced, not updated: the newest ids are then those of the streams that were heard last.
        db.execute(
            "INSERT OR REPLACE INTO expired (stream, origin, epoch, ranges) VALUES (?,?,?,?)",
            (*key, msgspec.json.encode(_bounded(known)).decode()),
        )
    db.execute("DELETE FROM expired WHERE id NOT IN (SELECT id FROM expired ORDER BY id DESC LIMIT ?)", (_STREAMS_MAX,))


def _ranges(db: sqlite3.Connection, key: StreamKey) -> Ranges:
    row = db.execute("SELECT ranges FROM expired WHERE stream = ? AND origin = ? AND epoch = ?", key).fetchone()
    return msgspec.json.decode(row[0], type=Ranges) if row else ()


def _bounded(numbers: SequenceSet) -> list[tuple[int, int]]:
    ranges = numbers.ranges()
    excess = len(ranges) - _RANGES_MAX
    return ranges if excess <= 0 else [(ranges[0][0], ranges[excess][1]), *ranges[excess + 1 :]]


def read_expired(db: sqlite3.Connection) -> Mapping[StreamKey, Ranges]:
    """What was deleted, as ranges with first and last included, by line of the contract, origin and epoch."""
    rows = db.execute("SELECT stream, origin, epoch, ranges FROM expired")
    return {(stream, origin, epoch): msgspec.json.decode(text, type=Ranges) for stream, origin, epoch, text in rows}
