from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import msgspec
import pytest

from bridge.evidence import EvidenceSink
from bridge.sink import Record
from broker.messages import Escalation, Evidence, decode_json
from config.errors import TransientError
from config.object_store import ObjectStore, open_store
from tests.support.bucket import running_bucket
from tests.support.waiting import wait_until
from tests.unit.bridge.records import FakeSink, event, record

INLINE_BYTES_MAX = 1_000


def picture(seed: int, size: int) -> Evidence:
    content = random.Random(seed).randbytes(size)
    return Evidence(
        content_type="image/jpeg", sha256=hashlib.sha256(content).hexdigest(), width=640, height=360, data=content
    )


def large(seq: int, camera: str = "yard") -> Record:
    return record(seq, camera=camera, evidence=(picture(seq, 900), picture(-seq, 700)))


class Shelf:
    """A store that takes nothing while it is shut."""

    def __init__(self) -> None:
        self.is_open = threading.Event()
        self.is_open.set()
        self.tries = 0
        self.objects: dict[str, bytes] = {}

    def put(self, name: str, chunks: Iterable[bytes], *, size_bytes: int, content_type: str) -> str:
        self.tries += 1
        if not self.is_open.is_set():
            raise TransientError("the shelf is shut")
        content = b"".join(chunks)
        assert len(content) == size_bytes
        assert content_type == "image/jpeg"
        self.objects[name] = content
        return f"shelf://{name}"


class Stage:
    """A sink with a store before it."""

    def __init__(self, store: ObjectStore, sink: FakeSink) -> None:
        self.inner = sink
        self.reported: list[Record] = []
        self.fatal: list[Exception] = []
        self.served = {"yard", "door"} | {f"camera-{number}" for number in range(9)}
        self.sink = EvidenceSink(
            sink,
            store,
            inline_bytes_max=INLINE_BYTES_MAX,
            serves=lambda camera: camera in self.served,
            on_fatal=self.fatal.append,
        )
        self.sink.open(lambda stored: self.reported.extend(item for item, _ in stored))

    def wait_taken(self, count: int) -> list[Record]:
        wait_until(lambda: len(self.inner.taken) >= count, timeout_s=30, what=f"{count} records")
        assert len(self.inner.taken) == count
        return self.inner.taken


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def stage(shelf: Shelf) -> Iterator[Stage]:
    made = Stage(shelf, FakeSink())
    yield made
    made.sink.close(1.0)
    assert made.inner.closed
    assert made.fatal == []


def told(taken: Record) -> Escalation:
    return decode_json(Escalation, taken.value, max_bytes=2**20)


def test_large_pictures_are_there_before_the_escalation_which_says_where(stage: Stage, shelf: Shelf) -> None:
    sent = large(7)
    seen: list[int] = []
    stage.inner.before_write = lambda: seen.append(len(shelf.objects))
    assert stage.sink.write([sent]) == 1
    (taken,) = stage.wait_taken(1)

    assert seen[0] == 2
    escalation = told(taken)
    for item in escalation.evidence:
        assert item.data == b""
        name = item.uri.removeprefix("shelf://")
        assert name.startswith("home/yard/2026-01-01/node-1.detector:e1:7-")
        assert name.endswith(".jpg")
        assert hashlib.sha256(shelf.objects[name]).hexdigest() == item.sha256
    assert len({item.uri for item in escalation.evidence}) == 2
    # Everything else is as it was, and so is what the receipt is about.
    original = decode_json(Escalation, sent.payload, max_bytes=2**20)
    assert msgspec.structs.replace(escalation, evidence=()) == msgspec.structs.replace(original, evidence=())
    assert taken.payload == sent.payload
    assert taken.digest == hashlib.sha256(sent.payload).digest()
    assert [item.key for item in stage.reported] == [sent.key]


def test_a_field_that_this_version_does_not_know_stays(stage: Stage) -> None:
    sent = large(1)
    newer = msgspec.structs.replace(sent, payload=sent.payload[:-1] + b',"mood":{"calm":0.5}}')
    stage.sink.write([newer])
    (taken,) = stage.wait_taken(1)
    assert msgspec.json.decode(taken.value)["mood"] == {"calm": 0.5}


def test_a_repeat_replaces_its_own_pictures(stage: Stage, shelf: Shelf) -> None:
    stage.sink.write([large(1)])
    stage.wait_taken(1)
    before = dict(shelf.objects)
    stage.sink.write([large(1)])
    first, second = stage.wait_taken(2)
    assert shelf.objects == before
    assert first.value == second.value


def test_an_old_number_with_other_pictures_replaces_nothing(stage: Stage, shelf: Shelf) -> None:
    stage.sink.write([large(1)])
    stage.sink.write([record(1, evidence=(picture(99, 2_000),))])
    stage.wait_taken(2)
    assert len(shelf.objects) == 3


