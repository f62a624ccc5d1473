from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.sync.connection import Connection

from broker import Bus, decode_frame, encode_frame
from broker.messages import Detection, Detections, Evidence, ModelRef
from broker.topics import (
    CAMERA_DETECTIONS,
    CAMERA_ESCALATION,
    CAMERA_FRAME,
    CAMERA_MOTION_ACTIVE,
    CAMERA_STATE,
    RECEIPT,
)
from tests.e2e.conftest import Join
from tests.e2e.vigil_process import Vigil, run_vigil
from tests.support.messages import camera_state, escalation, frame_meta, jpeg, receipt
from tests.support.mosquitto import Mosquitto
from tests.support.ports import free_port
from tests.support.waiting import wait_until


@pytest.fixture
def page(mosquitto: Mosquitto, tmp_path: Path) -> Iterator[str]:
    """The address of a running page, without the scheme."""
    address = f"127.0.0.1:{free_port()}"
    arguments = ("--bus", mosquitto.url, "--state", str(tmp_path / "page"), "console", "--port", address.split(":")[1])
    with Vigil(*arguments, folder=tmp_path) as process:
        process.wait_said("bus.connected")
        yield address
        process.process.terminate()
        assert process.wait_end(20) == 0
        assert "Traceback" not in process.output + process.errors


def get(address: str, path: str, **headers: str) -> httpx.Response:
    return httpx.get(f"http://{address}{path}", headers=headers, timeout=10)


def publish_frame(bus: Bus, seq: int, camera: str = "yard", picture: bytes | None = None) -> bytes:
    payload = encode_frame(picture or jpeg(), frame_meta(camera, seq))
    bus.publish(CAMERA_FRAME.at("home", camera=camera), payload)
    return payload


def next_picture(live: Connection, timeout_s: float = 30.0) -> bytes:
    deadline_s = time.monotonic() + timeout_s
    while True:
        message = live.recv(timeout=max(0.0, deadline_s - time.monotonic()))
        if not isinstance(message, str):
            return message


def show_picture(bus: Bus, live: Connection, seq: int, picture: bytes) -> None:
    """Send it until it is there: a slow machine drops what is older than two seconds."""
    for _ in range(10):
        publish_frame(bus, seq, picture=picture)
        with contextlib.suppress(TimeoutError):
            if decode_frame(next_picture(live, 3.0)).meta.seq == seq:
                return
    raise AssertionError(f"picture {seq} did not come")


def next_event(live: Connection, kind: str) -> dict[str, Any]:
    deadline_s = time.monotonic() + 30
    while time.monotonic() < deadline_s:
        message = live.recv(timeout=30)
        if isinstance(message, str):
            event: dict[str, Any] = json.loads(message)
            if event["kind"] == kind:
                return event
    raise AssertionError(f"no {kind} came")


def test_the_page_is_whole_without_the_internet(page: str) -> None:
    index = get(page, "/")
    assert index.status_code == 200
    assert "http" not in index.text.replace("http-equiv", "")
    for file, kind in (
        ("app.js", "javascript"),
        ("camera.js", "javascript"),
        ("style.css", "css"),
        ("icon.svg", "svg"),
    ):
        response = get(page, f"/{file}")
        assert response.status_code == 200
        assert kind in response.headers["content-type"]
    policy = index.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert index.headers["x-content-type-options"] == "nosniff"


def test_pictures_scores_and_states_reach_the_page(page: str, join: Join) -> None:
    bus = join("edge")
    with connect(f"ws://{page}/api/live") as live:
        next_event(live, "escalations")
        bus.publish(CAMERA_STATE.at("home", camera="yard"), camera_state())
        bus.publish(CAMERA_MOTION_ACTIVE.at("home", camera="yard"), "ON")
        assert next_event(live, "motion_active") == {"kind": "motion_active", "camera": "yard", "active": True}
        payload = publish_frame(bus, 7)
        picture = next_picture(live)
        assert picture == payload
        assert decode_frame(picture).meta.seq == 7
        bus.publish(CAMERA_DETECTIONS.at("home", camera="yard"), scores(7))
        shown = next_event(live, "detections")["message"]
        assert (shown["frame_seq"], shown["detections"][0]["label"]) == (7, "person")
        mesh = next_event(live, "mesh")
        while not mesh["cameras"] or not mesh["cameras"][0]["scored"]:
            mesh = next_event(live, "mesh")
        assert (mesh["site"], mesh["bus_connected"]) == ("home", True)
        assert mesh["cameras"][0] | {"name": "yard", "state": "online", "frames": 1} == mesh["cameras"][0]
    assert get(page, "/api/cameras/yard/frame.jpg").content == payload
    assert [camera["name"] for camera in get(page, "/api/cameras").json()["cameras"]] == ["yard"]


