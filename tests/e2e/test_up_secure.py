from __future__ import annotations

import json
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_up import VERDICT, free_ports, stored
from tests.e2e.vigil_process import Vigil, run_vigil
from tests.support.waiting import wait_until


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("engine", ["mosquitto", "embedded"])
def test_nobody_comes_in_without_a_certificate_and_nothing_is_missing(engine: str, tmp_path: Path) -> None:
    state = tmp_path / "state"
    site_file = tmp_path / "site.yaml"
    site_file.write_text("detector:\n  rules:\n    presence: {cooldown_s: 1}\n")
    options = ("--config", str(site_file), "--state", str(state))
    with Vigil(
        *options, "up", "--secure", "--homeassistant", "--engine", engine, *free_ports(), folder=tmp_path
    ) as vigil:
        wait_until(lambda: stored(state), timeout_s=90, what=f"the first escalation\n{vigil.output}")
        assert "made a certificate authority in" in vigil.output
        bus = re.search(r"^broker +mqtts(://\S+)", vigil.output, re.MULTILINE)
        assert bus is not None
        with ThreadPoolExecutor() as pool:  # none of them does much but wait
            picture = pool.submit(save_picture, vigil.output, tmp_path)
            found_by = pool.submit(discovery, vigil.output, tmp_path)
            with_it = pool.submit(run_vigil, *watch_command(vigil.output), "--for", "5s")
            without = pool.submit(run_vigil, "--state", str(tmp_path), "--bus", f"mqtt{bus[1]}", "watch", "--for", "3s")
        assert picture.result().startswith(b"\xff\xd8\xff")
        assert found_by.result()["components"], "Home Assistant, with a person's certificate, finds a device"
        status, followed, errors = with_it.result()
        assert (status, errors) == (0, "")
        assert "street" in followed
        assert without.result()[0] != 0
        doctor, found, _ = run_vigil("--config", str(state / "up" / "vigil.yaml"), "doctor")
        assert doctor == 0, found
        assert "an ACL is in force" in found
        vigil.interrupt()
        assert (vigil.wait_end(60), vigil.errors) == (0, ""), vigil.output
    assert re.search(rf"^{VERDICT}", vigil.output, re.MULTILINE), vigil.output
    assert "rejects: 0" in vigil.output


def save_picture(output: str, folder: Path) -> bytes:
    """What the printed example saves, run as it stands."""
    line = re.search(r"^one frame  (mosquitto_sub .*)$", output, re.MULTILINE)
    assert line is not None, output
    subprocess.run(["/bin/sh", "-c", line[1]], cwd=folder, check=True, timeout=30)
    return (folder / "a.jpg").read_bytes()


def discovery(output: str, folder: Path) -> dict[str, Any]:
    """The first device that the role homeassistant tells of, read as Home Assistant would."""
    line = re.search(r"^one frame  (mosquitto_sub .*) -t ", output, re.MULTILINE)
    assert line is not None, output
    command = f"{line[1]} -t 'homeassistant/device/#' -C 1"
    told = subprocess.run(["/bin/sh", "-c", command], cwd=folder, check=True, timeout=30, capture_output=True)
    return dict(json.loads(told.stdout))


def watch_command(output: str) -> list[str]:
    line = re.search(r"^follow     vigil (.*)$", output, re.MULTILINE)
    assert line is not None, output
    return line[1].split()
