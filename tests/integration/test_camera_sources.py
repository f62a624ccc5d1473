"""Cameras in the network, in front of a real server that breaks in every way it knows."""

from __future__ import annotations

import importlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from config import Backoff, PermanentError, SystemClock, TransientError
from edge.capture import CapturedFrame, SourceOptions, open_packets, open_source
from edge.picture import Packet
from tests.support.camera import MockCamera, small_film
from tests.support.ports import free_port
from tests.support.waiting import wait_until

pytest.importorskip("gi", reason="no GStreamer: see deploy/packages.txt")
graph: Any = pytest.importorskip("edge.gst.graph", reason="no GStreamer: see deploy/packages.txt")

STALL_S = 1.0
LOGIN = ("admin", "p@ss/w:rd")


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_film(tmp_path_factory.mktemp("film"))


@pytest.fixture(scope="module")
def camera(film: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MockCamera]:
    with MockCamera(tmp_path_factory.mktemp("camera"), film, login=LOGIN) as camera:
        yield camera


@pytest.fixture(scope="module")
def tls_camera(film: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MockCamera]:
    with MockCamera(tmp_path_factory.mktemp("tls"), film, tls=True) as camera:
        yield camera


@contextmanager
def hls(film: Path, folder: Path) -> Iterator[str]:
    """The film as a web server has it, in pieces of a second."""
    elements = importlib.import_module("edge.gst.elements")
    pipeline = elements.Gst.parse_launch(
        f"filesrc location={film} ! qtdemux ! h264parse ! hlssink2 target-duration=1 playlist-length=0 max-files=0 "
        f"location={folder}/%d.ts playlist-location={folder}/film.m3u8"
    )
    pipeline.set_state(elements.Gst.State.PLAYING)
    ended = elements.Gst.MessageType.EOS | elements.Gst.MessageType.ERROR
    message = pipeline.get_bus().timed_pop_filtered(30 * elements.Gst.SECOND, ended)
    pipeline.set_state(elements.Gst.State.NULL)
    assert message.type == elements.Gst.MessageType.EOS, message.parse_error()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/film.m3u8"
        server.shutdown()
        thread.join()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_args: object) -> None:
        pass


def take(uri: str, count: int, options: SourceOptions = SourceOptions()) -> list[CapturedFrame]:  # noqa: B008 - frozen
    with closing(open_source(uri, clock=SystemClock(), options=options)) as source:
        frames = source.frames(threading.Event())
        with closing(frames):
            return [next(frames) for _ in range(count)]


def why_not(uri: str) -> str:
    with pytest.raises(TransientError) as caught:
        take(uri, 1, SourceOptions(stall_timeout_s=STALL_S))
    return str(caught.value)


