"""What `vigil up` asks of the machine itself: ports, and that nobody else runs on the same state folder."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from config import PermanentError

__all__ = ["answers", "free_port", "hold_state", "port_is_free"]


def port_is_free(host: str, port: int) -> bool:
    """Whether somebody can listen there."""
    try:
        with _bound(host, port):
            return True
    except OSError:
        return False


def free_port(host: str) -> int:
    """A port that nobody listens on now."""
    with _bound(host, 0) as listener:
        return int(listener.getsockname()[1])


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
