"""Which first boot an image has: read from the image, never guessed.

Source: https://github.com/RPi-Distro/pi-gen (branches ``bookworm`` and ``master``), and
https://github.com/raspberrypi/rpi-imager/blob/main/doc/os_customisation_formats.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from config.errors import ConfigError
from config.text import printable
from fleet.flash.fat import FatVolume

__all__ = ["FORMATS", "Family", "Format", "read_family"]

Format = Literal["cloud-init", "firstrun"]
FORMATS: tuple[Format, ...] = ("cloud-init", "firstrun")

_FIRSTBOOT = "init=/usr/lib/raspberrypi-sys-mods/firstboot"
"""In the command line of Bookworm, and of nothing that has cloud-init."""
_SEED = ("user-data", "meta-data")
_PRESEED = "rpi-preseed.toml"


@dataclass(frozen=True, slots=True)
class Family:
    """What an image is.

    Attributes:
        format: how its first boot is told what to do.
        name: what it says that it is; may be empty.
        is_asked: somebody said the format, and the image did not.
    """

    format: Format
    name: str
    is_asked: bool


def read_family(volume: FatVolume, asked: Format | None = None) -> Family:
    """What the image is.

    Args:
        volume: its boot partition.
        asked: the format that a person has said, where the image does not.

    Raises:
        ConfigError: nothing tells, or two things contradict each other; the message says what was seen, and what to do.
    """
    if not volume.has("cmdline.txt"):
        raise ConfigError(
            f"its boot partition has no cmdline.txt, so no Raspberry Pi boots Linux from it; {_seen(volume)}"
        )
    name = _issue(volume)
    found = _formats(volume)
    if len(found) == 1:
        if asked is not None and asked != found[0]:
            raise ConfigError(f"this image takes {found[0]}, not {asked}: leave --format out", field="--format")
        return Family(found[0], name, is_asked=False)
    if asked is not None and not found:
        return Family(asked, name, is_asked=True)
    if volume.has(_PRESEED):
        raise ConfigError(
            f"it takes {_PRESEED}, which Vigil does not write: take an image of Raspberry Pi OS with cloud-init "
            "(Trixie, since December 2025), or say --format cloud-init if this one takes that too"
        )
    what = "says both cloud-init and firstrun" if found else "does not say how its first boot is told what to do"
    raise ConfigError(
        f"the image {what}, and a card that is written in the wrong way boots as if nothing was on it. Known are "
        "Raspberry Pi OS Trixie (user-data and meta-data on the boot partition) and Bookworm "
        f"({_FIRSTBOOT} in cmdline.txt). {_seen(volume)}. If you know which, say --format cloud-init, or --format "
        "firstrun (so the first Trixie, of October 2025)",
        field="--image",
    )


def _formats(volume: FatVolume) -> list[Format]:
    found: list[Format] = []
    if all(volume.has(one) for one in _SEED):
        found.append("cloud-init")
    if _FIRSTBOOT in volume.read("cmdline.txt").decode(errors="replace").split():
        found.append("firstrun")
    return found


def _issue(volume: FatVolume) -> str:
    """Such as ``Raspberry Pi reference 2025-12-04``."""
    if not volume.has("issue.txt"):
        return ""
    return printable(volume.read("issue.txt").decode(errors="replace").strip().partition("\n")[0], 80)


def _seen(volume: FatVolume) -> str:
    names = sorted(name for name in volume.names() if name.rpartition(".")[2] in {"txt", "toml"} or "-" in name)
    words = volume.read("cmdline.txt").decode(errors="replace") if volume.has("cmdline.txt") else "not there"
    files = ", ".join(names[:20]) or "none"
    return f"Seen: {_issue(volume) or 'no issue.txt'}; files {files}; cmdline.txt: {printable(words.strip(), 300)}"
