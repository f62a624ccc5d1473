"""The embedded broker: amqtt in this process, so that one `pip install` runs the whole mesh.

Made for loopback. It speaks MQTT 3.1.1 only, forgets unacknowledged messages when a client goes, and keeps nothing
over a restart; the outboxes and receipts of Vigil's own processes carry the guarantee. The only file that imports
amqtt.

The rules of a secure one are not an amqtt plugin: plugins see neither retained messages on their way to a client nor
wills, and are asked who somebody is after the session of that name was already thrown away.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import threading
from collections.abc import Mapping
from typing import Any

import amqtt
from amqtt.adapters import ReaderAdapter, StreamReaderAdapter, StreamWriterAdapter
from amqtt.broker import Broker
from amqtt.contexts import Action, ListenerConfig
from amqtt.errors import AMQTTError, MQTTError, NoDataError
from amqtt.mqtt.connack import IDENTIFIER_REJECTED, NOT_AUTHORIZED, UNACCEPTABLE_PROTOCOL_VERSION, ConnackPacket
from amqtt.mqtt.connect import ConnectPacket
from amqtt.mqtt.packet import CONNECT
from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler
from amqtt.session import Session

from broker.acl import CLIENT_ID_PREFIX
from broker.members import CaFolder
from broker.servers.gate import Gate
from broker.servers.ports import LOOPBACK, check_port_free
from broker.topics import BROKER_FIGURES
from config.errors import ConfigError
from config.log import get_logger
from config.settings import BrokerSettings

__all__ = ["run_embedded"]

_STOP_CHECK_S = 0.2
_CONNECT_TIMEOUT_S = 10.0
"""Seconds for a client to say who it is."""
_END_TIMEOUT_S = 5.0
_PROTOCOL_LEVEL = 4
"""MQTT 3.1.1. Source: its section 3.1.2.2."""
_VERSION_TOPIC = BROKER_FIGURES.replace("#", "broker/version")
_LIMITS = (
    "it is made for loopback: MQTT 3.1.1 only, forgets what is unacknowledged when a client goes, keeps nothing over a "
    "restart, queues without bound"
)


def run_embedded(settings: BrokerSettings, stop: threading.Event, authority: CaFolder | None = None) -> None:
    """Serve until `stop` is set.

    Args:
        settings: ports and address.
        stop: ends it.
        authority: whom to let in; None lets everybody in who reaches the port.

    Raises:
        ConfigError: a port is taken, or the authority's files cannot be used.
        PermanentError: the authority's folder cannot be read.
    """
    gate = None if authority is None else Gate(authority)
    ports = [settings.port] if gate is None else [settings.secure_port, settings.people_port]
    for port in ports:
        check_port_free(settings.host, port)
    log = get_logger()
    if settings.host not in LOOPBACK:
        log.warning(
            "broker.exposed",
            host=settings.host,
            limits=_LIMITS,
            cure="use --engine mosquitto"
            if gate
            else "everybody who reaches it gets in: listen on 127.0.0.1, or use --engine mosquitto --secure",
        )
    # amqtt logs each connection, and each client that leaves without a word as a warning with a traceback. It goes on
    # writing to such a client for a while, which asyncio then warns of.
    for name in ("amqtt", "transitions", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    asyncio.run(_serve(settings, gate, ports, stop))
    log.info("broker.stopped")


def _on_client_fault(_loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    # amqtt leaves the exceptions of clients that vanish in the middle of a packet to nobody.
    get_logger().debug("broker.client_fault", error=str(context.get("exception") or context.get("message")))


async def _serve(settings: BrokerSettings, gate: Gate | None, ports: list[int], stop: threading.Event) -> None:
    asyncio.get_running_loop().set_exception_handler(_on_client_fault)
    broker = _Broker(_config(settings, {"default": settings.port})) if gate is None else _SecureBroker(settings, gate)
    try:
        await broker.start()
    except AMQTTError as error:
        raise ConfigError(
            f"the embedded broker cannot listen on {settings.host}, ports {ports} ({error})", field="broker.port"
        ) from error
    await broker.retain_message(None, _VERSION_TOPIC, f"amqtt version {amqtt.__version__}".encode())
    get_logger().info(
        "broker.listening", engine="embedded", host=settings.host, ports=ports, secure=isinstance(broker, _SecureBroker)
    )
    while not stop.is_set():  # a signal handler sets a thread's event, which asyncio cannot await
        await asyncio.sleep(_STOP_CHECK_S)
        if isinstance(broker, _SecureBroker):
            await broker.follow_membership()
    await broker.shutdown()


def _config(settings: BrokerSettings, ports: dict[str, int]) -> dict[str, object]:
    return {
        "listeners": {name: {"type": "tcp", "bind": f"{settings.host}:{port}"} for name, port in ports.items()},
        "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
    }


class _Connection:
    """One client's connection."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.ended = asyncio.Event()

    async def end(self) -> None:
        """Cut it, and wait until amqtt is through with it, its will included."""
        self.writer.transport.abort()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_TIMEOUT_S):
                await self.ended.wait()


