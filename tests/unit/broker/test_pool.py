"""Who lives and who does not, as one worker sees it: times come in, nothing waits."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pytest

from broker import Delivery
from broker.messages import CameraOwner, Message, NodeStatus, WorkerBeat, WorkerStatus, encode_json
from broker.peers import BEAT_LOST_S
from broker.pool import Pool, is_wanted
from broker.topics import CAMERA_OWNER, CAMERA_STATE, NODE_STATUS, NODE_WORKER, NODE_WORKER_BEAT, Topic
from tests.support.messages import AT, camera_state

ME = "me.detector"


def sent(topic: Topic, content: Message | None, *, retained: bool = False) -> Delivery:
    payload = b"" if content is None else encode_json(content)
    return Delivery(topic, content, payload, retained, datetime(2026, 1, 1, 12, 0, 1, tzinfo=UTC), lambda: None)


def said(node: str, state: Literal["online", "draining", "offline"] = "online", *, retained: bool = False) -> Delivery:
    status = WorkerStatus(worker=f"{node}.detector", state=state, at=AT, capacity_fps=20.0, classes=("gpu",))
    return sent(NODE_WORKER.at("home", node=node, role="detector"), status, retained=retained)


def beat(node: str) -> Delivery:
    message = WorkerBeat(worker=f"{node}.detector", seq=1, at=AT)
    return sent(NODE_WORKER_BEAT.at("home", node=node, role="detector"), message)


def will(node: str, *, retained: bool = False) -> Delivery:
    status = NodeStatus(node=node, role="detector", state="offline", at=AT, started_at=AT)
    return sent(NODE_STATUS.at("home", node=node, role="detector"), status, retained=retained)


def pool_of(*nodes: str) -> Pool:
    """A pool in which these and `me` have just begun."""
    pool = Pool(ME)
    for node in (*nodes, "me"):
        pool.fold(said(node), 0.0)
    return pool


def test_a_worker_that_says_goodbye_or_drains_takes_nothing() -> None:
    pool = pool_of("a", "b", "c")
    assert pool.fold(said("a", "draining"), 1.0)
    assert pool.fold(said("b", "offline"), 1.0)
    assert [worker.name for worker in pool.workers()] == ["c.detector", ME]
    assert pool.others() == ["a.detector", "c.detector"]
    (first, *_) = pool.workers()
    assert (first.capacity, first.classes) == (20.0, frozenset({"gpu"}))


def test_a_beat_changes_nothing_that_decides() -> None:
    assert not pool_of("a").fold(beat("a"), 1.0)


def test_a_will_counts_at_once_and_a_sign_of_life_after_it_takes_it_back() -> None:
    pool = pool_of("a")
    assert pool.fold(will("a"), 1.0)
    assert pool.others() == []
    assert pool.fold(beat("a"), 1.1)
    assert pool.others() == ["a.detector"]


def test_what_the_broker_says_of_ourselves_does_not_count() -> None:
    pool = pool_of()
    pool.fold(will("me", retained=True), 1.0)
    assert [worker.name for worker in pool.workers()] == [ME]


def test_a_silent_worker_is_dead_after_a_while_and_not_before() -> None:
    pool = pool_of("a", "b")
    pool.fold(beat("b"), 2.5)
    assert pool.judge(BEAT_LOST_S) == []
    assert not pool.is_overdue(BEAT_LOST_S)
    pool.fold(beat("b"), BEAT_LOST_S)
    assert pool.is_overdue(BEAT_LOST_S + 0.1)
    assert pool.judge(BEAT_LOST_S + 0.1) == ["a.detector"]
    assert pool.others() == ["b.detector"]
    assert pool.fold(beat("a"), 9.0)
    assert pool.others() == ["a.detector", "b.detector"]


def test_the_only_other_worker_may_be_dead() -> None:
    pool = pool_of("a")
    assert pool.judge(BEAT_LOST_S + 0.1) == ["a.detector"]


def test_when_all_others_fall_silent_at_once_it_is_the_bus() -> None:
    pool = pool_of("a", "b")
    pool.fold(beat("b"), 0.9)  # beats have any phase
    for now_s in (3.1, 3.5, 60.0):
        assert pool.judge(now_s) == []
    assert pool.doubts == 1
    assert pool.others() == ["a.detector", "b.detector"]


def test_the_brokers_own_word_counts_also_then() -> None:
    pool = pool_of("a", "b")
    assert pool.judge(10.0) == []
    pool.fold(will("a"), 30.0)
    assert pool.others() == ["b.detector"]


def test_one_that_goes_on_ends_the_doubt() -> None:
    pool = pool_of("a", "b")
    assert pool.judge(10.0) == []
    pool.fold(beat("b"), 10.5)
    assert pool.judge(11.0) == ["a.detector"]


def test_wills_of_a_dying_broker_are_void() -> None:
    pool = pool_of("a", "b")
    pool.confirm()
    pool.fold(will("a"), 5.0)
    pool.connected(6.0)
    assert pool.others() == ["a.detector", "b.detector"]
    pool.fold(will("b", retained=True), 6.1)  # it kept what it said when it died
    assert pool.others() == ["a.detector", "b.detector"]
    assert pool.judge(15.9) == []  # the others may take a while to come back
    pool.fold(beat("b"), 15.9)
    assert pool.judge(16.1) == ["a.detector"]


def test_a_will_that_the_broker_has_answered_for_stays() -> None:
    pool = pool_of("a", "b")
    pool.fold(will("a"), 5.0)
    pool.confirm()
    pool.connected(6.0)
    assert pool.others() == ["b.detector"]


def test_a_will_that_is_kept_tells_a_newcomer_who_is_dead() -> None:
    pool = Pool(ME)
    pool.fold(said("a", retained=True), 0.0)
    pool.fold(will("a", retained=True), 0.0)
    assert pool.others() == []


def test_nobody_is_blamed_for_the_time_in_which_the_bus_stood_still() -> None:
    pool = pool_of("a", "b")
    pool.resumed(60.0)
    pool.fold(beat("b"), 62.0)
    assert pool.judge(62.9) == []
    assert pool.judge(63.1) == ["a.detector"]


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, True),
        ({"privacy": True}, False),
        ({"detection": False}, False),
        ({"mode": "off"}, False),
        ({"scored_by": "node"}, False),
        ({"state": "offline", "at": AT - timedelta(seconds=30)}, True),
        ({"state": "error", "at": AT - timedelta(seconds=90)}, False),
    ],
)
def test_which_cameras_are_for_workers(changes: dict[str, Any], wanted: bool) -> None:  # noqa: FBT001
    assert is_wanted(camera_state(**changes), AT) is wanted


def test_a_cameras_state_and_owner_make_its_demand() -> None:
    pool = pool_of()
    yard, owner = CAMERA_STATE.at("home", camera="yard"), CAMERA_OWNER.at("home", camera="yard")
    assert pool.fold(sent(yard, camera_state(demand_fps=2.0, worker_class="gpu", labels=("person",))), 0.0)
    assert not pool.fold(sent(yard, camera_state(demand_fps=2.0, worker_class="gpu", labels=("person",), fps=1.0)), 0.0)
    assert pool.fold(sent(owner, CameraOwner(camera="yard", worker="a.detector", epoch=4, at=AT)), 0.0)
    (demand,) = pool.demands(AT)
    assert (demand.name, demand.rate, demand.worker_class, demand.owner) == ("yard", 2.0, "gpu", "a.detector")
    assert demand.labels == {"person"}
    assert pool.fold(sent(yard, None), 0.0)
    assert pool.demands(AT) == ()


def test_a_camera_that_does_not_say_asks_for_the_usual() -> None:
    pool = pool_of()
    pool.fold(sent(CAMERA_STATE.at("home", camera="yard"), camera_state()), 0.0)
    assert pool.demands(AT)[0].rate == 5.0
