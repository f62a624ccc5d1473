"""The typed messages of the bus and their JSON codec.

One struct a payload. Every JSON payload carries `v`, the schema version; times are RFC 3339 in UTC, from the
producer's clock; boxes are ``(x1, y1, x2, y2)``. Unknown fields are ignored, so that a newer producer does not
break an older reader; an unknown version, a wrong type or an oversized payload is a
:class:`~config.errors.BadPayloadError`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from config.errors import BadPayloadError

__all__ = [
    "Active",
    "Box",
    "BoxPx",
    "CameraDocument",
    "CameraHealth",
    "CameraOwner",
    "CameraState",
    "ClipEvent",
    "Command",
    "CommandValue",
    "Detection",
    "Detections",
    "Escalation",
    "Evidence",
    "FrameMeta",
    "Message",
    "Mode",
    "ModelManifest",
    "ModelRef",
    "MotionEvent",
    "MotionHour",
    "MotionTrend",
    "NodeHealth",
    "NodeStatus",
    "OpenEvents",
    "Probe",
    "Receipt",
    "Reject",
    "Reply",
    "TrackEvent",
    "decode_json",
    "encode_json",
]

Unit = Annotated[float, Meta(ge=0.0, le=1.0)]
Box = tuple[Unit, Unit, Unit, Unit]
"""``(x1, y1, x2, y2)`` as fractions of the picture's width and height."""
BoxPx = tuple[float, float, float, float]
"""``(x1, y1, x2, y2)`` in pixels of the frame."""
Whole = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
"""What every reader can hold, a database too; JSON itself has no bound, and 4,000 digits would be an integer here."""
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Moment = Annotated[datetime, Meta(tz=True)]
Mode = Literal["monitor", "zoom", "eco", "off"]
"""How a camera is watched; `config.cameras` says what each means."""
Short = Annotated[str, Meta(max_length=256)]
Text = Annotated[str, Meta(max_length=4096)]


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """What every JSON payload has.

    Attributes:
        v: schema version.
    """

    v: Literal[1] = 1


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
    recording: Literal["off", "on", "failed"] = "off"
    width: Count = 0
    height: Count = 0
    source: Text = ""
    error: Text | None = None


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


class ModelRef(msgspec.Struct, frozen=True, kw_only=True):
    """Which model made a score.

    Attributes:
        sha256: of the model file, 64 hexadecimal digits; for a detector that is code, of its name and parameters.
    """

    name: Short
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class Detection(msgspec.Struct, frozen=True, kw_only=True):
    """One box in one frame."""

    label: Short
    score: Unit
    box: Box
    box_px: BoxPx


class Detections(Message, frozen=True, kw_only=True):
    """The scores of one frame, also when nothing was found.

    Attributes:
        frame_seq: the frame's `seq`.
        worker: origin of the worker, ``{node}.{role}``.
        captured_at: from the frame.
        received_at: when the worker had the frame.
        infer_started_at: when the batch with this frame went into the model.
        infer_ms: how long the batch was in the model, in milliseconds.
        batch: frames in that batch.
        published_at: when this message was made.
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
    detections: tuple[Detection, ...] = ()


class TrackEvent(Message, frozen=True, kw_only=True):
    """One object over time.

    Attributes:
        id: this message, ``{origin}:{epoch}:{seq}``.
        track_id: the object.
        score: median score so far.
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


class OpenEvents(Message, frozen=True, kw_only=True):
    """Ids of the events of one kind that are open now."""

    camera: Short
    at: Moment
    ids: tuple[Short, ...] = ()


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """A picture inside an escalation.

    Attributes:
        content_type: ``image/jpeg``.
        sha256: of the decoded bytes.
        data: the bytes; Base64 in JSON (RFC 4648, section 4).
    """

    content_type: Short
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    width: Count
    height: Count
    data: bytes


