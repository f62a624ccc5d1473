"""What `vigil up` asks of the machine itself: ports, and that nobody else runs on the same state folder."""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from config import PermanentError

__all__ = ["PortClaims", "answers", "hold_state"]


class PortClaims:
    """Ports that this process keeps for the roles that it is about to start.

    A port that is free when one `vigil up` looks is often still free when a second one does, a moment before the
    first one's broker listens; both would then meet on one broker. So each port is claimed by a lock that lasts as
    long as this object, or this process.
    """

    def __init__(self) -> None:
        self._folder = Path(tempfile.gettempdir()) / f"vigil-ports-{os.getuid()}"
        self._held: list[int] = []

    def take(self, host: str, port: int) -> bool:
        """Claim a port that nobody listens on and nobody else has claimed; whether that worked."""
        return _is_free(host, port) and self._lock(port)

    def take_any(self, host: str) -> int:
        """Claim some free port."""
        while True:
            with _bound(host, 0) as listener:
                port = int(listener.getsockname()[1])
            if self.take(host, port):
                return port

    def _lock(self, port: int) -> bool:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(self._folder / f"{port}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._held.append(descriptor)
        return True

    def __enter__(self) -> Self:
        """Nothing is claimed yet."""
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Let go of every claim."""
        while self._held:
            os.close(self._held.pop())


def _is_free(host: str, port: int) -> bool:
    try:
        with _bound(host, port):
            return True
    except OSError:
        return False


def answers(host: str, port: int, timeout_s: float = 0.2) -> bool:
    """Whether something takes connections there."""
    try:
        with socket.create_connection((host, port), timeout_s):
            return True
    except OSError:
        return False


def _bound(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener


@contextmanager
def hold_state(state_dir: Path) -> Iterator[None]:
    """Keep the state folder to this process; the operating system lets go of it also when the process is killed.

    Raises:
        PermanentError: somebody else has it, or the folder cannot be written.
    """
    path = state_dir / "up.lock"
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise PermanentError(
            f"state folder {state_dir} cannot be used ({error.strerror}): choose another with --state DIR"
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            raise PermanentError(
                f"another `vigil up` (process {owner}) runs on {state_dir}: stop that one, or give this one a "
                "folder of its own with `vigil --state DIR up`"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
