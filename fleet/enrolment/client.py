"""The node's side of joining and renewing: HTTPS to the authority, which is known by its certificate, not its name."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import BinaryIO

import msgspec

from broker.identity import Admission, Credentials, IdentityFolder
from config.errors import ConfigError, PermanentError, TransientError
from fleet.enrolment.token import JoinToken
from fleet.enrolment.wire import (
    CA_PATH,
    DEFAULT_PORT,
    JOIN_PATH,
    RENEW_PATH,
    RESPONSE_BYTES_MAX,
    JoinRequest,
    read_admission,
)

__all__ = ["AuthorityAddress", "fetch", "fetch_file", "join", "renew"]

_TIMEOUT_S = 10.0
_PIECE_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class AuthorityAddress:
    """Where the authority answers.

    Attributes:
        host: name or address.
        port: TCP port.
    """

    host: str
    port: int = DEFAULT_PORT

    @classmethod
    def of(cls, identity: IdentityFolder) -> AuthorityAddress:
        """Where this machine has joined.

        Raises:
            ConfigError: nobody has said where that is.
        """
        try:
            return cls.read(identity.authority.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(
                f"{identity.authority} does not say where the authority answers: `vigil renew HOST[:PORT]` writes it"
            ) from error

    @classmethod
    def read(cls, text: str) -> AuthorityAddress:
        """From ``HOST``, ``HOST:PORT`` or ``[ADDRESS]:PORT``.

        Raises:
            ConfigError: it is none of these.
        """
        host, colon, port = text.strip().rpartition(":")
        if not colon or (host.count(":") and not host.endswith("]")):
            host, port = text.strip(), str(DEFAULT_PORT)
        host = host.removeprefix("[").removesuffix("]")
        if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
            raise ConfigError(f"{text[:80]!r}: write HOST or HOST:PORT, such as 10.0.0.2:{DEFAULT_PORT}")
        return cls(host, int(port))

    def __str__(self) -> str:
        """``HOST:PORT``."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def join(address: AuthorityAddress, token: JoinToken, name: str, request: bytes) -> Admission:
    """Be let in.

    Args:
        address: where the authority answers.
        token: from `vigil enrol`; sent only after the authority has shown that it gave it.
        name: of the node or person; the token's.
        request: certificate request, PEM.

    Raises:
        TransientError: nobody answers there.
        PermanentError: it is another authority, or it refuses.
    """
    certificate = _call(address, _unverified(), "GET", CA_PATH)
    if not token.is_of(certificate):
        raise PermanentError(
            f"{address} is not the authority that gave this token, so nothing was sent to it: check the address. If "
            "that is right, somebody stands in between"
        )
    body = msgspec.json.encode(JoinRequest(secret=token.secret, name=name, request=request.decode()))
    refused = (
        f"{address} refuses: the token is wrong, used or older than 15 minutes, or it is for another name than "
        f"{name!r} (--node NAME, or --person NAME, says who joins). Its log says which; `vigil enrol` there makes a "
        "new token"
    )
    answer = _call(address, _trusting(certificate.decode()), "POST", JOIN_PATH, body, refused=refused)
    return read_admission(answer)


def renew(address: AuthorityAddress, authority: bytes, credentials: Credentials) -> Admission:
    """Get new certificates for the key of one that is in force.

    Args:
        address: where the authority answers.
        authority: its certificate, PEM.
        credentials: what this machine shows.

    Raises:
        TransientError: nobody answers there.
        PermanentError: it is another authority, or it refuses.
    """
    context = _as_member(authority, credentials)
    return read_admission(_call(address, context, "POST", RENEW_PATH, b"", refused=_shut_out(address, credentials)))


def fetch(address: AuthorityAddress, authority: bytes, credentials: Credentials, path: str) -> bytes:
    """What the authority has for this member at a path; at most :data:`RESPONSE_BYTES_MAX`.

    Raises:
        TransientError: nobody answers there.
        PermanentError: it is another authority, or it refuses.
    """
    context = _as_member(authority, credentials)
    return _call(address, context, "GET", path, refused=_shut_out(address, credentials))


