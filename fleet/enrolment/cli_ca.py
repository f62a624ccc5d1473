"""The authority's commands: `vigil ca init`, `vigil ca show`, `vigil ca serve`."""

from __future__ import annotations

import ipaddress
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from broker.authority import Authority, names_of_this_machine
from broker.certs import fingerprint, read_certificate
from broker.members import ca_folder
from broker.scrape import scraped
from config import stop_on_signals
from config.settings import Settings
from fleet.enrolment.server import EnrolmentServer, announced
from fleet.enrolment.shelf import Shelf
from fleet.enrolment.wire import DEFAULT_PORT

__all__ = ["ca"]

Load = Callable[[Mapping[str, Any]], Settings]

_HOST = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,62}))*")


def _check_names(_context: click.Context, _parameter: click.Parameter, names: Sequence[str]) -> Sequence[str]:
    for name in names:
        if not _is_address(name) and not _HOST.fullmatch(name):
            raise click.BadParameter(f"{name!r} is neither a host name nor an address; give it without a port")
    return names


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


@click.group()
def ca() -> None:
    """The site's certificate authority: who may come onto a secure bus.

    \b
    Examples:
      vigil ca init
      vigil ca show
      vigil ca serve
    """


@ca.command()
@click.option(
    "--name",
    "names",
    metavar="HOST",
    multiple=True,
    callback=_check_names,
    help="A further name or address of the broker; may be given again. This machine's are in it already.",
)
@click.pass_obj
def init(load: Load, names: Sequence[str]) -> None:
    """Make the certificate authority of the site, on the machine that will run the broker.

    One that is there is kept: run it again with --name to let the broker be reached by a further name.

    \b
    Examples:
      vigil ca init
      vigil ca init --name hub.example.org --name 10.0.0.2
    """
    settings = load({})
    folder = ca_folder(settings)
    if folder.exists:
        authority = Authority(folder)
        if names:
            authority.name_server(names)
        click.echo(f"{folder.path} has the authority of site {authority.site} already; it is kept")
    else:
        authority = Authority.create(folder, settings.site, (*names_of_this_machine(), *names))
        click.echo(f"made the certificate authority of site {authority.site} in {folder.path}")
    _show(authority)
    click.echo(
        "\nnext:\n"
        "  vigil enrol NODE --role edge --camera NAME     let a node in; likewise --role detector, bridge ...\n"
        "  vigil enrol --person NAME                      let a person in\n"
        "  broker: {engine: mosquitto, secure: true, host: 0.0.0.0} in vigil.yaml, then `vigil broker run`\n"
        f"Keep a copy of {folder.path} in a safe place, and let nobody read it: who can, can let anybody in."
    )


@ca.command()
@click.pass_obj
def show(load: Load) -> None:
    """Show the site's authority: fingerprints, ends, the broker's names. Nothing of it is secret.

    \b
    Examples:
      vigil ca show
    """
    authority = Authority(ca_folder(load({})))
    click.echo(f"certificate authority of site {authority.site} in {authority.folder.path}")
    _show(authority)


def _show(authority: Authority) -> None:
    folder = authority.folder
    for what, path in (("processes", folder.ca), ("people", folder.people)):
        content = path.read_bytes()
        digits = fingerprint(content).hex()
        click.echo(f"  {what:<10} until {read_certificate(content).not_after:%Y-%m-%d}  SHA-256 {digits}")
    server = read_certificate(folder.server.read_bytes())
    click.echo(f"  {'broker':<10} until {server.not_after:%Y-%m-%d}  as {', '.join(server.names)}")
    members = authority.roster().members
    let_in = sum(1 for member in members if not member.is_revoked)
    click.echo(f"  {'members':<10} {let_in} in, {len(members) - let_in} shut out; `vigil members` lists them")


@ca.command()
@click.option("--host", default="", help="Address to listen on.  [default: all, for nodes come from elsewhere]")
@click.option("--port", type=click.IntRange(1, 65535), default=DEFAULT_PORT, show_default=True, help="TCP port.")
@click.pass_obj
def serve(load: Load, host: str, port: int) -> None:
    """Let nodes join with their tokens and renew their certificates, until it is stopped.

    HTTPS, TLS 1.2 or later. `vigil enrol` serves by itself while its token holds; this is for a site whose nodes
    renew by themselves. Nodes that have joined fetch the logins of their own cameras here, and versions of Vigil.
    Where `vigil fleet` runs on this machine, it keeps this door open and nothing else is needed.

    \b
    Examples:
      vigil ca serve
    """
    settings = load({})
    folder = ca_folder(settings)
    server = EnrolmentServer(Authority(folder), settings.broker, host=host, port=port, shelf=Shelf.of(settings))
    stop = threading.Event()
    stop_on_signals(stop)
    with scraped(settings, "fleet"), announced(folder, server.port):
        server.start()
        stop.wait()
        server.close()
