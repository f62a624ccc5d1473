"""The contract: every topic of the bus, as one table.

This is the only place that spells a topic. Topic strings and filters, the limits of payloads, who may write and read
what (`broker.acl`), `vigil topics`, ``docs/topics.md`` and the AsyncAPI document are derived from :data:`CONTRACT`.

The root is ``vigil/v1/{site}``. A camera's topics do not name its node, so that a camera can move to another node
and its subscribers never notice. A topic that names a process (``{origin}``, ``{node}/{role}``) belongs to it: nobody
else writes there or, where it is the reader, nobody else reads there. Only the fleet takes away what a node that is
gone has left there.

What other systems have laid down and Vigil speaks with them stands in a table of its own, :data:`OUTSIDE`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from broker import messages
from config.errors import BadPayloadError
from config.names import check_name, check_role

__all__ = [
    "BROKER_FIGURES",
    "CAMERA_CHECK",
    "CAMERA_CLIP",
    "CAMERA_DETECTIONS",
    "CAMERA_ESCALATION",
    "CAMERA_EVIDENCE",
    "CAMERA_FRAME",
    "CAMERA_MODEL",
    "CAMERA_MOTION",
    "CAMERA_MOTION_ACTIVE",
    "CAMERA_MOTION_OPEN",
    "CAMERA_MOTION_TREND",
    "CAMERA_OWNER",
    "CAMERA_SET",
    "CAMERA_SNAPSHOT",
    "CAMERA_STATE",
    "CAMERA_TRACK",
    "CAMERA_TRACK_OPEN",
    "CONTRACT",
    "HOMEASSISTANT_DEVICE",
    "HOMEASSISTANT_ENTITY",
    "HOMEASSISTANT_PREFIX",
    "HOMEASSISTANT_STATUS",
    "MODEL",
    "NODE_BRIDGE_BEAT",
    "NODE_COMMAND",
    "NODE_EDGE_BEAT",
    "NODE_HEALTH",
    "NODE_REPLY",
    "NODE_REPORT",
    "NODE_STATUS",
    "NODE_WORKER",
    "NODE_WORKER_BEAT",
    "OUTSIDE",
    "PROBE",
    "RECEIPT",
    "REGISTRY_CAMERA",
    "REGISTRY_INDEX",
    "REGISTRY_NODE",
    "REJECT",
    "DeliveryClass",
    "Party",
    "PayloadKind",
    "Topic",
    "TopicSpec",
    "everything",
    "origin_of",
    "parse_topic",
]

ROOT = "vigil/v1"
_KIB = 1024
_CHARACTERS_MAX = 512
"""Of a topic; names of 63 characters make less than 300. A longer one comes from a stranger, and is not taken apart."""
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_PREFIX = "prefix"
"""The placeholder with which a topic of another system begins; it may be several levels."""
_OUTSIDE_LEVEL = re.compile(r"[A-Za-z0-9_-]{1,250}")
"""What Home Assistant takes as a level of a discovery topic."""


class DeliveryClass(StrEnum):
    """What the bus promises for a topic."""

    FRAME = "frame"
    """Latest wins: bounded by bytes in flight, older ones dropped and counted."""
    STATE = "state"
    """The latest is kept by the broker and published again after every reconnect."""
    EVENT = "event"
    """In the sender's outbox on disk until the bridge's receipt; without one, for a time once the broker has it."""
    DURABLE = "durable"
    """In the sender's outbox on disk until the bridge's receipt; sent again with the same id."""
    COMMAND = "command"
    """QoS 2, deduplicated by correlation id, always answered."""
    REPLY = "reply"
    """QoS 1, not stored: who asked asks again."""


class Party(StrEnum):
    """Who writes or reads a line of the contract."""

    EDGE = "edge"
    """A node that watches cameras; on a camera's topics only that of the camera."""
    DETECTOR = "detector"
    """A worker that scores frames, of any camera."""
    BRIDGE = "bridge"
    """The way into the sink."""
    COMMANDS = "commands"
    """What takes commands out of Kafka."""
    HOMEASSISTANT = "homeassistant"
    """What tells Home Assistant of cameras and nodes."""
    FLEET = "fleet"
    """What keeps the nodes, cameras and models in order."""
    PEOPLE = "people"
    """A person, a dashboard, Home Assistant."""
    DRILL = "drill"
    """A source of fake alarms, for its cameras only."""
    SELF = "that process"
    """The process that the topic names."""