class Viewer:
    """Watches a camera as a node does: any trouble ends the source, and it is opened again after a back-off."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._stop = threading.Event()
        self._backoff = Backoff(0.1, 0.5)
        self.frames = 0
        self.size_px = (0, 0)
        self.troubles: list[str] = []
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.is_set():
            source = open_source(self._uri, clock=SystemClock(), options=SourceOptions(stall_timeout_s=STALL_S))
            frames = source.frames(self._stop)
            try:
                for frame in frames:
                    self.frames += 1
                    self.size_px = (frame.width_px, frame.height_px)
            except TransientError as error:
                self.troubles.append(str(error))
            frames.close()
            source.close()
            self._stop.wait(self._backoff.delay_s())

    def wait_pictures(self) -> None:
        before = self.frames
        wait_until(lambda: self.frames > before + 2, what="a picture")

    def wait_trouble(self, says: str) -> None:
        wait_until(lambda: any(says in trouble for trouble in self.troubles), what=f"{says!r}")

    @contextmanager
    def watching(self) -> Iterator[Viewer]:
        self._thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            self._thread.join(10)
            assert not self._thread.is_alive()


class TestRtsp:
    def test_pictures_come_with_what_was_asked_for(self, camera: MockCamera) -> None:
        packets: list[Packet] = []
        with closing(
            open_source(
                camera.rtsp_url, clock=SystemClock(), options=SourceOptions(fps_max=5, on_packet=packets.append)
            )
        ) as source:
            frames = source.frames(threading.Event())
            taken = [next(frames) for _ in range(4)]
            seqs = [frame.seq for frame in taken]
            assert seqs == sorted(set(seqs)), "what a busy machine leaves out is not numbered anew"
            assert (taken[-1].at_s - taken[0].at_s) / 3 > 0.15, "five a second at most"
            assert all((f.width_px, f.height_px, f.luma.shape) == (320, 180, (100, 178)) for f in taken)
            assert len({frame.luma.tobytes() for frame in taken}) == 4
            assert source.gives_packets
            picture = taken[0].picture()
            assert (picture.y.shape, picture.u.shape, picture.v.shape) == ((180, 320), (90, 160), (90, 160))
            assert taken[0].encode(80, height_px=90)[:2] == b"\xff\xd8"
            frames.close()
        assert len(packets) >= 6, "packets are not thinned"
        assert packets[0].keyframe
        assert [p.at_s for p in packets] == sorted(p.at_s for p in packets)
        assert packets[0].size_bytes == packets[0].sample.get_buffer().get_size() > 100
        assert "video/x-h264, stream-format=(string)byte-stream" in packets[0].sample.get_caps().to_string()

    def test_eco_shows_keyframes_and_monitor_all_again(self, camera: MockCamera) -> None:
        with closing(open_source(camera.rtsp_url, clock=SystemClock())) as source:
            frames = source.frames(threading.Event())
            last_s, step_s = next(frames).at_s, 0.0
            source.keyframes_only(only=True)
            while step_s < 0.7:  # some of the others are on their way yet
                step_s, last_s = (at_s := next(frames).at_s) - last_s, at_s
                assert last_s < 8
            source.keyframes_only(only=False)
            times_s = [next(frames).at_s for _ in range(4)]
            assert np.diff(times_s)[1:] == pytest.approx([0.1, 0.1], abs=0.05)
            frames.close()

    def test_the_main_stream_is_carried_without_decoding(
        self, camera: MockCamera, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(graph, "choose_decoders", lambda *_: pytest.fail("it is decoded"))
        packets: list[Packet] = []
        stop = threading.Event()

        def keep(packet: Packet) -> None:
            packets.append(packet)
            if len(packets) == 12:
                stop.set()

        with closing(
            open_packets(camera.rtsp_url, clock=SystemClock(), options=SourceOptions(on_packet=keep))
        ) as source:
            source.run(stop)
        assert [packet.keyframe for packet in packets].count(True) >= 1
        assert packets[0].keyframe

    def test_a_wrong_password_and_a_wrong_path_are_told_without_the_password(self, camera: MockCamera) -> None:
        wrong = camera.rtsp_url.replace("p%40ss", "s3cret")
        assert wrong != camera.rtsp_url
        assert "refuses user and password (401)" in why_not(wrong)
        assert "s3cret" not in why_not(wrong)
        assert "no such stream (404)" in why_not(f"{camera.rtsp_url}x")

    def test_nobody_there(self) -> None:
        assert "has nothing at port" in why_not(f"rtsp://127.0.0.1:{free_port()}/yard")

    def test_somebody_who_answers_nothing(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            said = why_not(f"rtsp://127.0.0.1:{silent.getsockname()[1]}/yard")
        assert "no picture for 1 s" in said or "broke off before its first picture" in said

    def test_a_decoder_that_refuses_gives_way(self, camera: MockCamera, monkeypatch: pytest.MonkeyPatch) -> None:
        # As a Raspberry Pi's does when it is taken, or the picture is too large for it.
        monkeypatch.setattr(graph, "choose_decoders", lambda *_: ("avdec_h264 ! identity error-after=1", "avdec_h264"))
        assert len(take(camera.rtsp_url, 2)) == 2

    def test_a_decoder_of_something_else_is_told(self, camera: MockCamera) -> None:
        with pytest.raises(PermanentError, match="jpegdec does not decode it"):
            take(camera.rtsp_url, 1, SourceOptions(decoder="jpegdec"))

    def test_a_decoder_that_is_not_there_is_told(self, camera: MockCamera) -> None:
        with pytest.raises(PermanentError, match="no decoder 'v4l2h263dec': set decoder: auto"):
            take(camera.rtsp_url, 1, SourceOptions(decoder="v4l2h263dec"))

    def test_it_is_let_go_at_once_also_while_the_camera_hangs(self, film: Path, tmp_path: Path) -> None:
        with MockCamera(tmp_path, film) as camera, closing(open_source(camera.rtsp_url, clock=SystemClock())) as source:
            frames = source.frames(threading.Event())
            next(frames)
            camera.freeze()
            before_s = time.monotonic()
            frames.close()
            assert time.monotonic() - before_s < 2, "not the 20 s that GStreamer waits for an answer"
            camera.thaw()


class TestTls:
    def test_who_vouches_for_it_is_named(self, tls_camera: MockCamera) -> None:
        assert take(f"{tls_camera.rtsp_url}#ca={tls_camera.ca_file}", 1)
        assert take(f"{tls_camera.mjpeg_url}#ca={tls_camera.ca_file}", 1)

    def test_who_insists_does_without(self, tls_camera: MockCamera) -> None:
        assert take(f"{tls_camera.rtsp_url}#tls=insecure", 1)
        assert take(f"{tls_camera.mjpeg_url}#tls=insecure", 1)

    def test_a_stranger_is_refused(self, tls_camera: MockCamera) -> None:
        assert "its certificate is not trusted (self-signed" in why_not(tls_camera.rtsp_url)
        assert "its certificate is not trusted (self-signed" in why_not(tls_camera.mjpeg_url)

    def test_a_file_that_vouches_for_nothing_is_told(self, tls_camera: MockCamera, tmp_path: Path) -> None:
        (tmp_path / "ca.pem").write_text("hello")
        with pytest.raises(PermanentError, match=r"ca\.pem is not a file of certificates"):
            take(f"{tls_camera.rtsp_url}#ca={tmp_path}/ca.pem", 1)


class TestHttp:
    def test_mjpeg_is_decoded_and_carried(self, camera: MockCamera) -> None:
        packets: list[Packet] = []
        frames = take(camera.mjpeg_url, 3, SourceOptions(on_packet=packets.append))
        assert frames[2].luma.shape == (100, 178)
        assert [frame.at_s for frame in frames] == sorted({frame.at_s for frame in frames})
        assert all(packet.keyframe for packet in packets)

    def test_a_wrong_password_and_a_wrong_path_are_told(self, camera: MockCamera) -> None:
        assert "refuses user and password (401)" in why_not(camera.mjpeg_url.replace("p%40ss", "s3cret"))
        assert "no such stream (404)" in why_not(f"{camera.mjpeg_url}x")

    def test_hls_is_shown_at_its_pace(self, film: Path, tmp_path: Path) -> None:
        with hls(film, tmp_path) as uri:
            before_s = time.monotonic()
            frames = take(uri, 14)
            assert time.monotonic() - before_s > 1.2, "not all of a piece at once"
        assert frames[0].luma.shape == (100, 178)
        assert frames[-1].at_s == pytest.approx(0.1 * frames[-1].seq, abs=0.05)


class TestFaults:
    """Each fault of a camera: its trouble is told, and pictures come again."""

    @pytest.fixture
    def viewer(self, camera: MockCamera) -> Iterator[Viewer]:
        with Viewer(camera.rtsp_url).watching() as viewer:
            viewer.wait_pictures()
            yield viewer
        camera.fault("none")

    def test_frozen(self, camera: MockCamera, viewer: Viewer) -> None:
        camera.freeze()
        viewer.wait_trouble("no picture for 1 s; check that the camera has power")
        camera.thaw()
        viewer.wait_pictures()

    def test_without_power(self, camera: MockCamera, viewer: Viewer) -> None:
        camera.kill()
        viewer.wait_trouble("has nothing at port")
        camera.start()
        viewer.wait_pictures()
        assert any("the camera ended the stream" in trouble for trouble in viewer.troubles)

    def test_no_more_pictures(self, camera: MockCamera, viewer: Viewer) -> None:
        camera.fault("freeze")
        viewer.wait_trouble("no picture for 1 s")
        camera.fault("none")
        viewer.wait_pictures()

    def test_connections_are_closed(self, camera: MockCamera, viewer: Viewer) -> None:
        camera.fault("drop")
        viewer.wait_trouble("the camera ended the stream")
        viewer.wait_pictures()

    def test_the_stream_goes_and_comes(self, camera: MockCamera, viewer: Viewer) -> None:
        camera.fault("404")
        viewer.wait_trouble("no such stream (404)")
        camera.fault("none")
        viewer.wait_pictures()

    def test_the_password_is_another(self, camera: MockCamera, viewer: Viewer) -> None:
        camera.fault("password")
        viewer.wait_trouble("refuses user and password (401)")
        camera.fault("none")
        viewer.wait_pictures()

    def test_another_size_is_taken_as_it_comes(self, camera: MockCamera, viewer: Viewer) -> None:
        assert viewer.size_px == (320, 180)
        camera.fault("resolution")
        wait_until(lambda: viewer.size_px[0] != 320, what="another size")
        viewer.wait_pictures()
        assert viewer.troubles == []

    def test_another_codec_is_another_stream(self, camera: MockCamera, viewer: Viewer) -> None:
        camera.fault("codec")
        viewer.wait_trouble("the camera ended the stream")
        viewer.wait_pictures()


def test_opening_again_and_again_leaves_nothing_behind(camera: MockCamera) -> None:
    def open_now() -> tuple[int, int]:
        return len(list(Path("/proc/self/task").iterdir())), len(list(Path("/proc/self/fd").iterdir()))

    take(camera.rtsp_url, 1)
    before = open_now()
    for _ in range(6):
        take(camera.rtsp_url, 1)
    wait_until(lambda: open_now() <= before, what="threads and descriptors as before")


@pytest.mark.parametrize("uri", ["v4l2:/dev/video0", "libcamera:"])
def test_a_camera_of_this_machine(uri: str) -> None:
    if not Path("/dev/video0").exists():
        pytest.skip("no camera hardware")
    assert take(uri, 3)


def test_a_usb_camera_that_is_not_there_is_waited_for() -> None:
    assert "/dev/video97 gives no picture: " in why_not("v4l2:/dev/video97")
