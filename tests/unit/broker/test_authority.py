from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from broker.acl import AccessList
from broker.authority import INVITATION_S, MEMBER_DAYS, SERVER_DAYS, Authority, RefusedError, enrol_here
from broker.certs import make_key, make_request, read_certificate
from broker.identity import Admission, IdentityFolder
from broker.members import CaFolder, Kind, load_members, rights_of
from broker.topics import CAMERA_FRAME, CAMERA_SET
from config.clock import ManualClock
from config.errors import BadPayloadError, ConfigError, PermanentError

DAY_S = 86_400


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def open_umask() -> Iterator[None]:
    """A user whose files are readable by everybody unless a program says otherwise."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def authority(tmp_path: Path, clock: ManualClock) -> Authority:
    return Authority.create(CaFolder(tmp_path / "ca"), "home", ["hub.local"], clock)


def joined(authority: Authority, name: str = "porch", *cameras: str, roles: tuple[str, ...] = ("edge",)) -> Admission:
    secret = authority.invite(name, "node", roles, cameras)
    return authority.redeem(secret, name, make_request(make_key()))


def may_write(authority: Authority, username: str, camera: str) -> bool:
    """Whether the rights in the folder let somebody send pictures of a camera."""
    rights = AccessList(rights_of("home", load_members(authority.folder)))
    return rights.allows(username, "write", str(CAMERA_FRAME.at("home", camera=camera)))


def test_a_token_lets_its_node_in_once(authority: Authority) -> None:
    secret = authority.invite("porch", "node", ["edge"], ["yard"])
    assert not may_write(authority, "porch.edge", "yard")
    admission = authority.redeem(secret, "porch", make_request(make_key()))
    assert set(admission.certificates) == {"agent", "edge", "doctor"}
    assert read_certificate(admission.certificates["edge"].encode()).common_name == "porch.edge"
    assert may_write(authority, "porch.edge", "yard")
    with pytest.raises(RefusedError, match="used"):
        authority.redeem(secret, "porch", make_request(make_key()))


def test_a_token_ends(authority: Authority, clock: ManualClock) -> None:
    secret = authority.invite("porch", "node", ["edge"])
    clock.advance(INVITATION_S)
    with pytest.raises(RefusedError, match="expired"):
        authority.redeem(secret, "porch", make_request(make_key()))


def test_a_token_is_for_one_name_and_outlives_a_mistake(authority: Authority) -> None:
    secret = authority.invite("porch", "node", ["edge"])
    with pytest.raises(RefusedError, match="is for porch"):
        authority.redeem(secret, "gate", make_request(make_key()))
    with pytest.raises(BadPayloadError):
        authority.redeem(secret, "porch", b"garbage")
    with pytest.raises(RefusedError):
        authority.redeem(bytes(16), "porch", make_request(make_key()))
    assert authority.redeem(secret, "porch", make_request(make_key())).name == "porch"


def test_a_new_token_takes_the_place_of_the_old_one(authority: Authority) -> None:
    old = authority.invite("porch", "node", ["edge"])
    new = authority.invite("porch", "node", ["edge"])
    with pytest.raises(RefusedError):
        authority.redeem(old, "porch", make_request(make_key()))
    authority.withdraw("porch")
    with pytest.raises(RefusedError):
        authority.redeem(new, "porch", make_request(make_key()))


def test_of_many_who_come_with_one_token_one_gets_in(authority: Authority) -> None:
    secret = authority.invite("porch", "node", ["edge"])

    def come(_number: int) -> bool:
        try:
            authority.redeem(secret, "porch", make_request(make_key()))
        except RefusedError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(come, range(16))) == 1


def test_no_secret_is_in_the_folder(authority: Authority) -> None:
    secret = authority.invite("porch", "node", ["edge"])
    content = b"".join(path.read_bytes() for path in authority.folder.path.iterdir())
    assert secret not in content
    assert secret.hex().encode() not in content


@pytest.mark.usefixtures("open_umask")
def test_nobody_else_can_read_the_folder_or_a_key(tmp_path: Path, clock: ManualClock) -> None:
    folder = CaFolder(tmp_path / "state" / "ca")
    folder.path.mkdir(parents=True, mode=0o755)
    Authority.create(folder, "home", ["hub.local"], clock)
    identity = IdentityFolder(tmp_path / "identity")
    enrol_here(folder, identity, "hub", roles=["edge"], cameras=["yard"], clock=clock)
    for place in (folder.path, identity.path):
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
        for path in place.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_an_authority_is_never_made_twice(authority: Authority, clock: ManualClock) -> None:
    before = authority.folder.ca.read_bytes()
    with pytest.raises(ConfigError, match="is kept"):
        Authority.create(authority.folder, "other", [], clock)
    assert authority.folder.ca.read_bytes() == before


def test_without_an_authority_the_error_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="vigil ca init"):
        Authority(CaFolder(tmp_path / "ca"))


def test_a_damaged_folder_is_told(authority: Authority) -> None:
    authority.folder.people_key.write_bytes(make_key())
    with pytest.raises(PermanentError, match="do not belong together"):
        Authority(authority.folder)
    authority.folder.members.write_text("{")
    with pytest.raises(PermanentError, match="damaged"):
        load_members(authority.folder)


def test_renewal_needs_a_certificate_in_force(authority: Authority, clock: ManualClock) -> None:
    first = joined(authority).certificates["edge"].encode()
    clock.advance((MEMBER_DAYS - 1) * DAY_S)
    second = authority.renew(first).certificates["edge"].encode()
    assert read_certificate(second).public_key == read_certificate(first).public_key
    assert read_certificate(second).not_after > read_certificate(first).not_after
    clock.advance(2 * DAY_S)
    with pytest.raises(RefusedError, match="not in force"):
        authority.renew(first)
    assert authority.renew(second).name == "porch"


def test_renewal_ends_with_revocation(authority: Authority) -> None:
    admission = joined(authority, "porch", "yard")
    renewed = authority.renew(admission.certificates["doctor"].encode())
    authority.revoke("porch")
    for one in (*admission.certificates.values(), *renewed.certificates.values()):
        with pytest.raises(RefusedError):
            authority.renew(one.encode())
    assert not may_write(authority, "porch.edge", "yard")


def test_a_certificate_of_another_authority_renews_nothing(authority: Authority, tmp_path: Path) -> None:
    joined(authority)
    other = Authority.create(CaFolder(tmp_path / "other"), "home", [])
    foreign = joined(other).certificates["edge"].encode()
    with pytest.raises(RefusedError):
        authority.renew(foreign)


def test_a_member_cannot_fill_the_disk_with_renewals(authority: Authority) -> None:
    certificate = joined(authority, roles=tuple(f"edge.{number}" for number in range(1, 60))).certificates["edge.1"]
    for _ in range(2):
        authority.renew(certificate.encode())
    with pytest.raises(RefusedError, match="certificates in force"):
        authority.renew(certificate.encode())


def test_whoever_joins_anew_leaves_no_certificate_behind(authority: Authority) -> None:
    lost = joined(authority).certificates["edge"].encode()
    found = joined(authority).certificates["edge"].encode()
    with pytest.raises(RefusedError):
        authority.renew(lost)
    assert authority.renew(found).name == "porch"


def test_a_grant_changes_rights_at_once_and_certificates_with_the_next_renewal(authority: Authority) -> None:
    admission = joined(authority, "porch", "yard", roles=("edge", "detector"))
    authority.grant("porch", cameras=["door"], without_cameras=["yard"], roles=["bridge"], without_roles=["detector"])
    assert may_write(authority, "porch.edge", "door")
    assert not may_write(authority, "porch.edge", "yard")
    with pytest.raises(RefusedError):
        authority.renew(admission.certificates["detector"].encode())
    renewed = authority.renew(admission.certificates["edge"].encode()).certificates
    assert set(renewed) == {"agent", "edge", "bridge", "doctor"}


def test_a_person_has_rights_and_a_certificate_of_the_peoples_authority(authority: Authority) -> None:
    secret = authority.invite("alice", "person", ["dashboard"])
    admission = authority.redeem(secret, "alice", make_request(make_key()))
    assert set(admission.certificates) == {"person"}
    assert read_certificate(admission.certificates["person"].encode()).common_name == "alice"
    setting = str(CAMERA_SET.at("home", camera="yard", property="mode"))
    for rights, can in (("dashboard", True), ("viewer", False)):
        authority.grant("alice", roles=[rights])
        assert AccessList(rights_of("home", load_members(authority.folder))).allows("alice", "write", setting) is can


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        (("porch.edge", "node", ["edge"], []), "not a name"),
        (("porch", "node", ["chef"], []), "no rights on the bus"),
        (("porch", "node", ["edge"], ["+"]), "not a name"),
        (("n" * 63, "node", ["detector"], []), "too long for a certificate"),
        (("alice", "person", ["edge"], []), "dashboard"),
        (("alice", "person", [], []), "dashboard"),
    ],
)
def test_what_cannot_be_is_refused_before_a_token_is_made(
    authority: Authority, wanted: tuple[str, Kind, list[str], list[str]], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        authority.invite(*wanted)
    assert authority.roster().invitations == ()


def test_a_name_is_one_kinds_only(authority: Authority) -> None:
    joined(authority)
    with pytest.raises(ConfigError, match="porch is a node"):
        authority.invite("porch", "person", ["viewer"])


def test_only_members_are_revoked_or_granted(authority: Authority) -> None:
    joined(authority)
    with pytest.raises(ConfigError, match="porch"):
        authority.revoke("porsh")
    authority.revoke("porch")
    with pytest.raises(ConfigError, match="was revoked"):
        authority.grant("porch", roles=["edge"])
    secret = authority.invite("gate", "node", ["edge"])
    authority.revoke("gate")
    with pytest.raises(RefusedError):
        authority.redeem(secret, "gate", make_request(make_key()))


def test_a_clock_that_ran_ahead_brings_no_revoked_certificate_back(authority: Authority, clock: ManualClock) -> None:
    lost = joined(authority).certificates["edge"].encode()
    authority.revoke("porch")
    ahead = ManualClock(clock.now())
    ahead.advance((MEMBER_DAYS + 300) * DAY_S)
    joined(Authority(authority.folder, ahead), "gate")
    member = authority.roster().member("porch")
    assert member is not None
    assert read_certificate(lost).serial in {one.serial for one in member.certificates if one.revoked_at is not None}


def test_the_brokers_certificate_takes_names_and_is_renewed_in_time(authority: Authority, clock: ManualClock) -> None:
    assert authority.name_server(["10.0.0.2"]) == ("hub.local", "10.0.0.2")
    first = read_certificate(authority.folder.server.read_bytes())
    clock.advance((SERVER_DAYS - 30) * DAY_S)
    joined(authority)
    second = read_certificate(authority.folder.server.read_bytes())
    assert second.names == first.names == ("hub.local", "10.0.0.2")
    assert second.not_after > first.not_after
    assert second.public_key == first.public_key


def test_this_machine_joins_without_a_token_and_only_once(
    authority: Authority, clock: ManualClock, tmp_path: Path
) -> None:
    identity = IdentityFolder(tmp_path / "identity")

    def start(*cameras: str, roles: tuple[str, ...] = ("edge", "detector")) -> bytes:
        enrol_here(authority.folder, identity, "hub", roles=roles, cameras=cameras, clock=clock)
        return identity.certificate("edge").read_bytes()

    first = start("yard")
    assert identity.roles() == ("agent", "detector", "doctor", "edge")
    assert start("yard") == first
    assert start("door") == first
    assert may_write(authority, "hub.edge", "door")
    assert not may_write(authority, "hub.edge", "yard")
    assert start("door", roles=("edge", "bridge")) != first
    assert identity.roles() == ("agent", "bridge", "detector", "doctor", "edge")
    before = identity.certificate("edge").read_bytes()
    clock.advance((MEMBER_DAYS - 20) * DAY_S)
    assert start("door") != before
    authority.revoke("hub")
    with pytest.raises(PermanentError, match="vigil enrol hub"):
        start("door")


def test_a_persons_and_a_nodes_certificates_live_in_one_folder(authority: Authority, tmp_path: Path) -> None:
    identity = IdentityFolder(tmp_path / "identity")
    key, person_key = make_key(), make_key()
    identity.install(authority.admit("porch", "node", ["edge"], ["yard"], make_request(key)), key)
    identity.install(authority.admit("alice", "person", ["viewer"], [], make_request(person_key)), person_key)
    assert identity.roles() == ("agent", "doctor", "edge", "person")
    assert identity.kinds() == ("node", "person")
    own = identity.credentials("edge")
    assert own is not None
    assert own.key.read_bytes() == key
    other = identity.credentials("watch")
    assert other is not None
    assert other.key.read_bytes() == person_key
    identity.install(authority.admit("porch", "node", ["bridge"], [], make_request(key)), key)
    assert identity.roles() == ("agent", "bridge", "doctor", "person")
    assert [path.name for path in tmp_path.iterdir() if "identity" in path.name] == ["identity"]
