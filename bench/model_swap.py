"""A worker changes its model under load, and meets models that are no good: what do the cameras see of it?

`vigil detector` as a process on a real Mosquitto scores four cameras of five frames a second each; models come from a
web server on loopback. It is told (`vigil models use`) to change from `yolox_nano.onnx` to the same network for
TensorFlow Lite, whose download breaks off in the middle once, and back (`vigil models rollback`). Then it meets a wrong
hash, a damaged download, a wrong size, a file that is no model, a warm-up that crashes, a `file:` that is not there
and, as root, a full disk (a tmpfs).

A frame is lost when it was published and neither scored nor counted as replaced by a newer one or as too old. A message
is mixed when its boxes are not those which the model whose hash it carries finds in that very picture. Targets: 0 lost,
0 mixed, and after each failure the model before it serves and the reason is on the bus.

    python bench/model_swap.py
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import cv2
import msgspec
import numpy as np
import psutil

from bench._site import DATA, JPEG_QUALITY, SITE, read_video, running_site
from broker import Bus, Delivery
from broker.messages import Detections, ModelFile, NodeHealth, WorkerBeat, WorkerStatus
from broker.topics import CAMERA_DETECTIONS, NODE_HEALTH, NODE_WORKER, NODE_WORKER_BEAT
from config import configure_logging
from config.settings import BusSettings, DetectorSettings, Settings
from detector.model_site import SiteModels
from detector.model_store import file_sha256
from detector.models import open_file
from tests.support.file_server import FileServer, Served
from tests.support.waiting import wait_until

CAMERAS, FPS, PICTURES = 4, 15.0, 100
"""At 20 frames a second the TFLite model, twice as slow, is rightly refused: it is busy all the time."""
WORKER = "bench.detector"
TMPFS_MB, SPARE_MB = 120, 20
SCORE_TOLERANCE = 2e-4
"""A batch of another size makes a difference of some 1e-6; the other model one of 1e-3."""
BEFORE_S, AROUND_S = 8.0, 1.0
SITE_FILE = """
detector:
  threads: 1
  capacity_fps: 1000
  models_folder: {folder}
  regions: {{per_frame_max: 0}}
"""


@dataclass(frozen=True, slots=True)
class Score:
    """One frame's scores, as a subscriber had them."""

    seq: int
    sha256: str
    scores: tuple[float, ...]
    at_s: float
    age_ms: float


@dataclass(slots=True)
class Heard:
    """Everything that the bus said."""

    scores: list[Score] = field(default_factory=list)
    status: WorkerStatus | None = None
    health: NodeHealth | None = None
    owned: int = 0

    def listen(self, bus: Bus) -> None:
        """Begin."""
        for spec in (CAMERA_DETECTIONS, NODE_WORKER, NODE_WORKER_BEAT, NODE_HEALTH):
            bus.subscribe(spec, self.on_message)

    def on_message(self, delivery: Delivery) -> None:
        """On the bus's thread."""
        match delivery.content:
            case Detections() as found:
                age_s = (datetime.now(UTC) - found.captured_at).total_seconds()
                scores = tuple(sorted((box.score for box in found.detections), reverse=True))
                self.scores.append(Score(found.frame_seq, found.model.sha256, scores, time.monotonic(), age_s * 1000))
            case WorkerStatus() as status:
                self.status = status
            case WorkerBeat() as beat:
                self.owned = len(beat.cameras)
            case NodeHealth(role="detector") as health:
                self.health = health

    @property
    def uses(self) -> str:
        """Hash of the model in use."""
        return self.status.model.sha256 if self.status is not None and self.status.model is not None else ""

    @property
    def is_settled(self) -> bool:
        """Whether there is a verdict on the model that was on trial."""
        return self.status is not None and self.status.model_wanted is None


