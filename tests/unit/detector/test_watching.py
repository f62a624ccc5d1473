from __future__ import annotations

import csv
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.messages import Detection, OpenEvents, decode_json, encode_json
from broker.topics import CAMERA_TRACK_OPEN
from config.cameras import CameraSettings, Zone
from config.rules import PresenceRule, Rule
from config.settings import DetectorSettings, RegionSettings, TrackingSettings
from detector.rules import open_rules
from detector.scene import Box
from detector.watching import CameraWatch, Look, TrackChange
from detector.zones import ZoneMap
from tests.support.messages import AT, frame_meta

WIDTH, HEIGHT = 640, 480
TALL = 0.4
"""Height of a person, in heights of the picture."""


def person(x: float, y: float = 0.8, *, score: float = 0.8, label: str = "person", tall: float = TALL) -> Detection:
    """Somebody whose foot is there."""
    wide = tall * 0.4 * HEIGHT / WIDTH
    box = tuple(min(1.0, max(0.0, side)) for side in (x - wide / 2, y - tall, x + wide / 2, y))
    x1, y1, x2, y2 = box
    pixels = (x1 * WIDTH, y1 * HEIGHT, x2 * WIDTH, y2 * HEIGHT)
    return Detection(label=label, score=score, box=(x1, y1, x2, y2), box_px=pixels)


class Yard:
    """A camera under watch, and all that was said of it."""

    def __init__(
        self,
        *,
        camera: CameraSettings | None = None,
        tracking: TrackingSettings | None = None,
        regions: RegionSettings | None = None,
        rules: Mapping[str, Rule] | None = None,
        prefix: str = "t",
    ) -> None:
        numbers = itertools.count(1)
        camera = camera or CameraSettings(source="test:")
        settings = DetectorSettings(
            tracking=tracking or TrackingSettings(), regions=regions or RegionSettings(), rules=dict(rules or {})
        )
        watches = open_rules(settings.rules, "yard", ZoneMap(camera.zones).names)
        self.watch = CameraWatch("yard", settings, camera, watches, new_id=lambda: f"{prefix}-{next(numbers)}")
        self.said: list[tuple[float, str, str]] = []
        self.ends: list[str | None] = []

    def look(self, at_s: float, *detections: Detection) -> Look:
        """One frame, so many seconds after the start."""
        at = AT + timedelta(seconds=at_s)
        look = self.watch.look(frame_meta(captured_at=at, width=WIDTH, height=HEIGHT), detections)
        self.said.extend((at_s, change.type, change.track.track_id) for change in look.changes)
        self.ends.extend(change.ended for change in look.changes if change.type == "end")
        return look

    def film(self, times: Iterable[float], where: Callable[[float], Sequence[Detection]]) -> Look:
        """Many frames; the last look."""
        look = Look()
        for at_s in times:
            look = self.look(at_s, *where(at_s))
        return look

    def of(self, kind: str) -> list[str]:
        """Objects of which this was said."""
        return [track_id for _, said, track_id in self.said if said == kind]


def every(period_s: float, end_s: float, start_s: float = 0.0) -> list[float]:
    return [start_s + step * period_s for step in range(round((end_s - start_s) / period_s) + 1)]


# --- objects begin and end ------------------------------------------------------------------------------------


def test_an_object_counts_when_it_was_seen_twice_and_for_long_enough() -> None:
    yard = Yard(tracking=TrackingSettings(confirm_s=0.3))
    for at_s in (0.0, 0.1, 0.2):
        assert [one.track_id for one in yard.look(at_s, person(0.5)).detections] == [""]
    look = yard.look(0.35, person(0.5))
    assert [one.track_id for one in look.detections] == ["t-1"]
    assert yard.said == [(0.35, "start", "t-1")]
    (track,) = yard.watch.tracks
    assert track.started_s == AT.timestamp()


def test_what_is_seen_once_is_nothing() -> None:
    yard = Yard(tracking=TrackingSettings(confirm_s=0.0))
    yard.look(0.0, person(0.5))
    yard.film(every(0.1, 5.0, 0.1), lambda _: ())
    assert yard.said == []


