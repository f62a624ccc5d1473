"""`vigil flash`, from an image to a card with whose token a node enrols."""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

import fleet.flash.cli
from broker.authority import Authority
from broker.certs import make_key, make_request
from broker.members import CaFolder
from config.errors import PermanentError, TransientError
from config.settings import BrokerSettings
from console.cli import cli
from fleet.bundle.verify import read_manifest
from fleet.enrolment.client import AuthorityAddress, join
from fleet.enrolment.server import EnrolmentServer
from fleet.enrolment.token import JoinToken
from fleet.flash.device import Block, Device
from tests.support.file_server import FileServer, Served
from tests.support.node_bundle import write_bundle
from tests.support.pi_image import BOOKWORM, PLAIN, TRIXIE, PiImage, fsck_fat, read_fat_file

HOST = "127.0.0.1"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINkXdEZtzhzl8EaJGIquDmgSAddU9FFRSuUENMMxQCOx alex@home"


class Bench:
    """A machine with an authority, and a folder in which somebody flashes cards."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.authority = Authority.create(CaFolder(self.state / "ca"), "home", [HOST])
        self.out = folder / "porch.img"

    def image(self, files: Mapping[str, bytes] = TRIXIE, **about: int) -> Path:
        return PiImage(files, **({"fat": 16, "boot_bytes": 8 << 20} | about)).build(self.folder / "system.img")  # type: ignore[arg-type]

    def flash(
        self, image: object, *more: object, environment: Mapping[str, str] | None = None, typed: str = ""
    ) -> Result:
        command = ["--state", self.state, "flash", "--image", image, "--node", "porch", *more]
        if "--device" not in more and "--out" not in more:
            command += ["--out", self.out]
        return CliRunner().invoke(cli, [str(one) for one in command], env=environment, input=typed)

    def bundle(self, name: str = "vigil.tar", **about: Any) -> Path:  # noqa: ANN401 - as of the manifest's fields
        return write_bundle(self.folder / name, self.authority.sign_content, **about)

    @property
    def is_invited(self) -> bool:
        return any(one.name == "porch" for one in self.authority.roster().invitations)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def refusal(result: Result) -> str:
    assert result.exit_code != 0, result.output
    return f"{result.exception} {result.output}"


def test_a_card_of_trixie_has_all_that_was_asked_for(bench: Bench, tmp_path: Path) -> None:
    key = tmp_path / "id.pub"
    key.write_text(f"{KEY}\n")
    packed = tmp_path / "2025-12-04-raspios-trixie-arm64-lite.img.xz"
    packed.write_bytes(lzma.compress(bench.image().read_bytes(), preset=0))
    Path(f"{packed}.sha256").write_text(f"{hashlib.sha256(packed.read_bytes()).hexdigest()}  {packed.name}\n")
    done = bench.flash(
        packed, "--bundle", bench.bundle(), "--wifi", "Garden", "--country", "de", "--user", "alex", "--ssh-key", key,
        "--camera", "yard", "--camera", "door=synthetic:street", "--time-zone", "Europe/Berlin", "--manifest",
        "--config-txt", "dtparam=i2c_arm=on", environment={"VIGIL_WIFI_PASSWORD": "PlainWifiSecret"},
    )  # fmt: skip
    assert done.exit_code == 0, f"{done.exception} {done.output}"
    for told in ("cloud-init", "SHA-256 checked", "1.2.3", "wifi 'Garden'", "alex, over ssh too", "for 30 days, once",
                 "`vigil node list`", "start `vigil ca serve`"):  # fmt: skip
        assert told in done.output
    assert fsck_fat(bench.out, tmp_path) == ""
    user_data = yaml.safe_load(read_fat_file(bench.out, "user-data"))
    assert user_data["user"]["ssh_authorized_keys"] == [KEY]
    assert read_fat_file(bench.out, "cmdline.txt").startswith(
        TRIXIE["cmdline.txt"].rstrip() + b" ds=nocloud;i=vigil-porch-"
    )
    assert b"\ndtparam=i2c_arm=on\n" in read_fat_file(bench.out, "config.txt")
    assert read_fat_file(bench.out, "vigil/bundle.tar") == (tmp_path / "vigil.tar").read_bytes()
    site_file = yaml.safe_load(read_fat_file(bench.out, "vigil/vigil.yaml"))
    assert site_file["cameras"] == {"door": {"source": "synthetic:street"}}, "the registry says where the other one is"
    assert read_fat_file(bench.out, "kernel8.img") == TRIXIE["kernel8.img"]
    assert b"PlainWifiSecret" not in bench.out.read_bytes()
    assert bench.out.stat().st_mode & 0o077 == 0
    (listed,) = json.loads((tmp_path / "porch.rpi-imager-manifest").read_text())["os_list"]
    assert listed["extract_sha256"] == hashlib.sha256(bench.out.read_bytes()).hexdigest()
    assert (listed["url"], listed["init_format"]) == (bench.out.as_uri(), "none")
    assert not list(tmp_path.glob(".porch*")), "the file on its way is gone"


def test_a_node_enrols_with_the_token_of_its_card_and_nobody_does_so_twice(bench: Bench) -> None:
    done = bench.flash(bench.image(BOOKWORM), "--camera", "yard", "--valid-days", 3, "--json")
    assert done.exit_code == 0, f"{done.exception} {done.output}"
    told = json.loads(done.stdout)
    assert (told["format"], told["roles"], told["token_days"], told["has_packages"]) == ("firstrun", ["edge"], 3, False)
    (promise,) = bench.authority.roster().invitations
    assert 2.9 < (promise.expires_at - datetime.now(UTC)).total_seconds() / 86_400 < 3
    token = JoinToken.read(read_fat_file(bench.out, "vigil/token").decode().strip())
    server = EnrolmentServer(bench.authority, BrokerSettings(), host=HOST, port=0)
    server.start()
    try:
        address = AuthorityAddress(HOST, server.port)
        admission = join(address, token, "porch", make_request(make_key()))
        assert {"edge", "agent"} <= set(admission.certificates)
        assert bench.authority.roster().members[0].cameras == ("yard",)
        with pytest.raises(PermanentError, match="refuses"):
            join(address, token, "porch", make_request(make_key()))
    finally:
        server.close()
    assert read_fat_file(bench.out, "firstrun.sh").startswith(b"#!/bin/bash\n")


def test_a_token_of_an_authority_elsewhere_is_brought(bench: Bench, tmp_path: Path) -> None:
    token = JoinToken.of(b"s" * 16, bench.authority.folder.ca.read_bytes()).text()
    (tmp_path / "token").write_text(f"{token}\n")
    bench.state = tmp_path / "elsewhere"
    image = bench.image()
    assert "run this there, or give one of `vigil enrol NODE`" in refusal(bench.flash(image))
    assert "--authority" in refusal(bench.flash(image, environment={"VIGIL_TOKEN": token}))
    done = bench.flash(image, "--authority", "10.0.0.2", "--token-file", tmp_path / "token")
    assert done.exit_code == 0, f"{done.exception} {done.output}"
    assert read_fat_file(bench.out, "vigil/token").decode().strip() == token
    assert b"AUTHORITY=10.0.0.2:8885\n" in read_fat_file(bench.out, "vigil/card.env")
    assert b"url: mqtts://10.0.0.2:8883\n" in read_fat_file(bench.out, "vigil/vigil.yaml")


def test_what_fails_leaves_neither_a_file_nor_a_promise(bench: Bench, tmp_path: Path) -> None:
    full = bench.image(filled_bytes=6 << 20)
    big = bench.bundle("big.tar", size_bytes=4_000_000)
    assert "too small: vigil/bundle.tar needs" in refusal(bench.flash(full, "--bundle", big))
    assert "does not say how its first boot" in refusal(bench.flash(bench.image(PLAIN)))
    assert "no partition table" in refusal(bench.flash(big))
    assert not bench.out.exists()
    assert not bench.is_invited
    assert not list(tmp_path.glob(".porch*"))


def test_a_bundle_is_looked_at_before_anything_is_written(bench: Bench) -> None:
    image = bench.image()
    other = Authority.create(CaFolder(bench.folder / "other" / "ca"), "other", [HOST])
    changed = bytearray(bench.bundle("changed.tar", size_bytes=100_000).read_bytes())
    changed[50_000] ^= 1
    (bench.folder / "changed.tar").write_bytes(changed)
    for bundle, words in (
        (write_bundle(bench.folder / "unsigned.tar", None), "is not signed"),
        (bench.folder / "changed.tar", "changed.tar"),
        (bench.bundle("pc.tar", architecture="amd64"), "for amd64; a Raspberry Pi takes arm64"),
        (bench.bundle("bookworm.tar", family="bookworm"), "is for bookworm, and the image is trixie"),
        (bench.bundle("bridge.tar", roles=("bridge",)), "brings bridge, and not edge"),
        (bench.folder / "missing.tar", "missing.tar"),
    ):
        assert words in refusal(bench.flash(image, "--bundle", bundle))
    bench.authority = other
    assert "not signed by this site's authority" in refusal(bench.flash(image, "--bundle", bench.bundle("other.tar")))
    assert not bench.out.exists()


def test_an_image_of_the_network_is_unpacked_as_it_comes_and_checked(bench: Bench) -> None:
    content = gzip.compress(bench.image().read_bytes(), 1)
    right = hashlib.sha256(content).hexdigest()
    with FileServer() as server:
        server.files["a/pi.img.gz"] = Served(content)
        url = server.url("a/pi.img.gz")
        assert "nobody vouches for what comes over http://" in refusal(bench.flash(url))
        assert "is not what it must be" in refusal(bench.flash(url, "--sha256", "0" * 64))
        server.files["a/pi.img.gz"].cut_after = 20_000
        assert isinstance(bench.flash(url, "--sha256", right).exception.__cause__, TransientError)  # type: ignore[union-attr]
        assert not bench.out.exists()
        assert "404" in refusal(bench.flash(server.url("b.img.gz"), "--sha256", right))
        done = bench.flash(url, "--sha256", right)
    assert done.exit_code == 0, f"{done.exception} {done.output}"
    assert "SHA-256 checked" in done.output


def test_the_first_trixie_gets_what_its_own_python_takes(bench: Bench, tmp_path: Path) -> None:
    done = bench.flash(bench.image(PLAIN), "--format", "firstrun")
    assert done.exit_code == 0, f"{done.exception} {done.output}"
    (tmp_path / "card.tar").write_bytes(read_fat_file(bench.out, "vigil/bundle.tar"))
    assert read_manifest(tmp_path / "card.tar").family == "trixie"


def test_a_system_of_32_bits_is_refused_also_without_a_bundle(bench: Bench, tmp_path: Path) -> None:
    image = bench.image().rename(tmp_path / "2025-12-04-raspios-trixie-armhf-lite.img")
    assert "32-bit system" in refusal(bench.flash(image))
    assert not bench.is_invited


def test_an_image_that_is_not_whole_or_of_another_kind_is_refused(bench: Bench, tmp_path: Path) -> None:
    packed = lzma.compress(bench.image().read_bytes(), preset=0)
    for name, content, words in (
        ("cut.img.xz", packed[:-2000], "ends in the middle"),
        ("bad.img.xz", packed[:500] + b"\xff" * 100 + packed[600:], "is damaged"),
        ("two.img.xz", packed + packed, "in several pieces"),
        ("pi.zip", b"PK\3\4" + bytes(100), "packed as .zip: unpack it first"),
        ("none.img", b"", "is empty"),
    ):
        (tmp_path / name).write_bytes(content)
        assert words in refusal(bench.flash(tmp_path / name))
    (tmp_path / "cut.img.xz.sha256").write_text(f"{'0' * 64}  cut.img.xz\n")
    assert "cannot be read" in refusal(bench.flash(tmp_path / "missing.img"))
    assert not list(tmp_path.glob(".porch*"))


def test_an_image_for_which_there_is_no_room_is_not_unpacked(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    image = bench.image()
    size_bytes = image.stat().st_size
    packed = bench.folder / "system.img.xz"
    packed.write_bytes(lzma.compress(image.read_bytes(), preset=0))
    assert packed.stat().st_size < size_bytes / 10
    monkeypatch.setattr("shutil.disk_usage", lambda _path: SimpleNamespace(free=size_bytes + (60 << 20)))
    for place in (image, packed):
        assert f"needs {size_bytes / 1e9:.1f} GB" in refusal(bench.flash(place))
    assert not bench.out.exists()


def test_a_file_that_is_there_is_kept(bench: Bench) -> None:
    bench.out.write_bytes(b"mine")
    assert "is there already" in refusal(bench.flash(bench.image()))
    assert bench.out.read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--wifi", "Garden"], "--wifi needs --country"),
        (["--wifi-open"], "belong to --wifi SSID"),
        (["--ssh-key", "x.pub"], "belong to --user"),
        (["--user", "alex"], "could not log in"),
        (["--camera", "yard", "--camera", "yard=file:x"], "two cameras"),
        (["--device", "/dev/sdz", "--manifest"], "--device writes a disk"),
        (["--yes"], "--yes and --expect-serial belong together"),
        (["--site", "away"], "is that of the site 'home', not 'away'"),
        (["--role", "Edge"], "is not a role"),
        (["--as-is"], "--as-is writes a finished image"),
    ],
)
def test_options_that_do_not_fit_are_refused(bench: Bench, options: list[str], words: str) -> None:
    assert words in refusal(bench.flash(bench.image(PLAIN), *options, "--format", "firstrun"))
    assert not bench.out.exists()


# --- a disk -----------------------------------------------------------------------------------------------------


class Medium:
    """A card in a reader, which is a file."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.serial = "0001"
        self.mounts: tuple[str, ...] = ()
        self.looks = 0
        self.swapped_at = 0
        path.write_bytes(b"\xee" * (30 << 20))
        monkeypatch.setattr(fleet.flash.cli, "find_device", self.find)
        monkeypatch.setattr(fleet.flash.cli, "unmount", self.unmount)

    def find(self, _path: Path, _needed_bytes: int) -> Device:
        self.looks += 1
        serial = "another" if self.looks == self.swapped_at else self.serial
        return Device(
            Block(
                path=str(self.path), kind="disk", size_bytes=self.path.stat().st_size, is_read_only=False,
                is_removable=True, buses=frozenset({"usb"}), model="Reader", serial=serial, fstype="", label="",
                mounts=self.mounts,
            ),
            self.mounts,
        )  # fmt: skip

    def unmount(self, _device: Device) -> None:
        self.mounts = ()

    @property
    def is_unmounted(self) -> bool:
        return not self.mounts

    @property
    def is_untouched(self) -> bool:
        return self.path.read_bytes().strip(b"\xee") == b""


