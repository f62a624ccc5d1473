"""What node and authority say to each other over HTTPS: who joins, who renews, and what members fetch."""

from __future__ import annotations

import msgspec

from broker.identity import Admission
from config.errors import BadPayloadError

__all__ = [
    "BUNDLES_PATH",
    "CA_PATH",
    "DEFAULT_PORT",
    "JOIN_PATH",
    "LOGINS_PATH",
    "RENEW_PATH",
    "REQUEST_BYTES_MAX",
    "RESPONSE_BYTES_MAX",
    "JoinRequest",
    "read_admission",
    "read_join_request",
]

DEFAULT_PORT = 8885
"""Beside the broker's 8883 and 8884."""
CA_PATH = "/ca.crt"
JOIN_PATH = "/join"
RENEW_PATH = "/renew"
LOGINS_PATH = "/logins"
"""Those of a member's own cameras; for members only."""
BUNDLES_PATH = "/bundles/"
"""And a name: a version of Vigil; for members only."""
REQUEST_BYTES_MAX = 8_192
"""A certificate request on P-256 has some 400 bytes."""
RESPONSE_BYTES_MAX = 262_144
"""Some 1,000 bytes for each role."""


class JoinRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A node, or a person's machine, asks to be let in.

    Attributes:
        secret: of the token; Base64 in JSON.
        name: as who it comes.
        request: certificate request, PEM.
    """

    secret: bytes
    name: str
    request: str


def read_join_request(content: bytes) -> JoinRequest:
    """Read a request to join.

    Raises:
        BadPayloadError: it is none; what is wrong is not said, for it might be repeated to a stranger.
    """
    try:
        return msgspec.json.decode(content, type=JoinRequest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadPayloadError("not a request to join", size_bytes=len(content)) from error


def read_admission(content: bytes) -> Admission:
    """Read what the authority hands out.

    Raises:
        BadPayloadError: it is something else.
    """
    try:
        return msgspec.json.decode(content, type=Admission)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadPayloadError(
            "the authority's answer cannot be read: is its Vigil of another version?", size_bytes=len(content)
        ) from error
