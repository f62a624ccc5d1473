"""A node on arm64, from its card to its camera's messages: half an hour of emulation, so only where it is asked for.

VIGIL_TEST_LONG=1 ./vigil test tests/e2e/test_arm64.py

`tests/integration/test_bundle.py` runs the same first boot on this machine's own processor.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench" / "arm64.py"
LIMIT_S = 3600

if os.environ.get("VIGIL_TEST_LONG"):

    @pytest.mark.slow
    @pytest.mark.timeout(LIMIT_S)
    @pytest.mark.parametrize("family", ["bookworm", "trixie"])
    def test_a_node_runs_on_arm64(family: str) -> None:
        command = [sys.executable, str(BENCH), "--family", family]
        run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S)
        assert run.returncode == 0, run.stdout + run.stderr[-2000:]
