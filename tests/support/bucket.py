"""An object store of one bucket on loopback, as S3 speaks, that refuses when it is told to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import pytest

__all__ = ["Bucket", "running_bucket"]


class Bucket(ThreadingHTTPServer):
    """Takes objects, until it is told not to.

    Attributes:
        objects: content by path, the bucket's name first.
        signed: the login of each request so far.
        refuses: whether it answers 403.
    """

    daemon_threads = True

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.signed: list[str] = []
        self.refuses = False
        super().__init__(("127.0.0.1", 0), _Request)


class _Request(BaseHTTPRequestHandler):
    server: Bucket

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.signed.append(self.headers.get("Authorization", ""))
        path, _, query = self.path.partition("?")
        name = unquote(path)
        if not self.server.refuses:
            before = self.server.objects.get(name, b"") if "partNumber" in query else b""
            self.server.objects[name] = before + body
        self._answer(b"")

    def do_POST(self) -> None:
        """Begin and end an upload in parts. Source: Amazon S3 API Reference, CreateMultipartUpload."""
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        begins = self.path.endswith("uploads=") or self.path.endswith("uploads")
        kind = "InitiateMultipartUploadResult" if begins else "CompleteMultipartUploadResult"
        self._answer(
            f"<{kind}><Bucket>footage</Bucket><Key>k</Key><UploadId>7</UploadId><ETag>1</ETag></{kind}>".encode()
        )

    def _answer(self, body: bytes) -> None:
        self.send_response(403 if self.server.refuses else 200)
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Quiet."""


@contextmanager
def running_bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """One that the environment points to, with the login that S3's own tools use."""
    with Bucket() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "the-key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "the-secret")
        monkeypatch.setenv("AWS_REGION", "eu-west-1")
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
