from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from config.settings import Settings
from detector.cli import detector

ROOT = Path(__file__).parents[3]


def refuse(_overrides: Mapping[str, Any]) -> Settings:
    raise AssertionError("the settings were read")


def test_the_help_shows_how_it_is_used() -> None:
    shown = CliRunner().invoke(detector, ["--help"])
    assert shown.exit_code == 0
    assert "vigil detector --model yolox_nano.onnx" in shown.output


def test_a_role_that_cannot_be_one_is_wrong_usage() -> None:
    refused = CliRunner().invoke(detector, ["--role", "Detector Two"], obj=refuse)
    assert refused.exit_code == 2
    assert "is not a role" in refused.output


def test_the_flags_go_into_the_settings() -> None:
    given: dict[str, Any] = {}

    def load(overrides: Mapping[str, Any]) -> Settings:
        given.update(overrides)
        raise SystemExit(0)

    CliRunner().invoke(detector, ["--model", "m.onnx", "--threads", "2"], obj=load)
    assert given == {"detector": {"model": Path("m.onnx"), "labels": None, "threads": 2}}


def test_help_loads_no_model_runtime() -> None:
    script = "import sys, detector.cli; sys.exit(bool({'cv2', 'onnxruntime', 'numpy'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0
