"""`vigil rules`: which rules there are, and what they would have said of what was recorded."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from broker import Delivery
from broker.messages import RegistryIndex
from broker.session import listen
from broker.topics import REGISTRY_INDEX
from config import ConfigError, TransientError
from config.cameras import CameraSettings
from config.durations import format_duration
from config.rules import Hours, Rule
from config.settings import Settings
from detector.camera_settings import KnownCameras
from detector.recording import read_recording
from detector.rule_trial import TrialResult, try_rules
from detector.rules import rules_of, watches
from detector.zones import ZoneMap

__all__ = ["rules"]

Load = Callable[[Mapping[str, Any]], Settings]

_ASK_S = 5.0
_LOOK_S = 0.02
_VERBS = {
    "presence": "is there",
    "dwell": "stays",
    "long-time-still": "does not move",
    "on-the-ground": "lies",
}
_COLOURS = {"critical": "red", "warning": "yellow", "info": "blue"}


@click.group()
def rules() -> None:
    """Look at the rules of the site file, and try them on what was recorded.

    \b
    Examples:
      vigil rules list
      vigil rules test --camera yard --replay yard.jsonl
    """


@rules.command(name="list")
@click.option("--registry", is_flag=True, help="With the cameras of the site's registry, asked for over the bus.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_obj
def list_rules(load: Load, *, registry: bool, as_json: bool) -> None:
    """List the rules, what each waits for, and the cameras of the site file that it watches.

    A camera's own rules (`cameras.NAME.rules`) come last; one with the name of another takes its place there.

    \b
    Examples:
      vigil rules list
      vigil rules list --registry
      vigil rules list --json | jq 'select(.severity == "critical")'
    """
    settings = load({})
    cameras = {**settings.cameras, **(_registered(settings) if registry else {})}
    for name, rule in settings.detector.rules.items():
        _tell_rule(name, rule, _watched(name, rule, cameras), as_json=as_json)
    for camera, about in cameras.items():
        for name, rule in about.rules.items():
            _tell_rule(name, rule, [camera], as_json=as_json)


def _registered(settings: Settings) -> dict[str, CameraSettings]:
    """The cameras of the site's registry.

    Raises:
        TransientError: there is no broker.
    """
    index, came = list[RegistryIndex](), threading.Event()

    def on_index(delivery: Delivery) -> None:
        if isinstance(delivery.content, RegistryIndex):
            index.append(delivery.content)
            came.set()

    bus = listen(settings, "rules")
    known = KnownCameras(settings, bus)
    known.start()
    bus.subscribe(REGISTRY_INDEX, on_index)
    bus.start()
    try:
        if not bus.wait_connected(_ASK_S):
            raise TransientError(f"no broker at {settings.bus.url}: start one, or name another with --bus URL")
        came.wait(_ASK_S)
        deadline_s = time.monotonic() + _ASK_S
        while index and not known.has_heard(index[-1].cameras) and time.monotonic() < deadline_s:
            time.sleep(_LOOK_S)
    finally:
        bus.close()
    return known.documented()


def _tell_rule(name: str, rule: Rule, cameras: list[str], *, as_json: bool) -> None:
    if as_json:
        fields = rule.model_dump(mode="json", exclude={"cameras"})
        click.echo(msgspec.json.encode({"rule": name, "cameras": cameras, **fields}))
        return
    severity = click.style(f"{rule.severity:<8}", fg=_COLOURS[rule.severity])
    where = ", ".join(cameras) or "no camera of the site file"
    click.echo(f"{name:<16}  {rule.kind:<15}  {severity}  {_wants(rule)}; {where}")


@rules.command()
@click.option("--camera", required=True, help="Whose recording it is; its zones and rules are those of the site file.")
@click.option(
    "--replay",
    "file",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="What was recorded of it.",
)
@click.option("--rule", "only", multiple=True, help="Only this rule; may be given again.")
@click.option("--json", "as_json", is_flag=True, help="The whole result as one line of JSON.")
@click.pass_obj
def test(load: Load, *, camera: str, file: Path, only: tuple[str, ...], as_json: bool) -> None:
    """Run the site's rules over a recording: what would have fired, when and why, and what the others lacked.

    Nothing is raised. Zones and rules are those of the site file as it is now, so that a change can be tried before
    it is made.

    \b
    How to record:
      vigil watch --camera yard --kind detections --json > yard.jsonl      from now on, every frame
      vigil events --camera yard --stream track --limit 1000 --json > yard.jsonl
                                                                           what the journal has, every few seconds
      vigil detect yard.mp4 --camera yard --tracks yard.jsonl              a video, every frame

    \b
    Examples:
      vigil rules test --camera yard --replay yard.jsonl
      vigil --config tried.yaml rules test --camera yard --replay yard.jsonl --rule night
      vigil rules test --camera yard --replay yard.jsonl --json | jq .firings
    """
    settings = load({})
    about = _camera(settings, camera)
    zones = ZoneMap(about.zones)
    wanted = _chosen(rules_of(settings.detector.rules, about), only)
    recording = read_recording(file, camera)
    scenes = tuple(recording.scenes(zones, settings.detector.tracking.lost_s))
    result = try_rules(wanted, camera, zones, scenes)
    if as_json:
        click.echo(msgspec.json.encode({"file": str(file), "every_frame": recording.every_frame, **_fields(result)}))
        return
    _tell(result, file, every_frame=recording.every_frame)


def _fields(result: TrialResult) -> dict[str, object]:
    return {name: getattr(result, name) for name in result.__struct_fields__}


def _camera(settings: Settings, name: str) -> CameraSettings:
    known = settings.cameras.get(name)
    if known is None and settings.cameras:
        raise ConfigError(
            f"the site file has no camera {name!r}; it has {', '.join(settings.cameras)}", field="cameras"
        )
    return known or CameraSettings()


def _chosen(known: Mapping[str, Rule], only: Sequence[str]) -> dict[str, Rule]:
    for name in only:
        if name not in known:
            raise ConfigError(f"there is no rule {name!r}; there are {', '.join(known)}", field="detector.rules")
    return {name: rule for name, rule in known.items() if not only or name in only}


def _tell(result: TrialResult, file: Path, *, every_frame: bool) -> None:
    objects = ", ".join(f"{count} {label}" for label, count in result.labels.items()) or "nothing"
    began = f"{result.began.astimezone():%Y-%m-%d %H:%M:%S}"
    click.echo(f"{file}: {result.camera}, {format_duration(result.length_s)} from {began}, {result.frames} frames")
    if not every_frame:
        click.echo("of events only: boxes are known every few seconds, and a second more or less means nothing")
    click.echo(f"objects: {objects}")
    for firing in result.firings:
        severity = click.style(firing.severity, fg=_COLOURS[firing.severity])
        click.echo(f"{firing.at.astimezone():%H:%M:%S}  {firing.rule} ({firing.kind}, {severity}): {firing.summary}")
    quiet = [rule for rule in result.rules if not rule.fired]
    if not result.firings:
        click.echo("no rule would have fired")
    for rule in quiet:
        part = f"{rule.nearest:.0%}, " if rule.nearest_s is not None else ""
        click.echo(f"not {rule.rule} ({rule.kind}): {part}{rule.reason}")


def _watched(name: str, rule: Rule, cameras: Mapping[str, CameraSettings]) -> list[str]:
    return [
        camera
        for camera, about in cameras.items()
        if name not in about.rules and watches(rule, camera, ZoneMap(about.zones).names)
    ]


def _wants(rule: Rule) -> str:
    """What a rule waits for, for a person."""
    place = f" in {' or '.join(rule.zones)}" if rule.zones else ""
    hours = ", ".join(map(_hours, rule.hours))
    return f"{_condition(rule)}{place}{f' ({hours})' if hours else ''}, score {rule.min_score:g}"


def _condition(rule: Rule) -> str:
    label = rule.label
    if rule.kind == "line-cross":
        return f"{label} crosses the line" + ("" if rule.direction == "any" else f" {rule.direction}")
    held = format_duration(rule.for_s)
    match rule.kind:
        case "absence":
            return f"no {label} for {held}"
        case "count":
            bound = f"{rule.at_least} or more" if rule.at_least is not None else f"{rule.at_most} or fewer"
            return f"{bound} x {label} for {held}"
        case _:
            return f"{label} {_VERBS[rule.kind]} for {held}"


def _hours(entry: Hours) -> str:
    days = "" if len(entry.days) == 7 else f" {' '.join(entry.days)}"
    return f"{entry.start:%H:%M}-{entry.end:%H:%M}{days}"
