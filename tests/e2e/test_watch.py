from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from broker import encode_frame
from broker.topics import CAMERA_ESCALATION, CAMERA_FRAME, CAMERA_STATE, everything
from tests.e2e.conftest import Join
from tests.e2e.vigil_process import Vigil, run_vigil
from tests.support.messages import camera_state, escalation, frame_meta, jpeg
from tests.support.mosquitto import Mosquitto
from tests.support.ports import free_port
from tests.support.waiting import wait_until


def publish(mosquitto: Mosquitto, topic: str, payload: bytes) -> None:
    subprocess.run(
        ["mosquitto_pub", "-p", str(mosquitto.port), "-t", topic, "-s"], input=payload, check=True, timeout=10
    )


def test_json_lines_are_what_was_published(mosquitto: Mosquitto, join: Join, tmp_path: Path) -> None:
    bus = join("edge")
    bus.publish(CAMERA_STATE.at("home", camera="yard"), camera_state())
    with Vigil("--bus", mosquitto.url, "watch", "--json", "--camera", "yard", "--count", "3", folder=tmp_path) as watch:
        watch.wait_said('"retained":true')
        payload = encode_frame(jpeg(), frame_meta(seq=5))
        bus.publish(CAMERA_FRAME.at("home", camera="gate"), encode_frame(jpeg(), frame_meta("gate")))
        bus.publish(CAMERA_FRAME.at("home", camera="yard"), payload)
        topic = CAMERA_ESCALATION.at("home", camera="yard", origin=bus.origin)
        identity = bus.publish_event(topic, lambda event_id: escalation(event_id, summary="who is that?"))
        assert watch.wait_end(20) == 0
    state, frame, raised = [json.loads(line) for line in watch.output.splitlines()]
    assert state["payload"]["state"] == "online"
    assert (frame["payload"]["seq"], frame["payload"]["size_bytes"]) == (5, len(payload))
    assert (raised["payload"]["id"], raised["payload"]["summary"]) == (identity, "who is that?")
    assert raised["topic"] == str(topic)


def test_kinds_are_filtered_at_the_broker(mosquitto: Mosquitto, join: Join, tmp_path: Path) -> None:
    bus = join("edge")
    bus.publish(CAMERA_STATE.at("home", camera="yard"), camera_state())
    bus.publish(CAMERA_STATE.at("home", camera="gate"), camera_state("gate"))
    status, output, _ = run_vigil("--bus", mosquitto.url, "watch", "--kind", "state", "--count", "2")
    assert status == 0
    assert [line.split()[1:4] for line in sorted(output.splitlines(), key=lambda line: line.split()[1])] == [
        ["gate", "state", "online"],
        ["yard", "state", "online"],
    ]


def test_what_cannot_be_read_is_shown_as_a_reject(mosquitto: Mosquitto, tmp_path: Path) -> None:
    with Vigil("--bus", mosquitto.url, "--node", "node-1", "watch", folder=tmp_path) as watch:
        wait_until(lambda: mosquitto_has_client(mosquitto), what="the watcher at the broker")
        stray = everything("home").removesuffix("#") + "stray"
        while "reject" not in watch.output:
            publish(mosquitto, stray, b"\x1b[2J{")
        assert watch.process.poll() is None
    line = watch.output.splitlines()[0]
    assert "node-1.watch" in line
    assert "not a topic of this contract" in line
    assert line.isprintable()


def mosquitto_has_client(mosquitto: Mosquitto) -> bool:
    return "vigil-home-watch-" in mosquitto.said()


def test_it_ends_by_itself_after_a_time(mosquitto: Mosquitto) -> None:
    assert run_vigil("--bus", mosquitto.url, "watch", "--for", "300ms") == (0, "", "")


def test_it_ends_quietly_when_its_reader_leaves(mosquitto: Mosquitto, join: Join) -> None:
    bus = join("edge")
    for number in range(5):
        bus.publish(CAMERA_STATE.at("home", camera=f"c{number}"), camera_state(f"c{number}"))
    command = f"{sys.executable} -m console --bus {mosquitto.url} watch | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.Popen(["bash", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with done:
        assert done.stdout is not None
        assert "state" in done.stdout.readline()
        for number in range(100, 1000):
            bus.publish(CAMERA_STATE.at("home", camera=f"c{number}"), camera_state(f"c{number}"))
            if done.poll() is not None:
                break
        assert done.wait(20) == 141
        assert done.stderr is not None
        assert done.stderr.read() == ""


def test_without_a_broker_it_says_so(tmp_path: Path) -> None:
    url = f"mqtt://127.0.0.1:{free_port()}"
    status, output, errors = run_vigil("--bus", url, "watch")
    assert (status, output) == (69, "")
    assert errors == f"vigil: no broker at {url}: start one, or name another with --bus URL\n"


def test_a_broker_that_comes_back_is_followed_again(mosquitto: Mosquitto, tmp_path: Path) -> None:
    with Vigil("--bus", mosquitto.url, "watch", folder=tmp_path) as watch:
        wait_until(lambda: mosquitto_has_client(mosquitto), what="the watcher at the broker")
        mosquitto.stop()
        wait_until(lambda: "connection lost" in watch.errors, what="word of the loss")
        mosquitto.start()
        wait_until(lambda: "connected again" in watch.errors, timeout_s=20, what="the watcher's return")
        assert watch.errors == "vigil: connection lost, trying again\nvigil: connected again\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--kind", "nothing"), "'nothing' is not one of"),
        (("--camera", "front/door"), "'front/door' is not a name"),
        (("--for", "soon"), "'soon' is not a duration: write 60s, 5m or 1h"),
    ],
)
def test_wrong_usage_names_what_is_right(arguments: tuple[str, ...], words: str) -> None:
    status, _, errors = run_vigil("watch", *arguments)
    assert status == 2
    assert words in errors
