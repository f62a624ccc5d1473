"""The registry's folder: what it reads, how it writes, and who gets a conflict."""

from __future__ import annotations

import json
import textwrap
from fnmatch import fnmatch
from pathlib import Path

import pytest
from pydantic import SecretStr

from broker.camera_documents import lay_over
from broker.messages import CameraDocument, decode_json, encode_json
from config import BrokenFileError, ConfigError, ConflictError, PermanentError
from config.registry import CameraEntry, Login
from fleet.registry.documents import camera_changes, camera_document, says_the_same
from fleet.registry.folder import RegistryFolder

YARD = """\
# the one above the gate
source: rtsp://10.0.0.7/s1   # main stream
node: porch
mode: off
zones:
  gate:
    points:
      - [0.1, 0.1]
      - [0.9, 0.1]   # the post
      - [0.9, 0.9]
rules:
  night: {kind: presence, zones: [gate], hours: [{start: 22:00, end: 06:00}]}
"""


@pytest.fixture
def folder(tmp_path: Path) -> RegistryFolder:
    write(tmp_path / "cameras" / "yard.yaml", YARD)
    return RegistryFolder(tmp_path)


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(textwrap.dedent(text))


def only_error(folder: RegistryFolder, file: Path) -> str:
    (trouble,) = (one for one in folder.read().troubles if one.file == file)
    return str(trouble.error)


def test_words_need_no_quotes(folder: RegistryFolder) -> None:
    entry = folder.camera("yard").entry
    assert entry.mode == "off"
    assert entry.rules["night"].hours[0].start.hour == 22


def test_a_change_keeps_comments_order_and_layout(folder: RegistryFolder) -> None:
    held = folder.change_camera("yard", {"node": "door", "motion": {"sensitivity": 0.7}, "mode": None})
    expected = YARD.replace("node: porch", "node: door").replace("mode: off\n", "")
    assert held.text == f"{expected}motion:\n  sensitivity: 0.7\n"
    assert folder.camera("yard") == held


def test_a_list_that_is_not_indented_stays_so(folder: RegistryFolder) -> None:
    text = "source: v4l2:/dev/video0\nlabels:\n- person\n- dog\n"
    write(folder.camera_file("desk"), text)
    assert folder.change_camera("desk", {"area": "Study"}).text == f"{text}area: Study\n"


def test_a_new_file_is_as_a_person_would_write_it(folder: RegistryFolder) -> None:
    zone = {"points": [[0.1, 0.1], [0.9, 0.1], [0.9, 0.9]], "labels": ["person"]}
    held = folder.change_camera("hall", {"source": "rtsp://10.0.0.8/a", "node": None, "zones": {"bed": zone}}, etag="")
    assert held.text == (
        "source: rtsp://10.0.0.8/a\n"
        "zones:\n  bed:\n    points: [[0.1, 0.1], [0.9, 0.1], [0.9, 0.9]]\n    labels: [person]\n"
    )


def test_nothing_changes_where_the_values_are_the_same(folder: RegistryFolder) -> None:
    before = folder.camera("yard")
    assert folder.change_camera("yard", {"node": "porch"}) == before


def test_the_second_of_two_editors_gets_a_conflict_and_keeps_his_text(folder: RegistryFolder) -> None:
    other = RegistryFolder(folder.path)
    mine, his = folder.camera("yard"), other.camera("yard")
    other.change_camera("yard", {"idle_fps": 2}, etag=his.etag)
    with pytest.raises(ConflictError) as caught:
        folder.replace_camera("yard", mine.text.replace("porch", "attic"), etag=mine.etag)
    assert "+idle_fps: 2" in caught.value.changed
    assert "porch" not in caught.value.changed
    assert caught.value.mine is not None
    assert "node: attic" in caught.value.mine.read_text()
    now = folder.camera("yard").entry
    assert (now.idle_fps, now.node) == (2.0, "porch")
    assert folder.read().cameras.keys() == {"yard"}