def test_an_object_begins_with_a_good_score_and_goes_on_with_less() -> None:
    yard = Yard(tracking=TrackingSettings(min_score=0.5))
    yard.film(every(0.1, 1.0), lambda _: (person(0.5, score=0.4),))
    assert yard.said == []
    yard.look(1.1, person(0.5, score=0.6))
    yard.film(every(0.1, 3.0, 1.2), lambda _: (person(0.5, score=0.4),))
    assert yard.of("start") == ["t-1"]
    assert yard.watch.tracks[0].score == 0.4


def test_it_has_left_when_it_was_not_seen_for_a_while() -> None:
    yard = Yard(tracking=TrackingSettings(lost_s=2.0))
    yard.film(every(0.1, 1.0), lambda _: (person(0.5),))
    yard.film(every(0.1, 2.9, 1.1), lambda _: ())
    assert yard.of("end") == []
    assert len(yard.watch.tracks) == 1
    yard.film(every(0.1, 3.3, 3.0), lambda _: ())
    assert (yard.of("end"), yard.ends) == (["t-1"], ["left"])
    assert not yard.watch.tracks


def test_a_rarely_sent_frame_in_which_it_is_missed_is_not_an_end() -> None:
    yard = Yard(tracking=TrackingSettings(lost_s=2.0))
    for at_s, there in ((0, True), (2, True), (4, True), (6, False), (8, True), (10, False), (12, False)):
        yard.look(at_s, *([person(0.5)] if there else []))
    assert len(yard.of("start")) == 1
    assert [at_s for at_s, kind, _ in yard.said if kind == "end"] == [12]


@pytest.mark.parametrize("fps", [0.5, 1, 2, 5, 10, 25])
def test_somebody_who_walks_is_one_object_at_every_rate(fps: float) -> None:
    yard = Yard()
    # 0.8 of its own height a second, from left to right.
    pace = 0.8 * TALL * HEIGHT / WIDTH
    yard.film(every(1 / fps, 3.0 if fps > 1 else 4.0), lambda at_s: (person(0.05 + pace * at_s),))
    assert (len(yard.of("start")), yard.of("end")) == (1, [])
    assert yard.watch.tracks[0].speed == pytest.approx(0.8 * TALL, rel=0.1)


def test_two_who_pass_each_other_stay_two() -> None:
    yard = Yard()
    # One is nearer to the camera, so the boxes overlap and their feet do not.
    yard.film(every(0.1, 6.0), lambda s: (person(0.2 + 0.1 * s, 0.75), person(0.8 - 0.1 * s, 0.9)))
    assert (yard.of("start"), yard.of("end")) == (["t-1", "t-2"], [])
    ends = {track.track_id: track.path[-1].foot[0] for track in yard.watch.tracks}
    assert ends == {"t-1": pytest.approx(0.8), "t-2": pytest.approx(0.2)}


def test_a_person_and_a_dog_at_one_place_are_two() -> None:
    yard = Yard()
    look = yard.film(every(0.1, 1.0), lambda _: (person(0.5), person(0.5, label="dog")))
    assert {one.label: one.track_id for one in look.detections} == {"person": "t-1", "dog": "t-2"}


# --- time -----------------------------------------------------------------------------------------------------


def test_a_clock_that_is_set_back_ends_everything_and_starts_over() -> None:
    yard = Yard()
    yard.film(every(0.1, 101.0, 100.0), lambda _: (person(0.5),))
    yard.film(every(0.1, 1.0), lambda _: (person(0.5),))
    assert (yard.of("start"), yard.of("end"), yard.ends) == (["t-1", "t-2"], ["t-1"], ["interrupted"])


def test_a_frame_that_comes_a_little_late_is_left_alone() -> None:
    yard = Yard()
    yard.film(every(0.1, 1.0), lambda _: (person(0.5),))
    look = yard.look(0.95, person(0.5))
    assert (look.changes, [one.track_id for one in look.detections]) == ((), [""])
    assert yard.watch.tracks[0].seen_s == AT.timestamp() + 1.0