class PayloadKind(StrEnum):
    """How the payload is written."""

    JSON = "application/json"
    JPEG = "image/jpeg"
    TEXT = "text/plain"


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic of one site.

    Attributes:
        spec: its line of the contract.
        site: the site.
        params: the values of the pattern's placeholders.
    """

    spec: TopicSpec
    site: str
    params: Mapping[str, str] = field(hash=False)

    def __str__(self) -> str:
        """The topic as the broker knows it."""
        return self.spec.path(self.site, self.params)

    @property
    def camera(self) -> str:
        """The camera's name; empty where the topic has none."""
        return self.params.get("camera", "")


@dataclass(frozen=True)
class TopicSpec:
    """One line of the contract.

    Attributes:
        pattern: below the root, with placeholders.
        payload: the struct, or None for a JPEG or plain text.
        kind: how the payload is written.
        delivery: what the bus promises; QoS and retain follow from it.
        writers: who writes it.
        readers: who reads it.
        max_bytes: the largest payload that a reader takes.
        about: one line for the documentation.
        words: what a plain text may be.
    """

    pattern: str
    payload: type[messages.Message] | None
    delivery: DeliveryClass
    writers: tuple[Party, ...]
    readers: tuple[Party, ...]
    about: str
    kind: PayloadKind = PayloadKind.JSON
    max_bytes: int = 64 * _KIB
    words: tuple[str, ...] = ()

    @cached_property
    def is_outside(self) -> bool:
        """Whether it is another system's: it has no site, and stands below a prefix that is configured there."""
        return self.placeholders[:1] == (_PREFIX,)

    @cached_property
    def name(self) -> str:
        """The line's name, as configuration and documents call it: ``camera_motion_active``."""
        levels = [level for level in self.pattern.split("/") if not level.startswith("{")]
        return "_".join(["outside", *levels] if self.is_outside else levels)

    @property
    def qos(self) -> int:
        """Quality of service, unless the configuration says otherwise."""
        return {DeliveryClass.FRAME: 0, DeliveryClass.COMMAND: 2}.get(self.delivery, 1)

    @property
    def retain(self) -> bool:
        """Whether the broker keeps the last message, unless the configuration says otherwise."""
        return self.delivery is DeliveryClass.STATE

    @cached_property
    def placeholders(self) -> tuple[str, ...]:
        """The placeholders in order."""
        return tuple(_PLACEHOLDER.findall(self.pattern))

    @cached_property
    def expression(self) -> re.Pattern[str]:
        """Matches what stands below the site; of another system's, the whole topic."""
        quoted = _PLACEHOLDER.sub(r"(?P<\1>[^/]+)", self.pattern)
        return re.compile(quoted.replace(f"(?P<{_PREFIX}>[^/]+)", f"(?P<{_PREFIX}>.+)"))

    def at(self, site: str, **params: str) -> Topic:
        """The topic for these names.

        Raises:
            ValueError: a name is missing, unknown, or cannot be a level of a topic.
        """
        if set(params) != set(self.placeholders):
            raise ValueError(f"{self.pattern} takes {self.placeholders}, not {tuple(params)}")
        check_name(site)
        for placeholder, value in params.items():
            _check_level(self, placeholder, value)
        return Topic(self, site, params)

    def topic_filter(self, site: str = "+", **params: str) -> str:
        """The MQTT topic filter for these names; a placeholder that is left out matches everything."""
        return self.path(site, dict.fromkeys(self.placeholders, "+") | params)

    def path(self, site: str, params: Mapping[str, str]) -> str:
        """The topic, or the filter, for the values of all placeholders."""
        below = self.fill(params)
        return below if self.is_outside else f"{ROOT}/{site}/{below}"

    def fill(self, params: Mapping[str, str]) -> str:
        """The pattern with the placeholders replaced."""
        return _PLACEHOLDER.sub(lambda match: params[match.group(1)], self.pattern)


