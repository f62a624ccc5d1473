"""A node changes its version: what its document asks for is fetched, checked, installed, tried, and kept or left."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from broker.figures import own_versions
from broker.identity import IdentityFolder, identity_folder
from broker.members import PERSON_CERTIFICATE
from broker.messages import NodeDocument, NodeProblem, UpdateReport, UpdateState
from config import BadPayloadError, PermanentError, Supervised, TransientError, VigilError, get_logger
from config.clock import Clock, SystemClock
from config.files import move_into_place, write_atomically
from config.settings import Settings
from fleet.agent.agent import Agent
from fleet.bundle.manifest import INSTALLER, Manifest
from fleet.desk import Order
from fleet.updates.installed import Installed, Trial
from fleet.updates.naming import bundle_name, this_system

__all__ = ["Updater"]

_STEP_S = 1.0
_AGAIN_S = 30.0
"""Between two attempts to fetch, while nobody answers."""
_STEADY_S = 20.0
"""For so long everything must run on end before a version has passed; of a short window, a third."""
_INSTALL_S = 3600.0
_SPARE_BYTES = 200_000_000
"""Left free on the node's disk beside a bundle that is fetched."""


class Updater:
    """Changes this node's version to the one of its document, and back where that one does not do.

    A version that did not pass is not tried again until somebody asks for it by the order ``update``.

    Concurrency: a thread of its own; orders and documents come from others.

    Args:
        agent: not yet started.
        settings: this node's own.
        installed: where this node's versions are; None where it was not installed from a bundle.
        clock: time.

    Attributes:
        has_switched: another version is in force: start it.
    """

    def __init__(
        self, agent: Agent, settings: Settings, installed: Installed | None, *, clock: Clock | None = None
    ) -> None:
        self._agent = agent
        self._settings = settings
        self._installed = installed
        self._identity: IdentityFolder = identity_folder(settings)
        self._clock: Clock = clock or SystemClock()
        self._log = get_logger()
        self._folder = settings.state_dir / "updates"
        self._wanted = ""
        self._problem: NodeProblem | None = None
        self._report = self._last_report()
        self._steady_since_s: float | None = None
        self._restarts: dict[str, int] = {}
        self._due = threading.Event()
        self._stop = threading.Event()
        self._thread = Supervised("update", self._step, stop=self._stop, clock=self._clock)
        self.has_switched = False
        agent.on_document(self._on_document)

    @property
    def orders(self) -> Mapping[str, Order]:
        """``update``: try a version (``version``; default that of the document) again, once it is asked for."""
        return {"update": self._try_again}

    def start(self) -> None:
        """Begin: with the outcome of a trial that ended, or the rest of one that goes on."""
        self._on_document(self._agent.document)
        if self._installed is not None:
            self._installed.forget_trial()
            self._tell_outcome(self._installed)
        self._agent.tell_update(self._report)
        self._thread.start()

    def close(self) -> None:
        """End; an installation that is under way is left to itself, and begun anew next time."""
        self._stop.set()
        self._due.set()
        self._thread.join(1.0)

    def problems(self) -> Sequence[NodeProblem]:
        """Why this node does not run the version that it is to run."""
        return () if self._problem is None else (self._problem,)

    # --- from other threads -------------------------------------------------------------------------------------

    def _on_document(self, document: NodeDocument | None) -> None:
        self._wanted = "" if document is None else document.version
        self._due.set()

    def _try_again(self, arguments: Mapping[str, str]) -> Mapping[str, str]:
        if self._installed is None:
            raise BadPayloadError("this Vigil was not installed from a bundle, so it cannot change its version itself")
        # The order may overtake the document, for which the agent has a thread of its own.
        version = arguments.get("version", self._wanted)
        if self._report is not None and self._report.version == version:
            self._report = None
        self._due.set()
        return {"version": version}

    # --- the updater's own thread -------------------------------------------------------------------------------

    def _step(self) -> None:
        self._due.clear()
        installed, wanted = self._installed, self._wanted
        if installed is not None and installed.trial is not None:
            self._watch_trial(installed, installed.trial)
        elif wanted and installed is None and wanted != own_versions()["vigil"]:
            self._note("this Vigil was not installed from a bundle: update it the way it was installed")
        elif not wanted or installed is None or wanted == installed.version:
            self._problem = None
        elif self._is_refused(wanted):
            self._note(self._report.error if self._report is not None else "")
        elif not self._change(installed, wanted):
            self._due.wait(_AGAIN_S)
            return
        self._due.wait(_STEP_S)

    def _note(self, reason: str) -> None:
        self._problem = NodeProblem(part="version", reason=reason[:4096])

    def _is_refused(self, version: str) -> bool:
        report = self._report
        return report is not None and report.version == version and report.state in {"refused", "rolled-back"}

    def _change(self, installed: Installed, version: str) -> bool:
        """Fetch, check and install a version, and have it tried; False: later again."""
        try:
            if installed.failure is not None and installed.failure.version == version:
                installed.remove(version)  # it may have been damaged here, or be built anew
            if not installed.has(version):
                self._install(installed, self._fetched(version), version)
            self._switch(installed, version)
        except TransientError as error:
            self._note(f"{error}; tried again")
            return False
        except (VigilError, OSError) as error:
            self._tell("refused", version, previous=installed.version, error=str(error))
        return True

    def _fetched(self, version: str) -> Path:
        """The bundle, here and whole."""
        # Here, not above: only a node of a secure site needs the library for certificates.
        from fleet.enrolment.client import AuthorityAddress, fetch_file
        from fleet.enrolment.wire import BUNDLES_PATH

        self._tell("fetching", version)
        name = bundle_name(version, *this_system())
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / name
        if path.exists():
            return path
        roles = [role for role in self._identity.roles() if role != PERSON_CERTIFICATE]
        credentials = self._identity.credentials("agent" if "agent" in roles else roles[0]) if roles else None
        if credentials is None:
            raise PermanentError(
                "this node has not joined a secure site, so nobody is there from whom a version could be taken: "
                f"put {name} into {self._folder}, and order it again with `vigil node update`"
            )
        part = path.with_name(f"{name}.part")
        for left in set(self._folder.glob("*.part")) - {part}:
            left.unlink()  # of a version that nobody asks for any more
        address, authority = AuthorityAddress.of(self._identity), self._identity.ca.read_bytes()
        try:
            with part.open("ab") as out:
                fetch_file(address, authority, credentials, f"{BUNDLES_PATH}{name}", out, told=self._check_room)
                out.flush()
                os.fsync(out.fileno())
        except PermanentError:
            part.unlink()
            raise
        move_into_place(part, path)
        return path

    def _check_room(self, done: int, whole: int) -> None:
        """Events are kept on the same disk, and go before versions."""
        free = shutil.disk_usage(self._folder).free
        if free < whole - done + _SPARE_BYTES:
            raise PermanentError(
                f"{self._folder} has {free // 1_000_000} MB free, too few for a bundle of {whole // 1_000_000} MB: "
                "make room, and order it again with `vigil node update`"
            )

    def _install(self, installed: Installed, bundle: Path, version: str) -> None:
        from fleet.bundle.verify import unpack_bundle, verify_bundle

        self._tell("installing", version)
        authority = self._identity.ca.read_bytes() if self._identity.ca.exists() else None
        unpacked = self._folder / "unpacked"
        try:
            manifest = verify_bundle(bundle, authority)
            _check_manifest(manifest, version)
            _remove(unpacked)
            unpack_bundle(bundle, authority, unpacked)
            _run_installer(unpacked, installed.home)
        finally:
            _remove(unpacked)
            # What is installed is not needed any more, and what cannot be is fetched anew.
            bundle.unlink(missing_ok=True)

    def _switch(self, installed: Installed, version: str) -> None:
        report = self._agent.report
        running = [] if report is None else [name for name, role in report.roles.items() if role.state == "running"]
        trial = Trial(version, installed.version, self._settings.fleet.trial_s, tuple(running))
        self._tell("trying", version, previous=trial.previous)
        self._log.info("update.trying", version=version, previous=trial.previous, window_s=trial.window_s)
        installed.try_out(trial)
        self.has_switched = True
        self._agent.leave()
        self._stop.set()

    # --- a trial ------------------------------------------------------------------------------------------------

    def _watch_trial(self, installed: Installed, trial: Trial) -> None:
        """Confirm once everything that ran before has run for a while; else the launcher goes back."""
        now_s = self._clock.monotonic_s()
        if not self._is_well(trial):
            self._steady_since_s = None
            return
        if self._steady_since_s is None:
            self._steady_since_s = now_s
        if now_s - self._steady_since_s >= min(_STEADY_S, trial.window_s / 3):
            installed.confirm()
            self._log.info("update.done", version=trial.version, previous=trial.previous)
            self._tell("done", trial.version, previous=trial.previous)

    def _is_well(self, trial: Trial) -> bool:
        report = self._agent.report
        if report is None or not self._agent.is_connected:
            return False
        roles = {name: report.roles.get(name) for name in trial.roles}
        restarts = {name: role.restarts for name, role in roles.items() if role is not None}
        is_same, self._restarts = restarts == self._restarts, restarts
        return is_same and all(role is not None and role.state == "running" for role in roles.values())

    def _tell_outcome(self, installed: Installed) -> None:
        """What became of a trial while this process was not there."""
        report, failure = self._report, installed.failure
        is_untold = report is None or failure is None or (report.version, report.state) == (failure.version, "trying")
        # A launcher whose power was cut has said so, and has not yet gone back.
        if failure is not None and failure.version != installed.version and is_untold:
            self._log.error("update.rolled_back", version=failure.version, reason=failure.reason)
            self._tell("rolled-back", failure.version, previous=installed.version, error=failure.reason)
        elif report is not None and report.state == "trying" and installed.trial is None:
            if report.version == installed.version:
                self._tell("done", report.version, previous=report.previous)
            else:
                self._report = None  # the switch was cut short: it is done again

    # --- what is told -------------------------------------------------------------------------------------------

    def _tell(self, state: UpdateState, version: str, *, previous: str = "", error: str = "") -> None:
        report = UpdateReport(
            version=version,
            previous=previous,
            state=state,
            at=self._clock.now(),
            error=error[:4096],
        )
        if state == "refused":
            self._log.error("update.refused", version=version, reason=error)
        self._report = report
        self._agent.tell_update(report)
        self._folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self._folder / "report.json", msgspec.json.encode(report))

    def _last_report(self) -> UpdateReport | None:
        try:
            return msgspec.json.decode((self._folder / "report.json").read_bytes(), type=UpdateReport)
        except (FileNotFoundError, msgspec.MsgspecError):
            return None


