"""The pictures that one camera sends: frames, and retained snapshots."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from broker import Bus, Distribution, Topic, encode_frame, metadata_bytes
from broker.messages import Evidence, FrameMeta, Mode
from broker.topics import CAMERA_EVIDENCE, CAMERA_FRAME, CAMERA_SNAPSHOT
from config import BadPayloadError, Clock, get_logger
from edge.fit import Fitted, PictureFit
from edge.motion.detector import BoxXyxy
from edge.privacy import ShownFrame
from edge.reports import rounded

__all__ = ["FrameSender", "Sight"]

_EVIDENCE_HEIGHT_PX = 480
"""Of the picture of a fake alarm: enough to see on a telephone which camera it is."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What a node knows of a picture besides the picture.

    Attributes:
        seq: its number since the node started.
        mode: how the camera is watched.
        moving: whether something moves,
        boxes: and where.
        detect: whether workers should score it.
        recorded: whether there will be a clip of this moment.
        clock_synchronised: whether the node's clock is right, as far as it knows.
    """

    seq: int
    mode: Mode
    moving: bool
    boxes: Sequence[BoxXyxy]
    detect: bool
    recorded: bool
    clock_synchronised: bool


class FrameSender:
    """Sends a camera's pictures, as good as the way to the broker allows.

    Concurrency: `hide` may be called from any thread; when it returns, nothing is sent any more. The others belong to
    the camera's thread.

    Args:
        bus: where to.
        camera: the camera's name.
        node: this machine's name.
        quality: wanted JPEG quality, 1 to 100.
        age_max_s: seconds after which a frame is worth nothing to anybody.
        clock: time.

    Attributes:
        sent: frames handed to the bus.
        reduced: of these, those that were made smaller to fit.
        unsent: wanted frames that found no connection, or were too large.
        published: how long after its capture each frame was handed to the bus.
    """

    def __init__(self, bus: Bus, camera: str, *, node: str, quality: int, age_max_s: float, clock: Clock) -> None:
        self._bus = bus
        self._camera = camera
        self._node = node
        self._lifetime = timedelta(seconds=age_max_s)
        self._clock = clock
        self._frames = CAMERA_FRAME.at(bus.site, camera=camera)
        self._snapshots = CAMERA_SNAPSHOT.at(bus.site, camera=camera)
        self._evidence = CAMERA_EVIDENCE.at(bus.site, camera=camera)
        self._log = get_logger(camera=camera)
        self._lock = threading.Lock()
        self._hidden = False
        self._quality = quality
        self._fit = PictureFit(quality)
        self.sent = 0
        self.reduced = 0
        self.unsent = 0
        self.published = Distribution()

    def change_quality(self, quality: int) -> None:
        """From now on wish for another JPEG quality."""
        if quality != self._quality:
            self._quality, self._fit = quality, PictureFit(quality)

    def hide(self) -> None:
        """Send no picture, and take the retained one back."""
        with self._lock:
            self._hidden = True
            self._bus.publish(self._snapshots, b"")

    def show(self) -> None:
        """Send pictures again."""
        with self._lock:
            self._hidden = False

    def disown(self) -> None:
        """Leave what is kept at the broker to whoever watches the camera from now on."""
        self._bus.disown(self._snapshots)
        self._bus.disown(self._evidence)

    def frame(self, frame: ShownFrame, sight: Sight, *, height_px: int) -> str | None:
        """Send a frame, smaller than wanted where the way to the broker takes no more.

        Returns:
            Why it could not be sent, when a person should hear of it.

        Raises:
            TransientError: it could not be encoded, or is not to be seen.
        """
        if not self._bus.wants(
            self._frames
        ):  # it would be dropped: encoding is the dearest thing that this thread does
            self.unsent += 1
            return None
        trouble = self._send(self._frames, frame, sight, height_px)
        if trouble is None:
            self.sent += 1
            self.reduced += self._fit.reduced
            self._note_sent(frame.captured_at, sight.seq)
            return None
        self.unsent += 1
        self._log.warning("camera.frame_refused", error=trouble)
        return f"a frame was not sent: {trouble}"

    def _note_sent(self, captured_at: datetime, seq: int) -> None:
        sent_at = self._clock.now()
        self.published.note((sent_at - captured_at).total_seconds())
        tracer = self._bus.tracer
        if tracer.on:
            tracer.note(
                "capture",
                self._camera,
                captured_at,
                started_at=captured_at,
                ended_at=sent_at,
                attributes={"vigil.frame_seq": seq},
            )

    def snapshot(self, frame: ShownFrame, sight: Sight, *, height_px: int) -> str | None:
        """Leave a picture at the broker; returns why that is impossible.

        Raises:
            TransientError: it could not be encoded, or is not to be seen.
        """
        return self._send(self._snapshots, frame, sight, height_px)

    def evidence(self, frame: ShownFrame, sight: Sight, *, bytes_max: int) -> Evidence | None:
        """A picture for an alarm, also left at the broker as that of the last one; None where there is none to be seen.

        Raises:
            TransientError: it could not be encoded, or is not to be seen.
        """
        meta = self._meta(frame, sight)
        bytes_max = min(bytes_max, self._bus.payload_bytes_max(self._evidence)) - metadata_bytes(meta)
        fitted = PictureFit(self._quality).encode(frame, bytes_max, height_px=_EVIDENCE_HEIGHT_PX)
        if fitted is None or self._publish(self._evidence, fitted, meta) is not None:
            return None
        return Evidence(
            content_type="image/jpeg",
            sha256=hashlib.sha256(fitted.jpeg).hexdigest(),
            width=fitted.width_px,
            height=fitted.height_px,
            data=fitted.jpeg,
        )

    def _meta(self, frame: ShownFrame, sight: Sight) -> FrameMeta:
        return FrameMeta(
            camera=self._camera,
            node=self._node,
            seq=sight.seq,
            captured_at=frame.captured_at,
            width=frame.width_px,
            height=frame.height_px,
            mode=sight.mode,
            moving=sight.moving,
            motion=rounded(sight.boxes),
            people=frame.people(),
            detect=sight.detect,
            recorded=sight.recorded,
            clock_synchronised=sight.clock_synchronised,
        )

    def _send(self, topic: Topic, frame: ShownFrame, sight: Sight, height_px: int) -> str | None:
        meta = self._meta(frame, sight)
        if topic is self._frames:
            meta = msgspec.structs.replace(meta, expires_at=frame.captured_at + self._lifetime)
        bytes_max = self._bus.payload_bytes_max(topic)
        fitted = self._fit.encode(frame, bytes_max - metadata_bytes(meta), height_px=height_px)
        if fitted is None:
            return (
                f"not even the smallest picture fits into the {bytes_max} bytes that may be sent: raise "
                "bus.frame_bytes_max, or the broker's packet limit (Mosquitto: max_packet_size)"
            )
        return self._publish(topic, fitted, meta)

    def _publish(self, topic: Topic, fitted: Fitted, meta: FrameMeta) -> str | None:
        """Publish a picture, unless there is none to be seen any more; returns why not."""
        meta = msgspec.structs.replace(meta, width=fitted.width_px, height=fitted.height_px)
        try:
            with self._lock:
                if self._hidden:
                    return "privacy is on: no picture leaves this node"
                self._bus.publish(topic, encode_frame(fitted.jpeg, meta))
        except BadPayloadError as error:
            return error.reason
        return None
