"""Which pictures go into which file; no GStreamer."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.references import clip_reference
from edge.footage.layout import FootageFolder, SegmentName
from edge.footage.plan import PreRoll, SegmentPlan, SegmentStep
from edge.picture import Packet

START = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


def _packet(at_s: float, *, keyframe: bool, late_s: float = 0.0, size_bytes: int = 100) -> Packet:
    return Packet(None, START + timedelta(seconds=at_s + late_s), at_s, keyframe, size_bytes)


def _stream(seconds: float, *, fps: float = 10, group: int = 10, from_s: float = 0.0) -> list[Packet]:
    return [_packet(from_s + n / fps, keyframe=n % group == 0) for n in range(round(seconds * fps))]


def _begins(plan: SegmentPlan, packets: list[Packet]) -> list[datetime]:
    return [plan.starts_at for packet in packets if plan.step(packet, same_format=True) is SegmentStep.BEGIN]


def test_a_segment_ends_with_the_first_keyframe_after_its_length() -> None:
    begins = _begins(SegmentPlan(2.5), _stream(10))
    assert [(moment - START).total_seconds() for moment in begins] == [0, 3, 6, 9]


def test_arrival_that_jitters_does_not_move_the_seams() -> None:
    packets = [
        _packet(packet.at_s, keyframe=packet.keyframe, late_s=0.2 if packet.keyframe and packet.at_s else 0.0)
        for packet in _stream(7)
    ]
    assert [(moment - START).total_seconds() for moment in _begins(SegmentPlan(3), packets)] == [0, 3, 6]


def test_a_clock_that_is_set_begins_a_segment_with_the_right_time() -> None:
    plan = SegmentPlan(300)
    later = [_packet(packet.at_s, keyframe=packet.keyframe, late_s=3600) for packet in _stream(3, from_s=3)]
    begins = _begins(plan, [*_stream(3), *later])
    assert begins == [START, START + timedelta(seconds=3603)]


@pytest.mark.parametrize("next_s", [1.0, 60.0])
def test_a_stream_that_begins_anew_or_was_silent_waits_for_a_keyframe(next_s: float) -> None:
    plan = SegmentPlan(300)
    _begins(plan, _stream(5))
    steps = [plan.step(packet, same_format=True) for packet in _stream(1, from_s=next_s)[5:]]
    assert steps == [SegmentStep.END, *[SegmentStep.DROP] * 4]
    assert plan.step(_packet(next_s + 1, keyframe=True), same_format=True) is SegmentStep.BEGIN


def test_another_format_begins_a_segment_at_once() -> None:
    plan = SegmentPlan(300)
    _begins(plan, _stream(5))
    assert plan.step(_packet(5, keyframe=True), same_format=False) is SegmentStep.BEGIN


@given(
    length_s=st.floats(0, 10),
    groups=st.lists(st.integers(1, 30), min_size=1, max_size=20),
)
def test_a_pre_roll_begins_with_the_last_keyframe_that_is_old_enough(length_s: float, groups: list[int]) -> None:
    pre_roll = PreRoll(length_s)
    packets, at = [], 0
    for group in groups:
        packets += [_packet((at + n) / 10, keyframe=n == 0) for n in range(group)]
        at += group
    for packet in packets:
        pre_roll.add(packet)
    last_s = packets[-1].at_s
    wanted = [packet.at_s for packet in packets if packet.keyframe and packet.at_s <= last_s - length_s]
    held = pre_roll.take()
    assert held[0].keyframe
    assert held[0].at_s == (wanted[-1] if wanted else 0.0)
    assert held == packets[packets.index(held[0]) :]
    assert (pre_roll.take(), pre_roll.size_bytes) == ([], 0)


def test_a_pre_roll_is_bounded_and_forgets_a_stream_that_broke() -> None:
    pre_roll = PreRoll(60, bytes_max=2_500)
    for packet in _stream(20):
        pre_roll.add(packet)
    assert pre_roll.size_bytes <= 2_500
    pre_roll.add(_packet(500, keyframe=False))
    assert pre_roll.take() == []


@given(
    identity=st.text(),
    moment=st.datetimes(min_value=datetime(2000, 1, 1), max_value=datetime(2100, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
)
def test_the_name_of_a_clip_never_leaves_its_folder(identity: str, moment: datetime) -> None:
    reference = clip_reference("yard", moment, identity)
    path = (Path("/clips") / reference).resolve()
    assert path.parts[:3] == ("/", "clips", "yard")
    assert len(path.parts) == 5
    assert len(path.name) < 200
    assert reference.isascii()


def test_the_names_of_clips_tell_ids_apart_that_look_alike() -> None:
    names = {
        clip_reference("yard", START, identity) for identity in ("a.b:c:1", "a-b:c:1", "a.b:c-1", "", "../a-b-c-1")
    }
    assert len(names) == 5


@given(moment=st.datetimes(min_value=datetime(2000, 1, 1), max_value=datetime(2100, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_the_name_of_a_segment_is_read_back(moment: datetime) -> None:
    whole = moment.replace(microsecond=moment.microsecond // 1000 * 1000)
    name = SegmentName.new("yard_2", whole)
    folder = FootageFolder(Path("/footage"))
    for closed in (True, False):
        assert SegmentName.parse(folder.path_of(name, closed=closed).name) == name


@pytest.mark.parametrize("name", ["index.db", "20261321T101500.250Z_yard_" + "0" * 32 + ".mp4", "x.mp4", ".mp4"])
def test_other_files_are_no_segments(name: str) -> None:
    assert SegmentName.parse(name) is None
