"""Tells Home Assistant of devices, in the form that it takes, and takes back what is no more.

What was published is known from the disk and from the broker: whichever of them is lost, no ghost stays behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import msgspec

from bridge.homeassistant.entity import MIGRATE, Device
from bridge.homeassistant.memory import Form, Published
from bridge.homeassistant.names import is_of_site
from broker import Delivery, Topic
from broker.topics import HOMEASSISTANT_DEVICE, HOMEASSISTANT_ENTITY
from config import get_logger

__all__ = ["Announcer"]

Publish = Callable[[Topic, bytes], None]


class _Component(msgspec.Struct):
    platform: str = ""
    p: str = ""


class _DevicePayload(msgspec.Struct):
    components: dict[str, _Component] = {}


class Announcer:
    """Publishes discovery.

    Concurrency: one thread.

    Args:
        site: the site.
        prefix: Home Assistant's discovery prefix.
        form: in which it is told.
        origin: who tells it.
        publish: retained; an empty payload takes it back.
        keep: writes down what is published, before it is.
        published: what is known to be there, by the device's id; kept up to date.
    """

    def __init__(
        self,
        site: str,
        *,
        prefix: str,
        form: Form,
        origin: Mapping[str, str],
        publish: Publish,
        keep: Callable[[], None],
        published: dict[str, Published],
    ) -> None:
        self.published = published
        self._site = site
        self._prefix = prefix
        self._form: Form = form
        self._origin = dict(origin)
        self._publish = publish
        self._keep = keep
        self._said: dict[str, Device] = {}
        self._log = get_logger()

    def recover(self, delivery: Delivery) -> str | None:
        """Take in what the broker keeps; returns the device's id where it is one of this site's."""
        topic, payload = delivery.topic, delivery.content
        device_id = topic.params["id"]
        if not isinstance(payload, bytes) or not is_of_site(device_id, self._site):
            return None
        if topic.spec is HOMEASSISTANT_DEVICE:
            self._recover(device_id, "device", _components(payload))
        else:
            self._recover(device_id, "entity", {topic.params["key"]: topic.params["component"]})
        return device_id

    def _recover(self, device_id: str, form: Form, components: Mapping[str, str]) -> None:
        before = self.published.get(device_id)
        if before is None or before.form == form:
            kept = before.components if before is not None else {}
            self.published[device_id] = Published(form=form, components={**kept, **components})
        elif form != self._form:  # the other form's, left by a change that was not finished
            self.published[device_id] = Published(form=form, components={**before.components, **components})

    def announce(self, device: Device) -> None:
        """Publish a device where it is new or has changed."""
        if self._said.get(device.id) == device:
            return
        self._said[device.id] = device
        before = self.published.get(device.id, Published(form=self._form, components={}))
        self.published[device.id] = Published(form=self._form, components=device.components())
        self._keep()
        removed = {
            key: component for key, component in before.components.items() if device.components().get(key) != component
        }
        if before.form != self._form:
            self._migrate(device, before)
            # Before the new form, though Home Assistant's documentation says after it: then it warns of each entity.
            self._clear(device.id, before)
        elif removed:
            self._take_back_some(device, removed)
        for topic, payload in self._payloads(device):
            self._publish(topic, payload)
        self._log.info("homeassistant.announced", device=device.id, entities=len(device.entities))

    def withdraw(self, device_id: str) -> None:
        """Take everything back that was published of a device."""
        before = self.published.pop(device_id, None)
        self._said.pop(device_id, None)
        if before is not None:
            self._clear(device_id, before)
            self._keep()
            self._log.info("homeassistant.withdrawn", device=device_id)

    def repeat(self) -> None:
        """Publish everything again with the next announcement."""
        self._said.clear()

    def _payloads(self, device: Device) -> Iterator[tuple[Topic, bytes]]:
        if self._form == "device":
            yield self._device_topic(device.id), device.payload(self._origin)
        else:
            for key, entity in device.entities.items():
                yield self._entity_topic(device.id, key, entity.component), device.entity_payload(self._origin, key)

    def _migrate(self, device: Device, before: Published) -> None:
        for topic in self._topics(device.id, before):
            self._publish(topic, MIGRATE)

    def _take_back_some(self, device: Device, removed: Mapping[str, str]) -> None:
        if self._form == "device":
            self._publish(self._device_topic(device.id), device.payload(self._origin, removed))
        else:
            self._clear(device.id, Published(form="entity", components=dict(removed)))

    def _clear(self, device_id: str, published: Published) -> None:
        for topic in self._topics(device_id, published):
            self._publish(topic, b"")

    def _topics(self, device_id: str, published: Published) -> Iterator[Topic]:
        if published.form == "device":
            yield self._device_topic(device_id)
        else:
            for key, component in published.components.items():
                yield self._entity_topic(device_id, key, component)

    def _device_topic(self, device_id: str) -> Topic:
        return HOMEASSISTANT_DEVICE.at(self._site, prefix=self._prefix, id=device_id)

    def _entity_topic(self, device_id: str, key: str, component: str) -> Topic:
        return HOMEASSISTANT_ENTITY.at(self._site, prefix=self._prefix, component=component, id=device_id, key=key)


def _components(payload: bytes) -> dict[str, str]:
    try:
        found = msgspec.json.decode(payload, type=_DevicePayload).components
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return {}
    return {key: component.platform or component.p for key, component in found.items()}
