"""What there is, what is kept longer, and which clips are owed: one SQLite file a node.

Segments stand in it as a cache of the folder: only closed ones, and all of them again when the file is deleted. What
protects a segment, and the clips that are still to be delivered, are here only: after the loss of this file the
footage is there, kept for as long as unprotected footage is.

Nothing here waits for the disk: the write-ahead log is flushed when it is folded in, so a power cut may cost the last
changes, a killed process none. Source: https://sqlite.org/pragma.html#pragma_synchronous, NORMAL with WAL.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, cast

from config import databases
from config.errors import PermanentError
from config.log import get_logger
from edge.footage.layout import FootageFolder, Segment, SegmentName

__all__ = ["ClipJob", "ClipReason", "FootageIndex", "read_protections"]

ClipReason = Literal["escalation", "motion", "request"]

_APPLICATION_ID = 0x56474654
"""What makes a SQLite file an index of footage: "VGFT" in its header."""
_VERSION = 1
_BUSY_TIMEOUT_S = 10.0
_ORDER: tuple[ClipReason, ...] = ("escalation", "motion", "request")
"""Which clips go first."""

_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE segment (
    id TEXT PRIMARY KEY,
    camera TEXT NOT NULL,
    starts_at REAL NOT NULL,
    ends_at REAL NOT NULL,
    size_bytes INTEGER NOT NULL,
    path TEXT NOT NULL
) STRICT;
CREATE INDEX segment_time ON segment (camera, starts_at);
CREATE INDEX segment_age ON segment (starts_at);
CREATE TABLE protection (
    camera TEXT NOT NULL,
    about TEXT NOT NULL,
    starts_at REAL NOT NULL,
    ends_at REAL NOT NULL,
    until REAL NOT NULL,
    PRIMARY KEY (camera, about)
) STRICT, WITHOUT ROWID;
CREATE TABLE clip (
    reference TEXT PRIMARY KEY,
    camera TEXT NOT NULL,
    rank INTEGER NOT NULL,
    about TEXT NOT NULL,
    starts_at REAL NOT NULL,
    ends_at REAL NOT NULL,
    due_at REAL NOT NULL,
    drill INTEGER NOT NULL,
    done_at REAL
) STRICT, WITHOUT ROWID;
CREATE INDEX clip_owed ON clip (rank, ends_at) WHERE done_at IS NULL;
PRAGMA application_id={_APPLICATION_ID};
PRAGMA user_version={_VERSION};
COMMIT;
"""
_PROTECTED = """EXISTS (
    SELECT 1 FROM protection AS p
    WHERE p.camera = s.camera AND p.starts_at < s.ends_at AND p.ends_at > s.starts_at AND p.until > :now
)"""
_COLUMNS = "s.id, s.camera, s.starts_at, s.ends_at, s.size_bytes, s.path"
_CLIP_COLUMNS = "reference, camera, rank, about, starts_at, ends_at, due_at, drill"


@dataclass(frozen=True, slots=True)
class ClipJob:
    """A clip that is to be cut and delivered.

    Attributes:
        reference: its name below the place to which clips go.
        about: id of the escalation or movement, or the request's correlation id.
        due_at: when everything of it is on the disk.
    """

    reference: str
    camera: str
    reason: ClipReason
    about: str
    starts_at: datetime
    ends_at: datetime
    due_at: datetime
    drill: bool = False


