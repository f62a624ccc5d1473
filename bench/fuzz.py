"""What do a million hostile inputs do to the codecs of frames, messages, topics and event ids, and to what reads them?

Inputs are made by the types of the contract and damaged, from a seed; every fiftieth is drawn by hypothesis. What a
codec takes must be the same after it was written and read again; what it does not take must be a BadPayloadError.
Target: no other exception, no input that takes more than 25 ms of CPU time whatever its size, none that becomes more
than 40 times its size in memory, and no memory that stays.

    python bench/fuzz.py [--inputs N] [--seed N]
"""

from __future__ import annotations

import argparse
import time
from random import Random

import psutil
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from config.log import configure_logging
from tests.support.fuzzing import CODECS, Codec, Fuzzer, Tally
from tests.support.fuzzing.judge import CPU_MAX_S, MEMORY_PER_BYTE_MAX

DRAWN_SHARE = 50
"""One input of so many is hypothesis's: it is 30 times slower, and looks where chance does not."""
GROWTH_MAX_BYTES = 32_000_000
"""What the process may have grown by in the last nine tenths of the inputs; the corpus of seeds is part of it."""
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def try_drawn(fuzzer: Fuzzer, count: int, seed_of_run: int) -> None:
    """Let hypothesis draw so many inputs: any bytes, any text, and whatever a codec's maker can make."""

    @seed(seed_of_run)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(
        st.sampled_from(CODECS),
        st.randoms(use_true_random=False) | st.binary(max_size=300) | st.text(max_size=100),
    )
    def try_one(codec: Codec, drawn: Random | bytes | str) -> None:
        made = codec.make(drawn) if isinstance(drawn, Random) else drawn
        fuzzer.try_one(codec, made.encode("utf-8", "replace") if isinstance(made, str) else made)

    try_one()


def print_tallies(tallies: dict[str, Tally]) -> None:
    """One line a codec."""
    print(
        f"{'codec':15} {'inputs':>9} {'accepted':>9} {'rejected':>9} {'ways':>5} {'slowest':>9} {'of bytes':>9} memory"
    )
    for name, tally in tallies.items():
        print(
            f"{name:15} {tally.inputs:9,} {tally.accepted:9,} {tally.rejected:9,} {len(tally.reasons):5} "
            f"{tally.slowest_s * 1e3:6.2f} ms {tally.slowest_bytes:9,} {tally.heaviest:4.1f} x"
        )


def main() -> int:
    """Run, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    configure_logging("error")  # a line of log for each of a million rejects would be what is measured
    process, fuzzer = psutil.Process(), Fuzzer(options.seed)
    started_s = time.monotonic()
    drawn = options.inputs // DRAWN_SHARE
    fuzzer.run(options.inputs // 10)
    before_bytes = process.memory_info().rss
    fuzzer.run(options.inputs - options.inputs // 10 - drawn)
    growth_bytes = process.memory_info().rss - before_bytes
    try_drawn(fuzzer, drawn, options.seed)
    took_s = time.monotonic() - started_s

    print_tallies(fuzzer.tallies)
    for finding in fuzzer.findings[:20]:
        print(f"{finding.codec}: {finding.what}; {len(finding.data)} bytes: {finding.data[:120]!r}")
    tallies = fuzzer.tallies.values()
    slowest = max(tallies, key=lambda tally: tally.slowest_s)
    print(f"slowest: {slowest.slowest_bytes:,} bytes that begin with {slowest.slowest!r}")
    count, accepted = sum(tally.inputs for tally in tallies), sum(tally.accepted for tally in tallies)
    print(
        f"{count:,} inputs ({drawn:,} by hypothesis, seed {options.seed}) in {took_s:.0f} s: "
        f"{accepted:,} accepted, {sum(tally.rejected for tally in tallies):,} rejected, "
        f"{len(fuzzer.findings)} findings; slowest {slowest.slowest_s * 1e3:.1f} ms, "
        f"heaviest {max(tally.heaviest for tally in tallies):.1f} x its size, memory {growth_bytes / 1e6:+.1f} MB "
        f"(target: at least {options.inputs:,} inputs, 0 findings, {CPU_MAX_S * 1e3:.0f} ms, {MEMORY_PER_BYTE_MAX} x, "
        f"under {GROWTH_MAX_BYTES / 1e6:.0f} MB)"
    )
    return 0 if count >= options.inputs and not fuzzer.findings and growth_bytes < GROWTH_MAX_BYTES else 1


if __name__ == "__main__":
    raise SystemExit(main())
