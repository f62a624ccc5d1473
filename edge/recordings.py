"""The node's footage, opened when the first camera is to be recorded: most nodes never need it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from broker import Bus, Figures
from broker.messages import ClipEvent
from broker.topics import CAMERA_CLIP
from config import Clock
from config.cameras import FootageSettings, RecordingSettings

if TYPE_CHECKING:
    from edge.footage import CameraRecorder, Footage

__all__ = ["Recordings"]


class Recordings:
    """Opens the footage once, and makes recorders.

    Concurrency: one thread; `figures` may be called from any.

    Args:
        folder: where footage lies.
        settings: of the node.
        bus: with an outbox, for what becomes of clips.
        clock: time.
    """

    def __init__(self, folder: Path, settings: FootageSettings, *, bus: Bus, clock: Clock) -> None:
        self._folder = folder
        self._settings = settings
        self._bus = bus
        self._clock = clock
        self._footage: Footage | None = None

    def open(self) -> Footage:
        """The footage.

        Raises:
            ConfigError: `edge.footage.deliver_to` is no place for clips.
            PermanentError: the folder may not be used.
            TransientError: the disk is full or fails.
        """
        if self._footage is None:
            from edge.footage import Footage

            footage = Footage(self._folder, self._settings, publish=self._publish, clock=self._clock)
            footage.start()
            self._footage = footage
        return self._footage

    def camera(self, name: str, settings: RecordingSettings, *, masked: bool) -> CameraRecorder:
        """A camera's recorder; raises as `open` does."""
        return self.open().camera(name, settings, masked=masked)

    def close(self) -> None:
        """End; close the recorders first."""
        if self._footage is not None:
            self._footage.close()

    def figures(self) -> Figures:
        """What this adds to the process's health."""
        if self._footage is None:
            return Figures()
        figures = self._footage.figures()
        return Figures(
            queues={"clips_owed": figures.clips_owed},
            drops={"packets_unrecorded": figures.packets_dropped, "clips_failed": figures.clips_failed},
            counts={
                "segments": figures.segments,
                "segments_deleted": figures.deleted,
                "recorded_bytes": figures.recorded_bytes,
                "recording_failures": figures.failures,
                "clips_delivered": figures.clips_delivered,
            },
        )

    def _publish(self, clip: ClipEvent) -> ClipEvent:
        topic = CAMERA_CLIP.at(self._bus.site, camera=clip.camera)
        event_id = self._bus.publish_event(topic, lambda event_id: msgspec.structs.replace(clip, id=event_id))
        return msgspec.structs.replace(clip, id=event_id)
