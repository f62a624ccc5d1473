from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime as ort
import platformdirs
import pytest
import structlog.testing
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.capi.onnxruntime_pybind11_state import EPFail

from config import ConfigError, TransientError
from config.settings import DetectorSettings
from detector.backends import onnx as onnx_backend
from detector.backends.bound import BoundSession, pinned_empty
from detector.backends.onnx import OnnxRuntime
from detector.inputs import InputSpec
from detector.models import open_file
from tests.unit.detector.graphs import IMAGES, save

CUDA, TENSORRT, CPU = "CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"


def means(path: Path, shape: Sequence[int | str] = ("batch", 3, 64, 64)) -> Path:
    """A network that gives the mean of each channel, and whether it is above nine, as a whole number."""
    nodes = [
        helper.make_node("GlobalAveragePool", [IMAGES], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["means"]),
        helper.make_node("Greater", ["means", "nine"], ["above"]),
        helper.make_node("Cast", ["above"], ["large"], to=TensorProto.INT64),
    ]
    outputs = {"means": (TensorProto.FLOAT, ("batch", 3)), "large": (TensorProto.INT64, ("batch", 3))}
    nine = numpy_helper.from_array(np.array(9, np.float32), "nine")
    return save(path, nodes, outputs, tensors=[nine], shape=shape)


class Accelerated:
    """Stands in for the session of a machine with GPUs of which some work; the processor's is real.

    Attributes:
        failing: why a provider does not load.
        missing: providers that the library leaves out, because it finds no libraries of theirs.
        asked: providers in the order in which they were tried.
    """

    real = ort.InferenceSession
    failing: dict[str, Exception]
    missing: set[str]
    asked: list[str]

    def __init__(
        self, path: str, options: ort.SessionOptions, *, providers: Sequence[Any], enable_fallback: int
    ) -> None:
        first = providers[0][0] if isinstance(providers[0], tuple) else providers[0]
        type(self).asked.append(first)
        if first in self.failing:
            raise self.failing[first]
        self._first = first
        self._session = self.real(path, options, providers=[CPU], enable_fallback=enable_fallback)

    def get_providers(self) -> list[str]:
        return [CPU] if self._first in self.missing else list(dict.fromkeys([self._first, CPU]))

    def __getattr__(self, name: str) -> object:
        return getattr(self._session, name)


@pytest.fixture
def accelerated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[Accelerated]:
    monkeypatch.setattr(ort, "InferenceSession", Accelerated)
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CPU, CUDA, TENSORRT])
    monkeypatch.setattr(ort, "preload_dlls", lambda: None)
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda *_args, **_more: str(tmp_path / "cache"))
    Accelerated.failing, Accelerated.missing, Accelerated.asked = {}, set(), []
    return Accelerated


def test_the_fastest_provider_is_tried_first(accelerated: type[Accelerated], tmp_path: Path) -> None:
    runtime = OnnxRuntime(means(tmp_path / "net.onnx", shape=(1, 3, 8, 8)))
    assert accelerated.asked[-1] == TENSORRT
    assert runtime.batches
    assert CUDA not in accelerated.asked


def test_a_provider_that_fails_makes_way_for_the_next_and_the_log_says_why(
    accelerated: type[Accelerated], tmp_path: Path
) -> None:
    accelerated.failing[TENSORRT] = RuntimeError("CUDA failure 35: driver version is insufficient\nand more")
    accelerated.missing.add(CUDA)
    with structlog.testing.capture_logs() as logs:
        runtime = OnnxRuntime(means(tmp_path / "net.onnx", shape=(1, 3, 8, 8)))
    failed = [line for line in logs if line["event"] == "model.provider_failed"]
    assert [(line["provider"], line["next"]) for line in failed] == [(TENSORRT, CUDA), (CUDA, CPU)]
    assert "driver version is insufficient." in failed[0]["reason"]
    assert "libraries are missing" in failed[1]["reason"]
    assert logs[-1]["used"] == CPU
    assert not runtime.batches


