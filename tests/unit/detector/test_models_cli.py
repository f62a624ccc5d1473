from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from broker.acl import AccessList, node_rights
from broker.messages import ModelFile, ModelManifest, ModelRef, WorkerStatus
from broker.topics import MODEL, NODE_WORKER
from config.settings import DetectorSettings, Settings
from detector import models_cli
from detector.model_store import ModelStore
from detector.models_cli import models
from tests.support.file_server import FileServer, Served

ROOT = Path(__file__).parents[3]
MODEL_BYTES = b"weights" * 1000
AT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer({"m.onnx": Served(MODEL_BYTES)}) as running:
        yield running


def vigil(folder: Path, *arguments: str) -> Result:
    def load(_overrides: Mapping[str, Any]) -> Settings:
        return Settings(site="home", node="desk", detector=DetectorSettings(models_folder=folder))

    return CliRunner().invoke(models, arguments, obj=load)


def test_the_help_shows_how_it_is_used() -> None:
    shown = CliRunner().invoke(models, ["--help"])
    assert shown.exit_code == 0
    assert "vigil models use yolox_nano --canary auto" in shown.output


def test_help_loads_no_model_runtime() -> None:
    script = "import sys, detector.models_cli; sys.exit(bool({'cv2', 'onnxruntime', 'numpy'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0


def test_what_nobody_vouches_for_is_said_to_be_pinned(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As an https address would be: a certificate that is trusted is another matter.
    monkeypatch.setattr(models_cli, "_check_scheme", lambda _url, _sha256: None)
    pulled = vigil(tmp_path, "pull", server.url("m.onnx"), "--name", "people", "--licence", "MIT")
    assert pulled.exit_code == 0, pulled.output
    assert "pinned: nobody but its server vouches for this hash" in pulled.output
    (stored,) = ModelStore(tmp_path).models()
    assert (stored.about.name, stored.about.licence) == ("people", "MIT")


def test_a_file_is_taken_in_with_its_labels(tmp_path: Path) -> None:
    own, labels = tmp_path / "own.tflite", tmp_path / "labels.txt"
    own.write_bytes(MODEL_BYTES)
    labels.write_text("forklift\npallet\n")
    pulled = vigil(tmp_path / "models", "pull", str(own), "--labels", str(labels), "--name", "depot")
    assert pulled.exit_code == 0, pulled.output
    assert "pinned" not in pulled.output
    (about,) = (tmp_path / "models").glob("*/model.json")
    assert '"labels":["forklift","pallet"]' in about.read_text()


@pytest.mark.parametrize(
    "arguments",
    [
        ["pull", "https://a.example/m.onnx", "--sha256", "12"],
        ["pull", "https://a.example/m.onnx", "--name", "../x"],
        ["use", "yolox_nano", "--class", "all of them"],
        ["rollback", "--class", "a/b"],
    ],
)
def test_wrong_usage_is_told(arguments: list[str], tmp_path: Path) -> None:
    assert vigil(tmp_path, *arguments).exit_code == 2


def test_what_comes_from_the_bus_cannot_move_the_cursor() -> None:
    file = ModelFile(name="people", sha256="ab" * 32, size_bytes=1_500_000)
    manifest = ModelManifest(name="default", version=3, at=AT, model=file, canary="x\x1b[2J", previous=file)
    status = WorkerStatus(
        worker="node\x1b[2J", state="online", at=AT, capacity_fps=1, model=ModelRef(name="p\x1b", sha256="ab" * 32),
        model_error="bad\r\nnews",
    )  # fmt: skip
    shown = "".join((*models_cli._wanted_row(manifest), *models_cli._worker_row(status)))
    assert shown.isprintable()
    assert models_cli._file_row(file) == ("people abababababab", "1.5 MB", "onnx", "licence unknown")


def test_the_fleet_may_say_which_model_and_nobody_else() -> None:
    topic, status = str(MODEL.at("home", name="default")), str(NODE_WORKER.at("home", node="n", role="detector"))
    for role, may in (("fleet", True), ("console", False), ("detector", False), ("edge", False)):
        rights = AccessList(node_rights("home", "desk", [role], ["yard"]))
        assert rights.allows(f"desk.{role}", "write", topic) is may
        assert rights.allows(f"desk.{role}", "read", topic)
    assert AccessList(node_rights("home", "desk", ["fleet"])).allows("desk.fleet", "read", status)
