from __future__ import annotations

from pathlib import Path

from broker.messages import CameraDocument
from edge.remembered import Remembered
from edge.wanted import NOTHING_COMMANDED, Commanded

GATE = CameraDocument(camera="gate", source="rtsp://10.0.0.7/a", revision=3, settings={"idle_fps": 2})


def test_what_is_kept_is_known_to_the_next_process(tmp_path: Path) -> None:
    path = tmp_path / "edge" / "home" / "node-1.edge.json"
    first = Remembered(path)
    assert first.commanded("yard") == NOTHING_COMMANDED
    yard = Commanded(mode="eco", privacy=True, detection=False, recording=True, sensitivity=0.25)
    assert first.keep_commanded("yard", yard) is None
    assert first.keep_site({"gate": GATE}, ("street",)) is None
    second = Remembered(path)
    assert second.commanded("yard") == yard
    assert second.commanded("gate") == NOTHING_COMMANDED
    assert second.documents() == {"gate": GATE}
    assert second.pools() == ("street",)
    second.keep_commanded("yard", NOTHING_COMMANDED)
    second.keep_site({}, ())
    assert path.read_bytes().split() == [b"{", b'"v":', b"1", b"}"]


def test_while_it_cannot_be_read_every_camera_that_is_asked_for_is_private_also_after_the_next_start(
    tmp_path: Path,
) -> None:
    path = tmp_path / "edge.json"
    path.write_text('{"v": 1, "cameras": {"yard": {"privacy": "yes"}}}')
    first = Remembered(path)
    assert first.commanded("yard").privacy is True
    assert first.commanded("door").privacy is True
    first.keep_commanded("yard", Commanded(privacy=False))
    second = Remembered(path)
    assert second.commanded("yard").privacy is False
    assert second.commanded("door").privacy is True


def test_a_disk_that_takes_nothing_is_said_and_what_was_kept_before_stays(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    remembered = Remembered(tmp_path / "edge.json")
    remembered.keep_commanded("yard", Commanded(mode="off"))
    setattr(remembered, "_path", tmp_path / "file" / "edge.json")  # noqa: B010 - a place that is no folder
    reason = remembered.keep_commanded("yard", Commanded(mode="eco"))
    assert "cannot be written" in str(reason)
    assert remembered.commanded("yard").mode == "eco", "it holds until the process ends"
    assert Remembered(tmp_path / "edge.json").commanded("yard").mode == "off"
