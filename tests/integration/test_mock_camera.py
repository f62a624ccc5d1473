"""`vigil mock`, seen by GStreamer's own client and by plain HTTP."""

from __future__ import annotations

import base64
import itertools
import json
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import numpy as np
import pytest
from click.testing import CliRunner

from config import ConfigError, PermanentError
from edge import mock_cli
from edge.uris import parse_source
from tests.support.camera import MockCamera, small_film
from tests.support.waiting import wait_until

gst = pytest.importorskip("edge.gst.elements", reason="no GStreamer")
clips = pytest.importorskip("edge.gst.mock_clip", reason="no GStreamer")
rtsp = pytest.importorskip("edge.gst.mock_rtsp", reason="no GStreamer RTSP server")
mock = pytest.importorskip("edge.gst.mock", reason="no GStreamer RTSP server")
http = pytest.importorskip("edge.gst.mock_http", reason="no GStreamer RTSP server")
player = pytest.importorskip("edge.gst.mock_player", reason="no GStreamer")
Gst = gst.Gst

FPS = 20
SECOND = 1_000_000_000
NOT_FOUND, NOT_AUTHORIZED = 3, 15  # GstResourceError


class Viewer:
    """Watches a stream; leaves at the end of the `with`."""

    def __init__(self, url: str, codec: str = "h264", **properties: object) -> None:
        self._pipeline = Gst.parse_launch(
            f"rtspsrc name=rtsp protocols=tcp latency=0 ! rtp{codec}depay ! {codec}parse ! avdec_{codec} "
            "! appsink name=sink sync=false"
        )
        rtsp = self._pipeline.get_by_name("rtsp")
        for name, value in {"location": url, **properties}.items():
            rtsp.set_property(name.replace("_", "-"), value)
        self._sink = self._pipeline.get_by_name("sink")

    def __enter__(self) -> Self:
        self._pipeline.set_state(Gst.State.PLAYING)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._pipeline.set_state(Gst.State.NULL)

    def next(self, timeout_s: float = 10.0) -> Any:  # noqa: ANN401 - GStreamer has no types
        """The next picture; None when there is none in time, or no more."""
        return self._sink.try_pull_sample(int(timeout_s * SECOND))

    def size_px(self) -> tuple[int, int]:
        sample = self.next()
        assert sample is not None, self.error_code()
        layout = sample.get_caps().get_structure(0)
        return layout.get_value("width"), layout.get_value("height")

    def drain(self) -> None:
        """Take what was on its way, until nothing more comes."""
        assert any(self.next(0.3) is None for _ in range(100))

    def ended(self) -> bool:
        """Whether the stream ends; takes pictures until it does."""
        return any(self.next(0.1) is None and self._sink.is_eos() for _ in range(200))

    def error_code(self) -> int:
        message = self._pipeline.get_bus().timed_pop_filtered(10 * SECOND, Gst.MessageType.ERROR)
        assert message is not None, "no error came"
        return int(message.parse_error()[0].code)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("films")


@pytest.fixture(scope="module")
def served(films: Path) -> Iterator[MockCamera]:
    folder = films / "served"
    folder.mkdir()
    with MockCamera(folder, small_film(films, fps=FPS, seconds=1)) as camera:
        yield camera


@pytest.fixture
def camera(served: MockCamera) -> Iterator[MockCamera]:
    yield served
    served.fault("none")


