"""The ways in which networks write down what they found, one file a family, recognised by what a network shows.

Which it is, the first of these that tells:

1. what somebody states (`detector.layout`, or the manifest of a model);
2. what the file says of itself: one that was made to segment, or for poses, is refused; one that calls itself an
   RT-DETR is one;
3. the shapes, types and names of its outputs;
4. where several layouts have these shapes, the one with as many classes as there are labels, or as COCO has where
   there are none; else the first of the table here.
"""

from __future__ import annotations

from dataclasses import replace

from config import ConfigError
from detector.layouts.classifier import ClassifierLayout
from detector.layouts.detr import DetrBoxesLayout, DetrLayout, DetrTableLayout, RfDetrLayout, RtDetrLayout
from detector.layouts.end_to_end import EfficientNmsLayout, EndToEndLayout
from detector.layouts.layout import Layout, Output, Seen, Shape
from detector.layouts.ssd import SsdLayout
from detector.layouts.yolov5 import Yolov5Layout
from detector.layouts.yolov8 import Yolov8Layout
from detector.layouts.yolox import YoloxLayout

__all__ = [
    "LAYOUTS",
    "ClassifierLayout",
    "DetrBoxesLayout",
    "DetrLayout",
    "DetrTableLayout",
    "EfficientNmsLayout",
    "EndToEndLayout",
    "Layout",
    "Output",
    "RfDetrLayout",
    "RtDetrLayout",
    "Seen",
    "Shape",
    "SsdLayout",
    "Yolov5Layout",
    "Yolov8Layout",
    "YoloxLayout",
    "recognise",
]

LAYOUTS: tuple[type[Layout], ...] = (
    YoloxLayout,
    Yolov5Layout,
    Yolov8Layout,
    EndToEndLayout,
    EfficientNmsLayout,
    SsdLayout,
    DetrTableLayout,
    DetrBoxesLayout,
    RtDetrLayout,
    RfDetrLayout,
    DetrLayout,
    ClassifierLayout,
)
"""All that are known, the likelier first where two have one shape."""
_UNREAD = frozenset({"segment", "semantic", "pose", "obb", "depth"})
"""Tasks of Ultralytics of which the outputs hold more than boxes, or none."""


def recognise(seen: Seen, *, model: str, stated: str = "") -> Layout:
    """Find the layout of a network.

    Args:
        seen: what it shows.
        model: what to call it in an error.
        stated: the name of the layout, where somebody knows; only that is then tried.

    Raises:
        ConfigError: no known layout is like this, or the stated one is not, or there is none of this name.
    """
    seen = replace(seen, stated=bool(stated))
    families = [known for known in LAYOUTS if stated in ("", known.NAME)]
    if not families:
        names = ", ".join(dict.fromkeys(known.NAME for known in LAYOUTS))
        raise ConfigError(f"there is no layout {stated!r}; known are {names}", field="detector.layout")
    if not stated and seen.facts.task in _UNREAD:
        raise ConfigError(
            f"{model} was made to {seen.facts.task} (its file says so), which Vigil does not read: export a model "
            "that detects or classifies",
            field="detector.model",
        )
    fitting = [layout for known in families if (layout := known.recognise(seen)) is not None]
    if fitting:
        return next((layout for layout in fitting if layout.classes and seen.expects(layout.classes)), fitting[0])
    raise ConfigError(_unknown(seen, families, model, stated), field="detector.model")


def _unknown(seen: Seen, families: list[type[Layout]], model: str, stated: str) -> str:
    shown = "; ".join(map(str, seen.outputs)) or "nothing"
    known = "; ".join(f"{family.NAME} {family.FORM}" for family in families)
    said = f" of the stated layout {stated}" if stated else ""
    return (
        f"{model} is not a model{said} that Vigil can read: for its input of {seen.width}x{seen.height} it gives "
        f"{shown}. Known is {known}. Export it as one of these, or leave `model` empty for the HOG people detector"
    )