def test_small_pictures_stay_where_they_are(stage: Stage, shelf: Shelf) -> None:
    together = (picture(1, 400), picture(2, 600))
    small, events = record(1, evidence=together), [event(1), event(2, stream="camera_track")]
    # Not larger in bytes, though the JSON around them is.
    assert stage.sink.write([small, *events]) == 3
    stage.wait_taken(3)
    assert {item.value for item in stage.inner.taken} == {item.payload for item in (small, *events)}
    assert shelf.objects == {}


def test_what_cannot_be_read_goes_on_as_it_is(stage: Stage, shelf: Shelf) -> None:
    broken = msgspec.structs.replace(large(1), payload=b"{" * 9_000, details={}, fault="not JSON")
    assert stage.sink.write([broken]) == 1
    (taken,) = stage.wait_taken(1)
    assert (taken.value, shelf.objects) == (broken.payload, {})


def test_while_the_store_is_away_others_pass_and_the_camera_keeps_its_order(stage: Stage, shelf: Shelf) -> None:
    shelf.is_open.clear()
    waiting = [large(1), event(1), record(2), large(3)]
    passing = [record(1, camera="door"), event(2, camera="door")]
    assert stage.sink.write([waiting[0], passing[0], *waiting[1:], passing[1]]) == 6
    wait_until(lambda: shelf.tries > 1, timeout_s=30, what="another try")

    assert [item.key for item in stage.inner.taken] == [item.key for item in passing]
    assert stage.sink.figures().queues == {"evidence": 4}
    shelf.is_open.set()
    taken = stage.wait_taken(6)
    assert [item.key for item in taken[2:]] == [item.key for item in waiting]
    wait_until(lambda: stage.sink.figures().queues == {"evidence": 0}, timeout_s=10, what="nothing waits")
    assert stage.sink.figures().counts == {"evidence_put": 4}
    # The camera is free again.
    assert stage.sink.write([event(9)]) == 1
    assert stage.inner.taken[-1].event_id == event(9).event_id


def test_a_full_sink_lets_them_wait_and_nothing_is_put_twice(stage: Stage, shelf: Shelf) -> None:
    stage.inner.room = 0
    assert stage.sink.write([large(1), record(1, camera="door")]) == 1
    wait_until(lambda: stage.inner.writes > 3, timeout_s=30, what="tries")
    assert shelf.tries == 2
    stage.inner.room = 10
    stage.wait_taken(1)
    assert shelf.tries == 2


def test_what_is_another_bridges_meanwhile_is_let_go_of(stage: Stage) -> None:
    stage.inner.room = 0
    assert stage.sink.write([large(1), event(1), large(1, camera="door")]) == 3
    stage.served.remove("yard")
    wait_until(lambda: stage.sink.figures().queues == {"evidence": 1}, timeout_s=30, what="one that is let go of")
    stage.inner.room = 10
    (taken,) = stage.wait_taken(1)
    assert taken.camera == "door"


def test_a_sink_that_is_away_is_said_only_when_nothing_was_taken(stage: Stage, shelf: Shelf) -> None:
    shelf.is_open.clear()
    stage.inner.broken.set()
    small = record(1, camera="door")
    assert stage.sink.write([large(1), small]) == 1
    with pytest.raises(TransientError, match="fake sink"):
        stage.sink.write([small])
    stage.inner.broken.clear()
    shelf.is_open.set()
    assert stage.sink.write([small]) == 1
    stage.wait_taken(2)


def test_what_waits_is_bounded(shelf: Shelf, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.is_open.clear()
    sent = [large(seq, camera=f"camera-{seq}") for seq in range(1, 6)]
    monkeypatch.setattr("bridge.evidence._HELD_BYTES_MAX", len(sent[0].payload) * 3 + 100)
    assert stage.sink.write(sent) == 3
    shelf.is_open.set()
    stage.wait_taken(3)
    wait_until(lambda: stage.sink.write(sent[3:]) == 2, timeout_s=10, what="room")
    stage.wait_taken(5)


def test_a_folder_is_a_store(tmp_path: Path) -> None:
    stage = Stage(open_store(str(tmp_path / "evidence"), "bridge.evidence_store"), FakeSink())
    stage.sink.write([large(1)])
    (taken,) = stage.wait_taken(1)
    stage.sink.close(1.0)
    for item in told(taken).evidence:
        content = Path(url2pathname(urlsplit(item.uri).path)).read_bytes()
        assert hashlib.sha256(content).hexdigest() == item.sha256
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 2


def test_an_object_store_that_refuses_for_a_while_gets_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    with running_bucket(monkeypatch) as bucket:
        bucket.refuses = True
        stage = Stage(open_store("s3://evidence/mesh", "bridge.evidence_store"), FakeSink())
        stage.sink.write([large(1)])
        wait_until(lambda: bucket.signed, timeout_s=30, what="a try")
        assert stage.inner.taken == []
        bucket.refuses = False
        (taken,) = stage.wait_taken(1)
        stage.sink.close(1.0)
        for item in told(taken).evidence:
            path = item.uri.removeprefix("s3:/")
            assert hashlib.sha256(bucket.objects[path]).hexdigest() == item.sha256
