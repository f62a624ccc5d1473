"""A mesh that is broken in every way loses nothing: short here, and for as long as anyone likes by a variable.

VIGIL_TEST_CHAOS=1..20 ./vigil test tests/e2e/test_chaos.py      each of these seeds, for a minute
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from tests.e2e.vigil_process import Vigil, run_vigil
from tests.support.mosquitto import mosquitto_program
from tests.support.waiting import wait_until

SHORT_S = 15
LONG_S = 60
LONG_SEEDS = os.environ.get("VIGIL_TEST_CHAOS")


def seeds_of(text: str) -> list[int]:
    first, _, last = text.partition("..")
    return list(range(int(first), int(last or first) + 1))


def need(engine: str) -> None:
    if engine == "mosquitto" and mosquitto_program() is None:
        pytest.skip("no mosquitto: sudo apt-get install mosquitto")


@pytest.fixture(params=["mosquitto", "embedded"])
def engine(request: pytest.FixtureRequest) -> str:
    need(request.param)
    return str(request.param)


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment in which what a run keeps lies in the test's own folder."""
    folder = tmp_path / "runs"
    folder.mkdir()
    yield {"TMPDIR": str(folder)}
    shutil.rmtree(folder)


def kept_run(environment: dict[str, str]) -> Path:
    (folder,) = Path(environment["TMPDIR"]).glob("vigil-chaos-*")
    return folder


@pytest.mark.slow
@pytest.mark.timeout(LONG_S + 120)
@pytest.mark.parametrize("seed", seeds_of(LONG_SEEDS) if LONG_SEEDS else [11])
def test_whatever_breaks_nothing_is_lost(engine: str, seed: int, scratch: dict[str, str]) -> None:
    length_s = LONG_S if LONG_SEEDS else SHORT_S
    flags = ("--seed", str(seed), "--for", f"{length_s}s", "--engine", engine, "--json", "--keep")
    status, output, told = run_vigil("chaos", *flags, timeout_s=length_s + 90, environment=scratch)
    assert status == 0, told
    report = json.loads(output)
    assert report["findings"] == []
    assert report["recovery_s"] is not None
    for kind in ("escalations", "events"):
        counts = report[kind]
        assert counts["raised"] == counts["present"] > length_s
        assert counts["missing"] == counts["repeated"] == counts["waiting"] == counts["released"] == 0
    assert sum(report["faults"].values()) >= length_s / 3
    assert report["restarts"] > 0
    assert_the_audit_can_fail(kept_run(scratch))


def assert_the_audit_can_fail(folder: Path) -> None:
    """Take one escalation out of the journal of a run that held: the audit says which."""
    with closing(sqlite3.connect(folder / "state" / "journal.db")) as db:
        ((event_id, seq),) = db.execute("DELETE FROM escalation WHERE id = 5 RETURNING event_id, seq").fetchall()
        db.commit()
    status, output, _ = run_vigil("--config", str(folder / "vigil.yaml"), "audit", "--json")
    assert status == 1
    report = json.loads(output)
    assert report["escalations"]["missing"] == 1
    origin, epoch, _ = event_id.split(":")
    (broken,) = [stream for stream in report["streams"] if stream["missing_ranges"]]
    assert (broken["origin"], broken["epoch"], broken["missing_ranges"]) == (origin, epoch, [[seq, seq]])


def test_the_schedule_can_be_seen_without_a_run() -> None:
    flags = ("chaos", "--seed", "7..8", "--for", "10s", "--faults", "kill,network", "--list")
    status, output, _ = run_vigil(*flags)
    assert status == 0
    assert run_vigil(*flags)[1] == output, "a seed always means the same"
    assert output.startswith("seed 7\n")
    assert "\nseed 8\n" in output
    assert "freeze" not in output


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--seed", "seven"), "'seven': write a number such as 7, or a range such as 1..20"),
        (("--seed", "9..3"), "a range goes up"),
        (("--faults", "kill,flood"), "'flood' is none of kill, freeze, restart"),
    ],
)
def test_wrong_flags(flags: tuple[str, ...], words: str) -> None:
    status, _, errors = run_vigil("chaos", *flags)
    assert status == 2
    assert words in errors


@pytest.mark.slow
@pytest.mark.parametrize("how", ["interrupt", "kill"])
def test_it_leaves_no_process_behind_not_even_a_frozen_one(how: str, tmp_path: Path, scratch: dict[str, str]) -> None:
    need("mosquitto")
    flags = ("chaos", "--seed", "2", "--for", "60s", "--faults", "freeze")
    with Vigil(*flags, folder=tmp_path, environment=scratch) as vigil:
        vigil.wait_said("freeze      broker", 60)
        children = psutil.Process(vigil.process.pid).children(recursive=True)
        assert len(children) == 7, "five roles, the broker and its Mosquitto"
        wait_until(lambda: any(child.status() == psutil.STATUS_STOPPED for child in children))
        if how == "kill":
            vigil.process.kill()
        else:
            vigil.interrupt()
        assert vigil.wait_end(30) == (130 if how == "interrupt" else -9), vigil.errors
        gone, alive = psutil.wait_procs(children, timeout=20)
        assert (len(gone), alive) == (7, [])
    if how == "interrupt":
        assert "interrupted" in vigil.output
        assert not list(Path(scratch["TMPDIR"]).glob("vigil-chaos-*"))
