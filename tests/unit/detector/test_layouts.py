from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from config import ConfigError
from detector.decoding import Outputs
from detector.facts import ModelFacts
from detector.layouts import (
    LAYOUTS,
    ClassifierLayout,
    DetrBoxesLayout,
    DetrLayout,
    DetrTableLayout,
    EfficientNmsLayout,
    EndToEndLayout,
    Layout,
    Output,
    RfDetrLayout,
    RtDetrLayout,
    Seen,
    SsdLayout,
    Yolov5Layout,
    Yolov8Layout,
    YoloxLayout,
    recognise,
)

Shown = Sequence[tuple[str, tuple[int, ...]]]
RTDETR = ModelFacts(transformer=True)
WHOLE = ("num_dets", "det_classes", "labels64")


def seen(
    *outputs: tuple[str, tuple[int, ...]], side: int = 640, labels: int | None = None, facts: ModelFacts | None = None
) -> Seen:
    shown = [Output(name, shape, name in WHOLE) for name, shape in outputs]
    return Seen(side, side, shown, facts or ModelFacts(), labels)


def one(*shape: int, side: int = 640, labels: int | None = None, facts: ModelFacts | None = None) -> Seen:
    return seen(("output0", shape), side=side, labels=labels, facts=facts)


ONLY: list[tuple[Seen, type[Layout], int | None]] = [
    (one(8400, 85), YoloxLayout, 80),
    (one(3549, 85, side=416), YoloxLayout, 80),
    (one(8400, 9), YoloxLayout, 4),
    (one(25200, 85), Yolov5Layout, 80),
    (one(25200, 6), Yolov5Layout, 1),
    (one(25500, 85), Yolov5Layout, 80),  # four grids, of a large input
    (one(6300, 85, side=320), Yolov5Layout, 80),
    (one(84, 8400), Yolov8Layout, 80),
    (one(5, 8400), Yolov8Layout, 1),
    (one(84, 8500), Yolov8Layout, 80),
    (one(84, 34000), Yolov8Layout, 80),
    (one(300, 6), EndToEndLayout, None),
    (one(100, 6, labels=2), EndToEndLayout, None),
    (one(300, 84), DetrTableLayout, 80),
    (one(300, 7, labels=3), DetrTableLayout, 3),
    (one(300, 6, facts=RTDETR), DetrTableLayout, 2),
    (one(1000, side=224), ClassifierLayout, 1000),
    (one(1000, 1, 1, side=224), ClassifierLayout, 1000),
    (seen(("logits", (300, 80)), ("pred_boxes", (300, 4))), RtDetrLayout, 80),
    (seen(("pred_boxes", (300, 4)), ("logits", (300, 4)), labels=4), RtDetrLayout, 4),
    (seen(("logits", (300, 4)), ("pred_boxes", (300, 4)), labels=4), RtDetrLayout, 4),
    (seen(("pred_logits", (100, 92)), ("pred_boxes", (100, 4))), DetrLayout, 91),
    (seen(("logits", (100, 6)), ("pred_boxes", (100, 4)), labels=5), DetrLayout, 5),
    (seen(("dets", (300, 4)), ("labels", (300, 91))), RfDetrLayout, 91),
    (seen(("dets", (300, 4)), ("labels", (300, 6)), labels=5), RfDetrLayout, 5),
    (seen(("dets", (300, 4)), ("labels", (300, 6)), labels=6), RfDetrLayout, 6),
    (seen(("labels64", (300,)), ("boxes", (300, 4)), ("scores", (300,))), DetrBoxesLayout, None),
    (seen(("num_dets", (1,)), ("det_boxes", (100, 4)), ("det_scores", (100,)), ("det_classes", (100,))),
     EfficientNmsLayout, None),
    (seen(("a", (10, 4)), ("a:1", (10,)), ("a:2", (10,)), ("a:3", ())), SsdLayout, None),
]  # fmt: skip


@pytest.mark.parametrize(("shown", "layout", "classes"), ONLY)
def test_a_network_is_recognised_by_what_it_shows(shown: Seen, layout: type[Layout], classes: int | None) -> None:
    found = recognise(shown, model="m")
    assert type(found) is layout
    assert found.classes == classes
    assert type(recognise(shown, model="m", stated=layout.NAME)).NAME == layout.NAME


@pytest.mark.parametrize(
    ("labels", "layout"), [(None, YoloxLayout), (80, YoloxLayout), (81, Yolov8Layout), (7, YoloxLayout)]
)
def test_where_two_layouts_have_one_shape_the_labels_decide(labels: int | None, layout: type[Layout]) -> None:
    assert type(recognise(one(8400, 85, labels=labels, facts=ModelFacts(task="detect")), model="m")) is layout


def test_a_file_that_says_nothing_has_a_row_a_cell_only_as_a_yolox() -> None:
    assert type(recognise(one(8400, 85, labels=81), model="m")) is YoloxLayout
    assert recognise(one(8400, 85), model="m", stated="yolov8") == Yolov8Layout(640, 640, 81, in_rows=True)


def test_a_small_input_may_have_as_many_cells_as_there_are_values() -> None:
    # 84 cells of 64x64: a row a cell of a YOLOX, or a YOLOv8 either way around.
    assert type(recognise(one(84, 84, side=64), model="m")) is Yolov8Layout
    assert type(recognise(one(84, 84, side=64, labels=79), model="m")) is YoloxLayout


