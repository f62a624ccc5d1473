"""What was seen in a picture, drawn over it, and said in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from config.cameras import Zone
from detector.drawing import Drawing
from detector.offline import Looked
from detector.pictures import Picture
from detector.scene import Firing

__all__ = ["draw", "moment_words", "say_firing", "say_found", "to_json"]

_WAY_S = 10.0
"""How much of an object's way is drawn: of a whole video it would hide what it is about."""


def draw(
    picture: Picture, looked: Looked, zones: Mapping[str, Zone], *, caption: str, alarms: Sequence[Firing] = ()
) -> Picture:
    """Draw zones, parts that were looked at more closely, ways and boxes.

    Args:
        picture: uint8 [h, w, 3], blue-green-red; stays as it is.
        looked: what was seen in it.
        zones: of the camera.
        caption: at the bottom right.
        alarms: what to write at the top.

    Returns:
        A new picture, its longer side 1280 pixels.
    """
    drawing = Drawing(picture, large=True)
    for name, zone in zones.items():
        drawing.area(name, zone.points, left_out=zone.kind == "exclude")
    for part in looked.parts:
        drawing.looked_at(part)
    for track in looked.tracks:
        drawing.way(f"#{track.track_id}", [step.foot for step in track.path if track.seen_s - step.at_s <= _WAY_S])
    drawing.detections(looked.detections, [f"#{one.track_id}" if one.track_id else "" for one in looked.detections])
    drawing.alarms([f"{firing.rule}: {firing.summary}" for firing in alarms])
    drawing.caption(looked.meta.camera, caption)
    return drawing.pixels


def moment_words(at_s: float) -> str:
    """A moment of a video: ``1:02:03.4``."""
    minutes, seconds = divmod(at_s, 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02}:{seconds:04.1f}"


def say_found(looked: Looked) -> list[str]:
    """One line for each thing that was found in a picture, and one for all."""
    lines = [
        f"  {one.label:<16} {one.score:.2f}   from {one.box_px[0]:.0f},{one.box_px[1]:.0f} "
        f"to {one.box_px[2]:.0f},{one.box_px[3]:.0f}"
        for one in looked.detections
    ]
    counted = Counter(one.label for one in looked.detections)
    told = ", ".join(f"{count} {label}" for label, count in counted.most_common()) or "nothing"
    return [*lines, f"found {told}; {len(looked.parts)} parts looked at more closely"]


def say_firing(firing: Firing, at_s: float) -> str:
    """When a rule fired, which, and why."""
    return f"  {moment_words(at_s)}  {firing.rule} ({firing.settings.severity}): {firing.summary}"


def to_json(found: Any) -> str:  # noqa: ANN401 - whatever is made of the contract's own parts
    """One line of JSON."""
    return msgspec.json.encode(found).decode()
