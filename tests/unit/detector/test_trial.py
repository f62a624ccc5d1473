from __future__ import annotations

import pytest

from detector.slot import Performance
from detector.trial import why_not

BEFORE = Performance(batches=100, pictures=100, busy_s=2.0, picture_s=0.02)


def did(**changes: float) -> Performance:
    values = {"batches": 50, "pictures": 50, "failed": 0, "busy_s": 1.0, "picture_s": 0.02} | changes
    return Performance(
        int(values["batches"]),
        int(values["pictures"]),
        int(values["failed"]),
        values["busy_s"],
        values["picture_s"],
        values.get("running_s", 0.0),
    )


@pytest.mark.parametrize(
    ("now", "elapsed_s", "reason"),
    [
        pytest.param(did(), 10, "", id="as fast as before"),
        pytest.param(did(failed=3, batches=5), 1, "3 of its 5 inferences failed", id="fails"),
        pytest.param(did(failed=3, batches=3, pictures=0, picture_s=0), 1, "3 of its 3", id="fails from the first"),
        pytest.param(did(failed=2, batches=2, pictures=0, picture_s=0), 9, "", id="two failures prove nothing"),
        pytest.param(did(failed=10, batches=50), 9, "", id="one in five is the limit"),
        pytest.param(did(failed=11, batches=50), 9, "11 of its 50", id="more than one in five"),
        pytest.param(did(picture_s=0.2, busy_s=3), 10, "", id="ten times as slow, and still has time"),
        pytest.param(did(picture_s=0.2, busy_s=9), 10, "too slow", id="ten times as slow, and no time left"),
        pytest.param(did(picture_s=0.039, busy_s=10), 10, "", id="busy, but not twice as slow"),
        pytest.param(did(picture_s=0.2, busy_s=2.9), 2.9, "", id="too early to tell"),
        pytest.param(did(running_s=31), 31, "has not ended for 31 s", id="hangs"),
    ],
)
def test_a_model_must_go_when_it_fails_or_when_there_is_no_time_for_it(
    now: Performance, elapsed_s: float, reason: str
) -> None:
    why = why_not(BEFORE, now, elapsed_s)
    assert reason in why
    assert bool(why) == bool(reason)


def test_without_a_model_before_it_nothing_is_too_slow() -> None:
    assert why_not(Performance(), did(picture_s=5.0, busy_s=10), 10) == ""
