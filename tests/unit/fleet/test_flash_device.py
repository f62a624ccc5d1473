"""Which disks `vigil flash` refuses to write over, and what it does to one that it may."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from config.errors import ConfigError, PermanentError
from fleet.flash.device import check_device, parse_devices, read_devices
from fleet.flash.writer import write

GIB = 1 << 30
IMAGE_BYTES = 3 * GIB


def disk(path: str, **facts: object) -> dict[str, Any]:
    """As `lsblk --json` has it: an SD card in a USB reader, unless told otherwise."""
    row: dict[str, Any] = {
        "path": path, "type": "disk", "size": 32 * GIB, "ro": False, "rm": True, "tran": "usb",
        "subsystems": "block:scsi:usb:pci", "model": "STORAGE DEVICE", "vendor": "Generic ", "serial": "0001",
        "fstype": None, "label": None, "mountpoints": [None],
    }  # fmt: skip
    return row | facts


def part(path: str, mount: str | None = None, **facts: object) -> dict[str, Any]:
    return disk(path, type="part", size=GIB, tran=None, serial=None, mountpoints=[mount], fstype="ext4") | facts


def nvme(*children: dict[str, Any], **facts: object) -> dict[str, Any]:
    about = {"tran": "nvme", "rm": False, "subsystems": "block:nvme:pci", "serial": "S6"}
    return disk("/dev/nvme0n1", children=list(children), **(about | facts))


def verdict(path: str, *rows: dict[str, Any]) -> str:
    """The reason for which it is refused; empty: it is not."""
    try:
        check_device(parse_devices(json.dumps({"blockdevices": rows})), path, IMAGE_BYTES)
    except ConfigError as error:
        return str(error)
    return ""


CARD = disk("/dev/sdb", children=[part("/dev/sdb1", "/media/alex/bootfs", fstype="vfat", label="bootfs")])
READER = disk("/dev/mmcblk0", tran=None, rm=False, subsystems="block:mmc:mmc_host:pci", model=None, serial="0x1")


@pytest.mark.parametrize(
    ("path", "rows", "reason"),
    [
        ("/dev/sdb", [CARD], ""),
        ("/dev/mmcblk0", [READER], ""),
        ("/dev/mmcblk0", [disk("/dev/mmcblk0", tran="mmc", rm=False, subsystems="block:mmc")], ""),
        ("/dev/loop7", [disk("/dev/loop7", type="loop", tran=None, rm=False, subsystems="block")], ""),
        ("/dev/sdb", [disk("/dev/sdb", rm=False)], ""),  # a disk on USB that says nothing of a medium
        ("/dev/sdz", [CARD], "is no disk of this machine"),
        ("/dev/sdb1", [CARD], r"is a partition: .*the whole disk \(/dev/sdb\)"),
        ("/dev/sr0", [disk("/dev/sr0", type="rom")], "of the kind 'rom'"),
        ("/dev/sdb", [disk("/dev/sdb", ro=True)], "lock switch"),
        ("/dev/sdb", [disk("/dev/sdb", size=0)], "no medium in it"),
        ("/dev/sdb", [disk("/dev/sdb", size=4_000_000_000_000)], "larger than any card"),
        ("/dev/sdb", [disk("/dev/sdb", size=2 * GIB)], "has 2.1 GB, and the image needs 3.2 GB"),
        ("/dev/nvme0n1", [nvme()], "a disk inside this machine"),
        ("/dev/sda", [disk("/dev/sda", tran="sata", rm=False, subsystems="block:scsi:pci")], "inside this machine"),
        ("/dev/vda", [disk("/dev/vda", tran=None, rm=False, subsystems="block:virtio:pci")], "inside this machine"),
        ("/dev/mmcblk0", [READER, disk("/dev/mmcblk0boot0", tran=None, rm=False)], "is an eMMC"),
        ("/dev/mmcblk0boot0", [READER, disk("/dev/mmcblk0boot0")], "a boot area of an eMMC"),
        # What runs this machine, wherever it is plugged in.
        ("/dev/sdb", [disk("/dev/sdb", children=[part("/dev/sdb1", "/boot/firmware"), part("/dev/sdb2", "/")])],
         r"in use: /boot/firmware is mounted from it \(/dev/sdb1\)"),
        ("/dev/sdb", [disk("/dev/sdb", children=[part("/dev/sdb2", "/")])], "in use: / is mounted"),
        ("/dev/sdb", [disk("/dev/sdb", mountpoints=["/srv/archive"])], "in use: /srv/archive is mounted"),
        ("/dev/sdb", [disk("/dev/sdb", children=[part("/dev/sdb1", "[SWAP]", fstype="swap")])], "swap space"),
        ("/dev/sdb", [disk("/dev/sdb", children=[part("/dev/sdb1", fstype="LVM2_member")])], "a volume group of LVM"),
        ("/dev/sdb", [disk("/dev/sdb", fstype="linux_raid_member")], "part of a RAID"),
        ("/dev/sdb", [disk("/dev/sdb", children=[part("/dev/sdb1", fstype="zfs_member")])], "a ZFS pool"),
        ("/dev/sdb", [disk("/dev/sdb", children=[part("/dev/sdb1", fstype="crypto_LUKS", children=[
            disk("/dev/mapper/home", type="crypt", mountpoints=["/home"])])])], "carries /dev/mapper/home"),
        ("/dev/sdb", [disk("/dev/sdb", children=[disk("/dev/md0", type="raid1")])], "carries /dev/md0"),
        ("/dev/sdb", [disk("/dev/sdb", children=[part("/dev/sdb1", children=[disk("/dev/mapper/vg-root", type="lvm",
            mountpoints=["/"])])])], "carries /dev/mapper/vg-root"),
    ],
)  # fmt: skip
def test_every_disk_that_might_be_missed_is_refused(path: str, rows: list[dict[str, Any]], reason: str) -> None:
    said = verdict(path, *rows)
    if not reason:
        assert said == ""
    else:
        with pytest.raises(AssertionError, match=reason):
            raise AssertionError(said)


def test_a_person_sees_model_size_serial_partitions_and_what_is_mounted() -> None:
    evil = disk("/dev/sdb", children=[part("/dev/sdb1", "/media/a\x1b[2J", label="bo\x07ot", fstype="vfat")])
    card = check_device(parse_devices(json.dumps({"blockdevices": [evil]})), "/dev/sdb", 1)
    said = card.describe()
    assert "/dev/sdb  Generic STORAGE DEVICE  34.4 GB  serial 0001" in said
    assert "/dev/sdb1  1.1 GB  vfat" in said
    assert "mounted at /media/a" in said
    assert all(sign.isprintable() or sign == "\n" for sign in said)
    assert card.mounts == ("/media/a\x1b[2J",)


def test_the_disk_that_this_machine_runs_from_is_refused() -> None:
    devices = read_devices()
    roots = [top for top in devices if any("/" in one.mounts for one in top.walk())]
    for root in roots:
        with pytest.raises(ConfigError):
            check_device(devices, root.path, 1)


# --- writing ----------------------------------------------------------------------------------------------------


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "node.img"
    path.write_bytes(random.Random(5).randbytes(5 << 20) + b"end" * 1000 + bytes(72))
    return path


@pytest.fixture
def medium(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A disk, and the file behind it: a loop device where this user may have one, else the file alone."""
    file = tmp_path / "medium"
    file.write_bytes(b"\xee" * (12 << 20))
    done = subprocess.run(["losetup", "--find", "--show", str(file)], capture_output=True, text=True, check=False)
    if done.returncode:
        yield file, file
        return
    path = Path(done.stdout.strip())
    try:
        yield path, file
    finally:
        subprocess.run(["losetup", "--detach", str(path)], check=True)


