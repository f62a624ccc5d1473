"""The settings of one camera: its source, when it looks and how, what stays private, what is recorded."""

from __future__ import annotations

from datetime import time
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from config.names import Name
from config.rules import Rule
from config.section import DAYS, Day, Fraction, Polygon, Section

__all__ = [
    "CameraSettings",
    "CommandedMode",
    "FootageSettings",
    "MotionSettings",
    "PrivacyMask",
    "PrivacySettings",
    "RecordingSettings",
    "ScheduleEntry",
    "Zone",
]

CommandedMode = Literal["monitor", "zoom", "eco", "off"]
"""``monitor`` looks at everything; ``zoom`` too, and sends more and larger pictures while somebody watches; ``eco``
decodes keyframes only until something moves; ``off`` does not touch the camera."""


class ScheduleEntry(Section):
    """A mode for some hours of some days, on the node's local clock."""

    mode: Literal["monitor", "eco", "off"]
    """The mode in these hours."""
    start: time
    """When they begin, ``"22:00"``."""
    end: time
    """When they end; before `start` it is on the next day."""
    days: Annotated[tuple[Day, ...], Field(min_length=1)] = DAYS
    """Days on which they begin."""


class MotionSettings(Section):
    """What counts as movement."""

    sensitivity: Fraction = 0.5
    """How little movement is motion; 0 the least sensitive, 1 the most."""
    hold_s: float = Field(default=3.0, ge=0.2, le=600)
    """Seconds without movement after which a motion event ends."""
    min_size: Fraction = 0.0
    """The least part of the picture's area that something must cover; 0 lets the sensitivity decide."""
    still_s: float = Field(default=10.0, ge=0.5, le=3600)
    """Seconds after which something that stays where it is belongs to the background."""
    steady: bool = True
    """Follow a camera that shakes in the wind."""
    masks: dict[Name, Polygon] = {}
    """Areas in which movement does not count: a street behind the fence, a tree."""
    zones: dict[Name, Polygon] = {}
    """Where given, only movement inside one of them counts, and events name them."""


class PrivacyMask(Section):
    """An area that nobody is to see."""

    points: Polygon
    """Its corners, ``[x, y]`` as fractions of the picture's width and height."""
    style: Literal["black", "pixels", "blur"] = "black"
    """What is there instead: nothing, coarse blocks, or a blur of the same coarseness."""


class PrivacySettings(Section):
    """What never leaves the node."""

    enabled: bool = False
    """Show no picture at all: no frames, snapshots, clips or recordings. Motion is still told."""
    masks: dict[Name, PrivacyMask] = {}
    """Areas hidden in every picture, also in recordings."""
    blur: Literal["none", "people"] = "none"
    """Blur people in every picture that is sent, with the model of this node (`edge.detector`); what is recorded then
    is recorded with the same blur."""


class RecordingSettings(Section):
    """What is kept on the node."""

    mode: Literal["off", "motion", "continuous"] = "off"
    """``continuous`` keeps everything, ``motion`` what moves with `pre_s` before and `post_s` after."""
    segment_s: float = Field(default=300.0, ge=2, le=3600)
    """Length of a file; it is cut at the next keyframe."""
    keep_hours: float = Field(default=24.0, gt=0, le=24 * 366)
    """Hours after which it is deleted,"""
    keep_bytes: int = Field(default=20_000_000_000, ge=1_000_000)
    """or when the camera's files need more than this, the oldest first."""
    protect_hours: float = Field(default=24.0 * 7, ge=0, le=24 * 366)
    """Hours for which what belongs to an event or escalation is kept instead."""
    pre_s: float = Field(default=5.0, ge=0, le=120)
    """Seconds of a clip before its event,"""
    post_s: float = Field(default=10.0, ge=0, le=600)
    """and after it."""
    clips: tuple[Literal["escalation", "motion"], ...] = ("escalation",)
    """Of what a clip is cut by itself and delivered."""


class Zone(Section):
    """An area of the picture that means something: a bed, the drive, the neighbour's garden."""

    points: Polygon
    """Its corners, ``[x, y]`` as fractions of the picture's width and height. An object is where its foot is: the
    middle of its box's lower edge."""
    kind: Literal["include", "exclude"] = "include"
    """``include``: rules and events name it. ``exclude``: what stands in it is left out altogether."""
    labels: tuple[str, ...] = ()
    """The labels it is for; empty means all."""


