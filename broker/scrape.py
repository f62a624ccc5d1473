"""Where Prometheus finds the processes of a machine, and the door of one of them.

Light: the library behind the door is loaded only where `metrics.port` is set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from broker.topics import origin_of
from config.log import get_logger
from config.settings import MetricsSettings, Settings

if TYPE_CHECKING:
    from broker.metrics import MetricsServer
    from broker.series import Reading

__all__ = ["ROLES", "ScrapePoint", "metrics_port", "metrics_url", "scrape_config", "scraped"]

ROLES = ("broker", "edge", "detector", "bridge", "console", "fleet", "commands", "homeassistant")
"""Each has the port of its place in this row, counted from `metrics.port`."""
_STRIDE = 10
"""``detector.2`` is so far behind ``detector``."""
_EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}  # noqa: S104 - addresses that are looked up


def metrics_port(settings: MetricsSettings, role: str) -> int | None:
    """The port of a role on every machine; None where there is none.

    Args:
        settings: where the first one is.
        role: such as ``detector.2``.
    """
    component, _, number = role.partition(".")
    if settings.port is None or component not in ROLES or not (number or "1").isdecimal():
        return None
    port = settings.port + ROLES.index(component) + _STRIDE * (int(number or "1") - 1)
    return port if port <= 65_535 else None


def metrics_url(settings: MetricsSettings, role: str) -> str | None:
    """Where a role of this machine is scraped; None where it is not."""
    port = metrics_port(settings, role)
    host = _EVERY_ADDRESS.get(settings.host, settings.host)
    return None if port is None else f"http://{f'[{host}]' if ':' in host else host}:{port}/metrics"


def scrape_config(settings: Settings, roles: Sequence[str], *, host: str | None = None) -> str:
    """The section of prometheus.yml for the roles of this machine.

    Who a process is goes onto its target: Prometheus then has it on every series, also on `up`.

    Args:
        settings: the site's.
        roles: those of this machine.
        host: how Prometheus reaches it; default `metrics.host`.
    """
    import yaml

    named = host or _EVERY_ADDRESS.get(settings.metrics.host, settings.metrics.host)
    targets = [
        {
            "targets": [f"{f'[{named}]' if ':' in named else named}:{port}"],
            "labels": {"site": settings.site, "node": settings.node, "role": role},
        }
        for role in roles
        if (port := metrics_port(settings.metrics, role)) is not None
    ]
    job = {"job_name": "vigil", "scrape_interval": "15s", "static_configs": targets}
    return yaml.safe_dump({"scrape_configs": [job]}, sort_keys=False)


class ScrapePoint:
    """`/metrics` of one process, where the settings ask for it. Trouble with it is told, and never stops the process.

    Concurrency: `open` and `close` belong to one thread.

    Args:
        settings: the site's.
        role: the process's role.
        read: how it is; None while it does not know.
        child: a program that it runs, whose use of the machine is told too.
    """

    def __init__(
        self, settings: Settings, role: str, read: Callable[[], Reading | None] = lambda: None, *, child: str = ""
    ) -> None:
        self._settings = settings
        self._role = role
        self._read = read
        self._child = child
        self._port = metrics_port(settings.metrics, role)
        self._server: MetricsServer | None = None
        self._trouble = ""

    def open(self) -> None:
        """Begin to answer; to be called again after some seconds, since a port may become free."""
        if self._port is None or self._server is not None:
            return
        settings = self._settings
        try:
            from broker.metrics import MetricsServer
            from broker.series import info_of

            who = info_of(origin_of(settings.node, self._role))
            self._server = MetricsServer(settings.metrics.host, self._port, who=who, read=self._read, child=self._child)
        except ModuleNotFoundError as error:
            self._tell(f"it needs {error.name}: pip install 'vigil-mesh[telemetry]'")
        except OSError as error:
            self._tell(f"{error.strerror or error}: choose another metrics.port or metrics.host")
        else:
            get_logger().info("metrics.listening", host=settings.metrics.host, port=self._port)

    def _tell(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            get_logger().warning(
                "metrics.unavailable", host=self._settings.metrics.host, port=self._port, error=trouble
            )

    def close(self) -> None:
        """Answer no more."""
        if self._server is not None:
            self._server.close()
            self._server = None


@contextmanager
def scraped(settings: Settings, role: str, *, child: str = "") -> Iterator[None]:
    """While this lasts, a process without a place on the bus tells who it is and what it uses."""
    point = ScrapePoint(settings, role, child=child)
    point.open()
    try:
        yield
    finally:
        point.close()
