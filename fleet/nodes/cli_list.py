"""`vigil node list` and `vigil node show`: the site's nodes, and one of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from datetime import datetime

import click
import msgspec

from broker.asking import Asker
from broker.messages import NodeReport
from config import PermanentError, configure_logging
from config.clock import SystemClock
from config.settings import Settings
from config.text import printable
from fleet.nodes.load import Load
from fleet.nodes.roll import NodeRow, Roll

__all__ = ["list_", "show"]

_CAMERAS_SHOWN = 3


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_obj
def list_(load: Load, *, as_json: bool) -> None:
    """List the site's nodes: how each is, what runs there of what is asked, what it cannot do.

    A node that greets waits to be accepted: `vigil node accept NAME`. One that was never heard is in the registry
    only.

    \b
    Examples:
      vigil node list
      vigil node list --json | jq -r 'select(.problems != []) | .node'

    Exit status: 0 every node of the registry does all that it is asked, 1 one does not, 69 no broker.
    """
    roll = _called(load.read())
    rows = roll.rows()
    if as_json:
        for row in rows:
            click.echo(msgspec.json.encode(row))
    elif rows:
        _print_table(list(_cells(rows, SystemClock().now())))
    else:
        click.echo("no node has said anything, and the registry has none: `vigil node run` on a machine makes it one")
    if any(row.problems or row.state in {"offline", "never heard"} for row in rows if row.node in roll.documents):
        raise click.exceptions.Exit(1)


def _called(settings: Settings) -> Roll:
    configure_logging("error" if settings.log.level == "info" else settings.log.level, stream=sys.stderr)
    roll = Roll()
    with Asker(settings, "node", prepare=roll.prepare):
        roll.wait_complete()
    return roll


def _cells(rows: Sequence[NodeRow], now: datetime) -> Iterator[tuple[str, ...]]:
    yield ("node", "state", "model", "roles", "cameras", "version", "heard", "problems")
    for row in rows:
        cameras = ", ".join(row.cameras[:_CAMERAS_SHOWN])
        more = len(row.cameras) - _CAMERAS_SHOWN
        yield (
            row.node,
            row.state,
            printable(row.model, 32) or "-",
            row.roles() or "-",
            (f"{cameras} +{more}" if more > 0 else cameras) or "-",
            printable(row.version, 20) or "-",
            row.heard(now),
            _problems_cell(row.problems),
        )


def _problems_cell(problems: Sequence[str]) -> str:
    if not problems:
        return ""
    more = f" (+{len(problems) - 1})" if len(problems) > 1 else ""
    return printable(problems[0], 60) + more


def _print_table(table: Sequence[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


@click.command()
@click.argument("node", metavar="NAME")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_obj
def show(load: Load, *, node: str, as_json: bool) -> None:
    """Show one node: its machine, each of its processes, its cameras, and what it cannot do and why.

    \b
    Examples:
      vigil node show porch
      vigil node show porch --json | jq .report.hardware
    """
    roll = _called(load.read())
    row = roll.row(node)
    if row is None:
        known = ", ".join(one.node for one in roll.rows()) or "none yet"
        raise PermanentError(f"there is no node {node[:80]!r}; `vigil node list` lists them: {known}")
    report = roll.reports.get(node)
    if as_json:
        whole = {"node": row, "report": report, "document": roll.documents.get(node)}
        click.echo(msgspec.json.encode(whole))
        return
    for key, value in _facts(row, report, SystemClock().now()):
        click.echo(f"{key:<12} {printable(value, 1000)}".rstrip())


def _facts(row: NodeRow, report: NodeReport | None, now: datetime) -> Iterator[tuple[str, str]]:
    yield "node", f"{row.node} ({row.name})" if row.name else row.node
    yield "state", row.state
    yield "heard", row.heard(now)
    yield "roles", row.roles() or "none"
    yield "cameras", ", ".join(row.cameras) or "none"
    if row.pools:
        yield "pools", ", ".join(row.pools)
    if report is None:
        return
    machine = report.hardware
    yield "version", report.version
    yield "model", ", ".join(one for one in (machine.model, machine.architecture, machine.system) if one)
    yield "memory", f"{machine.memory_bytes / 1e9:.1f} GB, {machine.cores} cores"
    for key, values in (
        ("addresses", machine.addresses),
        ("gpus", machine.gpus),
        ("local", machine.cameras),
        ("engines", machine.engines),
    ):
        if values:
            yield key, ", ".join(values)
    for role, process in sorted(report.roles.items()):
        words = [process.state, f"pid {process.pid}" if process.pid else "", process.runtime]
        words += [f"started again {process.restarts} times" if process.restarts else "", process.error]
        yield role, ", ".join(word for word in words if word)
    if report.update is not None:
        update = report.update
        yield "update", f"{update.previous} -> {update.version}: {update.state} {update.error}"
    for problem in report.problems:
        yield "problem", f"{problem.part}: {problem.reason}"
