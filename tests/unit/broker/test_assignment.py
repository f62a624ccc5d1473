"""Who takes what: the promises of the assignment, on whatever workers and demands."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.assignment import Assignment, Demand, Worker, assign, obstacle

CLASSES = ("gpu", "edge")
LABELS = ("person", "car", "dog")
NAMES = [f"camera-{number}" for number in range(40)]


def worker_of(number: int, capacity: float, classes: frozenset[str], labels: frozenset[str]) -> Worker:
    return Worker(f"node-{number}.detector", capacity, classes, labels)


rates = st.floats(0.1, 12.0)
workers_of_any_kind = st.lists(
    st.builds(
        worker_of,
        st.integers(0, 9),
        st.floats(0.0, 60.0),
        st.frozensets(st.sampled_from(CLASSES)),
        st.frozensets(st.sampled_from(LABELS)),
    ),
    max_size=6,
    unique_by=lambda worker: worker.name,
)
owners = st.one_of(st.just(""), st.integers(0, 9).map(lambda number: f"node-{number}.detector"))
demands_of_any_kind = st.lists(
    st.builds(
        Demand,
        st.sampled_from(NAMES),
        rates,
        st.sampled_from(("", "", *CLASSES)),
        st.frozensets(st.sampled_from(LABELS), max_size=1),
        owners,
    ),
    max_size=30,
    unique_by=lambda demand: demand.name,
)
plain_workers = st.lists(
    st.builds(worker_of, st.integers(0, 9), st.floats(5.0, 60.0), st.just(frozenset()), st.just(frozenset())),
    min_size=1,
    max_size=6,
    unique_by=lambda worker: worker.name,
)
plain_demands = st.lists(
    st.builds(Demand, st.sampled_from(NAMES), rates), max_size=30, unique_by=lambda demand: demand.name
)


modest_demands = st.lists(
    st.builds(Demand, st.sampled_from(NAMES), rates, owner=owners, least=st.just(0.5)),
    max_size=30,
    unique_by=lambda demand: demand.name,
)


def settled(workers: Sequence[Worker], demands: Sequence[Demand]) -> list[Demand]:
    """The demands, with the owners that they get."""
    return with_owners(demands, assign(workers, demands).owners)


def with_owners(demands: Sequence[Demand], owners: dict[str, str]) -> list[Demand]:
    return [dataclasses.replace(demand, owner=owners.get(demand.name, "")) for demand in demands]


def room(worker: Worker, demands: Sequence[Demand], answer: Assignment) -> float:
    taken = (demand for demand in demands if answer.owners.get(demand.name) == worker.name)
    return worker.capacity - sum(min(demand.rate, worker.capacity) for demand in taken)


def moved(before: Sequence[Demand], answer: Assignment) -> dict[str, str]:
    """Where those went that were elsewhere, or nowhere; empty for those that have no place any more."""
    after = {demand.name: answer.owners.get(demand.name, "") for demand in before}
    return {demand.name: after[demand.name] for demand in before if after[demand.name] != demand.owner}


@given(workers_of_any_kind, demands_of_any_kind, st.randoms(use_true_random=False))
def test_same_facts_give_the_same_answer_in_any_order(
    workers: list[Worker], demands: list[Demand], chance: random.Random
) -> None:
    answer = assign(workers, demands)
    assert assign(chance.sample(workers, len(workers)), chance.sample(demands, len(demands))) == answer
    assert sorted((*answer.owners, *answer.orphans)) == sorted(demand.name for demand in demands)


@given(workers_of_any_kind, demands_of_any_kind)
def test_capacity_is_never_exceeded_and_nobody_gets_what_it_cannot_serve(
    workers: list[Worker], demands: list[Demand]
) -> None:
    answer = assign(workers, demands)
    by_name = {worker.name: worker for worker in workers}
    for demand in demands:
        if demand.name in answer.owners:
            assert by_name[answer.owners[demand.name]].serves(demand)
    for worker in workers:
        assert room(worker, demands, answer) > -0.05  # each rate is rounded by less than a thousandth


@given(workers_of_any_kind, demands_of_any_kind)
def test_orphans_are_exactly_the_overflow(workers: list[Worker], demands: list[Demand]) -> None:
    answer = assign(workers, demands)
    for demand in demands:
        if demand.name in answer.orphans:
            for worker in (worker for worker in workers if worker.serves(demand) and worker.capacity >= 0.001):
                assert room(worker, demands, answer) < min(demand.rate, worker.capacity) + 0.05


@given(workers_of_any_kind, demands_of_any_kind)
def test_an_answer_stands_until_the_facts_change(workers: list[Worker], demands: list[Demand]) -> None:
    answer = assign(workers, demands)
    assert assign(workers, with_owners(demands, answer.owners)) == answer


@given(workers_of_any_kind, demands_of_any_kind, st.integers(0, 5))
def test_losing_a_worker_moves_what_it_had_and_what_makes_room_for_the_choosy(
    workers: list[Worker], demands: list[Demand], lost: int
) -> None:
    before = settled(workers, demands)
    left = [worker for number, worker in enumerate(workers) if number != lost]
    gone = {worker.name for worker in workers} - {worker.name for worker in left}
    answer = assign(left, before)
    choices = {demand.name: sum(worker.serves(demand) for worker in left) for demand in demands}
    orphaned = [demand.name for demand in before if not demand.owner or demand.owner in gone]
    for demand in before:
        if demand.name in moved(before, answer) and demand.name not in orphaned:
            assert any(choices[other] < choices[demand.name] for other in orphaned if other in answer.owners)


@given(plain_workers, st.one_of(plain_demands, modest_demands), st.integers(0, 5))
def test_where_all_can_serve_all_losing_a_worker_moves_only_what_it_had(
    workers: list[Worker], demands: list[Demand], lost: int
) -> None:
    before = settled(workers, demands)
    left = [worker for number, worker in enumerate(workers) if number != lost]
    gone = {worker.name for worker in workers} - {worker.name for worker in left}
    for name in moved(before, assign(left, before)):
        assert next(demand for demand in before if demand.name == name).owner in gone


@given(plain_workers, plain_demands)
def test_a_worker_that_joins_takes_only_its_share(workers: list[Worker], demands: list[Demand]) -> None:
    roomy = [dataclasses.replace(worker, capacity=400 + worker.capacity) for worker in workers]
    *there, joining = roomy
    before = settled(there, demands)
    for to in moved(before, assign(roomy, before)).values():
        assert to == joining.name


@given(plain_workers, plain_demands)
def test_a_worker_that_joins_full_ones_moves_nobody_out_of_a_place(
    workers: list[Worker], demands: list[Demand]
) -> None:
    *there, _joining = workers
    before = settled(there, demands)
    answer = assign(workers, before)
    placed = [demand for demand in before if demand.owner]
    assert all(demand.name in answer.owners for demand in placed)


@given(workers_of_any_kind, demands_of_any_kind, st.sets(st.sampled_from(NAMES)))
def test_what_was_claimed_half_way_changes_nothing(
    workers: list[Worker], demands: list[Demand], claimed: set[str]
) -> None:
    answer = assign(workers, demands)
    half = {
        demand.name: answer.owners.get(demand.name, "") if demand.name in claimed else demand.owner
        for demand in demands
    }
    assert assign(workers, with_owners(demands, half)) == answer


@given(workers_of_any_kind, modest_demands)
def test_who_can_do_with_less_is_squeezed_in(workers: list[Worker], demands: list[Demand]) -> None:
    answer = assign(workers, demands)
    least = [dataclasses.replace(demand, rate=demand.floor) for demand in demands]
    assert set(answer.squeezed) <= set(answer.owners)
    for worker in workers:
        assert room(worker, least, answer) > -0.05
        if answer.orphans and worker.capacity >= 0.001:
            assert room(worker, least, answer) < min(0.5, worker.capacity) + 0.05
    assert assign(workers, with_owners(demands, answer.owners)) == answer


def test_there_is_room_for_all_on_a_worker_that_is_slower_than_one_camera_is_fast() -> None:
    answer = assign([Worker("only", 4)], [Demand(name, 5, least=0.5) for name in ("east", "north", "west")])
    assert set(answer.owners.values()) == {"only"}
    assert len(answer.owners) == 3
    assert len(answer.squeezed) == 2


def test_shares_follow_capacity() -> None:
    workers = [Worker("small", 100), Worker("large", 300)]
    answer = assign(workers, [Demand(f"camera-{number}", 0.1) for number in range(1000)])
    assert 650 < list(answer.owners.values()).count("large") < 850


def test_a_demand_that_is_larger_than_any_worker_takes_the_whole_of_the_largest() -> None:
    workers = [Worker("small", 2), Worker("large", 3)]
    answer = assign(workers, [Demand("wide", 5), Demand("narrow", 2)])
    assert answer.owners == {"wide": "large", "narrow": "small"}


def test_a_pinned_camera_gets_the_place_of_one_that_can_go_elsewhere() -> None:
    workers = [Worker("plain", 5), Worker("fast", 5, frozenset({"gpu"}))]
    demands = [Demand("any", 5, owner="fast"), Demand("pinned", 5, "gpu")]
    assert assign(workers, demands).owners == {"any": "plain", "pinned": "fast"}


@pytest.mark.parametrize(
    ("demand", "reason"),
    [
        (Demand("yard", 5, "gpu"), "no worker of class gpu"),
        (Demand("yard", 5, "", frozenset({"dog", "person"})), "no worker knows dog"),
        (Demand("yard", 5, "edge", frozenset({"car", "person"})), "no worker knows car"),
        (Demand("yard", 5, "edge"), "no room"),
    ],
)
def test_an_orphan_has_a_reason(demand: Demand, reason: str) -> None:
    workers = [
        Worker("one", 5, frozenset({"edge"}), frozenset({"person"})),
        Worker("two", 5, labels=frozenset({"car", "person"})),
    ]
    assert obstacle(demand, workers) == reason
    assert obstacle(demand, []) == "no worker"
