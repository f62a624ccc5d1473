from __future__ import annotations

import hashlib
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from config import ConfigError
from config.settings import DetectorSettings
from detector.backends import Backend
from detector.backends.onnx import OnnxRuntime
from detector.decoding import to_detections
from detector.models import open_backend
from detector.pictures import Picture


@pytest.fixture(scope="module")
def yolox(shared_data: Path) -> Backend:
    return open_backend(DetectorSettings(model=shared_data / "yolox_nano.onnx", threads=1))


@pytest.fixture(scope="module")
def street(shared_data: Path) -> Picture:
    video = cv2.VideoCapture(str(shared_data / "pedestrians.avi"))
    video.set(cv2.CAP_PROP_POS_FRAMES, 99)
    read, picture = video.read()
    assert read
    return np.asarray(picture, np.uint8)


def test_it_finds_the_people_in_the_street(yolox: Backend, street: Picture) -> None:
    prepared = yolox.prepare(street)
    (outputs,) = yolox.infer([prepared])
    people = [d for d in to_detections(yolox.decode(outputs, prepared), yolox.labels, 480, 360) if d.label == "person"]
    assert len(people) >= 5
    x1, y1, x2, y2 = people[0].box_px
    assert people[0].score > 0.8
    assert (x1, y1, x2, y2) == pytest.approx((215, 123, 231, 172), abs=3)


def test_a_grey_wall_has_nobody(yolox: Backend) -> None:
    prepared = yolox.prepare(np.full((360, 480, 3), 90, np.uint8))
    (outputs,) = yolox.infer([prepared])
    assert len(yolox.decode(outputs, prepared)) == 0


def test_it_says_which_file_it_is(yolox: Backend, shared_data: Path) -> None:
    file = shared_data / "yolox_nano.onnx"
    assert yolox.model.name == "yolox_nano"
    assert yolox.model.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert yolox.batch_max == 1


def test_the_built_in_labels_are_in_the_models_order(yolox: Backend, shared_data: Path) -> None:
    # This list has darknet's names for some of them.
    darknet = {
        "aeroplane": "airplane", "diningtable": "dining table", "motorbike": "motorcycle",
        "pottedplant": "potted plant", "sofa": "couch", "tvmonitor": "tv",
    }  # fmt: skip
    listed = (shared_data / "coco_labels.txt").read_text().splitlines()
    assert list(yolox.labels) == [darknet.get(label, label) for label in listed]


def test_a_file_that_is_cut_off_is_refused(shared_data: Path, tmp_path: Path) -> None:
    whole = (shared_data / "yolox_nano.onnx").read_bytes()
    file = tmp_path / "half.onnx"
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match=r"half\.onnx is not a model .* \d+ bytes: is it cut off.*export it again"):
        OnnxRuntime(file)


@pytest.mark.parametrize("content", [b"dear model,\n" * 40, b"", b"\x00" * 4096, os.urandom(4096)])
def test_a_file_that_is_no_model_is_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "letter.onnx"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"letter\.onnx is not a model that ONNX Runtime") as caught:
        OnnxRuntime(file)
    assert caught.value.exit_code == 78


def test_a_model_of_another_runtime_is_refused(shared_data: Path, tmp_path: Path) -> None:
    file = tmp_path / "renamed.onnx"
    file.write_bytes((shared_data / "yolox_nano_float16.tflite").read_bytes())
    with pytest.raises(ConfigError, match=r"renamed\.onnx is not a model"):
        OnnxRuntime(file)
