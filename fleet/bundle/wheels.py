"""The Python packages of a bundle: Vigil's own wheel, and those that it needs, for another machine than this one."""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.metadata
import io
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from config.errors import ConfigError, PermanentError, TransientError
from fleet.bundle.locked import DISTRIBUTION, LockedPackage, checkout
from fleet.bundle.manifest import MACHINES, Architecture, Family

__all__ = ["download_wheels", "environment_of", "own_wheel", "wheel_metadata"]

_BUILD_S = 300.0
_LOWEST_GLIBC = 17
"""Of manylinux2014, the oldest that wheels are still made for."""
_TOLD_LINES = 6


def own_wheel(folder: Path) -> Path:
    """Vigil's own wheel, as it runs here.

    Args:
        folder: where it is written.

    Raises:
        ConfigError: it can neither be built nor put together from what is installed.
    """
    root = checkout()
    if root is not None:
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
        run = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=_BUILD_S)
        if run.returncode:
            raise ConfigError(
                f"Vigil's own wheel was not built: {_last(run.stderr)}; give one with --wheel FILE", field="--wheel"
            )
    else:
        _pack_installed(folder)
    return next(folder.glob("vigil_mesh-*.whl"))


def _pack_installed(folder: Path) -> None:
    """The wheel that this installation came from, put together again.

    Source: the binary distribution format, https://packaging.python.org/specifications/binary-distribution-format.
    """
    distribution = importlib.metadata.distribution(DISTRIBUTION)
    kept = [
        (path.as_posix(), Path(str(path.locate())).read_bytes())
        for path in distribution.files or ()
        if _belongs_in_wheel(path.as_posix())
    ]
    name = f"{DISTRIBUTION.replace('-', '_')}-{distribution.version}"
    record = f"{name}.dist-info/RECORD"
    rows = [(path, _record_hash(content), len(content)) for path, content in kept]
    lines = io.StringIO()
    csv.writer(lines, lineterminator="\n").writerows([*rows, (record, "", "")])
    with zipfile.ZipFile(folder / f"{name}-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        for path, content in kept:
            wheel.writestr(path, content)
        wheel.writestr(record, lines.getvalue())


def _belongs_in_wheel(path: str) -> bool:
    """Not what an installer has added."""
    added = (".dist-info/RECORD", ".dist-info/INSTALLER", ".dist-info/REQUESTED", ".dist-info/direct_url.json", ".pyc")
    return not path.startswith("..") and not path.endswith(added)


def _record_hash(content: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")


def wheel_metadata(wheel: Path, extras: Iterable[str]) -> tuple[str, list[str]]:
    """The version of a wheel of Vigil, and what it asks for (`Requires-Dist`).

    Raises:
        ConfigError: it is none, or does not have one of these extras.
    """
    found = re.fullmatch(r"vigil_mesh-([^-]+)-py3-none-any\.whl", wheel.name)
    try:
        with zipfile.ZipFile(wheel) as opened:
            names = [name for name in opened.namelist() if name.endswith(".dist-info/METADATA")]
            text = opened.read(names[0]).decode()
    except (OSError, zipfile.BadZipFile, IndexError) as error:
        raise ConfigError(f"no wheel ({error}): `hatchling build` in a checkout makes one", file=wheel) from error
    if found is None:
        raise ConfigError("no wheel of Vigil: its name begins with vigil_mesh-", file=wheel)
    if unknown := set(extras) - set(known := re.findall(r"^Provides-Extra: (.+)$", text, re.MULTILINE)):
        raise ConfigError(f"Vigil has no extra {min(unknown)!r}, but {', '.join(known)}", field="--extra")
    return found[1], re.findall(r"^Requires-Dist: (.+)$", text, re.MULTILINE)


def environment_of(family: Family, architecture: Architecture) -> dict[str, str]:
    """The machine as markers of requirements name it. Source: PEP 508."""
    return {
        "implementation_name": "cpython",
        "implementation_version": f"{family.python}.0",
        "os_name": "posix",
        "platform_machine": MACHINES[architecture],
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": "Linux",
        "platform_version": "",
        "python_full_version": f"{family.python}.0",
        "python_version": family.python,
        "sys_platform": "linux",
    }


def download_wheels(
    packages: Sequence[LockedPackage],
    family: Family,
    architecture: Architecture,
    folder: Path,
    tell: Callable[[int, int], None],
) -> None:
    """Fetch the wheels with pip, from where this machine's pip fetches.

    Args:
        packages: which; every file is checked against their hashes.
        family: whose Python and C library they are for.
        architecture: the machine's.
        folder: where they are written, beside what is there.
        tell: is told how many of how many are there.

    Raises:
        ConfigError: this Python has no pip.
        PermanentError: one is not to be had as a wheel for that machine.
        TransientError: pip cannot reach where it fetches from.
    """
    asked = folder / "asked.txt"
    asked.write_text("".join(f"{package.line()}\n" for package in packages), encoding="utf-8")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "download"]
    command += ["--progress-bar", "off", "--no-deps", "--only-binary=:all:", "--require-hashes"]
    command += ["--implementation", "cp", "--python-version", family.python]
    for platform in _platforms(family, MACHINES[architecture]):
        command += ["--platform", platform]
    try:
        lines = list(_counted(_lines([*command, "-d", str(folder), "-r", str(asked)]), len(packages), tell))
    finally:
        asked.unlink()
    if (status := lines.pop()) != "0":
        _refuse(lines, status)


def _platforms(family: Family, machine: str) -> list[str]:
    """From the newest that runs there to the oldest: the first that fits is taken."""
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(family.glibc, _LOWEST_GLIBC - 1, -1)]
    return [*tags, f"manylinux2014_{machine}", f"linux_{machine}"]


def _lines(command: Sequence[str]) -> Iterable[str]:
    """What a command prints, and its status last."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        yield from process.stdout or ()
    yield str(process.returncode)


def _counted(lines: Iterable[str], total: int, tell: Callable[[int, int], None]) -> Iterable[str]:
    done = 0
    tell(0, total)
    for line in lines:
        if line.startswith(("Saved ", "  File was already downloaded")):
            done += 1
            tell(done, total)
        yield line


def _refuse(lines: Sequence[str], status: str) -> None:
    text = "".join(lines)
    if "No module named pip" in text:
        raise ConfigError(f"{sys.executable} has no pip: `{sys.executable} -m ensurepip`, or install python3-pip")
    if "Connection" in text or "NewConnectionError" in text or "Temporary failure" in text:
        raise TransientError(f"pip reaches no package index: {_last(text)}")
    raise PermanentError(f"pip download ended with {status}: {_last(text)}")


def _last(text: str) -> str:
    return " | ".join(line.strip() for line in text.strip().splitlines()[-_TOLD_LINES:])
