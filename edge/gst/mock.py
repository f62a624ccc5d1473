"""Mock cameras: their films, and the three servers that show and break them."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from config.errors import PermanentError
from edge.gst.mock_clip import Film, drawn_film, open_film
from edge.gst.mock_http import ControlServer, PictureServer
from edge.gst.mock_player import PlayedCamera
from edge.gst.mock_rtsp import Certificate, Login, RtspServer
from edge.synthetic.scenes import open_scene
from edge.uris import SyntheticUri

__all__ = ["Certificate", "Login", "MockOptions", "MockSite", "make_film"]


@dataclass(frozen=True, slots=True)
class MockOptions:
    """How mock cameras are reached.

    Attributes:
        address: IPv4 address to listen on.
        rtsp_port: 0 for one that is free, as the two others.
        http_port: of snapshots and MJPEG.
        control_port: of the faults, on loopback.
        login: what clients must know.
        certificate: serve rtsps and https with it: the files of the certificate and of its key.
    """

    address: str = "127.0.0.1"
    rtsp_port: int = 0
    http_port: int = 0
    control_port: int = 0
    login: Login | None = None
    certificate: tuple[Path, Path] | None = None


def make_film(source: Path | SyntheticUri) -> Film:
    """The film of a video file or of a scene that is drawn.

    Raises:
        PermanentError: it is no video, or a part of GStreamer is missing.
    """
    if isinstance(source, Path):
        return open_film(source)
    fps = max(1, round(source.fps))
    scene = open_scene(source, source.width_px & ~1, source.height_px & ~1)
    return drawn_film((scene.picture(number / fps) for number in range(round(scene.period_s * fps))), fps)


class MockSite:
    """Cameras by name, over RTSP and HTTP.

    Concurrency: it serves on threads of its own.

    Args:
        films: by camera.
        options: how they are reached.

    Raises:
        PermanentError: a port is taken, the certificate cannot be used, or a part of GStreamer is missing.
    """

    def __init__(self, films: Mapping[str, Film], options: MockOptions) -> None:
        self._options = options
        self._cameras = [PlayedCamera(name, film) for name, film in films.items()]
        tls, certificate = None, None
        if options.certificate is not None:
            pem, key = options.certificate
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(pem, key)
            certificate = Certificate(pem.read_bytes(), key.read_bytes())
        self._rtsp = RtspServer(
            self._cameras,
            address=options.address,
            port=options.rtsp_port,
            login=options.login,
            certificate=certificate,
        )
        self._http = PictureServer((options.address, options.http_port), self._cameras, login=options.login, tls=tls)
        self._control = ControlServer(self._cameras, port=options.control_port)

    def start(self) -> None:
        """Serve, until the process ends.

        Raises:
            PermanentError: the RTSP port is taken.
        """
        try:
            self._rtsp.start()
        except PermanentError:
            self._http.server_close()
            self._control.server_close()
            raise
        self._http.start()
        self._control.start()

    def urls(self) -> dict[str, dict[str, str]]:
        """Each camera's URLs by kind, logins included."""
        login, secure = self._options.login, "s" if self._options.certificate is not None else ""
        user = "" if login is None else f"{quote(login.user, safe='')}:{quote(login.password, safe='')}@"
        host = socket.gethostname() if self._options.address == "0.0.0.0" else self._options.address  # noqa: S104
        rtsp = f"rtsp{secure}://{user}{host}:{self._rtsp.port}"
        http = f"http{secure}://{user}{host}:{self._http.port}"
        return {
            camera.name: {
                "main": f"{rtsp}/{camera.name}",
                "sub": f"{rtsp}/{camera.name}/sub",
                "snapshot": f"{http}/{camera.name}/snapshot.jpg",
                "mjpeg": f"{http}/{camera.name}/mjpeg",
            }
            for camera in self._cameras
        }

    @property
    def control_url(self) -> str:
        """Where faults are ordered."""
        return f"http://127.0.0.1:{self._control.port}/fault"
