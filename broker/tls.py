"""TLS towards the broker: which certificates a process shows and trusts, and what a refusal means in words.

With TLS 1.3 a client is through its handshake before the broker has looked at its certificate: a refusal arrives in
place of the answer to the first packet. So the sockets of these contexts remember what ended them.

Source: RFC 8446 section 6.2 and RFC 5246 section 7.2.2 for the alerts; OpenSSL's x509_vfy.h for the numbers of
verification errors.
"""

from __future__ import annotations

import contextlib
import math
import socket
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from broker.identity import Credentials, IdentityFolder, identity_folder
from config.errors import ConfigError, PermanentError, TransientError, VigilError
from config.log import get_logger
from config.settings import BusSettings, Settings

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

__all__ = [
    "EXPIRES_SOON_DAYS",
    "NEW_SERVER_CERTIFICATE",
    "ExpiryWatch",
    "ServerFacts",
    "client_context",
    "days_left",
    "explain",
    "refusal",
    "server_facts",
    "validity",
]

EXPIRES_SOON_DAYS = 30.0
"""From so many days before its end on, a certificate is worth a warning."""
NEW_SERVER_CERTIFICATE = "`vigil ca init --name HOST` on the machine with the authority writes a new one"
_DEFAULT_PORT = 8883
_OTHERS = 0o077
"""Mode bits of everybody but the owner."""
_JOIN_AGAIN = "join again (`vigil join`) with a new token of `vigil enrol`"
_CLOCK = "or one of the two clocks is wrong: check `timedatectl` on both machines"


def client_context(settings: BusSettings, identity_dir: Path, role: str) -> ssl.SSLContext:
    """How a process of this role speaks TLS with the broker: 1.2 or later, and the host name is checked.

    Read anew for each connection, so that a renewed certificate is used without a restart.

    Args:
        settings: the way to the broker.
        identity_dir: this machine's certificates; may be missing where `settings.identity` does not ask for it.
        role: whose certificate is shown; where it has none, the person's.

    Raises:
        ConfigError: a file is missing, is readable by others, or is not what it should be.
    """
    if not identity_dir.is_dir():
        if settings.identity is not None:
            raise ConfigError(
                f"there is no folder {identity_dir}: `vigil join` makes it, with a token of `vigil enrol`",
                field="bus.identity",
            )
        return _trusting(settings.ca_file)
    folder = IdentityFolder(identity_dir)
    own = _check_credentials(folder, role)
    context = _trusting(folder.ca)
    try:
        context.load_cert_chain(own.certificate, own.key)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{own.certificate} and {own.key} cannot be used together ({error}): {_JOIN_AGAIN}", field="bus.identity"
        ) from error
    return context


def _check_credentials(folder: IdentityFolder, role: str) -> Credentials:
    own = folder.credentials(role)
    if own is None:
        there = ", ".join(folder.roles()) or "none"
        raise ConfigError(
            f"{folder.path} has no certificate with a key for the role {role!r} (it has: {there}): run "
            f"`vigil enrol NODE --role {role}` on the machine with the authority, then `vigil join` here",
            field="bus.identity",
        )
    if own.key.stat().st_mode & _OTHERS:
        raise ConfigError(
            f"{own.key} may be read by others, who could take this machine's place: chmod 600 {own.key}; where "
            "others have had access, `vigil revoke` it and join again",
            field="bus.identity",
        )
    return own