def test_after_a_pause_nobody_knows_whether_it_is_the_same() -> None:
    yard = Yard()
    yard.film(every(0.1, 3.0), lambda at_s: (person(0.2 + 0.1 * at_s),))
    yard.film(every(0.1, 20.0, 19.0), lambda _: (person(0.5),))
    assert (yard.of("start"), yard.of("end"), yard.ends) == (["t-1", "t-2"], ["t-1"], ["interrupted"])


def test_what_stands_still_is_the_same_after_a_pause() -> None:
    yard = Yard(tracking=TrackingSettings(still_s=2.0))
    yard.film(every(0.1, 5.0), lambda _: (person(0.5),))
    yard.film(every(0.1, 66.0, 65.0), lambda _: (person(0.5),))
    assert (yard.of("start"), yard.of("end")) == (["t-1"], [])
    assert yard.watch.tracks[0].still_since_s == AT.timestamp()


def test_what_stood_still_and_is_gone_after_a_pause_ends_without_a_reason() -> None:
    yard = Yard(tracking=TrackingSettings(still_s=2.0))
    yard.film(every(0.1, 5.0), lambda _: (person(0.5),))
    yard.film(every(0.5, 80.0, 65.0), lambda _: ())
    assert (yard.of("end"), yard.ends) == (["t-1"], ["interrupted"])


# --- what counts ----------------------------------------------------------------------------------------------


def test_what_stands_in_an_excluded_zone_is_left_out() -> None:
    left = Zone(points=((0, 0), (0.4, 0), (0.4, 1), (0, 1)), kind="exclude")
    yard = Yard(camera=CameraSettings(source="test:", zones={"street": left}))
    look = yard.film(every(0.1, 1.0), lambda _: (person(0.2), person(0.7)))
    assert [one.box for one in look.detections] == [person(0.7).box]
    assert yard.of("start") == ["t-1"]


def test_labels_that_nobody_asked_for_are_left_out() -> None:
    yard = Yard(camera=CameraSettings(source="test:", labels=("dog",)))
    look = yard.film(every(0.1, 1.0), lambda _: (person(0.2), person(0.7, label="dog")))
    assert [one.label for one in look.detections] == ["dog"]


# --- zones, speed, standing still -----------------------------------------------------------------------------

DRIVE = CameraSettings(source="test:", zones={"drive": Zone(points=((0.5, 0), (1, 0), (1, 1), (0.5, 1)))})


def test_it_enters_a_zone_stays_and_leaves_and_each_is_told() -> None:
    yard = Yard(camera=DRIVE, tracking=TrackingSettings(update_s=1000))

    def inside(at_s: float) -> float:
        """In from the second second to the seventh."""
        return min(0.3 + 0.1 * at_s, 0.3 + 0.1 * (9 - at_s))

    changes: list[TrackChange] = []
    for at_s in every(0.1, 10.0):
        changes.extend(yard.look(at_s, person(inside(at_s), tall=0.9)).changes)
    told = [(change.type, tuple(change.track.zones)) for change in changes]
    assert told == [("start", ()), ("update", ("drive",)), ("update", ())]
    assert yard.watch.tracks[0].dwell_s == {"drive": pytest.approx(5.0, abs=0.11)}


def test_a_foot_that_flickers_at_the_border_has_not_left() -> None:
    yard = Yard(camera=DRIVE)
    yard.look(0.0, person(0.55))
    yard.film(every(0.1, 10.0, 0.1), lambda at_s: (person(0.505 if round(at_s * 10) % 3 else 0.495),))
    (track,) = yard.watch.tracks
    assert track.zones == {"drive": AT.timestamp()}
    assert track.dwell_s["drive"] == pytest.approx(10.0, abs=0.2)


