from __future__ import annotations

import importlib
import os
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import detector.backends.tflite
from config import ConfigError, TransientError
from config.settings import DetectorSettings
from detector.backends import Backend
from detector.backends.tflite import TfliteRuntime
from detector.decoding import to_detections
from detector.facts import ModelFacts
from detector.inputs import InputConvention, to_numbers
from detector.model_store import ModelStore
from detector.models import open_backend, open_file
from detector.pictures import Picture


@pytest.fixture(scope="module")
def street(shared_data: Path) -> Picture:
    video = cv2.VideoCapture(str(shared_data / "pedestrians.avi"))
    video.set(cv2.CAP_PROP_POS_FRAMES, 99)
    read, picture = video.read()
    assert read
    return np.asarray(picture, np.uint8)


def people(backend: Backend, picture: Picture) -> list[tuple[float, float, float, float]]:
    prepared = backend.prepare(picture)
    (outputs,) = backend.infer([prepared])
    found = to_detections(backend.decode(outputs, prepared), backend.labels, 480, 360)
    return [one.box_px for one in found if one.label == "person" and one.score > 0.5]


def test_it_finds_whom_the_same_network_finds_in_the_other_runtime(shared_data: Path, street: Picture) -> None:
    both = [
        people(open_backend(DetectorSettings(model=shared_data / name, threads=1)), street)
        for name in ("yolox_nano_float16.tflite", "yolox_nano.onnx")
    ]
    assert len(both[0]) == len(both[1]) >= 5
    assert np.allclose(both[0], both[1], atol=2)


@pytest.mark.parametrize("content", [b"dear model,\n" * 40, b"\x00" * 4096, os.urandom(4096)])
def test_a_file_that_is_no_model_is_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "letter.tflite"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"letter\.tflite is not a model that TensorFlow Lite") as caught:
        TfliteRuntime(file)
    assert caught.value.exit_code == 78


def test_a_file_that_is_cut_off_is_refused(shared_data: Path, tmp_path: Path) -> None:
    whole = (shared_data / "yolox_nano_float16.tflite").read_bytes()
    file = tmp_path / "half.tflite"
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match=r"half\.tflite is not a model .* \d+ bytes: is it cut off"):
        TfliteRuntime(file)


def test_the_cache_has_models_of_both_kinds(tmp_path: Path) -> None:
    for age, name in enumerate(["new.tflite", "old.onnx", "newest.txt"]):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    os.utime(tmp_path / "newest.txt", (2000, 2000))
    assert ModelStore(tmp_path).newest() == tmp_path / "new.tflite"


class WholeNumbers:
    """An interpreter of a quantised network that gives back what it was given."""

    def __init__(self, *, model_path: str, num_threads: int | None) -> None:
        self.given = np.zeros(0, np.int8)
        self.shape = [1, 7] if "strange" in model_path else [1, 32, 64, 3]

    def allocate_tensors(self) -> None:
        pass

    def _details(self, quantization: tuple[float, int]) -> list[dict[str, Any]]:
        shape = np.array(self.shape)
        return [{"index": 0, "name": "x", "shape": shape, "dtype": np.int8, "quantization": quantization}]

    def get_input_details(self) -> list[dict[str, Any]]:
        return self._details((1.0, -128))

    def get_output_details(self) -> list[dict[str, Any]]:
        return self._details((0.5, -128))

    def set_tensor(self, _index: int, numbers: NDArray[np.int8]) -> None:
        self.given = numbers

    def invoke(self) -> None:
        if self.given.max() == 127:
            raise RuntimeError("the delegate went away\nand more")

    def get_tensor(self, _index: int) -> NDArray[np.int8]:
        return self.given


def test_whole_numbers_are_scaled_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detector.backends.tflite, "Interpreter", WholeNumbers)
    runtime = TfliteRuntime(Path("quantised.tflite"))
    assert (runtime.input.width, runtime.input.height, runtime.input.dtype) == (64, 32, np.dtype(np.int8))
    numbers = to_numbers(np.full((32, 64, 3), 200, np.uint8), runtime.input, InputConvention())
    (values,) = runtime.run([numbers])
    assert runtime._interpreter.given.dtype == np.int8
    assert (runtime._interpreter.given == 72).all()
    assert (values == 100).all()
    assert runtime.outputs == (("x", False),)
    with pytest.raises(TransientError, match=r"batch of 1: the delegate went away$"):
        runtime.run([np.full_like(numbers, 127)])


@pytest.mark.parametrize(
    ("member", "text"),
    [
        ("metadata.json", '{"task": "detect", "names": {NAMES}}'),
        ("temp_meta.txt", "{'task': 'detect', 'names': {NAMES}}"),
        ("labelmap.txt", "LINES"),
    ],
)
def test_a_file_may_bring_its_labels(member: str, text: str, shared_data: Path, tmp_path: Path) -> None:
    names = [f"thing {number}" for number in range(80)]
    listed = ", ".join(f'"{number}": "{name}"' for number, name in enumerate(names))
    file = tmp_path / "named.tflite"
    file.write_bytes((shared_data / "yolox_nano_float16.tflite").read_bytes())
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("readme.bin", b"\xff\xfe")
        archive.writestr(member, text.replace("NAMES", listed).replace("LINES", "\n".join(names)))
    backend = open_file(file, DetectorSettings(threads=1))
    assert backend.labels == tuple(names)
    backend.close()


def test_an_archive_that_is_broken_says_nothing(shared_data: Path, tmp_path: Path) -> None:
    file = tmp_path / "named.tflite"
    file.write_bytes((shared_data / "yolox_nano_float16.tflite").read_bytes())
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("labels.txt", "cat")
    content = bytearray(file.read_bytes())
    place = content.rindex(b"PK\x03\x04")
    content[place : place + 4] = b"gone"
    file.write_bytes(content)
    assert TfliteRuntime(file, threads=1).facts == ModelFacts()


def test_a_network_that_takes_no_picture_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detector.backends.tflite, "Interpreter", WholeNumbers)
    with pytest.raises(ConfigError, match=r"strange\.tflite does not take a picture but \[\(1, 7\)\]"):
        TfliteRuntime(Path("strange.tflite"))


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Loads the module anew, and as it was afterwards."""
    yield
    monkeypatch.undo()
    importlib.reload(detector.backends.tflite)


def test_the_older_package_will_do(installed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    older = ModuleType("tflite_runtime")
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    monkeypatch.setitem(sys.modules, "tflite_runtime", older)
    monkeypatch.setitem(sys.modules, "tflite_runtime.interpreter", SimpleNamespace(Interpreter=WholeNumbers))
    module = importlib.reload(detector.backends.tflite)
    assert module.Interpreter is WholeNumbers


def test_without_either_the_cure_names_the_extra(
    installed: None, monkeypatch: pytest.MonkeyPatch, shared_data: Path
) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    monkeypatch.setitem(sys.modules, "tflite_runtime", None)
    monkeypatch.delitem(sys.modules, "detector.backends.tflite")
    with pytest.raises(ConfigError, match=r"needs the package ai_edge_litert: pip install 'vigil-mesh\[tflite\]'"):
        open_backend(DetectorSettings(model=shared_data / "yolox_nano_float16.tflite"))
    monkeypatch.setitem(sys.modules, "detector.backends.tflite", detector.backends.tflite)
