"""How a source of pictures is written as a URI."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast
from urllib.parse import parse_qsl, unquote

from config.errors import ConfigError
from config.secrets import mask_uri

__all__ = ["FileUri", "LibcameraUri", "NetworkUri", "SourceUri", "SyntheticUri", "V4l2Uri", "parse_source"]


@dataclass(frozen=True, slots=True)
class FileUri:
    """``file:PATH``: a video file.

    Attributes:
        path: the file.
        pace: ``own`` shows each frame at its time, as a camera does; ``max`` gives every frame as fast as it is taken.
        loop: start again at the end.
    """

    path: Path
    pace: Literal["own", "max"]
    loop: bool


@dataclass(frozen=True, slots=True)
class SyntheticUri:
    """``synthetic:street`` or ``synthetic:room``: a scene drawn by code.

    Attributes:
        seed: decides who is there; the same seed gives the same pictures.
        fps: pictures a second.
        width_px: of the picture.
        height_px: of the picture.
        pace: ``own`` at `fps`; ``max`` as fast as pictures are taken.
        scene: people who walk through a street, or one who sits, falls and lies in a room.
    """

    seed: int
    fps: float
    width_px: int
    height_px: int
    pace: Literal["own", "max"]
    scene: Literal["street", "room"] = "street"


@dataclass(frozen=True, slots=True)
class NetworkUri:
    """``rtsp://``, ``rtsps://``, ``http://``, ``https://``: a camera in the network.

    Attributes:
        location: the URI without its login.
        user: who logs in, decoded; empty: nobody.
        password: the same; never shown.
        tls_verified: whether the camera's certificate must be right.
        ca_file: who may have signed it; None: whom this machine trusts.
    """

    location: str
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    tls_verified: bool = True
    ca_file: Path | None = None

    @property
    def is_rtsp(self) -> bool:
        """Whether it speaks RTSP; otherwise HTTP."""
        return self.location.startswith("rtsp")


@dataclass(frozen=True, slots=True)
class V4l2Uri:
    """``v4l2:/dev/video0``: a camera at a USB port, or whatever else the kernel shows so.

    Attributes:
        device: of the camera.
        format: in which form it gives its pictures; ``auto``: raw where it can at `fps`, or else JPEG.
        width_px: the largest picture that it has up to this is taken.
        height_px: the same.
        fps: wanted at least, where it can.
    """

    device: Path
    format: Literal["auto", "raw", "jpeg", "h264"]
    width_px: int
    height_px: int
    fps: float


@dataclass(frozen=True, slots=True)
class LibcameraUri:
    """``libcamera:``: a camera at a Raspberry Pi's own connector.

    Attributes:
        name: which; empty: the first.
        width_px: of the picture.
        height_px: of the picture.
        fps: pictures a second.
    """

    name: str
    width_px: int
    height_px: int
    fps: float


SourceUri = FileUri | SyntheticUri | NetworkUri | V4l2Uri | LibcameraUri

_NETWORK = ("rtsp", "rtsps", "http", "https")
_KNOWN = (
    "file:PATH (such as file:yard.mp4?pace=max), synthetic:street and synthetic:room (such as "
    "synthetic:street?seed=1), "
    "rtsp://, rtsps://, http:// and https://USER:PASSWORD@HOST/PATH, v4l2:/dev/video0 and libcamera:"
)
_HOST = re.compile(r"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_LOCATION = re.compile(r"[\x21-\x7e]*")


def parse_source(uri: str) -> SourceUri:
    """Read a source's URI.

    Args:
        uri: one of

            - ``file:PATH[?pace=own|max&loop=0|1]``, where PATH stands as it is, or percent-encoded in
              ``file:///PATH``;
            - ``synthetic:street[?seed=N&fps=N&width=N&height=N&pace=own|max]``, ``synthetic:room`` likewise;
            - ``rtsp://[USER:PASSWORD@]HOST[:PORT]/PATH``, ``rtsps://``, ``http://``, ``https://``. What stands behind
              the question mark is the camera's; Vigil's own options stand behind a ``#``, and with TLS are
              ``#tls=insecure`` (do not check the certificate) and ``#ca=FILE`` (check it against this one);
            - ``v4l2:/dev/videoN[?format=auto|raw|jpeg|h264&width=N&height=N&fps=N]``;
            - ``libcamera:[NAME][?width=N&height=N&fps=N]``.

    Raises:
        ConfigError: it is none of these. Credentials in it are not repeated.
    """
    scheme, colon, rest = uri.partition(":")
    if colon and scheme in _NETWORK:
        return _network(scheme, rest)
    location, _, query = rest.partition("?")
    options = _Options(query)
    parsed: SourceUri
    if colon and scheme == "file":
        parsed = _file(location, options)
    elif colon and scheme == "synthetic":
        parsed = _synthetic(location, options)
    elif colon and scheme == "v4l2":
        parsed = _v4l2(location, options)
    elif colon and scheme == "libcamera":
        parsed = LibcameraUri(location, *_picture_size(options))
    else:
        raise ConfigError(_unknown_scheme(uri))
    options.refuse_unread()
    return parsed


def _unknown_scheme(uri: str) -> str:
    # Masked before it is cut: half a login no longer looks like one.
    scheme, colon, _ = mask_uri(uri).partition(":")
    if not colon:
        return f"{scheme[:200]!r} is not a source: write file:{scheme[:200]} for a video file; known are {_KNOWN}"
    return f"sources of the kind {scheme[:40]!r} are not known to this version; known are {_KNOWN}"


def _file(location: str, options: _Options) -> FileUri:
    path = unquote(location.removeprefix("//")) if location.startswith("///") else location
    if not path:
        raise ConfigError("file: names no file; write file:PATH, such as file:/srv/yard.mp4")
    pace = options.pace()
    return FileUri(Path(path), pace, options.switch("loop", default=pace == "own"))


def _synthetic(location: str, options: _Options) -> SyntheticUri:
    if location not in ("street", "room"):
        raise ConfigError(
            f"there is no synthetic scene {mask_uri(location)[:40]!r}; write synthetic:street or synthetic:room"
        )
    return SyntheticUri(
        seed=int(options.number("seed", 1, 0, 2**31)),
        fps=options.number("fps", 10, 0.1, 120),
        width_px=int(options.number("width", 640, 160, 3840)),
        height_px=int(options.number("height", 360, 120, 2160)),
        pace=options.pace(),
        scene=cast("Literal['street', 'room']", location),
    )


def _network(scheme: str, rest: str) -> NetworkUri:
    authority, slash, path = rest.removeprefix("//").partition("/")
    login, _, host = authority.rpartition("@")
    path, _, fragment = path.partition("#")
    # An @ behind the first slash is that of a login whose password has a slash.
    if not rest.startswith("//") or not _HOST.fullmatch(host) or not _LOCATION.fullmatch(path) or "@" in path:
        raise ConfigError(
            f"{mask_uri(f'{scheme}:{rest}')[:200]!r} is not the address of a camera: write "
            f"{scheme}://USER:PASSWORD@HOST:PORT/PATH, with / ? # % and @ of a password or path as %2F %3F %23 %25 "
            "and %40"
        )
    options = _Options(fragment)
    secure = scheme in ("rtsps", "https")
    tls = options.choice("tls", ("verify", "insecure")) if secure else "verify"
    ca_file = options.text("ca") if secure else None
    options.refuse_unread()
    user, _, password = login.partition(":")
    return NetworkUri(
        location=f"{scheme}://{host}{slash}{path}",
        user=unquote(user),
        password=unquote(password),
        tls_verified=tls == "verify",
        ca_file=Path(ca_file) if ca_file else None,
    )


def _v4l2(location: str, options: _Options) -> V4l2Uri:
    if not location.startswith("/"):
        raise ConfigError(f"v4l2:{mask_uri(location)[:40]} names no device; write v4l2:/dev/video0")
    pictures = options.choice("format", ("auto", "raw", "jpeg", "h264"))
    return V4l2Uri(Path(location), cast("Literal['auto', 'raw', 'jpeg', 'h264']", pictures), *_picture_size(options))


def _picture_size(options: _Options) -> tuple[int, int, float]:
    return (
        int(options.number("width", 1280, 64, 7680)),
        int(options.number("height", 720, 64, 4320)),
        options.number("fps", 10, 1, 120),
    )


class _Options:
    """What stands behind the question mark; each is read once, and what nobody read is refused."""

    def __init__(self, query: str) -> None:
        self._given = dict(parse_qsl(query, keep_blank_values=True))
        self._known: list[str] = []

    def refuse_unread(self) -> None:
        for name in self._given:
            if name not in self._known:
                near = difflib.get_close_matches(name, self._known, n=1)
                known = f"known here: {', '.join(self._known)}" if self._known else "it has none"
                hint = f"did you mean {near[0]!r}?" if near else known
                raise ConfigError(f"a source has no option {mask_uri(name)[:40]!r}; {hint}")

    def text(self, name: str) -> str | None:
        self._known.append(name)
        return self._given.get(name)

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        """One of several words; the first where none is given."""
        text = self.text(name) or choices[0]
        if text not in choices:
            raise ConfigError(f"{name}={text[:40]}: write {' or '.join(f'{name}={choice}' for choice in choices)}")
        return text

    def pace(self) -> Literal["own", "max"]:
        return cast("Literal['own', 'max']", self.choice("pace", ("own", "max")))

    def switch(self, name: str, *, default: bool) -> bool:
        text = self.text(name)
        if text not in (None, "0", "1"):
            raise ConfigError(f"{name}={text[:40]}: write {name}=0 or {name}=1")
        return default if text is None else text == "1"

    def number(self, name: str, default: float, least: float, most: float) -> float:
        text = self.text(name)
        try:
            value = default if text is None else float(text)
        except ValueError:
            value = float("nan")
        if not least <= value <= most:
            raise ConfigError(f"{name}={(text or '')[:40]}: write a number from {least:g} to {most:g}")
        return value
