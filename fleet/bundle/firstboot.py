"""What lies on a card for the first boot of a node: in the folder ``vigil/`` of its FAT partition."""

from __future__ import annotations

from datetime import datetime
from importlib.resources import files
from pathlib import Path

import yaml

from config.clock import SystemClock
from config.names import check_name
from fleet.flash.card import NodeCard

__all__ = ["FOLDER", "START", "first_boot_files"]

FOLDER = "vigil"
"""On the FAT partition, so that any computer shows it."""
START = "firstboot.sh"
"""What the operating system is to run with bash at its first boot, as root; see there what it does."""


def first_boot_files(card: NodeCard, now: datetime | None = None) -> dict[str, bytes | Path]:
    """What is to be in ``vigil/`` on the card.

    `firstboot.sh` is the one to run (``bash /boot/firmware/vigil/firstboot.sh``). It goes on by itself after a power
    cut, writes ``vigil/firstboot.log``, and erases token and settings when they were used.

    Args:
        card: what the node is to be.
        now: the time, which a node without a clock begins with; default: that of this machine.

    Returns:
        Names in that folder, with their content, or the file that has it.
    """
    check_name(card.node)
    on_card: dict[str, bytes | Path] = {
        START: (files("fleet.bundle") / "on_node" / START).read_bytes(),
        "card.env": _facts(card, now or SystemClock().now()),
        "vigil.yaml": _site_file(card),
        "token": f"{card.token}\n".encode(),
    }
    if card.bundle is not None:
        on_card["install.py"] = (files("fleet.bundle") / "on_node" / "install.py").read_bytes()
        on_card["bundle.tar"] = card.bundle
    return on_card


def _facts(card: NodeCard, now: datetime) -> bytes:
    """What the script reads: plain words, none of which a shell understands as anything else."""
    facts = {"NODE": card.node, "AUTHORITY": card.authority, "WRITTEN_AT_S": str(int(now.timestamp()))}
    for name, value in facts.items():
        if not all(sign.isalnum() or sign in "-_.:[]" for sign in value):
            raise ValueError(f"{name}: {value!r}")
    return "".join(f"{name}={value}\n" for name, value in facts.items()).encode()


def _site_file(card: NodeCard) -> bytes:
    """The node's settings; cameras with a source of their own are watched from the first minute."""
    settings: dict[str, object] = {
        "site": card.site,
        "node": card.node,
        "bus": {"url": card.broker},
        "state_dir": "/var/lib/vigil",
    }
    cameras = {name: {"source": source} for name, source in card.cameras.items() if source}
    if cameras:
        settings["cameras"] = cameras
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True).encode()
