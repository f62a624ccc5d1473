"""What a worker knows of cameras: the site file's word, and over it the site's documents."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from broker import Bus, Delivery
from broker.camera_documents import Brought
from broker.memory import MemoryBroker
from broker.messages import CameraDocument, RegistryIndex
from broker.topics import REGISTRY_CAMERA, REGISTRY_INDEX, REJECT
from config.cameras import CameraSettings, Zone
from config.settings import Settings
from detector.camera_settings import KnownCameras
from tests.support.waiting import wait_until

BED = {"points": [[0, 0], [1, 0], [1, 1]]}
OWN = CameraSettings(zones={"door": Zone(points=((0, 0), (1, 0), (0, 1)))}, labels=("person",))
Tell = Callable[..., None]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[KnownCameras, list[str], Tell, list[str]]]:
    """A worker's cameras, those that changed, how to tell it of one, and what it rejected."""
    broker, changed, rejected = MemoryBroker(), list[str](), list[str]()
    buses = [Bus(site="home", origin=name, transports=broker.transports(name)) for name in ("n.fleet", "n.detector")]
    fleet, bus = buses
    known = KnownCameras(Settings(cameras={"yard": OWN}, state_dir=tmp_path), bus, changed.append)
    known.start()
    fleet.subscribe(REJECT, lambda delivery: rejected.append(getattr(delivery.content, "reason", "")))
    for each in buses:
        each.start()
        assert each.wait_connected(30)

    def tell(camera: str, revision: int | None, *, of: str | None = None, **settings: object) -> None:
        document = None
        if revision is not None:
            document = CameraDocument(camera=of or camera, source="", revision=revision, settings=settings)
        fleet.publish(REGISTRY_CAMERA.at("home", camera=camera), document or b"")

    yield known, changed, tell, rejected
    for each in buses:
        each.close(0)


def test_documents_lie_over_the_site_file_and_go_again(
    site: tuple[KnownCameras, list[str], Tell, list[str]],
) -> None:
    known, changed, tell, _ = site
    assert known.of("yard") == OWN
    assert known.of("hall") == CameraSettings()
    tell("yard", 1, zones={"bed": BED})
    tell("hall", 1, labels=["dog"], worker="gpu")
    wait_until(lambda: changed == ["yard", "hall"])
    assert (list(known.of("yard").zones), known.of("yard").labels) == (["bed"], ("person",))
    assert (known.of("hall").worker, known.of("hall").labels) == ("gpu", ("dog",))
    tell("yard", None)
    wait_until(lambda: changed == ["yard", "hall", "yard"])
    assert known.of("yard") == OWN


def test_nobody_is_told_of_what_stays_the_same(site: tuple[KnownCameras, list[str], Tell, list[str]]) -> None:
    known, changed, tell, _ = site
    tell("yard", 1)
    tell("yard", 2, labels=["person"])
    tell("yard", 3, labels=["cat"])
    wait_until(lambda: changed == ["yard"])
    assert known.of("yard").labels == ("cat",)


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"revision": 5, "zones": {"bed": {"points": [[0, 0]]}}}, "at least 3 items"),
        ({"revision": 5, "of": "hall"}, "is of camera 'hall', its topic of 'yard'"),
        ({"revision": 3, "labels": ["cat"]}, "revision 3 is older than 4"),
        ({"revision": 5, "source": "rtsp://h"}, "write it beside `settings`"),
    ],
)
def test_what_cannot_be_used_is_rejected_and_the_last_one_holds(
    site: tuple[KnownCameras, list[str], Tell, list[str]], document: dict[str, object], reason: str
) -> None:
    known, changed, tell, rejected = site
    tell("yard", 4, labels=["dog"])
    tell("yard", **document)
    wait_until(lambda: len(rejected) == 1)
    assert reason in rejected[0]
    assert (known.of("yard").labels, changed) == (("dog",), ["yard"])


def test_what_was_taken_back_while_the_worker_was_away_is_forgotten(
    site: tuple[KnownCameras, list[str], Tell, list[str]],
) -> None:
    known, changed, tell, _ = site
    tell("hall", 1, rules={"night": {"kind": "presence"}})
    wait_until(lambda: changed == ["hall"])
    assert list(known.documented()["hall"].rules) == ["night"]
    content = RegistryIndex(revision=1, at=datetime(2026, 1, 1, tzinfo=UTC))
    delivery = Delivery(
        REGISTRY_INDEX.at("home"), content, b"{}", retained=True, received_at=content.at, _acknowledge=lambda: None
    )
    known._on_index(delivery)
    assert known.of("hall").rules, "this connection has brought it"
    known._brought = Brought()
    known._on_index(delivery)
    assert (known.of("hall"), changed) == (CameraSettings(), ["hall", "hall"])
