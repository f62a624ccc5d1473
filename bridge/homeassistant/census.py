"""Which cameras and nodes there are, as the bus tells of them. No I/O and no clock: deliveries and the time come in.

A camera is known once its node has it, and gone when its state is taken back, or when its node is there, says three
times that it does not have it, and the site gives it to nobody. One that is offline stays: its pictures come back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import datetime

import msgspec

from bridge.homeassistant.camera import camera_device, camera_device_id
from bridge.homeassistant.entity import Device
from bridge.homeassistant.facts import CameraFacts, NodeFacts
from bridge.homeassistant.models import ModelDesk
from bridge.homeassistant.names import split
from bridge.homeassistant.node import ROLES, node_device, node_device_id
from broker import Content, Delivery, TopicSpec
from broker.camera_documents import Brought
from broker.messages import (
    CameraCheck,
    CameraDocument,
    CameraModel,
    CameraOwner,
    CameraState,
    NodeDocument,
    NodeHealth,
    NodeStatus,
    OpenEvents,
    RegistryIndex,
)
from broker.topics import (
    CAMERA_CHECK,
    CAMERA_OWNER,
    CAMERA_STATE,
    CAMERA_TRACK_OPEN,
    MODEL,
    NODE_HEALTH,
    NODE_STATUS,
    NODE_WORKER,
    REGISTRY_CAMERA,
    REGISTRY_INDEX,
    REGISTRY_NODE,
    origin_of,
)
from config.names import check_name

__all__ = ["CENSUS_TOPICS", "Census"]

CENSUS_TOPICS: tuple[TopicSpec, ...] = (
    CAMERA_STATE, CAMERA_OWNER, CAMERA_TRACK_OPEN, CAMERA_CHECK, NODE_STATUS, NODE_HEALTH, NODE_WORKER, REGISTRY_CAMERA,
    REGISTRY_NODE, REGISTRY_INDEX, MODEL,
)  # fmt: skip
"""What a census must be told of."""
_MISSING_MAX = 3
"""Reports of a node without the camera after which it is not its any more: 10 to 15 s."""
_OF_ZONE = 3
"""Names in the key of what is counted in a zone: what, label, zone."""
_KNOWN_MAX = 1_000
"""Names come from topics, which anybody with access to the bus may invent: what is kept of them is bounded."""


class Census:
    """Facts of one site.

    Args:
        site: the site.
        labels: those that are counted.
        zones: by camera, where the settings say them.
        cameras: what is known already,
        nodes: and of nodes.
        url: of the web page; empty where there is none that others reach.
    """

    def __init__(
        self,
        site: str,
        *,
        labels: tuple[str, ...],
        zones: Mapping[str, tuple[str, ...]],
        cameras: Mapping[str, CameraFacts],
        nodes: Mapping[str, NodeFacts],
        url: str = "",
    ) -> None:
        self.cameras = dict(cameras)
        self.nodes = dict(nodes)
        self._site = site
        self._labels = labels
        self._zones = dict(zones)
        self._url = url
        self._states: dict[str, CameraState] = {}
        self._owners: dict[str, str] = {}
        self._documents: dict[str, CameraDocument] = {}
        self._node_documents: dict[str, NodeDocument] = {}
        self._brought, self._brought_nodes = Brought(), Brought()
        self._checked: set[str] = set()
        self._named_by: dict[str, str] = {}
        self._missing: dict[str, int] = {}
        self._heard: set[str] = set()
        self._kept: dict[str, CameraFacts] = {}
        self._devices: dict[tuple[str, object], tuple[tuple[object, ...], Device]] = {}
        self._models = ModelDesk()

    def fold(self, delivery: Delivery, connection: int = 0) -> None:
        """Take one message in; `connection` is the number of the one that brought it."""
        topic = delivery.topic
        if topic.spec is REGISTRY_CAMERA:
            self._brought.note(topic.camera, connection)
        elif topic.spec is REGISTRY_NODE:
            self._brought_nodes.note(topic.params["node"], connection)
        if topic.spec in (MODEL, NODE_WORKER):
            self._models.fold(delivery)
        elif isinstance(delivery.content, RegistryIndex):
            self._fold_index(delivery.content, connection)
        elif topic.spec is REGISTRY_NODE:
            self._fold_node_document(topic.params["node"], delivery.content)
        elif delivery.content is None:
            self._fold_taken_back(topic.spec, topic.params)
        elif topic.camera:
            self._fold_camera(topic.camera, delivery.content)
        else:
            self._fold_process(topic.params["node"], topic.params["role"], delivery.content)

    def devices(self) -> dict[str, Device]:
        """All devices, by their ids; one of which nothing has changed is the same object as before."""
        found = [self._made(self._node, node, facts) for node, facts in self.nodes.items()]
        for camera, facts in self.cameras.items():
            version = self.nodes.get(facts.node, NodeFacts()).version
            found.append(self._made(self._camera, camera, facts, version))
        return {device.id: device for device in found}

    def _made(self, make: Callable[..., Device], *of: object) -> Device:
        key = (make.__name__, of[0])
        before = self._devices.get(key)
        if before is None or before[0] != of:
            before = self._devices[key] = (of, make(*of))
        return before[1]

    def _camera(self, camera: str, facts: CameraFacts, version: str) -> Device:
        return camera_device(self._site, camera, facts, version=version, url=self._url)

    def _node(self, node: str, facts: NodeFacts) -> Device:
        return node_device(self._site, node, facts)

    def models(self, now: datetime) -> dict[str, CameraModel]:
        """The model of each camera."""
        return {camera: self._models.of(camera, facts.worker, now) for camera, facts in self.cameras.items()}

    def remember(self, device_id: str, components: Collection[str]) -> None:
        """Take in what the broker kept of a device, by its keys: a lost disk changes nothing that people see."""
        _, _, kind, name = split(device_id)
        if kind == "camera":
            zones = {zone for _, _, zone in (key for key in map(split, components) if len(key) == _OF_ZONE)}
            self._kept[name] = CameraFacts(node="", zones=tuple(sorted(zones)), has_check="check" in components)
            self._renew(name)
        elif name in self.nodes:
            warm, wifi = "temperature" in components, "wifi" in components
            self._learn(name, has_temperature=warm, has_wifi=wifi)

    def unheard(self) -> list[str]:
        """Ids of the devices of which the bus has told nothing since the start."""
        cameras = [camera_device_id(self._site, camera) for camera in self.cameras if camera not in self._states]
        return cameras + [node_device_id(self._site, node) for node in self.nodes if node not in self._heard]

    def forget(self, device_ids: Collection[str]) -> None:
        """These are gone."""
        for camera in [name for name in self.cameras if camera_device_id(self._site, name) in device_ids]:
            self._forget_camera(camera)
        for node in [name for name in self.nodes if node_device_id(self._site, name) in device_ids]:
            del self.nodes[node]

    def _forget_camera(self, camera: str) -> None:
        for known in (self.cameras, self._named_by, self._missing, self._kept):
            known.pop(camera, None)

    # --- cameras -------------------------------------------------------------------------------------------------

    def _fold_camera(self, camera: str, content: Content) -> None:
        match content:
            case CameraState():
                self._fold_state(camera, content)
            case CameraOwner():
                self._fold_owner(camera, content)
            case OpenEvents():
                self._fold_tracks(camera, content)
            case CameraCheck() if camera in self._checked or len(self._checked) < _KNOWN_MAX:
                self._checked.add(camera)
                self._renew(camera)
            case CameraDocument(excluded=True):
                self._forget_document(camera)
            case CameraDocument() if camera in self._documents or len(self._documents) < _KNOWN_MAX:
                self._documents[camera] = content
                self._renew(camera)

    def _fold_state(self, camera: str, state: CameraState) -> None:
        if _is_name(state.node) and (camera in self._states or len(self._states) < _KNOWN_MAX):
            self._states[camera] = state
            self._missing.pop(camera, None)
            self._renew(camera)

    def _fold_owner(self, camera: str, owner: CameraOwner) -> None:
        # While nobody has it, its last worker is the one that is away: what it counted is not known any more.
        if _is_origin(owner.worker) and (camera in self._owners or len(self._owners) < _KNOWN_MAX):
            self._owners[camera] = owner.worker
            self._renew(camera)

    def _renew(self, camera: str) -> None:
        """Put together what is known of a camera, once it is known to be there."""
        state, before = self._states.get(camera), self.cameras.get(camera) or self._kept.get(camera)
        if state is None or (before is None and not self._is_there(camera, state)):
            return
        before = before or CameraFacts(node=state.node)
        labels = tuple(label for label in self._labels if not state.labels or label in state.labels)
        document = self._documents.get(camera)
        self.cameras[camera] = CameraFacts(
            node=state.node,
            role=self._named_by.get(camera, before.role),
            worker=self._owners.get(camera, before.worker) if state.scored_by == "workers" else "",
            labels=labels,
            zones=self._zones_of(camera, before),
            name=document.name if document is not None else "",
            area=document.area if document is not None else "",
            has_check=camera in self._checked or before.has_check,
        )

    def _forget_check(self, camera: str) -> None:
        self._checked.discard(camera)
        if (facts := self.cameras.get(camera)) is not None:
            self.cameras[camera] = msgspec.structs.replace(facts, has_check=False)

    def _forget_document(self, camera: str) -> None:
        self._documents.pop(camera, None)
        self._renew(camera)

    def _is_there(self, camera: str, state: CameraState) -> bool:
        """A state may outlive its camera; what its node or the site names does not."""
        return state.state != "offline" or camera in self._named_by or camera in self._documents

    def _zones_of(self, camera: str, before: CameraFacts) -> tuple[str, ...]:
        said = self._said(camera).get("zones")
        if isinstance(said, Mapping):
            return tuple(sorted(name for name, zone in said.items() if _is_name(name) and _counts(zone)))
        return self._zones.get(camera, before.zones)

    def _fold_tracks(self, camera: str, content: OpenEvents) -> None:
        """Zones that only the camera's own node knows are learned from who stands in them."""
        facts = self.cameras.get(camera)
        if facts is None or camera in self._zones or "zones" in self._said(camera):
            return
        seen = {zone for track in content.tracks for zone in track.zones if _is_name(zone)}
        if not seen <= set(facts.zones):
            self.cameras[camera] = msgspec.structs.replace(facts, zones=tuple(sorted(seen | set(facts.zones))))

    def _said(self, camera: str) -> Mapping[str, object]:
        document = self._documents.get(camera)
        return document.settings if document is not None else {}

    # --- nodes ---------------------------------------------------------------------------------------------------

    def _fold_process(self, node: str, role: str, content: Content) -> None:
        match content:
            case NodeStatus():
                self._fold_status(node, role, content)
            case NodeHealth():
                self._fold_health(node, role, content)

    def _fold_status(self, node: str, role: str, status: NodeStatus) -> None:
        if role.partition(".")[0] not in ROLES or (node not in self.nodes and len(self.nodes) >= _KNOWN_MAX):
            return
        self._heard.add(node)
        before = self.nodes.get(node, NodeFacts())
        roles = tuple(sorted({*before.roles, role}, key=_rank))
        version = status.versions.get("vigil", "") if role == roles[0] or not before.version else before.version
        self.nodes[node] = msgspec.structs.replace(before, roles=roles, version=version or before.version)
        self._name_node(node)

    def _fold_node_document(self, node: str, content: Content) -> None:
        if not isinstance(content, NodeDocument):
            self._node_documents.pop(node, None)
        elif node in self._node_documents or len(self._node_documents) < _KNOWN_MAX:
            self._node_documents[node] = content
        self._name_node(node)

    def _name_node(self, node: str) -> None:
        document, facts = self._node_documents.get(node), self.nodes.get(node)
        if facts is not None:
            name, area = (document.name, document.area) if document is not None else ("", "")
            self.nodes[node] = msgspec.structs.replace(facts, name=name, area=area)

    def _fold_health(self, node: str, role: str, health: NodeHealth) -> None:
        if node in self.nodes:
            warm, wifi = health.temperature_c is not None, health.wifi_dbm is not None
            self._learn(node, has_temperature=warm, has_wifi=wifi)
        if role.partition(".")[0] != "edge":
            return
        for camera in health.cameras:
            self._fold_named(camera, node, role)
        for camera, facts in list(self.cameras.items()):
            if (facts.node, facts.role) == (node, role):
                self._miss(camera, is_named=camera in health.cameras)

    def _fold_named(self, camera: str, node: str, role: str) -> None:
        """A process says that it has a camera; while one moves, what counts is the node that its state names."""
        state = self._states.get(camera)
        if state is not None and state.node == node and self._named_by.get(camera) != role:
            self._named_by[camera] = role
            self._renew(camera)

    def _learn(self, node: str, *, has_temperature: bool, has_wifi: bool) -> None:
        before = self.nodes[node]
        self.nodes[node] = msgspec.structs.replace(
            before,
            has_temperature=before.has_temperature or has_temperature,
            has_wifi=before.has_wifi or has_wifi,
        )

    def _miss(self, camera: str, *, is_named: bool) -> None:
        state = self._states.get(camera)
        if is_named or camera in self._documents or state is None or state.state != "offline":
            self._missing.pop(camera, None)
            return
        self._missing[camera] = self._missing.get(camera, 0) + 1
        if self._missing[camera] >= _MISSING_MAX:
            self._forget_camera(camera)

    def _fold_index(self, index: RegistryIndex, connection: int) -> None:
        """Forget what the site took back while nobody listened."""
        for camera in self._brought.gone(tuple(self._documents), index.cameras, connection):
            self._forget_document(camera)
        for node in self._brought_nodes.gone(tuple(self._node_documents), index.nodes, connection):
            self._fold_node_document(node, None)

    # --- what is taken back --------------------------------------------------------------------------------------

    def _fold_taken_back(self, spec: TopicSpec, params: Mapping[str, str]) -> None:
        camera, node = params.get("camera", ""), params.get("node", "")
        if spec is CAMERA_STATE:
            self._states.pop(camera, None)
            self._forget_camera(camera)
        elif spec is REGISTRY_CAMERA:
            self._forget_document(camera)
        elif spec is CAMERA_CHECK:
            self._forget_check(camera)
        elif spec is NODE_STATUS and node in self.nodes:
            facts = self.nodes[node]
            roles = tuple(role for role in facts.roles if role != params["role"])
            self.nodes[node] = msgspec.structs.replace(facts, roles=roles)
            if not roles:
                del self.nodes[node]


def _rank(role: str) -> tuple[int, str]:
    return ROLES.index(role.partition(".")[0]), role


def _is_name(text: str) -> bool:
    """Whether it can stand in topics and templates; what a payload says has not been looked at yet."""
    try:
        check_name(text)
    except ValueError:
        return False
    return True


def _is_origin(text: str) -> bool:
    node, _, role = text.partition(".")
    try:
        origin_of(node, role)
    except ValueError:
        return False
    return True


def _counts(zone: object) -> bool:
    """Whether objects are counted in a zone; what stands in one that is left out is not told at all."""
    return not isinstance(zone, Mapping) or zone.get("kind", "include") == "include"