def test_a_provider_that_loads_and_does_not_run_makes_way_too(
    accelerated: type[Accelerated], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    accelerated.failing[TENSORRT] = RuntimeError("no TensorRT")

    def run(_session: Accelerated, *_args: object) -> None:
        raise EPFail("cuDNN could not be found")

    monkeypatch.setattr(Accelerated, "run", run, raising=False)
    with structlog.testing.capture_logs() as logs:
        OnnxRuntime(means(tmp_path / "net.onnx", shape=(1, 3, 8, 8)))
    assert [line.get("reason") for line in logs][:2] == ["no TensorRT.", "cuDNN could not be found."]
    assert accelerated.asked[-1] == CPU


def test_a_provider_that_is_asked_for_is_the_only_one(accelerated: type[Accelerated], tmp_path: Path) -> None:
    file = means(tmp_path / "net.onnx", shape=(1, 3, 8, 8))
    assert OnnxRuntime(file, provider="cuda").batches
    assert accelerated.asked == [CUDA]
    assert not OnnxRuntime(file, provider="cpu").batches
    accelerated.failing[CUDA] = RuntimeError("out of memory")
    with pytest.raises(ConfigError, match=r"net\.onnx is not a model that .* can load: out of memory\."):
        OnnxRuntime(file, provider="cuda")


def test_a_provider_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["AzureExecutionProvider", CPU])
    with pytest.raises(ConfigError, match="has CPUExecutionProvider and not OpenVINOExecutionProvider") as caught:
        OnnxRuntime(means(tmp_path / "net.onnx"), provider="openvino")
    assert caught.value.field == "detector.provider"


def test_tensorrt_is_told_the_shapes_that_come(accelerated: type[Accelerated], tmp_path: Path) -> None:
    told = onnx_backend._options(TENSORRT, means(tmp_path / "open.onnx"), 8)
    assert told["trt_profile_min_shapes"] == "images:1x3x64x64"
    assert told["trt_profile_max_shapes"] == told["trt_profile_opt_shapes"] == "images:8x3x64x64"
    assert Path(told["trt_engine_cache_path"]).is_dir()
    fixed = onnx_backend._options(TENSORRT, means(tmp_path / "fixed.onnx", shape=(1, 3, 64, 64)), 8)
    assert "trt_profile_min_shapes" not in fixed


def bound(path: Path, batch_max: int) -> BoundSession:
    session = ort.InferenceSession(str(path), providers=[CPU])
    return BoundSession(session, InputSpec(64, 64, None, np.dtype(np.float32), channels_first=True), batch_max)


def test_bound_buffers_give_what_a_plain_run_gives(tmp_path: Path) -> None:
    session = bound(means(tmp_path / "net.onnx"), 4)
    pictures = [np.full((3, 64, 64), number, np.float32) for number in range(8, 12)]
    for batch in (pictures, pictures[1:3], pictures[:1], pictures):
        averages, large = session.run(batch, {})
        assert averages.tolist() == [[picture[0, 0, 0]] * 3 for picture in batch]
        assert large.tolist() == [[float(picture[0, 0, 0] > 9)] * 3 for picture in batch]


def test_on_a_gpu_pictures_go_together(accelerated: type[Accelerated], tmp_path: Path) -> None:
    runtime = OnnxRuntime(means(tmp_path / "net.onnx"), batch_max=4)
    assert runtime.batches
    averages, _large = runtime.run([np.full((3, 64, 64), number, np.float32) for number in range(3)])
    assert averages[:, 0].tolist() == [0, 1, 2]
    runtime.close()


@pytest.mark.parametrize("provider", ["cuda", "cpu"])
def test_a_network_that_asks_for_a_pictures_size_is_told_its_inputs(
    provider: str, accelerated: type[Accelerated], tmp_path: Path
) -> None:
    nodes = [
        helper.make_node("GlobalAveragePool", [IMAGES], ["means"]),
        helper.make_node("Cast", ["orig_target_sizes"], ["told"], to=TensorProto.FLOAT),
    ]
    outputs = {"means": (TensorProto.FLOAT, ("n", 3, 1, 1)), "told": (TensorProto.FLOAT, ("n", 2))}
    others = {"orig_target_sizes": (TensorProto.INT64, ("n", 2))}
    file = save(tmp_path / "net.onnx", nodes, outputs, shape=("n", 3, 32, 64), others=others)
    runtime = OnnxRuntime(file, provider=provider, batch_max=4)
    _means, told = runtime.run([np.zeros((3, 32, 64), np.float32)] * 3)
    assert told.tolist() == [[64, 32]] * 3


