from __future__ import annotations

from typing import Any

import pytest

from broker.messages import Hardware, NodeDocument
from config.settings import Settings
from config.sources import load_settings
from fleet.agent.wanted import ROLES, STOP_ORDER, WantedRole, wanted_roles

GPUS = Hardware(gpus=("NVIDIA T4",) * 2)


def asked(
    hardware: Hardware = GPUS,
    settings: Settings | None = None,
    **document: Any,  # noqa: ANN401 - whatever a document says
) -> tuple[dict[str, WantedRole], dict[str, str]]:
    roles, problems = wanted_roles(
        NodeDocument(node="gpu", revision=1, **document), settings or load_settings(), hardware, image="vigil-mesh:1"
    )
    return roles, {problem.part: problem.reason for problem in problems}


def test_counts_become_roles_that_start_against_the_datas_way() -> None:
    roles, problems = asked(roles={"edge": 1, "detector": 2, "bridge": 0, "broker": 1})
    assert list(roles) == ["broker", "detector", "detector.2", "edge"]
    assert roles["detector.2"].arguments == ("detector", "--role", "detector.2")
    assert roles["broker"].arguments == ("broker", "run")
    assert problems == {}
    assert set(STOP_ORDER) == set(ROLES)


def test_each_worker_has_its_gpus() -> None:
    roles, problems = asked(roles={"detector": 3}, gpus={"detector": (0,), "detector.2": (1,)})
    assert [role.gpus for role in roles.values()] == [(0,), (1,), None]
    assert problems == {}


@pytest.mark.parametrize(
    ("document", "part", "reason"),
    [
        ({"roles": {"kettle": 1}}, "roles.kettle", "there is no such role; there are edge,"),
        ({"roles": {"console": 2}}, "roles.console", "a machine runs one console, not 2"),
        ({"roles": {"detector": 1}, "gpus": {"detector": (2,)}}, "gpus.detector", "no GPU 2 (it has 2)"),
        ({"roles": {"detector": 1}, "gpus": {"detector.2": (1,)}}, "gpus.detector.2", "does not run 'detector.2'"),
        ({"roles": {"edge": 1}, "runtime": "containers"}, "runtime", "no container engine answers here"),
    ],
)
def test_what_cannot_be_is_told_with_its_part(document: dict[str, Any], part: str, reason: str) -> None:
    _, problems = asked(**document)
    assert list(problems) == [part]
    assert reason in problems[part]


def test_a_gpu_that_is_not_there_leaves_the_processor() -> None:
    roles, problems = asked(Hardware(), roles={"detector": 1}, gpus={"detector": (0,)})
    assert roles["detector"].gpus == ()
    assert "runs on the processor" in problems["gpus.detector"]


def test_containers_are_used_where_they_are_asked_for_only() -> None:
    hardware = Hardware(engines=("podman", "docker"))
    assert asked(hardware, roles={"edge": 1})[0]["edge"].image == ""
    role = asked(hardware, roles={"edge": 1}, runtime="containers")[0]["edge"]
    assert (role.engine, role.image) == ("podman", "vigil-mesh:1")
    assert asked(hardware, roles={"edge": 1}, runtime="containers", image="mine:2")[0]["edge"].image == "mine:2"
    assert asked(roles={"edge": 1}, runtime="containers")[0] == {}, "not beside what was asked for"


def other(**changes: Any) -> Settings:  # noqa: ANN401 - whatever a site file says
    return load_settings(None, changes)


@pytest.mark.parametrize(
    ("changes", "concerned"),
    [
        ({"console": {"port": 8200}}, {"console"}),
        ({"detector": {"threads": 3}}, {"detector", "edge"}),
        ({"bus": {"keepalive_s": 7}}, set(ROLES)),
        ({"bus": {"password": "open-sesame"}}, set(ROLES)),
        ({"cameras": {"yard": {"source": "synthetic:street"}}}, {"console", "detector", "homeassistant"}),
        ({"fleet": {"watchdog_s": 30}}, {"fleet"}),
    ],
)
def test_a_setting_concerns_only_whose_it_is(changes: dict[str, Any], concerned: set[str]) -> None:
    everything = dict.fromkeys(ROLES, 1)
    before, _ = asked(settings=other(), roles=everything)
    after, _ = asked(settings=other(**changes), roles=everything)
    assert {name for name in before if before[name] != after[name]} == concerned
