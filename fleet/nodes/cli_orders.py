"""Orders to a node's agent: `vigil node drain`, `resume`, `restart`, `ping`, `logs`."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Mapping

import click
import msgspec

from broker.asking import Asker
from config import PermanentError, TransientError, configure_logging
from config.durations import DURATION, format_duration
from config.names import check_name, check_role
from config.settings import Settings
from config.text import printable
from fleet.nodes.load import Load
from fleet.nodes.roll import AGENT, Roll

__all__ = ["check_node", "drain", "logs", "ordered", "ping", "restart", "resume", "wait_option"]

_FOLLOW_S = 1.0
_LINE_MAX = 4096

wait_option = click.option(
    "--wait", "wait_s", type=DURATION, metavar="DURATION", default="30s", help="For the answer; default 30s."
)


def check_node(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """A node's name, as a command takes it."""
    try:
        return check_name(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _check_role(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    try:
        return None if value is None else check_role(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


node_argument = click.argument("node", metavar="NAME", callback=check_node)


def _quietly(settings: Settings) -> Settings:
    configure_logging("error" if settings.log.level == "info" else settings.log.level, stream=sys.stderr)
    return settings


def ordered(
    asker: Asker, node: str, name: str, arguments: Mapping[str, str] | None = None, *, wait_s: float
) -> Mapping[str, str]:
    """Give a node's agent an order; what it answers.

    Raises:
        TransientError: it does not answer.
        PermanentError: it refuses.
    """
    reply = asker.order(node, AGENT, name, arguments or {}, wait_s)
    if reply is None:
        raise TransientError(
            f"{node} did not answer within {format_duration(wait_s)}: is `vigil node run` running there? `vigil node "
            f"show {node}` says when it was heard last"
        )
    if not reply.ok:
        raise PermanentError(f"{node}: {printable(reply.reason, 1000)}")
    return reply.result


@click.command()
@node_argument
@wait_option
@click.pass_obj
def drain(load: Load, *, node: str, wait_s: float) -> None:
    """Stop what runs on a node, in order, and let nothing start there until `vigil node resume`.

    Each process sends what it still can; what it cannot send stays on the node's disk. Cameras of a pool go to the
    pool's other nodes; a camera of this node alone is not watched meanwhile. Holds over a restart of the node.

    \b
    Examples:
      vigil node drain porch
      vigil node drain porch --wait 2m
    """
    settings = _quietly(load.read())
    roll = Roll()
    with Asker(settings, "node", prepare=roll.prepare) as asker:
        ordered(asker, node, "drain", wait_s=wait_s)
        end_s = time.monotonic() + wait_s
        while roll.state(node) != "drained":
            if time.monotonic() > end_s:
                raise TransientError(
                    f"{node} is not drained within {format_duration(wait_s)}, and goes on: `vigil node show {node}` "
                    "says what still runs"
                )
            time.sleep(0.1)
    click.echo(f"{node} runs nothing now; `vigil node resume {node}` starts it again")


@click.command()
@node_argument
@wait_option
@click.pass_obj
def resume(load: Load, *, node: str, wait_s: float) -> None:
    """Let a drained node run again what the site asks of it.

    \b
    Examples:
      vigil node resume porch
    """
    with Asker(_quietly(load.read()), "node") as asker:
        ordered(asker, node, "resume", wait_s=wait_s)
    click.echo(f"{node} starts what the site asks of it")


@click.command()
@node_argument
@click.option("--role", metavar="ROLE", callback=_check_role, help="Only this process: edge, detector.2 ...")
@wait_option
@click.pass_obj
def restart(load: Load, *, node: str, role: str | None, wait_s: float) -> None:
    """Start a node's processes again, in order; the agent itself goes on.

    \b
    Examples:
      vigil node restart porch
      vigil node restart gpu --role detector.2
    """
    with Asker(_quietly(load.read()), "node") as asker:
        result = ordered(asker, node, "restart", {"role": role} if role else {}, wait_s=wait_s)
    click.echo(f"{node} starts again: {printable(result.get('restarting', ''), 500) or 'nothing runs there'}")


@click.command()
@node_argument
@click.option("-c", "--count", type=click.IntRange(1, 10_000), default=5, show_default=True, help="How many times.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@wait_option
@click.pass_obj
def ping(load: Load, *, node: str, count: int, as_json: bool, wait_s: float) -> None:
    """Ask a node's agent for an answer, and say how long it took there and back through the broker.

    \b
    Examples:
      vigil node ping porch
      vigil node ping porch -c 50 --json | jq .median_ms

    Exit status: 0 it answered each time, 69 it did not.
    """
    took_ms: list[float] = []
    version = ""
    with Asker(_quietly(load.read()), "node") as asker:
        for number in range(1, count + 1):
            begun_s = time.monotonic()
            version = ordered(asker, node, "ping", wait_s=wait_s).get("version", "")
            took_ms.append((time.monotonic() - begun_s) * 1000)
            if not as_json:
                click.echo(f"{number:>4}  {took_ms[-1]:8.1f} ms")
    figures = {
        "min_ms": round(min(took_ms), 2),
        "median_ms": round(statistics.median(took_ms), 2),
        "max_ms": round(max(took_ms), 2),
    }
    if as_json:
        click.echo(msgspec.json.encode({"node": node, "version": version, "count": count, **figures}))
    else:
        told = ", ".join(f"{name.removesuffix('_ms')} {value:.1f} ms" for name, value in figures.items())
        click.echo(f"{node} (Vigil {printable(version, 40)}): {told}")


@click.command()
@node_argument
@click.option("-f", "--follow", is_flag=True, help="Go on as more comes, until Ctrl-C.")
@click.option("--role", metavar="ROLE", callback=_check_role, help="Whose log.  [default: every process's]")
@click.option("-n", "--lines", type=click.IntRange(1, 1000), default=50, show_default=True, help="The last so many.")
@wait_option
@click.pass_obj
def logs(load: Load, *, node: str, follow: bool, role: str | None, lines: int, wait_s: float) -> None:
    """Print the end of the logs of a node's processes, as the node has them on its disk.

    \b
    Examples:
      vigil node logs porch --role edge
      vigil node logs porch -f
    """
    roll = Roll()
    with Asker(_quietly(load.read()), "node", prepare=roll.prepare) as asker:
        roles = [role] if role else _roles_of(roll, node)
        cursors = dict.fromkeys(roles, "")
        while True:
            for name in roles:
                cursors[name] = _print_log(asker, node, name, (lines, cursors[name], len(roles) > 1), wait_s)
            if not follow:
                return
            time.sleep(_FOLLOW_S)


def _roles_of(roll: Roll, node: str) -> list[str]:
    roll.wait_complete()
    report = roll.reports.get(node)
    if report is None:
        raise PermanentError(f"there is no node {node!r} with an agent; `vigil node list` lists them")
    if not report.roles:
        raise PermanentError(f"{node} runs nothing; name one whose log is still there with --role ROLE")
    return sorted(report.roles)


def _print_log(asker: Asker, node: str, role: str, wanted: tuple[int, str, bool], wait_s: float) -> str:
    """Print what is new of a log; where the next look is to begin."""
    lines, cursor, is_named = wanted
    while True:
        arguments = {"role": role, "lines": str(lines), **({"cursor": cursor} if cursor else {})}
        result = ordered(asker, node, "logs", arguments, wait_s=wait_s)
        for line in result.get("text", "").splitlines():
            click.echo((f"{role}: " if is_named else "") + printable(line, _LINE_MAX))
        cursor = result.get("cursor", "")
        if result.get("more") != "yes":
            return cursor
