from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.cameras import Zone
from detector.zones import ZoneMap, is_inside

SQUARE = ((0.2, 0.2), (0.6, 0.2), (0.6, 1.0), (0.2, 1.0))
HOOK = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.7, 1.0), (0.7, 0.3), (0.0, 0.3))
unit = st.floats(0, 1).map(lambda value: round(value, 3))


@pytest.mark.parametrize(
    ("point", "inside"),
    [
        ((0.4, 0.5), True),
        ((0.1, 0.5), False),
        ((0.4, 0.1), False),
        ((0.7, 0.5), False),
        ((0.4, 1.0), True),
        ((0.2, 0.2), True),
        ((0.6, 1.0), True),
        ((0.6, 0.5), True),
    ],
)
def test_inside_of_a_square_and_on_its_edge(point: tuple[float, float], *, inside: bool) -> None:
    assert is_inside(SQUARE, point) is inside
    assert is_inside(SQUARE[::-1], point) is inside


def test_a_hook_has_an_outside_between_its_arms() -> None:
    assert is_inside(HOOK, (0.85, 0.9))
    assert is_inside(HOOK, (0.1, 0.1))
    assert not is_inside(HOOK, (0.3, 0.6))


@given(corners=st.lists(st.tuples(unit, unit), min_size=3, max_size=8), place=st.integers(0, 7))
def test_every_corner_is_inside_wherever_the_outline_begins(corners: list[tuple[float, float]], place: int) -> None:
    turned = corners[place % len(corners) :] + corners[: place % len(corners)]
    assert all(is_inside(turned, corner) for corner in corners)
    point = (0.4321, 0.1234)
    assert is_inside(turned, point) == is_inside(corners, point)


def test_zones_are_for_labels_and_exclude_or_name() -> None:
    zones = ZoneMap(
        {
            "bed": Zone(points=SQUARE),
            "garden": Zone(points=SQUARE, labels=("dog", "cat")),
            "street": Zone(points=SQUARE, kind="exclude", labels=("car",)),
        }
    )
    assert zones.names == ("bed", "garden")
    assert zones.of("person", (0.4, 0.5)) == ("bed",)
    assert zones.of("dog", (0.4, 0.5)) == ("bed", "garden")
    assert zones.of("dog", (0.9, 0.5)) == ()
    assert zones.excludes("car", (0.4, 0.5))
    assert not zones.excludes("car", (0.9, 0.5))
    assert not zones.excludes("person", (0.4, 0.5))
