"""Makes an installed Vigil of a bundle, on a bare Python 3.11 or later, without a network.

::

    python3 install.py unpack bundle.tar FOLDER      check it, and write its files
    python3 install.py install FOLDER --activate     make versions/X of them, and let `current` point there

An installation counts when its file ``complete`` is there, which is written last: what a power cut left half done is
taken away and made anew. This file stands alone: it is run by the system's Python, where nothing is installed yet. It
checks hashes, not the signature; who fetches a bundle over a network does that before (`fleet.bundle.verify`).
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

__all__ = ["COMPLETE", "main"]

COMPLETE = "complete"
"""File in the folder of a version: the SHA-256 of its manifest. Without it the version is not there."""
_HOME = "opt/vigil"
_CHUNK_BYTES = 1 << 20
_SPACE_FACTOR = 4
"""An installed wheel takes three times its size, with its byte code; and it lies there unpacked besides."""
_SPACE_BYTES_MIN = 50_000_000
_PIP_S = 3600.0
"""An emulated or very slow machine needs minutes."""
_VERSION = re.compile(r"[0-9][0-9A-Za-z.+-]{0,60}")
_NAME = re.compile(r"(install\.py|launch|requirements\.txt|(wheels|packages)/[A-Za-z0-9][A-Za-z0-9._+~%!-]*)")
_MANIFEST_BYTES_MAX = 1_000_000


class InstallError(Exception):
    """What is wrong, and the cure."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 1 when it did not work.
    """
    parser = argparse.ArgumentParser(prog="install.py", description="Install Vigil from a bundle.")
    commands = parser.add_subparsers(dest="command", required=True)
    unpack = commands.add_parser("unpack", help="check a bundle and write its files")
    unpack.add_argument("bundle", type=Path)
    unpack.add_argument("folder", type=Path)
    install = commands.add_parser("install", help="install what was unpacked")
    install.add_argument("folder", type=Path)
    install.add_argument("--root", type=Path, default=Path("/"), help="where /opt/vigil is")
    install.add_argument("--home", type=Path, help="in place of /opt/vigil")
    install.add_argument("--activate", action="store_true", help="let `current` point there")
    options = parser.parse_args(arguments)
    os.umask(0o022)  # what runs as another user reads it
    try:
        if options.command == "unpack":
            _unpack(options.bundle, options.folder)
        else:
            _install(options.folder, options.home or options.root / _HOME, activate=options.activate)
    except InstallError as error:
        sys.stderr.write(f"install.py: {error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"install.py: {error.filename or options.folder}: {error.strerror}\n")
        return 1
    return 0


# --- unpacking ------------------------------------------------------------------------------------------------


def _unpack(bundle: Path, folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
    try:
        with tarfile.open(bundle, "r:") as tar:
            content = _manifest_of(tar, bundle)
            manifest = _parse(content)
            _check_space(folder.parent, manifest)
            folder.mkdir(parents=True)
            for name, file in _files(manifest).items():
                _extract(tar, name, file, folder)
    except (tarfile.TarError, KeyError) as error:
        raise InstallError(f"{bundle} is no bundle, or not all of it ({error}): copy it again") from error
    # Last: a folder without it is of an unpacking that was cut short.
    (folder / "manifest.json").write_bytes(content)
    os.sync()
    _say(f"unpacked {len(_files(manifest))} files of Vigil {manifest['version']}")


def _manifest_of(tar: tarfile.TarFile, bundle: Path) -> bytes:
    member = tar.next()
    stream = tar.extractfile(member) if member is not None and member.name == "manifest.json" else None
    if stream is None:
        raise InstallError(f"{bundle} is no bundle: it does not begin with manifest.json")
    return stream.read(_MANIFEST_BYTES_MAX)


def _extract(tar: tarfile.TarFile, name: str, file: dict[str, Any], folder: Path) -> None:
    stream = tar.extractfile(name)
    if stream is None:
        raise InstallError(f"{name} of the bundle is no file: copy it again")
    target = folder / name
    target.parent.mkdir(exist_ok=True)
    with target.open("xb") as written:
        digest = hashlib.sha256()
        for chunk in _chunks(stream):
            digest.update(chunk)
            written.write(chunk)
    if digest.hexdigest() != file["sha256"]:
        raise InstallError(f"{name} of the bundle is damaged: copy it again")


def _chunks(stream: BinaryIO | Any) -> Iterator[bytes]:  # noqa: ANN401 - tarfile's reader has no public type
    while chunk := stream.read(_CHUNK_BYTES):
        yield chunk


# --- the manifest ---------------------------------------------------------------------------------------------


def _parse(content: bytes) -> dict[str, Any]:
    """The manifest; only as much of it is checked as this file relies on."""
    try:
        manifest = json.loads(content)
        good = manifest["v"] == 1 and _VERSION.fullmatch(manifest["version"])
        good = good and all(_NAME.fullmatch(file["name"]) for file in manifest["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise InstallError(f"manifest.json cannot be used ({error!r}): copy the bundle again") from error
    if not good:
        raise InstallError(
            "manifest.json is of another kind of bundle: build it with the Vigil that is to be installed"
        )
    return dict(manifest)


def _files(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {file["name"]: file for file in manifest["files"]}


def _check_fits(manifest: dict[str, Any]) -> None:
    """Refuse wheels that cannot run here, before an hour was spent on them."""
    python = ".".join(platform.python_version_tuple()[:2])
    machine = {"aarch64": "arm64", "x86_64": "amd64"}.get(platform.machine(), platform.machine())
    if (manifest["python"], manifest["architecture"]) != (python, machine):
        raise InstallError(
            f"the bundle is for Python {manifest['python']} on {manifest['architecture']} ({manifest['family']}), and "
            f"this is Python {python} on {machine}: build one with `vigil bundle build --for ...`"
        )


def _check_space(place: Path, manifest: dict[str, Any]) -> None:
    while not place.exists():
        place = place.parent
    needed = _SPACE_FACTOR * sum(file["size_bytes"] for file in manifest["files"]) + _SPACE_BYTES_MIN
    free = shutil.disk_usage(place).free
    if free < needed:
        raise InstallError(
            f"{place} has {free // 1_000_000} MB free and {needed // 1_000_000} MB are needed: delete old versions in "
            "/opt/vigil/versions, or take a larger card"
        )


# --- installing -----------------------------------------------------------------------------------------------


def _install(folder: Path, home: Path, *, activate: bool) -> None:
    try:
        content = (folder / "manifest.json").read_bytes()
    except FileNotFoundError as error:
        raise InstallError(f"{folder} is not unpacked: python3 install.py unpack BUNDLE {folder}") from error
    manifest = _parse(content)
    _check_fits(manifest)
    (home / "versions").mkdir(parents=True, exist_ok=True)
    with _locked(home / "versions" / ".lock"):
        target = home / "versions" / manifest["version"]
        if not _is_complete(target, content, home):
            _check_space(home, manifest)
            _check_files(folder, manifest)
            _make(target, folder, manifest)
            shutil.copyfile(folder / "launch", target / "launch")  # taken once this version has passed its trial
            _write_durably(target / COMPLETE, _digest(content) + "\n")
            _say(f"installed Vigil {manifest['version']} in {target}")
        if activate:
            _activate(home, target, folder / "launch")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _is_complete(target: Path, manifest: bytes, home: Path) -> bool:
    """Whether just this is installed; what is left of another try is taken away."""
    try:
        installed = (target / COMPLETE).read_text().strip()
    except FileNotFoundError:
        installed = ""
    if installed == _digest(manifest):
        _say(f"{target} is complete already")
        return True
    if installed and (home / "current").resolve() == target.resolve():
        raise InstallError(
            f"another build of {target.name} runs from {target}: give the new one another version, or switch to a third"
        )
    if target.exists():
        _say(f"{target} is taken away: " + ("another build" if installed else "it was not finished"))
        shutil.rmtree(target)
    return False


def _check_files(folder: Path, manifest: dict[str, Any]) -> None:
    """Look at every file once more: a power cut may have left some of them empty."""
    for name, file in _files(manifest).items():
        try:
            with (folder / name).open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
        except FileNotFoundError as error:
            raise InstallError(f"{folder / name} is missing: unpack the bundle again") from error
        if found != file["sha256"]:
            raise InstallError(f"{folder / name} is damaged: unpack the bundle again")


def _make(target: Path, folder: Path, manifest: dict[str, Any]) -> None:
    # The distribution's packages are visible in it: GStreamer's binding is one of them.
    venv = [sys.executable, "-m", "venv", "--system-site-packages", "--without-pip"]
    _run("virtual environment", *venv, str(target))
    pip = [str(target / "bin" / "python"), str(_pip_wheel() / "pip"), "--disable-pip-version-check", "--no-input"]
    # Not what the distribution has of the same name: it would change under us.
    pip += ["install", "--quiet", "--ignore-installed", "--no-deps", "--no-warn-script-location"]
    pip += ["--find-links", str(folder / "wheels"), *(["--no-index"] if manifest["is_complete"] else [])]
    _run("Python packages", *pip, "--require-hashes", "--only-binary=:all:", "-r", str(folder / "requirements.txt"))
    _run("a first start", str(target / "bin" / "vigil"), "--version")


def _pip_wheel() -> Path:
    """The pip that Python brings for virtual environments; it runs as it is, while installing it takes a minute."""
    folders = [sysconfig.get_config_var("WHEEL_PKG_DIR")]
    if (module := importlib.util.find_spec("ensurepip")) is not None and module.origin:
        folders.append(str(Path(module.origin).parent / "_bundled"))
    for folder in filter(None, folders):
        if wheels := sorted(Path(folder).glob("pip-*.whl")):
            return wheels[-1]
    raise InstallError("this Python has no pip for virtual environments: apt-get install python3-venv")


def _run(what: str, *command: str) -> None:
    begun_s = time.monotonic()
    environment = {**os.environ, "PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1"}
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_PIP_S, env=environment)
    if run.returncode:
        last = (run.stderr or run.stdout).strip()[-2000:]
        raise InstallError(f"{what}: {Path(command[0]).name} ended with {run.returncode}\n{last}")
    _say(f"{what}: {time.monotonic() - begun_s:.1f} s")


def _activate(home: Path, target: Path, launcher: Path) -> None:
    new = home / ".launch.new"
    shutil.copyfile(launcher, new)
    new.chmod(0o755)
    os.sync()  # with an empty one, nothing starts any more
    new.replace(home / "launch")
    draft = home / ".current.new"
    draft.unlink(missing_ok=True)
    draft.symlink_to(Path("versions") / target.name)
    draft.replace(home / "current")
    os.sync()
    _say(f"{home / 'current'} is {target.name}")


def _write_durably(path: Path, content: str) -> None:
    # All of the version is on disk before the mark that says so.
    os.sync()
    draft = path.with_name(f".{path.name}.new")
    with draft.open("w") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    os.sync()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