def _check_level(spec: TopicSpec, placeholder: str, value: str) -> None:
    if spec.is_outside:
        levels = value.split("/") if placeholder == _PREFIX else [value]
        if not all(_OUTSIDE_LEVEL.fullmatch(level) for level in levels):
            raise ValueError(f"{value!r} is no {placeholder} of {spec.pattern}: use letters, digits, '_' and '-'")
    elif placeholder == "role":
        check_role(value)
    elif placeholder == "origin":
        node, _, role = value.partition(".")
        check_name(node)
        check_role(role)
    else:
        check_name(value)


def origin_of(node: str, role: str) -> str:
    """The origin of a process: ``{node}.{role}``."""
    return f"{check_name(node)}.{check_role(role)}"


_MESH = (Party.DETECTOR, Party.BRIDGE, Party.FLEET, Party.PEOPLE)
"""Who sees everything that tells how the site does. A camera node is not among them: one that is stolen would
otherwise follow the other cameras."""

CAMERA_STATE = TopicSpec(
    "camera/{camera}/state", messages.CameraState, DeliveryClass.STATE, (Party.EDGE,),
    (*_MESH, Party.EDGE, Party.COMMANDS, Party.HOMEASSISTANT),
    "Online, offline or in error; owner node, mode, frame rate, size, last error.",
)  # fmt: skip
CAMERA_FRAME = TopicSpec(
    "camera/{camera}/frame", None, DeliveryClass.FRAME, (Party.EDGE,),
    (Party.DETECTOR, Party.PEOPLE),
    "One picture: a JPEG that any viewer opens, with FrameMeta as JSON in its comment segment.",
    kind=PayloadKind.JPEG, max_bytes=16 * _KIB * _KIB,
)  # fmt: skip
CAMERA_SNAPSHOT = TopicSpec(
    "camera/{camera}/snapshot", None, DeliveryClass.STATE, (Party.EDGE,), (Party.PEOPLE, Party.FLEET),
    "One picture on request or schedule, with FrameMeta in its comment segment.",
    kind=PayloadKind.JPEG, max_bytes=16 * _KIB * _KIB,
)  # fmt: skip
CAMERA_MOTION = TopicSpec(
    "camera/{camera}/motion", messages.MotionEvent, DeliveryClass.EVENT, (Party.EDGE, Party.DRILL),
    _MESH,
    "Movement starts, goes on (at most once a second) or ends.",
)  # fmt: skip
CAMERA_MOTION_ACTIVE = TopicSpec(
    "camera/{camera}/motion/active", None, DeliveryClass.STATE, (Party.EDGE,), (Party.PEOPLE,),
    "ON while something moves, else OFF; bare text.",
    kind=PayloadKind.TEXT, max_bytes=8, words=("ON", "OFF"),
)  # fmt: skip
CAMERA_MOTION_OPEN = TopicSpec(
    "camera/{camera}/motion/open", messages.OpenEvents, DeliveryClass.STATE, (Party.EDGE, Party.DRILL),
    (Party.EDGE, Party.DRILL, *_MESH),
    "Movements that are open now, so that a restart leaves nothing stuck.",
)  # fmt: skip
CAMERA_MOTION_TREND = TopicSpec(
    "camera/{camera}/motion/trend", messages.MotionTrend, DeliveryClass.STATE, (Party.EDGE,), _MESH,
    "How much moved in each of the last 24 hours.",
)  # fmt: skip
CAMERA_CLIP = TopicSpec(
    "camera/{camera}/clip", messages.ClipEvent, DeliveryClass.EVENT, (Party.EDGE,), _MESH,
    "A clip was delivered, or cannot be: of an escalation, a movement, or on request.",
)  # fmt: skip
CAMERA_DETECTIONS = TopicSpec(
    "camera/{camera}/detections", messages.Detections, DeliveryClass.FRAME, (Party.DETECTOR, Party.EDGE),
    _MESH,
    "Scores of one frame: worker, model hash, latencies, boxes; also when nothing was found.",
    max_bytes=256 * _KIB,
)  # fmt: skip
CAMERA_TRACK = TopicSpec(
    "camera/{camera}/track", messages.TrackEvent, DeliveryClass.EVENT, (Party.DETECTOR, Party.EDGE), _MESH,
    "An object over time starts, goes on or ends.",
)  # fmt: skip
CAMERA_TRACK_OPEN = TopicSpec(
    "camera/{camera}/track/open", messages.OpenEvents, DeliveryClass.STATE, (Party.DETECTOR, Party.EDGE),
    (Party.EDGE, Party.HOMEASSISTANT, *_MESH),
    "Objects that are there now and what each rule remembers, so that another worker can go on.",
)  # fmt: skip
CAMERA_ESCALATION = TopicSpec(
    "camera/{camera}/escalation/{origin}", messages.Escalation, DeliveryClass.DURABLE,
    (Party.DETECTOR, Party.EDGE, Party.DRILL, Party.FLEET), (Party.BRIDGE, Party.PEOPLE, Party.EDGE),
    "Something a person should know, with its picture.",
    max_bytes=1024 * _KIB,
)  # fmt: skip
CAMERA_EVIDENCE = TopicSpec(
    "camera/{camera}/evidence", None, DeliveryClass.STATE, (Party.DETECTOR, Party.EDGE), (Party.PEOPLE,),
    "The annotated picture of the last escalation.",
    kind=PayloadKind.JPEG, max_bytes=4 * _KIB * _KIB,
)  # fmt: skip
RECEIPT = TopicSpec(
    "receipt/{origin}", messages.Receipts, DeliveryClass.REPLY, (Party.BRIDGE,), (Party.SELF, Party.PEOPLE),
    "The sink has these escalations or events; not stored, since the sender asks again by sending again.",
    max_bytes=256 * _KIB,
)  # fmt: skip
CAMERA_OWNER = TopicSpec(
    "camera/{camera}/owner", messages.CameraOwner, DeliveryClass.STATE, (Party.DETECTOR,),
    (*_MESH, Party.HOMEASSISTANT),
    "The worker that scores this camera, and its epoch.",
)  # fmt: skip
CAMERA_MODEL = TopicSpec(
    "camera/{camera}/model/used", messages.CameraModel, DeliveryClass.STATE, (Party.HOMEASSISTANT,),
    (Party.HOMEASSISTANT, Party.PEOPLE),
    "The model that scores this camera, and the one that the site wants.",
)  # fmt: skip
CAMERA_CHECK = TopicSpec(
    "camera/{camera}/check", messages.CameraCheck, DeliveryClass.STATE, (Party.FLEET,),
    (*_MESH, Party.HOMEASSISTANT),
    "The last safety check: fresh, not black, blurred, covered or turned away.",
)  # fmt: skip
CAMERA_SET = TopicSpec(
    "camera/{camera}/set/{property}", messages.CommandValue, DeliveryClass.COMMAND,
    (Party.PEOPLE, Party.FLEET, Party.COMMANDS), (Party.EDGE,),
    "A wanted value: mode, privacy, detection, recording, sensitivity, snapshot, clip, retention, drill; bare text.",
)  # fmt: skip
NODE_STATUS = TopicSpec(
    "node/{node}/{role}/status", messages.NodeStatus, DeliveryClass.STATE, (Party.SELF, Party.FLEET),
    (*_MESH, Party.EDGE, Party.COMMANDS, Party.HOMEASSISTANT, Party.SELF),
    "A process is there; its will says that it is not.",
)  # fmt: skip
NODE_HEALTH = TopicSpec(
    "node/{node}/{role}/health", messages.NodeHealth, DeliveryClass.FRAME, (Party.SELF,), (*_MESH, Party.HOMEASSISTANT),
    "CPU, memory, temperature, disk, queue depths, drops.",
)  # fmt: skip
NODE_WORKER = TopicSpec(
    "node/{node}/{role}/worker", messages.WorkerStatus, DeliveryClass.STATE, (Party.SELF, Party.FLEET),
    (*_MESH, Party.HOMEASSISTANT),
    "What a worker can do: capacity, classes, labels, model in use and wanted.",
)  # fmt: skip
NODE_WORKER_BEAT = TopicSpec(
    "node/{node}/{role}/worker/beat", messages.WorkerBeat, DeliveryClass.FRAME, (Party.SELF,), _MESH,
    "A worker is alive, once a second, with its cameras, their rates and drops.",
    max_bytes=256 * _KIB,
)  # fmt: skip
NODE_BRIDGE_BEAT = TopicSpec(
    "node/{node}/{role}/bridge/beat", messages.BridgeBeat, DeliveryClass.FRAME, (Party.SELF,), _MESH,
    "A bridge is alive, once a second, with the shards of cameras that it serves.",
)  # fmt: skip
NODE_EDGE_BEAT = TopicSpec(
    "node/{node}/{role}/edge/beat", messages.EdgeBeat, DeliveryClass.FRAME, (Party.SELF,), (Party.EDGE, *_MESH),
    "A node of a pool is alive, once a second, with the pool's cameras that it watches.",
    max_bytes=256 * _KIB,
)  # fmt: skip
NODE_REPORT = TopicSpec(
    "node/{node}/{role}/report", messages.NodeReport, DeliveryClass.STATE, (Party.SELF, Party.FLEET),
    (Party.HOMEASSISTANT, *_MESH),
    "How a machine is, from its agent: its processes, what it cannot do of what it is asked, how far an update is.",
    max_bytes=256 * _KIB,
)  # fmt: skip
NODE_COMMAND = TopicSpec(
    "node/{node}/{role}/command", messages.Command, DeliveryClass.COMMAND, (Party.PEOPLE, Party.FLEET, Party.COMMANDS),
    (Party.SELF,),
    "An order to a process, with a correlation id.",
)  # fmt: skip
NODE_REPLY = TopicSpec(
    "node/{node}/{role}/reply", messages.Reply, DeliveryClass.REPLY, (Party.SELF,),
    (Party.PEOPLE, Party.FLEET, Party.COMMANDS),
    "The answer to an order.",
)  # fmt: skip
REGISTRY_CAMERA = TopicSpec(
    "registry/camera/{camera}", messages.CameraDocument, DeliveryClass.STATE, (Party.FLEET, Party.COMMANDS),
    (Party.EDGE, Party.COMMANDS, Party.HOMEASSISTANT, *_MESH),
    "What the site says of a camera.",
)  # fmt: skip
REGISTRY_NODE = TopicSpec(
    "registry/node/{node}", messages.NodeDocument, DeliveryClass.STATE, (Party.FLEET,),
    (Party.SELF, Party.HOMEASSISTANT, *_MESH),
    "What the site says of a node: its processes, GPUs, pools, version, settings.",
)  # fmt: skip
REGISTRY_INDEX = TopicSpec(
    "registry/index", messages.RegistryIndex, DeliveryClass.STATE, (Party.FLEET,),
    (Party.EDGE, Party.HOMEASSISTANT, Party.SELF, *_MESH),
    "The cameras and nodes that there are, so that who was away forgets those that are gone.",
    max_bytes=512 * _KIB,
)  # fmt: skip
MODEL = TopicSpec(
    "model/{name}", messages.ModelManifest, DeliveryClass.STATE, (Party.FLEET,),
    (Party.EDGE, Party.DETECTOR, Party.BRIDGE, Party.FLEET, Party.PEOPLE, Party.HOMEASSISTANT),
    "The model that a class of workers is to use: version, hash, size, address, labels, canary.",
)  # fmt: skip
REJECT = TopicSpec(
    "reject/{origin}", messages.Reject, DeliveryClass.REPLY, (Party.SELF,), _MESH,
    "A message that this process could not use, and why; at most one a second, with a count.",
)  # fmt: skip
PROBE = TopicSpec(
    "probe/{origin}", messages.Probe, DeliveryClass.REPLY, (Party.SELF,), (Party.SELF,),
    "What `vigil doctor` sends to itself to see what the broker does with it.",
    max_bytes=32 * _KIB * _KIB,
)  # fmt: skip

