"""The journal's file: its tables, and which column says what.

`payload` is the last column: SQLite reads a row's pages in order, so a listing never touches the pictures. Each index
ends in the time, so that the newest rows of a camera or a rule are found without sorting.

Freed pages go back to the system (`auto_vacuum=INCREMENTAL`): that has to be said before the first table is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bridge._sqlite import Database
from bridge.journal.expired import EXPIRED_SCHEMA
from bridge.marks import MARK_SCHEMA
from bridge.sink import Table

__all__ = ["AT", "COMMON", "DETAILS", "VERSION", "WHAT", "journal_database"]

WHAT = "the journal"
VERSION = 3
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS escalation (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id TEXT NOT NULL,
    digest BLOB NOT NULL,
    origin TEXT NOT NULL,
    epoch TEXT NOT NULL,
    seq INTEGER NOT NULL,
    site TEXT NOT NULL,
    camera TEXT NOT NULL,
    rule TEXT NOT NULL,
    kind TEXT NOT NULL,
    severity TEXT NOT NULL,
    summary TEXT NOT NULL,
    label TEXT NOT NULL,
    zones TEXT NOT NULL,
    score REAL NOT NULL,
    captured_at TEXT NOT NULL,
    raised_at TEXT NOT NULL,
    stored_at TEXT NOT NULL,
    drill INTEGER NOT NULL,
    payload BLOB NOT NULL,
    UNIQUE (event_id, digest)
) STRICT;
CREATE INDEX IF NOT EXISTS escalation_raised ON escalation (raised_at);
CREATE INDEX IF NOT EXISTS escalation_camera ON escalation (camera, raised_at);
CREATE INDEX IF NOT EXISTS escalation_rule ON escalation (rule, raised_at);
CREATE INDEX IF NOT EXISTS escalation_severity ON escalation (severity, raised_at);
CREATE TABLE IF NOT EXISTS event (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id TEXT NOT NULL,
    digest BLOB NOT NULL,
    stream TEXT NOT NULL,
    origin TEXT NOT NULL,
    epoch TEXT NOT NULL,
    seq INTEGER NOT NULL,
    site TEXT NOT NULL,
    camera TEXT NOT NULL,
    type TEXT NOT NULL,
    label TEXT NOT NULL,
    zones TEXT NOT NULL,
    at TEXT NOT NULL,
    stored_at TEXT NOT NULL,
    payload BLOB NOT NULL,
    UNIQUE (event_id, digest)
) STRICT;
CREATE INDEX IF NOT EXISTS event_at ON event (at);
CREATE INDEX IF NOT EXISTS event_camera ON event (camera, at);
CREATE INDEX IF NOT EXISTS event_stream ON event (stream, at);
CREATE TABLE IF NOT EXISTS drained (
    kind TEXT NOT NULL,
    camera TEXT NOT NULL,
    up_to INTEGER NOT NULL,
    PRIMARY KEY (kind, camera)
) STRICT;
{MARK_SCHEMA}
{EXPIRED_SCHEMA}
"""
COMMON = ("event_id", "digest", "origin", "epoch", "seq", "site", "camera")
"""Columns of both tables."""
DETAILS: Mapping[Table, tuple[str, ...]] = {
    "escalation": ("rule", "kind", "severity", "summary", "label", "zones", "score", "captured_at", "drill"),
    "event": ("stream", "type", "label", "zones"),
}
"""Columns that come from a record's details."""
AT: Mapping[Table, str] = {"escalation": "raised_at", "event": "at"}
"""The column with the time at which it happened."""


def journal_database(path: Path) -> Database:
    """The journal's file, for this process to write."""
    return Database(path, _SCHEMA, what=WHAT, version=VERSION, gives_space_back=True)
