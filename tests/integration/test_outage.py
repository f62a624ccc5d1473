"""A short outage, the way `bench/outage.py` measures a long one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.mosquitto import mosquitto_program

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(120)
def test_nothing_of_an_outage_is_lost_when_the_power_goes_in_its_middle() -> None:
    if mosquitto_program() is None:
        pytest.skip("no mosquitto: sudo apt-get install mosquitto")
    command = [sys.executable, "bench/outage.py", "--minutes", "4"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    said = ended.stdout
    assert "kill -9 of the node after" in said, ended.stderr
    assert said.count("missing 0, repeated 0") == 2, said
    assert "out of order 0, movements without their one end 0" in said, said
    assert "escalations before motion True" in said, said
