"""`vigil footage`: what this node has recorded; listed, cut into clips, played."""

from __future__ import annotations

import json
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from config.errors import ConfigError, PermanentError
from config.log import configure_logging
from config.names import check_name
from config.settings import Settings

if TYPE_CHECKING:
    from edge.footage.clips import Clip
    from edge.footage.layout import FootageFolder, Segment

__all__ = ["footage"]

Load = Callable[[Mapping[str, Any]], Settings]

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_AGO = re.compile(r"-(\d+(?:\.\d+)?)([smhd])")
_GAP_S = 1.0
"""A shorter hole between two segments is the distance of two pictures."""
_PLAYERS = ("mpv", "vlc", "ffplay", "xdg-open", "open")
_SIZES = ((1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB"))


class Moment(click.ParamType[datetime]):
    """A click type: a moment, from what people write."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """The moment, with its offset; one without is this machine's local time."""
        text = str(value).strip()
        if match := _AGO.fullmatch(text):
            return datetime.now(UTC) - timedelta(**{_UNITS[match.group(2)]: float(match.group(1))})
        if text == "now":
            return datetime.now(UTC)
        try:
            return datetime.fromisoformat(text).astimezone()
        except ValueError:
            self.fail(f"{text!r} is no time: write 2026-11-21T10:15:00+01:00, or -10m for ten minutes ago", param, ctx)


MOMENT = Moment()


@click.group()
def footage() -> None:
    """What this node has recorded.

    A TIME is RFC 3339 (2026-11-21T10:15:00+01:00; without an offset, local time), or -30s, -10m, -2h, -1d for how long
    ago. The node may record meanwhile. What it still holds in memory (edge.footage.ram_bytes) is not seen.

    \b
    Examples:
      vigil footage list
      vigil footage get yard --from -10m --to -5m --out visitor.mp4
      vigil footage play yard --at -2h
    """


def _open_folder(load: Load) -> FootageFolder:
    from edge.footage.layout import FootageFolder

    settings = load({})
    configure_logging("warning", settings.log.style, stream=sys.stderr)  # the output is the result
    return FootageFolder(settings.edge.footage.folder or settings.state_dir / "footage")


def _find(folder: FootageFolder, camera: str, start: datetime, end: datetime) -> list[Segment]:
    from edge.footage.segments import find_segments

    try:
        check_name(camera)
        if camera not in folder.cameras():
            known = ", ".join(folder.cameras()) or "none"
            raise PermanentError(f"there is no footage of {camera} in {folder.root}; there is of: {known}")
        return list(find_segments(folder, camera, start, end))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    except OSError as error:
        raise PermanentError(f"{error.filename}: {error.strerror}; run this as the user that Vigil runs as") from error


# --- list ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Row:
    """A segment, what is missing before it, and whether it is kept longer."""

    segment: Segment
    gap_s: float
    is_protected: bool


@footage.command("list")
@click.option("--camera", "cameras", metavar="NAME", multiple=True, help="Only this one; may be given again.")
@click.option("--from", "start", type=MOMENT, metavar="TIME", default="-1d", show_default=True)
@click.option("--to", "end", type=MOMENT, metavar="TIME", default="now", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_obj
def list_footage(load: Load, *, cameras: Sequence[str], start: datetime, end: datetime, as_json: bool) -> None:
    """Print the segments by camera and time, and the gaps between them.

    "kept": it belongs to an event or escalation, and stays for recording.protect_hours. "open": it is being written.

    \b
    Examples:
      vigil footage list
      vigil footage list --camera yard --from -2h
      vigil footage list --from 2026-11-21T08:00:00+01:00 --json | jq -r .file
    """
    from edge.footage.index import read_protections

    folder = _open_folder(load)
    kept = read_protections(folder, datetime.now(UTC))
    count = size_bytes = 0
    for camera in cameras or folder.cameras():
        rows = list(_rows(_find(folder, camera, start, end), kept.get(camera, [])))
        for row in rows:
            click.echo(json.dumps(_as_dict(row)) if as_json else _as_line(row))
        count += len(rows)
        size_bytes += sum(row.segment.size_bytes for row in rows)
    if not as_json:
        click.echo(f"{count} segments, {_size_text(size_bytes)}, in {folder.recordings}")


def _rows(segments: Iterable[Segment], kept: Sequence[tuple[datetime, datetime]]) -> Iterable[_Row]:
    before: Segment | None = None
    for segment in segments:
        gap_s = 0.0 if before is None else (segment.starts_at - before.ends_at).total_seconds()
        is_protected = any(segment.overlaps(start, end) for start, end in kept)
        yield _Row(segment, gap_s if gap_s > _GAP_S else 0.0, is_protected)
        before = segment


def _as_dict(row: _Row) -> dict[str, Any]:
    segment = row.segment
    return {
        "camera": segment.name.camera,
        "start": segment.starts_at.isoformat(timespec="milliseconds"),
        "end": segment.ends_at.isoformat(timespec="milliseconds"),
        "seconds": round(segment.duration_s, 3),
        "gap_before_s": round(row.gap_s, 3),
        "size_bytes": segment.size_bytes,
        "kept": row.is_protected,
        "open": not segment.closed,
        "file": str(segment.path),
    }


def _as_line(row: _Row) -> str:
    segment = row.segment
    marks = [mark for mark, holds in (("kept", row.is_protected), ("open", not segment.closed)) if holds]
    start = segment.starts_at.astimezone().isoformat(timespec="seconds")
    size = _size_text(segment.size_bytes)
    line = f"{segment.name.camera:<16} {start}  {segment.duration_s:7.1f} s  {size:>9}  {' '.join(marks)}".rstrip()
    return f"{segment.name.camera:<16} -- nothing for {row.gap_s:.0f} s --\n{line}" if row.gap_s else line


def _size_text(size_bytes: int) -> str:
    scale, unit = next((one for one in _SIZES if size_bytes >= one[0]), (1, "B"))
    return f"{size_bytes / scale:.1f} {unit}" if scale > 1 else f"{size_bytes} B"


# --- get -------------------------------------------------------------------------------------------------------


@footage.command()
@click.argument("camera")
@click.option("--from", "start", type=MOMENT, metavar="TIME", required=True, help="The first moment.")
@click.option("--to", "end", type=MOMENT, metavar="TIME", default="now", show_default=True, help="The last.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="The file.  [default: CAMERA-TIME.mp4]")
@click.pass_obj
def get(load: Load, *, camera: str, start: datetime, end: datetime, out: Path | None) -> None:
    """Cut a clip out of this node's footage. Nothing is encoded again: it begins with the keyframe before the start.

    \b
    Examples:
      vigil footage get yard --from -10m --to -5m
      vigil footage get yard --from 2026-11-21T10:15:00+01:00 --to 2026-11-21T10:16:30+01:00 --out visitor.mp4
    """
    if end <= start:
        raise click.UsageError("--to is not after --from")
    folder = _open_folder(load)
    target = out or Path(f"{camera}-{start.astimezone():%Y%m%dT%H%M%S}.mp4")
    if target.exists():
        raise PermanentError(f"{target} is there already: give another name with --out")
    segments = _find(folder, camera, start, end)
    clip = _cut(segments, start, end, target)
    click.echo(
        f"{target}: {(clip.ends_at - clip.starts_at).total_seconds():.1f} s from "
        f"{clip.starts_at.astimezone().isoformat(timespec='milliseconds')}, {clip.pictures} pictures"
        + (f"; {clip.missing_s:.1f} s of what was asked for were not recorded" if clip.missing_s > _GAP_S else "")
    )


def _cut(segments: Sequence[Segment], start: datetime, end: datetime, target: Path) -> Clip:
    try:
        from edge.footage.clips import cut_clip
        from edge.gst import reader  # noqa: F401 - told here, in words, when GStreamer is missing
    except ModuleNotFoundError as error:
        raise PermanentError(
            f"cutting a clip needs {error.name}: sudo apt-get install python3-gi gir1.2-gst-plugins-base-1.0"
        ) from error
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    done = 0
    try:
        with click.progressbar(length=100, label=target.name, file=sys.stderr) as bar:

            def advance(share: float) -> None:
                nonlocal done
                step = int(100 * min(1.0, max(0.0, share))) - done
                if step > 0:
                    done += step
                    bar.update(step)

            clip = cut_clip(segments, start, end, draft, on_progress=advance)
            bar.update(100 - done)
        draft.rename(target)
    finally:
        draft.unlink(missing_ok=True)
    return clip


# --- play ------------------------------------------------------------------------------------------------------


@footage.command()
@click.argument("what", metavar="CAMERA|FILE")
@click.option("--at", "moment", type=MOMENT, metavar="TIME", default="now", help="Of a camera: the segment of then.")
@click.option("--path", "only_path", is_flag=True, help="Print the file's name and open nothing.")
@click.pass_obj
def play(load: Load, *, what: str, moment: datetime, only_path: bool) -> None:
    """Open a segment, or a clip, with this machine's player; print its name where there is none, as over SSH.

    \b
    Examples:
      vigil footage play yard
      vigil footage play yard --at -2h
      vigil footage play visitor.mp4
    """
    path = Path(what) if Path(what).is_file() else _segment_at(_open_folder(load), what, moment)
    click.echo(path)
    player = next((found for name in _PLAYERS if (found := shutil.which(name))), None)
    if not only_path and player is not None and sys.stdout.isatty():
        subprocess.run([player, str(path)], check=False, stderr=subprocess.DEVNULL)


def _segment_at(folder: FootageFolder, camera: str, moment: datetime) -> Path:
    """The segment of a moment, or the last one before it."""
    found = _find(folder, camera, moment - timedelta(days=366), moment)
    if not found:
        raise PermanentError(f"nothing of {camera} was recorded before {moment.isoformat(timespec='seconds')}")
    return found[-1].path
