"""What a process counts, as series of Prometheus: one table, from which `/metrics` and docs/metrics.md are made.

Pure, and light: the library that writes the format is loaded in `broker.metrics`, and only where somebody scrapes.

Source: Prometheus, "Metric and label naming" (base units, ``_total`` on counters).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from broker.figures import Distribution, own_versions
from broker.messages import NodeHealth

__all__ = ["SERIES", "Reading", "Sample", "Series", "info_of", "metrics_page", "samples_of"]

Kind = Literal["counter", "gauge", "histogram"]
Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Series:
    """One name under `/metrics`.

    Attributes:
        name: as it is scraped, without ``_bucket`` and the like.
        kind: a counter only grows while the process lives.
        about: its HELP text.
        labels: names of its labels.
        source: which figure it is, such as ``counts:frames_sent``: a regular expression, whose groups are the labels.
        of: the component that counts so; empty means any.
        factor: from the figure's unit to the series'.
    """

    name: str
    kind: Kind
    about: str
    labels: Labels = ()
    source: str = ""
    of: str = ""
    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class Sample:
    """A value of a series.

    Attributes:
        labels: values of its labels, in their order.
        value: the number, or a distribution.
    """

    series: Series
    labels: Labels
    value: float | Distribution


@dataclass(frozen=True, slots=True)
class Reading:
    """A process at one moment.

    Attributes:
        health: what it tells the bus, or would if it could reach it.
        connected: whether it can.
        distributions: how long its steps take.
    """

    health: NodeHealth
    connected: bool
    distributions: Mapping[str, Distribution] = field(default_factory=dict)


def _counter(name: str, about: str, source: str = "", *, of: str = "", labels: Labels = ()) -> Series:
    return Series(f"vigil_{name}_total", "counter", about, labels, f"counts:{source or name}", of)


def _gauge(name: str, about: str, source: str, *, of: str = "", labels: Labels = (), factor: float = 1.0) -> Series:
    return Series(f"vigil_{name}", "gauge", about, labels, source, of, factor)


def _histogram(name: str, about: str) -> Series:
    return Series(f"vigil_{name}_seconds", "histogram", about, (), f"distributions:{name}")


_COMMON = (
    _gauge("info", "Always 1; who this is.", "", labels=("origin", "version", "python")),
    _gauge("bus_connected", "Whether the process has its connection to the broker.", ""),
    _gauge("disk_free_bytes", "Free on the disk of the state folder.", ""),
    _gauge("machine_temperature_celsius", "Of the processor, where the machine says so.", ""),
    _gauge("machine_throttled", "1 while the machine runs slower than it could, by reason.", "", labels=("reason",)),
    _gauge("machine_wifi_dbm", "Strength of the wireless network.", ""),
    _gauge("machine_clock_synchronised", "Whether the clock is right, as far as the machine knows.", ""),
    _gauge("camera_frames_per_second", "Pictures looked at.", "", labels=("camera",)),
    _gauge("camera_sent_frames_per_second", "Frames sent.", "", labels=("camera",)),
    _counter("camera_late", "Pictures dropped because the machine was too slow.", labels=("camera",)),
    _counter("camera_reopened", "Times that the source was opened again.", labels=("camera",)),
    _gauge("camera_silent_seconds", "Since the last picture.", "", labels=("camera",)),
)
"""What every process tells, and of each camera."""

_TABLE = (
    _gauge("frame_in_flight_bytes", "Frames not yet on the wire.", "queues:frame_bytes_in_flight"),
    _gauge("outbox_bytes", "Payloads in the outbox.", "queues:outbox_bytes"),
    _gauge("outbox_depth", "Messages in the outbox, without the bridge's word.", "queues:outbox"),
    _gauge("cameras_orphaned", "Cameras that no worker has room for: add one.", "queues:cameras_orphaned"),
    _gauge("cameras_squeezed", "Cameras of which a part of the frames is left out.", "queues:cameras_squeezed"),
    _gauge("queue_depth", "Messages that wait, by queue.", "queues:(.+)", labels=("queue",)),
    Series("vigil_drops_total", "counter", "Messages dropped, by queue and reason.", ("queue",), "drops:(.+)"),
    # The bus, of every role.
    _counter("bus_connections", "Connections to the broker so far.", "connections"),
    _counter("bus_connections_lost", "Connections that ended, by cause.", "lost_(.+)", labels=("cause",)),
    _gauge("bus_mqtt_version", "MQTT version spoken: 5, 3 (3.1.1), or 0 for none yet.", "counts:mqtt_version"),
    _gauge("bus_packet_limit_bytes", "Largest packet that the broker takes; 0: any.", "counts:packet_bytes_max"),
    _gauge("bus_packet_limit_learned", "1: the broker did not tell, but cut.", "counts:packet_limit_learned"),
    _counter("messages_published", "Messages handed in, by class.", "published_(.+)", labels=("class",)),
    _counter("messages_received", "Messages decoded and handled.", "received"),
    _counter("outbox_resent", "Escalations and events sent again for want of a receipt.", "resent"),
    _counter("states_republished", "States told again to a new connection."),
    _counter("local_handed_over", "Messages that stayed inside the process."),
    _counter("frames_kept_back", "Frames that only this process was to see."),
    _counter("spans_exported", "Spans that the collector took."),
    _gauge(
        "certificate_remaining_seconds",
        "Until this process's certificate ends.",
        "counts:certificate_days",
        factor=86_400.0,
    ),
    _histogram("outbox_to_receipt", "From the outbox's disk to the bridge's word."),
    # A camera node.
    _gauge("cameras", "Cameras of this node.", "counts:cameras", of="edge"),
    _gauge("cameras_ended", "Of these, those whose source has ended or failed for good.", "counts:cameras_ended"),
    _counter("frames_captured", "Pictures looked at."),
    _counter("frames_sent", "Frames handed to the bus."),
    _counter("frames_reduced", "Of these, those made smaller to fit."),
    _gauge(
        "frames_pace_ratio", "Share of the wanted frames; below 1 while too hot.", "counts:frames_percent", factor=0.01
    ),
    _counter("movements", "Movements that began."),
    _counter("orders", "Commands taken."),
    _counter("sources_opened", "Times that a camera's source was opened."),
    _gauge("pool_cameras", "Cameras of pools that are this node's.", "counts:pool_cameras"),
    _counter("pool_cameras_gained", "Cameras of pools taken."),
    _counter("pool_cameras_lost", "Cameras of pools given up."),
    _counter("segments_recorded", "Segments that were closed.", "segments"),
    _counter("recorded_bytes", "Coded pictures written to the disk."),
    _counter("segments_deleted", "Segments deleted for room or age."),
    _counter("recording_failures", "Times that recording failed."),
    _counter("clips_delivered", "Clips delivered."),
    _histogram("capture_to_publish", "From the shutter to the bus, of each frame."),
    # A worker, or a node that scores its own frames.
    _counter("frames_scored", "Frames whose scores went out."),
    _counter("frames_handed_over", "Of these, those of cameras given away."),
    _counter("frames_unwanted", "Frames that nobody wants scored."),
    _counter("batches", "Inferences that succeeded."),
    _counter("escalations_raised", "Escalations raised.", "escalations", of="detector"),
    _counter("track_events", "Starts, updates and ends of objects told."),
    _counter("rules_paused", "Frames of which no rule was asked."),
    _counter(
        "camera_frames_dropped",
        "Frames replaced by newer ones or too old, by camera.",
        r"frames_dropped\.(.+)",
        labels=("camera",),
    ),
    _gauge("cameras_owned", "Cameras that are this worker's.", "counts:cameras_owned"),
    _counter("camera_claims", "Cameras claimed."),
    _counter("cameras_yielded", "Cameras given up to another worker."),
    _counter("claims_defended", "Claims said again against another's."),
    _counter("bus_doubts", "Times that all were silent at once: the bus, not they."),
    _histogram("frame_age", "Age of a frame when its scores went out."),
    _histogram("inference", "A batch in the model."),
    _histogram("score_to_escalation", "From a frame's arrival at the worker to its escalation on the disk."),
    # A bridge.
    _counter("bridge_escalations", "Escalations that came.", "escalations", of="bridge"),
    _counter("bridge_events", "Events that came.", "events", of="bridge"),
    _counter("bridge_stored", "Records that the sink took.", "stored", of="bridge"),
    _counter("bridge_repeated", "Records that the sink had already.", "repeated", of="bridge"),
    _counter("bridge_quarantined", "Records put aside: the sink never takes them.", "quarantined", of="bridge"),
    _counter("bridge_receipts", "Receipts sent.", "receipts", of="bridge"),
    _counter("bridge_receipts_unsent", "Receipts that found no connection.", "receipts_unsent", of="bridge"),
    _counter("bridge_drained", "Records of the journal that went into Kafka.", "drained", of="bridge"),
    _counter("bridge_foreign", "Messages of shards that another bridge serves.", "foreign", of="bridge"),
    _counter("bridge_evidence_put", "Pictures that went into the object store.", "evidence_put", of="bridge"),
    _counter("bridge_status_written", "States and healths that went into Kafka.", "status_written", of="bridge"),
    _gauge("bridge_shards", "Shards that there are.", "counts:shards", of="bridge"),
    _gauge("bridge_shards_owned", "Of these, those that this bridge serves.", "counts:shards_owned", of="bridge"),
    _counter("bridge_shards_gained", "Shards taken.", "shards_gained", of="bridge"),
    _counter("bridge_shards_lost", "Shards given up.", "shards_lost", of="bridge"),
    _gauge("bridge_gaps", "Sequences that the sink lacks, of all origins.", "counts:gaps", of="bridge"),
    _gauge(
        "bridge_gaps_of_origin",
        "Sequences that the sink lacks, by line and origin; the largest few.",
        "counts:gaps/(.+)/(.+)",
        of="bridge",
        labels=("stream", "origin"),
    ),
    _counter(
        "bridge_repeated_of_origin",
        "Repeats by line and origin; the most frequent few.",
        "repeated/(.+)/(.+)",
        of="bridge",
        labels=("stream", "origin"),
    ),
    _gauge("bridge_stored_p50_seconds", "Half of the records are stored within.", "counts:stored_p50_us", factor=1e-6),
    _gauge("bridge_stored_p99_seconds", "99 of 100 are stored within.", "counts:stored_p99_us", factor=1e-6),
    _histogram("receive_to_stored", "From a record's arrival at the bridge to the sink's word."),
    _histogram("produce_to_report", "From Kafka's producer to its report, or of a whole transaction."),
    # Commands out of Kafka.
    _counter("commands", "Commands out of Kafka, by what became of them.", "commands_(.+)", labels=("outcome",)),
    _counter("documents_published", "Documents of cameras that went into the registry.", of="commands"),
    _counter("documents_refused", "Documents of cameras that were wrong.", of="commands"),
    # Home Assistant.
    _gauge("homeassistant_cameras", "Cameras that it knows.", "counts:cameras", of="homeassistant"),
    _gauge("homeassistant_nodes", "Nodes that it knows.", "counts:nodes", of="homeassistant"),
    _gauge("homeassistant_entities", "Entities published.", "counts:entities", of="homeassistant"),
    _counter("homeassistant_births", "Times that it started and was told again.", "births", of="homeassistant"),
    # The web console.
    _gauge("console_pages", "Pages that are open.", "counts:pages", of="console"),
)
"""What is told as a figure: the first line that fits is its series."""

_UNNAMED = (
    _gauge("count", "What has no series of its own, by name.", "counts:(.+)", labels=("name",)),
    Series("vigil_step_seconds", "histogram", "Steps without a series of their own.", ("step",), "distributions:(.+)"),
)
SERIES = (*_COMMON, *_TABLE, *_UNNAMED)
"""All of them; a name may stand in several lines, once for each component that counts so."""
_SCORER = "scorer_"
_BY_NAME = {series.name: series for series in _COMMON}


def info_of(origin: str) -> Sample:
    """Who a process is. Its site, node and role stand on Prometheus' target, and would clash with labels so called."""
    versions = own_versions()
    return Sample(_BY_NAME["vigil_info"], (origin, versions["vigil"], versions["python"]), 1)


