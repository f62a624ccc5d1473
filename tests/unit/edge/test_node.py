from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from broker import Bus, Delivery
from broker.memory import MemoryBroker
from broker.outbox import Outbox, split_event_id
from broker.topics import CAMERA_MOTION, CAMERA_MOTION_ACTIVE, CAMERA_MOTION_OPEN, CAMERA_STATE, everything
from config import ConfigError, ManualClock, PermanentError, TransientError
from config.settings import BusSettings, Settings
from edge.reports import MotionReports
from edge.settings_file import check_sources
from tests.support.waiting import wait_until
from tests.unit.edge.scripted import Shot, Street, still, walk


def test_somebody_walks_by(tmp_path: Path) -> None:
    with Street(tmp_path, {"yard": [[*still(3), *walk(3), *still(3)]]}) as street:
        wait_until(lambda: len(street.motions()) == 4)
        wait_until(lambda: street.active() == ["OFF", "ON", "OFF"])
    start, first, second, end = street.motions()
    assert [event.type for event in street.motions()] == ["start", "update", "update", "end"]
    assert {event.motion_id for event in street.motions()} == {start.id}
    assert [split_event_id(event.id)[2] for event in street.motions()] == [1, 2, 3, 4]
    assert 0.9 < (first.at - start.at).total_seconds() < 1.2
    assert 0.9 < (second.at - first.at).total_seconds() < 1.2
    assert (end.at - start.at).total_seconds() == pytest.approx(3 + 1, abs=0.3), "the walk and the hold"
    assert {event.started_at for event in street.motions()} == {start.at}
    assert (end.ended, end.boxes, end.score) == ("quiet", (), 0)
    ((x1, y1, x2, y2),) = start.boxes
    assert x1 < 0.05
    assert x2 == pytest.approx(14 / 133, abs=0.06)
    assert (y1, y2) == pytest.approx((0.3, 0.7), abs=0.06)
    assert start.score > 0
    assert start.frame_seq - 30 in (0, 1), "seen twice before it is told"
    assert street.open_ids() == [(), (start.id,), ()]


def test_frames_are_few_while_nothing_moves_and_more_while_something_does(tmp_path: Path) -> None:
    script = [*still(6), *walk(4), *still(6)]
    with Street(tmp_path, {"yard": [script]}, idle_fps=1, motion_fps=5) as street:
        wait_until(lambda: street.looked_at == 160)
        wait_until(lambda: len(street.frames()) == street.node.figures().counts["frames_sent"])
    metas = [frame.meta for frame in street.frames()]
    idle = [meta.seq for meta in metas if not meta.moving]
    moving = [meta.seq for meta in metas if meta.moving]
    assert idle[:6] == [0, 10, 20, 30, 40, 50]
    assert moving[0] - 60 in (0, 1), "the first frame in which somebody is sure to be goes out at once"
    assert {b - a for a, b in pairwise(moving)} == {2}
    assert len(moving) == pytest.approx(25, abs=2), "four seconds and the hold"
    assert {b - a for a, b in pairwise(seq for seq in idle if seq > moving[-1])} == {10}
    assert all(meta.motion for meta in metas if 62 < meta.seq < 98)
    assert not any(meta.motion for meta in metas if not meta.moving)
    assert (metas[0].camera, metas[0].node, metas[0].width, metas[0].height) == ("yard", "node-1", 133, 100)
    states = [(state.state, state.moving, state.fps) for state in street.states()]
    assert states == [
        ("offline", False, 0),
        ("online", False, 1),
        ("online", True, 5),
        ("online", False, 1),
        ("offline", False, 0),
    ]


def test_a_camera_says_from_its_first_word_what_it_asks_of_whoever_scores_it(tmp_path: Path) -> None:
    with Street(tmp_path, {"yard": [still(2)]}, motion_fps=4, worker="gpu", labels=("person",)) as street:
        street.order("zoom", "z")
        wait_until(lambda: any(state.state == "online" for state in street.states()))
    asked = {(s.demand_fps, s.scored_by, s.worker_class, s.labels) for s in street.states()}
    assert asked == {(4.0, "workers", "gpu", ("person",))}


