"""Who hands out tokens (OIDC, client credentials): a web server on loopback."""

from __future__ import annotations

import base64
import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs

__all__ = ["TokenServer"]

_LIFETIME_S = 600


@dataclass(slots=True)
class TokenServer:
    """Hands a token, which nobody signed, to the client that knows the secret.

    Source: RFC 6749, section 4.4 (client credentials); RFC 7519, section 6 (unsecured JWT).

    Attributes:
        asked: the fields of each request so far.
    """

    client_id: str = "vigil-bridge"
    client_secret: str = "t0ken s3cret"
    user: str = "vigil"
    asked: list[dict[str, list[str]]] = field(default_factory=list)
    _server: ThreadingHTTPServer | None = None
    _thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where it is asked."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.server_address[1]}/token"

    def __enter__(self) -> Self:
        """Start it."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.asked.append(parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode()))
                kind, _, login = self.headers.get("Authorization", "").partition(" ")
                known = kind == "Basic" and base64.b64decode(login).decode() == outer.login
                answer = outer.token() if known else {"error": "invalid_client"}
                body = json.dumps(answer).encode()
                self.send_response(200 if known else 401)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
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

    @property
    def login(self) -> str:
        """What the right client says of itself."""
        return f"{self.client_id}:{self.client_secret}"

    def token(self) -> dict[str, object]:
        """An answer."""
        now_s = int(time.time())
        claims = {"sub": self.user, "iat": now_s, "exp": now_s + _LIFETIME_S}
        token = f"{_part({'alg': 'none'})}.{_part(claims)}."
        return {"access_token": token, "token_type": "Bearer", "expires_in": _LIFETIME_S}


def _part(content: dict[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")