def test_it_stands_still_after_a_while_and_moves_again() -> None:
    yard = Yard(tracking=TrackingSettings(still_s=3.0, update_s=1000))

    def trembles(at_s: float) -> Detection:
        return person(0.5 + (0.01 if round(at_s * 10) % 2 else 0.0))

    def still_since_s() -> float | None:
        return yard.watch.tracks[0].still_since_s

    yard.film(every(0.1, 2.9), lambda s: (trembles(s),))
    assert still_since_s() is None
    yard.film(every(0.1, 5.0, 3.0), lambda s: (trembles(s),))
    assert still_since_s() == AT.timestamp()
    yard.film(every(0.1, 7.0, 5.1), lambda s: (person(0.5 + 0.1 * (s - 5)),))
    assert still_since_s() is None
    assert [kind for _, kind, _ in yard.said] == ["start", "update", "update"]


def test_what_stands_still_is_carried_while_nobody_looks_at_it() -> None:
    yard = Yard(tracking=TrackingSettings(still_s=2.0, lost_s=2.0), regions=RegionSettings(refresh_s=5.0))
    yard.film(every(0.2, 4.0), lambda _: (person(0.5),))
    # From now on it is found only where a region shows it, each five seconds.
    yard.film(every(0.2, 30.0, 4.2), lambda s: (person(0.5),) if round(s * 10) % 50 == 0 else ())
    assert (yard.of("start"), yard.of("end")) == (["t-1"], [])


def test_a_parked_car_has_no_news() -> None:
    yard = Yard(tracking=TrackingSettings(still_s=2.0, update_s=1.0))
    yard.film(every(0.5, 61.0), lambda _: (person(0.5, label="car"),))
    assert len(yard.of("update")) <= 4


def test_updates_come_in_time() -> None:
    yard = Yard(tracking=TrackingSettings(update_s=2.0))
    yard.film(every(0.25, 7.0), lambda s: (person(0.1 + 0.1 * s),))
    assert [(at_s, kind) for at_s, kind, _ in yard.said] == [
        (0.5, "start"), (2.5, "update"), (4.5, "update"), (6.5, "update"),
    ]  # fmt: skip


def test_a_long_path_is_bounded_whole_and_finest_in_the_recent_past() -> None:
    yard = Yard()
    yard.film(every(0.1, 200.0), lambda s: (person(0.1 + 0.004 * s),))
    times = [step.at_s - AT.timestamp() for step in yard.watch.tracks[0].path]
    assert len(times) <= 256
    assert times[0] == 0.0
    assert times[-1] == pytest.approx(200.0)
    assert times == sorted(times)
    assert times[-1] - times[-100] == pytest.approx(9.9)


# --- the next worker ------------------------------------------------------------------------------------------


def handed_over(before: Yard, at_s: float, after: Yard) -> Yard:
    """What one worker leaves at the broker, another one reads there."""
    known = before.watch.memory(AT.timestamp() + at_s)
    spec = CAMERA_TRACK_OPEN
    read = decode_json(OpenEvents, encode_json(known), max_bytes=spec.max_bytes)
    assert isinstance(read, OpenEvents)
    after.watch.recall(read)
    return after


def test_the_next_worker_goes_on_with_the_same_objects() -> None:
    zones, tracking = DRIVE, TrackingSettings(still_s=2.0)
    first = Yard(camera=zones, tracking=tracking)

    def walks(at_s: float) -> Sequence[Detection]:
        return person(0.1 + 0.1 * at_s), person(0.8)

    first.film(every(0.2, 4.0), walks)
    second = handed_over(first, 4.0, Yard(camera=zones, tracking=tracking, prefix="u"))
    second.film(every(0.2, 6.0, 5.0), walks)
    assert second.of("start") == []
    assert second.of("end") == []
    tracks = {track.track_id: track for track in second.watch.tracks}
    assert tracks["t-1"].started_s == AT.timestamp()
    assert tracks["t-1"].path[-1].foot[0] == pytest.approx(0.7)
    assert tracks["t-2"].still_since_s == AT.timestamp()
    assert tracks["t-2"].zones == {"drive": AT.timestamp()}
    assert tracks["t-2"].dwell_s == {"drive": pytest.approx(6.0)}


