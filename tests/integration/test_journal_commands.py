"""`vigil escalations`, `vigil events` and `vigil export` as people call them."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from bridge.journal import Journal
from tests.integration.bridge_process import Bridge
from tests.support.messages import AT
from tests.support.ports import free_port
from tests.support.waiting import wait_until
from tests.unit.bridge.records import event, record

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def vigil(tmp_path: Path) -> Bridge:
    """A machine with a journal of thirty each; its bridge does not run."""
    journal = Journal(tmp_path / "state" / "journal.db")
    journal.open(lambda _stored: None)
    for seq in range(1, 31):
        camera = "door" if seq % 2 else "yard"
        at = AT + timedelta(minutes=seq)
        journal.write(
            [
                record(seq, camera=camera, drill=seq > 25, zones=("mat",) if seq > 20 else (), raised_at=at),
                event(seq, camera=camera, stream="camera_track", at=at),
            ]
        )
    journal.close()
    return Bridge(f"mqtt://127.0.0.1:{free_port()}", tmp_path / "state")


def sequences(done: subprocess.CompletedProcess[str]) -> list[int]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line)["seq"] for line in done.stdout.splitlines()]


def test_lists(vigil: Bridge) -> None:
    genuine = vigil.ask("escalations", "--json", "--zone", "mat", "--no-drill")
    assert sequences(genuine) == [21, 22, 23, 24, 25]
    between = ("--since", "2026-01-01T12:03:00Z", "--until", "2026-01-01T13:07:00+01:00")
    assert sequences(vigil.ask("events", "--json", "--label", "person", "--stream", "track", *between)) == [3, 4, 5, 6]
    page = vigil.ask("escalations", "--camera", "door", "--limit", "3")
    assert len(page.stdout.splitlines()) == 3
    assert page.stderr.strip() == "the page before this one: --before 25"
    before = vigil.ask("escalations", "--camera", "door", "--limit", "3", "--before", "25", "--json")
    assert sequences(before) == [19, 21, 23]
    assert vigil.ask("events", "--before", "4711").stderr.count("has no event 4711") == 1


def test_follow(vigil: Bridge, tmp_path: Path) -> None:
    command = [*vigil.root, "escalations", "--json", "--limit", "1", "--camera", "yard", "--follow"]
    heard: list[int] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = process.stdout

        def listen() -> None:
            heard.extend(json.loads(line)["seq"] for line in lines)

        listener = threading.Thread(target=listen)
        listener.start()
        wait_until(lambda: heard, timeout_s=30, what="the newest")
        journal = Journal(tmp_path / "state" / "journal.db")
        journal.open(lambda _stored: None)
        journal.write([record(31, camera="door"), record(32, camera="yard")])
        journal.write([record(33, camera="yard")])
        journal.close()
        wait_until(lambda: heard == [30, 32, 33], timeout_s=30, what="the new ones")
        process.terminate()
        listener.join(30)


def test_export(vigil: Bridge, tmp_path: Path) -> None:
    path = tmp_path / "yard.parquet"
    done = vigil.ask("export", "escalations", str(path), "--camera", "yard")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.strip() == f"wrote 15 rows into {path}"
    assert pq.read_table(path)["seq"].to_pylist() == list(range(2, 31, 2))
    again = vigil.ask("export", "escalations", str(path))
    assert (again.returncode, "--force" in again.stderr) == (2, True)
    assert vigil.ask("export", "escalations", str(path), "--force").returncode == 0
    assert pq.read_metadata(path).num_rows == 30
    assert sequences(vigil.ask("export", "events", "-", "--camera", "door", "--until", "2026-01-01T12:04:00Z")) == [
        1,
        3,
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["events", "all.csv"], "nor in .parquet"),
        (["escalations", "-", "--pictures", "files"], "needs a FILE"),
        (["events", "all.jsonl", "--since", "yesterday"], "is neither 10m"),
    ],
)
def test_what_cannot_be_exported(vigil: Bridge, arguments: list[str], message: str) -> None:
    done = vigil.ask("export", *arguments)
    assert done.returncode == 2
    assert message in done.stderr


def test_the_extra_is_named_where_it_is_missing(vigil: Bridge, tmp_path: Path) -> None:
    """A machine without pyarrow."""
    program = "import sys; sys.modules['pyarrow'] = None; from console.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, *vigil.root[3:], "export", "events", str(tmp_path / "all.parquet")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "pip install 'vigil-mesh[parquet]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.glob("*.parquet")) == []
