"""Chaos: a small mesh of real processes, a schedule of faults from a seed, and the proof that nothing was lost."""

__all__: list[str] = []
