"""What the releases of brokers are known to do wrong, whatever their configuration.

Seen on Mosquitto 2.0.11 and amqtt 0.12.1; since when and until when is from Mosquitto's change log and source.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["known_traps", "product_of"]

Release = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Trap:
    """Something that the releases from `since` on do, up to the one in which it is cured."""

    product: str
    text: str
    cured_in: Release = (999,)
    since: Release = (0,)


_TRAPS = (
    _Trap(
        "mosquitto",
        "over max_queued_messages the newest are dropped, and the publisher is told Success; "
        "$SYS/broker/publish/messages/dropped counts them",
    ),
    _Trap("mosquitto", "a client's receive window is not held, so it may get more than it asked for", (2, 0, 22)),
    _Trap(
        "mosquitto",
        "SIGHUP takes the rights of clients that are away where certificates name the users: what comes for them is "
        "dropped until they are back; restart it instead, as `vigil broker run` does",
        (2, 1),
    ),
    _Trap("mosquitto", "max_queued_messages 0 is not unlimited", (2, 0, 22), since=(2, 0, 16)),
    _Trap(
        "mosquitto",
        "CVE-2021-34434, CVE-2023-0809, CVE-2023-3592 and CVE-2023-28366, unless the distribution has patched it",
        (2, 0, 16),
    ),
    _Trap("mosquitto", "packets above 2,000,000 bytes are refused unless max_packet_size says more", since=(2, 1)),
    _Trap("amqtt", "no limit on queues or packets: a client that does not read costs memory without end"),
    _Trap("amqtt", "nothing is kept over a restart of the broker: sessions, retained messages, queues"),
)


def product_of(words: str) -> tuple[str, Release]:
    """Name and release in what a broker says of itself; empty where they are not known."""
    found = re.search(r"(mosquitto|amqtt)\D*(\d+(?:\.\d+)*)", words.lower())
    return ("", ()) if found is None else (found[1], tuple(int(part) for part in found[2].split(".")))


def known_traps(product: str, release: Release) -> tuple[str, ...]:
    """What to know about this release."""
    return tuple(trap.text for trap in _TRAPS if trap.product == product and trap.since <= release < trap.cured_in)