@pytest.mark.parametrize(
    "shown",
    [
        [],
        [("a", (3549, 5, 1))],
        [("a", (84, 8401))],
        [("a", (1,))],
        [("a", ())],
        [("a", (300, 33))],  # no such number of labels
        [("a", (100, 4)), ("b", (100,))],
        [("a", (8400, 85)), ("b", (1,))],
        [("a", (100, 4)), ("b", (100,)), ("c", (99,)), ("d", (1,))],
        [("a", (100, 4)), ("b", (100,)), ("c", (100,)), ("d", (1,)), ("e", (1,))],
        [("a", (2, 160, 160))],
        [("a", (8400, 4)), ("b", (8400, 80))],  # a YOLO-NAS: boxes as corners, scores
    ],
)
def test_anything_else_is_refused_with_what_was_seen_and_what_is_known(shown: Shown) -> None:
    with pytest.raises(ConfigError, match=r"net is not a model that Vigil can read.*640x640 it gives") as caught:
        recognise(seen(*shown), model="net")
    assert caught.value.field == "detector.model"
    for name, shape in shown:
        assert f"{name} [{', '.join(['batch', *map(str, shape)])}]" in str(caught.value)
    for known in LAYOUTS:
        assert f"{known.NAME} {known.FORM}" in str(caught.value)


def test_a_task_that_nobody_knows_is_no_reason() -> None:
    facts = ModelFacts(task="object-detection")
    assert type(recognise(one(84, 8400, facts=facts), model="m")) is Yolov8Layout


@pytest.mark.parametrize("task", ["segment", "pose", "obb"])
def test_what_was_made_for_something_else_is_refused(task: str) -> None:
    with pytest.raises(ConfigError, match=f"net was made to {task}"):
        recognise(one(84, 8400, facts=ModelFacts(task=task)), model="net")


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (("boxes", "labels", "scores"), (0, 2, 1)),
        (("boxes", "scores", "labels"), (0, 1, 2)),
        (("x", "confidences", "class_ids"), (0, 1, 2)),
        (("x", "y", "labels64"), (0, 1, 2)),
        (("x", "labels64", "y"), (0, 2, 1)),
        (("x", "y", "z"), (0, 2, 1)),
    ],
)
def test_scores_and_classes_are_told_apart(names: tuple[str, str, str], order: tuple[int, int, int]) -> None:
    found = recognise(seen(*zip(names, [(9, 4), (9,), (9,)], strict=True)), model="m")
    assert isinstance(found, DetrBoxesLayout)
    assert (found.parts.boxes, found.parts.scores, found.parts.classes) == order


LOGITS = np.array([[-9, 2.0], [-9, -9], [0.5, -9]], np.float32)
BOXES = np.array([[0.5, 0.5, 0.2, 0.4], [0.1, 0.1, 0.2, 0.2], [0.25, 0.5, 0.5, 1.0]], np.float32)


def test_a_query_of_a_transformer_is_its_best_class() -> None:
    found = RtDetrLayout(100, 200, 1, 2).decode((LOGITS, BOXES), 0.5)
    assert found.classes.tolist() == [1, 0]
    assert found.scores.tolist() == pytest.approx([0.8808, 0.6225], abs=1e-4)
    assert found.boxes_px == pytest.approx(np.array([[40, 60, 60, 140], [0, 0, 50, 200]]), abs=1e-3)


def test_the_last_column_of_detr_is_nothing() -> None:
    logits = np.array([[5, 0, 0], [0, 0, 5], [0, 3, 2]], np.float32)
    found = DetrLayout(100, 200, 1, 2).decode((logits, BOXES), 0.5)
    assert found.classes.tolist() == [0, 1]
    assert found.scores.tolist() == pytest.approx([0.9867, 0.7054], abs=1e-4)


def test_only_as_many_boxes_count_as_it_says() -> None:
    shown = seen(("num_dets", (1,)), ("det_boxes", (3, 4)), ("det_scores", (3,)), ("det_classes", (3,)))
    layout = recognise(shown, model="m")
    outputs = (
        np.array([2], np.float32),
        np.array([[1, 2, 3, 4]] * 3, np.float32),
        np.array([0.9, 0.2, 0.9], np.float32),
        np.array([4, 5, 6], np.float32),
    )
    found = layout.decode(outputs, 0.5)
    assert found.classes.tolist() == [4]
    assert found.boxes_px.tolist() == [[1, 2, 3, 4]]


def test_a_classifier_gives_probabilities_or_logits() -> None:
    layout = ClassifierLayout(224, 224, 4)
    likely = layout.decode((np.array([0.1, 0.6, 0.05, 0.25], np.float32),), 0.2)
    assert likely.classes.tolist() == [1, 3]
    assert likely.scores.tolist() == pytest.approx([0.6, 0.25])
    assert likely.boxes_px.tolist() == [[0, 0, 224, 224]] * 2
    of_logits = layout.decode((np.log(np.array([0.1, 0.6, 0.05, 0.25], np.float32)),), 0.2)
    assert of_logits.scores.tolist() == pytest.approx([0.6, 0.25], abs=1e-5)


def test_a_classifier_names_five_at_most() -> None:
    even = np.full(8, 1 / 8, np.float32)
    assert len(ClassifierLayout(224, 224, 8).decode((even,), 0.05)) == 5


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0])
def test_nonsense_numbers_raise_nothing_and_are_not_found(layout: type[Layout], value: float) -> None:
    shown = next(shown for shown, kind, _classes in ONLY if kind is layout)
    outputs: Outputs = tuple(np.full(output.shape, value, np.float32) for output in shown.outputs)
    with np.errstate(invalid="ignore", over="ignore"):
        found = recognise(shown, model="m").decode(outputs, 0.6)
    assert not (np.isfinite(found.boxes_px).all() and np.isfinite(found.scores).all() and len(found))
