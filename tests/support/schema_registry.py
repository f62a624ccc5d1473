"""A schema registry's side of the conversation, as Confluent documents it; not a registry: it knows no compatibility.

Source: Confluent Schema Registry API, subjects.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

__all__ = ["RegistryServer", "running_registry"]

_TYPE = "application/vnd.schemaregistry.v1+json"


class RegistryServer(ThreadingHTTPServer):
    """Takes schemas.

    Attributes:
        subjects: what was registered.
        login: ``user:password`` that it asks for; empty: none.
        answers: statuses of the next answers, before it takes anything.
        asked: how many requests came.
    """

    daemon_threads = True

    def __init__(self) -> None:
        self.subjects: dict[str, dict[str, object]] = {}
        self.login = ""
        self.answers: list[int] = []
        self.asked = 0
        super().__init__(("127.0.0.1", 0), _Request)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.server_port}"


class _Request(BaseHTTPRequestHandler):
    server: RegistryServer

    def do_POST(self) -> None:
        """POST /subjects/(subject)/versions."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked += 1
        wanted = f"Basic {base64.b64encode(self.server.login.encode()).decode()}"
        if self.server.login and self.headers.get("Authorization") != wanted:
            self._answer(401, {"error_code": 40101, "message": "Unauthorized"})
        elif self.server.answers:
            status = self.server.answers.pop(0)
            self._answer(status, {"error_code": status, "message": "as the test wants it"})
        else:
            self._register(body)

    def _register(self, body: dict[str, object]) -> None:
        nothing, subjects, subject, versions = self.path.split("/")
        if (nothing, subjects, versions) != ("", "subjects", "versions"):
            self._answer(404, {"error_code": 404, "message": "HTTP 404 Not Found"})
        elif body.keys() != {"schemaType", "schema"} or self.headers["Content-Type"] != _TYPE:
            self._answer(422, {"error_code": 42201, "message": "Invalid schema"})
        else:
            known = self.server.subjects
            known[unquote(subject)] = body
            self._answer(200, {"id": len(known)})

    def _answer(self, status: int, answer: dict[str, object]) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", _TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Quiet."""


@contextmanager
def running_registry() -> Iterator[RegistryServer]:
    """One that runs."""
    with RegistryServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