CONTRACT: tuple[TopicSpec, ...] = (
    CAMERA_STATE,
    CAMERA_FRAME,
    CAMERA_SNAPSHOT,
    CAMERA_MOTION,
    CAMERA_MOTION_ACTIVE,
    CAMERA_MOTION_OPEN,
    CAMERA_MOTION_TREND,
    CAMERA_CLIP,
    CAMERA_DETECTIONS,
    CAMERA_TRACK,
    CAMERA_TRACK_OPEN,
    CAMERA_ESCALATION,
    CAMERA_EVIDENCE,
    RECEIPT,
    CAMERA_OWNER,
    CAMERA_MODEL,
    CAMERA_CHECK,
    CAMERA_SET,
    NODE_STATUS,
    NODE_HEALTH,
    NODE_WORKER,
    NODE_WORKER_BEAT,
    NODE_BRIDGE_BEAT,
    NODE_EDGE_BEAT,
    NODE_REPORT,
    NODE_COMMAND,
    NODE_REPLY,
    REGISTRY_CAMERA,
    REGISTRY_NODE,
    REGISTRY_INDEX,
    MODEL,
    REJECT,
    PROBE,
)
"""Every topic, in the order in which documents list them."""

HOMEASSISTANT_PREFIX = "homeassistant"
"""Home Assistant's own discovery prefix, and the only one to which the rights on a secure bus extend."""
HOMEASSISTANT_DEVICE = TopicSpec(
    "{prefix}/device/{id}/config", None, DeliveryClass.STATE, (Party.HOMEASSISTANT,),
    (Party.HOMEASSISTANT, Party.PEOPLE),
    "Discovery of a device with all its entities; Home Assistant 2024.11 and newer.",
    max_bytes=512 * _KIB,
)  # fmt: skip
HOMEASSISTANT_ENTITY = TopicSpec(
    "{prefix}/{component}/{id}/{key}/config", None, DeliveryClass.STATE, (Party.HOMEASSISTANT,),
    (Party.HOMEASSISTANT, Party.PEOPLE),
    "Discovery of one entity; older ones, and openHAB.",
)  # fmt: skip
HOMEASSISTANT_STATUS = TopicSpec(
    "{prefix}/status", None, DeliveryClass.REPLY, (Party.PEOPLE,), (Party.HOMEASSISTANT, Party.PEOPLE),
    "Home Assistant has started, or is going; bare text.",
    kind=PayloadKind.TEXT, max_bytes=32, words=("online", "offline"),
)  # fmt: skip

