"""A process that the broker does not let in: it stops, and says why and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.bus import Bus
from broker.identity import IdentityFolder
from broker.session import connect
from config.errors import PermanentError, VigilError
from config.settings import BusSettings, Settings
from tests.support.site import SecureBroker, Site, days_ago
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.mosquitto, pytest.mark.timeout(60)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    made = Site(tmp_path_factory.mktemp("site"))
    made.node("porch", "edge")
    made.node("thief", "edge")
    made.authority.revoke("thief")
    return made


@pytest.fixture(scope="module")
def broker(site: Site) -> Iterator[SecureBroker]:
    with SecureBroker(site, "mosquitto") as broker:
        yield broker


def process(url: str, identity: Path | None, state: Path, told: list[Exception], node: str = "porch") -> Bus:
    settings = Settings(
        site="home", node=node, state_dir=state, bus=BusSettings(url=url, identity=identity, protocol="5")
    )
    bus = connect(settings, "edge", on_fatal=told.append)
    bus.start()
    return bus


def test_a_member_is_let_in(site: Site, broker: SecureBroker, tmp_path: Path) -> None:
    bus = process(broker.url, site.folder / "porch", tmp_path, [])
    assert bus.wait_connected(30)
    bus.close(0)


def test_who_is_not_let_in_stops_and_says_why(site: Site, broker: SecureBroker, tmp_path: Path) -> None:
    not_members: dict[str, IdentityFolder] = {
        "was revoked": IdentityFolder(site.folder / "thief"),
        "has expired": site.forged("porch.edge", "edge", issued=days_ago(20), days=10),
        "does not hold yet": site.forged("porch.edge", "edge", issued=days_ago(-5), days=10),
        "does not know the authority of this": site.foreign("porch.edge", "edge"),
    }
    for reason, identity in not_members.items():
        told: list[Exception] = []
        bus = process(broker.url, identity.path, tmp_path, told)
        wait_until(lambda told=told: told, timeout_s=15, what=reason)  # type: ignore[misc]
        assert isinstance(told[0], PermanentError)
        assert reason in str(told[0])
        assert "token of `vigil enrol`" in str(told[0])
        bus.close(0)


def test_a_broker_that_is_not_the_site_s_is_not_spoken_to(site: Site, broker: SecureBroker, tmp_path: Path) -> None:
    said: list[Exception] = []
    bus = process(broker.url, None, tmp_path, said)
    wait_until(lambda: said)
    assert "an authority that this machine does not know" in str(said[0])
    bus.close(0)
    elsewhere = broker.url.replace("127.0.0.1", "127.1")  # the same host by a name that is not in its certificate
    with pytest.raises(VigilError, match="another host"):
        open_once(elsewhere, site.folder / "porch", tmp_path)


def open_once(url: str, identity: Path, state: Path) -> None:
    told: list[Exception] = []
    bus = process(url, identity, state, told)
    try:
        wait_until(lambda: told)
    finally:
        bus.close(0)
    raise told[0]
