"""The settings of a site: one frozen model, one sub-model a component.

Where a value comes from, the first that has it wins: a flag of the command line, the environment
(``VIGIL_BUS__URL`` for ``bus.url``), the site file, the default here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import platformdirs
from pydantic import AfterValidator, Field, SecretStr, model_validator

from config.cameras import CameraSettings, FootageSettings
from config.log import LogFormat, LogLevel
from config.names import Name, this_node
from config.outside import BridgeSettings, HomeAssistantSettings, KafkaSettings, MetricsSettings, TracingSettings
from config.rules import PresenceRule, Rule
from config.section import Fraction, Section

__all__ = [
    "BridgeSettings",
    "BrokerSettings",
    "BusSettings",
    "CameraSettings",
    "ConsoleSettings",
    "DeliveryOverride",
    "DetectorSettings",
    "EdgeSettings",
    "FleetSettings",
    "HomeAssistantSettings",
    "KafkaSettings",
    "LogSettings",
    "MetricsSettings",
    "OutboxSettings",
    "RegionSettings",
    "Settings",
    "TracingSettings",
    "TrackingSettings",
    "default_registry",
    "default_state_dir",
]


def default_state_dir() -> Path:
    """Where outboxes, journals and logs of this user live."""
    return Path(platformdirs.user_state_dir("vigil", appauthor=False))


def _check_bus_url(value: str) -> str:
    if "@" in value:
        raise ValueError("user name and password have settings of their own: bus.username and VIGIL_BUS__PASSWORD")
    if re.fullmatch(r"mqtts?://[^/\s]+", value):
        return value
    raise ValueError("write mqtt://HOST:PORT, or mqtts://HOST:PORT for TLS")


class LogSettings(Section):
    """Logs of every process."""

    level: LogLevel = "info"
    """The least level that is written."""
    style: LogFormat = "auto"
    """``json``, ``text``, or ``auto``: text on a terminal and JSON elsewhere."""


class DeliveryOverride(Section):
    """QoS and retain of one topic, in place of the contract's."""

    qos: Literal[0, 1, 2] | None = None
    """Quality of service; empty keeps the contract's."""
    retain: bool | None = None
    """Whether the broker keeps the last message; empty keeps the contract's."""


class OutboxSettings(Section):
    """The disk queue of events and escalations that are not yet confirmed."""

    rows_max: int = Field(default=200_000, ge=100)
    """Messages it holds before a publish is refused."""
    bytes_max: int = Field(default=2_000_000_000, ge=1_000_000)
    """Bytes it holds before a publish is refused."""
    window: int = Field(default=64, ge=1, le=10_000)
    """Messages that may be on their way at one time."""
    resend_after_s: float = Field(default=10.0, ge=0.5, le=3600)
    """Seconds without a receipt after which an escalation or event is sent again, under the same id."""
    event_hold_s: float = Field(default=86_400, ge=0, le=2_592_000)
    """Seconds that an event the broker has (motion, track) waits for a bridge's receipt; after that the broker's word
    is enough. An escalation waits for ever."""


class BusSettings(Section):
    """How a process reaches the broker."""

    url: Annotated[str, AfterValidator(_check_bus_url)] = "mqtt://127.0.0.1:1883"
    """``mqtt://HOST:PORT``, or ``mqtts://`` for TLS."""
    identity: Path | None = None
    """Folder with this machine's certificates, as `vigil join` writes it; default ``identity`` in the state folder.
    Used with ``mqtts://`` only."""
    ca_file: Path | None = None
    """Certificates that the broker's is checked against where there is no identity; default the system's."""
    protocol: Literal["auto", "5", "3.1.1"] = "auto"
    """MQTT version; ``auto`` tries 5 and falls back to 3.1.1."""
    username: str | None = None
    """User name, where the broker asks for one."""
    password: SecretStr | None = None
    """Password; better given as VIGIL_BUS__PASSWORD than in a file."""
    keepalive_s: int = Field(default=20, ge=2, le=3600)
    """Seconds of silence after which each side checks the other."""
    connect_timeout_s: float = Field(default=5.0, ge=0.2, le=60)
    """Seconds to wait for a TCP connection and for the broker's answer."""
    receive_window: int = Field(default=1_000, ge=1, le=65_535)
    """Messages that the broker may have sent and this process not yet acknowledged (MQTT 5, Receive Maximum)."""
    frame_bytes_in_flight_max: int = Field(default=4_000_000, ge=100_000)
    """Bytes of frames that may wait for the network; older frames of a camera make way for newer ones."""
    frame_bytes_max: int = Field(default=1_900_000, ge=10_000, le=250_000_000)
    """The largest frame that is sent. Mosquitto 2.1 disconnects a client above 2,000,000 bytes by default."""
    frame_age_max_s: float = Field(default=2.0, ge=0.1, le=3600)
    """Seconds after which a frame is worth nothing: it is not sent any more, the broker lets it expire (MQTT 5), and a
    reader that is further behind than this drops it and catches up."""
    outbox: OutboxSettings = OutboxSettings()
    """The disk queue."""
    delivery: dict[str, DeliveryOverride] = Field(default_factory=dict)
    """QoS and retain by topic name as `vigil topics` lists them, such as ``camera_motion``."""


