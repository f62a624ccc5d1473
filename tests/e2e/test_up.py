from __future__ import annotations

import contextlib
import os
import re
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from broker import Delivery, Frame, connect
from broker.messages import (
    CameraOwner,
    CameraState,
    Detections,
    Escalation,
    FrameMeta,
    Message,
    MotionEvent,
    NodeHealth,
    NodeStatus,
    OpenEvents,
    Receipts,
    TrackEvent,
    WorkerBeat,
    WorkerStatus,
    encode_json,
)
from broker.outbox import read_backlogs
from broker.session import find_outboxes
from broker.topics import everything
from config.settings import Settings
from config.sources import load_settings
from tests.e2e.vigil_process import Vigil, run_vigil
from tests.support.ports import free_port
from tests.support.schemas import faults_of
from tests.support.waiting import wait_until

ROLES = ("broker", "edge", "detector", "bridge", "console")


def roles_of(vigil: Vigil) -> dict[str, psutil.Process]:
    """The processes of a running mesh by role."""
    found = {}
    for child in psutil.Process(vigil.process.pid).children():
        with contextlib.suppress(psutil.Error):
            # Between its fork and its exec a child still shows its parent's command line.
            _, mark, arguments = " ".join(child.cmdline()).partition("/up/vigil.yaml ")
            found.update({role: child for role in ROLES if mark and role in arguments.split()})
    return found


def free_ports() -> tuple[str, ...]:
    """Flags that keep a mesh apart from others on this machine, which may start in the same moment."""
    return ("--broker-port", str(free_port()), "--port", str(free_port()))


def used_settings(state: Path) -> Settings:
    return load_settings(state / "up" / "vigil.yaml")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def mesh(state: Path, tmp_path: Path) -> Iterator[Vigil]:
    """A mesh that has raised its first escalation, and raises more every second that somebody is there."""
    site_file = tmp_path / "site.yaml"
    site_file.write_text("detector:\n  rules:\n    presence: {cooldown_s: 1}\n")
    options = ("--config", str(site_file), "--state", str(state))
    with Vigil(*options, "up", *free_ports(), folder=tmp_path) as vigil:
        wait_until(lambda: stored(state), timeout_s=90, what=f"the first escalation\n{vigil.output}")
        yield vigil


def stored(state: Path) -> int:
    """Escalations in the journal."""
    journal = state / "journal.db"
    if not journal.exists():
        return 0
    with contextlib.closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as db:
        try:
            return int(db.execute("SELECT count(*) FROM escalation").fetchone()[0])
        except sqlite3.OperationalError:
            return 0


def waiting(state: Path) -> int:
    """Messages in the outboxes that nobody has confirmed."""
    outboxes = find_outboxes(used_settings(state)).values()
    return sum(len(backlog.waiting) for path in outboxes for backlog in read_backlogs(path))


VERDICT = r"(\d+) escalations raised, \1 in the journal, 0 missing, 0 repeated"


@pytest.mark.slow
def test_one_command_runs_the_mesh_and_proves_that_nothing_is_missing(mesh: Vigil, state: Path, tmp_path: Path) -> None:
    told = re.compile(r"street  in \d+\.\d fps  scored \d+\.\d fps  p50 \d+ ms  p99 \d+ ms  motion O")
    wait_until(lambda: told.search(mesh.output), timeout_s=90, what="the figures of a camera at work")
    mesh.interrupt()
    assert (mesh.wait_end(60), mesh.errors) == (0, ""), mesh.output
    verdict = re.search(rf"^{VERDICT}$", mesh.output, re.MULTILINE)
    assert verdict is not None, mesh.output
    assert int(verdict[1]) == stored(state)
    assert re.search(r"^web page   http://127\.0\.0\.1:\d+/$", mesh.output, re.MULTILINE)
    assert "Traceback" not in mesh.output
    before = stored(state)
    with Vigil("--state", str(state), "up", *free_ports(), folder=tmp_path) as again:
        wait_until(lambda: stored(state) > before, timeout_s=90, what=f"another escalation\n{again.output}")
        again.interrupt()
        assert (again.wait_end(60), again.errors) == (0, ""), again.output
    both = rf"^{VERDICT}\nwith earlier runs: {VERDICT.replace('1', '2')}$"
    assert re.search(both, again.output, re.MULTILINE), again.output


def kill_and_see_it_recover(mesh: Vigil, state: Path, role: str, pid: int) -> None:
    before = stored(state)
    os.kill(pid, signal.SIGKILL)
    mesh.wait_said(f"{role} killed by SIGKILL; starts again in")
    wait_until(lambda: roles_of(mesh).get(role), what=f"a new {role}")
    wait_until(lambda: stored(state) > before, timeout_s=60, what=f"an escalation after {role}'s death")


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_any_role_may_be_killed_and_every_escalation_arrives_once(mesh: Vigil, state: Path) -> None:
    first = roles_of(mesh)
    assert set(first) == set(ROLES)
    for role in ("bridge", "detector", "broker", "edge", "console"):
        kill_and_see_it_recover(mesh, state, role, first[role].pid)
    wait_until(lambda: not waiting(state), timeout_s=60, what="receipts for everything that was raised")
    mesh.interrupt()
    assert mesh.wait_end(60) == 0, mesh.output + mesh.errors
    assert re.search(VERDICT, mesh.output), mesh.output
    assert "started again: " in mesh.output


