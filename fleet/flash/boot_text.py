"""The boot partition as the node sees it, and the texts that its firmware reads: ``cmdline.txt``, ``config.txt``."""

from __future__ import annotations

import re
from collections.abc import Iterable

from config.errors import ConfigError
from fleet.bundle.firstboot import FOLDER, START

__all__ = ["FIRMWARE", "FIRST_BOOT", "with_kernel_words", "with_setting"]

FIRMWARE = "/boot/firmware"
"""Where the boot partition is mounted, since Bookworm."""
FIRST_BOOT = f"{FIRMWARE}/{FOLDER}/{START}"
"""What makes a node of a system that has booted."""


def with_kernel_words(cmdline: bytes, words: Iterable[str], *, without: str = "") -> bytes:
    """The kernel's command line with further words. It is one line, whatever was in the file.

    Args:
        cmdline: content of ``cmdline.txt``.
        words: what is added at its end, where it is not there yet.
        without: regular expression of words that are taken out, each matched whole.

    Raises:
        ConfigError: it is empty, or no text: no card boots with that.
    """
    try:
        there = cmdline.decode("ascii").split()
    except UnicodeDecodeError as error:
        raise ConfigError("cmdline.txt on the boot partition is no plain text: take another image") from error
    if not there:
        raise ConfigError("cmdline.txt on the boot partition is empty: take another image")
    kept = [word for word in there if not (without and re.fullmatch(without, word))]
    return " ".join((*kept, *(word for word in words if word not in kept))).encode() + b"\n"


def with_setting(config: bytes, line: str) -> bytes:
    """``config.txt`` with a setting for every model: taken out of a comment where it stands in one, else added.

    Args:
        config: the file's content.
        line: such as ``dtparam=i2c_arm=on``.
    """
    lines = config.decode(errors="surrogateescape").splitlines()
    if line in (one.strip() for one in lines):
        return config
    for number, one in enumerate(lines):
        if one.lstrip("# \t") == line and one.startswith("#"):
            lines[number] = line
            break
    else:
        # What follows a filter such as [pi4] holds for that model only.
        lines += ["[all]", line]
    return ("\n".join(lines) + "\n").encode(errors="surrogateescape")