class BrokerSettings(Section):
    """The broker that Vigil runs itself."""

    engine: Literal["embedded", "mosquitto"] = "embedded"
    """``embedded`` is amqtt inside this process; ``mosquitto`` is a supervised Mosquitto."""
    host: str = "127.0.0.1"
    """Address to listen on. The embedded broker is made for loopback."""
    port: int = Field(default=1883, ge=1, le=65535)
    """TCP port without TLS."""
    secure: bool = False
    """Ask everybody for a certificate of the site (TLS 1.2 or later), and listen on no port without one. Needs
    `vigil ca init`."""
    secure_port: int = Field(default=8883, ge=1, le=65535)
    """TCP port for the mesh's processes, where it is secure."""
    people_port: int = Field(default=8884, ge=1, le=65535)
    """TCP port for people and dashboards, where it is secure."""
    packet_bytes_max: int = Field(default=20_000_000, ge=100_000, le=268_435_455)
    """The largest packet that Mosquitto takes."""


class EdgeSettings(Section):
    """The node that watches cameras."""

    stall_timeout_s: float = Field(default=5.0, ge=0.5, le=600)
    """Seconds without a picture after which a camera is rebuilt."""
    zoom_lease_s: float = Field(default=30.0, ge=1, le=3600)
    """Seconds after which a zoom ends that nobody asked for again."""
    hot_c: float = Field(default=80.0, ge=40, le=110)
    """Temperature of the processor, degrees Celsius, from which fewer frames are sent."""
    detector: bool = False
    """Score this node's frames in the same process, with `detector`'s settings; works without a broker too."""
    send_frames: Literal["all", "moving", "zoom"] = "all"
    """Which frames leave a node that scores its own: all, those in which something moves, or only while somebody
    zooms."""
    cameras_max: int = Field(default=0, ge=0, le=10_000)
    """The most cameras of pools that this node takes on; 0: as many as fall to it."""
    footage: FootageSettings = FootageSettings()
    """Recordings of this node."""


class RegionSettings(Section):
    """Parts of the picture that are looked at more closely."""

    per_frame_max: int = Field(default=2, ge=0, le=16)
    """The most parts of one frame, besides the whole of it; 0 looks at the whole only. A worker that does not keep up
    looks at fewer."""
    refresh_s: float = Field(default=5.0, ge=0, le=600)
    """Seconds after which an object that stays where it is is looked at again."""


class TrackingSettings(Section):
    """How boxes become objects."""

    min_score: Fraction = 0.5
    """The least score with which an object begins."""
    confirm_s: float = Field(default=0.3, ge=0, le=60)
    """Seconds over which it must be seen before it counts; at least twice."""
    lost_s: float = Field(default=2.0, gt=0, le=600)
    """Seconds without being seen after which it has left."""
    update_s: float = Field(default=5.0, ge=0.2, le=3600)
    """Seconds between two events that tell how it goes on."""
    still_s: float = Field(default=10.0, ge=0.5, le=3600)
    """Seconds without moving after which it stands still."""


class DetectorSettings(Section):
    """The worker that scores frames."""

    model: Path | None = None
    """A model file (.onnx or .tflite), which this worker then keeps. Empty: the model that the site uses
    (`vigil models use`), else the newest of the model cache, else the HOG people detector."""
    labels: Path | None = None
    """A file with one label a line, where the model does not bring its own; default COCO's 80."""
    layout: str = ""
    """How the model writes down what it found, where its file does not tell: yolox, yolov5, yolov8, end-to-end,
    efficient-nms, rt-detr, rf-detr, detr, ssd or classifier."""
    provider: Literal["auto", "tensorrt", "cuda", "openvino", "cpu"] = "auto"
    """What ONNX Runtime runs on; ``auto``: the fastest that is there and loads, in this order."""
    min_score: Fraction = 0.35
    """Detections below this are not published."""
    nms_iou: Fraction = 0.45
    """Boxes of one label that overlap more than this are one object."""
    batch_max: int = Field(default=8, ge=1, le=64)
    """The most frames in one inference."""
    threads: int = Field(default=0, ge=0, le=256)
    """Threads of one inference; 0 lets the runtime choose."""
    frame_age_max_s: float = Field(default=5.0, gt=0, le=3600)
    """Frames older than this when they reach the model are dropped, and counted."""
    evidence_bytes_max: int = Field(default=150_000, ge=5_000, le=600_000)
    """The largest picture inside an escalation; larger ones are encoded smaller."""
    classes: tuple[Name, ...] = ()
    """What kind of worker this is, such as ``gpu``: cameras that ask for such a worker (`worker`) come to it."""
    capacity_fps: float | None = Field(default=None, gt=0, le=100_000)
    """Frames a second that this worker takes on; default what it measures at its start, less a tenth."""
    models_folder: Path | None = None
    """Where model files are kept; default ``vigil/models`` in the user's cache folder."""
    min_rate_fps: float = Field(default=0.5, gt=0, le=60)
    """Frames a second that every camera gets before any gets more."""
    regions: RegionSettings = RegionSettings()
    """Parts of the picture that are looked at more closely."""
    tracking: TrackingSettings = TrackingSettings()
    """How boxes become objects."""
    rules: dict[Name, Rule] = Field(default_factory=lambda: dict[str, Rule](presence=PresenceRule()))
    """Rules by name."""