def test_a_conflict_of_a_change_keeps_what_it_would_have_made(folder: RegistryFolder) -> None:
    before = folder.camera("yard")
    write(before.file, YARD + "idle_fps: 3\n")
    with pytest.raises(ConflictError) as caught:
        folder.change_camera("yard", {"area": "Garden"}, etag=before.etag)
    assert caught.value.mine is not None
    assert caught.value.mine.read_text() == YARD + "area: Garden\n"
    folder.change_camera("yard", {"area": "Garden"}, etag=folder.camera("yard").etag)
    assert (folder.camera("yard").entry.area, folder.camera("yard").entry.idle_fps) == ("Garden", 3.0)


def test_a_camera_that_is_there_already_is_no_new_one(folder: RegistryFolder) -> None:
    with pytest.raises(ConflictError):
        folder.change_camera("yard", {"source": "rtsp://10.0.0.9/x"}, etag="")


def test_a_file_that_was_removed_is_told_as_that(folder: RegistryFolder) -> None:
    before = folder.camera("yard")
    before.file.unlink()
    with pytest.raises(ConflictError, match="was removed"):
        folder.change_camera("yard", {"area": "Garden"}, etag=before.etag)


def test_what_would_break_a_file_is_not_written(folder: RegistryFolder) -> None:
    with pytest.raises(ConfigError, match=r"yard\.yaml:13: idle_fps: .* not 99"):
        folder.change_camera("yard", {"idle_fps": 99})
    assert folder.camera("yard").text == YARD


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("source: rtsp://a/b\nidel_fps: 2\n", ":2: idel_fps: unknown key; did you mean 'idle_fps'?"),
        ("node: porch\n", ": source: Field required"),
        ("source: rtsp://a/b\nnode: a\npool: b\n", ": a camera has a `node` or a `pool`, not both"),
        ("source: rtsp://a/b\nzones: [1\n", ":3: not valid YAML"),
        ("source: rtsp://a/b\nsource: rtsp://a/c\n", ":2: this key stands there twice"),
        ("- yard\n", ":1: the file must be a mapping"),
        ("source: rtsp://u:geheim@a/b\n", ":1: source: a login or a token in it would be seen"),
        (
            "source: rtsp://a/b\nrules:\n  n:\n    zones: [gat]\n",
            ":4: rules.n.zones: this camera has no zone 'gat': draw it",
        ),
        ("source: rtsp://a/b\nrules: {n: {kind: dwel}}\n", ":2: rules.n: there is no kind 'dwel'; there are presence"),
    ],
)
def test_an_error_names_file_field_and_line(folder: RegistryFolder, text: str, error: str) -> None:
    file = folder.camera_file("broken")
    write(file, text)
    said = only_error(folder, file)
    assert f"{file}{error}" in said
    assert "geheim" not in said
    assert folder.read().cameras.keys() == {"yard"}


def test_all_that_is_wrong_with_a_file_is_told(folder: RegistryFolder) -> None:
    write(folder.camera_file("broken"), "source: rtsp://a/b\nidle_fps: x\nmotion: {sensitivity: 2}\n")
    with pytest.raises(BrokenFileError) as caught:
        folder.camera("broken")
    assert [error.field for error in caught.value.errors] == ["idle_fps", "motion.sensitivity"]
    assert [error.line for error in caught.value.errors] == [2, 3]


def test_a_broken_file_can_be_mended_by_a_change(folder: RegistryFolder) -> None:
    write(folder.camera_file("broken"), "source: rtsp://a/b # keep\nidle_fps: x\n")
    assert folder.change_camera("broken", {"idle_fps": 2}).text == "source: rtsp://a/b # keep\nidle_fps: 2\n"


