"""Tries inputs on codecs, keeps those that show something new, and writes down what must not be."""

from __future__ import annotations

import gc
import re
import time
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from config.errors import BadPayloadError
from tests.support.fuzzing import inputs
from tests.support.fuzzing.codecs import CODECS, Codec

__all__ = ["CPU_MAX_S", "MEMORY_PER_BYTE_MAX", "Finding", "Fuzzer", "Tally"]

CPU_MAX_S = 0.025
"""The dearest input of any size. A MiB is 84 ms on a network of 100 Mbit/s: reading it must not take a good part of
that, or whoever sends the worst input occupies the thread of the connection, and with it every camera."""
MEMORY_PER_BYTE_MAX = 40
"""Bytes that a byte of input may become for a moment. The dearest honest JSON is a list of boxes of whole numbers:
``[0,0,0,0],`` is 10 bytes, and a tuple of four floats with its place in another 190."""
_CORPUS_MAX = 100
_KEPT_BYTES_MAX = 8_000
_WEIGHED_EVERY = 20
_WEIGHED_BYTES_MIN = 10_000
"""Smaller inputs have a fixed price: the message itself, the words of an error."""
_BIG_EVERY = 499
_BIG_BYTES = (1_000, 60_000, 250_000, 1_000_000)
_DIGITS = re.compile(r"\d+")


@dataclass(slots=True)
class Tally:
    """What became of the inputs of one codec.

    Attributes:
        slowest_s: CPU time of the dearest input.
        slowest: its beginning.
        reasons: why inputs were rejected, numbers left out, each once.
        heaviest: the most bytes that an input became, per byte.
    """

    inputs: int = 0
    accepted: int = 0
    rejected: int = 0
    slowest_s: float = 0.0
    slowest: bytes = b""
    slowest_bytes: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    heaviest: float = 0.0


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that must not be."""

    codec: str
    what: str
    data: bytes


class Fuzzer:
    """Tries inputs on codecs.

    New inputs are made from nothing, or from one that was met before: those whose outcome (accepted, or one more
    reason to reject) was new are kept for that. Coverage of code would show little more: the codec of JSON is C.

    Args:
        seed: the same makes the same inputs.
        codecs: which to try.
        cpu_max_s: CPU time that no input may take.
    """

    def __init__(self, seed: int, codecs: Sequence[Codec] = CODECS, *, cpu_max_s: float = CPU_MAX_S) -> None:
        self._cpu_max_s = cpu_max_s
        self._rng = Random(seed)
        self._codecs = codecs
        self._corpus: dict[str, list[bytes]] = {codec.name: [codec.make(self._rng)] for codec in codecs}
        self._count = 0
        self.tallies = {codec.name: Tally() for codec in codecs}
        self.findings: list[Finding] = []

    def run(self, count: int) -> None:
        """Try so many inputs, the codecs in turn."""
        for _ in range(count):
            codec = self._codecs[self._count % len(self._codecs)]
            self.try_one(codec, self._next(codec)[: codec.bytes_max])

    def _next(self, codec: Codec) -> bytes:
        rng, corpus = self._rng, self._corpus[codec.name]
        if rng.randrange(_BIG_EVERY) == 0:
            return inputs.big_json(rng, rng.choice(_BIG_BYTES))
        if rng.random() < 0.4:
            return codec.make(rng)
        return inputs.mutated(rng, rng.choice(corpus), rng.choice(corpus))

    def try_one(self, codec: Codec, data: bytes) -> None:
        """Try one input, and write down what comes of it."""
        self._count += 1
        tally = self.tallies[codec.name]
        tally.inputs += 1
        started_s = time.thread_time()
        outcome, read = _outcome(codec, data)
        took_s = time.thread_time() - started_s
        if isinstance(outcome, Exception):
            self._find(codec, f"{type(outcome).__name__}: {str(outcome)[:200]}", data)
            return
        if outcome is None:
            tally.accepted += 1
            self._verify(codec, data, read)
        else:
            tally.rejected += 1
        self._remember(codec, tally, data, "accepted" if outcome is None else _DIGITS.sub("0", outcome[:80]))
        if took_s > tally.slowest_s:
            self._time_again(codec, tally, data)
        if len(data) >= _WEIGHED_BYTES_MIN and (outcome is None or self._rng.randrange(_WEIGHED_EVERY) == 0):
            self._weigh(codec, tally, data)

    def _verify(self, codec: Codec, data: bytes, read: object) -> None:
        try:
            codec.verify(data, read)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
            self._find(codec, f"taken, but {type(error).__name__}: {str(error)[:200]}", data)

    def _remember(self, codec: Codec, tally: Tally, data: bytes, outcome: str) -> None:
        tally.reasons[outcome] += 1
        corpus = self._corpus[codec.name]
        is_rare = tally.reasons[outcome] <= 3
        if len(data) > _KEPT_BYTES_MAX or not (is_rare or (outcome == "accepted" and self._rng.random() < 0.01)):
            return
        if len(corpus) < _CORPUS_MAX:
            corpus.append(data)
        else:
            corpus[self._rng.randrange(_CORPUS_MAX)] = data
        if len(tally.reasons) > 10 * _CORPUS_MAX:
            tally.reasons.clear()

    def _time_again(self, codec: Codec, tally: Tally, data: bytes) -> None:
        """The least of three times: the first may have paid for somebody else's garbage."""
        times_s = []
        gc.disable()
        for _ in range(3):
            started_s = time.thread_time()
            _outcome(codec, data)
            times_s.append(time.thread_time() - started_s)
        gc.enable()
        if min(times_s) > tally.slowest_s:
            tally.slowest_s, tally.slowest, tally.slowest_bytes = min(times_s), data[:60], len(data)
            if tally.slowest_s > self._cpu_max_s:
                self._find(codec, f"took {tally.slowest_s * 1e3:.1f} ms", data)

    def _weigh(self, codec: Codec, tally: Tally, data: bytes) -> None:
        tracemalloc.start()
        _outcome(codec, data)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        weight = peak / len(data)
        tally.heaviest = max(tally.heaviest, weight)
        if weight > MEMORY_PER_BYTE_MAX:
            self._find(codec, f"{len(data)} bytes became {peak} in memory", data)

    def _find(self, codec: Codec, what: str, data: bytes) -> None:
        if len(self.findings) < 100:
            self.findings.append(Finding(codec.name, what, data))


def _outcome(codec: Codec, data: bytes) -> tuple[str | Exception | None, object]:
    """What the codec said: None and what it read, its reason to reject, or an error that must not be."""
    try:
        return None, codec.decode(data)
    except BadPayloadError as error:
        return error.reason, None
    except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
        return error, None