class _Broker(Broker):  # type: ignore[misc] # amqtt ships no types
    """amqtt's broker, with four of its ways put right.

    - A client that speaks MQTT 5 is told at once that it may not; amqtt takes the packet for one of 3.1.1 and waits for
      more.
    - A client with the client id of another ends that one's connection, and the will of that one comes before its own
      first message (MQTT-3.1.4-2); with clean sessions amqtt keeps both.
    - A clean session ends with its connection (MQTT-3.1.2-6); amqtt hands it to the next client of that client id for
      up to a second, and then takes it away.
    - A client that connects gets nothing that is retained for other clients' subscriptions: with it
      `mosquitto_sub -t .../frame -C 1` would end with a camera's state in place of its picture.
    """

    def __init__(self, config: dict[str, object]) -> None:
        super().__init__(config)
        self._open: dict[str, _Connection] = {}

    async def stream_connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, listener_name: str
    ) -> None:
        """Look at the first packet before amqtt does."""
        incoming = StreamReaderAdapter(reader)
        connect = await _read_connect(incoming)
        if isinstance(connect, ConnectPacket):
            refused = self._introduce(connect, writer, listener_name)
            if refused is None:
                await self._serve_client(connect, incoming, writer, listener_name)
                return
            connect = refused
        if connect is not None:
            writer.write(ConnackPacket.build(0, connect).to_bytes())
        writer.close()

    async def _serve_client(
        self, connect: ConnectPacket, incoming: ReaderAdapter, writer: asyncio.StreamWriter, listener_name: str
    ) -> None:
        client_id = str(connect.client_id)
        earlier = self._open.get(client_id)
        if earlier is not None:
            await earlier.end()
        own = self._open[client_id] = _Connection(writer)
        try:
            replay = _Replay(bytes(connect.to_bytes()), incoming)
            await self._client_connected(listener_name, replay, StreamWriterAdapter(writer))
        finally:
            await self._forget_clean_session(client_id)
            own.ended.set()
            if self._open.get(client_id) is own:
                del self._open[client_id]

    async def _forget_clean_session(self, client_id: str) -> None:
        session, _ = self._sessions.get(client_id, (None, None))
        if session is not None and session.clean_session:
            await self._cleanup_session(client_id)

    def _introduce(self, connect: ConnectPacket, writer: asyncio.StreamWriter, listener_name: str) -> int | None:
        """Check, and change, what a client says of itself; a CONNACK code refuses it."""
        del connect, writer, listener_name
        return None

    async def _publish_retained_messages_for_subscription(
        self, subscription: tuple[str, int], session: Session
    ) -> None:
        topic_filter, qos = subscription
        holders = self._subscriptions.get(topic_filter, [])
        handler = self._get_handler(session)
        if handler is None or all(holder.client_id != session.client_id for holder, _ in holders):
            return
        sending = [
            handler.mqtt_publish(topic, message.data, min(qos, message.qos or qos), retain=True)
            for topic, message in self._retained_messages.items()
            if self._matches(topic, topic_filter) and self._allows(session, Action.RECEIVE, topic)
        ]
        # One that is not acknowledged in time is forgotten, as amqtt forgets every other.
        await asyncio.gather(*sending, return_exceptions=True)

    def _allows(self, session: Session, action: Action, topic: str | None) -> bool:
        """Whether the owner of a session may do this."""
        del session, action, topic
        return True


