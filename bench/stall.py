"""A reader that stalls: does the sender's memory stay where it was, and is the reader up to date afterwards?

Eight cameras with 30 frames of 50 kB a second each (12 MB/s) on a real Mosquitto, and a reader in a process of its own
that stops for half a minute: frozen (SIGSTOP, SIGCONT), or with a handler that does not return. Mosquitto keeps
`max_queued_messages` frames for a reader that does not read, and a site sets that high for the sake of its events.
Prints what was dropped, where and why. Targets: the sender's memory
stays within 40 MB of where it was, no frame that the reader's handler is given afterwards is more than 2 s old, and
nine of ten frames reach it in the last seconds.

    python bench/stall.py [--stall 30s] [--mode frozen|handler|both]
"""

from __future__ import annotations

import argparse
import array
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import cv2
import msgspec
import numpy as np
import psutil

from bench._site import JPEG_QUALITY, SITE
from broker import Bus, Delivery, Frame, encode_frame, listen
from broker.messages import FrameMeta
from broker.topics import CAMERA_FRAME
from config.durations import parse_duration
from config.settings import BusSettings, Settings
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import wait_until

CAMERAS, FPS, FRAME_BYTES = 8, 30, 50_000
WARM_UP_S, AFTER_S, LAST_S = 5.0, 15.0, 5.0
GROWTH_MAX_MB, AGE_MAX_S, ARRIVE_MIN = 40.0, 2.0, 0.9
MB = 1e6


class Sender:
    """The cameras: frames at a steady rate, from a thread of this process."""

    def __init__(self, url: str) -> None:
        self.bus = join(url)
        self.sent = 0
        self._stop = threading.Event()
        self._jpeg, self._side_px = noise(FRAME_BYTES)
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        """Begin."""
        self.bus.start()
        assert self.bus.wait_connected(10)
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        """End."""
        self._stop.set()
        self._thread.join(10)
        self.bus.close(0)

    def _run(self) -> None:
        started_s = time.monotonic()
        seq = 0
        while not self._stop.wait(max(0.0, started_s + seq / FPS - time.monotonic())):
            for camera in range(CAMERAS):
                self._publish(f"camera-{camera}", seq)
            seq += 1

    def _publish(self, camera: str, seq: int) -> None:
        meta = FrameMeta(
            camera=camera,
            node="bench",
            seq=seq,
            captured_at=datetime.now(UTC),
            width=self._side_px,
            height=self._side_px,
        )
        self.bus.publish(CAMERA_FRAME.at(SITE, camera=camera), encode_frame(self._jpeg, meta))
        self.sent += 1


def noise(size_bytes: int) -> tuple[bytes, int]:
    """A JPEG of at least so many bytes, and its side in pixels."""
    rng = np.random.default_rng(1)
    for side_px in range(64, 1024, 4):
        picture = rng.integers(0, 256, (side_px, side_px, 3), np.uint8)
        done, jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        if done and len(jpeg) >= size_bytes:
            return jpeg.tobytes(), side_px
    raise AssertionError(f"no picture of {size_bytes} bytes")


def site_broker(folder: str) -> Mosquitto:
    """A Mosquitto with a site's limits."""
    return Mosquitto(Path(folder), settings=["max_queued_messages 1000000"])


def join(url: str) -> Bus:
    """A bus of somebody without an outbox."""
    return listen(Settings(site=SITE, node="bench", bus=BusSettings(url=url)), "stall")


@dataclass(slots=True)
class Heard:
    """What the reader's handler was given: when, and how old it was; and the reader's own figures."""

    at_s: array.array[float]
    age_s: array.array[float]
    figures: dict[str, int]


def read(url: str, file: Path) -> None:
    """Be the reader, until SIGTERM; SIGUSR1 makes the handler wait for a second signal of the kind."""
    at_s, age_s = array.array("d"), array.array("d")
    busy, stop = threading.Event(), threading.Event()
    free = threading.Event()

    def on_frame(delivery: Delivery) -> None:
        frame = delivery.content
        assert isinstance(frame, Frame)
        if busy.is_set():
            busy.clear()
            free.wait()
        at_s.append(time.monotonic())
        age_s.append((datetime.now(UTC) - frame.meta.captured_at).total_seconds())

    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGUSR1, lambda *_: busy.set())
    signal.signal(signal.SIGUSR2, lambda *_: free.set())
    bus = join(url)
    bus.subscribe(CAMERA_FRAME, on_frame)
    bus.start()
    while not stop.wait(0.1):
        pass
    numbers = bus.statistics()
    figures = {
        "given to the handler": len(at_s),
        "dropped as stale": numbers.frames_stale,
        "connections": numbers.link.connections,
        **{f"connections {cause}": count for cause, count in numbers.link.losses.items()},
    }
    bus.close(0)
    file.write_bytes(msgspec.msgpack.encode((at_s.tobytes(), age_s.tobytes(), figures)))


