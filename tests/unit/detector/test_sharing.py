from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from broker.messages import FoundPeople
from config import ConfigError
from config.settings import DetectorSettings
from detector.backends import Prepared
from detector.decoding import Outputs
from detector.models import open_backend
from detector.sharing import PeopleFinder, SharedBackend
from edge.picture import Picture
from tests.unit.detector.stand_ins import MODEL, BrightBackend, picture


def planes(brightness: int, height: int = 48, width: int = 64) -> Picture:
    chroma = np.full(((height + 1) // 2, (width + 1) // 2), 128, np.uint8)
    return Picture(np.full((height, width), brightness, np.uint8), chroma, chroma.copy())


def test_people_are_found_in_what_a_decoder_gives() -> None:
    find = PeopleFinder(SharedBackend(BrightBackend()))
    (person,) = find(planes(220)).people
    assert person.box == (0.25, 0.0, 0.5, 1.0)
    assert 0.85 < person.score <= 1
    assert find(planes(20)) == FoundPeople(model=MODEL, people=())


@pytest.mark.parametrize(("height", "width"), [(49, 64), (48, 65), (49, 65), (2, 2)])
def test_odd_sizes_are_looked_at_too(height: int, width: int) -> None:
    (person,) = PeopleFinder(SharedBackend(BrightBackend()))(planes(220, height, width)).people
    assert person.box == pytest.approx((0.25, 0.0, 0.5, 1.0), abs=0.3)


def test_the_picture_stays_as_it_is() -> None:
    one = planes(220, 49, 65)
    one.y.flags.writeable = one.u.flags.writeable = one.v.flags.writeable = False
    assert PeopleFinder(SharedBackend(BrightBackend()))(one).people


def test_a_real_street_in_colour_has_the_same_people_either_way(shared_data: Path) -> None:
    video = cv2.VideoCapture(str(shared_data / "pedestrians.avi"))
    video.set(cv2.CAP_PROP_POS_FRAMES, 99)
    read, street = video.read()
    assert read
    backend = SharedBackend(open_backend(DetectorSettings(model=shared_data / "yolox_nano.onnx", min_score=0.5)))
    packed = np.asarray(cv2.cvtColor(street, cv2.COLOR_BGR2YUV_I420), np.uint8)
    chroma = packed[360:].reshape(2, 180, 240)
    told = PeopleFinder(backend)(Picture(packed[:360], chroma[0], chroma[1])).people
    prepared = backend.prepare(np.asarray(street, np.uint8))
    found = backend.decode(backend.infer([prepared])[0], prepared)
    people = found.boxes_px[found.classes == 0] / np.array([480, 360, 480, 360])
    assert len(told) == len(people) >= 5
    assert np.allclose([person.box for person in told], people, atol=0.01)


def test_a_model_without_people_says_so() -> None:
    backend = BrightBackend()
    backend.labels = ("car",)
    with pytest.raises(ConfigError, match=r"never says 'person', so nobody can be blurred"):
        PeopleFinder(SharedBackend(backend))(planes(220))


class Alone(BrightBackend):
    """Notices whether two threads are in it at one time."""

    inside = 0
    crowded = False

    def infer(self, batch: Sequence[Prepared]) -> list[Outputs]:
        self.inside += 1
        self.crowded |= self.inside > 1
        outputs = super().infer(batch)
        self.inside -= 1
        return outputs


def test_one_thread_at_a_time_is_in_the_model() -> None:
    alone = Alone()
    shared = SharedBackend(alone)
    alone.open.clear()
    threads = [threading.Thread(target=lambda: shared.infer([shared.prepare(picture())])) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert alone.waiting.wait(10)
    alone.open.set()
    for thread in threads:
        thread.join(10)
    assert alone.batches == [1, 1, 1, 1]
    assert not alone.crowded
