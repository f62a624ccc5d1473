"""What was recorded of a camera, as scenes for rules: whichever of the three ways it was recorded.

- the track log that `vigil detect VIDEO --tracks FILE` writes: every frame of a video;
- what `vigil watch --camera CAMERA --kind detections --json` prints: every frame that workers scored meanwhile;
- what `vigil events --camera CAMERA --stream track --json` lists, or `vigil watch --kind track --json` prints: the
  events of each object. They have where it went, and its box only every few seconds.

Zones are those of the settings, not those of the recording, so that new ones can be tried on what has happened.
"""

from __future__ import annotations

import bisect
import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import msgspec

from broker import TopicSpec, parse_topic
from broker.messages import Detection, Detections, TrackEvent
from broker.topics import CAMERA_DETECTIONS, CAMERA_TRACK
from config import BadPayloadError, PermanentError
from detector.scene import Box, Scene, Step, Track
from detector.track_log import read_track_log
from detector.zones import ZoneMap

__all__ = ["Recording", "read_recording"]

T = TypeVar("T")
_HOW_MADE = (
    "record one with `vigil watch --camera CAMERA --kind detections --json > FILE`, take one from the journal with "
    "`vigil events --camera CAMERA --stream track --limit 1000 --json > FILE`, or make one of a video with "
    "`vigil detect VIDEO --tracks FILE`"
)
_EVENTS_SIZE_PX = (1280, 720)
"""Events do not say how large the picture is; most cameras are so wide."""
_TICK_S = 0.5
"""Between the events of an object, rules look so often."""
_STEPS_MAX = 2000
_SCORES_MAX = 1001


class _Line(msgspec.Struct):
    """One line of JSON, of any of the three ways."""

    at_s: float | None = None
    stream: str = ""
    payload: msgspec.Raw = msgspec.Raw(b"null")
    message: msgspec.Raw = msgspec.Raw(b"null")
    topic: str = ""


@dataclass(frozen=True, slots=True)
class _Sighting:
    """An object in one frame; since when it is there, where the recording knows."""

    track_id: str
    label: str
    score: float
    box: Box
    started_s: float = math.inf


@dataclass(frozen=True, slots=True)
class _Moment:
    """One frame, or one moment between events."""

    at_s: float
    local: datetime
    size_px: tuple[int, int]
    sightings: tuple[_Sighting, ...] = ()


@dataclass(slots=True)
class _Followed:
    """An object while it is replayed."""

    label: str
    started_s: float
    path: list[Step] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    zones: dict[str, float] = field(default_factory=dict)
    dwell_s: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Recording:
    """What was recorded of one camera.

    Attributes:
        camera: its name.
        moments: in order.
        every_frame: whether every frame is in it; otherwise only what events tell.
    """

    camera: str
    moments: Sequence[_Moment]
    every_frame: bool

    def scenes(self, zones: ZoneMap, lost_s: float) -> Iterator[Scene]:
        """As rules look at it.

        Args:
            zones: of the camera.
            lost_s: seconds for which an object that is not seen is still there.
        """
        followed: dict[str, _Followed] = {}
        last_s = -math.inf
        for moment in self.moments:
            if moment.at_s < last_s:
                followed.clear()
            last_s = moment.at_s
            for sighting in moment.sightings:
                if not zones.excludes(sighting.label, Step(moment.at_s, sighting.box).foot):
                    _follow(followed, sighting, moment.at_s, zones)
            for track_id in [t for t, f in followed.items() if moment.at_s - f.path[-1].at_s > lost_s]:
                del followed[track_id]
            yield _scene(self.camera, moment, followed)


def _follow(followed: dict[str, _Followed], sighting: _Sighting, at_s: float, zones: ZoneMap) -> None:
    # It is recorded from when it counts, and was there a little earlier.
    known = followed.setdefault(sighting.track_id, _Followed(sighting.label, min(at_s, sighting.started_s)))
    since_s = at_s if known.path else known.started_s
    step = Step(at_s, sighting.box)
    if known.path:
        for zone in known.zones:
            known.dwell_s[zone] = known.dwell_s.get(zone, 0.0) + at_s - known.path[-1].at_s
    known.path = [*known.path[-_STEPS_MAX:], step]
    bisect.insort(known.scores, sighting.score)
    if len(known.scores) > _SCORES_MAX:
        # The median stays where it is, and so does the memory.
        known.scores = known.scores[1:-1]
    known.zones = {zone: known.zones.get(zone, since_s) for zone in zones.of(sighting.label, step.foot)}


def _scene(camera: str, moment: _Moment, followed: dict[str, _Followed]) -> Scene:
    width_px, height_px = moment.size_px
    tracks = tuple(
        Track(name, f.label, statistics.median(f.scores), f.started_s, tuple(f.path), dict(f.zones), dict(f.dwell_s))
        for name, f in followed.items()
    )
    found = tuple(
        Detection(label=s.label, score=s.score, box=s.box, box_px=s.box, track_id=s.track_id) for s in moment.sightings
    )
    return Scene(camera, moment.at_s, moment.local, width_px, height_px, tracks, found)


