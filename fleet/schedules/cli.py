"""`vigil schedule`: what is done at which times, when next, and now."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, tzinfo
from typing import Any

import click
import msgspec

from config import SystemClock, configure_logging
from config.durations import DURATION
from config.registry import SiteEntry
from config.schedules import Schedule
from config.settings import Settings
from config.text import printable
from fleet.registry.folder import RegistryFolder
from fleet.schedules.asking import FleetAsker
from fleet.schedules.notes import Notes, RunNote, read_notes
from fleet.schedules.plan import upcoming
from fleet.schedules.timetable import in_words, site_zone
from fleet.schedules.workshop import notes_file

__all__ = ["schedule"]

Load = Callable[[Mapping[str, Any]], Settings]
_SHOWN = "%a %Y-%m-%d %H:%M:%S %Z"
_ABOUT_MAX = 200


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One schedule.

    Attributes:
        name: its name.
        task: what is done.
        when: at which times, in words.
        last: its last run.
        next: when it begins next; None: it does not.
    """

    name: str
    task: str
    when: str
    last: RunNote | None
    next: datetime | None


class Next(msgspec.Struct, frozen=True, kw_only=True):
    """One run that is to come."""

    at: datetime
    name: str
    task: str


@click.group()
def schedule() -> None:
    """What is done at which times: snapshots, safety checks, restarts of cameras, retention.

    Schedules stand in `site.yaml` of the registry's folder, and `vigil fleet` keeps them:

    \b
      time_zone: Europe/Berlin
      schedules:
        nightly-check: {task: check, cron: "30 22 * * *", jitter_s: 300}
        restarts: {task: reboot, every: 7d, areas: [Yard]}
        friday: {task: retention, cron: "0 18 * * fri", keep_hours: 8, missed: run}
      windows:
        models: [{start: "02:00", end: "05:00"}]
        updates: [{start: "02:00", end: "05:00", days: [sat, sun]}]

    \b
    Examples:
      vigil schedule list
      vigil schedule next -n 20
      vigil schedule run nightly-check
    """


@schedule.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@click.pass_obj
def list_(load: Load, *, as_json: bool) -> None:
    """List the schedules: when each runs, what came of the last time, and when next.

    It reads this machine's registry folder and the notes of its `vigil fleet`.

    \b
    Examples:
      vigil schedule list
      vigil schedule list --json
    """
    settings = _quietly(load({}))
    site, notes = _read(settings), read_notes(notes_file(settings))
    zone, now = site_zone(site), SystemClock().now()
    rows = [_row(name, entry, zone, notes, now) for name, entry in sorted(site.schedules.items())]
    if as_json:
        click.echo(msgspec.json.encode(rows))
        return
    if not rows:
        click.echo(f"no schedules in {settings.fleet.registry / 'site.yaml'}; `vigil schedule --help` shows some")
    for row in rows:
        click.echo(f"{row.name}  {row.task}, {row.when}")
        click.echo(f"    last  {_last(row.last, zone)}")
        click.echo(f"    next  {_shown(row.next, zone)}")
    for camera, note in notes.reboots.items():
        click.echo(f"{camera} waits for its restart until {_shown(note.until, zone)} ({note.schedule})")


@schedule.command("next")
@click.option("-n", "count", type=click.IntRange(1, 1000), default=10, show_default=True, help="How many runs.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@click.pass_obj
def next_(load: Load, *, count: int, as_json: bool) -> None:
    """Print the next runs of all schedules in order of time, on the site's clock.

    \b
    Examples:
      vigil schedule next
      vigil schedule next -n 50 --json
    """
    settings = _quietly(load({}))
    site = _read(settings)
    zone = site_zone(site)
    found = [
        Next(at=at, name=name, task=site.schedules[name].task)
        for at, name in upcoming(site.schedules, zone, SystemClock().now(), count)
    ]
    if as_json:
        click.echo(msgspec.json.encode(found))
        return
    for run in found:
        click.echo(f"{_shown(run.at, zone)}  {run.name}  {run.task}")
    if not found:
        click.echo(f"nothing is to come: {settings.fleet.registry / 'site.yaml'} has no schedule that is due again")


@schedule.command()
@click.argument("name", metavar="NAME")
@click.option("--wait", "wait_s", type=DURATION, metavar="DURATION", default="15m", help="For its end; default 15m.")
@click.pass_obj
def run(load: Load, *, name: str, wait_s: float) -> None:
    """Run a schedule now, whenever it is due, and print what came of it.

    Cameras are restarted at once, one after the other, quiet hour or not; but never while something moves before them.

    \b
    Examples:
      vigil schedule run nightly-check
      vigil schedule run restarts --wait 1h

    Exit status: 0 done, 1 not done or not with all cameras, 69 no broker or no `vigil fleet`.
    """
    settings = _quietly(load({}))
    with FleetAsker(settings) as fleet:
        found = fleet.wait_ended(fleet.order("run-schedule", schedule=name)["job"], wait_s)
    click.echo(printable(found.get("about", ""), 1000))


def _row(name: str, entry: Schedule, zone: tzinfo, notes: Notes, now: datetime) -> Row:
    note = notes.schedules.get(name)
    runs = upcoming({name: entry}, zone, now, 1)
    when = in_words(entry) + (", paused" if entry.paused else "")
    return Row(
        name=name, task=entry.task, when=when, last=note.last if note else None, next=runs[0][0] if runs else None
    )


def _last(last: RunNote | None, zone: tzinfo) -> str:
    if last is None:
        return "never"
    return f"{_shown(last.began, zone)}  {last.outcome}  {printable(last.about, _ABOUT_MAX)}".rstrip()


def _shown(moment: datetime | None, zone: tzinfo) -> str:
    return "never" if moment is None else moment.astimezone(UTC).astimezone(zone).strftime(_SHOWN)


def _read(settings: Settings) -> SiteEntry:
    return RegistryFolder(settings.fleet.registry).site().entry


def _quietly(settings: Settings) -> Settings:
    configure_logging("error" if settings.log.level == "info" else settings.log.level, stream=sys.stderr)
    return settings
