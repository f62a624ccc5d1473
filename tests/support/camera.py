"""A mock camera: `vigil mock` as a process, which tests may break in every way."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.request import Request, urlopen

from tests.support.server import Server, ServerProcess

__all__ = ["MockCamera", "small_film"]

_ROOT = Path(__file__).parents[2]
_READY = '"control":'
_ANSWER_TIMEOUT_S = 20.0


class MockCamera(Server):
    """One camera on free ports, which it keeps when it is started again.

    Args:
        folder: an empty folder for its log and its password.
        film: a video, or ``synthetic:street``; see `small_film`.
        login: user and password that it asks for.
        tls: rtsps and https; `ca_file` vouches for it.
    """

    def __init__(
        self, folder: Path, film: Path | str, *, login: tuple[str, str] | None = None, tls: bool = False
    ) -> None:
        self._film = str(film)
        self._folder = folder
        self._options = ["--tls"] if tls else []
        if login is not None:
            password = folder / "password"
            password.write_text(login[1])
            self._options += ["--user", login[0], "--password-file", str(password)]
        self._ports: list[str] = ["--rtsp", "0"]
        self._said: dict[str, Any] = {}

    def start(self) -> None:
        """Start it, and wait until it serves."""
        command = [sys.executable, "-P", "-m", "console", "mock", self._film, *self._ports, *self._options, "--json"]
        self._process = ServerProcess(command, log=self._folder / "camera.log", ready=_READY, start_timeout_s=30)
        self._process.start()
        self._said = json.loads(self._process.said().splitlines()[-1])
        ports = [url.split("/")[2].rpartition(":")[2] for url in (self.rtsp_url, self.mjpeg_url, self._said["control"])]
        self._ports = ["--rtsp", ports[0], "--http", ports[1], "--control", ports[2]]

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """End it with SIGTERM: one with `tls` removes its key only then."""
        if self._process is not None:
            self._process.stop()

    @property
    def rtsp_url(self) -> str:
        """Its main stream, login included."""
        return self._url("main")

    @property
    def sub_url(self) -> str:
        """Its smaller stream."""
        return self._url("sub")

    @property
    def snapshot_url(self) -> str:
        """A JPEG of now."""
        return self._url("snapshot")

    @property
    def mjpeg_url(self) -> str:
        """JPEGs without end."""
        return self._url("mjpeg")

    @property
    def ca_file(self) -> Path:
        """What vouches for the certificate of one with `tls`."""
        return Path(self._said["ca"])

    def _url(self, kind: str) -> str:
        (urls,) = self._said["cameras"].values()
        return str(urls[kind])

    def fault(self, name: str) -> None:
        """Break it, or heal it with ``none``; back when that has happened. The faults are those of `vigil mock`."""
        with urlopen(Request(f"{self._said['control']}/{name}", method="POST"), timeout=_ANSWER_TIMEOUT_S) as answer:
            assert answer.status == 200


def small_film(folder: Path, *, fps: int = 10, seconds: int = 6, size_px: tuple[int, int] = (320, 180)) -> Path:
    """An H.264 film with a keyframe a second, in which a ball moves and every picture is another; made once.

    Args:
        folder: where it is kept, such as one of the test session's.
        fps: pictures a second.
        seconds: its length.
        size_px: width and height.
    """
    film = folder / f"film-{size_px[0]}x{size_px[1]}-{fps}fps-{seconds}s.mp4"
    if not film.exists():
        # Here, not above: tests without GStreamer use nothing of it.
        from edge.gst.elements import Gst

        made = film.with_suffix(f".{os.getpid()}")  # several workers may want it at one time
        pipeline = Gst.parse_launch(
            f"videotestsrc pattern=ball num-buffers={fps * seconds} "
            f"! video/x-raw,format=I420,width={size_px[0]},height={size_px[1]},framerate={fps}/1 "
            f"! x264enc tune=zerolatency speed-preset=ultrafast key-int-max={fps} ! h264parse ! mp4mux "
            f"! filesink location={made}"
        )
        pipeline.set_state(Gst.State.PLAYING)
        ended = pipeline.get_bus().timed_pop_filtered(60 * Gst.SECOND, Gst.MessageType.EOS | Gst.MessageType.ERROR)
        pipeline.set_state(Gst.State.NULL)
        assert ended is not None
        assert ended.type == Gst.MessageType.EOS, ended.parse_error()
        made.rename(film)
    return film
