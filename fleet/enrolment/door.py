"""The authority's door, opened inside another process for as long as nobody else keeps it open."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from broker.authority import Authority
from config import ConfigError, get_logger
from config.settings import BrokerSettings
from fleet.enrolment.server import EnrolmentServer, announced, announced_port
from fleet.enrolment.shelf import Shelf
from fleet.enrolment.wire import DEFAULT_PORT

__all__ = ["Door", "open_door"]


class Door:
    """The door of `vigil ca serve`, opened when its port and its lock can be had.

    Concurrency: one thread.

    Args:
        authority: decides who is let in.
        broker: whose ports are told to those who join.
        port: TCP port.
        shelf: what members fetch.
    """

    def __init__(self, authority: Authority, broker: BrokerSettings, *, port: int, shelf: Shelf) -> None:
        self._authority = authority
        self._broker = broker
        self._port = port
        self._shelf = shelf
        self._opened: ExitStack | None = None
        self._why = ""

    @property
    def is_open(self) -> bool:
        """Whether it is open here."""
        return self._opened is not None

    def tend(self) -> None:
        """Open it where it is not open."""
        if self._opened is not None:
            return
        with ExitStack() as stack:
            try:
                server = EnrolmentServer(self._authority, self._broker, host="", port=self._port, shelf=self._shelf)
                # Not started yet: one that only stands for a moment must not keep a caller waiting.
                stack.callback(server.close)
                stack.enter_context(announced(self._authority.folder, server.port))
            except ConfigError as error:
                self._tell_closed(str(error))
                return
            server.start()
            self._opened, self._why = stack.pop_all(), ""

    def close(self) -> None:
        """Let nobody else in; connections under way have their seconds."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def _tell_closed(self, why: str) -> None:
        if why != self._why:
            self._why = why
            get_logger().info("enrol.elsewhere", reason=why)


@contextmanager
def open_door(authority: Authority, broker: BrokerSettings, port: int | None) -> Iterator[int]:
    """Where a node can come in: where the authority's door is open on this machine, else at one of our own.

    Args:
        authority: decides who is let in.
        broker: whose ports are told to those who join.
        port: that it must be; None for any.

    Yields:
        The TCP port.

    Raises:
        ConfigError: that port cannot be had.
    """
    served = announced_port(authority.folder)
    if served is not None and port in (None, served):
        yield served
        return
    try:
        server = EnrolmentServer(authority, broker, host="", port=DEFAULT_PORT if port is None else port)
    except ConfigError:
        if port is not None:
            raise
        server = EnrolmentServer(authority, broker, host="", port=0)
    server.start()
    try:
        yield server.port
    finally:
        server.close()
