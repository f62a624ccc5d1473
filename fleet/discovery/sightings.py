"""Who is there: what WS-Discovery, mDNS and a scan have seen, as one list by address."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from config import TransientError
from fleet.discovery.device import device_service
from fleet.discovery.interfaces import interface_addresses, neighbours
from fleet.discovery.mdns import VIGIL_KIND, Announced, browse
from fleet.discovery.scan import Scanned, scan
from fleet.discovery.wsdiscovery import Answer, probe

__all__ = ["Found", "Network", "Search", "Sighting", "look_around", "merge"]

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_RTSP_KIND = "_rtsp._tcp"
_ONVIF_KIND = "_onvif._tcp"


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """Where to look.

    Attributes:
        interfaces: names or addresses of this machine's; empty for all.
        wait_s: how long to listen for answers to multicast.
        network: whose every address is asked; None asks nobody who has not answered.
        ports: further ports to look at there.
    """

    interfaces: tuple[str, ...] = ()
    wait_s: float = 3.0
    network: Network | None = None
    ports: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """One address at which there may be a camera.

    Attributes:
        host: IP address.
        onvif: its device service; None where it speaks no ONVIF, as far as one knows.
        rtsp: where its stream is, where it told by itself; else ``rtsp://HOST:PORT/`` of its server; None without one.
        endpoint: what stays the same when its address changes; empty where it did not say.
        scopes: what it says of itself over WS-Discovery.
        name: what it calls itself over mDNS.
        mac: of its network interface, as this machine's neighbour; None for one behind a router.
        wants_login: whether its streams need a login; None where it did not say.
        seen_by: how it was seen.
    """

    host: str
    onvif: str | None = None
    rtsp: str | None = None
    endpoint: str = ""
    scopes: tuple[str, ...] = ()
    name: str = ""
    mac: str | None = None
    wants_login: bool | None = None
    seen_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a search has seen.

    Attributes:
        sightings: one for each address, in order.
        nodes: Vigil nodes that announce themselves.
        untried: what was not tried, and how to.
    """

    sightings: tuple[Sighting, ...] = ()
    nodes: tuple[Announced, ...] = ()
    untried: tuple[str, ...] = field(default=())


def look_around(search: Search, progress: Callable[[int], None] = lambda _done: None) -> Found:
    """Search, by everything at the same time.

    Args:
        search: where.
        progress: called with the number of addresses of the network that were asked since the last call.

    Raises:
        ConfigError: there is no such interface.
    """
    own = interface_addresses(search.interfaces)
    untried: list[str] = []
    with ThreadPoolExecutor(max_workers=2, thread_name_prefix="discover") as pool:
        probed = pool.submit(probe, own, wait_s=search.wait_s)
        browsed = pool.submit(browse, search.wait_s, interfaces=own)
        scanned: list[Scanned] = []
        if search.network is not None:
            scanned = scan(search.network, ports=search.ports, progress=progress)
        else:
            untried.append(
                "addresses that answer no multicast, or are behind a router: name their network with --scan 10.0.0.0/24"
            )
        answers, announced = list[Answer](), list[Announced]()
        try:
            answers = probed.result()
        except TransientError as error:
            untried.append(f"WS-Discovery: {error}")
        try:
            announced = browsed.result()
        except TransientError as error:
            untried.append(f"mDNS: {error}")
    nodes = tuple(one for one in announced if one.kind == VIGIL_KIND)
    cameras = [one for one in announced if one.kind != VIGIL_KIND]
    return Found(sightings=merge(answers, cameras, scanned, neighbours()), nodes=nodes, untried=tuple(untried))


def merge(
    answers: Iterable[Answer], announced: Iterable[Announced], scanned: Iterable[Scanned], macs: dict[str, str]
) -> tuple[Sighting, ...]:
    """One sighting for each address, whoever has seen it."""
    seen: dict[str, Sighting] = {}
    for sighting in (
        *(_by_wsdiscovery(one) for one in answers),
        *(_by_mdns(one, host) for one in announced if (host := _private(one.addresses))),
        *(_by_scan(one) for one in scanned),
    ):
        before = seen.get(sighting.host)
        seen[sighting.host] = sighting if before is None else _together(before, sighting)
    ordered = sorted(seen.values(), key=lambda one: _order(one.host))
    return tuple(replace(one, mac=macs.get(one.host)) for one in ordered)


def _by_wsdiscovery(answer: Answer) -> Sighting:
    address = _best_address(answer)
    return Sighting(
        host=urlsplit(address).hostname or answer.host,
        onvif=address,
        endpoint=answer.endpoint,
        scopes=answer.scopes,
        seen_by=("WS-Discovery",),
    )


def _best_address(answer: Answer) -> str:
    """The one at the address that it has answered from; else one that is in a network like ours."""
    hosts = {address: _host(address) for address in answer.addresses}
    same = [address for address, host in hosts.items() if host == answer.host]
    near = [address for address, host in hosts.items() if _is_near(host)]
    return next(iter((*same, *near)), device_service(answer.host))


def _host(address: str) -> str:
    """Its host; empty for what is not the address of a device service, or would bring a login into the registry."""
    try:
        parts = urlsplit(address)
        is_usable = parts.scheme in ("http", "https") and parts.username is None and parts.port != 0
    except ValueError:
        return ""
    return (parts.hostname or "") if is_usable else ""


def _private(addresses: Sequence[str]) -> str:
    """The first one that is not in the wide world, where nobody has us ask; empty without one."""
    return next((one for one in addresses if ipaddress.ip_address(one).is_private), "")


def _is_near(host: str) -> bool:
    """Whether a camera may be there that answers from elsewhere; nobody has us ask somebody in the wide world."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.version == 4 and address.is_private and not address.is_unspecified and not address.is_link_local


def _by_mdns(announced: Announced, host: str) -> Sighting:
    path = announced.properties.get("path", "/")
    path = path if path.isascii() and path.isprintable() and " " not in path else "/"
    where = f"[{host}]" if ":" in host else host
    stream = f"rtsp://{where}:{announced.port}/{path.lstrip('/')}"
    return Sighting(
        host=host,
        rtsp=stream if announced.kind == _RTSP_KIND else None,
        onvif=device_service(f"{where}:{announced.port}") if announced.kind == _ONVIF_KIND else None,
        name=announced.name,
        mac=None,
        seen_by=("mDNS",),
    )


def _by_scan(scanned: Scanned) -> Sighting:
    where = f"[{scanned.host}]" if ":" in scanned.host else scanned.host
    return Sighting(
        host=scanned.host,
        onvif=device_service(f"{where}:{scanned.onvif}") if scanned.onvif else None,
        rtsp=f"rtsp://{where}:{scanned.rtsp}/" if scanned.rtsp else None,
        wants_login=scanned.wants_login,
        seen_by=("scan",),
    )


def _together(first: Sighting, second: Sighting) -> Sighting:
    """What both say; where they differ, the first."""
    return Sighting(
        host=first.host,
        onvif=first.onvif or second.onvif,
        rtsp=first.rtsp or second.rtsp,
        endpoint=first.endpoint or second.endpoint,
        scopes=first.scopes or second.scopes,
        name=first.name or second.name,
        wants_login=first.wants_login if first.wants_login is not None else second.wants_login,
        seen_by=tuple(dict.fromkeys((*first.seen_by, *second.seen_by))),
    )


def _order(host: str) -> tuple[int, Sequence[int]]:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return (9, ())
    return (address.version, tuple(address.packed))
