"""Asking every address of a network that somebody names: is there a camera?

Each address costs one attempt to connect for each port, and whoever accepts is asked politely: RTSP's OPTIONS and
DESCRIBE, ONVIF's question for the time. Nothing is tried that needs a login.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from config import ConfigError

__all__ = ["ONVIF_PORTS", "RTSP_PORTS", "Scanned", "check_network", "count_hosts", "scan"]

RTSP_PORTS = (554, 8554)
"""Where cameras serve streams."""
ONVIF_PORTS = (80, 8080, 8000, 8899, 2020)
"""Where cameras serve ONVIF: the web's ports, and those of a few makers."""
_ADDRESSES_MAX = 1 << 16
_AT_ONCE = 256
_CONNECT_S = 1.0
_ANSWER_S = 3.0
_ANSWER_BYTES_MAX = 16_384
_TIME = (
    '<?xml version="1.0" encoding="UTF-8"?><s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope"><s:Body>'
    '<GetSystemDateAndTime xmlns="http://www.onvif.org/ver10/device/wsdl"/></s:Body></s:Envelope>'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scanned:
    """One address at which something answers as a camera does.

    Attributes:
        host: IP address.
        rtsp: port of an RTSP server; 0 without one.
        onvif: port of an ONVIF service; 0 without one.
        wants_login: whether its streams need one; None where it did not say.
    """

    host: str
    rtsp: int = 0
    onvif: int = 0
    wants_login: bool | None = None


def check_network(text: str, *, public_too: bool = False) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """The network that somebody has named.

    Raises:
        ConfigError: it is none, too large, or not a private one although `public_too` does not allow that.
    """
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ConfigError(f"{text!r} is no network: write it as 10.0.0.0/24", field="--scan") from None
    if network.num_addresses > _ADDRESSES_MAX:
        raise ConfigError(
            f"{network} has {network.num_addresses:,} addresses: name a part of it, a /16 at most", field="--scan"
        )
    if not network.is_private and not public_too:
        raise ConfigError(
            f"{network} is not a private network: ask only those that are yours, and say so with --yes", field="--scan"
        )
    return network


def count_hosts(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> int:
    """How many addresses of a network are asked: not its own name, nor the one that means everybody."""
    return network.num_addresses - 2 if network.version == 4 and network.num_addresses > 2 else network.num_addresses


def scan(
    network: ipaddress.IPv4Network | ipaddress.IPv6Network,
    *,
    ports: Sequence[int] = (),
    progress: Callable[[int], None] = lambda _done: None,
) -> list[Scanned]:
    """Ask every address of a network.

    Args:
        network: which.
        ports: further ports to look at, for both.
        progress: called with the number of addresses that were asked since the last call.
    """
    return asyncio.run(_scan(network, tuple(ports), progress))


async def _scan(
    network: ipaddress.IPv4Network | ipaddress.IPv6Network, ports: tuple[int, ...], progress: Callable[[int], None]
) -> list[Scanned]:
    hosts = iter(network.hosts() if network.num_addresses > 1 else [network.network_address])
    found: list[Scanned] = []
    places = asyncio.Semaphore(_AT_ONCE)

    async def work() -> None:
        for host in hosts:  # each address goes to whoever comes for it: one iterator for all
            seen = await _look_at(str(host), ports, places)
            if seen is not None:
                found.append(seen)
            progress(1)

    await asyncio.gather(*(work() for _ in range(min(_AT_ONCE // 4, network.num_addresses))))
    return sorted(found, key=lambda one: ipaddress.ip_address(one.host).packed)


async def _look_at(host: str, ports: tuple[int, ...], places: asyncio.Semaphore) -> Scanned | None:
    asked = dict.fromkeys((*ports, *RTSP_PORTS, *ONVIF_PORTS))
    kinds = await asyncio.gather(*(_kind(host, port, places, is_known=port not in ports) for port in asked))
    by_port = dict(zip(asked, kinds, strict=True))
    rtsp = next((port for port, kind in by_port.items() if kind.startswith("rtsp")), 0)
    onvif = next((port for port, kind in by_port.items() if kind == "onvif"), 0)
    if not rtsp and not onvif:
        return None
    wants_login = {"rtsp": None, "rtsp login": True, "rtsp open": False}.get(by_port.get(rtsp, "rtsp"))
    return Scanned(host=host, rtsp=rtsp, onvif=onvif, wants_login=wants_login)


async def _kind(host: str, port: int, places: asyncio.Semaphore, *, is_known: bool) -> str:
    """What serves there: ``rtsp``, ``rtsp login``, ``rtsp open``, ``onvif``, or nothing."""
    async with places:
        if (not is_known or port in RTSP_PORTS) and (kind := await _rtsp(host, port)):
            return kind
        if (not is_known or port in ONVIF_PORTS) and await _onvif(host, port):
            return "onvif"
    return ""


async def _rtsp(host: str, port: int) -> str:
    where = f"[{host}]" if ":" in host else host
    first = await _ask(host, port, f"OPTIONS rtsp://{where}:{port}/ RTSP/1.0\r\nCSeq: 1\r\n\r\n")
    if not first.startswith(b"RTSP/"):
        return ""
    described = f"DESCRIBE rtsp://{where}:{port}/ RTSP/1.0\r\nCSeq: 2\r\nAccept: application/sdp\r\n\r\n"
    status = (await _ask(host, port, described)).split(b" ", 2)[1:2]
    return {b"401": "rtsp login", b"200": "rtsp open"}.get(status[0] if status else b"", "rtsp")


async def _onvif(host: str, port: int) -> bool:
    where = f"[{host}]" if ":" in host else host
    request = (
        f"POST /onvif/device_service HTTP/1.1\r\nHost: {where}:{port}\r\nConnection: close\r\n"
        f"Content-Type: application/soap+xml; charset=utf-8\r\nContent-Length: {len(_TIME)}\r\n\r\n{_TIME}"
    )
    return b"GetSystemDateAndTimeResponse" in await _ask(host, port, request, is_whole=True)


async def _ask(host: str, port: int, request: str, *, is_whole: bool = False) -> bytes:
    """What is answered; nothing where nobody does. The first piece of it, or all until the other side closes."""
    try:
        async with asyncio.timeout(_CONNECT_S):
            reader, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        return b""
    answer = b""
    try:
        writer.write(request.encode())
        async with asyncio.timeout(_ANSWER_S):
            while len(answer) < _ANSWER_BYTES_MAX and (piece := await reader.read(_ANSWER_BYTES_MAX)):
                answer += piece
                if not is_whole:
                    break
    except (OSError, TimeoutError):
        pass
    finally:
        writer.close()
    return answer
