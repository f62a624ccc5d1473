"""Fuzzing of what strangers may send: hostile inputs from a seed, the codecs that read them, and the judge of both."""

from tests.support.fuzzing.codecs import CODECS, Codec
from tests.support.fuzzing.judge import Finding, Fuzzer, Tally

__all__ = ["CODECS", "Codec", "Finding", "Fuzzer", "Tally"]
