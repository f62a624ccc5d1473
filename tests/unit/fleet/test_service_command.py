"""`vigil service`, with a folder in place of the system, and a systemd that says what the test wants."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from console.cli import RefusalError, cli

Invoke = Callable[..., Result]


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(cli, ["service", *arguments])

    return run


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Another system, with the user already there: making one takes its own tools."""
    folder = tmp_path / "root"
    (folder / "etc").mkdir(parents=True)
    (folder / "opt" / "vigil").mkdir(parents=True)
    (folder / "opt" / "vigil" / "launch").touch()
    (folder / "etc" / "passwd").write_text(f"root:x:{os.geteuid()}:0::/root:/bin/sh\nvigil:x:{os.geteuid()}:0::/:/x\n")
    (folder / "etc" / "group").write_text(f"root:x:{os.getegid()}:\nvideo:x:44:\nvigil:x:{os.getegid()}:\n")
    return folder


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `systemctl` that answers `show` with a file, and notes what it was asked."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "systemctl"
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {folder}/asked\n'
        f'case "$1" in --version) echo "systemd 257 (257)";; show) cat {folder}/shown;; esac\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return folder


def test_a_service_is_put_into_another_system_and_taken_away(invoke: Invoke, root: Path, systemd: Path) -> None:
    done = invoke("install", "--role", "fleet", "--root", str(root))
    assert done.exit_code == 0, done.output
    unit = root / "etc/systemd/system/vigil-fleet.service"
    text = unit.read_text()
    assert "ExecStart=/opt/vigil/launch --config /etc/vigil/vigil.yaml --state /var/lib/vigil fleet\n" in text
    assert "ReadWritePaths=-/etc/vigil/registry\n" in text
    assert "RestartSteps=6\n" in text
    link = root / "etc/systemd/system/multi-user.target.wants/vigil-fleet.service"
    assert str(link.readlink()) == "/etc/systemd/system/vigil-fleet.service", "what `systemctl enable` makes"
    modes = {place: stat.S_IMODE((root / place).stat().st_mode) for place in ("etc/vigil", "var", "var/lib/vigil")}
    assert modes == {"etc/vigil": 0o750, "var": 0o755, "var/lib/vigil": 0o700}
    config = root / "etc/vigil/vigil.yaml"
    assert "registry: /etc/vigil/registry" in config.read_text()
    assert stat.S_IMODE(config.stat().st_mode) == 0o640

    config.write_text("site: mine\nstate_dir: /srv/vigil\n")
    again = invoke("install", "--role", "fleet", "--root", str(root))
    assert again.exit_code == 0, again.output
    assert config.read_text() == "site: mine\nstate_dir: /srv/vigil\n", "a configuration that is there stays"
    assert "ReadWritePaths=-/srv/vigil -/srv/vigil/registry\n" in unit.read_text()

    gone = invoke("uninstall", "--role", "fleet", "--root", str(root))
    assert gone.exit_code == 0, gone.output
    assert not unit.exists()
    assert not link.is_symlink()
    assert config.exists()
    assert "kept: configuration /etc/vigil, state /srv/vigil" in gone.output


def test_a_dry_run_says_everything_and_does_nothing(invoke: Invoke, root: Path, systemd: Path) -> None:
    (root / "etc" / "passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    before = sorted(root.rglob("*"))
    said = invoke("install", "--root", str(root), "--dry-run")
    assert said.exit_code == 0, said.output
    lines = said.output.splitlines()
    assert f"give {root}/opt/vigil and all that is in it to vigil: the agent puts updates there" in lines
    assert "    NoNewPrivileges=yes" in lines
    (user,) = [line for line in lines if line.startswith("useradd --system ")]
    assert f"--groups video --prefix {root} vigil" in user, "in this system there is no group render"
    assert sorted(root.rglob("*")) == before


def test_who_is_not_root_is_told_before_anything_changes(
    invoke: Invoke, systemd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    refused = invoke("install", "--now")
    assert isinstance(refused.exception, RefusalError)
    assert "root must do it: `sudo vigil service install" in str(refused.exception)
    assert "vigil-node.service" not in refused.output


def test_what_is_not_installed_is_not_uninstalled(invoke: Invoke, root: Path, systemd: Path) -> None:
    refused = invoke("uninstall", "--role", "edge", "--root", str(root))
    assert "vigil-edge.service is not installed" in str(refused.exception)


WELL = """\
Id=vigil-node.service
LoadState=loaded
ActiveState=active
SubState=running
UnitFileState=enabled
MainPID=812
NRestarts=2
StatusText=running: 2 of 2 processes; broker connected
StateChangeTimestamp=Fri 2026-11-20 09:00:00 CET
Result=success
ExecMainStatus=0
"""
ABSENT = "Id=vigil-bridge.service\nLoadState=not-found\nActiveState=inactive\n"
HUNG = """\
Id=vigil-edge.service
LoadState=loaded
ActiveState=activating
SubState=auto-restart
UnitFileState=enabled
MainPID=0
NRestarts=7
StatusText=
StateChangeTimestamp=Fri 2026-11-20 09:00:00 CET
Result=watchdog
ExecMainStatus=6
"""


def test_the_status_is_told_in_words_and_for_scripts(invoke: Invoke, systemd: Path) -> None:
    (systemd / "shown").write_text(f"{WELL}\n{ABSENT}")
    well = invoke("status")
    assert well.exit_code == 0
    assert well.output == (
        "vigil-node  runs since Fri 2026-11-20 09:00:00 CET, process 812, started again 2 times; starts with the "
        "machine\n  running: 2 of 2 processes; broker connected\n"
    )
    (systemd / "shown").write_text(f"{WELL}\n{HUNG}")
    hung = invoke("status")
    assert hung.exit_code == 1
    assert "vigil-edge  waits for its next start, last end: watchdog (status 6); starts with the machine" in hung.output
    assert [one["restarts"] for one in json.loads(invoke("status", "--json").output)] == [2, 7]
    (systemd / "shown").write_text(ABSENT)
    assert "No service of Vigil is installed" in invoke("status").output


@pytest.fixture(autouse=True)
def restored_umask() -> Iterator[None]:
    before = os.umask(0o077)  # as the command's own
    yield
    os.umask(before)
