"""Parquet: columns with types, compressed, written a group of rows at a time.

Source: https://parquet.apache.org/docs/file-format/
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["ColumnKind", "ParquetFile"]

ColumnKind = Literal["text", "texts", "integer", "real", "flag", "time", "pictures"]
"""``time`` is given as RFC 3339 with ``Z`` and becomes a timestamp in UTC; ``texts`` and ``pictures`` are several."""

_TYPES: Mapping[ColumnKind, pa.DataType] = {
    "text": pa.string(),
    "texts": pa.list_(pa.string()),
    "integer": pa.int64(),
    "real": pa.float64(),
    "flag": pa.bool_(),
    "time": pa.timestamp("us", tz="UTC"),
    "pictures": pa.list_(pa.binary()),
}
_GROUP_ROWS = 20_000
_GROUP_BYTES = 32_000_000
"""A group is in memory until it is written; larger ones compress no better."""


class ParquetFile:
    """A file that is written from its beginning to its end, and then closed.

    Args:
        path: the file.
        columns: what each column holds, by its name.
    """

    def __init__(self, path: Path, columns: Mapping[str, ColumnKind]) -> None:
        self._schema = pa.schema([(name, _TYPES[kind]) for name, kind in columns.items()])
        self._rows: list[Mapping[str, Any]] = []
        self._bytes = 0
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")

    def write(self, rows: Sequence[Mapping[str, Any]], size_bytes: int) -> None:
        """Add rows.

        Args:
            rows: a value for each column.
            size_bytes: about what they take in memory.
        """
        self._rows += rows
        self._bytes += size_bytes
        if len(self._rows) >= _GROUP_ROWS or self._bytes >= _GROUP_BYTES:
            self._write_group()

    def _write_group(self) -> None:
        columns = [_column([row[field.name] for row in self._rows], field.type) for field in self._schema]
        self._writer.write_table(pa.Table.from_arrays(columns, schema=self._schema))
        self._rows.clear()
        self._bytes = 0

    def __enter__(self) -> Self:
        """Open since it was made."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Write what is left, and the index at the end; after an error the file is of no use."""
        if kind is None and self._rows:
            self._write_group()
        self._writer.close()


def _column(values: Sequence[Any], wanted: pa.DataType) -> pa.Array:
    if pa.types.is_timestamp(wanted):
        return pa.array(values, pa.string()).cast(wanted)
    return pa.array(values, wanted)
