"""What benchmarks of the way to Kafka share: senders with outboxes, a bridge that is always started again, an audit."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from broker import connect
from broker.messages import Escalation, Message, MotionEvent
from broker.outbox import split_event_id
from broker.topics import CAMERA_ESCALATION, CAMERA_MOTION
from config.errors import BacklogFullError, TransientError
from config.outside import KafkaTopics
from config.settings import BusSettings, KafkaSettings, OutboxSettings, Settings

__all__ = ["SITE", "BridgeProcess", "Senders", "audit", "kafka_settings", "opened_senders", "write_site"]

SITE = "bench"
CAMERAS = ("yard", "door", "hall", "lane")
_AGAIN_S = 0.3
_TEXT = "x" * 250
"""Fills an escalation to some 500 bytes of JSON."""


def kafka_settings(bootstrap: str, mode: str, suffix: str) -> KafkaSettings:
    """A Kafka with topics of its own."""
    events = f"events-{suffix}"
    topics = KafkaTopics(
        escalation=f"escalations-{suffix}",
        motion=events,
        track=events,
        clip=events,
        dead_letters=f"dead-{suffix}",
        ledger=f"ledger-{suffix}",
    )
    return KafkaSettings.model_validate({"bootstrap": bootstrap, "mode": mode, "topics": topics})


def write_site(folder: Path, bootstrap: str, mode: str, suffix: str) -> None:
    """A site file with these settings, in `folder`."""
    kafka = kafka_settings(bootstrap, mode, suffix).model_dump_json(exclude_unset=True)
    (folder / "vigil.yaml").write_text(f"site: {SITE}\nnode: bench\nbridge: {{kafka: {kafka}}}\n")


class BridgeProcess:
    """`vigil bridge` as a service runs it: whenever it ends, it is started again.

    Args:
        folder: has the site file; gets the state and the log.
        url: of the broker.
    """

    def __init__(self, folder: Path, url: str) -> None:
        root = [sys.executable, "-m", "console", "--config", str(folder / "vigil.yaml"), "--bus", url]
        self._command = [*root, "--state", str(folder / "state"), "--log-format", "json", "bridge"]
        self.log = folder / "bridge.log"
        self._stop = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper = threading.Thread(target=self._keep, daemon=True)

    def __enter__(self) -> Self:
        """Start it."""
        self._keeper.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        """End it for good, in its own way."""
        self._stop.set()
        with contextlib.suppress(ProcessLookupError):
            self._signal(signal.SIGTERM)
        self._keeper.join(30.0)

    def _keep(self) -> None:
        while not self._stop.is_set():
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
                )
            if self._stop.is_set():
                self._process.terminate()
            self._process.wait()
            self._stop.wait(_AGAIN_S)

    @property
    def pid(self) -> int | None:
        """Of the one that runs now."""
        return None if self._process is None else self._process.pid

    def kill(self) -> None:
        """SIGKILL; a successor follows."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def has_said(self, event: str) -> bool:
        """Whether its log has this event."""
        return self.log.exists() and f'"event": "{event}"'.encode() in self.log.read_bytes().replace(b'":"', b'": "')


class Senders:
    """A camera node and a worker with their outboxes.

    Args:
        folder: for the state.
        url: of the broker.
        rows_max: messages that an outbox holds.
        window: messages that may be on their way.
    """

    def __init__(self, folder: Path, url: str, *, rows_max: int = 200_000, window: int = 500) -> None:
        outbox = OutboxSettings(resend_after_s=2.0, window=window, rows_max=rows_max)
        self._last: dict[str, int] = {}
        settings = Settings(
            site=SITE, node="bench", state_dir=folder / "state", bus=BusSettings(url=url, outbox=outbox)
        )
        self.edge, self.detector = (connect(settings, role, with_outbox=True) for role in ("edge", "detector"))
        self.raised = 0
        self.refused = 0

    def start(self) -> None:
        """Connect."""
        for bus in (self.edge, self.detector):
            bus.start()
            assert bus.wait_connected(30)

    def close(self) -> None:
        """Leave what is not confirmed in the outboxes."""
        for bus in (self.edge, self.detector):
            bus.close(drain_s=0)

    @property
    def waiting(self) -> int:
        """Messages without a receipt."""
        return sum(bus.statistics().outbox_rows for bus in (self.edge, self.detector))

    def last_sequences(self) -> dict[str, int]:
        """The last sequence that was raised, by line of the contract."""
        return dict(self._last)

    def load(self, per_s: float, stop: threading.Event) -> None:
        """Raise so many a second, every other one an escalation, until `stop`."""
        begin_s = time.monotonic()
        begun = self.raised
        while not stop.is_set():
            due = begun + int((time.monotonic() - begin_s) * per_s)
            while self.raised < due and not stop.is_set():
                self._raise(self.raised)
            stop.wait(0.01)

    def _raise(self, number: int) -> None:
        camera = CAMERAS[(number // 2) % len(CAMERAS)]
        at = datetime.now(UTC)
        try:
            if number % 2:
                place = CAMERA_MOTION.at(SITE, camera=camera)
                identity = self.edge.publish_event(place, lambda id_: _motion(id_, camera, at))
            else:
                place = CAMERA_ESCALATION.at(SITE, camera=camera, origin=self.detector.origin)
                identity = self.detector.publish_event(place, lambda id_: _escalation(id_, camera, at))
            self._last[place.spec.name] = split_event_id(identity)[2]
        except (BacklogFullError, TransientError):
            self.refused += 1
        self.raised += 1


def _motion(event_id: str, camera: str, at: datetime) -> Message:
    return MotionEvent(id=event_id, motion_id="bench", camera=camera, type="update", started_at=at, at=at)


def _escalation(event_id: str, camera: str, at: datetime) -> Message:
    return Escalation(
        id=event_id, camera=camera, rule="presence", kind="presence", severity="warning", summary=_TEXT,
        label="person", score=0.9, captured_at=at, raised_at=at, frame_seq=7, worker="bench.detector",
    )  # fmt: skip


@contextlib.contextmanager
def opened_senders(folder: Path, url: str, *, rows_max: int = 200_000, window: int = 500) -> Iterator[Senders]:
    """Senders that are connected."""
    senders = Senders(folder, url, rows_max=rows_max, window=window)
    senders.start()
    try:
        yield senders
    finally:
        senders.close()


def audit(folder: Path) -> tuple[int, dict[str, Any]]:
    """What `vigil audit` says, run as a person runs it: its exit status and its JSON."""
    command = [
        sys.executable,
        "-m",
        "console",
        "--config",
        str(folder / "vigil.yaml"),
        "--state",
        str(folder / "state"),
    ]
    done = subprocess.run([*command, "audit", "--json"], capture_output=True, text=True, check=False, timeout=300)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)
