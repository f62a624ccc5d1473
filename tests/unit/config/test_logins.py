"""Logins of cameras: a file for its owner's eyes, and sources that they are laid into."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from config import ConfigError
from config.logins import logins_file, read_logins, split_login, with_login, write_logins
from config.registry import Login
from config.settings import Settings

LOGIN = Login(username="us@er", password=SecretStr("p/a:s#s%"))


def test_what_is_written_is_read_and_nobody_else_reads_it(tmp_path: Path) -> None:
    path = logins_file(Settings(state_dir=tmp_path / "state"))
    assert read_logins(path) == {}
    write_logins(path, {"yard": LOGIN, "door": Login(username="admin")})
    assert read_logins(path) == {"yard": LOGIN, "door": Login(username="admin")}
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", ["", "[]", '{"yard": "hunter2"}', '{"yard": {"username": "a", "pass": "hunter2"}}'])
def test_a_file_that_is_something_else_is_refused_without_a_word_of_it(tmp_path: Path, content: str) -> None:
    path = tmp_path / "logins.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match="not the logins of cameras") as refusal:
        read_logins(path)
    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize(
    ("uri", "wanted"),
    [
        ("rtsp://10.0.0.7/a?b=1#tls=insecure", "rtsp://us%40er:p%2Fa%3As%23s%25@10.0.0.7/a?b=1#tls=insecure"),
        ("https://old:one@[::1]:8443", "https://us%40er:p%2Fa%3As%23s%25@[::1]:8443"),
        ("v4l2:/dev/video0", "v4l2:/dev/video0"),
        ("file:a://b", "file:a://b"),
    ],
)
def test_a_login_is_laid_into_what_is_in_the_network(uri: str, wanted: str) -> None:
    assert with_login(uri, LOGIN) == wanted
    if wanted != uri:
        assert split_login(wanted) == (uri.replace("old:one@", ""), LOGIN)
    assert split_login(split_login(uri)[0])[1] is None
