"""`vigil edge`, with the detector in the same process where `edge.detector` says so: the one place that joins them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import click

from broker import Bus
from config import Clock
from config.settings import Settings
from edge.cli import edge as edge_alone

if TYPE_CHECKING:
    from detector.scorer import Scorer

__all__ = ["edge", "open_scorer"]


def open_scorer(bus: Bus, settings: Settings, clock: Clock, on_fatal: Callable[[Exception], None]) -> Scorer:
    """A detector for the frames of an edge's bus; see :data:`edge.role.OpenScorer`.

    Raises:
        ConfigError: the model, the labels or a rule cannot be used.
    """
    # Here, not above: a node that scores nothing loads no model runtime.
    from detector.scorer import Scorer

    return Scorer(bus, settings, clock=clock, on_fatal=on_fatal)


edge = click.Command(
    "edge",
    callback=edge_alone.callback and partial(edge_alone.callback, open_scorer=open_scorer),
    params=edge_alone.params,
    help=edge_alone.help,
)
