"""Which model a worker uses: the one it is told, else the newest of the cache, else the HOG people detector."""

from __future__ import annotations

import difflib
import hashlib
from pathlib import Path

from broker.messages import ModelFile, ModelInput, ModelRef
from config import ConfigError, get_logger
from config.settings import DetectorSettings
from detector.backends import Backend
from detector.backends.hog import HogBackend
from detector.backends.network import Network, Runtime
from detector.labels import read_labels
from detector.model_store import ModelStore, about_model, models_folder

__all__ = ["check_rules", "open_backend", "open_file", "open_model"]


def open_backend(settings: DetectorSettings) -> Backend:
    """Open the model that these settings choose, and say which one it is.

    Args:
        settings: model, labels, thresholds and threads.

    Raises:
        ConfigError: the model file is missing, damaged or of an unknown kind, the labels do not fit it, or a rule
            waits for a label that it does not know.
    """
    path = settings.model or ModelStore(models_folder(settings)).newest()
    backend: Backend
    if path is None:
        backend = HogBackend(min_score=settings.min_score, threads=settings.threads)
        get_logger().info(
            "model.hog_in_use",
            hint="people only; for a faster and better model run `vigil models pull yolox_nano`, or give --model PATH",
        )
    else:
        about = about_model(path)
        backend = (
            open_file(path, settings, labels=about.labels, layout=about.layout, taken=about.input)
            if about
            else open_file(path, settings)
        )
        get_logger().info("model.in_use", file=str(path), sha256=backend.model.sha256)
    check_rules(settings, backend)
    return backend


def open_model(model: ModelFile, path: Path | None, settings: DetectorSettings) -> Backend:
    """Open the model that a site uses, whatever the settings choose.

    Args:
        model: what it is.
        path: its file; None for one that has none.
        settings: thresholds, threads and rules.

    Raises:
        ConfigError: as :func:`open_backend`, or it is another model.
    """
    if path is None:
        backend: Backend = HogBackend(min_score=settings.min_score, threads=settings.threads)
    else:
        backend = open_file(path, settings, labels=model.labels, layout=model.layout, taken=model.input)
    if backend.model.sha256 != model.sha256:
        raise ConfigError(f"{path or model.name} is not the model that it was: its SHA-256 is {backend.model.sha256}")
    check_rules(settings, backend)
    return backend


def open_file(
    path: Path,
    settings: DetectorSettings,
    *,
    labels: tuple[str, ...] = (),
    layout: str = "",
    taken: ModelInput | None = None,
) -> Backend:
    """Open one model file.

    Args:
        path: .onnx or .tflite.
        settings: thresholds and threads, and a file of labels.
        labels: what its class numbers mean; empty: what the file says, else the settings, else COCO's.
        layout: how it writes down what it found; empty: what the settings say, else its shapes and its own words.
        taken: how it takes a picture; None: as its layout usually does.

    Raises:
        ConfigError: the file is missing, damaged or of an unknown kind or layout, or the labels do not fit it.
    """
    sha256 = _hash(path)
    runtime = _open_runtime(path, settings)
    labels = labels or runtime.facts.labels or (read_labels(settings.labels) if settings.labels else ())
    return Network(
        runtime,
        ModelRef(name=path.stem[:256], sha256=sha256),
        labels,
        layout=layout or settings.layout,
        taken=taken,
        batch_max=settings.batch_max,
        min_score=settings.min_score,
        nms_iou=settings.nms_iou,
    )


def _open_runtime(path: Path, settings: DetectorSettings) -> Runtime:
    """Load a file by its kind; a machine needs the runtime of its own models only."""
    extra = "tflite" if path.suffix == ".tflite" else "detector"
    try:
        if path.suffix == ".tflite":
            from detector.backends.tflite import TfliteRuntime

            return TfliteRuntime(path, threads=settings.threads)
        from detector.backends.onnx import OnnxRuntime

        return OnnxRuntime(path, threads=settings.threads, provider=settings.provider, batch_max=settings.batch_max)
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
        reason = "there is no such file; give the path of a model (.onnx or .tflite)"
    except IsADirectoryError:
        reason = "this is a folder; give the path of a model (.onnx or .tflite)"
    except OSError as error:
        reason = f"it cannot be read: {error.strerror}"
    raise ConfigError(f"{path}: {reason}, or leave it empty for the HOG people detector", field="detector.model")


def check_rules(settings: DetectorSettings, backend: Backend) -> None:
    """Whether a model says what the rules wait for.

    Raises:
        ConfigError: a rule waits for a label that it does not know.
    """
    for name, rule in settings.rules.items():
        if rule.label not in backend.labels:
            near = difflib.get_close_matches(rule.label, backend.labels, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it knows {', '.join(backend.labels)}"
            raise ConfigError(
                f"the model {backend.model.name} never says {rule.label!r}; {hint}",
                field=f"detector.rules.{name}.label",
            )