class FootageIndex:
    """The index of a node's footage.

    Concurrency: every method may be called from any thread, and several processes may have it open.

    Args:
        folder: the footage.

    Raises:
        PermanentError: the file may not be used.
        TransientError: the disk is full or fails.
    """

    def __init__(self, folder: FootageFolder) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        try:
            self._db = self._open()
        except PermanentError as error:
            if not _is_damaged(error):
                raise
            self._move_away(error)
            self._db = self._open()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    # --- segments ----------------------------------------------------------------------------------------------

    def add_segment(self, segment: Segment) -> None:
        """List a closed segment."""
        with self._changing() as db:
            self._add(db, segment)

    def remove_segment(self, segment_id: str) -> None:
        """It is gone."""
        with self._changing() as db:
            db.execute("DELETE FROM segment WHERE id = ?", (segment_id,))

    def replace_segments(self, gone: Sequence[str], found: Sequence[Segment]) -> None:
        """Drop some from the list and add others, in one step."""
        with self._changing() as db:
            db.executemany("DELETE FROM segment WHERE id = ?", [(one,) for one in gone])
            for segment in found:
                self._add(db, segment)

    def segment_ids(self, camera: str) -> set[str]:
        """Which segments of a camera are listed."""
        with self._reading() as db:
            return {row[0] for row in db.execute("SELECT id FROM segment WHERE camera = ?", (camera,))}

    def segments(self, camera: str, start: datetime, end: datetime) -> list[Segment]:
        """Closed segments with a picture between two moments, in order of time."""
        where = "s.camera = ? AND s.starts_at < ? AND s.ends_at > ?"
        with self._reading() as db:
            query = f"SELECT {_COLUMNS} FROM segment AS s WHERE {where} ORDER BY s.starts_at"  # noqa: S608 - constants
            rows = db.execute(query, (camera, end.timestamp(), start.timestamp())).fetchall()
        return [self._segment(row) for row in rows]

    def size_bytes(self, camera: str) -> int:
        """What a camera's closed segments take."""
        with self._reading() as db:
            query = "SELECT coalesce(sum(size_bytes), 0) FROM segment WHERE camera = ?"
            return int(db.execute(query, (camera,)).fetchone()[0])

    def expired(self, camera: str, before: datetime, now: datetime) -> list[Segment]:
        """Segments of a camera that end before a moment and that nothing protects, the oldest first."""
        where = f"s.camera = :camera AND s.ends_at < :before AND NOT {_PROTECTED}"
        bound = {"camera": camera, "before": before.timestamp(), "now": now.timestamp()}
        with self._reading() as db:
            query = f"SELECT {_COLUMNS} FROM segment AS s WHERE {where} ORDER BY s.starts_at"  # noqa: S608 - constants
            return [self._segment(row) for row in db.execute(query, bound)]

    def spare(self, camera: str | None, now: datetime) -> Iterator[tuple[Segment, bool]]:
        """What may go when room is needed: unprotected segments, then protected ones, each the oldest first.

        Args:
            camera: of this camera; None for all.
            now: the moment.

        Yields:
            A segment, and whether it is protected.
        """
        where = "(:camera IS NULL OR s.camera = :camera) ORDER BY kept, s.starts_at"
        bound = {"camera": camera, "now": now.timestamp()}
        with self._reading() as db:
            query = f"SELECT {_COLUMNS}, {_PROTECTED} AS kept FROM segment AS s WHERE {where}"  # noqa: S608 - constants
            rows = db.execute(query, bound).fetchall()
        for row in rows:
            yield self._segment(row[:6]), bool(row[6])

    def _add(self, db: sqlite3.Connection, segment: Segment) -> None:
        path = str(segment.path.relative_to(self._folder.root))
        times = (segment.starts_at.timestamp(), segment.ends_at.timestamp())
        row = (segment.name.id, segment.name.camera, *times, segment.size_bytes, path)
        db.execute("INSERT OR REPLACE INTO segment VALUES (?, ?, ?, ?, ?, ?)", row)

    def _segment(self, row: Sequence[object]) -> Segment:
        identity, camera, starts_at, ends_at, size_bytes, path = cast("tuple[str, str, float, float, int, str]", row)
        name = SegmentName(camera, datetime.fromtimestamp(starts_at, UTC), identity)
        return Segment(name, self._folder.root / path, ends_at - starts_at, size_bytes)

    # --- what is kept longer ---------------------------------------------------------------------------------

    def protect(self, camera: str, about: str, start: datetime, end: datetime, until: datetime) -> None:
        """Keep what was recorded between two moments until a third."""
        row = (camera, about, start.timestamp(), end.timestamp(), until.timestamp())
        with self._changing() as db:
            db.execute("INSERT OR REPLACE INTO protection VALUES (?, ?, ?, ?, ?)", row)

    def forget_past(self, now: datetime, done_before: datetime) -> None:
        """Drop protections that have ended, and the memory of clips that were delivered before a moment."""
        with self._changing() as db:
            db.execute("DELETE FROM protection WHERE until <= ?", (now.timestamp(),))
            db.execute("DELETE FROM clip WHERE done_at < ?", (done_before.timestamp(),))

    # --- clips ---------------------------------------------------------------------------------------------------

    def owe_clip(self, job: ClipJob) -> bool:
        """Note that a clip is to be delivered; one that is owed already gets the new times.

        Returns:
            False when it was delivered before.
        """
        row = (job.reference, job.camera, _ORDER.index(job.reason), job.about)
        times = (job.starts_at.timestamp(), job.ends_at.timestamp(), job.due_at.timestamp())
        with self._changing() as db:
            changed = db.execute(
                "INSERT INTO clip VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL) ON CONFLICT (reference) DO UPDATE "
                "SET ends_at = excluded.ends_at, due_at = excluded.due_at WHERE done_at IS NULL",
                (*row, *times, int(job.drill)),
            )
            return changed.rowcount > 0

    def next_clip(self, cameras: Sequence[str], now: datetime) -> ClipJob | None:
        """The clip to deliver now: of escalations first, then of movements, then on request; the newest of its kind.

        Args:
            cameras: those whose clips may go.
            now: the moment; what is due later waits.
        """
        marks = ",".join("?" * len(cameras))
        query = (
            f"SELECT {_CLIP_COLUMNS} FROM clip WHERE done_at IS NULL AND due_at <= ? AND camera IN ({marks}) "  # noqa: S608 - constants
            "ORDER BY rank, ends_at DESC LIMIT 1"
        )
        with self._reading() as db:
            row = db.execute(query, (now.timestamp(), *cameras)).fetchone()
        return None if row is None else _job(row)

    def settle_clip(self, reference: str, now: datetime) -> None:
        """It was delivered, or never can be; it is remembered, since who raised it may say so again."""
        with self._changing() as db:
            db.execute("UPDATE clip SET done_at = ? WHERE reference = ?", (now.timestamp(), reference))

    def clips_owed(self) -> int:
        """How many clips are to be delivered."""
        with self._reading() as db:
            return int(db.execute("SELECT count(*) FROM clip WHERE done_at IS NULL").fetchone()[0])

    # --- the file --------------------------------------------------------------------------------------------

    def _open(self) -> sqlite3.Connection:
        path = self._folder.index_file
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PermanentError(
                f"footage folder {path.parent} cannot be made: {error.strerror}; name another in edge.footage.folder"
            ) from error
        with _translated(path):
            db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=_BUSY_TIMEOUT_S)
            try:
                _prepare(db, path)
            except (sqlite3.Error, PermanentError):
                db.close()
                raise
        return db

    def _move_away(self, error: PermanentError) -> None:
        """Set a damaged index aside; what it listed is found again in the folder."""
        get_logger().warning("footage.index_damaged", error=str(error))
        path = self._folder.index_file
        path.replace(path.with_name(f"{path.name}.damaged"))
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        with self._lock, _translated(self._folder.index_file), self._db:  # which commits, or rolls back
            self._db.execute("BEGIN IMMEDIATE")
            yield self._db

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock, _translated(self._folder.index_file):
            yield self._db


