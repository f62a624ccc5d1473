from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from config import BadPayloadError
from edge.wishes import PROPERTIES, Change, CutClip, KeepLess, RaiseDrill, TakeSnapshot, Zoom, read_wish

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("name", "value", "wish"),
    [
        ("mode", "eco", Change(field="mode", value="eco")),
        ("mode", " OFF ", Change(field="mode", value="off")),
        ("mode", "auto", Change(field="mode", value=None)),
        ("mode", "zoom", Zoom()),
        ("privacy", "ON", Change(field="privacy", value=True)),
        ("privacy", True, Change(field="privacy", value=True)),
        ("detection", "false", Change(field="detection", value=False)),
        ("recording", "auto", Change(field="recording", value=None)),
        ("sensitivity", 0.25, Change(field="sensitivity", value=0.25)),
        ("sensitivity", "1", Change(field="sensitivity", value=1.0)),
        ("sensitivity", "auto", Change(field="sensitivity", value=None)),
        ("snapshot", "", TakeSnapshot()),
        ("snapshot", "ON", TakeSnapshot()),
        ("drill", "ON", RaiseDrill("info")),
        ("drill", "Critical", RaiseDrill("critical")),
        ("clip", 30, CutClip(NOW - timedelta(seconds=30), NOW)),
        ("clip", "30s", CutClip(NOW - timedelta(seconds=30), NOW)),
        (
            "clip",
            "2026-11-21T11:00:00Z/2026-11-21T12:01:30+01:00",
            CutClip(NOW - timedelta(hours=1), NOW - timedelta(minutes=58, seconds=30)),
        ),
    ],
)
def test_what_is_understood(name: str, value: str | float, wish: object) -> None:
    assert read_wish(name, value, NOW) == wish


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("mod", "eco", "a camera has no property 'mod'; did you mean 'mode'? known are mode, privacy,"),
        ("mode", "night", "mode cannot be 'night': write monitor, zoom, eco, off, or auto"),
        ("mode", True, "mode cannot be 'True'"),
        ("privacy", "yes", "privacy cannot be 'yes': write ON, OFF, or auto"),
        ("sensitivity", 2, "sensitivity cannot be '2': write a number from 0"),
        ("sensitivity", True, "sensitivity cannot be 'True'"),
        ("clip", "soon", "clip cannot be 'soon': write for how many of the last seconds, up to 3600, or START/END"),
        ("clip", 0, "clip cannot be '0'"),
        ("clip", float("nan"), "clip cannot be 'nan'"),
        ("clip", 4000, "clip cannot be '4000'"),
        ("clip", "2026-11-21T11:00:00/2026-11-21T11:01:00", "need an offset from UTC"),
        ("clip", "noon/one", "clip cannot be 'noon/one': write START/END"),
        ("clip", "2026-11-21T11:00:00Z/2026-11-21T10:00:00Z", "must begin in the past, and end after"),
        ("clip", "2026-11-21T13:00:00Z/2026-11-21T13:01:00Z", "must begin in the past"),
        ("clip", "2026-11-21T09:00:00Z/2026-11-21T11:00:00Z", "a clip has at most 3600 s"),
    ],
)
def test_a_refusal_teaches(name: str, value: str | float, says: str) -> None:
    with pytest.raises(BadPayloadError) as refusal:
        read_wish(name, value, NOW)
    assert says in refusal.value.reason


def test_less_may_be_kept() -> None:
    assert read_wish("retention", "8", NOW) == KeepLess(8.0)
    for value in (0, -1, "all", 9000):
        with pytest.raises(BadPayloadError, match="how many hours of recordings stay"):
            read_wish("retention", value, NOW)


def test_every_property_of_the_contract_is_known() -> None:
    assert {"mode", "privacy", "detection", "recording", "snapshot", "clip", "drill"} <= set(PROPERTIES)
