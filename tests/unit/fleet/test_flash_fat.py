"""The writer of FAT: what it writes, mtools reads and fsck.vfat finds sound."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pytest

from config.errors import ConfigError
from fleet.flash.fat import FatVolume
from fleet.flash.partitions import boot_partition
from tests.support.pi_image import BOOT_OFFSET_BYTES, TRIXIE, PiImage, fsck_fat, read_fat_file

NOW = datetime(2026, 11, 21, 20, 15, 30)  # noqa: DTZ001 - FAT has local time


@contextmanager
def volume(image: Path, mode: str = "r+b") -> Iterator[FatVolume]:
    with image.open(mode) as file:
        part = boot_partition(file)  # type: ignore[arg-type]  # a binary mode
        yield FatVolume(file, offset_bytes=part.offset_bytes, size_bytes=part.size_bytes, now=NOW)  # type: ignore[arg-type]


def many_files() -> dict[str, bytes]:
    """Names of every kind, with lengths around those of a cluster."""
    chance = random.Random(7)
    names = [
        "cmdline.txt",
        "User-Data",
        "a" * 255,
        "exactly13char",
        "b" * 26,
        "EMPTY",
        "Mixed.Case",
        "sp ace.txt",
        "🎥",
    ]
    names += [
        "vigil/firstboot.sh",
        "vigil/numpy-2.0.0-cp313-cp313-manylinux_2_17_aarch64.whl",
        "vigil/ünï 名前.yaml",
    ]
    names += [f"vigil/deep/er/file-with-number-{number}.deb" for number in range(40)]
    names += [f"m{number}.txt" for number in range(20)]
    sizes = [0, 1, 511, 512, 513, 5_000, 40_000]
    return {name: chance.randbytes(chance.choice(sizes)) for name in names}


@pytest.mark.parametrize(("fat", "boot_bytes"), [(32, 40 << 20), (16, 24 << 20)])
def test_what_it_writes_others_read_and_find_sound(tmp_path: Path, fat: int, boot_bytes: int) -> None:
    image = PiImage(fat=fat, boot_bytes=boot_bytes).build(tmp_path / "card.img")
    files = many_files()
    with volume(image) as card:
        free_bytes = card.free_bytes
        for name, content in files.items():
            card.put(name, content)
        card.commit()
        assert card.free_bytes < free_bytes - sum(map(len, files.values())) + 10_000
    assert fsck_fat(image, tmp_path) == ""
    with volume(image, "rb") as card:
        assert [name for name, content in files.items() if card.read(name) != content] == []
    asked = ["cmdline.txt", "user-data", "a" * 255, "Mixed.Case", "vigil/deep/er/file-with-number-39.deb", "m19.txt"]
    for name in (*asked, "vigil/ünï 名前.yaml"):
        assert read_fat_file(image, name) == files.get(name, files["User-Data"])
    assert read_fat_file(image, "config.txt") == TRIXIE["config.txt"]


def test_a_file_that_is_there_is_replaced_whatever_its_case_and_keeps_its_name(tmp_path: Path) -> None:
    image = PiImage().build(tmp_path / "card.img")
    with volume(image) as card:
        before = card.names()
        card.put("CMDLINE.TXT", b"short")
        card.put("USER-data", b"#cloud-config\n")
        card.put("Kernel8.IMG", b"k" * 900_000)
        card.commit()
        assert card.names() == before
    assert read_fat_file(image, "cmdline.txt") == b"short"
    assert read_fat_file(image, "kernel8.img") == b"k" * 900_000
    assert fsck_fat(image, tmp_path) == ""


def test_a_file_from_the_disk_is_written_in_parts_and_told(tmp_path: Path) -> None:
    image = PiImage(fat=16, boot_bytes=8 << 20).build(tmp_path / "card.img")
    bundle = tmp_path / "bundle.tar"
    bundle.write_bytes(random.Random(3).randbytes(2_500_001))
    told: list[int] = []
    with volume(image) as card:
        card.put("vigil/bundle.tar", bundle)
        card.commit(told.append)
    assert sum(told) == 2_500_001
    assert read_fat_file(image, "vigil/bundle.tar") == bundle.read_bytes()


def test_a_volume_that_is_too_full_is_left_as_it_is(tmp_path: Path) -> None:
    image = PiImage(fat=16, boot_bytes=8 << 20, filled_bytes=6 << 20).build(tmp_path / "card.img")
    before = image.read_bytes()
    with volume(image) as card:
        card.put("first", b"x" * 100_000)
        with pytest.raises(ConfigError, match=r"too small: vigil/bundle\.tar needs"):
            card.put("vigil/bundle.tar", b"y" * 2_000_000)
    assert image.read_bytes() == before


def test_the_last_cluster_is_used_and_no_more(tmp_path: Path) -> None:
    image = PiImage(fat=16, boot_bytes=8 << 20, files={"cmdline.txt": b"x"}).build(tmp_path / "card.img")
    with volume(image) as card:
        free_bytes = card.free_bytes
        card.put("all", b"z" * free_bytes)
        card.commit()
        assert card.free_bytes == 0
        with pytest.raises(ConfigError, match="too small"):
            card.put("one more", b"1")
    assert fsck_fat(image, tmp_path) == ""


def test_the_root_of_fat16_cannot_grow(tmp_path: Path) -> None:
    image = PiImage(fat=16, boot_bytes=8 << 20, files={}).build(tmp_path / "card.img")
    with volume(image) as card:
        for number in range(511):  # and the label
            card.put(f"N{number}", b"")
        with pytest.raises(ConfigError, match="no room for another name"):
            card.put("N511", b"")


@pytest.mark.parametrize("name", ["a:b", "what?", "dot.", "", "tab\t", "x" * 256])
def test_a_name_that_cannot_be_is_refused(tmp_path: Path, name: str) -> None:
    image = PiImage(fat=16, boot_bytes=8 << 20, files={}).build(tmp_path / "card.img")
    with volume(image) as card, pytest.raises((ConfigError, ValueError)):
        card.put(f"vigil/{name}" if name else "", b"")


def test_a_folder_is_no_file_and_a_file_no_folder(tmp_path: Path) -> None:
    image = PiImage(fat=16, boot_bytes=8 << 20).build(tmp_path / "card.img")
    with volume(image) as card:
        card.put("vigil/one", b"1")
        with pytest.raises(ConfigError, match="is a folder"):
            card.put("Vigil", b"2")
        with pytest.raises(ConfigError, match="is a file"):
            card.put("cmdline.txt/x", b"3")
        with pytest.raises(ConfigError, match="there is no file"):
            card.read("vigil/two")


def test_names_in_capitals_of_old_tools_are_found_and_long_names_without_owner_are_not(tmp_path: Path) -> None:
    image = PiImage(fat=16, boot_bytes=8 << 20, files={"CMDLINE.TXT": b"old", "Orphan Name.txt": b"x"}).build(
        tmp_path / "card.img"
    )
    with volume(image) as card:
        assert card.read("cmdline.txt") == b"old"
        # A tool that knows no long names has renamed the short one.
    subprocess.run(
        ["mren", "-i", f"{image}@@{BOOT_OFFSET_BYTES}", "::CMDLINE.TXT", "::Long Command Line.txt"], check=True
    )
    with volume(image) as card:
        assert not card.has("cmdline.txt")
        assert card.has("long command line.TXT")


def test_a_damaged_chain_ends_in_words_and_not_in_a_loop(tmp_path: Path) -> None:
    image = PiImage().build(tmp_path / "card.img")
    with image.open("r+b") as file:
        # The first cluster of the root folder follows itself.
        file.seek(BOOT_OFFSET_BYTES + 32 * 512 + 2 * 4)
        file.write(b"\x02\x00\x00\x00")
    with volume(image, "rb") as card, pytest.raises(ConfigError, match="damaged"):
        card.names()


@pytest.mark.parametrize(
    ("at", "content", "words"),
    [
        (11, b"\x00\x01", "no FAT"),
        (13, b"\x03", "no FAT"),
        (32, b"\xff\xff\xff\x0f", "do not fit"),
        (510, b"zz", "no FAT"),
    ],
)
def test_what_is_no_volume_is_refused(tmp_path: Path, at: int, content: bytes, words: str) -> None:
    image = PiImage().build(tmp_path / "card.img")
    with image.open("r+b") as file:
        file.seek(BOOT_OFFSET_BYTES + at)
        file.write(content)
    with pytest.raises(ConfigError, match=words), volume(image, "rb"):
        pass
