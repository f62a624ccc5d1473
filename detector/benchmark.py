"""How fast this machine scores frames, and where the time goes: measured on pictures drawn by code."""

from __future__ import annotations

import itertools
import os
import statistics
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import cv2
import msgspec
import numpy as np

from broker import Bus, Delivery, decode_frame, encode_frame
from broker.frames import reword_frame
from broker.memory import MemoryBroker
from broker.messages import Detections, FrameMeta, encode_json
from broker.outbox import Outbox
from broker.topics import CAMERA_DETECTIONS, CAMERA_FRAME
from config import Clock, PermanentError
from config.cameras import CameraSettings
from config.settings import DetectorSettings, RegionSettings, Settings
from detector.backends import Backend
from detector.decoding import to_detections
from detector.ownership import OwnsAll
from detector.pictures import read_picture
from detector.role import announced_fps, measure
from detector.slot import BackendSlot
from detector.watching import CameraWatch, Look
from detector.worker import Worker

__all__ = ["Costs", "Rate", "Report", "default_threads", "describe_machine", "draw_frames", "examine", "to_json"]

_SIZE_PX = (1280, 720)
_QUALITY = 80
_FRAMES = 4
_BATCHES = (1, 2, 4, 8, 16, 32, 64)
_LOOKS_MIN = 3
"""Of each measurement; HOG takes a fifth of a second for one."""
_CAMERAS_MIN = 4
"""That send in turn; more where a batch is larger, so that the model is never without."""
_PATH_WAIT_S = 60.0
_SITE, _ORIGIN = "bench", "bench.detector"
_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class Rate(NamedTuple):
    """Pictures a second of the model alone."""

    threads: int
    batch: int
    fps: float


class Costs(NamedTuple):
    """What one frame takes, in milliseconds, each step alone.

    Attributes:
        decode: from the JPEG to pixels.
        prepare: until they fit the model.
        infer: in the model.
        read: from the model's numbers to detections and tracks.
        publish: into a message.
    """

    decode: float
    prepare: float
    infer: float
    read: float
    publish: float


@dataclass(frozen=True, slots=True)
class Report:
    """What was measured of a model.

    Attributes:
        name: the model's.
        device: what it runs on.
        input_px: width and height that it looks at.
        rates: of the model alone.
        costs: of one frame, with the threads that a worker would take.
        path_fps: frames a second all the way: bus, decoding, model, tracks, message.
        capacity_fps: frames a second that a worker would announce.
    """

    name: str
    device: str
    input_px: tuple[int, int]
    rates: tuple[Rate, ...]
    costs: Costs
    path_fps: float
    capacity_fps: float


def describe_machine() -> dict[str, str | int]:
    """Processor, cores for this process, and GPU."""
    cores = len(os.sched_getaffinity(0))
    return {"processor": _processor(), "cores": cores, "gpu": _gpu()}


def default_threads() -> list[int]:
    """Numbers of threads that are worth trying here: 1, 2, 4 and so on, and all cores."""
    cores = len(os.sched_getaffinity(0))
    return sorted({cores, *(1 << power for power in range(cores.bit_length()) if 1 << power <= cores)})


def to_json(machine: Mapping[str, str | int], report: Report) -> str:
    """One line of JSON."""
    costs = report.costs._asdict()
    rates = [rate._asdict() for rate in report.rates]
    fields = {
        "machine": machine,
        "model": report.name,
        "device": report.device,
        "input_px": report.input_px,
        "model_alone": rates,
        "frame_ms": costs,
        "worker_fps": report.path_fps,
        "capacity_fps": report.capacity_fps,
    }
    return msgspec.json.encode(fields).decode()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.lower().startswith(("model name", "model\t"))]
    return next((name for name in names if not name.isdecimal()), os.uname().machine)


def _gpu() -> str:
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, check=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "no GPU"
    return said.replace("\n", ", ") or "no GPU"


def draw_frames() -> list[bytes]:
    """Frames as a camera's node sends them: 1280x720, with about as much detail as a street has."""
    rng = np.random.default_rng(5)
    return [_draw_frame(rng, seq) for seq in range(_FRAMES)]


