"""The systemd units: what packages get is what `vigil service` writes, and systemd understands all of it."""

from __future__ import annotations

import json
import re
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
from fleet.service.units import SERVICES, Place, unit_name, unit_text

UNITS = Path(__file__).parents[2] / "deploy" / "systemd"
EXPOSURE_MAX = 2.5
"""Of 10, as `systemd-analyze security` counts; a service without any hardening has 9.6."""


def section(text: str) -> dict[str, str]:
    unit = RawConfigParser(strict=True)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(text)
    return dict(unit["Service"])


@pytest.fixture(params=SERVICES)
def service(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_the_units_of_packages_are_those_that_the_command_writes() -> None:
    stale = [name for name in SERVICES if (UNITS / unit_name(name)).read_text() != unit_text(name)]
    assert stale == [], "run: vigil service units deploy/systemd"
    assert {file.name for file in UNITS.iterdir()} == {unit_name(name) for name in SERVICES}


def test_it_is_started_again_for_ever_and_watched_where_it_says_how_it_is(service: str) -> None:
    text = unit_text(service)
    unit = section(text)
    assert unit["Restart"] == "always"
    assert "StartLimitIntervalSec=0" in text.splitlines()
    if SERVICES[service].says_ready:
        assert (unit["Type"], unit["NotifyAccess"]) == ("notify", "main")
        assert float(unit["WatchdogSec"]) >= PATIENCE_S / 2
    assert unit.get("RestartPreventExitStatus") == (None if SERVICES[service].tries_for_ever else str(EXIT_CONFIG))


def test_it_backs_off_where_systemd_can(service: str) -> None:
    assert section(unit_text(service, Place(systemd=254)))["RestartMaxDelaySec"] == "60"
    assert "RestartSteps" not in unit_text(service, Place(systemd=252)), "an older one warns of it at each start"


def test_it_never_reboots_the_machine(service: str) -> None:
    settings = [line for line in unit_text(service).splitlines() if not line.startswith("#")]
    assert not [line for line in settings if "reboot" in line or line.startswith(("FailureAction", "StartLimitAction"))]


def test_it_runs_as_its_own_user_and_may_write_to_what_is_its_own(service: str) -> None:
    unit = section(unit_text(service))
    assert unit["User"] == "vigil"
    assert unit["CapabilityBoundingSet"] == ""
    assert (unit["ProtectSystem"], unit["NoNewPrivileges"]) == ("strict", "yes")
    assert f"--state /var/lib/{unit['StateDirectory']} " in unit["ExecStart"]
    writes = {"node": "-/opt/vigil", "fleet": "-/etc/vigil/registry"}
    assert unit.get("ReadWritePaths") == writes.get(service)
    assert "adjtimex" in unit["SystemCallFilter"], "else nobody knows whether the clock is right"


def test_the_command_that_it_starts_exists(service: str) -> None:
    program, *arguments = section(unit_text(service))["ExecStart"].split()
    assert program == "/opt/vigil/launch"
    assert CliRunner().invoke(cli, [*arguments, "--help"]).exit_code == 0


def test_a_state_folder_elsewhere_can_be_written_and_strange_names_are_kept() -> None:
    unit = unit_text("edge", Place(state=Path("/srv/a b%"), groups=frozenset({"video"})))
    assert "--state '/srv/a b%%' edge" in unit
    assert "ReadWritePaths='-/srv/a b%%'" in unit
    assert "StateDirectory" not in unit
    assert "SupplementaryGroups=video\n" in unit, "a group that is not there would keep it from starting"


@pytest.fixture
def analyze() -> str:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd-analyze: sudo apt-get install systemd")
    return program


@pytest.fixture
def units(tmp_path: Path) -> list[str]:
    """Copies; of Vigil only the place is not here: any program stands for it."""
    for name in SERVICES:
        (tmp_path / unit_name(name)).write_text(unit_text(name).replace("/opt/vigil/launch", sys.executable))
    return [str(tmp_path / unit_name(name)) for name in SERVICES]


def test_systemd_understands_every_line(analyze: str, units: list[str]) -> None:
    verified = subprocess.run(
        [analyze, "verify", "--man=no", *units], capture_output=True, text=True, timeout=60, check=False
    )
    assert (verified.stdout + verified.stderr, verified.returncode) == ("", 0)


def test_systemd_finds_little_to_reach(analyze: str, units: list[str]) -> None:
    command = [analyze, "security", "--offline=true", "--no-pager", *units]
    seen = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    levels = {name: float(level) for name, level in re.findall(r"level for (\S+): ([0-9.]+)", seen)}
    assert set(levels) == {unit_name(name) for name in SERVICES}, json.dumps(levels)
    assert max(levels.values()) <= EXPOSURE_MAX
