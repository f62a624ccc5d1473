"""TensorFlow Lite: the only file that knows it. LiteRT, or `tflite-runtime` where that is what a Raspberry Pi has."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from config import ConfigError, TransientError, get_logger
from detector.backends.network import OutputSpec
from detector.decoding import Floats
from detector.facts import ModelFacts, parse_facts
from detector.inputs import InputSpec

try:
    from ai_edge_litert.interpreter import Interpreter
except ModuleNotFoundError:
    # The older name of the same thing; without either, the error names the package that the extra installs.
    try:
        from tflite_runtime.interpreter import Interpreter
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("No module named 'ai_edge_litert'", name="ai_edge_litert") from error

__all__ = ["TfliteRuntime"]

_WHOLE_NUMBERS = (np.dtype(np.int8), np.dtype(np.uint8), np.dtype(np.int16))
_MEMBER_MAX = 1_000_000
"""Bytes of what a file says of itself."""


@dataclass(frozen=True, slots=True)
class _Tensor:
    """An input or output of the network.

    Attributes:
        index: how the interpreter calls it.
        scale: of a quantised one: the value of a step; 0 where the numbers are what they say.
        zero: which number stands for 0.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    scale: float
    zero: int

    def to_values(self, numbers: NDArray[Any]) -> Floats:
        """What the network's numbers stand for."""
        values = np.asarray(numbers, np.float32)
        return np.asarray((values - self.zero) * self.scale, np.float32) if self.scale else values


class TfliteRuntime:
    """A model file in TensorFlow Lite, on the processor.

    Args:
        path: the model file.
        threads: threads of one inference; 0 lets the runtime choose.

    Raises:
        ConfigError: it is not a model that this runtime can load, or does not take one picture.
    """

    def __init__(self, path: Path, *, threads: int = 0) -> None:
        try:
            self._interpreter: Any = Interpreter(model_path=str(path), num_threads=threads or None)
            self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise ConfigError(
                f"{path} is not a model that TensorFlow Lite can load: {_first_line(error)}. "
                f"It has {path.stat().st_size} bytes: is it cut off, or no TFLite file at all? "
                "Download or export it again, or leave it empty for the HOG people detector",
                field="detector.model",
            ) from error
        inputs = [_tensor(details) for details in self._interpreter.get_input_details()]
        self._outputs = [_tensor(details) for details in self._interpreter.get_output_details()]
        self.input = _input_of(inputs, path)
        self.outputs: tuple[OutputSpec, ...] = tuple((one.name, _is_whole(one)) for one in self._outputs)
        self.facts = _facts_of(path)
        self.device = "cpu"
        self.batches = False
        (self._input,) = inputs
        get_logger().info("model.loaded", file=str(path), providers=[Interpreter.__module__.partition(".")[0]])

    def run(self, pictures: Sequence[NDArray[Any]]) -> list[Floats]:
        """Run the network; see :meth:`Runtime.run`."""
        tensor = pictures[0][np.newaxis] if len(pictures) == 1 else np.stack(pictures)
        try:
            self._interpreter.set_tensor(self._input.index, tensor)
            self._interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            raise TransientError(f"the model failed on a batch of {len(tensor)}: {_first_line(error)}") from error
        return [output.to_values(self._interpreter.get_tensor(output.index)) for output in self._outputs]

    def close(self) -> None:
        """Give back the interpreter's memory; see :meth:`Runtime.close`."""
        del self._interpreter


def _tensor(details: dict[str, Any]) -> _Tensor:
    scale, zero = details["quantization"]
    dtype = np.dtype(details["dtype"])
    quantised = dtype in _WHOLE_NUMBERS
    shape = tuple(map(int, details["shape"]))
    return _Tensor(details["index"], details["name"], shape, dtype, float(scale) if quantised else 0.0, int(zero))


def _is_whole(tensor: _Tensor) -> bool:
    """Whether its values are whole numbers; those of a quantised one are fractions."""
    return not tensor.scale and np.issubdtype(tensor.dtype, np.integer)


def _input_of(inputs: list[_Tensor], path: Path) -> InputSpec:
    """What the network takes.

    Raises:
        ConfigError: it does not take one picture of three channels.
    """
    match [one.shape for one in inputs]:
        case [(batch, 3, height, width)]:
            channels_first = True
        case [(batch, height, width, 3)]:
            channels_first = False
        case shapes:
            raise ConfigError(
                f"{path} does not take a picture but {shapes or 'nothing'}; known is one input [batch, height, width, "
                "3] or [batch, 3, height, width]",
                field="detector.model",
            )
    (one,) = inputs
    return InputSpec(width, height, batch, one.dtype, channels_first, scale=one.scale, zero=one.zero)


def _facts_of(path: Path) -> ModelFacts:
    """What the file says of itself: exporters append a ZIP archive, in which the first file that is understood counts.

    Source: Ultralytics, nn/backends/base.py, `read_tflite_metadata`; TensorFlow Lite, metadata, "Associated files".
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.file_size <= _MEMBER_MAX:
                    facts = _facts_in(member.filename, archive.read(member).decode("utf-8", "replace"))
                    if facts != ModelFacts():
                        return facts
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError):
        pass  # there is none, or it is broken; the network is of use all the same
    return ModelFacts()


def _facts_in(name: str, text: str) -> ModelFacts:
    if "label" in name.lower():
        return ModelFacts(labels=tuple(line.strip()[:256] for line in text.splitlines() if line.strip()))
    return parse_facts(text)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
