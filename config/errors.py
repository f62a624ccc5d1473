"""Every error that Vigil raises on purpose, as one tree.

::

    VigilError                 what a caller may catch to mean "Vigil said no"
    ├── ConfigError            a setting is wrong: names the field, the file and the line; exit status 78
    │   └── BrokenFileError    all that is wrong with one file
    ├── TransientError         the world is away for now: retry with back-off
    ├── PermanentError         retrying cannot help: stop and tell a person
    │   └── ConflictError      somebody else changed the file meanwhile: look at both, and try again
    ├── BadPayloadError        this one message is bad: drop it, count it, tell the reject topic
    └── BacklogFullError       a bounded queue would overflow: the caller still owns the message

The message is written for the person who reads it in a terminal: what is wrong, where, and the cure. The
fields are for code. A login or a token in a message is masked, since a library's words are often part of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from config.secrets import mask

__all__ = [
    "EXIT_CONFIG",
    "EXIT_UNAVAILABLE",
    "BacklogFullError",
    "BadPayloadError",
    "BrokenFileError",
    "ConfigError",
    "ConflictError",
    "PermanentError",
    "TransientError",
    "VigilError",
]

EXIT_CONFIG = 78
"""Exit status of a configuration error. Source: sysexits.h, EX_CONFIG."""

EXIT_UNAVAILABLE = 69
"""Exit status when a needed service is away. Source: sysexits.h, EX_UNAVAILABLE."""


class VigilError(Exception):
    """Base of all errors that Vigil raises on purpose.

    Attributes:
        exit_code: the status a command ends with when nobody handles the error.

    Args:
        message: what is wrong, where, and the cure.
    """

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(mask(message))


class ConfigError(VigilError):
    """A setting is wrong.

    Args:
        message: what is wrong and the cure.
        field: dotted path of the setting, such as ``cameras.yard.source``.
        file: the file it was read from, if it came from one.
        line: 1-based line in that file.
    """

    exit_code = EXIT_CONFIG

    def __init__(
        self, message: str, *, field: str | None = None, file: Path | None = None, line: int | None = None
    ) -> None:
        place = "" if file is None else f"{file}:{line}: " if line else f"{file}: "
        super().__init__(f"{place}{field}: {message}" if field else f"{place}{message}")
        self.message = mask(message)
        self.field = field
        self.file = file
        self.line = line


class BrokenFileError(ConfigError):
    """A file cannot be used.

    Args:
        errors: everything that is wrong with it; at least one.
    """

    def __init__(self, errors: Sequence[ConfigError]) -> None:
        super().__init__("\n".join(str(error) for error in errors))
        self.errors = tuple(errors)


class TransientError(VigilError):
    """The world is away for now (a broker, a camera, a sink): retry with back-off.

    Args:
        message: what is wrong, where, and the cure.
        retry_after_s: do not retry sooner, whatever the back-off says: a camera that refuses a password locks whoever
            tries it too often.
    """

    exit_code = EXIT_UNAVAILABLE

    def __init__(self, message: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class PermanentError(VigilError):
    """Retrying cannot help (bad credentials, an unreadable file): stop and tell a person."""


class ConflictError(PermanentError):
    """Somebody else has changed a file since it was read; nothing was written.

    Args:
        file: which.
        changed: what the other has changed, as the lines of a diff.
        mine: where the text that was not written is kept; None where there was none.
    """

    def __init__(self, file: Path, *, changed: str, mine: Path | None) -> None:
        kept = "" if mine is None else f" Your text is kept in {mine}."
        super().__init__(
            f"{file}: somebody else has changed it since you read it; nothing was written.{kept} "
            f"Read it again, and make your change there. What the other changed:\n{changed}"
        )
        self.file = file
        self.changed = mask(changed)
        self.mine = mine


class BadPayloadError(VigilError):
    """One message cannot be used.

    Args:
        reason: what is wrong with it.
        topic: the topic it came on, if it came on one.
        size_bytes: the payload's length.
    """

    def __init__(self, reason: str, *, topic: str | None = None, size_bytes: int = 0) -> None:
        super().__init__(f"{topic}: {reason}" if topic else reason)
        self.reason = mask(reason)
        self.topic = topic
        self.size_bytes = size_bytes


class BacklogFullError(VigilError):
    """A bounded queue would overflow; nothing was queued and the caller still owns the message.

    Args:
        name: the queue.
        rows: messages in it.
        size_bytes: bytes in it.
        limit: what would be exceeded, in words.
    """

    def __init__(self, name: str, *, rows: int, size_bytes: int, limit: str) -> None:
        super().__init__(
            f"{name} is full ({rows} messages, {size_bytes} bytes; limit {limit}): "
            "nothing was dropped, restore the connection or raise the limit"
        )
        self.name = name
        self.rows = rows
        self.size_bytes = size_bytes
        self.limit = limit
