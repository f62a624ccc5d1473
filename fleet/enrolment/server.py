"""The authority's door: HTTPS for nodes that join with a token, and for members that renew and fetch what is theirs.

Everything here can be reached by strangers, so everything is bounded: connections at a time, bytes and seconds of
each, wrong tokens from one address. A caller learns that it was refused, and only the log says why.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
import ssl
import sys
import threading
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

import msgspec
from msgspec.structs import replace

from broker.authority import Authority, RefusedError
from broker.identity import Admission
from broker.members import CaFolder, Member
from config.clock import Clock, SystemClock
from config.errors import BadPayloadError, ConfigError, VigilError
from config.log import get_logger
from config.settings import BrokerSettings
from fleet.enrolment.guarded import GuardedHandler, GuardedServer, ends_after
from fleet.enrolment.shelf import Piece, Shelf, read_range
from fleet.enrolment.wire import (
    BUNDLES_PATH,
    CA_PATH,
    JOIN_PATH,
    LOGINS_PATH,
    RENEW_PATH,
    REQUEST_BYTES_MAX,
    read_join_request,
)

__all__ = ["EnrolmentServer", "announced", "announced_port"]

_CONNECTIONS_MAX = 16
_CONNECTION_S = 10.0
"""Seconds for all of a connection, handshake included; the slowest Pi makes its key before it connects."""
_SLOWEST_BYTES_S = 50_000
"""A member that takes a version of Vigil more slowly than this on the whole goes on with another connection."""
_PIECE_BYTES = 256 * 1024
_OPEN_DOOR = "serve"
"""Held, with the port in it, for as long as `vigil ca serve` or `vigil fleet` keeps the door open."""
_GUESSES_MAX = 5
_GUESSES_WITHIN_S = 60.0
_ADDRESSES_MAX = 1_000


@contextmanager
def announced(folder: CaFolder, port: int) -> Iterator[None]:
    """Say to the other commands on this machine that the door stays open, and on which port.

    Raises:
        ConfigError: it is open already.
    """
    descriptor = os.open(folder.path / _OPEN_DOOR, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                "`vigil ca serve` or `vigil fleet` keeps the door of this authority open on this machine already"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(port).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def announced_port(folder: CaFolder) -> int | None:
    """Where `vigil ca serve` or `vigil fleet` answers on this machine; None where neither runs."""
    try:
        descriptor = os.open(folder.path / _OPEN_DOOR, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return int(os.pread(descriptor, 16, 0) or b"0") or None
    else:
        return None
    finally:
        os.close(descriptor)


class _Guesses:
    """Counts wrong tokens by address; a token has 128 random bits, so this keeps the log short more than it guards."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._at_s: OrderedDict[str, deque[float]] = OrderedDict()

    def is_blocked(self, address: str) -> bool:
        """Whether this address has guessed too often."""
        with self._lock:
            guesses = self._at_s.get(address, ())
            oldest_s = self._clock.monotonic_s() - _GUESSES_WITHIN_S
            return sum(1 for at_s in guesses if at_s > oldest_s) >= _GUESSES_MAX

    def add(self, address: str) -> None:
        """One more."""
        with self._lock:
            self._at_s.setdefault(address, deque(maxlen=_GUESSES_MAX)).append(self._clock.monotonic_s())
            self._at_s.move_to_end(address)
            if len(self._at_s) > _ADDRESSES_MAX:
                self._at_s.popitem(last=False)


