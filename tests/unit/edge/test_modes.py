from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.modes import FrameGate, Movement


def steps(moving: str, hold_s: float = 0.5) -> list[tuple[int, str]]:
    """What a movement says of pictures a tenth of a second apart; ``x`` moves."""
    movement = Movement(hold_s)
    told = ((number, movement.step(moving=mark == "x", at_s=number / 10)) for number, mark in enumerate(moving))
    return [(number, step) for number, step in told if step is not None]


def test_stillness_says_nothing() -> None:
    assert steps("." * 50) == []


def test_a_movement_starts_at_once_and_ends_after_the_hold() -> None:
    assert steps("..xxx.........") == [(2, "start"), (9, "end")]


def test_a_pause_shorter_than_the_hold_is_part_of_it() -> None:
    assert steps("xx....xx....x......") == [(0, "start"), (12, "update"), (17, "end")]


def test_it_is_told_on_once_a_second() -> None:
    assert steps("x" * 32) == [(0, "start"), (10, "update"), (20, "update"), (30, "update")]


def test_there_are_no_updates_while_it_rests() -> None:
    assert steps("x" + "." * 30, hold_s=2.5) == [(0, "start"), (25, "end")]


@given(st.text("x.", max_size=200))
def test_starts_and_ends_alternate_and_updates_lie_between(moving: str) -> None:
    told = [step for _, step in steps(moving)]
    open_now = False
    for step in told:
        assert open_now == (step != "start")
        open_now = step != "end"


@pytest.mark.parametrize(
    ("source_fps", "wanted_fps", "passed"), [(10, 5, 50), (10, 1, 10), (12, 5, 50), (10, 30, 100), (30, 7, 70)]
)
def test_the_gate_keeps_its_rate(source_fps: int, wanted_fps: float, passed: int) -> None:
    gate = FrameGate()
    assert sum(gate.passes(n / source_fps, wanted_fps) for n in range(10 * source_fps)) == pytest.approx(passed, abs=1)


@given(st.lists(st.floats(0.001, 3), min_size=1, max_size=200), st.floats(0.5, 30))
def test_the_gate_never_lets_a_burst_through(gaps_s: list[float], fps: float) -> None:
    gate = FrameGate()
    passed = [at_s for at_s in itertools.accumulate(gaps_s) if gate.passes(at_s, fps)]
    assert passed
    for first, third in zip(passed, passed[2:], strict=False):
        assert third - first > 1 / fps * 0.89


def test_the_gate_opens_when_told() -> None:
    gate = FrameGate()
    assert gate.passes(0.0, 1)
    assert not gate.passes(0.3, 1)
    gate.open_now()
    assert gate.passes(0.4, 5)
    assert not gate.passes(0.5, 5)
    assert gate.passes(0.6, 5)
