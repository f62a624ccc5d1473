"""`vigil models`: fetch models, say which one the site's workers use, and see what became of it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, Self, cast
from urllib.parse import unquote, urlsplit

import click
import msgspec

from broker.messages import ModelFile, ModelManifest, ModelRef, WorkerStatus
from config import ConfigError, PermanentError, TransientError, configure_logging
from config.durations import DURATION
from config.names import check_name
from config.secrets import MASK, has_secret
from config.settings import Settings
from config.text import printable
from detector.catalogue import CATALOGUE, known_model
from detector.labels import read_labels
from detector.model_site import SiteModels
from detector.model_store import MODEL_KINDS, ModelStore, StoredModel, models_folder

__all__ = ["models"]

Load = Callable[[Mapping[str, Any]], Settings]

_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SHOWN_DIGITS = 12
_UNKNOWN = "0" * 64


@click.group()
def models() -> None:
    """Fetch models, say which one the workers use, and see what became of it.

    \b
    vigil models pull yolox_nano                      into this machine's models folder
    vigil models use yolox_nano --canary auto         one worker tries it, then all use it
    vigil models list                                 what is here, wanted, and in use where
    vigil models rollback                             back to the one before
    """


@models.command()
@click.argument("source", metavar="NAME|URL|FILE")
@click.option("--name", metavar="NAME", help="What to call it.  [default: the file's name]")
@click.option("--sha256", metavar="HEX", help="What it must be. Needed for http://, good for every address.")
@click.option("--labels", metavar="FILE", type=click.Path(path_type=Path), help="Its labels, one a line.")
@click.option("--layout", metavar="NAME", default="", help="How it writes down boxes, where its file does not tell.")
@click.option("--licence", metavar="SPDX", default="", help="Under which licence it is.")
@click.pass_obj
def pull(
    load: Load, *, source: str, name: str | None, sha256: str | None, labels: Path | None, layout: str, licence: str
) -> None:
    """Fetch a model into this machine's models folder, and verify it.

    Models of the catalogue (`vigil models list`) have their hashes there. Of another one at an https:// address,
    nobody but its server vouches for what comes: what came first is pinned, and another file at the same address is
    refused later. Give --sha256 where you know it. A download that breaks off goes on where it was.

    \b
    Examples:
      vigil models pull yolox_nano
      vigil models pull https://example.org/people.onnx --sha256 1f0c... --labels people.txt
      vigil models pull ./people.tflite
    """
    settings = _read(load)
    store = ModelStore(models_folder(settings.detector))
    known = known_model(source)
    if known is not None:
        model = known
    else:
        model = _described(source, name, sha256, read_labels(labels) if labels else (), layout, licence)
    with _Progress(model.name) as progress:
        if model.sha256 != _UNKNOWN:
            path, pinned = store.fetch(model, on_progress=progress), False
        else:
            path, pinned = store.pin(model, on_progress=progress).path, True
    stored = next(one for one in store.models() if one.path == path)
    click.echo(f"{stored.about.name}  {_size(stored.about)}  sha256 {stored.about.sha256}\n{path}")
    if pinned and urlsplit(model.url).scheme != "file":
        click.echo("pinned: nobody but its server vouches for this hash; compare it with its maker's, if there is one")


def _described(  # noqa: PLR0917 - the options of `pull`, in their order
    source: str, name: str | None, sha256: str | None, labels: tuple[str, ...], layout: str, licence: str
) -> ModelFile:
    url = source if "://" in source else Path(source).absolute().as_uri()
    path = Path(unquote(urlsplit(url).path))
    if "://" not in source and not Path(source).exists():
        names = ", ".join(model.name for model in CATALOGUE)
        raise ConfigError(f"{source!r} is no file, no address and not in the catalogue ({names})")
    if path.suffix not in MODEL_KINDS:
        raise ConfigError(f"{path.name or source} is no model: its name must end in {' or '.join(MODEL_KINDS)}")
    if sha256 is not None and not _SHA256.fullmatch(sha256.lower()):
        raise click.BadParameter("a SHA-256 has 64 hexadecimal digits", param_hint="--sha256")
    _check_scheme(url, sha256)
    chosen = name or path.stem
    if not _NAME.fullmatch(chosen):
        raise click.BadParameter("use letters, digits, '.', '_' and '-'", param_hint="--name")
    return ModelFile(
        name=chosen,
        sha256=sha256.lower() if sha256 else _UNKNOWN,
        size_bytes=0,
        url=url,
        kind=cast("Literal['onnx', 'tflite']", path.suffix[1:]),
        layout=layout,
        labels=labels,
        licence=licence,
    )


def _check_scheme(url: str, sha256: str | None) -> None:
    if urlsplit(url).scheme == "http" and sha256 is None:
        raise ConfigError(
            "what comes over http:// may be anybody's: say with --sha256 what it must be, or use https://"
        )


class _Progress:
    """A bar on standard error, where that is a terminal."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._stack = ExitStack()
        self._bar: Any = None
        self._shown = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_why: object) -> None:
        self._stack.close()

    def __call__(self, there: int, of: int | None) -> None:
        if self._bar is None and of:
            bar = click.progressbar(length=of, label=self._label, file=sys.stderr)
            self._bar = self._stack.enter_context(bar)
        if self._bar is not None:
            self._bar.update(there - self._shown)
            self._shown = there


