"""The wire: one paho-mqtt client a connection. The only file that imports paho.

paho's own loop thread is not used: this connection's `run` selects on the socket itself, so that an error in a
handler surfaces where it can be supervised, and a new connection never inherits the queues of an old one (paho
acknowledges a *new* message when it is handed the number of one that an earlier session delivered).

Nor is its way with a message that comes: it reads the first bytes of each packet one by one, makes an object with six
more in it, and writes each acknowledgement by itself, 110 µs a message. Here one read takes many packets, publications
of QoS 0 and 1 are taken out of them, and one write confirms many. All else is paho's.
"""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Literal
from urllib.parse import urlsplit

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.exception import MalformedPacket
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from broker.acks import OrderedAcks
from broker.tls import explain, refusal
from broker.transport import (
    ConnectionLostError,
    Inbound,
    Limits,
    LossCause,
    Outbound,
    TransportEvents,
    TransportFactory,
)
from broker.wire import PUBLISH, QOS_2, Publication, body_of, puback, publication_of
from config.errors import ConfigError, PermanentError, TransientError, VigilError
from config.settings import BusSettings
from config.supervise import beat

__all__ = ["paho_transports"]

_SESSION_EXPIRY_S = 7 * 86_400
"""A broker forgets a consumer that stays away for a week; its messages are still in their senders' outboxes."""
_MISC_INTERVAL_S = 0.5
_MID_MAX = 65_535
_SILENCES_MAX = 5
"""So many connections without an answer, and a broker that spoke a version before may have been replaced by one that
does not."""
_OTHER_VERSION_AFTER_S = 1.0
"""amqtt reads the properties of an MQTT 5 CONNECT as 3.1.1 and waits for more bytes instead of refusing."""
_BAD_CREDENTIALS = frozenset({4, 5, 0x86, 0x87, 0x8C})
_BAD_VERSION = frozenset({1, 0x84})
"""Reason codes. Source: MQTT 3.1.1 table 3.1; MQTT 5 section 3.2.2.2."""
_CAUSES: dict[int, LossCause] = {0x8D: "silent", 0x8E: "taken_over", 0x95: "packet_too_large"}
"""Reason codes of DISCONNECT. Source: MQTT 5 section 3.14.2.1; any other failure is an expulsion."""
_FAILURE = 0x80
_DISCONNECT = b"\xe0\x00"
"""The packet, the same in both versions: a normal end, so that no will is sent."""
_GOODBYE_S = 1.0
_UNSENT_BYTES_MAX = 131_072
"""What the kernel may hold back for a slow network. It would take 4 MB: at 1 MB/s every frame would be 4 s old."""
_READ_BYTES = 65_536
_REPORT_S = 0.1
"""Handlers may hold up the connection; after so long it is looked at, before the next message is handed out."""
_PAUSE_WINDOWS = 2
"""Receive windows of unacknowledged messages after which the connection is not read: Mosquitto 2.0 sends on over the
window, and other brokers have none."""

Version = Literal["5", "3.1.1"]


@dataclass(frozen=True, slots=True)
class _Address:
    host: str
    port: int
    tls: bool


@dataclass(slots=True)
class _Client:
    """Who connects, and how: what every connection of one process has in common."""

    settings: BusSettings
    address: _Address
    client_id: str
    persistent: bool
    window: int
    tls: Callable[[], ssl.SSLContext]
    versions: list[Version]
    spoken: Version | None = None
    silences: int = 0

    def accepted(self) -> None:
        """The broker speaks this version."""
        self.spoken, self.silences = self.versions[0], 0

    def turn_down(self) -> None:
        """The broker does not speak this version: try the other one next."""
        self.versions.append(self.versions.pop(0))
        self.silences = 0

    def no_answer(self) -> None:
        """The broker said nothing: one that spoke this version before is frozen, or just starts, most likely."""
        self.silences += 1
        if self.spoken != self.versions[0] or self.silences >= _SILENCES_MAX:
            self.turn_down()

    def answer_timeout_s(self) -> float:
        """How long to wait for CONNACK: not long while there is another version to try."""
        longest_s = self.settings.connect_timeout_s
        is_known = len(self.versions) == 1 or self.spoken == self.versions[0]
        return longest_s if is_known else min(longest_s, _OTHER_VERSION_AFTER_S)


