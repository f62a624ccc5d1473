"""Names of files in FAT: entries of a folder, long and short.

Source: Microsoft, "FAT: General Overview of On-Disk Format" 1.03, "Long Directory Entries"; the case of short names is
as Windows NT and Linux keep it (``fs/fat/dir.c``, byte 12).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from config.errors import ConfigError

__all__ = ["END", "ENTRY_BYTES", "FREE", "FoundEntry", "LabelledName", "check_fat_name", "entries_of", "named_entries"]

ENTRY_BYTES = 32
FREE = 0xE5
END = 0x00
_LONG = 0x0F
_LABEL = 0x08
_LAST = 0x40
_LONG_UNITS = 13
_LONG_PLACES = (*range(1, 11), *range(14, 26), *range(28, 32))
_LOWER_BASE, _LOWER_SUFFIX = 0x08, 0x10
_NAME_UNITS_MAX = 255
_FORBIDDEN = re.compile(r'[\x00-\x1f"*/:<>?\\|\x7f]')
_SHORT = re.compile(r"([A-Z0-9!#$%&'()@^_`{}~-]{1,8})(?:\.([A-Z0-9!#$%&'()@^_`{}~-]{1,3}))?")
_SHORT_BASE_MAX = 6
_KANJI = 0x05
"""Stands for a name that begins with 0xE5, which says that an entry is free."""


@dataclass(frozen=True, slots=True)
class FoundEntry:
    """One file or folder in a folder.

    Attributes:
        name: as people see it.
        short: its name of 8 and 3 characters, as it is on the disk.
        at: where its own entry begins in the folder.
        raw: that entry.
    """

    name: str
    short: bytes
    at: int
    raw: bytes


LabelledName = tuple[bytes, tuple[bytes, ...], int]
"""A short name, the entries of the long one before it, and the case of the short one."""


def check_fat_name(name: str) -> str:
    """Return `name` when a file may be called so.

    Raises:
        ConfigError: it may not.
    """
    units = len(name.encode("utf-16-le")) // 2
    if not name or units > _NAME_UNITS_MAX or _FORBIDDEN.search(name) or name[-1] in ". " or name[0] == " ":
        raise ConfigError(f"{name[:80]!r} cannot be the name of a file on a FAT partition")
    return name


def entries_of(folder: bytes | bytearray) -> Iterator[FoundEntry]:
    """The files and folders in a folder's content; its label, and what belongs to nothing, are left out."""
    long: list[bytes] = []
    for at in range(0, len(folder) - ENTRY_BYTES + 1, ENTRY_BYTES):
        raw = bytes(folder[at : at + ENTRY_BYTES])
        if raw[0] == END:
            return
        if raw[0] == FREE:
            long.clear()
        elif raw[11] & 0x3F == _LONG:
            if raw[0] & _LAST:
                long.clear()
            long.append(raw)
        else:
            if not raw[11] & _LABEL:
                yield FoundEntry(_long_name(long, raw[:11]) or _short_name(raw), raw[:11], at, raw)
            long.clear()


def named_entries(name: str, taken: Collection[bytes]) -> LabelledName:
    """How a new name is written.

    Args:
        name: of the file or folder.
        taken: short names in the folder.
    """
    plain = _plain_short(name)
    if plain is not None and plain[0] not in taken:
        return plain[0], (), plain[1]
    short = _made_short(name, taken)
    units = name.encode("utf-16-le") + b"\0\0"
    count = -(-(len(units) // 2 - 1) // _LONG_UNITS)
    units = units.ljust(count * _LONG_UNITS * 2, b"\xff")[: count * _LONG_UNITS * 2]
    check = _checksum(short)
    entries = []
    for number in range(count, 0, -1):
        entry = bytearray(ENTRY_BYTES)
        entry[0] = number | (_LAST if number == count else 0)
        entry[11], entry[13] = _LONG, check
        part = units[(number - 1) * _LONG_UNITS * 2 : number * _LONG_UNITS * 2]
        for place, value in zip(_LONG_PLACES, part, strict=True):
            entry[place] = value
        entries.append(bytes(entry))
    return short, tuple(entries), 0


def _plain_short(name: str) -> tuple[bytes, int] | None:
    """The name as 8 and 3 characters with its case, where that says it all."""
    match = _SHORT.fullmatch(name.upper())
    if match is None or not name.isascii():
        return None
    base, _, suffix = name.partition(".")
    case = 0
    for part, bit in ((base, _LOWER_BASE), (suffix, _LOWER_SUFFIX)):
        if part != part.upper():
            if part != part.lower():
                return None
            case |= bit
    return match[1].encode().ljust(8) + (match[2] or "").encode().ljust(3), case


def _made_short(name: str, taken: Collection[bytes]) -> bytes:
    base, _, suffix = name.rpartition(".") if "." in name.lstrip(".") else (name, "", "")
    clean = re.sub(r"[^A-Z0-9_-]", "", base.upper())[:_SHORT_BASE_MAX] or "FILE"
    ending = re.sub(r"[^A-Z0-9_-]", "", suffix.upper())[:3].encode().ljust(3)
    number = 0
    while True:
        number += 1
        tail = f"~{number}"
        short = f"{clean[: 8 - len(tail)]}{tail}".encode().ljust(8) + ending
        if short not in taken:
            return short


def _short_name(raw: bytes) -> str:
    first = bytes([FREE]) if raw[0] == _KANJI else raw[:1]
    base = (first + raw[1:8]).decode("cp437").rstrip()
    suffix = raw[8:11].decode("cp437").rstrip()
    if raw[12] & _LOWER_BASE:
        base = base.lower()
    if raw[12] & _LOWER_SUFFIX:
        suffix = suffix.lower()
    return f"{base}.{suffix}" if suffix else base


def _long_name(entries: list[bytes], short: bytes) -> str:
    """The long name; empty where its entries do not belong to this short one, as after a tool that knows none."""
    numbers = [entry[0] & 0x3F for entry in entries]
    if not entries or numbers != list(range(len(entries), 0, -1)):
        return ""
    if any(entry[13] != _checksum(short) for entry in entries):
        return ""
    units = b"".join(bytes(entry[place] for place in _LONG_PLACES) for entry in reversed(entries))
    return units.decode("utf-16-le", errors="replace").partition("\0")[0].rstrip("\uffff")


def _checksum(short: bytes) -> int:
    total = 0
    for byte in short:
        total = (((total & 1) << 7) + (total >> 1) + byte) & 0xFF
    return total
