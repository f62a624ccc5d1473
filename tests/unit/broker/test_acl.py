from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.acl import (
    NODE_ROLES,
    PERSON_ROLES,
    Access,
    AccessList,
    Right,
    check_node_role,
    mosquitto_acl,
    node_rights,
    person_rights,
)
from broker.memory import topic_matches
from broker.topics import (
    CAMERA_CLIP,
    CAMERA_DETECTIONS,
    CAMERA_ESCALATION,
    CAMERA_EVIDENCE,
    CAMERA_FRAME,
    CAMERA_MOTION,
    CAMERA_MOTION_OPEN,
    CAMERA_MOTION_TREND,
    CAMERA_OWNER,
    CAMERA_SET,
    CAMERA_SNAPSHOT,
    CAMERA_STATE,
    CAMERA_TRACK,
    CAMERA_TRACK_OPEN,
    CONTRACT,
    MODEL,
    NODE_COMMAND,
    NODE_HEALTH,
    NODE_REPLY,
    NODE_STATUS,
    PROBE,
    RECEIPT,
    REGISTRY_CAMERA,
    REGISTRY_INDEX,
    REJECT,
    Party,
    TopicSpec,
)

SITE = "home"
PARTIES = {
    "edge": Party.EDGE,
    "detector": Party.DETECTOR,
    "bridge": Party.BRIDGE,
    "commands": Party.COMMANDS,
    "homeassistant": Party.HOMEASSISTANT,
    "fleet": Party.FLEET,
    "console": Party.PEOPLE,
    "up": Party.PEOPLE,
    "drill": Party.DRILL,
    "agent": None,
    "doctor": None,
}
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,12}", fullmatch=True)
LEVELS = st.one_of(NAMES, st.sampled_from(["", "+", "#", "yard", "porch", "porch.edge", "$SYS", "a b", "ü", "x\ny"]))
ROLE_NAMES = st.builds(
    lambda role, number: role if number < 2 else f"{role}.{number}", st.sampled_from(NODE_ROLES), st.integers(0, 4)
)


def topic(spec: TopicSpec, **params: str) -> str:
    """The topic with these names, and others where none is given."""
    given = {"camera": "yard", "origin": "porch.edge", "node": "porch", "role": "edge", "property": "mode", "name": "m"}
    chosen = given | params
    return str(spec.at(SITE, **{name: chosen[name] for name in spec.placeholders}))


def may(rights: Sequence[Right], access: Access, spec: TopicSpec, **params: str) -> bool:
    """Whether the only user of these rights may do it."""
    (username,) = {right.username for right in rights}
    return AccessList(rights).allows(username, access, topic(spec, **params))


PORCH = node_rights(SITE, "porch", ["edge"], ["yard", "door"])
WORKER = node_rights(SITE, "gpu", ["detector.2"])
COMMANDS = node_rights(SITE, "hub", ["commands"])
BRIDGE = node_rights(SITE, "hub", ["bridge"])
DRILL = node_rights(SITE, "hub", ["drill"], ["yard"])
ALICE = person_rights(SITE, "alice", "dashboard")
BOB = person_rights(SITE, "bob", "viewer")


def test_an_edge_writes_its_own_cameras_and_no_others() -> None:
    scores = (CAMERA_DETECTIONS, CAMERA_TRACK, CAMERA_TRACK_OPEN, CAMERA_ESCALATION, CAMERA_EVIDENCE)
    watches = (CAMERA_STATE, CAMERA_FRAME, CAMERA_MOTION, CAMERA_MOTION_TREND, CAMERA_CLIP)
    for spec in (*watches, *scores):
        able = [camera for camera in ("yard", "door", "hall") if may(PORCH, "write", spec, camera=camera)]
        assert able == ["yard", "door"], spec.name


def test_an_edge_speaks_in_its_own_name_only() -> None:
    assert may(PORCH, "write", NODE_STATUS)
    assert not may(PORCH, "write", NODE_STATUS, node="gate")
    assert not may(PORCH, "write", NODE_HEALTH, role="detector")
    assert not may(PORCH, "write", CAMERA_ESCALATION, origin="gate.edge")
    assert may(PORCH, "write", REJECT)
    assert not may(PORCH, "write", REJECT, origin="gate.edge")
    assert may(PORCH, "write", PROBE)
    assert not may(PORCH, "write", PROBE, origin="gate.edge")
    assert not may(PORCH, "write", CAMERA_OWNER)
    assert not may(PORCH, "write", CAMERA_SET)
    assert not may(PORCH, "write", RECEIPT)


