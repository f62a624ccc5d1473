"""The outbox against everything that happens to a process and its disk."""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path

import pytest

from broker.outbox import Outbox, OutboxMessage, read_backlogs, split_event_id
from broker.outbox_file import open_file, read_waiting
from config.clock import ManualClock
from config.errors import PermanentError, TransientError
from tests.support.waiting import wait_until

ORIGIN = "n.edge"


def opened(path: Path, **changes: float) -> Outbox:
    return Outbox(path, origin=ORIGIN, leaving_s=0.0, **changes)  # type: ignore[arg-type]


def put(outbox: Outbox, payload: bytes = b"x") -> str:
    return outbox.put("s", "t", lambda _identity: payload, priority=1, durable=True)


def numbers(path: Path) -> list[int]:
    return [split_event_id(message.event_id)[2] for message in read_waiting(path)]


def check_whole(path: Path) -> None:
    """SQLite finds no fault, and what the file says of itself is what is in it."""
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        for number, rows, size_bytes in db.execute("SELECT id, rows, size_bytes FROM stream").fetchall():
            found = db.execute("SELECT count(*), total(length(payload)) FROM entry WHERE id >> 48 = ?", (number,))
            assert found.fetchone() == (rows, size_bytes)


KILLED = textwrap.dedent(
    """
    import hashlib, os, random, signal, sys, threading, time
    from pathlib import Path
    from broker.outbox import Outbox, OutboxMessage

    def work(path, seed):
        rng = random.Random(seed)
        outbox = Outbox(path, origin="n.edge", leaving_s=5.0, rows_max=4_000, event_hold_s=0.02)

        def say(word, ids):
            os.write(1, "".join(f"{word} {identity}\\n" for identity in ids).encode())

        def message(stream):
            size = rng.choice([10, 300, 20_000])
            return OutboxMessage(stream, "t", lambda identity: identity.ljust(size).encode(), 1, stream == "s",
                                 opens=rng.random() < 0.1)

        def run():
            while True:
                ids = outbox.put_many([message(rng.choice("sm")) for _ in range(rng.choice([1, 1, 1, 20]))])
                say("put", ids)
                if rng.random() < 0.3:
                    settled = [identity for identity in ids if rng.random() < 0.5]
                    say("settle", settled)
                    for size in (10, 300, 20_000):
                        outbox.settle(
                            (one, hashlib.sha256(one.ljust(size).encode()).digest()) for one in settled)
                if rng.random() < 0.3:
                    for stream in outbox.streams():
                        outbox.hold(stream, rng.sample(range(1, stream.stored_seq + 1), min(5, stream.stored_seq)))
                outbox.tick(time.monotonic())

        for _ in range(4):
            threading.Thread(target=run, daemon=True).start()
        threading.Event().wait()

    path, seed = Path(sys.argv[1]), int(sys.argv[2])
    rng = random.Random(seed)
    for turn in range(40):
        child = os.fork()
        if not child:
            work(path, turn)
        time.sleep(rng.uniform(0.0, 0.12))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    """
)


@pytest.mark.slow
def test_kill_9_at_forty_moments_loses_nothing_that_put_returned(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(path), "1"], capture_output=True, text=True, timeout=100, check=False
    )
    assert ended.returncode == 0, ended.stderr
    said = [line.split(" ") for line in ended.stdout.splitlines(keepends=True) if line.endswith("\n")]
    returned = {words[1].strip() for words in said if words[0] == "put" and len(words) == 2}
    settled = {words[1].strip() for words in said if words[0] == "settle" and len(words) == 2}
    assert len(returned) > 200
    opened(path).close()
    check_whole(path)
    kept = {message.event_id for message in read_waiting(path)}
    for backlog in read_backlogs(path):
        released = {seq for first, last in backlog.released for seq in range(first, last + 1)}
        gone = released | {split_event_id(one)[2] for one in settled if f":{backlog.epoch}:" in one}
        raised = {split_event_id(one)[2] for one in returned | kept if f":{backlog.epoch}:" in one}
        assert raised | gone == set(range(1, backlog.last_seq + 1))
        assert raised - gone <= set(backlog.waiting)
        assert not released & set(backlog.waiting)
        assert backlog.name == "m" or not released


