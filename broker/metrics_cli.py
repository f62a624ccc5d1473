"""`vigil metrics`: where the processes of this machine are scraped, and what they tell."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from broker.scrape import ROLES, metrics_url, scrape_config
from broker.series import metrics_page
from broker.topics import origin_of
from config.errors import ConfigError
from config.files import write_atomically
from config.names import check_role
from config.settings import Settings

__all__ = ["metrics"]

Load = Callable[[Mapping[str, Any]], Settings]

_PAGE = "metrics.md"
_ASK_S = 1.0


def _check_roles(_context: click.Context, _parameter: click.Parameter, values: Sequence[str]) -> Sequence[str]:
    for value in values:
        try:
            check_role(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from error
        if value.partition(".")[0] not in ROLES:
            raise click.BadParameter(f"{value!r} tells no figures; these do: {', '.join(ROLES)}, also as {ROLES[2]}.2")
    return values


@click.command()
@click.option(
    "--role",
    "roles",
    metavar="NAME",
    multiple=True,
    callback=_check_roles,
    help="Only of this role, such as detector.2; may be given again.",
)
@click.option(
    "--scrape-config", "as_config", is_flag=True, help="Print the section of prometheus.yml for this machine."
)
@click.option("--host", metavar="NAME", help="How Prometheus reaches this machine.  [default: metrics.host]")
@click.option("--write", type=click.Path(file_okay=False, path_type=Path), help=f"Write {_PAGE} into this folder.")
@click.option(
    "--check", type=click.Path(file_okay=False, path_type=Path), help=f"Exit 1 when {_PAGE} in this folder is stale."
)
@click.pass_obj
def metrics(
    load: Load, *, roles: Sequence[str], as_config: bool, host: str | None, write: Path | None, check: Path | None
) -> None:
    """List where each role of this machine is scraped, and whether it answers.

    With `metrics.port` set, each role serves /metrics for Prometheus on a port of its own, on `metrics.host`: the
    broker on that port, edge on the next, then detector, bridge, console, fleet, commands, homeassistant; a second one
    of a role ten further on. Nobody elsewhere reaches them while `metrics.host` is 127.0.0.1.

    \b
    Examples:
      vigil metrics
      vigil metrics --scrape-config --host porch.local >> prometheus.yml
      vigil metrics --scrape-config --role edge --role detector --role detector.2
    """
    if write is not None:
        write_atomically(write / _PAGE, metrics_page())
        click.echo(f"wrote {write / _PAGE}")
    elif check is not None:
        _check_page(check / _PAGE)
    else:
        _tell(load({}), roles, as_config=as_config, host=host)


def _check_page(path: Path) -> None:
    if not path.is_file() or path.read_text(encoding="utf-8") != metrics_page():
        click.echo(f"{path} is stale: run `vigil metrics --write {path.parent}`", err=True)
        raise SystemExit(1)
    click.echo(f"{path} lists what there is")


def _tell(settings: Settings, roles: Sequence[str], *, as_config: bool, host: str | None) -> None:
    if settings.metrics.port is None:
        raise ConfigError(
            "no role tells its figures: set a first port, such as 9460, there or as VIGIL_METRICS__PORT",
            field="metrics.port",
        )
    chosen = tuple(roles) or _usual(settings)
    if as_config:
        click.echo(scrape_config(settings, chosen, host=host), nl=False)
        return
    for role in chosen:
        url = metrics_url(settings.metrics, role)
        if url is None:
            click.echo(f"{role:<14}  no port is left for it: lower metrics.port")
        else:
            click.echo(
                f"{role:<14}  {url}  {'answers' if _answers(url, origin_of(settings.node, role)) else 'nobody answers'}"
            )


def _usual(settings: Settings) -> tuple[str, ...]:
    """The roles of a machine that runs the whole mesh."""
    kafka = settings.bridge.kafka
    absent = {
        "fleet",
        *(() if kafka is not None and kafka.commands is not None else ("commands",)),
        *(() if settings.homeassistant.enabled else ("homeassistant",)),
        *(("detector",) if settings.edge.detector else ()),
    }
    return tuple(role for role in ROLES if role not in absent)


def _answers(url: str, origin: str) -> bool:
    """Whether that very process answers there."""
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=_ASK_S)
    try:
        connection.request("GET", place.path)
        return f'origin="{origin}"'.encode() in connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
