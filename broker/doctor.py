"""What `vigil doctor` looks at: this machine, and the broker as a client sees it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal
from urllib.parse import urlsplit

import psutil

from broker.identity import identity_folder
from broker.probe import BURST, ROLE, WINDOW, BurstReport, Prober, ProbeReport, Version
from broker.servers.ports import LOOPBACK
from broker.tls import EXPIRES_SOON_DAYS, NEW_SERVER_CERTIFICATE, days_left, server_facts
from broker.traps import known_traps, product_of
from config.errors import ConfigError, PermanentError, TransientError
from config.settings import Settings

__all__ = ["Finding", "examine"]

_EXTRAS = {
    "edge": ("numpy", "PIL"),
    "detector": ("numpy", "cv2", "onnxruntime"),
    "bridge": ("confluent_kafka",),
    "embedded": ("amqtt",),
    "fleet": ("cryptography",),
    "console": ("fastapi", "uvicorn", "websockets"),
}
_DISK_FREE_MIN_BYTES = 1_000_000_000
_CLOCKS_APART_S = 2.0
_NAGLE_MS = 40.0
"""Linux acknowledges a lone packet after so long, and Nagle's algorithm waits for that."""


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
        *_certificate(settings),
        *_broker(settings),
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


def _certificate(settings: Settings) -> Iterator[Finding]:
    """This machine's own, where the bus is a secure one."""
    if not settings.bus.url.startswith("mqtts:"):
        return
    folder = identity_folder(settings)
    try:
        for role in folder.roles():
            left = days_left(folder, role, datetime.now(UTC))
            if left is not None:
                yield _ends(f"certificate {role}", left, "`vigil renew` on this machine")
        facts = server_facts(settings, ROLE, datetime.now(UTC))
    except ConfigError as error:
        yield Finding("bad", "certificate", str(error))
    except OSError:
        return  # the broker's own finding says why
    else:
        yield _ends(f"broker's certificate ({facts.version})", facts.days_left, NEW_SERVER_CERTIFICATE)


def _ends(subject: str, left: float, cure: str) -> Finding:
    if left < 0:
        return Finding("bad", subject, f"ended {-left:.1f} days ago, or the clock is wrong: {cure}")
    if left < EXPIRES_SOON_DAYS:
        return Finding("note", subject, f"ends in {left:.1f} days: {cure}")
    return Finding("ok", subject, f"holds for {left:.0f} more days")


def _broker(settings: Settings) -> list[Finding]:
    versions: list[Version] = ["5", "3.1.1"] if settings.bus.protocol == "auto" else [settings.bus.protocol]
    words = ""
    for version in versions:
        try:
            report = Prober(settings, version).look()
        except (ConfigError, PermanentError) as error:
            words = str(error)
        except TransientError as error:
            words = f"{error}: start one with `vigil broker run` or `vigil up`, or give its address with --bus URL"
        else:
            return list(_explain(settings, report))
    return [Finding("bad", "broker", words)]


def _explain(settings: Settings, report: ProbeReport) -> Iterator[Finding]:
    product = report.figures.get("version", "it does not say what it is ($SYS)")
    yield Finding("ok", "broker", f"{settings.bus.url} answers and speaks MQTT {report.limits.version}; {product}")
    if report.limits.version == "3.1.1":
        yield Finding(
            "note",
            "protocol",
            "MQTT 3.1.1 only: it acknowledges a publish that its ACL refuses, and frames do not expire there; receipts "
            "still prove delivery",
        )
    if report.round_trip_ms is None:
        yield _no_rights(settings)
    else:
        yield from _explain_probes(settings, report)
    yield from _explain_drops(report)
    yield from _explain_clocks(report)
    yield from _explain_traps(product)


def _no_rights(settings: Settings) -> Finding:
    folder = identity_folder(settings)
    own = folder.credentials(ROLE)
    if own is not None and own.certificate == folder.certificate("person"):
        return Finding(
            "note",
            "rights",
            "nothing can be tried with a person's certificate; `vigil doctor` on a node sees more",
        )
    return Finding(
        "bad",
        "rights",
        "a message to this machine's own probe topic does not come back, so the rest is unknown: grant this user read "
        f"and write for the origin {settings.node}.{ROLE} in the broker's ACL (`vigil topics` shows the topic)",
    )


def _explain_probes(settings: Settings, report: ProbeReport) -> Iterator[Finding]:
    yield _round_trip(settings, report.round_trip_ms or 0.0)
    yield {
        "open": Finding(
            "note",
            "rights",
            "whoever reaches this broker may write and read every topic: `vigil broker run --secure`, or an ACL",
        ),
        "told": Finding("ok", "rights", "an ACL is in force, and a publish that it refuses is told so"),
        "silent": Finding(
            "note",
            "rights",
            "an ACL is in force, but a publish that it refuses is acknowledged as if it had been taken: look for a "
            "wrong right when an escalation gets no receipt",
        ),
        "none": Finding("note", "rights", "the connection broke when another topic was tried; see the broker's log"),
    }[report.rights]
    if report.retained_kept is not None:
        yield _retained(kept=report.retained_kept)
    if report.shared_works is False:
        yield Finding(
            "note", "$share", "shared subscriptions deliver nothing here; Vigil needs none, other clients may"
        )
    yield from _packets(settings.bus.frame_bytes_max, report)
    if report.burst is None:
        yield Finding("bad", "session", "the connection broke under 1,100 small messages: see the broker's log")
    else:
        yield from _burst(report.burst, report.limits.version)


