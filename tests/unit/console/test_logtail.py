from __future__ import annotations

import json
from pathlib import Path

from console.logtail import LogTail


def line(**fields: str) -> str:
    return json.dumps(fields) + "\n"


def test_hints_cures_and_errors_are_told_once(tmp_path: Path) -> None:
    log = tmp_path / "detector.log"
    tail = LogTail(log)
    assert tail.words() == []
    log.write_text(
        line(event="bus.connected", level="info")
        + line(event="model.hog_in_use", level="info", hint="give --model PATH")
        + line(event="bus.disconnected", level="warning")
        + line(event="journal.replaced", level="error", cure="restore it")
        + line(event="sink.full", level="error", error="no room\x1b[2J")
        + line(event="thread.ended", level="error", error="told by the role itself")
        + "not JSON\n[1]\n\xff\n"
    )
    assert tail.words() == [
        "model hog in use: give --model PATH",
        "journal replaced: restore it",
        "sink full: no room [2J",
    ]
    with log.open("a") as more:
        more.write(line(event="model.hog_in_use", level="info", hint="give --model PATH"))
    assert tail.words() == []


def test_a_line_is_read_when_it_is_whole(tmp_path: Path) -> None:
    log = tmp_path / "edge.log"
    tail = LogTail(log)
    whole = line(event="a", level="error")
    log.write_text(whole[:10])
    assert tail.words() == []
    log.write_text(whole)
    assert tail.words() == ["a"]


def test_a_log_that_was_emptied_is_followed_from_its_start(tmp_path: Path) -> None:
    log = tmp_path / "edge.log"
    tail = LogTail(log)
    log.write_text(line(event="first", level="error") * 3)
    assert tail.words() == ["first"]
    log.write_text(line(event="second", level="error"))
    assert tail.words() == ["second"]


def test_of_a_flood_only_the_end_is_looked_at(tmp_path: Path) -> None:
    log = tmp_path / "edge.log"
    log.write_text("x" * 1_000_000 + "\n" + line(event="last", level="error"))
    assert LogTail(log).words() == ["last"]
