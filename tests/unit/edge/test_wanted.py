from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from config.cameras import CameraSettings
from edge.wanted import NOTHING_COMMANDED, Commanded, decide, scheduled_mode

BERLIN = ZoneInfo("Europe/Berlin")
NIGHT = {"mode": "eco", "start": "22:00", "end": "06:00"}
NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def camera(**settings: object) -> CameraSettings:
    return CameraSettings.model_validate(settings)


def berlin(text: str, fold: int = 0) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN, fold=fold).astimezone(UTC)


class TestSchedule:
    @pytest.mark.parametrize(
        ("at", "mode"),
        [
            ("2026-11-21T21:59:59", None),
            ("2026-11-21T22:00:00", "eco"),
            ("2026-11-22T03:00:00", "eco"),
            ("2026-11-22T05:59:59", "eco"),
            ("2026-11-22T06:00:00", None),
        ],
    )
    def test_a_night_lasts_over_midnight_on_the_nodes_own_clock(self, at: str, mode: str | None) -> None:
        assert scheduled_mode(camera(schedule=[NIGHT]).schedule, berlin(at), BERLIN) == mode

    def test_days_are_those_on_which_it_begins(self) -> None:
        schedule = camera(schedule=[{**NIGHT, "days": ["fri"]}]).schedule
        friday, saturday = berlin("2026-11-20T23:00"), berlin("2026-11-21T23:00")
        assert scheduled_mode(schedule, friday, BERLIN) == "eco"
        assert scheduled_mode(schedule, friday + timedelta(hours=6), BERLIN) == "eco", "on Saturday, begun on Friday"
        assert scheduled_mode(schedule, saturday, BERLIN) is None

    def test_the_first_that_fits_holds_and_one_with_one_time_lasts_a_day(self) -> None:
        entries = [{"mode": "off", "start": "12:00", "end": "13:00"}, {"mode": "eco", "start": "00:00", "end": "00:00"}]
        schedule = camera(schedule=entries).schedule
        assert scheduled_mode(schedule, berlin("2026-11-21T12:30"), BERLIN) == "off"
        assert scheduled_mode(schedule, berlin("2026-11-21T13:30"), BERLIN) == "eco"

    def test_an_hour_that_comes_twice_counts_once(self) -> None:
        schedule = camera(schedule=[{"mode": "off", "start": "02:15", "end": "02:45"}]).schedule
        assert scheduled_mode(schedule, berlin("2026-10-25T02:30", fold=0), BERLIN) == "off"
        assert scheduled_mode(schedule, berlin("2026-10-25T02:30", fold=1), BERLIN) is None

    def test_an_hour_that_is_left_out_is_the_one_after_it(self) -> None:
        schedule = camera(schedule=[{"mode": "off", "start": "02:15", "end": "02:45"}]).schedule
        assert scheduled_mode(schedule, berlin("2026-03-29T03:30"), BERLIN) == "off"

    @pytest.mark.parametrize("day", ["2026-03-28", "2026-10-24"])
    def test_a_night_in_which_the_clocks_change_has_no_hole(self, day: str) -> None:
        schedule = camera(schedule=[NIGHT]).schedule
        start = berlin(f"{day}T22:00")
        end = berlin(f"{(datetime.fromisoformat(day) + timedelta(days=1)).date()}T06:00")
        minutes = [start + timedelta(minutes=n) for n in range(int((end - start).total_seconds()) // 60)]
        assert {scheduled_mode(schedule, at, BERLIN) for at in minutes} == {"eco"}
        assert len(minutes) in (7 * 60, 9 * 60)


class TestDecide:
    def test_what_is_commanded_comes_before_the_schedule_and_that_before_the_settings(self) -> None:
        settings = camera(mode="monitor", schedule=[{"mode": "eco", "start": "12:00", "end": "13:00"}])
        at, later = NOON, NOON + timedelta(hours=2)
        assert decide(settings, NOTHING_COMMANDED, None, later, UTC).mode == "monitor"
        assert decide(settings, NOTHING_COMMANDED, None, at, UTC).mode == "eco"
        assert decide(settings, Commanded(mode="off"), None, at, UTC).mode == "off"

    def test_a_zoom_ends_by_itself(self) -> None:
        until = NOON + timedelta(seconds=30)
        zooming = decide(camera(), Commanded(mode="off"), until, NOON, UTC)
        assert (zooming.mode, zooming.zoom_until) == ("zoom", until)
        over = decide(camera(), Commanded(mode="off"), until, until, UTC)
        assert (over.mode, over.zoom_until) == ("off", None)

    def test_switches_fall_back_to_the_settings(self) -> None:
        settings = camera(privacy={"enabled": True}, detection=False, motion={"sensitivity": 0.3})
        alone = decide(settings, NOTHING_COMMANDED, None, NOON, UTC)
        assert (alone.privacy, alone.detection, alone.sensitivity) == (True, False, 0.3)
        told = decide(settings, Commanded(privacy=False, detection=True, sensitivity=0.0), None, NOON, UTC)
        assert (told.privacy, told.detection, told.sensitivity) == (False, True, 0.0)

    @pytest.mark.parametrize(
        ("mode", "commanded", "recording"),
        [
            ("off", None, "off"),
            ("motion", None, "motion"),
            ("motion", True, "motion"),
            ("off", True, "continuous"),
            ("continuous", False, "off"),
        ],
    )
    def test_recording(self, mode: str, commanded: bool | None, recording: str) -> None:  # noqa: FBT001
        settings = camera(recording={"mode": mode})
        assert decide(settings, Commanded(recording=commanded), None, NOON, UTC).recording == recording
