"""Cutting a clip out of segments, without encoding anything."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from config.errors import PermanentError
from config.log import get_logger
from edge.footage.layout import Segment
from edge.footage.segments import OpenWriter, open_writer

if TYPE_CHECKING:
    from edge.picture import Packet

__all__ = ["Clip", "cut_clip"]


@dataclass(frozen=True, slots=True)
class Clip:
    """A clip that was cut.

    Attributes:
        starts_at: time of its first picture: the last keyframe at or before the wanted start, where there is one.
        ends_at: time of its last picture.
        missing_s: seconds of what was wanted that are in no segment.
        pictures: how many there are.
    """

    starts_at: datetime
    ends_at: datetime
    missing_s: float
    pictures: int


def cut_clip(
    segments: Sequence[Segment],
    start: datetime,
    end: datetime,
    path: Path,
    *,
    open_writer: OpenWriter = open_writer,
    on_progress: Callable[[float], None] | None = None,
) -> Clip:
    """Write the pictures between two moments into one file.

    Pictures of another size or codec than the first begin a file that a player could not go on with: the clip ends
    there, and what is behind is missing in it. A gap stays as long as it was: the last picture before it stands still.

    Args:
        segments: those of one camera with a picture in it, in order of time.
        start: the first moment; aware.
        end: the last.
        path: the file; there must be none yet. The caller removes it when this raises.
        open_writer: makes the file.
        on_progress: told the share that is done.

    Raises:
        PermanentError: nothing was recorded then.
        TransientError: the disk is full or fails.
    """
    with closing(_between(segments, start, end)) as packets:
        first = next(packets, None)
        if first is None:
            raise PermanentError(f"nothing was recorded from {_said(start)} to {_said(end)}")
        last, pictures, whole = first, 1, True
        with closing(open_writer(path, first)) as writer:
            writer.write(first)
            for packet in packets:
                whole = writer.accepts(packet)
                if not whole:
                    break
                writer.write(packet)
                last, pictures = packet, pictures + 1
                if on_progress is not None:
                    on_progress((packet.at - start) / (end - start))
            writer.finish(durable=False)
    missing_s = _missing_s(segments, start, end)
    if not whole:
        missing_s += max(0.0, (end - last.at).total_seconds() - _missing_s(segments, last.at, end))
    return Clip(first.at, last.at, missing_s, pictures)


def _between(segments: Sequence[Segment], start: datetime, end: datetime) -> Generator[Packet, None, None]:
    """The pictures from the last keyframe at or before `start` to `end`, on the time line of the wall clock."""
    lead: list[Packet] = []
    for packet in _packets(segments, start):
        if packet.at <= start:
            lead = [packet] if packet.keyframe else [*lead, packet]
            continue
        if packet.at > end:
            break
        yield from lead
        lead = []
        yield packet
    yield from lead


def _packets(segments: Sequence[Segment], start: datetime) -> Iterator[Packet]:
    from edge.gst.reader import read_packets

    for segment in segments:
        from_s = max(0.0, (start - segment.starts_at).total_seconds())
        try:
            for packet in read_packets(segment.path, segment.starts_at, from_s=from_s):
                yield replace(packet, at_s=(packet.at - segments[0].starts_at).total_seconds())
        except PermanentError as error:  # the ring was quicker, or the card has lost it
            get_logger(camera=segment.name.camera).warning("footage.unreadable", error=str(error))


def _missing_s(segments: Sequence[Segment], start: datetime, end: datetime) -> float:
    """Seconds between two moments that lie in none of the segments."""
    missing, known = timedelta(), start
    for segment in segments:
        if segment.overlaps(known, end):
            missing += max(timedelta(), segment.starts_at - known)
            known = max(known, min(segment.ends_at, end))
    return round((missing + (end - known)).total_seconds(), 3)


def _said(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")
