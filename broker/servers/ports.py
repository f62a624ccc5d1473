"""TCP ports of the brokers that Vigil runs."""

from __future__ import annotations

import socket

from config.errors import ConfigError

__all__ = ["LOOPBACK", "check_port_free"]

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


def check_port_free(host: str, port: int) -> None:
    """Make sure that a server can listen there.

    Raises:
        ConfigError: somebody else does already, or the address is not this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port} ({error.strerror or error}): stop what listens there, "
            "or choose another port with --port",
            field="broker.port",
        ) from error
