"""What a bundle for a node is called where the site keeps them, so that node and site need not ask each other."""

from __future__ import annotations

import platform

from config.errors import PermanentError
from fleet.bundle.manifest import FAMILIES, MACHINES, Manifest

__all__ = ["bundle_name", "name_of", "this_system"]


def bundle_name(version: str, family: str, architecture: str) -> str:
    """The file's name, such as ``vigil-0.2.0-trixie-arm64.tar``."""
    return f"vigil-{version}-{family}-{architecture}.tar"


def name_of(manifest: Manifest) -> str:
    """The name of a bundle by what it says about itself."""
    return bundle_name(manifest.version, manifest.family, manifest.architecture)


def this_system() -> tuple[str, str]:
    """Release and architecture of this machine, as bundles name them.

    Raises:
        PermanentError: there are no bundles for it.
    """
    family = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    architecture = next((name for name, machine in MACHINES.items() if machine == platform.machine()), "")
    if family not in FAMILIES or not architecture:
        raise PermanentError(
            f"there are no bundles for {family or 'this system'} on {platform.machine()}: there are some for "
            f"{', '.join(FAMILIES)} on {', '.join(MACHINES.values())}"
        )
    return family, architecture