class Feeder:
    """The cameras, as a process."""

    def __init__(self, url: str) -> None:
        command = [sys.executable, "-m", "bench._feeder", url, str(CAMERAS)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._answer() == "ready"
        self.published = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        """Send frames from now on."""
        self._thread.start()
        return self

    def __exit__(self, *_why: object) -> None:
        """End."""
        self.stop()
        self._process.kill()
        self._process.wait(20)

    def stop(self) -> int:
        """Send no more; returns how many frames were published."""
        self._stop.set()
        self._thread.join(30)
        return self.published

    def _run(self) -> None:
        while not self._stop.is_set():
            assert self._process.stdin is not None
            self._process.stdin.write(f"2 {FPS}\n")
            self._process.stdin.flush()
            self.published += int(self._answer().split()[0])

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def references() -> dict[str, list[tuple[float, ...]]]:
    """What each model finds in each picture that the cameras show, by the model's hash."""
    pictures = []
    for picture in read_video(DATA / "pedestrians.avi")[:PICTURES]:
        jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
        decoded = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)
        assert decoded is not None
        pictures.append(np.asarray(decoded, np.uint8))
    found = {}
    for name in ("yolox_nano.onnx", "yolox_nano_float16.tflite"):
        backend = open_file(DATA / name, DetectorSettings(threads=1))
        scores = []
        for picture in pictures:
            prepared = backend.prepare(picture)
            boxes = backend.decode(backend.infer([prepared])[0], prepared)
            scores.append(tuple(sorted((float(score) for score in boxes.scores), reverse=True)))
        found[backend.model.sha256] = scores
        backend.close()
    return found


def agrees(scores: tuple[float, ...], reference: tuple[float, ...]) -> bool:
    """Whether these are the same boxes; one at the threshold may be on either side of it."""
    shorter = min(len(scores), len(reference))
    rest = (*scores[shorter:], *reference[shorter:])
    return all(abs(a - b) <= SCORE_TOLERANCE for a, b in zip(scores, reference, strict=False)) and all(
        abs(score - DetectorSettings().min_score) <= SCORE_TOLERANCE for score in rest
    )