@models.command("use")
@click.argument("name", metavar="NAME|SHA256")
@click.option("--class", "class_name", metavar="CLASS", default="default", help="Of workers.  [default: all others]")
@click.option("--canary", metavar="WORKER|auto", help="Let this worker (NODE.ROLE) try it first.")
@click.option("--url", metavar="URL", help="Where workers fetch it.  [default: where it came from]")
@click.option("--wait", "wait_s", type=DURATION, metavar="DURATION", default="5m", help="For the canary; default 5m.")
@click.option("--now", is_flag=True, help="Also outside of the hours in which the site changes models.")
@click.pass_obj
def use(
    load: Load, *, name: str, class_name: str, canary: str | None, url: str | None, wait_s: float, now: bool
) -> None:
    """Say which model the workers use. They fetch it, try it out, and change to it without missing a frame.

    A worker on which it fails, or is too slow, goes back to the model before by itself and says why. With --canary one
    worker tries it alone: when it has done well for some seconds of work, all others follow; when not, nothing has
    changed for them. Interrupt the waiting and it stays with the canary, until `vigil models use` without one.

    Where the site has hours for it (`windows.models` in the registry's site.yaml), what is said outside of them waits
    with `vigil fleet` until they begin.

    \b
    Examples:
      vigil models use yolox_nano
      vigil models use yolox_s --class gpu --canary auto
      vigil models use people --url https://files.example.org/people.onnx
    """
    settings = _read(load)
    _check_class(class_name)
    model = _published(_find(settings, name), url)
    with SiteModels(settings) as site:
        previous = _previous(site, class_name, model, settings)
        if not now and _waits(site, class_name, model, previous, is_trial=canary is not None):
            return
        if canary is None:
            manifest = site.say(class_name, model, previous=previous)
            click.echo(f"{_workers(site, class_name)} to use {_digits(model)} (version {manifest.version})")
            return
        worker = _canary(site, class_name, canary)
        manifest = site.say(class_name, model, canary=worker, previous=previous)
        click.echo(f"{worker} tries {_digits(model)} (version {manifest.version})")
        reason = site.wait_verdict(worker, manifest, wait_s, lambda step: click.echo(f"  {printable(step, 500)}"))
        if reason:
            raise PermanentError(f"{worker} does not use {model.name}, and nobody else does: {printable(reason, 500)}")
        manifest = site.say(class_name, model, previous=previous)
        click.echo(f"{_workers(site, class_name)} to use {_digits(model)} (version {manifest.version})")


