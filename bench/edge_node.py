"""The camera node: processor, memory, bytes and start, with 720p H.264 cameras at 10 fps over RTSP.

`vigil mock` is the cameras: people who walk (`pedestrians.avi`, made larger), and a picture in which nothing moves. A
real `vigil edge` watches them on a real Mosquitto, in each mode; beside it, ffmpeg decodes the same stream into a pipe
of small brightness pictures, and the same motion code looks at them. Prints milliseconds of processor time a picture
of the source, everything included, and what is sent. Targets: at most 120 MB resident with one camera, and 15 MB more
with each further one.

    python bench/edge_node.py [--seconds 10]
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import psutil

from bench._site import DATA, SITE
from broker import Delivery, Frame, listen
from broker.topics import everything
from config import SystemClock
from config.settings import BusSettings, Settings
from edge.motion.detector import MotionDetector
from tests.support.camera import MockCamera
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import wait_until

FPS = 10
WARM_S = 4.0
ONE_MAX_MB, FURTHER_MAX_MB = 120.0, 15.0
CAMERAS = (1, 4, 8)
LUMA_PX = (177, 100)
_H264 = (
    "x264enc bitrate=1800 key-int-max=20 bframes=0 threads=1 sliced-threads=false speed-preset=veryfast "
    "! video/x-h264,profile=main ! h264parse ! mp4mux"
)
_LARGE = f"videoconvert ! videoscale ! video/x-raw,format=I420,width=1280,height=720,framerate={FPS}/1"
_CONFIGS: Mapping[str, Mapping[str, str]] = {
    "monitor": {},
    "eco": {"mode": "eco"},
    "recording": {"recording": "{mode: continuous}"},
}


def make_films(folder: Path) -> dict[str, Path]:
    """A film in which people walk, and one in which nothing moves."""
    from edge.gst.elements import Gst

    films = {"busy": folder / "busy.mp4", "idle": folder / "idle.mp4"}
    decoded = f"filesrc location={DATA}/pedestrians.avi ! decodebin"
    for name, made in (("busy", "identity eos-after=300"), ("idle", "imagefreeze num-buffers=200")):
        pipeline = Gst.parse_launch(f"{decoded} ! videoconvert ! {made} ! {_LARGE} ! {_H264} ! filesink name=file")
        pipeline.get_by_name("file").set_property("location", str(films[name]))
        pipeline.set_state(Gst.State.PLAYING)
        ended = pipeline.get_bus().timed_pop_filtered(120 * Gst.SECOND, Gst.MessageType.EOS | Gst.MessageType.ERROR)
        pipeline.set_state(Gst.State.NULL)
        assert ended is not None
        assert ended.type == Gst.MessageType.EOS, ended.parse_error()
    return films


@dataclass
class Sent:
    """What the cameras of a node said on the bus."""

    size_bytes: int = 0
    frame_at_s: list[float] = field(default_factory=list)

    def note(self, delivery: Delivery) -> None:
        """Count one message."""
        if delivery.topic.camera and not delivery.retained:
            content = delivery.content
            self.size_bytes += len(content.jpeg if isinstance(content, Frame) else msgspec.json.encode(content))
            if isinstance(content, Frame):
                self.frame_at_s.append(time.monotonic())


@dataclass(frozen=True, slots=True)
class Figures:
    """One run of a node.

    Attributes:
        cpu_ms: a picture of the source.
        resident_mb: at the end.
        hour_mb: sent in a camera's hour.
        first_s: from the start of the process to the first frame on the bus.
    """

    cpu_ms: float
    resident_mb: float
    hour_mb: float
    first_s: float


def cpu_s(process: psutil.Process) -> float:
    """Processor time of a process and of its children."""
    everyone = [process, *process.children(recursive=True)]
    return sum(sum(one.cpu_times()[:2]) for one in everyone)


@contextlib.contextmanager
def running(command: Sequence[str], log: Path) -> Iterator[psutil.Process]:
    """A process, ended at the end."""
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT)
    try:
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(20)


@dataclass(frozen=True, slots=True)
class Place:
    """Where it is measured: a folder, a broker, and for how long."""

    folder: Path
    bus_url: str
    seconds: float


def run_node(place: Place, camera_url: str, config: str, count: int) -> Figures:
    """A node with so many cameras."""
    folder, bus_url, seconds = place.folder, place.bus_url, place.seconds
    options = "".join(f", {key}: {value}" for key, value in _CONFIGS[config].items())
    cameras = "".join(f'  c{n}: {{source: "{camera_url}"{options}}}\n' for n in range(count))
    (folder / "vigil.yaml").write_text(f"site: {SITE}\nnode: bench\ncameras:\n{cameras}")
    sent = Sent()
    listener = listen(Settings(site=SITE, node="bench", bus=BusSettings(url=bus_url)), "console")
    listener.subscribe_filter(everything(SITE), sent.note)
    listener.start()
    assert listener.wait_connected(10)
    vigil = [sys.executable, "-P", "-m", "console", "--config", str(folder / "vigil.yaml"), "--bus", bus_url]
    started_s = time.monotonic()
    with running([*vigil, "--state", str(folder / "state"), "edge"], folder / "edge.log") as process:
        wait_until(lambda: len(sent.frame_at_s) >= count, what=f"frames; see {folder}/edge.log")
        first_s = sent.frame_at_s[0] - started_s
        time.sleep(WARM_S)
        before_s, sent.size_bytes, begun_s = cpu_s(process), 0, time.monotonic()
        time.sleep(seconds)
        lasted_s = time.monotonic() - begun_s
        used_s, resident = cpu_s(process) - before_s, process.memory_info().rss
        hour_mb = sent.size_bytes / count * 3600 / lasted_s / 1e6
    listener.close(0)
    return Figures(used_s * 1000 / (lasted_s * FPS * count), resident / 2**20, hour_mb, first_s)


def run_pipe(place: Place, camera_url: str) -> float:
    """Milliseconds a picture of ffmpeg and the motion code behind it."""
    with running([sys.executable, "-P", __file__, "--pipe", camera_url], place.folder / "pipe.log") as process:
        time.sleep(WARM_S)
        before_s, begun_s = cpu_s(process), time.monotonic()
        time.sleep(place.seconds)
        used_s, lasted_s = cpu_s(process) - before_s, time.monotonic() - begun_s
        for child in process.children():
            child.terminate()
    return used_s * 1000 / (lasted_s * FPS)


def be_pipe(camera_url: str) -> int:
    """What others do: ffmpeg makes small pictures, and the motion code reads them."""
    width, height = LUMA_PX
    ffmpeg = ["ffmpeg", "-loglevel", "error", "-threads", "1", "-rtsp_transport", "tcp", "-i", camera_url]
    small = ["-vf", f"scale={width}:{height}:flags=fast_bilinear", "-pix_fmt", "gray", "-f", "rawvideo", "pipe:"]
    detector, clock = MotionDetector(), SystemClock()
    with subprocess.Popen([*ffmpeg, *small], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while len(luma := process.stdout.read(width * height)) == width * height:
            detector.step(np.frombuffer(luma, np.uint8).reshape(height, width), clock.monotonic_s())
    return 0


def show(name: str, figures: Figures) -> None:
    """One line of the table."""
    print(
        f"{name:22} {figures.cpu_ms:6.2f} ms {figures.resident_mb:7.1f} MB {figures.hour_mb:8.1f} MB/h"
        f"   first frame after {figures.first_s:.1f} s",
        flush=True,
    )


def measure(place: Place, cameras: Mapping[str, str]) -> dict[int, float]:
    """Print the table; megabytes by number of cameras."""
    print("a camera's             CPU/picture  resident       sent")
    for config in _CONFIGS:
        for scene, url in cameras.items():
            show(f"{config}, {scene}", run_node(place, url, config, 1))
    for scene, url in cameras.items():
        print(f"{f'ffmpeg pipe, {scene}':22} {run_pipe(place, url):6.2f} ms   (no JPEG, no bus)", flush=True)
    resident_mb = {}
    for count in CAMERAS:
        figures = run_node(place, cameras["busy"], "monitor", count)
        show(f"{count} busy cameras", figures)
        resident_mb[count] = figures.resident_mb
    return resident_mb


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--pipe", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.pipe is not None:
        return be_pipe(arguments.pipe)
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        cameras = {}
        for scene, film in make_films(folder).items():
            (folder / scene).mkdir()
            cameras[scene] = stack.enter_context(MockCamera(folder / scene, film)).rtsp_url
        (folder / "mosquitto").mkdir()
        server = stack.enter_context(Mosquitto(folder / "mosquitto"))
        resident_mb = measure(Place(folder, server.url, arguments.seconds), cameras)
    further_mb = (resident_mb[CAMERAS[-1]] - resident_mb[1]) / (CAMERAS[-1] - 1)
    print(f"one camera: {resident_mb[1]:.0f} MB resident (target: <= {ONE_MAX_MB:g})")
    print(f"each further one: {further_mb:.1f} MB (target: <= {FURTHER_MAX_MB:g})")
    return 0 if resident_mb[1] <= ONE_MAX_MB and further_mb <= FURTHER_MAX_MB else 1


if __name__ == "__main__":
    sys.exit(main())
