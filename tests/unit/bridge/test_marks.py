from __future__ import annotations

import sqlite3
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from bridge.marks import MARK_SCHEMA, Marks
from tests.unit.bridge.records import event

BATCHES = st.lists(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 40)), max_size=8), max_size=8)


def database() -> sqlite3.Connection:
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.executescript(MARK_SCHEMA)
    return db


@given(BATCHES)
def test_gaps_are_what_a_set_lacks_also_for_the_next_process(batches: list[list[tuple[str, int]]]) -> None:
    db, marks = database(), Marks()
    seen: dict[str, set[int]] = {}
    for batch in batches:
        fresh = {(node, seq) for node, seq in batch if seq not in seen.get(node, set())}
        for node, seq in fresh:
            seen.setdefault(node, set()).add(seq)
        marks.accept(marks.advance(db, [event(seq, origin=f"{node}.edge") for node, seq in fresh]))
        expected = {
            ("camera_motion", f"{node}.edge"): len(set(range(min(numbers), max(numbers) + 1)) - numbers)
            for node, numbers in seen.items()
        }
        later = Marks()
        later.load(db)
        assert marks.gaps() == later.gaps() == +Counter(expected)
    db.close()


def test_a_commit_that_failed_changes_nothing() -> None:
    db, marks = database(), Marks()
    marks.accept(marks.advance(db, [event(1)]))
    marks.advance(db, [event(9)])
    assert marks.gaps() == {}
    db.close()


def test_epochs_of_one_origin_are_told_together() -> None:
    db, marks = database(), Marks()
    marks.accept(marks.advance(db, [event(seq, epoch=epoch) for epoch in ("m1", "m2") for seq in (1, 3)]))
    assert marks.gaps() == {("camera_motion", "node-1.edge"): 2}
    db.close()


def test_invented_epochs_fill_neither_memory_nor_disk() -> None:
    db, marks = database(), Marks()
    for start in range(0, 3000, 100):
        genuine = event(start + 1, origin="node-2.edge")
        invented = [event(1, epoch=f"x{start + step}") for step in range(100)]
        marks.accept(marks.advance(db, [*invented, genuine]))
    assert len(marks._marks) == 1024
    assert db.execute("SELECT count(*) FROM mark").fetchone() == (1024,)
    later = Marks()
    later.load(db)
    assert later.gaps() == marks.gaps() == {("camera_motion", "node-2.edge"): 2901 - 30}
    db.close()