def samples_of(reading: Reading) -> Iterator[Sample]:
    """Everything that one process tells at one moment."""
    health, component = reading.health, reading.health.role.partition(".")[0]
    yield from _common(reading)
    numbers: tuple[tuple[str, Mapping[str, float | Distribution]], ...] = (
        ("queues", health.queues),
        ("drops", health.drops),
        ("counts", health.counts),
        ("distributions", reading.distributions),
    )
    for kind, values in numbers:
        for name, value in values.items():
            series, labels = _series_of(*_counted_by(component, kind, name))
            scaled = value if isinstance(value, Distribution) or series.factor == 1 else value * series.factor
            yield Sample(series, labels, scaled)


def _common(reading: Reading) -> Iterator[Sample]:
    health = reading.health
    single: dict[str, float | None] = {
        "vigil_bus_connected": reading.connected,
        "vigil_disk_free_bytes": health.disk_free_bytes,
        "vigil_machine_temperature_celsius": health.temperature_c,
        "vigil_machine_wifi_dbm": health.wifi_dbm,
        "vigil_machine_clock_synchronised": health.clock_synchronised,
    }
    for name, value in single.items():
        if value is not None:
            yield Sample(_BY_NAME[name], (), float(value))
    for reason in health.throttled:
        yield Sample(_BY_NAME["vigil_machine_throttled"], (reason,), 1)
    for camera, how in health.cameras.items():
        by_camera = {
            "vigil_camera_frames_per_second": how.fps,
            "vigil_camera_sent_frames_per_second": how.sent_fps,
            "vigil_camera_late_total": how.late,
            "vigil_camera_reopened_total": how.reopened,
            "vigil_camera_silent_seconds": how.silent_s,
        }
        for name, value in by_camera.items():
            if value is not None:
                yield Sample(_BY_NAME[name], (camera,), value)


