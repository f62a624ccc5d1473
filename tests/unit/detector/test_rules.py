"""Rules: each line of the table to the frame, and the same when another worker takes over anywhere in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from broker.messages import OpenEvents, RuleMemory, decode_json, encode_json
from config.rules import Hours, PresenceRule, Rule
from detector.rules import RuleWatch, open_rules
from detector.scene import Scene
from tests.support.rule_cases import CASES, RuleCase, fired_at, open_case
from tests.support.scenes import Actor, Stage, play, upright

RULES: TypeAdapter[dict[str, Rule]] = TypeAdapter(dict[str, Rule])


def told(case: RuleCase) -> str:
    return f"{case.kind}: {case.what}"


@pytest.mark.parametrize("case", CASES, ids=told)
def test_it_fires_at_these_very_seconds(case: RuleCase) -> None:
    assert fired_at(case) == pytest.approx(case.fires_s)


def over_the_bus(memory: RuleMemory) -> RuleMemory:
    """As the next worker reads it."""
    message = OpenEvents(camera="room", at=datetime.now(UTC), rules={"rule": memory})
    return decode_json(OpenEvents, encode_json(message), max_bytes=64_000).rules["rule"]


def with_short_memory(scene: Scene, begun_s: float) -> Scene:
    """The scene as a worker knows it that took over at a moment: of the way before, the last place."""
    tracks = []
    for track in scene.tracks:
        lately = track.path[-50:]
        before = [step for step in lately if step.at_s < begun_s][-1:]
        tracks.append(replace(track, path=(*before, *(step for step in lately if step.at_s >= begun_s))))
    return replace(scene, tracks=tuple(tracks))


def fired_with_hand_over(case: RuleCase, cut: float) -> tuple[float, ...]:
    """The seconds at which it fires when another worker takes over after a part of the frames."""
    frames = list(play(case.stage))
    place = min(round(cut * len(frames)), len(frames) - 1)
    first, second = open_case(case), open_case(case)
    fired = [play_s for play_s, scene in frames[:place] if first.look(scene) is not None]
    second.recall(over_the_bus(first.memory()))
    begun_s = frames[place][1].at_s
    for play_s, scene in frames[place:]:
        if second.look(with_short_memory(scene, begun_s)) is not None:
            fired.append(play_s)
    return tuple(fired)


@given(case=st.sampled_from(CASES), cut=st.floats(0, 1))
def test_a_hand_over_in_the_middle_repeats_nothing_and_loses_nothing(case: RuleCase, cut: float) -> None:
    fired = fired_with_hand_over(case, cut)
    # Until when somebody watched is known to 5 s, and of a box that went wrong nothing is told.
    assert len(fired) == len(case.fires_s)
    assert fired == pytest.approx(case.fires_s, abs=5.0)


def opened(
    rules: Mapping[str, Mapping[str, object]], zones: tuple[str, ...] = (), camera: str = "room"
) -> tuple[RuleWatch, ...]:
    return open_rules(RULES.validate_python(rules), camera, zones)


def test_a_rule_watches_the_cameras_that_it_names_and_those_that_have_its_zones() -> None:
    rules: dict[str, Mapping[str, object]] = {
        "all": {},
        "hall": {"cameras": ["hall"]},
        "bed": {"kind": "dwell", "zones": ["bed", "sofa"]},
    }
    assert [watch.name for watch in opened(rules)] == ["all"]
    assert [watch.name for watch in opened(rules, camera="hall")] == ["all", "hall"]
    assert [watch.name for watch in opened(rules, zones=("sofa", "door"))] == ["all", "bed"]


SENTENCES = {
    "presence": "person on room: seen for 1 s, score 0.80",
    "dwell": "person on room stays for 30 s",
    "line-cross": "person on room crossed the line of line-cross leftwards",
    "absence": "no person seen in room for 1 min 0 s",
    "long-time-still": "person on room has not moved for 1 min 0 s",
    "on-the-ground": "person on room lies on the ground for 10 s",
    "count": "3 x person on room for 2 s: 3 or more",
}


@pytest.mark.parametrize("kind", SENTENCES)
def test_a_person_reads_what_happened(kind: str) -> None:
    case = next(case for case in CASES if case.kind == kind)
    watch = open_case(case)
    firing = next(found for _, scene in play(case.stage) if (found := watch.look(scene)) is not None)
    assert firing.summary == SENTENCES[kind]
    assert (firing.rule, firing.camera, firing.settings.kind) == (kind, "room", kind)
    assert [found.track_id for found in firing.detections] == [track.track_id for track in firing.tracks]
    assert bool(firing.tracks) == (kind != "absence")


def test_a_zone_is_named_and_others_are_counted() -> None:
    zones = {"door": ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0))}
    there = tuple(Actor(((0, upright(x)), (9, upright(x))), score=x) for x in (0.6, 0.9))
    (watch,) = opened({"somebody": {"zones": ["door"]}}, ("door",))
    fired = [found for _, scene in play(Stage(there, 9, zones=zones)) if (found := watch.look(scene)) is not None]
    assert [found.summary for found in fired] == ["person and 1 more in door on room: seen for 1 s, score 0.90"]


def test_it_says_how_near_it_came_and_what_was_missing() -> None:
    (watch,) = opened({"stays": {"kind": "dwell", "for_s": 40}})
    came: list[tuple[float, str]] = []
    for _, scene in play(Stage((Actor(((0, upright(0.5)), (30, upright(0.5)))),), 60)):
        assert watch.look(scene) is None
        if watch.progress is not None:
            came.append((watch.progress.part, watch.progress.missing))
    part, missing = max(came)
    assert part == pytest.approx(0.75)
    assert missing == "10.0 s more"
    assert watch.progress is None, "nobody is there any more"


def test_what_is_remembered_stays_small_in_a_crowd_and_forgets_who_left() -> None:
    crowd = tuple(Actor(((k / 10, upright(0.5)), (k / 10 + 5, upright(0.5)))) for k in range(100))
    rules: dict[str, Mapping[str, object]] = {
        "dwell": {"kind": "dwell"},
        "still": {"kind": "long-time-still"},
        "fall": {"kind": "on-the-ground"},
        "gate": {"kind": "line-cross", "line": [[0.6, 0], [0.6, 1]]},
    }
    watches = opened(rules)
    largest = 0
    for _, scene in play(Stage(crowd, 90, fps=2)):
        for watch in watches:
            watch.look(scene)
        memories = {watch.name: watch.memory() for watch in watches}
        largest = max(largest, len(encode_json(OpenEvents(camera="room", at=datetime.now(UTC), rules=memories))))
    assert 10_000 < largest < 24_000
    assert [len(watch.memory().objects) for watch in watches] == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("hours", "local", "since"),
    [
        ({"start": "08:00", "end": "18:00"}, "2026-01-05T08:00", timedelta(0)),
        ({"start": "08:00", "end": "18:00"}, "2026-01-05T17:59", timedelta(hours=9, minutes=59)),
        ({"start": "08:00", "end": "18:00"}, "2026-01-05T18:00", None),
        ({"start": "22:00", "end": "06:00"}, "2026-01-06T05:00", timedelta(hours=7)),
        ({"start": "22:00", "end": "06:00", "days": ["mon"]}, "2026-01-06T05:00", timedelta(hours=7)),
        ({"start": "22:00", "end": "06:00", "days": ["mon"]}, "2026-01-05T05:00", None),
        ({"start": "22:00", "end": "22:00", "days": ["sun"]}, "2026-01-05T21:00", timedelta(hours=23)),
    ],
)
def test_hours_are_those_of_the_clock_on_the_wall(
    hours: dict[str, object], local: str, since: timedelta | None
) -> None:
    shown = datetime.fromisoformat(local).replace(tzinfo=timezone(timedelta(hours=9)))
    assert Hours.model_validate(hours).running(shown) == since


@pytest.mark.parametrize(
    ("rule", "complaint"),
    [
        ({"kind": "line-cross", "line": [[0.5, 0.5], [0.5, 0.5]]}, "one point"),
        ({"kind": "count"}, "one of `at_least` and `at_most`"),
        ({"kind": "count", "at_least": 2, "at_most": 3}, "one of `at_least` and `at_most`"),
        ({"kind": "fall"}, "does not match any of the expected tags"),
        ({"kind": "dwell", "hits": 3}, "Extra inputs"),
    ],
)
def test_settings_that_cannot_work_are_refused(rule: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        RULES.validate_python({"rule": rule})


def test_a_rule_without_a_kind_is_one_of_presence() -> None:
    assert RULES.validate_python({"rule": {"for_s": 2}}) == {"rule": PresenceRule(for_s=2)}
