"""The recorder with GStreamer: coded pictures go in, files that play come out."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

import msgspec
import pytest

from broker.messages import ClipEvent, Escalation, MotionEvent
from broker.references import clip_reference
from config.cameras import FootageSettings, RecordingSettings
from config.clock import ManualClock
from config.errors import BacklogFullError, PermanentError, TransientError
from edge.footage import CameraRecorder, Footage
from edge.footage.index import FootageIndex
from edge.footage.layout import FootageFolder, Segment
from edge.footage.segments import find_segments
from edge.picture import Packet
from tests.support.coded import START, coded_pictures, numbered_picture, read_numbers
from tests.support.messages import escalation
from tests.support.waiting import wait_until

pytest.importorskip("edge.gst.writer", reason="no GStreamer: see deploy/packages.txt")

_FOREVER = timedelta(days=1)


class StillClock(ManualClock):
    """Moves when it is told to, and never because a thread waits."""

    def wait(self, stop: threading.Event, timeout_s: float) -> bool:
        return stop.wait(min(timeout_s, 0.01))


class Node:
    """Footage whose clock stands still until it is moved, and what it told the bus."""

    def __init__(self, root: Path, **settings: object) -> None:
        self.root = root
        self.clock = StillClock(START)
        self.told: list[ClipEvent] = []
        chosen = {"disk_free_min_bytes": 0, **settings}
        self.footage = Footage(root, FootageSettings.model_validate(chosen), publish=self._publish, clock=self.clock)
        self.recorder: CameraRecorder | None = None

    def _publish(self, event: ClipEvent) -> ClipEvent:
        event = msgspec.structs.replace(event, id=f"node.edge:e:{len(self.told) + 1}")
        self.told.append(event)
        return event

    def camera(self, *, masked: bool = False, **settings: object) -> CameraRecorder:
        chosen = RecordingSettings.model_validate({"segment_s": 2, "pre_s": 1, "post_s": 1, **settings})
        self.recorder = self.footage.camera("yard", chosen, masked=masked)
        return self.recorder

    def close(self) -> None:
        if self.recorder is not None:
            self.recorder.close()
        self.footage.close()

    def segments(self) -> list[Segment]:
        return list(find_segments(FootageFolder(self.root), "yard", START - _FOREVER, START + _FOREVER))

    def numbers(self) -> list[list[int]]:
        return [read_numbers(segment.path) for segment in self.segments()]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    one = Node(tmp_path / "footage")
    yield one
    one.close()


def _feed(recorder: CameraRecorder, packets: list[Packet]) -> None:
    for packet in packets:
        recorder.on_packet(packet)
    assert recorder.flush(10)


def _movement(kind: Literal["start", "end"], at_s: float, started_s: float = 0.0) -> MotionEvent:
    return MotionEvent(
        id="m",
        motion_id="node.edge:e:7",
        camera="yard",
        type=kind,
        started_at=START + timedelta(seconds=started_s),
        at=START + timedelta(seconds=at_s),
    )


def _escalation(at_s: float, event_id: str = "node.detector:e:3") -> Escalation:
    moment = START + timedelta(seconds=at_s)
    return escalation(event_id, captured_at=moment, raised_at=moment)


def test_segments_are_cut_at_keyframes_and_hold_every_picture_once(node: Node) -> None:
    recorder = node.camera()
    recorder.want("continuous", private=False)
    _feed(recorder, coded_pictures(55))
    recorder.close()
    assert node.numbers() == [list(range(20)), list(range(20, 40)), list(range(40, 55))]
    assert [segment.starts_at for segment in node.segments()] == [START + timedelta(seconds=s) for s in (0, 2, 4)]
    assert [round(segment.duration_s, 2) for segment in node.segments()] == [2.0, 2.0, 1.5]


def test_nothing_is_recorded_before_the_first_keyframe(node: Node) -> None:
    recorder = node.camera()
    recorder.want("continuous", private=False)
    _feed(recorder, coded_pictures(30)[3:])
    recorder.close()
    assert node.numbers() == [list(range(10, 30))]


def test_another_size_or_a_gap_begins_another_file(node: Node) -> None:
    recorder = node.camera(segment_s=60)
    recorder.want("continuous", private=False)
    larger = coded_pictures(15, first=100, at_s=102, start=START + timedelta(seconds=2), size_px=(400, 80))
    later = coded_pictures(15, first=200, at_s=150, start=START + timedelta(seconds=50), size_px=(400, 80))
    _feed(recorder, [*coded_pictures(20), *larger, *later])
    recorder.close()
    assert node.numbers() == [list(range(20)), list(range(100, 115)), list(range(200, 215))]


def test_what_is_recorded_is_in_the_file_within_two_seconds_though_it_is_open(node: Node) -> None:
    recorder = node.camera(segment_s=60)
    recorder.want("continuous", private=False)
    _feed(recorder, coded_pictures(55))
    wait_until(lambda: bool(node.segments()) and node.segments()[0].duration_s >= 3.5)
    (segment,) = node.segments()
    assert not segment.closed
    numbers = read_numbers(segment.path)
    assert numbers == list(range(len(numbers)))
    assert len(numbers) >= 35


def test_a_killed_recorder_loses_a_second_and_the_next_one_closes_its_file(tmp_path: Path) -> None:
    first = Node(tmp_path / "footage")
    recorder = first.camera(segment_s=60)
    recorder.want("continuous", private=False)
    _feed(recorder, coded_pictures(55))
    wait_until(lambda: bool(first.segments()) and first.segments()[0].duration_s >= 3.5)
    (left,) = first.segments()
    # What a killed process leaves: the file as it is, without its lock, here in another folder.
    copy = tmp_path / "after" / "recordings" / "yard" / left.path.parent.name / left.path.name
    copy.parent.mkdir(parents=True)
    shutil.copyfile(left.path, copy)
    empty = copy.with_name(copy.name.replace(left.name.id, "0" * 32))
    empty.write_bytes(copy.read_bytes()[:60])
    first.close()
    with closing(Node(tmp_path / "after")) as second:
        second.camera()
        (segment,) = second.segments()
        assert segment.closed
        assert len(read_numbers(segment.path)) >= 35
        assert [path.name for path in (tmp_path / "after" / "unreadable").iterdir()] == [empty.name]
        index = FootageIndex(FootageFolder(second.root))
        assert index.segment_ids("yard") == {segment.name.id}
        index.close()


def test_a_file_that_is_being_written_is_left_alone(node: Node) -> None:
    recorder = node.camera(segment_s=60)
    recorder.want("continuous", private=False)
    _feed(recorder, coded_pictures(25))
    wait_until(lambda: bool(node.segments()))
    with closing(Node(node.root)) as other:
        other.camera()
        assert [segment.closed for segment in node.segments()] == [False]
    recorder.close()
    assert node.numbers() == [list(range(25))]


def test_what_moves_is_recorded_with_what_was_before_and_after(node: Node) -> None:
    recorder = node.camera(mode="motion", pre_s=1, post_s=1)
    recorder.want("motion", private=False)
    packets = coded_pictures(100)
    _feed(recorder, packets[:40])
    assert node.segments() == []
    recorder.movement(_movement("start", 4.0, 4.0))
    _feed(recorder, packets[40:60])
    recorder.movement(_movement("end", 6.0, 4.0))
    _feed(recorder, packets[60:])
    numbers = [number for one in node.numbers() for number in one]
    assert numbers == list(range(numbers[0], 71))
    # From the keyframe before: pre_s, and the second within which a movement is seen.
    assert 10 <= numbers[0] <= 30
    assert node.segments()[-1].closed


def test_privacy_forgets_what_is_in_memory_and_records_nothing(tmp_path: Path) -> None:
    with closing(Node(tmp_path / "footage", ram_bytes=50_000_000)) as node:
        recorder = node.camera(segment_s=60)
        recorder.want("continuous", private=False)
        packets = coded_pictures(80)
        for packet in packets[:30]:
            recorder.on_packet(packet)
        recorder.want("continuous", private=True)
        assert recorder.state == ("off", None)
        _feed(recorder, packets[30:60])
        assert node.segments() == []
        recorder.want("continuous", private=False)
        _feed(recorder, packets[60:])
        recorder.close()
        assert node.numbers() == [list(range(60, 80))]


def test_privacy_forgets_the_pre_roll(node: Node) -> None:
    recorder = node.camera(pre_s=10)
    recorder.want("motion", private=False)
    packets = coded_pictures(60)
    _feed(recorder, packets[:30])
    recorder.want("motion", private=True)
    recorder.want("motion", private=False)
    recorder.movement(_movement("start", 3.0, 3.0))
    _feed(recorder, packets[30:])
    recorder.close()
    assert [number for one in node.numbers() for number in one] == list(range(30, 60))


def test_a_camera_with_masks_is_recorded_from_pictures_only(node: Node) -> None:
    recorder = node.camera(masked=True, segment_s=60)
    recorder.want("continuous", private=False)
    for packet in coded_pictures(10):
        recorder.on_packet(packet)
    for number in range(500, 530):
        dropped = -1
        while dropped != recorder.figures().packets_dropped:  # the encoder was behind: again
            dropped = recorder.figures().packets_dropped
            recorder.on_picture(numbered_picture(number), at=START + timedelta(seconds=number / 10), at_s=number / 10)
    wait_until(lambda: recorder.figures().recorded_bytes > 0)
    recorder.close()
    (numbers,) = node.numbers()
    assert numbers == list(range(500, 500 + len(numbers)))
    assert len(numbers) > 20


def test_a_full_disk_stops_recording_and_it_resumes_by_itself(node: Node) -> None:
    node.footage._full = "the disk is full"
    recorder = node.camera()
    recorder.want("continuous", private=False)
    wait_until(lambda: recorder.state == ("failed", "the disk is full"))
    packets = coded_pictures(60)
    _feed(recorder, packets[:30])
    assert node.segments() == []
    node.footage._full = None
    node.clock.advance(60)
    _feed(recorder, packets[30:])
    assert recorder.state[0] == "on"
    recorder.close()
    numbers = [number for one in node.numbers() for number in one]
    assert numbers[-20:] == list(range(40, 60))


def test_a_writer_that_fails_loses_its_file_and_not_the_recorder(tmp_path: Path) -> None:
    from edge.gst.writer import SegmentWriter

    broken = [True]

    class Failing(SegmentWriter):
        def write(self, packet: Packet) -> None:
            if broken[0] and self.written == 12:
                raise TransientError("no space left on device")
            super().write(packet)

    clock = StillClock(START)
    node = Footage(
        tmp_path, FootageSettings(disk_free_min_bytes=0), publish=lambda e: e, clock=clock, open_writer=Failing
    )
    recorder = node.camera("yard", RecordingSettings(segment_s=60), masked=False)
    recorder.want("continuous", private=False)
    packets = coded_pictures(60)
    _feed(recorder, packets[:30])
    failed = recorder.state
    assert failed == ("failed", "no space left on device")
    broken[0] = False
    clock.advance(60)
    _feed(recorder, packets[30:])
    assert recorder.state[1] is None
    recorder.close()
    node.close()
    first, second = find_segments(FootageFolder(tmp_path), "yard", START - _FOREVER, START + _FOREVER)
    assert read_numbers(first.path) == list(range(12))
    assert read_numbers(second.path)[-20:] == list(range(40, 60))


# --- clips -----------------------------------------------------------------------------------------------------


def _clip(event: ClipEvent) -> Path:
    return Path(unquote(event.uri.removeprefix("file://")))


def test_a_clip_across_three_segments_begins_with_the_keyframe_before_and_misses_nothing(node: Node) -> None:
    node.footage.start()
    recorder = node.camera()
    recorder.want("continuous", private=False)
    _feed(recorder, coded_pictures(95))
    answers: list[ClipEvent] = []
    start, end = START + timedelta(seconds=1.55), START + timedelta(seconds=4.82)
    recorder.request(start, end, "../../etc/passwd", answers.append)
    node.clock.advance(30)
    wait_until(lambda: bool(answers))
    (event,) = answers
    assert (event.error, event.missing_s, event.reason) == (None, 0.0, "request")
    assert read_numbers(_clip(event)) == list(range(10, 49))
    assert (event.starts_at, event.ends_at) == (START + timedelta(seconds=1), START + timedelta(seconds=4.8))
    assert _clip(event).is_relative_to(node.root / "clips")
    assert event.size_bytes == _clip(event).stat().st_size
    assert node.told == answers


def test_an_escalation_brings_a_clip_under_the_name_that_who_raised_it_knows(node: Node) -> None:
    node.footage.start()
    recorder = node.camera(clips=("escalation", "motion"))
    recorder.want("motion", private=False)
    packets = coded_pictures(100)
    _feed(recorder, packets[:50])
    event = _escalation(4.5)
    recorder.escalation(event)
    recorder.escalation(event)
    _feed(recorder, packets[50:])
    node.clock.advance(30)
    wait_until(lambda: bool(node.told))
    (told,) = node.told
    assert (told.about, told.reason, told.error) == (event.id, "escalation", None)
    assert told.uri.endswith(clip_reference("yard", event.captured_at, event.id))
    numbers = read_numbers(_clip(told))
    assert numbers == list(range(30, 56))
    recorder.escalation(event)
    assert recorder.flush(5)
    assert node.footage.figures().clips_owed == 0


def test_a_clip_of_what_was_never_recorded_is_answered_with_the_reason(node: Node) -> None:
    node.footage.start()
    recorder = node.camera()
    recorder.want("continuous", private=False)
    answers: list[ClipEvent] = []
    recorder.request(START - timedelta(seconds=60), START - timedelta(seconds=30), "c1", answers.append)
    node.clock.advance(5)
    wait_until(lambda: bool(answers))
    assert "nothing was recorded" in (answers[0].error or "")


def test_no_clip_leaves_while_privacy_is_on(node: Node) -> None:
    node.footage.start()
    recorder = node.camera()
    recorder.want("continuous", private=False)
    _feed(recorder, coded_pictures(50))
    recorder.escalation(_escalation(2.0))
    assert recorder.flush(5)
    recorder.want("continuous", private=True)
    answers: list[ClipEvent] = []
    recorder.request(START, START + timedelta(seconds=2), "c1", answers.append)
    assert "privacy" in (answers[0].error or "")
    node.clock.advance(60)
    assert node.footage._delivery.deliver_next(node.footage._stop) is False
    recorder.want("continuous", private=False)
    wait_until(lambda: len(node.told) == 2)
    assert node.told[1].error is None


def test_clips_owed_while_the_store_is_away_go_after_a_restart_in_their_order(tmp_path: Path) -> None:
    store = tmp_path / "nas"
    store.write_bytes(b"a file where a network folder should be mounted")
    before = Node(tmp_path / "footage", deliver_to=str(store))
    before.footage.start()
    recorder = before.camera(clips=("escalation", "motion"))
    recorder.want("continuous", private=False)
    _feed(recorder, coded_pictures(90))
    for at_s in (2.0, 4.0):
        recorder.escalation(_escalation(at_s, f"node.detector:e:{at_s:.0f}"))
    recorder.movement(_movement("start", 3.0, 3.0))
    recorder.movement(_movement("end", 5.0, 3.0))
    recorder.request(START, START + timedelta(seconds=1), "wish", lambda event: None)
    assert recorder.flush(10)
    before.clock.advance(60)
    wait_until(lambda: before.footage.figures().clips_owed == 4)
    before.close()
    assert before.told == []

    store.unlink()
    with closing(Node(tmp_path / "footage", deliver_to=str(store))) as after:
        after.clock.advance(120)
        recorder = after.camera()
        assert not after.footage._delivery.deliver_next(threading.Event())  # privacy may be on: nobody has said
        recorder.want("continuous", private=False)
        after.footage.start()
        wait_until(lambda: len(after.told) == 4)
        told = [(event.reason, event.about, event.error) for event in after.told]
        assert told == [
            ("escalation", "node.detector:e:4", None),
            ("escalation", "node.detector:e:2", None),
            ("motion", "node.edge:e:7", None),
            ("request", "wish", None),
        ]
        assert all(_clip(event).is_relative_to(store) and read_numbers(_clip(event)) for event in after.told)
        assert after.footage.figures().clips_owed == 0


def test_a_clip_that_the_outbox_does_not_take_is_told_later(tmp_path: Path) -> None:
    refusals = [2]

    class Full(Node):
        def _publish(self, event: ClipEvent) -> ClipEvent:
            if refusals[0]:
                refusals[0] -= 1
                raise BacklogFullError("outbox", rows=1, size_bytes=1, limit="1")
            return super()._publish(event)

    with closing(Full(tmp_path / "footage")) as node:
        recorder = node.camera()
        recorder.want("continuous", private=False)
        _feed(recorder, coded_pictures(40))
        recorder.escalation(_escalation(2.0))
        assert recorder.flush(10)
        node.clock.advance(60)
        node.footage.start()
        wait_until(lambda: bool(node.told))
        assert read_numbers(_clip(node.told[0])) == list(range(10, 31))
        assert refusals == [0]


def test_after_pictures_that_came_too_fast_it_goes_on_with_a_keyframe(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = node.camera(segment_s=60)
    recorder.want("continuous", private=False)
    packets = coded_pictures(40)
    with recorder._changed:  # the disk takes nothing
        monkeypatch.setattr("edge.footage.recorder._QUEUE_BYTES_MAX", sum(one.size_bytes for one in packets[:15]))
        for packet in packets[:25]:
            recorder.on_packet(packet)
    assert recorder.figures().packets_dropped == 10
    monkeypatch.undo()
    _feed(recorder, packets[25:])
    recorder.close()
    assert node.numbers() == [[*range(15), *range(30, 40)]]


def test_a_camera_without_an_encoder_says_so_and_goes_on(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_names: object) -> None:
        raise PermanentError("GStreamer has no element 'x264enc'")

    monkeypatch.setattr("edge.gst.recode.require_elements", none)
    recorder = node.camera(masked=True)
    recorder.want("continuous", private=False)
    recorder.on_picture(numbered_picture(1), at=START, at_s=0.0)
    assert recorder.flush(5)
    assert recorder.state == ("failed", "GStreamer has no element 'x264enc'")
