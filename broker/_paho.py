"""The wire: one paho-mqtt client a connection. The only file that imports paho.

paho's own loop thread is not used: this connection's `run` selects on the socket itself, so that an error in a
handler surfaces where it can be supervised, and a new connection never inherits the queues of an old one (paho
acknowledges a *new* message when it is handed the number of one that an earlier session delivered).
"""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from broker.transport import Inbound, Outbound, TransportEvents, TransportFactory
from config.errors import ConfigError, PermanentError, TransientError
from config.settings import BusSettings

__all__ = ["paho_transports"]

_SESSION_EXPIRY_S = 7 * 86_400
"""A broker forgets a consumer that stays away for a week; its messages are still in their senders' outboxes."""
_RECEIVE_MAXIMUM = 1000
_MISC_INTERVAL_S = 0.5
_MID_MAX = 65_535
_OTHER_VERSION_AFTER_S = 1.0
"""amqtt reads the properties of an MQTT 5 CONNECT as 3.1.1 and waits for more bytes instead of refusing."""
_BAD_CREDENTIALS = frozenset({4, 5, 0x86, 0x87, 0x8C})
_BAD_VERSION = frozenset({1, 0x84})
"""Reason codes. Source: MQTT 3.1.1 table 3.1; MQTT 5 section 3.2.2.2."""

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
    versions: list[Version]

    def turn_down(self) -> None:
        """The broker does not speak this version: try the other one next."""
        self.versions.append(self.versions.pop(0))

    def answer_timeout_s(self) -> float:
        """How long to wait for CONNACK: not long while there is another version to try."""
        longest_s = self.settings.connect_timeout_s
        return longest_s if len(self.versions) == 1 else min(longest_s, _OTHER_VERSION_AFTER_S)


def paho_transports(settings: BusSettings, *, client_id: str, persistent: bool, window: int = 64) -> TransportFactory:
    """A maker of connections to the broker of `settings`.

    With ``protocol: auto`` the first connection speaks MQTT 5; when the broker turns that down, or does not answer,
    the next one speaks 3.1.1, and so on until one is accepted.

    Args:
        settings: where the broker is and who we are.
        client_id: fixed, so that a broker can keep this client's session.
        persistent: keep the session, and what arrives for it, while this client is away.
        window: messages that may be unconfirmed at one time.

    Raises:
        ConfigError: the address has no usable host or port.
    """
    versions: list[Version] = [settings.protocol] if settings.protocol != "auto" else ["5", "3.1.1"]
    client = _Client(settings, _parse(settings.url), client_id, persistent, window, versions)
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


