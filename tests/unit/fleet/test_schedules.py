"""When schedules are due, over a simulated week with a change of the clocks, and what becomes of what was missed."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from pydantic import ValidationError

from bench.schedules import SITE, Files, compare, expected
from broker import Bus
from broker.camera_documents import Brought
from broker.memory import MemoryBroker
from broker.messages import MotionHour, MotionTrend, OpenEvents
from broker.topics import CAMERA_MOTION_OPEN, CAMERA_MOTION_TREND
from config import ManualClock, TransientError
from config.schedules import Schedule, Window, read_cron
from config.settings import FleetSettings, Settings
from fleet.schedules import Scheduler
from fleet.schedules.facts import CameraFacts
from fleet.schedules.jobs import Jobs
from fleet.schedules.notes import NoteBook, RebootNote, read_notes
from fleet.schedules.plan import upcoming
from fleet.schedules.quiet import QuietHours
from fleet.schedules.tasks import Run
from fleet.schedules.timetable import Timetable, in_words, is_open, next_open
from fleet.schedules.workshop import notes_file
from tests.support.waiting import wait_until

BERLIN = ZoneInfo("Europe/Berlin")
HOUR = timedelta(hours=1)


class Keeper:
    """A scheduler whose time is moved on, and that may be stopped and started again."""

    def __init__(self, folder: Path, site: str, begin: datetime) -> None:
        self.clock = ManualClock(begin)
        self.runs: list[tuple[datetime, str]] = []
        self.rebooted: list[str] = []
        self.settings = Settings(state_dir=folder / "state", fleet=FleetSettings(registry=folder / "registry"))
        self.site = folder / "registry" / "site.yaml"
        self.site.parent.mkdir(exist_ok=True)
        self.site.write_text(site)

    def keep(self, until: datetime) -> None:
        """Be one process until then."""
        scheduler = self.scheduler()
        while (now := self.clock.now()) < until:
            self.clock.advance(min(max(scheduler.step(), 0.001), (until - now).total_seconds()))

    def scheduler(self) -> Scheduler:
        """One process."""
        bus = Bus(site="home", origin="node-1.fleet", transports=MemoryBroker().transports("x"))
        files = Files(self.settings.fleet.registry)
        return Scheduler(
            bus,
            self.settings,
            files,
            self.clock,
            do=self._do,
            spawn=lambda run: run(),
            reboot=lambda address, _login: self.rebooted.append(address),
        )

    def away(self, until: datetime) -> None:
        """Let time pass without a process."""
        self.clock.advance((until - self.clock.now()).total_seconds())

    def _do(self, run: Run) -> str:
        self.runs.append((self.clock.now(), run.name))
        return "done"


Keep = Callable[[str, datetime], Keeper]


@pytest.fixture
def keeper(tmp_path: Path) -> Keep:
    return lambda site, begin: Keeper(tmp_path, site, begin)


@pytest.mark.parametrize("monday", [date(2026, 3, 23), date(2026, 10, 19)], ids=["forward", "back"])
def test_a_week_over_a_change_of_the_clocks_is_as_the_calendar_says(keeper: Keep, monday: date) -> None:
    def local(day: int, hour: int) -> datetime:
        day_then = monday + timedelta(days=day)
        return datetime.combine(day_then, time(hour), BERLIN).astimezone(UTC)

    site = "\n".join(line for line in SITE.splitlines() if "often" not in line)
    kept = keeper(site, local(0, 0))
    kept.keep(local(2, 12))
    kept.away(local(3, 12))
    kept.keep(local(7, 0))
    wanted = expected(monday, (local(2, 12), local(3, 12)))
    for key in [key for key in wanted if key[0] == "often"]:
        del wanted[key]
    assert sum(wanted.values()) > 40
    assert compare(kept.runs, wanted) == 0


@pytest.mark.parametrize(
    ("cron", "day", "hours"),
    [
        ("30 2 * * *", date(2026, 3, 29), ["03:30"]),
        ("30 2 * * *", date(2026, 10, 25), ["02:30"]),
        ("30 1-3 * * *", date(2026, 10, 25), ["01:30", "02:30", "03:30"]),
        ("30 * * * *", date(2026, 10, 25), ["00:30", "01:30", "02:30", "02:30", "03:30"]),
        ("0 0 * * 0", date(2026, 10, 25), ["00:00"]),
        ("0 0 * * 7", date(2026, 10, 25), ["00:00"]),
        ("0 0 * * mon-sat", date(2026, 10, 25), []),
    ],
)
def test_an_hour_that_comes_twice_counts_once_and_one_that_is_left_out_is_made_up(
    cron: str, day: date, hours: list[str]
) -> None:
    midnight = datetime.combine(day, time(0), BERLIN)
    begin = midnight.astimezone(UTC) - timedelta(seconds=1)
    timetable = Timetable("x", Schedule(task="check", cron=cron), BERLIN)
    found = [due.astimezone(BERLIN) for due in itertools.islice(timetable.after(begin), 5)]
    early = [f"{due:%H:%M}" for due in found if due.date() == day and due.hour < 4]
    assert early == [hour for hour in hours if hour < "04"]


def test_what_was_missed_is_left_out_or_the_last_of_it_made_good_and_told(keeper: Keep) -> None:
    begin = datetime(2026, 6, 1, 0, 30, tzinfo=UTC)
    site = "time_zone: UTC\nschedules:\n"
    site += "  left: {task: snapshot, every: 1h}\n  made: {task: snapshot, every: 1h, missed: run}\n"
    kept = keeper(site, begin)
    kept.keep(begin + HOUR)
    kept.away(begin + 5 * HOUR)
    kept.keep(begin + 5 * HOUR + timedelta(minutes=1))
    first = begin + HOUR / 2
    assert kept.runs == [(first, "left"), (first, "made"), (begin + 5 * HOUR, "made")]
    notes = read_notes(notes_file(kept.settings)).schedules
    assert notes["left"].last is not None
    assert (notes["left"].last.outcome, notes["left"].last.about[:10]) == ("missed", "4 left out")
    assert notes["made"].last is not None
    assert notes["made"].last.outcome == "done"


def test_without_its_notes_nothing_is_made_good_and_a_changed_schedule_begins_anew(keeper: Keep) -> None:
    begin = datetime(2026, 6, 1, 0, 30, tzinfo=UTC)
    kept = keeper("time_zone: UTC\nschedules: {all: {task: snapshot, every: 1h, missed: run}}\n", begin)
    kept.keep(begin + HOUR)
    kept.away(begin + 4 * HOUR)
    notes_file(kept.settings).unlink()
    kept.keep(begin + 4 * HOUR + timedelta(minutes=1))
    kept.away(begin + 8 * HOUR)
    kept.site.write_text("time_zone: UTC\nschedules: {all: {task: snapshot, every: 30m, missed: run}}\n")
    kept.keep(begin + 8 * HOUR + timedelta(minutes=1))
    assert [at for at, _name in kept.runs] == [begin + HOUR / 2]


def test_of_a_schedule_that_was_paused_nothing_is_missed(keeper: Keep) -> None:
    begin = datetime(2026, 6, 1, 0, 30, tzinfo=UTC)
    running = "time_zone: UTC\nschedules: {all: {task: snapshot, every: 1h, missed: run}}\n"
    kept = keeper(running, begin)
    kept.keep(begin + HOUR)
    kept.site.write_text(running.replace("every", "paused: true, every"))
    kept.keep(begin + 4 * HOUR)
    kept.site.write_text(running)
    kept.keep(begin + 5 * HOUR)
    assert [at for at, _name in kept.runs] == [begin + HOUR / 2, begin + 9 * HOUR / 2]


def test_a_run_that_was_refused_is_not_running_for_ever(keeper: Keep, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_jobs: Jobs, _work: object) -> None:
        raise TransientError("too much waits here")

    kept = keeper("time_zone: UTC\nschedules: {all: {task: snapshot, every: 1h}}\n", datetime(2026, 6, 1, tzinfo=UTC))
    scheduler = kept.scheduler()
    scheduler.step()
    monkeypatch.setattr(Jobs, "begin", refuse)
    for _ in range(2):
        with pytest.raises(TransientError, match="too much"):
            scheduler.orders["run-schedule"]({"schedule": "all"})
    last = read_notes(notes_file(kept.settings)).schedules["all"].last
    assert last is not None
    assert last.outcome == "failed"


class CountingClock(ManualClock):
    """Counts who waits."""

    waits = 0

    def wait(self, stop: threading.Event, _timeout_s: float) -> bool:
        self.waits += 1
        return stop.wait(0.001)


def test_no_camera_is_restarted_before_it_is_known_what_moves_there(keeper: Keep) -> None:
    begin = datetime(2026, 6, 1, tzinfo=UTC)
    kept = keeper("time_zone: UTC\n", begin)
    kept.clock = clock = CountingClock(begin)
    folder = kept.site.parent / "cameras"
    folder.mkdir()
    (folder / "yard.yaml").write_text("source: synthetic:street\ndevice: {onvif: http://127.0.0.1:9/x}\n")
    with NoteBook(notes_file(kept.settings)).open() as notes:
        notes.reboots["yard"] = RebootNote(schedule="x", until=begin + HOUR, quiet=False)
    scheduler = kept.scheduler()  # its bus is never connected
    scheduler.start()
    wait_until(lambda: clock.waits > 40, what="both threads to have looked")
    scheduler.close()
    assert not kept.rebooted
    assert "yard" in read_notes(notes_file(kept.settings)).reboots


def test_a_clock_that_was_wrong_stops_no_schedule(keeper: Keep) -> None:
    begin = datetime(2036, 6, 1, 0, 30, tzinfo=UTC)
    kept = keeper("time_zone: UTC\nschedules: {all: {task: snapshot, every: 1h}}\n", begin)
    kept.keep(begin + HOUR)
    kept.clock = ManualClock(datetime(2026, 6, 1, 0, 30, tzinfo=UTC))
    kept.keep(kept.clock.now() + 2 * HOUR)
    assert [at.hour for at, _name in kept.runs if at.year == 2026] == [1, 2]


def test_jitter_puts_off_and_what_is_to_come_tells_it(keeper: Keep) -> None:
    begin = datetime(2026, 6, 1, 0, 30, tzinfo=UTC)
    kept = keeper("time_zone: UTC\nschedules: {all: {task: snapshot, every: 1h, jitter_s: 1200}}\n", begin)
    told = upcoming({"all": Schedule(task="snapshot", every="1h", jitter_s=1200)}, UTC, begin, 5)
    kept.keep(begin + 5 * HOUR)
    assert len(kept.runs) == len(told)
    assert all(abs(at - then) < timedelta(seconds=0.1) for (at, _), (then, _) in zip(kept.runs, told, strict=True))
    late = [at - begin + HOUR / 2 - number * HOUR for number, (at, _name) in enumerate(kept.runs, 1)]
    assert all(timedelta(0) <= one <= timedelta(minutes=20) for one in late)
    assert len(set(late)) == 5


def test_windows_hold_over_midnight_and_over_a_change_of_the_clocks() -> None:
    nights = (Window(start=time(22), end=time(5), days=("sat",)),)
    saturday = datetime(2026, 10, 24, tzinfo=BERLIN)
    assert not is_open(nights, saturday + timedelta(hours=4), BERLIN)
    assert next_open(nights, saturday, BERLIN) == datetime(2026, 10, 24, 22, tzinfo=BERLIN)
    assert is_open(nights, datetime(2026, 10, 25, 3, 59, tzinfo=UTC), BERLIN)
    assert not is_open(nights, datetime(2026, 10, 25, 4, 0, tzinfo=UTC), BERLIN)
    assert is_open((), saturday, BERLIN)


def test_runs_outside_of_a_schedules_hours_are_left_out() -> None:
    schedule = Schedule(task="check", every="1h", hours=(Window(start=time(9), end=time(11)),))
    found = itertools.islice(Timetable("x", schedule, BERLIN).after(datetime(2026, 6, 1, tzinfo=BERLIN)), 4)
    assert [due.astimezone(BERLIN).hour for due in found] == [9, 10, 9, 10]


@pytest.mark.parametrize(
    ("cron", "why"),
    [
        ("* * *", "has 3 fields"),
        ("61 * * * *", "'61' is no minute: write 0 to 59"),
        ("0 0 1 * mon", "days of the month and of the week"),
        ("*/0 * * * *", "is no minute"),
        ("0 5-2 * * *", "its end comes before its begin"),
    ],
)
def test_a_wrong_cron_expression_says_which_field(cron: str, why: str) -> None:
    with pytest.raises(ValidationError, match="cron") as caught:
        Schedule(task="check", cron=cron)
    assert why in str(caught.value)


def test_a_schedule_has_one_kind_of_time_and_reads_as_words() -> None:
    with pytest.raises(ValidationError, match="one of them"):
        Schedule(task="check", cron="0 4 * * *", every="1h")
    with pytest.raises(ValidationError, match="keep_hours"):
        Schedule(task="retention", every="1h")
    assert read_cron("0 4 * * sat-mon") == ("0", "4", "*", "*", "sun,mon,sat")
    assert in_words(Schedule(task="check", cron="30 4,16 * * 1-5")) == "at 04:30, 16:30 mon to fri"


def test_invented_names_fill_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleet.schedules.facts._TOPICS_MAX", 3)
    monkeypatch.setattr("fleet.schedules.quiet._CAMERAS_MAX", 3)
    monkeypatch.setattr("broker.camera_documents._BROUGHT_MAX", 3)
    broker, trends = MemoryBroker(), list[MotionTrend]()
    bus = Bus(site="home", origin="node-1.fleet", transports=broker.transports("x"))
    facts, quiet, brought = CameraFacts(bus, trends.append), QuietHours(tmp_path / "quiet.json"), Brought()
    facts.start()
    bus.start()
    edge = Bus(site="home", origin="porch.edge", transports=broker.transports("y"))
    edge.start()
    assert bus.wait_connected(5)
    assert edge.wait_connected(5)
    at = datetime(2026, 6, 1, tzinfo=UTC)
    for name in [f"c{number}" for number in range(6)]:
        edge.publish(CAMERA_MOTION_OPEN.at("home", camera=name), OpenEvents(camera=name, at=at, ids=("m",)))
        trend = MotionTrend(camera=name, at=at, hours=(MotionHour(start=at - HOUR, watched_s=3600, moving_s=9.0),))
        edge.publish(CAMERA_MOTION_TREND.at("home", camera=name), trend)
        quiet.learn(trend, UTC)
        brought.note(name, 1)
    wait_until(lambda: len(trends) == 6, what="all trends")
    assert sum(any(facts.open_events(f"c{number}")) for number in range(6)) == 3
    assert len(brought.gone([f"c{number}" for number in range(6)], (), 1)) == 3
    assert quiet.expected("c0", at - HOUR, UTC) != quiet.expected("c5", at - HOUR, UTC)
    edge.close()
    bus.close()


def test_the_quiet_hour_is_learned_from_the_movement_and_kept(tmp_path: Path) -> None:
    """A camera of a night shop: at 14 nothing moves, at night much does."""
    path, begin = tmp_path / "quiet.json", datetime(2026, 6, 1, tzinfo=UTC)
    quiet = QuietHours(path)
    assert quiet.is_quiet("shop", begin + 3 * HOUR, begin + 24 * HOUR, UTC)
    hours = tuple(
        MotionHour(start=begin + n * HOUR, watched_s=3600, moving_s=0.0 if n == 14 else 1800.0) for n in range(24)
    )
    wrong = begin + timedelta(days=3650)
    ahead = (MotionHour(start=wrong - HOUR, watched_s=3600, moving_s=0.0),)
    quiet.learn(MotionTrend(camera="shop", at=wrong, hours=ahead), UTC)
    quiet.learn(MotionTrend(camera="shop", at=begin + 24 * HOUR, hours=hours), UTC)
    quiet.save()
    again, week = QuietHours(path), begin + timedelta(days=7)
    assert not again.is_quiet("shop", week + 3 * HOUR, week + 24 * HOUR, UTC)
    assert again.is_quiet("shop", week + 14 * HOUR, week + 24 * HOUR, UTC)
    # Until noon there is no better hour than now.
    assert again.is_quiet("shop", week + 3 * HOUR, week + 11 * HOUR, UTC)
