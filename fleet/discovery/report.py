"""What a search has found, for people and for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from config.text import printable
from fleet.discovery.cameras import Camera
from fleet.discovery.device import Stream, scope_value
from fleet.discovery.mdns import Announced
from fleet.discovery.proposals import Proposal

__all__ = ["camera_object", "camera_rows", "columns", "is_waiting", "node_object"]

_CELL_MAX = 40


def camera_rows(cameras: Sequence[Camera], names: Mapping[str, str], moved: Mapping[str, str]) -> list[tuple[str, ...]]:
    """A table with its heading.

    Args:
        cameras: what was found.
        names: proposed ones, by host.
        moved: of known cameras that have moved, the host that their file says, by name.
    """
    rows: list[tuple[str, ...]] = [("address", "maker", "model", "main", "sub", "known as")]
    for camera in cameras:
        facts = camera.facts
        rows.append(
            (
                camera.sighting.host,
                _cell(facts.manufacturer if facts else ""),
                _cell(facts.model if facts else scope_value(camera.sighting.scopes, "hardware")),
                _encoding(camera.streams.main if camera.streams else None),
                _encoding(camera.streams.sub if camera.streams else None),
                _standing(camera, names, moved),
            )
        )
    return rows


def columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """The lines of a table."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def camera_object(camera: Camera, proposal: Proposal | None) -> dict[str, Any]:
    """A camera for a program; without its login."""
    facts, streams, sighting = camera.facts, camera.streams, camera.sighting
    return {
        "kind": "camera",
        "address": sighting.host,
        "onvif": sighting.onvif,
        "rtsp": sighting.rtsp,
        "endpoint": sighting.endpoint,
        "seen_by": list(sighting.seen_by),
        "manufacturer": facts.manufacturer if facts else None,
        "model": facts.model if facts else None,
        "serial": facts.serial if facts else None,
        "firmware": facts.firmware if facts else None,
        "mac": facts.mac if facts else sighting.mac,
        "clock_ahead_s": facts.ahead_s if facts else None,
        "services": list(facts.services) if facts else [],
        "main": _stream(streams.main) if streams else None,
        "sub": _stream(streams.sub) if streams and streams.sub else None,
        "known_as": camera.known_as,
        "proposed": {"name": proposal.name, "file": proposal.content} if proposal else None,
        "trouble": camera.trouble or None,
    }


def node_object(node: Announced) -> dict[str, Any]:
    """A Vigil node for a program."""
    return {
        "kind": "node",
        "name": node.name,
        "addresses": list(node.addresses),
        "port": node.port,
        "waiting": is_waiting(node),
        "properties": dict(node.properties),
    }


def is_waiting(node: Announced) -> bool:
    """Whether a Vigil node belongs to no site yet."""
    return node.properties.get("claimed", "0") == "0"


def _standing(camera: Camera, names: Mapping[str, str], moved: Mapping[str, str]) -> str:
    if camera.known_as is not None:
        before = moved.get(camera.known_as)
        return f"{camera.known_as}, was at {before}" if before else camera.known_as
    proposed = names.get(camera.sighting.host)
    return f"new: {proposed}" if proposed else "new"


def _encoding(stream: Stream | None) -> str:
    return "-" if stream is None else _cell(str(stream.encoding) or "yes")


def _cell(text: str) -> str:
    return printable(text.strip(), _CELL_MAX) or "-"


def _stream(stream: Stream) -> dict[str, Any]:
    encoding = stream.encoding
    return {
        "uri": stream.uri,
        "codec": encoding.codec,
        "width": encoding.width,
        "height": encoding.height,
        "fps": encoding.fps,
        "bitrate_bps": encoding.bitrate_bps,
    }
