"""Each fault of a link, on real sockets."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from console.chaos.proxy import Link, LinkState, Switchboard
from tests.support.waiting import wait_until

PUBLISH = bytes([0x32, 6]) + b"\x00\x01a\x00\x07!"


class Echo:
    """A server that sends back what it gets, and remembers it."""

    def __init__(self) -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.server.getsockname()[1]
        self.heard = bytearray()
        self.ends = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.server.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while chunk := connection.recv(65_536):
                self.heard += chunk
                connection.sendall(chunk)
        self.ends += 1


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    # Closing alone does not wake the thread in accept().
    server.server.shutdown(socket.SHUT_RDWR)
    server.server.close()


@pytest.fixture
def board() -> Iterator[Switchboard]:
    with Switchboard() as board:
        yield board


@pytest.fixture
def client(echo: Echo, board: Switchboard) -> Iterator[socket.socket]:
    with join(board.open("edge", echo.port)) as client:
        client.sendall(b"\xc0\x00")
        assert client.recv(100) == b"\xc0\x00"
        yield client


def join(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=5)


def set_state(board: Switchboard, state: LinkState) -> None:
    board.do("edge", lambda link: link.change(state))


def test_a_cut_ends_the_connection_on_both_sides(board: Switchboard, echo: Echo, client: socket.socket) -> None:
    board.do("edge", Link.close_all)
    assert client.recv(100) == b""
    wait_until(lambda: echo.ends == 1)


def test_a_refusing_link_resets_newcomers(board: Switchboard, echo: Echo) -> None:
    port = board.open("edge", echo.port)
    set_state(board, LinkState(refusing=True))
    with pytest.raises(ConnectionResetError), join(port) as refused:
        refused.recv(100)
    set_state(board, LinkState(refusing=False))
    with join(port) as welcome:
        welcome.sendall(b"\xc0\x00")
        assert welcome.recv(100) == b"\xc0\x00"


def test_a_reset_is_one(board: Switchboard, client: socket.socket, echo: Echo) -> None:
    board.do("edge", Link.reset_all)
    with pytest.raises(ConnectionResetError):
        client.recv(100)
    wait_until(lambda: echo.ends == 1)


def test_a_stall_holds_everything_back_and_loses_nothing(board: Switchboard, client: socket.socket, echo: Echo) -> None:
    set_state(board, LinkState(stalled=True))
    client.sendall(PUBLISH)
    client.settimeout(0.15)
    with pytest.raises(TimeoutError):
        client.recv(100)
    client.settimeout(5)
    set_state(board, LinkState(stalled=False))
    assert client.recv(100) == PUBLISH


def test_a_black_hole_swallows_and_what_has_lost_bytes_cannot_go_on(
    board: Switchboard, client: socket.socket, echo: Echo
) -> None:
    set_state(board, LinkState(swallowing=True))
    client.sendall(PUBLISH)
    client.settimeout(0.15)
    with pytest.raises(TimeoutError):
        client.recv(100)
    assert bytes(echo.heard) == b"\xc0\x00"
    client.settimeout(5)
    board.do("edge", Link.heal)
    with pytest.raises(ConnectionResetError):
        client.recv(100)


def test_a_publish_comes_twice_in_both_directions(board: Switchboard, client: socket.socket, echo: Echo) -> None:
    set_state(board, LinkState(repeating=True))
    client.sendall(PUBLISH)
    again = bytes([0x3A]) + PUBLISH[1:]
    wait_until(lambda: bytes(echo.heard[2:]) == PUBLISH + again)
    heard = b""
    while len(heard) < 4 * len(PUBLISH):
        heard += client.recv(100)
    assert heard == PUBLISH + again + again + again


def test_a_delay_delays(board: Switchboard, client: socket.socket) -> None:
    set_state(board, LinkState(delay_s=0.1))
    begin_s = time.monotonic()
    client.sendall(PUBLISH)
    assert client.recv(100) == PUBLISH
    assert time.monotonic() - begin_s >= 0.2, "0.1 s each way"


def test_a_throttle_throttles(board: Switchboard, client: socket.socket) -> None:
    set_state(board, LinkState(bytes_per_s=1_000.0))
    begin_s = time.monotonic()
    client.sendall(bytes([0x30, 98]) + bytes(98))
    assert len(client.recv(100)) == 100
    assert time.monotonic() - begin_s >= 0.2, "0.1 s each way"


def test_one_direction_ends_and_the_other_goes_on(board: Switchboard, client: socket.socket, echo: Echo) -> None:
    board.do("edge", lambda link: link.half_close(from_broker=True))
    assert client.recv(100) == b"", "the client hears the end"
    client.sendall(PUBLISH)
    wait_until(lambda: bytes(echo.heard[2:]) == PUBLISH, what="what the client still sends")


def test_a_broker_that_is_down_refuses(board: Switchboard) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(ConnectionResetError), join(board.open("edge", port)) as client:
        client.recv(100)


def test_healed_it_is_an_ordinary_link(board: Switchboard, client: socket.socket) -> None:
    set_state(board, LinkState(delay_s=5.0, bytes_per_s=1.0, repeating=True))
    board.do("edge", Link.heal)
    client.sendall(PUBLISH)
    assert client.recv(100) == PUBLISH, "a connection that has lost nothing goes on"