class _PahoTransport:
    def __init__(self, who: _Client, events: TransportEvents, will: Outbound | None) -> None:
        self._who = who
        self._version = who.versions[0]
        self._settings = who.settings
        self._address = who.address
        self._persistent = who.persistent
        self._events = events
        self._closing = threading.Event()
        self._connack: tuple[ReasonCode, bool] | None = None
        self._lost: str | None = None
        self._arrived: deque[Inbound] = deque()
        self._sent: deque[int] = deque()
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.settimeout(0.0)
        self._wake_write.settimeout(0.0)
        self._client = self._make_client(will)

    def _make_client(self, will: Outbound | None) -> mqtt.Client:
        five = self._version == "5"
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._who.client_id,
            clean_session=None if five else not self._persistent,
            protocol=mqtt.MQTTv5 if five else mqtt.MQTTv311,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.max_inflight_messages_set(min(max(self._who.window, 1), _MID_MAX))
        client.connect_timeout = self._settings.connect_timeout_s
        if self._settings.username is not None:
            secret = self._settings.password.get_secret_value() if self._settings.password else None
            client.username_pw_set(self._settings.username, secret)
        if self._address.tls:
            client.tls_set_context(ssl.create_default_context())
        if will is not None:
            client.will_set(will.topic, will.payload, will.qos, will.retain)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_socket_register_write = self._on_socket_register_write
        return client

    def open(self) -> bool:
        properties = None
        if self._version == "5":
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.ReceiveMaximum = _RECEIVE_MAXIMUM
            properties.SessionExpiryInterval = _SESSION_EXPIRY_S if self._persistent else 0
        try:
            self._client.connect(
                self._address.host,
                self._address.port,
                keepalive=self._settings.keepalive_s,
                clean_start=not self._persistent if self._version == "5" else mqtt.MQTT_CLEAN_START_FIRST_ONLY,
                properties=properties,
            )
            self._set_no_delay()
            self._wait_connack()
        except (OSError, ValueError, TransientError, PermanentError) as error:
            self._drop_socket()
            if isinstance(error, TransientError | PermanentError):
                raise
            raise TransientError(f"no broker at {self._place} ({error})") from error
        return self._accepted()

    @property
    def _place(self) -> str:
        return f"{self._address.host}:{self._address.port}"

    def _set_no_delay(self) -> None:
        # Without it Nagle and delayed acknowledgements add 40 ms to a small publish that follows another.
        sock = self._client.socket()
        if isinstance(sock, socket.socket):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _wait_connack(self) -> None:
        deadline_s = time.monotonic() + self._who.answer_timeout_s()
        while self._connack is None and self._lost is None:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                self._who.turn_down()
                raise TransientError(f"{self._place} takes connections but does not answer as an MQTT broker")
            self._serve(min(left_s, _MISC_INTERVAL_S))

    def _accepted(self) -> bool:
        if self._connack is None:
            # amqtt closes the connection on a version that it does not speak, some others answer with a reason.
            self._who.turn_down()
            self._drop_socket()
            raise TransientError(f"{self._place} closed the connection before answering ({self._lost})")
        reason, session_present = self._connack
        if not reason.is_failure:
            return session_present
        self._drop_socket()
        if reason.value in _BAD_VERSION:
            self._who.turn_down()
            raise TransientError(f"{self._place} does not speak MQTT {self._version}")
        if reason.value in _BAD_CREDENTIALS:
            raise PermanentError(
                f"{self._place} refuses this login ({reason}): check bus.username and VIGIL_BUS__PASSWORD"
            )
        raise TransientError(f"{self._place} refuses the connection: {reason}")

    def run(self) -> None:
        try:
            while self._lost is None and not self._closing.is_set():
                self._serve(_MISC_INTERVAL_S)
            if self._closing.is_set():
                self._say_goodbye()
        finally:
            self._drop_socket()
        if not self._closing.is_set():
            raise TransientError(f"connection to {self._place} lost: {self._lost}")

    def _serve(self, timeout_s: float) -> None:
        sock = self._client.socket()
        if sock is None:
            self._lost = self._lost or "socket closed"
            return
        writing = [sock] if self._client.want_write() else []
        pending = isinstance(sock, ssl.SSLSocket) and sock.pending() > 0
        readable, writable, _ = select.select([sock, self._wake_read], writing, [], 0.0 if pending else timeout_s)
        if self._wake_read in readable:
            self._drain_wakeups()
        code = MQTTErrorCode.MQTT_ERR_SUCCESS
        if sock in readable or pending:
            code = self._client.loop_read()
        if code == MQTTErrorCode.MQTT_ERR_SUCCESS and (writable or self._client.want_write()):
            code = self._client.loop_write()
        if code == MQTTErrorCode.MQTT_ERR_SUCCESS:
            code = self._client.loop_misc()
        if code != MQTTErrorCode.MQTT_ERR_SUCCESS and self._lost is None:
            self._lost = mqtt.error_string(code)
        self._report()

    def _report(self) -> None:
        # Only here, outside paho: it calls back with its own locks held, and a handler that publishes would deadlock.
        while self._sent:
            self._events.on_sent(self._sent.popleft())
        while self._arrived:
            self._events.on_message(self._arrived.popleft())

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
        deadline_s = time.monotonic() + 1.0
        while self._client.want_write() and self._lost is None and time.monotonic() < deadline_s:
            self._serve(0.05)
        self._client.disconnect()
        while self._client.want_write() and self._lost is None and time.monotonic() < deadline_s:
            self._serve(0.05)

    def _drop_socket(self) -> None:
        sock = self._client.socket()
        if sock is not None:
            sock.close()
        self._wake_read.close()
        self._wake_write.close()

    def publish(self, message: Outbound) -> int:
        if self._connack is None or self._lost is not None or self._closing.is_set():
            raise TransientError(f"not connected to {self._place}")
        result = self._client.publish(message.topic, message.payload, message.qos, message.retain)
        if result.rc == MQTTErrorCode.MQTT_ERR_NO_CONN:
            raise TransientError(f"not connected to {self._place}")
        return result.mid

    def subscribe(self, filters: Sequence[tuple[str, int]]) -> None:
        if filters:
            self._client.subscribe(list(filters))

    def acknowledge(self, message: Inbound) -> None:
        if message.qos and self._lost is None:
            self._client.ack(message.token, message.qos)

    def close(self) -> None:
        self._closing.set()
        self._wake()

    def _on_connect(
        self,
        _client: mqtt.Client,
        _userdata: object,
        flags: mqtt.ConnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        self._connack = (reason, flags.session_present)

    def _on_disconnect(
        self,
        _client: mqtt.Client,
        _userdata: object,
        _flags: mqtt.DisconnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        self._lost = self._lost or str(reason)

    def _on_message(self, _client: mqtt.Client, _userdata: object, message: mqtt.MQTTMessage) -> None:
        self._arrived.append(
            Inbound(message.topic, bytes(message.payload), message.qos, bool(message.retain), message.mid)
        )

    def _on_publish(
        self, _client: mqtt.Client, _userdata: object, mid: int, _reason: ReasonCode, _properties: Properties
    ) -> None:
        self._sent.append(mid)

    def _on_socket_register_write(self, _client: mqtt.Client, _userdata: object, _sock: object) -> None:
        self._wake()
