"""What workers say: boxes in a frame, objects over time, what is open."""

from __future__ import annotations

from typing import Literal

import msgspec

from broker.messages.base import Box, BoxPx, Count, Message, Moment, Short, Unit
from broker.messages.models import ModelRef

__all__ = [
    "CameraOwner",
    "Detection",
    "Detections",
    "KeptObject",
    "OpenEvents",
    "OpenTrack",
    "PathPoint",
    "RuleMemory",
    "TrackEvent",
]


class Detection(msgspec.Struct, frozen=True, kw_only=True):
    """One box in one frame.

    Attributes:
        track_id: the object that it belongs to; empty where that is not known (yet).
    """

    label: Short
    score: Unit
    box: Box
    box_px: BoxPx
    track_id: Short = ""


class Detections(Message, frozen=True, kw_only=True):
    """The scores of one frame, also when nothing was found.

    Attributes:
        frame_seq: the frame's `seq`.
        worker: origin of the worker, ``{node}.{role}``.
        epoch: of the worker's ownership of the camera; what comes with an older one than the owner's is late.
        regions: parts of the picture that were looked at more closely, besides the whole.
        captured_at: from the frame.
        received_at: when the worker had the frame.
        infer_started_at: when the batch with this frame went into the model.
        infer_ms: how long the batch was in the model, in milliseconds.
        batch: frames in that batch.
        published_at: when this message was made.
        people_by: the model of the camera's node, where the people among the detections are those whom it found.
    """

    camera: Short
    frame_seq: Count
    worker: Short
    model: ModelRef
    width: Count
    height: Count
    captured_at: Moment
    received_at: Moment
    infer_started_at: Moment
    infer_ms: float
    batch: Count
    published_at: Moment
    epoch: Count = 0
    regions: Count = 0
    people_by: ModelRef | None = None
    detections: tuple[Detection, ...] = ()


class PathPoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where an object stood at one moment: the middle of its box's lower edge, as fractions of the picture."""

    at: Moment
    x: Unit
    y: Unit


class TrackEvent(Message, frozen=True, kw_only=True):
    """One object over time.

    Attributes:
        id: this message, ``{origin}:{epoch}:{seq}``.
        track_id: the object; the same for its start, its updates and its end, whichever worker sends them.
        score: median score so far.
        box: where it was seen last.
        path: where it went, thinned out; the oldest first.
        zones: zones of the camera in which it is.
        dwell_s: seconds it has spent in each zone so far.
        speed: fractions of the picture's height a second, over the last seconds.
        still: it stands still.
        ended: why it ended: it left, or nobody watched it any more.
    """

    id: Short
    track_id: Short
    camera: Short
    type: Literal["start", "update", "end"]
    label: Short
    started_at: Moment
    at: Moment
    score: Unit
    box: Box
    path: tuple[PathPoint, ...] = ()
    zones: tuple[Short, ...] = ()
    dwell_s: dict[str, float] = {}
    speed: float = 0.0
    still: bool = False
    frame_seq: Count = 0
    worker: Short = ""
    model: ModelRef | None = None
    ended: Literal["left", "interrupted"] | None = None


class OpenTrack(msgspec.Struct, frozen=True, kw_only=True):
    """An object that is there now, as the next worker of its camera must know it.

    Attributes:
        seen_at: when it was last seen.
        velocity: fractions of the picture's width and height that its middle goes in a second.
        still_since: when it last moved; None while it moves.
        zones: since when it is in each of the zones in which it is.
        dwell_s: seconds it has spent in each zone before that.
    """

    track_id: Short
    label: Short
    started_at: Moment
    seen_at: Moment
    score: Unit
    box: Box
    velocity: tuple[float, float] = (0.0, 0.0)
    still_since: Moment | None = None
    zones: dict[str, Moment] = {}
    dwell_s: dict[str, float] = {}


class KeptObject(msgspec.Struct, frozen=True, kw_only=True):
    """What a rule remembers of an object, which may be out of sight for a moment.

    Attributes:
        box: by which it is measured: where it came to rest, or where it was clearly on one side of a line.
        seen_at: when it was last seen.
        since: since when what the rule waits for holds of it.
        standing: how high it is when it stands upright, as a fraction of the picture's height; 0: not known.
        fired: the rule has fired for it.
    """

    box: Box
    seen_at: Moment
    since: Moment | None = None
    standing: Unit = 0.0
    fired: bool = False


class RuleMemory(msgspec.Struct, frozen=True, kw_only=True):
    """What a rule remembers of a camera, as the next worker must know it.

    Attributes:
        quiet_until: end of its cooldown.
        since: since when what it waits for holds: nobody seen, too many there.
        watched_until: until when, to within seconds, it has watched that.
        fired: it has fired for that.
        objects: by the track to which they belong.
    """

    quiet_until: Moment | None = None
    since: Moment | None = None
    watched_until: Moment | None = None
    fired: bool = False
    objects: dict[str, KeptObject] = {}


class OpenEvents(Message, frozen=True, kw_only=True):
    """What is open now of one kind.

    Attributes:
        ids: movements or objects.
        tracks: the objects, where they are that.
        rules: what each rule remembers.
    """

    camera: Short
    at: Moment
    ids: tuple[Short, ...] = ()
    tracks: tuple[OpenTrack, ...] = ()
    rules: dict[str, RuleMemory] = {}


class CameraOwner(Message, frozen=True, kw_only=True):
    """The worker that scores a camera, and the epoch of its ownership.

    Attributes:
        worker: its origin; empty is an orphan: a camera that no worker takes on.
        epoch: grows with each change of owner.
    """

    camera: Short
    worker: Short
    epoch: Count
    at: Moment
