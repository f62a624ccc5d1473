"""The folder with model files: what a model is called, what it is, and where it came from, beside each file.

A model lies in a folder of its own, named after its hash, so that two of one name are two models and a file that is
there is never written again. A file that somebody has put into the folder itself counts as well.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import platformdirs

from broker.messages import ModelFile
from config import PermanentError, TransientError
from config.files import hold_lock, move_into_place, write_atomically
from config.secrets import mask_uri
from config.settings import DetectorSettings
from detector.download import OnProgress, download

__all__ = ["MODEL_KINDS", "ModelStore", "StoredModel", "about_model", "file_sha256", "models_folder"]

MODEL_KINDS = (".onnx", ".tflite")
"""Endings of model files."""
_ABOUT = "model.json"
_REFUSED = "refused"
_FOLDER_DIGITS = 16


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model file on this machine.

    Attributes:
        path: the file.
        about: what it is; its address is without login, so it may be none that works.
    """

    path: Path
    about: ModelFile


def models_folder(settings: DetectorSettings) -> Path:
    """The folder in which model files are kept and looked for."""
    return settings.models_folder or Path(platformdirs.user_cache_dir("vigil", appauthor=False)) / "models"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def about_model(path: Path) -> ModelFile | None:
    """What was written down of a model file when it was fetched; None for one that somebody put there."""
    try:
        return msgspec.json.decode((path.parent / _ABOUT).read_bytes(), type=ModelFile)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def _describe(path: Path) -> ModelFile:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).lstrip("._-")[:128] or "model"
    kind: Literal["onnx", "tflite"] = "tflite" if path.suffix == ".tflite" else "onnx"
    size_bytes = path.stat().st_size
    return ModelFile(
        name=name, sha256=file_sha256(path), size_bytes=size_bytes, url=path.absolute().as_uri(), kind=kind
    )


class ModelStore:
    """Model files by their hash.

    Concurrency: several processes may use one folder at a time; a file is fetched by one of them.

    Args:
        folder: made when something is fetched.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def newest(self) -> Path | None:
        """The model file that came here last, and that no worker here has refused; None when there is none."""
        files = [path for path in self._files() if not (path.parent / _REFUSED).is_file()]
        return max(files, key=lambda path: (path.stat().st_mtime, path.name), default=None)

    def models(self) -> list[StoredModel]:
        """All model files, by name."""
        found = [StoredModel(path, about_model(path) or _describe(path)) for path in self._files()]
        return sorted(found, key=lambda stored: (stored.about.name, stored.about.sha256))

    def find(self, wanted: str) -> StoredModel | None:
        """The model of this name, the newest if there are several, or with this hash, or its beginning."""
        found = [
            stored for stored in self.models() if stored.about.name == wanted or stored.about.sha256.startswith(wanted)
        ]
        return max(found, key=lambda stored: stored.path.stat().st_mtime, default=None)

    def fetch(self, model: ModelFile, *, on_progress: OnProgress) -> Path:
        """Have a model here, whole and verified.

        Args:
            model: what it is; its address may have a login, which is not written down. A size of 0 is not known.
            on_progress: told after each piece.

        Raises:
            TransientError: the server, the way to it or the disk fails for now.
            PermanentError: what is there is not this model.
        """
        with self._alone(model.sha256) as part:
            here = self.find(model.sha256)
            if here is not None and file_sha256(here.path) == model.sha256:
                return here.path
            while True:
                resumed = download(model.url, part, size_bytes=model.size_bytes or None, on_progress=on_progress)
                found = file_sha256(part)
                if found == model.sha256:
                    return self._keep(part, model)
                part.unlink()
                if not resumed:  # else the two halves may be of two files: once more, from the beginning
                    raise PermanentError(
                        f"{mask_uri(model.url)} is not {model.name}: its SHA-256 is {found} and not {model.sha256}"
                    )

    def pin(self, model: ModelFile, *, on_progress: OnProgress) -> StoredModel:
        """Fetch a model of which nobody has said what it must be: it is what comes now.

        Args:
            model: name, kind and address; hash and size are found out.
            on_progress: told after each piece.

        Raises:
            TransientError: as `fetch`.
            PermanentError: as `fetch`, or there was another file at this address before.
        """
        with self._alone(hashlib.sha256(model.url.encode()).hexdigest()) as part:
            download(model.url, part, on_progress=on_progress)
            found = msgspec.structs.replace(model, sha256=file_sha256(part), size_bytes=part.stat().st_size)
            shown, is_ours = mask_uri(model.url), model.url.startswith("file:")
            for before in self.models():
                if before.about.url == shown and before.about.sha256 != found.sha256 and not is_ours:
                    part.unlink()
                    raise PermanentError(
                        f"{shown} is another file than before (SHA-256 {found.sha256}, then {before.about.sha256}): "
                        "if that is as it should be, say so with --sha256"
                    )
            return StoredModel(self._keep(part, found), found)

    def mark(self, sha256: str, *, refused: str | None) -> None:
        """Write down why a model was refused here, so that nobody takes it unasked; or, with None, that it is good."""
        mark = self.folder / sha256[:_FOLDER_DIGITS] / _REFUSED
        # Where nothing can be written, nothing is lost but this precaution.
        with suppress(OSError):
            if refused is None:
                mark.unlink(missing_ok=True)
            elif mark.parent.is_dir():
                mark.write_text(refused, encoding="utf-8")

    def _files(self) -> list[Path]:
        paths = [*self.folder.glob("*"), *self.folder.glob("*/*")]
        return [path for path in paths if path.suffix in MODEL_KINDS and path.is_file()]

    @contextmanager
    def _alone(self, key: str) -> Iterator[Path]:
        """Where to put what is fetched, while no other process puts it there."""
        draft = self.folder / f".{key[:_FOLDER_DIGITS]}.part"
        with ExitStack() as stack:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(hold_lock(draft.with_suffix(".lock")))
            except OSError as error:
                raise TransientError(f"{self.folder} cannot be written: {error.strerror}") from error
            yield draft

    def _keep(self, part: Path, model: ModelFile) -> Path:
        place = self.folder / model.sha256[:_FOLDER_DIGITS] / f"{model.name}.{model.kind}"
        try:
            place.parent.mkdir(exist_ok=True)
            about = msgspec.structs.replace(model, url=mask_uri(model.url), size_bytes=part.stat().st_size)
            write_atomically(place.parent / _ABOUT, msgspec.json.encode(about), mode=0o644)
            move_into_place(part, place)
        except OSError as error:
            raise TransientError(f"{place} cannot be written: {error.strerror}") from error
        part.with_suffix(".tag").unlink(missing_ok=True)
        return place
