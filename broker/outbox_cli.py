"""`vigil outbox`: what is raised and not yet delivered; shown, sent, or saved, also for a process that is gone."""

from __future__ import annotations

import base64
import json
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import click
import msgspec

from broker.outbox_file import (
    Backlog,
    OpenEvent,
    WaitingMessage,
    find_holder,
    read_backlogs,
    read_open_events,
    read_origin,
    read_waiting,
    split_event_id,
)
from config.clock import SystemClock
from config.errors import TransientError, VigilError
from config.log import configure_logging
from config.settings import Settings
from config.supervise import stop_on_signals

__all__ = ["outbox"]

Load = Callable[[Mapping[str, Any]], Settings]

_POLL_S = 0.1
_EXIT_INTERRUPTED = 130
_AGES = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))

paths_argument = click.argument(
    "paths", metavar="[PATH]...", nargs=-1, type=click.Path(dir_okay=False, exists=True, path_type=Path)
)


@click.group()
def outbox() -> None:
    """What was raised on this machine and nobody has confirmed yet.

    Escalations and events stay in the outbox of the process that raised them until the bridge's receipt. Every process
    has one; a PATH names another, such as one on the card of a node that is dead.

    \b
    Examples:
      vigil outbox show
      vigil outbox drain
      vigil outbox export --out waiting.jsonl /media/card/outbox/home/porch.edge.db
    """


def _settings(load: Load) -> Settings:
    settings = load({})
    configure_logging("warning", settings.log.style, stream=sys.stderr)  # the output is the result
    return settings


def _find(settings: Settings, paths: Sequence[Path]) -> list[Path]:
    from broker.session import find_outboxes

    found = list(paths) or list(find_outboxes(settings).values())
    if not found:
        click.echo(f"no outbox of site {settings.site} in {settings.state_dir}", err=True)
    return found


# --- show ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _View:
    path: Path
    origin: str
    process: str | None
    backlogs: Sequence[Backlog]
    open_events: Sequence[OpenEvent]


@outbox.command()
@paths_argument
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_obj
def show(load: Load, *, paths: Sequence[Path], as_json: bool) -> None:
    """Print what waits, by process and stream. Nothing is changed; the processes may run.

    "raised" is how many there ever were; "released" how many events were given up, because the broker had them for long
    and no bridge sent a receipt; "open" how many that have started have no end.

    \b
    Examples:
      vigil outbox show
      vigil outbox show --json | jq '.outboxes[].streams[]'
      vigil outbox show /media/card/vigil/outbox/home/porch.edge.db
    """
    views, failed = [], False
    for path in _find(_settings(load), paths):
        try:
            views.append(_view(path))
        except VigilError as error:
            failed = True
            click.echo(f"vigil: {error}", err=True)
    if as_json:
        click.echo(json.dumps({"outboxes": [_as_dict(view) for view in views]}))
    elif views:
        _print_table(views)
    if failed:
        raise SystemExit(1)


def _view(path: Path) -> _View:
    return _View(path, read_origin(path), find_holder(path), read_backlogs(path), read_open_events(path))


def _as_dict(view: _View) -> dict[str, Any]:
    streams = [
        {
            "stream": backlog.name,
            "epoch": backlog.epoch,
            "raised": backlog.last_seq,
            "waiting": len(backlog.waiting),
            "released": _released(backlog),
            "size_bytes": backlog.size_bytes,
            "oldest_at": None if backlog.oldest_at is None else _utc_text(backlog.oldest_at),
            "oldest_age_s": _age_s(backlog),
        }
        for backlog in view.backlogs
    ]
    opened = [{"event_id": event.event_id, "topic": event.topic} for event in view.open_events]
    path = str(view.path)
    return {"origin": view.origin, "path": path, "process": view.process, "streams": streams, "open_events": opened}


def _print_table(views: Sequence[_View]) -> None:
    rows: list[tuple[str, ...]] = [
        ("origin", "process", "stream", "raised", "waiting", "released", "bytes", "oldest", "open")
    ]
    for view in views:
        epochs = [split_event_id(event.event_id)[1] for event in view.open_events]
        for backlog in view.backlogs:
            figures = (backlog.last_seq, len(backlog.waiting), _released(backlog), backlog.size_bytes)
            shown = (*map(str, figures), _age_text(backlog), str(epochs.count(backlog.epoch)))
            rows.append((view.origin, view.process or "-", backlog.name, *shown))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        left = [cell.ljust(width) for cell, width in zip(row[:3], widths[:3], strict=True)]
        right = [cell.rjust(width) for cell, width in zip(row[3:], widths[3:], strict=True)]
        click.echo("  ".join([*left, *right]))
    backlogs = [backlog for view in views for backlog in view.backlogs]
    waiting, size = sum(len(one.waiting) for one in backlogs), sum(one.size_bytes for one in backlogs)
    click.echo(f"{waiting} waiting, {size} bytes")


def _released(backlog: Backlog) -> int:
    return sum(last - first + 1 for first, last in backlog.released)


def _age_s(backlog: Backlog) -> float | None:
    """By this machine's clock, which may have been set since: never less than nothing."""
    if backlog.oldest_at is None:
        return None
    return round(max(0.0, datetime.now(UTC).timestamp() - backlog.oldest_at), 1)


def _age_text(backlog: Backlog) -> str:
    age_s = _age_s(backlog)
    if age_s is None:
        return "-"
    size_s, unit = next((one for one in _AGES if age_s >= one[0]), _AGES[-1])
    return f"{int(age_s // size_s)} {unit}"


