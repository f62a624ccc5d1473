from __future__ import annotations

import threading

import pytest

from config import ManualClock, TransientError
from detector.slot import BackendSlot, Performance
from tests.support.waiting import wait_until
from tests.unit.detector.stand_ins import BrightBackend, picture


def test_a_frame_goes_all_its_way_with_the_model_it_began_with() -> None:
    first, second = BrightBackend(), BrightBackend()
    slot = BackendSlot(first)
    began_with = slot.current
    prepared = began_with.prepare(picture())
    assert slot.swap(second) is first
    slot.infer(began_with, [prepared])
    assert (first.batches, second.batches) == ([1], [])
    assert slot.current is second


def test_how_each_model_does_is_known() -> None:
    clock = ManualClock()
    first, second = BrightBackend(batch_max=4), BrightBackend()
    slot = BackendSlot(first, clock=clock)
    prepared = first.prepare(picture())
    slot.infer(first, [prepared] * 4)
    first.failures = 1
    with pytest.raises(TransientError):
        slot.infer(first, [prepared])
    slot.note_failure(first)
    slot.swap(second)
    slot.infer(second, [prepared])
    assert slot.performance(first) == Performance(batches=2, pictures=4, failed=2)
    assert slot.performance(second) == Performance(batches=1, pictures=1)


def test_a_model_that_comes_back_begins_anew_and_one_that_is_long_gone_is_forgotten() -> None:
    first, second, third = BrightBackend(), BrightBackend(), BrightBackend()
    slot = BackendSlot(first)
    slot.infer(first, [first.prepare(picture())])
    slot.swap(second)
    slot.swap(first)
    assert slot.performance(first).batches == 0
    slot.swap(third)
    slot.infer(second, [second.prepare(picture())])
    assert slot.performance(second) == Performance()


def test_an_inference_that_does_not_end_is_seen() -> None:
    clock, backend = ManualClock(), BrightBackend()
    slot = BackendSlot(backend, clock=clock)
    backend.open.clear()
    thread = threading.Thread(target=lambda: slot.infer(backend, [backend.prepare(picture())]))
    thread.start()
    wait_until(backend.waiting.is_set)
    clock.wait(threading.Event(), 40.0)
    assert slot.performance(backend).running_s == 40.0
    backend.open.set()
    thread.join(30)
    assert slot.performance(backend).running_s == 0
    assert slot.performance(backend).picture_s == 40.0
