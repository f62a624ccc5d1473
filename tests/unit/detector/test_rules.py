from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.messages import Detection
from config.settings import PresenceRule
from detector.rules import Firing, PresenceWatch


def seen(score: float = 0.9, label: str = "person") -> list[Detection]:
    return [Detection(label=label, score=score, box=(0.1, 0.1, 0.3, 0.9), box_px=(10, 10, 30, 90))]


def watch(**changes: object) -> PresenceWatch:
    return PresenceWatch("presence", PresenceRule.model_validate({"cooldown_s": 0, **changes}))


def fired(rule: PresenceWatch, frames: str, *, camera: str = "yard", start_s: float = 0.0) -> list[int]:
    """Places at which a sequence fires; ``x`` is a frame with a person, ``.`` one without; one a second."""
    return [
        place
        for place, mark in enumerate(frames)
        if rule.feed(camera, start_s + place, seen() if mark == "x" else []) is not None
    ]


def test_it_fires_when_seen_in_enough_of_the_last_frames() -> None:
    assert fired(watch(hits=3, window=5), "x.x.x") == [4]


def test_it_stays_quiet_when_the_hits_are_spread_too_far() -> None:
    assert fired(watch(hits=3, window=5), "x..x..x..x") == []


def test_it_fires_only_on_a_frame_that_shows_it() -> None:
    assert fired(watch(hits=2, window=5), "xx....") == [1]
    assert fired(watch(hits=1, window=5, cooldown_s=3), "x...x") == [0, 4]


def test_one_hit_of_one_frame_fires_each_time() -> None:
    assert fired(watch(hits=1, window=1), "x.xx") == [0, 2, 3]


def test_it_is_quiet_during_the_cooldown_and_speaks_again_after_it() -> None:
    assert fired(watch(hits=1, window=1, cooldown_s=10), "x" * 25) == [0, 10, 20]


def test_the_cooldown_runs_on_the_frames_time() -> None:
    rule = watch(hits=1, window=1, cooldown_s=10)
    assert rule.feed("yard", 1000.0, seen()) is not None
    assert rule.feed("yard", 1009.9, seen()) is None
    assert rule.feed("yard", 1010.0, seen()) is not None


def test_cameras_have_windows_and_cooldowns_of_their_own() -> None:
    rule = watch(hits=2, window=2, cooldown_s=100)
    assert rule.feed("yard", 0, seen()) is None
    assert rule.feed("gate", 0, seen()) is None
    assert rule.feed("yard", 1, seen()) is not None
    assert rule.feed("gate", 1, seen()) is not None


@pytest.mark.parametrize(
    ("score", "label", "fires"),
    [(0.5, "person", True), (0.49, "person", False), (0.9, "dog", False), (1.0, "person", True)],
)
def test_label_and_score_decide_what_counts(score: float, label: str, *, fires: bool) -> None:
    rule = watch(hits=1, window=1, min_score=0.5)
    assert (rule.feed("yard", 0, seen(score, label)) is not None) is fires


def test_other_cameras_are_left_alone() -> None:
    rule = watch(hits=1, window=1, cameras=("gate",))
    assert rule.feed("yard", 0, seen()) is None
    assert rule.feed("gate", 0, seen()) is not None


def test_a_clock_that_is_set_back_does_not_silence_it() -> None:
    rule = watch(hits=1, window=1, cooldown_s=60)
    assert rule.feed("yard", 10_000, seen()) is not None
    assert rule.feed("yard", 6_400, seen()) is not None
    assert rule.feed("yard", 6_401, seen()) is None


def test_two_frames_in_the_wrong_order_start_nothing_over() -> None:
    rule = watch(hits=1, window=1, cooldown_s=60)
    assert rule.feed("yard", 10.0, seen()) is not None
    assert rule.feed("yard", 9.9, seen()) is None


def test_the_firing_carries_what_counts_best_first() -> None:
    firing = watch(hits=1, window=1).feed("yard", 0, [*seen(0.6), *seen(0.9, "dog"), *seen(0.8), *seen(0.2)])
    assert isinstance(firing, Firing)
    assert [d.score for d in firing.detections] == [0.8, 0.6]
    assert firing.summary == "person and 1 more on yard: seen in 1 of 1 frames, best score 0.80"


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 6), st.integers(0, 5), st.integers(0, 8))
def test_between_two_firings_lies_the_cooldown_and_each_has_its_hits(
    frames: list[bool], hits: int, more: int, cooldown_s: int
) -> None:
    window = hits + more
    rule = watch(hits=hits, window=window, cooldown_s=cooldown_s)
    places = fired(rule, "".join("x" if person else "." for person in frames))
    for place in places:
        assert frames[place]
        assert sum(frames[max(0, place - window + 1) : place + 1]) >= hits
    assert all(later - earlier >= max(1, cooldown_s) for earlier, later in itertools.pairwise(places))
