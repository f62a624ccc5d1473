"""A machine that belongs to no site yet: it announces itself and waits until one takes it in.

Its door is open to everybody who reaches it, and closes with the first who hands it over to a site that lets it in.
So it protects against nobody who is quicker: who adopts it decides what it sees from then on. `vigil join` with a token
that somebody typed does not have that gap.
"""

from __future__ import annotations

import base64
import re
import secrets
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import parse_qs, urlsplit

from broker.certs import fingerprint, make_issuer, make_key, make_request, request_key
from broker.figures import own_versions
from broker.identity import identity_folder
from config import BadPayloadError, VigilError, get_logger
from config.clock import SystemClock
from config.names import check_name, this_node
from config.settings import BusSettings, Settings
from fleet.enrolment.client import AuthorityAddress
from fleet.enrolment.guarded import GuardedHandler, GuardedServer
from fleet.enrolment.joining import join_as
from fleet.enrolment.token import JoinToken
from fleet.nodes.handover import (
    ADOPT_PATH,
    HANDOVER_BYTES_MAX,
    PROOF_PATH,
    Handover,
    id_of,
    proof_of,
    read_handover,
    shown,
)
from fleet.nodes.place import Place, is_unclaimed, keep_place

__all__ = ["wait_adopted"]

_CONNECTIONS_MAX = 4
_CONNECTION_S = 30.0
"""Seconds for all of a connection: it joins the site in between, which asks its authority twice."""
_POLL_S = 0.1
_LOOK_S = 5.0
"""Between two looks whether a broker has come to this machine after all."""
_CERTIFICATE_DAYS = 3650
_CODE_BYTES = 10


def wait_adopted(
    settings: Settings,
    stop: threading.Event,
    *,
    model: str = "",
    announce: Callable[..., Any] | None = None,
    port: int = 0,
) -> bool:
    """Announce this machine, and wait until a site has taken it in.

    Args:
        settings: its own.
        stop: set by signals.
        model: of the machine, for people.
        announce: tells the network; default multicast DNS.
        port: TCP port of its door; 0 for a free one.

    Returns:
        Whether there is a bus for it now: that of its site, or a broker on this machine; False when it was stopped.

    Raises:
        TransientError: there is no network to announce it on.
        PermanentError: the state folder cannot be written.
    """
    from fleet.discovery.mdns import announce as announce_by_mdns

    log = get_logger()
    with TemporaryDirectory(prefix="vigil-") as folder:
        door = _Door(settings, Path(folder), port)
        properties = {
            "id": id_of(door.fingerprint),
            "version": own_versions()["vigil"],
            "model": model[:120],
            "claimed": "0",
            "fingerprint": door.fingerprint,
        }
        with door.open(), (announce or announce_by_mdns)(this_node(), port=door.port, properties=properties):
            log.info(
                "adoption.waiting",
                id=id_of(door.fingerprint),
                fingerprint=shown(door.fingerprint),
                code=door.code,
                port=door.port,
            )
            looked_s = time.monotonic()
            while not door.adopted.is_set() and not stop.wait(_POLL_S):
                if time.monotonic() - looked_s > _LOOK_S:
                    looked_s = time.monotonic()
                    if not is_unclaimed(settings):
                        return True
    return door.adopted.is_set()


class _Door:
    """TLS with a certificate of this machine's own making, and one that gets through it.

    Attributes:
        fingerprint: SHA-256 of the certificate, hexadecimal.
        code: proves to whoever has read it that the door is this one.
        adopted: this machine belongs to a site.
    """

    def __init__(self, settings: Settings, folder: Path, port: int) -> None:
        now, key = SystemClock().now(), make_key()
        issuer = make_issuer("Vigil, not adopted yet", "none", now)
        issued = issuer.sign(request_key(make_request(key)), this_node(), "server", days=_CERTIFICATE_DAYS, now=now)
        (folder / "door.crt").write_bytes(issued.pem)
        (folder / "door.key").write_bytes(key)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.load_cert_chain(folder / "door.crt", folder / "door.key")
        self.fingerprint = fingerprint(issued.pem).hex()
        code = base64.b32encode(secrets.token_bytes(_CODE_BYTES)).decode()
        self.code = "-".join(code[start : start + 4] for start in range(0, len(code), 4))
        self.adopted = threading.Event()
        self._settings = settings
        self._taking = threading.Lock()
        self._server = _Server(port, self)
        self.port = int(self._server.server_address[1])

    @contextmanager
    def open(self) -> Iterator[None]:
        """Take connections within the block."""
        thread = threading.Thread(target=self._server.serve_forever, args=(0.2,), name="adoption", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()

    def take(self, handover: Handover) -> None:
        """Become a node of a site; only once, and of one that lets it in.

        Raises:
            VigilError: it does not, or this machine belongs to one already.
        """
        try:
            check_name(handover.site)
            check_name(handover.node)
            BusSettings(url=handover.bus)
        except ValueError as error:  # kept, it would keep this machine from starting
            raise BadPayloadError("a name or the broker's address is none") from error
        with self._taking:
            if self.adopted.is_set():
                raise BadPayloadError("it was adopted already")
            if handover.token:
                identity = identity_folder(self._settings)
                join_as(
                    identity, AuthorityAddress.read(handover.authority), JoinToken.read(handover.token), handover.node
                )
            keep_place(
                self._settings.state_dir,
                Place(site=handover.site, node=handover.node, bus=handover.bus, instead_of=self._settings.node),
            )
            get_logger().info("adoption.done", site=handover.site, node=handover.node, bus=handover.bus)
            self.adopted.set()


class _Server(GuardedServer):
    daemon_threads = False  # the answer to whoever adopts it is to go out before the door closes
    block_on_close = True

    def __init__(self, port: int, door: _Door) -> None:
        self.door = door
        super().__init__(
            ("", port),
            _Handler,
            tls=lambda: door.context,
            connections_max=_CONNECTIONS_MAX,
            connection_s=_CONNECTION_S,
            on_fault=lambda caller: get_logger().debug("adoption.fault", address=caller),
        )


class _Handler(GuardedHandler):
    server: _Server

    def do_GET(self) -> None:  # noqa: N802 - as http.server calls it
        """The proof that it has the code of its log: of its own certificate, for the nonce of whoever asks."""
        parts = urlsplit(self.path)
        nonce = parse_qs(parts.query).get("nonce", [""])[0]
        if parts.path != PROOF_PATH or not 16 <= len(nonce) <= 128:
            self.answer(HTTPStatus.NOT_FOUND)
            return
        self.answer(HTTPStatus.OK, proof_of(self.server.door.code, self.server.door.fingerprint, nonce).encode())

    def do_POST(self) -> None:  # noqa: N802 - as http.server calls it
        """Adopt it."""
        length = self.headers.get("Content-Length", "")
        if self.path != ADOPT_PATH or not re.fullmatch("[0-9]{1,4}", length) or int(length) > HANDOVER_BYTES_MAX:
            self.answer(HTTPStatus.NOT_FOUND)
            return
        log, address = get_logger(), str(self.client_address[0])
        try:
            self.server.door.take(read_handover(self.rfile.read(int(length))))
        except (VigilError, OSError) as error:
            log.warning("adoption.failed", address=address, error=str(error))
            self.answer(HTTPStatus.CONFLICT, str(error)[:1000].encode())
        else:
            self.answer(HTTPStatus.OK)
