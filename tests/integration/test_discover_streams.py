"""A real RTSP server in the network that somebody names: found, asked, and a picture of it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner

from console.cli import cli
from tests.support.camera import MockCamera, small_film
from tests.support.onvif import CameraPlan, OnvifSite

pytest.importorskip("edge.gst.stream", reason="no GStreamer: see deploy/packages.txt")

HOST, LOGIN = "127.0.0.1", ("admin", "correct horse")


if os.environ.get("VIGIL_TEST_LONG"):

    def test_a_stream_of_a_named_network_is_found_and_shown(tmp_path: Path) -> None:
        with MockCamera(tmp_path, small_film(tmp_path), login=LOGIN) as camera:
            parts = urlsplit(camera.rtsp_url)
            stream = f"rtsp://{HOST}:{parts.port}{parts.path}"
            plan = CameraPlan(HOST, login=LOGIN, snapshot="none", main=stream, sub=f"{stream}/sub")
            with OnvifSite(tmp_path, [plan]) as site:
                arguments = [
                    "discover",
                    "--scan",
                    f"{HOST}/32",
                    "--port",
                    f"{parts.port}",
                    "--port",
                    f"{site.ports[0]}",
                ]
                arguments += ["--interface", HOST, "--wait", "0.1s", "--username", LOGIN[0], "--json"]
                environment = {"VIGIL_CAMERA_PASSWORD": LOGIN[1], "VIGIL_FLEET__REGISTRY": str(tmp_path / "registry")}
                page = tmp_path / "cameras.html"
                done = CliRunner().invoke(cli, [*arguments, "--html", str(page)], env=environment)
        assert done.exit_code == 0, done.output
        (found,) = [json.loads(line) for line in done.stdout.splitlines() if '"scan"' in line]
        assert found["rtsp"] == f"rtsp://{HOST}:{parts.port}/"
        assert found["main"]["uri"] == stream
        assert found["proposed"]["name"] == "yard"
        assert found["trouble"] is None
        assert "data:image/jpeg;base64," in page.read_text()
        assert LOGIN[1] not in done.output + page.read_text()
