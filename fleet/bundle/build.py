"""Making a bundle: everything that a node installs, in one file, for a machine without an internet."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from pathlib import Path

import msgspec

from config.errors import ConfigError
from config.files import move_into_place
from fleet.bundle.locked import DISTRIBUTION, LockedPackage, LockedSet, asked_by_extras, project_text
from fleet.bundle.manifest import (
    FAMILIES,
    INSTALLER,
    LAUNCHER,
    MANIFEST,
    REQUIREMENTS,
    SIGNATURE,
    Architecture,
    BundledFile,
    FamilyName,
    Manifest,
)
from fleet.bundle.packages import base_of_image, download_packages, plain_base, run_packages
from fleet.bundle.wheels import download_wheels, environment_of, own_wheel, wheel_metadata

__all__ = ["EXTRA_OF_EVERY_NODE", "BundleOrder", "build_bundle"]

EXTRA_OF_EVERY_NODE = "node"
"""What `vigil join` and the agent need."""
_CHUNK_BYTES = 1 << 20

Tell = Callable[[str, int, int], None]
Sign = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleOrder:
    """What a bundle is to be.

    Attributes:
        family: release of the node's distribution.
        architecture: of its machine.
        roles: what it may be. A role that has an extra of its name brings it.
        extras: further ones.
        is_complete: all is in it; else the node fetches from the internet what is not Vigil's own.
        wheel: of Vigil; None: of the Vigil that runs here.
        image: of the node's card, which says what is installed there; None: a plain system.
        lock: the locked versions; None: Vigil's own.
    """

    family: FamilyName = "bookworm"
    architecture: Architecture = "arm64"
    roles: tuple[str, ...] = ("edge",)
    extras: tuple[str, ...] = ()
    is_complete: bool = True
    wheel: Path | None = None
    image: Path | None = None
    lock: LockedSet | None = None


def build_bundle(
    order: BundleOrder, out: Path, now: datetime, *, sign: Sign | None = None, tell: Tell | None = None
) -> Manifest:
    """Make a bundle; in its place is the old one or the whole new one.

    Args:
        order: what it is to be.
        out: the file.
        now: the time.
        sign: signs its manifest, as the site's authority does (`Authority.sign_content`); None: nobody.
        tell: is told what is done, and how far it is.

    Raises:
        ConfigError: the order cannot be met on this machine.
        PermanentError: a package is not to be had for that system.
        TransientError: the network is away.
    """
    # Now, not after minutes.
    if not os.access(out.absolute().parent, os.W_OK):
        raise ConfigError(f"{out.absolute().parent} is no folder that can be written", field="--out")
    told: Tell = tell or (lambda _what, _done, _total: None)
    with tempfile.TemporaryDirectory(prefix="vigil-bundle-") as name:
        place = Path(name) / "bundle"
        manifest = _gather(order, place, now, told)
        content = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
        try:
            head = {MANIFEST: content, **({SIGNATURE: sign(content)} if sign else {})}
            _write_tar(out, place, manifest, head, told)
        except OSError as error:
            raise ConfigError(f"{out} cannot be written: {error.strerror}", field="--out") from error
    return manifest


def _gather(order: BundleOrder, place: Path, now: datetime, tell: Tell) -> Manifest:
    """Put everything into a folder as it will be in the bundle."""
    (place / "wheels").mkdir(parents=True)
    (place / "packages").mkdir()
    tell("Vigil itself", 0, 1)
    own = _take_wheel(order, place / "wheels")
    version, asked = wheel_metadata(own, order.extras)
    tell("Vigil itself", 1, 1)
    locked = _locked(order, asked)
    itself = LockedPackage(DISTRIBUTION, version, None, (f"sha256:{_sha256(own)}",), frozenset())
    (place / REQUIREMENTS).write_text("".join(f"{one.line()}\n" for one in (*locked, itself)), encoding="utf-8")
    for name in (INSTALLER, LAUNCHER):
        (place / name).write_bytes((files("fleet.bundle") / "on_node" / name).read_bytes())
    packages = run_packages(project_text("deploy/packages.txt"))
    if order.is_complete:
        _fetch(order, locked, packages, place=place, tell=tell)
    return Manifest(
        version=version,
        family=order.family,
        architecture=order.architecture,
        python=FAMILIES[order.family].python,
        roles=order.roles,
        is_complete=order.is_complete,
        packages=packages,
        built_at=now,
        files=tuple(_described(place, path) for path in sorted(place.rglob("*")) if path.is_file()),
    )


def _take_wheel(order: BundleOrder, folder: Path) -> Path:
    if order.wheel is None:
        return own_wheel(folder)
    try:
        return Path(shutil.copy(order.wheel, folder))
    except OSError as error:
        raise ConfigError(f"{order.wheel} cannot be read: {error.strerror}", field="--wheel") from error


def _locked(order: BundleOrder, asked: Sequence[str]) -> list[LockedPackage]:
    environment = environment_of(FAMILIES[order.family], order.architecture)
    direct = asked_by_extras(asked, (EXTRA_OF_EVERY_NODE, *order.roles, *order.extras), environment)
    lock = order.lock or LockedSet(project_text("requirements.lock"))
    return lock.needed_by(direct, environment)


def _fetch(
    order: BundleOrder, locked: Sequence[LockedPackage], packages: Sequence[str], *, place: Path, tell: Tell
) -> None:
    base = place.with_name("base")
    if order.image is not None:
        tell("Reading the image", 0, 1)
        base_of_image(order.image, base)
        tell("Reading the image", 1, 1)
    else:
        plain_base(order.family, base)
    family = FAMILIES[order.family]
    download_wheels(
        locked, family, order.architecture, place / "wheels", lambda done, total: tell("Python packages", done, total)
    )
    tell("The distribution's lists", 0, 1)
    download_packages(
        base, order.architecture, packages, place / "packages", lambda done, total: tell("Packages", done, total)
    )


def _described(place: Path, path: Path) -> BundledFile:
    return BundledFile(name=path.relative_to(place).as_posix(), size_bytes=path.stat().st_size, sha256=_sha256(path))


def _sha256(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _write_tar(out: Path, place: Path, manifest: Manifest, head: Mapping[str, bytes], tell: Tell) -> None:
    draft = out.with_name(f".{out.name}.new")
    try:
        with draft.open("wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
                for name, content in head.items():
                    _add(tar, name, io.BytesIO(content), len(content), manifest.built_at)
                for done, one in enumerate(manifest.files, start=1):
                    with (place / one.name).open("rb") as opened:
                        _add(tar, one.name, opened, one.size_bytes, manifest.built_at)
                    tell("Writing", done, len(manifest.files))
            file.flush()
            os.fsync(file.fileno())
        move_into_place(draft, out)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def _add(tar: tarfile.TarFile, name: str, content: io.BufferedIOBase, size_bytes: int, moment: datetime) -> None:
    member = tarfile.TarInfo(name)
    member.size = size_bytes
    member.mode = 0o644
    member.mtime = int(moment.timestamp())
    tar.addfile(member, content)
