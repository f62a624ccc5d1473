"""Mock cameras over HTTP: snapshots, MJPEG, and the commands that break a camera."""

from __future__ import annotations

import base64
import hmac
import json
import socketserver
import ssl
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

from config.errors import PermanentError
from edge.gst.elements import Gst, require_elements
from edge.gst.mock_player import FAULTS, SOURCE, PlayedCamera, Player
from edge.gst.mock_rtsp import Login

__all__ = ["ControlServer", "PictureServer"]

_ELEMENTS = ("appsrc", "decodebin", "videoconvert", "jpegenc", "appsink")
_JPEGS = (
    f"{SOURCE} ! decodebin ! videoconvert ! video/x-raw,format=I420,colorimetry=1:4:0:0 ! jpegenc quality=85 "
    "! appsink name=out max-buffers=2 drop=true"
)
_SLICE_S = 0.1
"""How long a wait for a picture goes without a look at the camera."""
_BOUNDARY = "frame"


class _Server(ThreadingHTTPServer):
    """Serves on a thread of its own, each client on another.

    Args:
        address: host and port to listen on.
        handler: of requests.
        cameras: by name.

    Raises:
        PermanentError: the port is taken.
    """

    daemon_threads = True
    name = "http"

    def __init__(
        self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler], cameras: Sequence[PlayedCamera]
    ) -> None:
        self.cameras: Mapping[str, PlayedCamera] = {camera.name: camera for camera in cameras}
        try:
            super().__init__(address, handler)
        except OSError as error:
            where = f"{address[0]}:{address[1]}"
            raise PermanentError(
                f"cannot listen on {where}: {error.strerror}; give another --{self.name} PORT"
            ) from None

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server_address[1])

    def server_bind(self) -> None:
        """Bind, without the look-up of the host's name that the library does here: it may take seconds."""
        socketserver.TCPServer.server_bind(self)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that leaves in the middle is no error."""

    def start(self) -> None:
        """Begin to serve."""
        threading.Thread(target=self.serve_forever, name=self.name, daemon=True).start()


class PictureServer(_Server):
    """Each camera's ``/NAME/snapshot.jpg`` and ``/NAME/mjpeg``.

    Args:
        address: host and port to listen on; port 0 for one that is free.
        cameras: what is served.
        login: what clients must know (Basic); nothing where None.
        tls: serve HTTPS with this.

    Raises:
        PermanentError: the port is taken, or a part of GStreamer is missing.
    """

    def __init__(
        self,
        address: tuple[str, int],
        cameras: Sequence[PlayedCamera],
        *,
        login: Login | None,
        tls: ssl.SSLContext | None,
    ) -> None:
        require_elements(_ELEMENTS)
        super().__init__(address, _PictureHandler, cameras)
        secret = None if login is None else f"{login.user}:{login.password}"
        self.authorization = None if secret is None else f"Basic {base64.b64encode(secret.encode()).decode()}"
        if tls is not None:
            # The handshake is left to the client's thread: a client that is slow with it must not keep out the others.
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing: standard error is for what a person must know."""

    def _answer(self, status: HTTPStatus, content: bytes, kind: str, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _refuse(self, status: HTTPStatus, why: str, headers: Mapping[str, str] | None = None) -> None:
        self._answer(status, f"{why}\n".encode(), "text/plain", headers)


class _PictureHandler(_Handler):
    def do_GET(self) -> None:
        """A snapshot, or pictures without end."""
        server = cast("PictureServer", self.server)
        name, _, page = urlsplit(self.path).path.strip("/").partition("/")
        camera = server.cameras.get(name)
        if camera is None or camera.fault == "404" or page not in ("snapshot.jpg", "mjpeg"):
            self._refuse(HTTPStatus.NOT_FOUND, "not found")
        elif camera.fault == "password" or not self._may_see(server.authorization):
            self._refuse(HTTPStatus.UNAUTHORIZED, "unauthorized", {"WWW-Authenticate": 'Basic realm="camera"'})
        else:
            with _jpegs(camera) as jpegs, closing(jpegs):
                self._send(page, jpegs)

    def _may_see(self, authorization: str | None) -> bool:
        given = self.headers.get("Authorization", "")
        return authorization is None or hmac.compare_digest(given.encode(), authorization.encode())

    def _send(self, page: str, jpegs: Iterator[bytes]) -> None:
        if page == "snapshot.jpg":
            for jpeg in islice(jpegs, 1):
                self._answer(HTTPStatus.OK, jpeg, "image/jpeg")
        else:
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", f"multipart/x-mixed-replace; boundary={_BOUNDARY}")
            self.end_headers()
            for jpeg in jpegs:
                head = f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                self.wfile.write(head.encode() + jpeg + b"\r\n")


@contextmanager
def _jpegs(camera: PlayedCamera) -> Generator[Generator[bytes, None, None], None, None]:
    """A camera's pictures in real time, until its connections are dropped."""
    pipeline = Gst.parse_launch(_JPEGS)
    player = Player(camera, "main", pipeline.get_by_name("src"))
    pipeline.set_state(Gst.State.PLAYING)
    try:
        yield _pull(camera, player, pipeline.get_by_name("out"))
    finally:
        pipeline.set_state(Gst.State.NULL)


def _pull(camera: PlayedCamera, player: Player, sink: Any) -> Generator[bytes, None, None]:  # noqa: ANN401
    drops = camera.drops
    while camera.drops == drops:
        sample = sink.try_pull_sample(int(_SLICE_S * Gst.SECOND))
        if sample is not None:
            buffer = sample.get_buffer()
            yield bytes(buffer.extract_dup(0, buffer.get_size()))
        elif camera.fault != "freeze":
            player.resume()


class ControlServer(_Server):
    """Breaks cameras: ``POST /fault/NAME[?camera=CAMERA]``, and ``GET /fault`` tells which one each has.

    Args:
        cameras: what may be broken.
        port: to listen on, on loopback; 0 for one that is free.

    Raises:
        PermanentError: the port is taken.
    """

    name = "control"

    def __init__(self, cameras: Sequence[PlayedCamera], *, port: int) -> None:
        super().__init__(("127.0.0.1", port), _ControlHandler, cameras)


class _ControlHandler(_Handler):
    def do_GET(self) -> None:
        """The fault of each camera."""
        self._tell()

    def do_POST(self) -> None:
        """Break a camera, or all of them; answered when it is broken."""
        server = cast("ControlServer", self.server)
        wanted = urlsplit(self.path)
        fault = wanted.path.removeprefix("/fault/")
        (name,) = parse_qs(wanted.query).get("camera", [""])[:1]
        cameras = [camera for camera in server.cameras.values() if name in ("", camera.name)]
        if fault not in FAULTS or not cameras:
            known = f"write POST /fault/FAULT[?camera=NAME]; faults: {' '.join(FAULTS)}; cameras: "
            self._refuse(HTTPStatus.NOT_FOUND, known + " ".join(server.cameras))
            return
        for camera in cameras:
            camera.break_with(fault)
        self._tell()

    def _tell(self) -> None:
        server = cast("ControlServer", self.server)
        faults = {camera.name: camera.fault for camera in server.cameras.values()}
        self._answer(HTTPStatus.OK, json.dumps(faults).encode() + b"\n", "application/json")
