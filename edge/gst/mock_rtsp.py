"""Mock cameras over RTSP: one server with two streams a camera, which break as they are told to."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import gi

from config.errors import PermanentError
from edge.gst.elements import require_elements
from edge.gst.mock_clip import Codec
from edge.gst.mock_player import SOURCE, Fault, Part, PlayedCamera, Player

gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gio, GLib, GstRtsp, GstRtspServer  # noqa: E402 - versions first

if TYPE_CHECKING:
    from typing import TypeAlias

__all__ = ["Certificate", "Login", "RtspServer"]

_ELEMENTS = ("appsrc", "h264parse", "h265parse", "rtph264pay", "rtph265pay")
_LAUNCH: dict[Codec, str] = {
    "h264": f"( {SOURCE} ! h264parse config-interval=-1 ! rtph264pay name=pay0 pt=96 )",
    "h265": f"( {SOURCE} ! h265parse config-interval=-1 ! rtph265pay name=pay0 pt=96 )",
}
_ROLE = "viewer"
_THREADS = 4
"""Clients are served by so many: a stream that is made when somebody first asks for it must not hold up the others."""
_STEP_TIMEOUT_S = 10.0
_CLEANUP_S = 10
_Path: TypeAlias = tuple[PlayedCamera, Part]


@dataclass(frozen=True, slots=True)
class Login:
    """What a camera asks for."""

    user: str
    password: str


@dataclass(frozen=True, slots=True)
class Certificate:
    """A server's certificate and key, PEM."""

    pem: bytes
    key: bytes


