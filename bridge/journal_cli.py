"""The journal for people: what is in it, what comes into it, and as a file."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import click
import msgspec

from bridge.journal import Entry, EscalationFilter, EventEntry, EventFilter, Filter, JournalReader
from bridge.journal.export import FORMATS, PictureChoice, export_lines, picture_name, pictures_of
from bridge.journal.export import export as export_file
from bridge.role import journal_path
from bridge.sink import EVENTS, Table, utc_text
from config import BadPayloadError
from config.settings import Settings

__all__ = ["escalations", "events", "export", "journal_option"]

Load = Callable[[Mapping[str, Any]], Settings]
Command = TypeVar("Command", bound=Callable[..., Any])
Listed = TypeVar("Listed", Entry, EventEntry)

_UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_AGO = re.compile(r"(\d+)([smhdw])")
_COLOURS = {"critical": "red", "warning": "yellow"}
_STREAM_NAMES = {spec.name.removeprefix("camera_"): spec.name for spec in EVENTS}
_FOLLOW_S = 0.5


def _moment(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """A time in the journal's form, from ``10m`` or RFC 3339."""
    if value is None:
        return None
    ago = _AGO.fullmatch(value)
    try:
        if ago is not None:
            return utc_text(datetime.now(UTC) - timedelta(seconds=int(ago[1]) * _UNITS_S[ago[2]]))
        return utc_text(datetime.fromisoformat(value))
    except (ValueError, OverflowError, BadPayloadError):
        raise click.BadParameter(
            f"{value!r} is neither 10m, 2h, 1d, 4w nor a time such as 2026-01-31T08:00:00+01:00"
        ) from None


def _options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, in the order of the help."""
    return lambda command: functools.reduce(lambda made, option: option(made), reversed(options), command)


journal_option = click.option(
    "--journal",
    metavar="PATH",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The journal's file.  [default: journal.db in the state folder]",
)


def _line(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """The line of the contract that people call so."""
    return _STREAM_NAMES[value] if value else None


def _wanted(make: type[Filter], *options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Options that the command gets together, as the filter `wanted`."""
    names = [field.name for field in dataclasses.fields(make)]

    def gathered(command: Command) -> Command:
        @functools.wraps(command)
        def run(*args: object, **given: object) -> object:
            chosen: dict[str, Any] = {name: given.pop(name) for name in names}
            return command(*args, wanted=make(**chosen), **given)

        return _options(*options)(cast("Command", run))

    return gathered


_common_options = _options(
    click.option("--since", callback=_moment, metavar="TIME", help="Since then: 10m, 2h, 1d, 4w ago, or a time."),
    click.option("--until", callback=_moment, metavar="TIME", help="Before then."),
    click.option("--camera", metavar="NAME", help="Only of this camera."),
    click.option("--label", metavar="NAME", help="Only of this label, such as person."),
    click.option("--zone", metavar="NAME", help="Only where something is in this zone."),
)
_escalation_options = _wanted(
    EscalationFilter,
    _common_options,
    click.option("--rule", metavar="NAME", help="Only of this rule."),
    click.option("--severity", type=click.Choice(["info", "warning", "critical"]), help="Only of this severity."),
    click.option("--drill/--no-drill", default=None, help="Only fake alarms, or none.  [default: both]"),
)
_event_options = _wanted(
    EventFilter,
    _common_options,
    click.option("--stream", type=click.Choice(sorted(_STREAM_NAMES)), callback=_line, help="Only of this kind."),
)
_listing_options = _options(
    click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="The newest so many."),
    click.option("--before", type=int, metavar="ID", help="The page before the row with this id."),
    click.option("--follow", "-f", is_flag=True, help="Then go on with what comes, until Ctrl-C."),
    click.option("--json", "as_json", is_flag=True, help="One JSON object a line."),
)


def _reader(load: Load, journal: Path | None) -> closing[JournalReader]:
    settings = load({"bridge": {"journal": str(journal)}} if journal is not None else {})
    return closing(JournalReader(journal_path(settings)))


