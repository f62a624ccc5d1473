"""A bundle that is signed and whole, and has nothing of use in it."""

from __future__ import annotations

import hashlib
import io
import random
import tarfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from fleet.bundle.manifest import BundledFile, Manifest

__all__ = ["write_bundle"]


def write_bundle(path: Path, sign: Callable[[bytes], bytes] | None, size_bytes: int = 3_000, **about: object) -> Path:
    """Write one.

    Args:
        path: the file.
        sign: as the site's authority does; None: nobody does.
        size_bytes: of the one wheel in it.
        about: what its manifest says else than of a node with cameras on Trixie.
    """
    wheel = b"w" + random.Random(size_bytes).randbytes(size_bytes - 1)
    file = BundledFile(name="wheels/x.whl", size_bytes=size_bytes, sha256=hashlib.sha256(wheel).hexdigest())
    fields: dict[str, Any] = {
        "version": "1.2.3",
        "family": "trixie",
        "architecture": "arm64",
        "python": "3.13",
        "roles": ("edge",),
        "is_complete": True,
        "packages": (),
        "built_at": datetime(2026, 11, 21, tzinfo=UTC),
        "files": (file,),
    }
    manifest = msgspec.json.encode(Manifest(**(fields | about)))
    parts = {"manifest.json": manifest}
    if sign is not None:
        parts["manifest.sig"] = sign(manifest)
    with tarfile.open(path, "w") as tar:
        for name, content in (*parts.items(), (file.name, wheel)):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path
