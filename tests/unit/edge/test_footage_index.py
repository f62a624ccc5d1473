"""The index, the ring and the damaged file; no GStreamer."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from config.cameras import RecordingSettings
from config.errors import PermanentError
from edge.footage.index import ClipJob, ClipReason, FootageIndex, read_protections
from edge.footage.layout import FootageFolder, Segment, SegmentName
from edge.footage.mp4 import read_extent
from edge.footage.ring import FootageRing
from edge.footage.segments import repair_camera

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


def _box(kind: bytes, *content: bytes) -> bytes:
    body = b"".join(content)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def film(seconds: int) -> bytes:
    """The least that is an MP4: one track, a picture a second."""
    header = _box(b"mdhd", struct.pack(">IIIII", 0, 0, 0, 1000, seconds * 1000))
    times = _box(b"stts", struct.pack(">IIII", 0, 1, seconds, 1000))
    media = _box(b"mdia", header, _box(b"minf", _box(b"stbl", times)))
    return _box(b"ftyp", b"isom") + _box(b"mdat", bytes(100)) + _box(b"moov", _box(b"trak", media))


@dataclass(frozen=True, slots=True)
class Shelf:
    """A folder of footage and its index."""

    folder: FootageFolder
    index: FootageIndex

    def put(self, age_h: float, *, camera: str = "yard", size_bytes: int = 1000) -> Segment:
        name = SegmentName.new(camera, NOW - HOUR * age_h)
        path = self.folder.path_of(name, closed=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(film(300))
        segment = Segment(name, path, 300.0, size_bytes)
        self.index.add_segment(segment)
        return segment

    def left(self, camera: str = "yard") -> set[str]:
        files = {name.id for name, _ in self.folder.files(camera, closed=True)}
        assert files == self.index.segment_ids(camera)
        return files


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    folder = FootageFolder(tmp_path / "footage")
    index = FootageIndex(folder)
    yield Shelf(folder, index)
    index.close()


def _trim(shelf: Shelf, **settings: object) -> None:
    chosen = RecordingSettings.model_validate(settings)
    FootageRing(shelf.folder, shelf.index, disk_free_min_bytes=0).trim("yard", chosen, NOW)


def test_less_is_kept_when_somebody_asks_for_it(shelf: Shelf) -> None:
    shelf.put(3)
    kept = shelf.put(1)
    ring = FootageRing(shelf.folder, shelf.index, disk_free_min_bytes=0)
    assert ring.keep_less("yard", 2.0, NOW) == 1
    assert shelf.left() == {kept.name.id}


def test_what_is_older_than_its_hours_goes(shelf: Shelf) -> None:
    shelf.put(30)
    kept = shelf.put(23)
    _trim(shelf, keep_hours=24)
    assert shelf.left() == {kept.name.id}


def test_what_belongs_to_an_event_stays_longer_but_not_for_ever(shelf: Shelf) -> None:
    event, other = shelf.put(30), shelf.put(31)
    shelf.index.protect("yard", "m1", event.starts_at, event.ends_at, NOW + HOUR)
    shelf.index.protect("yard", "m2", other.starts_at, other.ends_at, NOW - HOUR)
    _trim(shelf, keep_hours=24)
    assert shelf.left() == {event.name.id}
    assert read_protections(shelf.folder, NOW) == {"yard": [(event.starts_at, event.ends_at)]}


def test_more_bytes_than_allowed_cost_the_oldest_and_what_is_protected_last(shelf: Shelf) -> None:
    oldest, _, _, newest = (shelf.put(age, size_bytes=400_000) for age in (5, 4, 3, 2))
    shelf.index.protect("yard", "m1", oldest.starts_at, oldest.ends_at, NOW + HOUR)
    _trim(shelf, keep_bytes=1_000_000)
    assert shelf.left() == {oldest.name.id, newest.name.id}


def test_a_full_disk_costs_the_oldest_of_all_cameras_and_then_recording(shelf: Shelf) -> None:
    shelf.put(5), shelf.put(4, camera="door")
    free = shutil.disk_usage(shelf.folder.root).free
    ring = FootageRing(shelf.folder, shelf.index, disk_free_min_bytes=free * 2)
    reason = ring.free_disk(NOW)
    assert reason is not None
    assert "disk_free_min_bytes" in reason
    assert (shelf.left(), shelf.left("door")) == (set(), set())
    assert FootageRing(shelf.folder, shelf.index, disk_free_min_bytes=0).free_disk(NOW) is None


def test_an_index_that_was_deleted_is_made_again_from_the_folder(shelf: Shelf) -> None:
    kept = [shelf.put(age) for age in (3, 2, 1)]
    kept[0].path.unlink()
    shelf.index.close()
    for path in shelf.folder.root.glob("index.db*"):
        path.unlink()
    index = FootageIndex(shelf.folder)
    repair_camera(shelf.folder, index, "yard")
    found = index.segments("yard", NOW - 10 * HOUR, NOW)
    assert [(one.name, one.duration_s, one.path) for one in found] == [(one.name, 300.0, one.path) for one in kept[1:]]
    index.close()


def test_a_damaged_index_is_set_aside_and_made_again(shelf: Shelf) -> None:
    kept = shelf.put(1)
    shelf.index.close()
    shelf.folder.index_file.write_bytes(b"no database at all, and long enough to be looked at" * 50)
    index = FootageIndex(shelf.folder)
    repair_camera(shelf.folder, index, "yard")
    assert index.segment_ids("yard") == {kept.name.id}
    assert shelf.folder.index_file.with_name("index.db.damaged").exists()
    index.close()


def test_a_file_without_a_picture_is_moved_aside(shelf: Shelf) -> None:
    name = SegmentName.new("yard", NOW)
    path = shelf.folder.path_of(name, closed=True)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\0\0\0\x20ftyp")
    repair_camera(shelf.folder, shelf.index, "yard")
    assert shelf.left() == set()
    assert [path.name for path in shelf.folder.unreadable.iterdir()] == [name.file_name(closed=True)]


# --- clips -----------------------------------------------------------------------------------------------------


def _job(reason: ClipReason, minutes: int, *, camera: str = "yard", due_m: int = 0) -> ClipJob:
    moment = NOW - timedelta(minutes=minutes)
    name = f"{camera}/{reason}-{minutes}"
    return ClipJob(name, camera, reason, name, moment, moment, NOW + timedelta(minutes=due_m))


def test_clips_go_by_kind_and_the_newest_of_a_kind_first(shelf: Shelf) -> None:
    wanted = [_job("escalation", 5), _job("escalation", 50), _job("motion", 1), _job("motion", 9), _job("request", 0)]
    for job in reversed(wanted):
        assert shelf.index.owe_clip(job)
    shelf.index.owe_clip(_job("escalation", 1, due_m=5))
    shelf.index.owe_clip(_job("escalation", 1, camera="private"))
    gone = []
    while (now := shelf.index.next_clip(["yard"], NOW)) is not None:
        gone.append(now)
        shelf.index.settle_clip(now.reference, NOW)
    assert gone == wanted
    assert shelf.index.clips_owed() == 2


def test_a_clip_is_owed_once_however_often_its_event_comes(shelf: Shelf) -> None:
    job = _job("escalation", 5)
    assert shelf.index.owe_clip(job)
    assert shelf.index.owe_clip(job)
    assert shelf.index.clips_owed() == 1
    shelf.index.settle_clip(job.reference, NOW)
    assert not shelf.index.owe_clip(job)
    assert shelf.index.clips_owed() == 0


def test_what_is_owed_survives_the_process(shelf: Shelf) -> None:
    shelf.index.owe_clip(_job("motion", 5))
    shelf.index.close()
    again = FootageIndex(shelf.folder)
    assert again.next_clip(["yard"], NOW) == _job("motion", 5)
    again.close()


# --- the boxes ---------------------------------------------------------------------------------------------------


def test_a_film_is_as_long_as_its_pictures(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(film(42) + b"\0\0\0\0mdat and what a crash left")
    extent = read_extent(path)
    assert (extent.duration_s, extent.whole_bytes) == (42.0, len(film(42)))


def test_no_bytes_at_all_break_the_reader(tmp_path: Path) -> None:
    path, whole = tmp_path / "film.mp4", film(3)
    for cut in range(0, len(whole), 3):
        path.write_bytes(whole[:cut] + b"\xff" * 9 + whole[cut + 9 :])
        with suppress(PermanentError):
            assert read_extent(path).whole_bytes <= path.stat().st_size