@pytest.mark.parametrize("name", ["old.yml", "a b.yaml"])
def test_a_file_that_nobody_would_read_is_told(folder: RegistryFolder, name: str) -> None:
    write(folder.path / "cameras" / name, "source: rtsp://a/b\n")
    assert only_error(folder, folder.path / "cameras" / name)


def test_a_nodes_password_is_refused(folder: RegistryFolder) -> None:
    with pytest.raises(ConfigError, match=r"porch\.yaml:1: settings: .*VIGIL_BUS__PASSWORD") as caught:
        folder.change_node("porch", {"settings": {"bus": {"password": "geheim"}}})
    assert "geheim" not in str(caught.value)
    assert folder.change_node("porch", {"settings": {"edge": {"hot_c": 70}}}).entry.settings == {"edge": {"hot_c": 70}}


def test_a_camera_goes_with_its_login(folder: RegistryFolder) -> None:
    folder.set_login("yard", Login(username="admin", password=SecretStr("s3cret")))
    assert folder.logins()["yard"].password.get_secret_value() == "s3cret"
    assert (folder.logins_file.stat().st_mode & 0o777) == 0o600
    folder.remove_camera("yard", etag=folder.camera("yard").etag)
    assert folder.logins() == {}
    with pytest.raises(PermanentError, match="there is no camera 'yard'"):
        folder.camera("yard")


@pytest.mark.parametrize("text", ["yard: geheim\n", "yard: {username: a, pasword: geheim}\n", "yard: *geheim\n"])
def test_nothing_of_a_broken_file_of_logins_is_repeated(folder: RegistryFolder, text: str) -> None:
    write(folder.logins_file, text)
    said = only_error(folder, folder.logins_file)
    assert str(folder.logins_file) in said
    assert "geheim" not in said
    assert folder.read().cameras.keys() == {"yard"}


@pytest.mark.parametrize("own", ["", "*.swp\n"])
def test_git_never_sees_logins(folder: RegistryFolder, own: str) -> None:
    (folder.path / ".gitignore").write_text(own)
    folder.set_login("yard", Login(username="admin"))
    for left in ("logins.yaml~", ".logins.yaml.swp"):
        write(folder.path / left, "yard: {username: admin}\n")
    folder.keep_beside("yard", "x")
    ignored = (folder.path / ".gitignore").read_text().splitlines()
    files = [str(file.relative_to(folder.path)) for file in folder.path.rglob("*") if file.is_file()]
    seen = [file for file in files if not any(fnmatch(Path(file).name, pattern) for pattern in ignored)]
    assert sorted(seen) == [".gitignore", "cameras/yard.yaml"]


def test_a_document_is_what_the_file_says_and_no_more(folder: RegistryFolder) -> None:
    held = folder.change_camera("yard", {"device": {"mac": "AA:BB:CC:DD:EE:FF"}, "checks": {"fresh_s": 5}})
    document = camera_document("yard", held.entry, 7)
    assert document.settings.keys() == {"mode", "zones", "rules"}
    came = decode_json(CameraDocument, encode_json(document), max_bytes=10_000)
    assert says_the_same(document, came)
    assert lay_over("yard", came, None, came.source).rules == held.entry.rules


def test_a_document_and_back_is_the_same(folder: RegistryFolder) -> None:
    document = camera_document("yard", folder.camera("yard").entry, 7)
    folder.change_camera("copy", camera_changes(None, document))
    copied = camera_document("copy", folder.camera("copy").entry, 7)
    assert json.loads(encode_json(copied)) == json.loads(encode_json(document)) | {"camera": "copy"}


def test_only_what_another_has_changed_goes_into_the_file() -> None:
    before = camera_document("yard", CameraEntry(source="rtsp://a/b", idle_fps=2, mode="eco", area="Garden"), 1)
    after = camera_document("yard", CameraEntry(source="rtsp://a/b", idle_fps=3, node="porch", area="Garden"), 2)
    assert camera_changes(before, after) == {"idle_fps": 3.0, "mode": None, "node": "porch"}
