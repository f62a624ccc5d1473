"""`vigil detect`: what a worker would see in a picture or a video, drawn."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from config import ConfigError, configure_logging
from config.cameras import CameraSettings
from config.settings import Settings

__all__ = ["detect"]

Load = Callable[[Mapping[str, Any]], Settings]

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_NEW_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("file", metavar="IMAGE|VIDEO", type=_FILE)
@click.option(
    "--out", type=_NEW_FILE, help="Where it is drawn: .jpg or .png, .mp4.  [default: NAME-detected.jpg or .mp4]"
)
@click.option("--camera", help="Zones, labels and rules of this camera of the site file.")
@click.option("--model", type=_FILE, help="A model file (.onnx, .tflite).  [default: as `vigil detector` chooses]")
@click.option("--labels", type=_FILE, help="The model's labels, one a line.")
@click.option("--threads", type=click.IntRange(0, 256), help="Threads of one inference.")
@click.option(
    "--fps", type=click.FloatRange(0.1, 120), help="Pictures a second that are looked at.  [default: the camera's]"
)
@click.option("--start", type=click.DateTime(), help="When the video began, for rules with hours.  [default: now]")
@click.option("--tracks", type=_NEW_FILE, help="Write the track log of a video, for `vigil rules test`.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one line of JSON; draw with --out only.")
@click.pass_obj
def detect(
    load: Load,
    *,
    file: Path,
    out: Path | None,
    camera: str | None,
    model: Path | None,
    labels: Path | None,
    threads: int | None,
    fps: float | None,
    start: datetime | None,
    tracks: Path | None,
    as_json: bool,
) -> None:
    """See what a worker sees in a picture or a video, and which rules would fire.

    The way is a worker's: the whole picture and parts of it through the model, then tracks, zones and rules; nothing
    is published, and no broker is needed. Drawn are boxes with labels, scores and track numbers, the ways of objects,
    zones, thin frames around the parts that were looked at more closely, and what the rules say.

    A picture is looked at twice, the second time closely where the first found something. Of a video, as many pictures
    a second are looked at as the camera would send, and where something moves is found by comparing them: a camera's
    node is better at that. The video that is written is H.264 where GStreamer is installed.

    \b
    Examples:
      vigil detect street.jpg
      vigil detect yard.mp4 --camera yard --model yolox_nano.onnx
      vigil detect yard.mp4 --camera yard --tracks yard.jsonl
      vigil rules test --camera yard --replay yard.jsonl
      vigil detect street.jpg --json
    """
    settings = load({"detector": {"model": model, "labels": labels, "threads": threads}})
    configure_logging("warning", settings.log.style, stream=sys.stderr)  # the output is the result
    name, camera_settings = _find_camera(settings, camera, file)
    try:
        from detector.detecting import Detecting
        from detector.films import is_picture
    except ModuleNotFoundError as error:
        raise ConfigError(f"detecting needs the package {error.name}: pip install 'vigil-mesh[detector]'") from error
    detecting = Detecting(file, name, settings.detector, camera_settings)
    if is_picture(file):
        if tracks is not None:
            raise click.UsageError(f"{file} is a picture, and a track takes a video: leave out --tracks")
        detecting.picture(_drawn(out, file, ".jpg", as_json=as_json), as_json=as_json)
    else:
        began = start.astimezone() if start is not None else None
        detecting.video(_drawn(out, file, ".mp4", as_json=as_json), fps=fps, began=began, log=tracks, as_json=as_json)


def _drawn(out: Path | None, file: Path, suffix: str, *, as_json: bool) -> Path | None:
    if out is None and not as_json:
        return Path(f"{file.stem}-detected{suffix}")
    return out


def _find_camera(settings: Settings, wanted: str | None, file: Path) -> tuple[str, CameraSettings]:
    """A camera of the site file; without a name one that has no zones, called like the file.

    Raises:
        ConfigError: there is none of that name.
    """
    if wanted is None:
        return file.stem, CameraSettings(source="file:")
    if wanted in settings.cameras:
        return wanted, settings.cameras[wanted]
    near = difflib.get_close_matches(wanted, settings.cameras, n=1)
    there = ", ".join(sorted(settings.cameras)) or "none"
    hint = f"did you mean {near[0]!r}?" if near else f"there: {there}"
    raise ConfigError(f"--camera {wanted}: the site file has no such camera; {hint}")
