from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from broker.messages import ModelRef
from config import ConfigError, TransientError
from detector.backends.network import Network, OutputSpec
from detector.facts import ModelFacts
from detector.inputs import InputSpec
from detector.layouts import YoloxLayout
from detector.pictures import Picture
from tests.unit.detector.stand_ins import MODEL

ROWS = YoloxLayout.rows(64, 64)


class BlueRuntime:
    """A network of 64x64 that sees one thing in its first cell, with the share of blue as its score."""

    def __init__(
        self, *, batch: int | None = None, channels_first: bool = True, rows: int = ROWS, batches: bool = True
    ) -> None:
        self.input = InputSpec(64, 64, batch, np.dtype(np.float32), channels_first)
        self.outputs: list[OutputSpec] = [("output", False)]
        self.facts = ModelFacts()
        self.batches = batches
        self.device = "cpu"
        self.rows = rows
        self.tensors: list[NDArray[Any]] = []
        self.broken = False
        self.closed = False
        self.doubled = False

    def run(self, pictures: Sequence[NDArray[Any]]) -> list[NDArray[np.float32]]:
        if self.broken:
            raise TransientError("out of memory")
        tensor = np.stack(pictures)
        self.tensors.append(tensor)
        blue = tensor[:, 0] if self.input.channels_first else tensor[..., 0]
        output = np.zeros((len(tensor), self.rows, 7), np.float32)
        output[:, 0, 4] = blue.mean(axis=(1, 2)) / 255
        output[:, 0, 5] = 1
        return [np.concatenate((output, output)) if self.doubled else output]

    def close(self) -> None:
        self.closed = True


def network(runtime: BlueRuntime, *, model: ModelRef = MODEL, labels: tuple[str, ...] = ("cat", "dog")) -> Network:
    return Network(runtime, model, labels, batch_max=4, min_score=0.35, nms_iou=0.45)


def blue(strength: int = 255) -> Picture:
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:, :, 0] = strength
    return picture


@pytest.mark.parametrize("channels_first", [True, False])
def test_the_tensor_has_the_order_the_type_and_the_range_that_the_network_wants(*, channels_first: bool) -> None:
    runtime = BlueRuntime(channels_first=channels_first)
    model = network(runtime)
    (outputs,) = model.infer([model.prepare(blue(200))])
    tensor = runtime.tensors[-1]
    assert tensor.shape == ((1, 3, 64, 64) if channels_first else (1, 64, 64, 3))
    assert tensor.dtype == np.float32
    assert all(prepared.pixels.flags.c_contiguous for prepared in [model.prepare(blue())])
    assert tensor.max() == 200
    assert outputs[0][0, 4] == pytest.approx(200 / 255)


def test_an_open_batch_takes_as_many_as_the_settings_say() -> None:
    runtime = BlueRuntime()
    model = network(runtime)
    assert model.batch_max == 4
    outputs = model.infer([model.prepare(blue(strength)) for strength in (10, 20, 30)])
    assert runtime.tensors[-1].shape[0] == 3
    assert [round(float(output[0][0, 4]) * 255) for output in outputs] == [10, 20, 30]


def test_a_fixed_batch_of_one_is_run_one_by_one() -> None:
    runtime = BlueRuntime(batch=1)
    model = network(runtime)
    assert model.batch_max == 1
    outputs = model.infer([model.prepare(blue(strength)) for strength in (10, 20, 30)])
    assert [len(tensor) for tensor in runtime.tensors[-3:]] == [1, 1, 1]
    assert [round(float(output[0][0, 4]) * 255) for output in outputs] == [10, 20, 30]


def test_where_more_at_a_time_are_no_use_it_asks_for_one() -> None:
    assert network(BlueRuntime(batches=False)).batch_max == 1


def test_more_than_it_takes_at_a_time_are_taken_in_several_goes() -> None:
    runtime = BlueRuntime()
    model = network(runtime)
    outputs = model.infer([model.prepare(blue(10 * number)) for number in range(1, 11)])
    assert [len(tensor) for tensor in runtime.tensors[-3:]] == [4, 4, 2]
    assert [round(float(output[0][0, 4]) * 255) for output in outputs] == list(range(10, 101, 10))


def test_it_says_what_it_looks_at_and_gives_it_back() -> None:
    runtime = BlueRuntime()
    model = network(runtime)
    assert model.input_px == (64, 64)
    model.close()
    assert runtime.closed


def test_outputs_that_are_not_one_a_picture_are_refused() -> None:
    runtime = BlueRuntime(batch=1)
    runtime.doubled = True
    with pytest.raises(ConfigError, match=r"of a batch of 1 it gives \[2, 84, 7\], not one of each a picture"):
        network(runtime)


def test_a_fixed_batch_is_filled_up_and_the_filling_is_thrown_away() -> None:
    runtime = BlueRuntime(batch=4)
    model = network(runtime)
    assert model.batch_max == 4
    outputs = model.infer([model.prepare(blue(strength)) for strength in (10, 20)])
    assert runtime.tensors[-1].shape[0] == 4
    assert [round(float(output[0][0, 4]) * 255) for output in outputs] == [10, 20]


def test_boxes_come_back_in_pixels_of_the_picture() -> None:
    model = network(BlueRuntime())
    prepared = model.prepare(np.full((128, 256, 3), 255, np.uint8))
    (outputs,) = model.infer([prepared])
    found = model.decode(outputs, prepared)
    # The cell's box is 8 px around (0, 0) of the input, and one of its pixels is four of the picture.
    assert found.boxes_px.tolist() == [[0, 0, 16, 16]]


def test_an_unknown_layout_is_refused_with_the_shapes() -> None:
    with pytest.raises(ConfigError, match=r"bright is not a model.*output \[batch, 5, 7\]\. Known is yolox"):
        network(BlueRuntime(rows=5))


def test_labels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="bright knows 2 classes and there are 3 labels") as caught:
        network(BlueRuntime(), labels=("a", "b", "c"))
    assert caught.value.field == "detector.labels"


def test_a_network_that_does_not_run_is_refused_at_the_start() -> None:
    runtime = BlueRuntime()
    runtime.broken = True
    with pytest.raises(ConfigError, match="bright cannot be used: out of memory"):
        network(runtime)


def test_a_failure_later_on_is_for_the_worker_to_retry() -> None:
    runtime = BlueRuntime()
    model = network(runtime)
    runtime.broken = True
    with pytest.raises(TransientError, match="out of memory"):
        model.infer([model.prepare(blue())])