class EnrolmentServer:
    """Lets members in and renews their certificates.

    Concurrency: one thread takes connections, each is served on a thread of its own.

    Args:
        authority: decides.
        broker: whose ports are told to those who join.
        host: address to listen on; empty for every one.
        port: TCP port; 0 for a free one.
        shelf: what members fetch; without it there is nothing.
        clock: time.

    Raises:
        ConfigError: the address or port cannot be had.
    """

    def __init__(
        self,
        authority: Authority,
        broker: BrokerSettings,
        *,
        host: str,
        port: int,
        shelf: Shelf | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._authority = authority
        self._broker = broker
        self._shelf = shelf
        self.guesses = _Guesses(clock or SystemClock())
        self.log = get_logger()
        try:
            self._server = _Server((host, port), self)
        except OSError as error:
            raise ConfigError(f"cannot listen on {host or 'any address'}, port {port}: {error.strerror}") from error
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.2,), name="enrolment", daemon=True)

    @property
    def port(self) -> int:
        """The TCP port."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Begin to take connections."""
        self._thread.start()
        self.log.info("enrol.listening", port=self.port)

    def close(self) -> None:
        """Take no more; connections under way have their seconds."""
        if self._thread.ident is not None:
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def tls(self) -> ssl.SSLContext:
        """How connections are secured: read anew for each, for the server's certificate may have been renewed."""
        folder = self._authority.folder
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(folder.server, folder.server_key)
        context.verify_mode = ssl.CERT_OPTIONAL
        for authority in (folder.ca, folder.people):
            context.load_verify_locations(authority)
        return context

    def authority_certificate(self) -> bytes:
        """What a node checks its token's fingerprint against."""
        return self._authority.folder.ca.read_bytes()

    def join(self, body: bytes, address: str) -> Admission:
        """Let somebody in.

        Raises:
            RefusedError: not with this token.
            BadPayloadError: the request is none.
        """
        wanted = read_join_request(body)
        admission = self._authority.redeem(wanted.secret, wanted.name, wanted.request.encode())
        self.log.info(
            "enrol.joined",
            member=admission.name,
            kind=admission.kind,
            roles=sorted(admission.certificates),
            address=address,
        )
        return self._with_port(admission)

    def renew(self, certificate: bytes | None, address: str) -> Admission:
        """New certificates for whoever has shown one that is in force.

        Raises:
            RefusedError: nobody has, or it is revoked.
        """
        if certificate is None:
            raise RefusedError("no certificate was shown")
        admission = self._authority.renew(certificate)
        self.log.info("enrol.renewed", member=admission.name, kind=admission.kind, address=address)
        return self._with_port(admission)

    def logins(self, certificate: bytes | None, address: str) -> bytes | None:
        """The logins of the cameras of the node that has shown a certificate; None where there are none to fetch.

        Raises:
            RefusedError: it is no node's that is in force.
            VigilError: they cannot be read.
        """
        member = self._node(certificate)
        if self._shelf is None:
            return None
        self.log.info("enrol.logins", member=member.name, address=address)
        return self._shelf.logins(member)

    def bundle(self, certificate: bytes | None, name: str, start: int, address: str) -> Piece | None:
        """A version of Vigil, open, for a node that has shown a certificate; None where there is no such one.

        Raises:
            RefusedError: it is no node's that is in force.
        """
        member = self._node(certificate)
        piece = None if self._shelf is None else self._shelf.bundle(name, start)
        if piece is not None:
            self.log.info("enrol.bundle", member=member.name, bundle=name, start=start, address=address)
        return piece

    def _node(self, certificate: bytes | None) -> Member:
        if certificate is None:
            raise RefusedError("no certificate was shown")
        member = self._authority.owner(certificate)
        if member.kind != "node":
            raise RefusedError(f"{member.name} is a person, and this is for nodes")
        return member

    def _with_port(self, admission: Admission) -> Admission:
        ports = {"node": self._broker.secure_port, "person": self._broker.people_port}
        return replace(admission, port=ports[admission.kind])


def _send(connection: socket.socket, piece: Piece) -> None:
    """The rest of a long answer, whose head has been sent."""
    left = piece.size_bytes - piece.start
    with piece.file, ends_after(connection, _CONNECTION_S + left / _SLOWEST_BYTES_S):
        while content := piece.file.read(_PIECE_BYTES):
            connection.sendall(content)


