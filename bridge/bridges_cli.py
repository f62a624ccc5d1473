"""`vigil bridges`: where each bridge writes, which shards it has, and what waits in it."""

from __future__ import annotations

import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import click
import msgspec

from bridge.shards import BridgePeer, Bridges
from broker import Delivery, listen
from broker.messages import NodeHealth
from broker.session import HEALTH_INTERVAL_S
from broker.topics import NODE_BRIDGE_BEAT, NODE_HEALTH, NODE_STATUS, origin_of
from config import TransientError, configure_logging
from config.settings import Settings
from config.text import printable

__all__ = ["BridgeRow", "BridgesReport", "bridges", "report"]

Load = Callable[[Mapping[str, Any]], Settings]

_CONNECT_WAIT_S = 5.0
_HEALTH_S = 1.2 * HEALTH_INTERVAL_S
"""How long to listen for the health of those that are there: one of them, and some."""
_FACTS_S = 0.5
"""How long to listen at least: for what is retained."""
_LOOK_S = 0.05


class BridgeRow(msgspec.Struct, frozen=True, kw_only=True):
    """One bridge.

    Attributes:
        state: ``silent`` is one that says it is there, and does not beat.
        sink: what it writes to.
        shards: into how many it splits the cameras.
        own: those of them that are its own.
        waiting: messages that the sink does not have yet; None where it has not said.
        stored: messages that it wrote since its start.
        foreign: messages that it left to other bridges.
        stored_p99_ms: from arrival to stored.
    """

    bridge: str
    state: str
    sink: str
    shards: int
    own: tuple[int, ...]
    waiting: int | None = None
    stored: int = 0
    foreign: int = 0
    stored_p99_ms: float = 0.0


class BridgesReport(msgspec.Struct, frozen=True, kw_only=True):
    """Every bridge of a site at one moment.

    Attributes:
        faults: what is wrong: shards that nobody has, or two have; bridges that split the cameras differently.
    """

    bridges: tuple[BridgeRow, ...]
    faults: tuple[str, ...]


def report(known: Bridges, healths: Mapping[str, NodeHealth]) -> BridgesReport:
    """What is known of the bridges, for people.

    Args:
        known: as an onlooker sees them.
        healths: by origin.
    """
    rows = tuple(_row(name, peer, healths.get(name)) for name, peer in sorted(known.peers.items()))
    return BridgesReport(bridges=rows, faults=tuple(_faults(rows)))


def _row(name: str, peer: BridgePeer, health: NodeHealth | None) -> BridgeRow:
    beat = peer.beat
    if beat is None:
        return BridgeRow(bridge=name, state="offline" if peer.away else "silent", sink="", shards=0, own=())
    counts = {} if health is None else health.counts
    return BridgeRow(
        bridge=name,
        state="offline" if peer.away else beat.state,
        sink=beat.sink,
        shards=beat.shards,
        own=beat.own,
        waiting=None if health is None else health.queues.get("bridge", 0),
        stored=counts.get("stored", 0),
        foreign=counts.get("foreign", 0),
        stored_p99_ms=counts.get("stored_p99_us", 0) / 1000.0,
    )


def _faults(rows: tuple[BridgeRow, ...]) -> list[str]:
    sinks: defaultdict[str, list[BridgeRow]] = defaultdict(list)
    for row in rows:
        if row.sink and row.state != "offline":
            sinks[row.sink].append(row)
    return [fault for sink, some in sorted(sinks.items()) for fault in _faults_of(sink, some)]


def _faults_of(sink: str, rows: list[BridgeRow]) -> list[str]:
    if len({row.shards for row in rows}) > 1:
        told = ", ".join(f"{row.bridge} into {row.shards}" for row in rows)
        return [f"{sink}: the cameras are split differently ({told}): give all of them the same bridge.shards"]
    faults = []
    for shard in range(rows[0].shards):
        owners = [row.bridge for row in rows if shard in row.own]
        if len(owners) != 1:
            faults.append(f"{sink}: shard {shard} is of {' and '.join(owners) or 'nobody'}; it may be changing hands")
    return faults


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_obj
def bridges(load: Load, *, as_json: bool) -> None:
    """Show the bridges: where each writes, which shards of the cameras it has, and what waits in it.

    Bridges of one Kafka share the cameras, split into `bridge.shards` parts. One that is silent for 3 s loses its
    part to the others.

    \b
    vigil bridges
    vigil bridges --json | jq -r '.bridges[] | [.bridge, .state, (.own | length)] | @tsv'

    Exit status: 0 every shard has one bridge, 1 some have none or two, 69 no broker.
    """
    settings = load({})
    configure_logging("error" if settings.log.level == "info" else settings.log.level, stream=sys.stderr)
    found = _look(settings)
    if as_json:
        click.echo(msgspec.json.encode(found))
    else:
        _show(found)
    if found.faults:
        raise click.exceptions.Exit(1)


def _look(settings: Settings) -> BridgesReport:
    known, healths, lock = Bridges(), dict[str, NodeHealth](), threading.Lock()

    def on_delivery(delivery: Delivery) -> None:
        with lock:
            if isinstance(delivery.content, NodeHealth):
                healths[origin_of(delivery.content.node, delivery.content.role)] = delivery.content
            else:
                known.fold(delivery, time.monotonic())

    bus = listen(settings, "bridges")
    for spec in (NODE_STATUS, NODE_BRIDGE_BEAT, NODE_HEALTH):
        bus.subscribe(spec, on_delivery)
    bus.start()
    try:
        if not bus.wait_connected(_CONNECT_WAIT_S):
            raise TransientError(f"no broker at {settings.bus.url}: start one, or name another with --bus URL")
        begun_s = time.monotonic()
        while (waited_s := time.monotonic() - begun_s) < _HEALTH_S:
            with lock:
                there = [name for name, peer in known.peers.items() if not peer.away]
                if waited_s > _FACTS_S and all(known.peers[name].beat and name in healths for name in there):
                    break
            time.sleep(_LOOK_S)
    finally:
        bus.close()
    with lock:
        return report(known, healths)


def _show(found: BridgesReport) -> None:
    if not found.bridges:
        click.echo("no bridge has reported: start one with `vigil bridge`")
    for row in found.bridges:
        click.echo(_line(row))
    for fault in found.faults:
        click.echo(printable(fault, 500), err=True)


def _line(row: BridgeRow) -> str:
    words = [row.state]
    if row.sink:
        words += [f"into {row.sink}", f"shards {_ranges(row.own)} of {row.shards}"]
    if row.waiting is not None:
        words.append(f"{row.waiting} wait, {row.stored} stored (p99 {row.stored_p99_ms:.1f} ms), {row.foreign} left")
    return printable(f"{row.bridge}: " + "; ".join(words), 500)


def _ranges(shards: tuple[int, ...]) -> str:
    """Such as ``0-2, 5``."""
    parts: list[list[int]] = []
    for shard in shards:
        if parts and shard == parts[-1][-1] + 1:
            parts[-1].append(shard)
        else:
            parts.append([shard])
    return ", ".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts) or "none"
