"""Whether the registry has a camera already, and what changes in its file when it is found at another address."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from config.registry import CameraEntry
from fleet.discovery.device import DeviceFacts
from fleet.discovery.sightings import Sighting

__all__ = ["KnownCameras", "changes_for", "host_of", "is_address"]


@dataclass(frozen=True, slots=True)
class KnownCameras:
    """The registry's cameras, to be found again.

    Attributes:
        entries: by name.
    """

    entries: Mapping[str, CameraEntry]

    def guess(self, sighting: Sighting) -> str | None:
        """Which one it may be, by what it says to everybody; its login tells whether it is.

        An address comes last: it may be another camera's by now.
        """
        for name, entry in self.entries.items():
            device = entry.device
            if sighting.endpoint and device.endpoint == sighting.endpoint:
                return name
            if sighting.mac is not None and device.mac == sighting.mac:
                return name
        return next((name for name, entry in self.entries.items() if host_of(entry) == sighting.host), None)

    def recognise(self, sighting: Sighting, facts: DeviceFacts | None) -> str | None:
        """Which one it is: by MAC, else by serial number, else by its endpoint.

        Only one that cannot be told by any of these is known by its address.
        """
        mac = facts.mac if facts is not None and facts.mac is not None else sighting.mac
        for name, entry in self.entries.items():
            if mac is not None and entry.device.mac == mac:
                return name
        if facts is not None and facts.serial.strip("0 -"):  # some makers give them all the same nothing
            for name, entry in self.entries.items():
                if _is_same_serial(entry, facts):
                    return name
        for name, entry in self.entries.items():
            if (
                sighting.endpoint
                and entry.device.endpoint == sighting.endpoint
                and not _differs(entry, sighting, facts)
            ):
                return name
        return next((name for name, entry in self.entries.items() if _is_at(entry, sighting, facts)), None)


def changes_for(entry: CameraEntry, sighting: Sighting, facts: DeviceFacts | None) -> dict[str, Any]:
    """What to change in a camera's file so that it says where the camera is now; empty where it says so already.

    Its paths and ports stay: only where it is has changed. A host name stays too: that is what it is for.

    Args:
        entry: its file.
        sighting: where it was seen.
        facts: what it is; None where it did not say.
    """
    changes: dict[str, Any] = {}
    if is_address(host_of(entry)) and host_of(entry) != sighting.host:
        changes["source"] = _moved(entry.source, sighting.host)
        if entry.sub_source is not None:
            changes["sub_source"] = _moved(entry.sub_source, sighting.host)
    device = {
        key: value
        for key, value, held in (
            ("mac", facts.mac if facts else None, entry.device.mac),
            ("serial", facts.serial if facts else "", entry.device.serial),
            ("onvif", sighting.onvif, entry.device.onvif),
            ("endpoint", sighting.endpoint, entry.device.endpoint),
        )
        if value and value != held
    }
    return {**changes, **({"device": device} if device else {})}


def is_address(host: str) -> bool:
    """Whether a host is an IP address, not a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def host_of(entry: CameraEntry) -> str:
    """The host of a camera's source; empty for one that is no network camera."""
    return urlsplit(entry.source).hostname or ""


def _moved(uri: str, host: str) -> str:
    parts = urlsplit(uri)
    where = f"[{host}]" if ":" in host else host
    return urlunsplit(parts._replace(netloc=f"{where}:{parts.port}" if parts.port else where))


def _is_same_serial(entry: CameraEntry, facts: DeviceFacts) -> bool:
    """Makers count on their own: the same number of two makers, or models, is no coincidence worth a mistake."""
    device = entry.device
    same_kind = all(
        not held or held == told
        for held, told in ((device.manufacturer, facts.manufacturer), (device.model, facts.model))
    )
    return device.serial == facts.serial and same_kind and (device.mac is None or facts.mac is None)


def _is_at(entry: CameraEntry, sighting: Sighting, facts: DeviceFacts | None) -> bool:
    """Whether it is at the camera's address, and nothing that is known of it speaks against it."""
    return host_of(entry) == sighting.host and not _differs(entry, sighting, facts)


def _differs(entry: CameraEntry, sighting: Sighting, facts: DeviceFacts | None) -> bool:
    """Whether it says something of itself that the camera is not."""
    device = entry.device
    mac, serial = (facts.mac, facts.serial) if facts is not None else (sighting.mac, "")
    pairs = ((device.mac, mac), (device.serial, serial), (device.endpoint, sighting.endpoint))
    return any(held and said and held != said for held, said in pairs)
