"""Letting nodes and people in and shutting them out, as a person does it."""

from __future__ import annotations

import json
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from broker.certs import read_certificate
from tests.e2e.vigil_process import Vigil, run_vigil
from tests.support.ports import free_port

JOIN = re.compile(r"^ +(vigil .*join.*)$", re.MULTILINE)
TOKEN = re.compile(r"^ +(vigil-\S+)$", re.MULTILINE)


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """The state folder of a machine with an authority."""
    state = tmp_path / "hub"
    status, out, _ = run_vigil("--state", str(state), "ca", "init", "--name", "hub.example.org")
    assert status == 0, out
    assert "vigil enrol NODE" in out
    return state


def address_of(enrol: Vigil) -> str:
    """Where the node may join; here on loopback."""
    enrol.wait_said("vigil-")
    (command,) = JOIN.findall(enrol.output)
    _, colon, port = command.split()[-1].rpartition(":")
    return f"127.0.0.1:{port}" if colon else "127.0.0.1"


def token_of(enrol: Vigil) -> str:
    (token,) = TOKEN.findall(enrol.output)
    return str(token)


def members(hub: Path) -> dict[str, dict[str, object]]:
    status, out, _ = run_vigil("--state", str(hub), "members", "--json")
    assert status == 0
    return {row["name"]: row for row in map(json.loads, out.splitlines())}


def is_revoked(hub: Path, certificate: Path) -> bool:
    """What openssl says of a certificate, with the authority's list."""
    check: list[str | Path] = ["openssl", "verify", "-crl_check"]
    check += ["-CAfile", hub / "ca/ca.crt", "-CRLfile", hub / "ca/ca.crl", certificate]
    run = subprocess.run(check, capture_output=True, text=True, check=False, timeout=30)
    assert run.returncode == 0 or "certificate revoked" in run.stderr + run.stdout
    return run.returncode != 0


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl: sudo apt-get install openssl")
def test_a_node_joins_and_is_shut_out(hub: Path, tmp_path: Path) -> None:
    porch = tmp_path / "porch"
    # A port of its own: on the default one another test's authority may answer once this one has ended.
    invite = ("enrol", "porch", "--role", "edge", "--camera", "yard", "--port", str(free_port()))
    with Vigil("--state", str(hub), *invite, folder=tmp_path) as enrol:
        address, token = address_of(enrol), token_of(enrol)
        assert "vigil --node porch join" in enrol.output
        state = str(members(hub)["porch"]["state"])
        assert state.startswith("invited, 15 min")
        joined = run_vigil("--state", str(porch), "--node", "porch", "join", address, typed=f"{token}\n")
        assert joined[0] == 0, joined
        assert "node: porch" in joined[1]
        assert enrol.wait_end() == 0
        said = enrol.output + enrol.errors
    assert "porch has joined" in said
    assert said.count(token) == 1
    assert token not in "".join(joined[1:])
    identity = porch / "identity"
    certificates = {f"{role}.crt" for role in ("ca", "agent", "doctor", "edge")}
    assert {path.name for path in identity.iterdir()} == {"authority", "node.key", *certificates}
    assert {stat.S_IMODE(path.stat().st_mode) for path in identity.iterdir()} == {0o600}
    assert "PRIVATE" not in said + "".join(joined[1:])
    assert not is_revoked(hub, identity / "edge.crt")

    again = run_vigil("--state", str(porch), "--node", "porch", "join", address, environment={"VIGIL_TOKEN": token})
    assert (again[0], "vigil ca serve" in again[2]) == (69, True)

    status, out, _ = run_vigil("--state", str(hub), "revoke", "porch")
    assert status == 0
    assert "3 certificates revoked" in out
    assert is_revoked(hub, identity / "edge.crt")
    assert is_revoked(hub, identity / "doctor.crt")
    assert members(hub)["porch"]["state"] == "revoked"
    assert "porch" not in (hub / "ca" / "acl").read_text()


def test_a_served_authority_lets_people_in_and_renews(hub: Path, tmp_path: Path) -> None:
    laptop, hub_state = tmp_path / "laptop", ("--state", str(hub))
    (tmp_path / "enrol").mkdir()
    serve = ("ca", "serve", "--host", "127.0.0.1", "--port", str(free_port()))
    with Vigil(*hub_state, *serve, folder=tmp_path) as server:
        server.wait_said("enrol.listening")
        with Vigil(*hub_state, "enrol", "--person", "alice", "--rights", "viewer", folder=tmp_path / "enrol") as enrol:
            address, token = address_of(enrol), token_of(enrol)
            own = ("--state", str(laptop))
            joined = run_vigil(*own, "join", "--person", "alice", address, environment={"VIGIL_TOKEN": token})
            assert joined[0] == 0, joined
            assert ":8884" in joined[1]
            assert enrol.wait_end() == 0
        certificate = laptop / "identity" / "person.crt"
        before = read_certificate(certificate.read_bytes())
        assert before.common_name == "alice"
        assert run_vigil(*own, "renew", "--if-days-left", "30")[:2] == (0, "396 days left, nothing to do\n")
        assert run_vigil(*own, "renew")[0] == 0
        assert read_certificate(certificate.read_bytes()).serial != before.serial
        assert run_vigil(*hub_state, "revoke", "alice")[0] == 0
        status, _, errors = run_vigil(*own, "renew")
        assert (status, "revoked" in errors) == (1, True)
        server.interrupt()
        assert server.wait_end() == 0
        assert token not in server.output + server.errors


