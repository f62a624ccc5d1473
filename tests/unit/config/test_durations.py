import pytest

from config.durations import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("60s", 60), ("60", 60), ("5m", 300), ("1h", 3600), ("1.5h", 5400), ("500ms", 0.5), (" 2 D ", 172_800)],
)
def test_durations_are_read_as_people_write_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0s", "-5s", "5 parsecs", "s", "1h30", "٣s5"])
def test_what_is_no_duration_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match="write 60s, 5m or 1h"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (60, "1 min 0 s"), (303, "5 min 3 s"), (7500, "2 h 5 min")]
)
def test_durations_are_told_in_two_units_at_most(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