def test_an_edge_reads_what_is_for_it_and_no_pictures() -> None:
    its_cameras = (CAMERA_SET, CAMERA_STATE, CAMERA_MOTION_OPEN, CAMERA_TRACK_OPEN, CAMERA_ESCALATION, REGISTRY_CAMERA)
    for spec in (RECEIPT, NODE_COMMAND, MODEL, PROBE, *its_cameras):
        assert may(PORCH, "read", spec), spec.name
    for spec in (RECEIPT, PROBE):
        assert not may(PORCH, "read", spec, origin="gate.edge"), spec.name
    for spec in its_cameras:
        assert not may(PORCH, "read", spec, camera="hall"), spec.name
    for spec in (CAMERA_FRAME, CAMERA_SNAPSHOT, CAMERA_MOTION, CAMERA_DETECTIONS, CAMERA_EVIDENCE):
        assert not may(PORCH, "read", spec), spec.name
    assert not may(PORCH, "read", NODE_COMMAND, node="gate")


def test_an_edge_hears_who_else_raises_something_of_its_cameras() -> None:
    assert may(PORCH, "read", CAMERA_ESCALATION, origin="gpu.detector.2")
    assert not may(PORCH, "read", CAMERA_ESCALATION, camera="hall", origin="gpu.detector.2")
    assert not may(DRILL, "read", CAMERA_ESCALATION)


def test_a_detector_scores_every_camera_and_orders_nothing() -> None:
    assert may(WORKER, "read", CAMERA_FRAME)
    assert may(WORKER, "write", CAMERA_DETECTIONS)
    assert may(WORKER, "write", CAMERA_ESCALATION, camera="any", origin="gpu.detector.2")
    assert not may(WORKER, "write", CAMERA_ESCALATION, origin="gpu.detector")
    for spec in (NODE_COMMAND, CAMERA_SET, CAMERA_FRAME, CAMERA_MOTION, CAMERA_STATE, RECEIPT):
        assert not may(WORKER, "write", spec, node="gpu", role="detector.2"), spec.name


def test_a_bridge_receives_and_writes_receipts() -> None:
    assert may(BRIDGE, "read", CAMERA_ESCALATION)
    assert may(BRIDGE, "read", CAMERA_MOTION)
    assert may(BRIDGE, "write", RECEIPT, origin="porch.edge")
    assert not may(BRIDGE, "read", RECEIPT, origin="porch.edge")
    assert not may(BRIDGE, "read", CAMERA_FRAME)
    for spec in (CAMERA_ESCALATION, CAMERA_MOTION, CAMERA_SET, NODE_COMMAND):
        assert not may(BRIDGE, "write", spec), spec.name


def test_what_takes_commands_gives_orders_and_reads_only_what_answers_them() -> None:
    written = {spec.name for spec in CONTRACT if may(COMMANDS, "write", spec)}
    read = {spec.name for spec in CONTRACT if may(COMMANDS, "read", spec)}
    assert written == {CAMERA_SET.name, NODE_COMMAND.name, REGISTRY_CAMERA.name}
    assert read == {CAMERA_STATE.name, NODE_STATUS.name, NODE_REPLY.name, REGISTRY_CAMERA.name, REGISTRY_INDEX.name}


def test_people_read_and_set_and_nothing_else() -> None:
    written = {spec.name for spec in CONTRACT if may(ALICE, "write", spec)}
    unread = {spec.name for spec in CONTRACT if not may(ALICE, "read", spec)}
    assert written == {CAMERA_SET.name, NODE_COMMAND.name}
    assert unread == {CAMERA_SET.name, NODE_COMMAND.name, PROBE.name}


def test_a_viewer_reads_the_same_and_writes_nothing() -> None:
    assert {right.access for right in BOB} == {"read"}
    reading = [right.topic_filter for right in ALICE if right.access == "read"]
    assert [right.topic_filter for right in BOB] == reading


def test_a_drill_raises_alarms_for_its_cameras_only() -> None:
    assert may(DRILL, "write", CAMERA_ESCALATION, origin="hub.drill")
    assert may(DRILL, "write", CAMERA_MOTION)
    assert may(DRILL, "read", RECEIPT, origin="hub.drill")
    assert not may(DRILL, "write", CAMERA_MOTION, camera="hall")
    assert not may(DRILL, "write", CAMERA_ESCALATION, camera="hall", origin="hub.drill")
    assert not may(DRILL, "write", CAMERA_FRAME)


def test_every_line_has_somebody_who_writes_it_and_somebody_who_reads_it() -> None:
    everybody = [node_rights(SITE, "porch", [role], ["yard"]) for role in NODE_ROLES]
    everybody += [person_rights(SITE, "alice", role) for role in PERSON_ROLES]
    accesses: tuple[Access, ...] = ("write", "read")
    for spec in CONTRACT:
        for access in accesses:
            able = [rights for rights in everybody for role in NODE_ROLES if _may_as(rights, access, spec, role)]
            assert able, f"nobody may {access} {spec.name}"


def _may_as(rights: Sequence[Right], access: Access, spec: TopicSpec, role: str) -> bool:
    return may(rights, access, spec, role=role, origin=f"porch.{role}")


