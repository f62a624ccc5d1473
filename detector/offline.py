"""A camera's whole way from its pictures to its firings, without a bus: what a worker does, on pictures from a file."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from broker.messages import Detection, FrameMeta
from config.cameras import CameraSettings
from config.settings import DetectorSettings
from detector.backends import Backend
from detector.decoding import to_detections
from detector.difference import Difference
from detector.pictures import Picture
from detector.reading import read_boxes
from detector.regions import Region, RegionPlanner
from detector.rules import open_rules, rules_of
from detector.scene import Box, Firing, Scene, Track
from detector.watching import CameraWatch, TrackChange
from detector.zones import ZoneMap

__all__ = ["Looked", "OfflineCamera"]


@dataclass(frozen=True, slots=True)
class Looked:
    """What was seen in one picture.

    Attributes:
        meta: of the picture, as a node would send it.
        detections: with the tracks they belong to.
        parts: what was looked at more closely, fractions of the picture.
        tracks: the objects that are there.
        changes: objects that begin, go on or end here.
        firings: what a person should know.
    """

    meta: FrameMeta
    detections: tuple[Detection, ...]
    parts: tuple[Box, ...] = ()
    tracks: tuple[Track, ...] = ()
    changes: tuple[TrackChange, ...] = ()
    firings: tuple[Firing, ...] = ()

    @property
    def scene(self) -> Scene:
        """What the rules have looked at."""
        meta = self.meta
        return Scene(
            camera=meta.camera,
            at_s=meta.captured_at.timestamp(),
            local=meta.captured_at.astimezone(),
            width_px=meta.width,
            height_px=meta.height,
            tracks=self.tracks,
            detections=self.detections,
        )


class OfflineCamera:
    """Looks at one picture after the other.

    Where something moves, which a camera's node tells a worker, is found by comparing pictures.

    Args:
        camera: its name.
        backend: the model.
        settings: of the worker.
        camera_settings: zones and labels.
    """

    def __init__(
        self, camera: str, backend: Backend, settings: DetectorSettings, camera_settings: CameraSettings
    ) -> None:
        numbers = itertools.count(1)
        self._camera = camera
        self._backend = backend
        self._settings = settings
        self._planner = RegionPlanner(settings.regions)
        rules = open_rules(rules_of(settings.rules, camera_settings), camera, ZoneMap(camera_settings.zones).names)
        self._watch = CameraWatch(camera, settings, camera_settings, rules, new_id=lambda: str(next(numbers)))
        self._difference = Difference()

    def glance(self, picture: Picture, at: datetime) -> Looked:
        """Look at a picture by itself, closely where the first look finds something.

        Args:
            picture: uint8 [h, w, 3], blue-green-red.
            at: when it was taken; aware.
        """
        meta = self._meta(picture, 0, at, ())
        first = self._find(picture, ())
        regions = self._plan(meta, [detection.box for detection in first])
        found = self._find(picture, regions) if regions else first
        return Looked(meta, self._watch.look(meta, found).detections, _parts(regions, picture))

    def look(self, picture: Picture, seq: int, at: datetime) -> Looked:
        """Look at the next picture of a video.

        Args:
            picture: uint8 [h, w, 3], blue-green-red.
            seq: its number.
            at: when it was taken; aware.
        """
        meta = self._meta(picture, seq, at, self._difference.boxes(picture))
        regions = self._plan(meta, meta.motion)
        look = self._watch.look(meta, self._find(picture, regions))
        return Looked(
            meta,
            look.detections,
            _parts(regions, picture),
            self._watch.tracks,
            look.changes,
            look.firings,
        )

    def end(self) -> tuple[TrackChange, ...]:
        """The video is over: the objects that were there end."""
        return self._watch.end()

    def _meta(self, picture: Picture, seq: int, at: datetime, motion: tuple[Box, ...]) -> FrameMeta:
        height, width = picture.shape[:2]
        return FrameMeta(
            camera=self._camera,
            node="offline",
            seq=seq,
            captured_at=at,
            width=width,
            height=height,
            moving=bool(motion),
            motion=motion,
        )

    def _plan(self, meta: FrameMeta, motion: Sequence[Box]) -> tuple[Region, ...]:
        return self._planner.plan(
            meta.captured_at.timestamp(),
            meta.width,
            meta.height,
            motion=motion,
            tracks=self._watch.tracks,
            input_px=self._backend.input_px,
            budget=self._settings.regions.per_frame_max,
        )

    def _find(self, picture: Picture, regions: Sequence[Region]) -> tuple[Detection, ...]:
        backend = self._backend
        prepared = [backend.prepare(one) for one in (picture, *(region.cut(picture) for region in regions))]
        outputs = backend.infer(prepared)
        height, width = picture.shape[:2]
        size_px = width, height
        nms_iou = self._settings.nms_iou
        found = read_boxes(backend, prepared, outputs, regions, decoded_px=size_px, frame_px=size_px, nms_iou=nms_iou)
        return to_detections(found, backend.labels, width, height)


def _parts(regions: Sequence[Region], picture: Picture) -> tuple[Box, ...]:
    height, width = picture.shape[:2]
    return tuple(
        (region.x / width, region.y / height, (region.x + region.width) / width, (region.y + region.height) / height)
        for region in regions
    )
