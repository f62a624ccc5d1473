from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from broker.messages import ModelFile
from config import PermanentError, TransientError
from detector.catalogue import CATALOGUE, known_model
from detector.model_store import ModelStore, about_model
from tests.support.file_server import FileServer, Served

MODEL = b"weights" * 100_000


def nothing(_there: int, _of: int | None) -> None:
    pass


def described(url: str, content: bytes = MODEL, name: str = "people") -> ModelFile:
    return ModelFile(
        name=name, sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content), url=url, licence="MIT"
    )


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer({"m.onnx": Served(MODEL)}) as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


def test_a_model_is_fetched_once_and_described_beside_it(server: FileServer, store: ModelStore) -> None:
    model = described(server.url("m.onnx"))
    path = store.fetch(model, on_progress=nothing)
    assert path == store.folder / model.sha256[:16] / "people.onnx"
    assert path.read_bytes() == MODEL
    assert about_model(path) == model
    assert store.fetch(model, on_progress=nothing) == path
    assert len(server.asked) == 1
    assert [one.suffix for one in store.folder.glob(".*")] == [".lock"]


def test_a_wrong_hash_leaves_nothing_behind(server: FileServer, store: ModelStore) -> None:
    wrong = msgspec.structs.replace(described(server.url("m.onnx")), sha256="ab" * 32)
    with pytest.raises(PermanentError, match=r"is not people: its SHA-256 is [0-9a-f]{64} and not abab"):
        store.fetch(wrong, on_progress=nothing)
    assert store.models() == []
    assert not list(store.folder.glob("*.part"))


def test_a_download_that_was_damaged_on_the_way_is_refused(server: FileServer, store: ModelStore) -> None:
    server.files["m.onnx"].content = MODEL[:-1] + b"!"
    with pytest.raises(PermanentError, match="is not people"):
        store.fetch(described(server.url("m.onnx")), on_progress=nothing)
    assert store.models() == []


def test_two_halves_of_two_files_are_thrown_away_and_fetched_again(server: FileServer, store: ModelStore) -> None:
    model = described(server.url("m.onnx"))
    server.files["m.onnx"] = Served(b"another" * 100_000, cut_after=5000)
    with pytest.raises(TransientError):
        store.fetch(model, on_progress=nothing)
    server.files["m.onnx"] = Served(MODEL)  # under the same entity tag, as a careless server does
    assert store.fetch(model, on_progress=nothing).read_bytes() == MODEL
    assert ["Range" in headers for headers in server.asked] == [False, True, False]


def test_a_stored_model_that_is_damaged_is_fetched_again(server: FileServer, store: ModelStore) -> None:
    model = described(server.url("m.onnx"))
    path = store.fetch(model, on_progress=nothing)
    path.write_bytes(MODEL[:-1] + b"!")
    assert store.fetch(model, on_progress=nothing).read_bytes() == MODEL


def test_two_who_want_the_same_model_fetch_it_once(server: FileServer, store: ModelStore) -> None:
    model = described(server.url("m.onnx"))
    paths: list[Path] = []
    threads = [
        threading.Thread(target=lambda: paths.append(ModelStore(store.folder).fetch(model, on_progress=nothing)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(paths) == 4
    assert len(server.asked) == 1


def test_what_nobody_vouches_for_is_pinned_by_what_came_first(server: FileServer, store: ModelStore) -> None:
    asked = msgspec.structs.replace(described(server.url("m.onnx")), sha256="0" * 64, size_bytes=0)
    pinned = store.pin(asked, on_progress=nothing)
    assert pinned.about.sha256 == hashlib.sha256(MODEL).hexdigest()
    assert pinned.about.size_bytes == len(MODEL)
    assert store.pin(asked, on_progress=nothing) == pinned
    server.files["m.onnx"].content = b"other" * 1000
    with pytest.raises(PermanentError, match="is another file than before"):
        store.pin(asked, on_progress=nothing)
    assert len(store.models()) == 1


def test_a_login_is_not_written_down(server: FileServer, store: ModelStore) -> None:
    path = store.fetch(described(server.url("m.onnx", "bob:s3cret@")), on_progress=nothing)
    assert "s3cret" not in (path.parent / "model.json").read_text()
    server.files["m.onnx"].content = b"other"
    with pytest.raises(PermanentError) as caught:
        store.fetch(described(server.url("m.onnx", "bob:s3cret@"), b"third"), on_progress=nothing)
    assert "s3cret" not in str(caught.value)


def test_a_folder_that_cannot_be_written_is_told(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")
    with pytest.raises(TransientError, match="models cannot be written"):
        ModelStore(tmp_path / "models").fetch(described(server.url("m.onnx")), on_progress=nothing)


def test_models_are_found_by_name_and_by_the_beginning_of_their_hash(server: FileServer, store: ModelStore) -> None:
    old = store.fetch(described(server.url("m.onnx")), on_progress=nothing)
    server.files["n.onnx"] = Served(b"newer")
    new = store.fetch(described(server.url("n.onnx"), b"newer"), on_progress=nothing)
    for age_s, path in enumerate((new, old)):
        os.utime(path, (1_000_000 - age_s, 1_000_000 - age_s))
    by_name, by_hash = store.find("people"), store.find(hashlib.sha256(MODEL).hexdigest()[:10])
    assert by_name is not None
    assert by_hash is not None
    assert (by_name.path, by_hash.path) == (new, old)
    assert store.find("nobody") is None


def test_a_refused_model_is_nobodys_default(server: FileServer, store: ModelStore) -> None:
    path = store.fetch(described(server.url("m.onnx")), on_progress=nothing)
    assert store.newest() == path
    store.mark(hashlib.sha256(MODEL).hexdigest(), refused="it crashed")
    assert store.newest() is None
    store.mark(hashlib.sha256(MODEL).hexdigest(), refused=None)
    assert store.newest() == path


def test_a_file_that_somebody_put_there_is_a_model_too(store: ModelStore) -> None:
    store.folder.mkdir()
    (store.folder / "my own (1).tflite").write_bytes(b"weights")
    (store.folder / "notes.txt").write_text("no model")
    (stored,) = store.models()
    assert (stored.about.name, stored.about.kind, stored.about.size_bytes) == ("my-own-1-", "tflite", 7)
    assert store.newest() == stored.path


def test_the_catalogue_can_be_sent_over_the_bus() -> None:
    assert [model.name for model in CATALOGUE] == ["yolox_nano", "yolox_tiny", "yolox_s"]
    for model in CATALOGUE:
        assert msgspec.json.decode(msgspec.json.encode(model), type=ModelFile) == model
        assert model.url.endswith(f"/{model.name}.onnx")
        assert model.licence == "Apache-2.0"
        assert known_model(model.name) is model
    assert len({model.sha256 for model in CATALOGUE}) == 3
    assert known_model("yolo") is None


def test_a_name_that_is_a_path_is_no_models_name() -> None:
    payload = json.dumps({"name": "../../etc/cron", "sha256": "ab" * 32, "size_bytes": 1}).encode()
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(payload, type=ModelFile)