def _round_trip(settings: Settings, took_ms: float) -> Finding:
    words = f"{took_ms} ms for a small message of QoS 1"
    if took_ms >= _NAGLE_MS and urlsplit(settings.bus.url).hostname in LOOPBACK:
        return Finding("note", "round trip", f"{words}; Mosquitto with `set_tcp_nodelay true` saves 40")
    return Finding("ok", "round trip", words)


def _retained(*, kept: bool) -> Finding:
    if kept:
        return Finding("ok", "retained", "a later subscriber gets what was retained")
    return Finding(
        "bad",
        "retained",
        "retained messages are not kept: states, owners and open events are lost for whoever comes later; allow them "
        "(Mosquitto: retain_available true)",
    )


def _packets(frame_bytes_max: int, report: ProbeReport) -> Iterator[Finding]:
    taken = report.packet_bytes_max
    if taken is None:
        yield Finding("bad", "packets", "not even a packet of 30,000 bytes is taken: raise the broker's packet limit")
    elif taken < frame_bytes_max:
        yield Finding(
            "note",
            "packets",
            f"takes {taken:,} bytes but bus.frame_bytes_max is {frame_bytes_max:,}: larger frames are encoded smaller; "
            "raise the broker's limit (Mosquitto: max_packet_size), or lower bus.frame_bytes_max",
        )
    else:
        yield Finding("ok", "packets", f"takes {taken:,} bytes; frames have at most {frame_bytes_max:,}")


def _burst(burst: BurstReport, version: Version) -> Iterator[Finding]:
    # What a full queue drops is the newest; anything else was on its way when the client went.
    if not burst.session_kept or (burst.lost > 0 and not burst.newest_lost) or burst.came_again == burst.lost == 0:
        lost = "the session" if not burst.session_kept else "what was not acknowledged"
        yield Finding(
            "note",
            "session",
            f"{lost} is forgotten when a client goes: a bridge that is restarted misses what was on its way, and its "
            "sender sends it again after bus.outbox.resend_after_s; use Mosquitto for a site",
        )
    else:
        yield Finding("ok", "session", f"kept over a disconnect; {burst.came_again:,} messages came again")
    if burst.newest_lost:
        acknowledged = "and acknowledged them all the same" if burst.acknowledged == burst.sent else "and said so"
        yield Finding(
            "bad",
            "queue",
            f"of {burst.sent:,} messages for a client that does not acknowledge it dropped {burst.lost:,}, the newest, "
            f"{acknowledged}: raise its limit (Mosquitto: max_queued_messages 1000000 and max_queued_bytes; "
            "0 is broken in some 2.0 releases)",
        )
    elif burst.lost == 0:
        yield Finding("ok", "queue", f"holds at least {BURST:,} messages for a client")
    if version == "5" and burst.window_max > WINDOW:
        yield Finding(
            "note",
            "window",
            f"sent {burst.window_max} or more messages where {WINDOW} may be unacknowledged: a consumer holds more "
            "than it asked for (Mosquitto before 2.0.22)",
        )


def _explain_drops(report: ProbeReport) -> Iterator[Finding]:
    dropped = report.figures.get("publish/messages/dropped")
    if dropped is not None and dropped != "0":
        uptime = report.figures.get("uptime", "its start")
        yield Finding(
            "note",
            "drops",
            f"the broker has dropped {dropped} messages in {uptime}: a client is too slow or away too long for its "
            "queue (max_queued_messages, max_queued_bytes); frames of QoS 0 count too",
        )


def _explain_clocks(report: ProbeReport) -> Iterator[Finding]:
    for origin, ahead_s in sorted(report.clocks_s.items()):
        if abs(ahead_s) > _CLOCKS_APART_S:
            direction = "ahead of" if ahead_s > 0 else "behind"
            yield Finding(
                "note",
                "clock",
                f"that of {origin} is {abs(ahead_s):.1f} s {direction} this machine's: let both follow a time server "
                "(`timedatectl set-ntp true`); certificates and the times of events depend on it",
            )


def _explain_traps(product: str) -> Iterator[Finding]:
    name, version = product_of(product)
    number = ".".join(map(str, version))
    yield from (Finding("note", f"{name} {number}", words) for words in known_traps(name, version))
    if name == "mosquitto":
        yield Finding(
            "note",
            "persistence",
            "cannot be seen from outside: `persistence true` and `autosave_interval 1` keep sessions over a crash; "
            "without them it forgets every queued message",
        )
