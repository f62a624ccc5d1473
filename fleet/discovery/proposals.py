"""Ready-made files for cameras that were found: what `vigil camera add` would have been told by hand."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from config.registry import CameraEntry, Login
from fleet.discovery.cameras import Camera
from fleet.discovery.device import DeviceFacts

__all__ = ["Proposal", "propose"]

_SAYS_NOTHING = re.compile(
    r"(ip|network|onvif|hd|dome|bullet|wifi|ptz)?[ _-]?"
    r"(camera|cam|ipc|ipcam|nvt|device|general|default|unknown)?[ _-]?\d*"
    r"|(country|city|district|province)(/.*)?",
    re.IGNORECASE,
)
"""Names and places that cameras have from their maker."""
_NAME_MAX = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A camera's file, as it would be.

    Attributes:
        name: in topics.
        content: what the file would say.
        login: how to log in; None where it needs none.
        camera: which.
    """

    name: str
    content: dict[str, Any]
    login: Login | None
    camera: Camera


def propose(cameras: Iterable[Camera], taken: Collection[str]) -> tuple[list[Proposal], dict[str, str]]:
    """Files for the cameras that are not in the registry and tell where their pictures are.

    Args:
        cameras: that were found.
        taken: names that are there already.

    Returns:
        The proposals; and by host, why there is none.
    """
    proposals: list[Proposal] = []
    refused: dict[str, str] = {}
    names = set(taken)
    for camera in cameras:
        if camera.known_as is not None or camera.streams is None:
            continue
        name = _free(_wanted_name(camera), camera.sighting.host, names)
        content = _content(camera, name)
        try:
            CameraEntry.model_validate(content)
        except ValidationError as error:
            refused[camera.sighting.host] = str(error.errors(include_url=False)[0]["msg"])
            continue
        names.add(name)
        proposals.append(Proposal(name=name, content=content, login=camera.login, camera=camera))
    return proposals, refused


def _content(camera: Camera, name: str) -> dict[str, Any]:
    streams, facts, sighting = camera.streams, camera.facts or DeviceFacts(), camera.sighting
    assert streams is not None, "only cameras that tell where their pictures are"  # noqa: S101 - the caller looked
    title, area = _said(facts.name, facts), _said(facts.location, facts)
    device = {
        "mac": facts.mac or sighting.mac,
        "serial": facts.serial,
        "manufacturer": facts.manufacturer,
        "model": facts.model,
        "firmware": facts.firmware,
        "onvif": sighting.onvif if camera.facts is not None else None,
        "endpoint": sighting.endpoint,
    }
    content = {
        "name": title if title != name else "",
        "area": area,
        "source": streams.main.uri,
        "sub_source": streams.sub.uri if streams.sub else None,
        "device": {key: value for key, value in device.items() if value},
    }
    return {key: value for key, value in content.items() if value}


def _wanted_name(camera: Camera) -> str:
    facts = camera.facts or DeviceFacts()
    said = (_said(facts.name, facts), _said(facts.location, facts), _said(camera.sighting.name, facts))
    return next((slug for text in said if (slug := _slug(text))), "camera")


def _said(text: str, facts: DeviceFacts) -> str:
    """The text where a person has chosen it; empty where it is the maker's."""
    plain = text.strip()
    of_maker = {facts.model.lower(), facts.manufacturer.lower(), f"{facts.manufacturer} {facts.model}".lower()}
    return "" if plain.lower() in of_maker or _SAYS_NOTHING.fullmatch(plain) else plain[:128]


def _slug(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:_NAME_MAX].strip("-")


def _free(wanted: str, host: str, names: Collection[str]) -> str:
    """The name, with the end of its address where the name alone says nothing or is taken."""
    last = _slug(re.split(r"[.:]", host)[-1]) or "1"
    name = wanted if wanted != "camera" else f"camera-{last}"
    number = 1
    while name in names:
        number += 1
        name = f"{wanted}-{last}" if number == 2 and wanted != "camera" else f"{wanted}-{last}-{number}"
    return name
