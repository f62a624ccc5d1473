"""A few thousand of the inputs of `bench/fuzz.py`; that they would show what is wrong is shown first."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.errors import BadPayloadError
from config.log import configure_logging
from tests.support.fuzzing import CODECS, Codec, Fuzzer

SLOW_S = 1.0
"""On a machine with other work; the figure itself is the benchmark's."""


@pytest.fixture(autouse=True)
def quiet() -> None:
    configure_logging("error")


def misread(data: bytes) -> object:
    if len(data) % 3 == 0:
        raise BadPayloadError("not today")
    return {b"k": data}[data[:1]]


def bloat(data: bytes) -> object:
    return [data[:1] * 100 for _ in data]


def _same(data: bytes, read: object) -> None:
    assert read == data


@pytest.mark.parametrize(
    ("codec", "what"),
    [
        (Codec("raises", lambda rng: b"k" * rng.randrange(9), misread, lambda *_: None), "KeyError"),
        (Codec("bloats", lambda _: b"k" * 20_000, bloat, lambda *_: None), "bytes became"),
        (
            Codec("changes", lambda _: b"k", lambda data: data + b"?", _same),
            "taken, but",
        ),
        (Codec("dawdles", lambda _: b"k" * 200, lambda data: sorted(data * 300), lambda *_: None), "took"),
    ],
    ids=lambda value: value.name if isinstance(value, Codec) else "",
)
def test_what_must_not_be_is_found(codec: Codec, what: str) -> None:
    fuzzer = Fuzzer(1, (codec,), cpu_max_s=1e-4)
    fuzzer.run(60)
    assert any(what in finding.what for finding in fuzzer.findings), fuzzer.findings[:3]


def test_hostile_inputs_raise_nothing_but_bad_payload() -> None:
    fuzzer = Fuzzer(7, cpu_max_s=SLOW_S)
    fuzzer.run(300 * len(CODECS))
    assert [(finding.codec, finding.what, finding.data[:200]) for finding in fuzzer.findings] == []
    for name, tally in fuzzer.tallies.items():
        assert min(tally.accepted, tally.rejected) > 2, name  # a message of many fields is rarely right in all


def test_the_same_seed_tries_the_same() -> None:
    def tried(seed: int) -> list[bytes]:
        inputs: list[bytes] = []
        codecs = [replace(codec, decode=inputs.append) for codec in CODECS[:3]]
        codecs = [replace(codec, verify=lambda *_: None) for codec in codecs]
        Fuzzer(seed, codecs, cpu_max_s=SLOW_S).run(60)
        return inputs

    assert set(tried(1)) == set(tried(1)) != set(tried(2))


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
@given(rng=st.randoms(use_true_random=False))
def test_what_hypothesis_draws_raises_nothing_but_bad_payload(codec: Codec, rng: Random) -> None:
    fuzzer = Fuzzer(1, (codec,), cpu_max_s=SLOW_S)
    fuzzer.try_one(codec, codec.make(rng)[: codec.bytes_max])
    assert [finding.what for finding in fuzzer.findings] == []
