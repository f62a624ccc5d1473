"""A week of schedules under a simulated clock, over each change of the clocks: does everything happen when it should?

The scheduler of `vigil fleet` with a clock that is moved on, first over the week in which Berlin's clocks go forward
(29 March 2026), then over that in which they go back (25 October 2026). In each the process is away from Wednesday noon
to Thursday noon, so that runs are missed. Prints every run of the week with its local time, and compares them with
the calendar. Targets: no run too few, none too many, none late by more than a second of simulated time.

    python bench/schedules.py
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from broker import Bus
from broker.memory import MemoryBroker
from config import ManualClock, configure_logging
from config.settings import FleetSettings, Settings
from fleet.registry.folder import Registry, RegistryFolder
from fleet.schedules import Scheduler
from fleet.schedules.tasks import Run

BERLIN = ZoneInfo("Europe/Berlin")
SITE = """\
time_zone: Europe/Berlin
schedules:
  pictures: {task: snapshot, every: 6h}
  often: {task: snapshot, cron: "*/30 * * * *"}
  night-check: {task: check, cron: "30 2 * * *", missed: run}
  dawn-check: {task: check, cron: "0 3 * * *"}
  workdays: {task: check, cron: "0 13 * * mon-fri", jitter_s: 600, missed: run}
  restarts: {task: reboot, cron: "0 1 * * sun"}
  friday: {task: retention, cron: "0 18 * * fri", keep_hours: 8}
"""
DAY = timedelta(days=1)


class Files:
    """The registry's files, read once."""

    def __init__(self, folder: Path) -> None:
        self.folder = RegistryFolder(folder)

    def on_change(self, callback: Callable[[Registry], None]) -> None:
        """Tell what they say."""
        callback(self.folder.read())


def keep(folder: Path, clock: ManualClock, until: datetime, runs: list[tuple[datetime, str]]) -> None:
    """Be the process until then."""
    settings = Settings(state_dir=folder / "state", fleet=FleetSettings(registry=folder / "registry"))

    def do(run: Run) -> str:
        runs.append((clock.now(), run.name))
        return "done"

    bus = Bus(site="bench", origin="bench.fleet", transports=MemoryBroker().transports("bench"))
    scheduler = Scheduler(bus, settings, Files(folder / "registry"), clock, do=do, spawn=lambda run: run())
    while (now := clock.now()) < until:
        # To the next run, and not further: it is as late as the clock's own steps.
        clock.advance(min(max(scheduler.step(), 0.001), (until - now).total_seconds()))


def expected(monday: date, away: tuple[datetime, datetime]) -> Counter[tuple[str, datetime]]:
    """What the calendar says, by local rules: minutes of each local day that really come, each fixed hour once."""
    begin = datetime.combine(monday, datetime.min.time(), BERLIN).astimezone(UTC)
    end = datetime.combine(monday + 7 * DAY, datetime.min.time(), BERLIN).astimezone(UTC)
    found: Counter[tuple[str, datetime]] = Counter()
    anchor = datetime(2026, 1, 1, tzinfo=BERLIN).astimezone(UTC)
    moment = begin
    while moment < end:
        local = moment.astimezone(BERLIN)
        if local.minute in (0, 30):
            found["often", moment] += 1
        if (moment - anchor) % timedelta(hours=6) == timedelta(0):
            found["pictures", moment] += 1
        moment += timedelta(minutes=1)
    for number in range(7):
        day = monday + number * DAY
        at = {"night-check": (2, 30), "dawn-check": (3, 0)}
        at |= {"workdays": (13, 0)} if number < 5 else {}
        at |= {"friday": (18, 0)} if number == 4 else {}
        at |= {"restarts": (1, 0)} if number == 6 else {}
        for name, (hour, minute) in at.items():
            local = datetime(day.year, day.month, day.day, hour, minute, tzinfo=BERLIN)
            found[name, local.astimezone(UTC)] += 1
    gone, back = away
    missed = [key for key in found if gone <= key[1] <= back - timedelta(minutes=1)]
    for key in missed:
        del found[key]
    for name in {name for name, _at in missed} & {"night-check", "workdays"}:
        found[name, back] += 1
    # What is due in the very moment of the beginning counts as made.
    return Counter({key: count for key, count in found.items() if key[1] > begin})


def run_week(monday: date) -> int:
    """One week; returns how many runs were wrong."""
    begin = datetime.combine(monday, datetime.min.time(), BERLIN).astimezone(UTC)
    noon = datetime.combine(monday + 2 * DAY, datetime.min.time(), BERLIN).replace(hour=12)
    away = noon.astimezone(UTC), (noon + DAY).astimezone(UTC)
    end = datetime.combine(monday + 7 * DAY, datetime.min.time(), BERLIN).astimezone(UTC)
    clock, runs, began_s = ManualClock(begin), list[tuple[datetime, str]](), time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "registry").mkdir()
        (folder / "registry" / "site.yaml").write_text(SITE)
        keep(folder, clock, away[0], runs)
        clock.advance((away[1] - clock.now()).total_seconds())
        keep(folder, clock, end, runs)
    took_s = time.perf_counter() - began_s
    wrong = compare(runs, expected(monday, away))
    for at, name in runs:
        if name != "often":
            print(f"  {at.astimezone(BERLIN):%a %Y-%m-%d %H:%M:%S %Z}  {name}")
    print(f"  and {sum(name == 'often' for _at, name in runs)} of every half hour; a week in {took_s:.2f} s\n")
    return wrong


def compare(runs: list[tuple[datetime, str]], wanted: Counter[tuple[str, datetime]]) -> int:
    """How many runs are missing, too many, or late; each is printed."""
    left, wrong = Counter(wanted), 0
    for at, name in runs:
        late = timedelta(seconds=600 if name == "workdays" else 1)
        due = next((key for key in left if key[0] == name and timedelta(0) <= at - key[1] <= late), None)
        if due is None:
            wrong += 1
            print(f"  TOO MANY: {name} at {at.astimezone(BERLIN)}")
        else:
            left -= Counter([due])
    for name, at in left.elements():
        wrong += 1
        print(f"  MISSING: {name} at {at.astimezone(BERLIN)}")
    return wrong


def main() -> int:
    """Both weeks."""
    configure_logging("error")
    wrong = 0
    for monday in (date(2026, 3, 23), date(2026, 10, 19)):
        print(f"the week of {monday}; nobody keeps the schedules from Wednesday to Thursday noon")
        wrong += run_week(monday)
    print(f"runs that were missing, too many or late: {wrong}  target 0")
    return 0 if wrong == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