def test_what_was_found_stays_when_the_buffers_are_used_again(tmp_path: Path) -> None:
    session = bound(means(tmp_path / "net.onnx"), 2)
    first = session.run([np.full((3, 64, 64), 3, np.float32)] * 2, {})
    session.run([np.full((3, 64, 64), 7, np.float32)] * 2, {})
    assert first[0].tolist() == [[3.0] * 3] * 2


def test_room_that_is_locked_is_room() -> None:
    room = pinned_empty((2, 3, 64, 64), np.dtype(np.float32))
    room[:] = 7
    assert room.sum() == 7 * room.size


def test_a_batch_that_it_does_not_take_is_for_the_worker_to_retry(tmp_path: Path) -> None:
    runtime = OnnxRuntime(means(tmp_path / "net.onnx"))
    with pytest.raises(TransientError, match="the model failed on a batch of 2"):
        runtime.run([np.zeros((3, 5), np.float32)] * 2)


@pytest.mark.parametrize(
    ("shape", "others"),
    [
        (("batch", 1, 64, 64), {}),
        (("batch", 3, 64), {}),
        ((1, 3, 64, 64), {"scale_factor": (TensorProto.FLOAT, (1, 2)), "im_shape": (TensorProto.FLOAT, (1, 2))}),
        ((1, 3, 64, 64), {"text": (TensorProto.INT64, (1, 77))}),
    ],
)
def test_a_network_that_takes_something_else_is_refused(
    shape: Sequence[int | str], others: dict[str, tuple[int, tuple[int, int]]], tmp_path: Path
) -> None:
    nodes = [helper.make_node("Identity", [IMAGES], ["same"])]
    file = save(tmp_path / "net.onnx", nodes, {"same": (TensorProto.FLOAT, shape)}, shape=shape, others=others)
    with pytest.raises(ConfigError, match=r"net\.onnx does not take a picture but images tensor\(float\) \["):
        OnnxRuntime(file)


@pytest.fixture
def gpu() -> None:
    if CUDA not in ort.get_available_providers() or not Path("/dev/nvidiactl").exists():
        pytest.skip("no GPU")


@pytest.mark.gpu
def test_a_gpu_finds_what_the_processor_finds(gpu: None, shared_data: Path) -> None:
    video = cv2.VideoCapture(str(shared_data / "pedestrians.avi"))
    read, street = video.read()
    assert read
    found = []
    for provider in ("cuda", "cpu"):
        backend = open_file(shared_data / "yolox_nano.onnx", DetectorSettings(provider=provider))
        prepared = backend.prepare(np.asarray(street, np.uint8))
        found.append(backend.decode(backend.infer([prepared])[0], prepared))
        backend.close()
    assert found[0].classes.tolist() == found[1].classes.tolist()
    assert found[0].boxes_px == pytest.approx(found[1].boxes_px, abs=0.5)
    assert found[0].scores == pytest.approx(found[1].scores, abs=0.01)


@pytest.mark.gpu
@pytest.mark.parametrize("batch", [1, 3, 64])
def test_a_gpu_takes_batches_of_any_size(batch: int, gpu: None, tmp_path: Path) -> None:
    runtime = OnnxRuntime(means(tmp_path / "net.onnx"), provider="cuda", batch_max=64)
    pictures = [np.full((3, 64, 64), number, np.float32) for number in range(batch)]
    averages, large = runtime.run(pictures)
    assert averages[:, 0].tolist() == pytest.approx(range(batch), rel=1e-3)
    assert large[:, 0].tolist() == [float(number > 9) for number in range(batch)]
    runtime.close()
