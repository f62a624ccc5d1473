"""Asking the cameras that were seen what they are: each once, several at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace

from config import VigilError
from config.registry import Login
from fleet.discovery.device import CameraStreams, DeviceFacts, Encoding, Stream
from fleet.discovery.known import KnownCameras
from fleet.discovery.sightings import Sighting
from fleet.discovery.thumbnails import stream_picture

__all__ = ["Camera", "ask_cameras"]

_AT_ONCE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """One that was seen, and what it says of itself.

    Attributes:
        sighting: where it was seen.
        facts: what it is; None where it did not say.
        streams: where its pictures are; None where it did not say.
        login: with which it said that.
        picture: a JPEG; None where none was asked for, or none came.
        known_as: its name in the registry.
        trouble: why something is missing, with the cure.
    """

    sighting: Sighting
    facts: DeviceFacts | None = None
    streams: CameraStreams | None = None
    login: Login | None = None
    picture: bytes | None = None
    known_as: str | None = None
    trouble: str = ""


def ask_cameras(
    sightings: Sequence[Sighting],
    known: KnownCameras,
    *,
    login: Login | None = None,
    logins: Mapping[str, Login],
    with_pictures: bool = False,
    stop: threading.Event | None = None,
    progress: Callable[[int], None] = lambda _done: None,
) -> list[Camera]:
    """Ask them all, each with one login: the one of the camera that it seems to be, else `login`.

    A second try with another one would bring a camera nearer to locking everybody out.

    Args:
        sightings: which.
        known: the registry's cameras.
        login: for those that are not known.
        logins: of the known ones, by name.
        with_pictures: whether to get a picture of each.
        stop: once it is set, nobody else is asked.
        progress: called with 1 for each that has answered, or not.
    """

    def ask(sighting: Sighting) -> Camera:
        if stop is not None and stop.is_set():
            return Camera(sighting=sighting)
        guess = known.guess(sighting)
        own = logins.get(guess, login) if guess is not None else login
        camera = _asked(sighting, own)
        camera = replace(camera, known_as=known.recognise(sighting, camera.facts))
        return _with_picture(camera) if with_pictures else camera

    with ThreadPoolExecutor(max_workers=_AT_ONCE, thread_name_prefix="onvif") as pool:
        asked = {pool.submit(ask, sighting): number for number, sighting in enumerate(sightings)}
        answers: dict[int, Camera] = {}
        for done in as_completed(asked):
            answers[asked[done]] = done.result()
            progress(1)
    return [answers[number] for number in range(len(sightings))]


def _asked(sighting: Sighting, login: Login | None) -> Camera:
    camera = Camera(sighting=sighting, login=login)
    if sighting.onvif is None:
        return replace(camera, streams=_announced(sighting), trouble=_without_onvif(sighting))
    # Here, not above: the fleet's process has no use for the library before a camera is away.
    from fleet.discovery.onvif import LoginRefusedError, OnvifCamera

    device = OnvifCamera(sighting.onvif, login)
    try:
        camera = replace(camera, facts=device.describe())
        streams = device.streams()
        return replace(camera, streams=streams, trouble=_of_others(streams))
    except LoginRefusedError as error:
        return replace(camera, login=None, trouble=str(error))
    except VigilError as error:
        return replace(camera, trouble=str(error))


def _of_others(streams: CameraStreams) -> str:
    if not streams.others:
        return ""
    uris = ", ".join(stream.uri for stream in streams.others)
    return f"it has {len(streams.others)} more lenses or channels: add them with `vigil camera add NAME URI`: {uris}"


def _announced(sighting: Sighting) -> CameraStreams | None:
    """The stream that it told of by itself."""
    if sighting.rtsp is None or sighting.rtsp.endswith("/"):
        return None
    return CameraStreams(main=Stream(profile="", uri=sighting.rtsp, encoding=Encoding()))


def _without_onvif(sighting: Sighting) -> str:
    if sighting.rtsp is None:
        return f"{sighting.host} announces itself, and speaks neither ONVIF nor RTSP as far as one knows"
    if sighting.rtsp.endswith("/"):
        return (
            f"{sighting.rtsp} is a stream server, and does not say what is on it: give the path of its maker's manual "
            f"with `vigil camera add NAME {sighting.rtsp}PATH`"
        )
    return "it speaks no ONVIF as far as one knows: nothing but its stream can be told of it"


def _with_picture(camera: Camera) -> Camera:
    from fleet.discovery.onvif import OnvifCamera

    picture, trouble = None, camera.trouble
    if camera.facts is not None and camera.sighting.onvif is not None:
        try:
            picture = OnvifCamera(camera.sighting.onvif, camera.login).snapshot()
        except VigilError as error:
            trouble = trouble or f"no snapshot: {error}"
    if picture is None and camera.streams is not None:
        stream = camera.streams.sub or camera.streams.main
        try:
            picture = stream_picture(stream.uri, camera.login)
        except VigilError as error:
            trouble = trouble or f"no picture: {error}"
    return replace(camera, picture=picture, trouble=trouble)
