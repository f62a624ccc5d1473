"""`vigil console`: the web page and its API. With `web_guard`, the only home of the web framework.

The page is plain files of this package. Live, it gets two things over one WebSocket: JSON messages, and pictures as the
very bytes that came on the bus, metadata inside.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import click
import msgspec
import uvicorn
from fastapi import FastAPI, HTTPException, Response, WebSocket, WebSocketDisconnect
from fastapi.staticfiles import StaticFiles

from broker import CONTRACT, Bus, Delivery, Figures, Presence, connect
from config import ConfigError, get_logger
from config.settings import Settings
from console.live import LiveFeed, PageMailbox
from console.loading import SettingsLoader
from console.mesh import MeshView
from console.web_guard import Guard, own_names

__all__ = ["console", "create_app"]

ROLE = "console"
STATIC = Path(__file__).parent / "static"
MESH_INTERVAL_S = 1.0
"""Seconds between two messages with the figures of the mesh."""
GOODBYE_S = 2


class Pages:
    """The bus on one side, the pages on the other.

    Args:
        site: the site's name.
        bus: the bus of this process; not started.
    """

    def __init__(self, site: str, bus: Bus) -> None:
        self.view = MeshView()
        self.feed = LiveFeed()
        self.site = site
        self.bus = bus
        for line in CONTRACT:
            bus.subscribe(line, self._on_delivery)

    def _on_delivery(self, delivery: Delivery) -> None:
        if self.view.fold(delivery, time.monotonic()):
            self.feed.on_delivery(delivery)

    def spread_mesh(self) -> None:
        """Tell every page the figures of the mesh as they are now."""
        if self.feed.pages:
            mesh = self.view.snapshot(time.monotonic())
            self.feed.spread(
                "mesh",
                site=self.site,
                bus_connected=self.bus.connected,
                cameras=mesh.cameras,
                roles=mesh.roles,
                rejects=mesh.rejects,
                late_scores=mesh.late_scores,
            )

    def figures(self) -> Figures:
        """What this process adds to its health."""
        missed = self.feed.missed()
        return Figures(
            drops={"page_frames": missed.frames, "page_events": missed.events}, counts={"pages": self.feed.pages}
        )


def create_app(pages: Pages, *, names: frozenset[str]) -> FastAPI:
    """The web application.

    Args:
        pages: what it shows.
        names: host names that a browser may use for it.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        ticking = asyncio.create_task(_tell_mesh(pages))
        yield
        ticking.cancel()

    # No generated documentation pages: they load their scripts from the internet.
    app = FastAPI(title="Vigil", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard, names=names)
    _add_api(app, pages)
    app.mount("/", StaticFiles(directory=STATIC, html=True))
    return app


async def _tell_mesh(pages: Pages) -> None:
    while True:
        pages.spread_mesh()
        await asyncio.sleep(MESH_INTERVAL_S)


def _add_api(app: FastAPI, pages: Pages) -> None:
    feed = pages.feed

    @app.get("/api/health")
    async def health() -> Response:
        return _json(
            {
                "status": "ok",
                "site": pages.site,
                "bus_connected": pages.bus.connected,
                "pages": feed.pages,
                "missed": feed.missed()._asdict(),
            }
        )

    @app.get("/api/cameras")
    async def cameras() -> Response:
        return _json({"cameras": pages.view.snapshot(time.monotonic()).cameras})

    @app.get("/api/cameras/{name}/frame.jpg")
    async def frame(name: str) -> Response:
        return _jpeg(feed.frame(name), f"no picture of camera {name!r} has come yet")

    @app.get("/api/escalations")
    async def escalations() -> Response:
        return _json({"escalations": feed.escalations()})

    @app.get("/api/escalations/{event_id}/evidence.jpg")
    async def evidence(event_id: str) -> Response:
        return _jpeg(feed.picture(event_id), f"no picture of escalation {event_id!r} is kept here")

    @app.websocket("/api/live")
    async def live(page: WebSocket) -> None:
        await _serve_page(page, pages)


def _json(content: object) -> Response:
    return Response(msgspec.json.encode(content), media_type="application/json")


def _jpeg(picture: bytes | None, otherwise: str) -> Response:
    if picture is None:
        raise HTTPException(404, otherwise)
    return Response(picture, media_type="image/jpeg")


async def _serve_page(socket: WebSocket, pages: Pages) -> None:
    await socket.accept()
    loop = asyncio.get_running_loop()
    waiting = asyncio.Event()

    def wake() -> None:
        loop.call_soon_threadsafe(waiting.set)

    mailbox = PageMailbox(wake)
    pages.feed.join(mailbox)
    pages.spread_mesh()
    sending = asyncio.create_task(_send_waiting(socket, mailbox, waiting))
    try:
        while (await socket.receive())["type"] != "websocket.disconnect":
            pass  # a page has nothing to say
    finally:
        pages.feed.leave(mailbox)
        sending.cancel()


async def _send_waiting(socket: WebSocket, mailbox: PageMailbox, waiting: asyncio.Event) -> None:
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        while True:
            await waiting.wait()
            waiting.clear()
            for item in mailbox.take():
                await (socket.send_bytes(item) if isinstance(item, bytes) else socket.send_text(item))


class _Server(uvicorn.Server):
    """uvicorn's server with our signals: its own are raised again at its end, and a role asked to stop ends with 0."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.leave)
        yield

    def leave(self) -> None:
        """End in order."""
        self.should_exit = True


@click.command()
@click.option("--host", metavar="ADDRESS", help="Address to listen on; default 127.0.0.1.")
@click.option("--port", type=click.IntRange(1, 65535), help="TCP port; default 8126.")
@click.pass_context
def console(ctx: click.Context, *, host: str | None, port: int | None) -> None:
    """Serve the web page: live pictures with boxes and scores, motion, escalations, counters.

    It has no login yet, so it listens on loopback only unless told otherwise.

    \b
    vigil console
    vigil --bus mqtt://broker.local console --port 8200
    ssh -L 8126:127.0.0.1:8126 node.local           look at a node's page from elsewhere
    """
    load: SettingsLoader = ctx.obj
    settings = load({"console": {"host": host, "port": port}})
    failures: list[Exception] = []
    server: _Server | None = None

    def on_fatal(error: Exception) -> None:
        failures.append(error)
        if server is not None:
            server.leave()

    pages = Pages(settings.site, connect(settings, ROLE, on_fatal=on_fatal))
    app = create_app(pages, names=own_names(settings.console.host))
    server = _Server(
        uvicorn.Config(
            app,
            http="h11",
            ws="websockets-sansio",
            ws_max_size=4096,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=GOODBYE_S,
        )
    )
    with _listen(settings) as listener:
        asyncio.run(_serve(server, listener, pages, settings))
    if failures:
        raise failures[0]


def _listen(settings: Settings) -> socket.socket:
    host, port = settings.console.host, settings.console.port
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=64)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port} ({error.strerror or error}): stop what listens there, or choose another "
            "port with --port",
            field="console.port",
        ) from error


async def _serve(server: _Server, listener: socket.socket, pages: Pages, settings: Settings) -> None:
    presence = Presence(pages.bus, settings, ROLE, figures=pages.figures)
    pages.bus.start()
    presence.start()
    get_logger().info("console.listening", host=settings.console.host, port=settings.console.port)
    try:
        await server.serve(sockets=[listener])
    finally:
        await asyncio.to_thread(presence.close)
        await asyncio.to_thread(pages.bus.close)
