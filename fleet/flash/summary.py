"""What `vigil flash` tells at its end: what is on the card, what happens next, and how one sees it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fleet.bundle.firstboot import FOLDER

__all__ = ["Written", "summary"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A card that was written.

    Attributes:
        node: whose it is.
        site: the node's.
        roles: what it may be.
        cameras: those that it watches.
        authority: where it enrols.
        broker: where its bus is.
        image: the system's file.
        image_is_checked: against a SHA-256.
        system: what the image says that it is.
        format: its kind of first boot.
        files: what is new on its boot partition.
        bundle: version of Vigil on it.
        has_packages: all that Vigil needs is in it.
        wifi: the network's name; empty: cable.
        user: who may log in.
        has_ssh: also over the network.
        written_to: file or disk.
        is_device: it is a disk.
        sha256: of the whole.
        token_days: how long its token holds; None: it came from elsewhere.
        door_is_open: nodes can enrol now, as far as one can tell from here.
    """

    node: str
    site: str
    roles: tuple[str, ...]
    cameras: tuple[str, ...]
    authority: str
    broker: str
    image: str
    image_is_checked: bool
    system: str
    format: str
    files: tuple[str, ...]
    bundle: str
    has_packages: bool
    wifi: str
    user: str
    has_ssh: bool
    written_to: str
    is_device: bool
    sha256: str
    token_days: int | None
    door_is_open: bool


def summary(written: Written) -> str:
    """For a person."""
    lines = [f"{written.written_to} is the card of the node {written.node} of the site {written.site}.", ""]
    lines += [f"  {name:<10} {text}" for name, text in _rows(written)]
    return "\n".join((*lines, "", *_next(written)))


def _rows(written: Written) -> Iterator[tuple[str, str]]:
    checked = "SHA-256 checked" if written.image_is_checked else "its SHA-256 was NOT checked: nobody said one"
    yield "system", f"{written.system or written.image} ({written.format}); {checked}"
    watched = f" with camera {', '.join(written.cameras)}" if written.cameras else ""
    yield "node", ", ".join(written.roles) + watched
    whence = "nothing else is needed" if written.has_packages else "what it needs comes from the internet (--bundle)"
    yield "Vigil", f"{written.bundle}, on the card; {whence}"
    yield "network", f"cable, and wifi {written.wifi!r}" if written.wifi else "cable"
    yield "log in", _log_in(written)
    held = f", for {written.token_days} days, once" if written.token_days is not None else ""
    yield "enrols", f"at {written.authority}{held}; the bus is {written.broker}"
    yield "SHA-256", f"{written.sha256}{' (read back)' if written.is_device else ''}"


def _log_in(written: Written) -> str:
    if not written.user:
        return "nobody but whom the image knows"
    return f"{written.user}, {'over ssh too' if written.has_ssh else 'at its own keyboard only'}"


def _next(written: Written) -> Iterator[str]:
    if not written.is_device:
        yield f"Write it onto a card with `sudo vigil flash --image {written.written_to} --as-is --device /dev/sdX`,"
        yield "or with Raspberry Pi Imager. Until its token is used, whoever has this file can be the node: keep it."
    starts = "three times" if written.format == "firstrun" else "twice"
    yield f"Put the card into the Raspberry Pi and switch it on. It starts {starts}, and is a node after some minutes:"
    yield f"`vigil node list` shows it. What goes wrong stands in {FOLDER}/firstboot.log on the card, for any computer."
    if not written.door_is_open:
        yield "Nodes cannot enrol at the moment: start `vigil ca serve` on this machine."
