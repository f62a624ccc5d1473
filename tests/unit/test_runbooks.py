"""Every event that a person should react to has its page."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
CODE = [
    path
    for folder in ("config", "broker", "edge", "detector", "bridge", "fleet", "console")
    for path in (ROOT / folder).rglob("*.py")
]
EVENT = re.compile(r"\.(?:warning|error)\(\s*\"([a-z_]+\.[a-z_]+)\"")


def test_every_warning_and_error_has_a_runbook_and_every_runbook_an_event() -> None:
    events = {event for path in CODE for event in EVENT.findall(path.read_text())}
    headings = set(re.findall(r"^## (\S+)$", (ROOT / "docs" / "runbooks.md").read_text(), re.MULTILINE))
    assert events == headings
