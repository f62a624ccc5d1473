"""QoS and retain in force: the contract's, or what the site put in their place, where that keeps the promise."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from broker.topics import CONTRACT, DeliveryClass, PayloadKind, TopicSpec
from config.errors import ConfigError
from config.settings import DeliveryOverride

__all__ = ["check_overrides", "in_force"]


def in_force(spec: TopicSpec, overrides: Mapping[str, DeliveryOverride]) -> tuple[int, bool]:
    """QoS and retain of a line of the contract."""
    override = overrides.get(spec.name)
    if override is None:
        return spec.qos, spec.retain
    qos = spec.qos if override.qos is None else override.qos
    return qos, spec.retain if override.retain is None else override.retain


def check_overrides(overrides: Mapping[str, DeliveryOverride]) -> None:
    """Refuse what would break the promise of a delivery class without anybody's noticing.

    Raises:
        ConfigError: no topic has this name, or its class needs another QoS or retain.
    """
    specs = {spec.name: spec for spec in CONTRACT}
    for name in overrides:
        spec = specs.get(name)
        if spec is None:
            near = difflib.get_close_matches(name, specs, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "`vigil topics` lists the names"
            raise ConfigError(f"no topic of this name; {hint}", field=f"bus.delivery.{name}")
        qos, retain = in_force(spec, overrides)
        wrong_qos, wrong_retain = _wrong_qos(spec, qos), _wrong_retain(spec, retain=retain)
        if wrong_qos is not None:
            raise ConfigError(f"QoS {qos} cannot be: {wrong_qos}", field=f"bus.delivery.{name}.qos")
        if wrong_retain is not None:
            setting = "true" if retain else "false"
            raise ConfigError(f"{setting} cannot be: {wrong_retain}", field=f"bus.delivery.{name}.retain")


def _wrong_qos(spec: TopicSpec, qos: int) -> str | None:
    if spec.delivery in (DeliveryClass.EVENT, DeliveryClass.DURABLE):
        if qos == 0:
            return f"{spec.name} is never lost, and only an acknowledged message can be missed and sent again; leave 1"
        if qos == 2:
            return f"the receipts of {spec.name} show every loss and repeat, which QoS 2 does for one hop; leave 1"
    if spec.delivery is DeliveryClass.COMMAND and qos == 0:
        return "a command that is lost has no answer, and nobody knows whether it was carried out; write 1 or 2"
    if spec.delivery is DeliveryClass.STATE and qos == 0:
        return "a state that is lost stays wrong until it changes again; write 1 or 2"
    return None


def _wrong_retain(spec: TopicSpec, *, retain: bool) -> str | None:
    if retain and spec.delivery in (DeliveryClass.EVENT, DeliveryClass.DURABLE):
        return f"whoever joins would take the last of {spec.name} for a new one"
    if retain and spec.delivery in (DeliveryClass.COMMAND, DeliveryClass.REPLY):
        return "it would be carried out, or taken for the answer, again after each reconnect"
    if not retain and spec.delivery is DeliveryClass.STATE and spec.kind is not PayloadKind.JPEG:
        return "whoever joins would not know how things are until they change; only pictures may go unkept"
    return None
