"""Makes the tensors beside this file: what other networks would have said, had they seen what YOLOX-Nano saw.

``yolox_nano_street.npz`` is real: rows of YOLOX-Nano's output for frame 100 of pedestrians.avi, and the boxes that
OpenCV's own suppression finds in them. Each function here writes that in another family's format, from the definition
of its export that it names, with noise of a fixed seed around it. To write them anew:
``python -m tests.unit.detector.recorded.make``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["HERE", "load"]

HERE = Path(__file__).parent
Floats = NDArray[np.float32]
SIDE = 416
_CELLS = 3549
_PAD = (SIDE - 312) / 2
"""Pixels above a picture of 480x360 that lies in the middle of an input of 416x416."""
_GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)


def load(name: str) -> list[Floats]:
    """The outputs of one recording, in the network's order."""
    with np.load(HERE / f"{name}.npz") as recorded:
        return [recorded[f"output{place}"] for place in range(len(recorded.files))]


def _real() -> tuple[Floats, NDArray[np.intp], Floats]:
    """Real rows with boxes in pixels of the input, the cells that they are of, and the boxes found: [n, 6]."""
    with np.load(HERE / "yolox_nano_street.npz") as recorded:
        rows, places, found = recorded["rows"].copy(), recorded["places"].astype(np.intp), recorded["expected"]
    columns, lines, strides = [], [], []
    for stride in (8, 16, 32):
        grid_y, grid_x = np.mgrid[: SIDE // stride, : SIDE // stride]
        columns.append(grid_x.ravel())
        lines.append(grid_y.ravel())
        strides.append(np.full(grid_x.size, stride))
    column, line, stride = (np.concatenate(parts)[places] for parts in (columns, lines, strides))
    rows[:, 0] = (rows[:, 0] + column) * stride
    rows[:, 1] = (rows[:, 1] + line) * stride
    rows[:, 2:4] = np.exp(rows[:, 2:4]) * stride[:, None]
    return rows, places, found


def _in_input(found: Floats) -> Floats:
    """Boxes of the picture in an input in the middle of which it lies, in pixels."""
    boxes: Floats = found[:, :4] * np.float32(SIDE / 480)
    boxes[:, [1, 3]] += np.float32(_PAD)
    return boxes


def _fractions(found: Floats) -> Floats:
    """Boxes of the picture as fractions of it, which those of a stretched input are too."""
    return np.asarray(found[:, :4] / np.array([480, 360, 480, 360]), np.float32)


def _centres(boxes: Floats) -> Floats:
    return np.concatenate(((boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]), axis=1)


def _category(classes: Floats) -> NDArray[np.intp]:
    """COCO's own number, 1 to 90, of each of the 80 classes."""
    numbers = [number for number in range(1, 91) if number not in _GAPS]
    return np.array(numbers, np.intp)[classes.astype(np.intp)]


def yolov5() -> list[Floats]:
    """Three rows a cell, [cx, cy, w, h, objectness, classes], grid after grid, and in each anchor after anchor.

    YOLOv5, models/yolo.py, `Detect.forward`.
    """
    rows, places, _found = _real()
    rows[:, 1] += np.float32(_PAD)
    table = np.zeros((3 * _CELLS, 85), np.float32)
    grids = np.array([0, 2704, 3380, 3549])
    level = np.searchsorted(grids, places, side="right") - 1
    # The second anchor of each grid sees what YOLOX saw.
    table[3 * grids[level] + (grids[level + 1] - grids[level]) + places - grids[level]] = rows
    return [table]


def yolov8() -> list[Floats]:
    """One column a cell, [cx, cy, w, h, classes]. Ultralytics, nn/modules/head.py, `Detect._inference`."""
    rows, places, _found = _real()
    rows[:, 1] += np.float32(_PAD)
    table = np.zeros((84, _CELLS), np.float32)
    table[:4, places] = rows[:, :4].T
    table[4:, places] = (rows[:, 4:5] * rows[:, 5:]).T
    return [table]


def end_to_end() -> list[Floats]:
    """[x1, y1, x2, y2, score, class], the best first, then zeros. Ultralytics, engine/exporter.py, `NMSModel`."""
    _rows, _places, found = _real()
    table = np.zeros((300, 6), np.float32)
    table[: len(found)] = np.concatenate((_in_input(found), found[:, 4:]), axis=1)
    return [table]


def efficient_nms() -> list[Floats]:
    """num_dets, det_boxes, det_scores, det_classes; what is left over is whatever was there before.

    TensorRT, plugin/efficientNMSPlugin/README.
    """
    _rows, _places, found = _real()
    count = len(found)
    boxes, scores, classes = np.ones((100, 4)), np.ones(100), np.zeros(100)
    boxes[:count], scores[:count], classes[:count] = _in_input(found), found[:, 4], found[:, 5]
    return [np.array([count], np.float32), *(np.asarray(part, np.float32) for part in (boxes, scores, classes))]


def ssd() -> list[Floats]:
    """Boxes (y1, x1, y2, x2), classes from 0 in COCO's numbers, scores, count: of a batch of one, without the batch.

    TensorFlow Lite, kernels/detection_postprocess.cc.
    """
    _rows, _places, found = _real()
    boxes, classes, scores = np.zeros((25, 4)), np.zeros(25), np.zeros(25)
    boxes[: len(found)] = _fractions(found)[:, [1, 0, 3, 2]]
    classes[: len(found)] = _category(found[:, 5]) - 1
    scores[: len(found)] = found[:, 4]
    return [np.asarray(part, np.float32) for part in (boxes, classes, scores, np.array(25))]


def _queries(count: int, columns: int, noise: float, seed: int) -> tuple[Floats, Floats, NDArray[np.intp]]:
    """Boxes and scores of queries that see nothing, and which of them see what was found."""
    rng = np.random.default_rng(seed)
    _rows, _places, found = _real()
    boxes = np.round(rng.uniform(0.1, 0.9, (count, 4)), 2)
    values = np.full((count, columns), noise)
    chosen = rng.permutation(count)[: len(found)]
    boxes[chosen] = _centres(_fractions(found))
    return np.asarray(boxes, np.float32), np.asarray(values, np.float32), chosen


def rt_detr_table() -> list[Floats]:
    """[cx, cy, w, h, classes], fractions and sigmoid scores. Ultralytics, nn/modules/head.py, `RTDETRDecoder`."""
    _rows, _places, found = _real()
    boxes, scores, chosen = _queries(300, 80, 0.01, seed=1)
    scores[chosen, found[:, 5].astype(np.intp)] = found[:, 4]
    return [np.concatenate((boxes, scores), axis=1)]


def rt_detr_pair() -> list[Floats]:
    """Logits and boxes (cx, cy, w, h). RT-DETR, rtdetr_pytorch/src/zoo/rtdetr/rtdetr_decoder.py."""
    _rows, _places, found = _real()
    boxes, logits, chosen = _queries(300, 80, -5.0, seed=2)
    logits[chosen, found[:, 5].astype(np.intp)] = np.log(found[:, 4] / (1 - found[:, 4]))
    return [logits, boxes]


def rt_detr_boxes() -> list[Floats]:
    """Labels, boxes in pixels of the size that it was told (640x640), scores. RT-DETR, tools/export_onnx.py."""
    _rows, _places, found = _real()
    labels, boxes, scores = np.zeros(300), np.full((300, 4), 320.0), np.full(300, 0.02)
    labels[: len(found)], scores[: len(found)] = found[:, 5], found[:, 4]
    boxes[: len(found)] = _fractions(found) * 640
    return [np.asarray(part, np.float32) for part in (labels, boxes, scores)]


def rf_detr() -> list[Floats]:
    """Boxes (cx, cy, w, h) and logits in COCO's numbers, of which 0 is nothing. RF-DETR, rfdetr/models/lwdetr.py."""
    _rows, _places, found = _real()
    boxes, logits, chosen = _queries(300, 91, -5.0, seed=3)
    logits[chosen, _category(found[:, 5])] = np.log(found[:, 4] / (1 - found[:, 4]))
    return [boxes, logits]


def detr() -> list[Floats]:
    """Logits in COCO's numbers with one column more for nothing, and boxes. DETR, models/detr.py, `PostProcess`."""
    _rows, _places, found = _real()
    boxes, logits, chosen = _queries(100, 92, 0.0, seed=4)
    logits[:, -1] = 12.0
    logits[chosen, -1] = 0.0
    others = 91.0  # exponentials of 0: the other classes, and nothing
    logits[chosen, _category(found[:, 5])] = np.log(others * found[:, 4] / (1 - found[:, 4]))
    return [logits, boxes]


_MADE: tuple[Callable[[], list[Floats]], ...] = (
    yolov5, yolov8, end_to_end, efficient_nms, ssd, rt_detr_table, rt_detr_pair, rt_detr_boxes, rf_detr, detr,
)  # fmt: skip

if __name__ == "__main__":
    for make in _MADE:
        outputs = {f"output{place}": np.float32(np.round(part, 5)) for place, part in enumerate(make())}
        np.savez_compressed(HERE / f"{make.__name__}.npz", allow_pickle=False, **outputs)