class _SecureBroker(_Broker):
    """The same, for members of the site only; each may do what Mosquitto's ACL file says.

    Everybody's user name is the name in their certificate. A process's client id is that name too, whatever it asks
    for, and no person can have it.
    """

    def __init__(self, settings: BrokerSettings, gate: Gate) -> None:
        self._gate = gate
        # amqtt takes the listener called "default" for the model of the others.
        super().__init__(_config(settings, {"default": settings.secure_port, "people": settings.people_port}))

    async def _create_server_instance(
        self,
        listener_name: str,
        listener_type: object,
        address: str | None,
        port: int,
        ssl_context: ssl.SSLContext | None,
    ) -> object:
        del ssl_context
        own = self._gate.context("person" if listener_name == "people" else "node")
        return await super()._create_server_instance(listener_name, listener_type, address, port, own)

    def _introduce(self, connect: ConnectPacket, writer: asyncio.StreamWriter, listener_name: str) -> int | None:
        """Say who connects, in the packet itself."""
        certificate = _certificate(writer)
        name = _common_name(certificate)
        if not name or self._gate.is_revoked(_serial(certificate)):
            return int(NOT_AUTHORIZED)
        if listener_name == "default":
            connect.client_id = name
        elif not connect.client_id_is_random and not str(connect.client_id).startswith(CLIENT_ID_PREFIX):
            return int(NOT_AUTHORIZED)
        elif connect.client_id_is_random and not connect.clean_session_flag:
            return int(IDENTIFIER_REJECTED)
        connect.username_flag, connect.password_flag = True, False
        connect.username = name
        return None

    async def _authenticate(self, session: Session, _: ListenerConfig) -> bool:
        # Nobody comes so far without a certificate.
        return session.username is not None

    async def _topic_filtering(self, session: Session, topic: str, action: Action) -> bool:
        # As Mosquitto does, a subscription is granted and what may not be read is left out.
        return action == Action.SUBSCRIBE or self._allows(session, action, topic)

    def _allows(self, session: Session, action: Action, topic: str | None) -> bool:
        access = "write" if action == Action.PUBLISH else "read"
        return topic is not None and self._gate.allows(session.username, access, topic)  # type: ignore[arg-type]

    async def _handle_disconnect(
        self, client_session: Session, handler: BrokerProtocolHandler, disconnect_waiter: asyncio.Future[Any]
    ) -> None:
        if not self._allows(client_session, Action.PUBLISH, client_session.will_topic):
            client_session.will_flag = False
        await super()._handle_disconnect(client_session, handler, disconnect_waiter)

    async def follow_membership(self) -> None:
        """Take changes of the membership, and end the connections of whoever was shut out."""
        if not self._gate.refreshed():
            return
        get_logger().info("broker.membership_changed", effect="rights are read anew")
        for client_id, connection in list(self._open.items()):
            if self._gate.is_revoked(_serial(_certificate(connection.writer))):
                get_logger().info("broker.client_expelled", client_id=client_id)
                await connection.end()
                await self._cleanup_session(client_id)


def _certificate(writer: asyncio.StreamWriter) -> Mapping[str, Any]:
    """The peer's; a port for members takes nobody without."""
    found: Mapping[str, Any] = writer.get_extra_info("ssl_object").getpeercert()
    return found


def _serial(certificate: Mapping[str, Any]) -> int:
    return int(certificate["serialNumber"], 16)


async def _read_connect(reader: ReaderAdapter) -> ConnectPacket | int | None:
    """The first packet of a client; a CONNACK code where it is of another version, None where it is none at all."""
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            start = await ConnectPacket.FIXED_HEADER.from_stream(reader)
            if start is None or start.packet_type != CONNECT:
                return None
            head = await ConnectPacket.VARIABLE_HEADER.from_stream(reader, start)
            if head.proto_level != _PROTOCOL_LEVEL:
                return int(UNACCEPTABLE_PROTOCOL_VERSION)
            connect = ConnectPacket(start, head, await ConnectPacket.PAYLOAD.from_stream(reader, start, head))
        # A will without its topic, say, cannot be written again.
        connect.to_bytes()
    except (AMQTTError, MQTTError, NoDataError, OSError, EOFError, ValueError, LookupError, TypeError, AttributeError):
        return None
    return connect


def _common_name(certificate: Mapping[str, Any]) -> str:
    names = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
    return str(names[0]) if len(names) == 1 else ""


class _Replay(ReaderAdapter):  # type: ignore[misc] # amqtt ships no types
    """A stream whose first packet was read, and changed, already."""

    def __init__(self, first: bytes, rest: ReaderAdapter) -> None:
        self._first = first
        self._rest = rest

    async def read(self, n: int = -1) -> bytes:
        if not self._first:
            return bytes(await self._rest.read(n))
        end = n if n >= 0 else len(self._first)
        taken, self._first = self._first[:end], self._first[end:]
        return taken

    def feed_eof(self) -> None:
        self._rest.feed_eof()
