"""Which node is given another version first."""

from __future__ import annotations

import click
import pytest
from msgspec.structs import replace

from broker.messages import CameraState, NodeReport
from config import PermanentError
from fleet.nodes.roll import Roll
from fleet.updates.cli import _in_order
from tests.support.messages import AT


@pytest.fixture
def roll() -> Roll:
    """Three nodes that answer and one that is away; `attic` watches two cameras, `porch` one, `hall` none."""
    made = Roll()
    for node in ("attic", "hall", "porch", "shed"):
        report = NodeReport(node=node, at=AT, started_at=AT, state="running")
        made.reports[node] = replace(report, state="offline") if node == "shed" else report
    for camera, node in (("a", "attic"), ("b", "attic"), ("c", "porch")):
        made.states[camera] = CameraState(camera=camera, state="online", node=node, at=AT)
    return made


def test_the_one_with_the_fewest_cameras_tries_it_for_the_others(roll: Roll) -> None:
    assert _in_order(roll, [], None) == ["hall", "porch", "attic"]


def test_a_person_may_say_which_tries_it(roll: Roll) -> None:
    assert _in_order(roll, [], "attic") == ["attic", "hall", "porch"]
    assert _in_order(roll, ["porch", "attic"], "attic") == ["attic", "porch"]


def test_who_does_not_answer_is_not_counted_as_done(roll: Roll) -> None:
    with pytest.raises(PermanentError, match="shed does not answer"):
        _in_order(roll, ["porch", "shed"], None)
    with pytest.raises(click.UsageError, match="not one of the nodes"):
        _in_order(roll, ["porch"], "attic")