def _counted_by(component: str, kind: str, name: str) -> tuple[str, str]:
    """Which component counts so, and how; a node that scores its own frames counts as a worker too."""
    if kind == "counts" and name.startswith(_SCORER):
        return "detector", f"{kind}:{name.removeprefix(_SCORER)}"
    return component, f"{kind}:{name}"


@lru_cache(maxsize=4_096)
def _series_of(component: str, source: str) -> tuple[Series, Labels]:
    """The first line of the table that fits, and what its labels are."""
    for series in (*_TABLE, *_UNNAMED):
        match = re.fullmatch(series.source, source)
        if match is not None and series.of in ("", component):
            return series, match.groups()
    raise LookupError(source)


_PAGE = """\
<!-- Made by `vigil metrics --write docs`: what stands here is changed in broker/series.py. -->

# Figures and traces

## Prometheus

Each role serves `/metrics` on a port of its own where `metrics.port` is set; `vigil metrics` lists them, and
`vigil metrics --scrape-config` prints the section of prometheus.yml for a machine. Site, node and role stand on the
target, so that every series has them, `up` too. The broker and `vigil ca serve` have no place on the bus: of them there
are `vigil_info` and `process_*` only, and of the Mosquitto that `vigil broker run` has started the same as
`mosquitto_process_*`. Dashboards are in deploy/grafana, alert rules in deploy/prometheus.

All of it is read every 5 s, whether there is a broker or not. The bounds of distributions reach from 1 ms to an hour,
and the targets (10, 15 and 50 ms, 1 and 5 s) are among them.

Also, of each process and as the Python library names them: `process_cpu_seconds_total`,
`process_resident_memory_bytes`, `process_start_time_seconds`, `process_open_fds`, `python_info` and a few more.

| asked for | series |
|---|---|
| lag | `vigil_receive_to_stored_seconds`, `vigil_outbox_to_receipt_seconds`, `vigil_queue_depth` |
| rates | `vigil_frames_sent_total`, `vigil_frames_scored_total`, `vigil_bridge_stored_total`, ... |
| drops | `vigil_drops_total` |
| latencies | `vigil_capture_to_publish_seconds`, `vigil_frame_age_seconds`, `vigil_inference_seconds`, \
`vigil_score_to_escalation_seconds`, `vigil_produce_to_report_seconds` |
| outbox depth | `vigil_outbox_depth`, `vigil_outbox_bytes` |
| orphans | `vigil_cameras_orphaned` |
| gaps | `vigil_bridge_gaps`, by origin `vigil_bridge_gaps_of_origin` |

## OpenTelemetry

With `tracing.endpoint` set, each process sends its steps to a collector, OTLP over HTTP, as `vigil-edge`,
`vigil-detector` and `vigil-bridge`; `tracing.share` of the pictures, and every escalation whole.

| step | from | to | child of |
|---|---|---|---|
| `capture` | the shutter | the bus | |
| `score` | the frame's arrival at a worker | its scores on the bus | `capture` |
| `escalate` | the rule fired | the outbox's disk | `score` |
| `forward` | the event's arrival at a bridge | Kafka's or the journal's word | `escalate`; of a track `score`, of a \
movement `capture` |

No id travels inside the mesh: each process computes them from the site, the camera and the moment of the picture
(`broker/tracing.py` says how, and whoever has an escalation can do the same). Kafka's header `traceparent` names the
step `forward`, so that a consumer goes on from there. A movement and a track belong to the picture that was taken at
their `at`; the traces of clips, and of what a drill raises, begin with `forward`.

A collector that is away costs the oldest spans above 4,096, which are counted (`vigil_drops_total`, queue `spans`), and
nothing else; more than some 2,000 spans a second of one process are dropped likewise.

## Series

| series | kind | labels | what |
|---|---|---|---|
"""


def metrics_page() -> str:
    """docs/metrics.md."""
    first = {series.name: series for series in reversed(SERIES)}
    rows = [first[name] for name in dict.fromkeys(series.name for series in SERIES)]
    lines = [
        f"| `{row.name}` | {row.kind} | {', '.join(f'`{label}`' for label in row.labels)} | {row.about} |\n"
        for row in rows
    ]
    return _PAGE + "".join(lines)
