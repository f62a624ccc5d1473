"""Logs: events with keys, to standard output; JSON unless a person is looking.

``log.info("broker.connected", host=host)`` - the event is a dotted constant, everything that varies is a key.
Secrets and pixels never go in.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import MutableMapping
from typing import Any, Literal, TextIO, cast

import structlog

__all__ = ["LogFormat", "LogLevel", "configure_logging", "get_logger"]

LogFormat = Literal["auto", "json", "text"]
LogLevel = Literal["debug", "info", "warning", "error"]

_REPEAT_INTERVAL_S = 1.0
"""A fault that repeats is one line a second with a count (mediamtx does so; a dead camera logged 30 a second)."""


_REPEAT_KEYS_MAX = 500
"""Faults that are told apart; hostile topics must not fill the memory."""


class _RepeatLimit:
    """Drop warnings and errors that repeat the last second's event; the next one through says how many."""

    def __init__(self, interval_s: float = _REPEAT_INTERVAL_S) -> None:
        self._interval_s = interval_s
        self._lock = threading.Lock()
        self._last: dict[tuple[str, str], tuple[float, int]] = {}

    def __call__(self, _logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if method not in {"warning", "error"}:
            return event
        key = (str(event.get("event")), str(event.get("camera", event.get("topic", ""))))
        now = time.monotonic()
        with self._lock:
            if len(self._last) > _REPEAT_KEYS_MAX:
                self._last.clear()
            last_s, muted = self._last.get(key, (-self._interval_s, 0))
            if now - last_s < self._interval_s:
                self._last[key] = (last_s, muted + 1)
                raise structlog.DropEvent
            self._last[key] = (now, 0)
        if muted:
            event["repeated"] = muted
        return event


def configure_logging(level: LogLevel = "info", style: LogFormat = "auto", *, stream: TextIO | None = None) -> None:
    """Set up logging for this process; call it once, from a command.

    Args:
        level: the least level that is written.
        style: ``json`` one object a line, ``text`` for people, ``auto`` text on a terminal and JSON elsewhere.
        stream: where to; default standard output. A command whose output is its result logs elsewhere.
    """
    stream = stream or sys.stdout
    as_text = style == "text" or (style == "auto" and stream.isatty())
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=stream.isatty()) if as_text else structlog.processors.JSONRenderer()
    )
    logging.basicConfig(stream=stream, level=logging.WARNING, format="%(message)s")
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            cast("structlog.typing.Processor", _RepeatLimit()),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )


def get_logger(**bound: object) -> structlog.typing.FilteringBoundLogger:
    """A logger with `bound` keys on every line."""
    return cast("structlog.typing.FilteringBoundLogger", structlog.get_logger(**bound))
