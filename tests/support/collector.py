"""An OpenTelemetry collector: takes spans over HTTP, and can refuse them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

__all__ = ["Collector", "ReceivedSpan", "collector"]


@dataclass(frozen=True)
class ReceivedSpan:
    """A span as it came, ids in hex."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    start_ns: int
    end_ns: int
    attributes: dict[str, str | int | float]
    resource: dict[str, str]


class Collector:
    """What came so far, and how the next request is answered."""

    def __init__(self) -> None:
        self.spans: list[ReceivedSpan] = []
        self.paths: set[str] = set()
        self.status = 200
        self.refused = 0
        self.url = ""

    def take(self, path: str, body: bytes) -> int:
        self.paths.add(path)
        if self.status != 200:
            self.refused += 1
            return self.status
        request = ExportTraceServiceRequest.FromString(body)
        for whole in request.resource_spans:
            resource = {pair.key: pair.value.string_value for pair in whole.resource.attributes}
            for scope in whole.scope_spans:
                for span in scope.spans:
                    self.spans.append(
                        ReceivedSpan(
                            resource["service.name"],
                            span.name,
                            span.trace_id.hex(),
                            span.span_id.hex(),
                            span.parent_span_id.hex(),
                            span.start_time_unix_nano,
                            span.end_time_unix_nano,
                            {p.key: getattr(p.value, p.value.WhichOneof("value") or "") for p in span.attributes},
                            resource,
                        )
                    )
        return 200

    def named(self, name: str) -> list[ReceivedSpan]:
        """The spans of one step."""
        return [span for span in list(self.spans) if span.name == name]


@contextmanager
def collector() -> Iterator[Collector]:
    """A collector on a free port of this machine."""
    received = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            status = received.take(self.path, self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Nothing is printed."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

    server = Server(("127.0.0.1", 0), Handler)
    received.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield received
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