def test_what_the_next_worker_does_not_find_ends_there_once() -> None:
    first = Yard()
    first.film(every(0.2, 2.0), lambda _: (person(0.2), person(0.8)))
    second = handed_over(first, 2.0, Yard(prefix="u"))
    second.film(every(0.2, 8.0, 3.0), lambda _: (person(0.2),))
    assert (second.of("start"), second.of("end"), second.ends) == ([], ["t-2"], ["interrupted"])


def test_what_is_older_than_it_could_be_ends_with_the_first_frame() -> None:
    first = Yard()
    first.film(every(0.2, 4.0), lambda s: (person(0.2 + 0.1 * s),))
    second = handed_over(first, 4.0, Yard(prefix="u"))
    second.look(100.0, person(0.6))
    assert (second.of("end"), second.ends) == (["t-1"], ["interrupted"])
    second.film(every(0.2, 102.0, 100.2), lambda _: (person(0.6),))
    assert second.of("start") == ["u-1"]


def test_the_last_word_of_the_worker_before_counts() -> None:
    first, second = Yard(), Yard(prefix="u")
    first.film(every(0.2, 2.0), lambda _: (person(0.2), person(0.8)))
    handed_over(first, 2.0, second)
    first.film(every(0.2, 6.0, 2.2), lambda _: (person(0.2),))
    handed_over(first, 6.0, second)
    assert [track.track_id for track in second.watch.tracks] == ["t-1"]


def test_a_rule_does_not_fire_again_after_a_hand_over() -> None:
    rules = {"night": PresenceRule(for_s=1.0, cooldown_s=60.0)}
    first, second = Yard(rules=rules), Yard(rules=rules, prefix="u")
    fired = [first.look(at_s, person(0.5)).firings for at_s in every(0.2, 3.0)]
    assert [firing.rule for firings in fired for firing in firings] == ["night"]
    handed_over(first, 3.0, second)
    fired = [second.look(at_s, person(0.5)).firings for at_s in every(0.2, 10.0, 3.2)]
    assert not any(fired)


def test_rules_that_are_not_asked_fire_later() -> None:
    yard = Yard(rules={"night": PresenceRule(for_s=1.0)})
    for at_s in every(0.2, 3.0):
        meta = frame_meta(captured_at=AT + timedelta(seconds=at_s), width=WIDTH, height=HEIGHT)
        assert not yard.watch.look(meta, (person(0.5),), ask_rules=False).firings
    (firing,) = yard.look(3.2, person(0.5)).firings
    assert [track.track_id for track in firing.tracks] == ["t-1"]
    assert [one.track_id for one in firing.detections] == ["t-1"]


