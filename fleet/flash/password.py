"""A password as ``/etc/shadow`` has it.

Python's own `crypt` is gone since 3.13.

Source: U. Drepper, "Unix crypt using SHA-256 and SHA-512", 0.6; the step numbers are his.
"""

from __future__ import annotations

import hashlib
import secrets

__all__ = ["hash_password"]

_ALPHABET = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ROUNDS = 5_000
_SALT_CHARACTERS = 16
_ORDER = [(0, 21, 42), (22, 43, 1), (44, 2, 23), (3, 24, 45), (25, 46, 4), (47, 5, 26), (6, 27, 48)]
_ORDER += [(28, 49, 7), (50, 8, 29), (9, 30, 51), (31, 52, 10), (53, 11, 32), (12, 33, 54), (34, 55, 13)]
_ORDER += [(56, 14, 35), (15, 36, 57), (37, 58, 16), (59, 17, 38), (18, 39, 60), (40, 61, 19), (62, 20, 41)]


def hash_password(password: str, salt: str = "") -> str:
    """SHA-512 of a password, ``$6$SALT$HASH``.

    Args:
        password: as its owner types it; an end of line is not part of it.
        salt: 1 to 16 letters, digits, ``.`` or ``/``; default random ones.
    """
    salt = salt or "".join(secrets.choice(_ALPHABET) for _ in range(_SALT_CHARACTERS))
    key, grain = password.rstrip("\r\n").encode(), salt.encode()
    digest = _digest(key, grain)
    p = _stretched(hashlib.sha512(key * len(key)).digest(), len(key))  # 13-16
    s = _stretched(hashlib.sha512(grain * (16 + digest[0])).digest(), len(grain))  # 17-20
    for number in range(_ROUNDS):  # 21
        step = hashlib.sha512(p if number % 2 else digest)
        step.update((s if number % 3 else b"") + (p if number % 7 else b""))
        step.update(digest if number % 2 else p)
        digest = step.digest()
    return f"$6${salt}${_text(digest)}"


def _digest(key: bytes, grain: bytes) -> bytes:
    """Steps 1 to 12."""
    b = hashlib.sha512(key + grain + key).digest()
    a = hashlib.sha512(key + grain + _stretched(b, len(key)))
    length = len(key)
    while length:
        a.update(b if length & 1 else key)
        length >>= 1
    return a.digest()


def _stretched(block: bytes, length: int) -> bytes:
    return (block * (length // len(block) + 1))[:length]


def _text(digest: bytes) -> str:
    """Step 22: groups of three bytes as four characters each."""
    groups = [(digest[a] << 16 | digest[b] << 8 | digest[c], 4) for a, b, c in _ORDER]
    return "".join(
        _ALPHABET[value >> 6 * place & 0x3F] for value, count in (*groups, (digest[63], 2)) for place in range(count)
    )
