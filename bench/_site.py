"""What benchmarks of the running mesh share: roles as processes on a real Mosquitto, and a camera that is a video."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from broker import Bus, Delivery, encode_frame, listen
from broker.messages import CameraState, FrameMeta, NodeStatus, WorkerBeat
from broker.topics import CAMERA_FRAME, CAMERA_STATE, NODE_STATUS, NODE_WORKER_BEAT
from config.settings import BusSettings, Settings
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import wait_until

__all__ = [
    "DATA",
    "JPEG_QUALITY",
    "SITE",
    "announce_cameras",
    "publish_frame",
    "read_video",
    "running_role",
    "running_site",
    "wait_owned",
]

DATA = Path(__file__).parents[2] / "shared" / "data"
SITE = "bench"
JPEG_QUALITY = 80


def read_video(path: Path) -> list[NDArray[np.uint8]]:
    """Every picture of a video, uint8 [h, w, 3], blue-green-red."""
    video = cv2.VideoCapture(str(path))
    pictures = []
    while (read := video.read())[0]:
        pictures.append(np.asarray(read[1], np.uint8))
    assert pictures, f"{path} has no picture"
    return pictures


def announce_cameras(bus: Bus, cameras: Sequence[str], demand_fps: float) -> None:
    """Be the node of some cameras: say that they are there, and what each wants of the workers."""
    for camera in cameras:
        state = CameraState(
            camera=camera, state="online", node="bench", at=datetime.now(UTC), fps=demand_fps, demand_fps=demand_fps
        )
        bus.publish(CAMERA_STATE.at(SITE, camera=camera), state)


def wait_owned(bus: Bus, cameras: Sequence[str]) -> None:
    """Wait until a worker says that it has each of these cameras."""
    owned: set[str] = set()

    def on_beat(delivery: Delivery) -> None:
        if isinstance(delivery.content, WorkerBeat):
            owned.update(delivery.content.cameras)

    bus.subscribe(NODE_WORKER_BEAT, on_beat)
    wait_until(lambda: owned >= set(cameras), timeout_s=30, what=f"a worker for {', '.join(cameras)}")
    bus.unsubscribe(NODE_WORKER_BEAT)


def publish_frame(bus: Bus, camera: str, seq: int, picture: NDArray[np.uint8]) -> datetime:
    """Be a camera: encode and publish one picture; returns its capture time, taken before the encoding."""
    captured_at = datetime.now(UTC)
    done, jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert done
    height, width = picture.shape[:2]
    meta = FrameMeta(
        camera=camera, node="bench", seq=seq, captured_at=captured_at, width=width, height=height, moving=True
    )
    bus.publish(CAMERA_FRAME.at(SITE, camera=camera), encode_frame(jpeg.tobytes(), meta))
    return captured_at


@contextlib.contextmanager
def running_site(folder: Path, site_file: str, *roles: Sequence[str]) -> Iterator[Bus]:
    """A Mosquitto, each role as a process of its own that is online, and a connected bus to watch them.

    Args:
        folder: an empty folder for state and logs.
        site_file: the site file's text.
        roles: command lines of roles, such as ``("detector", "--model", PATH)``.
    """
    (folder / "mosquitto").mkdir()
    (folder / "vigil.yaml").write_text(f"site: {SITE}\nnode: bench\n{site_file}")
    with contextlib.ExitStack() as stack:
        # As `vigil broker run --engine mosquitto` sets it: without, a packet may wait 40 ms for a delayed ACK.
        server = stack.enter_context(Mosquitto(folder / "mosquitto", settings=["set_tcp_nodelay true"]))
        bus = listen(Settings(site=SITE, node="bench", bus=BusSettings(url=server.url)), "console")
        stack.callback(bus.close, 0)
        online: set[str] = set()
        bus.subscribe(NODE_STATUS, lambda delivery: _note(delivery.content, online))
        bus.start()
        assert bus.wait_connected(10)
        for role in roles:
            stack.enter_context(running_role(folder, server.url, role))
        names = {role[0] for role in roles}
        wait_until(lambda: names <= online, timeout_s=60, what=f"the birth of {sorted(names)}")
        yield bus


def _note(content: object, online: set[str]) -> None:
    if isinstance(content, NodeStatus) and content.state == "online":
        online.add(content.role)


@contextlib.contextmanager
def running_role(folder: Path, url: str, role: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """One role as a process of its own; `folder` has the site file, and gets its state and its log."""
    vigil = [sys.executable, "-m", "console", "--config", str(folder / "vigil.yaml"), "--bus", url]
    command = [*vigil, "--state", str(folder / "state"), *role]
    with (folder / f"{role[0]}.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)