def default_registry() -> Path:
    """Where the files of this user's site are: what people write, kept apart from what Vigil can make anew."""
    return Path(platformdirs.user_config_dir("vigil", appauthor=False)) / "registry"


class FleetSettings(Section):
    """What keeps cameras and nodes in order."""

    registry: Path = Field(default_factory=default_registry)
    """Folder with the site's cameras and nodes, one YAML file each; default ``registry`` in the user's configuration
    folder, or in the state folder where that one is given."""
    trial_s: int = Field(default=300, ge=10, le=86_400)
    """Seconds within which a node's new version must run everything that ran before; else the one before it is taken
    again."""
    find_after_s: float = Field(default=120.0, ge=0.1, le=86_400)
    """Seconds that a camera must be away before it is looked for in the network, by its MAC and serial number."""
    find_every_s: float = Field(default=6 * 3600.0, ge=60, le=30 * 86_400)
    """Seconds between two looks at all cameras of the network, to learn how to know them again."""
    find_interfaces: tuple[str, ...] = ()
    """Network interfaces on which to look, by name or address; empty: all."""
    watchdog_s: float = Field(default=60.0, ge=1, le=3600)
    """Seconds of silence after which the agent of a node kills a process that hangs, and starts it again."""
    door_port: int = Field(default=8885, ge=0, le=65535)
    """TCP port where nodes join, renew their certificates and fetch what is theirs, on the machine with the site's
    authority; 0: `vigil fleet` keeps no door open there."""


class ConsoleSettings(Section):
    """The web page."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=8126, ge=1, le=65535)
    """TCP port."""


def _keep_together(value: Any) -> Any:  # noqa: ANN401 - whatever is to be validated
    """A mesh with a state folder of its own, beside another of this user, has a registry of its own too."""
    if not isinstance(value, dict) or "state_dir" not in value:
        return value
    fleet = value.get("fleet", {})
    if not isinstance(fleet, dict) or "registry" in fleet or Path(str(value["state_dir"])) == default_state_dir():
        return value
    return {**value, "fleet": {**fleet, "registry": Path(str(value["state_dir"])) / "registry"}}


class Settings(Section):
    """Everything a site file may say."""

    _together = model_validator(mode="before")(_keep_together)

    site: Name = "home"
    """The site's name, a level of every topic."""
    node: Name = Field(default_factory=this_node)
    """This machine's name, a level of the topics of its processes; default the host name."""
    state_dir: Path = Field(default_factory=default_state_dir)
    """Where this machine keeps outboxes and the journal."""
    log: LogSettings = LogSettings()
    """Logs."""
    bus: BusSettings = BusSettings()
    """The way to the broker."""
    broker: BrokerSettings = BrokerSettings()
    """The broker that Vigil runs itself."""
    cameras: dict[Name, CameraSettings] = Field(default_factory=dict)
    """Cameras by name."""
    edge: EdgeSettings = EdgeSettings()
    """The node that watches cameras."""
    detector: DetectorSettings = DetectorSettings()
    """The worker that scores frames."""
    bridge: BridgeSettings = BridgeSettings()
    """The way out."""
    homeassistant: HomeAssistantSettings = HomeAssistantSettings()
    """What Home Assistant is told."""
    fleet: FleetSettings = FleetSettings()
    """What keeps cameras and nodes in order."""
    console: ConsoleSettings = ConsoleSettings()
    """The web page."""
    metrics: MetricsSettings = MetricsSettings()
    """Figures for Prometheus."""
    tracing: TracingSettings = TracingSettings()
    """Traces for OpenTelemetry."""
