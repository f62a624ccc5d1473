"""What `vigil flash` puts onto the boot partition, and how it knows what an image wants."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from config.errors import ConfigError
from fleet.flash.boot_text import with_kernel_words, with_setting
from fleet.flash.card import CardUser, NodeCard, Wifi
from fleet.flash.cloudinit import cloud_init_files
from fleet.flash.family import Format
from fleet.flash.firstrun import firstrun_files
from fleet.flash.partitions import boot_partition
from fleet.flash.password import hash_password
from fleet.flash.prepare import image_family
from tests.support.pi_image import BOOKWORM, PLAIN, TRIXIE, PiImage

NOW = datetime(2026, 11, 21, 20, 15, 30)  # noqa: DTZ001 - FAT has local time
KEY = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINkXdEZtzhzl8EaJGIquDmgSAddU9FFRSuUENMMxQCOx al\'ex "$(touch x)" `y` é'
ODD_SSID = "Gar'd\"en $x;1\\é"
CMDLINE = TRIXIE["cmdline.txt"]


def card(**changes: Any) -> NodeCard:  # noqa: ANN401 - any of its fields
    about: dict[str, Any] = {
        "node": "porch", "site": "home", "authority": "10.0.0.2:8885", "token": "t", "broker": "mqtts://10.0.0.2:8883",
    }  # fmt: skip
    return NodeCard(**(about | changes))


def full_card(**changes: Any) -> NodeCard:  # noqa: ANN401 - any of its fields
    wifi = Wifi.of(ODD_SSID, "pass'w \"$o`rd\\", country="DE", is_hidden=True)
    user = CardUser(name="alex", password_hash=hash_password("o'd\"d $pw"), ssh_keys=(KEY,))
    about = {"wifi": wifi, "user": user, "has_ssh": True, "time_zone": "Europe/Berlin", "locale": "de_DE.UTF-8"}
    return card(**(about | {"keymap": "de"} | changes))


# --- which family -----------------------------------------------------------------------------------------------


def family_of(folder: Path, files: Mapping[str, bytes], asked: Format | None = None) -> str:
    image = PiImage(files, fat=16, boot_bytes=8 << 20).build(folder / "card.img")
    found = image_family(image, asked, NOW)
    return f"{found.format} {found.name}{' asked' if found.is_asked else ''}"


def test_the_family_is_read_from_the_image(tmp_path: Path) -> None:
    assert family_of(tmp_path, TRIXIE) == "cloud-init Raspberry Pi reference 2025-12-04"
    assert family_of(tmp_path, BOOKWORM) == "firstrun Raspberry Pi reference 2025-05-13"
    assert family_of(tmp_path, PLAIN, "firstrun") == "firstrun  asked"


@pytest.mark.parametrize(
    ("files", "asked", "words"),
    [
        (PLAIN, None, "does not say how its first boot.*Seen: no issue.txt; files cmdline.txt.*--format"),
        ({**TRIXIE, "cmdline.txt": BOOKWORM["cmdline.txt"]}, None, "says both"),
        ({**TRIXIE, "cmdline.txt": BOOKWORM["cmdline.txt"]}, "firstrun", "says both"),
        (TRIXIE, "firstrun", "takes cloud-init, not firstrun"),
        ({**PLAIN, "rpi-preseed.toml": b"#"}, None, "rpi-preseed.toml, which Vigil does not write"),
        ({"kernel8.img": b"k"}, None, "no cmdline.txt"),
    ],
)
def test_what_does_not_say_its_family_is_refused_with_what_was_seen(
    tmp_path: Path, files: Mapping[str, bytes], asked: Format | None, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        family_of(tmp_path, files, asked)


@pytest.mark.parametrize(
    ("at", "content", "words"),
    [
        (510, b"\0\0", "no partition table"),
        (450, b"\xee", "GPT"),
        (450, b"\x83", "none of its partitions is FAT .types: 0x83, 0x83"),
        (458, b"\xff\xff\xff\x00", "ends after the image does"),
    ],
)
def test_what_is_no_image_of_a_card_is_refused_in_words(tmp_path: Path, at: int, content: bytes, words: str) -> None:
    image = PiImage(PLAIN, fat=16, boot_bytes=8 << 20).build(tmp_path / "card.img")
    with image.open("r+b") as file:
        file.seek(at)
        file.write(content)
        with pytest.raises(ConfigError, match=words):
            boot_partition(file)


# --- cloud-init -------------------------------------------------------------------------------------------------


def test_cloud_init_is_told_everything_and_survives_odd_characters() -> None:
    files = cloud_init_files(full_card(), CMDLINE, "vigil-porch-1")
    assert files["user-data"].startswith(b"#cloud-config\n")
    told = yaml.safe_load(files["user-data"])
    assert (told["hostname"], told["timezone"], told["locale"]) == ("porch", "Europe/Berlin", "de_DE.UTF-8")
    assert told["user"]["name"] == "alex"
    assert told["user"]["ssh_authorized_keys"] == [KEY]
    assert told["user"]["sudo"] is None, "with a password, sudo asks for it"
    assert told["ssh_pwauth"] is True
    assert told["apt"]["preserve_sources_list"] is True, "the sources of Raspberry Pi OS stay"
    assert ["systemctl", "enable", "--now", "ssh"] in told["runcmd"]
    assert told["runcmd"][-1] == ["bash", "/boot/firmware/vigil/firstboot.sh"]
    network = yaml.safe_load(files["network-config"])["network"]
    assert network["ethernets"]["eth0"]["dhcp4"] is True, "the cable is dead where wifi alone is named"
    point = network["wifis"]["wlan0"]["access-points"][ODD_SSID]
    key = hashlib.pbkdf2_hmac("sha1", b"pass'w \"$o`rd\\", ODD_SSID.encode(), 4096, 32).hex()
    assert point == {"password": key, "hidden": True}
    assert network["wifis"]["wlan0"]["regulatory-domain"] == "DE"


def test_every_card_is_an_instance_of_its_own() -> None:
    first = cloud_init_files(card(), CMDLINE, "vigil-porch-1")
    again = cloud_init_files(card(), first["cmdline.txt"], "vigil-porch-2")
    assert yaml.safe_load(again["meta-data"])["instance-id"] == "vigil-porch-2"
    assert again["cmdline.txt"].split()[-2:] == [b"resize", b"ds=nocloud;i=vigil-porch-2"]


def test_a_user_with_a_key_alone_needs_no_password_anywhere() -> None:
    told = yaml.safe_load(cloud_init_files(card(user=CardUser(name="al", ssh_keys=(KEY,))), CMDLINE, "i")["user-data"])
    assert told["user"] == {
        "name": "al", "lock_passwd": True, "sudo": "ALL=(ALL) NOPASSWD:ALL", "ssh_authorized_keys": [KEY],
    }  # fmt: skip
    assert told["ssh_pwauth"] is False


def test_an_open_network_has_no_key() -> None:
    files = cloud_init_files(card(wifi=Wifi(ssid="Cafe", country="DE")), CMDLINE, "i")
    points = yaml.safe_load(files["network-config"])["network"]["wifis"]["wlan0"]["access-points"]
    assert points == {"Cafe": {"auth": {"key-management": "none"}}}


def test_no_password_is_on_a_card() -> None:
    wifi = Wifi.of("Garden", "PlainWifiSecret", country="DE")
    user = CardUser(name="alex", password_hash=hash_password("PlainUserSecret"))
    told = card(wifi=wifi, user=user)
    for files in (cloud_init_files(told, CMDLINE, "i"), firstrun_files(told, CMDLINE)):
        assert wifi.psk.encode() in b"".join(files.values())
        assert b"Secret" not in b"".join(files.values())
    assert "Secret" not in repr(told)
    assert wifi.psk not in repr(told)


# --- firstrun.sh ------------------------------------------------------------------------------------------------

_STUBS = ("raspi-config", "systemctl", "rfkill", "chpasswd", "useradd", "usermod", "groupmod", "chown", "sync")


class Sandbox:
    """A root file system in a folder, in which a first boot's script runs; what it calls is written down."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ("etc", "boot/firmware/vigil", "bin", "home/alex", "usr/share/zoneinfo/Europe"):
            (root / folder).mkdir(parents=True)
        (root / "etc/hosts").write_text("127.0.0.1\tlocalhost\n127.0.1.1\t\traspberrypi\n")
        (root / "usr/share/zoneinfo/Europe/Berlin").write_bytes(b"TZif")
        (root / "boot/firmware/vigil/firstboot.sh").write_text(f'echo "firstboot" >>"{root}/called"\n')
        for name in _STUBS:
            self._stub(name, f'printf "%s" "{name}" >>"{root}/called"; printf " <%s>" "$@" >>"{root}/called"\n'
                       f'echo >>"{root}/called"; [ "{name}" != chpasswd ] || cat >>"{root}/called"')  # fmt: skip
        self._stub("getent", f'[ "$2" = 1000 ] && echo "pi:x:1000::::" || echo "alex:x:1000:1000::{root}/home/alex:"')
        me = f"-o {os.getuid()} -g {os.getgid()}"
        self._stub("install", f'exec {shutil.which("install")} $(echo "$@" | sed "s/-o alex -g alex/{me}/")')

    def _stub(self, name: str, body: str) -> None:
        path = self.root / "bin" / name
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(0o755)

    def run(self, script: bytes) -> None:
        text = script.decode()
        for place in ("/etc/", "/boot/firmware", "/usr/share/zoneinfo", "/usr/lib/userconf-pi"):
            text = text.replace(place, f"{self.root}{place}")
        path = self.root / "boot/firmware/firstrun.sh"
        path.write_text(text)
        search = f"{self.root / 'bin'}:/usr/bin:/bin"
        subprocess.run(["bash", str(path)], env={"PATH": search}, cwd=self.root, timeout=30, check=True)

    def read(self, name: str) -> str:
        return (self.root / name).read_text()


