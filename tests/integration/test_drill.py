"""`vigil drill` as a person runs it: over a real Mosquitto and a bridge into the journal."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broker.outbox_file import read_backlogs
from broker.session import find_outboxes
from config.settings import Settings
from tests.integration.test_bridge import Bridge
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import wait_until


@pytest.fixture
def bridge(mosquitto: Mosquitto, tmp_path: Path) -> Iterator[Bridge]:
    bridge = Bridge(mosquitto.url, tmp_path / "state")
    yield bridge
    bridge.stop()


@pytest.fixture
def waiting(tmp_path: Path) -> Callable[[], int]:
    """How many messages wait in the drill's outbox."""
    settings = Settings(site="home", node="node-1", state_dir=tmp_path / "state")
    return lambda: sum(
        len(backlog.waiting) for path in find_outboxes(settings).values() for backlog in read_backlogs(path)
    )


def printed_ids(bridge: Bridge) -> list[str]:
    escalations = bridge.ask("escalations", "--json", "--limit", "1000").stdout
    events = bridge.ask("events", "--json", "--limit", "1000").stdout
    return sorted(line.split('"event_id": "')[1].split('"')[0] for line in (escalations + events).splitlines())


def test_everything_that_it_prints_is_in_the_sink_when_it_ends(bridge: Bridge) -> None:
    bridge.start()
    done = bridge.ask("drill", "--camera", "yard", "--count", "6", "--rate", "100", "--motion")
    assert done.returncode == 0, done.stderr
    assert "6 escalations and 6 motion events raised, every one of them in the sink" in done.stderr
    ids = done.stdout.splitlines()
    assert len(ids) == 12
    assert printed_ids(bridge) == sorted(ids)
    assert "(drill)" in bridge.ask("escalations", "--camera", "yard").stdout


def test_a_fake_alarm_of_a_rule_arrives_as_a_drill(bridge: Bridge) -> None:
    bridge.start()
    done = bridge.ask("alarm", "fake", "--rule", "presence", "--camera", "hall")
    assert done.returncode == 0, done.stderr
    assert "1 escalation raised, every one of them in the sink" in done.stderr
    (line,) = bridge.ask("escalations", "--json").stdout.splitlines()
    stored = json.loads(line)
    assert (stored["event_id"], stored["camera"], stored["drill"]) == (done.stdout.strip(), "hall", True)
    assert (stored["rule"], stored["kind"], stored["severity"]) == ("presence", "presence", "warning")


def test_without_a_bridge_it_says_what_waits_and_the_next_one_sends_it(
    bridge: Bridge, waiting: Callable[[], int]
) -> None:
    done = bridge.ask("drill", "--count", "3", "--rate", "100", "--wait", "500ms")
    assert done.returncode == 1
    assert "3 escalations raised; 3 messages have no receipt after" in done.stderr
    assert waiting() == 3
    bridge.start()
    assert bridge.ask("drill").returncode == 0
    assert waiting() == 0
    assert len(printed_ids(bridge)) == 4


def test_without_waiting_the_disk_is_enough(bridge: Bridge, waiting: Callable[[], int]) -> None:
    done = bridge.ask("drill", "--count", "3", "--rate", "100", "--no-wait")
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 3)
    assert "3 escalations raised; they are on disk" in done.stderr
    assert waiting() == 3


def test_one_that_is_killed_has_lost_nothing_that_it_printed(bridge: Bridge) -> None:
    command = [*bridge.root, "drill", "--motion", "--rate", "50", "--for", "1h"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    ids = [process.stdout.readline() for _ in range(41)]
    process.kill()
    ids += process.stdout.readlines()
    process.wait()
    process.stdout.close()
    bridge.start()
    assert bridge.ask("drill").returncode == 0
    assert {line.strip() for line in ids} <= set(printed_ids(bridge))
    wait_until(lambda: bridge.ask("audit").returncode == 0, timeout_s=20, what="an audit that finds everything")


def test_a_disk_that_is_full_from_the_start_is_worth_another_try(bridge: Bridge, waiting: Callable[[], int]) -> None:
    assert bridge.ask("drill", "--no-wait").returncode == 0
    words = shlex.join([*bridge.root, "drill", "--no-wait"])
    done = subprocess.run(["bash", "-c", f"ulimit -f 0; exec {words}"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (69, "")
    assert "free space on the disk" in done.stderr
    assert "Traceback" not in done.stderr
    assert waiting() == 1
    assert bridge.ask("drill", "--no-wait").returncode == 0, "nothing is broken for good"


def test_a_name_that_is_none_is_told(bridge: Bridge) -> None:
    done = bridge.ask("drill", "--camera", "front/door")
    assert done.returncode == 2
    assert "try 'front-door'" in done.stderr
