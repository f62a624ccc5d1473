"""Which disk may be written over: looked up with all that hangs on it, and refused when in doubt.

Source of the rules: what Raspberry Pi Imager and Etcher hide from people (``drivelist_linux.cpp``), and what `lsblk`
says of it (util-linux 2.37 and later).
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from config.errors import ConfigError, PermanentError
from config.text import printable

__all__ = ["Block", "Device", "check_device", "find_device", "parse_devices", "read_devices", "unmount"]

_SIZE_BYTES_MAX = 2_000_000_000_000
"""The largest card is 2 TB; what is larger is somebody's archive."""
_COLUMNS = "PATH,TYPE,SIZE,RO,RM,TRAN,SUBSYSTEMS,MODEL,VENDOR,SERIAL,FSTYPE,LABEL,MOUNTPOINTS"
_LSBLK_S = 20
_UMOUNT_S = 60
_OUTSIDE = frozenset({"usb", "mmc", "sdio"})
_MEDIA = ("/media/", "/run/media/", "/mnt/")
"""Where people mount cards; whatever is mounted elsewhere is part of a system."""
_SYSTEM_KINDS = frozenset({"lvm", "crypt", "mpath", "dm", "md"})
_MEMBERS: Mapping[str, str] = {
    "LVM2_member": "a volume group of LVM",
    "linux_raid_member": "a RAID",
    "isw_raid_member": "a RAID",
    "ddf_raid_member": "a RAID",
    "zfs_member": "a ZFS pool",
    "bcache": "bcache",
    "drbd": "DRBD",
    "ceph_bluestore": "Ceph",
}


@dataclass(frozen=True, slots=True)
class Block:
    """A block device as `lsblk` shows it, with what is on it.

    Attributes:
        path: such as ``/dev/sda``.
        kind: ``disk``, ``part``, ``loop``, ``lvm`` ...
        size_bytes: its size.
        is_read_only: it cannot be written.
        is_removable: its medium can be taken out.
        buses: by which it hangs on the machine.
        model: what its maker calls it.
        serial: its serial number; empty where it has none.
        fstype: what is on it.
        label: what that is called.
        mounts: where that is mounted.
        children: partitions, and whatever is built upon it.
    """

    path: str
    kind: str
    size_bytes: int
    is_read_only: bool
    is_removable: bool
    buses: frozenset[str]
    model: str
    serial: str
    fstype: str
    label: str
    mounts: tuple[str, ...]
    children: tuple[Block, ...] = ()

    def walk(self) -> Iterator[Block]:
        """It, and all that is upon it."""
        yield self
        for child in self.children:
            yield from child.walk()


@dataclass(frozen=True, slots=True)
class Device:
    """A disk that may be written over.

    Attributes:
        block: the disk.
        mounts: what must be unmounted before.
    """

    block: Block
    mounts: tuple[str, ...] = field(default=())

    @property
    def name(self) -> str:
        """What a person types to confirm it."""
        return Path(self.block.path).name

    @property
    def identity(self) -> tuple[str, int, str, str]:
        """What another disk in its place would hardly have too."""
        return self.block.path, self.block.size_bytes, self.block.model, self.block.serial

    def describe(self) -> str:
        """All that helps a person to see whether it is the right one, in several lines."""
        block = self.block
        named = block.model or ("a file" if block.kind == "loop" else "no name")
        lines = [f"{block.path}  {named}  {_size(block.size_bytes)}  serial {block.serial or 'none'}"]
        for part in block.children:
            where = f"  mounted at {', '.join(part.mounts)}" if part.mounts else ""
            lines.append(
                f"  {part.path}  {_size(part.size_bytes)}  {part.fstype or 'empty'}  {part.label}{where}".rstrip()
            )
        if not block.children:
            lines.append(f"  no partitions{f', {block.fstype} {block.label}'.rstrip() if block.fstype else ''}")
        return "\n".join(printable(line) for line in lines)


def read_devices() -> list[Block]:
    """All disks of this machine.

    Raises:
        PermanentError: this system does not tell.
    """
    command = ["lsblk", "--json", "--bytes", "--tree", "--output", _COLUMNS]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LSBLK_S, check=True)
        return parse_devices(done.stdout)
    except FileNotFoundError as error:
        raise PermanentError(
            "writing to a card needs Linux and its `lsblk`: write a file with --out, and that to the card with "
            "Raspberry Pi Imager (--manifest makes it known there)"
        ) from error
    except subprocess.CalledProcessError as error:
        raise PermanentError(f"lsblk fails: {error.stderr.strip()}; util-linux 2.37 or later is needed") from error
    except (subprocess.SubprocessError, ValueError, KeyError, TypeError) as error:
        raise PermanentError(f"what lsblk says cannot be read: {error}") from error


def parse_devices(text: str) -> list[Block]:
    """Read the JSON of `lsblk`."""
    return [_block(one) for one in json.loads(text)["blockdevices"]]