def test_a_node_joins_by_hand(hub: Path, tmp_path: Path) -> None:
    gate, csr, answer = (
        ("--state", str(tmp_path / "gate"), "--node", "gate"),
        tmp_path / "gate.csr",
        tmp_path / "g.json",
    )
    enrol = ("--state", str(hub), "enrol", "gate", "--role", "edge", "--csr", str(csr), "--out", str(answer))
    assert run_vigil(*gate, "join", "--install", str(answer))[0] == 78
    assert run_vigil(*gate, "join", "--csr-out", str(csr))[0] == 0
    assert run_vigil(*enrol)[0] == 0
    assert "PRIVATE" not in csr.read_text() + answer.read_text()
    wrong = ("--state", str(tmp_path / "gate"), "--node", "hall", "join", "--install", str(answer))
    assert "not for 'hall'" in run_vigil(*wrong)[2]
    status, out, _ = run_vigil(*gate, "join", "--install", str(answer))
    assert status == 0, out
    assert (tmp_path / "gate" / "identity" / "edge.crt").is_file()
    assert not (tmp_path / "gate" / "identity.pending.key").exists()


def test_the_authority_is_kept_and_takes_further_names(hub: Path) -> None:
    before = {path.name: path.read_bytes() for path in (hub / "ca").iterdir() if path.name != "server.crt"}
    status, out, _ = run_vigil("--state", str(hub), "ca", "init", "--name", "10.9.8.7")
    assert status == 0
    assert "it is kept" in out
    assert "hub.example.org, 10.9.8.7" in out
    assert {path.name: path.read_bytes() for path in (hub / "ca").iterdir() if path.name != "server.crt"} == before


def test_rights_are_changed_and_shown(hub: Path, tmp_path: Path) -> None:
    state = ("--state", str(hub))
    for name in ("porch", "gate"):
        node = ("--state", str(tmp_path / name), "--node", name)
        csr, answer = tmp_path / f"{name}.csr", tmp_path / f"{name}.json"
        assert run_vigil(*node, "join", "--csr-out", str(csr))[0] == 0
        enrol = ("enrol", name, "--role", "edge", "--camera", "yard", "--csr", str(csr), "--out", str(answer))
        done = run_vigil(*state, *enrol)
        assert done[0] == 0
        assert ("porch may watch yard too" in done[2]) == (name == "gate")
    status, out, _ = run_vigil(*state, "grant", "gate", "--camera", "door", "--no-camera", "yard", "--role", "bridge")
    assert status == 0
    assert "gate is now edge, agent, doctor, bridge with camera door" in out
    assert "`vigil renew` on gate" in out
    table = run_vigil(*state, "members")[1].splitlines()
    assert [line.split()[:2] for line in table] == [["name", "kind"], ["gate", "node"], ["porch", "node"]]


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (("members",), 78, "vigil ca init"),
        (("renew",), 78, "vigil join"),
        (("join",), 2, "HOST"),
        (("join", "127.0.0.1"), 78, "this is no token"),
        (("enrol",), 78, "vigil ca init"),
        (("ca", "init", "--name", "mqtt://hub"), 2, "neither a host name nor an address"),
    ],
)
def test_errors_teach(tmp_path: Path, arguments: tuple[str, ...], status: int, told: str) -> None:
    done = run_vigil("--state", str(tmp_path), *arguments, typed="secret-but-no-token\n")
    assert (done[0], told in done[2]) == (status, True), done
    assert "secret-but" not in "".join(done[1:])
    assert "Traceback" not in done[2]


def test_wrong_usage_teaches(hub: Path) -> None:
    for arguments, told in (
        (("enrol",), "name a node"),
        (("enrol", "porch"), "--role edge"),
        (("enrol", "porch", "--rights", "viewer"), "a person's"),
        (("enrol", "--person", "alice", "--role", "edge"), "no roles"),
        (("enrol", "porch", "--role", "edge", "--csr", "x"), "belong together"),
        (("grant", "porch"), "say what changes"),
    ):
        status, _, errors = run_vigil("--state", str(hub), *arguments)
        assert (status, told in errors) == (2, True), errors
