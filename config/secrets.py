"""What is secret in a text, and how it is hidden: the one place that knows.

A camera's source may carry a login (``rtsp://user:password@host``) and a token (``?token=...``). It comes back in error
messages, also in those of libraries, in logs and in states on the bus. :func:`mask` hides it in any text, so that no
caller needs to know which part of a message was once a source. It hides rather too much than too little: what looks
like a login is one, also where the URI is broken, for a password may contain ``@``, ``/``, ``?`` and ``#``.

Masking takes time in proportion to the text's length: a stranger may have written it.
"""

from __future__ import annotations

import re
import stat
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote

__all__ = ["MASK", "has_secret", "is_readable_by_others", "is_secret_name", "mask", "mask_uri"]

MASK = "***"

_GIVEAWAY = (
    "password|passwd|passphrase|passcode|token|secret|credential|signature"
    # At the end of a word only: `user-pw`, `loginpas`, `x-api-key`; neither `signal` nor `keyframe`.
    "|(?:pass?|pwd?|key|sig|auth|jwt|sid)(?![a-z])"
)
_SECRET_NAME = re.compile(_GIVEAWAY, re.IGNORECASE)

# A match begins only where a name begins (the look-behind), and `++` gives nothing back that it took: without them a
# megabyte of letters would be read once from each of its letters.
_NAME = rf"(?<![\w%.-])(?=[\w%.-]*?(?:{_GIVEAWAY}))[\w%.-]++"
_PARAMETER = re.compile(rf"({_NAME}=)[^\s&]+", re.IGNORECASE)
_FIELD = re.compile(rf"({_NAME}[\"']:\s*+|(?<!\w)bearer\s++)[^\s&]+", re.IGNORECASE)
"""``"password": "..."`` of JSON, or a dictionary that is printed; ``Authorization: Bearer ...``."""
_JOIN_TOKEN = re.compile(r"(?<![\w-])vigil-[\w-]{46}(?![\w-])")
"""As `vigil enrol` prints it: 34 bytes in Base64."""
_WORD = re.compile(r"\S+")
_SPACE = re.compile(r"\s")
_PATH_SCHEME = re.compile(r"(?<![A-Za-z0-9+.-])(?:file|synthetic|v4l2|libcamera)$")
"""Their URIs have no login, unless they name a host: an ``@`` in the path of a file is an ``@``."""
_PATH_SCHEME_MAX = len("synthetic") + 1
_ENCODINGS_MAX = 3
"""A URI inside a URI is percent-encoded, as media proxies have them; one inside that is so twice."""


def mask(text: str) -> str:
    """The text with every login, and the value of every secret parameter, replaced by ``***``."""
    if "@" in text or "=" in text or "%" in text:
        text = _WORD.sub(lambda word: _mask_word(word[0]), text)
    if "':" in text or '":' in text or "bearer" in text.lower():
        text = _FIELD.sub(rf"\1{MASK}", text)
    return _JOIN_TOKEN.sub(MASK, text) if "vigil-" in text else text


def mask_uri(uri: str) -> str:
    """The same for a text that is one URI, or was meant to be: white space does not end a password in it."""
    whole = _SPACE.sub("%20", uri)
    masked = mask(whole)
    return masked if masked != whole else uri


def has_secret(text: str) -> bool:
    """Whether :func:`mask_uri` hides something in it."""
    return mask_uri(text) != text


@lru_cache(maxsize=1024)
def is_secret_name(name: str) -> bool:
    """Whether the value of what is called so is never shown: a setting, a key of a log line, a parameter."""
    return _SECRET_NAME.search(name) is not None


def is_readable_by_others(file: Path) -> bool:
    """Whether every user of this machine may read the file. One that is not there is read by nobody."""
    try:
        return bool(file.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False


def _mask_word(word: str) -> str:
    """Mask a word; when its secret is percent-encoded in it, what is shown is decoded."""
    shown = probe = _mask_plain(word)
    for _ in range(_ENCODINGS_MAX):
        decoded = unquote(probe)
        if decoded == probe:
            break
        probe = _mask_plain(decoded)
        if probe != decoded:
            shown = probe
    return shown


def _mask_plain(word: str) -> str:
    end = word.rfind("@")
    start = _login_start(word[:end]) if end > 0 else end
    if start < end:
        word = f"{word[:start]}{MASK}{word[end:]}"
    return _PARAMETER.sub(rf"\1{MASK}", word) if "=" in word else word


def _login_start(head: str) -> int:
    """Where the login begins that ends with `head`; its length when there is none.

    All up to the last ``@`` belongs to it: a ``/`` in a password ends the authority for a parser, and for no person.
    """
    scheme_end = head.find("://")
    while scheme_end >= 0:
        start = scheme_end + len("://")
        if not (_is_path_scheme(head, scheme_end) and head.startswith("/", start)):
            return start
        scheme_end = head.find("://", start)
    colon = head.find(":")
    return len(head) if colon < 0 or _is_path_scheme(head, colon) else 0


def _is_path_scheme(text: str, end: int) -> bool:
    return _PATH_SCHEME.search(text[max(0, end - _PATH_SCHEME_MAX) : end]) is not None
