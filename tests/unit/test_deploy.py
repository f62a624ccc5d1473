"""The systemd unit of a camera node."""

from __future__ import annotations

import shutil
import subprocess
import sys
from configparser import RawConfigParser
from pathlib import Path

import pytest
from click.testing import CliRunner

from config.errors import EXIT_CONFIG
from config.service import PATIENCE_S
from console.cli import cli

UNIT = Path(__file__).parents[2] / "deploy" / "systemd" / "vigil-edge.service"


@pytest.fixture(scope="module")
def service() -> dict[str, str]:
    unit = RawConfigParser(strict=True)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(UNIT.read_text())
    return dict(unit["Service"])


def test_it_waits_for_ready_and_is_watched_and_started_again_for_ever(service: dict[str, str]) -> None:
    assert (service["Type"], service["NotifyAccess"], service["Restart"]) == ("notify", "main", "always")
    assert float(service["WatchdogSec"]) >= PATIENCE_S / 2
    assert "StartLimitIntervalSec=0" in UNIT.read_text().splitlines()
    assert service["RestartPreventExitStatus"] == str(EXIT_CONFIG)


def test_it_never_reboots_the_machine() -> None:
    settings = [line for line in UNIT.read_text().splitlines() if not line.startswith("#")]
    assert not [line for line in settings if "reboot" in line or line.startswith(("FailureAction", "StartLimitAction"))]


def test_it_runs_as_its_own_user_and_may_write_to_its_state_folder_only(service: dict[str, str]) -> None:
    assert service["User"] == "vigil"
    assert service["CapabilityBoundingSet"] == ""
    assert (service["ProtectSystem"], service["NoNewPrivileges"]) == ("strict", "yes")
    assert f"--state /var/lib/{service['StateDirectory']} edge" in service["ExecStart"]
    assert "adjtimex" in service["SystemCallFilter"], "else nobody knows whether the clock is right"


def test_the_command_that_it_starts_exists(service: dict[str, str]) -> None:
    program, *arguments = service["ExecStart"].split()
    assert program.endswith("/vigil")
    assert CliRunner().invoke(cli, [*arguments, "--help"]).exit_code == 0


def test_systemd_understands_every_line(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        return  # where systemd is not, the tests above are what there is
    copy = tmp_path / UNIT.name
    # Of Vigil only the place is not here: any program stands for it.
    copy.write_text(UNIT.read_text().replace("/opt/vigil/.venv/bin/vigil", sys.executable))
    verified = subprocess.run(
        [analyze, "verify", "--man=no", str(copy)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (verified.stdout + verified.stderr, verified.returncode) == ("", 0)
