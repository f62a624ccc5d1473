"""Files into a FAT partition of an image, without mounting it and without being root.

All changes are made in memory first, and the volume is written when everything has found its place: a volume that is
too full is left as it is.

Source: Microsoft, "FAT: General Overview of On-Disk Format" 1.03.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from config.errors import ConfigError
from fleet.flash.fat_names import (
    END,
    ENTRY_BYTES,
    FREE,
    FoundEntry,
    check_fat_name,
    entries_of,
    named_entries,
)

__all__ = ["FatVolume"]

Content = bytes | Path

_FOLDER, _ARCHIVE = 0x10, 0x20
_CHUNK_BYTES = 1 << 20
_FAT32_MASK = 0x0FFFFFFF
_FAT12_CLUSTERS_MAX = 4085
_ROOT = 0
"""Stands for the root folder: cluster 0 has no content of its own."""
_FOLDER_BYTES_MAX = 65_536 * ENTRY_BYTES
_INFO_SIGNATURES = ((0, 0x41615252), (484, 0x61417272))
_FILE_BYTES_MAX = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class _Geometry:
    """Where things are, in bytes from the beginning of the volume."""

    sector_bytes: int
    cluster_bytes: int
    fat_offset: int
    fat_bytes: int
    written_fats: tuple[int, ...]
    root_offset: int
    root_bytes: int
    root_cluster: int
    clusters_offset: int
    clusters: int
    info_offset: int | None

    @property
    def is_fat32(self) -> bool:
        return self.root_cluster != _ROOT


@dataclass(slots=True)
class _Folder:
    """The content of a folder as it is to be."""

    content: bytearray
    is_changed: bool = False
    entries: dict[str, FoundEntry] = field(default_factory=dict)

    def read(self) -> None:
        """Look through it."""
        for entry in entries_of(self.content):
            self.keep(entry)

    def keep(self, entry: FoundEntry) -> None:
        """Find an entry by its names; a later one of the same name is out of reach, as everywhere."""
        for name in (_short_text(entry.short), entry.name):
            self.entries.setdefault(name.casefold(), entry)

    def change(self, at: int, content: bytes) -> None:
        """Write entries."""
        self.content[at : at + len(content)] = content
        self.is_changed = True


class FatVolume:
    """A FAT16 or FAT32 volume in a file.

    Names are found without regard to case, and a file that is there already keeps the spelling of its name.

    Args:
        image: the file, open for reading and, for :meth:`commit`, for writing.
        offset_bytes: where the volume begins in it.
        size_bytes: how long it may be.
        now: local time, for the files that are written.

    Raises:
        ConfigError: there is no such volume.
    """

    def __init__(self, image: BinaryIO, *, offset_bytes: int, size_bytes: int, now: datetime) -> None:
        self._image = image
        self._offset_bytes = offset_bytes
        self._stamp = _fat_time(now)
        self._geometry = _read_geometry(self._read(0, 512), size_bytes)
        self._table = self._read_table()
        self._table_before = array(self._table.typecode, self._table)
        self._next = 2
        self._folders: dict[int, _Folder] = {}
        self._contents: list[tuple[list[int], Content]] = []

    @property
    def free_bytes(self) -> int:
        """Room that is left, in whole clusters."""
        entries = self._table[2 : self._geometry.clusters + 2]
        free = sum(1 for entry in entries if not entry & self._mask)
        return free * self._geometry.cluster_bytes

    def has(self, path: str) -> bool:
        """Whether there is such a file or folder."""
        return self._find(path) is not None

    def names(self, path: str = "") -> list[str]:
        """What is in a folder.

        Raises:
            ConfigError: there is no such folder.
        """
        parts = PurePosixPath(path).parts
        folder = self._folder(self._walk(parts, make=False))
        return [one.name for one in entries_of(folder.content) if one.name not in {".", ".."}]

    def read(self, path: str) -> bytes:
        """A file as it was before anything was changed.

        Raises:
            ConfigError: there is no such file.
        """
        entry = self._find(path)
        if entry is None or entry.raw[11] & _FOLDER:
            raise ConfigError(f"there is no file {path} on the boot partition")
        (size_bytes,) = struct.unpack_from("<I", entry.raw, 28)
        content = b"".join(self._read(*place) for place in self._places(self._chain(_first_cluster(entry.raw))))
        return content[:size_bytes]

    def put(self, path: str, content: Content) -> None:
        """Make a file, or replace one; its folders are made. Nothing is written before :meth:`commit`.

        Args:
            path: below the root, with ``/``.
            content: its bytes, or the file that has them.

        Raises:
            ConfigError: there is no room, a folder has that name, or it cannot be a name.
        """
        size_bytes = content.stat().st_size if isinstance(content, Path) else len(content)
        if size_bytes > _FILE_BYTES_MAX:
            raise ConfigError(f"{path} has {size_bytes:,} bytes, and a FAT partition takes files of 4 GB")
        *parents, name = PurePosixPath(path).parts
        place = self._walk(parents, make=True)
        found = self._folder(place).entries.get(name.casefold())
        if found is not None:
            if found.raw[11] & _FOLDER:
                raise ConfigError(f"{path} is a folder on the boot partition")
            self._release(_first_cluster(found.raw))
        clusters = self._allocate(-(-size_bytes // self._geometry.cluster_bytes), path)
        first = clusters[0] if clusters else 0
        if found is not None:
            self._replace(place, found, first, size_bytes)
        else:
            self._add(place, name, self._entry(_ARCHIVE, first, size_bytes))
        self._contents.append((clusters, content))

    def commit(self, on_progress: Callable[[int], None] = lambda _bytes: None) -> None:
        """Write everything: files, then the table, then the folders that name them.

        Args:
            on_progress: called with the bytes that were written since the last call.

        Raises:
            OSError: the image cannot be written.
        """
        for clusters, content in self._contents:
            self._write_content(clusters, content, on_progress)
        self._write_table()
        for place, folder in self._folders.items():
            if folder.is_changed:
                self._write_folder(place, folder)
        self._write_info()
        self._image.flush()
        self._contents.clear()

    # --- folders --------------------------------------------------------------------------------------------

    def _find(self, path: str) -> FoundEntry | None:
        *parents, name = PurePosixPath(path).parts
        place = _ROOT
        for part in parents:
            entry = self._folder(place).entries.get(part.casefold())
            if entry is None or not entry.raw[11] & _FOLDER:
                return None
            place = _first_cluster(entry.raw)
        return self._folder(place).entries.get(name.casefold())

    def _walk(self, parts: tuple[str, ...] | list[str], *, make: bool) -> int:
        place = _ROOT
        for part in parts:
            entry = self._folder(place).entries.get(part.casefold())
            if entry is None:
                if not make:
                    raise ConfigError(f"there is no folder {'/'.join(parts)} on the boot partition")
                place = self._make_folder(place, part)
                continue
            if not entry.raw[11] & _FOLDER:
                raise ConfigError(f"{part} is a file on the boot partition, not a folder")
            place = _first_cluster(entry.raw)
        return place

    def _folder(self, place: int) -> _Folder:
        folder = self._folders.get(place)
        if folder is None:
            folder = _Folder(bytearray(b"".join(self._read(*one) for one in self._folder_places(place))))
            folder.read()
            self._folders[place] = folder
        return folder

    def _folder_places(self, place: int) -> Iterator[tuple[int, int]]:
        geometry = self._geometry
        if place == _ROOT and not geometry.is_fat32:
            yield geometry.root_offset, geometry.root_bytes
        else:
            yield from self._places(self._chain(place or geometry.root_cluster))

    def _make_folder(self, parent: int, name: str) -> int:
        (cluster,) = self._allocate(1, name)
        content = bytearray(self._geometry.cluster_bytes)
        for number, (short, target) in enumerate(((b".", cluster), (b"..", parent))):
            entry = short.ljust(11) + self._entry(_FOLDER, target, 0)[11:]
            content[number * ENTRY_BYTES : (number + 1) * ENTRY_BYTES] = entry
        self._folders[cluster] = folder = _Folder(content, is_changed=True)
        folder.read()
        self._add(parent, name, self._entry(_FOLDER, cluster, 0))
        return cluster

    def _add(self, place: int, name: str, entry: bytes) -> None:
        folder = self._folder(place)
        taken = {one.short for one in folder.entries.values()}
        short, long, case = named_entries(check_fat_name(name), taken)
        own = short + entry[11:12] + bytes([case]) + entry[13:]
        at = self._room(place, len(long) + 1)
        folder.change(at, b"".join((*long, own)))
        folder.keep(FoundEntry(name, short, at + len(long) * ENTRY_BYTES, own))

    def _replace(self, place: int, found: FoundEntry, first: int, size_bytes: int) -> None:
        folder = self._folder(place)
        new = self._entry(_ARCHIVE, first, size_bytes)
        # Its name, the case of it, and when it was made stay.
        own = found.raw[:11] + new[11:12] + found.raw[12:18] + new[18:ENTRY_BYTES]
        folder.change(found.at, own)
        for key in [key for key, one in folder.entries.items() if one is found]:
            folder.entries[key] = replace(found, raw=own)

    def _room(self, place: int, count: int) -> int:
        """Where so many entries in a row are free; the folder grows where there are none."""
        content = self._folder(place).content
        run = 0
        for at in range(0, len(content), ENTRY_BYTES):
            if content[at] == END:
                start = at - run * ENTRY_BYTES
                self._grow(place, start + count * ENTRY_BYTES)
                return start
            run = run + 1 if content[at] == FREE else 0
            if run == count:
                return at - (count - 1) * ENTRY_BYTES
        start = len(content) - run * ENTRY_BYTES
        self._grow(place, start + count * ENTRY_BYTES)
        return start

    def _grow(self, place: int, size_bytes: int) -> None:
        content = self._folder(place).content
        if size_bytes <= len(content):
            return
        if size_bytes > _FOLDER_BYTES_MAX or (place == _ROOT and not self._geometry.is_fat32):
            raise ConfigError("a folder of the boot partition has no room for another name")
        last = list(self._chain(place or self._geometry.root_cluster))[-1]
        new = self._allocate(-(-(size_bytes - len(content)) // self._geometry.cluster_bytes), "a folder")
        self._set(last, new[0])
        content.extend(bytes(len(new) * self._geometry.cluster_bytes))

    def _entry(self, attributes: int, cluster: int, size_bytes: int) -> bytes:
        time, date = self._stamp
        high, low = cluster >> 16, cluster & 0xFFFF
        return b" " * 11 + struct.pack(
            "<BBBHHHHHHHI", attributes, 0, 0, time, date, date, high, time, date, low, size_bytes
        )

    # --- clusters -------------------------------------------------------------------------------------------

    @property
    def _mask(self) -> int:
        return _FAT32_MASK if self._geometry.is_fat32 else 0xFFFF

    def _read_table(self) -> array[int]:
        geometry = self._geometry
        table = array("I" if geometry.is_fat32 else "H")
        table.frombytes(self._read(geometry.fat_offset, geometry.fat_bytes))
        return table

    def _chain(self, cluster: int) -> Iterator[int]:
        last = self._mask & ~0x7
        for _ in range(self._geometry.clusters + 1):
            if cluster == 0 or cluster >= last:
                return
            if not 2 <= cluster < self._geometry.clusters + 2:
                break
            yield cluster
            cluster = self._table[cluster] & self._mask
        raise ConfigError("its boot partition is damaged (a chain of clusters leads nowhere): take another image")

    def _set(self, cluster: int, value: int) -> None:
        # The upper four bits are not ours.
        self._table[cluster] = (self._table[cluster] & ~self._mask) | value

    def _release(self, cluster: int) -> None:
        for one in list(self._chain(cluster)):
            self._set(one, 0)
        self._next = 2

    def _allocate(self, count: int, path: str) -> list[int]:
        """So many free clusters, chained."""
        found: list[int] = []
        cluster, end = self._next, self._geometry.clusters + 2
        while len(found) < count:
            if cluster >= end:
                short_bytes = (count - len(found)) * self._geometry.cluster_bytes
                raise ConfigError(
                    f"the boot partition is too small: {path} needs {short_bytes:,} bytes more than it has free, and "
                    "nothing was written to it"
                )
            if not self._table[cluster] & self._mask:
                found.append(cluster)
            cluster += 1
        self._next = cluster
        for one, after in pairwise([*found, self._mask]):
            self._set(one, after)
        return found

    def _places(self, clusters: Iterator[int] | list[int]) -> Iterator[tuple[int, int]]:
        """Offset and length of runs of clusters that follow each other."""
        size = self._geometry.cluster_bytes
        start = length = 0
        for cluster in clusters:
            if length and cluster == start + length:
                length += 1
                continue
            if length:
                yield self._geometry.clusters_offset + (start - 2) * size, length * size
            start, length = cluster, 1
        if length:
            yield self._geometry.clusters_offset + (start - 2) * size, length * size

    # --- bytes ----------------------------------------------------------------------------------------------

    def _read(self, offset: int, length: int) -> bytes:
        self._image.seek(self._offset_bytes + offset)
        content = self._image.read(length)
        if len(content) < length:
            raise ConfigError("its boot partition ends before it should: the file was not copied whole")
        return content

    def _write(self, offset: int, content: bytes | bytearray | memoryview) -> None:
        self._image.seek(self._offset_bytes + offset)
        self._image.write(content)

    def _write_content(self, clusters: list[int], content: Content, on_progress: Callable[[int], None]) -> None:
        blocks = _blocks(content)
        rest = memoryview(b"")
        for offset, length in self._places(clusters):
            at = 0
            while at < length:
                if not rest:
                    rest = memoryview(next(blocks, b""))
                if not rest:
                    # The rest of the last cluster: nobody else's old bytes are to be in it.
                    self._write(offset + at, bytes(length - at))
                    break
                part, rest = rest[: length - at], rest[length - at :]
                self._write(offset + at, part)
                at += len(part)
                on_progress(len(part))

    def _write_folder(self, place: int, folder: _Folder) -> None:
        at = 0
        for offset, length in self._folder_places(place):
            self._write(offset, folder.content[at : at + length])
            at += length
        folder.is_changed = False

    def _write_table(self) -> None:
        """The sectors that have changed, in every copy of the table."""
        geometry = self._geometry
        step = geometry.sector_bytes // self._table.itemsize
        for first in range(0, len(self._table), step):
            part = self._table[first : first + step]
            if part != self._table_before[first : first + step]:
                for number in geometry.written_fats:
                    offset = geometry.fat_offset + number * geometry.fat_bytes + first * self._table.itemsize
                    self._write(offset, part.tobytes())
        self._table_before = array(self._table.typecode, self._table)

    def _write_info(self) -> None:
        """How much is free, where the volume says so; what says nothing sensible is left alone."""
        offset = self._geometry.info_offset
        if offset is None:
            return
        content = bytearray(self._read(offset, 512))
        if any(struct.unpack_from("<I", content, at)[0] != value for at, value in _INFO_SIGNATURES):
            return
        struct.pack_into("<II", content, 488, self.free_bytes // self._geometry.cluster_bytes, self._next - 1)
        self._write(offset, content)


def _read_geometry(sector: bytes, size_bytes: int) -> _Geometry:
    sector_bytes, per_cluster, reserved, fats, root_entries, total16 = struct.unpack_from("<HBHBHH", sector, 11)
    (fat16,) = struct.unpack_from("<H", sector, 22)
    (total32,) = struct.unpack_from("<I", sector, 32)
    fat32, flags, _version, root, info = struct.unpack_from("<IHHIH", sector, 36)
    powers = {1 << number for number in range(8)}
    if (
        sector[-2:] != b"\x55\xaa"
        or sector_bytes not in {512, 1024, 2048, 4096}
        or per_cluster not in powers
        or not fats
    ):
        raise ConfigError("its boot partition holds no FAT file system")
    is_fat32 = fat16 == 0
    fat_bytes = (fat16 or fat32) * sector_bytes
    root_offset = reserved * sector_bytes + fats * fat_bytes
    root_bytes = -(-root_entries * ENTRY_BYTES // sector_bytes) * sector_bytes
    clusters_offset = root_offset + root_bytes
    volume_bytes = (total16 or total32) * sector_bytes
    clusters = (volume_bytes - clusters_offset) // (per_cluster * sector_bytes)
    if volume_bytes > size_bytes or clusters <= 0 or clusters + 2 > fat_bytes // (4 if is_fat32 else 2):
        raise ConfigError("its boot partition is damaged: its sizes do not fit each other")
    if not is_fat32 and clusters < _FAT12_CLUSTERS_MAX:
        raise ConfigError("its boot partition is FAT12, with which no Raspberry Pi OS comes: take another image")
    # Source: the same, "BPB_ExtFlags": one copy alone is in use where bit 7 is set.
    written = (flags & 0xF,) if is_fat32 and flags & 0x80 else tuple(range(fats))
    return _Geometry(
        sector_bytes=sector_bytes,
        cluster_bytes=per_cluster * sector_bytes,
        fat_offset=reserved * sector_bytes,
        fat_bytes=fat_bytes,
        written_fats=written,
        root_offset=root_offset,
        root_bytes=root_bytes,
        root_cluster=root if is_fat32 else _ROOT,
        clusters_offset=clusters_offset,
        clusters=clusters,
        info_offset=info * sector_bytes if is_fat32 and 0 < info < reserved else None,
    )


def _first_cluster(entry: bytes) -> int:
    high, low = struct.unpack_from("<H4xH", entry, 20)
    return int(high) << 16 | int(low)


def _fat_time(now: datetime) -> tuple[int, int]:
    """In steps of two seconds since 1980."""
    year = min(max(now.year, 1980), 2107)
    return now.hour << 11 | now.minute << 5 | now.second // 2, (year - 1980) << 9 | now.month << 5 | now.day


def _short_text(short: bytes) -> str:
    base, suffix = short[:8].decode("cp437").rstrip(), short[8:].decode("cp437").rstrip()
    return f"{base}.{suffix}" if suffix else base


def _blocks(content: Content) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    with content.open("rb") as file:
        while block := file.read(_CHUNK_BYTES):
            yield block
