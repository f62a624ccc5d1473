from __future__ import annotations

import contextlib
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.clock import ManualClock
from config.errors import ConfigError, PermanentError
from edge.capture import open_source, parse_source
from edge.source import FileUri, Pacer, SyntheticUri


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("file:yard.mp4", FileUri(Path("yard.mp4"), "own", loop=True)),
        ("file:/srv/yard.mp4?pace=max", FileUri(Path("/srv/yard.mp4"), "max", loop=False)),
        ("file:../yard.mp4?pace=max&loop=1", FileUri(Path("../yard.mp4"), "max", loop=True)),
        ("file:yard.mp4?loop=0", FileUri(Path("yard.mp4"), "own", loop=False)),
        ("file:///srv/my%20yard%3F.mp4?loop=0", FileUri(Path("/srv/my yard?.mp4"), "own", loop=False)),
        ("file:100%25.mp4", FileUri(Path("100%25.mp4"), "own", loop=True)),
        ("synthetic:street", SyntheticUri(1, 10.0, 640, 360, "own")),
        ("synthetic:street?seed=3&fps=2.5&width=320&height=180", SyntheticUri(3, 2.5, 320, 180, "own")),
        ("synthetic:street?pace=max", SyntheticUri(1, 10.0, 640, 360, "max")),
    ],
)
def test_a_source_uri_says_what_to_open(uri: str, expected: FileUri | SyntheticUri) -> None:
    assert parse_source(uri) == expected


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("yard.mp4", "write file:yard.mp4"),
        ("", "known are file:PATH"),
        ("gopher://yard", "'gopher' are not known to this version; known are file:PATH"),
        ("file:", "names no file"),
        ("file:?pace=max", "names no file"),
        ("file:a.mp4?pace=fast", "pace=fast: write pace=own or pace=max"),
        ("file:a.mp4?loop=yes", "write loop=0 or loop=1"),
        ("file:a.mp4?lop=0", "no option 'lop'; did you mean 'loop'?"),
        ("file:a.mp4?fps=3", "no option 'fps'; known here: pace, loop"),
        ("synthetic:beach", "no synthetic scene 'beach'; write synthetic:street"),
        ("synthetic:street?fps=0", "fps=0: write a number from 0.1 to 120"),
        ("synthetic:street?fps=nan", "fps=nan: write a number"),
        ("synthetic:street?seed=x", "seed=x: write a number"),
        ("synthetic:street?width=99999", "width=99999: write a number from 160 to 3840"),
    ],
)
def test_a_wrong_source_uri_is_told_with_its_cure(uri: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_source(uri)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "uri", ["rtsp://admin:s3cret@10.0.0.7/live", "rtsp://admin:s3@cret/x@10.0.0.7/live", "http://10.0.0.7/?pw=s3cret"]
)
def test_no_message_repeats_credentials(uri: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_source(uri)
    assert "s3" not in str(caught.value)


@given(st.text(max_size=60))
def test_any_text_is_a_source_or_a_config_error(text: str) -> None:
    for uri in (text, f"file:{text}", f"synthetic:street?{text}"):
        with contextlib.suppress(ConfigError):
            parse_source(uri)


def test_a_video_file_without_gstreamer_names_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "edge._gstreamer", None)
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