def _waits(site: SiteModels, class_name: str, model: ModelFile, previous: ModelFile | None, *, is_trial: bool) -> bool:
    """Whether the model waits for the hours in which the site changes models.

    Raises:
        PermanentError: it would be tried first, which somebody has to watch.
    """
    opens = site.offer(class_name, model, previous=previous, stage=not is_trial)
    if opens and is_trial:
        raise PermanentError(f"the site changes models from {opens} on: try it then, or with --now")
    if opens:
        click.echo(f"{_digits(model)} waits until {opens}, when the site changes models; --now does not wait")
    return bool(opens)


@models.command()
@click.option("--class", "class_name", metavar="CLASS", default="default", help="Of workers.  [default: all others]")
@click.pass_obj
def rollback(load: Load, *, class_name: str) -> None:
    """Let the workers go back to the model before, also out of a trial.

    \b
    Examples:
      vigil models rollback
      vigil models rollback --class gpu
    """
    settings = _read(load)
    _check_class(class_name)
    with SiteModels(settings) as site:
        before = site.manifests.get(class_name)
        if before is None or before.previous is None:
            raise PermanentError(
                f"class {class_name} has no model to go back to: say which one with `vigil models use NAME`"
            )
        manifest = site.say(class_name, before.previous, previous=None)
        click.echo(f"{_workers(site, class_name)} to use {_digits(manifest.model)} (version {manifest.version})")


@models.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_obj
def list_(load: Load, *, as_json: bool) -> None:
    """Show the models that are here and known, what the site wants, and what each worker uses, or why it does not.

    \b
    Examples:
      vigil models list
      vigil models list --json | jq .workers
    """
    settings = _read(load)
    store = ModelStore(models_folder(settings.detector))
    here, absent = store.models(), ""
    manifests: Mapping[str, ModelManifest] = {}
    workers: Mapping[str, WorkerStatus] = {}
    try:
        with SiteModels(settings) as site:
            manifests, workers = site.manifests, site.workers
    except TransientError as error:
        absent = str(error)
    if as_json:
        found = {"here": here, "known": CATALOGUE, "wanted": manifests, "workers": workers, "absent": absent}
        click.echo(msgspec.json.encode(found, enc_hook=str))
        return
    known = [model for model in CATALOGUE if model.sha256 not in {stored.about.sha256 for stored in here}]
    _print(f"In {store.folder}", [_file_row(stored.about) for stored in here])
    _print("Known, not here (vigil models pull NAME)", [_file_row(model) for model in known])
    if absent:
        click.echo(f"\nWhat the site wants is not known: {printable(absent)}")
        return
    _print("Wanted", [_wanted_row(manifests[name]) for name in sorted(manifests)])
    _print("Workers", [_worker_row(workers[origin]) for origin in sorted(workers)])


def _read(load: Load) -> Settings:
    settings = load({})
    configure_logging("error", settings.log.style, stream=sys.stderr)  # the output is the result
    return settings


def _check_class(name: str) -> None:
    try:
        check_name(name)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--class") from error


def _find(settings: Settings, name: str) -> StoredModel | ModelFile:
    store = ModelStore(models_folder(settings.detector))
    found = store.find(name) or known_model(name) or (_hog() if name in ("hog", "hog-people") else None)
    if found is None:
        raise ConfigError(f"there is no model {name!r} in {store.folder} or in the catalogue: `vigil models pull` it")
    return found


def _hog() -> ModelFile:
    """OpenCV's people detector, which every worker has."""
    from detector.backends.hog import HogBackend

    model = HogBackend(min_score=1.0).model
    return ModelFile(name=model.name, sha256=model.sha256, size_bytes=0, kind="hog")


