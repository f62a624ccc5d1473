"""`vigil alarm`: fake alarms of the site's own rules, to see who is told and what they do."""

from __future__ import annotations

import difflib
import threading

import click

from config import ConfigError, stop_on_signals
from config.durations import DURATION
from config.options import role_option
from config.rules import Rule
from config.settings import Settings
from console.drill import Alarm, Drill, raise_alarms, read_camera
from console.loading import SettingsLoader

__all__ = ["alarm", "alarm_of"]


@click.group()
def alarm() -> None:
    """Try out alarms.

    \b
    Examples:
      vigil alarm fake --rule on-the-ground --camera hall
    """


@alarm.command()
@click.option("--rule", "name", required=True, help="A rule of the site file, or the kind of one.")
@click.option("--camera", required=True, callback=read_camera, help="The camera that raises it.")
@click.option(
    "--wait", "wait_s", type=DURATION, metavar="DURATION", default="30s", help="For its receipt.  [default: 30s]"
)
@click.option("--no-wait", is_flag=True, help="Leave once it is on disk.")
@role_option("drill")
@click.pass_obj
def fake(load: SettingsLoader, *, name: str, camera: str, wait_s: float, no_wait: bool, role: str) -> None:
    """Raise an alarm as if a rule had fired, and see whether it arrives.

    It has the rule's name, kind, severity, label and zones, and goes the whole way: broker, bridge, journal or Kafka,
    web page and whoever listens. It is marked `drill: true` on all of it, says so in words, and its picture does too.
    Its id is printed once it is on disk.

    \b
    Examples:
      vigil alarm fake --rule on-the-ground --camera hall
      vigil alarm fake --rule night --camera yard --no-wait
      vigil rules list                                       the rules that there are

    Exit status: 0 it has its receipt (with --no-wait: is on disk), 1 it still waits in the outbox; the next fake alarm
    or drill sends it.
    """
    looks = alarm_of(load.read(), name, camera)
    stop = threading.Event()
    stop_on_signals(stop)
    raise_alarms(
        load,
        role,
        lambda bus: Drill(bus, camera, looks),
        lambda drilling, progress: drilling.run(stop, rate=1.0, count=1, progress=progress),
        stop=stop,
        length=1,
        wait_s=None if no_wait else wait_s,
    )


def alarm_of(settings: Settings, name: str, camera: str) -> Alarm:
    """What an alarm of a rule looks like.

    Raises:
        ConfigError: there is no such rule, or it does not watch the camera.
    """
    rule_name, rule = _find(settings, name)
    if rule.cameras and camera not in rule.cameras:
        raise ConfigError(
            f"it does not watch camera {camera!r}, but {', '.join(rule.cameras)}", field=f"detector.rules.{rule_name}"
        )
    return Alarm(rule_name, rule.severity, kind=rule.kind, label=rule.label, zones=rule.zones)


def _find(settings: Settings, name: str) -> tuple[str, Rule]:
    """A rule by its name, or the only one of a kind."""
    known = settings.detector.rules
    if name in known:
        return name, known[name]
    of_kind = [rule_name for rule_name, rule in known.items() if rule.kind == name]
    if len(of_kind) == 1:
        return of_kind[0], known[of_kind[0]]
    if of_kind:
        raise ConfigError(f"several rules are of the kind {name!r}: name one of {', '.join(of_kind)}", field="--rule")
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known) or 'none'}"
    raise ConfigError(f"the site file has no rule {name!r}; {hint}", field="detector.rules")