def paho_transports(
    settings: BusSettings,
    *,
    client_id: str,
    persistent: bool,
    window: int = 64,
    tls: Callable[[], ssl.SSLContext] = ssl.create_default_context,
) -> TransportFactory:
    """A maker of connections to the broker of `settings`.

    With ``protocol: auto`` the first connection speaks MQTT 5; when the broker turns that down, or does not answer,
    the next one speaks 3.1.1, and so on until one is accepted.

    Args:
        settings: where the broker is and who we are.
        client_id: fixed, so that a broker can keep this client's session.
        persistent: keep the session, and what arrives for it, while this client is away.
        window: messages that may be unconfirmed at one time; fewer where the broker says so.
        tls: makes the context of each connection with ``mqtts://``, so that renewed certificates are used.

    Raises:
        ConfigError: the address has no usable host or port.
    """
    versions: list[Version] = [settings.protocol] if settings.protocol != "auto" else ["5", "3.1.1"]
    client = _Client(settings, _parse(settings.url), client_id, persistent, window, tls, versions)
    return lambda events, will: _PahoTransport(client, events, will)


def _parse(url: str) -> _Address:
    parts = urlsplit(url)
    try:
        port = parts.port or (8883 if parts.scheme == "mqtts" else 1883)
    except ValueError as error:
        raise ConfigError(f"{url!r}: {error}; write mqtt://HOST:PORT", field="bus.url") from error
    if not parts.hostname or parts.username or parts.password:
        raise ConfigError("write mqtt://HOST:PORT; user name and password have settings of their own", field="bus.url")
    return _Address(parts.hostname, port, parts.scheme == "mqtts")


class _Paho(mqtt.Client):
    """paho, and what it keeps to itself.

    Attributes:
        arrived: publications in the order in which they came.
    """

    arrived: deque[Publication]
    _unread: bytearray

    def loop_read(self, max_packets: int = 1) -> MQTTErrorCode:
        """Read once, and handle every packet that is complete.

        paho keeps a packet that is not, and so does this; whoever calls may select in between.
        """
        del max_packets
        try:
            received = self._sock_recv(_READ_BYTES)
        except BlockingIOError:
            return MQTTErrorCode.MQTT_ERR_SUCCESS
        except OSError:
            received = b""
        if not received:
            return self._loop_rc_handle(MQTTErrorCode.MQTT_ERR_CONN_LOST)
        with self._msgtime_mutex:
            self._last_bytes_received = time.monotonic()
        self._unread += received
        try:
            code = self._take_packets()
        except (ValueError, MalformedPacket):
            code = MQTTErrorCode.MQTT_ERR_PROTOCOL
        return self._loop_rc_handle(code) if code else code

    def _take_packets(self) -> MQTTErrorCode:
        code, place = MQTTErrorCode.MQTT_ERR_SUCCESS, 0
        five = self._protocol == mqtt.MQTTv5
        with memoryview(self._unread) as unread:
            while not code and (body := body_of(unread, place)) is not None:
                first = unread[place]
                place = body.stop
                with unread[body] as packet:
                    if first & 0xF0 == PUBLISH and not first & QOS_2:
                        self.arrived.append(publication_of(first, packet, with_properties=five))
                    else:
                        code = self._take_other(first, packet)
        del self._unread[:place]
        return code

    def _take_other(self, first: int, body: memoryview) -> MQTTErrorCode:
        self._in_packet |= {"command": first, "packet": bytearray(body), "remaining_length": len(body), "pos": 0}
        return self._packet_handle()

    def acknowledge(self, pubacks: Sequence[bytes]) -> None:
        """Confirm messages of QoS 1, all with one packet for the socket."""
        self._packet_queue(PacketTypes.PUBACK << 4, b"".join(pubacks), 0, 1)

    def _handle_pubrec(self) -> MQTTErrorCode:
        """A failure ends the exchange of QoS 2; paho goes on with PUBREL and never tells.

        Source: MQTT 5 section 4.3.3.
        """
        packet = self._in_packet["packet"]
        if self._protocol == mqtt.MQTTv5 and len(packet) > 2 and packet[2] >= _FAILURE:
            number = int.from_bytes(packet[:2], "big")
            reason = ReasonCode(PacketTypes.PUBREC, identifier=packet[2])
            with self._out_message_mutex:
                if number in self._out_messages:
                    return self._do_on_publish(number, reason, Properties(PacketTypes.PUBREC))  # type: ignore[no-untyped-call]
        return super()._handle_pubrec()

    def limit_inflight(self, most: int) -> None:
        """Send at most so many unconfirmed; paho does not heed the broker's Receive Maximum."""
        self._max_inflight_messages = min(self._max_inflight_messages, most)

    def ping(self) -> None:
        """Show the broker that we are there, without waiting for its answer."""
        self._send_pingreq()
        self._ping_t = 0.0


