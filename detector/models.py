"""Which model a worker uses: the one it is told, else the newest of the cache, else the HOG people detector."""

from __future__ import annotations

import difflib
import hashlib
from pathlib import Path

import platformdirs

from broker.messages import ModelRef
from config import ConfigError, get_logger
from config.settings import DetectorSettings
from detector.backends import Backend
from detector.backends.hog import HogBackend
from detector.backends.network import Network, Runtime
from detector.labels import read_labels

__all__ = ["cached_model", "model_cache", "open_backend"]

_YOLOX = "https://github.com/Megvii-BaseDetection/YOLOX/releases/download/0.1.1rc0/yolox_nano.onnx"


_KINDS = (".onnx", ".tflite")


def model_cache() -> Path:
    """The folder in which model files are looked for."""
    return Path(platformdirs.user_cache_dir("vigil", appauthor=False)) / "models"


def cached_model(folder: Path) -> Path | None:
    """The newest model file of a folder; None when it has none."""
    files = [path for path in folder.glob("*") if path.suffix in _KINDS and path.is_file()]
    return max(files, key=lambda path: (path.stat().st_mtime, path.name), default=None)


def open_backend(settings: DetectorSettings, *, cache: Path | None = None) -> Backend:
    """Open the model that these settings choose, and say which one it is.

    Args:
        settings: model, labels, thresholds and threads.
        cache: the folder with model files; default this user's.

    Raises:
        ConfigError: the model file is missing, damaged or of an unknown kind, the labels do not fit it, or a rule
            waits for a label that it does not know.
    """
    folder = cache or model_cache()
    path = settings.model or cached_model(folder)
    backend: Backend
    if path is None:
        backend = HogBackend(min_score=settings.min_score, threads=settings.threads)
        get_logger().info(
            "model.hog_in_use",
            hint=f"people only; for a faster and better model save {_YOLOX} in {folder}, or give --model PATH",
        )
    else:
        backend = _open_file(path, settings)
        get_logger().info("model.in_use", file=str(path), sha256=backend.model.sha256)
    _check_rules(settings, backend)
    return backend


def _open_file(path: Path, settings: DetectorSettings) -> Network:
    sha256 = _hash(path)
    return Network(
        _open_runtime(path, settings.threads),
        ModelRef(name=path.stem[:256], sha256=sha256),
        read_labels(settings.labels),
        batch_max=settings.batch_max,
        min_score=settings.min_score,
        nms_iou=settings.nms_iou,
    )


def _open_runtime(path: Path, threads: int) -> Runtime:
    """Load a file by its kind; a machine needs the runtime of its own models only."""
    extra = "tflite" if path.suffix == ".tflite" else "detector"
    try:
        if path.suffix == ".tflite":
            from detector.backends.tflite import TfliteRuntime

            return TfliteRuntime(path, threads=threads)
        from detector.backends.onnx import OnnxRuntime

        return OnnxRuntime(path, threads=threads)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{path} needs the package {error.name}: pip install 'vigil-mesh[{extra}]'", field="detector.model"
        ) from error


def _hash(path: Path) -> str:
    """SHA-256 of the file, 64 hexadecimal digits.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        reason = "there is no such file; give the path of a YOLOX model (.onnx or .tflite)"
    except IsADirectoryError:
        reason = "this is a folder; give the path of a YOLOX model (.onnx or .tflite)"
    except OSError as error:
        reason = f"it cannot be read: {error.strerror}"
    raise ConfigError(f"{path}: {reason}, or leave it empty for the HOG people detector", field="detector.model")


def _check_rules(settings: DetectorSettings, backend: Backend) -> None:
    for name, rule in settings.rules.items():
        if rule.label not in backend.labels:
            near = difflib.get_close_matches(rule.label, backend.labels, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it knows {', '.join(backend.labels)}"
            raise ConfigError(
                f"the model {backend.model.name} never says {rule.label!r}; {hint}",
                field=f"detector.rules.{name}.label",
            )
