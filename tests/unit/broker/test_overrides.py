from __future__ import annotations

import pytest

from broker import topics
from broker.overrides import check_overrides, in_force
from config.errors import ConfigError
from config.settings import DeliveryOverride


@pytest.mark.parametrize(
    ("name", "override", "field", "reason"),
    [
        ("camera_motion", DeliveryOverride(qos=0), "qos", "only an acknowledged message can be missed"),
        ("camera_escalation", DeliveryOverride(qos=0), "qos", "is never lost"),
        ("camera_escalation", DeliveryOverride(qos=2), "qos", "receipts"),
        ("camera_escalation", DeliveryOverride(retain=True), "retain", "take the last of camera_escalation for a new"),
        ("camera_track", DeliveryOverride(retain=True), "retain", "for a new one"),
        ("node_command", DeliveryOverride(qos=0), "qos", "has no answer"),
        ("camera_set", DeliveryOverride(retain=True), "retain", "again after each reconnect"),
        ("receipt", DeliveryOverride(retain=True), "retain", "taken for the answer"),
        ("node_status", DeliveryOverride(qos=0), "qos", "stays wrong until it changes"),
        ("camera_state", DeliveryOverride(retain=False), "retain", "would not know how things are"),
    ],
)
def test_what_would_break_a_promise_is_refused_with_the_reason(
    name: str, override: DeliveryOverride, field: str, reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason) as raised:
        check_overrides({name: override})
    assert raised.value.field == f"bus.delivery.{name}.{field}"


def test_what_keeps_the_promise_is_in_force() -> None:
    overrides = {
        "camera_frame": DeliveryOverride(qos=1, retain=True),
        "camera_evidence": DeliveryOverride(retain=False),
        "camera_state": DeliveryOverride(qos=2),
        "node_command": DeliveryOverride(qos=1),
        "camera_motion": DeliveryOverride(qos=1, retain=False),
    }
    check_overrides(overrides)
    assert in_force(topics.CAMERA_FRAME, overrides) == (1, True)
    assert in_force(topics.CAMERA_EVIDENCE, overrides) == (1, False)
    assert in_force(topics.CAMERA_STATE, overrides) == (2, True)
    assert in_force(topics.CAMERA_OWNER, overrides) == (1, True)


def test_a_name_that_no_topic_has_is_an_error_with_a_hint() -> None:
    with pytest.raises(ConfigError, match="did you mean 'camera_motion'"):
        check_overrides({"camera_moton": DeliveryOverride(qos=1)})
