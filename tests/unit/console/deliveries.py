"""Deliveries as a bus hands them over, made by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from broker import Delivery, Frame, Topic, encode_frame
from broker.messages import (
    Box,
    Detection,
    Detections,
    Message,
    ModelRef,
    NodeHealth,
    NodeStatus,
    Reject,
    encode_json,
)
from broker.topics import (
    CAMERA_DETECTIONS,
    CAMERA_ESCALATION,
    CAMERA_FRAME,
    CAMERA_MOTION_ACTIVE,
    NODE_HEALTH,
    NODE_STATUS,
    RECEIPT,
    REJECT,
)
from tests.support.messages import AT, escalation, frame_meta, jpeg
from tests.support.messages import receipt as receipt_of

__all__ = [
    "delivery",
    "detections",
    "escalated",
    "frame",
    "health",
    "motion_active",
    "receipt",
    "reject",
    "status",
]

ORIGIN = "node-1.detector"
_BOX: Box = (0.1, 0.1, 0.4, 0.9)


def delivery(topic: Topic, content: Message | Frame | str | None, *, retained: bool = False) -> Delivery:
    if isinstance(content, Frame):
        payload = content.jpeg
    elif content is None:
        payload = b""
    else:
        payload = content.encode() if isinstance(content, str) else encode_json(content)
    return Delivery(topic, content, payload, retained, datetime(2026, 1, 1, 12, 0, 1, tzinfo=UTC), lambda: None)


def frame(camera: str = "yard", seq: int = 1, *, claims: str | None = None) -> Delivery:
    meta = frame_meta(claims or camera, seq)
    return delivery(CAMERA_FRAME.at("home", camera=camera), Frame(meta, encode_frame(jpeg(), meta)))


def detections(camera: str = "yard", seq: int = 1, latency_ms: float = 80.0) -> Delivery:
    found = Detection(label="person", score=0.87, box=_BOX, box_px=(6.4, 4.8, 25.6, 43.2))
    message = Detections(
        camera=camera,
        frame_seq=seq,
        worker=ORIGIN,
        model=ModelRef(name="hog", sha256="0" * 64),
        width=64,
        height=48,
        captured_at=AT,
        received_at=AT,
        infer_started_at=AT,
        infer_ms=34.0,
        batch=1,
        published_at=AT + timedelta(milliseconds=latency_ms),
        detections=(found, found),
    )
    return delivery(CAMERA_DETECTIONS.at("home", camera=camera), message)


def escalated(number: int = 1, camera: str = "yard", **changes: object) -> Delivery:
    topic = CAMERA_ESCALATION.at("home", camera=camera, origin=ORIGIN)
    return delivery(topic, escalation(f"{ORIGIN}:abcd:{number}", camera, **changes))


def receipt(number: int = 1) -> Delivery:
    message = receipt_of(f"{ORIGIN}:abcd:{number}", location=f"journal/{number}", latency_ms=2.5)
    return delivery(RECEIPT.at("home", origin=ORIGIN), message)


def motion_active(active: str = "ON", camera: str = "yard") -> Delivery:
    return delivery(CAMERA_MOTION_ACTIVE.at("home", camera=camera), active)


def status(role: str = "detector", state: str = "online") -> Delivery:
    assert state in {"online", "offline"}
    message = NodeStatus(
        node="node-1", role=role, state="online" if state == "online" else "offline", at=AT, started_at=AT
    )
    return delivery(NODE_STATUS.at("home", node="node-1", role=role), message)


def health(role: str = "detector", *, uptime_s: float = 10.0, **drops: int) -> Delivery:
    message = NodeHealth(
        node="node-1",
        role=role,
        at=AT,
        uptime_s=uptime_s,
        cpu_percent=12.0,
        memory_bytes=80_000_000,
        disk_free_bytes=1,
        drops=drops,
    )
    return delivery(NODE_HEALTH.at("home", node="node-1", role=role), message)


def reject(count: int, origin: str = ORIGIN) -> Delivery:
    message = Reject(topic="vigil/v1/home/x", reason="not JSON", size_bytes=3, count=count, at=AT)
    return delivery(REJECT.at("home", origin=origin), message)