def _block(row: Mapping[str, Any]) -> Block:
    subsystems = str(row.get("subsystems") or "").split(":")
    name = " ".join(str(row.get(key) or "").strip() for key in ("vendor", "model")).strip()
    return Block(
        path=row["path"],
        kind=row["type"],
        size_bytes=int(row["size"] or 0),
        is_read_only=bool(row["ro"]),
        is_removable=bool(row["rm"]),
        buses=frozenset({str(row.get("tran") or ""), *subsystems} - {"", "block"}),
        model=name,
        serial=str(row.get("serial") or "").strip(),
        fstype=str(row.get("fstype") or ""),
        label=str(row.get("label") or ""),
        mounts=tuple(one for one in row.get("mountpoints") or () if one),
        children=tuple(_block(child) for child in row.get("children") or ()),
    )


def find_device(path: Path, needed_bytes: int) -> Device:
    """The disk, as it is now, when it may be written over.

    Args:
        path: of the device; may be a link, such as those in ``/dev/disk/by-id``.
        needed_bytes: what is to be written.

    Raises:
        ConfigError: it may not; the message says why.
        PermanentError: this system does not tell.
    """
    try:
        real = path.resolve(strict=True)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; `lsblk` lists the disks", field="--device") from error
    return check_device(read_devices(), str(real), needed_bytes)


def check_device(devices: list[Block], path: str, needed_bytes: int) -> Device:
    """Decide whether a disk may be written over.

    Args:
        devices: all of this machine.
        path: of the disk.
        needed_bytes: what is to be written.

    Raises:
        ConfigError: it may not; the message says why.
    """
    everything = [block for top in devices for block in top.walk()]
    block = next((one for one in everything if one.path == path), None)
    if block is None:
        raise ConfigError(f"{path} is no disk of this machine; `lsblk` lists them", field="--device")
    reason = (
        _wrong_kind(block, devices) or _wrong_size(block, needed_bytes) or _inside(block, devices) or _in_use(block)
    )
    if reason:
        raise ConfigError(f"{path} {reason}", field="--device")
    return Device(block, tuple(mount for one in block.walk() for mount in one.mounts))


def _wrong_kind(block: Block, devices: list[Block]) -> str:
    if block.kind == "part":
        parent = next((top.path for top in devices if block in top.children), "its disk")
        return f"is a partition: an image has partitions of its own, and goes onto the whole disk ({parent})"
    if block.kind not in {"disk", "loop"}:
        return f"is of the kind {block.kind!r}, not a disk"
    if "boot" in Path(block.path).name.removeprefix("mmcblk"):
        return "is a boot area of an eMMC, not a card"
    if block.is_read_only:
        return "cannot be written: is the card's lock switch closed?"
    return ""


def _wrong_size(block: Block, needed_bytes: int) -> str:
    if not block.size_bytes:
        return "has no medium in it"
    if block.size_bytes > _SIZE_BYTES_MAX:
        return f"is larger than any card ({_size(block.size_bytes)}): that is somebody's archive"
    if block.size_bytes < needed_bytes:
        return f"has {_size(block.size_bytes)}, and the image needs {_size(needed_bytes)}"
    return ""


def _inside(block: Block, devices: list[Block]) -> str:
    # A loop device is a file.
    if block.kind == "loop" or block.is_removable or block.buses & _OUTSIDE:
        if any(other.path.startswith(f"{block.path}boot") for other in devices):
            return "is an eMMC, which is soldered into this machine"
        return ""
    return "is a disk inside this machine: neither removable, nor on USB, nor a card reader's"


def _in_use(block: Block) -> str:
    for one in block.walk():
        which = "" if one is block else f" ({one.path})"
        if one.fstype in _MEMBERS:
            return f"is part of {_MEMBERS[one.fstype]}{which}; `wipefs` it if that is long gone"
        if one.kind in _SYSTEM_KINDS or one.kind.startswith("raid"):
            return f"carries {one.path}, of the kind {one.kind!r}: close that first, if it is not needed"
        for mount in one.mounts:
            if mount == "[SWAP]":
                return f"is this machine's swap space{which}"
            if not mount.startswith(_MEDIA):
                return f"is in use: {mount} is mounted from it{which}; unmount it yourself if you are sure"
    return ""


def unmount(device: Device) -> None:
    """Unmount what is mounted from it, the innermost first.

    Raises:
        PermanentError: something on it is in use.
    """
    for mount in sorted(device.mounts, key=len, reverse=True):
        try:
            done = subprocess.run(
                ["umount", "--", mount], capture_output=True, text=True, timeout=_UMOUNT_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise PermanentError(f"{mount} is not unmounted after {_UMOUNT_S} s: is the card still in?") from error
        if done.returncode:
            raise PermanentError(f"{mount} cannot be unmounted ({done.stderr.strip()}): close what uses it")


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.1f} MB"
