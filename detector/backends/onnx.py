"""ONNX Runtime: the only file that knows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as state

from config import ConfigError, TransientError, get_logger
from detector.backends.network import InputSpec

__all__ = ["OnnxRuntime"]

_PREFERRED = (
    "TensorrtExecutionProvider",
    "CUDAExecutionProvider",
    "OpenVINOExecutionProvider",
    "CPUExecutionProvider",
)
"""Fastest first; the installed package decides which of them are there."""
_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
_SIDE_DEFAULT = 640
"""Side of the input, in pixels, where the file leaves it open: what YOLOX's larger networks are trained at."""
_ERRORS = (
    state.EPFail,
    state.Fail,
    state.InvalidArgument,
    state.InvalidGraph,
    state.InvalidProtobuf,
    state.NoSuchFile,
    state.NotImplemented,
    state.RuntimeException,
)
"""Everything that a session raises; the library has no common base for them."""
_QUIET = 3
"""Only errors: the library warns of every GPU that it does not find."""


class OnnxRuntime:
    """A model file in ONNX Runtime, on the fastest provider that is there.

    Args:
        path: the model file.
        threads: threads of one inference; 0 lets the runtime choose.

    Raises:
        ConfigError: there is no such file, or it is not a model that this runtime can load.
    """

    def __init__(self, path: Path, *, threads: int = 0) -> None:
        ort.set_default_logger_severity(_QUIET)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        # Threads that spin between two frames gain 2 ms of 20 and double the CPU time (35 to 70 ms a frame at
        # 10 fps with YOLOX-Nano on two cores); everybody else on the machine pays for that.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        wanted = [name for name in _PREFERRED if name in ort.get_available_providers()]
        try:
            self._session = ort.InferenceSession(str(path), options, providers=wanted)
        except _ERRORS as error:
            raise ConfigError(
                f"{path} is not a model that ONNX Runtime {ort.__version__} can load: {_first_line(error)} "
                f"It has {path.stat().st_size} bytes: is it cut off, or no ONNX file at all? "
                "Download or export it again, or leave it empty for the HOG people detector",
                field="detector.model",
            ) from error
        self.input = _input_of(self._session, path)
        self._name = self._session.get_inputs()[0].name
        get_logger().info("model.loaded", file=str(path), providers=self._session.get_providers(), wanted=wanted)

    def run(self, tensor: NDArray[Any]) -> list[NDArray[np.float32]]:
        """Run the network; see :meth:`Runtime.run`."""
        try:
            outputs = self._session.run(None, {self._name: tensor})
        except _ERRORS as error:
            raise TransientError(f"the model failed on a batch of {len(tensor)}: {_first_line(error)}") from error
        return [np.asarray(output, np.float32) for output in outputs]


def _first_line(error: Exception) -> str:
    """What the library says, without the code in front of it."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return line.rpartition(" : ")[2].rpartition("failed:")[2].strip().rstrip(".") + "."


def _input_of(session: Any, path: Path) -> InputSpec:  # noqa: ANN401 - the library has no types
    """What the network takes.

    Raises:
        ConfigError: it does not take one picture of three channels.
    """
    inputs = session.get_inputs()
    shapes = ", ".join(f"{one.name} {one.type} {one.shape}" for one in inputs)
    dtype = _DTYPES.get(inputs[0].type) if len(inputs) == 1 else None
    shape = inputs[0].shape if dtype is not None else []
    match shape:
        case [batch, 3, height, width]:
            channels_first = True
        case [batch, height, width, 3]:
            channels_first = False
        case _:
            raise ConfigError(
                f"{path} does not take a picture but {shapes or 'nothing'}; known is one input [batch, 3, height, "
                "width] or [batch, height, width, 3] of float, float16 or uint8",
                field="detector.model",
            )
    return InputSpec(
        width=_side(width),
        height=_side(height),
        batch=batch if isinstance(batch, int) and batch > 0 else None,
        dtype=np.dtype(dtype),
        channels_first=channels_first,
    )


def _side(dimension: int | str | None) -> int:
    return dimension if isinstance(dimension, int) and dimension > 0 else _SIDE_DEFAULT
