"""The typed messages of the bus and their JSON codec.

One struct a payload. Every JSON payload carries `v`, the schema version; times are RFC 3339 in UTC, from the
producer's clock; boxes are ``(x1, y1, x2, y2)``. Unknown fields are ignored, so that a newer producer does not
break an older reader; an unknown version, a wrong type or an oversized payload is a
:class:`~config.errors.BadPayloadError`.
"""

from __future__ import annotations

from broker.messages.alarms import Escalation, Evidence, Receipt, Receipts
from broker.messages.base import Box, BoxPx, Message, Mode, decode_json, encode_json
from broker.messages.cameras import (
    Active,
    CameraDocument,
    CameraModel,
    CameraState,
    ClipEvent,
    FoundPeople,
    FoundPerson,
    FrameMeta,
    MotionEvent,
    MotionHour,
    MotionTrend,
)
from broker.messages.models import ModelFile, ModelInput, ModelManifest, ModelRef
from broker.messages.processes import (
    BridgeBeat,
    CameraHealth,
    Command,
    CommandValue,
    NodeHealth,
    NodeStatus,
    Probe,
    Reject,
    Reply,
    ScoredCamera,
    WorkerBeat,
    WorkerStatus,
)
from broker.messages.scores import (
    CameraOwner,
    Detection,
    Detections,
    KeptObject,
    OpenEvents,
    OpenTrack,
    PathPoint,
    RuleMemory,
    TrackEvent,
)

__all__ = [
    "Active",
    "Box",
    "BoxPx",
    "BridgeBeat",
    "CameraDocument",
    "CameraHealth",
    "CameraModel",
    "CameraOwner",
    "CameraState",
    "ClipEvent",
    "Command",
    "CommandValue",
    "Detection",
    "Detections",
    "Escalation",
    "Evidence",
    "FoundPeople",
    "FoundPerson",
    "FrameMeta",
    "KeptObject",
    "Message",
    "Mode",
    "ModelFile",
    "ModelInput",
    "ModelManifest",
    "ModelRef",
    "MotionEvent",
    "MotionHour",
    "MotionTrend",
    "NodeHealth",
    "NodeStatus",
    "OpenEvents",
    "OpenTrack",
    "PathPoint",
    "Probe",
    "Receipt",
    "Receipts",
    "Reject",
    "Reply",
    "RuleMemory",
    "ScoredCamera",
    "TrackEvent",
    "WorkerBeat",
    "WorkerStatus",
    "decode_json",
    "encode_json",
]