def fetch_file(
    address: AuthorityAddress,
    authority: bytes,
    credentials: Credentials,
    path: str,
    out: BinaryIO,
    *,
    told: Callable[[int, int], None] = lambda _done, _whole: None,
) -> int:
    """Write the file that the authority has at a path behind what `out` has of it already.

    Args:
        address: where the authority answers.
        authority: its certificate, PEM.
        credentials: what this machine shows.
        path: of the file there.
        out: open for appending; what it holds is taken as the file's beginning.
        told: called with the bytes that are there and those of the whole, as it goes on.

    Returns:
        The size of the whole file in bytes.

    Raises:
        TransientError: nobody answers there, or it broke off: what came is in `out`, so the next call goes on.
        PermanentError: it is another authority, it refuses, or has no such file.
    """
    context = _as_member(authority, credentials)
    done = out.seek(0, 2)
    headers = {"Range": f"bytes={done}-"} if done else {}
    with _calling(address, context) as connection:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        if response.status != HTTPStatus.PARTIAL_CONTENT:
            _check_status(address, response.status, _shut_out(address, credentials))
        whole = done + int(response.headers.get("Content-Length", "0"))
        while piece := response.read(_PIECE_BYTES):
            _write(out, piece)
            done += len(piece)
            told(done, whole)
    if done < whole:
        raise TransientError(f"{address} broke off after {done} of {whole} bytes")
    return whole


def _write(out: BinaryIO, piece: bytes) -> None:
    try:
        out.write(piece)
    except OSError as error:
        raise TransientError(f"what was fetched cannot be written: {error.strerror}") from error


def _shut_out(address: AuthorityAddress, credentials: Credentials) -> str:
    return (
        f"{address} refuses: {credentials.certificate} is revoked or not known there. Join again with a new token of "
        "`vigil enrol`"
    )


def _as_member(authority: bytes, credentials: Credentials) -> ssl.SSLContext:
    context = _trusting(authority.decode())
    try:
        context.load_cert_chain(credentials.certificate, credentials.key)
    except (OSError, ssl.SSLError) as error:
        raise PermanentError(
            f"{credentials.certificate} and {credentials.key} cannot be used together ({error}): join again with a "
            "new token of `vigil enrol`"
        ) from error
    return context


def _unverified() -> ssl.SSLContext:
    """For the one request whose answer is checked by the token's fingerprint."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _trusting(authority: str) -> ssl.SSLContext:
    """Trusts this authority only.

    It signs no server but the site's own, so the host's name proves nothing more, and any way to reach it will do.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.load_verify_locations(cadata=authority)
    return context


def _call(
    address: AuthorityAddress,
    context: ssl.SSLContext,
    method: str,
    path: str,
    body: bytes | None = None,
    *,
    refused: str = "",
) -> bytes:
    with _calling(address, context) as connection:
        connection.request(method, path, body)
        response = connection.getresponse()
        content = response.read(RESPONSE_BYTES_MAX + 1)
    _check_status(address, response.status, refused)
    if len(content) > RESPONSE_BYTES_MAX:
        raise PermanentError(f"{address} answers with more than {RESPONSE_BYTES_MAX} bytes: is it an authority?")
    return content


@contextmanager
def _calling(address: AuthorityAddress, context: ssl.SSLContext) -> Iterator[http.client.HTTPSConnection]:
    """One connection; what goes wrong on it is told in words."""
    connection = http.client.HTTPSConnection(address.host, address.port, timeout=_TIMEOUT_S, context=context)
    try:
        yield connection
    except ssl.SSLCertVerificationError as error:
        raise PermanentError(
            f"{address} does not show a certificate of this site's authority ({error.verify_message}): check the "
            "address. If that is right, somebody stands in between"
        ) from error
    except ssl.SSLError as error:
        raise PermanentError(
            f"{address} ends the TLS connection ({error.reason}): is the certificate of this machine expired, or is "
            "something else listening there?"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        raise TransientError(
            f"no answer from {address} ({error}): is `vigil ca serve` or `vigil enrol` running there, and does its "
            "firewall let the port through?"
        ) from error
    finally:
        connection.close()


def _check_status(address: AuthorityAddress, status: int, refused: str) -> None:
    told: Mapping[int, str] = {
        HTTPStatus.FORBIDDEN: refused,
        HTTPStatus.TOO_MANY_REQUESTS: f"{address}: too many wrong tokens from this machine; wait a minute",
        HTTPStatus.INTERNAL_SERVER_ERROR: f"{address} failed; its log says why",
        HTTPStatus.NOT_FOUND: f"{address} has no such thing, or is no authority of a Vigil site",
    }
    if status == HTTPStatus.OK:
        return
    raise PermanentError(told.get(status) or f"{address} answers {status}: is it the authority of a Vigil site?")
