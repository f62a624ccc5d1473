"""From what a model says of a picture and its parts to boxes in the frame. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detector.backends import Backend, Prepared
from detector.decoding import Found, Outputs
from detector.merging import Region, merge

__all__ = ["read_boxes"]


def read_boxes(
    backend: Backend,
    prepared: Sequence[Prepared],
    outputs: Sequence[Outputs],
    regions: Sequence[Region],
    *,
    decoded_px: tuple[int, int],
    frame_px: tuple[int, int],
    nms_iou: float,
) -> Found:
    """Read a frame's outputs.

    Args:
        backend: the model.
        prepared: the whole, then each part.
        outputs: of each.
        regions: where the parts are, in pixels of the frame.
        decoded_px: width and height of the whole as it was decoded, which may be a fraction of the frame's.
        frame_px: width and height of the frame.
        nms_iou: boxes of one label that overlap more are one object.

    Returns:
        Boxes in pixels of the frame.
    """
    whole, *parts = (backend.decode(said, one) for said, one in zip(outputs, prepared, strict=True))
    if decoded_px != frame_px:
        scale = np.array([frame_px[0] / decoded_px[0], frame_px[1] / decoded_px[1]] * 2, np.float32)
        whole = Found(whole.boxes_px * scale, whole.scores, whole.classes)
    if not parts:
        return whole
    seen = tuple(zip(regions, parts, strict=True))
    return merge(whole, seen, width_px=frame_px[0], height_px=frame_px[1], nms_iou=nms_iou)
