"""Home Assistants, each installed once into the user's cache folder (XDG_CACHE_HOME moves it).

A version of Home Assistant runs on one or two versions of Python. The file `pins/3.11.txt` names the one that Python
3.11 gets, and the exact version of everything it needs: pip alone would look for a combination for a long time.

`python -m tests.support.homeassistant.installation` installs them ahead of the first test.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import platformdirs

__all__ = ["Installation", "InstallationError", "installations"]

_PINS = Path(__file__).with_name("pins")
_DEVICE_DISCOVERY_SINCE = (2024, 11)
_INSTALL_TIMEOUT_S = 1200.0
_CHECK = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2])"


class InstallationError(RuntimeError):
    """Home Assistant could not be installed; the message carries what pip said."""


@dataclass(frozen=True)
class Installation:
    """One Home Assistant that can run here.

    Attributes:
        version: such as ``2024.3.3``.
        python: the interpreter that it runs on.
        pins: what is installed.
    """

    version: str
    python: Path
    pins: Path

    def __str__(self) -> str:
        """As a test's name has it."""
        return self.version

    @property
    def knows_devices(self) -> bool:
        """Whether it takes the discovery of a whole device in one message."""
        year, month = self.version.split(".")[:2]
        return (int(year), int(month)) >= _DEVICE_DISCOVERY_SINCE

    @property
    def _folder(self) -> Path:
        return platformdirs.user_cache_path("vigil") / "home-assistant" / f"{self.version}-{self.pins.stem}"

    def program(self) -> Path:
        """`hass` of it; the first call installs it, which takes a minute or two and 0.7 GB.

        Concurrency: processes that call it at once wait for the one that installs.

        Raises:
            InstallationError: it cannot be installed.
        """
        folder = self._folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        complete = folder / "complete"  # written last, because an environment cannot be made elsewhere and moved
        stamp = hashlib.sha256(self.pins.read_bytes()).hexdigest()
        with folder.with_name(f"{folder.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            is_complete = complete.is_file() and complete.read_text() == stamp
            if not is_complete or not (folder / "bin" / "python").exists():  # its interpreter may be gone
                shutil.rmtree(folder, ignore_errors=True)
                self._install(folder)
                complete.write_text(stamp)
        return folder / "bin" / "hass"

    def _install(self, folder: Path) -> None:
        pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--no-input", "install"]
        options = ("--progress-bar", "off", "--use-pep517", "--no-deps")
        # What nobody imports need not be compiled, and that is most of it.
        for command in (
            [str(self.python), "-m", "venv", str(folder)],
            [*pip, *options, "--no-compile", "--requirement", str(self.pins)],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_INSTALL_TIMEOUT_S)
            if done.returncode:
                said = f"{done.stdout[-2000:]}{done.stderr[-2000:]}"
                raise InstallationError(f"Home Assistant {self.version} could not be installed:\n{said}")


@functools.cache
def installations() -> tuple[Installation, ...]:
    """The oldest and the newest Home Assistant that the Pythons of this machine can run; the same one only once."""
    found = []
    for pins in sorted(_PINS.glob("*.txt")):
        python = _python(pins.stem)
        version = re.search(r"^homeassistant==(\S+)$", pins.read_text(), re.MULTILINE)
        assert version is not None, pins
        if python is not None:
            found.append(Installation(version[1], python, pins))
    return tuple(dict.fromkeys((found[0], found[-1]))) if found else ()


def _python(version: str) -> Path | None:
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        return Path(sys.executable)
    for candidate in _candidates(version):
        asked = subprocess.run([candidate, "-c", _CHECK], capture_output=True, text=True, check=False, timeout=60)
        if asked.stdout.strip() == version:
            return Path(candidate)
    return None


def _candidates(version: str) -> Iterator[str]:
    """Where an interpreter may be: on PATH, or with pyenv, which does not put all of its own there."""
    on_path = shutil.which(f"python{version}")
    if on_path is not None:
        yield on_path
    pyenv = shutil.which("pyenv")
    if pyenv is not None:
        told = subprocess.run([pyenv, "prefix", version], capture_output=True, text=True, check=False, timeout=60)
        if told.returncode == 0:
            yield str(Path(told.stdout.strip(), "bin", "python"))


def main() -> None:
    """Install them at the same time, or say why not."""
    try:
        with ThreadPoolExecutor() as pool:
            list(pool.map(Installation.program, installations()))
    except InstallationError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