FULL = textwrap.dedent(
    """
    import resource, sys
    from pathlib import Path
    from broker.outbox import Outbox
    from config.errors import TransientError
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
    outbox = Outbox(Path(sys.argv[1]), origin="n.edge")
    refused = 0
    while refused < 3:
        try:
            print("put", outbox.put("s", "t", lambda i: i.ljust(9_000).encode(), priority=1, durable=True), flush=True)
        except TransientError as error:
            refused += 1
            print("refused", error, flush=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print("put", outbox.put("s", "t", str.encode, priority=1, durable=True))
    print("rows", outbox.rows)
    outbox.close()
    """
)


def test_a_full_disk_is_said_and_leaves_nothing_half_written_and_room_is_used_again(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    ended = subprocess.run(
        [sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
    said = [line.split(" ", 1) for line in ended.stdout.splitlines() if line.startswith(("put", "refused", "rows"))]
    ids = [text for word, text in said if word == "put"]
    refusals = [text for word, text in said if word == "refused"]
    assert len(ids) > 5
    assert len(refusals) == 3
    assert all("free space on the disk" in text for text in refusals)
    assert [split_event_id(identity)[2] for identity in ids] == numbers(path) == list(range(1, len(ids) + 1))
    assert ["rows", str(len(ids))] in said
    check_whole(path)


def fill(outbox: Outbox) -> int:
    """Put until there is no room; how many were taken."""
    taken = 0
    with suppress(TransientError):
        while taken < 1_000:
            put(outbox, bytes(9_000))
            taken += 1
    return taken


def test_a_database_that_may_not_grow_is_said_and_works_again_with_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "o.db"
    pages = [60]

    def bounded(place: Path, origin: str) -> sqlite3.Connection:
        db = open_file(place, origin)
        db.execute(f"PRAGMA max_page_count={pages[0]}")
        return db

    monkeypatch.setattr("broker.outbox_store.open_file", bounded)
    outbox = opened(path)
    taken = fill(outbox)
    assert outbox.rows == taken < 1_000
    with pytest.raises(TransientError, match="full"):
        outbox.put_many([OutboxMessage("s", "t", lambda _i: bytes(9_000), 1, durable=True)] * 30)
    first = next(read_waiting(path))
    outbox.settle([(first.event_id, hashlib.sha256(first.payload).digest())])
    assert split_event_id(put(outbox, b"small"))[2] == taken + 1
    pages[0] = 100_000
    with pytest.raises(TransientError):
        outbox.put_many([OutboxMessage("s", "t", lambda _i: bytes(9_000), 1, durable=True)] * 30)
    assert split_event_id(put(outbox, bytes(9_000)))[2] == taken + 2
    outbox.close()
    assert numbers(path) == list(range(2, taken + 3))
    check_whole(path)


def copied(path: Path, to: Path) -> Path:
    """What a disk holds at this instant, power gone."""
    to.mkdir()
    for part in path.parent.glob(f"{path.name}*"):
        if not part.name.endswith(("-shm", ".lock")):
            (to / part.name).write_bytes(part.read_bytes())
    return to / path.name


@pytest.mark.parametrize("cut_bytes", [1, 24, 4_000, 4_200, 9_000])
def test_a_power_cut_in_the_middle_of_a_write_takes_only_what_no_put_returned(tmp_path: Path, cut_bytes: int) -> None:
    path = tmp_path / "o.db"
    outbox = opened(path)
    for _ in range(20):
        put(outbox, bytes(2_000))
    before = (tmp_path / "o.db-wal").stat().st_size
    outbox.put_many([OutboxMessage("s", "t", lambda _i: bytes(2_000), 1, durable=True)] * 5)
    lost = copied(path, tmp_path / "after")
    outbox.close()
    log = lost.with_name("o.db-wal")
    os.truncate(log, before + cut_bytes)
    again = opened(lost)
    assert again.rows == 20
    assert split_event_id(put(again))[2] == 21
    again.close()
    check_whole(lost)


def damage_header(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[:16] = b"not a database!!"
    path.write_bytes(bytes(content))


def damage_schema(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[100:2_000] = b"\xa5" * 1_900
    path.write_bytes(bytes(content))


def set_version(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version=99")


def be_another_kind(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE stream (name TEXT)")


def be_text(path: Path) -> None:
    path.write_bytes(b"this is not a database, it is a text file" * 40)


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (damage_header, r"o\.db is damaged or of another kind"),
        (damage_schema, r"o\.db is damaged or of another kind"),
        (set_version, r"another version of Vigil \(schema 99, this one knows 1\)"),
        (be_another_kind, r"not an outbox"),
        (be_text, r"o\.db is damaged or of another kind"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_and_left_as_it_is(
    tmp_path: Path, harm: Callable[[Path], None], told: str
) -> None:
    path = tmp_path / "o.db"
    outbox = opened(path)
    put(outbox)
    outbox.close()
    harm(path)
    before = path.read_bytes()
    with pytest.raises(PermanentError, match=told):
        opened(path)
    with pytest.raises(PermanentError, match=told):
        read_backlogs(path)
    assert path.read_bytes() == before


def test_damage_under_way_is_told_as_such(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    outbox = opened(path)
    for _ in range(200):
        put(outbox, bytes(3_000))
    outbox.close()
    content = bytearray(path.read_bytes())
    for start in range(30 * 4_096, len(content), 4_096):
        content[start : start + 2_000] = b"\xa5" * 2_000
    path.write_bytes(bytes(content))
    outbox = opened(path)
    with pytest.raises(PermanentError, match=r"damaged.*\.recover"):
        put(outbox)
    outbox.close()


def test_another_ones_outbox_is_not_taken_over(tmp_path: Path) -> None:
    opened(tmp_path / "o.db").close()
    with pytest.raises(PermanentError, match=r"belongs to n\.edge, not to n\.detector"):
        Outbox(tmp_path / "o.db", origin="n.detector")


def test_a_file_that_is_moved_away_is_not_written_into_the_void(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    outbox = opened(path)
    put(outbox)
    path.rename(tmp_path / "elsewhere.db")
    refusals: list[str] = []

    def refuses() -> bool:
        try:
            put(outbox)
        except PermanentError as error:
            refusals.append(str(error))
        return bool(refusals)

    wait_until(refuses)
    assert "moved or deleted" in refusals[0]
    outbox.close()
    again = opened(path)
    assert split_event_id(put(again))[2] == 1
    again.close()


HOLDER = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from broker.outbox import Outbox
    outbox = Outbox(Path(sys.argv[1]), origin="n.edge")
    print("ready", flush=True)
    sys.stdin.read()
    """
)


def test_one_process_an_outbox_and_the_next_may_wait_for_it(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "ready\n"
        with pytest.raises(PermanentError, match=rf"in use by process {holder.pid}: .*--role"):
            opened(path)
        assert [backlog.waiting for backlog in read_backlogs(path)] == []
        os.kill(holder.pid, signal.SIGKILL)
        outbox = Outbox(path, origin=ORIGIN, leaving_s=10.0)
        outbox.close()
    finally:
        holder.kill()
        holder.wait()
        holder.stdin.close()
        holder.stdout.close()


def test_an_outbox_that_could_not_be_opened_is_free_for_the_next_try(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    path.write_bytes(b"no database at all")
    for _ in range(2):
        with pytest.raises(PermanentError, match="damaged"):
            opened(path)
    path.unlink()
    opened(path).close()


def test_a_step_of_the_clock_changes_nothing_but_what_a_person_is_told(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    clock = ManualClock()
    outbox = Outbox(path, origin=ORIGIN, clock=clock, event_hold_s=60.0)
    outbox.put("s", "t", str.encode, priority=1, durable=False)
    clock._start -= timedelta(days=20_000)
    outbox.put("s", "t", str.encode, priority=1, durable=False)
    outbox.tick(0.0)
    outbox.hold(outbox.streams()[0], [1, 2])
    for now_s in (1.0, 30.0, 60.0):
        outbox.tick(now_s)
    assert numbers(path) == [1, 2]
    assert [message.put_at for message in read_waiting(path)] == sorted(
        (message.put_at for message in read_waiting(path)), reverse=True
    )
    outbox.close()


def test_a_second_thread_that_waits_for_a_failing_disk_is_told_too_and_all_go_on_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    outbox = opened(path)
    put(outbox)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    failures: list[str] = []

    def run() -> None:
        try:
            put(outbox, bytes(300_000))
        except TransientError as error:
            failures.append(str(error))

    threads = [threading.Thread(target=run) for _ in range(8)]
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limit[1]))
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert len(failures) == 8
    assert split_event_id(put(outbox))[2] == 2
    outbox.close()
    assert numbers(path) == [1, 2]