@click.command()
@journal_option
@_escalation_options
@_listing_options
@click.option(
    "--save-pictures", type=click.Path(file_okay=False, path_type=Path), help="Write their pictures into this folder."
)
@click.pass_obj
def escalations(
    load: Load,
    /,
    *,
    journal: Path | None,
    limit: int,
    before: int | None,
    follow: bool,
    as_json: bool,
    save_pictures: Path | None,
    wanted: EscalationFilter,
) -> None:
    """List the escalations in the journal, the newest last.

    \b
    Examples:
      vigil escalations --since 1h
      vigil escalations --camera yard --severity critical --no-drill --limit 5
      vigil escalations --follow --zone door
      vigil escalations --json | jq .summary
      vigil escalations --limit 1 --save-pictures .
    """

    def tell(entries: Sequence[Entry]) -> None:
        for entry in entries:
            click.echo(json.dumps(asdict(entry)) if as_json else _told(entry))
        if save_pictures is not None and entries:
            _save_pictures(reader, entries, save_pictures)

    with _reader(load, journal) as reader:
        place = reader.newest_place("escalation")
        entries = reader.entries(wanted, before=before, limit=limit)
        tell(entries)
        if follow:
            _follow(reader, "escalation", place, lambda after: reader.entries_after(after, wanted), tell)
        _hint_at_more([entry.id for entry in entries], limit, quiet=as_json)


def _follow(
    reader: JournalReader,
    table: Table,
    place: int,
    next_after: Callable[[int], Sequence[Listed]],
    tell: Callable[[Sequence[Listed]], None],
) -> None:
    """Tell what comes after a place, for ever."""
    pause = threading.Event()
    while True:
        # What is there now and does not match need not be looked at again.
        newest = reader.newest_place(table)
        while entries := next_after(place):
            tell(entries)
            place = entries[-1].id
        place = max(place, newest)
        pause.wait(_FOLLOW_S)


def _hint_at_more(places: Sequence[int], limit: int, *, quiet: bool) -> None:
    """How to get at the page before this one."""
    if len(places) == limit and not quiet:
        click.echo(f"the page before this one: --before {places[0]}", err=True)


def _told(entry: Entry) -> str:
    raised_at = datetime.fromisoformat(entry.raised_at).astimezone()
    severity = click.style(f"{entry.severity:<8}", fg=_COLOURS.get(entry.severity))
    drill = "  (drill)" if entry.drill else ""
    told = f"{entry.camera:<12}  {entry.rule:<12}  {entry.score:.2f}  {entry.summary}{drill}  {entry.event_id}"
    return f"{raised_at:%Y-%m-%d %H:%M:%S}  {severity}  {_printable(told)}"


@click.command()
@journal_option
@_event_options
@_listing_options
@click.pass_obj
def events(
    load: Load,
    /,
    *,
    journal: Path | None,
    limit: int,
    before: int | None,
    follow: bool,
    as_json: bool,
    wanted: EventFilter,
) -> None:
    """List the events (motion, track, clip) in the journal, the newest last.

    \b
    Examples:
      vigil events --since 10m
      vigil events --camera yard --stream motion --limit 5
      vigil events --stream track --label person --zone door --since 1d
      vigil events --json | jq .message.score
    """

    def tell(entries: Sequence[EventEntry]) -> None:
        for entry in entries:
            click.echo(_as_json(entry) if as_json else _told_event(entry))

    with _reader(load, journal) as reader:
        place = reader.newest_place("event")
        entries = reader.events(wanted, before=before, limit=limit)
        tell(entries)
        if follow:
            _follow(reader, "event", place, lambda after: reader.events_after(after, wanted), tell)
        _hint_at_more([entry.id for entry in entries], limit, quiet=as_json)


def _as_json(entry: EventEntry) -> str:
    content = asdict(entry)
    content["message"] = json.loads(content.pop("payload"))
    return json.dumps(content)


class _Sight(msgspec.Struct):
    """What a line of the list tells of any event."""

    score: float = 0.0
    motion_id: str = ""
    track_id: str = ""
    about: str = ""
    uri: str = ""
    error: str | None = None


