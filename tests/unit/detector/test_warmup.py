from __future__ import annotations

import stat
import sys
import threading
from pathlib import Path

import pytest

from broker.messages import ModelFile
from config import PermanentError, TransientError
from config.settings import DetectorSettings
from detector.model_store import file_sha256
from detector.warmup import warm_up

MODEL = ModelFile(name="people", sha256="ab" * 32, size_bytes=1)


def program(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the child be this script in place of Python."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(path))


def test_a_good_model_says_what_it_is(shared_data: Path) -> None:
    path = shared_data / "yolox_nano.onnx"
    model = ModelFile(name="people", sha256=file_sha256(path), size_bytes=1)
    told = warm_up(model, path, DetectorSettings(threads=1), stop=threading.Event())
    assert told.labels == 80
    assert told.picture_ms > 0
    assert told.memory_bytes > 10_000_000


def test_a_file_that_is_no_model_is_refused_with_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "people.onnx"
    path.write_bytes(b"no weights")
    with pytest.raises(PermanentError, match=r"people\.onnx is not a model that ONNX Runtime"):
        warm_up(MODEL, path, DetectorSettings(), stop=threading.Event())


@pytest.mark.parametrize(
    ("script", "said"),
    [
        pytest.param("kill -SEGV $$", r"people crashed \(SIGSEGV\) while it was warmed up", id="native crash"),
        pytest.param("kill -KILL $$", r"people was killed \(SIGKILL; most likely the memory ran out\)", id="killed"),
        pytest.param("echo ValueError: odd >&2; exit 1", r"people failed \(ValueError: odd\)", id="exception"),
        pytest.param("echo hello", r"people failed \(exit status 0\)", id="says nothing"),
        pytest.param("exit 3", r"people failed \(exit status 3\)", id="ends early"),
    ],
)
def test_a_model_that_takes_its_process_along_is_told_from_outside(
    script: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, script, monkeypatch)
    with pytest.raises(PermanentError, match=said):
        warm_up(MODEL, None, DetectorSettings(), stop=threading.Event())


def test_a_model_that_never_gets_warm_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "exec sleep 60", monkeypatch)
    with pytest.raises(PermanentError, match="not warm after 0 s"):
        warm_up(MODEL, None, DetectorSettings(), stop=threading.Event(), timeout_s=0.1)


def test_a_worker_that_ends_waits_for_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "exec sleep 60", monkeypatch)
    stop = threading.Event()
    stop.set()
    with pytest.raises(TransientError, match="the worker ends"):
        warm_up(MODEL, None, DetectorSettings(), stop=stop)


def test_a_machine_without_room_for_a_process_tries_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    with pytest.raises(TransientError, match="no process could be started to warm up people"):
        warm_up(MODEL, None, DetectorSettings(), stop=threading.Event())