def silent(_bytes: int) -> None:
    pass


def test_what_is_written_is_read_back_and_an_old_table_at_the_end_is_gone(
    image: Path, medium: tuple[Path, Path]
) -> None:
    path, file = medium
    wanted = image.read_bytes()
    written: list[int] = []
    read: list[int] = []
    assert write(image, path, written.append, read.append) == hashlib.sha256(wanted).hexdigest()
    assert sum(written) == sum(read) == len(wanted)
    found = file.read_bytes()
    assert found[: len(wanted)] == wanted
    assert found[-(1 << 20) :].count(0) == 1 << 20


def test_a_byte_that_flips_on_the_medium_is_noticed_and_the_card_does_not_boot(
    image: Path, medium: tuple[Path, Path]
) -> None:
    path, file = medium

    at = 5_243_000

    def flip(_bytes: int) -> None:
        """Once the first part was read back, a byte of the next one."""
        with file.open("r+b") as behind:
            behind.seek(at)
            behind.write(bytes([image.read_bytes()[at] ^ 1]))
            behind.flush()
            os.fsync(behind.fileno())

    with pytest.raises(PermanentError, match="first difference is at byte 5,243,000"):
        write(image, path, silent, flip)
    assert file.read_bytes()[: 1 << 20].count(0) == 1 << 20, "the partition table was not to come back"


def test_a_write_that_ends_in_the_middle_leaves_nothing_that_boots(image: Path, medium: tuple[Path, Path]) -> None:
    path, file = medium

    def pull(_bytes: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(image, path, pull, silent)
    assert file.read_bytes()[: 1 << 20].count(0) == 1 << 20


def test_a_medium_that_is_too_small_is_refused_before_anything_is_written(tmp_path: Path, image: Path) -> None:
    small = tmp_path / "small"
    small.write_bytes(b"\xee" * 1_000_000)
    with pytest.raises(ConfigError, match="the image needs 5,245,952"):
        write(image, small, silent, silent)
    assert small.read_bytes() == b"\xee" * 1_000_000


def test_a_medium_that_is_not_there_is_refused_in_words(tmp_path: Path, image: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be opened"):
        write(image, tmp_path / "nothing", silent, silent)
