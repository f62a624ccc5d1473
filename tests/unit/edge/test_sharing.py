"""Who of a pool watches what: pure, so that everybody comes to the same answer."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from edge.sharing import Taker, share_out

POOL = frozenset({"street"})


def shared(cameras: int, *edges: str) -> dict[str, str]:
    return share_out({f"c{n}": "street" for n in range(cameras)}, {edge: Taker(POOL) for edge in edges})


def owned(owners: dict[str, str], edge: str) -> frozenset[str]:
    return frozenset(camera for camera, name in owners.items() if name == edge)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 30), st.integers(1, 6))
def test_each_has_as_many(cameras: int, edges: int) -> None:
    owners = shared(cameras, *(f"e{n}" for n in range(edges)))
    counts = [len(owned(owners, f"e{n}")) for n in range(edges)]
    assert sum(counts) == cameras
    assert max(counts) - min(counts) <= 1


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 24), st.integers(2, 6))
def test_who_leaves_moves_what_he_had_and_who_comes_gets_his_part_and_nothing_else_moves(
    cameras: int, edges: int
) -> None:
    names = [f"e{n}" for n in range(edges)]
    before = shared(cameras, *names)
    left = {name: Taker(POOL, owned(before, name)) for name in names[1:]}
    after = share_out(dict.fromkeys(before, "street"), left)
    assert {c for c in before if before[c] != after[c]} == owned(before, names[0])
    joined = {name: Taker(POOL, owned(after, name)) for name in names[1:]} | {names[0]: Taker(POOL)}
    again = share_out(dict.fromkeys(before, "street"), joined)
    assert {again[c] for c in after if again[c] != after[c]} <= {names[0]}
    assert len(owned(again, names[0])) in (cameras // edges, cameras // edges + 1)


def test_nobody_takes_more_than_he_may_and_what_is_left_has_nobody() -> None:
    cameras = {f"c{n}": "street" for n in range(7)}
    small = Taker(POOL, cameras_max=2)
    counts = Counter(share_out(cameras, {"a": small, "b": Taker(POOL)}).values())
    assert counts == {"a": 2, "b": 5}
    assert Counter(share_out(cameras, {"a": small, "b": small}).values()) == {"a": 2, "b": 2}


def test_a_pool_is_shared_by_its_own_nodes_only_and_what_they_may_take_is_of_all_pools() -> None:
    cameras = {"c1": "street", "c2": "street", "c3": "yard", "c4": "yard"}
    both = Taker(frozenset({"street", "yard"}), cameras_max=2)
    owners = share_out(cameras, {"a": both, "b": Taker(frozenset({"yard"}))})
    assert owners == {"c1": "a", "c2": "a", "c3": "b", "c4": "b"}
    assert share_out(cameras, {}) == {}
