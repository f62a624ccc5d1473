"""The model changes under load: no frame is lost for that, and no message has the boxes of another model."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from pathlib import Path

from broker.messages import Detections, ModelRef
from broker.topics import CAMERA_DETECTIONS
from config.settings import DetectorSettings, Settings
from detector.ownership import OwnsAll
from detector.slot import BackendSlot
from detector.worker import Worker
from tests.support.waiting import wait_until
from tests.unit.detector.stand_ins import BrightBackend, frame
from tests.unit.detector.street import SITE, Street

CAMERAS = ("yard", "gate", "door", "hall")
ROUNDS = 60


class Labelled(BrightBackend):
    """A model that calls everything by its own name."""

    def __init__(self, name: str, digit: str) -> None:
        super().__init__(batch_max=3)
        self.model = ModelRef(name=name, sha256=digit * 64)
        self.labels = (name,)


def test_no_frame_is_lost_and_no_message_is_mixed_when_the_model_changes_all_the_time(
    street: Street, tmp_path: Path
) -> None:
    models = (Labelled("cat", "a"), Labelled("dog", "b"))
    slot = BackendSlot(models[0])
    settings = Settings(site=SITE, state_dir=tmp_path, detector=DetectorSettings(rules={}, frame_age_max_s=3600))
    bus = street.worker_bus()
    worker = Worker(bus, slot, settings, OwnsAll())
    worker.start()
    bus.start()
    assert bus.wait_connected(30)
    ended = threading.Event()

    def swap() -> None:
        turn = 0
        while not ended.wait(0.001):
            turn += 1
            slot.swap(models[turn % 2])

    swapper = threading.Thread(target=swap)
    swapper.start()
    sent = 0
    try:
        for number in range(ROUNDS):
            for camera in CAMERAS:
                street.send(frame(number, datetime.now(UTC), camera=camera), camera)
                sent += 1
            wait_until(lambda: worker.figures().queues["frames"] == 0)
        wait_until(lambda: _done(worker) == sent, what="every frame's end")
        wait_until(lambda: len(_scored(street)) == worker.figures().counts["frames_scored"])
    finally:
        ended.set()
        swapper.join(30)
        worker.close()
        bus.close(0)
    scored = _scored(street)
    assert {message.model.name for message in scored} == {"cat", "dog"}
    for message in scored:
        assert [found.label for found in message.detections] == [message.model.name]
    assert worker.figures().drops["frames_failed"] == 0


def _done(worker: Worker) -> int:
    figures = worker.figures()
    return figures.counts["frames_scored"] + figures.drops["frames_replaced"] + figures.drops["frames_late"]


def _scored(street: Street) -> list[Detections]:
    return [heard.content for heard in street.heard[CAMERA_DETECTIONS] if isinstance(heard.content, Detections)]