class _Server(GuardedServer):
    def __init__(self, address: tuple[str, int], door: EnrolmentServer) -> None:
        self.door = door
        super().__init__(
            address,
            _Handler,
            tls=door.tls,
            connections_max=_CONNECTIONS_MAX,
            connection_s=_CONNECTION_S,
            on_fault=lambda caller: door.log.debug("enrol.fault", address=caller, error=repr(sys.exc_info()[1])),
        )


class _Handler(GuardedHandler):
    server: _Server
    piece: Piece | None = None

    def do_GET(self) -> None:  # noqa: N802 - as http.server calls it
        """The authority's certificate, which is public; to members, what is theirs."""
        with self._refusing():
            if self.path == CA_PATH:
                self.answer(HTTPStatus.OK, self.server.door.authority_certificate(), "application/x-pem-file")
            elif self.path == LOGINS_PATH:
                logins = self.server.door.logins(self._shown(), self._address)
                self._answer_found(logins, "application/json")
            elif self.path.startswith(BUNDLES_PATH):
                self._begin_bundle(self.path.removeprefix(BUNDLES_PATH))
            else:
                self.send_error(HTTPStatus.NOT_FOUND)

    def do_POST(self) -> None:  # noqa: N802 - as http.server calls it
        """Join, or renew."""
        door = self.server.door
        with self._refusing():
            # Read also where it is not looked at: a connection that is closed on unread bytes loses its answer.
            body = self._body()
            if door.guesses.is_blocked(self._address):
                self.send_error(HTTPStatus.TOO_MANY_REQUESTS)
            elif self.path == JOIN_PATH:
                self._answer_admission(door.join(body, self._address))
            elif self.path == RENEW_PATH:
                self._answer_admission(door.renew(self._shown(), self._address))
            else:
                self.send_error(HTTPStatus.NOT_FOUND)

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """What is refused is told to the log, and to the caller as a status."""
        door, address = self.server.door, self._address
        try:
            yield
        except BadPayloadError as error:
            door.log.warning("enrol.refused", address=address, reason=error.reason)
            self.send_error(HTTPStatus.BAD_REQUEST)
        except RefusedError as error:
            door.guesses.add(address)
            door.log.warning("enrol.refused", address=address, reason=str(error))
            self.send_error(HTTPStatus.FORBIDDEN)
        except VigilError as error:
            door.log.error("enrol.failed", address=address, error=str(error))
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR)

    @property
    def _address(self) -> str:
        return str(self.client_address[0])

    def _shown(self) -> bytes | None:
        """The certificate that the caller has shown, and whose key it has proved to have."""
        return self.connection.getpeercert(binary_form=True)

    def _begin_bundle(self, name: str) -> None:
        start = read_range(self.headers.get("Range"))
        piece = self.server.door.bundle(self._shown(), name, start, self._address)
        if piece is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        self.send_response(HTTPStatus.PARTIAL_CONTENT if start else HTTPStatus.OK)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{max(start, piece.size_bytes - 1)}/{piece.size_bytes}")
        self.send_header("Content-Type", "application/x-tar")
        self.send_header("Content-Length", str(piece.size_bytes - start))
        self.end_headers()
        self.piece = piece

    def _answer_found(self, content: bytes | None, kind: str) -> None:
        if content is None:
            self.send_error(HTTPStatus.NOT_FOUND)
        else:
            self.answer(HTTPStatus.OK, content, kind)

    def _answer_admission(self, admission: Admission) -> None:
        self.answer(HTTPStatus.OK, msgspec.json.encode(admission), "application/json")

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch("[0-9]{1,6}", length) or int(length) > REQUEST_BYTES_MAX:
            raise BadPayloadError("a request without a length, or too long")
        return self.rfile.read(int(length))

    def send_rest(self, connection: ssl.SSLSocket) -> None:
        """The version of Vigil that was asked for."""
        if self.piece is not None:
            _send(connection, self.piece)
