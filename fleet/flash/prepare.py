"""A node's files into an image: what its kind of first boot reads, and what makes the node."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from config.errors import ConfigError, PermanentError
from fleet.bundle.firstboot import FOLDER, first_boot_files
from fleet.flash.boot_text import with_setting
from fleet.flash.card import NodeCard
from fleet.flash.cloudinit import cloud_init_files
from fleet.flash.family import Family, Format, read_family
from fleet.flash.fat import FatVolume
from fleet.flash.firstrun import firstrun_files
from fleet.flash.partitions import boot_partition

__all__ = ["Prepared", "check_image", "image_family", "prepare"]


@dataclass(frozen=True, slots=True)
class Prepared:
    """What was put into an image.

    Attributes:
        family: what the image is.
        files: what is new on its boot partition, and how many bytes each has.
        free_bytes: room that is left there.
    """

    family: Family
    files: dict[str, int]
    free_bytes: int


def check_image(image: Path) -> None:
    """Look whether a Raspberry Pi could boot from it.

    Raises:
        ConfigError: it is no image of a card.
    """
    with image.open("rb") as file:
        boot_partition(file)


def image_family(image: Path, asked: Format | None, now: datetime) -> Family:
    """What an image is; see :func:`read_family`.

    Raises:
        ConfigError: it is none for a Raspberry Pi, or does not say.
    """
    with image.open("rb") as file:
        partition = boot_partition(file)
        volume = FatVolume(file, offset_bytes=partition.offset_bytes, size_bytes=partition.size_bytes, now=now)
        return read_family(volume, asked)


def prepare(
    image: Path,
    card: NodeCard,
    *,
    asked: Format | None,
    now: datetime,
    on_progress: Callable[[int], None] = lambda _bytes: None,
) -> Prepared:
    """Put a node's files onto the boot partition of an image. Where they have no room, it stays as it is.

    Args:
        image: the unpacked image, which is changed.
        card: what the node is to be.
        asked: the format of the first boot, where the image does not say it.
        now: local time.
        on_progress: called with the bytes that were written since the last call.

    Raises:
        ConfigError: the image is none that Vigil can write, or has no room.
        PermanentError: the file cannot be written.
    """
    try:
        with image.open("r+b") as file:
            partition = boot_partition(file)
            volume = FatVolume(file, offset_bytes=partition.offset_bytes, size_bytes=partition.size_bytes, now=now)
            family = read_family(volume, asked)
            files = _files(volume, card, family.format, now)
            for path, content in files.items():
                volume.put(path, content)
            volume.commit(on_progress)
            return Prepared(family, {path: _size(content) for path, content in files.items()}, volume.free_bytes)
    except OSError as error:
        raise PermanentError(f"{error.filename or image} cannot be used: {error.strerror}") from error


def _files(volume: FatVolume, card: NodeCard, form: Format, now: datetime) -> dict[str, bytes | Path]:
    cmdline = volume.read("cmdline.txt")
    files: dict[str, bytes | Path] = {}
    if form == "cloud-init":
        # An instance that cloud-init knows has no first boot, as when a card is written for the same node again.
        files |= cloud_init_files(card, cmdline, f"vigil-{card.node}-{secrets.token_hex(8)}")
    else:
        files |= firstrun_files(card, cmdline)
    if card.config_txt:
        files["config.txt"] = _config_txt(volume, card.config_txt)
    return files | {f"{FOLDER}/{name}": content for name, content in first_boot_files(card, now).items()}


def _config_txt(volume: FatVolume, lines: Iterable[str]) -> bytes:
    if not volume.has("config.txt"):
        raise ConfigError("there is no config.txt on the boot partition", field="--config-txt")
    content = volume.read("config.txt")
    for line in lines:
        content = with_setting(content, line)
    return content


def _size(content: bytes | Path) -> int:
    return content.stat().st_size if isinstance(content, Path) else len(content)
