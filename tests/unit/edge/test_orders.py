"""Orders to cameras and to their process, carried out and answered."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.messages import CommandValue, MotionTrend
from broker.topics import CAMERA_MOTION_TREND, CAMERA_SET, CAMERA_SNAPSHOT, CAMERA_STATE
from config import PermanentError
from config.settings import BusSettings
from tests.support.waiting import wait_until
from tests.unit.edge.scripted import Shot, Street, live, still, walk


def lives(count: int = 4) -> list[Iterator[Shot]]:
    return [live() for _ in range(count)]


def test_each_property_is_set_and_answered_with_the_new_state(tmp_path: Path) -> None:
    orders: list[tuple[str, str | float, str]] = [
        ("mode", "eco", "eco"),
        ("mode", "zoom", "zoom"),
        ("mode", "monitor", "monitor"),
        ("detection", "OFF", "OFF"),
        ("sensitivity", 0.75, "0.75"),
        ("privacy", "ON", "ON"),
        ("privacy", "auto", "OFF"),
    ]
    with Street(tmp_path, {"yard": lives()}) as street:
        wait_until(street.frames)
        for name, value, now in orders:
            street.tell(name, value, about=f"{name}-{value}")
            reply = street.reply(f"{name}-{value}")
            assert (reply.ok, reply.reason, reply.result[name]) == (True, "", now)
            assert reply.result["camera"] == "yard"
        wait_until(lambda: street.states()[-1].detection is False)
        wait_until(lambda: street.frames()[-1].meta.detect is False)
    modes = [state.mode for state in street.states()]
    assert [mode for n, mode in enumerate(modes) if n == 0 or mode != modes[n - 1]] == [
        "monitor",
        "eco",
        "zoom",
        "monitor",
    ]


def test_a_wrong_value_is_refused_with_what_is_allowed(tmp_path: Path) -> None:
    with Street(tmp_path, {"yard": lives()}) as street:
        street.tell("mode", "night", about="a")
        assert street.reply("a").ok is False
        assert "write monitor, zoom, eco, off, or auto" in street.reply("a").reason
        street.tell("colour", "red", about="b")
        assert "known are mode, privacy, detection" in street.reply("b").reason
        street.tell("mode", "night")
        wait_until(street.rejects)
    assert "mode cannot be 'night'" in street.rejects()[0].reason
    assert street.rejects()[0].topic.endswith("camera/yard/set/mode")


def test_an_order_that_comes_again_is_answered_again_and_carried_out_once(tmp_path: Path) -> None:
    with Street(tmp_path, {"yard": lives()}) as street:
        wait_until(street.frames)
        for _ in range(3):
            street.order("restart", "r-1", camera="yard")
        wait_until(lambda: len(street.replies("r-1")) >= 1)
        street.order("restart", "r-1", camera="yard")
        wait_until(lambda: len(street.replies("r-1")) >= 2)
        wait_until(lambda: street.states()[-1].state == "online")
        assert street.node.figures().counts["orders"] == 1
        assert street.node.figures().counts["sources_opened"] == 2
    assert len({reply.result["mode"] for reply in street.replies("r-1")}) == 1


def test_a_retained_order_is_refused(tmp_path: Path) -> None:
    retained = BusSettings.model_validate({"delivery": {"camera_set": {"retain": True}}})
    with Street(tmp_path, {"yard": lives()}) as street:
        street.listener_with(retained).publish(
            CAMERA_SET.at("home", camera="yard", property="mode"), CommandValue(value="off", correlation_id="x")
        )
        assert street.reply("x").ok
        street.broker.cut("edge")
        wait_until(street.rejects)
    assert "must not be retained" in street.rejects()[0].reason


def test_off_closes_the_source_and_on_opens_it_again(tmp_path: Path) -> None:
    with Street(tmp_path, {"yard": [[*still(3), *walk(2)], live()]}) as street:
        wait_until(lambda: "ON" in street.active())
        street.tell("mode", "off", about="off")
        assert street.reply("off").result["mode"] == "off"
        wait_until(lambda: street.sources[0].closed)
        wait_until(lambda: (street.states()[-1].state, street.states()[-1].mode) == ("offline", "off"))
        wait_until(lambda: street.active()[-1] == "OFF")
        street.tell("snapshot", "now", about="s")
        assert "the camera is off" in street.reply("s").reason
        street.tell("mode", "auto", about="on")
        assert street.reply("on").result["mode"] == "monitor"
        wait_until(lambda: street.states()[-1].state == "online")
    assert street.motions()[-1].ended == "interrupted"
    assert len(street.sources) == 2


def test_a_zoom_sends_more_and_larger_frames_and_ends_by_itself(tmp_path: Path) -> None:
    with Street(tmp_path, {"yard": lives()}, idle_fps=1, zoom_fps=10, frame_height_px=96, zoom_height_px=100) as street:
        wait_until(street.frames)
        street.tell("mode", "zoom", about="z")
        until = street.reply("z").result["zoom_until"]
        wait_until(lambda: [frame for frame in street.frames() if frame.meta.mode == "zoom"])
        street.clock.advance(31)
        wait_until(lambda: street.states()[-1].mode == "monitor")
    zoomed = next(state for state in street.states() if state.mode == "zoom" and state.fps == 10)
    assert zoomed.zoom_until is not None
    assert zoomed.zoom_until.isoformat() == until
    heights = {frame.meta.mode: frame.meta.height for frame in street.frames()}
    assert heights == {"monitor": 96, "zoom": 100}
    assert street.states()[-1].zoom_until is None


def test_eco_decodes_keyframes_only_until_something_moves(tmp_path: Path) -> None:
    script = [*still(3), *walk(2), *still(3)]
    with Street(tmp_path, {"yard": [script]}, mode="eco") as street:
        wait_until(lambda: street.looked_at == 80)
        assert street.sources[0].only_keyframes == [True, False, True]
    assert {frame.meta.mode for frame in street.frames()} == {"eco"}


def test_privacy_stops_every_picture_and_takes_the_snapshot_back_and_motion_is_still_told(tmp_path: Path) -> None:
    with Street(tmp_path, {"yard": [[*still(20), *walk(2)]]}) as street:
        street.tell("privacy", "ON", about="p")
        assert street.reply("p").result["privacy"] == "ON"
        hidden = len(street.frames())
        wait_until(lambda: "ON" in street.active())
        wait_until(lambda: street.looked_at == 220)
        street.tell("snapshot", "now", about="s")
        assert street.reply("s").reason == "privacy is on: no picture leaves this node"
        street.tell("clip", 5, about="c")
        assert street.reply("c").reason == "privacy is on: no clip leaves this node"
        wait_until(lambda: street.states()[-1].privacy)
        assert street.states()[-1].error is None
    assert len(street.frames()) == hidden
    assert [d.content for d in street.heard(CAMERA_SNAPSHOT, "yard")] == [None]


def test_what_was_commanded_is_still_known_after_a_restart(tmp_path: Path) -> None:
    with Street(tmp_path, {"yard": lives()}) as street:
        street.tell("privacy", "ON", about="p")
        street.tell("mode", "eco", about="m")
        assert street.reply("m").ok
    with Street(tmp_path, {"yard": lives()}) as street:
        wait_until(lambda: street.states()[-1:] and street.states()[-1].state == "online")
        assert (street.states()[0].mode, street.states()[-1].mode, street.states()[-1].privacy) == ("eco", "eco", True)
        assert street.frames() == []


def test_a_node_that_cannot_read_what_was_commanded_shows_nothing_until_it_is_told_to(tmp_path: Path) -> None:
    (tmp_path / "edge.json").write_text("{")
    with Street(tmp_path, {"yard": lives(), "door": lives()}) as street:
        wait_until(lambda: street.states()[-1:] and street.states()[-1].privacy)
        street.tell("privacy", "auto", about="p")
        assert street.reply("p").result["privacy"] == "OFF"
        wait_until(street.frames)
    with Street(tmp_path, {"yard": lives(), "door": lives()}) as street:
        wait_until(street.frames)
        assert street.frames("door") == []


def test_a_snapshot_on_request_is_retained_and_says_when_it_was_taken(tmp_path: Path) -> None:
    with Street(tmp_path, {"yard": lives()}) as street:
        wait_until(street.frames)
        street.tell("snapshot", "", about="s")
        reply = street.reply("s")
        wait_until(lambda: list(street.heard(CAMERA_SNAPSHOT, "yard")))
    (delivery,) = street.heard(CAMERA_SNAPSHOT, "yard")
    assert delivery.content.meta.captured_at.isoformat() == reply.result["captured_at"]  # type: ignore[union-attr]


def test_snapshots_on_a_schedule(tmp_path: Path) -> None:
    with Street(tmp_path, {"yard": [still(9)]}, snapshot_every_s=4) as street:
        wait_until(lambda: street.looked_at == 90)
        wait_until(lambda: len(list(street.heard(CAMERA_SNAPSHOT, "yard"))) == 3)


def test_a_snapshot_of_a_camera_that_gives_no_pictures_is_refused(tmp_path: Path) -> None:
    with Street(tmp_path, {"yard": [still(1)], "door": [PermanentError("no way to it")]}) as street:
        wait_until(lambda: street.states("door")[-1:] and street.states("door")[-1].state == "error")
        street.tell("snapshot", "now", camera="door", about="d")
        assert "the camera gives no pictures: no way to it" in street.reply("d").reason
        wait_until(lambda: street.looked_at == 10)
        street.tell("snapshot", "now", about="s")
        wait_until(lambda: street.node.figures().counts["orders"] == 2)
        street.clock.advance(11)
        assert "no picture came from the camera within 10 s" in street.reply("s").reason


def test_orders_to_the_process(tmp_path: Path) -> None:
    with Street(tmp_path, {"yard": lives(), "door": lives()}) as street:
        street.order("ping", "1")
        assert street.reply("1").result["cameras"] == "yard, door"
        street.order("set", "2", camera="door", property="mode", value="eco")
        assert street.reply("2").result["mode"] == "eco"
        street.order("restart", "3", camera="gate")
        assert "this node has no camera 'gate'; name one in `camera`: yard, door" in street.reply("3").reason
        street.order("dance", "4")
        assert "there is no order 'dance'; known are ping, reload" in street.reply("4").reason
        street.order("reload", "5")
        assert "started without settings that can change" in street.reply("5").reason


def test_a_camera_that_failed_for_good_comes_back_when_it_is_restarted(tmp_path: Path) -> None:
    with Street(tmp_path, {"yard": [still(1), live()], "door": lives()}, ends=True) as street:
        wait_until(lambda: street.states()[-1:] and street.states()[-1].error == "the source has ended")
        street.order("restart", "r", camera="yard")
        assert street.reply("r").ok
        wait_until(lambda: street.states()[-1].state == "online")
        assert street.states()[-1].error is None


def test_frames_carry_what_is_known_of_them(tmp_path: Path) -> None:
    with Street(tmp_path, {"yard": [still(2), live()]}) as street:
        street.vitals.clock_synchronised = False
        wait_until(lambda: len(street.frames()) > 1)
    meta = street.frames()[-1].meta
    assert meta.expires_at is not None
    assert (meta.expires_at - meta.captured_at).total_seconds() == 5
    assert (meta.mode, meta.detect, meta.recorded, meta.clock_synchronised) == ("monitor", True, False, False)


def test_a_hot_machine_sends_fewer_frames_and_says_so(tmp_path: Path) -> None:
    with Street(tmp_path, {"yard": [still(20)]}, idle_fps=2) as street:
        street.vitals.pace = 0.5
        wait_until(lambda: street.looked_at == 200)
        assert street.node.figures().counts["frames_sent"] == pytest.approx(20, abs=2)
        assert street.states()[-1].fps == 1
    assert [d.content for d in street.heard(CAMERA_STATE, "yard")]


def test_a_camera_whose_thread_hangs_is_said_and_nothing_is_opened_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.camera._LEAVE_S", 0.1)
    hanging, let_go = threading.Event(), threading.Event()

    def hangs() -> Iterator[Shot]:
        yield from still(1)
        hanging.set()
        let_go.wait(60)

    with Street(tmp_path, {"yard": [hangs(), live()], "door": lives()}) as street:
        assert hanging.wait(30)
        street.order("restart", "r", camera="yard")
        assert "its thread hangs" in street.reply("r").reason
        wait_until(lambda: street.states()[-1].state == "error")
        assert street.states()[-1].error == "its thread hangs: restart the node"
        street.tell("mode", "eco", camera="door", about="other")
        assert street.reply("other").ok
        assert len([source for source in street.sources if source.name == "yard"]) == 1
        let_go.set()
        wait_until(lambda: (street.states()[-1].state, street.states()[-1].error) == ("online", None))


def test_movements_become_a_trend(tmp_path: Path) -> None:
    with Street(tmp_path, {"yard": [[*still(3), *walk(2), *still(3)]]}) as street:
        wait_until(lambda: list(street.heard(CAMERA_MOTION_TREND, "yard")))
    (trend,) = [d.content for d in street.heard(CAMERA_MOTION_TREND, "yard")]
    assert isinstance(trend, MotionTrend)
    assert [hour.movements for hour in trend.hours] == [1]
    assert trend.hours[0].moving_s == pytest.approx(3, abs=0.5)
