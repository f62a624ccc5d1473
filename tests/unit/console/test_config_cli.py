from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from console.cli import cli


def vigil(*arguments: str, environment: dict[str, str] | None = None) -> Result:
    return CliRunner(env=environment).invoke(cli, arguments)


@pytest.fixture
def site_file(tmp_path: Path) -> Path:
    return tmp_path / "site.yaml"


def test_every_error_is_told_with_file_and_line(site_file: Path) -> None:
    site_file.write_text("site: home\ncameras:\n  front/door:\n    source: synthetic:street\ndetectr:\n  model: x\n")
    result = vigil("config", "check", str(site_file))
    assert result.exit_code == 78
    assert f"vigil: {site_file}:3: cameras.front/door: 'front/door' is not a name" in result.stderr
    assert f"vigil: {site_file}:5: detectr: unknown key; did you mean 'detector'?" in result.stderr
    assert f"2 errors in {site_file}" in result.stderr


def test_what_only_the_bus_knows_is_checked_too(site_file: Path) -> None:
    site_file.write_text("bus:\n  delivery:\n    camera_moton: {qos: 0}\n")
    result = vigil("config", "check", str(site_file))
    assert result.exit_code == 78
    assert "bus.delivery.camera_moton: no topic of this name; did you mean 'camera_motion'?" in result.stderr


def test_good_settings_are_summed_up(site_file: Path) -> None:
    site_file.write_text("site: depot\nnode: pi-1\ncameras:\n  yard: {source: 'synthetic:street'}\n")
    result = vigil("--config", str(site_file), "config", "check")
    assert result.exit_code == 0
    assert result.output.startswith(
        f"ok: {site_file}: site depot, node pi-1; cameras: yard; bus: mqtt://127.0.0.1:1883"
    )


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    result = vigil("config", "check", str(tmp_path / "no.yaml"))
    assert result.exit_code == 78
    assert "no.yaml: there is no such file" in result.stderr


def test_the_file_beside_the_person_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vigil.yaml").write_text("site: depot\n")
    assert "ok: vigil.yaml: site depot" in vigil("config", "check").output


def test_flags_go_above_the_environment_and_that_above_the_file(site_file: Path) -> None:
    site_file.write_text("site: from-file\nnode: from-file\nlog: {level: error}\n")
    environment = {"VIGIL_SITE": "from-environment", "VIGIL_NODE": "from-environment", "VIGIL_CONFIG": str(site_file)}
    shown = yaml.safe_load(vigil("--site", "from-flag", "config", "show", environment=environment).output)
    assert (shown["site"], shown["node"], shown["log"]["level"]) == ("from-flag", "from-environment", "error")


def test_secrets_are_masked(site_file: Path) -> None:
    site_file.write_text(
        "bus: {username: vigil, password: hunter2}\ncameras:\n  yard: {source: 'rtsp://admin:hunter3@10.0.0.9/s'}\n"
    )
    shown = vigil("--config", str(site_file), "config", "show")
    assert "hunter" not in shown.output
    assert yaml.safe_load(shown.stdout)["cameras"]["yard"]["source"] == "rtsp://***@10.0.0.9/s"


def test_a_site_file_with_a_secret_that_everybody_can_read_is_told(site_file: Path) -> None:
    site_file.write_text("bus: {username: vigil, password: hunter2}\n")
    for mode, told in ((0o644, True), (0o640, False)):
        site_file.chmod(mode)
        result = vigil("config", "check", str(site_file))
        assert result.exit_code == 0
        words = f"vigil: warning: {site_file} holds a password or a token, and every user of this machine can read it"
        assert (words in result.stderr) is told
