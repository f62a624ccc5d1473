from __future__ import annotations

import pytest

from console.web_guard import host_is_ours, own_names

NAMES = frozenset({"localhost", "pi-yard", "pi-yard.local"})


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:8126", "localhost", "LOCALHOST:8126", "[::1]:8126", "192.168.1.9:80", "pi-yard.local:8126", "pi-yard"],
)
def test_addresses_and_own_names_are_ours(host: str) -> None:
    assert host_is_ours(host, NAMES)


@pytest.mark.parametrize(
    "host", ["", "evil.example", "evil.example:8126", "127.0.0.1.evil.example", "localhost.evil.example", "[::1", "a b"]
)
def test_names_that_point_here_are_not_ours(host: str) -> None:
    assert not host_is_ours(host, NAMES)


def test_the_name_in_the_settings_is_ours() -> None:
    assert {"localhost", "vigil.example"} <= own_names("Vigil.Example")
