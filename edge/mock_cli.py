"""`vigil mock`: cameras that are none, for tests and for trying things out."""

from __future__ import annotations

import json
import secrets
import socket
import tempfile
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from config import ConfigError, PermanentError, stop_on_signals
from config.names import check_name
from edge.uris import SyntheticUri, parse_source

if TYPE_CHECKING:
    from edge.gst.mock import MockSite

__all__ = ["mock"]

_CERTIFICATE_DAYS = 30
_FAULTS = """\b
Faults, of all cameras or of one:
  curl -X POST http://127.0.0.1:PORT/fault/freeze
  curl -X POST http://127.0.0.1:PORT/fault/none?camera=yard
  freeze       no more pictures, connections stay open
  drop         every connection is closed, once
  404          the stream is gone
  password     the login is no longer right
  resolution   another size, in the middle of the stream
  codec        connections are closed; who comes again gets H.265 for H.264, or the other way round
  none         all well again
kill -STOP and kill -KILL of the process are the camera that hangs, and the one that loses its power.
"""
_NO_GSTREAMER = (
    "mock cameras need GStreamer and its RTSP server, which belong to the distribution: sudo apt-get install "
    "python3-gi gir1.2-gst-rtsp-server-1.0 gir1.2-gst-plugins-base-1.0 gstreamer1.0-plugins-ugly"
)


@click.command(epilog=_FAULTS)
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option("--rtsp", "rtsp_port", default=8554, show_default=True, help="RTSP port; 0 for one that is free.")
@click.option("--http", "http_port", default=0, help="Port of snapshots and MJPEG.  [default: one that is free]")
@click.option("--control", "control_port", default=0, help="Port of the faults.  [default: one that is free]")
@click.option("--bind", "address", default="127.0.0.1", show_default=True, help="IPv4 address to listen on.")
@click.option("--user", help="Ask for a login of this name; the password is made up, unless it is in a file.")
@click.option("--password-file", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Its password.")
@click.option("--tls", is_flag=True, help="rtsps and https, with a certificate made for it.")
@click.option("--cert", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="PEM; --tls with this one,")
@click.option("--key", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="and its key.")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON.")
def mock(
    *,
    files: Sequence[str],
    rtsp_port: int,
    http_port: int,
    control_port: int,
    address: str,
    user: str | None,
    password_file: Path | None,
    tls: bool,
    cert: Path | None,
    key: Path | None,
    as_json: bool,
) -> None:
    """Be an IP camera for each FILE: RTSP with a smaller second stream, snapshots, MJPEG, and faults on command.

    A FILE is a video, of which the first minute is played over and over in real time, or synthetic:street or
    synthetic:room. H.264 and H.265 go out as they are, everything else is encoded once at the start. The camera is
    called as its file.

    \b
    Prints, once it is ready, each camera's
      main      rtsp://127.0.0.1:8554/yard
      sub       rtsp://127.0.0.1:8554/yard/sub
      snapshot  http://127.0.0.1:PORT/yard/snapshot.jpg
      mjpeg     http://127.0.0.1:PORT/yard/mjpeg
    and last  control   http://127.0.0.1:PORT/fault

    \b
    Examples:
      vigil mock synthetic:street
      vigil mock yard.mp4 door.mkv --rtsp 8554 --user admin --tls
      vigil edge --camera yard=rtsp://127.0.0.1:8554/yard
    """
    if (cert is None) != (key is None):
        raise click.UsageError("--cert and --key belong together")
    if password_file is not None and user is None:
        raise click.UsageError("--password-file needs --user")
    films = _films(files)
    login = (user, _password(password_file)) if user is not None else None
    with ExitStack() as stack:
        certificate = (cert, key) if cert and key else None
        if tls and certificate is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="vigil-mock-"))
            certificate = _make_certificate(address, Path(folder))
        site = _open_site(films, address, (rtsp_port, http_port, control_port), login, certificate)
        site.start()
        stop = threading.Event()
        stop_on_signals(stop)
        _tell(site.urls(), site.control_url, certificate, as_json=as_json)
        stop.wait()


def _open_site(
    films: dict[str, Path | SyntheticUri],
    address: str,
    ports: tuple[int, int, int],
    login: tuple[str, str] | None,
    certificate: tuple[Path, Path] | None,
) -> MockSite:
    try:
        from edge.gst.mock import Login, MockOptions, MockSite, make_film
    except (ImportError, ValueError) as error:  # ValueError: gi is there, the description of GStreamer is not
        raise PermanentError(f"{_NO_GSTREAMER} ({error})") from error
    options = MockOptions(
        address=address,
        rtsp_port=ports[0],
        http_port=ports[1],
        control_port=ports[2],
        login=Login(*login) if login is not None else None,
        certificate=certificate,
    )
    return MockSite({name: make_film(source) for name, source in films.items()}, options)


def _films(files: Sequence[str]) -> dict[str, Path | SyntheticUri]:
    """What each camera shows, by its name."""
    films: dict[str, Path | SyntheticUri] = {}
    for file in files:
        drawn = parse_source(file) if file.startswith("synthetic:") else None
        name = "street" if drawn is not None else Path(file).stem
        try:
            check_name(name)
        except ValueError as error:
            raise ConfigError(f"a camera is called as its file, and {error}; rename the file") from None
        if name in films:
            raise ConfigError(f"two files would make cameras called {name!r}; rename one")
        films[name] = drawn if isinstance(drawn, SyntheticUri) else Path(file)
    return films


def _password(file: Path | None) -> str:
    if file is None:
        return secrets.token_urlsafe(9)
    password = file.read_text().strip()
    if not password:
        raise ConfigError(f"{file} holds no password; write one into its first line")
    return password


def _make_certificate(address: str, folder: Path) -> tuple[Path, Path]:
    """A certificate that vouches for itself, and its key, as files."""
    # The one place of the edge that makes certificates: on a desk, never on a node.
    from broker.certs import make_issuer, make_key, make_request, request_key

    now, key = datetime.now(UTC), make_key()
    issuer = make_issuer("Vigil mock camera", "mock", now)
    names = {address, "127.0.0.1", "localhost", socket.gethostname()}
    issued = issuer.sign(request_key(make_request(key)), "mock", "server", days=_CERTIFICATE_DAYS, now=now, names=names)
    files = folder / "camera.pem", folder / "camera.key"
    files[0].write_bytes(issued.pem + issuer.pem)
    files[1].write_bytes(key)
    (folder / "ca.pem").write_bytes(issuer.pem)
    return files


def _tell(
    urls: dict[str, dict[str, str]], control: str, certificate: tuple[Path, Path] | None, *, as_json: bool
) -> None:
    """Print where everything is."""
    ca = certificate[0].with_name("ca.pem") if certificate is not None else None
    if as_json:
        click.echo(json.dumps({"cameras": urls, "control": control, "ca": str(ca) if ca and ca.exists() else None}))
        return
    for of_camera in urls.values():
        for kind, url in of_camera.items():
            click.echo(f"{kind:9} {url}")
    click.echo(f"{'control':9} {control}")
    if ca and ca.exists():
        click.echo(f"{'ca':9} {ca}")
