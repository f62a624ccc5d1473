"""What a node makes of the site's documents: which are its, which it cannot use, which are no more."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import SecretStr

from broker.camera_documents import Brought
from broker.memory import MemoryBroker
from broker.messages import CameraDocument, RegistryIndex
from broker.topics import REGISTRY_INDEX
from config import BadPayloadError, PermanentError
from config.cameras import CameraSettings
from config.logins import write_logins
from config.registry import Login
from config.settings import BusSettings
from edge.assigned import Assigned
from tests.support.waiting import wait_until
from tests.unit.edge.scripted import Shot, Street, live

LOGIN = Login(username="admin", password=SecretStr("pa/ss"))


def lives(count: int = 4) -> list[Iterator[Shot]]:
    return [live() for _ in range(count)]


def document(camera: str = "gate", **fields: object) -> CameraDocument:
    return CameraDocument(**{"camera": camera, "source": f"file:{camera}", "revision": 1, **fields})  # type: ignore[arg-type]


def assigned(*own: str, pools: tuple[str, ...] = ()) -> Assigned:
    cameras = {name: CameraSettings(source="rtsp://10.0.0.7/a") for name in own}
    return Assigned("node-1", adopts=True, own=cameras, pools=pools)


class TestAssigned:
    def test_what_is_excluded_nobody_touches_also_where_the_nodes_own_settings_name_it(self) -> None:
        site = assigned("yard")
        assert site.take("yard", document("yard", excluded=True, settings={"idle_fps": "nonsense"}))
        assert site.cameras() == {}
        assert site.take("yard", None)
        assert list(site.cameras()) == ["yard"]

    def test_a_pools_camera_is_watched_where_it_falls_also_when_the_pool_is_known_later(self) -> None:
        site = assigned("yard")
        site.take("gate", document(pool="street"))
        site.take("yard", document("yard", pool="street"))
        assert (site.pooled(), site.cameras(("gate", "yard"))) == ({}, {}), "it is a pool's, and not this node's"
        site.pools = ("street",)
        assert site.pooled() == {"gate": "street", "yard": "street"}
        assert list(site.cameras(("gate",))) == ["gate"]
        assert site.kept().keys() == {"gate", "yard"}

    def test_pools_of_others_are_not_written_down(self) -> None:
        site = assigned()
        assert site.take("gate", document(pool="street"))
        assert site.kept() == {}

    def test_a_login_is_laid_into_both_streams_and_goes_before_the_nodes_own(self) -> None:
        site = assigned("yard")
        site.own = {"yard": CameraSettings(source="rtsp://old:login@10.0.0.7/a")}
        site.logins = {"yard": LOGIN}
        site.take("yard", document("yard", source="rtsp://10.0.0.7/a", settings={"sub_source": "rtsp://10.0.0.7/b"}))
        yard = site.cameras()["yard"]
        assert yard.source == "rtsp://admin:pa%2Fss@10.0.0.7/a"
        assert yard.sub_source == "rtsp://admin:pa%2Fss@10.0.0.7/b"

    def test_what_cannot_be_used_is_told_of_the_cameras_that_it_gives_to_this_node_only(self) -> None:
        site = assigned(pools=("street",))
        for camera, given in {
            "gate": {"node": "node-1"},
            "hall": {"node": "node-2"},
            "pier": {"pool": "street"},
        }.items():
            bad = document(camera, settings={"idle_fpss": 3}, **given)
            if camera == "hall":
                assert not site.take(camera, bad)
                continue
            with pytest.raises(BadPayloadError, match="idle_fpss"):
                site.take(camera, bad)
        assert site.troubles().keys() == {"gate"}
        assert site.troubles(("pier",)).keys() == {"gate", "pier"}
        assert site.pooled() == {"pier": "street"}, "somebody has to say what is wrong with it"
        site.take("gate", document(node="node-1", revision=2))
        assert site.troubles() == {}


def test_an_index_takes_nothing_for_gone_that_its_own_connection_has_brought() -> None:
    brought = Brought()
    brought.note("new", 1)
    assert brought.gone(("new", "old", "named"), ("named",), 1) == ["old"]
    assert brought.gone(("new", "named"), ("named",), 2) == ["new"], "another connection brings all that is there"


def index(*cameras: str) -> RegistryIndex:
    return RegistryIndex(revision=9, at=datetime(2026, 1, 1, tzinfo=UTC), cameras=cameras)


def test_a_document_that_was_taken_back_while_the_node_was_away_is_forgotten(tmp_path: Path) -> None:
    with Street(tmp_path, {"yard": lives(), "gate": lives(), "hall": lives()}, ["yard"], adopts=True) as street:
        street.register(document(node="node-1"), "gate")
        street.register(document("hall", node="node-1"), "hall")
        wait_until(lambda: street.frames("gate") and street.frames("hall"))
    broker = MemoryBroker()
    with Street(
        tmp_path, {"yard": lives(), "gate": lives(), "hall": lives()}, ["yard"], adopts=True, broker=broker
    ) as street:
        wait_until(lambda: street.frames("gate") and street.frames("hall"), what="what is remembered")
        street.listener_with(BusSettings()).publish(REGISTRY_INDEX.at("home"), index("gate"))
        wait_until(lambda: street.states("hall")[-1].state == "offline")
        wait_until(lambda: street.node.figures().counts["cameras"] == 2)
        assert street.states("gate")[-1].state == "online"
    with Street(tmp_path, {"yard": lives(), "gate": lives()}, ["yard"], adopts=True) as street:
        wait_until(lambda: street.frames("gate"))
        assert street.node.figures().counts["cameras"] == 2


def test_what_the_site_asks_for_in_vain_is_an_error_of_the_camera_until_it_is_cured(tmp_path: Path) -> None:
    with Street(tmp_path, {"yard": lives(), "gate": lives()}, ["yard"], adopts=True) as street:
        street.register(document(node="node-1", settings={"idle_fpss": 1}), "gate")
        wait_until(lambda: street.states("gate"))
        state = street.states("gate")[-1]
        assert (state.state, state.node) == ("error", "node-1")
        assert "what the site says of it cannot be used: revision 1: cameras.gate.idle_fpss: unknown key" in str(
            state.error
        )
        assert "idle_fps" in street.rejects()[-1].reason
        street.register(document(node="node-1", revision=2), "gate")
        wait_until(lambda: street.states("gate")[-1].state == "online")
        assert street.states("gate")[-1].error is None
        street.register(document("hall", node="node-1", source="ftp:x"), "hall")
        wait_until(lambda: street.states("hall") and street.states("hall")[-1].state == "error")
        street.register(None, "hall")
        wait_until(lambda: street.states("hall")[-1].state == "offline")


def test_a_login_that_comes_is_noticed_and_the_camera_opened_with_it(tmp_path: Path) -> None:
    with Street(
        tmp_path,
        {place: lives() for place in ("gate", "//10.0.0.9/a", "//admin:pa%2Fss@10.0.0.9/a")},
        ["gate"],
        adopts=True,
    ) as street:
        street.register(document(source="rtsp://10.0.0.9/a", node="node-1"), "gate")
        wait_until(lambda: street.states("gate") and street.states("gate")[-1].source == "rtsp://10.0.0.9/a")
        write_logins(tmp_path / "logins.json", {"gate": LOGIN})
        street.clock.advance(3)
        wait_until(lambda: street.states("gate")[-1].source == "rtsp://***@10.0.0.9/a")
        wait_until(lambda: any(source.name.startswith("//admin") for source in street.sources))


def test_what_a_person_had_to_cure_is_tried_again_where_the_site_gave_the_camera(tmp_path: Path) -> None:
    sessions: list[Iterator[Shot] | Exception] = [PermanentError("no plugin: install it"), live()]
    with Street(tmp_path, {"gate": sessions, "yard": [*lives()]}, ["yard"], adopts=True) as street:
        street.register(document(node="node-1"), "gate")
        wait_until(lambda: street.states("gate") and street.states("gate")[-1].error == "no plugin: install it")
        wait_until(lambda: street.node.figures().counts["cameras_ended"] == 1)
        street.clock.advance(61)
        wait_until(lambda: street.states("gate")[-1].state == "online")
        assert street.fatal == []
