"""`/metrics` of one process, for Prometheus. The only file that imports prometheus_client.

Imported only where `metrics.port` is set: 3 MB that a camera node need not have.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import accumulate
from wsgiref.simple_server import WSGIServer

import psutil
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from broker.figures import BOUNDS_S, Distribution
from broker.series import Reading, Sample, Series, samples_of

__all__ = ["MetricsServer"]

_BOUNDS = (*(f"{bound_s:g}" for bound_s in BOUNDS_S), "+Inf")
_JOIN_S = 2.0


class MetricsServer:
    """Serves what a process tells, on a thread of its own.

    Concurrency: `read` is called on the threads of whoever scrapes.

    Args:
        host: address to listen on.
        port: TCP port.
        who: who this is.
        read: how the process is; None while it does not know.
        child: a program that the process runs, whose use of the machine is told too.

    Raises:
        OSError: nobody can listen there.
    """

    def __init__(
        self, host: str, port: int, *, who: Sample, read: Callable[[], Reading | None], child: str = ""
    ) -> None:
        # Not the library's own registry: a test, or a node that scores its own frames, may have two in one process.
        registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=registry)
        if child:
            ProcessCollector(namespace=child, pid=lambda: _child_pid(child), registry=registry)
        PlatformCollector(registry=registry)
        registry.register(_Series(who, read))
        self._server: WSGIServer
        self._thread: threading.Thread
        self._server, self._thread = start_http_server(port, host, registry)

    def close(self) -> None:
        """Listen no longer."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(_JOIN_S)


def _child_pid(name: str) -> int:
    """Of the program that this process has started; 0, which nobody has, while it has not."""
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if child.name() == name:
                return child.pid
    return 0


class _Series(Collector):
    def __init__(self, who: Sample, read: Callable[[], Reading | None]) -> None:
        self._who = who
        self._read = read

    def collect(self) -> Iterator[Metric]:
        """Once for each scrape."""
        reading = self._read()
        families: dict[str, Metric] = {}
        for sample in (self._who, *(samples_of(reading) if reading is not None else ())):
            name = sample.series.name
            if name not in families:
                families[name] = _family(sample.series)
            _add(families[name], sample)
        yield from families.values()


def _family(series: Series) -> Metric:
    families: dict[str, type[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]] = {
        "counter": CounterMetricFamily,
        "gauge": GaugeMetricFamily,
        "histogram": HistogramMetricFamily,
    }
    return families[series.kind](series.name, series.about, labels=series.labels)


def _add(family: Metric, sample: Sample) -> None:
    if isinstance(sample.value, Distribution) and isinstance(family, HistogramMetricFamily):
        buckets = list(zip(_BOUNDS, accumulate(sample.value.counts), strict=True))
        family.add_metric(sample.labels, buckets, sample.value.sum_s)
    elif isinstance(family, CounterMetricFamily | GaugeMetricFamily) and not isinstance(sample.value, Distribution):
        family.add_metric(sample.labels, sample.value)
