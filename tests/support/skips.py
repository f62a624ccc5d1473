"""With CI=true a skipped test is a failure: what CI cannot run, nobody else will.

The hooks are pytest's; `tests/conftest.py` takes them in.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import TypeVar

import pytest

__all__ = ["ALLOWED_REASONS", "pytest_make_collect_report", "pytest_runtest_makereport"]

# Beginnings of the reasons that CI accepts too, because its machines are what they are.
ALLOWED_REASONS = ("no GPU", "no camera hardware")

_Report = TypeVar("_Report", pytest.TestReport, pytest.CollectReport)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Judge the skip of a test."""
    return _judged((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Judge the skip of a whole module."""
    return _judged((yield))


def _judged(report: _Report) -> _Report:
    is_skip = report.outcome == "skipped" and not hasattr(report, "wasxfail")
    if is_skip and os.environ.get("CI") == "true":
        reason = _reason(report)
        if not reason.startswith(ALLOWED_REASONS):
            report.outcome = "failed"
            report.longrepr = f"skipped, and CI=true allows that only for {ALLOWED_REASONS}: {reason}"
    return report


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")