def _check_manifest(manifest: Manifest, version: str) -> None:
    if manifest.version != version:
        raise PermanentError(f"the site's bundle is of version {manifest.version}, not {version}: build it anew")
    missing = _missing_packages(manifest.packages)
    if missing:
        raise PermanentError(
            f"version {version} needs packages of the distribution that are not installed: as root on the node, "
            f"apt-get install {' '.join(missing)}"
        )


def _missing_packages(names: Sequence[str]) -> list[str]:
    command = ["dpkg-query", "--show", "--showformat", "${Package} ${db:Status-Status}\n", *names]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout
    except OSError:
        return []  # no such distribution: whoever installed Vigil here knows better
    there = {line.partition(" ")[0] for line in found.splitlines() if line.endswith(" installed")}
    return [name for name in names if name not in there]


def _run_installer(unpacked: Path, home: Path) -> None:
    """The bundle's own installer, with the system's Python: it stands alone."""
    python = Path(sys.base_prefix) / "bin" / "python3"
    command = [str(python), str(unpacked / INSTALLER), "install", str(unpacked), "--home", str(home)]
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_INSTALL_S)
    except subprocess.TimeoutExpired as error:
        raise PermanentError(f"the installer was not done within {_INSTALL_S / 3600:.0f} h") from error
    if run.returncode:
        raise PermanentError((run.stderr or run.stdout).strip()[-2000:] or f"the installer ended with {run.returncode}")


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
