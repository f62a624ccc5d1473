"""The journal as a file for others: JSON lines, or Parquet.

Read page by page and written as it is read, so that an export of any size needs the same memory, and holds up no
bridge. The file gets its name when it is complete.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import msgspec

from bridge.journal.filters import Filter
from bridge.journal.reading import JournalReader
from bridge.sink import Table
from broker.messages import Evidence
from config import PermanentError, TransientError
from config.files import move_into_place

if TYPE_CHECKING:
    from bridge.parquet import ColumnKind, ParquetFile

__all__ = ["FORMATS", "PictureChoice", "export", "export_lines", "picture_name", "pictures_folder", "pictures_of"]

FORMATS = (".jsonl", ".parquet")
"""Endings of a file's name, which say what it becomes."""
PictureChoice = Literal["none", "inline", "files"]
"""What becomes of an escalation's pictures: nothing, a part of its row, or files in a folder beside the export."""

_COMMON: dict[str, ColumnKind] = {
    "id": "integer",
    "event_id": "text",
    "origin": "text",
    "epoch": "text",
    "seq": "integer",
    "site": "text",
    "camera": "text",
}
_COLUMNS: Mapping[Table, dict[str, ColumnKind]] = {
    "escalation": {
        **_COMMON,
        "rule": "text",
        "kind": "text",
        "severity": "text",
        "summary": "text",
        "label": "text",
        "zones": "texts",
        "score": "real",
        "captured_at": "time",
        "raised_at": "time",
        "stored_at": "time",
        "drill": "flag",
        "message": "text",
    },
    "event": {
        **_COMMON,
        "stream": "text",
        "type": "text",
        "label": "text",
        "zones": "texts",
        "at": "time",
        "stored_at": "time",
        "message": "text",
    },
}


class _Pictures(msgspec.Struct):
    evidence: tuple[Evidence, ...] = ()


def pictures_of(payload: bytes) -> tuple[Evidence, ...]:
    """The pictures in an escalation as it came; those that lie elsewhere have no bytes."""
    return msgspec.json.decode(payload, type=_Pictures).evidence


def picture_name(row: Mapping[str, Any], number: int, content_type: str) -> str:
    """What a picture's file is called: when and where it was raised, and by whom.

    Args:
        row: of the escalation.
        number: of the picture, from 1 up.
        content_type: of the picture.
    """
    raised_at = datetime.fromisoformat(row["raised_at"])
    suffix = "jpg" if content_type == "image/jpeg" else "bin"
    extra = "" if number == 1 else f"-{number}"
    name = f"{raised_at:%Y%m%dT%H%M%SZ}_{row['camera']}_{row['origin']}-{row['epoch']}-{row['seq']}"
    return f"{name}{extra}.{suffix}"


def pictures_folder(path: Path) -> Path:
    """Where the pictures of an export go that is this file."""
    return path.with_name(f"{path.stem}-pictures")


def export(
    reader: JournalReader,
    wanted: Filter,
    path: Path,
    *,
    pictures: PictureChoice = "none",
    on_rows: Callable[[int], None] = lambda _count: None,
) -> int:
    """Write everything that matches into a file, the oldest first.

    Args:
        reader: of the journal.
        wanted: which rows.
        path: the file; its ending is one of `FORMATS`.
        pictures: what becomes of the pictures.
        on_rows: told how many rows more were written.

    Returns:
        How many rows it has.

    Raises:
        TransientError: the disk did not take it; there is no such file, or the old one.
        PermanentError: the folder cannot be written.
    """
    folder = pictures_folder(path) if pictures == "files" else None
    with _complete(path) as draft:
        if path.suffix == ".parquet":
            return _export_parquet(reader, wanted, draft, pictures=pictures, folder=folder, on_rows=on_rows)
        with draft.open("wb") as file:
            return export_lines(reader, wanted, file, pictures=pictures, folder=folder, on_rows=on_rows)


def export_lines(
    reader: JournalReader,
    wanted: Filter,
    file: IO[bytes],
    *,
    pictures: PictureChoice = "none",
    folder: Path | None = None,
    on_rows: Callable[[int], None] = lambda _count: None,
) -> int:
    """Write everything that matches as one JSON object a line; see `export`."""
    encoder = msgspec.json.Encoder()
    buffer = bytearray()
    rows = 0
    for page in reader.pages(wanted):
        for row in page:
            columns, message, _ = _taken_apart(row, pictures, folder)
            encoder.encode_into({**columns, "message": message}, buffer, len(buffer))
            buffer += b"\n"
        file.write(buffer)
        buffer.clear()
        rows += len(page)
        on_rows(len(page))
    return rows


def _export_parquet(
    reader: JournalReader,
    wanted: Filter,
    draft: Path,
    *,
    pictures: PictureChoice,
    folder: Path | None,
    on_rows: Callable[[int], None],
) -> int:
    from bridge.parquet import ParquetFile

    columns = dict(_COLUMNS[wanted.table])
    if pictures != "none" and wanted.table == "escalation":
        columns["pictures"] = "pictures" if pictures == "inline" else "texts"
    rows = 0
    with ParquetFile(draft, columns) as file:
        for page in reader.pages(wanted):
            _write_page(file, page, pictures, folder)
            rows += len(page)
            on_rows(len(page))
    return rows


def _write_page(
    file: ParquetFile, page: Sequence[Mapping[str, Any]], pictures: PictureChoice, folder: Path | None
) -> None:
    """A picture is a column of its own here: bytes, or the file's name."""
    told, size_bytes = [], 0
    for row in page:
        inline = pictures_of(row["payload"]) if pictures == "inline" and "rule" in row else ()
        columns, message, names = _taken_apart(row, "none" if pictures == "inline" else pictures, folder)
        text = msgspec.json.encode(message).decode()
        told.append({**columns, "message": text, "pictures": [one.data for one in inline] or names})
        size_bytes += len(text) + sum(len(one.data) for one in inline)
    file.write(told, size_bytes)


def _taken_apart(
    row: Mapping[str, Any], pictures: PictureChoice, folder: Path | None
) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """A row's columns, its message, and the names of its pictures' files."""
    columns = dict(row)
    payload = columns.pop("payload")
    message: dict[str, Any] = msgspec.json.decode(payload)
    names: list[str] = []
    if pictures != "inline" and message.get("evidence"):
        if folder is not None:
            names = _save_pictures(row, pictures_of(payload), folder)
        for number, picture in enumerate(message["evidence"]):
            picture.pop("data", None)
            if names:
                picture["file"] = names[number]
    return columns, message, names


def _save_pictures(row: Mapping[str, Any], pictures: Sequence[Evidence], folder: Path) -> list[str]:
    """Write an escalation's pictures; their names, empty for one that is not what its sender has sent."""
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for number, picture in enumerate(pictures, start=1):
        name = picture_name(row, number, picture.content_type)
        is_genuine = hashlib.sha256(picture.data).hexdigest() == picture.sha256
        if is_genuine:
            (folder / name).write_bytes(picture.data)
        names.append(f"{folder.name}/{name}" if is_genuine else "")
    return names


@contextlib.contextmanager
def _complete(path: Path) -> Iterator[Path]:
    """A draft that becomes the file at the end; whatever goes wrong, there is no half file of that name."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        move_into_place(draft, path)
    except PermissionError as error:
        raise PermanentError(f"{path} cannot be written ({error}): check the rights of its folder") from error
    except OSError as error:
        raise TransientError(f"{path} cannot be written ({error}): free space on the disk, or take another") from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
