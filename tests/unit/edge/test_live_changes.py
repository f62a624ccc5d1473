"""Cameras that come, go and change while the node runs: the others never notice."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.memory import MemoryBroker
from broker.messages import CameraDocument
from broker.topics import CAMERA_MOTION_ACTIVE, CAMERA_MOTION_OPEN, CAMERA_STATE
from config import BadPayloadError
from config.settings import Settings
from config.sources import load_settings
from edge.assigned import Assigned
from edge.settings_file import SettingsFile
from tests.support.waiting import wait_until
from tests.unit.edge.scripted import Shot, Street, live

BASE = {"site": "home", "node": "node-1"}


def lives(count: int = 4) -> list[Iterator[Shot]]:
    return [live() for _ in range(count)]


def document(settings: dict[str, object] | None = None, **fields: object) -> CameraDocument:
    given = {"camera": "yard", "source": "file:yard", "revision": 1, "settings": settings or {}, **fields}
    return CameraDocument(**given)  # type: ignore[arg-type]


class TestSettingsFile:
    @staticmethod
    def write(folder: Path, **cameras: dict[str, object]) -> None:
        lines = "".join(
            f"  {name}: {{source: file:{name}, motion: {{hold_s: 1.0}}, "
            + ", ".join(f"{key}: {value}" for key, value in settings.items())
            + "}\n"
            for name, settings in cameras.items()
        )
        (folder / "vigil.yaml").write_text(f"site: home\nnode: node-1\ncameras:\n{lines}")

    @staticmethod
    def file(folder: Path) -> SettingsFile:
        path = folder / "vigil.yaml"
        return SettingsFile(path, lambda: load_settings(path), threading.Event())

    def test_only_the_cameras_that_changed_are_touched(self, tmp_path: Path) -> None:
        self.write(tmp_path, yard={"idle_fps": 1}, door={"idle_fps": 1})
        scripts = {"yard": lives(), "door": lives(), "gate": lives()}
        with Street(tmp_path, scripts, ["yard", "door"], file=self.file(tmp_path), idle_fps=1) as street:
            wait_until(lambda: street.frames() and street.frames("door"))
            self.write(tmp_path, yard={"idle_fps": 7}, gate={"idle_fps": 1})
            street.order("reload", "r")
            assert street.reply("r").result == {"changed": "door, yard, gate", "restart_needed_for": ""}
            wait_until(lambda: street.states()[-1].fps == 7)
            wait_until(lambda: street.frames("gate"))
            self.write(tmp_path, yard={"idle_fps": 8}, gate={"idle_fps": 1})
            street.order("reload", "again")
            assert street.reply("again").result["changed"] == "yard"
            assert len([source for source in street.sources if source.name == "gate"]) == 1
            assert street.states("door")[-1].state == "offline"

    def test_a_file_that_changes_is_noticed(self, tmp_path: Path) -> None:
        self.write(tmp_path, yard={"idle_fps": 1})
        with Street(tmp_path, {"yard": lives()}, file=self.file(tmp_path), idle_fps=1) as street:
            wait_until(street.frames)
            self.write(tmp_path, yard={"idle_fps": 6})
            street.clock.advance(3)
            wait_until(lambda: street.states()[-1].fps == 6)

    def test_one_that_cannot_be_used_changes_nothing(self, tmp_path: Path) -> None:
        self.write(tmp_path, yard={"idle_fps": 1})
        with Street(tmp_path, {"yard": lives()}, file=self.file(tmp_path), idle_fps=1) as street:
            wait_until(street.frames)
            for field, value, says in [
                ("idle_fps", "99", "cameras.yard.idle_fps: Input should be less than or equal to 60"),
                ("sub_source", "ftp:x", "cameras.yard.sub_source: sources of the kind 'ftp' are not known"),
            ]:
                self.write(tmp_path, yard={field: value})
                street.order("reload", says)
                assert says in street.reply(says).reason
            (tmp_path / "vigil.yaml").write_text(": [")
            street.order("reload", "yaml")
            assert "not valid YAML" in street.reply("yaml").reason
            assert len(street.sources) == 1
            assert street.states()[-1].state == "online"

    def test_what_needs_a_restart_is_said(self, tmp_path: Path) -> None:
        self.write(tmp_path, yard={"idle_fps": 1})
        with Street(tmp_path, {"yard": lives()}, file=self.file(tmp_path), idle_fps=1) as street:
            path = tmp_path / "vigil.yaml"
            path.write_text(path.read_text() + "edge: {zoom_lease_s: 5}\n")
            street.order("reload", "r")
            assert street.reply("r").result == {"changed": "", "restart_needed_for": "edge"}

    def test_asking_is_enough_and_a_file_that_is_away_is_no_change(self, tmp_path: Path) -> None:
        path, asked = tmp_path / "vigil.yaml", threading.Event()
        path.write_text("site: home\n")
        file = SettingsFile(path, Settings, asked)
        assert not file.has_changed(0)
        asked.set()
        assert file.has_changed(0.1)
        assert not file.has_changed(5)
        path.unlink()
        assert not file.has_changed(10)
        path.write_text("site: other\n")
        assert file.has_changed(15)
        assert not file.has_changed(20)


class TestRegistry:
    def test_a_document_is_applied_to_the_camera_that_it_changes(self, tmp_path: Path) -> None:
        with Street(tmp_path, {"yard": lives(), "door": lives()}, idle_fps=1) as street:
            wait_until(lambda: street.frames() and street.frames("door"))
            street.register(document({"idle_fps": 6}))
            wait_until(lambda: street.states()[-1].fps == 6)
            street.register(document({"idle_fps": 6}, revision=2))
            street.register(document({"idle_fps": 9}, revision=3))
            wait_until(lambda: street.states()[-1].fps == 9)
            assert len([source for source in street.sources if source.name == "door"]) == 1
            assert len([source for source in street.sources if source.name == "yard"]) == 3
            street.register(None)
            wait_until(lambda: street.states()[-1].fps == 1)

    def test_a_wrong_one_is_refused_by_field_and_the_camera_goes_on(self, tmp_path: Path) -> None:
        with Street(tmp_path, {"yard": lives()}, idle_fps=1) as street:
            wait_until(street.frames)
            street.register(document({"motion": {"sensitivty": 1}}))
            wait_until(street.rejects)
            wait_until(lambda: street.states()[-1].error)
            (reject,) = street.rejects()
            assert reject.reason == (
                "revision 1: cameras.yard.motion.sensitivty: unknown key; did you mean 'sensitivity'?"
            )
            assert reject.reason in str(street.states()[-1].error)
            assert (street.states()[-1].state, len(street.sources)) == ("online", 1)
            street.register(document({"motion": {"sensitivity": 1}}, revision=2))
            wait_until(lambda: street.states()[-1].error is None)

    def test_a_camera_comes_and_goes_and_whoever_takes_it_over_has_the_last_word(self, tmp_path: Path) -> None:
        broker = MemoryBroker()
        with Street(tmp_path, {"yard": lives(), "gate": lives()}, ["yard"], broker=broker, adopts=True) as street:
            wait_until(street.frames)
            street.register(document(camera="gate", source="file:gate", node="node-2"), "gate")
            street.register(document(camera="gate", source="file:gate", node="node-1", revision=2), "gate")
            wait_until(lambda: street.frames("gate"))
            street.register(document(camera="gate", source="file:gate", node="node-2", revision=3), "gate")
            wait_until(lambda: street.states("gate")[-1].state == "offline")
            wait_until(lambda: street.node.figures().counts["cameras"] == 1)
            other = street.listener_with(street.bus._settings)
            said = [CAMERA_STATE, CAMERA_MOTION_ACTIVE, CAMERA_MOTION_OPEN]
            before = {spec: len(list(street.heard(spec, "gate"))) for spec in said}
            broker.cut("edge")
            wait_until(lambda: street.bus.statistics().link.connections == 2 and street.bus.connected)
            other.publish(CAMERA_STATE.at("home", camera="end"), street.states()[-1])
            wait_until(lambda: list(street.heard(CAMERA_STATE, "end")))
            assert {spec: len(list(street.heard(spec, "gate"))) for spec in said} == before
            street.tell("mode", "eco", camera="gate", about="x")
            street.order("ping", "y")
            assert street.reply("y").result["cameras"] == "yard"
            assert street.replies("x") == []

    def test_a_node_without_a_broker_still_knows_what_the_site_said(self, tmp_path: Path) -> None:
        with Street(tmp_path, {"yard": lives()}, idle_fps=1) as street:
            wait_until(street.frames)
            street.register(document({"idle_fps": 6}))
            wait_until(lambda: street.states()[-1].fps == 6)
        with Street(tmp_path, {"yard": lives()}, idle_fps=1) as street:
            wait_until(lambda: [state for state in street.states() if state.state == "online"])
            assert {state.fps for state in street.states()} == {0, 6}, "from the first moment on"


class TestAssigned:
    OWN = Settings.model_validate({**BASE, "cameras": {"yard": {"source": "rtsp://u:pw@10.0.0.7/a", "idle_fps": 2}}})

    def assigned(self, *, adopts: bool = True) -> Assigned:
        return Assigned("node-1", adopts, self.OWN.cameras)

    def test_the_nodes_own_login_is_kept_for_the_same_place_only(self) -> None:
        assigned = self.assigned()
        for revision, (source, wanted) in enumerate(
            [
                ("", "rtsp://u:pw@10.0.0.7/a"),
                ("rtsp://***@10.0.0.7/a", "rtsp://u:pw@10.0.0.7/a"),
                ("rtsp://10.0.0.7/b", "rtsp://u:pw@10.0.0.7/b"),
                ("rtsp://10.0.0.8/b", "rtsp://10.0.0.8/b"),
            ]
        ):
            assigned.take("yard", document(source=source, revision=revision))
            assert assigned.cameras()["yard"].source == wanted
            assert assigned.cameras()["yard"].idle_fps == 2

    @pytest.mark.parametrize(
        ("given", "says"),
        [
            (document(camera="door"), "the document is of camera 'door', its topic of 'yard'"),
            (document({"source": "synthetic:street"}), "write it beside `settings`, not in it"),
            (document(source="ftp:x"), "cameras.yard.source: sources of the kind 'ftp'"),
            (document({"schedule": [{"mode": "eco"}]}), "cameras.yard.schedule.0.start: Field required"),
        ],
    )
    def test_what_cannot_be_used(self, given: CameraDocument, says: str) -> None:
        assigned = self.assigned()
        with pytest.raises(BadPayloadError) as refusal:
            assigned.take("yard", given)
        assert says in str(refusal.value)
        assert assigned.cameras() == self.OWN.cameras

    def test_an_older_revision_is_refused(self) -> None:
        assigned = self.assigned()
        assigned.take("yard", document(source="", revision=4))
        with pytest.raises(BadPayloadError, match="revision 3 is older than 4"):
            assigned.take("yard", document(source="", revision=3))

    def test_a_camera_of_another_node_is_none_of_ours(self) -> None:
        assigned = self.assigned()
        gate = document(camera="gate", source="synthetic:street", node="node-2")
        assert not assigned.take("gate", gate)
        assert assigned.documents == {}
        assert assigned.take("yard", document(source="", node="node-2"))
        assert assigned.cameras() == {}

    def test_who_was_told_which_cameras_to_watch_adopts_none(self) -> None:
        assigned = self.assigned(adopts=False)
        assert not assigned.take("gate", document(camera="gate", node="node-1"))
        assert list(assigned.cameras()) == ["yard"]
