"""A seed always means the same faults, and no fault outlives its schedule."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from console.chaos.schedule import BROKER, KEEPALIVE_S, NETWORK_KINDS, ROLES, Fault, FaultKind, make_schedule

SEEDS = st.integers(0, 10**9)
DURATIONS_S = st.floats(0.5, 120.0)
KINDS = st.sets(st.sampled_from(FaultKind))


@given(SEEDS, DURATIONS_S, KINDS)
def test_the_same_seed_means_the_same_faults(seed: int, duration_s: float, kinds: set[FaultKind]) -> None:
    assert make_schedule(seed, duration_s, kinds) == make_schedule(seed, duration_s, sorted(kinds))


@given(SEEDS, DURATIONS_S, KINDS)
def test_every_fault_is_wanted_and_over_in_time(seed: int, duration_s: float, kinds: set[FaultKind]) -> None:
    schedule = make_schedule(seed, duration_s, kinds)
    assert {fault.kind for fault in schedule} <= kinds
    for fault in schedule:
        assert fault.at_s >= 0
        assert fault.length_s >= 0
        assert fault.end_s <= duration_s + 1e-9
    assert all(one.at_s < next_one.at_s for one, next_one in pairwise(schedule))


@given(SEEDS, DURATIONS_S)
def test_a_role_has_one_fault_of_a_layer_at_a_time(seed: int, duration_s: float) -> None:
    for one, other in combinations(make_schedule(seed, duration_s), 2):
        if one.kind.layer == other.kind.layer and set(one.targets) & set(other.targets):
            assert one.end_s <= other.at_s


def test_a_process_may_be_killed_while_its_disk_is_full() -> None:
    schedules = [make_schedule(seed, 60.0, (FaultKind.KILL, FaultKind.DISK)) for seed in range(20)]
    assert any(
        disk.kind is FaultKind.DISK
        and kill.kind is FaultKind.KILL
        and disk.targets == kill.targets
        and disk.at_s < kill.at_s < disk.end_s
        for schedule in schedules
        for disk, kill in combinations(schedule, 2)
    )


@given(SEEDS, DURATIONS_S)
def test_faults_happen_to_those_who_can_have_them(seed: int, duration_s: float) -> None:
    for fault in make_schedule(seed, duration_s):
        assert fault.targets
        assert set(fault.targets) <= {BROKER, *ROLES}
        if fault.kind in NETWORK_KINDS or fault.kind is FaultKind.DISK:
            assert BROKER not in fault.targets
        elif fault.kind is FaultKind.CRASH:
            assert fault.targets == (BROKER, *ROLES)
        else:
            assert len(fault.targets) == 1
        if fault.kind is FaultKind.FORGET:
            assert fault.targets == (BROKER,)


@pytest.mark.parametrize("seed", range(1, 21))
def test_a_minute_has_every_kind_and_one_freeze_beyond_the_keepalive(seed: int) -> None:
    schedule = make_schedule(seed, 60.0)
    assert {fault.kind for fault in schedule} == set(FaultKind)
    long = [f for f in schedule if f.kind is FaultKind.FREEZE and f.length_s > 1.5 * KEEPALIVE_S]
    assert len(long) == 1
    assert sum(fault.kind is FaultKind.CRASH for fault in schedule) <= 2


def test_seeds_differ() -> None:
    assert len({make_schedule(seed, 30.0) for seed in range(50)}) == 50


def test_a_fault_is_told_in_a_line() -> None:
    assert Fault(3.2, FaultKind.KILL, ("edge",), 1.25).told() == "   3.2 s  kill        edge       back after 1.2 s"
    assert Fault(0.3, FaultKind.RESET, ROLES, 0.0).told() == "   0.3 s  reset       all links"
    assert Fault(9.0, FaultKind.CLOCK, ("drill",), 0.0, -30.0).told().endswith("clock       drill      -30 s")
