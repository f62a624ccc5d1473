"""`vigil footage`: listed, cut and played, also while it is recorded."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from config.cameras import FootageSettings, RecordingSettings
from config.clock import SystemClock
from config.settings import Settings
from edge.footage import CameraRecorder, Footage
from edge.footage_cli import footage
from tests.support.coded import START, coded_pictures, read_numbers
from tests.support.waiting import wait_until

pytest.importorskip("edge.gst.writer", reason="no GStreamer: see deploy/packages.txt")


@dataclass(frozen=True, slots=True)
class Machine:
    """A node that records while people look."""

    state: Path
    recorder: CameraRecorder

    def vigil(self, *arguments: str) -> Result:
        def load(flags: Mapping[str, Any]) -> Settings:
            return Settings(state_dir=self.state, **flags)

        return CliRunner().invoke(footage, list(arguments), obj=load)


def _at(seconds: float) -> str:
    return (START + timedelta(seconds=seconds)).isoformat()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    settings = FootageSettings(disk_free_min_bytes=0)
    node = Footage(tmp_path / "footage", settings, publish=lambda event: event, clock=SystemClock())
    recorder = node.camera("yard", RecordingSettings(segment_s=3), masked=False)
    recorder.want("continuous", private=False)
    later = coded_pictures(25, first=100, at_s=150, start=START + timedelta(seconds=50))
    for packet in [*coded_pictures(40), *later]:
        recorder.on_packet(packet)
    assert recorder.flush(10)
    yield Machine(tmp_path, recorder)
    recorder.close()
    node.close()


def test_the_list_shows_segments_gaps_and_what_is_open(machine: Machine) -> None:
    wanted = ("list", "--from", _at(-60), "--to", _at(600))
    wait_until(lambda: machine.vigil(*wanted, "--json").output.count("\n") == 3)
    rows = [json.loads(line) for line in machine.vigil(*wanted, "--json").output.splitlines()]
    assert [(row["start"], row["open"]) for row in rows] == [
        ("2026-03-01T12:00:00.000+00:00", False),
        ("2026-03-01T12:00:03.000+00:00", False),
        ("2026-03-01T12:00:50.000+00:00", True),
    ]
    assert [row["gap_before_s"] for row in rows] == [0, 0, 46]
    text = machine.vigil(*wanted).output
    assert "nothing for 46 s" in text
    assert "3 segments" in text


def test_a_clip_is_cut_while_the_node_records(machine: Machine, tmp_path: Path) -> None:
    out = tmp_path / "visitor.mp4"
    cut = machine.vigil("get", "yard", "--from", _at(1.55), "--to", _at(3.55), "--out", str(out))
    assert cut.exit_code == 0, cut.output
    assert read_numbers(out) == list(range(10, 36))
    assert "26 pictures" in cut.output
    again = machine.vigil("get", "yard", "--from", _at(1.55), "--to", _at(3.55), "--out", str(out))
    assert "is there already" in str(again.exception)
    assert read_numbers(out) == list(range(10, 36))


def test_what_was_not_recorded_is_said(machine: Machine, tmp_path: Path) -> None:
    cut = machine.vigil("get", "yard", "--from", _at(-5), "--to", _at(1), "--out", str(tmp_path / "a.mp4"))
    assert "5.0 s of what was asked for were not recorded" in cut.output
    none = machine.vigil("get", "yard", "--from", _at(20), "--to", _at(30), "--out", str(tmp_path / "b.mp4"))
    assert "nothing was recorded from" in str(none.exception)
    assert list(tmp_path.glob("*b.mp4*")) == []
    other = machine.vigil("get", "door", "--from", _at(20))
    assert "there is of: yard" in str(other.exception)


def test_play_names_the_segment_of_a_moment(machine: Machine) -> None:
    played = machine.vigil("play", "yard", "--at", _at(2))
    assert played.exit_code == 0
    assert read_numbers(Path(played.output.strip())) == list(range(30))


@pytest.mark.parametrize("moment", ["yesterday", "-10", "2026-13-01", ""])
def test_what_is_no_time_is_refused_with_an_example(machine: Machine, moment: str) -> None:
    refused = machine.vigil("list", "--from", moment)
    assert refused.exit_code == 2
    assert "-10m" in refused.output
