"""Logs: events with keys, to standard output; JSON unless a person is looking.

``log.info("broker.connected", host=host)`` - the event is a dotted constant, everything that varies is a key.
Secrets and pixels never go in. What looks like a secret all the same is masked (`config.secrets`), the last line of
defence, and so it is in what libraries log.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Mapping, MutableMapping
from types import ModuleType
from typing import Any, Literal, TextIO, cast

from config.secrets import MASK, is_secret_name, mask

# structlog loads rich, where that is installed, for coloured tracebacks that no log of Vigil has: an eighth of what a
# camera node's start costs. Without it in sight structlog does without, and whoever wants rich finds it afterwards.
_modules = cast("dict[str, ModuleType | None]", sys.modules)
_rich = _modules.setdefault("rich", None)
try:
    import structlog
finally:
    if _rich is None:
        del _modules["rich"]

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


def _mask_event(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {key: _masked_value(key, value) for key, value in event.items()}


def _masked_value(key: str, value: object) -> object:
    if value is None or isinstance(value, bool):
        return value
    return MASK if is_secret_name(key) else _masked(value)


def _masked(value: object) -> object:
    if isinstance(value, str):
        return mask(value)
    if value is None or isinstance(value, int | float):
        return value
    if isinstance(value, Mapping):
        return {str(key): _masked_value(str(key), item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_masked(item) for item in value]
    return mask(repr(value))  # as a renderer would write it


class _UnfailingStream:
    """A stream that raises nothing: no full disk and no reader that left ends the thread that has something to say.

    What could not be written is counted; the next line that comes through carries the number.

    Args:
        stream: where the lines go.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._failed = False
        self.lines_lost = 0

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except (OSError, ValueError):  # ValueError: it is closed, or its encoding has no such letter
            self._failed = True
            return 0

    def flush(self) -> None:
        """End of a line."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._failed = True
        self.lines_lost = self.lines_lost + 1 if self._failed else 0
        self._failed = False

    def add_lines_lost(
        self, _logger: object, _method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        """A step of the log's way: say how much is missing before this line."""
        if self.lines_lost:
            event["lines_lost"] = self.lines_lost
        return event


class _MaskingFormatter(logging.Formatter):
    """For libraries, which know of no secrets."""

    def format(self, record: logging.LogRecord) -> str:
        return mask(super().format(record))


def configure_logging(level: LogLevel = "info", style: LogFormat = "auto", *, stream: TextIO | None = None) -> None:
    """Set up logging for this process; call it once, from a command.

    Args:
        level: the least level that is written.
        style: ``json`` one object a line, ``text`` for people, ``auto`` text on a terminal and JSON elsewhere.
        stream: where to; default standard output. A command whose output is its result logs elsewhere.
    """
    stream = stream or sys.stdout
    unfailing = _UnfailingStream(stream)
    as_text = style == "text" or (style == "auto" and stream.isatty())
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=stream.isatty()) if as_text else structlog.processors.JSONRenderer()
    )
    foreign = logging.StreamHandler(unfailing)
    foreign.setFormatter(_MaskingFormatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[foreign])
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            cast("structlog.typing.Processor", _RepeatLimit()),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            unfailing.add_lines_lost,
            _mask_event,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", unfailing)),
        cache_logger_on_first_use=True,
    )


def get_logger(**bound: object) -> structlog.typing.FilteringBoundLogger:
    """A logger with `bound` keys on every line."""
    return cast("structlog.typing.FilteringBoundLogger", structlog.get_logger(**bound))
