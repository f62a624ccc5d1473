"""The launcher of an installed node: which version is started, and when the one before it is taken again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.updates.installed import Failure, Installed, Trial, installed_here
from tests.support.waiting import wait_until

LAUNCH = Path(__file__).parents[3] / "fleet" / "bundle" / "on_node" / "launch"
SAYS = 'echo "$VIGIL_INSTALLED $0 $*"'


def put_version(home: Path, version: str, script: str = SAYS) -> None:
    folder = home / "versions" / version
    (folder / "bin").mkdir(parents=True)
    program = folder / "bin" / "vigil"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    (folder / "launch").write_text(f"#!/bin/sh\n# of {version}\n")
    (folder / "complete").touch()


@pytest.fixture
def installed(tmp_path: Path) -> Installed:
    home = tmp_path / "opt vigil"
    for version in ("1.0", "2.0"):
        put_version(home, version)
    shutil.copy(LAUNCH, home / "launch")
    (home / "launch").chmod(0o755)
    (home / "current").symlink_to("versions/1.0")
    return Installed(home)


def launch(installed: Installed, *arguments: str) -> str:
    done = subprocess.run(
        [str(installed.home / "launch"), *arguments], capture_output=True, text=True, check=False, timeout=30
    )
    return done.stdout


@pytest.fixture
def ended() -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        process.wait()


def test_it_stands_for_vigil(installed: Installed) -> None:
    assert "/versions/1.0" not in launch(installed, "--version")  # by `current`, so that it need not know
    assert launch(installed, "--state", "x y", "node", "run").split() == [
        *str(installed.home).split(),
        *f"{installed.home}/current/bin/vigil".split(),
        *["--state", "x", "y", "node", "run"],
    ]
    assert installed.version == "1.0"


def test_a_trial_that_is_confirmed_stays_and_brings_its_launcher(installed: Installed) -> None:
    put_version(installed.home, "0.9")
    installed.try_out(Trial("2.0", "1.0", 60, ("edge", "detector.2")))
    assert installed.trial == Trial("2.0", "1.0", 60, ("edge", "detector.2"))
    installed.confirm()
    assert not (installed.home / "trial").exists()
    assert installed.version == "2.0"
    assert installed.failure is None
    assert "of 2.0" in (installed.home / "launch").read_text()
    assert sorted(place.name for place in (installed.home / "versions").iterdir()) == ["1.0", "2.0"]


def test_one_that_ends_again_and_again_is_left(installed: Installed) -> None:
    installed.try_out(Trial("2.0", "1.0", 600))
    for _ in range(3):
        launch(installed, "node", "run")
        assert installed.version == "2.0"
    assert launch(installed, "node", "run")
    assert installed.version == "1.0"
    assert installed.trial is None
    assert installed.failure == Failure("2.0", "it ended 3 times without saying that all is well")
    installed.try_out(Trial("2.0", "1.0", 600))
    assert installed.failure is None


def test_one_whose_starts_cannot_be_counted_is_not_tried_for_ever(installed: Installed) -> None:
    installed.try_out(Trial("2.0", "1.0", 600))
    (installed.home / ".trial.new").symlink_to("/dev/full")
    assert launch(installed, "node", "run")
    assert installed.version == "1.0"
    assert installed.failure == Failure("2.0", "its starts cannot be counted: is the disk full?")


def test_a_version_of_which_a_power_cut_has_left_a_part_is_not_there(
    installed: Installed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "rmtree", lambda *_arguments, **_options: None)
    installed.remove("2.0")
    assert (installed.home / "versions" / "2.0" / "bin").exists()
    assert not installed.has("2.0")


def test_its_launcher_is_run_by_everybody_whatever_the_umask(installed: Installed) -> None:
    installed.try_out(Trial("2.0", "1.0", 60))
    before = os.umask(0o077)
    try:
        installed.confirm()
    finally:
        os.umask(before)
    assert (installed.home / "launch").stat().st_mode & 0o777 == 0o755


def test_other_commands_count_for_nothing(installed: Installed) -> None:
    installed.try_out(Trial("2.0", "1.0", 600))
    for _ in range(6):
        launch(installed, "node", "list")
    assert installed.version == "2.0"


def test_one_that_hangs_is_ended_and_left(installed: Installed, ended: list[subprocess.Popen[bytes]]) -> None:
    put_version(installed.home, "3.0", "exec sleep 300")
    installed.try_out(Trial("3.0", "1.0", 1))
    process = subprocess.Popen([str(installed.home / "launch"), "node", "run"], start_new_session=True)
    ended.append(process)
    wait_until(lambda: process.poll() is not None, timeout_s=30, what="the end of what hangs")
    assert process.returncode == -signal.SIGTERM
    assert installed.version == "1.0"
    assert installed.failure == Failure("3.0", "it did not say within 1 s that all is well")


def test_one_that_has_confirmed_is_left_alone(installed: Installed, ended: list[subprocess.Popen[bytes]]) -> None:
    put_version(installed.home, "3.0", "exec sleep 300")
    installed.try_out(Trial("3.0", "1.0", 2))
    process = subprocess.Popen([str(installed.home / "launch"), "node", "run"], start_new_session=True)
    ended.append(process)
    trial = installed.home / "trial"
    wait_until(lambda: "starts=1" in trial.read_text(), timeout_s=30, what="its start")
    installed.confirm()
    time.sleep(2.5)  # longer than its window
    assert process.poll() is None
    assert installed.version == "3.0"


def test_a_switch_that_was_cut_short_is_no_trial(installed: Installed) -> None:
    installed.try_out(Trial("2.0", "1.0", 60))
    (installed.home / "current").unlink()
    (installed.home / "current").symlink_to("versions/1.0")
    assert installed.trial is None
    installed.forget_trial()
    assert not (installed.home / "trial").exists()


def test_only_what_the_launcher_started_is_installed(installed: Installed, tmp_path: Path) -> None:
    assert installed_here({}) is None
    assert installed_here({"VIGIL_INSTALLED": str(tmp_path)}) is None
    assert installed_here({"VIGIL_INSTALLED": str(installed.home)}) == installed
