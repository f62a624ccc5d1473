"""`vigil camera setup`: setting a camera over ONVIF, seen before and checked after."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from config import PermanentError, TransientError, configure_logging
from config.registry import CameraEntry
from config.settings import Settings
from fleet.discovery.device import CameraSetup, Encoding, EncodingChange, SetupChange
from fleet.discovery.known import host_of
from fleet.discovery.onvif import NoOnvifError, OnvifCamera
from fleet.discovery.setup import Difference, differences, needed
from fleet.registry.folder import RegistryFolder

__all__ = ["setup"]

Load = Callable[[Mapping[str, Any]], Settings]


class _Size(click.ParamType[tuple[int, int]]):
    name = "WIDTHxHEIGHT"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Width and height, pixels."""
        match = re.fullmatch(r"([1-9]\d{1,4})[xX]([1-9]\d{1,4})", str(value))
        if match is None:
            self.fail(f"{value!r} is no size: write 1280x720", param, ctx)
        return int(match[1]), int(match[2])


class _Rate(click.ParamType[int]):
    name = "BITS/S"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Bits a second."""
        match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)([kM])", str(value))
        bps = float(match[1]) * {"k": 1_000, "M": 1_000_000}[match[2]] if match else 0.0
        if bps < 1_000:
            self.fail(f"{value!r} is no bit rate: write 512k or 2M", param, ctx)
        return int(bps)


_SIZE, _RATE = _Size(), _Rate()
_CODEC = click.Choice(["h264", "mpeg4", "jpeg"])
"""What ONVIF's first media service can set."""
_FPS = click.IntRange(1, 240)


