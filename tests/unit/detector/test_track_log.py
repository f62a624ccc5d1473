"""Track logs, written and read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from broker.messages import Detection
from config import PermanentError
from detector.scene import Scene, Step, Track
from detector.track_log import log_line, read_track_log
from tests.support.messages import AT


def track(*xs: float, track_id: str = "1") -> Track:
    path = tuple(Step(float(at_s), (x, 0.2, x + 0.1, 0.8)) for at_s, x in enumerate(xs))
    return Track(track_id, "person", 0.9, 0.0, path, {"road": 1.0}, {"road": 2.0}, 0.1, None)


def scene(at_s: float, *tracks: Track) -> Scene:
    box = (0.1, 0.2, 0.3, 0.4)
    found = Detection(label="person", score=0.9, box=box, box_px=box, track_id="1")
    return Scene("yard", at_s, AT, 640, 360, tracks, (found,))


def test_what_was_written_is_read_with_the_whole_path(tmp_path: Path) -> None:
    scenes = [scene(0, track(0.1)), scene(1, track(0.1, 0.2)), scene(2, track(0.1, 0.2, 0.3))]
    log = tmp_path / "a.jsonl"
    log.write_bytes(b"".join(map(log_line, scenes)))
    assert list(read_track_log(log)) == scenes
    lines = log.read_text().splitlines()
    assert [len(json.loads(line)["tracks"][0]["path"]) for line in lines] == [1, 1, 1]


def test_an_object_that_was_not_seen_keeps_its_path(tmp_path: Path) -> None:
    seen = track(0.1, 0.2)
    log = tmp_path / "a.jsonl"
    log.write_bytes(b"".join(map(log_line, [scene(1, seen), scene(2, seen), scene(3), scene(4, track(0.5))])))
    assert [[len(one.path) for one in each.tracks] for each in read_track_log(log)] == [[1], [1], [], [1]]


@pytest.mark.parametrize("line", [b"milk\n", b'{"camera":"yard"}\n', b"\n", log_line(scene(1))[:40]])
def test_a_line_of_something_else_is_named(tmp_path: Path, line: bytes) -> None:
    log = tmp_path / "a.jsonl"
    log.write_bytes(log_line(replace(scene(1), tracks=())) + line)
    with pytest.raises(PermanentError, match=r"a\.jsonl:2: this is no line of a track log"):
        list(read_track_log(log))


def test_a_log_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match=r"a\.jsonl cannot be read: No such file"):
        list(read_track_log(tmp_path / "a.jsonl"))
