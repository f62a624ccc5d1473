"""Who loads what: a node that scores nothing knows no model, and one that does has both in one process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

from broker import Bus
from broker.memory import MemoryBroker
from broker.outbox import Outbox
from config import SystemClock
from config.settings import DetectorSettings, EdgeSettings, Settings
from console.cli import cli
from console.compose import Machine, compose
from console.joined import edge, open_scorer
from edge.cli import edge as edge_alone

LOADED = """
import json, sys
import console.cli, console.loading, console.joined, edge.role
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""
HEAVY = {
    "PIL", "ai_edge_litert", "bridge", "confluent_kafka", "cryptography", "cv2", "detector", "fastapi", "fleet", "gi",
    "onnxruntime", "rich", "tflite_runtime", "uvicorn",
}  # fmt: skip


def test_a_node_loads_no_model_runtime_no_web_server_and_no_kafka() -> None:
    said = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True, timeout=60)
    loaded = set(json.loads(said.stdout))
    assert "numpy" in loaded
    assert not loaded & HEAVY


def test_the_command_is_the_edges_own() -> None:
    assert edge.params == edge_alone.params
    shown = CliRunner().invoke(cli, ["edge", "--help"])
    assert shown.exit_code == 0
    assert "With `edge.detector: true` this process scores" in " ".join(shown.output.split())


def test_a_mesh_whose_node_scores_starts_no_worker_beside_it() -> None:
    machine = Machine(lambda _host, _port: True, lambda _host: 1)
    apart = compose(Settings(), machine)
    joined = compose(Settings(edge=EdgeSettings(detector=True)), machine)
    assert [role.name for role in apart.roles] == ["broker", "edge", "detector", "bridge", "console"]
    assert [role.name for role in joined.roles] == ["broker", "edge", "bridge", "console"]


def test_the_scorer_scores_with_the_detectors_settings_in_the_edges_name(tmp_path: Path, shared_data: Path) -> None:
    settings = Settings(detector=DetectorSettings(model=shared_data / "yolox_nano.onnx"))
    bus = Bus(
        site="home",
        origin="porch.edge",
        transports=MemoryBroker().transports("edge"),
        outbox=Outbox(tmp_path / "outbox.db", origin="porch.edge"),
    )
    errors: list[Exception] = []
    scorer = open_scorer(bus, settings, SystemClock(), errors.append)
    scorer.start()
    assert "frames_scored" in scorer.figures().counts
    scorer.close()
    bus.close(drain_s=0)
    assert not errors
