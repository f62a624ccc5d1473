from __future__ import annotations

import io

import pytest
from rich.console import Console

from broker.messages import CameraOwner
from broker.topics import CAMERA_OWNER, CAMERA_STATE
from console.mesh import MeshSnapshot, MeshView
from console.status import PlainScreen, TerminalScreen, camera_line, mesh_line, watched
from tests.support.messages import AT, camera_state
from tests.unit.console.deliveries import delivery, detections, escalated, frame, health, motion_active


@pytest.fixture
def mesh() -> MeshSnapshot:
    view = MeshView()
    for number in range(10):
        view.fold(frame(seq=number), number / 5)
        view.fold(detections(seq=number), number / 5)
    view.fold(delivery(CAMERA_STATE.at("home", camera="yard"), camera_state()), 1.0)
    view.fold(motion_active("ON"), 1.0)
    view.fold(escalated(), 1.0)
    view.fold(health(mailbox=3, rejected=2), 1.0)
    return view.snapshot(1.8)


def test_a_cameras_line_has_every_figure(mesh: MeshSnapshot) -> None:
    line = camera_line(mesh.cameras[0])
    assert line == "in 5.0 fps  scored 5.0 fps  p50 80 ms  p99 80 ms  motion ON  escalations 1"


def test_the_meshs_line_has_drops_rejects_and_who_is_down(mesh: MeshSnapshot) -> None:
    line = mesh_line(mesh, ["edge (killed by SIGKILL)"])
    assert line == "drops: detector.mailbox 3  rejects: 2  down: edge (killed by SIGKILL)"


def test_how_a_camera_is_watched_is_said_where_it_is_not_as_usual() -> None:
    view = MeshView()
    unusual = camera_state(mode="eco", privacy=True, detection=False, recording="failed")
    view.fold(delivery(CAMERA_STATE.at("home", camera="yard"), unusual), 0.0)
    (yard,) = view.snapshot(0.0).cameras
    assert watched(yard) == "eco, private, not scored, recording failed"
    assert camera_line(yard).endswith("escalations 0  eco, private, not scored, recording failed")


def test_a_camera_that_no_worker_takes_is_marked() -> None:
    view = MeshView()
    orphan = CameraOwner(camera="yard", worker="", epoch=2, at=AT)
    view.fold(delivery(CAMERA_STATE.at("home", camera="yard"), camera_state()), 0.0)
    view.fold(delivery(CAMERA_OWNER.at("home", camera="yard"), orphan), 0.0)
    assert watched(view.snapshot(0.0).cameras[0]) == "monitor, no worker takes it"


def test_an_empty_mesh_says_so() -> None:
    assert mesh_line(MeshView().snapshot(0.0), []).startswith("no camera has reported yet")


def test_what_a_camera_says_of_its_error_cannot_play_with_the_terminal() -> None:
    view = MeshView()
    view.fold(delivery(CAMERA_STATE.at("home", camera="yard"), camera_state(state="error", error="\x1b[2J[red]x")), 0.0)
    assert camera_line(view.snapshot(0.0).cameras[0]).endswith("error:  [2J[red]x")


def test_plain_lines_come_every_ten_seconds(mesh: MeshSnapshot, capsys: pytest.CaptureFixture[str]) -> None:
    screen = PlainScreen()
    for tenth in range(251):
        screen.show(mesh, [], 5.0 + tenth / 10)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert "yard  in 5.0 fps" in lines[0]


def test_a_terminal_gets_a_table_in_place_and_is_left_clean(mesh: MeshSnapshot) -> None:
    screen = TerminalScreen(Console(file=io.StringIO(), force_terminal=True, width=100, highlight=False))
    written = screen.console.file
    assert isinstance(written, io.StringIO)
    for second in range(3):
        screen.show(mesh, [], float(second))
        screen.show(mesh, [], second + 0.5)
    screen.note("a note that stays")
    screen.close()
    text = written.getvalue()
    before, note, _ = text.partition("a note that stays")
    assert before.count("fps in") == 3, "once a second"
    assert note
    assert text.endswith("\x1b[2K"), "the table is gone"