@pytest.fixture
def medium(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Medium:
    return Medium(tmp_path / "sdx", monkeypatch)


def test_a_disk_is_written_over_when_a_person_has_typed_its_name(bench: Bench, medium: Medium, tmp_path: Path) -> None:
    medium.mounts = ("/media/alex/bootfs",)
    image = bench.image()
    done = bench.flash(image, "--device", medium.path, "--work", tmp_path, typed="sdx\n")
    assert done.exit_code == 0, f"{done.exception} {done.output}"
    assert "ALL that is on this disk will be lost" in done.output
    assert f"{medium.path}  Reader" in done.output
    assert "(read back)" in done.output
    assert read_fat_file(medium.path, "vigil/card.env").startswith(b"NODE=porch\n")
    assert medium.is_unmounted
    assert bench.is_invited
    assert not list(tmp_path.glob(".porch*"))


@pytest.mark.parametrize(
    ("options", "typed", "words"),
    [
        ([], "sdb\n", "is not sdx: nothing was written"),
        ([], "\n", "nothing was written"),
        (["--yes", "--expect-serial", "0002"], "", "has the serial number 0001, not '0002'"),
        ([], "sdx\n", "another disk than the one that was confirmed"),
    ],
)
def test_a_disk_is_not_touched_without_that(
    bench: Bench, medium: Medium, options: list[str], typed: str, words: str
) -> None:
    medium.swapped_at = 3 if typed == "sdx\n" else 0
    assert words in refusal(bench.flash(bench.image(), "--device", medium.path, *options, typed=typed))
    assert medium.is_untouched
    assert not bench.is_invited, "the token of a card that was not written is worth nothing"


def test_a_script_names_the_serial_number(bench: Bench, medium: Medium) -> None:
    done = bench.flash(bench.image(), "--device", medium.path, "--yes", "--expect-serial", "0001")
    assert done.exit_code == 0, f"{done.exception} {done.output}"


def test_a_disk_without_a_serial_number_is_confirmed_by_a_person_only(bench: Bench, medium: Medium) -> None:
    medium.serial = ""
    said = refusal(bench.flash(bench.image(), "--device", medium.path, "--yes", "--expect-serial", ""))
    assert "(none)" in said
    assert medium.is_untouched


def test_a_finished_image_goes_onto_a_disk_as_it_is(bench: Bench, medium: Medium, tmp_path: Path) -> None:
    image = bench.image()
    command = ["--state", tmp_path / "empty", "flash", "--image", image, "--as-is", "--device", medium.path]
    command += ["--work", tmp_path, "--yes", "--expect-serial", "0001"]
    done = CliRunner().invoke(cli, [str(one) for one in command])
    assert done.exit_code == 0, f"{done.exception} {done.output}"
    assert f"SHA-256 {hashlib.sha256(image.read_bytes()).hexdigest()} (read back)" in done.output
    assert medium.path.read_bytes().startswith(image.read_bytes())


def test_root_leaves_nothing_in_the_authority_of_another(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:
        os.chown(bench.authority.folder.path, 12_345, -1)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert "belongs to another user" in refusal(bench.flash(bench.image()))
    assert not bench.is_invited
