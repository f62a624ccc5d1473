from __future__ import annotations

import errno
import io
import json
import logging
import subprocess
import sys
from pathlib import Path

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


def test_the_last_line_of_defence_masks_what_is_secret(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("debug", "json")
    log = get_logger(source="rtsp://admin:s3cret@h/s")
    uri = "http://h/?token=s3cret"
    log.info("camera.opened", password="s3cret", cameras=[uri], by_name={"yard": uri, "key": 5}, path=Path(uri))
    try:
        raise OSError("cannot open rtsp://admin:s3cret@h/s")
    except OSError as error:
        log.warning("camera.lost", error=str(error), exc_info=True)
    said = capsys.readouterr().out
    first, second = (json.loads(line) for line in said.splitlines())
    assert "s3cret" not in said
    assert (first["source"], first["cameras"]) == ("rtsp://***@h/s", ["http://h/?token=***"])
    assert (first["password"], first["by_name"]) == ("***", {"yard": "http://h/?token=***", "key": "***"})
    assert second["exception"].endswith("OSError: cannot open rtsp://***@h/s")


def test_what_libraries_log_is_masked_too(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before, root.handlers = root.handlers, []
    try:
        configure_logging("info", "json")
        logging.getLogger("library").warning("GET %s failed", "http://admin:s3cret@h/")
    finally:
        root.handlers = before
    assert capsys.readouterr().out == "GET http://***@h/ failed\n"


class FailingStream(io.StringIO):
    """A file on a disk that fills, a pipe whose reader leaves, a file that is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.error: Exception | None = None

    def write(self, text: str) -> int:
        if self.error is not None:
            raise self.error
        return super().write(text)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EFBIG, "File too large"),
        BrokenPipeError(errno.EPIPE, "Broken pipe"),
        ValueError("I/O operation on closed file"),
    ],
)
def test_a_line_that_cannot_be_written_raises_nothing_and_the_next_one_says_so(error: Exception) -> None:
    stream = FailingStream()
    configure_logging("info", "json", stream=stream)
    log = get_logger()
    log.info("camera.online")
    stream.error = error
    for _ in range(3):
        log.info("camera.lost")
    stream.error = None
    log.info("camera.found")
    log.info("camera.online")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["event"], line.get("lines_lost")) for line in lines] == [
        ("camera.online", None),
        ("camera.found", 3),
        ("camera.online", None),
    ]


ON_A_FULL_DISK = """
import resource, sys, threading
from config.log import configure_logging, get_logger
from config.supervise import Supervised

configure_logging("info", "json", stream=open(sys.argv[1], "a"))
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, resource.RLIM_INFINITY))
stop = threading.Event()
turns = []

def turn():
    get_logger().info("turn.made", number=len(turns))
    turns.append(1)
    if len(turns) == 200:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    if len(turns) == 210:
        stop.set()
    if len(turns) % 50 == 0:
        raise OSError("to be logged")

thread = Supervised("test", turn, stop=stop)
thread.start()
assert thread.join(20.0), len(turns)
print(len(turns))
"""


def test_a_thread_lives_on_while_its_log_cannot_grow(tmp_path: Path) -> None:
    log = tmp_path / "log"
    ended = subprocess.run(
        [sys.executable, "-c", ON_A_FULL_DISK, str(log)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.stdout, ended.stderr) == ("210\n", "")
    lines = log.read_text().splitlines()
    assert json.loads(lines[-1])["number"] == 209
    assert any(json.loads(line).get("lines_lost", 0) > 100 for line in lines[-15:])
    for line in lines:
        json.loads(line)
