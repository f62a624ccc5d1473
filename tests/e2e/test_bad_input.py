"""What a person may get wrong: each a clear message, nothing lost, no traceback."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker import Bus, Delivery, connect
from broker.topics import CAMERA_FRAME, CONTRACT, NODE_HEALTH, everything
from broker.transport import Outbound
from console.mesh import MeshView
from console.up import KEPT_FAILING
from tests.e2e.test_up import ROLES, free_ports, roles_of, stored, used_settings
from tests.e2e.vigil_process import Vigil, run_vigil
from tests.support.ports import free_port
from tests.support.waiting import wait_until


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_camera_name_with_a_slash(tmp_path: Path) -> None:
    status, _, errors = run_vigil("--state", str(tmp_path), "up", "--camera", "front/door=synthetic:street")
    assert status == 2
    assert "'front/door' is not a name: use letters, digits, '-' and '_'" in errors
    assert "(try 'front-door')" in errors


def test_a_camera_without_a_source(tmp_path: Path) -> None:
    status, _, errors = run_vigil("--state", str(tmp_path), "up", "--camera", "yard")
    assert status == 2
    assert "'yard': write NAME=SOURCE, such as yard=file:yard.mp4" in errors


def test_an_unknown_key(tmp_path: Path) -> None:
    (tmp_path / "vigil.yaml").write_text("site: home\ndetector:\n  modell: x.onnx\n")
    status, output, errors = run_vigil("--state", str(tmp_path), "up", cwd=tmp_path)
    assert (status, output) == (78, "")
    assert errors == "vigil: vigil.yaml:3: detector.modell: unknown key; did you mean 'model'?\n"


@pytest.mark.parametrize(("flag", "section"), [("--port", "console"), ("--broker-port", "broker")])
def test_a_taken_port(tmp_path: Path, taken_port: int, flag: str, section: str) -> None:
    status, _, errors = run_vigil("--state", str(tmp_path), "up", flag, str(taken_port))
    assert status == 78
    assert errors == (
        f"vigil: {section}.port: port {taken_port} on 127.0.0.1 is taken: choose another, or leave it out and a free "
        "one is found\n"
    )


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--camera", "yard=file:no.avi"), "vigil: cameras.yard.source: there is no file 'no.avi'"),
        (("--model", "no.onnx"), "vigil: detector.model: there is no file 'no.onnx'"),
        (("--kafka", "nonsense"), "vigil: bridge.kafka.bootstrap: "),
    ],
)
def test_what_can_be_told_at_once_is_told_at_once(tmp_path: Path, flags: tuple[str, ...], words: str) -> None:
    status, _, errors = run_vigil("--state", str(tmp_path), "up", *flags)
    assert status == 78
    assert errors.startswith(words)
    assert errors.count("\n") == 1


def test_a_text_file_as_model(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_text("I am no model.\n")
    model = str(tmp_path / "model.onnx")
    status, output, errors = run_vigil("--state", str(tmp_path), "up", *free_ports(), "--model", model, timeout_s=90)
    assert status == 78
    assert "Traceback" not in output + errors
    assert errors.startswith("vigil: detector: ")
    assert model in errors


def test_a_video_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "yard.avi").write_bytes(b"no video at all" * 1000)
    camera = f"yard=file:{tmp_path}/yard.avi"
    flags = ("up", *free_ports(), "--camera", camera)
    status, output, errors = run_vigil("--state", str(tmp_path), *flags, timeout_s=90)
    assert status == 1, output
    assert errors.startswith("vigil: edge: ")
    assert f"{tmp_path}/yard.avi is not a video" in errors
    assert (errors.count("\n"), output.count("yard.avi")) == (1, 0), "it is told once"


@pytest.mark.slow
def test_a_wrong_kafka_address(tmp_path: Path) -> None:
    kafka = f"127.0.0.1:{free_port()}"
    flags = ("--state", str(tmp_path), "up", *free_ports(), "--kafka", kafka)
    patience = {"VIGIL_BRIDGE__KAFKA__CONNECT_TIMEOUT_S": "1"}
    with Vigil(*flags, folder=tmp_path, environment=patience) as vigil:
        failed = "bridge ended with status 69; starts again in "
        wait_until(lambda: vigil.output.count(failed) >= KEPT_FAILING, timeout_s=90, what=failed)
        vigil.interrupt()
        status, output, errors = vigil.wait_end(), vigil.output, vigil.errors
    assert status == 1, output
    assert f"no Kafka answers at {kafka}" in output
    # Where the machine is so slow that it took 10 s to fail, it counts as one that worked.
    assert not errors or errors.startswith("vigil: bridge ")
    raised = re.search(
        r"^(\d+) escalations raised; \1 wait in the outbox and are sent at the next start$", output, re.MULTILINE
    )
    assert raised is not None or "no escalation was raised" in output, output
    assert "Traceback" not in output + errors


HOSTILE = (
    b"",
    b"{",
    b"\xff\xd8\xff\xfe\xff\xff",
    b'{"v":99}',
    b'{"v":1,"camera":{"a":[' + b"[" * 5000,
    b"\x1b[2J" * 100,
    b"[" * 100_000,
    bytes(300_000),
)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_hostile_payloads_on_every_topic(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with Vigil("--state", str(state), "up", *free_ports(), folder=tmp_path) as vigil:
        wait_until(lambda: stored(state), timeout_s=90, what="the first escalation")
        before, pids = stored(state), {role: child.pid for role, child in roles_of(vigil).items()}
        settings = used_settings(state)
        bus = connect(settings, "intruder")
        view = MeshView()

        def on_health(delivery: Delivery) -> None:
            view.fold(delivery, time.monotonic())

        bus.subscribe(NODE_HEALTH, on_health)
        bus.start()
        assert bus.wait_connected(30)
        publish_everywhere(bus, settings.node)
        origins = {f"{settings.node}.{role}" for role in ("detector", "bridge", "edge", "console")}
        wait_until(
            lambda: origins & {o for o, count in view.snapshot(0.0).rejects.items() if count > 5},
            timeout_s=30,
            what="counted rejects",
        )
        wait_until(lambda: stored(state) > before, timeout_s=60, what="an escalation afterwards")
        bus.close()
        assert {role: child.pid for role, child in roles_of(vigil).items()} == pids, "nothing died"
        vigil.interrupt()
        assert vigil.wait_end(60) == 0, vigil.output + vigil.errors
        assert re.search(r"(\d+) escalations raised, \1 in the journal, 0 missing, 0 repeated", vigil.output)
    for role in ROLES:
        assert "Traceback" not in (state / "logs" / f"{role}.log").read_text(), role


def publish_everywhere(bus: Bus, node: str) -> None:
    """Every hostile payload on every line of the contract, under names that are in use."""
    names = {
        "camera": "street",
        "node": node,
        "role": "detector",
        "origin": f"{node}.detector",
        "property": "mode",
        "name": "yolox",
    }
    for spec in CONTRACT:
        topic = str(spec.at(bus.site, **{placeholder: names[placeholder] for placeholder in spec.placeholders}))
        for payload in HOSTILE:
            bus._link.send(Outbound(topic, payload, 1, retain=False))
    huge = CAMERA_FRAME.at(bus.site, camera="street")
    bus._link.send(Outbound(str(huge), bytes(40_000_000), 1, retain=False))
    stray = everything(bus.site).replace("#", "no/such/topic")
    bus._link.send(Outbound(stray, b"x", 1, retain=False))
