"""A node's agent and its place in the site: another name, and certificates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from broker.authority import Authority
from broker.certs import make_key, make_request
from broker.identity import identity_folder
from broker.members import CaFolder
from broker.messages import NodeDocument, NodeReport
from config.errors import BadPayloadError
from config.settings import BrokerSettings, BusSettings, Settings
from fleet.desk import Order
from fleet.enrolment.server import EnrolmentServer
from fleet.enrolment.token import JoinToken
from fleet.nodes.membership import Membership
from fleet.nodes.place import read_place
from tests.support.ports import free_port
from tests.support.waiting import wait_until


class Agent:
    """An agent that runs nothing."""

    def __init__(self, document: NodeDocument | None = None) -> None:
        self.document = document
        self.ordered: list[str] = []
        self.left = False
        now = datetime.now(UTC)
        self.report: NodeReport | None = NodeReport(node="porch", at=now, started_at=now, state="drained")

    @property
    def orders(self) -> Mapping[str, Order]:
        return {name: self._taking(name) for name in ("drain", "resume", "restart")}

    def _taking(self, name: str) -> Order:
        def take(arguments: Mapping[str, str]) -> Mapping[str, str]:
            self.ordered.append(" ".join((name, *arguments.values())))
            return {}

        return take

    def on_document(self, listener: Callable[[NodeDocument | None], None]) -> None:
        del listener

    def leave(self) -> None:
        self.left = True


def settings_of(folder: Path, *, secure: bool = False) -> Settings:
    url = f"{'mqtts' if secure else 'mqtt'}://127.0.0.1:{free_port()}"
    return Settings(site="home", node="porch", state_dir=folder / "porch", bus=BusSettings(url=url))


def join(settings: Settings, authority: Authority, port: int) -> None:
    key, identity = make_key(), identity_folder(settings)
    identity.install(authority.admit("porch", "node", ["edge"], [], make_request(key)), key)
    identity.authority.write_text(f"127.0.0.1:{port}")


def test_a_node_without_certificates_takes_the_name_into_its_state(tmp_path: Path) -> None:
    settings, agent = settings_of(tmp_path), Agent()
    membership = Membership(agent, settings, given_name="porch")
    with pytest.raises(BadPayloadError, match="name"):
        membership.orders["rename"]({"name": "no name"})
    membership.orders["rename"]({"name": "gate"})
    wait_until(lambda: agent.left, what="an agent that begins anew")
    place = read_place(settings)
    assert place is not None
    assert (membership.moved, place.node, place.bus) == (True, "gate", settings.bus.url)


def test_a_node_with_certificates_joins_anew_and_renews_for_a_new_role(tmp_path: Path) -> None:
    authority = Authority.create(CaFolder(tmp_path / "ca"), "home", ["127.0.0.1"])
    server = EnrolmentServer(authority, BrokerSettings(), host="127.0.0.1", port=0)
    server.start()
    try:
        settings = settings_of(tmp_path, secure=True)
        join(settings, authority, server.port)
        identity, agent = identity_folder(settings), Agent()
        agent.document = NodeDocument(node="porch", revision=1, roles={"edge": 1, "detector": 1})
        membership = Membership(agent, settings, given_name="porch")
        membership.start()
        wait_until(membership.problems, what="a role without a certificate")
        assert "vigil grant porch --role detector" in membership.problems()[0].reason
        authority.grant("porch", roles=["detector"])
        membership.orders["renew"]({})
        wait_until(lambda: agent.ordered == ["restart detector"], what="a detector that starts")
        assert "detector" in identity.roles()
        assert not membership.problems()

        agent.document = None
        key = identity.key("node").read_bytes()
        with pytest.raises(BadPayloadError, match="token"):
            membership.orders["rename"]({"name": "gate"})
        token = JoinToken.of(authority.invite("gate", "node", ["edge"]), authority.folder.ca.read_bytes())
        membership.orders["rename"]({"name": "gate", "token": token.text()})
        wait_until(lambda: agent.left, what="an agent that begins anew")
        membership.close()
        assert identity.key("node").read_bytes() != key
        assert identity.roles() == ("agent", "doctor", "edge")
        assert authority.roster().member("gate") is not None
    finally:
        server.close()


def test_a_node_that_cannot_join_anew_stays_who_it_was(tmp_path: Path) -> None:
    authority = Authority.create(CaFolder(tmp_path / "ca"), "home", ["127.0.0.1"])
    settings = settings_of(tmp_path, secure=True)
    join(settings, authority, free_port())
    agent = Agent()
    membership = Membership(agent, settings, given_name="porch")
    token = JoinToken.of(authority.invite("gate", "node", ["edge"]), authority.folder.ca.read_bytes())
    membership.orders["rename"]({"name": "gate", "token": token.text()})
    wait_until(membership.problems, what="why not")
    (problem,) = membership.problems()
    assert (problem.part, "still called porch" in problem.reason) == ("name", True)
    assert token.text() not in problem.reason
    assert (agent.left, membership.moved, read_place(settings)) == (False, False, None)
