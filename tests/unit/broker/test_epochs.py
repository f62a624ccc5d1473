"""Scores of a worker that the camera is not any more."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest

from broker import Delivery
from broker.epochs import Epochs
from broker.messages import CameraOwner, Detections, Message, ModelRef, encode_json
from broker.topics import CAMERA_DETECTIONS, CAMERA_OWNER, CAMERA_STATE, TopicSpec
from tests.support.messages import AT, camera_state

NOW = datetime(2026, 1, 1, 12, 0, 1, tzinfo=UTC)


def sent(spec: TopicSpec, content: Message, *, retained: bool = False) -> Delivery:
    return Delivery(spec.at("home", camera="yard"), content, encode_json(content), retained, NOW, lambda: None)


def owned(epoch: int, *, retained: bool = False) -> Delivery:
    owner = CameraOwner(camera="yard", worker=f"node-{epoch}.detector", epoch=epoch, at=AT)
    return sent(CAMERA_OWNER, owner, retained=retained)


def scored(epoch: int) -> Delivery:
    message = Detections(
        camera="yard", frame_seq=7, worker=f"node-{epoch}.detector", model=ModelRef(name="hog", sha256="0" * 64),
        width=64, height=48, captured_at=AT, received_at=AT, infer_started_at=AT, infer_ms=1.0, batch=1,
        published_at=AT, epoch=epoch,
    )  # fmt: skip
    return sent(CAMERA_DETECTIONS, message)


def test_scores_count_while_nothing_is_known_of_an_owner() -> None:
    epochs = Epochs()
    assert epochs.takes(scored(0), 0.0)
    assert epochs.takes(scored(7), 0.0)


def test_scores_of_the_owner_before_are_late_once_the_hand_over_is_over() -> None:
    epochs = Epochs()
    epochs.takes(owned(4), 0.0)
    epochs.takes(owned(5), 100.0)
    assert epochs.takes(scored(4), 100.9)  # it had these frames when it gave the camera away
    assert not epochs.takes(scored(3), 100.9)
    assert not epochs.takes(scored(4), 101.0)
    assert epochs.takes(scored(5), 101.0)
    assert epochs.late == 2


def test_a_worker_that_the_broker_has_forgotten_counts_when_its_claim_is_the_last() -> None:
    epochs = Epochs()
    epochs.takes(owned(9), 0.0)
    epochs.takes(owned(1), 100.0)
    assert epochs.takes(scored(1), 200.0)


def test_what_is_retained_is_no_hand_over() -> None:
    epochs = Epochs()
    epochs.takes(owned(5, retained=True), 100.0)
    assert not epochs.takes(scored(4), 100.0)


@pytest.mark.parametrize("owned_first", [True, False])
def test_a_node_that_scores_its_own_has_no_owner(*, owned_first: bool) -> None:
    epochs = Epochs()
    known = [owned(5), sent(CAMERA_STATE, camera_state(scored_by="node"))]
    for delivery in known if owned_first else reversed(known):
        epochs.takes(delivery, 0.0)
    assert epochs.takes(scored(0), 50.0)


def test_cameras_are_told_apart() -> None:
    epochs = Epochs()
    epochs.takes(owned(5), 0.0)
    elsewhere = msgspec.structs.replace(scored(0), topic=CAMERA_DETECTIONS.at("home", camera="door"))
    assert epochs.takes(elsewhere, 50.0)
