"""`vigil node update`: another version of Vigil on the site's nodes, one after the other, the canary first."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from broker.asking import Asker
from broker.members import ca_folder
from config import PermanentError, SystemClock, configure_logging
from config.durations import DURATION
from config.files import make_private_folder, move_into_place
from config.settings import Settings
from fleet.bundle.verify import verify_bundle
from fleet.nodes.cli_members import own_registry
from fleet.nodes.cli_orders import check_node
from fleet.nodes.load import Load
from fleet.nodes.roll import Roll
from fleet.registry.folder import RegistryFolder
from fleet.schedules.timetable import is_open, next_open, site_zone
from fleet.updates.naming import name_of
from fleet.updates.rollout import Rollout

__all__ = ["update"]

_FILE = click.Path(dir_okay=False, exists=True, path_type=Path)


def _check_nodes(context: click.Context, parameter: click.Parameter, values: Sequence[str]) -> Sequence[str]:
    return [check_node(context, parameter, value) for value in values]


@click.command()
@click.argument("nodes", metavar="[NAME]...", nargs=-1, callback=_check_nodes)
@click.option("--all", "every", is_flag=True, help="Every node of the site that answers.")
@click.option(
    "--version", "version", metavar="VERSION", required=True, help="Of Vigil, that they are to run, such as 0.2.0."
)
@click.option(
    "--bundle", "bundles", metavar="FILE", multiple=True, type=_FILE, help="Offer this file first; may be given again."
)
@click.option("--canary", metavar="NAME", help="The node that goes first.  [default: the one with the fewest cameras]")
@click.option("--now", is_flag=True, help="Also outside of the site's windows for updates.")
@click.option("--wait", "wait_s", type=DURATION, metavar="DURATION", default="30m", help="For each node; default 30m.")
@click.pass_obj
def update(
    load: Load,
    *,
    nodes: Sequence[str],
    every: bool,
    version: str,
    bundles: Sequence[Path],
    canary: str | None,
    now: bool,
    wait_s: float,
) -> None:
    """Give nodes another version of Vigil: one node first, and the others after it only if all is well there.

    The bundle is checked against the signature of the site's authority, here and again on each node. A node fetches it
    from the authority, installs it beside the version that it has, switches, and goes back by itself where not
    everything that ran before runs again within its time (`fleet.trial_s`). Then its cameras must be online again, or
    it is told to go back. What is raised meanwhile waits on the node's disk.

    Which version a node is to run stands in its file in the registry. A node that does not answer is left out; with
    `version` in its file it changes when it comes back.

    \b
    Examples:
      vigil node update porch --version 0.2.0 --bundle vigil-0.2.0.tar
      vigil node update --all --version 0.2.0
      vigil node update --all --version 0.1.0 --canary porch --now      back to the one before

    Exit status: 0 every node runs it, 1 one of them does not, and nothing was changed after that.
    """
    settings = load.read()
    configure_logging("error" if settings.log.level == "info" else settings.log.level, stream=sys.stderr)
    if bool(nodes) == every:
        raise click.UsageError("name the nodes, or all of them with --all")
    for bundle in bundles:
        click.echo(f"offers {offer(settings, bundle, version).name}")
    roll = Roll()
    with Asker(settings, "node", prepare=roll.prepare) as asker:
        roll.wait_complete()
        folder = own_registry(settings, roll)
        if not now:
            _check_window(folder)
        chosen = _in_order(roll, list(nodes), canary)
        rollout = Rollout(settings, folder, roll, asker, wait_s=wait_s, tell=click.echo)
        for number, name in enumerate(chosen):
            rollout.change(name, version, told=f"{number + 1}/{len(chosen)}")
    click.echo(f"{len(chosen)} of {len(chosen)} run {version}")


def offer(settings: Settings, bundle: Path, version: str) -> Path:
    """Put a bundle where nodes find it, once it is known to be whole and the site's own.

    Raises:
        PermanentError: it is not; or it is another version; or this machine does not have the site's authority.
        ConfigError: it cannot be read.
    """
    authority = ca_folder(settings)
    if not authority.exists:
        raise PermanentError(
            f"there is no certificate authority in {authority.path}, from which nodes fetch bundles: run this on the "
            "machine that has it"
        )
    manifest = verify_bundle(bundle, authority.ca.read_bytes())
    if manifest.version != version:
        raise PermanentError(f"{bundle} is version {manifest.version}, not {version}")
    place = settings.state_dir / "bundles"
    make_private_folder(place)
    target = place / name_of(manifest)
    if not (target.exists() and bundle.samefile(target)):
        draft = place / f".{target.name}"
        shutil.copyfile(bundle, draft)
        move_into_place(draft, target)
    return target


def _check_window(folder: RegistryFolder) -> None:
    site = folder.site().entry
    zone, moment = site_zone(site), SystemClock().now()
    if not is_open(site.windows.updates, moment, zone):
        opens = next_open(site.windows.updates, moment, zone).astimezone(zone)
        raise PermanentError(
            f"the site's window for updates (`windows.updates` in site.yaml) opens at {opens:%a %H:%M}; --now does not "
            "wait for it"
        )


def _in_order(roll: Roll, nodes: list[str], canary: str | None) -> list[str]:
    """The canary first, then those with fewer cameras before those with more."""
    answering = [row.node for row in roll.rows() if row.state in {"running", "draining", "drained"}]
    chosen = list(dict.fromkeys(nodes)) or answering
    for name in chosen:
        if name not in answering:
            raise PermanentError(f"{name} does not answer; those that do: {', '.join(answering) or 'none'}")
    if not chosen:
        raise PermanentError("no node answers; `vigil node list` shows those that there are")
    if canary is not None and canary not in chosen:
        raise click.UsageError(f"--canary {canary} is not one of the nodes that are changed: {', '.join(chosen)}")
    return sorted(chosen, key=lambda name: (name != canary, len(roll.cameras_of(name)), name))
