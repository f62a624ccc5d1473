"""`vigil bench`: how fast this machine is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from broker.messages import ModelFile
from config import ConfigError, SystemClock, configure_logging
from config.settings import DetectorSettings, Settings

if TYPE_CHECKING:
    from detector.backends import Backend
    from detector.benchmark import Rate, Report

__all__ = ["bench"]

Load = Callable[[Mapping[str, Any]], Settings]
Open = Callable[[DetectorSettings], "Backend"]

_COLUMN = 9
_STEPS = ("decode", "prepare", "infer", "read", "publish")


@click.group()
def bench() -> None:
    """How fast this machine is.

    \b
    Examples:
      vigil bench detector
    """


@bench.command()
@click.option(
    "--model",
    "models",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Another model file (.onnx, .tflite); may be given several times.",
)
@click.option("--labels", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Their labels.")
@click.option("--threads", type=click.IntRange(1, 256), multiple=True, help="Numbers of threads to try.")
@click.option(
    "--each", "spend_s", type=click.FloatRange(0.01, 60), default=1.0, show_default=True, help="Seconds a measurement."
)
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON a model.")
@click.pass_obj
def detector(
    load: Load,
    *,
    models: tuple[Path, ...],
    labels: Path | None,
    threads: tuple[int, ...],
    spend_s: float,
    as_json: bool,
) -> None:
    """How many frames a second each model scores here, and where the time goes.

    Measured are the models of the models folder (`vigil models list`), those given, and OpenCV's people detector, on
    pictures of 1280x720 that are drawn by code: the model alone, each step of a frame, and a whole worker with tracks
    on a bus in memory. No broker is needed. What else runs on the machine makes everything slower.

    \b
    Examples:
      vigil bench detector
      vigil bench detector --model yolox_nano.onnx --threads 1 --threads 4
      vigil bench detector --json
    """
    settings = load({"detector": {"labels": labels}}).detector
    configure_logging("error", "text", stream=sys.stderr)  # the output is the result
    try:
        from detector.benchmark import Rate, default_threads, describe_machine, draw_frames, examine, to_json
    except ModuleNotFoundError as error:
        raise ConfigError(f"measuring needs the package {error.name}: pip install 'vigil-mesh[detector]'") from error
    machine, frames = describe_machine(), draw_frames()
    if not as_json:
        click.echo(f"{machine['processor']}, {machine['cores']} cores for this process; {machine['gpu']}")
    clock = SystemClock()
    for name, open_model in _models(settings, models):
        if not as_json:
            click.echo(f"\n{name}")
        table = _RateTable(quiet=as_json)
        for found in examine(
            open_model, frames, settings, threads=threads or default_threads(), spend_s=spend_s, clock=clock
        ):
            if isinstance(found, Rate):
                table.add(found)
            elif as_json:
                click.echo(to_json(machine, found))
            else:
                table.end()
                _print_report(found)


def _models(settings: DetectorSettings, given: Sequence[Path]) -> list[tuple[str, Open]]:
    """Every model of this machine, by the file's path, each file once; HOG last."""
    from detector.backends.hog import HogBackend
    from detector.model_store import ModelStore, models_folder
    from detector.models import open_file

    def opened(path: Path, about: ModelFile | None) -> Open:
        def open_with(mine: DetectorSettings) -> Backend:
            if about is None:
                return open_file(path, mine)
            return open_file(path, mine, labels=about.labels, layout=about.layout, taken=about.input)

        return open_with

    chosen = [settings.model] if settings.model else []
    found: dict[Path, Open] = {path.resolve(): opened(path, None) for path in (*chosen, *given)}
    for model in ModelStore(models_folder(settings)).models():
        found.setdefault(model.path.resolve(), opened(model.path, model.about))
    hog = ("hog-people (OpenCV)", lambda mine: HogBackend(min_score=mine.min_score, threads=mine.threads))
    return [*((str(path), open_model) for path, open_model in found.items()), hog]


class _RateTable:
    """Pictures a second of the model alone, a line for each number of threads, as they come."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._threads: int | None = None

    def add(self, rate: Rate) -> None:
        if self._quiet:
            return
        if self._threads is None:
            click.echo("  the model alone, pictures a second")
        if rate.threads != self._threads:
            self.end()
            self._threads = rate.threads
            click.echo(f"    {rate.threads} thread{'s' if rate.threads > 1 else ''}:".ljust(18), nl=False)
        click.echo(f"{rate.fps:{_COLUMN}.1f}{f' (batch {rate.batch})' if rate.batch > 1 else ''}", nl=False)

    def end(self) -> None:
        if not self._quiet and self._threads is not None:
            click.echo("")


def _print_report(report: Report) -> None:
    total = sum(report.costs)
    width, height = report.input_px
    click.echo(f"  on {report.device}, input {width}x{height}")
    click.echo("  one frame".ljust(18) + "ms".rjust(_COLUMN) + "share".rjust(_COLUMN))
    for step, took_ms in zip(_STEPS, report.costs, strict=True):
        click.echo(f"    {step}".ljust(18) + f"{took_ms:{_COLUMN}.3f}" + f"{took_ms / total:{_COLUMN}.0%}")
    alone = 1000 / report.costs.infer
    click.echo(f"  a whole worker   {report.path_fps:9.1f} frames/s, {report.path_fps / alone:.2f} of the model alone")
    click.echo(f"  it would announce{report.capacity_fps:9.1f} frames/s")
