"""Joining and renewing over real HTTPS, in one process."""

from __future__ import annotations

import contextlib
import http.client
import shutil
import socket
import ssl
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from broker.authority import INVITATION_S, Authority
from broker.certs import key_fits, make_key, make_request, read_certificate
from broker.identity import Credentials, IdentityFolder
from broker.members import CaFolder, Kind
from config.clock import Clock, ManualClock, SystemClock
from config.errors import PermanentError, TransientError
from config.settings import BrokerSettings
from fleet.enrolment.client import AuthorityAddress, join, renew
from fleet.enrolment.server import EnrolmentServer
from fleet.enrolment.token import JoinToken
from fleet.enrolment.wire import JOIN_PATH, REQUEST_BYTES_MAX
from tests.support.ports import free_port
from tests.support.waiting import wait_until

HOST = "127.0.0.1"


class Door:
    """An authority with its server."""

    def __init__(self, folder: Path, clock: Clock | None = None) -> None:
        self.clock = clock or ManualClock(SystemClock().now())
        self.authority = Authority.create(CaFolder(folder), "home", [HOST], self.clock)
        self.server = EnrolmentServer(self.authority, BrokerSettings(), host=HOST, port=0, clock=self.clock)
        self.server.start()

    @property
    def address(self) -> AuthorityAddress:
        return AuthorityAddress(HOST, self.server.port)

    @property
    def certificate(self) -> bytes:
        return self.authority.folder.ca.read_bytes()

    def token(self, name: str = "porch", kind: Kind = "node", *roles: str) -> JoinToken:
        return JoinToken.of(self.authority.invite(name, kind, roles or ("edge",), ()), self.certificate)


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    opened = Door(tmp_path / "ca")
    yield opened
    opened.server.close()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Door]:
    """Somebody else's authority."""
    opened = Door(tmp_path / "other")
    yield opened
    opened.server.close()


def request() -> bytes:
    return make_request(make_key())


def member(door: Door, folder: Path, kind: Kind = "node") -> IdentityFolder:
    """A node `porch`, or a person `alice`, that has joined."""
    key, identity = make_key(), IdentityFolder(folder)
    name, role = ("porch", "edge") if kind == "node" else ("alice", "viewer")
    identity.install(join(door.address, door.token(name, kind, role), name, make_request(key)), key)
    return identity


def own(identity: IdentityFolder, role: str = "edge") -> Credentials:
    credentials = identity.credentials(role)
    assert credentials is not None
    return credentials


@pytest.mark.parametrize(("kind", "role", "port"), [("node", "edge", 8883), ("person", "person", 8884)])
def test_whoever_has_a_token_is_let_in_and_told_the_brokers_port(
    door: Door, tmp_path: Path, kind: Kind, role: str, port: int
) -> None:
    key = make_key()
    name = "porch" if kind == "node" else "alice"
    token = door.token(name, kind, "edge" if kind == "node" else "viewer")
    admission = join(door.address, token, name, make_request(key))
    assert (admission.site, admission.name, admission.port) == ("home", name, port)
    assert admission.ca.encode() == door.certificate
    assert key_fits(key, admission.certificates[role].encode())


def test_a_token_is_good_once(door: Door) -> None:
    token = door.token()
    join(door.address, token, "porch", request())
    with pytest.raises(PermanentError, match="used or older"):
        join(door.address, token, "porch", request())


def test_a_token_ends(door: Door) -> None:
    token = door.token()
    assert isinstance(door.clock, ManualClock)
    door.clock.advance(INVITATION_S)
    with pytest.raises(PermanentError, match="older than 15 minutes"):
        join(door.address, token, "porch", request())


def test_wrong_tokens_are_refused_and_soon_not_even_looked_at(door: Door) -> None:
    good = door.token()
    wrong = JoinToken.of(bytes(16), door.certificate)
    for _ in range(5):
        with pytest.raises(PermanentError, match="token is wrong"):
            join(door.address, wrong, "porch", request())
    with pytest.raises(PermanentError, match="wait a minute"):
        join(door.address, good, "porch", request())
    assert isinstance(door.clock, ManualClock)
    door.clock.advance(61)
    assert join(door.address, good, "porch", request()).name == "porch"


def test_a_request_for_more_than_was_granted_gets_what_was_granted(door: Door) -> None:
    admission = join(door.address, door.token("porch", "node", "edge"), "porch", request())
    names = {read_certificate(one.encode()).common_name for one in admission.certificates.values()}
    assert names == {"porch.agent", "porch.edge", "porch.doctor"}
    with pytest.raises(PermanentError, match="another name"):
        join(door.address, door.token("gate", "node", "edge"), "hub", request())


def test_an_authority_that_did_not_give_the_token_never_sees_it(
    door: Door, other: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bytes] = []
    monkeypatch.setattr(other.server, "join", lambda body, _address: seen.append(body))
    with pytest.raises(PermanentError, match="nothing was sent"):
        join(other.address, door.token(), "porch", request())
    # It may copy the right authority's certificate, but cannot answer as one it has signed.
    monkeypatch.setattr(other.server, "authority_certificate", lambda: door.certificate)
    with pytest.raises(PermanentError, match="in between"):
        join(other.address, door.token(), "porch", request())
    assert seen == []


