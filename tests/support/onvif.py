"""Cameras that speak ONVIF: device and media service, WS-Security with a digest, snapshots, settings that stick.

A camera is a :class:`CameraPlan`; :class:`OnvifSite` serves some of them in a process of its own, which may be in a
network namespace. What they answer follows the WSDL files of ONVIF, with which the client's library reads it.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import re
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, unquote
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from tests.support.responder import Published, responding
from tests.support.server import ServerProcess

__all__ = ["CameraPlan", "OnvifSite", "serve"]

_SOAP = "http://www.w3.org/2003/05/soap-envelope"
_SECURITY = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd"
_UTILITY = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-utility-1.0.xsd"
_SPACES = (
    f'xmlns:s="{_SOAP}" xmlns:tt="http://www.onvif.org/ver10/schema" xmlns:ter="http://www.onvif.org/ver10/error" '
    'xmlns:tds="http://www.onvif.org/ver10/device/wsdl" xmlns:trt="http://www.onvif.org/ver10/media/wsdl"'
)
_FREE = frozenset({"GetSystemDateAndTime", "GetServices", "GetCapabilities"})
"""What everybody may ask. Source: ONVIF Core Specification 5.9.4.3, access class PRE_AUTH."""
_SKEW_MAX_S = 60
_REALM = "camera"
_NONCE = "8d1f5c"
_READY = "ready"
_ROOT = Path(__file__).parents[2]


@dataclass
class CameraPlan:
    """One camera.

    Attributes:
        host: IP address at which it is,
        port: and the port of its services; 0 for one that is free.
        name: what it calls itself.
        mac: of its network interface.
        serial: its serial number.
        login: user and password; empty where it asks for none.
        main: where its best stream is,
        sub: and the smaller one; only the path and port count.
        ahead_s: how far its clock is ahead of the truth.
        fps_max: it takes no more, and says nothing of it.
        over_http: it takes the login by HTTP's digest only, and knows nothing of WS-Security.
        snapshot: how it gives pictures: ``digest``, ``basic``, or ``none``.
        says_host: the host of the addresses that it tells; empty for its own.
        endpoint: its endpoint in WS-Discovery; empty for one that does not answer there.
    """

    host: str
    port: int = 0
    name: str = "Yard"
    location: str = "Garden"
    mac: str = "02:00:00:00:00:01"
    serial: str = "SN0001"
    login: tuple[str, str] | None = ("admin", "correct horse")
    main: str = "rtsp://{host}:8554/main"
    sub: str = "rtsp://{host}:8554/sub"
    ahead_s: float = 0.0
    fps_max: int = 25
    over_http: bool = False
    snapshot: str = "digest"
    says_host: str = ""
    endpoint: str = ""

    @property
    def scopes(self) -> dict[str, list[str]]:
        """What it says of itself, by what may be changed."""
        start = "onvif://www.onvif.org/"
        return {
            "Fixed": [f"{start}type/video_encoder", f"{start}Profile/Streaming"],
            "Configurable": [f"{start}location/{quote(self.location)}", f"{start}name/{quote(self.name)}"],
        }


@dataclass
class _State:
    name: str
    clock_ahead: timedelta
    encoders: dict[str, dict[str, Any]] = field(
        default_factory=lambda: {
            "main": {"codec": "H264", "width": 1920, "height": 1080, "fps": 25, "kbps": 4096},
            "sub": {"codec": "H264", "width": 640, "height": 360, "fps": 15, "kbps": 512},
        }
    )
    reboots: int = 0
    refused: int = 0


class OnvifSite:
    """Serves some cameras in a process of its own; a context manager.

    Args:
        folder: for its log.
        plans: the cameras.
        enter: the beginning of its command line, such as ``ip netns exec NAME``.
    """

    def __init__(self, folder: Path, plans: Sequence[CameraPlan], *, enter: Sequence[str] = ()) -> None:
        self.plans = plans
        self.ports: list[int] = []
        asked = json.dumps([asdict(one) for one in plans])
        code = f"import sys; sys.path.insert(0, {str(_ROOT)!r}); from tests.support.onvif import serve; serve()"
        command = [*enter, sys.executable, "-c", code, asked]
        self._process = ServerProcess(command, log=folder / f"onvif-{id(self)}.log", ready=_READY, start_timeout_s=30)

    def __enter__(self) -> Self:
        self._process.start()
        self.ports = json.loads(self._process.said().splitlines()[-1].removeprefix(_READY))
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._process.stop()

    def address(self, index: int = 0) -> str:
        """The device service of a camera."""
        return f"http://{self.plans[index].host}:{self.ports[index]}/onvif/device_service"


class _FaultError(Exception):
    def __init__(self, code: str, words: str, status: int = 400) -> None:
        super().__init__(words)
        self.code = code
        self.status = status


class _Camera(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, plan: CameraPlan) -> None:
        self.plan = plan
        self.state = _State(plan.name, timedelta(seconds=plan.ahead_s))
        super().__init__((plan.host, plan.port), _Handler)

    @property
    def now(self) -> datetime:
        """What time it thinks it is."""
        return datetime.now(UTC) + self.state.clock_ahead

    def place(self, uri: str) -> str:
        return uri.replace("{host}", self.plan.says_host or self.plan.host)


class _Handler(BaseHTTPRequestHandler):
    server: _Camera
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class calls it so
        del format, args

    def do_GET(self) -> None:
        plan = self.server.plan
        if self.path != "/snapshot.jpg" or plan.snapshot == "none":
            self._send(404, b"", "text/plain")
        elif plan.login is not None and not self._is_let_in(plan.snapshot, *plan.login):
            self._challenge(plan.snapshot)
        else:
            self._send(200, _picture(plan.name), "image/jpeg")

    def _challenge(self, kind: str) -> None:
        challenge = f'Basic realm="{_REALM}"'
        if kind == "digest":
            challenge = f'Digest realm="{_REALM}", nonce="{_NONCE}", qop="auth", algorithm=MD5'
        self._send(401, b"", "text/plain", {"WWW-Authenticate": challenge})

    def _is_let_in(self, kind: str, user: str, password: str) -> bool:
        said = self.headers.get("Authorization", "")
        if kind == "basic":
            return said == f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"
        got = dict(re.findall(r'(\w+)="?([^",]+)"?', said))
        ha1 = hashlib.md5(f"{user}:{_REALM}:{password}".encode()).hexdigest()
        ha2 = hashlib.md5(f"{self.command}:{got.get('uri', '')}".encode()).hexdigest()
        whole = f"{ha1}:{_NONCE}:{got.get('nc')}:{got.get('cnonce')}:{got.get('qop')}:{ha2}"
        return got.get("response") == hashlib.md5(whole.encode()).hexdigest()

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        if not self.path.startswith("/onvif/"):
            self._send(404, b"", "text/plain")
            return
        try:
            envelope = ET.fromstring(content)
            operation = next(iter(_child(envelope, f"{{{_SOAP}}}Body")))
            name = operation.tag.rpartition("}")[2]
            plan = self.server.plan
            if name not in _FREE and plan.over_http and not self._is_let_in("digest", *(plan.login or ("", ""))):
                self._challenge("digest")
                return
            if name not in _FREE and not plan.over_http:
                self._check(envelope)
            body, status = _answer(self.server, name, operation), 200
        except _FaultError as fault:
            body = (
                f"<s:Fault><s:Code><s:Value>s:Sender</s:Value><s:Subcode><s:Value>ter:{fault.code}</s:Value>"
                f'</s:Subcode></s:Code><s:Reason><s:Text xml:lang="en">{fault}</s:Text></s:Reason></s:Fault>'
            )
            status = fault.status
        whole = f'<?xml version="1.0" encoding="UTF-8"?><s:Envelope {_SPACES}><s:Body>{body}</s:Body></s:Envelope>'
        self._send(status, whole.encode(), "application/soap+xml; charset=utf-8")

    def _check(self, envelope: ET.Element) -> None:
        """As WS-Security wants it: the digest of nonce, time stamp and password, stamped by the camera's own clock."""
        if self.server.plan.login is None:
            return
        user, password = self.server.plan.login
        try:
            token = _child(_child(_child(envelope, f"{{{_SOAP}}}Header"), f"{{{_SECURITY}}}Security"), "*")
            nonce = base64.b64decode(_child(token, f"{{{_SECURITY}}}Nonce").text or "")
            created = _child(token, f"{{{_UTILITY}}}Created").text or ""
            said = _child(token, f"{{{_SECURITY}}}Password").text or ""
            named = _child(token, f"{{{_SECURITY}}}Username").text
        except KeyError as error:
            raise _FaultError("NotAuthorized", "Sender not authorized") from error
        right = base64.b64encode(hashlib.sha1(nonce + created.encode() + password.encode()).digest()).decode()
        stamped = datetime.fromisoformat(created)
        if named != user or said != right or abs((stamped - self.server.now).total_seconds()) > _SKEW_MAX_S:
            self.server.state.refused += 1
            raise _FaultError("NotAuthorized", "Sender not authorized")

    def _send(self, status: int, content: bytes, kind: str, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


def _answer(camera: _Camera, name: str, asked: ET.Element) -> str:
    answers = _DEVICE | _MEDIA
    if name not in answers:
        raise _FaultError("ActionNotSupported", f"{name} is not implemented", 500)
    space = "tds" if name in _DEVICE else "trt"
    return f"<{space}:{name}Response>{answers[name](camera, asked)}</{space}:{name}Response>"


def _time(camera: _Camera, _asked: ET.Element) -> str:
    now = camera.now
    return (
        "<tds:SystemDateAndTime><tt:DateTimeType>Manual</tt:DateTimeType><tt:DaylightSavings>false</tt:DaylightSavings>"
        "<tt:TimeZone><tt:TZ>CET-1CEST,M3.5.0,M10.5.0/3</tt:TZ></tt:TimeZone><tt:UTCDateTime>"
        f"<tt:Time><tt:Hour>{now.hour}</tt:Hour><tt:Minute>{now.minute}</tt:Minute>"
        f"<tt:Second>{now.second}</tt:Second></tt:Time><tt:Date><tt:Year>{now.year}</tt:Year>"
        f"<tt:Month>{now.month}</tt:Month><tt:Day>{now.day}</tt:Day></tt:Date></tt:UTCDateTime></tds:SystemDateAndTime>"
    )


def _set_time(camera: _Camera, asked: ET.Element) -> str:
    numbers = {one.tag.rpartition("}")[2]: int(one.text or "") for one in asked.iter() if (one.text or "").isdigit()}
    parts = [numbers[part] for part in ("Year", "Month", "Day", "Hour", "Minute", "Second")]
    wanted = datetime.fromisoformat("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}+00:00".format(*parts))
    camera.state.clock_ahead = wanted - datetime.now(UTC)
    return ""


def _about(camera: _Camera, _asked: ET.Element) -> str:
    return (
        "<tds:Manufacturer>Testmake</tds:Manufacturer><tds:Model>TC-2</tds:Model>"
        f"<tds:FirmwareVersion>1.2.3</tds:FirmwareVersion><tds:SerialNumber>{camera.plan.serial}</tds:SerialNumber>"
        "<tds:HardwareId>7</tds:HardwareId>"
    )


def _services(camera: _Camera, _asked: ET.Element) -> str:
    base = camera.place(f"http://{{host}}:{camera.server_port}/onvif")
    spaces = {"device_service": "device", "media_service": "media"}
    return "".join(
        f"<tds:Service><tds:Namespace>http://www.onvif.org/ver10/{space}/wsdl</tds:Namespace>"
        f"<tds:XAddr>{base}/{path}</tds:XAddr><tds:Version><tt:Major>2</tt:Major><tt:Minor>60</tt:Minor></tds:Version>"
        "</tds:Service>"
        for path, space in spaces.items()
    )


def _scopes(camera: _Camera, _asked: ET.Element) -> str:
    scopes = replace(camera.plan, name=camera.state.name).scopes
    return "".join(
        f"<tds:Scopes><tt:ScopeDef>{kind}</tt:ScopeDef><tt:ScopeItem>{escape(item)}</tt:ScopeItem></tds:Scopes>"
        for kind, items in scopes.items()
        for item in items
    )


def _set_scopes(camera: _Camera, asked: ET.Element) -> str:
    names = [one.text or "" for one in asked.iter() if "/name/" in (one.text or "")]
    assert len(names) == 1, names
    camera.state.name = unquote(names[0].rpartition("/name/")[2])
    return ""


def _interfaces(camera: _Camera, _asked: ET.Element) -> str:
    return (
        '<tds:NetworkInterfaces token="eth0"><tt:Enabled>true</tt:Enabled><tt:Info><tt:Name>eth0</tt:Name>'
        f"<tt:HwAddress>{camera.plan.mac}</tt:HwAddress><tt:MTU>1500</tt:MTU></tt:Info></tds:NetworkInterfaces>"
    )


def _reboot(camera: _Camera, _asked: ET.Element) -> str:
    camera.state.reboots += 1
    return "<tds:Message>back in 30 seconds</tds:Message>"


def _encoder(camera: _Camera, token: str, tag: str) -> str:
    held = camera.state.encoders[token]
    h264 = "<tt:H264><tt:GovLength>20</tt:GovLength><tt:H264Profile>Main</tt:H264Profile></tt:H264>"
    return (
        f'<{tag} token="{token}"><tt:Name>{token}</tt:Name><tt:UseCount>1</tt:UseCount>'
        f"<tt:Encoding>{held['codec']}</tt:Encoding><tt:Resolution><tt:Width>{held['width']}</tt:Width>"
        f"<tt:Height>{held['height']}</tt:Height></tt:Resolution><tt:Quality>5</tt:Quality><tt:RateControl>"
        f"<tt:FrameRateLimit>{held['fps']}</tt:FrameRateLimit><tt:EncodingInterval>1</tt:EncodingInterval>"
        f"<tt:BitrateLimit>{held['kbps']}</tt:BitrateLimit></tt:RateControl>"
        f"{h264 if held['codec'] == 'H264' else ''}"
        "<tt:Multicast><tt:Address><tt:Type>IPv4</tt:Type><tt:IPv4Address>0.0.0.0</tt:IPv4Address></tt:Address>"
        "<tt:Port>0</tt:Port><tt:TTL>1</tt:TTL><tt:AutoStart>false</tt:AutoStart></tt:Multicast>"
        f"<tt:SessionTimeout>PT60S</tt:SessionTimeout></{tag}>"
    )


def _profiles(camera: _Camera, _asked: ET.Element) -> str:
    source = (
        '<tt:VideoSourceConfiguration token="lens"><tt:Name>lens</tt:Name><tt:UseCount>2</tt:UseCount>'
        '<tt:SourceToken>lens</tt:SourceToken><tt:Bounds x="0" y="0" width="1920" height="1080"/>'
        "</tt:VideoSourceConfiguration>"
    )
    return "".join(
        f'<trt:Profiles token="profile-{token}" fixed="true"><tt:Name>{token}</tt:Name>{source}'
        f"{_encoder(camera, token, 'tt:VideoEncoderConfiguration')}</trt:Profiles>"
        for token in camera.state.encoders
    )


def _video_sources(_camera: _Camera, _asked: ET.Element) -> str:
    return (
        '<trt:VideoSources token="lens"><tt:Framerate>25</tt:Framerate><tt:Resolution><tt:Width>1920</tt:Width>'
        "<tt:Height>1080</tt:Height></tt:Resolution></trt:VideoSources>"
    )


def _stream(camera: _Camera, asked: ET.Element) -> str:
    token = _said(asked, "ProfileToken").removeprefix("profile-")
    if token not in camera.state.encoders:
        raise _FaultError("NoProfile", f"there is no profile {token}")
    return _uri(camera.place(camera.plan.main if token == "main" else camera.plan.sub))


def _snapshot(camera: _Camera, _asked: ET.Element) -> str:
    if camera.plan.snapshot == "none":
        raise _FaultError("ActionNotSupported", "GetSnapshotUri is not implemented", 500)
    return _uri(camera.place(f"http://{{host}}:{camera.server_port}/snapshot.jpg"))


def _uri(uri: str) -> str:
    return (
        f"<trt:MediaUri><tt:Uri>{escape(uri)}</tt:Uri><tt:InvalidAfterConnect>false</tt:InvalidAfterConnect>"
        "<tt:InvalidAfterReboot>false</tt:InvalidAfterReboot><tt:Timeout>PT0S</tt:Timeout></trt:MediaUri>"
    )


def _one_encoder(camera: _Camera, asked: ET.Element) -> str:
    return _encoder(camera, _said(asked, "ConfigurationToken"), "trt:Configuration")


def _set_encoder(camera: _Camera, asked: ET.Element) -> str:
    configuration = next(one for one in asked if one.tag.endswith("}Configuration"))
    held = camera.state.encoders[configuration.attrib["token"]]
    size = int(_said(configuration, "Width")), int(_said(configuration, "Height"))
    if size not in _SIZES:
        raise _FaultError("ConfigModify", "this resolution is not among those that are offered")
    held["codec"] = _said(configuration, "Encoding")
    held["width"], held["height"] = size
    held["fps"] = min(int(_said(configuration, "FrameRateLimit")), camera.plan.fps_max)
    held["kbps"] = int(_said(configuration, "BitrateLimit"))
    return ""


_SIZES = ((1920, 1080), (1280, 720), (640, 360), (320, 180))


def _options(camera: _Camera, _asked: ET.Element) -> str:
    sizes = "".join(
        f"<tt:ResolutionsAvailable><tt:Width>{width}</tt:Width><tt:Height>{height}</tt:Height>"
        "</tt:ResolutionsAvailable>"
        for width, height in _SIZES
    )
    return (
        "<trt:Options><tt:QualityRange><tt:Min>1</tt:Min><tt:Max>10</tt:Max></tt:QualityRange>"
        f"<tt:H264>{sizes}<tt:GovLengthRange><tt:Min>1</tt:Min><tt:Max>100</tt:Max></tt:GovLengthRange>"
        f"<tt:FrameRateRange><tt:Min>1</tt:Min><tt:Max>{camera.plan.fps_max}</tt:Max></tt:FrameRateRange>"
        "<tt:EncodingIntervalRange><tt:Min>1</tt:Min><tt:Max>1</tt:Max></tt:EncodingIntervalRange>"
        "<tt:H264ProfilesSupported>Main</tt:H264ProfilesSupported></tt:H264></trt:Options>"
    )


_DEVICE = {
    "GetSystemDateAndTime": _time,
    "SetSystemDateAndTime": _set_time,
    "GetDeviceInformation": _about,
    "GetServices": _services,
    "GetScopes": _scopes,
    "SetScopes": _set_scopes,
    "GetNetworkInterfaces": _interfaces,
    "SystemReboot": _reboot,
}
_MEDIA = {
    "GetProfiles": _profiles,
    "GetVideoSources": _video_sources,
    "GetStreamUri": _stream,
    "GetSnapshotUri": _snapshot,
    "GetVideoEncoderConfiguration": _one_encoder,
    "SetVideoEncoderConfiguration": _set_encoder,
    "GetVideoEncoderConfigurationOptions": _options,
}


def _child(element: ET.Element, tag: str) -> ET.Element:
    found = element.find(tag)
    if found is None:
        raise KeyError(tag)
    return found


def _said(element: ET.Element, name: str) -> str:
    return next((one.text or "" for one in element.iter() if one.tag.rpartition("}")[2] == name), "")


def _picture(name: str) -> bytes:
    from PIL import Image

    made = io.BytesIO()
    shade = int(hashlib.sha256(name.encode()).hexdigest()[:2], 16)
    Image.new("RGB", (320, 180), (shade, 96, 255 - shade)).save(made, "JPEG")
    return made.getvalue()


def serve() -> None:
    """Serve the cameras that the command line tells of, until the process ends."""
    plans = [CameraPlan(**plan) for plan in json.loads(sys.argv[1])]
    cameras = [_Camera(plan) for plan in plans]
    threads = [threading.Thread(target=camera.serve_forever) for camera in cameras]
    for thread in threads:
        thread.start()
    seen = [camera for camera in cameras if camera.plan.endpoint]
    published = [
        Published(
            camera.place(f"http://{{host}}:{camera.server_port}/onvif/device_service"),
            camera.plan.endpoint,
            [scope for scopes in camera.plan.scopes.values() for scope in scopes],
        )
        for camera in seen
    ]
    on_loopback = all(plan.host.startswith("127.") for plan in plans)
    with responding(published, on_loopback=on_loopback) if published else contextlib.nullcontext():
        sys.stderr.write(f"{_READY}{json.dumps([camera.server_port for camera in cameras])}\n")
        sys.stderr.flush()
        threads[0].join()
