"""One camera under watch: boxes become objects, and rules look at them. Pure: frames come in with their times."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import msgspec

from broker.messages import Detection, FrameMeta, OpenEvents, OpenTrack, RuleMemory, encode_json
from config.cameras import CameraSettings
from config.settings import DetectorSettings
from detector.following import Following
from detector.objects import WatchedObject, moment
from detector.scene import Firing, Scene, Step, Track
from detector.tracking import next_period_s
from detector.zones import ZoneMap

if TYPE_CHECKING:
    from detector.rules import RuleWatch

__all__ = ["CameraWatch", "Look", "TrackChange"]

_BACKWARDS_S = 1.0
"""Frames of a camera come in order; a capture time that is further back than this is a clock that was set."""
_PAUSE_PERIODS = 3.0
"""A frame that comes so many times later than usual comes after a pause, over which the library finds few again."""
_SILENT_S = 10.0
"""Without a frame for so long nobody can say that it is the same object; a camera may send one each 5 s."""
_SILENT_STILL_S = 300.0
"""What stands still and is found at the same place after so long is taken for the same object: somebody who has sat in
a chair for an hour has not just come because a worker was restarted."""
_STILL_UPDATE_S = 60.0
"""How often an object that stands still is told of, at most; a parked car has no news."""
_OPEN_MAX = 100
_OPEN_BYTES_MAX = 60_000
"""What `track/open` may hold: the newest objects, in less than 64 kB."""


@dataclass(frozen=True, slots=True)
class TrackChange:
    """An object begins, goes on or ends.

    Attributes:
        type: what it does.
        track: the object as it is now.
        ended: why it ended: it left, or nobody watched it any more.
    """

    type: Literal["start", "update", "end"]
    track: Track
    ended: Literal["left", "interrupted"] | None = None


@dataclass(frozen=True, slots=True)
class Look:
    """What one frame says.

    Attributes:
        detections: what counts, with the object that each belongs to.
        changes: objects that begin, go on or end, in this order.
        firings: what people should know.
    """

    detections: tuple[Detection, ...] = ()
    changes: tuple[TrackChange, ...] = ()
    firings: tuple[Firing, ...] = ()


@dataclass(slots=True)
class _Told:
    """What was last told of an object."""

    at_s: float
    zones: tuple[str, ...]
    still: bool


class CameraWatch:
    """Follows the objects of one camera and asks its rules.

    An object counts when it was seen at least twice and over `confirm_s`, and has left when it was not seen for
    `lost_s` and in two frames. One that stands still is carried for longer, since it is not looked at in every frame.
    When the camera's clock is set back, or no frame comes for 10 s, what was there ends as `interrupted`.

    Concurrency: one thread at a time.

    Args:
        camera: its name.
        settings: of the detector.
        camera_settings: its labels and zones.
        rules: the rules that watch it.
        new_id: makes the id of an object, never the same twice.
    """

    def __init__(
        self,
        camera: str,
        settings: DetectorSettings,
        camera_settings: CameraSettings,
        rules: Sequence[RuleWatch],
        *,
        new_id: Callable[[], str],
    ) -> None:
        self.camera = camera
        self._tracking = settings.tracking
        self._carry_s = settings.regions.refresh_s if settings.regions.per_frame_max else 0.0
        self._labels = frozenset(camera_settings.labels)
        self._zones = ZoneMap(camera_settings.zones)
        self._rules = tuple(rules)
        self._new_id = new_id
        self._silent_s = max(_SILENT_S, settings.tracking.lost_s)
        self._followings: dict[str, Following] = {}
        self._tracks: tuple[Track, ...] = ()
        self._told: dict[str, _Told] = {}
        self._aspect = 16 / 9
        self._last_s: float | None = None
        self._period_s: float | None = None
        self._resumed_s = float("-inf")
        self._recalled = False

    @property
    def tracks(self) -> tuple[Track, ...]:
        """The objects that are there and count."""
        return self._tracks

    def _look_at_tracks(self) -> None:
        self._tracks = tuple(watched.track() for watched in self._objects() if watched.confirmed)

    def look(self, meta: FrameMeta, detections: tuple[Detection, ...], *, ask_rules: bool = True) -> Look:
        """Look at the scores of one frame.

        Args:
            meta: of the frame.
            detections: everything that was found in it.
            ask_rules: let the rules look too; without, they fire later.
        """
        at_s = meta.captured_at.timestamp()
        self._aspect = meta.width / meta.height
        wanted = tuple(detection for detection in detections if self._wants(detection))
        changes: list[TrackChange] = []
        if self._last_s is not None:
            if -_BACKWARDS_S <= at_s - self._last_s <= 0:
                return Look(wanted)
            changes.extend(self._let_pass(at_s, at_s - self._last_s))
        if self._recalled:
            self._resumed_s, self._recalled = at_s, False
        self._last_s = at_s
        marked = self._follow(at_s, wanted)
        changes.extend(self._end_lost(at_s))
        self._look_at_tracks()
        changes.extend(self._changes(at_s))
        firings = self._ask(meta, at_s, marked) if ask_rules else ()
        return Look(marked, tuple(changes), firings)

    def _wants(self, detection: Detection) -> bool:
        if self._labels and detection.label not in self._labels:
            return False
        x1, _, x2, y2 = detection.box
        return not self._zones.excludes(detection.label, ((x1 + x2) / 2, y2))

    # --- objects ------------------------------------------------------------------------------------------------

    def _objects(self) -> list[WatchedObject]:
        return [watched for following in self._followings.values() for watched in following]

    def _following(self, label: str) -> Following:
        following = self._followings.get(label)
        if following is None:
            following = self._followings[label] = Following(self._tracking, partial(self._begin, label))
        return following

    def _begin(self, label: str, step: Step, score: float) -> WatchedObject:
        return WatchedObject(
            track_id=self._new_id(),
            label=label,
            zones=self._zones,
            aspect=self._aspect,
            still_s=self._tracking.still_s,
            step=step,
            score=score,
        )

    def _follow(self, at_s: float, detections: tuple[Detection, ...]) -> tuple[Detection, ...]:
        """Give each box to its object."""
        places: dict[str, list[int]] = {label: [] for label in self._followings}
        for place, detection in enumerate(detections):
            places.setdefault(detection.label, []).append(place)
        marked = list(detections)
        for label, of_label in places.items():
            found = [detections[place] for place in of_label]
            seen = self._following(label).see(at_s, self._period_s, found, aspect=self._aspect)
            for place, watched in zip(of_label, seen, strict=True):
                if watched is not None and watched.confirmed:
                    marked[place] = msgspec.structs.replace(detections[place], track_id=watched.track_id)
        return tuple(marked)

    def _let_pass(self, at_s: float, gone_s: float) -> Sequence[TrackChange]:
        """Let so many seconds pass without a frame, and end what nobody can say is still the same."""
        if gone_s < 0:
            return self.end()
        if self._period_s is not None and gone_s > _PAUSE_PERIODS * self._period_s:
            for watched in self._objects():
                watched.sought = True
        if gone_s <= self._silent_s:
            self._period_s = next_period_s(self._period_s, gone_s)
            return ()
        for watched in self._objects():
            watched.unwatched = True
        self._resumed_s = at_s
        moving = [w for w in self._objects() if not w.still or gone_s > _SILENT_STILL_S]
        return self._end_all(moving, "interrupted")

    def _end_lost(self, at_s: float) -> list[TrackChange]:
        changes: list[TrackChange] = []
        for watched in self._objects():
            patience_s = self._tracking.lost_s + (self._carry_s if watched.still else 0.0)
            if watched.misses >= 2 and at_s - max(watched.seen_s, self._resumed_s) > patience_s:
                changes.extend(self._end_all([watched], "interrupted" if watched.unwatched else "left"))
        return changes

    def _end_all(
        self, objects: Sequence[WatchedObject], ended: Literal["left", "interrupted"]
    ) -> tuple[TrackChange, ...]:
        for watched in objects:
            self._remove(watched)
        return tuple(TrackChange("end", watched.track(), ended) for watched in objects if watched.confirmed)

    def _remove(self, watched: WatchedObject) -> None:
        self._followings[watched.label].remove(watched)
        self._told.pop(watched.track_id, None)

    def _changes(self, at_s: float) -> list[TrackChange]:
        changes: list[TrackChange] = []
        for track in self._tracks:
            told = self._told.get(track.track_id)
            if told is None:
                changes.append(TrackChange("start", track))
            elif _has_news(track, told, at_s, self._tracking.update_s):
                changes.append(TrackChange("update", track))
            else:
                continue
            self._told[track.track_id] = _told(track, at_s)
        return changes

    # --- rules --------------------------------------------------------------------------------------------------

    def _ask(self, meta: FrameMeta, at_s: float, detections: tuple[Detection, ...]) -> tuple[Firing, ...]:
        if not self._rules:
            return ()
        scene = Scene(
            camera=self.camera,
            at_s=at_s,
            local=meta.captured_at.astimezone(),
            width_px=meta.width,
            height_px=meta.height,
            tracks=self._tracks,
            detections=detections,
        )
        return tuple(firing for rule in self._rules if (firing := rule.look(scene)) is not None)

    # --- memory -------------------------------------------------------------------------------------------------

    def memory(self, at_s: float) -> OpenEvents:
        """What the next worker of this camera must know."""
        rules = {rule.name: rule.memory() for rule in self._rules}
        fired = {track_id for memory in rules.values() for track_id in memory.objects}
        counting = [watched for watched in self._objects() if watched.confirmed]
        counting.sort(key=lambda watched: (watched.track_id in fired, watched.started_s), reverse=True)
        tracks = tuple(watched.open_track() for watched in counting[:_OPEN_MAX])
        found = OpenEvents(camera=self.camera, at=moment(at_s), ids=_ids(tracks), tracks=tracks, rules=rules)
        while tracks and len(encode_json(found)) > _OPEN_BYTES_MAX:
            tracks = tracks[: len(tracks) // 2]
            found = msgspec.structs.replace(found, ids=_ids(tracks), tracks=tracks, rules=_only(rules, _ids(tracks)))
        return found

    def recall(self, known: OpenEvents) -> None:
        """Go on where another worker, or this one in an earlier life, has stopped; before the first frame.

        What was recalled before is forgotten: the last word counts.

        Args:
            known: the camera's `track/open`.
        """
        self._followings.clear()
        self._told.clear()
        for track in known.tracks:
            watched = WatchedObject.recalled(track, self._zones, aspect=self._aspect, still_s=self._tracking.still_s)
            watched.sought = watched.unwatched = self._recalled = True
            self._following(track.label).add(watched)
            self._told[track.track_id] = _told(watched.track(), known.at.timestamp())
            self._last_s = max(watched.seen_s, self._last_s or watched.seen_s)
        self._look_at_tracks()
        for rule in self._rules:
            memory = known.rules.get(rule.name)
            if memory is not None:
                rule.recall(memory)

    def end(self) -> tuple[TrackChange, ...]:
        """Nobody watches this camera any more: end every object."""
        ended = self._end_all(self._objects(), "interrupted")
        self._followings.clear()
        self._tracks = ()
        self._last_s = None
        return ended


def _told(track: Track, at_s: float) -> _Told:
    return _Told(at_s, tuple(track.zones), still=track.still_since_s is not None)


def _has_news(track: Track, told: _Told, at_s: float, update_s: float) -> bool:
    still = track.still_since_s is not None
    if tuple(track.zones) != told.zones or still != told.still:
        return True
    return at_s - told.at_s >= (max(update_s, _STILL_UPDATE_S) if still else update_s)


def _ids(tracks: Sequence[OpenTrack]) -> tuple[str, ...]:
    return tuple(track.track_id for track in tracks)


def _only(rules: Mapping[str, RuleMemory], ids: Collection[str]) -> dict[str, RuleMemory]:
    """What rules remember, of these objects and no others."""
    return {
        name: msgspec.structs.replace(
            memory, objects={track_id: kept for track_id, kept in memory.objects.items() if track_id in ids}
        )
        for name, memory in rules.items()
    }
