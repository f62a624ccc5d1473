"""`vigil camera test`: whether a camera gives pictures, seen from here.

For other programs: ``vigil camera test - --json --picture FILE.jpg`` with the URI, login and all, as the first line of
standard input. A login on the command line is refused: everybody on the machine could read it there.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import msgspec

from broker import Delivery
from broker.messages import CameraDocument, CameraState
from broker.session import listen
from broker.topics import CAMERA_STATE, REGISTRY_CAMERA, origin_of
from config import ConfigError, PermanentError, SystemClock, TransientError, VigilError, configure_logging
from config.cameras import CameraSettings
from config.durations import DURATION
from config.files import write_atomically
from config.logins import logins_file, read_logins
from config.names import check_name
from config.secrets import mask_uri
from config.settings import Settings
from edge.looking import Sighting, look_at
from edge.privacy import Privacy
from edge.registry import apply_document
from edge.remembered import Remembered

__all__ = ["test"]

Load = Callable[[Mapping[str, Any]], Settings]

_ASK_S = 3.0


@click.command()
@click.argument("target", metavar="NAME|URI|-")
@click.option("--sub", is_flag=True, help="Its smaller stream (`sub_source`); by name only.")
@click.option(
    "--picture",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.jpg",
    help="Write its first picture.",
)
@click.option("--height", "height_px", type=click.IntRange(16, 4320), help="Of that picture, in pixels; else as it is.")
@click.option("--wait", "wait_s", type=DURATION, metavar="DURATION", default="10s", help="For a picture; default 10s.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, also of a camera that gives no picture.")
@click.pass_obj
def test(
    load: Load, *, target: str, sub: bool, file: Path | None, height_px: int | None, wait_s: float, as_json: bool
) -> None:
    """Open a camera as the edge does, and say what comes: codec, size, pictures a second, time to the first one.

    NAME is a camera of the site file or else of the site's registry, asked for over the bus; its login comes from the
    registry too, and its picture shows what its privacy leaves. A URI is tried as it is; one with a login is read from
    standard input (-), for on the command line everybody on this machine could read it.

    \b
    Examples:
      vigil camera test yard
      vigil camera test yard --sub --json
      vigil camera test rtsp://10.0.0.7/stream1 --picture yard.jpg
      vigil camera test - --picture yard.jpg --height 240 < uri.txt
      vigil camera test v4l2:/dev/video0

    Exit status: 0 pictures came, 69 none came (away, refused, silent), 1 none can come before something is installed or
    corrected here, 78 it is no source.
    """
    settings = load({})
    configure_logging("error", settings.log.style, stream=sys.stderr)  # the output is the result
    try:
        camera = _camera(settings, target, sub=sub)
        seen = look_at(
            camera.source,
            privacy=Privacy(camera.privacy),
            clock=SystemClock(),
            wait_s=wait_s,
            decoder=camera.decoder,
            height_px=height_px,
        )
        if file is not None:
            _write(file, seen.jpeg)
    except VigilError as error:
        if as_json:
            shown = target if target == "-" else mask_uri(target)
            click.echo(msgspec.json.encode({"ok": False, "target": shown, "error": str(error)}))
        raise
    _tell(seen, file, as_json=as_json)


def _camera(settings: Settings, target: str, *, sub: bool) -> CameraSettings:
    """The camera that is meant, with what is to be opened as its source, login and all."""
    if target == "-" or ":" in target:
        if sub:
            raise click.UsageError("--sub is for a camera that is named: give the URI of its smaller stream instead")
        uri = sys.stdin.readline().strip() if target == "-" else target
        return CameraSettings().model_copy(update={"source": uri})  # what it is, is judged when it is opened
    camera = settings.cameras.get(_checked(target)) or _of_registry(settings, target)
    if _commanded_private(settings, target):
        camera = _made_private(camera)
    if not sub:
        return camera
    if camera.sub_source is None:
        raise ConfigError("it has no smaller stream: leave --sub out", field=f"cameras.{target}.sub_source")
    return camera.model_copy(update={"source": camera.sub_source})


def _commanded_private(settings: Settings, name: str) -> bool:
    """Whether somebody has asked this machine's node to show no picture of a camera."""
    path = settings.state_dir / "edge" / settings.site / f"{origin_of(settings.node, 'edge')}.json"
    return bool(Remembered(path).commanded(name).privacy)


def _made_private(camera: CameraSettings) -> CameraSettings:
    return camera.model_copy(update={"privacy": camera.privacy.model_copy(update={"enabled": True})})


def _checked(name: str) -> str:
    try:
        return check_name(name)
    except ValueError as error:
        raise click.BadParameter(f"{error}; or write a URI, such as rtsp://HOST/PATH", param_hint="NAME") from error


def _of_registry(settings: Settings, name: str) -> CameraSettings:
    """What the site says of a camera, with its login where this machine has it."""
    said, states, came = list[CameraDocument](), list[CameraState](), threading.Event()

    def on_fact(delivery: Delivery) -> None:
        if isinstance(delivery.content, CameraState):
            states.append(delivery.content)
        elif isinstance(delivery.content, CameraDocument):
            said.append(delivery.content)
            came.set()

    bus = listen(settings, "camera")
    bus.subscribe(CAMERA_STATE, on_fact, camera=name)  # first: a broker sends what it keeps in this order
    bus.subscribe(REGISTRY_CAMERA, on_fact, camera=name)
    bus.start()
    try:
        if not bus.wait_connected(_ASK_S):
            raise TransientError(
                f"the site file has no camera {name!r}, and there is no broker at {settings.bus.url} to ask for it: "
                "start one, name another with --bus URL, or give the camera's URI"
            )
        came.wait(_ASK_S)
    finally:
        bus.close()
    if not said:
        raise ConfigError(f"neither the site file nor the site's registry has a camera {name!r}", field="cameras")
    login = read_logins(logins_file(settings)).get(name)
    camera = apply_document(name, said[-1], None, login)
    return _made_private(camera) if states and states[-1].privacy else camera


def _write(file: Path, jpeg: bytes | None) -> None:
    if jpeg is None:
        raise PermanentError("pictures come, but nobody is to see them: privacy is on, or people could not be blurred")
    try:
        write_atomically(file, jpeg)
    except OSError as error:
        raise PermanentError(f"{file} cannot be written: {error.strerror}") from error


def _tell(seen: Sighting, file: Path | None, *, as_json: bool) -> None:
    if as_json:
        found = {
            "ok": True,
            "source": seen.source,
            "codec": seen.codec,
            "width": seen.width_px,
            "height": seen.height_px,
            "fps": seen.fps,
            "first_picture_s": seen.first_picture_s,
            "picture": None if file is None else str(file),
        }
        click.echo(msgspec.json.encode(found))
        return
    rate = f"{seen.fps:g} pictures a second" if seen.fps else "one picture"
    click.echo(f"{seen.source}: {seen.codec or 'uncoded'} {seen.width_px}x{seen.height_px}, {rate}")
    click.echo(f"the first one after {seen.first_picture_s:.2f} s" + (f", in {file}" if file is not None else ""))
