"""The partition table of a card: where its boot partition lies."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

from config.errors import ConfigError

__all__ = ["SECTOR_BYTES", "Partition", "boot_partition", "read_partitions"]

SECTOR_BYTES = 512
_TABLE_OFFSET = 446
_ENTRY = struct.Struct("<4xB3xII")
_ENTRIES = 4
_SIGNATURE = b"\x55\xaa"
_GPT_PROTECTIVE = 0xEE
_FAT_KINDS = frozenset({0x04, 0x06, 0x0B, 0x0C, 0x0E, 0xEF})
"""FAT16 and FAT32, by cylinders or by blocks, and EFI's, which is one of them."""


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition.

    Attributes:
        kind: its type in the table.
        offset_bytes: where it begins.
        size_bytes: how long it is.
    """

    kind: int
    offset_bytes: int
    size_bytes: int


def read_partitions(image: BinaryIO) -> list[Partition]:
    """The partitions of an image, in the order of its table (MBR).

    Raises:
        ConfigError: it has no such table, or a partition that reaches beyond its end.
    """
    image.seek(0)
    sector = image.read(SECTOR_BYTES)
    if len(sector) < SECTOR_BYTES or sector[-2:] != _SIGNATURE:
        raise ConfigError(
            "there is no partition table in it: this is no image of a card. Give the .img or .img.xz of an operating "
            "system for the Raspberry Pi"
        )
    found = [
        Partition(kind, start * SECTOR_BYTES, count * SECTOR_BYTES)
        for kind, start, count in (
            _ENTRY.unpack_from(sector, _TABLE_OFFSET + number * _ENTRY.size) for number in range(_ENTRIES)
        )
        if kind and count
    ]
    if any(one.kind == _GPT_PROTECTIVE for one in found):
        raise ConfigError(
            "its partition table is a GPT, as images for PCs have: images of Raspberry Pi OS have an MBR, take one of "
            "those"
        )
    size_bytes = image.seek(0, 2)
    for number, one in enumerate(found, start=1):
        if one.offset_bytes + one.size_bytes > size_bytes:
            raise ConfigError(f"partition {number} ends after the image does: the file was not copied whole")
    return found


def boot_partition(image: BinaryIO) -> Partition:
    """The partition that the Raspberry Pi boots from: the first one with FAT.

    Raises:
        ConfigError: there is none.
    """
    found = read_partitions(image)
    for one in found:
        if one.kind in _FAT_KINDS:
            return one
    kinds = ", ".join(f"0x{one.kind:02x}" for one in found) or "none at all"
    raise ConfigError(f"none of its partitions is FAT (types: {kinds}): a Raspberry Pi does not boot from it")