@settings(max_examples=40)
@given(node=NAMES, role=ROLE_NAMES, cameras=st.lists(NAMES, unique=True, max_size=3), data=st.data())
@pytest.mark.parametrize("spec", CONTRACT, ids=lambda spec: spec.name)
def test_nobody_but_the_contracts_writers_and_readers_can(
    spec: TopicSpec, node: str, role: str, cameras: list[str], data: st.DataObject
) -> None:
    rights = AccessList(node_rights(SITE, node, [role], cameras))
    own = {"node": node, "role": role, "origin": f"{node}.{role}"}
    params = {name: data.draw(st.one_of(NAMES, st.sampled_from(cameras or ["yard"]))) for name in spec.placeholders}
    for name in own.keys() & params.keys():
        other = {"node": "other-node", "role": "edge.9", "origin": "other-node.edge"}
        params[name] = data.draw(st.sampled_from([own[name], other[name]]))
    is_own = all(params[name] == own[name] for name in own.keys() & params.keys())
    party = PARTIES[role.partition(".")[0]]
    of_its_cameras = party not in (Party.EDGE, Party.DRILL) or params.get("camera", "") in ("", *cameras)

    def expected(parties: tuple[Party, ...], *, is_write: bool) -> bool:
        if Party.SELF in parties and is_own:
            return True
        is_others = Party.SELF in (*spec.readers, *spec.writers)
        return party in parties and of_its_cameras and (is_own or not is_write or is_others)

    where = str(spec.at(SITE, **params))
    assert rights.allows(f"{node}.{role}", "write", where) == expected(spec.writers, is_write=True)
    assert rights.allows(f"{node}.{role}", "read", where) == expected(spec.readers, is_write=False)
    assert not rights.allows("somebody.else", "read", where)
    assert not rights.allows("", "write", where)


@given(
    cameras=st.lists(NAMES, unique=True, min_size=2, max_size=6),
    nodes=st.lists(NAMES, unique=True, min_size=2, max_size=2),
    roles=st.lists(st.sampled_from(["edge", "edge.2", "drill", "doctor"]), unique=True, min_size=1),
)
def test_two_edges_with_other_cameras_write_nothing_in_common(
    cameras: list[str], nodes: list[str], roles: list[str]
) -> None:
    half = len(cameras) // 2
    one = node_rights(SITE, nodes[0], roles, cameras[:half])
    two = node_rights(SITE, nodes[1], roles, cameras[half:])
    writes = [{r.topic_filter for r in rights if r.access == "write"} for rights in (one, two)]
    # Only the property of a `set` is a wildcard in what an edge has, and it reads that; so equality is all there is.
    assert all("+" not in place and "#" not in place for place in writes[0] | writes[1])
    assert not writes[0] & writes[1]


@given(
    levels=st.lists(LEVELS, min_size=1, max_size=7),
    root=st.sampled_from([(), ("vigil", "v1", SITE)]),
    role=ROLE_NAMES,
    access=st.sampled_from(["read", "write"]),
)
def test_the_plugin_and_mosquittos_file_agree(
    levels: list[str], root: tuple[str, ...], role: str, access: Access
) -> None:
    rights = (*node_rights(SITE, "porch", [role], ["yard"]), *person_rights(SITE, "alice", "dashboard"))
    compiled = AccessList(rights)
    where = "/".join((*root, *levels))
    for username in (f"porch.{role}", "alice"):
        granted = _in_mosquittos_words(mosquitto_acl(rights), username, access)
        assert compiled.allows(username, access, where) == any(topic_matches(place, where) for place in granted)


def _in_mosquittos_words(text: str, username: str, access: str) -> list[str]:
    """What the file grants, read as mosquitto.conf(5) says."""
    user, places = "", []
    for line in text.splitlines():
        word, _, rest = line.partition(" ")
        if word == "user":
            user = rest
        elif word == "topic" and user == username:
            what, _, place = rest.partition(" ")
            places += [place] if what == access else []
    return places


def test_the_file_names_each_user_once() -> None:
    lines = mosquitto_acl((*PORCH, *ALICE, *BOB, *WORKER)).splitlines()
    assert [line for line in lines if line.startswith("user ")] == [
        "user alice", "user bob", "user gpu.detector.2", "user porch.edge",
    ]  # fmt: skip


@pytest.mark.parametrize("role", ["broker", "people", "Edge", "edge.0", "", "edge\nuser x"])
def test_an_unknown_role_has_no_rights(role: str) -> None:
    with pytest.raises(ValueError, match=r"role|rights"):
        check_node_role(role)
    with pytest.raises(ValueError, match=r"role|rights"):
        node_rights(SITE, "porch", [role])


@pytest.mark.parametrize("camera", ["+", "#", "a/b", "yard\ntopic write #", ""])
def test_a_camera_that_is_no_name_gets_into_no_right(camera: str) -> None:
    with pytest.raises(ValueError, match="not a name"):
        node_rights(SITE, "porch", ["edge"], [camera])


def test_a_person_is_no_process() -> None:
    with pytest.raises(ValueError, match="dashboard or viewer"):
        person_rights(SITE, "alice", "edge")
    with pytest.raises(ValueError, match="not a name"):
        person_rights(SITE, "porch.edge", "viewer")
