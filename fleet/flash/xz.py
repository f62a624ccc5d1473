"""How large a file is that is packed as .xz, without unpacking it.

Source: https://tukaani.org/xz/xz-file-format.txt, 2.1.2 and 4.
"""

from __future__ import annotations

import struct
from pathlib import Path

__all__ = ["unpacked_bytes"]

_MAGIC = b"\xfd7zXZ\0"
_FOOTER_BYTES = 12
_FOOTER_MAGIC = b"YZ"
_INDEX_BYTES_MAX = 16 << 20


def unpacked_bytes(path: Path) -> int | None:
    """Bytes that come out of it; None where it is no such file, of several streams, or damaged.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            return None
        end = file.seek(0, 2)
        file.seek(max(0, end - _FOOTER_BYTES))
        footer = file.read()
        if len(footer) < _FOOTER_BYTES or footer[-2:] != _FOOTER_MAGIC:
            return None
        (backward,) = struct.unpack_from("<I", footer, 4)
        size_bytes = (backward + 1) * 4
        if size_bytes > min(_INDEX_BYTES_MAX, end - _FOOTER_BYTES):
            return None
        file.seek(end - _FOOTER_BYTES - size_bytes)
        index = file.read(size_bytes)
    try:
        return _total(index)
    except IndexError:
        return None


def _total(index: bytes) -> int | None:
    if index[0] != 0:
        return None
    count, at = _number(index, 1)
    total = 0
    for _ in range(count):
        _packed, at = _number(index, at)
        unpacked, at = _number(index, at)
        total += unpacked
    return total


def _number(content: bytes, at: int) -> tuple[int, int]:
    """Seven bits a byte, the lowest first."""
    value = shift = 0
    while True:
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, at
        shift += 7
