from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from broker import topics
from broker.messages import encode_json
from broker.outbox import Outbox
from tests.support.messages import escalation, motion
from tests.support.mosquitto import Mosquitto
from tests.support.server import ServerProcess
from tests.support.waiting import wait_until

VIGIL = [sys.executable, "-m", "console"]
ORIGIN = "porch.edge"


def vigil(state: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*VIGIL, "--state", str(state), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def outbox_file(state: Path, origin: str = ORIGIN) -> Path:
    return state / "outbox" / "home" / f"{origin}.db"


def raise_some(outbox: Outbox, count: int = 3) -> list[str]:
    """So many escalations, and as many movements that have started."""
    alarm = topics.CAMERA_ESCALATION.at("home", camera="yard", origin=ORIGIN)
    movement = topics.CAMERA_MOTION.at("home", camera="yard")
    ids = []
    for _ in range(count):
        ids.append(
            outbox.put(alarm.spec.name, str(alarm), lambda one: encode_json(escalation(one)), priority=0, durable=True)
        )
        outbox.put(
            movement.spec.name,
            str(movement),
            lambda one: encode_json(motion(one)),
            priority=1,
            durable=False,
            opens=True,
        )
    return ids


@pytest.fixture
def left_behind(tmp_path: Path) -> list[str]:
    """The outbox of a process that is gone, with three escalations and three movements."""
    outbox = Outbox(outbox_file(tmp_path), origin=ORIGIN)
    ids = raise_some(outbox)
    outbox.close()
    return ids


@contextmanager
def bridge(state: Path, url: str) -> Iterator[None]:
    command = [*VIGIL, "--state", str(state), "--bus", url, "--log-format", "json", "bridge"]
    process = ServerProcess(command, log=state / "bridge.log", ready="bus.connected", start_timeout_s=30)
    process.start()
    try:
        yield
    finally:
        process.kill()


def waiting(path: Path) -> int:
    shown = vigil(path.parents[2], "outbox", "show", "--json", str(path))
    return sum(stream["waiting"] for stream in json.loads(shown.stdout)["outboxes"][0]["streams"])


def test_show_tells_what_waits_by_process_and_stream(tmp_path: Path, left_behind: list[str]) -> None:
    shown = vigil(tmp_path, "outbox", "show")
    assert shown.returncode == 0, shown.stderr
    head, *lines, total = shown.stdout.splitlines()
    assert " ".join(head.split()) == "origin process stream raised waiting released bytes oldest open"
    assert [line.split()[:6] for line in lines] == [
        [ORIGIN, "-", "camera_escalation", "3", "3", "0"],
        [ORIGIN, "-", "camera_motion", "3", "3", "0"],
    ]
    assert [line.split()[-1] for line in lines] == ["0", "3"]
    assert total.startswith("6 waiting, ")


def test_show_as_json_has_the_same_and_more(tmp_path: Path, left_behind: list[str]) -> None:
    (box,) = json.loads(vigil(tmp_path, "outbox", "show", "--json").stdout)["outboxes"]
    assert (box["origin"], box["path"], box["process"]) == (ORIGIN, str(outbox_file(tmp_path)), None)
    assert {stream["stream"]: stream["raised"] for stream in box["streams"]} == {
        "camera_escalation": 3,
        "camera_motion": 3,
    }
    assert 0 <= box["streams"][0]["oldest_age_s"] < 60
    assert box["streams"][0]["epoch"] in left_behind[0]
    assert len(box["open_events"]) == 3


def test_show_goes_on_after_a_file_that_is_no_outbox_and_fails_at_the_end(
    tmp_path: Path, left_behind: list[str]
) -> None:
    outbox_file(tmp_path, "attic.edge").write_text("no database, and long enough to be looked at" * 20)
    shown = vigil(tmp_path, "outbox", "show")
    assert shown.returncode == 1
    assert "6 waiting" in shown.stdout
    assert "attic.edge.db is damaged or of another kind" in shown.stderr
    assert "Traceback" not in shown.stderr


def test_an_empty_site_is_no_fault(tmp_path: Path) -> None:
    for command in ("show", "drain", "export"):
        done = vigil(tmp_path, "outbox", command)
        assert done.returncode == 0
        assert "no outbox of site home" in done.stderr


def test_a_running_process_is_named_and_its_outbox_can_be_looked_into(tmp_path: Path) -> None:
    outbox = Outbox(outbox_file(tmp_path), origin=ORIGIN)
    try:
        raise_some(outbox)
        (box,) = json.loads(vigil(tmp_path, "outbox", "show", "--json").stdout)["outboxes"]
        assert box["process"] == str(os.getpid())
        assert len(vigil(tmp_path, "outbox", "export").stdout.splitlines()) == 6
        drained = vigil(tmp_path, "outbox", "drain")
        assert drained.returncode == 1
        assert f"{ORIGIN}: runs as process {os.getpid()} and sends its 6 messages itself" in drained.stdout
        raise_some(outbox, 1)
    finally:
        outbox.close()


def test_export_writes_json_lines_with_the_payload_as_it_came(tmp_path: Path, left_behind: list[str]) -> None:
    done = vigil(tmp_path, "outbox", "export")
    assert done.returncode == 0
    assert done.stderr == "6 messages\n"
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["event_id"] for line in lines[:3]] == left_behind
    assert [line["stream"] for line in lines] == ["camera_escalation"] * 3 + ["camera_motion"] * 3
    assert lines[0]["payload"]["id"] == left_behind[0]
    assert lines[0]["topic"].endswith(f"/{ORIGIN}")
    assert encode_json(escalation(left_behind[0])).decode() in done.stdout.splitlines()[0]


