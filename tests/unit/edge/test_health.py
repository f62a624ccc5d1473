from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import pytest

from broker import Figures, Presence
from broker.machine import MachineFigures
from broker.messages import NodeHealth
from config import ManualClock
from config.service import PATIENCE_S
from config.settings import Settings
from config.supervise import frozen_threads
from edge.health import Cooling, MachineWatch
from edge.watch import Vitals
from tests.support.waiting import wait_until
from tests.unit.edge.scripted import Street, live, still


def at(temperature_c: float | None, *throttled: str) -> MachineFigures:
    return MachineFigures(temperature_c=temperature_c, throttled=throttled, clock_synchronised=True)


def paces(readings: Iterable[tuple[float, MachineFigures]]) -> list[float]:
    cooling = Cooling(hot_c=80)
    return [cooling.step(machine, now_s) for now_s, machine in readings]


class TestCooling:
    def test_a_cool_machine_sends_everything(self) -> None:
        assert paces((s, at(79.9)) for s in range(0, 600, 5)) == [1.0] * 120

    def test_one_that_does_not_tell_sends_everything(self) -> None:
        assert paces((s, at(None)) for s in range(0, 600, 5)) == [1.0] * 120

    def test_a_hot_one_sends_less_step_by_step_and_never_nothing(self) -> None:
        assert paces((s, at(80)) for s in range(0, 60, 5)) == [0.5] * 3 + [0.25] * 9

    def test_it_sends_more_again_when_it_is_well_below_and_later_than_it_sent_less(self) -> None:
        hot = [(s, at(85)) for s in (0, 15)]
        between = [(s, at(76)) for s in range(20, 400, 20)]
        cool = [(s, at(75)) for s in (400, 440, 460, 500, 520)]
        assert paces([*hot, *between, *cool]) == [0.5, 0.25, *[0.25] * 19, 0.5, 0.5, 1.0, 1.0, 1.0]

    def test_it_does_not_swing_about_the_limit(self) -> None:
        wavering = [(s, at(80.5 if s % 10 else 79.5)) for s in range(0, 3600, 5)]
        changes = [b for a, b in zip(paces(wavering), paces(wavering)[1:], strict=False) if a != b]
        assert changes == [0.5, 0.25]

    def test_a_processor_that_slows_itself_down_is_hot_whatever_it_says(self) -> None:
        assert paces([(0, at(None, "throttled")), (20, at(60, "throttled"))]) == [0.5, 0.25]
        assert paces([(0, at(60, "under-voltage", "throttled-occurred"))]) == [1.0]


def test_what_the_machine_is_becomes_the_cameras_vitals_and_is_logged_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock, vitals = ManualClock(), Vitals()
    now = [at(50)]
    watch = MachineWatch(lambda: now[0], vitals, hot_c=80, clock=clock)
    watch.look()
    assert (vitals.pace, vitals.clock_synchronised) == (1.0, True)
    assert capsys.readouterr().out == ""
    now[0] = dataclasses.replace(at(82, "under-voltage"), clock_synchronised=False)
    for _ in range(3):
        watch.look()
    assert (vitals.pace, vitals.clock_synchronised) == (0.5, False)
    assert watch.figures() == now[0]
    said = capsys.readouterr().out
    for event in ("machine.hot", "machine.throttled", "machine.clock_unsynchronised"):
        assert said.count(event) == 1
    now[0] = at(50)
    clock.advance(100)
    watch.look()
    assert (vitals.pace, vitals.clock_synchronised) == (1.0, True)
    said = capsys.readouterr().out
    assert "machine.cooler" in said
    assert "machine.clock_synchronised" in said


def test_a_clock_that_nobody_knows_of_counts_as_right() -> None:
    vitals = Vitals(clock_synchronised=False)
    MachineWatch(MachineFigures, vitals, hot_c=80, clock=ManualClock()).look()
    assert vitals.clock_synchronised is True


def _is_missed_later(street: Street, thread: str) -> bool:
    street.clock.advance(5)
    return thread in frozen_threads(PATIENCE_S)


def test_a_node_whose_only_camera_hangs_is_missed(tmp_path: Path) -> None:
    with Street(tmp_path, {"stuck": [still(1)]}) as street:
        wait_until(lambda: street.node.health()["stuck"].silent_s is not None)
        wait_until(partial(_is_missed_later, street, "camera-stuck"))
    assert "camera-stuck" not in frozen_threads(PATIENCE_S)


def test_a_camera_that_hangs_does_not_end_its_neighbour(tmp_path: Path) -> None:
    with Street(tmp_path, {"stuck": [still(1)], "lively": [live()]}) as street:
        wait_until(lambda: street.node.health()["stuck"].silent_s is not None)
        street.clock.advance(2 * PATIENCE_S)
        seen = street.node.figures().counts["frames_captured"]
        wait_until(lambda: street.node.figures().counts["frames_captured"] > seen + 1)
        wait_until(lambda: not [name for name in frozen_threads(PATIENCE_S) if name.startswith("camera-")])


def test_a_hot_node_sends_fewer_frames_and_one_with_a_wrong_clock_says_so_on_each(tmp_path: Path) -> None:
    street = Street(tmp_path, {"yard": [still(10)]}, idle_fps=2)
    street.vitals.pace = 0.5
    street.vitals.clock_synchronised = False
    with street:
        wait_until(lambda: street.looked_at == 100)
        wait_until(lambda: len(street.frames()) == street.node.figures().counts["frames_sent"])
        assert street.node.figures().counts["frames_percent"] == 50
    metas = [frame.meta for frame in street.frames()]
    assert {later.seq - earlier.seq for earlier, later in itertools.pairwise(metas)} == {10}
    assert {meta.clock_synchronised for meta in metas} == {False}
    assert street.states()[-2].fps == 1


def test_health_tells_of_the_machine_and_of_each_camera(tmp_path: Path) -> None:
    figures = MachineFigures(81.5, ("throttled",), -60.0, clock_synchronised=False)
    with Street(tmp_path, {"yard": [live()]}) as street:
        wait_until(lambda: street.node.figures().counts["frames_captured"] > 20)
        settings = Settings(site="home", node="node-1", state_dir=tmp_path)
        presence = Presence(
            street.bus, settings, "edge", figures=lambda: Figures(cameras=street.node.health()), machine=lambda: figures
        )
        presence.report()
        wait_until(lambda: any(isinstance(said.content, NodeHealth) for said in list(street.said)))
    (health,) = [said.content for said in street.said if isinstance(said.content, NodeHealth)]
    assert (health.temperature_c, health.throttled, health.wifi_dbm) == (81.5, ("throttled",), -60.0)
    assert health.clock_synchronised is False
    assert health.cameras["yard"].fps > 0
    assert health.cameras["yard"].reopened == 0
    assert health.cameras["yard"].silent_s is not None