def read_protections(folder: FootageFolder, now: datetime) -> dict[str, list[tuple[datetime, datetime]]]:
    """Times that are kept longer, by camera, also while the node records; none where there is no index.

    Raises:
        PermanentError: the index is damaged, or may not be read.
        TransientError: the disk fails.
    """
    path = folder.index_file
    found: dict[str, list[tuple[datetime, datetime]]] = {}
    if not path.exists():
        return found
    with _translated(path), closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
        rows = db.execute("SELECT camera, starts_at, ends_at FROM protection WHERE until > ?", (now.timestamp(),))
        for camera, start, end in rows:
            kept = (datetime.fromtimestamp(start, UTC), datetime.fromtimestamp(end, UTC))
            found.setdefault(camera, []).append(kept)
    return found


def _translated(path: Path) -> AbstractContextManager[None]:
    cure = "delete it, it is made anew from the folder"
    return databases.translated("index of footage", path, damaged_cure=cure)


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    (kind,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=NORMAL")
    if (kind, version) == (_APPLICATION_ID, _VERSION):
        return
    if db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
        raise PermanentError(f"{path} is not this version's index of footage: move it away, it is made anew")
    db.executescript(_SCHEMA)


def _is_damaged(error: PermanentError) -> bool:
    code = getattr(error.__cause__, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _job(row: Sequence[object]) -> ClipJob:
    reference, camera, rank, about, starts_at, ends_at, due_at, drill = cast(
        "tuple[str, str, int, str, float, float, float, int]", row
    )
    times = [datetime.fromtimestamp(moment, UTC) for moment in (starts_at, ends_at, due_at)]
    return ClipJob(reference, camera, _ORDER[rank], about, times[0], times[1], times[2], drill=bool(drill))
