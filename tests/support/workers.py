"""The whole suite runs on a few worker processes; a file of it, or what was asked for by name, in this one.

Much of a run is waiting: for processes that start, for brokers that are killed and come back. A worker more than the
machine has cores keeps them busy meanwhile. The hooks are pytest-xdist's; `tests/conftest.py` takes them in.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

__all__ = ["comes_last", "is_worker", "pytest_xdist_auto_num_workers", "pytest_xdist_make_scheduler"]

_WORKERS_MAX = 4
"""More of them would wait for each other's disk flushes."""
_ONE_BY_ONE = "tests/e2e/"
_SLOWEST_SHOWN = 20
_SLOW_S = 2.0


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """How many workers; none where starting them would cost more than they save."""
    option = config.option
    chosen = (
        option.keyword
        or config.getoption("lf", default=False)
        or any(not Path(argument).is_dir() for argument in config.args)
    )
    if chosen or option.collectonly:
        return 0
    option.durations, option.durations_min = option.durations or _SLOWEST_SHOWN, option.durations_min or _SLOW_S
    return min(_WORKERS_MAX, (os.cpu_count() or 1) + 1)


class _ByFile(LoadScopeScheduling):
    """A worker takes a file of tests at a time, in the order of `testpaths`, so the fast ones come first.

    Files with "kafka" in their names are one: their tests share one Kafka. So are the tests with one Home Assistant.
    The other tests of `tests/e2e` share nothing and take long, so a worker takes them one by one.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        if "kafka" in Path(file).name:
            return "kafka"
        if file == "tests/e2e/test_homeassistant.py":
            return "homeassistant" + nodeid.partition("[")[2]
        return nodeid if file.startswith(_ONE_BY_ONE) else file


def is_worker(config: pytest.Config) -> bool:
    """Whether this process is one of several."""
    return hasattr(config, "workerinput")


def comes_last(item: pytest.Item) -> bool:
    """Whether it belongs to those short tests that fill the gaps while the last long ones run."""
    return item.nodeid.startswith(_ONE_BY_ONE) and item.get_closest_marker("slow") is None


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Who hands the tests out."""
    config.option.loadscopereorder = False
    return _ByFile(config, log)