def scores(seq: int) -> Detections:
    now = datetime.now(UTC)
    return Detections(
        camera="yard",
        frame_seq=seq,
        worker="node-1.detector",
        model=ModelRef(name="hog", sha256="0" * 64),
        width=64,
        height=48,
        captured_at=now,
        received_at=now,
        infer_started_at=now,
        infer_ms=1.0,
        batch=1,
        published_at=now,
        detections=(Detection(label="person", score=0.9, box=(0.1, 0.1, 0.5, 0.9), box_px=(6, 5, 32, 43)),),
    )


def test_an_escalation_comes_with_its_picture_and_then_with_where_it_is_stored(page: str, join: Join) -> None:
    bus = join("detector")
    picture = jpeg(80, 60)
    evidence = Evidence(
        content_type="image/jpeg", sha256=hashlib.sha256(picture).hexdigest(), width=80, height=60, data=picture
    )
    topic = CAMERA_ESCALATION.at("home", camera="yard", origin=bus.origin)
    with connect(f"ws://{page}/api/live", max_size=None) as live:
        identity = bus.publish_event(topic, lambda event_id: escalation(event_id, evidence=(evidence,)))
        raised = next_event(live, "escalation")["item"]
        assert (raised["id"], raised["pictures"], raised["stored"]) == (identity, 1, None)
        assert get(page, f"/api/escalations/{identity}/evidence.jpg").content == picture
        stored = receipt(identity, location="journal/1")
        join("bridge").publish(RECEIPT.at("home", origin=bus.origin), stored)
        assert next_event(live, "stored") == {"kind": "stored", "id": identity, "location": "journal/1"}
    (card,) = get(page, "/api/escalations").json()["escalations"]
    assert (card["id"], card["stored"]) == (identity, "journal/1")


def test_what_is_not_there_is_not_found(page: str) -> None:
    for path in ("/api/cameras/nobody/frame.jpg", "/api/escalations/a:b:1/evidence.jpg", "/no.html", "/../web.py"):
        assert get(page, path).status_code == 404


def open_and_never_read(page: str) -> socket.socket:
    """A WebSocket whose client takes its answer and then nothing more."""
    deaf = socket.socket()
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    deaf.settimeout(10)
    host, port = page.split(":")
    deaf.connect((host, int(port)))
    deaf.sendall(
        f"GET /api/live HTTP/1.1\r\nHost: {page}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
    )
    assert deaf.recv(12) == b"HTTP/1.1 101"
    return deaf


def test_a_page_that_does_not_read_misses_pictures_and_the_others_do_not(page: str, join: Join) -> None:
    bus = join("edge")
    big = jpeg(1600, 1200)[:-2] + bytes(1_000_000) + b"\xff\xd9"
    with open_and_never_read(page), connect(f"ws://{page}/api/live", max_size=None) as quick:
        wait_until(lambda: get(page, "/api/health").json()["pages"] == 2, what="two pages")
        for seq in range(40):
            show_picture(bus, quick, seq, big)
        assert get(page, "/api/health").json()["missed"]["frames"] > 20


def test_other_names_and_other_origins_are_refused(page: str) -> None:
    assert get(page, "/", Host="evil.example").status_code == 403
    assert get(page, "/api/cameras", Origin="http://evil.example").status_code == 403
    with pytest.raises(InvalidStatus), connect(f"ws://{page}/api/live", origin="http://evil.example"):  # type: ignore[arg-type]
        pass
    with connect(f"ws://{page}/api/live", origin=f"http://{page}") as live:  # type: ignore[arg-type]
        next_event(live, "escalations")


def test_the_page_outlives_its_broker_and_says_so(page: str, mosquitto: Mosquitto) -> None:
    mosquitto.stop()
    wait_until(lambda: not get(page, "/api/health").json()["bus_connected"], what="the loss of the broker")
    assert get(page, "/").status_code == 200
    mosquitto.start()
    wait_until(lambda: get(page, "/api/health").json()["bus_connected"], timeout_s=20, what="the broker")


def test_a_taken_port_is_told_with_the_cure(page: str, tmp_path: Path) -> None:
    port = page.split(":")[1]
    status, _, errors = run_vigil("--state", str(tmp_path), "console", "--port", port)
    assert status == 78
    assert errors.strip().startswith(f"vigil: console.port: cannot listen on 127.0.0.1:{port}")
    assert errors.strip().endswith("choose another port with --port")
