"""What must still be known after a restart: what was published, and of which facts it was made."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from bridge.homeassistant.facts import CameraFacts, NodeFacts
from config import get_logger
from config.files import write_atomically

__all__ = ["Known", "Published", "known_path", "read_known", "write_known"]

Form = Literal["device", "entity"]


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """What stands at the broker of one device.

    Attributes:
        form: under one topic, or under one for each entity.
        components: by key; each is to be taken back some day.
    """

    form: Form
    components: dict[str, str]


class Known(msgspec.Struct, kw_only=True):
    """The file.

    Attributes:
        prefix: below which it was published.
        published: by the device's id.
    """

    v: Literal[1] = 1
    prefix: str = ""
    published: dict[str, Published] = {}
    cameras: dict[str, CameraFacts] = {}
    nodes: dict[str, NodeFacts] = {}


def known_path(state_dir: Path, site: str, origin: str) -> Path:
    """Where it is."""
    return state_dir / "homeassistant" / site / f"{origin}.json"


def read_known(path: Path) -> Known:
    """What was known; without a file, or with one that cannot be read, what the broker keeps will tell."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Known)
    except FileNotFoundError:
        return Known()
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        get_logger().warning("homeassistant.memory_unreadable", file=str(path), error=str(error))
        return Known()


def write_known(path: Path, known: Known) -> None:
    """Write it down; where that fails, what the broker keeps will tell."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, msgspec.json.format(msgspec.json.encode(known), indent=1))
    except OSError as error:
        get_logger().error("homeassistant.memory_unwritten", file=str(path), error=str(error))
