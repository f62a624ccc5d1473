"""`vigil service`: this machine's processes as services of systemd."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import click

from config import ConfigError, PermanentError
from config.files import write_atomically
from config.settings import Settings
from fleet.service.install import Step, install_steps, place_of, systemctl, uninstall_steps, unit_folder
from fleet.service.state import service_states
from fleet.service.units import SERVICES, STANDARD, Place, unit_name, unit_text

__all__ = ["service"]

_ROOT = Path("/")


class Load(Protocol):
    """Reads the settings; :class:`console.loading.SettingsLoader` does.

    Attributes:
        file: the site file, where there is one.
    """

    file: Path | None

    def check(
        self, overrides: Mapping[str, Any] | None = None, *, file: Path | None = None
    ) -> tuple[Settings | None, list[ConfigError]]:
        """The settings and no errors, or None and everything that is wrong; `file` in place of the root's."""
        ...


_role = click.option(
    "--role", type=click.Choice(list(SERVICES)), default="node", show_default=True, help="Which service."
)
_root = click.option(
    "--root",
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    default=_ROOT,
    help="Another system's folder, such as a mounted image; nothing is started there.",
)
_dry = click.option("--dry-run", is_flag=True, help="Print what would be done, and the files; change nothing.")


@click.group()
def service() -> None:
    """Let systemd run Vigil on this machine: at its start, watched, and in a sandbox of its own.

    \b
    Examples:
      sudo vigil service install --now              the agent, which runs what the site asks of this machine
      sudo vigil service install --role up --now    a whole mesh on one machine
      vigil service status
      sudo vigil service uninstall
    """


@service.command()
@_role
@_root
@click.option("--now", is_flag=True, help="Start it at once, or again where it runs.")
@_dry
@click.pass_obj
def install(load: Load, role: str, root: Path, now: bool, dry_run: bool) -> None:
    """Write the unit of a service for this very installation, with its user and folders, and enable it.

    A site file that is there stays as it is; a unit is written anew.

    \b
    Examples:
      sudo vigil service install --now
      sudo vigil --config /etc/vigil/porch.yaml service install --role edge --now
      vigil service install --dry-run
    """
    root = root.absolute()
    place = _place(load, root)
    _check_rights(root, dry_run=dry_run, command="install")
    for step in install_steps(role, place, root=root, now=now):
        _carry_out(step, dry_run=dry_run)
    if root == _ROOT and not (dry_run or now):
        click.echo(f"It starts with the machine; now: systemctl start {unit_name(role)}")


@service.command()
@_role
@_root
@_dry
@click.pass_obj
def uninstall(load: Load, role: str, root: Path, dry_run: bool) -> None:
    """Stop a service and take its unit away. Its state and the configuration stay, and it says where.

    \b
    Examples:
      sudo vigil service uninstall
      sudo vigil service uninstall --role edge
    """
    root = root.absolute()
    place = _place(load, root)
    if not (unit_folder(root) / unit_name(role)).exists():
        raise PermanentError(f"{unit_name(role)} is not installed: `vigil service status` lists what is")
    _check_rights(root, dry_run=dry_run, command="uninstall")
    for step in uninstall_steps(role, root=root):
        _carry_out(step, dry_run=dry_run)
    click.echo(f"kept: configuration {place.config.parent}, state {place.state}, user {place.user}")


@service.command()
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@click.pass_obj
def status(load: Load, as_json: bool) -> None:
    """Say how the services of Vigil on this machine are.

    \b
    Examples:
      vigil service status
      vigil service status --json

    Exit status: 0 all that are enabled run, 1 one does not, 69 systemd does not run this machine.
    """
    del load
    states = service_states(systemctl)
    if as_json:
        click.echo(json.dumps([state.as_json() for state in states], indent=2))
    elif not states:
        click.echo("No service of Vigil is installed: `sudo vigil service install --now`")
    for state in () if as_json else states:
        click.echo(state.in_words())
    if any(not state.is_well for state in states):
        raise click.exceptions.Exit(1)


@service.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
def units(folder: Path) -> None:
    """Write the unit of every service into FOLDER, for an installation in /opt/vigil: what packages want.

    \b
    Examples:
      vigil service units deploy/systemd
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in SERVICES:
        write_atomically(folder / unit_name(name), unit_text(name), mode=0o644)
        (folder / unit_name(name)).chmod(0o644)
        click.echo(folder / unit_name(name))


def _place(load: Load, root: Path) -> Place:
    config = load.file or STANDARD.config
    there = root / config.absolute().relative_to("/")
    if load.file is None and not there.exists():
        settings, errors = load.check()
    else:
        settings, errors = load.check(file=there)
    if settings is None:
        raise errors[0]
    return place_of(settings, config, root)


def _check_rights(root: Path, *, dry_run: bool, command: str) -> None:
    if root == _ROOT and os.geteuid() and not dry_run:
        raise PermanentError(
            f"this changes the system, so root must do it: `sudo vigil service {command} ...`; `--dry-run` shows what "
            "would be done. Nothing was changed"
        )


def _carry_out(step: Step, *, dry_run: bool) -> None:
    click.echo(step.about)
    if dry_run:
        for line in step.text.splitlines():
            click.echo(f"    {line}".rstrip())
    else:
        step.do()