def read_recording(file: Path, camera: str) -> Recording:
    """Read what was recorded of a camera.

    Raises:
        PermanentError: the file cannot be read, or nothing of this camera is in it.
    """
    try:
        first = _first_line(file)
        if first.at_s is not None:
            moments = _of_log(file, camera)
            return Recording(camera, _checked(moments, file, camera), every_frame=True)
        messages = list(_messages(file))
    except OSError as error:
        raise PermanentError(f"{file} cannot be read: {error.strerror}") from error
    cameras = sorted({message.camera for message in messages})
    frames = [m for m in messages if isinstance(m, Detections) and m.camera == camera]
    if frames:
        return Recording(camera, [_of_frame(frame) for frame in frames], every_frame=True)
    events = [m for m in messages if isinstance(m, TrackEvent) and m.camera == camera]
    if not events:
        there = f"it has {', '.join(cameras[:10])}" if cameras else _HOW_MADE
        raise PermanentError(f"{file} has nothing of camera {camera}: {there}")
    return Recording(camera, _of_events(events), every_frame=False)


def _first_line(file: Path) -> _Line:
    with file.open("rb") as lines:
        first = next((line for line in lines if line.strip()), b"")
    return _decoded(first, f"{file}:1", _Line)


def _decoded(text: bytes, place: str, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.MsgspecError as error:
        raise PermanentError(f"{place}: this is no recording of tracks ({error}); {_HOW_MADE}") from error


def _messages(file: Path) -> Iterator[Detections | TrackEvent]:
    """The scores and track events among the lines; others are left out."""
    with file.open("rb") as lines:
        for number, text in enumerate(lines, start=1):
            if not text.strip():
                continue
            line = _decoded(text, f"{file}:{number}", _Line)
            told = bytes(line.message if line.stream else line.payload)
            spec = _spec(line.topic)
            if spec is CAMERA_DETECTIONS:
                yield _decoded(told, f"{file}:{number}", Detections)
            elif spec is CAMERA_TRACK or line.stream == CAMERA_TRACK.name:
                yield _decoded(told, f"{file}:{number}", TrackEvent)


def _spec(topic: str) -> TopicSpec | None:
    try:
        return parse_topic(topic).spec
    except BadPayloadError:
        return None


def _checked(moments: list[_Moment], file: Path, camera: str) -> list[_Moment]:
    if not moments:
        raise PermanentError(f"{file} has nothing of camera {camera}")
    return moments


def _of_log(file: Path, camera: str) -> list[_Moment]:
    return [
        _Moment(
            scene.at_s,
            scene.local,
            (scene.width_px, scene.height_px),
            tuple(
                _Sighting(track.track_id, track.label, track.score, track.box, track.started_s)
                for track in scene.tracks
                if track.path and track.seen_s >= scene.at_s
            ),
        )
        for scene in read_track_log(file)
        if scene.camera == camera
    ]


def _of_frame(frame: Detections) -> _Moment:
    return _Moment(
        frame.captured_at.timestamp(),
        frame.captured_at.astimezone(),
        (frame.width, frame.height),
        tuple(_Sighting(d.track_id, d.label, d.score, d.box) for d in frame.detections if d.track_id),
    )


def _of_events(events: Iterable[TrackEvent]) -> list[_Moment]:
    """Each object is where its last step was until it ends, and has the size that it had then."""
    steps: dict[str, dict[float, _Sighting]] = {}
    for event in events:
        of_track = steps.setdefault(event.track_id, {})
        for point in event.path:
            of_track[point.at.timestamp()] = _sighting(event, (point.x, point.y))
        of_track[event.at.timestamp()] = _sighting(event, None)
    times = sorted({at_s for of_track in steps.values() for at_s in of_track})
    paths = {track_id: sorted(of_track.items()) for track_id, of_track in steps.items()}
    count = math.floor((times[-1] - times[0]) / _TICK_S) + 1
    ticks = {times[0] + number * _TICK_S for number in range(count)}
    return [_at(at_s, paths) for at_s in sorted({*times, *ticks})]


def _at(at_s: float, paths: dict[str, list[tuple[float, _Sighting]]]) -> _Moment:
    seen = []
    for path in paths.values():
        place = bisect.bisect_right(path, at_s, key=lambda step: step[0])
        if place and at_s <= path[-1][0]:
            seen.append(path[place - 1][1])
    return _Moment(at_s, datetime.fromtimestamp(at_s).astimezone(), _EVENTS_SIZE_PX, tuple(seen))


def _sighting(event: TrackEvent, foot: tuple[float, float] | None) -> _Sighting:
    x1, y1, x2, y2 = event.box
    if foot is not None:
        right, down = foot[0] - (x1 + x2) / 2, foot[1] - y2
        x1, y1, x2, y2 = (min(max(edge, 0.0), 1.0) for edge in (x1 + right, y1 + down, x2 + right, y2 + down))
    return _Sighting(event.track_id, event.label, event.score, (x1, y1, x2, y2))
