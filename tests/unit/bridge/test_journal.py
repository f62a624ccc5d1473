from __future__ import annotations

import json
import resource
import sqlite3
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from bridge.journal import EscalationFilter, EventFilter, Journal, JournalReader
from bridge.sink import Record, StoredAt
from config.errors import PermanentError, TransientError
from tests.support.messages import AT
from tests.unit.bridge.records import event, record


class Reports:
    """What a sink said was durable."""

    def __init__(self) -> None:
        self.places: list[tuple[str, StoredAt]] = []

    def __call__(self, stored: Sequence[tuple[Record, StoredAt]]) -> None:
        self.places += [(item.event_id, place) for item, place in stored]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "journal.db"


@pytest.fixture
def reports() -> Reports:
    return Reports()


@pytest.fixture
def journal(path: Path, reports: Reports) -> Iterator[Journal]:
    made = Journal(path)
    made.open(reports)
    yield made
    made.close()


@pytest.fixture
def small_files() -> Iterator[None]:
    """Let no file of this process grow beyond 256 KiB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (256 * 1024, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def ids(path: Path) -> list[int]:
    reader = JournalReader(path)
    found = [seq for _, _, _, seq in reader.identities()]
    reader.close()
    return found


def test_what_is_reported_is_in_the_file(journal: Journal, path: Path, reports: Reports) -> None:
    sent = [record(1), record(2, camera="door", severity="critical", drill=True)]
    assert journal.write(sent) == 2
    assert [(event_id, place.location, place.repeated) for event_id, place in reports.places] == [
        ("node-1.detector:e1:1", "journal/escalation/1", False),
        ("node-1.detector:e1:2", "journal/escalation/2", False),
    ]
    reader = JournalReader(path)
    (first, second) = reader.entries()
    assert (first.event_id, first.camera, first.drill) == ("node-1.detector:e1:1", "yard", False)
    assert (second.severity, second.drill, second.raised_at) == ("critical", True, "2026-01-01T12:00:00.000000Z")
    assert reader.payload(second.id) == sent[1].payload
    reader.close()


def test_an_id_stored_twice_is_one_row(journal: Journal, path: Path, reports: Reports) -> None:
    journal.write([record(1), record(2)])
    journal.write([record(2), record(3), record(3)])
    assert ids(path) == [1, 2, 3]
    assert [place.repeated for _, place in reports.places] == [False, False, True, False, True]
    first, second, second_again, third, third_again = (place.location for _, place in reports.places)
    assert (second, third) == (second_again, third_again)
    assert len({first, second, third}) == 3


def test_another_message_under_the_same_id_is_kept_too(journal: Journal, path: Path, reports: Reports) -> None:
    journal.write([record(1, summary="one"), event(1, score=0.1)])
    journal.write([record(1, summary="other"), event(1, score=0.9), event(1, score=0.1)])
    assert [place.repeated for _, place in reports.places] == [False, False, False, False, True]
    assert {entry.summary for entry in JournalReader(path).entries()} == {"one", "other"}
    assert [json.loads(entry.payload)["score"] for entry in JournalReader(path).events()] == [0.1, 0.9]


def test_events_and_escalations_in_one_transaction(journal: Journal, path: Path, reports: Reports) -> None:
    sent = [event(1), record(1), event(1, stream="camera_track", origin="node-1.detector"), record(2), event(2)]
    assert journal.write(sent) == 5
    assert [(event_id, place.location) for event_id, place in reports.places] == [
        ("node-1.edge:m1:1", "journal/event/1"),
        ("node-1.detector:e1:1", "journal/escalation/1"),
        ("node-1.detector:m1:1", "journal/event/2"),
        ("node-1.detector:e1:2", "journal/escalation/2"),
        ("node-1.edge:m1:2", "journal/event/3"),
    ]
    reader = JournalReader(path)
    assert list(reader.identities()) == [
        ("camera_escalation", "node-1.detector", "e1", 1),
        ("camera_escalation", "node-1.detector", "e1", 2),
        ("camera_motion", "node-1.edge", "m1", 1),
        ("camera_track", "node-1.detector", "m1", 1),
        ("camera_motion", "node-1.edge", "m1", 2),
    ]
    reader.close()


def test_an_event_with_the_id_of_an_escalation_does_not_make_it_look_repeated(
    journal: Journal, path: Path, reports: Reports
) -> None:
    forged = event(1, origin="node-1.detector", epoch="e1")
    genuine = record(1)
    assert forged.event_id == genuine.event_id
    journal.write([forged])
    journal.write([forged, genuine])
    assert [place.repeated for _, place in reports.places] == [False, True, False]
    assert ids(path) == [1, 1]


def test_questions_about_events(journal: Journal, path: Path) -> None:
    for seq in range(1, 7):
        camera, stream = ("yard", "camera_motion") if seq % 2 else ("door", "camera_track")
        journal.write([event(seq, stream=stream, camera=camera, at=AT + timedelta(minutes=seq))])
    reader = JournalReader(path)
    assert [entry.seq for entry in reader.events()] == [1, 2, 3, 4, 5, 6]
    assert [entry.seq for entry in reader.events(limit=2)] == [5, 6]
    assert [entry.seq for entry in reader.events(EventFilter(camera="yard"), limit=2)] == [3, 5]
    assert [entry.seq for entry in reader.events(EventFilter(stream="camera_track"))] == [2, 4, 6]
    assert [entry.seq for entry in reader.events(EventFilter(since="2026-01-01T12:05:00.000000Z"))] == [5, 6]
    assert reader.entries() == []
    reader.close()


def test_gaps_are_known_to_the_next_process_and_none_is_invented(journal: Journal, path: Path) -> None:
    journal.write([event(seq) for seq in (5, 6, 9)])
    journal.write([event(seq) for seq in (6, 9)])
    assert journal.gaps() == {("camera_motion", "node-1.edge"): 2}
    journal.close()
    second = Journal(path)
    second.open(Reports())
    assert second.gaps() == {("camera_motion", "node-1.edge"): 2}
    second.write([event(seq) for seq in (9, 10, 7)])
    assert second.gaps() == {("camera_motion", "node-1.edge"): 1}
    second.write([event(8), record(4)])
    assert second.gaps() == {}
    second.close()


def test_what_the_disk_did_not_take_is_no_progress(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, path: Path
) -> None:
    monkeypatch.setattr("bridge._sqlite._BUSY_TIMEOUT_S", 0.0)
    journal.write([event(1)])
    journal.close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(TransientError):
        journal.write([event(3)])
    assert journal.gaps() == {}
    other.execute("ROLLBACK")
    other.close()
    journal.write([event(3)])
    assert journal.gaps() == {("camera_motion", "node-1.edge"): 1}


def test_a_journal_of_another_version_is_refused_and_left_alone(path: Path) -> None:
    path.parent.mkdir()
    older = sqlite3.connect(path)
    older.execute("CREATE TABLE escalation (id INTEGER)")
    older.close()
    before = path.read_bytes()
    with pytest.raises(PermanentError, match=r"of another version of Vigil.*move it away"):
        Journal(path).open(Reports())
    with pytest.raises(PermanentError, match="of another version of Vigil"):
        JournalReader(path)
    assert path.read_bytes()[100:] == before[100:]


def test_questions(journal: Journal, path: Path) -> None:
    for seq in range(1, 7):
        camera, rule = ("yard", "presence") if seq % 2 else ("door", "dwell")
        at = AT + timedelta(minutes=seq)
        journal.write([record(seq, camera=camera, rule=rule, severity="info" if seq < 4 else "critical", raised_at=at)])
    reader = JournalReader(path)
    assert [entry.seq for entry in reader.entries()] == [1, 2, 3, 4, 5, 6]
    assert [entry.seq for entry in reader.entries(limit=2)] == [5, 6]
    assert [entry.seq for entry in reader.entries(EscalationFilter(camera="yard"))] == [1, 3, 5]
    assert [entry.seq for entry in reader.entries(EscalationFilter(rule="dwell", severity="critical"))] == [4, 6]
    assert [entry.seq for entry in reader.entries(EscalationFilter(since="2026-01-01T12:05:00.000000Z"))] == [5, 6]
    reader.close()


def test_listing_does_not_read_the_pictures(journal: Journal, path: Path) -> None:
    journal.write([record(1)])
    plan = JournalReader(path)._db.execute(
        "EXPLAIN QUERY PLAN SELECT id, camera FROM escalation WHERE raised_at >= ? ORDER BY raised_at", ("2026",)
    )
    assert "escalation_raised" in str([tuple(row) for row in plan])


def test_a_full_disk_stores_nothing_and_then_everything(
    journal: Journal, path: Path, reports: Reports, request: pytest.FixtureRequest
) -> None:
    large = [record(seq, summary="x" * 4000) for seq in range(1, 101)]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    request.getfixturevalue("small_files")
    with pytest.raises(TransientError, match="free space"):
        journal.write(large)
    assert reports.places == []
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert journal.write(large) == 100
    assert ids(path) == list(range(1, 101))


def test_a_locked_file_is_not_fatal(journal: Journal, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge._sqlite._BUSY_TIMEOUT_S", 0.0)
    other = sqlite3.connect(path, isolation_level=None)
    journal.close()
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(TransientError, match="locked"):
        journal.write([record(1)])
    other.execute("ROLLBACK")
    other.close()
    assert journal.write([record(1)]) == 1


@pytest.mark.parametrize("content", [b"hello, I am a text file\n" * 100, b"SQLite format 3\x00" + b"\xff" * 4096])
def test_a_file_of_another_kind_is_left_alone(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(PermanentError, match="move it away"):
        Journal(path).open(Reports())
    assert path.read_bytes() == content


def test_damage_found_while_writing_says_the_cure(journal: Journal, path: Path) -> None:
    journal.write([record(seq, summary="x" * 3000) for seq in range(1, 50)])
    journal.close()
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xaa" * (len(content) - 4096)
    path.write_bytes(bytes(content))
    with pytest.raises(PermanentError, match="move it away"):
        journal.write([record(50)])


def test_a_file_that_is_moved_away_is_begun_anew(journal: Journal, path: Path) -> None:
    journal.write([record(1)])
    for part in path.parent.iterdir():
        part.rename(part.with_name(f"old-{part.name}"))
    journal.write([record(2)])
    assert ids(path) == [2]
    assert ids(path.with_name("old-journal.db")) == [1]


def test_a_folder_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PermanentError, match="cannot be made"):
        Journal(tmp_path / "file" / "journal.db").open(Reports())


def test_reading_what_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="no such file"):
        JournalReader(tmp_path / "journal.db")
    (tmp_path / "text").write_text("no journal" * 100)
    with pytest.raises(PermanentError, match="of another kind"):
        JournalReader(tmp_path / "text").entries()