@click.command()
@click.argument("camera", metavar="NAME")
@click.option("--time", "with_time", is_flag=True, help="Set its clock to this machine's.")
@click.option("--name", "with_name", is_flag=True, help="Have it call itself what the registry calls it.")
@click.option("--resolution", type=_SIZE, help="Of its best stream, such as 1920x1080.")
@click.option("--fps", type=_FPS, help="Of its best stream.")
@click.option("--codec", type=_CODEC, help="Of its best stream.")
@click.option("--bitrate", type=_RATE, help="Of its best stream, such as 2M.")
@click.option("--sub-resolution", type=_SIZE, help="Of its smaller stream.")
@click.option("--sub-fps", type=_FPS, help="Of its smaller stream.")
@click.option("--sub-codec", type=_CODEC, help="Of its smaller stream.")
@click.option("--sub-bitrate", type=_RATE, help="Of its smaller stream, such as 512k.")
@click.option("--yes", is_flag=True, help="Set it without asking.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object; sets nothing without --yes.")
@click.pass_obj
def setup(
    load: Load,
    /,
    *,
    camera: str,
    with_time: bool,
    with_name: bool,
    resolution: tuple[int, int] | None,
    fps: int | None,
    codec: str | None,
    bitrate: int | None,
    sub_resolution: tuple[int, int] | None,
    sub_fps: int | None,
    sub_codec: str | None,
    sub_bitrate: int | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Set a camera of the registry over ONVIF: its clock, its name, how its streams are encoded.

    Shows what would change and asks; reads back afterwards, since cameras say yes and do otherwise. Without anything to
    set it says what is set, and what can be.

    \b
    Examples:
      vigil camera setup yard
      vigil camera setup yard --time --name
      vigil camera setup yard --resolution 1920x1080 --fps 15 --codec h264 --bitrate 4M --yes
      vigil camera setup yard --sub-resolution 640x360 --sub-fps 10

    Exit status: 0 it is as asked, 1 the camera did not take something.
    """
    settings = load({})
    configure_logging("error", settings.log.style, stream=sys.stderr)  # the output is the result
    folder = RegistryFolder(settings.fleet.registry)
    entry = folder.camera(camera).entry
    device = OnvifCamera(_address(camera, entry), folder.logins().get(camera))
    change = SetupChange(
        name=(entry.name or camera) if with_name else None,
        time=with_time,
        main=_change(codec=codec, size_px=resolution, fps=fps, bitrate_bps=bitrate),
        sub=_change(codec=sub_codec, size_px=sub_resolution, fps=sub_fps, bitrate_bps=sub_bitrate),
    )
    before = device.settings()
    if change == SetupChange():
        _show(camera, before, device.offers(), as_json=as_json)
        return
    if change.sub is not None and before.sub is None:
        raise PermanentError(f"{camera} has no smaller stream: leave the options that begin with --sub out")
    wanted = differences(before, change)
    if not as_json:
        click.echo("\n".join(map(str, wanted)) if wanted else f"{camera} is so already")
    is_set = bool(wanted) and (yes or (not as_json and _is_agreed(camera)))
    left = _set(device, before, change) if is_set else wanted
    if as_json:
        click.echo(json.dumps({"camera": camera, "wanted": _objects(wanted), "set": is_set, "left": _objects(left)}))
    if is_set:
        _tell(camera, device, left, as_json=as_json)


def _address(camera: str, entry: CameraEntry) -> str:
    address = entry.device.onvif or host_of(entry)
    if not address:
        raise PermanentError(
            f"{camera} is no camera of the network, or nobody knows its ONVIF service: write it as device.onvif, such "
            "as http://10.0.0.7/onvif/device_service"
        )
    return address


def _change(
    *, codec: str | None, size_px: tuple[int, int] | None, fps: int | None, bitrate_bps: int | None
) -> EncodingChange | None:
    change = EncodingChange(codec=codec, size_px=size_px, fps=fps, bitrate_bps=bitrate_bps)
    return None if change == EncodingChange() else change


def _is_agreed(camera: str) -> bool:
    if not sys.stdin.isatty():
        raise click.UsageError("nobody is here to be asked: say --yes to set it")
    return click.confirm(f"set this on {camera}?")


def _set(device: OnvifCamera, before: CameraSetup, change: SetupChange) -> list[Difference]:
    """Set it, and return what the camera did not take."""
    try:
        device.apply(needed(before, change))
    except NoOnvifError as error:
        raise PermanentError(f"{error}. It offers {_offers(device)}") from error
    try:
        return differences(device.settings(), change)
    except TransientError as error:
        raise TransientError(f"it was set, and could not be read back: {error}") from error


def _tell(camera: str, device: OnvifCamera, left: Sequence[Difference], *, as_json: bool) -> None:
    if not left:
        if not as_json:
            click.echo(f"{camera} has taken it, read back")
        return
    raise PermanentError(
        f"{camera} did not take: {', '.join(f'{one.what} (is {one.now}, not {one.wanted})' for one in left)}. "
        f"It offers {_offers(device)}"
    )


def _offers(device: OnvifCamera) -> str:
    return "; ".join(device.offers()) or "nothing that it tells"


def _show(camera: str, found: CameraSetup, offers: Sequence[str], *, as_json: bool) -> None:
    if as_json:
        streams = {"main": _stream(found.main), "sub": _stream(found.sub)}
        whole = {"camera": camera, "name": found.name, "clock_ahead_s": found.ahead_s, **streams}
        click.echo(json.dumps({**whole, "offers": list(offers)}))
        return
    clock = "does not tell its time" if found.ahead_s is None else f"clock {found.ahead_s:+.0f} s off"
    click.echo(f"{camera}: called {found.name!r}, {clock}")
    for place, encoding in (("main", found.main), ("sub", found.sub)):
        if encoding is not None:
            click.echo(f"  {place:5}{encoding}, {encoding.bitrate_bps // 1000} kbit/s")
    for offer in offers:
        click.echo(f"  can  {offer}")


def _stream(encoding: Encoding | None) -> dict[str, Any] | None:
    if encoding is None:
        return None
    return {
        "codec": encoding.codec,
        "resolution": encoding.size,
        "fps": encoding.fps,
        "bitrate_bps": encoding.bitrate_bps,
    }


def _objects(found: Sequence[Difference]) -> list[dict[str, str]]:
    return [{"what": one.what, "now": one.now, "wanted": one.wanted} for one in found]
