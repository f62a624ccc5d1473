"""How long to wait before the next try."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

__all__ = ["Backoff"]


@dataclass(slots=True)
class Backoff:
    """Exponential back-off with full jitter.

    Each delay is drawn evenly between `floor_s` and an upper bound that doubles from `first_s` up to `last_s`,
    so that a hundred nodes do not come back to a restarted broker in the same instant.

    Args:
        first_s: the upper bound of the first delay, in seconds; more than 0.
        last_s: the largest upper bound.
        floor_s: the least delay.
        rng: source of randomness, passed in so that a test can repeat it.

    Source: Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015 ("full jitter").
    """

    first_s: float = 0.25
    last_s: float = 8.0
    floor_s: float = 0.05
    rng: random.Random = field(default_factory=random.Random)
    _tries: int = 0

    def delay_s(self) -> float:
        """The next delay, in seconds."""
        bound_s = min(self.last_s, self.first_s * 2.0 ** min(self._tries, 32))
        self._tries += 1
        return self.rng.uniform(min(self.floor_s, bound_s), bound_s)

    def reset(self) -> None:
        """Start over: the last try succeeded."""
        self._tries = 0
