"""`vigil camera check`: look now whether a camera shows what it should."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import click
import msgspec

from broker.messages import CameraCheck, Finding
from config import ConfigError, PermanentError, configure_logging
from config.durations import DURATION
from config.names import check_name
from config.settings import Settings
from config.text import printable
from fleet.schedules.asking import FleetAsker

__all__ = ["check"]

Load = Callable[[Mapping[str, Any]], Settings]
_POLL_S = 0.2
_ABOUT_MAX = 300


@click.command()
@click.argument("name", metavar="NAME", required=False)
@click.option("--all", "all_", is_flag=True, help="Every camera of the site.")
@click.option(
    "--take-reference",
    "label",
    metavar="LABEL",
    is_flag=False,
    flag_value="day",
    help="Keep a picture of now: this is what it should look like. LABEL: day, night, ir …  [default: day]",
)
@click.option("--wait", "wait_s", type=DURATION, metavar="DURATION", default="5m", help="For the result; default 5m.")
@click.option("--json", "as_json", is_flag=True, help="Print each result as one line of JSON.")
@click.pass_obj
def check(load: Load, *, name: str | None, all_: bool, label: str | None, wait_s: float, as_json: bool) -> None:
    """Look now whether a camera shows what it should: a fresh picture, not black, blurred, covered, turned or frozen.

    Whether it is blurred or turned away is told by a reference picture, which lies beside the registry's files. Take
    one while all is well; where nights look otherwise, as by infrared, another one at night.

    \b
    Examples:
      vigil camera check yard
      vigil camera check yard --take-reference
      vigil camera check yard --take-reference night
      vigil camera check --all

    What is not well is escalated too. `vigil fleet` looks; what it looks at is `checks` of the camera's file.

    Exit status: 0 all well, 1 something is not, 69 no broker or no `vigil fleet`.
    """
    if (name is None) is not all_:
        raise click.UsageError("name a camera, or give --all")
    settings = load({})
    configure_logging("error" if settings.log.level == "info" else settings.log.level, stream=sys.stderr)
    with FleetAsker(settings) as fleet:
        names = fleet.order("list-cameras")["cameras"].split() if name is None else [_checked(name)]
        if not names:
            raise ConfigError("there is no camera: neither the registry nor a node speaks of one")
        well = _take(fleet, names, label, wait_s) if label else _check(fleet, names, wait_s, as_json=as_json)
    if not well:
        raise PermanentError("not all is well" if len(names) > 1 else f"{names[0]} is not well")


def _take(fleet: FleetAsker, names: list[str], label: str, wait_s: float) -> bool:
    def told(camera: str, found: Mapping[str, str]) -> bool:
        if found["state"] == "failed":
            click.echo(f"{camera}  {printable(found.get('reason', ''), _ABOUT_MAX)}")
            return False
        click.echo(f"{camera}  {printable(found.get('path', ''), _ABOUT_MAX)}")
        return True

    jobs = {name: fleet.order("take-reference", camera=name, label=label)["job"] for name in names}
    return _each(fleet, jobs, wait_s, told)


def _check(fleet: FleetAsker, names: list[str], wait_s: float, *, as_json: bool) -> bool:
    def told(camera: str, found: Mapping[str, str]) -> bool:
        if found["state"] == "failed":
            reason = found.get("reason", "")
            click.echo(msgspec.json.encode({"camera": camera, "error": reason}) if as_json else _line(camera, reason))
            return len(names) > 1  # of all, those that nobody may look at are no failure
        made = msgspec.json.decode(found["check"], type=CameraCheck)
        if as_json:
            click.echo(msgspec.json.encode(made))
        else:
            _print(made)
        return made.ok

    jobs = {name: fleet.order("check-camera", camera=name)["job"] for name in names}
    return _each(fleet, jobs, wait_s, told)


def _each(
    fleet: FleetAsker, jobs: dict[str, str], wait_s: float, told: Callable[[str, Mapping[str, str]], bool]
) -> bool:
    """Print what comes of each as soon as it is there; whether all is well."""
    end_s, well = time.monotonic() + wait_s, True
    with click.progressbar(length=len(jobs), label="cameras", file=sys.stderr, hidden=len(jobs) == 1) as bar:
        while jobs and time.monotonic() < end_s:
            ended = {camera: found for camera, job in jobs.items() if (found := fleet.ended(job)) is not None}
            for camera, found in ended.items():
                well = told(camera, found) and well
                del jobs[camera]
            bar.update(len(ended))
            time.sleep(_POLL_S if jobs else 0)
    for camera in jobs:
        click.echo(_line(camera, "no result in time"))
    return well and not jobs


def _print(made: CameraCheck) -> None:
    click.echo(f"{made.camera}  {'well' if made.ok else 'NOT WELL'}")
    for finding in made.findings:
        click.echo(f"    {finding.check:<8} {'ok ' if finding.ok else 'NO '} {_measured(finding)}".rstrip())


def _measured(finding: Finding) -> str:
    value = "" if finding.value is None else f"{finding.value:g} (limit {finding.limit:g})  "
    return f"{value}{printable(finding.about, _ABOUT_MAX)}"


def _line(camera: str, text: str) -> str:
    return f"{camera}  {printable(text, _ABOUT_MAX)}"


def _checked(name: str) -> str:
    try:
        return check_name(name)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="NAME") from error
