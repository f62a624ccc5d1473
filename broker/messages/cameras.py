"""What a camera's node says of it: state, frames, movement, clips; and what the site says of a camera."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from broker.messages.base import Box, Count, Message, Mode, Moment, Short, Text, Unit
from broker.messages.models import ModelRef

__all__ = [
    "Active",
    "CameraCheck",
    "CameraDocument",
    "CameraModel",
    "CameraState",
    "ClipEvent",
    "Finding",
    "FoundPeople",
    "FoundPerson",
    "FrameMeta",
    "MotionEvent",
    "MotionHour",
    "MotionTrend",
    "RegistryIndex",
]


class CameraState(Message, frozen=True, kw_only=True):
    """A camera as its node sees it, retained.

    Attributes:
        state: ``error`` is a camera that its node cannot read now; `error` says why and what cures it.
        node: the node that owns it.
        mode: how it is watched now; until `zoom_until` in the mode `zoom`.
        moving: whether something moves.
        fps: frames a second that are sent now.
        privacy: no picture leaves the node.
        detection: workers score its frames.
        demand_fps: frames a second that it sends while something moves, for workers to score; 0: it does not say.
        scored_by: who scores it: the site's workers, or its own node.
        worker_class: the class of worker that it asks for; empty means any.
        labels: labels that its worker's model must know.
        recording: `failed` is wanted and impossible now; `error` says why.
        source: where it comes from, without credentials.
        at: when this became so.
    """

    camera: Short
    state: Literal["online", "offline", "error"]
    node: Short
    at: Moment
    mode: Mode = "monitor"
    moving: bool = False
    zoom_until: Moment | None = None
    fps: float = 0.0
    privacy: bool = False
    detection: bool = True
    demand_fps: float = 0.0
    scored_by: Literal["workers", "node"] = "workers"
    worker_class: Short = ""
    labels: tuple[Short, ...] = ()
    recording: Literal["off", "on", "failed"] = "off"
    width: Count = 0
    height: Count = 0
    source: Text = ""
    error: Text | None = None


class FoundPerson(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody in a picture."""

    score: Unit
    box: Box


class FoundPeople(msgspec.Struct, frozen=True, kw_only=True):
    """Whom a camera's node found in a picture before it blurred them, since a worker would hardly see them.

    Attributes:
        model: which model found them.
        people: the best first; nobody who is behind a mask.
    """

    model: ModelRef
    people: tuple[FoundPerson, ...] = ()


class FrameMeta(Message, frozen=True, kw_only=True):
    """What rides in the comment segment of a frame's JPEG.

    Attributes:
        seq: counts the camera's captured frames since its node started; sent frames have gaps.
        captured_at: when the picture was taken or, from a camera that does not say, arrived.
        width: pixels.
        height: pixels.
        expires_at: after this it is worth nothing to a detector or a viewer.
        mode: how the camera is watched.
        moving: whether something moves.
        motion: boxes in which something moves.
        people: whom its node found in it before it blurred them; absent where it blurs nobody.
        detect: whether workers should score it.
        recorded: whether the node records this moment, so that there will be a clip of it.
        clock_synchronised: whether the node's clock is right, as far as it knows.
    """

    camera: Short
    node: Short
    seq: Count
    captured_at: Moment
    width: Annotated[int, Meta(ge=1, le=65535)]
    height: Annotated[int, Meta(ge=1, le=65535)]
    expires_at: Moment | None = None
    mode: Mode = "monitor"
    moving: bool = False
    motion: tuple[Box, ...] = ()
    people: FoundPeople | None = None
    detect: bool = True
    recorded: bool = False
    clock_synchronised: bool = True


class MotionEvent(Message, frozen=True, kw_only=True):
    """Something begins to move, moves on, or stops.

    Attributes:
        id: this message, ``{origin}:{epoch}:{seq}``.
        motion_id: the movement: the same for its start, its updates and its end.
        score: share of the picture that moves, 0 to 1.
        zones: zones of the camera in which something moves.
        frame_seq: the frame it was seen in.
        ended: why it ended: the movement did, or the process that watched it.
    """

    id: Short
    motion_id: Short
    camera: Short
    type: Literal["start", "update", "end"]
    started_at: Moment
    at: Moment
    score: Unit = 0.0
    boxes: tuple[Box, ...] = ()
    zones: tuple[Short, ...] = ()
    frame_seq: Count = 0
    ended: Literal["quiet", "interrupted"] | None = None


