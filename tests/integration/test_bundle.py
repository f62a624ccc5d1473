"""Bundles: built from a folder of wheels and an archive of packages, checked, installed; and a card's first boot."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from broker.authority import Authority
from broker.members import CaFolder
from config.errors import ConfigError, PermanentError
from config.settings import BrokerSettings
from console.cli import cli
from fleet.bundle.build import BundleOrder, build_bundle
from fleet.bundle.firstboot import first_boot_files
from fleet.bundle.manifest import MANIFEST, SIGNATURE
from fleet.bundle.verify import unpack_bundle, verify_bundle
from fleet.bundle.wheels import own_wheel
from fleet.enrolment.server import EnrolmentServer
from fleet.enrolment.token import JoinToken
from fleet.flash.card import NodeCard
from tests.support.bundles import VERSION, local_order, vigil_wheel
from tests.support.ports import free_port
from tests.support.waiting import wait_until

NOW = datetime(2026, 11, 21, 20, 0, tzinfo=UTC)
ON_NODE = Path(__file__).parents[2] / "fleet" / "bundle" / "on_node"


class Built:
    """A small bundle of this machine's kind, signed by a site's authority."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority.create(CaFolder(folder / "ca"), "home", ["127.0.0.1"])
        self.certificate = self.authority.folder.ca.read_bytes()
        self.order: BundleOrder = local_order(folder)
        self.path = folder / "small.tar"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PIP_NO_INDEX", "1")
            patch.setenv("PIP_FIND_LINKS", str(folder / "wheels"))
            self.told: list[tuple[str, int, int]] = []
            self.manifest = build_bundle(
                self.order,
                self.path,
                NOW,
                sign=self.authority.sign_content,
                tell=lambda *step: self.told.append(step),
            )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return Built(tmp_path_factory.mktemp("built"))


def test_a_bundle_has_what_its_roles_need_and_what_the_card_lacks(built: Built) -> None:
    names = {file.name for file in built.manifest.files}
    assert {name for name in names if name.startswith("wheels/")} == {
        f"wheels/vigil_mesh-{VERSION}-py3-none-any.whl",
        "wheels/small-1.2-py3-none-any.whl",
        "wheels/smaller-0.3-py3-none-any.whl",
    }
    packages = {name.partition("/")[2].partition("_")[0] for name in names if name.startswith("packages/")}
    assert packages == {*built.manifest.packages, "not-there"}
    assert built.manifest.is_complete
    assert {what for what, done, total in built.told if done == total} >= {"Python packages", "Packages", "Writing"}


def test_a_bundle_of_the_sites_authority_is_taken_and_nobody_elses(built: Built, tmp_path: Path) -> None:
    assert verify_bundle(built.path, built.certificate) == built.manifest
    assert verify_bundle(built.path, None) == built.manifest
    other = Authority.create(CaFolder(tmp_path / "other"), "home", ["127.0.0.1"])
    with pytest.raises(PermanentError, match="not signed by this site's authority"):
        verify_bundle(built.path, other.folder.ca.read_bytes())


Change = Callable[[list[tuple[str, bytes]]], list[tuple[str, bytes]]]


def changed(built: Built, path: Path, change: Change) -> Path:
    """The bundle with other members."""
    with tarfile.open(built.path) as tar:
        members = [(one.name, (tar.extractfile(one) or io.BytesIO()).read()) for one in tar]
    with tarfile.open(path, "w") as tar:
        for name, content in change(members):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def flipped(name: str) -> Change:
    def change(members: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
        return [(one, bytes([c[0] ^ 1]) + c[1:] if one == name else c) for one, c in members]

    return change


def without(name: str) -> Change:
    return lambda members: [one for one in members if one[0] != name]


def rewritten(text: bytes, into: bytes) -> Change:
    return lambda members: [(one, c.replace(text, into) if one == MANIFEST else c) for one, c in members]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (flipped("wheels/small-1.2-py3-none-any.whl"), "small-1.2.*is not the file of its manifest"),
        (flipped("install.py"), "install.py is not the file"),
        (flipped(SIGNATURE), "not signed by this site's authority"),
        (without(SIGNATURE), "is not signed"),
        (without("install.py"), "install.py is missing"),
        (without(MANIFEST), "does not begin with manifest.json"),
        (rewritten(b'"wheels/small-', b'"wheels/../sm-'), "not signed by"),
        (lambda members: [*members, ("../../etc/cron.d/evil", b"x")], "is not in its manifest"),
        (lambda members: [*members, members[-1]], "is not in its manifest"),
        (lambda members: members[:2], "is missing"),
    ],
)
def test_a_bundle_that_was_changed_is_refused(built: Built, tmp_path: Path, change: Change, words: str) -> None:
    path = changed(built, tmp_path / "changed.tar", change)
    with pytest.raises(PermanentError, match=words):
        verify_bundle(path, built.certificate)
    with pytest.raises(PermanentError, match=words):
        unpack_bundle(path, built.certificate, tmp_path / "unpacked")
    assert not list(tmp_path.rglob("evil"))


