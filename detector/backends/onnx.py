"""ONNX Runtime: the only file that knows it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import platformdirs
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as state

from config import ConfigError, TransientError, get_logger
from detector.backends.bound import BoundSession
from detector.backends.network import OutputSpec
from detector.decoding import Floats
from detector.facts import read_facts
from detector.inputs import InputSpec

__all__ = ["PROVIDERS", "OnnxRuntime"]

PROVIDERS = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
"""Fastest first; the installed package decides which of them are there. What settings call each, and the library."""
_ON_GPU = ("TensorrtExecutionProvider", "CUDAExecutionProvider")
_CPU = "CPUExecutionProvider"
_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
_SIZES = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(float)": np.float32}
_WHOLE = ("int", "bool")
_SIDE_DEFAULT = 640
"""Side of the input, in pixels, where the file leaves it open: what YOLO and RT-DETR networks are trained at."""
_ERRORS = (
    state.EPFail,
    state.Fail,
    state.InvalidArgument,
    state.InvalidGraph,
    state.InvalidProtobuf,
    state.NoSuchFile,
    state.NotImplemented,
    state.RuntimeException,
    RuntimeError,
    ValueError,
)
"""Everything that a session raises; the library has no common base for them, and in some places raises plain ones."""
_QUIET = 3
"""Only errors: the library warns of every GPU that it does not find."""


class OnnxRuntime:
    """A model file in ONNX Runtime, on the fastest provider that is there and loads it.

    Args:
        path: the model file.
        threads: threads of one inference; 0 lets the runtime choose.
        provider: of :data:`PROVIDERS`, and then no other; ``auto``: the first that loads.
        batch_max: the most pictures in one inference, where the file leaves it open.

    Raises:
        ConfigError: there is no such file, it is not a model that this runtime can load, or the provider is not there.
    """

    def __init__(self, path: Path, *, threads: int = 0, provider: str = "auto", batch_max: int = 1) -> None:
        ort.set_default_logger_severity(_QUIET)
        session, used = _open(path, threads, provider, batch_max)
        # Without it a failed inference opens the model anew on the processor, and prints so.
        session.disable_fallback()
        self.input, sizes = _input_of(session, path)
        self.outputs: tuple[OutputSpec, ...] = tuple(
            (output.name, any(word in output.type for word in _WHOLE)) for output in session.get_outputs()
        )
        self.facts = read_facts(session.get_modelmeta().custom_metadata_map)
        self.device = next(name for name, library in PROVIDERS.items() if library == used)
        self.batches = used in _ON_GPU
        self._session = session
        self._bound = BoundSession(session, self.input, self.input.batch or batch_max) if self.batches else None
        self._name = session.get_inputs()[0].name
        self._sizes = sizes
        get_logger().info("model.loaded", file=str(path), providers=session.get_providers(), used=used)

    def run(self, pictures: Sequence[NDArray[Any]]) -> list[Floats]:
        """Run the network; see :meth:`Runtime.run`."""
        sizes = {name: np.repeat(size, len(pictures), axis=0) for name, size in self._sizes.items()}
        try:
            if self._bound is not None:
                return self._bound.run(pictures, sizes)
            tensor = pictures[0][np.newaxis] if len(pictures) == 1 else np.stack(pictures)
            outputs = self._session.run(None, {self._name: tensor, **sizes})
        except _ERRORS as error:
            raise TransientError(f"the model failed on a batch of {len(pictures)}: {_first_line(error)}") from error
        return [np.asarray(output, np.float32) for output in outputs]

    def close(self) -> None:
        """Give back the session's memory; see :meth:`Runtime.close`."""
        self._bound = None
        del self._session


def _open(path: Path, threads: int, provider: str, batch_max: int) -> tuple[Any, str]:
    """A session on the first provider that takes it, and that provider.

    Raises:
        ConfigError: none does.
    """
    wanted = _wanted(provider)
    reason = ""
    for place, name in enumerate(wanted):
        try:
            return _try(path, threads, name, batch_max), name
        except _ERRORS as error:
            reason = _first_line(error)
        if place + 1 < len(wanted):
            get_logger().warning(
                "model.provider_failed", file=str(path), provider=name, reason=reason, next=wanted[place + 1]
            )
    raise ConfigError(
        f"{path} is not a model that ONNX Runtime {ort.__version__} can load: {reason} "
        f"It has {path.stat().st_size} bytes: is it cut off, or no ONNX file at all? "
        "Download or export it again, or leave it empty for the HOG people detector",
        field="detector.model",
    )


def _wanted(provider: str) -> list[str]:
    """Providers to try, in order.

    Raises:
        ConfigError: the one that is asked for is not there.
    """
    there = [name for name in PROVIDERS.values() if name in ort.get_available_providers()]
    if provider != "auto" and PROVIDERS[provider] not in there:
        raise ConfigError(
            f"this ONNX Runtime has {', '.join(there)} and not {PROVIDERS[provider]}: install a package that has it "
            "(for cuda and tensorrt: pip install 'vigil-mesh[detector-gpu]' in place of [detector]), or set it to auto",
            field="detector.provider",
        )
    wanted = there if provider == "auto" else [PROVIDERS[provider]]
    if any(name in _ON_GPU for name in wanted):
        ort.preload_dlls()  # CUDA's libraries may have come as Python packages, where no linker looks
    return wanted