class CameraSettings(Section):
    """One camera."""

    source: str = Field(default="synthetic:street", min_length=3)
    """``rtsp://…``, ``rtsps://…``, ``http(s)://…`` (MJPEG, HLS), ``v4l2:/dev/video0``, ``libcamera:``, ``file:PATH`` or
    ``synthetic:street?seed=1``."""
    sub_source: str | None = Field(default=None, min_length=3)
    """A smaller stream of the same camera to look at; `source` is then only recorded."""
    decoder: str = Field(default="auto", pattern=r"^[a-z0-9-]{1,40}$")
    """``auto``, ``software``, or the GStreamer element that decodes, such as ``v4l2h264dec``."""
    mode: Literal["monitor", "eco", "off"] = "monitor"
    """The mode, where neither the schedule nor a command says otherwise."""
    schedule: tuple[ScheduleEntry, ...] = ()
    """Other modes at other hours; the first that fits holds."""
    idle_fps: float = Field(default=1.0, gt=0, le=60)
    """Frames a second that are sent while nothing moves."""
    motion_fps: float = Field(default=5.0, gt=0, le=60)
    """Frames a second that are sent while something moves."""
    zoom_fps: float = Field(default=10.0, gt=0, le=60)
    """Frames a second that are sent while somebody zooms."""
    frame_height_px: int = Field(default=720, ge=96, le=4320)
    """Height of the frames that are sent; a lower picture keeps its size."""
    zoom_height_px: int = Field(default=1080, ge=96, le=4320)
    """The same while somebody zooms."""
    jpeg_quality: int = Field(default=80, ge=10, le=100)
    """JPEG quality of the frames."""
    snapshot_every_s: float | None = Field(default=None, ge=1, le=86_400)
    """Seconds between retained snapshots; empty: on request only."""
    detection: bool = True
    """Whether workers score its frames."""
    worker: Name | None = None
    """The class of worker (`detector.classes`) that scores it; empty means any."""
    labels: tuple[str, ...] = ()
    """The labels that are looked for: only workers whose model knows them all score it, and other labels are left out.
    Empty means every label of whichever model."""
    zones: dict[Name, Zone] = {}
    """Areas of its picture, for events and rules."""
    rules: dict[Name, Rule] = {}
    """Rules of this camera alone, by name: beside those of `detector.rules`, and in place of one of the same name."""
    motion: MotionSettings = MotionSettings()
    """What counts as movement."""
    privacy: PrivacySettings = PrivacySettings()
    """What never leaves the node."""
    recording: RecordingSettings = RecordingSettings()
    """What is kept on the node."""

    @model_validator(mode="after")
    def _rules_are_its_own(self) -> Self:
        for name, rule in self.rules.items():
            if rule.cameras:
                raise ValueError(f"rules.{name}: leave `cameras` out: a camera's own rule watches that camera alone")
        return self

    @model_validator(mode="after")
    def _zooms_in(self) -> Self:
        if self.zoom_height_px < self.frame_height_px:
            raise ValueError(
                f"zoom_height_px {self.zoom_height_px} is less than frame_height_px {self.frame_height_px}: "
                "raise the one or lower the other"
            )
        return self


class FootageSettings(Section):
    """Recordings of this node."""

    folder: Path | None = None
    """Where they are; default ``footage`` in the state folder."""
    ram_bytes: int = Field(default=0, ge=0)
    """Keep so much of what is recorded in memory before it goes to the card, in fewer and larger writes; 0: none."""
    disk_free_min_bytes: int = Field(default=500_000_000, ge=0)
    """Recording stops, and the oldest files go, before less than this is free on the disk."""
    deliver_to: str | None = Field(default=None, min_length=1)
    """Where clips go: a folder, or an object store such as ``s3://BUCKET/PATH``; empty: ``clips`` beside the
    recordings."""
    deliver_bytes_per_s: int = Field(default=1_000_000, ge=10_000)
    """How fast clips are delivered at most."""