def bare(url: str) -> str:
    """The URL without the login in it."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def fetch(url: str, context: ssl.SSLContext | None = None, login: tuple[str, str] | None = None) -> tuple[int, bytes]:
    request = Request(url)
    if login is not None:
        secret = base64.b64encode(":".join(login).encode()).decode()
        request.add_header("Authorization", f"Basic {secret}")
    try:
        with urlopen(request, timeout=10, context=context) as answer:
            return answer.status, answer.read()
    except HTTPError as error:
        error.close()
        return error.code, b""


class TestStreams:
    def test_the_film_goes_round_without_a_seam_and_not_faster_than_it_was_taken(self, camera: MockCamera) -> None:
        with Viewer(camera.rtsp_url) as viewer:
            first = viewer.next()
            start_s = time.monotonic()
            samples = [first, *(viewer.next() for _ in range(FPS * 3 // 2))]
            took_s = time.monotonic() - start_s
        stamps = [sample.get_buffer().pts for sample in samples]
        gaps = [later - earlier for earlier, later in itertools.pairwise(stamps)]
        # The stamps are made of when packets came, so a busy machine makes them uneven; none is lost or doubled.
        assert stamps == sorted(stamps)
        assert sum(gaps) / len(gaps) == pytest.approx(SECOND / FPS, rel=0.5)
        assert took_s > 1.5 * 0.5

    def test_the_second_stream_is_smaller(self, camera: MockCamera) -> None:
        with Viewer(camera.rtsp_url) as main, Viewer(camera.sub_url) as sub:
            assert main.size_px() == (320, 180)
            assert sub.size_px() == (160, 90)

    def test_a_snapshot_is_a_jpeg_of_now(self, camera: MockCamera) -> None:
        status, jpeg = fetch(camera.snapshot_url)
        assert status == 200
        assert jpeg.startswith(b"\xff\xd8")
        assert jpeg.endswith(b"\xff\xd9")

    def test_mjpeg_is_jpegs_without_end(self, camera: MockCamera) -> None:
        with urlopen(camera.mjpeg_url, timeout=10) as stream:
            assert stream.headers["Content-Type"] == "multipart/x-mixed-replace; boundary=frame"
            jpegs = set()
            for _ in range(3):
                assert stream.readline() == b"--frame\r\n"
                assert stream.readline() == b"Content-Type: image/jpeg\r\n"
                size = int(stream.readline().partition(b": ")[2])
                assert stream.readline() == b"\r\n"
                jpegs.add(stream.read(size))
                assert stream.readline() == b"\r\n"
        assert len(jpegs) == 3


class TestFaults:
    def test_it_freezes_and_thaws_with_the_connection_open(self, camera: MockCamera) -> None:
        with Viewer(camera.rtsp_url) as viewer, urlopen(camera.mjpeg_url, timeout=10) as mjpeg:
            assert viewer.next() is not None
            assert mjpeg.read(1000)
            camera.fault("freeze")
            viewer.drain()
            camera.fault("none")
            assert viewer.next() is not None
            assert mjpeg.read(50_000)

    def test_it_drops_its_connections_and_takes_new_ones(self, camera: MockCamera) -> None:
        with Viewer(camera.rtsp_url) as viewer, urlopen(camera.mjpeg_url, timeout=10) as mjpeg:
            assert viewer.next() is not None
            camera.fault("drop")
            assert viewer.ended()
            mjpeg.read()
        with Viewer(camera.rtsp_url) as viewer:
            assert viewer.next() is not None

    @pytest.mark.parametrize(("fault", "code", "status"), [("404", NOT_FOUND, 404), ("password", NOT_AUTHORIZED, 401)])
    def test_it_refuses_who_was_welcome(self, camera: MockCamera, fault: str, code: int, status: int) -> None:
        with Viewer(camera.rtsp_url) as viewer:
            assert viewer.next() is not None
            camera.fault(fault)
            assert viewer.ended()
        for url in (camera.rtsp_url, camera.sub_url):
            with Viewer(url) as refused:
                assert refused.error_code() == code
        assert fetch(camera.snapshot_url)[0] == status
        camera.fault("none")
        with Viewer(camera.rtsp_url) as viewer:
            assert viewer.next() is not None

    def test_its_pictures_change_their_size_within_the_stream(self, camera: MockCamera) -> None:
        with Viewer(camera.rtsp_url) as viewer:
            assert viewer.size_px() == (320, 180)
            camera.fault("resolution")
            wait_until(lambda: viewer.size_px() == (238, 134), what="the other size")
            camera.fault("none")
            wait_until(lambda: viewer.size_px() == (320, 180), what="its own size")

    def test_it_comes_back_with_another_codec(self, camera: MockCamera) -> None:
        with Viewer(camera.rtsp_url) as viewer:
            assert viewer.next() is not None
            camera.fault("codec")
            assert viewer.ended()
        with Viewer(camera.rtsp_url, "h265") as viewer:
            assert viewer.size_px() == (320, 180)
            camera.fault("none")
            assert viewer.ended()
        with Viewer(camera.rtsp_url) as viewer:
            assert viewer.size_px() == (320, 180)

    def test_one_that_does_not_exist_is_answered_with_those_that_do(self, camera: MockCamera) -> None:
        with pytest.raises(HTTPError, match="404") as refused:
            camera.fault("melt")
        assert b"freeze drop 404 password resolution codec" in refused.value.read()
        refused.value.close()

    def test_killed_and_started_again_it_is_where_it_was(self, films: Path, tmp_path: Path) -> None:
        with MockCamera(tmp_path, small_film(films, fps=FPS, seconds=1)) as camera:
            url = camera.rtsp_url
            with Viewer(url) as viewer:
                assert viewer.next() is not None
                camera.kill()
                assert viewer.ended()
            camera.start()
            assert camera.rtsp_url == url
            with Viewer(url) as viewer:
                assert viewer.next() is not None


def test_a_login_and_tls(films: Path, tmp_path: Path) -> None:
    film = small_film(films, fps=FPS, seconds=1)
    with MockCamera(tmp_path, film, login=("admin", "s:3/c@t"), tls=True) as camera:
        trusting = {"tls_database": rtsp.Gio.TlsFileDatabase.new(str(camera.ca_file))}
        assert camera.rtsp_url.startswith("rtsps://admin:s%3A3%2Fc%40t@127.0.0.1:")
        with Viewer(bare(camera.rtsp_url), user_id="admin", user_pw="s:3/c@t", **trusting) as viewer:
            assert viewer.next() is not None
        with Viewer(bare(camera.rtsp_url), user_id="admin", user_pw="wrong", **trusting) as viewer:
            assert viewer.error_code() == NOT_AUTHORIZED
        with Viewer(bare(camera.rtsp_url), user_id="admin", user_pw="s:3/c@t") as viewer:
            assert viewer.error_code() != NOT_AUTHORIZED  # nobody vouches for its certificate
        context = ssl.create_default_context(cafile=camera.ca_file)
        assert fetch(bare(camera.snapshot_url), context)[0] == 401
        assert fetch(bare(camera.snapshot_url), context, ("admin", "s:3/c@t"))[0] == 200


class TestRefusals:
    def refused(self, *arguments: str) -> BaseException:
        error = CliRunner().invoke(mock_cli.mock, arguments).exception
        assert error is not None
        return error

    def test_no_video(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("milk, bread")
        error = self.refused(str(tmp_path / "notes.txt"))
        assert isinstance(error, PermanentError)
        assert "notes.txt is not a video that GStreamer can read" in str(error)

    def test_no_file(self, tmp_path: Path) -> None:
        assert "there is no file" in str(self.refused(str(tmp_path / "none.mp4")))

    def test_a_port_that_is_taken(self, films: Path, camera: MockCamera) -> None:
        port = str(urlsplit(camera.rtsp_url).port)
        error = self.refused(str(small_film(films, fps=FPS, seconds=1)), "--rtsp", port)
        assert str(error) == f"cannot listen on 127.0.0.1:{port}: it is already in use; give another --rtsp PORT"

    def test_two_cameras_of_one_name(self) -> None:
        error = self.refused("a/yard.mp4", "b/yard.mp4")
        assert isinstance(error, ConfigError)
        assert "'yard'" in str(error)

    @pytest.mark.parametrize("options", [["--cert", __file__], ["--password-file", __file__]])
    def test_half_an_option(self, options: list[str]) -> None:
        ended = CliRunner().invoke(mock_cli.mock, ["synthetic:street", *options])
        assert ended.exit_code == 2


def test_one_of_two_cameras_breaks() -> None:
    picture = np.zeros((64, 64, 3), np.uint8)
    film = clips.drawn_film([picture] * 4, fps=2)
    cameras = [player.PlayedCamera(name, film) for name in ("yard", "door")]
    server = http.ControlServer(cameras, port=0)
    server.start()
    url = f"http://127.0.0.1:{server.port}/fault"
    try:
        with urlopen(Request(f"{url}/404?camera=door", method="POST"), timeout=10) as answer:
            assert json.load(answer) == {"yard": "none", "door": "404"}
        with urlopen(Request(f"{url}/drop", method="POST"), timeout=10) as answer:
            assert json.load(answer) == {"yard": "none", "door": "none"}
        assert [camera.drops for camera in cameras] == [1, 2]
        with urlopen(url, timeout=10) as answer:
            assert json.load(answer) == {"yard": "none", "door": "none"}
    finally:
        server.shutdown()
        server.server_close()


class TestClip:
    def test_the_street_is_one_too(self) -> None:
        film = mock.make_film(parse_source("synthetic:street?width=160&height=120&fps=2"))
        assert (film.native.codec, film.native.size_px, len(film.native.units)) == ("h264", (160, 120), 40)
        assert film.native.length_ns == 20 * SECOND

    def test_every_video_becomes_one(self, tmp_path: Path) -> None:
        motion_jpeg(tmp_path / "old.avi")
        clip = clips.open_film(tmp_path / "old.avi").native
        assert (clip.codec, clip.size_px, len(clip.units), clip.length_ns) == ("h264", (160, 120), 15, 3 * SECOND // 2)

    def test_a_film_with_few_keyframes_gets_more(self, films: Path) -> None:
        clip = clips.open_film(small_film(films, fps=1, seconds=8)).native
        assert clip.keyframe_gap_ns == SECOND  # one a second already
        assert clip.length_ns == 8 * SECOND

    def test_it_goes_on_for_ever(self) -> None:
        units = tuple(clips.Unit(bytes([n]), n * SECOND, n * SECOND, n in (0, 3)) for n in range(5))
        clip = clips.Clip("h264", units, 5 * SECOND, (2, 2))
        assert [clip.begin(s * SECOND) for s in (0, 2, 3, 4, 5, 7, 8, 5_000_003)] == [0, 0, 3, 3, 5, 5, 8, 5_000_003]
        assert clip.unit(13) == (units[3], 10 * SECOND)
        assert clip.keyframe_gap_ns == 3 * SECOND


def motion_jpeg(path: Path) -> None:
    pipeline = Gst.parse_launch(
        "videotestsrc num-buffers=15 ! video/x-raw,width=160,height=120,framerate=10/1 ! jpegenc ! avimux "
        f"! filesink location={path}"
    )
    pipeline.set_state(Gst.State.PLAYING)
    ended = pipeline.get_bus().timed_pop_filtered(20 * SECOND, Gst.MessageType.EOS | Gst.MessageType.ERROR)
    pipeline.set_state(Gst.State.NULL)
    assert ended is not None
    assert ended.type == Gst.MessageType.EOS
