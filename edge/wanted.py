"""How a camera is to be watched now: what was commanded comes before the schedule, and that before the settings.

Pure: settings, commands and the time come in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from typing import Literal

from broker.messages import Mode
from config.cameras import CameraSettings, ScheduleEntry
from config.section import DAYS

__all__ = ["NOTHING_COMMANDED", "Commanded", "RecordingMode", "Wanted", "decide", "scheduled_mode"]

RecordingMode = Literal["off", "motion", "continuous"]
LastingMode = Literal["monitor", "eco", "off"]


@dataclass(frozen=True, slots=True)
class Commanded:
    """What people asked of a camera; None leaves it to the schedule and the settings.

    Attributes:
        mode: a mode that lasts; `zoom` ends by itself and is not among them.
        privacy: show no picture.
        detection: let workers score.
        recording: keep what the settings say, or everything where they keep nothing; or nothing.
        sensitivity: how little movement is motion, 0 to 1.
    """

    mode: LastingMode | None = None
    privacy: bool | None = None
    detection: bool | None = None
    recording: bool | None = None
    sensitivity: float | None = None


NOTHING_COMMANDED = Commanded()


@dataclass(frozen=True, slots=True)
class Wanted:
    """How a camera is to be watched.

    Attributes:
        zoom_until: when the mode `zoom` ends.
        privacy: show no picture.
        detection: let workers score.
        recording: what is kept, as :class:`config.cameras.RecordingSettings` says.
        sensitivity: how little movement is motion, 0 to 1.
    """

    mode: Mode
    zoom_until: datetime | None
    privacy: bool
    detection: bool
    recording: RecordingMode
    sensitivity: float


def decide(
    settings: CameraSettings, commanded: Commanded, zoom_until: datetime | None, now: datetime, zone: tzinfo
) -> Wanted:
    """What holds at a moment.

    Args:
        settings: of the camera.
        commanded: what people asked for.
        zoom_until: when the last zoom that somebody asked for ends.
        now: the moment; aware.
        zone: the node's time zone, for the schedule.
    """
    zooms = zoom_until is not None and now < zoom_until
    lasting: LastingMode = commanded.mode or scheduled_mode(settings.schedule, now, zone) or settings.mode
    return Wanted(
        mode="zoom" if zooms else lasting,
        zoom_until=zoom_until if zooms else None,
        privacy=_first(commanded.privacy, settings.privacy.enabled),
        detection=_first(commanded.detection, settings.detection),
        recording=_recording_mode(commanded, settings),
        sensitivity=settings.motion.sensitivity if commanded.sensitivity is None else commanded.sensitivity,
    )


def _first(commanded: bool | None, otherwise: bool) -> bool:  # noqa: FBT001 - two values of one kind, in their order
    return otherwise if commanded is None else commanded


def _recording_mode(commanded: Commanded, settings: CameraSettings) -> RecordingMode:
    mode = settings.recording.mode
    if commanded.recording is None:
        return mode
    # Whoever asks for it where nothing is kept otherwise means all of it.
    return ("continuous" if mode == "off" else mode) if commanded.recording else "off"


def scheduled_mode(schedule: Sequence[ScheduleEntry], now: datetime, zone: tzinfo) -> LastingMode | None:
    """The mode of the first entry that covers a moment; None when none does.

    Where clocks are put back an hour that comes twice counts once, where they are put forward an hour that is left out
    counts as the one after it: each entry is an interval from one instant to another.
    """
    day = now.astimezone(zone).replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None, fold=0)
    for entry in schedule:
        # One that began yesterday may last until today.
        if any(_covers(entry, begun, now, zone) for begun in (day, day - timedelta(days=1))):
            return entry.mode
    return None


def _covers(entry: ScheduleEntry, day: datetime, now: datetime, zone: tzinfo) -> bool:
    if DAYS[day.weekday()] not in entry.days:
        return False
    ends_on = day if entry.end > entry.start else day + timedelta(days=1)
    starts_at = datetime.combine(day, entry.start, zone)
    ends_at = datetime.combine(ends_on, entry.end, zone)
    # As instants: within one zone Python compares what the clocks show.
    return starts_at.timestamp() <= now.timestamp() < ends_at.timestamp()
