from __future__ import annotations

import http.client
import io
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from config import PermanentError, TransientError
from detector import download as downloading
from detector.download import download
from tests.support.file_server import FileServer, Served

MODEL = bytes(range(256)) * 4000


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer({"m.onnx": Served(MODEL)}) as running:
        yield running


def fetch(url: str, part: Path, size_bytes: int | None = None) -> tuple[bool, list[tuple[int, int | None]]]:
    steps: list[tuple[int, int | None]] = []
    resumed = download(url, part, size_bytes=size_bytes, on_progress=lambda there, of: steps.append((there, of)))
    return resumed, steps


def test_a_file_comes_whole_and_the_progress_is_told(server: FileServer, tmp_path: Path) -> None:
    part = tmp_path / "x.part"
    resumed, steps = fetch(server.url("m.onnx"), part)
    assert part.read_bytes() == MODEL
    assert not resumed
    assert steps[0] == (0, len(MODEL))
    assert steps[-1] == (len(MODEL), len(MODEL))


def test_a_server_that_dies_in_the_middle_is_gone_on_with(server: FileServer, tmp_path: Path) -> None:
    part = tmp_path / "x.part"
    server.files["m.onnx"].cut_after = 400_000
    with pytest.raises(TransientError, match=r"400000 of 1024000 bytes"):
        fetch(server.url("m.onnx"), part)
    resumed, steps = fetch(server.url("m.onnx"), part)
    assert resumed
    assert steps[0] == (400_000, len(MODEL))
    assert part.read_bytes() == MODEL
    assert (server.asked[1]["Range"], server.asked[1]["If-Range"]) == ("bytes=400000-", '"1"')


def test_a_file_that_has_changed_meanwhile_begins_anew(server: FileServer, tmp_path: Path) -> None:
    part = tmp_path / "x.part"
    server.files["m.onnx"].cut_after = 1000
    with pytest.raises(TransientError):
        fetch(server.url("m.onnx"), part)
    server.files["m.onnx"] = Served(b"other" * 1000, tag='"2"')
    assert fetch(server.url("m.onnx"), part)[0] is False
    assert part.read_bytes() == b"other" * 1000


@pytest.mark.parametrize("served", [Served(MODEL, ranges=False), Served(MODEL, tag=""), Served(MODEL, tag='W/"1"')])
def test_a_server_that_gives_no_parts_of_one_version_is_asked_for_the_whole(
    server: FileServer, tmp_path: Path, served: Served
) -> None:
    part = tmp_path / "x.part"
    server.files["m.onnx"] = served
    served.cut_after = 1000
    with pytest.raises(TransientError):
        fetch(server.url("m.onnx"), part)
    assert fetch(server.url("m.onnx"), part)[0] is False
    assert part.read_bytes() == MODEL
    assert ("Range" in server.asked[1]) == (served.tag == '"1"')


def test_what_was_whole_already_is_not_asked_for_again(server: FileServer, tmp_path: Path) -> None:
    part = tmp_path / "x.part"
    fetch(server.url("m.onnx"), part)
    assert fetch(server.url("m.onnx"), part, len(MODEL))[0] is True
    assert len(server.asked) == 1
    fetch(server.url("m.onnx"), part)  # its size is not known: the server says that there is nothing more
    assert part.read_bytes() == MODEL


@pytest.mark.parametrize(
    ("status", "kind"), [(404, PermanentError), (403, PermanentError), (429, TransientError), (503, TransientError)]
)
def test_what_the_server_refuses_is_told(
    server: FileServer, tmp_path: Path, status: int, kind: type[Exception]
) -> None:
    server.files["m.onnx"].status = status
    with pytest.raises(kind, match=f"the server says {status}"):
        fetch(server.url("m.onnx"), tmp_path / "x.part")


def test_a_server_that_is_away_is_tried_again(tmp_path: Path) -> None:
    with FileServer() as gone:
        url = gone.url("m.onnx")
    with pytest.raises(TransientError, match=r"cannot be fetched: .*refused"):
        fetch(url, tmp_path / "x.part")


def test_another_size_than_the_models_is_refused_before_a_byte_of_it_is_taken(
    server: FileServer, tmp_path: Path
) -> None:
    with pytest.raises(PermanentError, match="1024000 bytes and not the 1000"):
        fetch(server.url("m.onnx"), tmp_path / "x.part", 1000)
    assert not (tmp_path / "x.part").exists()


def test_more_than_the_model_has_is_not_taken(server: FileServer, tmp_path: Path) -> None:
    server.files["m.onnx"].length = False
    with pytest.raises(PermanentError, match="more than 1000 bytes"):
        fetch(server.url("m.onnx"), tmp_path / "x.part", 1000)
    assert list(tmp_path.iterdir()) == []


def test_a_login_goes_to_its_host_and_into_no_message(server: FileServer, tmp_path: Path) -> None:
    fetch(server.url("m.onnx", "bob:s3cret@"), tmp_path / "x.part")
    assert server.asked[0]["Authorization"] == "Basic Ym9iOnMzY3JldA=="
    server.files["m.onnx"].status = 401
    with pytest.raises(PermanentError) as caught:
        fetch(server.url("m.onnx", "bob:s3cret@"), tmp_path / "x.part")
    assert "s3cret" not in str(caught.value)
    with FileServer({"n.onnx": Served(MODEL)}) as other:
        server.files["m.onnx"] = Served(b"", status=302, location=other.url("n.onnx"))
        fetch(server.url("m.onnx", "bob:s3cret@"), tmp_path / "x.part")
        assert "Authorization" not in other.asked[0]


@pytest.mark.parametrize(
    ("asked", "sent"),
    [("https://a/x", "http://b/x"), ("https://a/x", "file:///etc/passwd"), ("http://a/x", "ftp://b/")],
)
def test_nobody_is_sent_from_tls_to_a_plain_wire_or_to_a_file(asked: str, sent: str) -> None:
    request = urllib.request.Request(asked)
    with pytest.raises(urllib.error.URLError, match="not safe"):
        downloading._Redirects().redirect_request(request, io.BytesIO(), 302, "Found", http.client.HTTPMessage(), sent)


def test_a_disk_that_is_full_takes_nothing_and_keeps_nothing(server: FileServer, tmp_path: Path) -> None:
    part = tmp_path / "x.part"
    part.symlink_to("/dev/full")
    with pytest.raises(TransientError, match="No space left"):
        fetch(server.url("m.onnx"), part)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_for_it_is_not_filled(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9, 1_000_000))
    with pytest.raises(TransientError, match=r"disk of .* is full: 1000000 bytes are free"):
        fetch(server.url("m.onnx"), tmp_path / "x.part")
    assert not (tmp_path / "x.part").exists()


def test_a_file_of_this_machine_is_copied(tmp_path: Path) -> None:
    source = tmp_path / "über uns.onnx"
    source.write_bytes(MODEL)
    fetch(source.as_uri(), tmp_path / "x.part", len(MODEL))
    assert (tmp_path / "x.part").read_bytes() == MODEL


def test_a_file_that_this_machine_has_not_may_still_come(tmp_path: Path) -> None:
    with pytest.raises(TransientError, match=r"there is no /nowhere/m\.onnx on this machine: put the file there"):
        fetch("file:///nowhere/m.onnx", tmp_path / "x.part")


@pytest.mark.parametrize("url", ["ftp://a/m.onnx", "m.onnx", "gopher://a"])
def test_an_address_of_another_kind_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="is no address of a file"):
        fetch(url, tmp_path / "x.part")
