from __future__ import annotations

import sys
import threading

import pytest

from config.clock import ManualClock
from config.errors import PermanentError
from edge.capture import open_source
from edge.source import Pacer


def test_a_video_file_without_gstreamer_names_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "edge.gst.elements", None)
    with pytest.raises(PermanentError, match=r"apt-get install python3-gi .*--system-site-packages"):
        open_source("file:yard.mp4", clock=ManualClock())


class TestPacer:
    def test_each_picture_waits_for_its_time(self) -> None:
        clock, stop = ManualClock(), threading.Event()
        pacer = Pacer(clock)
        times_s = []
        for number in range(4):
            assert pacer.wait_due(stop, number * 0.1, 0.1)
            times_s.append(clock.monotonic_s())
        assert times_s == pytest.approx([0.0, 0.1, 0.2, 0.3])

    def test_a_slow_consumer_costs_pictures_and_not_time(self) -> None:
        clock, stop = ManualClock(), threading.Event()
        pacer = Pacer(clock)
        taken = []
        for number in range(10):
            if pacer.wait_due(stop, number * 0.1, 0.1):
                taken.append(number)
                clock.advance(0.32)
        assert taken == [0, 3, 6, 9]

    def test_after_a_long_sleep_the_schedule_starts_anew(self) -> None:
        clock, stop = ManualClock(), threading.Event()
        pacer = Pacer(clock)
        assert pacer.wait_due(stop, 0.0, 0.1)
        clock.advance(3600)
        before_s = clock.monotonic_s()
        assert pacer.wait_due(stop, 0.1, 0.1)
        assert clock.monotonic_s() == before_s
        assert pacer.wait_due(stop, 0.2, 0.1)
        assert clock.monotonic_s() == pytest.approx(before_s + 0.1)


class TestSynthetic:
    def test_pictures_come_at_their_pace_and_are_dated(self) -> None:
        clock = ManualClock()
        source = open_source("synthetic:street?seed=3&fps=5&width=320&height=180", clock=clock)
        start = clock.now()
        frames = source.frames(threading.Event())
        taken = [next(frames) for _ in range(4)]
        assert [frame.seq for frame in taken] == [0, 1, 2, 3]
        assert [frame.at_s for frame in taken] == pytest.approx([0.0, 0.2, 0.4, 0.6])
        assert [(frame.captured_at - start).total_seconds() for frame in taken] == pytest.approx([0.0, 0.2, 0.4, 0.6])
        assert {(frame.width_px, frame.height_px) for frame in taken} == {(320, 180)}
        assert all(frame.luma.shape[0] == 100 and frame.luma.dtype == "uint8" for frame in taken)
        assert taken[0].encode(80)[:2] == b"\xff\xd8"
        source.close()

    def test_the_same_seed_gives_the_same_pictures(self) -> None:
        def second(seed: int) -> bytes:
            source = open_source(f"synthetic:street?seed={seed}&pace=max", clock=ManualClock())
            frames = source.frames(threading.Event())
            next(frames)
            return next(frames).encode(80)

        assert second(7) == second(7)
        assert second(7) != second(8)

    def test_stop_ends_it_also_while_it_waits(self) -> None:
        stop = threading.Event()
        frames = open_source("synthetic:street?fps=0.1", clock=ManualClock()).frames(stop)
        next(frames)
        stop.set()
        assert list(frames) == []