def _same(payload: bytes, _event_id: str) -> bytes:
    return payload


def test_export_of_what_is_not_json_is_base64_and_goes_into_a_file(tmp_path: Path) -> None:
    outbox = Outbox(outbox_file(tmp_path), origin=ORIGIN)
    payloads = [b"\xff\xd8 a picture", b'{"pretty":\n1}', b'{"plain":1}']
    for payload in payloads:
        outbox.put("s", "t", partial(_same, payload), priority=0, durable=True)
    outbox.close()
    out = tmp_path / "waiting.jsonl"
    assert vigil(tmp_path, "outbox", "export", "--out", str(out)).returncode == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [base64.b64decode(line["payload_base64"]) for line in lines[:2]] == payloads[:2]
    assert lines[2]["payload"] == {"plain": 1}


def test_a_card_of_a_dead_node_that_cannot_be_written_is_exported(tmp_path: Path) -> None:
    state, card = tmp_path / "state", tmp_path / "card"
    outbox = Outbox(outbox_file(state), origin=ORIGIN)
    ids = raise_some(outbox)
    card.mkdir()
    for part in ("", "-wal"):  # as the power cut left it
        (card / f"{ORIGIN}.db{part}").write_bytes(outbox_file(state).with_name(f"{ORIGIN}.db{part}").read_bytes())
    outbox.close()
    card.chmod(0o500)
    try:
        done = vigil(tmp_path / "here", "outbox", "export", str(card / f"{ORIGIN}.db"))
    finally:
        card.chmod(0o700)
    assert [json.loads(line)["event_id"] for line in done.stdout.splitlines()[:3]] == ids


def test_drain_sends_what_a_process_left_behind_until_every_receipt_is_there(
    tmp_path: Path, left_behind: list[str], mosquitto: Mosquitto
) -> None:
    with bridge(tmp_path, mosquitto.url):
        done = vigil(tmp_path, "--bus", mosquitto.url, "outbox", "drain")
    assert (done.returncode, done.stdout) == (0, f"{ORIGIN}: 6 confirmed, 0 left\n"), done.stderr
    assert vigil(tmp_path, "outbox", "drain").stdout == f"{ORIGIN}: nothing waits\n"
    stored = vigil(tmp_path, "escalations", "--json").stdout.splitlines()
    assert [json.loads(line)["event_id"] for line in stored] == left_behind
    audit = vigil(tmp_path, "audit")
    assert audit.returncode == 0, audit.stdout


def test_drain_takes_the_file_of_another_node(tmp_path: Path, mosquitto: Mosquitto) -> None:
    card, here = tmp_path / "card", tmp_path / "here"
    here.mkdir()
    outbox = Outbox(outbox_file(card), origin=ORIGIN)
    raise_some(outbox)
    outbox.close()
    with bridge(here, mosquitto.url):
        done = vigil(here, "--bus", mosquitto.url, "--node", "desk", "outbox", "drain", str(outbox_file(card)))
    assert (done.returncode, done.stdout) == (0, f"{ORIGIN}: 6 confirmed, 0 left\n"), done.stderr


def test_drain_without_a_bridge_gives_up_and_keeps_everything(
    tmp_path: Path, left_behind: list[str], mosquitto: Mosquitto
) -> None:
    done = vigil(tmp_path, "--bus", mosquitto.url, "outbox", "drain", "--timeout", "1")
    assert done.returncode == 1
    assert done.stdout == f"{ORIGIN}: 0 confirmed, 6 left: no receipt came, is a bridge running?\n"
    assert waiting(outbox_file(tmp_path)) == 6


def test_drain_without_a_broker_says_so(tmp_path: Path, left_behind: list[str]) -> None:
    done = vigil(tmp_path, "--bus", "mqtt://127.0.0.1:9", "outbox", "drain", "--timeout", "1")
    assert done.returncode == 69
    assert f"no broker answers at mqtt://127.0.0.1:9: 6 messages of {ORIGIN} are left" in done.stderr


def test_ctrl_c_ends_a_drain_and_leaves_what_is_not_confirmed(
    tmp_path: Path, left_behind: list[str], mosquitto: Mosquitto
) -> None:
    command = [*VIGIL, "--state", str(tmp_path), "--bus", mosquitto.url, "outbox", "drain"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: "vigil-home-porch-edge" in mosquitto.said(), timeout_s=20, what="its connection")
    child.send_signal(signal.SIGINT)
    said, complained = child.communicate(timeout=20)
    assert child.returncode == 130
    assert said == f"{ORIGIN}: 0 confirmed, 6 left\n"
    assert "Traceback" not in complained
    assert waiting(outbox_file(tmp_path)) == 6


def test_help_has_examples() -> None:
    for command in ("show", "drain", "export"):
        told = subprocess.run([*VIGIL, "outbox", command, "--help"], capture_output=True, text=True, check=True)
        assert f"vigil outbox {command}" in told.stdout.split("Examples:")[1]