def _draw_frame(rng: np.random.Generator, seq: int) -> bytes:
    width, height = _SIZE_PX
    coarse = rng.integers(40, 200, (height // 40, width // 40, 3), np.uint8)
    picture = cv2.resize(coarse, _SIZE_PX, interpolation=cv2.INTER_CUBIC).astype(np.int16)
    picture += np.asarray(5 * rng.standard_normal(picture.shape), np.int16)
    for _ in range(12):  # as high as people, upright
        high = int(rng.integers(60, 260))
        left, top = int(rng.integers(0, width - high // 3)), int(rng.integers(0, height - high))
        picture[top : top + high, left : left + high // 3] = rng.integers(0, 256, 3)
    done, jpeg = cv2.imencode(".jpg", np.clip(picture, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    if not done:
        raise PermanentError("OpenCV cannot encode a JPEG here")
    meta = FrameMeta(camera="bench", node="bench", seq=seq, captured_at=_EPOCH, width=width, height=height)
    return encode_frame(jpeg.tobytes(), meta)


def examine(
    open_model: Callable[[DetectorSettings], Backend],
    frames: Sequence[bytes],
    settings: DetectorSettings,
    *,
    threads: Sequence[int],
    spend_s: float,
    clock: Clock,
) -> Iterator[Rate | Report]:
    """Measure a model: each rate when it is known, then everything.

    Args:
        open_model: opens it with these settings.
        frames: from `draw_frames`.
        settings: of the worker.
        threads: numbers of threads to try.
        spend_s: about so long for each measurement.
        clock: time.

    Raises:
        ConfigError: it cannot be opened.
        TransientError: it failed.
    """
    rates = []
    for count in threads:
        backend = open_model(settings.model_copy(update={"threads": count, "batch_max": max(_BATCHES)}))
        try:
            for rate in _rates(backend, frames, count, spend_s, clock):
                rates.append(rate)
                yield rate
        finally:
            backend.close()
    backend = open_model(settings)
    try:
        yield Report(
            name=backend.model.name,
            device=backend.device,
            input_px=backend.input_px,
            rates=tuple(rates),
            costs=_costs(backend, frames, settings, spend_s, clock),
            path_fps=_path_fps(backend, frames, settings, spend_s * 3, clock),
            capacity_fps=announced_fps(settings, measure(backend, clock).best_fps()),
        )
    finally:
        backend.close()


def _rates(backend: Backend, frames: Sequence[bytes], threads: int, spend_s: float, clock: Clock) -> Iterator[Rate]:
    prepared = [backend.prepare(read_picture(decode_frame(frame), backend.input_px)) for frame in frames]
    for size in _BATCHES:
        if size <= backend.batch_max:
            batch = list(itertools.islice(itertools.cycle(prepared), size))
            took_s = _median_s(lambda batch=batch: backend.infer(batch), spend_s, clock)  # type: ignore[misc]
            yield Rate(threads, size, size / took_s)


def _median_s(work: Callable[[], object], spend_s: float, clock: Clock) -> float:
    """How long it takes, once it has been done before."""
    work()
    times_s: list[float] = []
    while len(times_s) < _LOOKS_MIN or sum(times_s) < spend_s:
        started_s = clock.monotonic_s()
        work()
        times_s.append(clock.monotonic_s() - started_s)
    return max(statistics.median(times_s), 1e-9)


def _costs(
    backend: Backend, payloads: Sequence[bytes], settings: DetectorSettings, spend_s: float, clock: Clock
) -> Costs:
    frame = decode_frame(payloads[0])
    picture = read_picture(frame, backend.input_px)
    prepared = backend.prepare(picture)
    (outputs,) = backend.infer([prepared])
    meta = frame.meta
    seconds = itertools.count()
    watch = CameraWatch(meta.camera, settings, CameraSettings(source="file:"), (), new_id=lambda: str(next(seconds)))

    def read() -> Look:
        found = to_detections(backend.decode(outputs, prepared), backend.labels, meta.width, meta.height)
        at = meta.captured_at + timedelta(seconds=next(seconds))
        return watch.look(msgspec.structs.replace(meta, captured_at=at), found)

    message = _message(backend, meta, read())

    def median_ms(work: Callable[[], object]) -> float:
        return _median_s(work, spend_s / 2, clock) * 1000

    return Costs(
        decode=median_ms(lambda: read_picture(decode_frame(payloads[0]), backend.input_px)),
        prepare=median_ms(lambda: backend.prepare(picture)),
        infer=median_ms(lambda: backend.infer([prepared])),
        read=median_ms(read),
        publish=median_ms(lambda: encode_json(message)),
    )


def _message(backend: Backend, meta: FrameMeta, look: Look) -> Detections:
    return Detections(
        camera=meta.camera,
        frame_seq=meta.seq,
        worker=_ORIGIN,
        model=backend.model,
        width=meta.width,
        height=meta.height,
        captured_at=meta.captured_at,
        received_at=meta.captured_at,
        infer_started_at=meta.captured_at,
        infer_ms=0.0,
        batch=1,
        published_at=meta.captured_at,
        detections=look.detections,
    )


def _path_fps(
    backend: Backend, frames: Sequence[bytes], settings: DetectorSettings, spend_s: float, clock: Clock
) -> float:
    """A worker on a broker in memory, to which each camera sends its next frame when it has the scores of the last."""
    cameras = max(_CAMERAS_MIN, 2 * min(backend.batch_max, settings.batch_max))
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        broker = MemoryBroker()
        bus = Bus(
            site=_SITE,
            origin=_ORIGIN,
            transports=broker.transports("detector"),
            outbox=Outbox(Path(folder) / "bench.db", origin=_ORIGIN),
        )
        street = _Street(Bus(site=_SITE, origin="bench.edge", transports=broker.transports("edge")), frames, clock)
        # A frame that is dropped has no scores, and its camera would wait for them for ever.
        whole = settings.model_copy(
            update={"rules": {}, "regions": RegionSettings(per_frame_max=0), "frame_age_max_s": _PATH_WAIT_S}
        )
        worker = Worker(bus, BackendSlot(backend), Settings(detector=whole), OwnsAll(), clock=clock)
        stack.callback(bus.close, 0)
        stack.callback(worker.close)
        stack.callback(street.close)
        worker.start()
        bus.start()
        if not bus.wait_connected(_PATH_WAIT_S):
            raise PermanentError("the bus in memory does not answer")
        return street.run(cameras, spend_s)


class _Street:
    """Cameras that each send a frame when the last one is scored.

    Args:
        bus: theirs.
        frames: what they send in turn.
        clock: time.
    """

    def __init__(self, bus: Bus, frames: Sequence[bytes], clock: Clock) -> None:
        self._bus = bus
        self._frames = [decode_frame(frame) for frame in frames]
        self._clock = clock
        self._scored = 0
        self._ended = threading.Event()

    def run(self, cameras: int, spend_s: float) -> float:
        """Frames a second that are scored, from the moment when every camera had one."""
        self._bus.subscribe(CAMERA_DETECTIONS, self._on_scores)
        self._bus.start()
        if not self._bus.wait_connected(_PATH_WAIT_S):
            raise PermanentError("the bus in memory does not answer")
        for number in range(cameras):
            self._send(f"bench-{number}", 0)
        self._wait_scored(cameras)
        before, started_s = self._scored, self._clock.monotonic_s()
        self._clock.wait(self._ended, spend_s)
        self._wait_scored(before + _LOOKS_MIN)
        return (self._scored - before) / max(self._clock.monotonic_s() - started_s, 1e-9)

    def _wait_scored(self, frames: int) -> None:
        deadline_s = self._clock.monotonic_s() + _PATH_WAIT_S
        while self._scored < frames and self._clock.monotonic_s() < deadline_s:
            self._clock.wait(self._ended, 0.01)

    def close(self) -> None:
        """Send no more."""
        self._ended.set()
        self._bus.close(0)

    def _on_scores(self, delivery: Delivery) -> None:
        scores = delivery.content
        if isinstance(scores, Detections) and not self._ended.is_set():
            self._scored += 1
            self._send(scores.camera, scores.frame_seq + 1)

    def _send(self, camera: str, seq: int) -> None:
        frame = self._frames[seq % len(self._frames)]
        meta = msgspec.structs.replace(frame.meta, camera=camera, seq=seq, captured_at=self._clock.now())
        self._bus.publish(CAMERA_FRAME.at(_SITE, camera=camera), reword_frame(frame, meta))
