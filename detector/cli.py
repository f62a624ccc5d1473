"""`vigil detector`: the worker as a process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from config import ConfigError, stop_on_signals
from config.options import role_option
from config.settings import Settings

__all__ = ["detector"]

Load = Callable[[Mapping[str, Any]], Settings]


@click.command()
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    help="A YOLOX model (.onnx, .tflite).  [default: the newest of the model cache, else OpenCV's HOG people detector]",
)
@click.option("--labels", type=click.Path(path_type=Path), help="The model's labels, one a line.  [default: COCO's 80]")
@click.option(
    "--threads", type=click.IntRange(0, 256), help="Threads of one inference.  [default: the runtime's choice]"
)
@role_option("detector")
@click.pass_obj
def detector(load: Load, model: Path | None, labels: Path | None, threads: int | None, role: str) -> None:
    """Score the frames of every camera, and raise escalations.

    Scores go out for every frame that is scored; the newest frame of each camera is scored and older ones are dropped
    and counted. Rules (`detector.rules` of the site file) turn scores into escalations, which are kept on disk until
    the bridge confirms them.

    \b
    Examples:
      vigil detector
      vigil detector --model yolox_nano.onnx
      vigil --bus mqtt://10.0.0.2:1883 detector --role detector.2 --threads 2
    """
    settings = load({"detector": {"model": model, "labels": labels, "threads": threads}})
    stop = threading.Event()
    stop_on_signals(stop)
    try:
        from detector.role import run_detector
    except ModuleNotFoundError as error:
        raise ConfigError(f"the detector needs the package {error.name}: pip install 'vigil-mesh[detector]'") from error
    run_detector(settings, role, stop)
