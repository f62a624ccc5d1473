"""What `vigil doctor` looks at: this machine, and the broker as a client sees it."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from typing import Literal

import psutil

from broker._paho import paho_transports
from broker.transport import Inbound, TransportEvents
from config.errors import PermanentError, TransientError
from config.settings import BusSettings, Settings

__all__ = ["Finding", "examine"]

_EXTRAS = {
    "edge": ("numpy", "PIL"),
    "detector": ("numpy", "cv2", "onnxruntime"),
    "bridge": ("confluent_kafka",),
    "embedded": ("amqtt",),
    "console": ("fastapi", "uvicorn", "websockets"),
}
_DISK_FREE_MIN_BYTES = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: ``ok``, ``note`` (works, with a limit), or ``bad`` (does not work; the text says the cure).
        subject: what was looked at.
        text: what was found, and the cure.
    """

    level: Literal["ok", "note", "bad"]
    subject: str
    text: str


def examine(settings: Settings) -> list[Finding]:
    """Look at this machine and at the broker of `settings`."""
    return [
        Finding("ok", "python", sys.version.split()[0]),
        *(_extra(name, modules) for name, modules in _EXTRAS.items()),
        _gstreamer(),
        _disk(settings),
        *_broker(settings.bus),
    ]


def _extra(name: str, modules: tuple[str, ...]) -> Finding:
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if not missing:
        return Finding("ok", name, "installed")
    return Finding(
        "note", name, f"{', '.join(missing)} missing: pip install 'vigil-mesh[{name}]' to run `vigil {name}` here"
    )


def _gstreamer() -> Finding:
    if importlib.util.find_spec("gi") is None:
        return Finding(
            "note",
            "gstreamer",
            "not visible to this Python, so only synthetic cameras work: sudo apt-get install python3-gi "
            "gir1.2-gst-plugins-base-1.0 gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-libav, and "
            "make the virtual environment with --system-site-packages",
        )
    return Finding("ok", "gstreamer", "visible")


def _disk(settings: Settings) -> Finding:
    folder = settings.state_dir
    place = next(p for p in (folder, *folder.parents) if p.exists())
    free = psutil.disk_usage(str(place)).free
    level: Literal["ok", "bad"] = "ok" if free >= _DISK_FREE_MIN_BYTES else "bad"
    cure = "" if level == "ok" else "; outboxes need room: free some, or set state_dir elsewhere"
    return Finding(level, "disk", f"{free / 1e9:.1f} GB free at {place}{cure}")


def _broker(settings: BusSettings) -> list[Finding]:
    versions: list[Literal["5", "3.1.1"]] = ["5", "3.1.1"]
    refusals = []
    for version in versions:
        events = TransportEvents(_ignore_message, _ignore_number)
        transport = paho_transports(settings.model_copy(update={"protocol": version}), client_id="", persistent=False)(
            events, None
        )
        try:
            transport.open()
        except (TransientError, PermanentError) as error:
            refusals.append(str(error))
            continue
        transport.close()
        transport.run()
        found = Finding("ok", "broker", f"{settings.url} answers and speaks MQTT {version}")
        return [found] if version == "5" else [found, _old_protocol()]
    cure = "start one with `vigil broker run` or `vigil up`, or give its address with --bus mqtt://HOST:PORT"
    return [Finding("bad", "broker", f"{refusals[-1]}: {cure}")]


def _old_protocol() -> Finding:
    return Finding(
        "note",
        "protocol",
        "this broker has MQTT 3.1.1 only: it acknowledges a publish that its ACL refuses; receipts still prove "
        "delivery",
    )


def _ignore_message(_message: Inbound) -> None:
    """Nothing is subscribed to."""


def _ignore_number(_number: int) -> None:
    """Nothing is published."""
