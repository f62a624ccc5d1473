"""Images of cards, laid out as pi-gen does it: MBR, a FAT boot partition, an ext4 root partition.

Source: https://github.com/RPi-Distro/pi-gen, ``export-image/prerun.sh`` and ``stage1/00-boot-files``, branches
``bookworm`` and ``master``.
"""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["BOOKWORM", "BOOT_OFFSET_BYTES", "PLAIN", "TRIXIE", "PiImage", "fsck_fat", "read_fat_file"]

BOOT_OFFSET_BYTES = 8 << 20
REAL_BOOT_BYTES = 512 << 20
SMALL_BOOT_BYTES = 40 << 20
"""The least that is FAT32 with clusters of one sector."""
_ROOT_BYTES = 2 << 20
_CONSOLE = "console=serial0,115200 console=tty1 root=PARTUUID=12345678-02 rootfstype=ext4 fsck.repair=yes rootwait"
_TOOLS_ENV = {**os.environ, "MTOOLSRC": "/dev/null", "LC_ALL": "C.UTF-8"}

TRIXIE: Mapping[str, bytes] = {
    "cmdline.txt": f"{_CONSOLE} resize\n".encode(),
    "config.txt": b"# For more options see\ndtparam=audio=on\n#dtparam=i2c_arm=on\n[cm4]\notg_mode=1\n[all]\n",
    "issue.txt": b"Raspberry Pi reference 2025-12-04\nGenerated using pi-gen, stage2\n",
    "user-data": b"#cloud-config\n#hostname: raspberrypi\n" + b"# an example\n" * 300,
    "meta-data": b"dsmode: local\ninstance_id: rpios-image\n",
    "network-config": b"#network:\n#  version: 2\n",
    "kernel8.img": b"\x1f\x8b" + b"kernel" * 50_000,
}
BOOKWORM: Mapping[str, bytes] = {
    "cmdline.txt": f"{_CONSOLE} quiet init=/usr/lib/raspberrypi-sys-mods/firstboot\n".encode(),
    "config.txt": TRIXIE["config.txt"],
    "issue.txt": b"Raspberry Pi reference 2025-05-13\nGenerated using pi-gen, stage2\n",
    "kernel8.img": TRIXIE["kernel8.img"],
}
PLAIN: Mapping[str, bytes] = {"cmdline.txt": f"{_CONSOLE}\n".encode(), "kernel8.img": b"kernel"}
"""Another system, which says nothing."""


@dataclass(frozen=True, slots=True)
class PiImage:
    """An image that can be built.

    Attributes:
        files: on its boot partition.
        boot_bytes: the size of that.
        fat: 16 or 32.
        has_root: there is a file system on the root partition too.
        filled_bytes: how much of the boot partition is taken by a file of no use.
    """

    files: Mapping[str, bytes] = field(default_factory=lambda: TRIXIE)
    boot_bytes: int = SMALL_BOOT_BYTES
    fat: int = 32
    has_root: bool = False
    filled_bytes: int = 0

    def build(self, path: Path) -> Path:
        """Write it, with holes."""
        root_offset = BOOT_OFFSET_BYTES + self.boot_bytes
        with path.open("wb") as file:
            file.write(_table(self.boot_bytes, self.fat, root_offset))
            file.truncate(root_offset + _ROOT_BYTES)
        sectors = BOOT_OFFSET_BYTES // 512
        _run("mkfs.vfat", "-n", "bootfs", "-F", str(self.fat), "-s", "1", "--offset", str(sectors), str(path),
             str(self.boot_bytes // 1024))  # fmt: skip
        for name, content in self.files.items():
            _run("mcopy", "-i", f"{path}@@{BOOT_OFFSET_BYTES}", "-", f"::{name}", content=content)
        if self.filled_bytes:
            _run("mcopy", "-i", f"{path}@@{BOOT_OFFSET_BYTES}", "-", "::filler", content=bytes(self.filled_bytes))
        if self.has_root:
            _run("mke2fs", "-q", "-t", "ext4", "-L", "rootfs", "-O", "^huge_file", "-E", f"offset={root_offset}",
                 str(path), str(_ROOT_BYTES // 1024))  # fmt: skip
        return path


def read_fat_file(image: Path, name: str) -> bytes:
    """A file of the boot partition, as mtools reads it."""
    return _run("mtype", "-i", f"{image}@@{BOOT_OFFSET_BYTES}", f"::{name}")


def fsck_fat(image: Path, folder: Path) -> str:
    """What `fsck.vfat` has to say about the boot partition; empty: it is sound.

    Args:
        image: of a card.
        folder: has room for the partition.
    """
    with image.open("rb") as file:
        file.seek(446 + 12)
        size_bytes = struct.unpack("<I", file.read(4))[0] * 512
        part = folder / f"{image.name}.boot"
        with part.open("wb") as out:
            done = 0
            while done < size_bytes:
                file.seek(BOOT_OFFSET_BYTES + done)
                block = file.read(min(1 << 20, size_bytes - done))
                if block.strip(b"\0"):
                    out.seek(done)
                    out.write(block)
                done += len(block)
            out.truncate(size_bytes)
    try:
        done_ = subprocess.run(
            ["fsck.vfat", "-n", str(part)], capture_output=True, text=True, env=_TOOLS_ENV, timeout=60, check=False
        )
    finally:
        part.unlink()
    said = done_.stdout + done_.stderr
    lines = said.splitlines()
    is_sound = done_.returncode == 0 and len(lines) == 2 and "files," in lines[1]
    return "" if is_sound else said


def _table(boot_bytes: int, fat: int, root_offset: int) -> bytes:
    sector = bytearray(512)
    kinds = (0x0C if fat == 32 else 0x0E, BOOT_OFFSET_BYTES, boot_bytes), (0x83, root_offset, _ROOT_BYTES)
    for number, (kind, start, size) in enumerate(kinds):
        struct.pack_into("<B3xB3xII", sector, 446 + 16 * number, 0, kind, start // 512, size // 512)
    struct.pack_into("<I", sector, 440, 0x12345678)
    sector[510:] = b"\x55\xaa"
    return bytes(sector)


def _run(*command: str, content: bytes | None = None) -> bytes:
    done = subprocess.run(command, input=content or b"", capture_output=True, env=_TOOLS_ENV, timeout=60, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr.decode(errors='replace')}"
    return done.stdout