def test_a_broken_camera_is_opened_again_and_its_neighbour_never_notices(tmp_path: Path) -> None:
    silent: list[Shot] = [*still(2), TransientError("it fell silent")]
    sessions: list[list[Shot] | Exception] = [silent, TransientError("no way to it"), still(2)]
    with Street(tmp_path, {"yard": sessions, "door": [still(20)]}) as street:
        wait_until(lambda: len(street.states()) == 5)
        wait_until(lambda: street.looked_at == 240)
        wait_until(lambda: len(street.frames("door")) == 20)
        assert [(state.state, state.error) for state in street.states()] == [
            ("offline", None),
            ("online", None),
            ("error", "it fell silent"),
            ("error", "no way to it"),
            ("online", None),
        ]
        assert [state.state for state in street.states("door")] == ["offline", "online"]
    assert all(source.closed for source in street.sources)
    assert street.node.figures().counts["sources_opened"] == 4
    seqs = [frame.meta.seq for frame in street.frames()]
    assert seqs == sorted(set(seqs)), "numbers go on after the source was opened again"
    assert len(street.frames("door")) == 20
    assert street.fatal == []


def test_a_camera_that_breaks_while_something_moves_ends_the_movement(tmp_path: Path) -> None:
    with Street(tmp_path, {"yard": [[*still(3), *walk(1), TransientError("cable")], still(1)]}) as street:
        wait_until(lambda: len(street.states()) == 5)
        wait_until(lambda: len(street.motions()) == 2)
    start, end = street.motions()
    assert (start.type, end.type, end.ended, end.motion_id) == ("start", "end", "interrupted", start.id)
    assert street.active() == ["OFF", "ON", "OFF"]
    assert street.open_ids()[-1] == ()


def test_a_node_that_is_stopped_ends_what_moves_and_says_goodbye(tmp_path: Path) -> None:
    with Street(tmp_path, {"yard": [[*still(3), *walk(2)]]}) as street:
        wait_until(lambda: "ON" in street.active())
        wait_until(lambda: street.looked_at == 50)
        street.close()
        wait_until(lambda: street.states()[-1].state == "offline")
        wait_until(lambda: street.motions()[-1].type == "end")
    assert street.motions()[-1].ended == "interrupted"
    assert street.active() == ["OFF", "ON", "OFF"]
    assert street.states()[-1].error is None


def test_a_source_that_ends_is_offline_and_not_opened_again(tmp_path: Path) -> None:
    with Street(tmp_path, {"yard": [still(2)]}, ends=True) as street:
        assert street.node.wait_ended(30)
        wait_until(lambda: len(street.states()) == 3)
    assert [(state.state, state.error) for state in street.states()] == [
        ("offline", None),
        ("online", None),
        ("offline", "the source has ended"),
    ]
    assert street.fatal == []


def test_one_camera_needs_a_person_and_the_others_go_on(tmp_path: Path) -> None:
    with Street(tmp_path, {"yard": [PermanentError("there is no file")], "door": [still(5)]}) as street:
        wait_until(lambda: street.looked_at == 50)
        wait_until(lambda: len(street.states()) == 2)
        assert street.fatal == []
    assert (street.states()[-1].state, street.states()[-1].error) == ("error", "there is no file")


def test_a_node_without_a_working_camera_says_so_and_gives_up(tmp_path: Path) -> None:
    wrong = ConfigError("no such source")
    with Street(tmp_path, {"yard": [PermanentError("there is no file")], "door": [wrong]}) as street:
        assert street.node.wait_ended(30)
    (error,) = street.fatal
    assert isinstance(error, PermanentError)
    assert sorted(str(error).split("; ")) == ["camera door: no such source", "camera yard: there is no file"]