class MotionHour(msgspec.Struct, frozen=True, kw_only=True):
    """What moved in one hour.

    Attributes:
        start: full hour, UTC.
        movements: that began in it.
        moving_s: seconds in which something moved.
        watched_s: seconds in which the camera was watched.
        score_max: the largest share of the picture that moved.
    """

    start: Moment
    movements: Count = 0
    moving_s: float = 0.0
    watched_s: float = 0.0
    score_max: Unit = 0.0


class MotionTrend(Message, frozen=True, kw_only=True):
    """How much moved in each of the last 24 hours in which the camera was watched, oldest first."""

    camera: Short
    at: Moment
    hours: tuple[MotionHour, ...] = ()


class ClipEvent(Message, frozen=True, kw_only=True):
    """A clip of a camera was delivered, or cannot be.

    Attributes:
        id: this message, ``{origin}:{epoch}:{seq}``.
        reason: what it was cut for.
        about: id of the escalation or movement, or the request's correlation id.
        starts_at: time of its first picture: a keyframe, so up to a group of pictures before what was asked for.
        ends_at: time of its last picture.
        uri: where it is.
        missing_s: seconds of what was asked for that were not recorded.
        error: why there is none; the fields above say what was asked for then.
    """

    id: Short
    camera: Short
    reason: Literal["escalation", "motion", "request"]
    about: Short
    at: Moment
    starts_at: Moment
    ends_at: Moment
    uri: Text = ""
    size_bytes: Count = 0
    sha256: Annotated[str, Meta(pattern="^([0-9a-f]{64})?$")] = ""
    missing_s: float = 0.0
    error: Text | None = None
    drill: bool = False


class CameraDocument(Message, frozen=True, kw_only=True):
    """What the site says of a camera: its file in the registry, without logins.

    Attributes:
        source: where its pictures come from, without credentials: those reach its node another way.
        node: the node that watches it; None where a pool does, or where only a node that names it itself does.
        pool: the pool whose nodes share it out among themselves.
        excluded: nobody is to touch it, also where a node's own settings name it.
        name: what people call it; empty where that is its name in topics.
        area: room or part of the premises.
        revision: grows with every change.
        settings: the camera's settings, as a site file has them below ``cameras.{camera}``, without `source`; what is
            left out keeps the value of the node's own settings or the default.
    """

    camera: Short
    source: Text
    node: Short | None = None
    pool: Short | None = None
    excluded: bool = False
    name: Short = ""
    area: Short = ""
    revision: Count = 0
    settings: dict[str, Any] = {}


class RegistryIndex(Message, frozen=True, kw_only=True):
    """Every camera and node of the site's registry: who was away learns from it what is not there any more.

    Attributes:
        revision: grows with every change.
    """

    revision: Count
    at: Moment
    cameras: tuple[Short, ...] = ()
    nodes: tuple[Short, ...] = ()


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that a safety check has looked at.

    Attributes:
        check: what was looked at.
        ok: whether it is as it should be.
        value: what was measured, in the unit that `about` names; None where nothing could be.
        limit: what it may be at most, or must be at least.
        about: in words, with the cure where it is not well.
    """

    check: Literal["fresh", "black", "blurred", "covered", "turned", "frozen"]
    ok: bool
    value: float | None = None
    limit: float | None = None
    about: Text = ""


class CameraCheck(Message, frozen=True, kw_only=True):
    """The last safety check of a camera.

    Attributes:
        reason: why it was made.
        captured_at: of the picture that was looked at; None where none came.
        reference_at: when the reference picture was taken; None without one.
    """

    camera: Short
    at: Moment
    ok: bool
    reason: Literal["schedule", "request"]
    captured_at: Moment | None = None
    reference_at: Moment | None = None
    findings: tuple[Finding, ...] = ()


class CameraModel(Message, frozen=True, kw_only=True):
    """The model that scores a camera, retained.

    Attributes:
        worker: who scores it; empty while nobody does.
        installed: the model that its worker runs; empty while nobody scores it.
        wanted: the one that the site wants there; `installed` where nobody says.
        changing: its worker is trying the wanted one.
        error: why its worker did not take it.
        at: when this became so.
    """

    camera: Short
    at: Moment
    worker: Short = ""
    installed: Short = ""
    wanted: Short = ""
    changing: bool = False
    error: Text = ""


Active = Literal["ON", "OFF"]
"""The payload of a plain switch topic: bare text, not JSON, so that Home Assistant takes it as it is."""