def _utc_text(moment_s: float) -> str:
    return datetime.fromtimestamp(moment_s, UTC).isoformat(timespec="milliseconds")


# --- export ----------------------------------------------------------------------------------------------------


@outbox.command()
@paths_argument
@click.option("--out", type=click.File("wb", atomic=True), default="-", help="A file.  [default: standard output]")
@click.pass_obj
def export(load: Load, *, paths: Sequence[Path], out: BinaryIO) -> None:
    """Write what waits as JSON lines, the most urgent first. Nothing is changed, sent or marked; the processes may run.

    A payload stands there as it would be sent; one that is not JSON as "payload_base64".

    \b
    Examples:
      vigil outbox export --out waiting.jsonl
      vigil outbox export | jq -r .payload.summary
      vigil outbox export /media/card/vigil/outbox/home/porch.edge.db --out porch.jsonl
    """
    count = 0
    for path in _find(_settings(load), paths):
        for message in read_waiting(path):
            out.write(_line(message) + b"\n")
            count += 1
    click.echo(f"{count} messages", err=True)


def _line(message: WaitingMessage) -> bytes:
    line: dict[str, object] = {
        "event_id": message.event_id,
        "stream": message.stream,
        "topic": message.topic,
        "put_at": _utc_text(message.put_at),
    }
    if _is_json_line(message.payload):
        line["payload"] = msgspec.Raw(message.payload)
    else:
        line["payload_base64"] = base64.b64encode(message.payload).decode()
    return msgspec.json.encode(line)


def _is_json_line(payload: bytes) -> bool:
    try:
        msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return b"\n" not in payload and b"\r" not in payload


# --- drain -----------------------------------------------------------------------------------------------------


@outbox.command()
@paths_argument
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=1),
    metavar="SECONDS",
    default=60.0,
    show_default=True,
    help="Give up when nothing was confirmed for so long.",
)
@click.pass_obj
def drain(load: Load, *, paths: Sequence[Path], timeout_s: float) -> None:
    """Send what waits, on behalf of processes that do not run, until every receipt is there.

    Each is sent under the name of the process that raised it, with the id it has: what the sink has already it
    recognises. A process that runs sends its own. Ctrl-C leaves what is not confirmed where it is.

    \b
    Exit status: 0 nothing is left, 1 something is, 69 no broker answers, 130 interrupted.

    \b
    Examples:
      vigil outbox drain
      vigil outbox drain --timeout 600
      vigil --bus mqtt://10.0.0.2:1883 outbox drain /media/card/vigil/outbox/home/porch.edge.db
    """
    settings = _settings(load)
    stop = threading.Event()
    stop_on_signals(stop)
    left = 0
    for path in _find(settings, paths):
        if not stop.is_set():
            left += _drain_one(settings, path, timeout_s, stop)
    if stop.is_set():
        raise SystemExit(_EXIT_INTERRUPTED)
    if left:
        raise SystemExit(1)


def _drain_one(settings: Settings, path: Path, timeout_s: float, stop: threading.Event) -> int:
    """Send what one outbox holds; returns how many messages are left."""
    origin, waiting = read_origin(path), sum(len(backlog.waiting) for backlog in read_backlogs(path))
    holder = find_holder(path)
    if not waiting:
        click.echo(f"{origin}: nothing waits")
    elif holder is not None:
        click.echo(f"{origin}: runs as process {holder} and sends its {waiting} messages itself")
    else:
        left, reason = _send(settings, path, origin, timeout_s, stop)
        click.echo(f"{origin}: {waiting - left} confirmed, {left} left{reason}")
        return left
    return waiting


def _send(settings: Settings, path: Path, origin: str, timeout_s: float, stop: threading.Event) -> tuple[int, str]:
    from broker.session import connect

    ends: list[Exception] = []

    def on_fatal(error: Exception) -> None:
        ends.append(error)
        stop.set()

    node, _, role = origin.partition(".")
    own = settings.model_copy(update={"node": node})
    bus = connect(own, role, with_outbox=True, outbox_file=path, on_fatal=on_fatal)
    bus.start()
    try:
        left = _wait_confirmed(lambda: bus.statistics().outbox_rows, origin, timeout_s, stop)
        numbers = bus.statistics()
    finally:
        bus.close(drain_s=0)
    if ends:
        raise ends[0]
    if left and not numbers.link.connections and not stop.is_set():
        raise TransientError(f"no broker answers at {settings.bus.url}: {left} messages of {origin} are left")
    reasons = {"the broker refuses": numbers.refused, "too large for the broker": numbers.too_large}
    told = [f"{text} ({count})" for text, count in reasons.items() if count]
    return left, "" if not left or stop.is_set() else f": {', '.join(told) or 'no receipt came, is a bridge running?'}"


def _wait_confirmed(rows: Callable[[], int], label: str, timeout_s: float, stop: threading.Event) -> int:
    clock = SystemClock()
    left = rows()
    moved_s = clock.monotonic_s()
    with click.progressbar(length=left, label=label, file=sys.stderr) as bar:
        while left and clock.monotonic_s() - moved_s < timeout_s and not clock.wait(stop, _POLL_S):
            now = rows()
            if now < left:
                moved_s = clock.monotonic_s()
                bar.update(left - now)
            left = now
    return left
