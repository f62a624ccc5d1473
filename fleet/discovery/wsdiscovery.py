"""ONVIF cameras on the local network: a question by multicast, and whoever is one answers.

Source: WS-Discovery (April 2005), sections 4 and 5; ONVIF Core Specification 7.3: devices are `NetworkVideoTransmitter`
or `Device`, and answer within half a second.
"""

from __future__ import annotations

import selectors
import socket
import time
import uuid
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from config import TransientError

__all__ = ["Answer", "note_answers", "parse_answers", "probe"]

_GROUP = ("239.255.255.250", 3702)
_HOPS = 1
_DATAGRAM_BYTES_MAX = 65_535
_ANSWERS_MAX = 4096
_FROM_ONE_HOST_MAX = 64
"""More cameras than any recorder answers for: each of them is asked, and may take its time."""
_AGAIN_S = 0.4
"""A datagram may get lost; who has answered already does so again, and counts once."""
_TYPES = ("dn:NetworkVideoTransmitter", "tds:Device")
_PROBE = """<?xml version="1.0" encoding="UTF-8"?>
<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope"
 xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing" xmlns:d="http://schemas.xmlsoap.org/ws/2005/04/discovery"
 xmlns:dn="http://www.onvif.org/ver10/network/wsdl" xmlns:tds="http://www.onvif.org/ver10/device/wsdl">
<s:Header><a:Action>http://schemas.xmlsoap.org/ws/2005/04/discovery/Probe</a:Action>
<a:MessageID>urn:uuid:{message}</a:MessageID><a:To>urn:schemas-xmlsoap-org:ws:2005:04:discovery</a:To></s:Header>
<s:Body><d:Probe><d:Types>{types}</d:Types></d:Probe></s:Body></s:Envelope>"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One device that has answered.

    Attributes:
        endpoint: what stays the same when its address changes, ``urn:uuid:...``.
        addresses: of its device service, as it tells them.
        scopes: what it says of itself, ``onvif://www.onvif.org/name/...``.
        host: the IP address that the answer came from.
    """

    endpoint: str
    addresses: tuple[str, ...]
    scopes: tuple[str, ...]
    host: str


def probe(interfaces: Sequence[str], *, wait_s: float = 2.0) -> list[Answer]:
    """Ask on every interface, and listen for `wait_s` seconds.

    Args:
        interfaces: IPv4 addresses of this machine.
        wait_s: how long.

    Returns:
        One answer for each endpoint, by host.

    Raises:
        TransientError: none of the interfaces can send by multicast.
    """
    found: dict[str, Answer] = {}
    sent: set[str] = set()
    with ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        doors = _doors(stack, interfaces)
        by_number = {door.fileno(): door for door in doors}
        for door in doors:
            selector.register(door, selectors.EVENT_READ)
        now_s = time.monotonic()
        end_s, ask_s = now_s + wait_s, [now_s, now_s + _AGAIN_S]
        while (now_s := time.monotonic()) < end_s and len(found) < _ANSWERS_MAX:
            if ask_s and now_s >= ask_s[0]:
                ask_s.pop(0)
                sent |= _ask(doors)
            for key, _events in selector.select(min((*ask_s, end_s)) - now_s):
                note_answers(found, _heard(by_number[key.fd], sent))
    return sorted(found.values(), key=lambda one: (one.host, one.endpoint))


def note_answers(found: dict[str, Answer], answers: Iterable[Answer]) -> None:
    """Add answers by their endpoint: the first of each, and so many from one host that no liar fills the search."""
    for answer in answers:
        if sum(one.host == answer.host for one in found.values()) < _FROM_ONE_HOST_MAX:
            found.setdefault(answer.endpoint, answer)


def parse_answers(datagram: bytes, host: str, sent: set[str]) -> list[Answer]:
    """The devices of an answer; none where it is not one, or not to a question of ours.

    Args:
        datagram: as it came.
        host: from where.
        sent: ids of our questions.
    """
    try:
        envelope = ET.fromstring(datagram, ET.XMLParser(target=_PlainTree()))  # noqa: S314 - one datagram, no entities
    except (ET.ParseError, ValueError):
        return []
    if not any(asked in _text(envelope, "RelatesTo") for asked in sent):
        return []
    return [
        Answer(
            endpoint=_text(match, "Address") or f"host:{host}",
            addresses=tuple(_text(match, "XAddrs").split()),
            scopes=tuple(_text(match, "Scopes").split()),
            host=host,
        )
        for match in envelope.iter()
        if _name(match) == "ProbeMatch"
    ]


class _PlainTree(ET.TreeBuilder):
    """A tree without a document type, in whatever encoding: SOAP has none, bombs do."""

    def doctype(self, _name: str, _public: str | None, _system: str | None) -> None:
        raise ValueError("an answer has no document type")


def _doors(stack: ExitStack, interfaces: Sequence[str]) -> list[socket.socket]:
    """One for each interface that can be asked on."""
    doors: list[socket.socket] = []
    refused: TransientError | None = None
    for address in interfaces:
        try:
            doors.append(stack.enter_context(_door(address)))
        except TransientError as error:
            refused = error
    if refused is not None and not doors:
        raise refused
    return doors


def _door(address: str) -> socket.socket:
    door = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        door.settimeout(0)
        door.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
        door.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, _HOPS)
        door.bind((address, 0))
    except OSError as error:
        door.close()
        raise TransientError(f"nothing can be asked on the interface with {address}: {error.strerror}") from error
    return door


def _ask(doors: Sequence[socket.socket]) -> set[str]:
    """Send the question through each door; the ids of the questions."""
    sent: set[str] = set()
    refused: OSError | None = None
    for door in doors:
        for types in _TYPES:
            message = str(uuid.uuid4())
            try:
                door.sendto(_PROBE.format(message=message, types=types).encode(), _GROUP)
                sent.add(message)
            except OSError as error:
                refused = error
    if refused is not None and not sent:
        raise TransientError(
            f"no interface of this machine sends by multicast ({refused.strerror}): name one with --interface, or a "
            "network with --scan"
        ) from refused
    return sent


def _heard(door: socket.socket, sent: set[str]) -> list[Answer]:
    try:
        datagram, (host, _port) = door.recvfrom(_DATAGRAM_BYTES_MAX)
    except OSError:
        return []
    return parse_answers(datagram, host, sent)


def _name(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]


def _text(element: ET.Element, name: str) -> str:
    return next((" ".join((one.text or "").split()) for one in element.iter() if _name(one) == name), "")