@cache
def _expiry(seconds: int) -> Properties:
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    properties.MessageExpiryInterval = seconds
    return properties


def _topic_text(topic: bytes) -> str:
    try:
        return topic.decode()
    except UnicodeDecodeError:  # no broker may pass it on; the contract knows no such topic
        return repr(topic)


class _PahoTransport:
    def __init__(self, who: _Client, events: TransportEvents, will: Outbound | None) -> None:
        self._who = who
        self._version = who.versions[0]
        self._settings = who.settings
        self._address = who.address
        self._persistent = who.persistent
        self._events = events
        self._closing = threading.Event()
        self._connack: tuple[ReasonCode, Limits] | None = None
        self._lost: str | None = None
        self._cause: LossCause = "closed"
        self._arrived: deque[Publication] = deque()
        self._confirmed: list[bytes] = []
        self._is_woken = False
        self._sent: deque[tuple[int, str | None]] = deque()
        self._pinged_s = time.monotonic()
        self._socket: socket.socket | None = None
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.settimeout(0.0)
        self._wake_write.settimeout(0.0)
        self._client = self._make_client(will)
        self._acks = OrderedAcks(self._send_ack)

    def _make_client(self, will: Outbound | None) -> _Paho:
        five = self._version == "5"
        client = _Paho(
            CallbackAPIVersion.VERSION2,
            client_id=self._who.client_id,
            clean_session=None if five else not self._persistent,
            protocol=mqtt.MQTTv5 if five else mqtt.MQTTv311,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.arrived, client._unread = self._arrived, bytearray()  # noqa: SLF001
        client.max_inflight_messages_set(min(max(self._who.window, 1), _MID_MAX))
        client.connect_timeout = self._settings.connect_timeout_s
        if self._settings.username is not None:
            secret = self._settings.password.get_secret_value() if self._settings.password else None
            client.username_pw_set(self._settings.username, secret)
        if self._address.tls:
            client.tls_set_context(self._who.tls())
        if will is not None:
            client.will_set(will.topic, will.payload, will.qos, will.retain)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_socket_register_write = self._on_socket_register_write
        return client

    def open(self) -> None:
        properties = None
        if self._version == "5":
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.ReceiveMaximum = self._settings.receive_window
            properties.SessionExpiryInterval = _SESSION_EXPIRY_S if self._persistent else 0
        try:
            self._client.connect(
                self._address.host,
                self._address.port,
                keepalive=self._settings.keepalive_s,
                clean_start=not self._persistent if self._version == "5" else mqtt.MQTT_CLEAN_START_FIRST_ONLY,
                properties=properties,
            )
            self._tune_socket()
            self._wait_connack()
        except (OSError, ValueError) as error:
            self._drop_socket()
            raise self._explained(error) from error
        except (TransientError, PermanentError):
            self._drop_socket()
            raise
        self._check_accepted()

    @property
    def limits(self) -> Limits:
        if self._connack is None:
            raise RuntimeError("only an open connection has limits")
        return self._connack[1]

    @property
    def unacknowledged(self) -> int:
        return len(self._acks)

    @property
    def _place(self) -> str:
        return f"{self._address.host}:{self._address.port}"

    def _explained(self, error: OSError | ValueError) -> VigilError:
        explained = explain(error, self._place) if self._address.tls and isinstance(error, OSError) else None
        return explained or TransientError(f"no broker at {self._place} ({error})")

    def _tune_socket(self) -> None:
        sock = self._client.socket()
        if not isinstance(sock, socket.socket):
            return
        self._socket = sock
        # Without it Nagle and delayed acknowledgements add 40 ms to a small publish that follows another.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES_MAX)

    def _wait_connack(self) -> None:
        deadline_s = time.monotonic() + self._who.answer_timeout_s()
        while self._connack is None and self._lost is None:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                self._who.no_answer()
                raise TransientError(f"{self._place} takes connections but does not answer as an MQTT broker")
            self._serve(min(left_s, _MISC_INTERVAL_S))

    def _check_accepted(self) -> None:
        if self._connack is None:
            self._drop_socket()
            refused = refusal(self._socket)
            if refused is not None:
                raise self._explained(refused) from refused
            # amqtt closes the connection on a version that it does not speak, some others answer with a reason.
            self._who.no_answer()
            hint = "" if self._address.tls else "; where it speaks TLS there, write mqtts:// in bus.url"
            raise TransientError(f"{self._place} closed the connection before answering ({self._lost}){hint}")
        reason, limits = self._connack
        if not reason.is_failure:
            self._who.accepted()
            self._client.limit_inflight(limits.receive_max)
            return
        self._drop_socket()
        if reason.value in _BAD_VERSION:
            self._who.turn_down()
            raise TransientError(f"{self._place} does not speak MQTT {self._version}")
        if reason.value in _BAD_CREDENTIALS:
            login = "check bus.username and VIGIL_BUS__PASSWORD"
            if self._address.tls and self._settings.username is None:
                login = "check that this node is enrolled at this site for this role, and was not revoked"
            raise PermanentError(f"{self._place} refuses this login ({reason}): {login}")
        raise TransientError(f"{self._place} refuses the connection: {reason}")

    def run(self) -> None:
        try:
            while self._lost is None and not self._closing.is_set():
                beat()
                self._serve(_MISC_INTERVAL_S)
                self._report()
            if self._closing.is_set():
                self._say_goodbye()
        finally:
            self._drop_socket()
        if not self._closing.is_set():
            raise ConnectionLostError(f"connection to {self._place} lost: {self._lost}", self._cause)

    def _serve(self, timeout_s: float) -> None:
        sock = self._client.socket()
        if sock is None:
            self._lost = self._lost or "socket closed"
            return
        paused = bool(self._arrived) or self._is_behind()
        writing = [sock] if self._client.want_write() else []
        pending = not paused and isinstance(sock, ssl.SSLSocket) and sock.pending() > 0
        reading = [self._wake_read] if paused else [sock, self._wake_read]
        wait_s = 0.0 if pending or (self._arrived and not self._is_behind()) else timeout_s
        readable, writable, _ = select.select(reading, writing, [], wait_s)
        if self._wake_read in readable:
            self._drain_wakeups()
        code = MQTTErrorCode.MQTT_ERR_SUCCESS
        if sock in readable or pending:
            code = self._client.loop_read()
        self._confirm()
        if code == MQTTErrorCode.MQTT_ERR_SUCCESS and (writable or self._client.want_write()):
            code = self._client.loop_write()
        if code == MQTTErrorCode.MQTT_ERR_SUCCESS:
            code = self._keep_alive(paused=paused)
        if code != MQTTErrorCode.MQTT_ERR_SUCCESS and self._lost is None:
            self._lost = mqtt.error_string(code)
            self._cause = "silent" if code == MQTTErrorCode.MQTT_ERR_KEEPALIVE else "closed"

    def _is_behind(self) -> bool:
        return len(self._acks) > _PAUSE_WINDOWS * self._settings.receive_window

    def _keep_alive(self, *, paused: bool) -> MQTTErrorCode:
        """Ask the broker when it is silent; not while this side does not listen, when it can only be told."""
        if not paused:
            return self._client.loop_misc()
        if time.monotonic() - self._pinged_s >= self._settings.keepalive_s / 2:
            self._pinged_s = time.monotonic()
            self._client.ping()
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _report(self) -> None:
        # Only here, outside paho: it calls back with its own locks held, and a handler that publishes would deadlock.
        while self._sent:
            self._events.on_sent(*self._sent.popleft())
        deadline_s = time.monotonic() + _REPORT_S
        while self._arrived and not self._is_behind() and time.monotonic() < deadline_s:
            topic, payload, qos, retained, packet_id = self._arrived.popleft()
            token = self._acks.arrived(packet_id) if qos else 0
            self._events.on_message(Inbound(_topic_text(topic), payload, qos, retained, token))

    def _drain_wakeups(self) -> None:
        try:
            while self._wake_read.recv(4096):
                pass
        except BlockingIOError:
            pass

    def _wake(self) -> None:
        try:
            self._wake_write.send(b"\0")
        except OSError:
            # Full: a wake-up is on its way already. Closed: nobody is left to wake.
            return

    def _say_goodbye(self) -> None:
        deadline_s = time.monotonic() + _GOODBYE_S
        self._confirm()
        while self._client.want_write() and self._lost is None and time.monotonic() < deadline_s:
            self._serve(0.05)
            self._report()
        sock = self._client.socket()
        if isinstance(sock, socket.socket) and self._lost is None and not self._client.want_write():
            self._part(sock, deadline_s)

    def _part(self, sock: socket.socket, deadline_s: float) -> None:
        """Say the last word, and throw away what still comes.

        Closed with bytes unread, the kernel resets the connection, and a broker that meets the reset first sends the
        will.
        """
        try:
            sock.sendall(_DISCONNECT)
            while (left_s := deadline_s - time.monotonic()) > 0 and select.select([sock], [], [], left_s)[0]:
                with suppress(BlockingIOError, ssl.SSLWantReadError):
                    if not sock.recv(65_536):
                        return
        except OSError as error:
            self._lost = self._lost or str(error)

    def _drop_socket(self) -> None:
        self._acks.close()
        sock = self._client.socket()
        if sock is not None:
            sock.close()
        self._wake_read.close()
        self._wake_write.close()

    def publish(self, message: Outbound) -> int:
        if self._connack is None or self._lost is not None or self._closing.is_set():
            raise TransientError(f"not connected to {self._place}")
        expiry_s = message.expiry_s if self._version == "5" else None
        properties = _expiry(expiry_s) if expiry_s is not None else None
        result = self._client.publish(message.topic, message.payload, message.qos, message.retain, properties)
        if result.rc == MQTTErrorCode.MQTT_ERR_NO_CONN:
            raise TransientError(f"not connected to {self._place}")
        return result.mid

    def subscribe(self, filters: Sequence[tuple[str, int]]) -> None:
        if filters:
            self._client.subscribe(list(filters))

    def unsubscribe(self, filters: Sequence[str]) -> None:
        if filters:
            self._client.unsubscribe(list(filters))

    def acknowledge(self, message: Inbound) -> bool:
        return not message.qos or self._acks.settle(message.token)

    def _send_ack(self, packet_id: int) -> None:
        self._confirmed.append(puback(packet_id))
        if not self._is_woken:
            self._is_woken = True
            self._wake()

    def _confirm(self) -> None:
        """Put what is confirmed onto the wire, in its order."""
        self._is_woken = False
        count = len(self._confirmed)
        if count:
            self._client.acknowledge(self._confirmed[:count])
            del self._confirmed[:count]  # another thread may have added to it

    def close(self) -> None:
        self._closing.set()
        self._wake()

    def _on_connect(
        self,
        _client: mqtt.Client,
        _userdata: object,
        flags: mqtt.ConnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        limits = Limits(
            version=self._version,
            packet_bytes_max=getattr(properties, "MaximumPacketSize", None),
            receive_max=getattr(properties, "ReceiveMaximum", _MID_MAX),
            keepalive_s=getattr(properties, "ServerKeepAlive", self._settings.keepalive_s),
            session_present=flags.session_present,
        )
        self._connack = (reason, limits)

    def _on_disconnect(
        self,
        _client: mqtt.Client,
        _userdata: object,
        flags: mqtt.DisconnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if self._lost is None:
            self._lost = str(reason)
            if flags.is_disconnect_packet_from_server:
                self._cause = _CAUSES.get(reason.value, "expelled")
            elif reason.value in _CAUSES:
                self._cause = _CAUSES[reason.value]

    def _on_message(self, _client: mqtt.Client, _userdata: object, message: mqtt.MQTTMessage) -> None:
        self._arrived.append(
            Publication(message._topic, bytes(message.payload), message.qos, bool(message.retain), message.mid)  # noqa: SLF001
        )

    def _on_publish(
        self, _client: mqtt.Client, _userdata: object, mid: int, reason: ReasonCode, _properties: Properties
    ) -> None:
        self._sent.append((mid, str(reason) if reason.value >= _FAILURE else None))

    def _on_socket_register_write(self, _client: mqtt.Client, _userdata: object, _sock: object) -> None:
        self._wake()
