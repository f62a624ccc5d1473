"""Each family's export, as a real file, from the picture to the boxes: the people of a street."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from broker.messages import ModelInput
from config import ConfigError
from config.settings import DetectorSettings
from detector.backends import Backend
from detector.decoding import Found
from detector.labels import COCO_LABELS, coco_labels
from detector.models import open_file
from detector.pictures import Picture
from tests.unit.detector.graphs import IMAGES, save, says
from tests.unit.detector.recorded.make import HERE, load

ULTRALYTICS = {
    "description": "Ultralytics YOLO11n model trained on coco.yaml",
    "task": "detect",
    "stride": "32",
    "batch": "1",
    "imgsz": "[416, 416]",
    "names": str(dict(enumerate(COCO_LABELS))),
    "args": "{'batch': 1, 'half': False, 'dynamic': False, 'simplify': True, 'opset': None, 'nms': False}",
}
YOLOV5 = {"stride": "32", "names": str(dict(enumerate(COCO_LABELS)))}


def whole(outputs: Mapping[str, NDArray[Any]], *names: str, kind: type[np.generic]) -> dict[str, NDArray[Any]]:
    return {name: values.astype(kind) if name in names else values for name, values in outputs.items()}


def yolov5(path: Path) -> Path:
    return says(path, {"output0": load("yolov5")[0]}, facts=YOLOV5, shape=(1, 3, 416, 416))


def yolov8(path: Path) -> Path:
    return says(path, {"output0": load("yolov8")[0]}, facts=ULTRALYTICS, shape=(1, 3, 416, 416))


def yolov8_in_rows(path: Path) -> Path:
    return says(path, {"output0": np.ascontiguousarray(load("yolov8")[0].T)}, facts=ULTRALYTICS)


def yolov8_in_fractions(path: Path) -> Path:
    (table,) = load("yolov8")
    table[:4] /= 416
    return says(path, {"output0": table}, shape=(1, 416, 416, 3))


def yolov5_in_fractions(path: Path) -> Path:
    (table,) = load("yolov5")
    table[:, :4] /= 416
    return says(path, {"Identity": table}, shape=(1, 416, 416, 3))


def end_to_end(path: Path) -> Path:
    return says(path, {"output0": load("end_to_end")[0]}, facts=ULTRALYTICS | {"args": "{'nms': True}"})


def efficient_nms(path: Path) -> Path:
    outputs = dict(zip(("num_dets", "det_boxes", "det_scores", "det_classes"), load("efficient_nms"), strict=True))
    return says(path, whole(outputs, "num_dets", "det_classes", kind=np.int32))


def ssd(path: Path) -> Path:
    names = ("TFLite_Detection_PostProcess", *(f"TFLite_Detection_PostProcess:{place}" for place in (1, 2, 3)))
    outputs = dict(zip(names, load("ssd"), strict=True))
    return says(path, outputs, shape=(1, 300, 300, 3), dtype=TensorProto.UINT8)


def ssd_of_tensorflow_2(path: Path) -> Path:
    boxes, classes, scores, count = load("ssd")
    names = [f"StatefulPartitionedCall:{place}" for place in (1, 3, 0, 2)]
    outputs = dict(zip(names, (scores, boxes, count, classes), strict=True))
    return says(path, outputs, shape=(1, 320, 320, 3))


def ssd_of_the_object_detection_api(path: Path) -> Path:
    boxes, classes, scores, count = load("ssd")
    outputs = {
        "detection_anchor_indices": np.zeros(25, np.float32),
        "detection_boxes": boxes,
        "detection_classes": classes + 1,
        "detection_multiclass_scores": np.zeros((25, 91), np.float32),
        "detection_scores": scores,
        "num_detections": count,
    }
    return says(path, outputs, shape=(1, 300, 300, 3), dtype=TensorProto.UINT8)


def rt_detr_of_ultralytics(path: Path) -> Path:
    facts = ULTRALYTICS | {"description": "Ultralytics rtdetr-l model"}
    return says(path, {"output0": load("rt_detr_table")[0]}, facts=facts, shape=("batch", 3, 640, 640))


def rt_detr_pair(path: Path) -> Path:
    logits, boxes = load("rt_detr_pair")
    return says(path, {"pred_logits": logits, "pred_boxes": boxes}, shape=("batch", 3, 640, 640))


def rt_detr(path: Path) -> Path:
    """The graph multiplies its fractions with the sizes that it is told, as the exported one does."""
    labels, boxes, scores = load("rt_detr_boxes")
    given: dict[str, NDArray[Any]] = {"labels": labels.astype(np.int64), "fractions": boxes / 640, "scores": scores}
    tensors = [numpy_helper.from_array(values[np.newaxis], f"{name}/one") for name, values in given.items()]
    nodes = [
        helper.make_node("Cast", ["orig_target_sizes"], ["sizes"], to=TensorProto.FLOAT),
        helper.make_node("Concat", ["sizes", "sizes"], ["four"], axis=1),
        helper.make_node("Unsqueeze", ["four", "axes"], ["extent"]),
        helper.make_node("Mul", ["fractions/one", "extent"], ["boxes"]),
        helper.make_node("Identity", ["labels/one"], ["labels"]),
        helper.make_node("Identity", ["scores/one"], ["scores"]),
    ]
    return save(
        path,
        nodes,
        {
            "labels": (TensorProto.INT64, (1, 300)),
            "boxes": (TensorProto.FLOAT, (1, 300, 4)),
            "scores": (TensorProto.FLOAT, (1, 300)),
        },
        shape=(1, 3, 512, 640),
        tensors=[*tensors, numpy_helper.from_array(np.array([1], np.int64), "axes")],
        others={"orig_target_sizes": (TensorProto.INT64, (1, 2))},
    )


def rf_detr(path: Path) -> Path:
    boxes, logits = load("rf_detr")
    return says(path, {"dets": boxes, "labels": logits}, shape=(1, 3, 560, 560))


def detr(path: Path) -> Path:
    logits, boxes = load("detr")
    return says(path, {"pred_logits": logits, "pred_boxes": boxes}, shape=(1, 3, 800, 800))


FAMILIES: tuple[Callable[[Path], Path], ...] = (
    yolov5, yolov5_in_fractions, yolov8, yolov8_in_rows, yolov8_in_fractions, end_to_end, efficient_nms, ssd,
    ssd_of_tensorflow_2, ssd_of_the_object_detection_api, rt_detr_of_ultralytics, rt_detr_pair, rt_detr, rf_detr, detr,
)  # fmt: skip


def street() -> Picture:
    return np.full((360, 480, 3), 90, np.uint8)


def look(backend: Backend, picture: Picture) -> Found:
    prepared = backend.prepare(picture)
    (outputs,) = backend.infer([prepared])
    return backend.decode(outputs, prepared)


@pytest.mark.parametrize("make", FAMILIES, ids=lambda make: make.__name__)
def test_each_family_finds_the_people_of_the_street(make: Callable[[Path], Path], tmp_path: Path) -> None:
    backend = open_file(make(tmp_path / "net.onnx"), DetectorSettings(threads=1))
    found = look(backend, street())
    with np.load(HERE / "yolox_nano_street.npz") as recorded:
        expected = recorded["expected"]
    assert [backend.labels[number] for number in found.classes] == [COCO_LABELS[int(row[5])] for row in expected]
    assert found.scores == pytest.approx(expected[:, 4], abs=1e-3)
    assert found.boxes_px == pytest.approx(np.clip(expected[:, :4], 0, (480, 360, 480, 360)), abs=0.15)


@pytest.mark.parametrize("make", [yolov8, end_to_end, rt_detr])
def test_several_pictures_are_all_looked_at(make: Callable[[Path], Path], tmp_path: Path) -> None:
    backend = open_file(make(tmp_path / "net.onnx"), DetectorSettings(threads=1))
    assert backend.batch_max == 1  # on a processor more at a time are no use
    prepared = [backend.prepare(street())] * 3
    assert [len(backend.decode(outputs, prepared[0])) for outputs in backend.infer(prepared)] == [10, 10, 10]


def test_its_own_labels_go_before_those_of_the_settings(tmp_path: Path) -> None:
    names = dict(enumerate(f"thing {number}" for number in range(80)))
    file = says(tmp_path / "net.onnx", {"output0": load("yolov8")[0]}, facts={"names": str(names)})
    listed = tmp_path / "labels.txt"
    listed.write_text("\n".join(f"other {number}" for number in range(80)))
    settings = DetectorSettings(labels=listed)
    assert open_file(file, settings).labels[:2] == ("thing 0", "thing 1")
    assert open_file(file, settings, labels=COCO_LABELS).labels == COCO_LABELS
    assert open_file(yolov8_in_fractions(file), settings).labels[:2] == ("other 0", "other 1")


def test_a_network_that_was_made_for_something_else_is_refused_with_what_it_was_made_for(tmp_path: Path) -> None:
    outputs = {"output0": np.zeros((116, 3549), np.float32), "output1": np.zeros((32, 104, 104), np.float32)}
    file = says(tmp_path / "net.onnx", outputs, facts=ULTRALYTICS | {"task": "segment"})
    with pytest.raises(ConfigError, match=r"net was made to segment \(its file says so\)"):
        open_file(file, DetectorSettings())


def test_an_unknown_output_is_named_with_all_that_is_known(tmp_path: Path) -> None:
    file = says(tmp_path / "net.onnx", {"heat": np.zeros((2, 104, 104), np.float32), "size": np.zeros(7, np.int64)})
    with pytest.raises(ConfigError) as caught:
        open_file(file, DetectorSettings())
    said = str(caught.value)
    assert "for its input of 416x416 it gives heat [batch, 2, 104, 104]; size [batch, 7] of whole numbers." in said
    assert "yolov8 [batch, 4 + classes, cells]" in said
    assert "classifier [batch, classes]" in said


def colours(path: Path, *, facts: dict[str, str] | None = None) -> Path:
    """A classifier of three colours: its logits are the means of the channels."""
    nodes = [
        helper.make_node("GlobalAveragePool", [IMAGES], ["means"]),
        helper.make_node("Flatten", ["means"], ["logits"]),
    ]
    return save(path, nodes, {"logits": (TensorProto.FLOAT, ("batch", 3))}, facts=facts)


def test_a_classifier_says_what_the_whole_picture_is_of(tmp_path: Path) -> None:
    labels = ("red", "green", "blue")
    backend = open_file(colours(tmp_path / "net.onnx"), DetectorSettings(), labels=labels)
    picture = np.zeros((50, 80, 3), np.uint8)
    picture[..., 2] = 255
    found = look(backend, picture)
    assert [labels[number] for number in found.classes] == ["red"]
    assert found.boxes_px.tolist() == [[0, 0, 80, 50]]
    # ImageNet's: 2.249, -2.036 and -1.804 are 97 % of red.
    assert found.scores[0] == pytest.approx(0.97, abs=0.005)


def test_how_a_model_takes_a_picture_can_be_said(tmp_path: Path) -> None:
    file = colours(tmp_path / "net.onnx", facts={"task": "classify", "names": "['red', 'green', 'blue']"})
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[...] = (0, 102, 255)
    plain = look(open_file(file, DetectorSettings(min_score=0.5)), picture)
    assert plain.scores.tolist() == pytest.approx([np.exp(1) / (np.exp(1) + np.exp(0.4) + 1)], rel=1e-4)  # from 0 to 1
    taken = ModelInput(colour="bgr", std=(51.0, 51.0, 51.0))
    turned = look(open_file(file, DetectorSettings(min_score=0.5), taken=taken), picture)
    assert turned.classes.tolist() == [2]
    assert turned.scores.tolist() == pytest.approx([np.exp(5) / (np.exp(5) + np.exp(2) + 1)], rel=1e-4)


def test_a_stated_layout_is_the_one_that_is_tried(tmp_path: Path) -> None:
    # Six columns: a box a row, or an RT-DETR of two classes.
    rows = np.zeros((300, 6), np.float32)
    rows[7] = (0.5, 0.5, 0.25, 0.5, 0.1, 0.9)
    file = says(tmp_path / "net.onnx", {"output0": rows})
    labels = ("cat", "dog")
    settings = DetectorSettings(min_score=0.5)
    stated = look(open_file(file, settings, labels=labels, layout="rt-detr"), street())
    assert stated.classes.tolist() == [1]
    assert stated.boxes_px.tolist() == [pytest.approx([180, 90, 300, 270])]
    assert look(open_file(file, settings, labels=labels), street()).classes.tolist() == []
    assert open_file(file, settings.model_copy(update={"layout": "rt-detr"}), labels=labels).labels == labels
    with pytest.raises(ConfigError, match="net is not a model of the stated layout ssd that Vigil can read"):
        open_file(file, settings, layout="ssd")
    with pytest.raises(ConfigError, match="no layout 'yolov99'; known are yolox, yolov5"):
        open_file(file, settings, layout="yolov99")


def test_coco_has_ninety_numbers_for_its_eighty_things() -> None:
    ninety = coco_labels(90)
    assert (len(ninety), ninety[0], ninety[12], ninety[89]) == (90, "person", "stop sign", "toothbrush")
    assert [label for label in ninety if label != "unused"] == list(COCO_LABELS)
    assert coco_labels(91)[1:] == ninety
    assert coco_labels(80) is COCO_LABELS
