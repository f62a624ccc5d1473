"""Cameras in a process of their own: the street's video as JPEGs, at the pace that each line of its input asks for.

    python -m bench._feeder URL CAMERAS < lines of "SECONDS FPS"

FPS is of all cameras together; they take turns at an even pace. Each line is answered by one: how many frames were
published, and the processor's seconds for it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import cv2

from bench._site import DATA, JPEG_QUALITY, SITE, announce_cameras, read_video
from broker import Bus, encode_frame, listen
from broker.messages import FrameMeta
from broker.topics import CAMERA_FRAME
from config import configure_logging
from config.settings import BusSettings, Settings

__all__: list[str] = []

_PICTURES = 100
"""Of the video: ten seconds, in turn."""
_ANNOUNCED_FPS = 1.0
"""What each camera says that it sends, so that one worker takes all of them, however many frames come."""


def feed(bus: Bus, cameras: Sequence[str], jpegs: Sequence[bytes], *, first: int, seconds: float, fps: float) -> int:
    """Publish frames at an even pace; returns how many."""
    ends_s = time.monotonic() + seconds
    due_s, seq = time.monotonic(), first
    while due_s < ends_s:
        time.sleep(max(0.0, due_s - time.monotonic()))
        camera = cameras[seq % len(cameras)]
        meta = FrameMeta(
            camera=camera, node="bench", seq=seq, captured_at=datetime.now(UTC), width=480, height=360, moving=True
        )
        bus.publish(CAMERA_FRAME.at(SITE, camera=camera), encode_frame(jpegs[seq % len(jpegs)], meta))
        seq += 1
        # As a live camera does: what comes late is not caught up with.
        due_s = max(due_s, time.monotonic() - 0.5 / fps) + 1 / fps
    return seq - first


def main() -> int:
    """Connect, announce the cameras, and do what the lines say."""
    configure_logging("warning", "text", stream=sys.stderr)
    url, count = sys.argv[1], int(sys.argv[2])
    cameras = [f"camera-{number}" for number in range(1, count + 1)]
    encoded = [
        cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
        for picture in read_video(DATA / "pedestrians.avi")[:_PICTURES]
    ]
    bus = listen(Settings(site=SITE, node="bench", bus=BusSettings(url=url)), "edge")
    bus.start()
    assert bus.wait_connected(10)
    announce_cameras(bus, cameras, _ANNOUNCED_FPS)
    sent = 0
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        seconds, fps = map(float, line.split())
        before_s = time.process_time()
        done = feed(bus, cameras, encoded, first=sent, seconds=seconds, fps=fps)
        sent += done
        sys.stdout.write(f"{done} {time.process_time() - before_s:.3f}\n")
        sys.stdout.flush()
    bus.close(0)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
