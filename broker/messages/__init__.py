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
    CameraCheck,
    CameraDocument,
    CameraModel,
    CameraState,
    ClipEvent,
    Finding,
    FoundPeople,
    FoundPerson,
    FrameMeta,
    MotionEvent,
    MotionHour,
    MotionTrend,
    RegistryIndex,
)
from broker.messages.models import ModelFile, ModelInput, ModelManifest, ModelRef
from broker.messages.nodes import (
    EdgeBeat,
    Hardware,
    NodeDocument,
    NodeProblem,
    NodeReport,
    RoleReport,
    UpdateReport,
    UpdateState,
)
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
    "CameraCheck",
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
    "EdgeBeat",
    "Escalation",
    "Evidence",
    "Finding",
    "FoundPeople",
    "FoundPerson",
    "FrameMeta",
    "Hardware",
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
    "NodeDocument",
    "NodeHealth",
    "NodeProblem",
    "NodeReport",
    "NodeStatus",
    "OpenEvents",
    "OpenTrack",
    "PathPoint",
    "Probe",
    "Receipt",
    "Receipts",
    "RegistryIndex",
    "Reject",
    "Reply",
    "RoleReport",
    "RuleMemory",
    "ScoredCamera",
    "TrackEvent",
    "UpdateReport",
    "UpdateState",
    "WorkerBeat",
    "WorkerStatus",
    "decode_json",
    "encode_json",
]
