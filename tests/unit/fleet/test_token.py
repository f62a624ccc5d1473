from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.certs import make_issuer
from config.errors import ConfigError
from fleet.enrolment.client import AuthorityAddress
from fleet.enrolment.token import JoinToken

CA, OTHER = (make_issuer("Vigil home processes", "home", datetime(2026, 1, 1, tzinfo=UTC)).pem for _ in range(2))


@given(secret=st.binary(min_size=16, max_size=16))
def test_a_token_is_read_as_it_was_written(secret: bytes) -> None:
    token = JoinToken.of(secret, CA)
    again = JoinToken.read(token.text())
    assert again == token
    assert again.is_of(CA)
    assert not again.is_of(OTHER)


def test_a_token_shows_its_secret_to_nobody_who_prints_it() -> None:
    token = JoinToken.of(b"0123456789abcdef", CA)
    assert "0123" not in repr(token)


@given(st.text(max_size=80))
def test_what_is_no_token_is_refused_and_not_repeated(text: str) -> None:
    for candidate in (text, f"vigil-{text}"):
        with pytest.raises(ConfigError) as refusal:
            JoinToken.read(candidate)
        if len(text) > 8:
            assert text not in str(refusal.value)


@pytest.mark.parametrize("place", range(51))
def test_a_slip_of_the_finger_is_found_out(place: int) -> None:
    text = JoinToken.of(b"0123456789abcdef", CA).text()
    with pytest.raises(ConfigError, match="copy the whole line"):
        JoinToken.read(text[:place] + ("Y" if text[place] == "X" else "X") + text[place + 1 :])
    with pytest.raises(ConfigError, match="copy the whole line"):
        JoinToken.read(text[:place])


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("hub.local", "hub.local", 8885),
        ("10.0.0.2:9000", "10.0.0.2", 9000),
        ("[fd00::2]:9000", "fd00::2", 9000),
        ("[fd00::2]", "fd00::2", 8885),
        ("fd00::2", "fd00::2", 8885),
    ],
)
def test_an_address_is_read(text: str, host: str, port: int) -> None:
    address = AuthorityAddress.read(text)
    assert (address.host, address.port) == (host, port)
    assert AuthorityAddress.read(str(address)) == address


@pytest.mark.parametrize("text", ["", ":8885", "hub:", "hub:x", "hub:0", "hub:70000", "[]:1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="HOST"):
        AuthorityAddress.read(text)