def run(mode: str, stall_s: float) -> bool:
    """Stall a reader once; prints the figures, returns whether they meet the targets."""
    with tempfile.TemporaryDirectory() as folder, site_broker(folder) as server, Sender(server.url) as sender:
        file = Path(folder) / "heard"
        reader = subprocess.Popen([sys.executable, "-m", "bench.stall", "--reader", server.url, str(file)])
        try:
            wait_until(lambda: sender.sent > WARM_UP_S * FPS * CAMERAS, timeout_s=60, what="a warm start")
            memory = Memory(server.pid)
            halt(reader, mode, go_on=False)
            memory.watch(stall_s)
            halt(reader, mode, go_on=True)
            resumed_s = time.monotonic()
            memory.watch(AFTER_S)
            ended_s = time.monotonic()
        finally:
            reader.terminate()
            reader.wait(30)
        at, age, figures = msgspec.msgpack.decode(file.read_bytes(), type=tuple[bytes, bytes, dict[str, int]])
        heard = Heard(array.array("d", at), array.array("d", age), figures)
        print(f"{mode}: {sender.sent} frames sent, {sender.bus.statistics().frames_dropped} dropped by the sender")
    return judge(mode, memory, heard, resumed_s, ended_s)


def halt(reader: subprocess.Popen[bytes], mode: str, *, go_on: bool) -> None:
    """Stop the reader, or let it go on."""
    frozen = (signal.SIGCONT, signal.SIGUSR2) if go_on else (signal.SIGSTOP, signal.SIGUSR1)
    reader.send_signal(frozen[0] if mode == "frozen" else frozen[1])


class Memory:
    """Resident memory of this process, which sends, and of the broker."""

    def __init__(self, broker_pid: int) -> None:
        self._own, self._broker = psutil.Process(), psutil.Process(broker_pid)
        self.before, self.broker_before = self._own.memory_info().rss, self._broker.memory_info().rss
        self.most, self.broker_most = self.before, self.broker_before

    def watch(self, for_s: float) -> None:
        """Look every 100 ms."""
        until_s = time.monotonic() + for_s
        while time.monotonic() < until_s:
            self.most = max(self.most, self._own.memory_info().rss)
            self.broker_most = max(self.broker_most, self._broker.memory_info().rss)
            time.sleep(0.1)


def judge(mode: str, memory: Memory, heard: Heard, resumed_s: float, ended_s: float) -> bool:
    """Print the figures beside their targets."""
    after = [(at, age) for at, age in zip(heard.at_s, heard.age_s, strict=True) if at >= resumed_s]
    # The frame that was in the handler's hands when it stalled was fresh when it was given.
    after = after[1:] if mode == "handler" else after
    last = [at for at, _ in after if at >= ended_s - LAST_S]
    for name, figure in heard.figures.items():
        print(f"  reader: {figure} {name}")
    print(f"  broker's memory grew by {(memory.broker_most - memory.broker_before) / MB:.0f} MB")
    if not after:
        print("  the reader got nothing any more")
        return False
    oldest_s = max(age for _, age in after)
    growth_mb = (memory.most - memory.before) / MB
    arrived = len(last) / (LAST_S * FPS * CAMERAS)
    print(f"  first frame {after[0][0] - resumed_s:.2f} s after the stall")
    print(f"  {arrived:.0%} of the frames in the last {LAST_S:g} s (target: {ARRIVE_MIN:.0%})")
    print(
        f"{mode}: the sender's memory grew by {growth_mb:.1f} MB (target: at most {GROWTH_MAX_MB:g}), the oldest frame "
        f"afterwards was {oldest_s:.2f} s old (target: at most {AGE_MAX_S:g})"
    )
    return growth_mb <= GROWTH_MAX_MB and oldest_s <= AGE_MAX_S and arrived >= ARRIVE_MIN


def main() -> int:
    """Run, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stall", type=parse_duration, default=30.0, help="how long, such as 30s")
    parser.add_argument("--mode", choices=["frozen", "handler", "both"], default="both")
    parser.add_argument("--reader", nargs=2, metavar=("URL", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.reader:
        read(options.reader[0], Path(options.reader[1]))
        return 0
    modes = ["frozen", "handler"] if options.mode == "both" else [options.mode]
    met = [run(mode, options.stall) for mode in modes]
    return 0 if all(met) else 1


if __name__ == "__main__":
    raise SystemExit(main())
