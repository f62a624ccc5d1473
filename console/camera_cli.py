"""`vigil camera`: tell a camera something, and hear what came of it."""

from __future__ import annotations

import sys

import click
import msgspec

from broker.asking import Asker
from config import PermanentError, TransientError, configure_logging
from config.durations import DURATION, format_duration
from config.names import check_name
from config.text import printable
from console.loading import SettingsLoader

__all__ = ["set_"]


def _read_name(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    try:
        return check_name(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command("set")
@click.argument("camera", metavar="CAMERA", callback=_read_name)
@click.argument("name", metavar="PROPERTY", callback=_read_name)
@click.argument("value", metavar="VALUE", default="ON")
@click.option("--wait", "wait_s", type=DURATION, metavar="DURATION", default="30s", help="For the answer; default 30s.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as one JSON object.")
@click.pass_obj
def set_(load: SettingsLoader, *, camera: str, name: str, value: str, wait_s: float, as_json: bool) -> None:
    """Set a property of a camera, and print what it is then.

    \b
    mode         monitor, zoom (ends by itself), eco, off; auto for what the schedule and the settings say
    privacy      ON shows no picture of it anywhere, OFF, auto
    detection    ON, OFF, auto: whether workers score its frames
    recording    ON, OFF, auto
    sensitivity  0 (least) to 1 (most), auto
    snapshot     leaves a picture at the broker
    clip         the last N seconds, or START/END; delivered, and its place printed
    retention    deletes recordings older than so many hours, now
    drill        raises a fake alarm with the camera's picture: info, warning or critical

    \b
    Examples:
      vigil camera set yard mode eco
      vigil camera set yard privacy ON
      vigil camera set yard clip 30
      vigil camera set yard clip 2026-11-21T10:15:00Z/2026-11-21T10:16:00Z

    What is set holds until something else is set, also over a restart of the node.

    Exit status: 0 done, 1 refused, 69 no broker or nobody answered.
    """
    settings = load.read()
    configure_logging("error" if settings.log.level == "info" else settings.log.level, stream=sys.stderr)
    with Asker(settings, "camera") as asker:
        reply = asker.set(camera, name, value, wait_s)
    if reply is None:
        raise TransientError(
            f"nobody answered within {format_duration(wait_s)}: no node of site {settings.site!r} watches camera "
            f"{camera!r} now; `vigil watch --camera {camera} --kind state` shows who did"
        )
    if as_json:
        click.echo(msgspec.json.encode(reply))
    if not reply.ok:
        raise PermanentError(printable(reply.reason, 1000))
    if not as_json:
        for key, text in reply.result.items():
            click.echo(f"{key:<12} {printable(text, 1000)}")
