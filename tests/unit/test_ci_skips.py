from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--continue-on-collection-errors"]

MODULE = """
import pytest

def test_allowed(): pytest.skip("no GPU here")
def test_forbidden(): pytest.skip("no Java")
@pytest.mark.skipif(True, reason="no camera hardware")
def test_allowed_mark(): ...
@pytest.mark.xfail(reason="known")
def test_expected_failure(): raise AssertionError
@pytest.fixture
def server(): pytest.skip("no mosquitto")
def test_forbidden_fixture(server): ...
"""


def outcome(folder: Path, *, ci: str, workers: int = 0) -> str:
    """The closing line of a run of MODULE and of a module that skips itself."""
    (folder / "conftest.py").write_text("from tests.support.skips import *\n")
    (folder / "test_some.py").write_text(MODULE)
    (folder / "test_whole.py").write_text("import pytest\npytest.skip('no Java', allow_module_level=True)\n")
    run = subprocess.run(
        [*PYTEST, f"-n{workers}"],
        cwd=folder,
        env={**os.environ, "CI": ci, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return run.stdout.splitlines()[-1]


@pytest.mark.parametrize("workers", [0, 2])
def test_in_ci_only_missing_hardware_excuses_a_skip(workers: int, tmp_path: Path) -> None:
    said = outcome(tmp_path, ci="true", workers=workers)
    assert said.startswith("1 failed, 2 skipped, 1 xfailed, 2 errors in"), said


def test_elsewhere_a_skip_is_a_skip(tmp_path: Path) -> None:
    assert outcome(tmp_path, ci="").startswith("5 skipped, 1 xfailed in")
