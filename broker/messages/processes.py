"""What a process says of itself, and what it is told."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from broker.messages.base import Count, Message, Moment, Short, Text, Whole
from broker.messages.models import ModelRef

__all__ = [
    "BridgeBeat",
    "CameraHealth",
    "Command",
    "CommandValue",
    "NodeHealth",
    "NodeStatus",
    "Probe",
    "Reject",
    "Reply",
    "ScoredCamera",
    "WorkerBeat",
    "WorkerStatus",
]


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


class ScoredCamera(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker does with one of its cameras.

    Attributes:
        since: since when it is this worker's.
        epoch: of that ownership.
        fps: frames a second that were scored since the last report.
        age_ms: median age of a frame when its scores went out, since the last report.
        dropped: frames that made way for newer ones, since the start.
        late: frames that were too old to be scored, since the start.
    """

    since: Moment
    epoch: Count
    fps: float = 0.0
    age_ms: float = 0.0
    dropped: Count = 0
    late: Count = 0


class WorkerStatus(Message, frozen=True, kw_only=True):
    """What a worker can do, retained.

    Attributes:
        state: a worker that is `draining` takes no more cameras, and gives its own away.
        capacity_fps: frames a second that it takes on.
        classes: what kind of worker it is.
        labels: what its model can say.
        model: the model in use.
        model_wanted: the model that it is changing to, until its trial is over.
        model_error: why it did not take the model that the site wants; empty while it does.
        model_version: of the manifest that this is the answer to; 0: it follows none.
    """

    worker: Short
    state: Literal["online", "draining", "offline"]
    at: Moment
    capacity_fps: float
    classes: tuple[Short, ...] = ()
    labels: tuple[Short, ...] = ()
    model: ModelRef | None = None
    model_wanted: ModelRef | None = None
    model_error: Text = ""
    model_version: Count = 0


class WorkerBeat(Message, frozen=True, kw_only=True):
    """A worker is alive, once a second, and so are its cameras.

    Attributes:
        seq: grows with each beat.
    """

    worker: Short
    seq: Count
    at: Moment
    cameras: dict[str, ScoredCamera] = {}


class BridgeBeat(Message, frozen=True, kw_only=True):
    """A bridge is alive, once a second, and so are its shards.

    Attributes:
        bridge: its origin.
        seq: grows with each beat.
        sink: what its bridges share: those that write into the same Kafka split the shards, a journal is nobody else's.
        shards: how many there are in its settings.
        state: one that is `draining` takes no more shards, and gives its own away.
        own: the shards that it serves now.
    """

    bridge: Short
    seq: Count
    at: Moment
    sink: Text
    shards: Annotated[int, Meta(ge=1, le=64)]
    state: Literal["online", "draining"] = "online"
    own: tuple[Annotated[int, Meta(ge=0, le=63)], ...] = ()


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
