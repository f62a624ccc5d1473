"""What a site says to a machine that it adopts: one request and its answer, over TLS that the machine made itself.

Nobody has vouched for either side. What stands in for that is the fingerprint of the machine's certificate, shown in
its log and to whoever adopts it, or the code of its log, which proves the same without comparing digits.
"""

from __future__ import annotations

import hashlib
import hmac

import msgspec

from config.errors import BadPayloadError

__all__ = [
    "ADOPT_PATH",
    "HANDOVER_BYTES_MAX",
    "PROOF_PATH",
    "Handover",
    "id_of",
    "proof_of",
    "read_handover",
    "shown",
]

ADOPT_PATH = "/adopt"
PROOF_PATH = "/proof"
HANDOVER_BYTES_MAX = 4_096
_ID_DIGITS = 8


class Handover(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine needs to become a node of a site.

    Attributes:
        site: the site.
        node: as what it is to come.
        bus: the broker's address.
        authority: ``HOST:PORT`` where it joins; empty on a site without certificates.
        token: lets it in, once; empty on a site without certificates.
    """

    site: str
    node: str
    bus: str
    authority: str = ""
    token: str = ""


def read_handover(content: bytes) -> Handover:
    """Read what a site says.

    Raises:
        BadPayloadError: it is something else; what is wrong is not said, for it might be repeated to a stranger.
    """
    try:
        return msgspec.json.decode(content, type=Handover)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadPayloadError("no handover", size_bytes=len(content)) from error


def id_of(fingerprint: str) -> str:
    """What a machine that waits is called: the first digits of its certificate's SHA-256."""
    return fingerprint[:_ID_DIGITS]


def shown(fingerprint: str) -> str:
    """A fingerprint as people compare it: groups of four digits."""
    return " ".join(fingerprint[start : start + 4] for start in range(0, len(fingerprint), 4))


def proof_of(code: str, fingerprint: str, nonce: str) -> str:
    """What only a machine can say that has this code and this certificate.

    Somebody who stands in between has another certificate: what the machine says about its own is of no use to him.

    Args:
        code: of the machine's log, in any spelling.
        fingerprint: SHA-256 of its certificate, hexadecimal.
        nonce: of whoever asks.
    """
    plain = "".join(character for character in code.upper() if character.isalnum())
    message = f"vigil adopt\n{fingerprint}\n{nonce}".encode()
    return hmac.new(plain.encode(), message, hashlib.sha256).hexdigest()