class Escalation(Message, frozen=True, kw_only=True):
    """Something a person should know.

    Attributes:
        id: ``{origin}:{epoch}:{seq}``; seq has no gaps, so that anyone can prove a loss or a repeat.
        rule: name of the rule that fired.
        kind: kind of that rule.
        summary: one sentence for a person.
        captured_at: capture time of the frame that made the rule fire.
        raised_at: when it fired.
        clip: where the clip of it will be, below the place to which the camera's node delivers; empty where the
            node does not record.
        drill: a fake alarm, marked end to end.
    """

    id: Short
    camera: Short
    rule: Short
    kind: Short
    severity: Literal["info", "warning", "critical"]
    summary: Text
    label: Short
    score: Unit
    captured_at: Moment
    raised_at: Moment
    frame_seq: Count
    worker: Short
    model: ModelRef | None = None
    detections: tuple[Detection, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    clip: Text = ""
    drill: bool = False


class Receipt(Message, frozen=True, kw_only=True):
    """The bridge's word that a sink has an escalation or an event.

    Attributes:
        event_id: the escalation or event.
        sha256: of its payload as the sink has it, 64 hexadecimal digits: what settles a message is its own bytes.
        sink: ``journal`` or ``kafka``.
        location: where it landed, such as ``vigil.escalations/0/4711``.
        stored_at: when the sink confirmed it.
        latency_ms: from the bridge's receiving it to that moment.
        repeated: the sink had it already.
    """

    event_id: Short
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    sink: Short
    location: Text
    stored_at: Moment
    latency_ms: float = 0.0
    repeated: bool = False


class CameraOwner(Message, frozen=True, kw_only=True):
    """The worker that scores a camera, and the epoch of its ownership."""

    camera: Short
    worker: Short
    epoch: Count
    at: Moment


class CommandValue(Message, frozen=True, kw_only=True):
    """The wanted value of one property of a camera."""

    value: str | bool | float | Whole
    correlation_id: Short = ""


class Command(Message, frozen=True, kw_only=True):
    """An order to a process."""

    correlation_id: Short
    name: Short
    arguments: dict[str, str] = {}
    reply_to: Short = ""


class Reply(Message, frozen=True, kw_only=True):
    """The answer to a command."""

    correlation_id: Short
    ok: bool
    reason: Text = ""
    result: dict[str, str] = {}


class NodeStatus(Message, frozen=True, kw_only=True):
    """A process is there, or is not: birth and will.

    Attributes:
        at: of the birth; a will carries the time at which it was laid down.
        capacity: what it can do, such as ``{"frames_per_s": 52.0}``.
        versions: of Vigil and of what it stands on.
    """

    node: Short
    role: Short
    state: Literal["online", "offline", "draining"]
    at: Moment
    started_at: Moment
    capacity: dict[str, float] = {}
    versions: dict[str, str] = {}


class CameraHealth(msgspec.Struct, frozen=True, kw_only=True):
    """How one camera of a node is doing.

    Attributes:
        fps: pictures a second that were looked at since the last report.
        sent_fps: frames a second that were sent.
        late: pictures dropped since the start, because the machine was too slow.
        reopened: times that the source was opened again since the start.
        silent_s: seconds since the last picture; None where there was none yet.
    """

    fps: float = 0.0
    sent_fps: float = 0.0
    late: Count = 0
    reopened: Count = 0
    silent_s: float | None = None


class NodeHealth(Message, frozen=True, kw_only=True):
    """How a process is doing.

    Attributes:
        cpu_percent: of one core, since the last report.
        memory_bytes: resident.
        temperature_c: of the processor, where the machine tells.
        throttled: why the machine runs slower than it could, such as ``under-voltage``.
        wifi_dbm: strength of the wireless signal, where there is one.
        clock_synchronised: whether the clock follows a time server; None where the machine does not tell.
        disk_free_bytes: where the state folder is.
        queues: messages that wait now, by queue.
        drops: messages dropped since the start, by queue.
        counts: everything else that is counted since the start.
    """

    node: Short
    role: Short
    at: Moment
    uptime_s: float
    cpu_percent: float
    memory_bytes: Count
    disk_free_bytes: Count
    temperature_c: float | None = None
    throttled: tuple[Short, ...] = ()
    wifi_dbm: float | None = None
    clock_synchronised: bool | None = None
    cameras: dict[str, CameraHealth] = {}
    queues: dict[str, Whole] = {}
    drops: dict[str, Whole] = {}
    counts: dict[str, Whole] = {}


class Reject(Message, frozen=True, kw_only=True):
    """A message that this process could not use.

    Attributes:
        topic: where it came in.
        reason: what is wrong with it.
        count: rejects of this process so far.
    """

    topic: Text
    reason: Text
    size_bytes: Count
    count: Count
    at: Moment


class Probe(Message, frozen=True, kw_only=True):
    """What a client sends to itself through the broker.

    Attributes:
        number: tells the probes of one run apart.
        padding: makes the packet as large as it must be.
    """

    number: Count
    padding: str = ""


class CameraDocument(Message, frozen=True, kw_only=True):
    """What the fleet says of a camera.

    Attributes:
        source: where its pictures come from, without credentials: those are in its node's own settings.
        node: the node that watches it.
        revision: grows with every change.
        settings: the camera's settings, as a site file has them below ``cameras.{camera}``, without `source`; what is
            not named keeps the node's own setting, or the default.
    """

    camera: Short
    source: Text
    node: Short | None = None
    revision: Count = 0
    settings: dict[str, Any] = {}


class ModelManifest(Message, frozen=True, kw_only=True):
    """A model that workers may use."""

    name: Short
    version: Short
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    size_bytes: Count
    url: Text
    labels: tuple[Short, ...] = ()


Active = Literal["ON", "OFF"]
"""The payload of a plain switch topic: bare text, not JSON, so that Home Assistant takes it as it is."""


M = TypeVar("M", bound=Message)

_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = datetime(9999, 1, 1, tzinfo=UTC)
_REASON_MAX = 300


def encode_json(message: Message) -> bytes:
    """The message as compact JSON, UTF-8."""
    return msgspec.json.encode(message)


def decode_json(kind: type[M], payload: bytes | memoryview, *, max_bytes: int) -> M:
    """Read one message.

    Args:
        kind: the struct that the topic carries.
        payload: JSON, UTF-8.
        max_bytes: the largest payload that is looked at.

    Raises:
        BadPayloadError: it is too large, not JSON, of an unknown version, or a field has a wrong type or range; or a
            time lies outside of 1970 to 9998, beyond which there are time zones that it has no date in.
    """
    if len(payload) > max_bytes:
        raise BadPayloadError(
            f"{len(payload)} bytes are more than the {max_bytes} that this topic takes", size_bytes=len(payload)
        )
    try:
        message = msgspec.json.decode(payload, type=kind)
    except msgspec.ValidationError as error:
        raise BadPayloadError(_reason(str(error)), size_bytes=len(payload)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadPayloadError(f"not JSON: {error}", size_bytes=len(payload)) from error
    except RecursionError as error:
        raise BadPayloadError("nested too deeply", size_bytes=len(payload)) from error
    for name in _moments(kind):
        moment = getattr(message, name)
        if moment is not None and not _EARLIEST <= moment <= _LATEST:
            raise BadPayloadError(f"{name} {moment.isoformat()} is not of this age", size_bytes=len(payload))
    return message


@cache
def _moments(kind: type[Message]) -> tuple[str, ...]:
    return tuple(field.name for field in msgspec.structs.fields(kind) if field.type in (Moment, Moment | None))


def _reason(text: str) -> str:
    if text.startswith("Invalid enum value") and text.endswith("`$.v`"):
        return f"unknown schema version: {text[:_REASON_MAX]}; this reader knows version 1"
    # It repeats a wrong value, of any length.
    return text if len(text) <= _REASON_MAX else f"{text[:_REASON_MAX]}..."
