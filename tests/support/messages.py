"""Messages as a test needs them: complete, with only the interesting field given."""

from __future__ import annotations

import hashlib
import io
from datetime import UTC, datetime
from typing import TypeVar

import msgspec
from PIL import Image

from broker.messages import CameraState, ClipEvent, Escalation, FrameMeta, MotionEvent, Receipt, Receipts, TrackEvent

__all__ = ["AT", "camera_state", "clip", "escalation", "frame_meta", "jpeg", "motion", "receipt", "track"]

M = TypeVar("M", bound=msgspec.Struct)
AT = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


def _with(message: M, changes: dict[str, object]) -> M:
    return msgspec.structs.replace(message, **changes)


def camera_state(camera: str = "yard", **changes: object) -> CameraState:
    """An online camera."""
    return _with(CameraState(camera=camera, state="online", node="node-1", at=AT), changes)


def frame_meta(camera: str = "yard", seq: int = 1, **changes: object) -> FrameMeta:
    """Metadata of a 64 x 48 frame."""
    return _with(FrameMeta(camera=camera, node="node-1", seq=seq, captured_at=AT, width=64, height=48), changes)


def motion(event_id: str, camera: str = "yard", **changes: object) -> MotionEvent:
    """The start of a movement."""
    message = MotionEvent(id=event_id, motion_id="m-1", camera=camera, type="start", started_at=AT, at=AT)
    return _with(message, changes)


def escalation(event_id: str, camera: str = "yard", **changes: object) -> Escalation:
    """Somebody is there."""
    message = Escalation(
        id=event_id,
        camera=camera,
        rule="presence",
        kind="presence",
        severity="warning",
        summary=f"person at {camera}",
        label="person",
        score=0.9,
        captured_at=AT,
        raised_at=AT,
        frame_seq=7,
        worker="node-1.detector",
    )
    return _with(message, changes)


def track(event_id: str, camera: str = "yard", **changes: object) -> TrackEvent:
    """The start of a track."""
    message = TrackEvent(
        id=event_id,
        track_id="t-1",
        camera=camera,
        type="start",
        label="person",
        started_at=AT,
        at=AT,
        score=0.8,
        box=(0.1, 0.1, 0.2, 0.4),
    )
    return _with(message, changes)


def clip(event_id: str, camera: str = "yard", **changes: object) -> ClipEvent:
    """A clip that was asked for and delivered."""
    message = ClipEvent(
        id=event_id,
        camera=camera,
        reason="request",
        about="r-1",
        at=AT,
        starts_at=AT,
        ends_at=AT,
        uri="clips/yard/r-1.mp4",
    )
    return _with(message, changes)


def receipt(event_id: str, payload: bytes = b"", **changes: object) -> Receipts:
    """A sink has a message with this payload."""
    only = Receipt(
        event_id=event_id,
        sha256=hashlib.sha256(payload).hexdigest(),
        sink="journal",
        location="journal/escalation/1",
        stored_at=AT,
    )
    return Receipts(receipts=(msgspec.structs.replace(only, **changes),))


def jpeg(width: int = 64, height: int = 48, colour: tuple[int, int, int] = (90, 120, 60)) -> bytes:
    """A small real JPEG."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
