"""Every database deleted and every process restarted: the site is as its folder says."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from config.logins import read_logins
from config.registry import Login
from tests.support.rebuilding import WrittenSite, camera

pytest.importorskip("gi", reason="no GStreamer: see deploy/packages.txt")


def test_a_site_that_lost_everything_but_its_folder_is_as_before(tmp_path: Path) -> None:
    cameras, nodes = ("camera-1", "camera-2"), ("porch",)
    with WrittenSite(tmp_path, [("edge", "porch")]) as site:
        for number, name in enumerate(cameras, start=1):
            site.registry.change_camera(name, camera(number, "porch"))
        site.registry.change_node("porch", {"name": "The porch", "roles": {"edge": 1}})
        site.registry.set_login("camera-1", Login(username="admin", password=SecretStr("s3cret")))
        site.begin()
        site.wait_running(cameras, nodes)
        before = site.word()
        site.end()
        assert "hub/state" in site.forget()
        site.broker.start()
        site.begin()
        site.wait_running(cameras, nodes)
        assert site.word() == before
        assert before["camera"]["camera-2"]["name"] == "Camera number 2"
        assert read_logins(tmp_path / "hub" / "state" / "logins.json").keys() == {"camera-1"}
