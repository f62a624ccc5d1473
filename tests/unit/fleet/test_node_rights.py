"""Who watches which camera, and what the certificates must allow for that."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from broker.members import Member
from config import ConfigError
from config.registry import CameraEntry, Login, NodeEntry
from config.settings import Settings
from fleet.nodes.handover import proof_of
from fleet.nodes.keeper import entry_of
from fleet.nodes.place import Place, keep_place, read_place
from fleet.nodes.rights import RightsChange, cameras_of, changes, logins_of, roles_of
from fleet.registry.folder import Held, Registry, Trouble


def held_camera(name: str, **said: object) -> Held[CameraEntry]:
    return Held(name, CameraEntry.model_validate({"source": "synthetic:", **said}), "etag", "", Path(name))


def held_node(name: str, **said: object) -> Held[NodeEntry]:
    return Held(name, NodeEntry.model_validate(said), "etag", "", Path(name))


REGISTRY = Registry(
    cameras={
        "yard": held_camera("yard", node="porch"),
        "lawn": held_camera("lawn", pool="garden"),
        "hall": held_camera("hall", node="gate"),
        "cellar": held_camera("cellar"),
    },
    nodes={
        "porch": held_node("porch", roles={"edge": 1, "detector": 2, "mock": 1}, pools=["garden"]),
        "gate": held_node("gate"),
    },
)


def member(name: str, *cameras: str, roles: tuple[str, ...] = ("edge",)) -> Member:
    return Member(name=name, kind="node", roles=roles, cameras=cameras)


def test_a_node_watches_its_own_cameras_and_those_of_its_pools() -> None:
    assert cameras_of(REGISTRY, "porch") == {"yard", "lawn"}
    assert cameras_of(REGISTRY, "gate") == {"hall"}
    assert cameras_of(REGISTRY, "attic") == frozenset()
    assert roles_of(REGISTRY.nodes["porch"].entry) == ("edge", "detector", "detector.2", "mock")


@pytest.mark.parametrize(
    ("who", "given", "wanted"),
    [
        (
            member("porch"),
            (),
            RightsChange(node="porch", roles=("detector", "detector.2"), cameras=("lawn", "yard")),
        ),
        # Another's camera goes; one of which the registry does not say who watches it stays.
        (member("gate", "hall", "yard", "cellar"), (), RightsChange(node="gate", lost=("yard",))),
        # A camera that is in no file any more goes where the registry had given it, and only there.
        (member("gate", "hall", "old", "own"), ("old",), RightsChange(node="gate", lost=("old",))),
        (member("gate", "hall"), (), None),
        (member("gone", roles=()), (), None),
        (Member(name="alice", kind="person", roles=("viewer",)), (), None),
    ],
)
def test_rights_become_those_that_the_registry_asks_for(
    who: Member, given: tuple[str, ...], wanted: RightsChange | None
) -> None:
    assert list(changes(REGISTRY, [who], {who.name: given})) == ([wanted] if wanted else [])


def test_a_file_that_is_broken_for_the_moment_takes_no_login_away() -> None:
    logins = {name: Login(username="admin") for name in ("yard", "lawn", "hall")}
    error = ConfigError("broken")
    yard = Trouble("camera", "yard", Path("yard"), error)
    without = replace(REGISTRY, cameras={"lawn": REGISTRY.cameras["lawn"]}, troubles=(yard,))
    assert logins_of(member("porch", "yard", "lawn"), without, logins).keys() == {"yard", "lawn"}
    assert logins_of(member("gate", "hall"), without, logins).keys() == {"hall"}
    porch = Trouble("node", "porch", Path("porch"), error)
    without = replace(REGISTRY, nodes={}, troubles=(porch,))
    assert logins_of(member("porch", "yard", "lawn"), without, logins).keys() == {"yard", "lawn"}
    assert logins_of(member("gate", "lawn"), without, logins).keys() == {"hall"}


def test_a_file_says_what_was_granted() -> None:
    enrolled = member("gpu", roles=("detector", "detector.2", "edge", "agent", "doctor"))
    assert entry_of(enrolled) == {"roles": {"detector": 2, "edge": 1}}


def test_a_proof_is_of_one_certificate_and_one_question() -> None:
    proof = proof_of("K7QF-2MXA", "aa11", "n" * 16)
    assert proof == proof_of("k7qf 2mxa", "aa11", "n" * 16)
    assert proof not in (
        proof_of("K7QF-2MXB", "aa11", "n" * 16),
        proof_of("K7QF-2MXA", "aa12", "n" * 16),
        proof_of("K7QF-2MXA", "aa11", "m" * 16),
    )


def test_a_place_holds_until_the_settings_say_something_else(tmp_path: Path) -> None:
    own = Settings(node="porch", state_dir=tmp_path)
    assert read_place(own) is None
    place = Place(site="home", node="gate", bus="mqtt://10.0.0.2:1883", instead_of="porch")
    keep_place(tmp_path, place)
    assert read_place(own) == place
    assert read_place(own.model_copy(update={"node": "attic"})) is None
    (tmp_path / "agent" / "place.json").write_text("{")
    assert read_place(own) is None
