"""What a shard has written: ids of escalations and events, in blocks, as the ledger topic keeps them.

A block is 64 sequences of one line of the contract, origin and epoch. It is one record of the ledger topic, which is
compacted by the block's name: a transaction writes only the blocks that its records belong to, however much was
written before. Of each id the block has the first 48 bits of its payload's SHA-256: the same id with another payload
is another message (see `Record.key`), so that neither a restored outbox nor somebody who uses ids before their owner
keeps a message out.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType

import msgspec

from bridge.marks import Mark, StreamKey
from bridge.sink import ESCALATIONS, Record, Table
from config import BadPayloadError

__all__ = ["SEQUENCES", "Written", "block_of", "read_block"]

SEQUENCES = 64
"""In one block: at most 1.5 kB as JSON, written again with each of its ids."""
_BLOCKS_MAX = 16_384
"""A million sequences of escalations, and as many of events: what the ledger of the other mode remembers."""
_SAME_ID_MAX = 4
"""Payloads that are remembered under one id. An honest sender has one; the oldest make room."""
_DIGEST_LETTERS = 12
_DECODED = 1_024
_ESCALATION_NAMES = frozenset(spec.name for spec in ESCALATIONS)

Ids = Mapping[int, str]
"""Digests by sequence; several of one sequence are separated by spaces."""
Changes = Mapping[str, bytes | None]
"""Records of the ledger topic: a value by block, None where it is forgotten."""


class _Block(msgspec.Struct, frozen=True):
    ids: dict[int, str]
    v: int = 1


_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(_Block)


def block_of(record: Record) -> str:
    """The block that a record belongs to, such as ``camera_motion:porch.edge:5f2a:12``."""
    return f"{record.stream}:{record.origin}:{record.epoch}:{(record.seq - 1) // SEQUENCES}"


def read_block(name: str, value: bytes) -> tuple[StreamKey, Ids]:
    """Stream, origin and epoch of a block, and what it has.

    Raises:
        BadPayloadError: it is not one.
    """
    try:
        stream, origin, epoch, number = name.split(":")
        ids = _decode(value)
        if not ids or any((seq - 1) // SEQUENCES != int(number) for seq in ids):
            raise ValueError("its ids are not its own")
    except (ValueError, msgspec.MsgspecError) as error:
        raise BadPayloadError(f"{name[:256]!r} is not a block of the ledger: {error}") from error
    return (stream, origin, epoch), ids


@lru_cache(maxsize=_DECODED)
def _decode(value: bytes) -> Ids:
    return MappingProxyType(_DECODER.decode(value).ids)


def _digest_of(record: Record) -> str:
    return record.digest.hex()[:_DIGEST_LETTERS]


class Written:
    """The blocks of one shard, the newest of them.

    Concurrency: one thread loads, notes and accepts; `marks` may be asked from any.

    Args:
        blocks_max: of escalations, and of events; apart, so that a flood of events makes it forget no escalation.
    """

    def __init__(self, blocks_max: int = _BLOCKS_MAX) -> None:
        self._blocks_max = blocks_max
        self._lock = threading.Lock()
        self._blocks: dict[Table, OrderedDict[str, bytes]] = {"escalation": OrderedDict(), "event": OrderedDict()}
        self._marks: dict[str, Mark] = {}

    def __len__(self) -> int:
        """How many blocks there are."""
        return sum(map(len, self._blocks.values()))

    def load(self, name: str, value: bytes | None) -> None:
        """Take over a record of the ledger topic, in the topic's order; what is none is left out."""
        if value is not None:
            try:
                read_block(name, value)
            except BadPayloadError:
                return
        self.accept({name: value})

    def has(self, record: Record) -> bool:
        """Whether this very message was written."""
        value = self._blocks[record.table].get(block_of(record))
        return value is not None and _digest_of(record) in _decode(value).get(record.seq, "").split()

    def note(self, records: Iterable[Record]) -> Changes:
        """What the ledger topic must be told together with these records.

        Returns:
            What to accept once that is committed.
        """
        fresh: dict[tuple[Table, str], list[Record]] = {}
        for record in records:
            if record.epoch:  # else it has no identity: nobody can send it again under the same
                fresh.setdefault((record.table, block_of(record)), []).append(record)
        changes: dict[str, bytes | None] = {}
        for (table, name), some in fresh.items():
            changes[name] = _with(self._blocks[table].get(name), some)
        for table, blocks in self._blocks.items():
            new = sum(of_table == table and name not in blocks for of_table, name in fresh)
            surplus = max(0, len(blocks) + new - self._blocks_max)
            oldest = (name for name in blocks if name not in changes)
            changes.update((name, None) for name, _ in zip(list(oldest), range(surplus), strict=False))
        return changes

    def accept(self, changes: Changes) -> None:
        """Take over what is committed."""
        with self._lock:
            for name, value in changes.items():
                blocks = self._blocks["escalation" if name.partition(":")[0] in _ESCALATION_NAMES else "event"]
                if value is None:
                    blocks.pop(name, None)
                    self._marks.pop(name, None)
                else:
                    blocks[name] = value
                    ids = _decode(value)
                    self._marks[name] = Mark(min(ids), max(ids), len(ids))

    def marks(self) -> dict[StreamKey, Mark]:
        """How far each stream has come, of what is remembered."""
        with self._lock:
            marks = list(self._marks.items())
        found: dict[StreamKey, Mark] = {}
        for name, mark in marks:
            stream, origin, epoch, _ = name.split(":")
            key = (stream, origin, epoch)
            found[key] = mark.joined(found[key]) if key in found else mark
        return found


def _with(value: bytes | None, records: Iterable[Record]) -> bytes:
    """A block with some more ids."""
    ids = {} if value is None else dict(_decode(value))
    for record in records:
        digests = [*ids.get(record.seq, "").split(), _digest_of(record)]
        ids[record.seq] = " ".join(digests[-_SAME_ID_MAX:])
    return _ENCODER.encode(_Block(ids))