class Bench:
    """A worker under load, a web server, and a machine with the command."""

    def __init__(self, folder: Path, store: Path, bus: Bus, url: str, server: FileServer) -> None:
        self.heard = Heard()
        self.heard.listen(bus)
        self.server = server
        self.store = store
        self._folder = folder
        self._url = url
        self._settings = Settings(site=SITE, node="desk", bus=BusSettings(url=url))
        self.wrong = 0

    def vigil(self, *arguments: str) -> str:
        """`vigil models …` on another machine."""
        (self._folder / "desk.yaml").write_text(
            f"site: {SITE}\nnode: desk\ndetector: {{models_folder: {self._folder / 'desk'}}}\n"
        )
        root = ["--config", str(self._folder / "desk.yaml"), "--bus", self._url, "--state", str(self._folder / "desk")]
        command = [sys.executable, "-m", "console", *root, "models", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def serve(self, name: str, content: bytes) -> ModelFile:
        """Put a file on the web server."""
        self.server.files[name] = Served(content, tag=f'"{hashlib.sha256(content).hexdigest()[:8]}"')
        stem, _, ending = name.partition(".")
        return ModelFile(
            name=stem,
            sha256=hashlib.sha256(content).hexdigest(),
            size_bytes=len(content),
            url=self.server.url(name),
            kind="tflite" if ending == "tflite" else "onnx",
        )

    def swap(self, what: str, sha256: str, command: Callable[[], object]) -> None:
        """Change to a model, and say what the cameras saw of it."""
        begun_s = time.monotonic()
        command()
        wait_until(lambda: self.heard.uses == sha256, timeout_s=120, what=what)
        wait_until(lambda: self.heard.is_settled, timeout_s=120, what=f"the verdict on {what}")
        assert self.heard.status is not None
        assert self.heard.uses == sha256, self.heard.status.model_error
        scores = self.heard.scores
        first = next(place for place, one in enumerate(scores) if one.at_s > begun_s and one.sha256 == sha256)
        swapped_s = scores[first].at_s
        print(f"  {what}: in use after {swapped_s - begun_s:.1f} s, on trial {time.monotonic() - swapped_s:.1f} s")
        print(f"    before it was asked for   {self.seen(begun_s - 6, begun_s)}")
        print(f"    fetching and warming up   {self.seen(begun_s, swapped_s - AROUND_S)}")
        print(f"    a second around the swap  {self.seen(swapped_s - AROUND_S, swapped_s + AROUND_S)}", flush=True)

    def seen(self, start_s: float, end_s: float) -> str:
        """What a camera saw in a time: how late its scores were, and the longest without any."""
        scores = [one for one in list(self.heard.scores) if start_s <= one.at_s <= end_s]
        if len(scores) < CAMERAS * 2:
            return "too short to tell"
        gaps = [
            after.at_s - before.at_s
            for camera in range(CAMERAS)
            for before, after in _pairs([one for one in scores if one.seq % CAMERAS == camera])
        ]
        ages = sorted(one.age_ms for one in scores)
        return (
            f"age p50 {statistics.median(ages):4.0f} ms, most {ages[-1]:4.0f} ms; longest without scores "
            f"{max(gaps) * 1000:4.0f} ms of {CAMERAS / FPS * 1000:.0f}"
        )

    def fail(self, what: str, model: ModelFile, reason: str, *, meanwhile: Callable[[], object] | None = None) -> None:
        """Ask for a model that is no good; the one before must go on, and the reason be told."""
        before, count = self.heard.uses, len(self.heard.scores)
        with SiteModels(self._settings) as site:
            version = site.say("default", model, previous=None).version
        if meanwhile is not None:
            meanwhile()
        begun_s = time.monotonic()
        with contextlib.suppress(AssertionError):
            wait_until(lambda: self._told(version), timeout_s=30)
        took_s, said = time.monotonic() - begun_s, self.heard.status.model_error if self.heard.status else ""
        goes_on = self.heard.uses == before and len(self.heard.scores) > count
        is_listed = reason in self.vigil("list")
        good = goes_on and is_listed and reason in said
        self.wrong += not good
        print(f"  {'ok ' if good else 'BAD'} {what} ({took_s:.1f} s): {said}", flush=True)

    def _told(self, version: int) -> bool:
        status = self.heard.status
        return status is not None and status.model_version == version and bool(status.model_error)


def _pairs(scores: Sequence[Score]) -> Iterator[tuple[Score, Score]]:
    return itertools.pairwise(scores)


def crash_warm_up() -> None:
    """End the process in which a model is warmed up as a fault in native code does."""

    def found() -> list[psutil.Process]:
        children = psutil.Process().children(recursive=True)
        return [one for one in children if "detector.warmup" in " ".join(_command_line(one))]

    wait_until(found, timeout_s=30, what="a warm-up")
    for process in found():
        process.send_signal(11)


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@contextlib.contextmanager
def small_disk(mount: Path) -> Iterator[bool]:
    """A file system in memory, where this user may make one; whether there is."""
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_MB}m", "tmpfs", str(mount)]
    mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(mount)], check=True)


def meet_bad_models(bench: Bench, *, is_small: bool) -> None:
    """Everything that can be wrong with a model, one after the other."""
    good = (DATA / "yolox_nano_float16.tflite").read_bytes()
    variants = (bench.serve(f"variant_{number}.tflite", good + bytes([number])) for number in range(1, 10))
    damaged = next(variants)
    bench.server.files[f"{damaged.name}.tflite"].content = good[:-9] + bytes(10)
    bench.fail("damaged on the way", damaged, "its SHA-256 is")
    bench.fail("wrong hash", msgspec.structs.replace(next(variants), sha256="ab" * 32), "and not abababab")
    bench.fail("wrong size", msgspec.structs.replace(next(variants), size_bytes=1000), "and not the 1000")
    bench.fail("no model", bench.serve("garbage.onnx", b"no weights" * 1000), "is not a model that ONNX Runtime")
    bench.fail("crash in the warm-up", next(variants), "crashed (SIGSEGV)", meanwhile=crash_warm_up)
    absent = msgspec.structs.replace(next(variants), url="file:///nowhere/model.tflite")
    bench.fail("a file that is not there", absent, "there is no /nowhere/model.tflite on this machine")
    if is_small:
        free = psutil.disk_usage(str(bench.store)).free - SPARE_MB * 1_000_000
        (bench.store / "ballast").write_bytes(bytes(max(0, free)))
        bench.fail("a full disk", next(variants), "is full")
        (bench.store / "ballast").unlink()


