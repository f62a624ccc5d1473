"""The locked versions of Python packages: which of them some extras need, for another machine than this one."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from config.errors import ConfigError, PermanentError

__all__ = ["DISTRIBUTION", "LockedPackage", "LockedSet", "asked_by_extras", "checkout", "project_text"]

DISTRIBUTION = "vigil-mesh"
_BLOCK = re.compile(r"^(?=[a-z0-9][a-z0-9.-]*==)", re.MULTILINE)
_FIRST = re.compile(r"([a-z0-9.-]+)==(\S+)(?: ; (.+?))? \\")
_HASH = re.compile(r"--hash=(sha256:[0-9a-f]{64})")
_PARENT = re.compile(r"^ +# +(?:via )?([A-Za-z0-9][A-Za-z0-9._-]*)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class LockedPackage:
    """One package at one version.

    Attributes:
        name: canonical.
        version: of it.
        marker: where it is installed; None: everywhere.
        hashes: of its files, as pip takes them.
        parents: who needs it, canonical.
    """

    name: str
    version: str
    marker: Marker | None
    hashes: tuple[str, ...]
    parents: frozenset[str]

    def line(self) -> str:
        """As pip takes it."""
        return " \\\n    ".join((f"{self.name}=={self.version}", *(f"--hash={one}" for one in self.hashes)))


class LockedSet:
    """A lock file as `uv pip compile --universal --generate-hashes` writes it.

    Args:
        text: its content; its comments say who needs what.
    """

    def __init__(self, text: str) -> None:
        self._packages = [_parse(block) for block in _BLOCK.split(text)[1:]]

    def needed_by(self, direct: Iterable[str], environment: Mapping[str, str]) -> list[LockedPackage]:
        """What these packages come to, with all that they need.

        Args:
            direct: names, canonical.
            environment: of the machine, as markers name it.

        Raises:
            PermanentError: one of them is not locked.
        """
        here = [one for one in self._packages if one.marker is None or one.marker.evaluate(dict(environment))]
        wanted = set(direct)
        if missing := wanted - {one.name for one in here}:
            raise PermanentError(f"requirements.lock has no {min(missing)}: write the lock anew, see CONTRIBUTING.md")
        while more := {one.name for one in here if one.parents & wanted} - wanted:
            wanted |= more
        return [one for one in here if one.name in wanted]


def _parse(block: str) -> LockedPackage:
    first = _FIRST.match(block)
    if first is None:
        raise PermanentError(f"requirements.lock cannot be read at {block.splitlines()[0]!r}")
    name, version, marker = first.groups()
    parents = frozenset(canonicalize_name(one) for one in _PARENT.findall(block)) - {"via"}
    return LockedPackage(name, version, Marker(marker) if marker else None, tuple(_HASH.findall(block)), parents)


def asked_by_extras(requirements: Iterable[str], extras: Iterable[str], environment: Mapping[str, str]) -> set[str]:
    """The packages that a distribution asks for by itself and for some of its extras, canonical.

    Args:
        requirements: as its metadata has them (`Requires-Dist`).
        extras: their names.
        environment: of the machine, as markers name it.
    """
    asked: set[str] = set()
    for requirement in map(Requirement, requirements):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({**environment, "extra": extra}) for extra in ("", *extras)):
            asked.add(canonicalize_name(requirement.name))
    return asked


def checkout() -> Path | None:
    """The folder of the checkout that this runs from; None where Vigil was installed from a wheel."""
    root = Path(__file__).parents[2]
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    except OSError:
        return None
    return root if project.get("project", {}).get("name") == DISTRIBUTION else None


def project_text(name: str) -> str:
    """A file of the project that is no Python: of the checkout, else as the wheel has brought it.

    Args:
        name: its path in the checkout.

    Raises:
        ConfigError: this Vigil was installed in a way that leaves it out.
    """
    root = checkout()
    if root is not None:
        return (root / name).read_text(encoding="utf-8")
    try:
        text = importlib.metadata.distribution(DISTRIBUTION).read_text(f"extra_metadata/{name}")
    except importlib.metadata.PackageNotFoundError:
        text = None
    if text is None:
        raise ConfigError(f"this installation of Vigil has no {name}: install it from its wheel, or use a checkout")
    return text
