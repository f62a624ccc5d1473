"""The versions of Vigil that are installed on a node, side by side, and which of them is in force.

::

    /opt/vigil/
    ├── launch               starts the one in force (`fleet/bundle/on_node/launch`); watches one that is on trial
    ├── current -> versions/0.2.0
    ├── trial                while a version is on trial: which, from which, for how long
    ├── failed               which version did not pass, and why
    └── versions/0.1.0, 0.2.0

`trial` and `failed` are lines of ``name=value``, for a shell reads and writes them too.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from config.files import move_into_place, write_atomically

__all__ = ["Failure", "Installed", "Trial", "installed_here"]

_VARIABLE = "VIGIL_INSTALLED"
_READABLE = 0o644
_RUNNABLE = 0o755


@dataclass(frozen=True, slots=True)
class Trial:
    """A version that has yet to show that it works.

    Attributes:
        version: which one.
        previous: the one to which the node goes back.
        window_s: seconds that it has for that.
        roles: processes that ran before, and are to run again.
    """

    version: str
    previous: str
    window_s: int
    roles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """A version that did not pass.

    Attributes:
        version: which one.
        reason: why.
    """

    version: str
    reason: str


@dataclass(frozen=True, slots=True)
class Installed:
    """The installation of a node.

    Concurrency: one process changes it, under its own lock; the launcher reads.

    Attributes:
        home: its folder.
    """

    home: Path

    @property
    def version(self) -> str:
        """The version in force."""
        return (self.home / "current").resolve().name

    def has(self, version: str) -> bool:
        """Whether all of a version is there."""
        return (self.home / "versions" / version / "complete").is_file()

    def try_out(self, trial: Trial) -> None:
        """Let a version be in force from the next start on, and go back by itself where it does not confirm."""
        (self.home / "failed").unlink(missing_ok=True)
        lines = {
            "version": trial.version,
            "previous": trial.previous,
            "window_s": str(trial.window_s),
            "roles": " ".join(trial.roles),
            "starts": "0",
        }
        # Before the switch: a power cut between them leaves the old version in force, and no trial of it (`trial`).
        write_atomically(self.home / "trial", _written(lines), mode=_READABLE)
        self._switch(trial.version)

    @property
    def trial(self) -> Trial | None:
        """The trial of the version in force; None where it has passed."""
        lines = _read(self.home / "trial")
        if lines.get("version") != self.version:
            return None
        return Trial(
            lines["version"], lines.get("previous", ""), int(lines.get("window_s", "0")), tuple(lines["roles"].split())
        )

    def confirm(self) -> None:
        """The version in force has passed; its launcher is taken, and versions before the previous one go."""
        trial = self.trial
        launcher = self.home / "versions" / self.version / "launch"
        if launcher.is_file():
            self._take_launcher(launcher.read_bytes())
        (self.home / "trial").unlink(missing_ok=True)
        if trial is not None:
            self._prune({trial.version, trial.previous})

    def forget_trial(self) -> None:
        """Take away a trial that never began: the switch was cut short."""
        if self.trial is None:
            (self.home / "trial").unlink(missing_ok=True)

    @property
    def failure(self) -> Failure | None:
        """The version that did not pass last; None since a later one was tried."""
        lines = _read(self.home / "failed")
        return Failure(lines["version"], lines.get("reason", "")) if "version" in lines else None

    def remove(self, version: str) -> None:
        """Take a version away; one of which a power cut leaves a part is not there (`has`)."""
        place = self.home / "versions" / version
        (place / "complete").unlink(missing_ok=True)
        shutil.rmtree(place, ignore_errors=True)

    def _take_launcher(self, content: bytes) -> None:
        # On disk before it has its name: with an empty one the node would never start again.
        draft = self.home / ".launch.new"
        write_atomically(draft, content, mode=_RUNNABLE)
        draft.chmod(_RUNNABLE)  # whatever the umask took away
        move_into_place(draft, self.home / "launch")

    def _switch(self, version: str) -> None:
        draft = self.home / ".current.new"
        draft.unlink(missing_ok=True)
        draft.symlink_to(Path("versions") / version)
        move_into_place(draft, self.home / "current")

    def _prune(self, kept: set[str]) -> None:
        for place in (self.home / "versions").iterdir():
            if place.is_dir() and place.name not in kept:
                self.remove(place.name)


def installed_here(environment: Mapping[str, str] = os.environ) -> Installed | None:
    """The installation that this process was started from by its launcher; None where it runs from elsewhere."""
    home = environment.get(_VARIABLE, "")
    return Installed(Path(home)) if home and (Path(home) / "current").is_symlink() else None


def _read(path: Path) -> dict[str, str]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    return {name: value for name, separator, value in (line.partition("=") for line in text.splitlines()) if separator}


def _written(lines: Mapping[str, str]) -> str:
    return "".join(f"{name}={value}\n" for name, value in lines.items())