def run(folder: Path) -> int:
    """Everything; returns the exit status."""
    known = references()
    differ = sum(not agrees(*pair) for pair in zip(*known.values(), strict=True))
    print(f"the two models differ in {differ} of {PICTURES} pictures")
    store = folder / "models"
    with (
        small_disk(store) as is_small,
        FileServer() as server,
    ):
        (store / "yolox_nano.onnx").write_bytes((DATA / "yolox_nano.onnx").read_bytes())
        with running_site(folder, SITE_FILE.format(folder=store), ("detector",)) as bus:
            url = bus_url(folder)
            bench = Bench(folder, store, bus, url, server)
            feeder = Feeder(url)
            wait_until(lambda: bench.heard.owned == CAMERAS, timeout_s=30, what="the worker's cameras")
            with feeder:
                time.sleep(BEFORE_S)
                change_and_go_back(bench)
                meet_bad_models(bench, is_small=is_small)
                return judge(bench, feeder.stop(), known, full_disk=is_small)


def change_and_go_back(bench: Bench) -> None:
    """Two changes of model that go well, though the server of the first dies in the middle."""
    first, tflite = bench.heard.uses, (DATA / "yolox_nano_float16.tflite").read_bytes()
    assert first == file_sha256(DATA / "yolox_nano.onnx")
    served = (
        bench.serve("nano.onnx", (DATA / "yolox_nano.onnx").read_bytes()),
        bench.serve("nano_tflite.tflite", tflite),
    )
    for model in served:
        bench.vigil("pull", model.url, "--sha256", model.sha256)
    bench.vigil("use", "nano")
    second = served[1]
    bench.server.files["nano_tflite.tflite"].cut_after = len(tflite) // 2
    asked = len(bench.server.asked)
    bench.swap("to TensorFlow Lite", second.sha256, lambda: bench.vigil("use", "nano_tflite"))
    resumed = [headers["Range"] for headers in bench.server.asked[asked:] if "Range" in headers]
    print(f"    the download broke off once and went on at: {', '.join(resumed) or 'nowhere'}")
    bench.wrong += not resumed
    bench.swap("back", first, lambda: bench.vigil("rollback"))


def bus_url(folder: Path) -> str:
    """Where the site's Mosquitto listens."""
    line = (folder / "mosquitto" / "mosquitto.conf").read_text().splitlines()[0]
    return f"mqtt://127.0.0.1:{line.split()[1]}"


def judge(bench: Bench, published: int, known: dict[str, list[tuple[float, ...]]], *, full_disk: bool) -> int:
    """Count what is lost and mixed; returns the exit status."""
    heard, ended_at = bench.heard, datetime.now(UTC)
    # The worker's own counts come with its next report but one: that one was made after the last frame.
    wait_until(lambda: heard.health and heard.health.at > ended_at, timeout_s=30, what="the worker's report")
    assert heard.health is not None
    drops = {name: count for name, count in heard.health.drops.items() if name.startswith("frames_") and count}
    scored = {one.seq for one in heard.scores}
    lost = published - len(scored) - drops.get("frames_replaced", 0) - drops.get("frames_late", 0)
    mixed = sum(not agrees(one.scores, known[one.sha256][one.seq % PICTURES]) for one in heard.scores)
    repeated = len(heard.scores) - len(scored)
    print(f"published {published} frames, scored {len(scored)} ({repeated} of them twice), dropped {drops or 'none'}")
    print(f"full disk: {'tried' if full_disk else 'left out: no tmpfs without root'}")
    print(f"frames lost beyond latest-wins {lost} (target 0), messages with mixed models {mixed} (target 0)")
    print(f"failures that did not end as they should {bench.wrong} (target 0)")
    return int(lost != 0 or mixed > 0 or bench.wrong > 0)


def main() -> int:
    """Run in a folder of its own."""
    configure_logging("error", "text", stream=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        return run(Path(folder))


if __name__ == "__main__":
    raise SystemExit(main())
