"""Services on the local network by multicast DNS: our own nodes that wait, and cameras that announce themselves."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from zeroconf import (
    DNSQuestionType,
    InterfaceChoice,
    IPVersion,
    NonUniqueNameException,
    ServiceBrowser,
    ServiceInfo,
    Zeroconf,
)
from zeroconf import ServiceListener as _Listener

from config import TransientError

__all__ = ["CAMERA_KINDS", "VIGIL_KIND", "Announced", "announce", "browse"]

VIGIL_KIND = "_vigil._tcp"
"""A Vigil node."""
CAMERA_KINDS = ("_onvif._tcp", "_rtsp._tcp", "_axis-video._tcp", "_psia._tcp", "_CGI._tcp")
"""What cameras call themselves."""
_LOCAL = ".local."
_ANSWER_WAIT_MS = 1500
_ANSWERS_WAIT_S = 15.0
"""For all together: who announces thousands of services that answer nothing stops no search."""
_NAMES_MAX = 4096
_EMPTY: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Announced:
    """One service that somebody announces.

    Attributes:
        kind: ``_vigil._tcp``.
        name: what it calls itself.
        host: its host name, without ``.local``.
        addresses: IP addresses, the IPv4 ones first.
        port: TCP port.
        properties: what it says besides.
    """

    kind: str
    name: str
    host: str
    addresses: tuple[str, ...]
    port: int
    properties: Mapping[str, str] = field(default_factory=dict, hash=False)


@contextlib.contextmanager
def announce(
    name: str,
    *,
    port: int,
    properties: Mapping[str, str] = _EMPTY,
    kind: str = VIGIL_KIND,
    addresses: Sequence[str] = (),
    interfaces: Sequence[str] = (),
) -> Iterator[None]:
    """Announce a service for as long as the block lasts.

    Args:
        name: what it is called; one that somebody else has gets a number.
        port: TCP port.
        properties: what it says besides; nothing secret, everybody on the network reads it.
        kind: its kind.
        addresses: IP addresses of this machine at which it is; default those of `interfaces`, else all.
        interfaces: IP addresses of the interfaces on which to speak; default all.

    Raises:
        TransientError: there is no network to speak on.
    """
    with _speaking(interfaces) as speaker:
        where = [*(addresses or interfaces or _own_addresses())]
        service = ServiceInfo(
            f"{kind}{_LOCAL}",
            f"{name}.{kind}{_LOCAL}",
            port=port,
            properties=dict(properties),
            # Not its host name: all that were flashed from one image may have the same.
            server=f"vigil-{uuid.getnode():012x}{_LOCAL}",
            parsed_addresses=where,
        )
        try:
            speaker.register_service(service, allow_name_change=True)
        except NonUniqueNameException as error:
            raise TransientError(f"everybody on this network is called {name!r}: give this one another name") from error
        try:
            yield
        finally:
            speaker.unregister_service(service)


def browse(
    timeout_s: float, *, kinds: Sequence[str] = (VIGIL_KIND, *CAMERA_KINDS), interfaces: Sequence[str] = ()
) -> list[Announced]:
    """Ask who is there, and listen for `timeout_s` seconds.

    Args:
        timeout_s: how long; most answer within one second.
        kinds: of what.
        interfaces: IP addresses of the interfaces on which to ask; default all.

    Raises:
        TransientError: there is no network to ask on.
    """
    heard = _Heard()
    with _speaking(interfaces) as speaker:
        # Answers by multicast, never to this socket alone: where a daemon has the port as well, it gets those.
        browser = ServiceBrowser(
            speaker, [f"{kind}{_LOCAL}" for kind in kinds], heard, question_type=DNSQuestionType.QM
        )
        threading.Event().wait(timeout_s)
        browser.cancel()
        end_s = time.monotonic() + _ANSWERS_WAIT_S
        found = (_resolved(speaker, kind, name) for kind, name in sorted(heard.names) if time.monotonic() < end_s)
        return [one for one in found if one is not None]


class _Heard(_Listener):
    """Notes what is there.

    Concurrency: zeroconf's thread calls it until the browser is cancelled.
    """

    def __init__(self) -> None:
        self.names: set[tuple[str, str]] = set()

    def add_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        del zc
        if len(self.names) < _NAMES_MAX:
            self.names.add((type_, name))

    def remove_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        del zc
        self.names.discard((type_, name))

    def update_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        del zc
        if len(self.names) < _NAMES_MAX:
            self.names.add((type_, name))


@contextlib.contextmanager
def _speaking(interfaces: Sequence[str]) -> Iterator[Zeroconf]:
    try:
        speaker = Zeroconf(interfaces=list(interfaces) or InterfaceChoice.All, ip_version=IPVersion.V4Only)
    except (OSError, RuntimeError) as error:
        raise TransientError(f"multicast DNS cannot be spoken here: {error}") from error
    try:
        yield speaker
    finally:
        speaker.close()


def _resolved(speaker: Zeroconf, kind: str, name: str) -> Announced | None:
    """Its address and properties; None when it does not say them in time: it has just gone."""
    service = speaker.get_service_info(kind, name, timeout=_ANSWER_WAIT_MS, question_type=DNSQuestionType.QM)
    if service is None:
        return None
    return Announced(
        kind=kind.removesuffix(_LOCAL),
        name=name.removesuffix(f".{kind}"),
        host=(service.server or "").removesuffix(".").removesuffix(".local"),
        addresses=tuple(sorted(service.parsed_addresses(), key=lambda one: ipaddress.ip_address(one).version)),
        port=service.port or 0,
        properties={key: value or "" for key, value in service.decoded_properties.items()},
    )


def _own_addresses() -> list[str]:
    """IPv4 addresses of this machine; loopback only where there is no other."""
    import psutil

    found = [
        address.address
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family == socket.AF_INET
    ]
    return [one for one in found if not one.startswith("127.")] or found
