"""Small things to make bundles of: wheels, packages of a distribution, an image of a card; no network is needed."""

from __future__ import annotations

import hashlib
import lzma
import os
import struct
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

from fleet.bundle.build import BundleOrder
from fleet.bundle.locked import LockedSet, project_text
from fleet.bundle.packages import run_packages

__all__ = ["HERE", "VERSION", "card_image", "local_order", "locked", "make_wheel", "package_archive", "vigil_wheel"]

VERSION = "9.1.0"
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
_FIRST_SECTOR = 2048
_IMAGE_MIB = 8
_VIGIL = f"""\
import os, sys

def main():
    if "--version" in sys.argv:
        import small
        print("vigil {VERSION}", small.__name__)
        return 0
    real = os.environ["VIGIL_REAL"]
    return os.execv(real, [real, "-P", "-m", "console", *sys.argv[1:]])
"""
"""A Vigil in name: its version is its own, all else the one under test does."""


def make_wheel(folder: Path, name: str, version: str, code: str = "", *, metadata: str = "", script: str = "") -> Path:
    """A wheel of one module, named as the project."""
    module, info = name.replace("-", "_"), f"{name.replace('-', '_')}-{version}.dist-info"
    path = folder / f"{module}-{version}-py3-none-any.whl"
    content = {
        f"{module}.py": code,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{metadata}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if script:
        content[f"{info}/entry_points.txt"] = f"[console_scripts]\n{script} = {module}:main\n"
    content[f"{info}/RECORD"] = "".join(f"{one},,\n" for one in (*content, f"{info}/RECORD"))
    with zipfile.ZipFile(path, "w") as wheel:
        for one, text in content.items():
            wheel.writestr(one, text)
    return path


def vigil_wheel(folder: Path, version: str = VERSION) -> Path:
    """A wheel that is called Vigil, and needs `small`; with its extra `edge`, `smaller` too."""
    folder.mkdir(parents=True, exist_ok=True)
    asked = "Requires-Dist: small>=1\nProvides-Extra: edge\nRequires-Dist: smaller ; extra == 'edge'\n"
    return make_wheel(folder, "vigil-mesh", version, _VIGIL, metadata=asked, script="vigil")


def locked(*wheels: tuple[str, str, Path]) -> LockedSet:
    """A lock of these: name, who needs it, wheel."""
    text = ""
    for name, parent, wheel in wheels:
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        text += f"{name}=={wheel.name.split('-')[1]} \\\n    --hash=sha256:{digest}\n    # via {parent}\n"
    return LockedSet(text)


def package_archive(folder: Path, names: Iterable[str]) -> Path:
    """An archive of empty packages, as apt reads it; the first needs one that a system may have already."""
    folder.mkdir()
    index = ""
    for number, name in enumerate(names):
        tree = folder / "tree"
        (tree / "DEBIAN").mkdir(parents=True, exist_ok=True)
        needs = "Depends: there, not-there\n" if number == 1 else ""
        fields = f"Package: {name}\nVersion: 1:2.0\nArchitecture: all\nMaintainer: nobody\n{needs}Description: empty\n"
        (tree / "DEBIAN" / "control").write_text(fields)
        package = folder / f"{name}.deb"
        build = ["dpkg-deb", "--build", "--root-owner-group", "-Znone", str(tree), str(package)]
        subprocess.run(build, check=True, capture_output=True, timeout=30)
        digest = hashlib.sha256(package.read_bytes()).hexdigest()
        index += f"{fields}Filename: ./{package.name}\nSize: {package.stat().st_size}\nSHA256: {digest}\n\n"
    (folder / "Packages").write_text(index)
    return folder


def card_image(folder: Path, archive: Path) -> Path:
    """An image whose Linux partition has one package installed, `there`, and this archive as its source."""
    content = folder / "content"
    for place in ("var/lib/dpkg", "etc/apt", "usr/share/keyrings"):
        (content / place).mkdir(parents=True)
    (content / "var/lib/dpkg/status").write_text(
        "Package: there\nStatus: install ok installed\nVersion: 1\nArchitecture: all\nMaintainer: nobody\n"
        "Description: empty\n\n"
    )
    (content / "etc/apt/sources.list").write_text(f"deb [trusted=yes] copy:{archive} ./\n")
    (content / "usr/share/keyrings/none.gpg").touch()
    image = folder / "card.img"
    with image.open("wb") as file:
        file.truncate((_FIRST_SECTOR << 9) + (_IMAGE_MIB << 20))
        fat = struct.pack("<B3sB3sII", 0, b"", 0x0C, b"", 1, 100)
        linux = struct.pack("<B3sB3sII", 0, b"", 0x83, b"", _FIRST_SECTOR, _IMAGE_MIB << 11)
        file.seek(446)
        file.write(fat + linux + bytes(32) + b"\x55\xaa")
    make = ["mke2fs", "-q", "-t", "ext4", "-d", str(content), "-E", f"offset={_FIRST_SECTOR << 9}"]
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    subprocess.run([*make, str(image), f"{_IMAGE_MIB}M"], check=True, timeout=30, env=environment)
    return image


def local_order(folder: Path, **changed: object) -> BundleOrder:
    """An order of a small bundle for this very machine; pip finds its wheels in ``folder/wheels`` (PIP_FIND_LINKS)."""
    wheels = folder / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    small, smaller = make_wheel(wheels, "small", "1.2"), make_wheel(wheels, "smaller", "0.3")
    make_wheel(wheels, "idle", "1.0")
    lock = locked(
        ("small", "vigil-mesh (pyproject.toml)", small),
        ("smaller", "small", smaller),
        ("idle", "somebody", wheels / "idle-1.0-py3-none-any.whl"),
    )
    if "image" not in changed:
        archive = package_archive(folder / "archive", [*run_packages(project_text("deploy/packages.txt")), "not-there"])
        packed = folder / "card.img.xz"
        packed.write_bytes(lzma.compress(card_image(folder, archive).read_bytes(), preset=0))
        changed["image"] = packed
    order = {
        "family": "bookworm" if HERE == "3.11" else "trixie",
        "architecture": "amd64" if os.uname().machine == "x86_64" else "arm64",
        "wheel": vigil_wheel(folder / "own"),
        "lock": lock,
        **changed,
    }
    return BundleOrder(**order)  # type: ignore[arg-type]  # as its fields say
