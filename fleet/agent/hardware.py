"""What the machine of a node is and has. What it does not tell stays empty, never an error."""

from __future__ import annotations

import os
import platform
import re
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path

import psutil

from broker.messages import Hardware

__all__ = ["look_at_machine"]

_PROGRAM_TIMEOUT_S = 10.0
"""A container engine's first answer after a start takes seconds on a Raspberry Pi."""
_ENGINES = {"podman": "{{.Version.Version}}", "docker": "{{.ServerVersion}}"}
"""What says that an engine works. Where both do, the first is used: it needs no daemon that runs as root."""
_SHORT = 256


def look_at_machine(root: Path = Path("/")) -> Hardware:
    """Look; asks `nvidia-smi` and container engines, so this may take some seconds.

    Args:
        root: where ``proc``, ``sys``, ``dev`` and ``etc`` are, for a test.
    """
    return Hardware(
        model=_model(root),
        serial=_serial(root),
        architecture=platform.machine(),
        system=_os_release(root).get("PRETTY_NAME", "")[:_SHORT],
        cores=os.cpu_count() or 0,
        memory_bytes=psutil.virtual_memory().total,
        gpus=_gpus(),
        cameras=_cameras(root),
        engines=tuple(engine for engine, told in _ENGINES.items() if _output(engine, "info", "--format", told)),
        addresses=_addresses(),
    )


def _model(root: Path) -> str:
    board = _text(root / "proc/device-tree/model")
    if board:
        return board
    maker, product = (_text(root / "sys/class/dmi/id" / name) for name in ("sys_vendor", "product_name"))
    return " ".join(part for part in (maker, product) if part)[:_SHORT]


def _serial(root: Path) -> str:
    # Of DMI only root may read it; then there is none.
    return _text(root / "proc/device-tree/serial-number") or _text(root / "sys/class/dmi/id/product_serial")


def _os_release(root: Path) -> Mapping[str, str]:
    lines = (line.partition("=") for line in _text(root / "etc/os-release", 16_384).splitlines())
    return {name: value.strip("\"'") for name, _, value in lines}


def _cameras(root: Path) -> tuple[str, ...]:
    """Devices of video4linux that take pictures; the kernel names others too, such as decoders."""
    nodes = sorted((root / "dev").glob("video*"), key=lambda node: (len(node.name), node.name))
    return tuple(f"v4l2:/dev/{node.name}" for node in nodes if _takes_pictures(root, node.name))


def _takes_pictures(root: Path, device: str) -> bool:
    # Of a camera with several nodes only the first carries pictures, the others what is known about them.
    about = root / "sys/class/video4linux" / device
    name = _text(about / "name").lower()
    is_codec = any(word in name for word in ("codec", "isp", "hevc", "decoder", "encoder", "stat"))
    return not is_codec and _text(about / "index") in ("", "0")


def _gpus() -> tuple[str, ...]:
    """In the order of the bus, as CUDA_DEVICE_ORDER=PCI_BUS_ID numbers them."""
    names = _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    return tuple(line.strip()[:_SHORT] for line in names.splitlines() if line.strip())


def _addresses() -> tuple[str, ...]:
    found: list[str] = []
    for interface, addresses in sorted(psutil.net_if_addrs().items()):
        if re.match(r"(veth|br-|docker|podman|cni|virbr)", interface):
            continue  # of containers
        for address in addresses:
            if address.family in (socket.AF_INET, socket.AF_INET6):
                place = ip_address(address.address.partition("%")[0])
                if not place.is_loopback and not place.is_link_local:
                    found.append(str(place))
    return tuple(found)


def _output(program: str, *arguments: str) -> str:
    """What a program prints; empty where it is not there, fails, or hangs."""
    path = shutil.which(program)
    if path is None:
        return ""
    return _run([path, *arguments])


def _run(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PROGRAM_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _text(file: Path, characters: int = _SHORT) -> str:
    try:
        with file.open("rb") as opened:
            return opened.read(characters).decode(errors="replace").replace("\0", "").strip()
    except OSError:
        return ""
