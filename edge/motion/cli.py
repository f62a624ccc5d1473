"""`vigil motion`: trying out motion detection."""

from __future__ import annotations

import io
import math
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from config import ConfigError, SystemClock, configure_logging
from config.cameras import CameraSettings
from config.durations import DURATION
from config.secrets import mask_uri
from config.settings import Settings

if TYPE_CHECKING:
    from PIL import Image

    from edge.motion.tune import Advice, Tuning
    from edge.privacy import ShownFrame

__all__ = ["motion"]

Load = Callable[[Mapping[str, Any]], Settings]

_CAMERA_S = 60.0
_LOOK_FPS = 10.0
"""Source: :mod:`edge.watch`, what a camera is looked at with."""
_PICTURE_HEIGHT_PX = 675
_QUALITY = 90
_QUIETER = 0.9
_GREY = (96, 98, 102)
_SUFFIXES = (".png", ".jpg", ".jpeg")


@click.group()
def motion() -> None:
    """Motion detection, tried out.

    \b
    Examples:
      vigil motion tune yard
      vigil motion tune yard.mp4
    """


@motion.command()
@click.argument("what", metavar="CAMERA|FILE")
@click.option("--for", "length_s", type=DURATION, help="How long to look.  [default: a file's length, a camera 60s]")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="The picture, .png or .jpg.  [default: motion-NAME.png]",
)
@click.pass_obj
def tune(load: Load, what: str, length_s: float | None, out: Path | None) -> None:
    """See what motion detection makes of a camera, and what to set.

    CAMERA is one of the site file, FILE a video or a source's URI. Its frames are looked at with several
    sensitivities. A picture is written: where it moved, the largest movements, zones and masks, when, and what each
    sensitivity made of it. What is suggested is printed as YAML, to paste into the site file. Let it see people who
    walk about, and a while of nobody.

    \b
    Examples:
      vigil motion tune yard --for 5m
      vigil motion tune yard.mp4 --out yard.png
      vigil motion tune "rtsp://10.0.0.7/stream2" --for 2m
    """
    settings = load({})
    configure_logging("warning", settings.log.style, stream=sys.stderr)  # the output is the result
    try:
        from edge.motion.tune import Tuning
        from edge.motion.tune_picture import paint_tuning
    except ModuleNotFoundError as error:
        raise ConfigError(f"tuning needs the package {error.name}: pip install 'vigil-mesh[edge]'") from error
    name, camera = _find_camera(settings, what)
    out = out or Path(f"motion-{name}.png")
    if out.suffix.lower() not in _SUFFIXES:
        raise ConfigError(f"--out {out}: a picture's name ends in one of {', '.join(_SUFFIXES)}")
    tuning = Tuning(camera.motion)
    background = _look(camera, tuning, length_s)
    advice = tuning.advise()
    title = (
        f"{name}: {len(tuning.times_s)} frames in {tuning.length_s:.0f} s, sensitivity {camera.motion.sensitivity:g}"
    )
    try:
        paint_tuning(tuning, background, advice, title).save(out)
    except OSError as error:
        raise ConfigError(f"--out {out}: {error.strerror or error}") from error
    click.echo(_describe(name, tuning, advice))
    click.echo(f"# picture: {out}")


def _find_camera(settings: Settings, what: str) -> tuple[str, CameraSettings]:
    """A camera of the site file, or one made up for a file or URI, with a name for its picture."""
    if what in settings.cameras:
        return what, settings.cameras[what]
    path = Path(what)
    if path.is_file():
        return path.stem, CameraSettings(source=f"file:{path}?pace=max&loop=0")
    if ":" in what:
        return what.partition(":")[0], CameraSettings(source=what)
    known = ", ".join(sorted(settings.cameras)) or "none"
    raise ConfigError(f"{what}: no camera of the site file (there: {known}) and no file; write one of these, or a URI")


def _look(camera: CameraSettings, tuning: Tuning, length_s: float | None) -> Image.Image:
    """Give the camera's frames to the tuning; returns a picture of it in a quiet moment."""
    from edge.capture import SourceOptions, open_source, parse_source
    from edge.privacy import Privacy
    from edge.uris import FileUri

    uri = camera.sub_source or camera.source
    parsed = parse_source(uri)
    if length_s is None and (not isinstance(parsed, FileUri) or parsed.loop):
        length_s = _CAMERA_S
    privacy, picture, quietest = Privacy(camera.privacy), None, math.inf
    options = SourceOptions(fps_max=_LOOK_FPS, decoder=camera.decoder)
    source = open_source(uri, clock=SystemClock(), options=options)
    with closing(source), closing(source.frames(threading.Event())) as frames:
        for frame in frames:
            result = tuning.step(frame.luma, frame.at_s)
            score = 1.0 if result.calibrating else result.score
            # Pictures are the dear part: another one is taken only when it is quieter.
            if score < quietest * _QUIETER:
                picture, quietest = _take_picture(privacy.show(frame)), score
            if length_s is not None and tuning.length_s >= length_s:
                break
    if picture is None:
        raise ConfigError(f"{mask_uri(uri)}: it has no picture")
    return picture


def _take_picture(frame: ShownFrame) -> Image.Image:
    """The frame as others may see it; plain grey where nobody is to."""
    from PIL import Image

    from edge.privacy import WithheldError

    try:
        return Image.open(io.BytesIO(frame.encode(_QUALITY, height_px=_PICTURE_HEIGHT_PX)))
    except WithheldError:
        return Image.new("RGB", (frame.width_px, frame.height_px), _GREY)


def _describe(name: str, tuning: Tuning, advice: Advice) -> str:
    """What was seen and why something is suggested, as comments, and what to paste."""
    lines = [f"# {len(tuning.times_s)} frames in {tuning.length_s:.0f} s"]
    lines += ["# sensitivity  lasting  brief"]
    lines += [f"# {trial.sensitivity:<11g}  {len(trial.lasting):>7}  {trial.brief:>5}" for trial in tuning.trials]
    lines += [f"# {reason}" for reason in advice.reasons]
    lines += ["cameras:", f"  {name}:", "    motion:", f"      sensitivity: {advice.sensitivity:g}"]
    if advice.min_size:
        lines.append(f"      min_size: {advice.min_size:g}")
    masks = {**tuning.settings.masks, **advice.masks}
    if masks:
        lines.append("      masks:")
        lines += [f"        {mask}: {[list(corner) for corner in polygon]}" for mask, polygon in masks.items()]
    return "\n".join(lines)