def test_a_name_that_leads_out_of_the_folder_is_refused_also_from_the_authority(built: Built, tmp_path: Path) -> None:
    def change(members: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
        manifest = dict(members)[MANIFEST].replace(b'"wheels/small-', b'"wheels/../small-')
        signed = {MANIFEST: manifest, SIGNATURE: built.authority.sign_content(manifest)}
        return [(one, signed.get(one, content)) for one, content in members]

    path = changed(built, tmp_path / "out.tar", change)
    with pytest.raises(PermanentError, match="cannot be used"):
        verify_bundle(path, built.certificate)
    run = install_py("unpack", str(path), str(tmp_path / "unpacked"))
    assert run.returncode == 1
    assert "another kind of bundle" in run.stderr


def test_what_is_cut_short_is_refused(built: Built, tmp_path: Path) -> None:
    path = tmp_path / "half.tar"
    path.write_bytes(built.path.read_bytes()[: built.path.stat().st_size // 2])
    with pytest.raises(PermanentError, match=r"not all of it|is missing|is not the file"):
        verify_bundle(path, built.certificate)
    assert install_py("unpack", str(path), str(tmp_path / "unpacked")).returncode == 1
    assert not (tmp_path / "unpacked" / MANIFEST).exists()


def test_what_cannot_be_built_says_why(built: Built, tmp_path: Path) -> None:
    wheel = vigil_wheel(tmp_path)
    for order, words in (
        (BundleOrder(wheel=tmp_path / "none.whl"), "--wheel"),
        (BundleOrder(wheel=wheel, extras=("nonsense",)), "no extra 'nonsense'"),
        (BundleOrder(wheel=wheel, image=wheel, lock=built.order.lock), "no Linux partition"),
    ):
        with pytest.raises(ConfigError, match=words):
            build_bundle(order, tmp_path / "out.tar", NOW)
    with pytest.raises(ConfigError, match="no folder that can be written"):
        build_bundle(built.order, tmp_path / "nowhere" / "out.tar", NOW)
    assert not (tmp_path / "out.tar").exists()


def test_the_command_builds_from_the_checkout_signs_and_shows(tmp_path: Path) -> None:
    Authority.create(CaFolder(tmp_path / "state" / "ca"), "home", ["127.0.0.1"])
    out, vigil = tmp_path / "node.tar", ["--state", str(tmp_path / "state"), "bundle"]
    run = CliRunner().invoke(cli, [*vigil, "build", "--online", "--for", "trixie", "--out", str(out)])
    assert run.exit_code == 0, run.output
    assert "not signed" not in run.output
    shown = json.loads(CliRunner().invoke(cli, [*vigil, "show", str(out), "--json"]).stdout)
    assert (shown["family"], shown["python"], shown["is_complete"]) == ("trixie", "3.13", False)
    assert "python3-gi" in shown["packages"]
    said = CliRunner().invoke(cli, [*vigil, "show", str(out)]).output
    assert "signed by this site's authority" in said
    with tarfile.open(out) as tar:
        needed = tar.extractfile("requirements.txt")
        assert needed is not None
        text = needed.read().decode()
    # The newer Python's numpy; what joins and what a camera needs; nothing of a detector or of Windows.
    assert "numpy==2.5" in text
    assert all(f"\n{name}==" in f"\n{text}" for name in ("cryptography", "paho-mqtt", "pillow", "zeroconf"))
    assert not any(f"\n{name}==" in text for name in ("onnxruntime", "fastapi", "colorama", "hatchling"))


def test_where_vigil_was_installed_from_a_wheel_the_same_wheel_is_put_together_again(tmp_path: Path) -> None:
    (tmp_path / "rebuilt").mkdir()
    wheel = own_wheel(tmp_path)
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(tmp_path / "installed")
    code = (
        "import sys; from pathlib import Path; from fleet.bundle.locked import project_text;"
        "from fleet.bundle.wheels import own_wheel; own_wheel(Path(sys.argv[1]));"
        "sys.stdout.write(project_text('requirements.lock'))"
    )
    run = [sys.executable, "-P", "-c", code, str(tmp_path / "rebuilt")]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    lock = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert lock.stdout == (ON_NODE.parents[2] / "requirements.lock").read_text()
    assert content_of(tmp_path / "rebuilt" / wheel.name) == content_of(wheel)


def content_of(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as packed:
        names = [name for name in packed.namelist() if not name.endswith("RECORD")]
        return {name: packed.read(name) for name in names}


# --- on the node ----------------------------------------------------------------------------------------------


def install_py(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", str(ON_NODE / "install.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


class Machine:
    """A root file system, in which a first boot runs as this user: what only root may do is written down instead."""

    def __init__(
        self, folder: Path, built: Built, address: str, token: str, *, written_at: datetime | None = None
    ) -> None:
        self.root = folder / "root"
        self.card = self.root / "boot/firmware/vigil"
        self.asked = folder / "asked"
        self._programs = folder / "bin"
        self._programs.mkdir(parents=True)
        for name in ("systemctl", "dpkg", "useradd", "usermod", "chown", "apt-get", "date"):
            self._stand_in(name, f'echo "{name} $*" >>"{self.asked}"')
        self._stand_in("date", f'case $* in *-s*) echo "date $*" >>"{self.asked}" ;; *) exec /bin/date "$@" ;; esac')
        self._stand_in("id", "exit 1")
        self._stand_in("dpkg-query", "echo installed")
        self._stand_in("runuser", 'shift 3; exec "$@"')
        self._stand_in("systemctl", f'echo "systemctl $*" >>"{self.asked}"')
        (self.root / "etc").mkdir(parents=True)
        mine = f"{os.getuid()}:{os.getgid()}"
        (self.root / "etc/passwd").write_text("".join(f"{user}:x:{mine}::/:/bin/false\n" for user in ("root", "vigil")))
        (self.root / "etc/group").write_text("".join(f"{name}:x:{os.getgid()}:\n" for name in ("root", "vigil")))
        self.card.mkdir(parents=True)
        card = NodeCard(
            node="porch",
            site="home",
            authority=address,
            token=token,
            broker="mqtts://127.0.0.1:8883",
            cameras={"yard": "synthetic:street"},
            bundle=built.path,
        )
        for name, content in first_boot_files(card, written_at).items():
            (self.card / name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())

    def _stand_in(self, name: str, line: str) -> None:
        program = self._programs / name
        program.write_text(f"#!/bin/sh\n{line}\n")
        program.chmod(0o755)

    def start(self, command: str = "run", **more: str) -> subprocess.Popen[bytes]:
        """Start what systemd starts at a boot; `install`: what the operating system's own first boot runs."""
        script = self.card if command == "install" else self.root / "var/lib/vigil-firstboot"
        environment = {
            **os.environ,
            "PATH": f"{self._programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "VIGIL_REAL": sys.executable,
            "VIGIL_FIRSTBOOT_PAUSE_S": "1",
            **more,
        }
        run = ["bash", str(script / "firstboot.sh"), command, "--root", str(self.root)]
        return subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)

    def boot(self, command: str = "run", **more: str) -> int:
        """The same, to its end."""
        with self.start(command, **more) as process:
            _, errors = process.communicate(timeout=120)
        assert errors == b""
        return process.returncode

    def told(self) -> str:
        """The log on the card."""
        log = self.card / "firstboot.log"
        return log.read_text() if log.exists() else ""

    @property
    def version(self) -> Path:
        """Where Vigil is installed."""
        return self.root / "opt/vigil/versions" / VERSION


class Site:
    """An authority's door that is not open yet."""

    def __init__(self, built: Built) -> None:
        self.port = free_port()
        self._authority = built.authority
        self.token = self.invite()
        self.server: EnrolmentServer | None = None

    def invite(self) -> str:
        secret = self._authority.invite("porch", "node", ["edge"], ["yard"])
        return JoinToken.of(secret, self._authority.folder.ca.read_bytes()).text()

    def open(self) -> None:
        self.server = EnrolmentServer(self._authority, BrokerSettings(), host="127.0.0.1", port=self.port)
        self.server.start()


@pytest.fixture
def site(built: Built) -> Iterator[Site]:
    one = Site(built)
    yield one
    if one.server is not None:
        one.server.close()


def test_a_first_boot_survives_a_power_cut_and_waits_for_the_authority(
    built: Built, site: Site, tmp_path: Path
) -> None:
    node = Machine(tmp_path, built, f"127.0.0.1:{site.port}", site.token)
    assert node.boot("install") == 0
    assert "systemctl start --no-block vigil-firstboot.service" in node.asked.read_text()
    check = ["systemd-analyze", "verify", str(node.root / "etc/systemd/system/vigil-firstboot.service")]
    if shutil.which("systemd-analyze"):
        verified = subprocess.run(check, capture_output=True, text=True, check=False, timeout=60)
        assert "vigil-firstboot.service:" not in verified.stderr

    # The power is cut while the virtual environment is made.
    with node.start() as first:
        wait_until((node.version / "bin").is_dir, timeout_s=60, what="a virtual environment")
        cut_power(first)
    assert not (node.version / "complete").exists()

    with node.start() as second:
        wait_until(lambda: "does not answer" in node.told(), timeout_s=60, what="an authority that is missed")
        assert (node.card / "token").exists()
        site.open()
        second.communicate(timeout=60)
    assert second.returncode == 0, (node.root / "var/log/vigil-firstboot.log").read_text()
    assert node.told().splitlines()[-1].partition(" ")[2].startswith("DONE: porch is a node of its site")
    output = (node.root / "var/log/vigil-firstboot.log").read_text()
    assert "is taken away: it was not finished" in output
    assert site.token not in node.told() + output
    assert not (node.card / "token").exists()
    assert not (node.card / "vigil.yaml").exists(), "everybody on the node can read the card"
    assert (node.root / "etc/vigil/vigil.yaml").stat().st_mode & 0o777 == 0o640
    assert (node.root / "var/lib/vigil/identity/edge.crt").is_file()
    units = node.root / "etc/systemd/system"
    assert (units / "multi-user.target.wants/vigil-node.service").is_symlink()
    assert "ExecStart=/opt/vigil/launch " in (units / "vigil-node.service").read_text()
    asked = node.asked.read_text()
    assert asked.count("dpkg --install") == 1
    assert "not-there_" in asked

    check_installed(built, node, tmp_path)
    # At the next boot there is nothing left to do.
    node.asked.unlink()
    assert node.boot() == 0
    assert not node.asked.exists()


def cut_power(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it has started, at once."""
    shell = psutil.Process(process.pid)
    shell.suspend()  # it starts nothing more
    for one in [*shell.children(recursive=True), shell]:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    process.communicate()


def check_installed(built: Built, node: Machine, folder: Path) -> None:
    """The installation is what the bundle says, also when that is installed again; no other build is let over it."""
    assert (node.root / "opt/vigil/current").readlink() == Path("versions") / VERSION
    started = subprocess.run(
        [str(node.root / "opt/vigil/launch"), "--version"], capture_output=True, text=True, check=False, timeout=60
    )
    assert started.stdout == f"vigil {VERSION} small\n"
    assert list(node.version.rglob("small*.pyc"))

    unpacked = folder / "unpacked"
    assert install_py("unpack", str(built.path), str(unpacked)).returncode == 0
    again = install_py("install", str(unpacked), "--root", str(node.root), "--activate")
    assert "is complete already" in again.stdout
    (unpacked / MANIFEST).write_bytes((unpacked / MANIFEST).read_bytes() + b"\n")
    other = install_py("install", str(unpacked), "--root", str(node.root))
    assert other.returncode == 1
    assert "another build" in other.stderr
    subprocess.run([str(node.root / "opt/vigil/launch"), "--version"], capture_output=True, check=True, timeout=60)


def test_what_does_not_fit_the_machine_or_is_damaged_is_not_installed(built: Built, tmp_path: Path) -> None:
    unpacked = tmp_path / "unpacked"
    assert install_py("unpack", str(built.path), str(unpacked)).returncode == 0
    small = unpacked / "wheels/small-1.2-py3-none-any.whl"
    kept = small.read_bytes()
    small.write_bytes(b"")
    run = install_py("install", str(unpacked), "--root", str(tmp_path))
    assert (run.returncode, "is damaged" in run.stderr) == (1, True)
    small.write_bytes(kept)
    manifest = json.loads((unpacked / MANIFEST).read_bytes())
    (unpacked / MANIFEST).write_text(json.dumps({**manifest, "python": "3.9"}))
    run = install_py("install", str(unpacked), "--root", str(tmp_path))
    assert (run.returncode, "the bundle is for Python 3.9" in run.stderr) == (1, True)
    manifest["files"][0]["size_bytes"] = 10**15
    (unpacked / MANIFEST).write_text(json.dumps(manifest))
    run = install_py("install", str(unpacked), "--root", str(tmp_path))
    assert (run.returncode, "MB are needed" in run.stderr) == (1, True)
    assert not list((tmp_path / "opt/vigil/versions").glob("[0-9]*"))


def test_a_used_token_ends_the_first_boot_with_its_cure_and_a_new_one_goes_on(
    built: Built, site: Site, tmp_path: Path
) -> None:
    later = datetime.now(UTC) + timedelta(days=100)
    node = Machine(tmp_path, built, f"127.0.0.1:{site.port}", site.token, written_at=later)
    site.open()
    used, site.token = site.token, site.invite()  # which makes the first worth nothing
    assert node.boot("install") == 0
    for done in ("bundle", "packages", "user", "install", "settings"):
        (node.root / "var/lib/vigil-firstboot" / f"done.{done}").touch()
    (node.root / "etc/vigil").mkdir()
    shutil.copy(node.card / "vigil.yaml", node.root / "etc/vigil/vigil.yaml")
    (node.root / "opt/vigil").mkdir(parents=True)
    (node.root / "opt/vigil/launch").write_text(f'#!/bin/sh\nexec {sys.executable} -P -m console "$@"\n')
    (node.root / "opt/vigil/launch").chmod(0o755)

    assert node.boot(VIGIL_FIRSTBOOT_CLOCK_S="0") == 1
    assert f"date -u -s @{int(later.timestamp())}\n" in node.asked.read_text()
    last = node.told().splitlines()[-1]
    assert "FAILED at enrolment" in last
    assert "CURE: put a new token of `vigil enrol porch` into vigil/token on the card" in last
    assert used not in node.told()
    (node.card / "token").write_text(f"{site.token}\r\n")  # as Notepad writes it
    assert node.boot(VIGIL_FIRSTBOOT_CLOCK_S="0") == 0
    assert "DONE" in node.told().splitlines()[-1]


@pytest.mark.parametrize(("is_complete", "times"), [(False, 5), (True, 3)])
def test_what_comes_over_the_network_is_waited_for_and_the_card_says_so(
    built: Built, site: Site, tmp_path: Path, *, is_complete: bool, times: int
) -> None:
    node = Machine(tmp_path, built, f"127.0.0.1:{site.port}", site.token)
    assert node.boot("install") == 0
    state = node.root / "var/lib/vigil-firstboot"
    (state / "done.bundle").touch()
    (state / "bundle").mkdir()
    (state / "bundle/manifest.json").write_text(json.dumps({"packages": [], "is_complete": is_complete}, indent=1))
    tried = tmp_path / "tried"
    (state / "bundle/install.py").write_text(
        f"open({str(tried)!r}, 'a').write('x')\nraise SystemExit('no index there')\n"
    )
    assert node.boot(VIGIL_FIRSTBOOT_PAUSE_S="0", VIGIL_FIRSTBOOT_TRIES="5") == 1
    assert len(tried.read_text()) == times
    assert node.told().count("is tried again and again: ") == 1
    assert "no index there" in node.told()
    assert "FAILED at install" in node.told().splitlines()[-1]


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="no shellcheck: sudo apt-get install shellcheck")
def test_the_scripts_are_clean() -> None:
    scripts = [str(ON_NODE / "firstboot.sh"), str(ON_NODE / "launch")]
    check = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True, check=False, timeout=60)
    assert check.stdout == ""