def test_a_stolen_node_cannot_play_the_authority(
    door: Door, other: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stolen = own(member(door, tmp_path / "porch"))
    shutil.copy(stolen.certificate, other.authority.folder.server)
    shutil.copy(stolen.key, other.authority.folder.server_key)
    monkeypatch.setattr(other.server, "authority_certificate", lambda: door.certificate)
    with pytest.raises(PermanentError, match="in between"):
        join(other.address, door.token("gate"), "gate", request())


def test_renewal_by_certificate(door: Door, tmp_path: Path) -> None:
    identity = member(door, tmp_path / "porch")
    door.authority.grant("porch", roles=["detector"])
    before = identity.certificate("edge").read_bytes()
    identity.renew(renew(door.address, identity.ca.read_bytes(), own(identity)))
    assert identity.roles() == ("agent", "detector", "doctor", "edge")
    assert identity.certificate("edge").read_bytes() != before
    assert key_fits(identity.key("node").read_bytes(), identity.certificate("detector").read_bytes())
    door.authority.grant("porch", without_roles=["detector"])
    identity.renew(renew(door.address, identity.ca.read_bytes(), own(identity)))
    assert identity.roles() == ("agent", "doctor", "edge")


def test_a_person_renews_too(door: Door, tmp_path: Path) -> None:
    identity = member(door, tmp_path / "alice", "person")
    admission = renew(door.address, identity.ca.read_bytes(), own(identity, "person"))
    assert (admission.kind, admission.port) == ("person", 8884)


def test_nobody_renews_what_was_revoked(door: Door, tmp_path: Path) -> None:
    identity = member(door, tmp_path / "porch")
    door.authority.revoke("porch")
    with pytest.raises(PermanentError, match="revoked"):
        renew(door.address, identity.ca.read_bytes(), own(identity))


def test_nobody_renews_with_a_certificate_of_another_authority(door: Door, other: Door, tmp_path: Path) -> None:
    foreign = own(member(other, tmp_path / "porch"))
    with pytest.raises(PermanentError):
        renew(door.address, door.certificate, foreign)


def test_nobody_renews_without_a_certificate(door: Door) -> None:
    assert call(door, "POST", "/renew") == (403, b"")


def test_where_nobody_answers_the_error_says_what_should_run(door: Door) -> None:
    with pytest.raises(TransientError, match="vigil ca serve"):
        join(AuthorityAddress(HOST, free_port()), door.token(), "porch", request())


def context(door: Door) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.load_verify_locations(cadata=door.certificate.decode())
    return made


def call(door: Door, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
    with closing(http.client.HTTPSConnection(HOST, door.server.port, timeout=10, context=context(door))) as connection:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.read()


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/", b"", 404),
        ("GET", "/members.json", b"", 404),
        ("GET", "/../ca.key", b"", 404),
        ("POST", "/ca.crt", b"", 404),
        ("PUT", JOIN_PATH, b"", 501),
        ("POST", JOIN_PATH, b"", 400),
        ("POST", JOIN_PATH, b"{}", 400),
        ("POST", JOIN_PATH, b"[" * 8000, 400),
        ("POST", JOIN_PATH, b'{"secret":"AAAA","name":"porch","request":"x"}', 400),
    ],
)
def test_a_stranger_learns_nothing(door: Door, method: str, path: str, body: bytes, status: int) -> None:
    assert call(door, method, path, body) == (status, b"")


def test_a_long_request_is_not_read(door: Door) -> None:
    # Its answer may be lost, for the connection is closed on what was not read.
    with contextlib.suppress(ConnectionError):
        assert call(door, "POST", JOIN_PATH, b"x" * (REQUEST_BYTES_MAX + 1)) == (400, b"")
    assert call(door, "POST", JOIN_PATH, b"{}") == (400, b"")


@pytest.mark.parametrize("length", ["", "-1", "x", "9" * 5000, "1e3"])
def test_a_length_that_is_none_is_refused(door: Door, length: str) -> None:
    assert call(door, "POST", JOIN_PATH, b"", **{"Content-Length": length}) == (400, b"")


def test_an_old_tls_and_a_plain_text_are_refused(door: Door) -> None:
    old = context(door)
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        old.minimum_version = ssl.TLSVersion.TLSv1
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    with (
        socket.create_connection((HOST, door.server.port), 10) as raw,
        pytest.raises(ssl.SSLError, match="protocol"),
    ):
        old.wrap_socket(raw)
    with socket.create_connection((HOST, door.server.port), 10) as raw:
        raw.sendall(b"GET /ca.crt HTTP/1.0\r\n\r\n")
        assert b"CERTIFICATE" not in received(raw)


def received(raw: socket.socket) -> bytes:
    with contextlib.suppress(ConnectionError):
        return b"".join(iter(lambda: raw.recv(4096), b""))
    return b""


def silent(_raw: socket.socket) -> None:
    """Says nothing, not even hello."""


def dribbles(raw: socket.socket) -> None:
    """Says hello one byte at a time."""
    raw.sendall(b"\x16")


@pytest.mark.parametrize("behaviour", [silent, dribbles])
def test_callers_who_hold_every_place_are_thrown_out_in_time(
    door: Door, monkeypatch: pytest.MonkeyPatch, behaviour: Callable[[socket.socket], None]
) -> None:
    monkeypatch.setattr(door.server._server, "connection_s", 0.5)
    with contextlib.ExitStack() as held:
        for _ in range(40):
            raw = held.enter_context(socket.create_connection((HOST, door.server.port), 10))
            behaviour(raw)
        token = door.token()

        def is_in() -> bool:
            with contextlib.suppress(TransientError, PermanentError):
                return join(door.address, token, "porch", request()).name == "porch"
            return False

        wait_until(is_in)


def test_a_caller_who_never_ends_its_request_is_cut_off(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door.server._server, "connection_s", 0.5)
    with (
        socket.create_connection((HOST, door.server.port), 10) as raw,
        context(door).wrap_socket(raw) as connection,
    ):
        connection.sendall(b"POST /join HTTP/1.0\r\nX-Endless: ")

        def is_cut() -> bool:
            try:
                connection.sendall(b"x")
            except OSError:
                return True
            return False

        wait_until(is_cut, what="the end of the connection")
