"""Small ONNX files with the heads that known networks have, for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

__all__ = ["IMAGES", "save", "says"]

IMAGES = "images"
_KINDS = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32, "int64": TensorProto.INT64}


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    outputs: Mapping[str, tuple[int, Sequence[int | str]]],
    *,
    shape: Sequence[int | str] = ("batch", 3, 64, 64),
    dtype: int = TensorProto.FLOAT,
    tensors: Sequence[onnx.TensorProto] = (),
    others: Mapping[str, tuple[int, Sequence[int | str]]] | None = None,
    facts: Mapping[str, str] | None = None,
) -> Path:
    """Write a graph.

    Args:
        path: the file.
        nodes: what it computes.
        outputs: type and shape of each.
        shape: of the input :data:`IMAGES`.
        dtype: of the input.
        tensors: its constants.
        others: type and shape of further inputs.
        facts: its `metadata_props`.
    """
    inputs = {IMAGES: (dtype, shape), **(others or {})}
    graph = helper.make_graph(
        list(nodes),
        path.stem,
        [helper.make_tensor_value_info(name, kind, list(sides)) for name, (kind, sides) in inputs.items()],
        [helper.make_tensor_value_info(name, kind, list(sides)) for name, (kind, sides) in outputs.items()],
        list(tensors),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    helper.set_model_props(model, dict(facts or {}))
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def says(
    path: Path,
    outputs: Mapping[str, NDArray[np.generic]],
    *,
    shape: Sequence[int | str] = ("batch", 3, 416, 416),
    dtype: int = TensorProto.FLOAT,
    facts: Mapping[str, str] | None = None,
) -> Path:
    """Write a network that says the same of every picture.

    Args:
        path: the file.
        outputs: what it says of one, without the batch's dimension, by name.
        shape: of its input.
        dtype: of its input.
        facts: its `metadata_props`.
    """
    nodes = [
        helper.make_node("Shape", [IMAGES], ["sides"]),
        helper.make_node("Gather", ["sides", "first"], ["count"], axis=0),
    ]
    tensors = [numpy_helper.from_array(np.array([0], np.int64), "first")]
    said: dict[str, tuple[int, Sequence[int | str]]] = {}
    for name, values in outputs.items():
        tensors.append(numpy_helper.from_array(values[np.newaxis], f"{name}/one"))
        tensors.append(numpy_helper.from_array(np.array([1] * values.ndim, np.int64), f"{name}/ones"))
        nodes.append(helper.make_node("Concat", ["count", f"{name}/ones"], [f"{name}/times"], axis=0))
        nodes.append(helper.make_node("Tile", [f"{name}/one", f"{name}/times"], [name]))
        said[name] = (_KINDS[values.dtype.name], (shape[0], *values.shape))
    return save(path, nodes, said, shape=shape, dtype=dtype, tensors=tensors, facts=facts)
