"""What a search leads to in the registry: cameras that are new, and cameras that have moved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from config import ConfigError
from config.registry import CameraEntry
from fleet.discovery.cameras import Camera
from fleet.discovery.known import KnownCameras, changes_for, host_of
from fleet.discovery.proposals import Proposal
from fleet.registry.folder import RegistryFolder

__all__ = ["EVERYTHING", "add", "chosen", "follow", "has_moved", "known_cameras"]

EVERYTHING = "ALL"


def known_cameras(folder: RegistryFolder) -> KnownCameras:
    """The cameras of the registry's files."""
    return KnownCameras({name: held.entry for name, held in folder.read().cameras.items()})


def chosen(proposals: Sequence[Proposal], names: Iterable[str]) -> list[Proposal]:
    """Those that somebody has named, by name or address; ``ALL``: all.

    Raises:
        ConfigError: there is none of that name.
    """
    wanted = set(names)
    if EVERYTHING in wanted:
        return list(proposals)
    found = [one for one in proposals if {one.name, one.camera.sighting.host} & wanted]
    missing = wanted - {name for one in found for name in (one.name, one.camera.sighting.host)}
    if missing:
        offered = ", ".join(one.name for one in proposals) or "none"
        raise ConfigError(f"no new camera is called {', '.join(sorted(missing))}: there are {offered}", field="--add")
    return found


def add(folder: RegistryFolder, proposals: Iterable[Proposal], where: Mapping[str, str]) -> list[str]:
    """Write their files and logins, and return their names.

    Args:
        folder: the registry.
        proposals: which.
        where: ``{"node": NAME}`` or ``{"pool": NAME}``.

    Raises:
        ConfigError: a file would be broken.
        ConflictError: somebody else has made a camera of that name meanwhile.
    """
    names = []
    for proposal in proposals:
        # The login first: a camera without one is tried at once, and that counts as a wrong password.
        if proposal.login is not None and not folder.camera_file(proposal.name).exists():
            folder.set_login(proposal.name, proposal.login)
        folder.change_camera(proposal.name, {**proposal.content, **where}, etag="")
        names.append(proposal.name)
    return names


def has_moved(camera: Camera, entry: CameraEntry) -> bool:
    """Whether a known camera is at another address than its file says."""
    return "source" in changes_for(entry, camera.sighting, camera.facts) and bool(host_of(entry))


def follow(folder: RegistryFolder, cameras: Iterable[Camera]) -> dict[str, tuple[str, str]]:
    """Write where known cameras are now; the old and the new host of those that have moved, by name.

    One that speaks ONVIF and did not take its login may be another that only says it were this one: its file stays.

    Raises:
        ConflictError: somebody else has changed a file meanwhile.
    """
    moved: dict[str, tuple[str, str]] = {}
    held = folder.read().cameras
    for camera in cameras:
        before = held.get(camera.known_as or "")
        if before is None or (camera.facts is None and camera.sighting.onvif is not None):
            continue
        changes = changes_for(before.entry, camera.sighting, camera.facts)
        if changes:
            folder.change_camera(before.name, changes, etag=before.etag)
        if "source" in changes:
            moved[before.name] = (host_of(before.entry), camera.sighting.host)
    return moved
