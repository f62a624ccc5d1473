"""The picture inside an escalation: the frame with its boxes, labels, camera and time, small enough to send."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import cache

import cv2
import numpy as np

from broker.messages import Detection
from config import PermanentError
from detector.pictures import Picture

__all__ = ["annotate", "encode_within"]

_SIDE_MAX_PX = 1280
"""The longer side of an annotated picture: enough to recognise somebody, and 4K would not fit anyway."""
_SIDE_MIN_PX = 640
"""Smaller pictures are enlarged to it, so that their labels can be read."""
_QUALITIES = (85, 75, 65, 50)
_SHRINK = 0.75
_SIDE_LAST_PX = 16

_PALETTE = ((66, 190, 255), (120, 220, 120), (255, 190, 90), (150, 130, 255), (220, 220, 90), (200, 150, 240))
"""Blue-green-red; light, so that dark text is read on them."""
_WEIGHT = 500
"""Of the letters: between regular (400) and bold (700)."""
_INK = (24, 24, 24)
_PAPER = (240, 240, 240)


def annotate(picture: Picture, detections: Sequence[Detection], *, camera: str, captured_at: datetime) -> Picture:
    """Draw what was found, and say where and when.

    Args:
        picture: uint8 [h, w, 3], blue-green-red; stays as it is.
        detections: what to mark.
        camera: its name.
        captured_at: when it was captured; shown in UTC.

    Returns:
        A new picture of the same shape, its longer side between 640 and 1280 pixels.
    """
    canvas = _resized(picture)
    text_px = max(12, min(28, canvas.shape[0] // 28))
    best_last = list(reversed(detections))
    for detection in best_last:
        _draw_box(canvas, detection, text_px)
    for detection in best_last:
        _draw_tag(canvas, detection, text_px)
    moment = captured_at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    _draw_caption(canvas, camera, moment, text_px)
    return canvas


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


def _resized(picture: Picture) -> Picture:
    height, width = picture.shape[:2]
    longer = max(height, width)
    scale = min(max(longer, _SIDE_MIN_PX), _SIDE_MAX_PX) / longer
    if scale == 1.0:
        return picture.copy()
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = cv2.INTER_AREA if scale < 1.0 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, size, interpolation=how), np.uint8)


@cache
def _font() -> cv2.FontFace:
    return cv2.FontFace("sans")


def _edges(canvas: Picture, detection: Detection) -> tuple[int, int, int, int]:
    height, width = canvas.shape[:2]
    x1, y1, x2, y2 = detection.box
    return round(x1 * width), round(y1 * height), round(x2 * width), round(y2 * height)


def _colour(label: str) -> tuple[int, int, int]:
    return _PALETTE[zlib.crc32(label.encode()) % len(_PALETTE)]


def _draw_box(canvas: Picture, detection: Detection, text_px: int) -> None:
    left, top, right, bottom = _edges(canvas, detection)
    thickness = max(2, text_px // 8)
    # A dark line around the light one is seen on any background.
    cv2.rectangle(canvas, (left, top), (right, bottom), _INK, thickness + 2, cv2.LINE_AA)
    cv2.rectangle(canvas, (left, top), (right, bottom), _colour(detection.label), thickness, cv2.LINE_AA)


def _draw_tag(canvas: Picture, detection: Detection, text_px: int) -> None:
    left, top, _, _ = _edges(canvas, detection)
    text = f"{detection.label} {detection.score:.2f}"
    width, height = _text_width(text, text_px) + text_px // 2, round(text_px * 1.3)
    left = max(0, min(left, canvas.shape[1] - width))
    top = top - height if top >= height else top
    cv2.rectangle(canvas, (left, top), (left + width, top + height), _colour(detection.label), cv2.FILLED)
    _write(canvas, text, (left + text_px // 4, top + text_px), _INK, text_px)


def _draw_caption(canvas: Picture, camera: str, moment: str, text_px: int) -> None:
    height, width = canvas.shape[:2]
    bar = canvas[max(0, height - 2 * text_px) :]
    bar[:] = bar // 4 + np.uint8(10)
    baseline = height - round(text_px * 0.65)
    moment_left = width - _text_width(moment, text_px) - text_px // 2
    _write(canvas, moment, (max(0, moment_left), baseline), _PAPER, text_px)
    if _text_width(camera, text_px) + text_px < moment_left:
        _write(canvas, camera, (text_px // 2, baseline), _PAPER, text_px)


def _text_width(text: str, text_px: int) -> int:
    _, _, width, _ = cv2.getTextSize((0, 0), text, (0, 0), _font(), text_px, _WEIGHT)
    return int(width)


def _write(canvas: Picture, text: str, origin: tuple[int, int], colour: Sequence[int], text_px: int) -> None:
    cv2.putText(canvas, text, origin, (*colour, 255), _font(), text_px, _WEIGHT)
