from __future__ import annotations

import os
from pathlib import Path

import pytest
import structlog.testing

from config import ConfigError
from config.rules import PresenceRule
from config.settings import DetectorSettings
from detector.labels import COCO_LABELS, read_labels
from detector.model_store import ModelStore
from detector.models import open_backend


def test_without_a_model_it_is_hog_and_one_line_says_how_to_get_a_better_one(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as logs:
        backend = open_backend(DetectorSettings(models_folder=tmp_path / "models"))
    assert backend.model.name == "hog-people"
    (line,) = logs
    assert line["event"] == "model.hog_in_use"
    assert "vigil models pull yolox_nano" in line["hint"]


def test_the_newest_model_of_the_cache_is_taken(tmp_path: Path, shared_data: Path) -> None:
    for age, name in enumerate(["new.onnx", "old.onnx"]):
        (tmp_path / name).write_bytes((shared_data / "yolox_nano.onnx").read_bytes())
        os.utime(tmp_path / name, (1_000_000 - age, 1_000_000 - age))
    (tmp_path / "newer.txt").write_text("no model")
    assert ModelStore(tmp_path).newest() == tmp_path / "new.onnx"
    assert open_backend(DetectorSettings(models_folder=tmp_path)).model.name == "new"


def test_a_model_that_is_asked_for_goes_before_the_cache(tmp_path: Path, shared_data: Path) -> None:
    (tmp_path / "cached.onnx").write_bytes(b"broken")
    settings = DetectorSettings(model=shared_data / "yolox_nano.onnx")
    assert open_backend(settings.model_copy(update={"models_folder": tmp_path})).model.name == "yolox_nano"


def test_a_broken_model_in_the_cache_is_named(tmp_path: Path) -> None:
    (tmp_path / "cached.onnx").write_bytes(b"broken")
    with pytest.raises(ConfigError, match=r"cached\.onnx is not a model"):
        open_backend(DetectorSettings(models_folder=tmp_path))


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"detector\.model: .*none\.onnx: there is no such file; give the path of a"):
        open_backend(DetectorSettings(model=tmp_path / "none.onnx"))


def test_a_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="this is a folder"):
        open_backend(DetectorSettings(model=tmp_path))


@pytest.mark.parametrize(("label", "hint"), [("persn", "did you mean 'person'"), ("car", "it knows person")])
def test_a_rule_that_waits_for_what_the_model_never_says_is_refused(label: str, hint: str, tmp_path: Path) -> None:
    settings = DetectorSettings(rules={"watch": PresenceRule(label=label)})
    with pytest.raises(ConfigError, match=hint) as caught:
        open_backend(settings.model_copy(update={"models_folder": tmp_path}))
    assert caught.value.field == "detector.rules.watch.label"


def test_labels_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "labels.txt"
    file.write_text("forklift\n\n  pallet jack \n")
    assert read_labels(file) == ("forklift", "pallet jack")
    assert len(set(COCO_LABELS)) == 80


def test_labels_that_do_not_fit_the_model_are_refused(tmp_path: Path, shared_data: Path) -> None:
    file = tmp_path / "labels.txt"
    file.write_text("forklift\n")
    with pytest.raises(ConfigError, match="yolox_nano knows 80 classes and there are 1 labels"):
        open_backend(DetectorSettings(model=shared_data / "yolox_nano.onnx", labels=file))


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe\x00", b"x" * 300])
def test_a_file_that_is_no_list_of_labels_is_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "labels.txt"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"labels\.txt"):
        read_labels(file)


def test_a_labels_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.txt cannot be read"):
        read_labels(tmp_path / "none.txt")
