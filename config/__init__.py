"""Settings, errors, clock, logs and supervision: what every component stands on. No I/O but files."""

from config.backoff import Backoff
from config.clock import Clock, ManualClock, SystemClock
from config.errors import (
    BacklogFullError,
    BadPayloadError,
    BrokenFileError,
    ConfigError,
    ConflictError,
    PermanentError,
    TransientError,
    VigilError,
)
from config.log import configure_logging, get_logger
from config.supervise import Supervised, stop_on_signals

__all__ = [
    "BacklogFullError",
    "Backoff",
    "BadPayloadError",
    "BrokenFileError",
    "Clock",
    "ConfigError",
    "ConflictError",
    "ManualClock",
    "PermanentError",
    "Supervised",
    "SystemClock",
    "TransientError",
    "VigilError",
    "configure_logging",
    "get_logger",
    "stop_on_signals",
]
