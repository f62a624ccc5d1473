from __future__ import annotations

import pytest

from broker.traps import known_traps, product_of


@pytest.mark.parametrize(
    ("said", "product"),
    [
        ("mosquitto version 2.0.11", ("mosquitto", (2, 0, 11))),
        ("amqtt version 0.12.1", ("amqtt", (0, 12, 1))),
        ("aMQTT version 0.12.1", ("amqtt", (0, 12, 1))),
        ("EMQX 5.8.0", ("", ())),
        ("it does not say what it is ($SYS)", ("", ())),
        ("mosquitto", ("", ())),
    ],
)
def test_a_broker_is_known_by_what_it_says(said: str, product: tuple[str, tuple[int, ...]]) -> None:
    assert product_of(said) == product


def test_a_trap_ends_with_the_release_that_cures_it() -> None:
    def says(words: str, *release: int) -> bool:
        return any(words in trap for trap in known_traps("mosquitto", release))

    assert [says("receive window", 2, 0, last) for last in (11, 21, 22)] == [True, True, False]
    assert [says("0 is not unlimited", 2, 0, last) for last in (11, 16, 21, 22)] == [False, True, True, False]
    assert [says("SIGHUP", *release) for release in ((2, 0, 22), (2, 1), (2, 1, 2))] == [True, False, False]
    assert [says("2,000,000", *release) for release in ((2, 0, 22), (2, 1), (2, 1, 2))] == [False, True, True]
    assert says("the newest are dropped", 2, 1, 2)
    assert known_traps("", ()) == ()
