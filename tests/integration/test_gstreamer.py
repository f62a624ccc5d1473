"""Video files, through a real GStreamer."""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from config.clock import Clock, ManualClock, SystemClock
from config.errors import PermanentError, TransientError, VigilError
from edge.capture import CapturedFrame, SourceOptions, open_source

Rgb = NDArray[np.uint8]

pytest.importorskip("gi", reason="no GStreamer: see deploy/packages.txt")
gst: Any = pytest.importorskip("edge.gst.graph", reason="no GStreamer: see deploy/packages.txt")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 60 frames of a moving ball, 322 x 182 at 30 fps, as Motion JPEG and, where an encoder is, H.264."""
    folder = tmp_path_factory.mktemp("video")
    ball = "videotestsrc num-buffers=60 pattern=ball ! video/x-raw,format=I420,width=322,height=182,framerate=30/1"
    _record(f"{ball} ! jpegenc ! avimux ! filesink location={folder}/ball.avi")
    if gst.Gst.ElementFactory.find("openh264enc") is not None:
        _record(f"{ball} ! openh264enc ! h264parse ! mp4mux ! filesink location={folder}/ball.mp4")
        _record(f"{ball} ! openh264enc ! h264parse ! matroskamux ! filesink location={folder}/ball.mkv")
    _record(f"audiotestsrc num-buffers=20 ! wavenc ! filesink location={folder}/sound.wav")
    return folder


def _record(description: str) -> None:
    pipeline = gst.Gst.parse_launch(description)
    pipeline.set_state(gst.Gst.State.PLAYING)
    wanted = gst.Gst.MessageType.EOS | gst.Gst.MessageType.ERROR
    message = pipeline.get_bus().timed_pop_filtered(30 * gst.Gst.SECOND, wanted)
    pipeline.set_state(gst.Gst.State.NULL)
    assert message is not None
    assert message.type == gst.Gst.MessageType.EOS, message.parse_error()


class Player:
    """Opens sources, and closes them when the test is over."""

    def __init__(self) -> None:
        self._opened = ExitStack()

    def __call__(
        self,
        uri: str,
        *,
        stop: threading.Event | None = None,
        clock: Clock | None = None,
        fps_max: float | None = None,
        stall_timeout_s: float = 5.0,
    ) -> Iterator[CapturedFrame]:
        options = SourceOptions(fps_max=fps_max, stall_timeout_s=stall_timeout_s)
        source = open_source(uri, clock=clock or ManualClock(), options=options)
        self._opened.callback(source.close)
        frames = source.frames(stop or threading.Event())
        return self._opened.enter_context(closing(frames))

    def close(self) -> None:
        self._opened.close()


@pytest.fixture
def play() -> Iterator[Player]:
    with closing(Player()) as player:
        yield player


def picture(frame: CapturedFrame) -> Rgb:
    return np.asarray(Image.open(io.BytesIO(frame.encode(90))).convert("RGB"))


def psnr_db(one: Rgb, other: Rgb) -> float:
    return float(10 * np.log10(255**2 / np.mean((one.astype(np.float64) - other) ** 2)))


def read_frames(path: Path) -> Iterator[Rgb]:
    video = cv2.VideoCapture(str(path))
    while (read := video.read())[0]:
        yield np.asarray(read[1][:, :, ::-1], np.uint8)


class TestPedestrians:
    def test_every_frame_comes_once_and_in_order(self, play: Player, shared_data: Path) -> None:
        count = 0
        for frame in play(f"file:{shared_data}/pedestrians.avi?pace=max"):
            assert frame.seq == count
            assert frame.at_s == pytest.approx(count * 0.1, abs=1e-3)
            assert frame.luma.shape == (100, 133)
            assert frame.luma.dtype == np.uint8
            assert (frame.width_px, frame.height_px) == (480, 360)
            count += 1
        assert count == 795

    def test_frame_n_of_the_video_is_seq_n_minus_1_and_looks_like_it(self, play: Player, shared_data: Path) -> None:
        path = shared_data / "pedestrians.avi"
        same, other = [], []
        last = np.zeros((360, 480, 3), np.uint8)
        for frame, expected in zip(play(f"file:{path}?pace=max"), islice(read_frames(path), 100), strict=False):
            if frame.seq % 9 == 8:
                shown = picture(frame)
                assert shown.shape == (360, 480, 3)
                same.append(psnr_db(shown, expected))
                other.append(psnr_db(shown, last))
                luma = np.asarray(Image.fromarray(expected).convert("L").resize((133, 100), Image.Resampling.BOX))
                assert np.corrcoef(luma.ravel(), frame.luma.ravel())[0, 1] > 0.97
            last = expected
        assert min(same) > 33
        assert min(s - o for s, o in zip(same, other, strict=True)) > 1, "each frame is nearest to its own number"

    def test_a_lower_quality_is_a_smaller_jpeg(self, play: Player, shared_data: Path) -> None:
        for frame in islice(play(f"file:{shared_data}/pedestrians.avi"), 1):
            assert len(frame.encode(20)) < 0.6 * len(frame.encode(80))
            assert frame.encode(80) == frame.encode(80)

    def test_a_frame_that_is_kept_can_be_encoded_later(self, play: Player, shared_data: Path) -> None:
        frames = play(f"file:{shared_data}/pedestrians.avi?pace=max")
        kept = [(frame, frame.encode(80)) for frame in islice(frames, 100) if frame.seq % 25 == 0]
        assert len(kept) == 4
        assert all(frame.encode(80) == jpeg for frame, jpeg in kept)

    def test_a_file_that_was_cut_off_plays_to_where_it_ends(
        self, play: Player, shared_data: Path, tmp_path: Path
    ) -> None:
        whole = (shared_data / "pedestrians.avi").read_bytes()
        (tmp_path / "cut.avi").write_bytes(whole[:1_000_000])
        frames = list(play(f"file:{tmp_path}/cut.avi?pace=max"))
        assert 200 < len(frames) < 300
        assert picture(frames[0]).shape == (360, 480, 3)

    def test_a_file_with_noise_in_the_middle_plays_on(self, play: Player, shared_data: Path, tmp_path: Path) -> None:
        broken = bytearray((shared_data / "pedestrians.avi").read_bytes())
        broken[1_500_000:1_600_000] = random.Random(1).randbytes(100_000)
        (tmp_path / "noise.avi").write_bytes(broken)
        assert len(list(play(f"file:{tmp_path}/noise.avi?pace=max"))) > 600


@pytest.mark.parametrize("colours", ["bt601", "bt709", "2:4:5:4"])
@pytest.mark.parametrize(("pattern", "level"), [("black", 0), ("white", 255)])
def test_brightness_has_its_full_contrast(play: Player, tmp_path: Path, pattern: str, level: int, colours: str) -> None:
    """Black is 16 in this film, and white 235; the motion detector counts in 255ths, and a JPEG too."""
    shown = (
        f"videotestsrc num-buffers=5 pattern={pattern} "
        f"! video/x-raw,format=I420,width=320,height=200,framerate=10/1,colorimetry={colours}"
    )
    _record(f"{shown} ! x264enc ! h264parse ! mp4mux ! filesink location={tmp_path}/film.mp4")
    (frame,) = islice(play(f"file:{tmp_path}/film.mp4?pace=max"), 1)
    assert int(frame.luma.mean()) == pytest.approx(level, abs=3)
    assert picture(frame).mean() == pytest.approx(level, abs=3)


class TestOwnPace:
    def test_it_plays_as_fast_as_it_was_recorded_and_loops(self, play: Player, small: Path) -> None:
        clock = ManualClock()
        frames = list(islice(play(f"file:{small}/ball.avi", clock=clock), 150))
        assert [frame.seq for frame in frames] == list(range(150))
        times_s = np.array([frame.at_s for frame in frames])
        assert np.diff(times_s) == pytest.approx(np.full(149, 1 / 30), abs=2e-3), "the seam between two rounds shows"
        assert clock.monotonic_s() == pytest.approx(149 / 30, abs=0.01)
        assert (frames[-1].captured_at - frames[0].captured_at).total_seconds() == pytest.approx(149 / 30, abs=0.01)
        # Not the last rows: libjpeg rounds 182 up to 192 with what lies behind the picture.
        assert np.array_equal(picture(frames[0])[:160], picture(frames[120])[:160])
        assert not np.array_equal(picture(frames[0])[:160], picture(frames[110])[:160])

    def test_once_means_once(self, play: Player, small: Path) -> None:
        assert len(list(play(f"file:{small}/ball.avi?loop=0"))) == 60

    def test_max_may_loop_too(self, play: Player, small: Path) -> None:
        assert len(list(islice(play(f"file:{small}/ball.avi?pace=max&loop=1"), 200))) == 200

    def test_it_is_thinned_to_what_is_wanted(self, play: Player, small: Path) -> None:
        frames = list(play(f"file:{small}/ball.avi?loop=0", fps_max=10))
        assert 19 <= len(frames) <= 21
        assert [frame.seq for frame in frames] == list(range(len(frames)))
        assert frames[-1].at_s == pytest.approx(1.9, abs=0.15)

    def test_every_frame_means_every_frame(self, play: Player, small: Path) -> None:
        assert len(list(play(f"file:{small}/ball.avi?pace=max", fps_max=10))) == 60

    def test_a_slow_consumer_gets_fewer_frames_and_the_gaps_show(self, play: Player, small: Path) -> None:
        clock = ManualClock()
        seqs = []
        for frame in play(f"file:{small}/ball.avi?loop=0", clock=clock):
            seqs.append(frame.seq)
            clock.advance(0.1)
        assert seqs == sorted(set(seqs))
        assert 15 <= len(seqs) <= 25
        assert clock.monotonic_s() == pytest.approx(2.0, abs=0.2)

    def test_stop_in_the_middle_ends_it(self, play: Player, small: Path) -> None:
        stop = threading.Event()
        seen = 0
        for frame in play(f"file:{small}/ball.avi", stop=stop, clock=SystemClock()):
            seen += 1
            if frame.seq == 3:
                stop.set()
        assert seen == 4

    def test_rounds_leave_no_thread_and_no_file_open(self, play: Player, small: Path) -> None:
        open_now = [
            (len(list(Path("/proc/self/task").iterdir())), len(list(Path("/proc/self/fd").iterdir())))
            for frame in islice(play(f"file:{small}/ball.avi"), 60 * 12)
            if frame.seq % 60 == 30
        ]
        assert max(open_now[2:]) <= max(open_now[:2])


@pytest.mark.parametrize("name", ["ball.avi", "ball.mp4", "ball.mkv"])
def test_other_containers_and_codecs_and_odd_sizes(play: Player, small: Path, name: str) -> None:
    if not (small / name).exists():
        pytest.skip("no H.264 encoder: sudo apt-get install gstreamer1.0-plugins-bad")
    frames = list(play(f"file:{small}/{name}?pace=max"))
    assert len(frames) == 60
    assert {(frame.width_px, frame.height_px, frame.luma.shape) for frame in frames} == {(322, 182, (100, 177))}
    ball = frames[30].luma > 128
    assert 50 < ball.sum() < 2000, "the ball is not where brightness is"
    assert picture(frames[30]).shape == (182, 322, 3)


class TestBadInput:
    def refused(self, play: Player, path: Path, says: str) -> None:
        with pytest.raises(PermanentError) as caught:
            list(play(f"file:{path}"))
        assert says in str(caught.value)
        assert path.name in str(caught.value)

    def test_no_file(self, play: Player, tmp_path: Path) -> None:
        self.refused(play, tmp_path / "none.avi", "there is no file")

    def test_a_folder(self, play: Player, tmp_path: Path) -> None:
        self.refused(play, tmp_path, "is not a file")

    def test_a_pipe(self, play: Player, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        self.refused(play, tmp_path / "pipe", "is not a file")

    def test_a_path_through_a_file(self, play: Player, small: Path) -> None:
        self.refused(play, small / "ball.avi" / "yard.avi", "cannot be read: Not a directory")

    def test_an_empty_file(self, play: Player, tmp_path: Path) -> None:
        (tmp_path / "empty.avi").touch()
        self.refused(play, tmp_path / "empty.avi", "is empty")

    @pytest.mark.parametrize("content", [b"hello world\n" * 100, bytes(5000)])
    def test_no_video(self, play: Player, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "text.avi").write_bytes(content)
        self.refused(play, tmp_path / "text.avi", "")

    def test_sound_only(self, play: Player, small: Path) -> None:
        self.refused(play, small / "sound.wav", "it has no video stream")

    def test_it_breaks_in_the_middle(self, play: Player, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gst, "_LOOK", f"identity error-after=20 ! {gst._LOOK}")
        seen: list[CapturedFrame] = []
        with pytest.raises(TransientError, match=r"ball\.avi is damaged after frame \d+ "):
            seen.extend(play(f"file:{small}/ball.avi"))
        assert 15 <= len(seen) <= 20

    def test_it_falls_silent(self, play: Player, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        # Ten times the limit: a busy machine may come to look at its watch late.
        monkeypatch.setattr(gst, "_LOOK", f"identity sleep-time=3000000 ! {gst._LOOK}")
        with pytest.raises(TransientError, match=r"ball\.avi: no picture for 0\.3 s"):
            next(play(f"file:{small}/ball.avi", stall_timeout_s=0.3))

    def test_a_container_without_pictures(self, play: Player, tmp_path: Path) -> None:
        (tmp_path / "hollow.avi").write_bytes(b"RIFF\xff\xff\xff\xffAVI LIST")
        # GStreamer sees that there is nothing, or waits for it for ever: two threads of its demuxer race.
        with pytest.raises(VigilError, match=r"hollow\.avi(: no picture for 0\.3 s; it holds none| is not a video)"):
            next(play(f"file:{tmp_path}/hollow.avi", stall_timeout_s=0.3))

    def test_a_closed_source_encodes_no_more(self, play: Player, small: Path) -> None:
        source = open_source(f"file:{small}/ball.avi", clock=ManualClock())
        frames = source.frames(threading.Event())
        frame = next(frames)
        source.close()
        source.close()
        with pytest.raises(TransientError, match="encoder"):
            frame.encode(80)

    def test_a_missing_decoder_is_named_with_its_package(self, small: Path) -> None:
        play_it = (
            "import sys, threading; from edge.capture import open_source; from config.clock import SystemClock;"
            "next(open_source(sys.argv[1], clock=SystemClock()).frames(threading.Event()))"
        )
        ranks = "avdec_mjpeg:NONE,jpegdec:NONE,nvjpegdec:NONE,vaapijpegdec:NONE"
        ended = subprocess.run(
            [sys.executable, "-c", play_it, f"file:{small}/ball.avi"],
            env={**os.environ, "GST_PLUGIN_FEATURE_RANK": ranks},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "GStreamer has no JPEG decoder; sudo apt-get install" in ended.stderr, ended.stderr

    def test_a_missing_element_is_named_with_its_package(
        self, play: Player, small: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(gst, "_LOOK_ELEMENTS", ("nosuchelement",))
        with pytest.raises(PermanentError, match=r"'nosuchelement': `gst-inspect-1.0` lists"):
            open_source(f"file:{small}/ball.avi", clock=ManualClock())