def test_the_script_does_everything_and_survives_odd_characters(tmp_path: Path) -> None:
    told = full_card()
    files = firstrun_files(told, BOOKWORM["cmdline.txt"])
    box = Sandbox(tmp_path / "root")
    (box.root / "boot/firmware/cmdline.txt").write_bytes(files["cmdline.txt"])
    box.run(files["firstrun.sh"])
    assert "FAILED" not in box.read("boot/firmware/vigil/firstrun.log")
    assert box.read("etc/hostname") == "porch\n"
    assert box.read("etc/hosts").endswith("127.0.1.1\tporch\n")
    assert box.read("home/alex/.ssh/authorized_keys") == f"{KEY}\n"
    assert (box.root / "etc/localtime").readlink().match("Europe/Berlin")
    profile = box.root / "etc/NetworkManager/system-connections/vigil.nmconnection"
    assert profile.stat().st_mode & 0o777 == 0o600
    numbers = [int(one) for one in _value(profile.read_text(), "ssid").rstrip(";").split(";")]
    assert bytes(numbers).decode() == ODD_SSID
    assert told.wifi is not None
    assert _value(profile.read_text(), "psk") == told.wifi.psk
    called = box.read("called")
    assert told.user is not None
    assert f"alex:{told.user.password_hash}\n" in called
    for call in ("raspi-config <nonint> <do_wifi_country> <DE>", "systemctl <enable> <ssh>", "firstboot\n",
                 "raspi-config <nonint> <do_configure_keyboard> <de>"):  # fmt: skip
        assert call in called
    assert not (box.root / "boot/firmware/firstrun.sh").exists()
    assert box.read("boot/firmware/cmdline.txt").split() == BOOKWORM["cmdline.txt"].decode().split()


