"""Pictures of cameras as the checks see them, and the reference pictures that people have taken.

A reference picture is a fact that somebody has stated: this is what it should look like. It lies beside the registry's
files, ``references/CAMERA/LABEL.jpg``, and nothing deletes it. There may be several of a camera: by day, at night,
by infrared.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from broker import Frame, decode_frame
from config import BadPayloadError, ConfigError, get_logger
from config.files import write_atomically
from config.names import check_name
from fleet.schedules.checks import Look

__all__ = ["Reference", "References", "read_look", "shrink"]

_PIXELS_MAX = 40_000_000
_SMALLER = (1.0, 0.75, 0.5, 0.35, 0.25)
_QUALITY = 80
_READABLE = 0o600
"""For its owner only: it shows what the camera sees."""


@dataclass(frozen=True, slots=True)
class Reference:
    """One reference picture.

    Attributes:
        label: such as ``day``.
        taken_at: by the camera's node.
    """

    label: str
    taken_at: datetime
    look: Look


class References:
    """The reference pictures of a site.

    Args:
        registry: the registry's folder.
    """

    def __init__(self, registry: Path) -> None:
        self._folder = registry / "references"

    def of(self, camera: str) -> list[Reference]:
        """A camera's, by label; a broken file is said and left out."""
        found = []
        for path in sorted((self._folder / camera).glob("*.jpg")):
            try:
                frame = decode_frame(path.read_bytes())
                found.append(Reference(path.stem, frame.meta.captured_at, read_look(frame)))
            except (OSError, BadPayloadError) as error:
                get_logger().warning("check.reference_unusable", path=str(path), error=str(error))
        return found

    def keep(self, camera: str, label: str, frame: Frame) -> Path:
        """Write a reference picture down, in place of one with the same label.

        Raises:
            ConfigError: the label is no name, or the folder cannot be written.
        """
        path = self._folder / camera / f"{_checked(label)}.jpg"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, frame.jpeg, mode=_READABLE)
        except OSError as error:
            raise ConfigError(f"the reference picture cannot be kept: {error.strerror}", file=path) from error
        return path


def _checked(label: str) -> str:
    try:
        return check_name(label)
    except ValueError as error:
        raise ConfigError(f"a reference picture's label is a name such as day or night: {error}") from None


def read_look(frame: Frame) -> Look:
    """The brightness of a picture.

    Raises:
        BadPayloadError: it is none, or too large to be one.
    """
    return Look(np.asarray(_open(frame.jpeg).convert("L")))


def shrink(jpeg: bytes, bytes_max: int) -> tuple[bytes, int, int] | None:
    """A picture as large as it may be.

    Returns:
        The JPEG, its width and its height; None where even a small one is too large, or it is no picture.
    """
    try:
        picture = _open(jpeg)
    except BadPayloadError:
        return None
    for scale in _SMALLER:
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        made = io.BytesIO()
        picture.resize(size).save(made, "JPEG", quality=_QUALITY)
        if made.tell() <= bytes_max:
            return made.getvalue(), *size
    return None


def _open(jpeg: bytes) -> Image.Image:
    try:
        picture = Image.open(io.BytesIO(jpeg), formats=("JPEG",))
        if picture.width * picture.height > _PIXELS_MAX:
            raise BadPayloadError(f"a picture of {picture.width} by {picture.height} px is too large to look at")
        picture.load()
    except (OSError, UnidentifiedImageError, ValueError) as error:
        raise BadPayloadError(f"the picture cannot be decoded: {error}", size_bytes=len(jpeg)) from error
    return picture
