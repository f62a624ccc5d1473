"""From a firing to an escalation that is on disk, in order, with its picture."""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass

import msgspec

from broker import Bus, Frame, Topic, encode_frame
from broker.messages import Escalation, Evidence, FrameMeta, ModelRef, encode_json
from broker.references import clip_reference
from broker.topics import CAMERA_ESCALATION, CAMERA_EVIDENCE
from config import BacklogFullError, BadPayloadError, Clock, TransientError, get_logger
from detector.evidence import annotate, encode_within
from detector.pictures import Picture, read_picture
from detector.scene import Firing

__all__ = ["Escalator"]

_FIELDS_BYTES = 1024
"""What an escalation holds in the end besides this and the picture's Base64: its id, its clip, the picture's fields."""
_EVIDENCE_BYTES_MIN = 2_000
"""In less than this, nothing can be recognised."""
_HELD_MAX = 64
"""Escalations in memory while the outbox takes none: 10 MB with their pictures."""


@dataclass(frozen=True, slots=True)
class _Raised:
    """An escalation that has no identity yet, since the outbox gives it when it takes it."""

    escalation: Escalation
    meta: FrameMeta

    def build(self, event_id: str) -> Escalation:
        """With its identity, and with the place where its clip will be when the camera's node records."""
        raised, clip = self.escalation, ""
        if self.meta.recorded:
            clip = clip_reference(raised.camera, raised.captured_at, event_id)
        return msgspec.structs.replace(raised, id=event_id, clip=clip)


class Escalator:
    """Raises escalations, and holds them back in order while the outbox is full or its disk is.

    Concurrency: everything is called from the thread that publishes; `held` and `raised` may be read from any.

    Args:
        bus: with an outbox.
        evidence_bytes_max: the largest picture inside an escalation.
        clock: time.
        held_max: escalations that are held back before `full`.
    """

    def __init__(self, bus: Bus, *, evidence_bytes_max: int, clock: Clock, held_max: int = _HELD_MAX) -> None:
        self._bus = bus
        self._evidence_bytes_max = evidence_bytes_max
        self._clock = clock
        self._held_max = held_max
        self._held: deque[_Raised] = deque()
        self._unshown: deque[_Raised] = deque(maxlen=held_max)
        self._log = get_logger(origin=bus.origin)
        self.raised = 0

    @property
    def held(self) -> int:
        """Escalations that wait for room in the outbox."""
        return len(self._held)

    @property
    def full(self) -> bool:
        """Whether no more can be held: ask no rule now, so that it fires later instead of in vain."""
        return len(self._held) >= self._held_max

    def escalate(self, firing: Firing, frame: Frame, model: ModelRef, *, picture: Picture | None = None) -> None:
        """Raise one escalation: on disk when this returns, or held back and counted.

        Args:
            firing: what the rule says.
            frame: the one that made it fire; only now is its picture needed at its own size.
            model: which one made the scores.
            picture: of that frame, where it was decoded at its own size already.
        """
        meta = frame.meta
        zones = {zone: None for track in firing.tracks for zone in track.zones}
        escalation = Escalation(
            id="",
            camera=firing.camera,
            rule=firing.rule,
            kind=firing.settings.kind,
            severity=firing.settings.severity,
            summary=firing.summary,
            label=firing.settings.label,
            score=max((track.score for track in firing.tracks), default=1.0),
            captured_at=meta.captured_at,
            raised_at=self._clock.now(),
            frame_seq=meta.seq,
            worker=self._bus.origin,
            model=model,
            detections=firing.detections,
            tracks=tuple(track.track_id for track in firing.tracks),
            zones=tuple(zones),
        )
        evidence = self._evidence(escalation, frame, picture)
        self._held.append(_Raised(msgspec.structs.replace(escalation, evidence=evidence), meta))
        self.flush()

    def _evidence(self, escalation: Escalation, frame: Frame, picture: Picture | None) -> tuple[Evidence, ...]:
        """The annotated picture, as large as the way to the broker allows; none where that is next to nothing."""
        room = self._bus.payload_bytes_max(self._topic(escalation)) - len(encode_json(escalation)) - _FIELDS_BYTES
        bytes_max = min(self._evidence_bytes_max, room * 3 // 4)
        if bytes_max < _EVIDENCE_BYTES_MIN:
            self._log.warning("evidence.refused", camera=escalation.camera, error=f"there is room for {room} bytes")
            return ()
        try:
            picture = read_picture(frame) if picture is None else picture
        except BadPayloadError as error:
            self._log.warning("evidence.refused", camera=escalation.camera, error=error.reason)
            return ()
        shown = annotate(picture, escalation.detections, camera=escalation.camera, captured_at=escalation.captured_at)
        jpeg, width, height = encode_within(shown, bytes_max)
        sha256 = hashlib.sha256(jpeg).hexdigest()
        return (Evidence(content_type="image/jpeg", sha256=sha256, width=width, height=height, data=jpeg),)

    def _topic(self, escalation: Escalation) -> Topic:
        return CAMERA_ESCALATION.at(self._bus.site, camera=escalation.camera, origin=self._bus.origin)

    def flush(self) -> None:
        """Hand over what is held back, oldest first, as far as the outbox takes it."""
        while self._held:
            raised = self._held[0]
            camera = raised.escalation.camera
            try:
                event_id = self._publish(raised)
            except (BacklogFullError, BadPayloadError, TransientError) as error:
                self._log.error("escalation.held", held=len(self._held), held_max=self._held_max, error=str(error))
                return
            self._held.popleft()
            self.raised += 1
            self._log.info("escalation.raised", camera=camera, event_id=event_id, rule=raised.escalation.rule)
            self._unshown.append(raised)
            self._trace(raised.escalation, event_id)

    def _trace(self, raised: Escalation, event_id: str) -> None:
        tracer = self._bus.tracer
        if tracer.on:
            tracer.note(
                "escalate",
                raised.camera,
                raised.captured_at,
                started_at=raised.raised_at,
                of=event_id,
                parent=("score", self._bus.origin),
                keep=True,
                attributes={"vigil.event_id": event_id, "vigil.rule": raised.rule, "vigil.severity": raised.severity},
            )

    def show(self) -> None:
        """Keep the pictures of what was raised at the broker.

        Not with the raising: until others know of it, a worker that is killed may raise it again elsewhere.
        """
        while self._unshown:
            self._show(self._unshown.popleft())

    def _publish(self, raised: _Raised) -> str:
        topic = self._topic(raised.escalation)
        try:
            return self._bus.publish_event(topic, raised.build)
        except BadPayloadError as error:
            # It was made for a broker that took more. Without its picture it is small.
            self._log.warning("evidence.refused", camera=raised.escalation.camera, error=error.reason)
            bare = msgspec.structs.replace(raised.escalation, evidence=())
            return self._bus.publish_event(topic, _Raised(bare, raised.meta).build)

    def _show(self, raised: _Raised) -> None:
        """The escalation has its own picture, so that a refusal loses nothing."""
        for evidence in raised.escalation.evidence:
            meta = msgspec.structs.replace(raised.meta, width=evidence.width, height=evidence.height)
            try:
                self._bus.publish(
                    CAMERA_EVIDENCE.at(self._bus.site, camera=meta.camera), encode_frame(evidence.data, meta)
                )
            except BadPayloadError as error:
                self._log.warning("evidence.refused", camera=meta.camera, error=error.reason)

    def close(self) -> None:
        """Try a last time, and say what would not go."""
        self.flush()
        self.show()
        if self._held:
            self._log.error("escalation.lost", lost=len(self._held), reason="the outbox took nothing until the end")
