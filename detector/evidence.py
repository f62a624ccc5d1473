"""The picture inside an escalation: the frame with its boxes, labels, camera and time, small enough to send."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import cv2
import numpy as np

from broker.messages import Detection
from config import PermanentError
from detector.drawing import Drawing
from detector.pictures import Picture

__all__ = ["annotate", "encode_within"]

_QUALITIES = (85, 75, 65, 50)
_SHRINK = 0.75
_SIDE_LAST_PX = 16


def annotate(picture: Picture, detections: Sequence[Detection], *, camera: str, captured_at: datetime) -> Picture:
    """Draw what was found, and say where and when.

    Args:
        picture: uint8 [h, w, 3], blue-green-red; stays as it is.
        detections: what to mark, the best first.
        camera: its name.
        captured_at: when it was captured; shown in UTC.

    Returns:
        A new picture of the same shape, its longer side between 640 and 1280 pixels.
    """
    drawing = Drawing(picture)
    drawing.detections(detections)
    drawing.caption(camera, captured_at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"))
    return drawing.pixels


def encode_within(picture: Picture, bytes_max: int) -> tuple[bytes, int, int]:
    """Encode a picture as a JPEG of at most `bytes_max`: first at lower quality, then smaller.

    Returns:
        The JPEG, and its width and height in pixels.

    Raises:
        PermanentError: OpenCV cannot encode, or not even 16 pixels fit.
    """
    for candidate, quality in _tries(picture):
        done, encoded = cv2.imencode(".jpg", candidate, [cv2.IMWRITE_JPEG_QUALITY, quality])
        if done and len(encoded) <= bytes_max:
            return encoded.tobytes(), candidate.shape[1], candidate.shape[0]
    raise PermanentError(f"no picture fits into {bytes_max} bytes: raise detector.evidence_bytes_max")


def _tries(picture: Picture) -> Iterator[tuple[Picture, int]]:
    while True:
        for quality in _QUALITIES:
            yield picture, quality
        height, width = picture.shape[:2]
        if max(height, width) * _SHRINK < _SIDE_LAST_PX:
            return
        size = (max(1, round(width * _SHRINK)), max(1, round(height * _SHRINK)))
        picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
