"""Where clips go: folders, and an object store behind real HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from config.clock import ManualClock
from config.errors import ConfigError, TransientError
from edge.footage.stores import ClipStore, open_store

_CONTENT = bytes(range(256)) * 4096
_NAME = "yard/2026-03-01/20260301T120000.000Z_yard_abc_01234567.mp4"


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    path.write_bytes(_CONTENT)
    return path


def _open(to: str | None, default: Path, clock: ManualClock | None = None) -> ClipStore:
    return open_store(to, default, bytes_per_s=100_000, clock=clock or ManualClock(), stop=threading.Event())


def test_without_a_place_clips_are_moved_beside_the_recordings(tmp_path: Path, clip: Path) -> None:
    uri = _open(None, tmp_path / "clips").deliver(clip, _NAME)
    assert uri == (tmp_path / "clips" / _NAME).as_uri()
    assert (tmp_path / "clips" / _NAME).read_bytes() == _CONTENT
    assert not clip.exists()


def test_another_folder_gets_a_copy_and_nothing_half(tmp_path: Path, clip: Path) -> None:
    clock = ManualClock()
    uri = _open(str(tmp_path / "nas"), tmp_path / "clips", clock).deliver(clip, _NAME)
    assert uri == (tmp_path / "nas" / _NAME).as_uri()
    assert [path.read_bytes() for path in (tmp_path / "nas").rglob("*") if path.is_file()] == [_CONTENT]
    # 1 MiB at 100,000 bytes a second; the first chunk goes at once.
    assert 7 < clock.monotonic_s() < 11


def test_a_folder_that_takes_nothing_is_tried_again_later(tmp_path: Path, clip: Path) -> None:
    (tmp_path / "nas").write_bytes(b"a file where the folder should be")
    with pytest.raises(TransientError, match="nas"):
        _open(str(tmp_path / "nas"), tmp_path / "clips").deliver(clip, _NAME)


@pytest.mark.parametrize("place", ["ftp://host/clips", "s3://key:secret@bucket/clips", "s3://"])
def test_what_is_no_place_is_refused_without_repeating_a_login(place: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"edge\.footage\.deliver_to") as refused:
        _open(place, tmp_path)
    assert "secret" not in str(refused.value)


class Bucket(ThreadingHTTPServer):
    """An S3 with one bucket that takes objects, until it is told not to."""

    daemon_threads = True

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.signed: list[str] = []
        self.refuses = False
        super().__init__(("127.0.0.1", 0), _Request)


class _Request(BaseHTTPRequestHandler):
    server: Bucket

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.signed.append(self.headers.get("Authorization", ""))
        if not self.server.refuses:
            name = self.path.partition("?")[0]
            self.server.objects[name] = self.server.objects.get(name, b"") + body
        self._answer(b"")

    def do_POST(self) -> None:
        """Begin and end an upload in parts. Source: Amazon S3 API Reference, CreateMultipartUpload."""
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        begins = self.path.endswith("uploads=") or self.path.endswith("uploads")
        kind = "InitiateMultipartUploadResult" if begins else "CompleteMultipartUploadResult"
        self._answer(
            f"<{kind}><Bucket>footage</Bucket><Key>k</Key><UploadId>7</UploadId><ETag>1</ETag></{kind}>".encode()
        )

    def _answer(self, body: bytes) -> None:
        self.send_response(403 if self.server.refuses else 200)
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Quiet."""


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    pytest.importorskip("obstore", reason="no obstore: pip install 'vigil-mesh[store]'")
    with Bucket() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "the-key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "the-secret")
        monkeypatch.setenv("AWS_REGION", "eu-west-1")
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        yield server
        server.shutdown()
        thread.join()


def test_an_object_store_gets_the_clip_signed_with_the_login_of_the_environment(
    bucket: Bucket, tmp_path: Path, clip: Path
) -> None:
    uri = _open("s3://footage/site", tmp_path).deliver(clip, _NAME)
    assert uri == f"s3://footage/site/{_NAME}"
    assert bucket.objects == {f"/footage/site/{_NAME}": _CONTENT}
    assert "the-key" in bucket.signed[0]


def test_a_large_clip_goes_in_parts(bucket: Bucket, tmp_path: Path) -> None:
    clip, content = tmp_path / "long.mp4", _CONTENT * 7
    clip.write_bytes(content)
    _open("s3://footage", tmp_path).deliver(clip, _NAME)
    assert bucket.objects == {f"/footage/{_NAME}": content}
    assert len(bucket.signed) == 2


def test_an_object_store_that_refuses_is_tried_again_later_and_the_secret_is_not_told(
    bucket: Bucket, tmp_path: Path, clip: Path
) -> None:
    bucket.refuses = True
    with pytest.raises(TransientError, match="s3://footage") as refused:
        _open("s3://footage", tmp_path).deliver(clip, _NAME)
    assert "the-secret" not in str(refused.value)
    assert clip.exists()