def _try(path: Path, threads: int, provider: str, batch_max: int) -> Any:  # noqa: ANN401 - the library has no types
    """A session on one provider that has run once, where it is not the processor."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that spin between two frames gain 2 ms of 20 and double the CPU time (35 to 70 ms a frame at
    # 10 fps with YOLOX-Nano on two cores); everybody else on the machine pays for that.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if provider == _CPU:
        return ort.InferenceSession(str(path), options, providers=[_CPU], enable_fallback=0)
    # The processor comes second, for what the provider has no kernel for.
    wanted = [(provider, _options(provider, path, batch_max)), _CPU]
    session = ort.InferenceSession(str(path), options, providers=wanted, enable_fallback=0)
    # A provider whose libraries are missing is left out, and only the library's own log says so.
    if provider not in session.get_providers():
        raise state.EPFail(f"{provider} could not be loaded, its libraries are missing or of another version")
    spec, sizes = _input_of(session, path)
    blank = np.zeros((spec.batch or 1, *spec.shape), spec.dtype)
    given = {name: np.repeat(size, len(blank), axis=0) for name, size in sizes.items()}
    session.run(None, {session.get_inputs()[0].name: blank, **given})
    return session


def _options(provider: str, path: Path, batch_max: int) -> dict[str, str]:
    """What a provider is told."""
    if provider == "CUDAExecutionProvider":
        # Batches are of any size, and the exhaustive search stops for each that is new.
        return {"cudnn_conv_algo_search": "HEURISTIC"}
    if provider != "TensorrtExecutionProvider":
        return {}
    engines = Path(platformdirs.user_cache_dir("vigil", appauthor=False)) / "engines"
    engines.mkdir(parents=True, exist_ok=True)
    told = {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(engines)}
    plain = ort.SessionOptions()
    plain.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), plain, providers=[_CPU], enable_fallback=0)
    return told | _shape_profile([(one.name, one.shape) for one in session.get_inputs()], batch_max)


def _shape_profile(inputs: Sequence[tuple[str, Sequence[int | str | None]]], batch_max: int) -> dict[str, str]:
    """The shapes that TensorRT builds one engine for; without them it builds another whenever a batch is larger.

    Args:
        inputs: names and shapes; what is no number is open.
        batch_max: the most pictures in one inference.
    """
    if all(isinstance(side, int) for _name, shape in inputs for side in shape):
        return {}

    def shapes(batch: int) -> str:
        filled = [
            (name, [side if isinstance(side, int) else (_SIDE_DEFAULT if place else batch) for place, side in sides])
            for name, sides in ((name, list(enumerate(shape))) for name, shape in inputs)
        ]
        return ",".join(f"{name}:{'x'.join(map(str, sides))}" for name, sides in filled)

    return {
        "trt_profile_min_shapes": shapes(1),
        "trt_profile_opt_shapes": shapes(batch_max),
        "trt_profile_max_shapes": shapes(batch_max),
    }


def _first_line(error: Exception) -> str:
    """What the library says, without the code in front of it."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return line.rpartition(" : ")[2].rpartition("failed:")[2].strip().rstrip(".") + "."


def _input_of(session: Any, path: Path) -> tuple[InputSpec, dict[str, NDArray[Any]]]:  # noqa: ANN401 - has no types
    """What the network takes: a picture, and what to tell it as the sizes of one, where it asks for that.

    Raises:
        ConfigError: it does not take one picture of three channels.
    """
    picture, *others = session.get_inputs()
    dtype = _DTYPES.get(picture.type)
    asks = len(others) == 1 and others[0].type in _SIZES and others[0].shape[1:] == [2]
    shape = picture.shape if dtype is not None and (asks or not others) else []
    match shape:
        case [batch, 3, height, width]:
            channels_first = True
        case [batch, height, width, 3]:
            channels_first = False
        case _:
            shapes = ", ".join(f"{one.name} {one.type} {one.shape}" for one in session.get_inputs())
            raise ConfigError(
                f"{path} does not take a picture but {shapes}; known is one input [batch, 3, height, width] or "
                "[batch, height, width, 3] of float, float16 or uint8, and beside it at most the sizes [batch, 2]",
                field="detector.model",
            )
    spec = InputSpec(
        width=_side(width),
        height=_side(height),
        batch=batch if isinstance(batch, int) and batch > 0 else None,
        dtype=np.dtype(dtype),
        channels_first=channels_first,
    )
    # Told the size of its input, it gives boxes in pixels of that, as all the others do.
    sizes = {one.name: np.array([[spec.width, spec.height]], _SIZES[one.type]) for one in others}
    return spec, sizes


def _side(dimension: int | str | None) -> int:
    return dimension if isinstance(dimension, int) and dimension > 0 else _SIDE_DEFAULT
