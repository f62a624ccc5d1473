"""Answers WS-Discovery for cameras, by the library WSDiscovery: nothing of it is ours."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import wsdiscovery.threaded
from wsdiscovery.publishing import ThreadedWSPublishing
from wsdiscovery.qname import QName
from wsdiscovery.scope import Scope
from wsdiscovery.service import Service

__all__ = ["Published", "responding"]

_NETWORK = "http://www.onvif.org/ver10/network/wsdl"
_DEVICE = "http://www.onvif.org/ver10/device/wsdl"


@dataclass(frozen=True)
class Published:
    """One camera: its device service, what stays the same, what it says."""

    address: str
    endpoint: str
    scopes: Sequence[str]


@contextlib.contextmanager
def responding(cameras: Sequence[Published], *, on_loopback: bool) -> Iterator[None]:
    """Answer for as long as the block lasts.

    Args:
        cameras: for whom.
        on_loopback: speak there, which the library does not do by itself.
    """
    if on_loopback:
        wsdiscovery.threaded._getNetworkAddrs = lambda _version: [ipaddress.ip_address("127.0.0.1")]
    responder = ThreadedWSPublishing()
    responder.start()
    types = [QName(_NETWORK, "NetworkVideoTransmitter"), QName(_DEVICE, "Device")]
    for number, camera in enumerate(cameras):
        scopes = [Scope(scope) for scope in camera.scopes]
        # One responder stands for them all; its own method knows one service only.
        responder._localServices[camera.endpoint] = Service(
            types, scopes, [camera.address], camera.endpoint, str(1000 + number)
        )
    try:
        yield
    finally:
        responder._localServices.clear()  # those that leave say goodbye one after the other, for seconds
        responder.stop()