def _told_event(entry: EventEntry) -> str:
    at = datetime.fromisoformat(entry.at).astimezone()
    sight = msgspec.json.decode(entry.payload, type=_Sight)
    told = (
        f"{entry.stream.removeprefix('camera_'):<6}  {entry.type:<10}  {entry.camera:<12}  {sight.score:.2f}  "
        f"{entry.label:<8}  {sight.motion_id or sight.track_id or sight.about}  {entry.event_id}  "
        f"{sight.error or sight.uri}"
    )
    return f"{at:%Y-%m-%d %H:%M:%S}  {_printable(told).rstrip()}"


def _printable(text: str) -> str:
    """A stranger's text without what would move the cursor or change the terminal."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def _save_pictures(reader: JournalReader, entries: Sequence[Entry], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    saved = 0
    for entry in entries:
        for number, picture in enumerate(pictures_of(reader.payload(entry.id)), start=1):
            if hashlib.sha256(picture.data).hexdigest() != picture.sha256:
                click.echo(f"{_printable(entry.event_id)}: picture {number} is not what was sent", err=True)
                continue
            (folder / picture_name(asdict(entry), number, picture.content_type)).write_bytes(picture.data)
            saved += 1
    click.echo(f"saved {saved} pictures in {folder}", err=True)


# --- files -----------------------------------------------------------------------------------------------------


def _target(_ctx: click.Context, _parameter: click.Parameter, value: str) -> Path | None:
    """The file to write; None is standard output."""
    if value == "-":
        return None
    path = Path(value)
    if path.suffix not in FORMATS:
        raise click.BadParameter(f"{value!r} ends neither in {' nor in '.join(FORMATS)}; - is standard output")
    return path


_export_options = _options(
    click.argument("target", metavar="FILE", callback=_target),
    click.option("--force", is_flag=True, help="Replace the file if it is there."),
)


@click.group()
def export() -> None:
    """Write what the journal has into a file: FILE.jsonl (one JSON object a line) or FILE.parquet.

    The file appears when it is complete; the bridge goes on meanwhile. `-` writes lines to standard output.

    \b
    Examples:
      vigil export escalations 2026.parquet --since 2026-01-01 --until 2027-01-01
      vigil export escalations yard.jsonl --camera yard --pictures files
      vigil export events - --since 1h | jq .message
    """


@export.command("escalations")
@journal_option
@_export_options
@_escalation_options
@click.option(
    "--pictures",
    type=click.Choice(["none", "inline", "files"]),
    default="none",
    show_default=True,
    help="Put them into the file (JSON: as Base64), or beside it into the folder FILE-pictures.",
)
@click.pass_obj
def export_escalations(
    load: Load,
    /,
    *,
    target: Path | None,
    force: bool,
    pictures: PictureChoice,
    journal: Path | None,
    wanted: EscalationFilter,
) -> None:
    """Write escalations into a file, the oldest first."""
    if target is None and pictures == "files":
        raise click.UsageError("--pictures files needs a FILE to put them beside")
    _export(load, journal, wanted, target, pictures, force=force)


@export.command("events")
@journal_option
@_export_options
@_event_options
@click.pass_obj
def export_events(
    load: Load, /, *, target: Path | None, force: bool, journal: Path | None, wanted: EventFilter
) -> None:
    """Write events (motion, track, clip) into a file, the oldest first."""
    _export(load, journal, wanted, target, "none", force=force)


def _export(
    load: Load, journal: Path | None, wanted: Filter, target: Path | None, pictures: PictureChoice, *, force: bool
) -> None:
    if target is not None and target.exists() and not force:
        raise click.UsageError(f"{target} is there already: give another name, or --force to replace it")
    with _reader(load, journal) as reader:
        if target is None:
            export_lines(reader, wanted, sys.stdout.buffer, pictures=pictures)
            return
        silent = not sys.stderr.isatty()
        label = f"exporting {wanted.table}s"
        with click.progressbar(length=reader.count(wanted), label=label, file=sys.stderr, hidden=silent) as bar:
            rows = export_file(reader, wanted, target, pictures=pictures, on_rows=bar.update)
    click.echo(f"wrote {rows} rows into {target}", err=True)
