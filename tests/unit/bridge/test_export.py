"""The journal as a file: what is in it is what was in the journal."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bridge.journal import EscalationFilter, EventFilter, Journal, JournalReader
from bridge.journal.export import export
from broker.messages import Evidence
from config.errors import PermanentError, TransientError
from tests.support.messages import AT, jpeg
from tests.unit.bridge.records import event, record

PICTURES = [jpeg(64, 48), jpeg(32, 24)]


def evidence(picture: bytes) -> Evidence:
    return Evidence(content_type="image/jpeg", sha256=sha256(picture).hexdigest(), width=64, height=48, data=picture)


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[JournalReader]:
    journal = Journal(tmp_path / "journal.db")
    journal.open(lambda _stored: None)
    for seq in range(1, 41):
        pictures = tuple(map(evidence, PICTURES[: seq % 3]))
        at = AT + timedelta(microseconds=seq)
        journal.write(
            [record(seq, evidence=pictures, zones=("door",), raised_at=at), event(seq, score=seq / 100, at=at)]
        )
    journal.close()
    made = JournalReader(tmp_path / "journal.db")
    yield made
    made.close()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def table(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return found


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def test_a_line_is_the_row_and_its_message_without_pictures(reader: JournalReader, tmp_path: Path) -> None:
    told: list[int] = []
    path = tmp_path / "all.jsonl"
    assert export(reader, EscalationFilter(), path, on_rows=told.append) == 40
    assert sum(told) == 40
    rows = lines(path)
    assert [row["seq"] for row in rows] == list(range(1, 41))
    fifth = rows[4]
    assert (fifth["zones"], fifth["drill"], fifth["score"]) == (["door"], False, 0.9)
    assert fifth["raised_at"] == "2026-01-01T12:00:00.000005Z"
    assert fifth["message"]["summary"] == "person at yard"
    assert [set(one) for one in fifth["message"]["evidence"]] == [
        {"content_type", "sha256", "width", "height"} | ({"uri"} & set(one)) for one in fifth["message"]["evidence"]
    ]
    assert len(fifth["message"]["evidence"]) == 2


def test_a_line_with_its_pictures(reader: JournalReader, tmp_path: Path) -> None:
    path = tmp_path / "all.jsonl"
    export(reader, EscalationFilter(), path, pictures="inline")
    for row in lines(path):
        found = [base64.b64decode(one["data"]) for one in row["message"].get("evidence", [])]
        assert found == PICTURES[: row["seq"] % 3]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_pictures_as_files(reader: JournalReader, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"yard{suffix}"
    export(reader, EscalationFilter(), path, pictures="files")

    def names(row: Mapping[str, Any]) -> list[str]:
        if suffix == ".parquet":
            found: list[str] = row["pictures"]
            return found
        return [one["file"] for one in row["message"].get("evidence", [])]

    rows = lines(path) if suffix == ".jsonl" else table(path)
    for row in rows:
        assert [(tmp_path / name).read_bytes() for name in names(row)] == PICTURES[: row["seq"] % 3]
    assert len(list((tmp_path / "yard-pictures").iterdir())) == sum(seq % 3 for seq in range(1, 41))


def test_a_forged_picture_becomes_no_file(tmp_path: Path) -> None:
    forged = Evidence(content_type="image/jpeg", sha256="0" * 64, width=1, height=1, data=b"other")
    journal = Journal(tmp_path / "journal.db")
    journal.open(lambda _stored: None)
    journal.write([record(1, evidence=(forged, evidence(PICTURES[0])))])
    reader = JournalReader(tmp_path / "journal.db")
    export(reader, EscalationFilter(), tmp_path / "all.jsonl", pictures="files")
    (row,) = lines(tmp_path / "all.jsonl")
    first, second = (one["file"] for one in row["message"]["evidence"])
    assert first == ""
    assert (tmp_path / second).read_bytes() == PICTURES[0]
    reader.close()
    journal.close()


def test_parquet_is_what_the_lines_are(reader: JournalReader, tmp_path: Path) -> None:
    for wanted, name in ((EscalationFilter(), "escalations"), (EventFilter(), "events")):
        export(reader, wanted, tmp_path / f"{name}.jsonl")
        export(reader, wanted, tmp_path / f"{name}.parquet")
        rows = lines(tmp_path / f"{name}.jsonl")
        columns = table(tmp_path / f"{name}.parquet")
        assert len(columns) == len(rows) == 40
        for row, column in zip(rows, columns, strict=True):
            assert json.loads(column.pop("message")) == row.pop("message")
            for key in {"at", "raised_at", "captured_at", "stored_at"} & row.keys():
                row[key] = moment(row[key])
            assert column == row


def test_parquet_has_types_and_is_compressed(reader: JournalReader, tmp_path: Path) -> None:
    path = tmp_path / "all.parquet"
    export(reader, EscalationFilter(), path, pictures="inline")
    schema = pq.read_schema(path)
    assert schema.field("raised_at").type == pa.timestamp("us", tz="UTC")
    assert (schema.field("seq").type, schema.field("drill").type) == (pa.int64(), pa.bool_())
    assert pq.read_metadata(path).row_group(0).column(0).compression == "ZSTD"
    late = AT + timedelta(microseconds=35)
    found = pq.read_table(path, filters=[("raised_at", ">", late)]).to_pylist()
    assert [row["seq"] for row in found] == [36, 37, 38, 39, 40]
    assert [row["pictures"] for row in found] == [PICTURES[: row["seq"] % 3] for row in found]


def test_memory_does_not_grow_with_the_file(
    reader: JournalReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.parquet._GROUP_ROWS", 16)
    monkeypatch.setattr("bridge.journal.reading._PAGE_BYTES", 1)
    path = tmp_path / "all.parquet"
    told: list[int] = []
    export(reader, EventFilter(), path, on_rows=told.append)
    assert told == [1] * 40, "a page ends where its bytes are enough"
    found = pq.read_metadata(path)
    assert [found.row_group(number).num_rows for number in range(found.num_row_groups)] == [16, 16, 8]


def test_nothing_is_a_file_too(reader: JournalReader, tmp_path: Path) -> None:
    for name in ("none.jsonl", "none.parquet"):
        assert export(reader, EventFilter(camera="nowhere"), tmp_path / name) == 0
    assert lines(tmp_path / "none.jsonl") == []
    assert table(tmp_path / "none.parquet") == []
    assert "raised_at" not in pq.read_schema(tmp_path / "none.parquet").names


@pytest.mark.parametrize("name", ["all.jsonl", "all.parquet"])
def test_what_breaks_off_leaves_the_old_file_and_no_half_one(reader: JournalReader, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / name).write_text("old")

    def fail(_count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(reader, EventFilter(), folder / name, on_rows=fail)
    assert [(one.name, one.read_text()) for one in folder.iterdir()] == [(name, "old")]
    assert export(reader, EventFilter(), folder / name) == 40
    assert [one.name for one in folder.iterdir()] == [name]


def test_a_folder_that_may_not_be_written_is_said(reader: JournalReader, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises((TransientError, PermanentError), match="cannot be written"):
        export(reader, EventFilter(), tmp_path / "file" / "all.jsonl")


def test_now_is_in_utc(reader: JournalReader) -> None:
    (row,) = reader.entries(limit=1)
    assert moment(row.stored_at).tzinfo == UTC
