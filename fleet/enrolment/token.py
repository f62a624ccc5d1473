"""The one-time token: the secret of an invitation, and the fingerprint of the authority that gave it.

The fingerprint makes the first contact safe: whoever is asked to let the node in must show the authority's own
certificate before the secret is sent, so nobody in between can answer in its place (as `kubeadm join` does).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass, field

from broker.certs import fingerprint
from config.errors import ConfigError

__all__ = ["JoinToken"]

_PREFIX = "vigil-"
_SECRET_BYTES = 16
_FINGERPRINT_BYTES = 16
"""Of the SHA-256. Forging it means a second certificate for a given half hash: 2^128 tries."""
_CHECK_BYTES = 2
_LENGTH = _SECRET_BYTES + _FINGERPRINT_BYTES + _CHECK_BYTES


@dataclass(frozen=True, slots=True)
class JoinToken:
    """What a person carries from the authority to the node.

    Attributes:
        secret: lets its bearer in, once.
        authority: the first half of the SHA-256 of the authority's certificate.
    """

    secret: bytes = field(repr=False)
    authority: bytes

    @classmethod
    def of(cls, secret: bytes, certificate: bytes) -> JoinToken:
        """The token for a secret of the authority with this certificate (PEM)."""
        return cls(secret, fingerprint(certificate)[:_FINGERPRINT_BYTES])

    @classmethod
    def read(cls, text: str) -> JoinToken:
        """The token as a person typed it.

        Raises:
            ConfigError: it is none, or was not copied whole; what was typed is not repeated.
        """
        try:
            if not text.startswith(_PREFIX):
                raise ValueError(f"begins with {_PREFIX}")
            content = base64.b64decode(text.removeprefix(_PREFIX) + "==", altchars=b"-_", validate=True)
            body, check = content[:-_CHECK_BYTES], content[-_CHECK_BYTES:]
            if len(content) != _LENGTH or check != _checksum(body):
                raise ValueError("length or check")
        except (ValueError, binascii.Error) as error:
            raise ConfigError(
                f"this is no token of `vigil enrol`: copy the whole line that begins with {_PREFIX!r}", field="token"
            ) from error
        return cls(body[:_SECRET_BYTES], body[_SECRET_BYTES:])

    def text(self) -> str:
        """The token as a person reads it."""
        body = self.secret + self.authority
        return _PREFIX + base64.urlsafe_b64encode(body + _checksum(body)).decode().rstrip("=")

    def is_of(self, certificate: bytes) -> bool:
        """Whether the authority with this certificate (PEM) gave it.

        Raises:
            PermanentError: that is no certificate.
        """
        return hmac.compare_digest(fingerprint(certificate)[:_FINGERPRINT_BYTES], self.authority)


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()[:_CHECK_BYTES]
