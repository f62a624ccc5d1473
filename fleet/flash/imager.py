"""A prepared image made known to Raspberry Pi Imager, for people who write their cards with that.

Source: https://github.com/raspberrypi/rpi-imager/blob/main/doc/json-schema/os-list-schema.json.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from pathlib import Path

__all__ = ["MANIFEST_SUFFIX", "file_sha256", "imager_manifest"]

MANIFEST_SUFFIX = ".rpi-imager-manifest"
"""By which Imager knows such a file, and is started by a double click on it."""
_ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 8 8'%3E"
    "%3Ccircle cx='4' cy='4' r='3'/%3E%3C/svg%3E"
)


def imager_manifest(image: Path, *, node: str, site: str, sha256: str, now: datetime) -> str:
    """What Imager reads: one system, which is this image.

    Args:
        image: the prepared image, where it will stay.
        node: whose it is.
        site: the node's.
        sha256: of the image; Imager checks what it has written against it.
        now: for the date that it shows.
    """
    size_bytes = image.stat().st_size
    system = {
        "name": f"Vigil node {node}",
        "description": f"The card of the node {node} of the site {site}. Write it as it is.",
        "icon": _ICON,
        "url": image.absolute().as_uri(),
        "extract_size": size_bytes,
        "extract_sha256": sha256,
        "image_download_size": size_bytes,
        "image_download_sha256": sha256,
        "release_date": f"{now:%Y-%m-%d}",
        # All is in it already: what Imager asks people for would go over it.
        "init_format": "none",
    }
    return json.dumps({"os_list": [system]}, indent=2) + "\n"


def file_sha256(path: Path) -> str:
    """Of a whole file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
