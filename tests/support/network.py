"""A network of cameras: a namespace of its own behind a pair of virtual cards, else some addresses of loopback."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

__all__ = ["CameraNetwork", "camera_network"]

_TIMEOUT_S = 20


@dataclass(frozen=True)
class CameraNetwork:
    """Where cameras may be.

    Attributes:
        interface: this side's, to look from.
        hosts: addresses of the cameras' side.
        enter: the beginning of the command line of whatever is to run there.
    """

    interface: str
    hosts: Sequence[str]
    enter: Sequence[str]

    @property
    def is_real(self) -> bool:
        """Whether it is a namespace."""
        return bool(self.enter)


@contextlib.contextmanager
def camera_network(count: int) -> Iterator[CameraNetwork]:
    """A network with `count` addresses for cameras; on loopback where this user may make no namespace."""
    number = os.getpid() % 16_000
    subnet = f"10.{192 + number // 256}.{number % 256}"
    space, card = f"vigil-{os.getpid()}", f"vg{os.getpid()}"
    hosts = [f"{subnet}.{10 + index}" for index in range(count)]
    try:
        try:
            _ip("netns", "add", space)
            _ip("link", "add", card, "type", "veth", "peer", "name", "eth0", "netns", space)
        except (OSError, subprocess.CalledProcessError):
            yield CameraNetwork("127.0.0.1", [f"127.77.{number % 256}.{10 + index}" for index in range(count)], ())
            return
        _ip("address", "add", f"{subnet}.1/24", "dev", card)
        _ip("link", "set", card, "up")
        lines = [f"address add {host}/24 dev eth0" for host in hosts]
        _ip("-n", space, "-batch", "-", lines=[*lines, "link set lo up", "link set eth0 up"])
        yield CameraNetwork(card, hosts, ("ip", "netns", "exec", space))
    finally:
        subprocess.run(["ip", "netns", "delete", space], capture_output=True, timeout=_TIMEOUT_S, check=False)


def _ip(*arguments: str, lines: Sequence[str] = ()) -> None:
    subprocess.run(
        ["ip", *arguments], input="\n".join(lines).encode(), capture_output=True, timeout=_TIMEOUT_S, check=True
    )
