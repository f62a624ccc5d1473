"""A model is tried in a process of its own first: one that crashes there, or eats the memory, takes no worker along.

``python -m detector.warmup`` reads an order from standard input and writes its verdict as the last line of its output.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from broker.messages import ModelFile
from config import PermanentError, TransientError, VigilError, configure_logging
from config.settings import DetectorSettings
from detector.backends import Backend
from detector.models import open_model
from detector.pictures import Picture

__all__ = ["WarmUp", "trial_pictures", "warm_up"]

TIMEOUT_S = 300.0
"""An accelerator's runtime may compile a model for minutes when it sees it for the first time."""
_LOOK_S = 0.25
_NICE = 10
_OOM_FIRST = "1000"
"""Where memory runs out, the kernel ends this process before any other. Source: proc(5), oom_score_adj."""
_SIDES_PX = (640, 480)


class WarmUp(msgspec.Struct, frozen=True, kw_only=True):
    """What a model did in its warm-up.

    Attributes:
        error: why it cannot be used; empty when it can.
        labels: how many it knows.
        load_s: seconds until it was loaded.
        picture_ms: median of some inferences of one picture each, beside whatever else the machine did.
        memory_bytes: the most that the process had.
    """

    error: str = ""
    labels: int = 0
    load_s: float = 0.0
    picture_ms: float = 0.0
    memory_bytes: int = 0


class _Order(msgspec.Struct, frozen=True, kw_only=True):
    model: ModelFile
    path: str | None
    settings: dict[str, Any]


def warm_up(
    model: ModelFile,
    path: Path | None,
    settings: DetectorSettings,
    *,
    stop: threading.Event,
    timeout_s: float = TIMEOUT_S,
) -> WarmUp:
    """Load a model and run it on some pictures, in a process of its own.

    Args:
        model: what it is.
        path: its file; None for one that has none.
        settings: as the worker will use it.
        stop: ends the waiting.
        timeout_s: for all of it.

    Raises:
        PermanentError: it cannot be used, or crashes, or takes too long.
        TransientError: it was not tried, because this process ends or can start no other.
    """
    order = _Order(model=model, path=str(path) if path else None, settings=settings.model_dump(mode="json"))
    try:
        child = subprocess.Popen(
            [sys.executable, "-m", "detector.warmup"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    except OSError as error:
        raise TransientError(f"no process could be started to warm up {model.name}: {error.strerror}") from error
    with child:
        try:
            output, complaint = _finish(child, msgspec.json.encode(order), stop, timeout_s)
        finally:
            child.kill()
    verdict = _read_verdict(output)
    if child.returncode == 0 and verdict is not None:
        if verdict.error:
            raise PermanentError(verdict.error)
        return verdict
    raise PermanentError(f"{model.name} {_how_it_ended(child.returncode, complaint)} while it was warmed up")


def _finish(
    child: subprocess.Popen[bytes], order: bytes, stop: threading.Event, timeout_s: float
) -> tuple[bytes, bytes]:
    deadline_s = time.monotonic() + timeout_s
    left: bytes | None = order
    while True:
        try:
            return child.communicate(left, _LOOK_S)
        except subprocess.TimeoutExpired:
            left = None  # it is on its way
            if stop.is_set():
                raise TransientError("the worker ends before its next model is warm") from None
            if time.monotonic() > deadline_s:
                raise PermanentError(f"it was not warm after {timeout_s:.0f} s") from None


def _read_verdict(output: bytes) -> WarmUp | None:
    lines = output.splitlines()
    with suppress(msgspec.DecodeError, UnicodeDecodeError):
        return msgspec.json.decode(lines[-1], type=WarmUp) if lines else None
    return None


def _how_it_ended(status: int, complaint: bytes) -> str:
    if status < 0:
        name = signal.Signals(-status).name
        return f"was killed ({name}; most likely the memory ran out)" if name == "SIGKILL" else f"crashed ({name})"
    lines = complaint.decode(errors="replace").split("\n")
    said = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f"failed ({said[:300] or f'exit status {status}'})"


def trial_pictures() -> list[Picture]:
    """A grey picture, and one with shapes and noise all over: the same in every process."""
    width, height = _SIDES_PX
    rng = np.random.default_rng(7)
    busy = rng.integers(0, 256, (height, width, 3), np.uint8)
    for _ in range(40):
        x, y = int(rng.integers(0, width - 20)), int(rng.integers(0, height - 40))
        busy[y : y + int(rng.integers(20, 200)), x : x + int(rng.integers(10, 80))] = rng.integers(0, 256, 3, np.uint8)
    return [np.full((height, width, 3), 114, np.uint8), busy]


def _try_out(order: _Order) -> WarmUp:
    started_s = time.monotonic()
    settings = DetectorSettings.model_validate(order.settings)
    backend = open_model(order.model, Path(order.path) if order.path else None, settings)
    load_s = time.monotonic() - started_s
    times_s = [_look(backend, [picture]) for picture in trial_pictures() * 2]
    _look(backend, [trial_pictures()[1]] * min(settings.batch_max, backend.batch_max))
    return WarmUp(
        labels=len(backend.labels),
        load_s=round(load_s, 3),
        picture_ms=round(float(np.median(times_s)) * 1000, 2),
        memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


def _look(backend: Backend, pictures: list[Picture]) -> float:
    """Seconds in the model; what it says must be readable."""
    batch = [backend.prepare(picture) for picture in pictures]
    started_s = time.monotonic()
    outputs = backend.infer(batch)
    took_s = time.monotonic() - started_s
    for output, prepared in zip(outputs, batch, strict=True):
        found = backend.decode(output, prepared)
        if not (np.isfinite(found.boxes_px).all() and np.isfinite(found.scores).all()):
            raise PermanentError(f"{backend.model.name} finds boxes that are no numbers")
    return took_s


def _main() -> None:
    signal.alarm(int(TIMEOUT_S) + 60)  # whoever ordered it may be gone
    os.nice(_NICE)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OOM_FIRST)
    configure_logging("error", "text", stream=sys.stderr)
    try:
        verdict = _try_out(msgspec.json.decode(sys.stdin.buffer.read(), type=_Order))
    except VigilError as error:
        verdict = WarmUp(error=str(error))
    sys.stdout.buffer.write(b"\n" + msgspec.json.encode(verdict) + b"\n")


if __name__ == "__main__":
    _main()
