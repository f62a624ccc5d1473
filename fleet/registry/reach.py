"""Whether there is a broker, for commands that go on without one."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

from broker import Bus
from broker.identity import identity_folder
from config import TransientError
from config.settings import Settings

__all__ = ["looks_as", "may_publish", "wait_for_broker"]

_CONNECT_WAIT_S = 5.0
_PORTS = {"mqtt": 1883, "mqtts": 8883}


_PUBLISHES = "fleet"


def looks_as(settings: Settings) -> str:
    """The role in which a command of this machine looks: a person's, where there is one on a secure bus."""
    own = identity_folder(settings)
    is_fleets = own.credentials("camera") is None and own.credentials(_PUBLISHES) is not None
    return _PUBLISHES if is_fleets else "camera"


def may_publish(settings: Settings) -> bool:
    """Whether this machine may publish the registry: everybody on a bus without certificates, else the fleet's role."""
    own = identity_folder(settings)
    shown = own.credentials(_PUBLISHES)
    return not own.path.is_dir() or (shown is not None and shown.certificate == own.certificate(_PUBLISHES))


def wait_for_broker(bus: Bus, settings: Settings) -> None:
    """Wait until a bus that was started is connected; not at all where nobody listens at the broker's address.

    Raises:
        TransientError: there is no broker.
    """
    if _is_refused(settings.bus.url) or not bus.wait_connected(_CONNECT_WAIT_S):
        raise TransientError(f"no broker at {settings.bus.url}: start one, or name another with --bus URL")


def _is_refused(url: str) -> bool:
    place = urlsplit(url)
    try:
        socket.create_connection((place.hostname or "", place.port or _PORTS[place.scheme]), _CONNECT_WAIT_S).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False  # the bus has better words for it
    return False