def _trusting(ca: Path | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{ca} holds no certificates that can be read ({error})", field="bus.ca_file") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslsocket_class = _Socket
    return context


class _Socket(ssl.SSLSocket):
    """A socket that remembers what ended it; paho turns every error into "connection lost"."""

    failure: OSError | None = None

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 - as it is inherited
        """Close it when the handshake fails: paho lets go of it without."""
        try:
            super().do_handshake(block)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except OSError:
            self.close()
            raise

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        try:
            return super().recv(buflen, flags)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except OSError as error:
            self.failure = self.failure or error
            raise

    def send(self, data: Buffer, flags: int = 0) -> int:
        try:
            return super().send(data, flags)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except OSError:
            # The broker's last word, which says why, may be here already.
            with contextlib.suppress(OSError):
                self.recv(1)
            raise


def refusal(sock: object) -> OSError | None:
    """What ended a connection over TLS, where it ended with more than silence.

    Args:
        sock: a socket of a :func:`client_context`; of any other, nothing is known.
    """
    return sock.failure if isinstance(sock, _Socket) else None


_UNTRUSTED = (
    "{place} shows a certificate of an authority that this machine does not know: take ca.crt of the site's "
    "authority (`vigil join` brings it, or set bus.ca_file), or check that this is the right broker"
)
_ANOTHER_NAME = (
    "{place}: the broker's certificate is for another host: use a name or address that stands in it, or let it have "
    "this one (`vigil ca init --name HOST` on the machine with the authority)"
)
_NOT_YET, _EXPIRED = 9, 10
_VERIFY = {
    _NOT_YET: f"{{place}}: the broker's certificate does not hold yet, {_CLOCK}",
    _EXPIRED: f"{{place}}: the broker's certificate has expired, {_CLOCK}; {NEW_SERVER_CERTIFICATE}",
    18: _UNTRUSTED,
    19: _UNTRUSTED,
    20: _UNTRUSTED,
    21: _UNTRUSTED,
    23: "{place}: the broker's certificate was revoked; ask who runs it",
    62: _ANOTHER_NAME,
    64: _ANOTHER_NAME,
}
"""X509_V_ERR_...: not yet valid, has expired, self-signed (18, 19), issuer unknown (20, 21), revoked, another name,
another address."""

_AGAIN = "renew it with `vigil renew`, or join again with a new token of `vigil enrol`"
_NO_CERTIFICATE = "this process has none to show: `vigil join` with a token of `vigil enrol`"
_OLD_TLS = "{place} does not speak TLS 1.2 or later: bring the broker up to date"
_UNKNOWN_AUTHORITY = (
    "{place} does not know the authority of this process's certificate: processes use the broker's secure_port (8883), "
    f"people its people_port (8884), and the site's authority may be a new one; {_AGAIN}"
)
_ALERTS = {
    "CERTIFICATE_EXPIRED": f"{{place}}: this process's certificate has expired, {_CLOCK}; {_AGAIN}",
    "CERTIFICATE_REVOKED": f"{{place}}: this process's certificate was revoked; {_AGAIN}",
    "UNKNOWN_CA": _UNKNOWN_AUTHORITY,
    "BAD_CERTIFICATE": f"{{place}} refuses this process's certificate: it does not hold yet, {_CLOCK}; {_AGAIN}",
    "CERTIFICATE_REQUIRED": f"{{place}} asks for a certificate, and {_NO_CERTIFICATE}",
    "HANDSHAKE_FAILURE": f"{{place}} refuses the handshake: likely it asks for a certificate, and {_NO_CERTIFICATE}",
    "UNSUPPORTED_CERTIFICATE": f"{{place}}: this certificate is for another use, such as a server's; {_AGAIN}",
    "PROTOCOL_VERSION": _OLD_TLS,
    "UNSUPPORTED_PROTOCOL": _OLD_TLS,
    "WRONG_VERSION_NUMBER": "{place} does not speak TLS: write mqtt:// in bus.url, or the port that does (8883; "
    "people 8884)",
}
"""By the end of OpenSSL's name of the reason, such as SSLV3_ALERT_CERTIFICATE_EXPIRED."""


def explain(error: OSError, place: str) -> VigilError | None:
    """What an error of a connection with TLS means, and the cure; None where TLS has nothing to do with it.

    What cures itself, or is cured at the broker, is transient; what needs a person at this machine is permanent.

    Args:
        error: as `ssl` or a socket raised it.
        place: ``HOST:PORT`` of the broker.
    """
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return TransientError(f"{place} broke off the TLS handshake: does it speak TLS there?")
    if not isinstance(error, ssl.SSLError):
        return None
    if isinstance(error, ssl.SSLCertVerificationError):
        words = _VERIFY.get(error.verify_code, f"{{place}}: the broker's certificate: {error.verify_message}")
        kind = TransientError if error.verify_code in (_NOT_YET, _EXPIRED) else PermanentError
        return kind(words.format(place=place))
    reason = error.reason or ""
    for ending, words in _ALERTS.items():
        if reason.endswith(ending):
            return PermanentError(words.format(place=place))
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return TransientError(f"{place} closed the connection during the TLS handshake: does it speak TLS there?")
    return TransientError(f"{place}: TLS failed ({reason or error})")


def days_left(folder: IdentityFolder, role: str, now: datetime) -> float | None:
    """Days until the certificate of a role ends, negative afterwards; None where it has none.

    Raises:
        ConfigError: it cannot be read.
    """
    own = folder.credentials(role)
    if own is None:
        return None
    try:
        _, end = validity(ssl.PEM_cert_to_DER_cert(own.certificate.read_text(encoding="ascii").strip()))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{own.certificate} holds no certificate ({error}): {_JOIN_AGAIN}", field="bus.identity"
        ) from error
    return (end - now).total_seconds() / 86_400


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a broker shows of itself before a word of MQTT.

    Attributes:
        version: such as ``TLSv1.3``.
        days_left: of its certificate.
    """

    version: str
    days_left: float


def server_facts(settings: Settings, role: str, now: datetime) -> ServerFacts:
    """Shake hands with the broker of `settings` as `role`, and leave.

    Raises:
        ConfigError: this machine's certificates cannot be used.
        OSError: nobody is there, or it does not want to; see :func:`explain`.
    """
    place = urlsplit(settings.bus.url)
    context = client_context(settings.bus, identity_folder(settings).path, role)
    address = (place.hostname or "", place.port or _DEFAULT_PORT)
    with (
        socket.create_connection(address, settings.bus.connect_timeout_s) as plain,
        context.wrap_socket(plain, server_hostname=place.hostname) as secure,
    ):
        _, end = validity(secure.getpeercert(binary_form=True) or b"")
        return ServerFacts(secure.version() or "", (end - now).total_seconds() / 86_400)


class ExpiryWatch:
    """Says once a day that the certificate of a process ends soon.

    Concurrency: called from one thread.

    Args:
        settings: the site's settings.
        role: of the process.
    """

    def __init__(self, settings: Settings, role: str) -> None:
        self._folder = identity_folder(settings) if settings.bus.url.startswith("mqtts:") else None
        self._role = role
        self._said_at: datetime | None = None

    def days_left(self, now: datetime) -> int | None:
        """Whole days until it ends; None for a process that shows none."""
        try:
            left = None if self._folder is None else days_left(self._folder, self._role, now)
        except ConfigError:
            return None  # the next connection says so
        if left is None:
            return None
        due = self._said_at is None or now - self._said_at >= timedelta(days=1)
        if left < EXPIRES_SOON_DAYS and due:
            self._said_at = now
            get_logger().warning(
                "bus.certificate_expires",
                role=self._role,
                days_left=round(left, 1),
                cure="`vigil renew` on this machine, before it ends",
            )
        return math.floor(left)


def validity(certificate: bytes) -> tuple[datetime, datetime]:
    """From when and until when a certificate (DER) holds.

    Read here, because a camera node has no library for certificates, and `ssl` tells this only of a peer's that it
    has verified.

    Source: RFC 5280 section 4.1.

    Raises:
        ValueError: it is no certificate.
    """
    try:
        _, body, _ = _element(certificate)
        _, body, _ = _element(body)
        tag, _, rest = _element(body)
        before_validity = 4 if tag == _EXPLICIT_VERSION else 3
        for _ in range(before_validity):
            _, field, body = _element(body)
        _, field, _ = _element(body)
        start_tag, start, rest = _element(field)
        end_tag, end, _ = _element(rest)
        return _moment(start_tag, start), _moment(end_tag, end)
    except IndexError as error:
        raise ValueError("not a certificate (DER)") from error


_EXPLICIT_VERSION = 0xA0
_UTC_TIME = 0x17
_LONG_FORM = 0x80


def _element(der: bytes) -> tuple[int, bytes, bytes]:
    """The first element of some DER: its tag, its content, and what follows."""
    tag, length, start = der[0], der[1], 2
    if length & _LONG_FORM:
        start += length & ~_LONG_FORM
        length = int.from_bytes(der[2:start], "big")
    if start + length > len(der):
        raise ValueError("a certificate (DER) that is cut short")
    return tag, der[start : start + length], der[start + length :]


def _moment(tag: int, text: bytes) -> datetime:
    # RFC 5280: years until 2049 have two digits, and both forms end in Z.
    form = "%y%m%d%H%M%SZ" if tag == _UTC_TIME else "%Y%m%d%H%M%SZ"
    return datetime.strptime(text.decode("ascii"), form).replace(tzinfo=UTC)
