"""Cameras that speak ONVIF, in every mood, asked over HTTP."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from click.testing import CliRunner, Result

from config import TransientError
from config.registry import Login
from console.cli import cli
from fleet.discovery.device import CameraStreams, Encoding
from fleet.discovery.onvif import LoginRefusedError, NoOnvifError, OnvifCamera
from fleet.discovery.scan import Scanned, check_network, scan
from fleet.registry.folder import RegistryFolder
from tests.support.onvif import CameraPlan, OnvifSite
from tests.support.ports import free_port

HOST = "127.0.0.1"
LOGIN = Login(username="admin", password="correct horse")
YARD, OPEN, BASIC, NEW, TO_SET, FILE = range(6)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnvifSite]:
    """Two hours behind and 15 fps at most; without a login; odd; new; to be set; and one that names a file."""
    plans = [
        CameraPlan(HOST, ahead_s=-7200, fps_max=15),
        CameraPlan(HOST, login=None, snapshot="none", mac="00:00:00:00:00:00"),
        CameraPlan(HOST, snapshot="basic", says_host="192.0.2.1"),
        CameraPlan(HOST, over_http=True),
        CameraPlan(HOST, ahead_s=-7200, fps_max=15),
        CameraPlan(HOST, main="file:///etc/passwd"),
    ]
    with OnvifSite(tmp_path_factory.mktemp("onvif"), plans) as started:
        yield started


def test_a_camera_tells_what_it_is_although_its_clock_is_wrong(site: OnvifSite) -> None:
    facts = OnvifCamera(site.address(YARD), LOGIN).describe()
    assert (facts.manufacturer, facts.model, facts.serial) == ("Testmake", "TC-2", "SN0001")
    assert facts.mac == "02:00:00:00:00:01"
    assert (facts.name, facts.location) == ("Yard", "Garden")
    assert facts.services == ("device", "media")
    assert facts.ahead_s is not None
    assert -7260 < facts.ahead_s < -7140
    assert OnvifCamera(site.address(YARD), LOGIN).reboot() == "back in 30 seconds"


def test_streams_are_at_the_address_that_was_asked_whatever_the_camera_says(site: OnvifSite) -> None:
    streams = OnvifCamera(site.address(BASIC), LOGIN).streams()
    assert isinstance(streams, CameraStreams)
    assert streams.main.uri == f"rtsp://{HOST}:8554/main"
    assert streams.main.encoding == Encoding(codec="h264", width=1920, height=1080, fps=25, bitrate_bps=4_096_000)
    assert streams.sub is not None
    assert str(streams.sub.encoding) == "h264 640x360 15 fps"


def test_a_snapshot_comes_by_digest_or_basic_or_not_at_all(site: OnvifSite) -> None:
    for camera in (YARD, BASIC, NEW):
        picture = OnvifCamera(site.address(camera), LOGIN).snapshot()
        assert picture is not None
        assert picture.startswith(b"\xff\xd8")
    assert OnvifCamera(site.address(OPEN)).snapshot() is None
    assert OnvifCamera(site.address(OPEN)).describe().mac is None


def test_a_camera_that_takes_a_login_by_http_only_gets_it_so(site: OnvifSite) -> None:
    assert OnvifCamera(site.address(NEW), LOGIN).describe().serial == "SN0001"
    with pytest.raises(LoginRefusedError, match="refuses the login"):
        OnvifCamera(site.address(NEW), LOGIN.model_copy(update={"username": "root"})).describe()


def test_what_is_wrong_is_said_with_its_cure(site: OnvifSite) -> None:
    wrong = Login(username="admin", password="wrong")
    with pytest.raises(LoginRefusedError, match=r"refuses the login of 'admin'.*users of their own.*-7\d\d\d s off"):
        OnvifCamera(site.address(YARD), wrong).describe()
    with pytest.raises(LoginRefusedError, match=r"wants a login: give --username"):
        OnvifCamera(site.address(YARD)).describe()
    with pytest.raises(TransientError, match="Connection refused"):
        OnvifCamera(f"{HOST}:{free_port()}", LOGIN).describe()


def test_a_web_server_is_no_camera() -> None:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer((HOST, 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            with pytest.raises(
                NoOnvifError, match=r"not in ONVIF at /onvif/device_service \(a web page\): switch it on"
            ):
                OnvifCamera(f"{HOST}:{server.server_port}", LOGIN).describe()
        finally:
            server.shutdown()
            thread.join()


class Hostile(BaseHTTPRequestHandler):
    """Whatever it is asked, it does what its path says."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[list[str]] = []

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append(self.path)
        self.close_connection = True
        if self.path == "/away":
            self.send_response(307)
            self.send_header("Location", f"http://localhost:{self.headers['Host'].rpartition(':')[2]}/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.path == "/nonsense":
            self._say(NONSENSE.encode())
        else:
            self._say(b"<a>" + b"x" * 9_000_000)

    def _say(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/soap+xml")
        self.end_headers()  # no length: it ends when it ends
        with contextlib.suppress(OSError):  # whoever has had enough hangs up
            self.wfile.write(content)


NONSENSE = (
    '<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope" xmlns:tt="http://www.onvif.org/ver10/schema" '
    'xmlns:tds="http://www.onvif.org/ver10/device/wsdl"><s:Body><tds:GetSystemDateAndTimeResponse>'
    "<tds:SystemDateAndTime><tt:DateTimeType>Manual</tt:DateTimeType><tt:DaylightSavings>false</tt:DaylightSavings>"
    "<tt:UTCDateTime><tt:Time><tt:Hour>x</tt:Hour><tt:Minute>0</tt:Minute><tt:Second>0</tt:Second></tt:Time>"
    "<tt:Date><tt:Year>x</tt:Year><tt:Month>1</tt:Month><tt:Day>1</tt:Day></tt:Date></tt:UTCDateTime>"
    "</tds:SystemDateAndTime></tds:GetSystemDateAndTimeResponse></s:Body></s:Envelope>"
)


def test_a_hostile_camera_is_one_trouble_and_no_more() -> None:
    with ThreadingHTTPServer((HOST, 0), Hostile) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            where = f"http://{HOST}:{server.server_port}"
            with pytest.raises(TransientError, match="larger than 8 MB"):
                OnvifCamera(f"{where}/endless", LOGIN).describe()
            with pytest.raises(TransientError, match="to another host"):
                OnvifCamera(f"{where}/away", LOGIN).describe()
            assert "/elsewhere" not in Hostile.asked
            with pytest.raises(NoOnvifError, match="makes no sense"):
                OnvifCamera(f"{where}/nonsense", LOGIN).describe()
        finally:
            server.shutdown()
            thread.join()


def test_a_stream_is_never_a_file_of_this_machine(site: OnvifSite) -> None:
    with pytest.raises(NoOnvifError, match="not RTSP"):
        OnvifCamera(site.address(FILE), LOGIN).streams()


def test_a_scan_finds_what_is_on_a_port_that_was_named(site: OnvifSite) -> None:
    asked: list[int] = []
    found = scan(check_network(f"{HOST}/32"), ports=[site.ports[OPEN], free_port()], progress=asked.append)
    assert [one.onvif for one in found] == [site.ports[OPEN]]
    assert isinstance(found[0], Scanned)
    assert sum(asked) == 1


class Setup:
    """`vigil camera setup` on a registry with the camera `yard`."""

    def __init__(self, folder: Path, address: str) -> None:
        self._registry = folder / "registry"
        registry = RegistryFolder(self._registry)
        registry.change_camera(
            "yard", {"name": "Back Yard", "source": f"rtsp://{HOST}:8554/main", "device": {"onvif": address}}
        )
        registry.set_login("yard", LOGIN)

    def run(self, *arguments: str) -> Result:
        environment = {"VIGIL_FLEET__REGISTRY": str(self._registry)}
        return CliRunner().invoke(cli, ["camera", "setup", "yard", *arguments], env=environment)


def test_a_camera_is_set_and_read_back(site: OnvifSite, tmp_path: Path) -> None:
    address = site.address(TO_SET)
    setup = Setup(tmp_path, address)
    shown = setup.run()
    assert re.search(r"called 'Yard', clock -7[12]\d\d s off", shown.output)
    assert "can  h264: 1920x1080, 1280x720" in shown.output

    wanted = ["--time", "--name", "--resolution", "1280x720", "--fps", "10", "--sub-bitrate", "256k"]
    asked = setup.run(*wanted)
    assert asked.exit_code == 2, "nobody was asked"
    assert "main.resolution: 1920x1080 -> 1280x720" in asked.output
    assert OnvifCamera(address, LOGIN).settings().name == "Yard", "and nothing was set"

    done = setup.run(*wanted, "--yes")
    assert done.exit_code == 0, done.output
    found = OnvifCamera(address, LOGIN).settings()
    assert found.name == "Back Yard"
    assert found.ahead_s is not None
    assert abs(found.ahead_s) < 60
    assert found.main == Encoding(codec="h264", width=1280, height=720, fps=10, bitrate_bps=4_096_000)
    assert found.sub is not None
    assert found.sub.bitrate_bps == 256_000

    half = setup.run("--fps", "25", "--yes")
    assert half.exit_code == 1
    assert "did not take: main.fps (is 15, not 25). It offers h264" in str(half.exception)
    refused = setup.run("--resolution", "1281x720", "--yes")
    assert "refuses SetVideoEncoderConfiguration: this resolution is not among" in str(refused.exception)
