from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from broker.outbox import Outbox, read_backlogs, split_event_id
from config.errors import BacklogFullError, PermanentError


def _put(outbox: Outbox, payload: bytes = b"x", *, stream: str = "s", priority: int = 1) -> str:
    return outbox.put(stream, "t", lambda _identity: payload, priority=priority, needs_receipt=True)


def test_sequences_have_no_gap_and_each_stream_its_own_epoch(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o.db", origin="n.edge")
    first = [split_event_id(_put(outbox)) for _ in range(3)]
    other = split_event_id(_put(outbox, stream="other"))
    assert [seq for _, _, seq in first] == [1, 2, 3]
    assert {origin for origin, _, _ in first} == {"n.edge"}
    assert other[2] == 1
    assert other[1] != first[0][1]
    outbox.close()


def test_a_message_that_cannot_be_built_leaves_no_gap(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o.db", origin="n.edge")

    def fail(_identity: str) -> bytes:
        raise ValueError("no picture")

    _put(outbox)
    with pytest.raises(ValueError, match="no picture"):
        outbox.put("s", "t", fail, priority=1, needs_receipt=True)
    assert split_event_id(_put(outbox))[2] == 2
    assert [(stream.last_seq, stream.waiting) for stream in read_backlogs(tmp_path / "o.db")] == [(2, (1, 2))]
    outbox.close()


def test_priority_first_then_order_and_nothing_that_travels(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o.db", origin="n.edge")
    low = _put(outbox, priority=2)
    high = [_put(outbox, priority=0, stream="h") for _ in range(2)]
    entries = outbox.waiting(10)
    assert [entry.event_id for entry in entries] == [*high, low]
    assert [entry.event_id for entry in outbox.waiting(1, without=[entries[0].id])] == [high[1]]
    outbox.close()


def test_what_is_settled_is_gone_and_the_rest_survives_a_restart(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o.db", origin="n.edge")
    first, second = _put(outbox, b"one"), _put(outbox, b"two")
    assert outbox.settle(first) is not None
    assert outbox.settle(first) is None
    outbox.close()
    again = Outbox(tmp_path / "o.db", origin="n.edge")
    assert [(entry.event_id, entry.payload) for entry in again.waiting(9)] == [(second, b"two")]
    assert (again.rows, again.size_bytes) == (1, 3)
    assert split_event_id(_put(again))[2] == 3
    again.close()


def test_a_full_outbox_refuses_before_anything_is_lost(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o.db", origin="n.edge", rows_max=2, bytes_max=1000)
    _put(outbox), _put(outbox)
    with pytest.raises(BacklogFullError, match="2 messages"):
        _put(outbox)
    outbox.settle(outbox.waiting(1)[0].event_id)
    with pytest.raises(BacklogFullError):
        _put(outbox, bytes(1000))
    assert split_event_id(_put(outbox))[2] == 3
    outbox.close()


def test_a_file_that_is_no_outbox_is_named(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    path.write_bytes(b"this is not a database, it is a text file" * 40)
    with pytest.raises(PermanentError, match=r"o\.db cannot be opened"):
        Outbox(path, origin="n.edge")


def test_kill_9_in_the_middle_loses_nothing_that_put_returned(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from broker.outbox import Outbox
        outbox = Outbox(Path(sys.argv[1]), origin="n.edge")
        while True:
            print(outbox.put("s", "t", str.encode, priority=1, needs_receipt=True), flush=True)
        """
    )
    child = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    returned = [child.stdout.readline().strip() for _ in range(200)]
    os.kill(child.pid, signal.SIGKILL)
    returned += [line.strip() for line in child.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    child.stdout.close()
    child.wait()
    outbox = Outbox(path, origin="n.edge")
    kept = [entry.event_id for entry in outbox.waiting(1_000_000)]
    sequences = [split_event_id(identity)[2] for identity in kept]
    assert kept[: len(returned)] == returned
    assert sequences == list(range(1, len(kept) + 1))
    outbox.close()
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()


@pytest.mark.parametrize("value", ["", "a:b", "a:b:c", "a:b:0", "a:b:-1", ":b:1", "a::1", "a:b:1:2", "a:b:²"])
def test_what_is_no_event_id_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match=r"event id|unpack"):
        split_event_id(value)
