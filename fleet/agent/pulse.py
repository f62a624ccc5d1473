"""What a child process says of itself, in the words of systemd's notify protocol: that it works, and goes on."""

from __future__ import annotations

import socket
from pathlib import Path

__all__ = ["Pulse"]

_DATAGRAM_BYTES = 4096


class Pulse:
    """The notify socket of one child, and what it has said there since its last start.

    Concurrency: one thread.

    Args:
        path: of the socket; short, for a Unix socket's path has 107 bytes.
        patience_s: seconds of silence after which a child that has said it works counts as hanging.

    Attributes:
        ready: it has said that it works.
        status: its state in a line.

    Source: sd_notify(3); :class:`config.service.Service` is the other end.
    """

    def __init__(self, path: Path, patience_s: float) -> None:
        self.ready = False
        self.status = ""
        self._heard_s = 0.0
        self._path = path
        self._patience_s = patience_s
        path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._socket.bind(str(path))

    @property
    def path(self) -> Path:
        """Where it listens."""
        return self._path

    @property
    def environment(self) -> dict[str, str]:
        """What the child must find in its environment."""
        return {"NOTIFY_SOCKET": str(self._path), "WATCHDOG_USEC": str(round(self._patience_s * 1e6))}

    def begin(self) -> None:
        """Forget what an earlier process said: another one was started."""
        self.listen(0.0)
        self.ready, self.status = False, ""

    def listen(self, now_s: float) -> None:
        """Take in what was said; `now_s` is monotonic seconds."""
        while True:
            try:
                said = self._socket.recv(_DATAGRAM_BYTES)
            except BlockingIOError:
                return
            self._heard_s = now_s
            for line in said.decode(errors="replace").split("\n"):
                name, _, value = line.partition("=")
                if name == "READY":
                    self.ready = True
                elif name == "STATUS":
                    self.status = value[:256]

    def hangs(self, now_s: float) -> bool:
        """Whether a child that works has not said for too long that it goes on."""
        return self.ready and now_s - self._heard_s > self._patience_s

    def close(self) -> None:
        """Listen no more."""
        self._socket.close()
        self._path.unlink(missing_ok=True)
