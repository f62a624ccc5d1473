"""The network interfaces of this machine, as people name them."""

from __future__ import annotations

import socket
from collections.abc import Sequence

import psutil

from config import ConfigError

__all__ = ["interface_addresses", "neighbours"]

_NEIGHBOURS = "/proc/net/arp"


def interface_addresses(names: Sequence[str] = ()) -> list[str]:
    """IPv4 addresses of interfaces, the first of each.

    Args:
        names: their names or addresses; empty for all that are up, loopback only where there is no other.

    Raises:
        ConfigError: there is no such interface, or it has no IPv4 address.
    """
    states = psutil.net_if_stats()
    found = {
        name: [one.address for one in addresses if one.family == socket.AF_INET]
        for name, addresses in psutil.net_if_addrs().items()
        if name in states and states[name].isup
    }
    if names:
        return [_named(name, found) for name in names]
    usable = {name: addresses[0] for name, addresses in found.items() if addresses}
    return [address for address in usable.values() if not address.startswith("127.")] or list(usable.values())


def _named(name: str, found: dict[str, list[str]]) -> str:
    if any(name in addresses for addresses in found.values()):
        return name
    if found.get(name):
        return found[name][0]
    known = ", ".join(sorted(each for each, addresses in found.items() if addresses)) or "none"
    raise ConfigError(f"there is no interface {name!r} with an IPv4 address that is up here; there are {known}")


def neighbours() -> dict[str, str]:
    """MAC by IPv4 address of those on the same link that this machine has spoken to lately.

    One MAC that stands for several addresses is a router's, and says nothing of who is behind it.
    """
    try:
        with open(_NEIGHBOURS, encoding="ascii") as file:  # noqa: PTH123 - a table of the kernel
            rows = [line.split() for line in file.readlines()[1:]]
    except OSError:
        return {}
    macs = {row[0]: row[3].lower() for row in rows if len(row) >= 6 and row[3] != "00:00:00:00:00:00"}
    seen = list(macs.values())
    return {address: mac for address, mac in macs.items() if seen.count(mac) == 1}
