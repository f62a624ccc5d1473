"""One trace from a picture to Kafka's word, without an id that travels.

The trace of a picture is a hash of its site, its camera and the moment at which it was taken; a step's span is derived
from that and from the step's name. All of this is in every message about the picture, so each process computes its own
span and its parent's: no topic and no payload carries an id.

    capture  the edge: from the shutter to the bus       the root
    score    a worker: from the frame to its scores      child of capture
    escalate that worker: from the scores to the outbox  child of score
    forward  a bridge: from the bus to the sink's word   child of what raised the event

Source: W3C Trace Context, 3.2 (traceparent); OpenTelemetry, "Trace SDK", sampling by the trace id.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from hashlib import blake2b
from typing import Literal

__all__ = ["Step", "is_sampled", "span_id_of", "trace_id_of", "traceparent_of"]

Step = Literal["capture", "score", "escalate", "forward"]
"""What is done to a picture, in this order."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LOW_64 = (1 << 64) - 1


def trace_id_of(site: str, camera: str, captured_at: datetime) -> int:
    """The trace of the picture that a camera took then.

    Args:
        site: its site.
        camera: its name.
        captured_at: `FrameMeta.captured_at`, in any time zone; to the microsecond, as messages carry it.

    Returns:
        128 bits, never 0.
    """
    since = captured_at - _EPOCH
    captured_us = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    return int.from_bytes(blake2b(b"%b/%d" % (_camera_key(site, camera), captured_us), digest_size=16).digest()) or 1


def span_id_of(trace_id: int, step: Step, of: str = "") -> int:
    """The span of one step.

    Args:
        trace_id: the picture's.
        step: what is done.
        of: what tells it from others of the trace: nothing for ``capture``, the worker's origin for ``score``, the
            event's id for ``escalate`` and ``forward``.

    Returns:
        64 bits, never 0.
    """
    mask = _step_mask(step, of) if step == "capture" or step == "score" else _mask(step, of)  # noqa: PLR1714 - faster
    return (trace_id & _LOW_64) ^ mask or 1


def traceparent_of(site: str, camera: str, captured_at: datetime, step: Step = "capture", of: str = "") -> str:
    """The header with which somebody else continues the trace of a picture after a step.

    A movement or a track belongs to the picture that was taken at its `at`; a clip is of many, and has a trace of its
    own.

    Args:
        site: the camera's site.
        camera: its name.
        captured_at: when the picture was taken: an escalation's `captured_at`, the `at` of any other event.
        step: the step after which it goes on.
        of: see `span_id_of`.

    Returns:
        ``00-{trace}-{span}-01``. Source: W3C Trace Context, 3.2.2.
    """
    trace_id = trace_id_of(site, camera, captured_at)
    return f"00-{trace_id:032x}-{span_id_of(trace_id, step, of):016x}-01"


def is_sampled(trace_id: int, share: float) -> bool:
    """Whether a trace is among the share that is kept; every process answers the same.

    Source: OpenTelemetry, `TraceIdRatioBased`, which looks at the low 64 bits.
    """
    return trace_id & _LOW_64 < round(share * (_LOW_64 + 1))


@lru_cache(maxsize=4_096)
def _camera_key(site: str, camera: str) -> bytes:
    return f"{site}/{camera}".encode()


def _mask(step: str, of: str) -> int:
    return int.from_bytes(blake2b(f"{step}/{of}".encode(), digest_size=8).digest())


_step_mask = lru_cache(maxsize=4_096)(_mask)
"""Workers are few; of events there is no end."""
