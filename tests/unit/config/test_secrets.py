from __future__ import annotations

import time
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.errors import BadPayloadError, ConfigError, TransientError
from config.secrets import has_secret, is_readable_by_others, is_secret_name, mask, mask_uri


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("rtsp://admin:pw@10.0.0.9/s", "rtsp://***@10.0.0.9/s"),
        ("rtsp://admin@10.0.0.9", "rtsp://***@10.0.0.9"),
        ("rtsp://:pw@10.0.0.9", "rtsp://***@10.0.0.9"),
        ("rtsp://admin:pw@[fe80::1%25eth0]:554/s", "rtsp://***@[fe80::1%25eth0]:554/s"),
        ("rtsp://ad%40min:p%2Fw@host/s%20t", "rtsp://***@host/s%20t"),
        ("rtsp://admin:p@w/x?y#z@host/s", "rtsp://***@host/s"),
        ("rtsp://admin:p w@host/s", "rtsp://***@host/s"),
        ("rtsp:admin:pw@host/s", "***@host/s"),
        ("//admin:pw@host/s", "***@host/s"),
        ("admin:pw@host:554", "***@host:554"),
        ("profile:pw@host", "***@host"),
        ("rtsp://a:b@one,rtsp://c:d@two", "rtsp://***@two"),
        ("file://admin:pw@host/yard.mp4", "file://***@host/yard.mp4"),
        ("http://h/?user=a&password=b&x=1", "http://h/?user=a&password=***&x=1"),
        ("http://h/?token=b", "http://h/?token=***"),
        ("http://h/?KEY=b;c#d", "http://h/?KEY=***"),
        ("http://h/?X-Amz-Signature=b&x=1", "http://h/?X-Amz-Signature=***&x=1"),
        ("http://h/?loginpas=b&usr=a&pwd=c", "http://h/?loginpas=***&usr=a&pwd=***"),
        ("http://h/?p%61ssword=b", "http://h/?password=***"),
        ("http://h/?password=b c", "http://h/?password=***"),
        ("http://proxy/?src=rtsp%3A%2F%2Fadmin%3Apw%40cam", "http://***@cam"),
        ("http://proxy/rtsp%253A%252F%252Fadmin%253Apw%2540cam", "http://***@cam"),
    ],
)
def test_what_is_secret_in_a_uri_is_masked(uri: str, shown: str) -> None:
    assert mask_uri(uri) == shown
    assert mask_uri(shown) == shown
    assert has_secret(uri)
    assert not has_secret(shown)


@pytest.mark.parametrize(
    "uri",
    [
        "synthetic:street?seed=1&fps=5",
        "file:/srv/a@b.mp4?pace=max",
        "file:a b.mp4",
        "yard=file:c:d@e.mp4",
        "file:///srv/user:x@y/yard.mp4",
        "rtsp://[::1]:554/live/ch0?channel=1&subtype=0",
        "mqtt://127.0.0.1:1883",
        "kafka-1:9092,kafka-2:9092",
        "node.detector:ab12cd34:15",
        "http://h/?token=",
        "signal=15&keyframe=2",
        "100%",
        "",
    ],
)
def test_what_is_not_secret_stays_as_it_is(uri: str) -> None:
    assert mask_uri(uri) == uri
    assert not has_secret(uri)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "Could not open resource for reading: 'rtsp://u:pw@h/s' (gstrtspsrc.c:8216)",
            "Could not open resource for reading: 'rtsp://***@h/s' (gstrtspsrc.c:8216)",
        ),
        ("rtspsrc location=rtsp://u:pw@h user-id=u user-pw=pw", "rtspsrc location=rtsp://***@h user-id=u user-pw=***"),
        ("{'password': 'pw', 'x': 1}", "{'password': *** 'x': 1}"),
        ('{"bus":{"password":"pw"}}', '{"bus":{"password":***'),
        ("Authorization: Bearer abc.def.ghi", "Authorization: Bearer ***"),
        ("joined with vigil-" + "aB3-" * 11 + "_0, at last", "joined with ***, at last"),
        ("client vigil-home-laptop-edge", "client vigil-home-laptop-edge"),
        ("bus.password: Input should be a valid string", "bus.password: Input should be a valid string"),
        ("check bus.username and VIGIL_BUS__PASSWORD", "check bus.username and VIGIL_BUS__PASSWORD"),
    ],
)
def test_a_text_keeps_what_is_around_its_secrets(text: str, shown: str) -> None:
    assert mask(text) == shown


PASSWORDS = st.text(st.characters(codec="utf-8"), min_size=4, max_size=12).map(lambda text: f"S{text}3cret")


@given(password=PASSWORDS, encoded=st.booleans(), rest=st.sampled_from(["", "/live", ":554/a?b=c", "/?token=x"]))
def test_any_password_is_hidden_in_any_uri(password: str, *, encoded: bool, rest: str) -> None:
    written = quote(password, safe="") if encoded else password
    for uri in (f"rtsp://admin:{written}@10.0.0.9{rest}", f"http://h/?user=a&password={quote(password, safe='')}"):
        assert "3cret" not in mask_uri(uri)
        assert mask_uri(mask_uri(uri)) == mask_uri(uri)


@given(st.text(st.sampled_from("ab:/@?&=%2540 '\"file://password=token"), max_size=60) | st.text(max_size=60))
def test_any_text_is_masked_once_and_for_all(text: str) -> None:
    assert mask(mask(text)) == mask(text)
    assert not has_secret(mask_uri(text))


@pytest.mark.parametrize(
    "pattern", ["a", "=", "pass", "pass=", "@:", "file:///", "%25", "a:%40", "\"':", "key':  ", "a ", "bearer ", "--"]
)
def test_the_time_grows_with_the_length_and_no_faster(pattern: str) -> None:
    def cost_s(length: int) -> float:
        text = pattern * (length // len(pattern)) + "@"
        started_s = time.thread_time()
        mask(text)
        return time.thread_time() - started_s

    assert min(cost_s(400_000) for _ in range(3)) < 40 * max(min(cost_s(40_000) for _ in range(3)), 1e-3)


def test_names_of_secrets_are_known() -> None:
    for name in ("password", "bus.password", "PASSWORD", "api_key", "user-pw", "access_token", "secret", "auth"):
        assert is_secret_name(name), name
    for name in ("camera", "event", "signal", "keyframes", "path", "author", "source"):
        assert not is_secret_name(name), name


def test_errors_say_nothing_secret_whoever_wrote_them() -> None:
    library = OSError("cannot open rtsp://admin:pw@10.0.0.9/s")
    for error in (
        TransientError(f"no picture ({library})"),
        ConfigError(f"wrong: {library}", field="cameras.rtsp://admin:pw@h.source"),
        BadPayloadError(str(library), topic="a/rtsp://admin:pw@h"),
    ):
        assert "pw" not in str(error) + repr(error) + str(vars(error).get("message")) + str(vars(error).get("reason"))


def test_a_file_for_everybody_is_told_from_one_for_a_group(tmp_path: Path) -> None:
    file = tmp_path / "vigil.yaml"
    assert not is_readable_by_others(file)
    file.touch()
    for mode, told in ((0o600, False), (0o640, False), (0o644, True), (0o604, True)):
        file.chmod(mode)
        assert is_readable_by_others(file) is told