OUTSIDE: tuple[TopicSpec, ...] = (HOMEASSISTANT_DEVICE, HOMEASSISTANT_ENTITY, HOMEASSISTANT_STATUS)
"""Topics that other systems have laid down. They stand below those systems' prefix, and name no site."""

BROKER_FIGURES = "$SYS/#"
"""What a broker says of itself; not a topic of the contract."""


def everything(site: str = "+") -> str:
    """The filter that matches every topic of a site."""
    return f"{ROOT}/{site}/#"


def parse_topic(text: str) -> Topic:
    """Find the contract's line for a topic as the broker knows it; a topic of another system has no site.

    Raises:
        BadPayloadError: it is no topic of this contract, or a level is not a name.
    """
    prefix = f"{ROOT}/"
    site, _, below = text.removeprefix(prefix).partition("/")
    table, looked_at = (CONTRACT, below) if text.startswith(prefix) else (OUTSIDE, text)
    if looked_at and len(text) <= _CHARACTERS_MAX:
        for spec, match in _matches(table, looked_at):
            topic = Topic(spec, "" if spec.is_outside else site, match.groupdict())
            _check_levels(topic, text)
            return topic
    raise BadPayloadError("not a topic of this contract; `vigil topics` lists them", topic=text[:256])


def _matches(table: tuple[TopicSpec, ...], text: str) -> Iterator[tuple[TopicSpec, re.Match[str]]]:
    for spec in table:
        match = spec.expression.fullmatch(text)
        if match is not None:
            yield spec, match


def _check_levels(topic: Topic, text: str) -> None:
    try:
        if not topic.spec.is_outside:
            check_name(topic.site)
        for placeholder, value in topic.params.items():
            _check_level(topic.spec, placeholder, value)
    except ValueError as error:
        raise BadPayloadError(f"not a topic of this contract: {error}", topic=text[:256]) from error