class RtspServer:
    """Serves each camera at ``/NAME`` and its smaller stream at ``/NAME/sub``.

    Concurrency: GLib's loop runs on a thread of its own, clients on others; cameras may be broken from any thread.

    Args:
        cameras: what is served.
        address: to listen on.
        port: to listen on; 0 for one that is free.
        login: what clients must know; nothing where None.
        certificate: serve ``rtsps`` only, with this.

    Raises:
        PermanentError: a part of GStreamer is missing.
    """

    def __init__(
        self,
        cameras: Sequence[PlayedCamera],
        *,
        address: str,
        port: int,
        login: Login | None,
        certificate: Certificate | None,
    ) -> None:
        require_elements(_ELEMENTS)
        self.port = 0
        self._wanted = f"{address}:{port}"
        self._server = GstRtspServer.RTSPServer(address=address, service=str(port))
        pool = GstRtspServer.RTSPThreadPool()
        pool.set_max_threads(_THREADS)
        self._server.set_thread_pool(pool)
        self._server.connect("client-connected", self._on_client)
        self._login = login
        if login is not None or certificate is not None:
            self._server.set_auth(_auth(login, certificate))
        self._streams: dict[str, _Path] = {}
        self._players: dict[PlayedCamera, list[Player]] = {}
        self._clients: dict[Any, PlayedCamera] = {}
        for camera in cameras:
            self._players[camera] = []
            self._serve(camera)

    def start(self) -> None:
        """Listen.

        Raises:
            PermanentError: the port is taken.
        """
        if not self._server.attach(None):
            raise PermanentError(f"cannot listen on {self._wanted}: it is already in use; give another --rtsp PORT")
        self.port = self._server.get_bound_port()
        GLib.timeout_add_seconds(_CLEANUP_S, self._forget_the_silent)
        threading.Thread(target=GLib.MainLoop().run, name="rtsp", daemon=True).start()

    def _forget_the_silent(self) -> bool:
        """Clients over UDP that were killed have said nothing."""
        self._server.get_session_pool().cleanup()
        return True

    def _serve(self, camera: PlayedCamera) -> None:
        factories = {}
        paths: dict[Part, str] = {"main": f"/{camera.name}", "sub": f"/{camera.name}/sub"}
        for part, path in paths.items():
            factory = GstRtspServer.RTSPMediaFactory()
            # Each client has a pipeline of its own: a shared one refuses who comes (503) while the last one leaves.
            factory.set_shared(False)
            factory.connect("media-configure", partial(self._on_media, camera, part))
            factory.set_launch(_LAUNCH["h264"])
            factory.set_permissions(_permissions(public=self._login is None))
            self._server.get_mount_points().add_factory(path, factory)
            self._streams[path] = (camera, part)
            factories[part] = factory
        factories["main"].set_launch(_LAUNCH[camera.clip("main").codec])
        camera.on_fault(partial(self._on_fault, camera, factories["main"]))

    def _on_media(self, camera: PlayedCamera, part: Part, _factory: object, media: Any) -> None:  # noqa: ANN401
        player = Player(camera, part, media.get_element().get_by_name("src"))
        self._players[camera].append(player)
        media.connect("unprepared", lambda _media: self._players[camera].remove(player))

    def _on_client(self, _server: object, client: Any) -> None:  # noqa: ANN401 - GStreamer has no types
        client.connect("pre-describe-request", self._on_request)
        client.connect("pre-setup-request", self._on_request)
        client.connect("closed", lambda client: self._clients.pop(client, None))

    def _on_request(self, client: Any, context: Any) -> Any:  # noqa: ANN401 - GStreamer has no types
        """Whose picture a client wants, and whether it gets any."""
        path = context.uri.abspath
        camera, _ = self._streams.get(path) or self._streams.get(path.rpartition("/")[0]) or (None, None)
        if camera is None:
            return GstRtsp.RTSPStatusCode.OK  # the server itself says that it does not know it
        self._clients[client] = camera
        refusals = {
            "404": GstRtsp.RTSPStatusCode.NOT_FOUND,
            "password": GstRtsp.RTSPStatusCode.UNAUTHORIZED,
        }
        return refusals.get(camera.fault, GstRtsp.RTSPStatusCode.OK)

    def _on_fault(self, camera: PlayedCamera, factory: Any, old: Fault, new: Fault) -> None:  # noqa: ANN401
        done = threading.Event()

        def step() -> bool:
            if "codec" in (old, new):
                factory.set_launch(_LAUNCH[camera.clip("main").codec])
            if new in ("drop", "404", "password") or "codec" in (old, new):
                self._server.client_filter(partial(self._belongs, camera))
            done.set()
            return False

        GLib.idle_add(step, priority=GLib.PRIORITY_HIGH)
        done.wait(_STEP_TIMEOUT_S)
        if old == "freeze" and new != "freeze":
            for player in list(self._players[camera]):
                player.resume()

    def _belongs(self, camera: PlayedCamera, _server: object, client: Any, *_: object) -> Any:  # noqa: ANN401
        mine = self._clients.get(client) is camera
        return GstRtspServer.RTSPFilterResult.REMOVE if mine else GstRtspServer.RTSPFilterResult.KEEP


def _auth(login: Login | None, certificate: Certificate | None) -> Any:  # noqa: ANN401 - GStreamer has no types
    auth = GstRtspServer.RTSPAuth()
    if certificate is not None:
        text = (certificate.pem + certificate.key).decode()
        auth.set_tls_certificate(Gio.TlsCertificate.new_from_pem(text, -1))
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", _ROLE)
    if login is None:
        auth.set_default_token(token)
    else:
        # As most cameras have it; a client that speaks Basic only is refused by them too.
        auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
        auth.add_digest(login.user, login.password, token)
    return auth


def _permissions(*, public: bool) -> Any:  # noqa: ANN401 - GStreamer has no types
    permissions = GstRtspServer.RTSPPermissions()
    for role in (_ROLE, "anonymous") if public else (_ROLE,):
        permissions.add_role(role)
        permissions.add_permission_for_role(role, "media.factory.access", True)  # noqa: FBT003 - C's order
        permissions.add_permission_for_role(role, "media.factory.construct", True)  # noqa: FBT003 - C's order
    return permissions