def _value(text: str, name: str) -> str:
    return next(line.partition("=")[2] for line in text.splitlines() if line.startswith(f"{name}="))


def test_a_step_that_fails_is_told_on_the_card_and_stops_no_other(tmp_path: Path) -> None:
    files = firstrun_files(full_card(time_zone="Mars/Base"), BOOKWORM["cmdline.txt"])
    box = Sandbox(tmp_path / "root")
    (box.root / "boot/firmware/cmdline.txt").write_bytes(files["cmdline.txt"])
    box.run(files["firstrun.sh"])
    log = box.read("boot/firmware/vigil/firstrun.log")
    assert "FAILED: time zone" in log
    assert "done: the node at its next boot" in log


@pytest.mark.parametrize("told", [card(), full_card()], ids=["bare", "full"])
def test_the_script_is_clean(tmp_path: Path, told: NodeCard) -> None:
    script = tmp_path / "firstrun.sh"
    script.write_bytes(firstrun_files(told, CMDLINE)["firstrun.sh"])
    subprocess.run(["bash", "-n", str(script)], check=True, timeout=30)
    done = subprocess.run(["shellcheck", str(script)], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == ""


def test_systemd_is_told_once_to_run_it() -> None:
    first = firstrun_files(card(), BOOKWORM["cmdline.txt"])["cmdline.txt"]
    again = firstrun_files(card(), first)["cmdline.txt"]
    assert again == first
    assert first.count(b"\n") == 1
    assert b" systemd.run=/boot/firmware/firstrun.sh systemd.run_success_action=reboot" in first


# --- texts and values -------------------------------------------------------------------------------------------


def test_the_command_line_of_the_kernel_stays_one_line() -> None:
    assert with_kernel_words(b"a b\r\n\nc\n\n", ["b", "d"]) == b"a b c d\n"
    with pytest.raises(ConfigError, match="is empty"):
        with_kernel_words(b" \n", ["d"])


def test_a_line_of_config_txt_is_taken_out_of_its_comment_or_added_for_every_model() -> None:
    config = b"# see\n#dtparam=i2c_arm=on\n[pi4]\narm_boost=1\n"
    assert with_setting(config, "dtparam=i2c_arm=on").splitlines()[1] == b"dtparam=i2c_arm=on"
    assert with_setting(config, "dtoverlay=imx708").endswith(b"arm_boost=1\n[all]\ndtoverlay=imx708\n")
    assert with_setting(config, "arm_boost=1") == config


def test_a_password_is_hashed_as_openssl_does_it() -> None:
    # openssl passwd -6 -salt abcdefgh
    wanted = "$6$abcdefgh$8k3OIoZMY7QgYch5bWkH/NjWE.nONmtEJvqpgeJShC.5uwqey11ilr0.k69IqtrHNBY73onj7CjlUAi9d1NGt/"
    assert hash_password("Tr0ub4dor&3 é\n", "abcdefgh") == wanted
    assert hash_password("x") != hash_password("x")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"node": "my_porch"}, "try 'my-porch'"),
        ({"time_zone": "Europe/Berlin; rm"}, "--time-zone"),
        ({"locale": "de DE"}, "--locale"),
        ({"keymap": "$(x)"}, "--keymap"),
        ({"config_txt": ("[all]\nx",)}, "--config-txt"),
    ],
)
def test_what_a_system_would_not_take_is_refused(changes: Mapping[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        card(**changes)


@pytest.mark.parametrize("password", ["short", "x" * 64, "with é here"])
def test_a_wifi_password_that_cannot_be_is_refused_and_not_repeated(password: str) -> None:
    with pytest.raises(ConfigError, match="8 to 63 characters") as caught:
        Wifi.of("Garden", password, country="DE")
    assert password not in str(caught.value)


def test_names_of_networks_users_and_keys_are_looked_at() -> None:
    with pytest.raises(ConfigError, match="1 to 32 bytes"):
        Wifi(ssid="é" * 17, country="DE")
    with pytest.raises(ConfigError, match="two letters"):
        Wifi(ssid="a", country="Germany")
    with pytest.raises(ConfigError, match="--user"):
        CardUser(name="root")
    with pytest.raises(ConfigError, match="no public key"):
        CardUser(name="alex", ssh_keys=("-----BEGIN OPENSSH PRIVATE KEY-----",))
