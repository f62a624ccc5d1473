from __future__ import annotations

import json

import pytest

from config.log import configure_logging, get_logger


def test_a_log_line_is_an_event_with_keys(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    get_logger(camera="yard").info("camera.online", fps=5)
    line = json.loads(capsys.readouterr().out)
    assert (line["event"], line["camera"], line["fps"], line["level"]) == ("camera.online", "yard", 5, "info")


def test_a_fault_that_repeats_is_one_line_a_second(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    log = get_logger()
    for number in range(100):
        log.warning("camera.lost", camera="yard", number=number)
        log.warning("camera.lost", camera="gate", number=number)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["camera"] for line in lines] == ["yard", "gate"]


def test_levels_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("error", "json")
    get_logger().warning("camera.lost")
    assert capsys.readouterr().out == ""
