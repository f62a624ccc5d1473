"""Benchmarks: one file a figure, each run alone, ``python bench/NAME.py``.

A script's own folder comes first where Python looks for packages, and `detector.py` in it is not the package
`detector`. So it is taken out here, and a benchmark that needs that package imports from `bench` before.
"""

import sys
from pathlib import Path

_FOLDER = Path(__file__).parent

sys.path[:] = [entry for entry in sys.path if not entry or Path(entry).resolve() != _FOLDER]