def test_what_another_node_left_open_is_ended_by_the_one_that_takes_its_camera_over(tmp_path: Path) -> None:
    broker = MemoryBroker()
    with Street(tmp_path / "a", {"yard": [[*still(3), *walk(2)]]}, broker=broker) as first:
        wait_until(lambda: first.motions() and first.open_ids()[-1:] == [(first.motions()[0].id,)])
        start = first.motions()[0]
        first.kill()
    with Street(tmp_path / "b", {"yard": [[*still(3), *walk(1), *still(2)]]}, broker=broker) as street:
        wait_until(lambda: len(street.motions()) == 3)
        wait_until(lambda: street.open_ids()[-1:] == [()])
    (ended,) = (event for event in street.motions() if event.motion_id == start.id)
    own_start, own_end = (event for event in street.motions() if event is not ended)
    assert (ended.type, ended.ended) == ("end", "interrupted")
    assert ended.started_at == start.at
    assert (own_start.type, own_end.type) == ("start", "end")
    assert own_start.motion_id == own_end.motion_id


@pytest.mark.parametrize("forgets", [False, True])
def test_what_a_killed_process_left_open_is_ended_once_by_the_next(tmp_path: Path, *, forgets: bool) -> None:
    broker = MemoryBroker()
    with Street(tmp_path, {"yard": [[*still(3), *walk(2)]]}, broker=broker) as first:
        wait_until(lambda: first.motions() and first.open_ids()[-1:] == [(first.motions()[0].id,)])
        start = first.motions()[0]
        first.kill()
    ends = []
    for _ in range(3):
        if forgets:
            broker.forget()
        with Street(tmp_path, {"yard": [still(2)]}, broker=broker) as street:
            wait_until(lambda: street.open_ids() == [()])
            wait_until(lambda: street.looked_at == 20)
            wait_until(lambda: street.bus.statistics().awaiting_receipt == street.bus.statistics().outbox_rows)
            ends += [event for event in street.motions() if event.type == "end"]
            street.kill()
    assert {event.id for event in ends} == {ends[0].id}, "the same message may come again, until its receipt"
    assert (ends[0].motion_id, ends[0].ended, ends[0].started_at) == (start.id, "interrupted", start.at)


def test_what_another_node_has_ended_since_is_not_ended_again_by_the_node_that_comes_back(tmp_path: Path) -> None:
    broker = MemoryBroker()
    with Street(tmp_path / "a", {"yard": [[*still(3), *walk(2)]]}, broker=broker) as first:
        wait_until(lambda: first.motions() and first.open_ids()[-1:] == [(first.motions()[0].id,)])
        first.kill()
    second = Street(tmp_path / "b", {"yard": [still(2)]}, broker=broker)
    second.clock.advance(60)
    with second:
        wait_until(lambda: [event for event in second.motions() if event.type == "end"])
    with Street(tmp_path / "a", {"yard": [still(2)]}, broker=broker) as third:
        wait_until(lambda: third.looked_at == 20)
        wait_until(lambda: third.open_ids() == [()])
        wait_until(lambda: third.bus.statistics().awaiting_receipt == third.bus.statistics().outbox_rows)
    assert [event for event in third.motions() if event.type == "end"] == []


def test_a_reconnect_does_not_end_what_still_moves(tmp_path: Path) -> None:
    with Street(tmp_path, {"yard": [[*still(3), *walk(2)]]}) as street:
        wait_until(lambda: street.looked_at == 50)
        street.broker.stop()
        wait_until(lambda: not street.bus.connected)
        street.broker.start()
        wait_until(lambda: street.bus.connected)
        wait_until(lambda: len([d for d in street.said if d.topic.spec is CAMERA_MOTION_OPEN]) > 2)
        street.close()
        wait_until(lambda: street.motions()[-1:] and street.motions()[-1].type == "end")
    assert [event.ended for event in street.motions() if event.type == "end"] == ["interrupted"]
    assert street.active()[-1] == "OFF"


def test_without_a_broker_events_wait_and_frames_do_not(tmp_path: Path) -> None:
    street = Street(tmp_path, {"yard": [[*still(3), *walk(2), *still(2)]]})
    street.broker.stop()
    street.node.start()
    street._ready.set()
    wait_until(lambda: street.looked_at == 70)
    figures = street.node.figures()
    assert figures.counts["frames_sent"] == 0
    assert figures.drops["frames_unsent_here"] > 10
    assert street.bus.statistics().outbox_rows == 3
    street.close()