@pytest.mark.slow
def test_a_second_one_needs_a_state_folder_of_its_own_and_a_killed_one_leaves_nothing_behind(
    mesh: Vigil, state: Path
) -> None:
    status, _, errors = run_vigil("--state", str(state), "up", "--for", "5s")
    assert status == 1
    assert f"another `vigil up` (process {mesh.process.pid}) runs on {state}" in errors
    assert "vigil --state DIR up" in errors
    page = f"http://127.0.0.1:{used_settings(state).console.port}"
    assert httpx.get(f"{page}/api/cameras", timeout=10).json()["cameras"][0]["name"] == "street"
    children = list(roles_of(mesh).values())
    mesh.process.kill()
    mesh.process.wait()
    gone, alive = psutil.wait_procs(children, timeout=15)
    assert (len(gone), alive) == (len(ROLES), [])


@pytest.mark.slow
def test_cameras_come_and_go_with_the_site_file(state: Path, tmp_path: Path) -> None:
    site_file = tmp_path / "site.yaml"
    site_file.write_text("cameras:\n  yard: {source: 'synthetic:street'}\n")
    options = ("--config", str(site_file), "--state", str(state))
    with Vigil(*options, "up", *free_ports(), folder=tmp_path) as vigil:
        vigil.wait_said(" yard  in ", timeout_s=60)
        site_file.write_text("cameras:\n  yard: {source: 'synthetic:street', idle_fps: none}\n")
        vigil.wait_said("idle_fps", timeout_s=30)
        vigil.wait_said("the cameras go on as they were", timeout_s=30)
        site_file.write_text("cameras:\n  door: {source: 'synthetic:street?seed=2'}\n")
        vigil.wait_said("the cameras are door", timeout_s=30)
        vigil.wait_said(" door  in ", timeout_s=60)
        vigil.interrupt()
        assert vigil.wait_end(timeout_s=60) == 0, vigil.output


@pytest.mark.slow
def test_the_next_frame_is_a_picture_for_plain_tools(mesh: Vigil, tmp_path: Path) -> None:
    command = re.search(r"^one frame  (mosquitto_sub .*) > a\.jpg$", mesh.output, re.MULTILINE)
    assert command is not None
    assert os.system(f"cd {tmp_path} && timeout 20 {command[1]} > a.jpg") == 0
    content = (tmp_path / "a.jpg").read_bytes()
    assert content.startswith(b"\xff\xd8\xff\xfe")
    assert b'"camera":"street"' in content[:200]


@pytest.mark.slow
def test_without_the_web_framework_the_mesh_runs_and_says_what_is_missing(state: Path, tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "fastapi.py").write_text("raise ModuleNotFoundError('hidden', name='fastapi')\n")
    environment = {"PYTHONPATH": f"{hidden}:{Path(__file__).parents[2]}"}
    options = ("--state", str(state), "up", *free_ports())
    with Vigil(*options, folder=tmp_path, environment=environment) as vigil:
        vigil.wait_said("no console: `vigil console` needs fastapi, which is not installed: ")
        vigil.wait_said("pip install 'vigil-mesh[console]'")
        wait_until(lambda: stored(state), timeout_s=90, what="an escalation all the same")
        vigil.interrupt()
        assert vigil.wait_end(60) == 0, vigil.output + vigil.errors


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_every_message_of_the_mesh_is_as_its_published_schema_says(mesh: Vigil, state: Path) -> None:
    heard: dict[type[Message], int] = {}
    faults: list[str] = []

    def on_delivery(delivery: Delivery) -> None:
        kind, payload = delivery.topic.spec.payload, delivery.payload
        if isinstance(delivery.content, Frame):
            kind, payload = FrameMeta, encode_json(delivery.content.meta)
        if kind is not None and payload:
            faults.extend(f"{delivery.topic}: {fault}" for fault in faults_of(kind, payload))
            heard[kind] = heard.get(kind, 0) + 1

    wanted = {CameraOwner, CameraState, Detections, Escalation, FrameMeta, MotionEvent, NodeHealth, NodeStatus}
    wanted |= {OpenEvents, Receipts, TrackEvent, WorkerBeat, WorkerStatus}
    bus = connect(used_settings(state), "listener")
    bus.subscribe_filter(everything(), on_delivery)
    bus.start()
    try:
        wait_until(lambda: wanted <= heard.keys(), timeout_s=90, what=f"one of each kind\n{mesh.output}")
    finally:
        bus.close(0.0)
    assert faults == []
