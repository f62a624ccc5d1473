from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.mosquitto import mosquitto_program
from tests.support.ports import free_port
from tests.support.server import ServerProcess
from tests.support.waiting import wait_until

VIGIL = [sys.executable, "-m", "console"]


def vigil(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*VIGIL, *arguments], capture_output=True, text=True, timeout=60, check=False)


def test_topics_prints_the_contract_and_what_the_configuration_changed(tmp_path: Path) -> None:
    plain = vigil("topics")
    assert plain.returncode == 0
    assert "camera/{camera}/escalation/{origin}" in plain.stdout
    site = tmp_path / "vigil.yaml"
    site.write_text("site: plant\nbus: {delivery: {camera_motion: {qos: 2}}}\n")
    changed = vigil("--config", str(site), "topics")
    assert "below vigil/v1/plant" in changed.stdout
    motion = next(line for line in changed.stdout.splitlines() if line.startswith("camera/{camera}/motion "))
    assert " 2 " in motion
    assert motion.endswith("(changed by bus.delivery)")


def test_stale_documents_fail_the_check(tmp_path: Path) -> None:
    assert vigil("topics", "--write", str(tmp_path)).returncode == 0
    assert vigil("topics", "--check", str(tmp_path)).returncode == 0
    (tmp_path / "topics.md").write_text("old")
    stale = vigil("topics", "--check", str(tmp_path))
    assert stale.returncode == 1
    assert "topics.md is stale: run `vigil topics --write" in stale.stderr


@pytest.mark.parametrize("engine", ["embedded", "mosquitto"])
def test_a_taken_port_is_told_with_the_cure(engine: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = vigil("--state", str(tmp_path), "broker", "run", "--engine", engine, "--port", port)
    assert ended.returncode == 78
    assert f"cannot listen on 127.0.0.1:{port}" in ended.stderr
    assert "--port" in ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr


def run_broker(tmp_path: Path, arguments: Sequence[str]) -> tuple[ServerProcess, int]:
    port = free_port()
    command = [*VIGIL, "--log-format", "json", "--state", str(tmp_path), "broker", "run", "--port", str(port)]
    server = ServerProcess([*command, *arguments], log=tmp_path / "log", ready="broker.listening", start_timeout_s=30)
    server.start()
    return server, port


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_supervised_mosquitto_is_started_again_and_leaves_with_its_supervisor(tmp_path: Path) -> None:
    server, port = run_broker(tmp_path, ["--engine", "mosquitto"])
    try:
        first = mosquitto_pid(server.pid)
        subprocess.run(["kill", "-9", str(first)], check=True)
        wait_until(lambda: mosquitto_pid(server.pid) not in (None, first), what="another Mosquitto")
        wait_until(lambda: listens(port), what="Mosquitto")
    finally:
        server.kill()
    wait_until(lambda: not listens(port), what="a free port after the supervisor's kill -9")


def test_it_says_that_it_listens_once_mosquitto_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = mosquitto_program()
    assert program is not None
    slow = tmp_path / "bin" / "mosquitto"
    slow.parent.mkdir()
    slow.write_text(f'#!/bin/sh\nsleep 0.3\nexec {program} "$@"\n')
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow.parent}:{os.environ['PATH']}")
    server, port = run_broker(tmp_path, ["--engine", "mosquitto"])
    try:
        assert listens(port)
    finally:
        server.stop()


def mosquitto_pid(parent: int) -> int | None:
    for task in Path(f"/proc/{parent}/task").glob("*/children"):
        for pid in task.read_text().split():
            if Path(f"/proc/{pid}/comm").read_text().strip() == "mosquitto":
                return int(pid)
    return None


@pytest.mark.parametrize("engine", ["embedded", "mosquitto"])
def test_sigterm_ends_a_broker_cleanly(engine: str, tmp_path: Path) -> None:
    server, port = run_broker(tmp_path, ["--engine", engine])
    assert listens(port)
    server.stop()
    assert not listens(port)
    assert "broker.stopped" in server.said()


def test_a_secure_broker_needs_an_authority(tmp_path: Path) -> None:
    ended = vigil("--state", str(tmp_path), "broker", "run", "--secure")
    assert ended.returncode == 78
    assert (
        f"broker.secure: a secure broker runs on the machine with the site's authority, and {tmp_path}/ca has none"
        in (ended.stderr)
    )
    assert "`vigil ca init`" in ended.stderr


def test_mosquitto_without_certificates_stays_on_loopback(tmp_path: Path) -> None:
    ended = vigil("--state", str(tmp_path), "broker", "run", "--engine", "mosquitto", "--host", "0.0.0.0")
    assert ended.returncode == 78
    assert "without certificates it listens on loopback only, not on 0.0.0.0: `vigil ca init`, then --secure" in (
        ended.stderr
    )


def test_the_embedded_broker_warns_where_it_can_be_reached_by_others(tmp_path: Path) -> None:
    server, _ = run_broker(tmp_path, ["--host", "0.0.0.0"])
    server.stop()
    warning = next(line for line in server_log(tmp_path) if "broker.exposed" in line)
    assert "MQTT 3.1.1 only, forgets what is unacknowledged when a client goes" in warning
    assert "everybody who reaches it gets in" in warning


def server_log(tmp_path: Path) -> list[str]:
    return (tmp_path / "log").read_text().splitlines()
