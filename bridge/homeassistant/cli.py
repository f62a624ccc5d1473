"""The command `vigil homeassistant`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import click

from bridge.homeassistant.announced import Announced
from bridge.homeassistant.memory import known_path
from bridge.homeassistant.role import run_homeassistant
from broker.topics import origin_of
from config import configure_logging
from config.options import role_option
from config.settings import Settings

__all__ = ["homeassistant"]

Load = Callable[[Mapping[str, Any]], Settings]


@dataclass(frozen=True, slots=True)
class _Given:
    """What the group's options say.

    Attributes:
        settings: of the site.
        role: of the process.
    """

    settings: Settings
    role: str


@click.group(invoke_without_command=True)
@click.option("--discovery", type=click.Choice(["device", "entity"]), help="The form.  [default: device]")
@click.option("--prefix", metavar="PREFIX", help="Home Assistant's discovery prefix.  [default: homeassistant]")
@role_option("homeassistant")
@click.pass_context
def homeassistant(ctx: click.Context, discovery: str | None, prefix: str | None, role: str) -> None:
    """Let every camera and node appear in Home Assistant by itself.

    It publishes MQTT discovery, retained, and takes back what is no more. The entities read the mesh's own topics, so
    they are right while this process is away. `--discovery entity` is for Home Assistant before 2024.11, and for
    openHAB; what was published in the other form is carried over.

    \b
    Examples:
      vigil homeassistant
      vigil homeassistant --discovery entity
      vigil homeassistant show yard                 what Home Assistant is told of a camera
      vigil homeassistant clear                     take everything of this site back
      vigil up --homeassistant                      with everything else on this machine
    """
    given = {key: value for key, value in (("discovery", discovery), ("prefix", prefix)) if value is not None}
    load: Load = ctx.obj
    settings = load({"homeassistant": given})
    if ctx.invoked_subcommand is None:
        run_homeassistant(settings, role)
    ctx.obj = _Given(settings, role)


@homeassistant.command()
@click.argument("name", required=False)
@click.pass_obj
def show(given: _Given, name: str | None) -> None:
    """Print what the broker keeps for Home Assistant: of a camera or node, or which there are.

    \b
    Examples:
      vigil homeassistant show
      vigil homeassistant show yard | jq '.components | keys'
    """
    _only_warnings(given.settings)
    with Announced(given.settings, given.role) as announced:
        devices = announced.devices()
    if name is None:
        for device, payloads in devices.items():
            click.echo(f"{device:<24}  {sum(map(len, payloads))} bytes under {len(payloads)} topics")
    elif name in devices:
        for payload in devices[name]:
            click.echo(json.dumps(json.loads(payload), indent=2, ensure_ascii=False))
    else:
        known = ", ".join(devices) or "none: run `vigil homeassistant`"
        raise click.ClickException(f"nothing is published of {name!r}; there are {known}")


@homeassistant.command()
@click.pass_obj
def clear(given: _Given) -> None:
    """Take everything back that was published for this site: its devices disappear from Home Assistant.

    Stop `vigil homeassistant` first, or it publishes them again when it, or Home Assistant, starts.

    \b
    Examples:
      vigil homeassistant clear
    """
    settings = given.settings
    _only_warnings(settings)
    with Announced(settings, given.role) as announced:
        count = announced.take_back()
    known_path(settings.state_dir, settings.site, origin_of(settings.node, given.role)).unlink(missing_ok=True)
    click.echo(f"{count} topics taken back")


def _only_warnings(settings: Settings) -> None:
    """What is printed goes to other programs."""
    configure_logging("warning", settings.log.style, stream=sys.stderr)