def test_what_is_open_is_small_however_many_there_are() -> None:
    zones = {f"zone-{number}": Zone(points=((0, 0), (1, 0), (1, 1), (0, 1))) for number in range(8)}
    yard = Yard(camera=CameraSettings(source="test:", zones=zones), tracking=TrackingSettings(confirm_s=0))
    crowd = [person(0.02 + 0.045 * (n % 22), 0.1 + 0.08 * (n // 22), tall=0.04) for n in range(240)]
    yard.film(every(0.1, 0.5), lambda _: crowd)
    assert len(yard.watch.tracks) == 240
    known = yard.watch.memory(AT.timestamp())
    assert len(encode_json(known)) < 64 * 1024
    assert 20 <= len(known.tracks) <= 100


def test_nobody_watches_it_any_more() -> None:
    yard = Yard()
    yard.film(every(0.1, 1.0), lambda _: (person(0.5), person(0.8)))
    changes = yard.watch.end()
    assert [(change.type, change.track.track_id, change.ended) for change in changes] == [
        ("end", "t-1", "interrupted"), ("end", "t-2", "interrupted"),
    ]  # fmt: skip
    assert yard.watch.tracks == ()
    assert yard.watch.end() == ()


# --- always ---------------------------------------------------------------------------------------------------

PLACES = st.lists(st.tuples(st.floats(0.1, 0.9), st.floats(0.5, 1.0)), max_size=4)
PAUSES = st.sampled_from((0.1, 0.2, 0.5, 1.0, 5.0, 30.0, -0.5, -60.0, 0.0))


@given(st.lists(st.tuples(PAUSES, PLACES), max_size=60), st.integers(0, 60))
def test_whatever_happens_each_object_starts_and_ends_once(
    frames: list[tuple[float, list[tuple[float, float]]]], hand_over: int
) -> None:
    tracking = TrackingSettings(still_s=1.0, update_s=0.5)
    yards = [Yard(camera=DRIVE, tracking=tracking), Yard(camera=DRIVE, tracking=tracking, prefix="u")]
    yard, at_s, latest_s = yards[0], 0.0, 0.0
    said: list[tuple[str, str]] = []
    dwell_s: dict[str, float] = defaultdict(float)
    for number, (pause_s, places) in enumerate(frames):
        if number == hand_over:
            yard = handed_over(yards[0], latest_s, yards[1])
        at_s += pause_s
        latest_s = max(latest_s, at_s)
        look = yard.look(at_s, *(person(x, y) for x, y in places))
        said.extend((change.type, change.track.track_id) for change in look.changes)
        for track in yard.watch.tracks:
            assert track.dwell_s.get("drive", 0.0) >= dwell_s[track.track_id]
            dwell_s[track.track_id] = track.dwell_s.get("drive", 0.0)
            assert set(track.zones) <= set(track.dwell_s)
        assert {one.track_id for one in look.detections} - {""} <= {track.track_id for track in yard.watch.tracks}
    said.extend((change.type, change.track.track_id) for change in yard.watch.end())
    lives = defaultdict(list)
    for kind, track_id in said:
        lives[track_id].append(kind)
    for life in lives.values():
        assert life[0] == "start"
        assert life[-1] == "end"
        assert set(life[1:-1]) <= {"update"}


# --- a real street --------------------------------------------------------------------------------------------


def read_street(shared_data: Path) -> dict[int, list[Detection]]:
    """The boxes that another detector found in the video."""
    found: dict[int, list[Detection]] = defaultdict(list)
    with (shared_data / "pedestrians_reference.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            x1, y1, x2, y2 = (float(row[side]) for side in ("x1", "y1", "x2", "y2"))
            box: Box = tuple(  # type: ignore[assignment]
                min(1.0, max(0.0, side)) for side in (x1 / 480, y1 / 360, x2 / 480, y2 / 360)
            )
            found[int(row["frame"])].append(
                Detection(label="person", score=float(row["score"]), box=box, box_px=(x1, y1, x2, y2))
            )
    return found


@pytest.mark.parametrize(("step", "starts_max"), [(1, 80), (2, 65), (5, 60)])
def test_a_street_has_about_as_many_objects_at_every_rate(shared_data: Path, step: int, starts_max: int) -> None:
    street = read_street(shared_data)
    yard = Yard()
    yard.film([number / 10 for number in range(1, 796, step)], lambda s: street[round(s * 10)])
    assert 15 <= len(yard.of("start")) <= starts_max


def test_a_hand_over_in_the_middle_of_a_street_keeps_the_objects(shared_data: Path) -> None:
    street = read_street(shared_data)

    def there(at_s: float) -> Sequence[Detection]:
        return street[round(at_s * 10)]

    kept = kept_by_one = 0
    for middle in (100, 250, 350):
        # For one second nobody looks: two workers, and one with a pause.
        before, later = [n / 10 for n in range(1, middle + 1)], [n / 10 for n in range(middle + 10, middle + 40)]
        first, second, alone = Yard(), Yard(prefix="u"), Yard()
        first.film(before, there)
        handed_over(first, middle / 10, second).film(later, there)
        alone.film([*before, *later], there)
        open_ids = {track.track_id for track in first.watch.tracks}
        kept += len(open_ids & {track.track_id for track in second.watch.tracks})
        kept_by_one += len(open_ids & {track.track_id for track in alone.watch.tracks})
        assert all(track_id.startswith("u-") for track_id in second.of("start"))
        assert len(second.of("end")) == len(set(second.of("end")))
        assert open_ids <= {track.track_id for track in second.watch.tracks} | set(second.of("end"))
    assert kept_by_one >= 15
    assert kept >= 0.9 * kept_by_one
