"""What stands in Kafka's topics of commands and replies.

The header ``ce_id`` of a CloudEvent in binary mode stands in for the field `id`; ``ce_source`` says who sends.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from broker.messages import Command, CommandValue, Message, decode_json
from broker.messages.base import Moment, Short, Text, Whole
from broker.topics import CAMERA_SET, NODE_COMMAND, Topic, origin_of
from config import BadPayloadError

__all__ = ["REQUEST_BYTES_MAX", "CommandReply", "CommandRequest", "Received", "Request", "read_request"]

REQUEST_BYTES_MAX = 64 * 1024
"""As much as an order on the bus has."""
_ID = Annotated[str, Meta(max_length=128)]


class CommandRequest(Message, frozen=True, kw_only=True):
    """A command in Kafka: to a camera (`camera`, `property`, `value`) or to a process (`node`, `role`, `name`).

    Attributes:
        id: chosen by the sender, another one for each command; the same again asks for the answer again.
        camera: the camera that is to be told something.
        property: mode, privacy, detection, recording, sensitivity, snapshot or clip.
        value: what it is to be.
        node: the node of the process that is to do something.
        role: the process on it: edge, detector.2, bridge ...
        name: what it is to do: status, refresh, reload, restart ...
        arguments: of that.
        issued_at: when it was given; for people.
        expires_at: it is not carried out after this.
    """

    id: _ID = ""
    camera: Short = ""
    property: Short = ""
    value: str | bool | float | Whole = ""
    node: Short = ""
    role: Short = "edge"
    name: Short = ""
    arguments: dict[str, str] = msgspec.field(default_factory=dict)
    issued_at: Moment | None = None
    expires_at: Moment | None = None


class CommandReply(Message, frozen=True, kw_only=True):
    """The answer in Kafka, with the key of its command.

    Attributes:
        id: of the command; of a camera's document its place, such as ``vigil.cameras/0/17``.
        ok: whether it was carried out.
        reason: why not.
        result: what came of it.
        by: the process that answers; `commands` itself for what goes no further.
        at: when.
    """

    id: Short
    ok: bool
    by: Short
    at: Moment
    reason: Text = ""
    result: dict[str, str] = msgspec.field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Received:
    """One record as it came out of Kafka.

    Attributes:
        place: topic, partition and offset.
        headers: the last value of each.
    """

    place: tuple[str, int, int]
    key: bytes | None
    value: bytes | None
    headers: Mapping[str, bytes]

    @property
    def location(self) -> str:
        """The place in words, such as ``vigil.commands/0/17``."""
        return "/".join(map(str, self.place))

    def header(self, name: str) -> str:
        """A header as text; empty where it is missing."""
        return self.headers.get(name, b"").decode("utf-8", "replace")[:256]


@dataclass(frozen=True, slots=True)
class Request:
    """A command that can be read.

    Attributes:
        content: what is asked.
        topic: where it goes on the bus.
        source: who sends it; empty where it does not say.
        digest: of what is asked, without its times: the same id must ask the same.
    """

    content: CommandRequest
    topic: Topic
    source: str
    digest: bytes

    @property
    def id(self) -> str:
        """The command's id, which is its correlation id on the bus."""
        return self.content.id

    @property
    def origin(self) -> str:
        """The process that it is for; empty where it is for a camera."""
        return "" if self.content.camera else origin_of(self.content.node, self.content.role)

    @property
    def order(self) -> Command | CommandValue:
        """What goes out on the bus."""
        content = self.content
        if content.camera:
            return CommandValue(value=content.value, correlation_id=content.id)
        return Command(correlation_id=content.id, name=content.name, arguments=content.arguments)


def read_request(received: Received, site: str) -> Request:
    """Read a command.

    Raises:
        BadPayloadError: it cannot be read, or says not what is to be done; the message says what to write.
    """
    if not received.value:
        raise BadPayloadError("the record is empty: a command is a JSON object, such as " + _EXAMPLE)
    try:
        content = decode_json(CommandRequest, received.value, max_bytes=REQUEST_BYTES_MAX)
    except BadPayloadError as error:
        raise BadPayloadError(f"{error.reason}: a command is a JSON object, such as {_EXAMPLE}") from error
    content = msgspec.structs.replace(content, id=content.id or received.header("ce_id")[:128])
    if not content.id:
        raise BadPayloadError("it has no `id` (nor a header ce_id): give each command one of its own, such as a UUID")
    asked = msgspec.structs.replace(content, issued_at=None, expires_at=None)
    digest = hashlib.sha256(msgspec.json.encode(asked, order="sorted")).digest()
    return Request(content, _topic_of(content, site), received.header("ce_source"), digest)


_EXAMPLE = '{"id": "7f3a", "camera": "yard", "property": "mode", "value": "zoom"}'


def _topic_of(content: CommandRequest, site: str) -> Topic:
    target: Literal["camera", "process"] = "camera" if content.camera else "process"
    if bool(content.camera) == bool(content.node):
        raise BadPayloadError("name either a `camera` with a `property`, or a `node` with a `role` and a `name`")
    missing = "property" if target == "camera" and not content.property else ""
    missing = missing or ("name" if target == "process" and not content.name else "")
    if missing:
        raise BadPayloadError(f"it has a {target} and no `{missing}`: say what is to be done")
    try:
        if target == "camera":
            return CAMERA_SET.at(site, camera=content.camera, property=content.property)
        return NODE_COMMAND.at(site, node=content.node, role=content.role)
    except ValueError as error:
        raise BadPayloadError(str(error)) from error
