"""A role's way to the broker: a TCP proxy that can be cut, stalled, slowed, or made to repeat.

What it does to the bytes is what networks do: TCP never loses a byte in the middle of a connection that goes on, so
what is swallowed ends with a reset.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from console.chaos.packets import PacketSplitter

__all__ = ["Link", "LinkState", "Switchboard"]

_HOST = "127.0.0.1"
_CHUNK_BYTES = 65_536
_THROTTLED_CHUNK_BYTES = 1_024
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER, on, for no time: closing sends a TCP reset. Source: socket(7)."""
_FLUSH_S = 2.0
_CLOSE_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class LinkState:
    """What a link does to what passes.

    Attributes:
        refusing: new connections are closed at once.
        stalled: nothing passes, and everything passes later.
        swallowing: everything is read and thrown away.
        delay_s: how much later every piece comes.
        bytes_per_s: the most that passes; 0 is no limit.
        repeating: every PUBLISH of QoS 1 comes twice.
    """

    refusing: bool = False
    stalled: bool = False
    swallowing: bool = False
    delay_s: float = 0.0
    bytes_per_s: float = 0.0
    repeating: bool = False


@dataclass(eq=False, slots=True)
class _Side:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    finished: bool = False
    """Its direction was half-closed: what it still sends goes nowhere."""

    def reset(self) -> None:
        link = self.writer.get_extra_info("socket")
        if link is not None:
            with contextlib.suppress(OSError):
                link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.writer.transport.abort()

    async def end(self) -> None:
        """Send what is still to be sent, for a while."""
        self.writer.close()
        try:
            async with asyncio.timeout(_FLUSH_S):
                await self.writer.wait_closed()
        except (TimeoutError, asyncio.CancelledError):
            self.writer.transport.abort()
            raise


@dataclass(eq=False, slots=True)
class _Connection:
    client: _Side
    broker: _Side


@dataclass(eq=False)
class Link:
    """One proxy. Everything but `port` belongs to the loop's thread.

    Attributes:
        port: where the role connects.
    """

    name: str
    port: int
    broker_port: int
    state: LinkState = field(default_factory=LinkState)
    connections: set[_Connection] = field(default_factory=set)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def change(self, state: LinkState) -> None:
        """Take on a state; those that wait look again."""
        self.state = state
        self.changed.set()
        self.changed = asyncio.Event()

    def close_all(self) -> None:
        """End every connection in order, as far as it has come."""
        for connection in tuple(self.connections):
            connection.client.writer.close()
            connection.broker.writer.close()

    def reset_all(self, *, half_closed: bool = False) -> None:
        """End every connection, or only those that were half-closed, with a TCP reset."""
        for connection in tuple(self.connections):
            if not half_closed or connection.client.finished or connection.broker.finished:
                connection.client.reset()
                connection.broker.reset()

    def heal(self) -> None:
        """Be an ordinary link again. A connection that has lost bytes cannot go on, so it ends."""
        lossy = self.state.swallowing
        self.change(LinkState())
        self.reset_all(half_closed=not lossy)

    def half_close(self, *, from_broker: bool) -> None:
        """End one direction of every connection."""
        for connection in tuple(self.connections):
            source, target = connection.client, connection.broker
            if from_broker:
                source, target = target, source
            source.finished = True
            with contextlib.suppress(OSError):
                target.writer.write_eof()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection from its begin to its end."""
        client = _Side(reader, writer)
        if self.state.refusing:
            client.reset()
            return
        try:
            broker = _Side(*await asyncio.open_connection(_HOST, self.broker_port))
        except OSError:
            client.reset()
            return
        connection = _Connection(client, broker)
        self.connections.add(connection)
        try:
            await self._carry(client, broker)
        finally:
            self.connections.discard(connection)
            await asyncio.gather(client.end(), broker.end(), return_exceptions=True)

    async def _carry(self, client: _Side, broker: _Side) -> None:
        """Both directions, until one of them ends other than by a half-close."""
        pumps = {
            asyncio.ensure_future(self._pump(client, broker)),
            asyncio.ensure_future(self._pump(broker, client)),
        }
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(self, source: _Side, target: _Side) -> None:
        splitter = PacketSplitter()
        with contextlib.suppress(OSError):
            while chunk := await self._read(source):
                if source.finished:
                    continue
                await self._pass(splitter.feed(chunk, repeat=self.state.repeating), target)

    async def _read(self, source: _Side) -> bytes:
        return await source.reader.read(_THROTTLED_CHUNK_BYTES if self.state.bytes_per_s else _CHUNK_BYTES)

    async def _pass(self, chunk: bytes, target: _Side) -> None:
        if self.state.delay_s:
            await asyncio.sleep(self.state.delay_s)
        if self.state.bytes_per_s:
            await asyncio.sleep(len(chunk) / self.state.bytes_per_s)
        while self.state.stalled:
            await self.changed.wait()
        if not self.state.swallowing:
            target.writer.write(chunk)
            await target.writer.drain()


class Switchboard:
    """The links of one mesh.

    Concurrency: its loop has a thread of its own; every method may be called from any other, and returns when it is
    done.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="links", daemon=True)
        self._links: dict[str, Link] = {}
        self._servers: list[asyncio.Server] = []

    def open(self, name: str, broker_port: int) -> int:
        """Make a link; the port on loopback where its role connects."""
        return asyncio.run_coroutine_threadsafe(self._open(name, broker_port), self._loop).result()

    async def _open(self, name: str, broker_port: int) -> int:
        link = Link(name, 0, broker_port)
        server = await asyncio.start_server(link.serve, _HOST, 0)
        link.port = server.sockets[0].getsockname()[1]
        self._servers.append(server)
        self._links[name] = link
        return link.port

    def do(self, name: str, action: Callable[[Link], None]) -> None:
        """Let `action` have a link, on the loop's thread."""

        async def act() -> None:
            action(self._links[name])

        asyncio.run_coroutine_threadsafe(act(), self._loop).result()

    def __enter__(self) -> Self:
        """Start the loop."""
        self._thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """End every connection and every link."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(_CLOSE_TIMEOUT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLOSE_TIMEOUT_S)
        self._loop.close()

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        for link in self._links.values():
            link.reset_all()
        own = asyncio.current_task()
        others = [task for task in asyncio.all_tasks() if task is not own]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
