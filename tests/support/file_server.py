"""A web server on loopback that hands out files, and breaks in the ways in which servers do."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

__all__ = ["FileServer", "Served"]


@dataclass(slots=True)
class Served:
    """One file, as the server has it now.

    Attributes:
        content: its bytes.
        tag: its entity tag; empty where the server says none.
        ranges: whether parts of it can be had.
        cut_after: the connection ends after so many bytes of an answer; once.
        length: whether its length is said.
        status: the answer, when it is not the file.
        location: where else it is.
    """

    content: bytes
    tag: str = '"1"'
    ranges: bool = True
    cut_after: int | None = None
    length: bool = True
    status: int = 200
    location: str = ""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Whoever asked has left in the middle: that is what the tests are about."""


@dataclass(slots=True)
class FileServer:
    """Files by path.

    Attributes:
        files: what it has; may be changed at any time.
        asked: the headers of each request so far.
    """

    files: dict[str, Served] = field(default_factory=dict)
    asked: list[dict[str, str]] = field(default_factory=list)
    _server: ThreadingHTTPServer | None = None
    _thread: threading.Thread | None = None

    def url(self, path: str, login: str = "") -> str:
        """The address of a file."""
        assert self._server is not None
        return f"http://{login}127.0.0.1:{self._server.server_address[1]}/{path}"

    def __enter__(self) -> Self:
        """Start it."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(dict(self.headers))
                _answer(self, outer.files.get(self.path.lstrip("/")))

            def log_message(self, *_: object) -> None:
                pass

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """End it."""
        assert self._server is not None
        assert self._thread is not None
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


def _answer(handler: BaseHTTPRequestHandler, file: Served | None) -> None:
    if file is None or file.status != 200:
        handler.send_response(404 if file is None else file.status)
        if file is not None and file.location:
            handler.send_header("Location", file.location)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return
    start = _start(handler, file)
    body = file.content[start:]
    if start == len(file.content) and start:
        handler.send_response(416)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return
    handler.send_response(206 if start else 200)
    if start:
        handler.send_header("Content-Range", f"bytes {start}-{len(file.content) - 1}/{len(file.content)}")
    if file.tag:
        handler.send_header("ETag", file.tag)
    if file.length:
        handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    cut, file.cut_after = file.cut_after, None
    handler.wfile.write(body if cut is None else body[:cut])
    handler.close_connection = True


def _start(handler: BaseHTTPRequestHandler, file: Served) -> int:
    asked = handler.headers.get("Range", "")
    if not asked or not file.ranges or handler.headers.get("If-Range", file.tag) != file.tag:
        return 0
    return int(asked.removeprefix("bytes=").removesuffix("-"))
