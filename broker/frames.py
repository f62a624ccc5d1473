"""The frame codec: a JPEG that any viewer opens, with its metadata as JSON in the comment segment.

A frame is ``SOI, COM(FrameMeta), the rest of the JPEG``. `rdjpgcom` and `exiftool` print the comment. Reading the
metadata walks segment headers and looks at no pixel and copies none.

Source: ITU-T T.81, B.1.1.2 (markers), B.2.4.5 (comment); JFIF readers accept a COM ahead of APP0.
"""

from __future__ import annotations

from dataclasses import dataclass

from broker.messages import FrameMeta, decode_json, encode_json
from config.errors import BadPayloadError

__all__ = ["FRAME_BYTES_MAX", "Frame", "decode_frame", "encode_frame", "metadata_bytes", "reword_frame"]

FRAME_BYTES_MAX = 16 * 1024 * 1024
"""The largest frame that is looked at. An 8K JPEG of quality 80 is about 6 MB."""

_SOI = b"\xff\xd8"
_EOI = b"\xff\xd9"
_COM = 0xFE
_SOS = 0xDA
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD8)})
_SEGMENT_HEADER = 4
"""Bytes of a marker and a length, ahead of a segment's text."""
_COMMENT_MAX = 65_533
_SEGMENTS_MAX = 64
"""Segments ahead of the comment that are skipped before giving up; ours is the first, a camera's JPEG has under 10."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as it came.

    Attributes:
        meta: its metadata.
        jpeg: the whole picture, comment included: the same bytes that came, not a copy.
    """

    meta: FrameMeta
    jpeg: bytes


def encode_frame(jpeg: bytes, meta: FrameMeta) -> bytes:
    """Put the metadata into the picture.

    Args:
        jpeg: a JPEG, as an encoder makes it.
        meta: what to say of it.

    Raises:
        BadPayloadError: `jpeg` is no JPEG, or the metadata does not fit into one comment segment.
    """
    if jpeg[:2] != _SOI:
        raise BadPayloadError("not a JPEG: the first two bytes are not FFD8", size_bytes=len(jpeg))
    comment = encode_json(meta)
    if len(comment) > _COMMENT_MAX:
        raise BadPayloadError(
            f"frame metadata of {len(comment)} bytes is more than one comment segment holds", size_bytes=len(jpeg)
        )
    length = (len(comment) + 2).to_bytes(2, "big")
    return b"".join((_SOI, b"\xff\xfe", length, comment, memoryview(jpeg)[2:]))


def reword_frame(frame: Frame, meta: FrameMeta) -> bytes:
    """The same picture with other metadata.

    Raises:
        BadPayloadError: the metadata does not fit into one comment segment.
    """
    start, end = _find_comment(frame.jpeg)
    bare = memoryview(frame.jpeg)
    return encode_frame(b"".join((bare[: start - _SEGMENT_HEADER], bare[end:])), meta)


def metadata_bytes(meta: FrameMeta) -> int:
    """How much larger its metadata makes a picture."""
    return 4 + len(encode_json(meta))


def decode_frame(payload: bytes, *, max_bytes: int = FRAME_BYTES_MAX) -> Frame:
    """Read a frame's metadata; the picture stays as it is.

    Raises:
        BadPayloadError: it is too large, no JPEG, cut off, has no comment with metadata, or the metadata is wrong.
    """
    size = len(payload)
    if size > max_bytes:
        raise BadPayloadError(f"a frame of {size} bytes is more than the {max_bytes} allowed", size_bytes=size)
    if payload[:2] != _SOI:
        raise BadPayloadError("not a JPEG: the first two bytes are not FFD8", size_bytes=size)
    start, end = _find_comment(payload)
    if payload.rfind(_EOI, max(0, size - 64)) < 0:
        raise BadPayloadError("the JPEG is cut off: no end marker (FFD9)", size_bytes=size)
    try:
        meta = decode_json(FrameMeta, memoryview(payload)[start:end], max_bytes=_COMMENT_MAX)
    except BadPayloadError as error:
        raise BadPayloadError(f"frame metadata: {error.reason}", size_bytes=size) from error
    return Frame(meta, payload)


def _find_comment(payload: bytes) -> tuple[int, int]:
    """Where the first comment's text begins and ends."""
    size = len(payload)
    position = 2
    for _ in range(_SEGMENTS_MAX):
        if position + 4 > size or payload[position] != 0xFF:
            break
        marker = payload[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        if marker in _STANDALONE:
            position += 2
            continue
        length = int.from_bytes(payload[position + 2 : position + 4], "big")
        end = position + 2 + length
        if marker == _SOS or length < 2 or end > size:
            break
        if marker == _COM:
            return position + _SEGMENT_HEADER, end
        position = end
    raise BadPayloadError("the JPEG has no comment segment with frame metadata", size_bytes=size)
