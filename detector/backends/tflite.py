"""TensorFlow Lite: the only file that knows it. LiteRT, or `tflite-runtime` where that is what a Raspberry Pi has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from config import ConfigError, TransientError, get_logger
from detector.backends.network import InputSpec

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


@dataclass(frozen=True, slots=True)
class _Tensor:
    """An input or output of the network.

    Attributes:
        index: how the interpreter calls it.
        scale: of a quantised one: the value of a step; 0 where the numbers are what they say.
        zero: which number stands for 0.
    """

    index: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    scale: float
    zero: int

    def to_numbers(self, values: NDArray[Any]) -> NDArray[Any]:
        """Values as the network takes them."""
        if not self.scale:
            return np.asarray(values, self.dtype)
        limits = np.iinfo(self.dtype)
        return np.asarray(np.clip(np.rint(values / self.scale) + self.zero, limits.min, limits.max), self.dtype)

    def to_values(self, numbers: NDArray[Any]) -> NDArray[np.float32]:
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
        (self._input,) = inputs
        get_logger().info("model.loaded", file=str(path), providers=[Interpreter.__module__.partition(".")[0]])

    def run(self, tensor: NDArray[Any]) -> list[NDArray[np.float32]]:
        """Run the network; see :meth:`Runtime.run`."""
        try:
            self._interpreter.set_tensor(self._input.index, self._input.to_numbers(tensor))
            self._interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            raise TransientError(f"the model failed on a batch of {len(tensor)}: {_first_line(error)}") from error
        return [output.to_values(self._interpreter.get_tensor(output.index)) for output in self._outputs]


def _tensor(details: dict[str, Any]) -> _Tensor:
    scale, zero = details["quantization"]
    dtype = np.dtype(details["dtype"])
    quantised = dtype in _WHOLE_NUMBERS
    return _Tensor(
        details["index"], tuple(map(int, details["shape"])), dtype, float(scale) if quantised else 0.0, int(zero)
    )


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
    # A quantised network gets the picture's values and makes its own numbers of them.
    dtype = np.dtype(np.float32) if inputs[0].scale else inputs[0].dtype
    return InputSpec(width, height, batch, dtype, channels_first=channels_first)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
