"""What a worker remembers of models over its own death: which one served, which one it tried, which one it refused."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import msgspec

from broker.messages import ModelFile
from config import TransientError
from config.files import write_atomically

__all__ = ["Refusal", "RolloutNote", "Wanted", "read_note", "write_note"]


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """The word of a manifest: use this.

    Attributes:
        manifest: for which class of worker.
        version: of the manifest: what is said again is said with another one.
        at: when it was said; versions begin anew where a broker has lost what it kept.
    """

    manifest: str
    version: int
    at: datetime
    model: ModelFile


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """A model that is not tried again until somebody says so anew."""

    wanted: Wanted
    reason: str


class RolloutNote(msgspec.Struct, frozen=True, kw_only=True):
    """The file.

    Attributes:
        serving: the model that served last and was good; a worker begins with it.
        trying: what is on trial; one that is found at a start has ended the process before.
        refused: the last that was refused.
    """

    serving: ModelFile | None = None
    trying: Wanted | None = None
    refused: Refusal | None = None


def read_note(path: Path) -> RolloutNote:
    """The note; an empty one where there is none, or none that can be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=RolloutNote)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return RolloutNote()


def write_note(path: Path, note: RolloutNote) -> None:
    """Replace the note.

    Raises:
        TransientError: the disk does not take it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, msgspec.json.encode(note))
    except OSError as error:
        raise TransientError(f"{path} cannot be written: {error.strerror}") from error
