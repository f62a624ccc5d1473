"""`vigil bench detector`: what it measures, with a model that takes no time."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from broker import decode_frame
from config import SystemClock, TransientError
from config.settings import DetectorSettings, Settings
from detector import bench_cli
from detector.backends import Backend, Prepared
from detector.benchmark import Rate, Report, default_threads, describe_machine, draw_frames, examine
from detector.decoding import Outputs
from detector.pictures import jpeg_size, read_picture
from tests.unit.detector.walks import SpotBackend


def load(_overrides: Mapping[str, Any]) -> Settings:
    return Settings()


def test_the_frames_are_those_of_a_camera_and_the_same_each_time() -> None:
    frames = draw_frames()
    assert frames == draw_frames()
    assert len(set(frames)) == len(frames)
    for frame in frames:
        assert jpeg_size(frame) == (1280, 720)
        assert 60_000 < len(frame) < 250_000
        assert read_picture(decode_frame(frame)).shape == (720, 1280, 3)


def test_the_machine_is_described() -> None:
    machine = describe_machine()
    assert machine["processor"]
    assert machine["gpu"]
    threads = default_threads()
    assert threads[0] == 1
    assert threads[-1] == machine["cores"]
    assert threads == sorted(set(threads))


def examined(**settings: object) -> tuple[list[Rate], Report]:
    opened: list[int] = []

    def open_spot(mine: DetectorSettings) -> Backend:
        opened.append(mine.threads)
        return SpotBackend()

    found = list(
        examine(
            open_spot,
            draw_frames()[:2],
            DetectorSettings.model_validate(settings),
            threads=[1, 2],
            spend_s=0.02,
            clock=SystemClock(),
        )
    )
    assert opened == [1, 2, settings.get("threads", 0)]
    report = found.pop()
    assert isinstance(report, Report)
    return [one for one in found if isinstance(one, Rate)], report


def test_a_model_is_measured_alone_in_steps_and_in_a_worker() -> None:
    rates, report = examined()
    assert [(rate.threads, rate.batch) for rate in rates] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert all(rate.fps > 1 for rate in rates)
    assert report.rates == tuple(rates)
    assert (report.name, report.device, report.input_px) == ("spot", "cpu", (160, 120))
    assert all(took_ms > 0 for took_ms in report.costs)
    assert report.path_fps > 0
    assert report.capacity_fps > 0


def test_a_capacity_that_is_set_is_what_it_would_announce() -> None:
    assert examined(capacity_fps=7)[1].capacity_fps == 7


def test_the_table_has_every_model_and_ends_with_hog(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    models = bench_cli._models(DetectorSettings(models_folder=tmp_path), [Path("a.onnx"), Path("b.tflite")])
    assert [name.rpartition("/")[2] for name, _ in models] == ["a.onnx", "b.tflite", "hog-people (OpenCV)"]
    monkeypatch.setattr(bench_cli, "_models", lambda _settings, _given: [("spot.onnx", lambda _mine: SpotBackend())])
    shown = CliRunner().invoke(bench_cli.detector, ["--each", "0.01", "--threads", "1"], obj=load)
    assert shown.exit_code == 0, shown
    assert "cores for this process; " in shown.stdout
    assert "spot.onnx" in shown.stdout
    assert "1 thread:" in shown.stdout
    assert [line.split()[0] for line in shown.stdout.splitlines() if line.endswith("%")] == [
        "decode",
        "prepare",
        "infer",
        "read",
        "publish",
    ]
    assert "a whole worker" in shown.stdout
    assert "it would announce" in shown.stdout


def test_json_is_one_line_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_cli, "_models", lambda _settings, _given: [("spot.onnx", lambda _mine: SpotBackend())])
    shown = CliRunner().invoke(bench_cli.detector, ["--each", "0.01", "--threads", "1", "--json"], obj=load)
    (line,) = shown.stdout.splitlines()
    found = json.loads(line)
    assert found["model"] == "spot"
    assert found["machine"]["cores"] >= 1
    assert [rate["batch"] for rate in found["model_alone"]] == [1, 2]
    assert set(found["frame_ms"]) == {"decode", "prepare", "infer", "read", "publish"}
    assert found["worker_fps"] > 0


def test_a_model_that_fails_ends_it_and_leaves_nothing_behind() -> None:
    class Broken(SpotBackend):
        def infer(self, batch: Sequence[Prepared]) -> list[Outputs]:
            raise TransientError("out of memory")

    before = threading.active_count()
    with pytest.raises(TransientError, match="out of memory"):
        list(
            examine(
                lambda _mine: Broken(),
                draw_frames()[:1],
                DetectorSettings(),
                threads=[1],
                spend_s=0.01,
                clock=SystemClock(),
            )
        )
    assert threading.active_count() == before