def test_a_full_outbox_is_counted_and_the_camera_goes_on(tmp_path: Path) -> None:
    street = Street(tmp_path, {"yard": [[*still(2), *walk(1), *still(2)] * 3]}, outbox_rows_max=4)
    street.broker.stop()
    street.node.start()
    street._ready.set()
    wait_until(lambda: street.looked_at == 150)
    assert street.node.figures().drops["motion_refused"] == 2
    street.close()


def test_an_end_that_the_disk_did_not_take_is_said_at_the_latest_when_the_process_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock()
    outbox = Outbox(tmp_path / "edge.db", origin="node-1.edge")
    bus = Bus(site="home", origin="node-1.edge", transports=MemoryBroker().transports("edge"), outbox=outbox)
    reports = MotionReports(bus, "yard", clock=clock)
    reports.motion("start", at=clock.now(), seq=1)
    with monkeypatch.context() as full:
        full.setattr(bus, "publish_event", _full)
        reports.motion("end", at=clock.now(), seq=2)
    assert len(bus.open_events(CAMERA_MOTION)) == 1
    reports.interrupt(3)
    assert bus.open_events(CAMERA_MOTION) == []
    bus.close(0)


def _full(*_: object, **__: object) -> str:
    raise TransientError("the disk is full")


def test_a_frame_that_is_too_large_is_sent_smaller(tmp_path: Path) -> None:
    script = [*still(3), *walk(1), *still(3)]
    with Street(tmp_path, {"yard": [script]}, bus=BusSettings(frame_bytes_max=10_000), jpeg_bytes=10_001) as street:
        wait_until(lambda: street.looked_at == 70)
        wait_until(street.frames)
    assert {(frame.meta.width, frame.meta.height) for frame in street.frames()} == {(100, 75)}
    assert street.node.figures().counts["frames_reduced"] == street.node.figures().counts["frames_sent"] > 5
    assert street.states()[1].error is None


def test_a_broker_that_takes_no_picture_at_all_is_told_and_motion_goes_on(tmp_path: Path) -> None:
    broker = MemoryBroker(packet_bytes_max=800)
    with Street(tmp_path, {"yard": [[*still(3), *walk(1), *still(3)]]}, broker=broker) as street:
        wait_until(lambda: len(street.motions()) == 2)
        wait_until(lambda: street.looked_at == 70)
        wait_until(lambda: len(street.states()) > 1)
    assert street.frames() == []
    online = street.states()[1]
    assert online.state == "online"
    assert "raise bus.frame_bytes_max, or the broker's packet limit" in str(online.error)
    assert street.node.figures().drops["frames_unsent_here"] > 5
    assert street.bus.statistics().link.connections == 1


def test_a_movement_that_goes_on_is_said_again_and_would_expire_at_the_broker(tmp_path: Path) -> None:
    clock = ManualClock()
    broker = MemoryBroker(clock=clock)
    with Street(tmp_path, {"yard": [[*still(3), *walk(25)]]}, broker=broker) as street:
        wait_until(lambda: street.looked_at == 280)
        wait_until(lambda: street.active() == ["OFF", "ON", "ON", "ON"])
        assert retained(broker) == {"ON"}
        clock.advance(31)
        assert retained(broker) == set()
        street.close()
    assert retained(broker) == {"OFF"}
    clock.advance(1e6)
    assert retained(broker) == {"OFF"}


def retained(broker: MemoryBroker) -> set[object]:
    """What somebody who comes now hears of movement."""
    seen: list[Delivery] = []
    bus = Bus(site="home", origin="node-1.late", transports=broker.transports("late"))
    bus.subscribe_filter(everything("home"), seen.append)
    bus.start()
    wait_until(lambda: any(d.topic.spec is CAMERA_STATE for d in seen))
    bus.close(0)
    return {d.content for d in seen if d.topic.spec is CAMERA_MOTION_ACTIVE}


class TestCheckSources:
    def test_no_camera(self) -> None:
        with pytest.raises(ConfigError, match=r"^cameras: there is no camera"):
            check_sources(Settings())

    def test_the_field_is_named(self) -> None:
        settings = Settings.model_validate({"cameras": {"yard": {"source": "file:a.mp4"}, "door": {"source": "ftp:x"}}})
        with pytest.raises(ConfigError, match=r"^cameras\.door\.source: sources of the kind 'ftp' are not known"):
            check_sources(settings)