def _published(found: StoredModel | ModelFile, url: str | None) -> ModelFile:
    """The model with an address that may be published."""
    model = found if isinstance(found, ModelFile) else found.about
    if model.kind == "hog":
        return model
    if isinstance(found, StoredModel) and urlsplit(model.url).scheme == "file":
        model = msgspec.structs.replace(model, url=found.path.absolute().as_uri())
    model = msgspec.structs.replace(model, url=url or model.url)
    if MASK in model.url or has_secret(model.url):
        raise ConfigError(
            f"{model.name} came from an address with a login or a token, which everybody on the bus would see: put the "
            "file where workers reach it without, and give that address with --url"
        )
    if urlsplit(model.url).scheme == "file":
        click.echo(f"workers on other machines find {model.name} only if it is at {unquote(urlsplit(model.url).path)}")
    return model


def _previous(site: SiteModels, class_name: str, model: ModelFile, settings: Settings) -> ModelFile | None:
    """What the workers go back to from a model: the last that all were to use and that is another one."""
    before = site.manifests.get(class_name)
    if before is None:
        return _in_use(site, class_name, settings)
    is_proven = not before.canary and before.model.sha256 != model.sha256
    return before.model if is_proven else before.previous


def _in_use(site: SiteModels, class_name: str, settings: Settings) -> ModelFile | None:
    """What all the workers use before anybody has said anything, where that can be said again."""
    used = {status.model for origin, status in site.workers.items() if origin in site.online(class_name)}
    if len(used) != 1:
        return None
    (ref,) = used
    return _known_again(ref, settings) if ref is not None else None


def _known_again(ref: ModelRef, settings: Settings) -> ModelFile | None:
    stored = ModelStore(models_folder(settings.detector)).find(ref.sha256)
    candidates: Iterable[ModelFile] = (*CATALOGUE, _hog())
    known = next((model for model in candidates if model.sha256 == ref.sha256), None)
    if known is not None or stored is None or MASK in stored.about.url:
        return known
    return msgspec.structs.replace(stored.about, url=stored.path.absolute().as_uri())


def _canary(site: SiteModels, class_name: str, asked: str) -> str:
    online = site.online(class_name)
    if asked == "auto" and online:
        return online[0]
    if asked in online:
        return asked
    raise TransientError(
        f"no worker of class {class_name} is online to try it"
        if asked == "auto"
        else f"{asked} is no worker of class {class_name} that is online; there {_are(online)}"
    )


def _are(names: Sequence[str]) -> str:
    return f"are {', '.join(names)}" if names else "is none"


def _workers(site: SiteModels, class_name: str) -> str:
    count = len(site.online(class_name))
    return f"{count} worker{' is' if count == 1 else 's are'}"


def _size(model: ModelFile) -> str:
    return f"{model.size_bytes / 1e6:.1f} MB"


def _digits(model: ModelFile | ModelRef) -> str:
    return f"{printable(model.name, 128)} {model.sha256[:_SHOWN_DIGITS]}"


def _file_row(model: ModelFile) -> tuple[str, ...]:
    return _digits(model), _size(model), model.kind, model.licence or "licence unknown"


def _wanted_row(manifest: ModelManifest) -> tuple[str, ...]:
    previous = f"before it {_digits(manifest.previous)}" if manifest.previous is not None else ""
    canary = f"only {printable(manifest.canary)}, others as before" if manifest.canary else ""
    return manifest.name, f"version {manifest.version}", _digits(manifest.model), canary, previous


def _worker_row(status: WorkerStatus) -> tuple[str, ...]:
    wanted = f"changes to {_digits(status.model_wanted)}" if status.model_wanted is not None else ""
    used = _digits(status.model) if status.model is not None else "-"
    return printable(status.worker), status.state, used, wanted, printable(status.model_error, 500)


def _print(title: str, rows: Sequence[tuple[str, ...]]) -> None:
    click.echo(f"\n{title}")
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows or [("none",)]:
        click.echo("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths or [0], strict=True)).rstrip())
