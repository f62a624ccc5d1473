"""A session on a GPU: memory that it reads and writes by itself, and stays where it is."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.decoding import Floats
from detector.inputs import InputSpec

__all__ = ["BoundSession", "pinned_empty"]

_LIBRARIES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so")
_SUCCESS = 0
_FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class BoundSession:
    """A session whose input and outputs stay where they are in memory, page-locked where there is a GPU.

    A GPU fetches from page-locked memory by itself; from other memory the driver copies first.

    Args:
        session: the loaded model.
        spec: its first input.
        batch_max: the most pictures in one inference.
    """

    def __init__(self, session: Any, spec: InputSpec, batch_max: int) -> None:  # noqa: ANN401 - has no types
        self._session = session
        self._binding = session.io_binding()
        self._name = session.get_inputs()[0].name
        self._input = pinned_empty((batch_max, *spec.shape), spec.dtype)
        self._given = session.get_outputs()
        self._buffers: dict[str, NDArray[Any]] = {}
        for output in self._given:
            dtype = _FLOATS.get(output.type)
            if dtype is not None and all(isinstance(side, int) for side in output.shape[1:]):
                self._buffers[output.name] = pinned_empty((batch_max, *output.shape[1:]), np.dtype(dtype))

    def run(self, pictures: Sequence[NDArray[Any]], others: dict[str, NDArray[Any]]) -> list[Floats]:
        """Run the network.

        Args:
            pictures: at most `batch_max`.
            others: further inputs.
        """
        count = len(pictures)
        np.stack(pictures, out=self._input[:count])
        self._binding.bind_cpu_input(self._name, self._input[:count])
        for name, values in others.items():
            self._binding.bind_cpu_input(name, values)
        for output in self._given:
            self._bind_output(output.name, count)
        self._session.run_with_iobinding(self._binding)
        # The buffers are written again by the next batch.
        return [
            np.array(self._buffers[output.name][:count] if output.name in self._buffers else values.numpy(), np.float32)
            for output, values in zip(self._given, self._binding.get_outputs(), strict=True)
        ]

    def _bind_output(self, name: str, count: int) -> None:
        buffer = self._buffers.get(name)
        if buffer is None:  # the library makes room where only it knows how much
            self._binding.bind_output(name)
            return
        part = buffer[:count]
        self._binding.bind_output(name, "cpu", 0, part.dtype.type, part.shape, part.ctypes.data)


def pinned_empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """An array that is locked in memory, where there is CUDA; otherwise an ordinary one, which works as well, slower.

    Source: CUDA Runtime API, memory management, `cudaHostRegister`.
    """
    array = np.empty(shape, dtype)
    library = _runtime()
    if library is not None and array.nbytes:
        address = ctypes.c_void_p(array.ctypes.data)
        if library.cudaHostRegister(address, ctypes.c_size_t(array.nbytes), 0) == _SUCCESS:
            weakref.finalize(array, library.cudaHostUnregister, address).atexit = False
        else:
            library.cudaGetLastError()  # or the next who asks takes this failure for its own
    return array


@cache
def _runtime() -> ctypes.CDLL | None:
    for name in _LIBRARIES:
        with suppress(OSError):
            return ctypes.CDLL(name)
    return None
