"""How long from the capture to the scores, from the scores to the sink, and how much of it is the model.

Four cameras take turns on a real Mosquitto; detector and bridge (journal) are processes. Every frame with somebody who
was seen before raises an escalation (no waiting, no cooldown), so that each one travels all the way to the journal and
its receipt.

- capture to score: from before the JPEG is encoded until a subscriber has the detections.
- beyond inference: the same without the time in the model.
- score to sink: from the detections' `published_at` until the journal has the escalation on disk.

    python bench/latency.py [--frames N] [--fps F] [--model PATH]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np

from bench._site import DATA, announce_cameras, publish_frame, read_video, running_site, wait_owned
from broker import Bus, Delivery
from broker.messages import Detections, Escalation, Receipt, Receipts
from broker.topics import CAMERA_DETECTIONS, CAMERA_ESCALATION, RECEIPT
from tests.support.waiting import wait_until

CAMERAS = ("north", "east", "south", "west")
BEYOND_P50_MS, BEYOND_P99_MS, SINK_P50_MS = 15.0, 50.0, 10.0
WARM_UP = 20
SCORE_MIN = 0.55
RULE = f"{{for_s: 0, cooldown_s: 0, min_score: {SCORE_MIN}}}"
SITE_FILE = f"detector: {{rules: {{presence: {RULE}}}, tracking: {{confirm_s: 0}}}}\n"
SETTLE_S = 2.0
"""For which nothing new must come at the end."""
Key = tuple[str, int]


@dataclass(slots=True)
class Heard:
    """Everything that came back, by camera and number of the frame."""

    scores: dict[Key, tuple[Detections, datetime]] = field(default_factory=dict)
    escalations: dict[str, Key] = field(default_factory=dict)
    receipts: dict[str, Receipt] = field(default_factory=dict)

    def on_message(self, delivery: Delivery) -> None:
        """Note one message; the first of its kind counts."""
        match delivery.content:
            case Detections() as scores:
                self.scores.setdefault((scores.camera, scores.frame_seq), (scores, delivery.received_at))
            case Escalation() as escalation:
                self.escalations.setdefault(escalation.id, (escalation.camera, escalation.frame_seq))
            case Receipts() as some:
                for receipt in some.receipts:
                    self.receipts.setdefault(receipt.event_id, receipt)

    def is_complete(self) -> bool:
        """Whether there are escalations, and each has its receipt."""
        return bool(self.escalations) and self.escalations.keys() <= self.receipts.keys()


def stream(bus: Bus, heard: Heard, frames: int, fps: float) -> None:
    """Publish frames at an even pace, the cameras in turn, and wait until everything has come back."""
    pictures = read_video(DATA / "pedestrians.avi")
    due_s = time.monotonic()
    for seq in range(frames):
        time.sleep(max(0.0, due_s - time.monotonic()))
        publish_frame(bus, CAMERAS[seq % len(CAMERAS)], seq, pictures[seq % len(pictures)])
        # As a live camera does: what comes late is not caught up with.
        due_s = max(due_s, time.monotonic() - 0.5 / fps) + 1 / fps
    wait_until(lambda: any(seq == frames - 1 for _, seq in list(heard.scores)), timeout_s=30, what="the last scores")
    time.sleep(SETTLE_S)
    wait_until(heard.is_complete, timeout_s=30, what="the last receipt")


def milliseconds(start: datetime, end: datetime) -> float:
    """From one moment to the other."""
    return (end - start).total_seconds() * 1000


def show(name: str, values: list[float], targets: str = "") -> tuple[float, float]:
    """Print p50 and p99 of a series in ms, and return them."""
    p50, p99 = np.percentile(values, [50, 99])
    print(f"{name:<18} p50 {p50:6.1f} ms  p99 {p99:6.1f} ms  ({len(values)} of them){targets}")
    return float(p50), float(p99)


def judge(heard: Heard, frames: int) -> bool:
    """Print every series; True when the targets are met."""
    scored = [(s, at) for s, at in heard.scores.values() if s.frame_seq >= WARM_UP]
    capture_to_score = [milliseconds(scores.captured_at, at) for scores, at in scored]
    inference = [scores.infer_ms for scores, _ in scored]
    beyond = [whole - model for whole, model in zip(capture_to_score, inference, strict=True)]
    to_sink = [
        milliseconds(heard.scores[key][0].published_at, heard.receipts[event_id].stored_at)
        for event_id, key in heard.escalations.items()
        if key[1] >= WARM_UP and key in heard.scores
    ]
    print(f"{frames} frames published, {len(heard.scores)} scored, {len(heard.escalations)} escalations; first "
          f"{WARM_UP} frames left out")  # fmt: skip
    show("capture to score", capture_to_score)
    show("inference", inference)
    sink_p50, _ = show("score to sink", to_sink, f"  target: p50 <= {SINK_P50_MS:.0f}")
    p50, p99 = show("beyond inference", beyond, f"  target: p50 <= {BEYOND_P50_MS:.0f}, p99 <= {BEYOND_P99_MS:.0f}")
    return p50 <= BEYOND_P50_MS and p99 <= BEYOND_P99_MS and sink_p50 <= SINK_P50_MS


def main() -> int:
    """Run, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--fps", type=float, default=10.0, help="of all cameras together; default 10")
    parser.add_argument("--model", type=Path, default=DATA / "yolox_nano.onnx")
    options = parser.parse_args()
    heard = Heard()
    roles = (("detector", "--model", str(options.model)), ("bridge",))
    with tempfile.TemporaryDirectory() as folder, running_site(Path(folder), SITE_FILE, *roles) as bus:
        for spec in (CAMERA_DETECTIONS, CAMERA_ESCALATION, RECEIPT):
            bus.subscribe(spec, heard.on_message)
        announce_cameras(bus, CAMERAS, options.fps / len(CAMERAS))
        wait_owned(bus, CAMERAS)
        stream(bus, heard, options.frames, options.fps)
    return 0 if judge(heard, options.frames) else 1


if __name__ == "__main__":
    raise SystemExit(main())
