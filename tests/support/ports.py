"""Free ports on loopback."""

from __future__ import annotations

import errno
import random
import socket

__all__ = ["free_port"]

# Below those that Linux gives to outgoing connections, of which a run makes thousands; in an order of this process's
# own, because several processes ask at a time.
_PORTS = random.SystemRandom().sample(range(16_000, 32_000), 16_000)


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on, another one with each call.

    Another process may take it before the caller does; who starts a server on it tries again then, as
    `tests.support.server.start_on_free_port` does.
    """
    while True:
        port = _PORTS.pop()
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return port
