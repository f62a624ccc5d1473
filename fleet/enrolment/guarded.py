"""HTTPS for strangers: everything is bounded, and nothing that they send is repeated to anybody."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

__all__ = ["GuardedHandler", "GuardedServer", "ends_after"]


@contextmanager
def ends_after(connection: socket.socket, seconds: float) -> Iterator[None]:
    """Cut the connection when the time is over: who sends, or takes, a byte now and then never times out by itself."""
    deadline = threading.Timer(seconds, _cut, (connection,))
    deadline.start()
    try:
        yield
    finally:
        deadline.cancel()


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


class GuardedServer(ThreadingHTTPServer):
    """So many connections at a time, and so many seconds for each of them, its handshake included.

    Concurrency: one thread takes connections, each is served on a thread of its own.

    Args:
        address: where it listens.
        handler: answers one connection.
        tls: how connections are secured; asked for each.
        connections_max: further ones are closed at once.
        connection_s: seconds for all of a connection.
        on_fault: called with the caller's address when a connection ends in an error.

    Attributes:
        connection_s: as above.
    """

    daemon_threads = True

    def __init__(
        self,
        address: tuple[str, int],
        handler: type[GuardedHandler],
        *,
        tls: Callable[[], ssl.SSLContext],
        connections_max: int,
        connection_s: float,
        on_fault: Callable[[str], None],
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.request_queue_size = connections_max
        self.connection_s = connection_s
        self._tls = tls
        self._on_fault = on_fault
        self._handler = handler
        self._slots = threading.BoundedSemaphore(connections_max)
        super().__init__(address, handler)

    def server_bind(self) -> None:
        """Without the library's look-up of a host name, which nobody needs and which may take seconds."""
        TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as socketserver has it
        """Serve a connection on a thread of its own, or close it where too many are open."""
        if not self._slots.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as above
        """Serve it, and give its place free."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def finish_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as above
        """Secure it and answer, in the time that it has."""
        request.settimeout(self.connection_s)
        with self._tls().wrap_socket(request, server_side=True, do_handshake_on_connect=False) as connection:
            with ends_after(connection, self.connection_s):
                connection.do_handshake()
                handler = self._handler(connection, client_address, self)
            handler.send_rest(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as above
        """Tell the log, and nobody else."""
        del request
        self._on_fault(str(client_address[0]))


class GuardedHandler(BaseHTTPRequestHandler):
    """Answers in few words."""

    connection: ssl.SSLSocket

    def send_rest(self, connection: ssl.SSLSocket) -> None:
        """Send what takes longer than a connection may, once its head was sent."""

    def answer(self, status: HTTPStatus, content: bytes = b"", kind: str = "text/plain; charset=utf-8") -> None:
        """All of an answer."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """A status and nothing else: the page of the library repeats what was asked."""
        del message, explain
        self.answer(HTTPStatus(code))

    def version_string(self) -> str:
        """Not which Python this is."""
        return "vigil"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as http.server has it
        """Nothing: it would repeat to a terminal what a stranger has written."""
