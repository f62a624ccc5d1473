"""What is made of what cameras say: answers, names, who is known, what differs."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from config import ConfigError, ConflictError
from config.registry import CameraEntry, Login
from fleet.discovery.adding import add, chosen, follow
from fleet.discovery.cameras import Camera
from fleet.discovery.device import (
    CameraSetup,
    CameraStreams,
    DeviceFacts,
    Encoding,
    EncodingChange,
    SetupChange,
    Stream,
    choose_streams,
    scope_value,
)
from fleet.discovery.known import KnownCameras, changes_for
from fleet.discovery.mdns import Announced
from fleet.discovery.page import make_page
from fleet.discovery.proposals import propose
from fleet.discovery.scan import Scanned, check_network, count_hosts
from fleet.discovery.setup import differences, needed
from fleet.discovery.sightings import Sighting, merge
from fleet.discovery.wsdiscovery import Answer, note_answers, parse_answers
from fleet.registry.folder import RegistryFolder

MAC, OTHER_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"
FACTS = DeviceFacts(manufacturer="Make", model="M1", serial="S1", mac=MAC, name="Back Yard", location="Garden")
LARGE = Stream(profile="a", uri="rtsp://10.0.0.7/1", lens="l", encoding=Encoding(codec="h264", width=1920, height=1080))
SMALL = Stream(profile="b", uri="rtsp://10.0.0.7/2", lens="l", encoding=Encoding(codec="h264", width=640, height=360))


def answer_to(message: str, *, endpoint: str = "urn:uuid:1", addresses: str = "http://10.0.0.7/onvif/x") -> bytes:
    return f"""<e:Envelope xmlns:e="http://www.w3.org/2003/05/soap-envelope" xmlns:w="http://addressing"
      xmlns:d="http://schemas.xmlsoap.org/ws/2005/04/discovery"><e:Header><w:RelatesTo>urn:uuid:{message}</w:RelatesTo>
      </e:Header><e:Body><d:ProbeMatches><d:ProbeMatch><w:EndpointReference><w:Address>{endpoint}</w:Address>
      </w:EndpointReference><d:Scopes>onvif://www.onvif.org/name/Yard%20North
      onvif://www.onvif.org/location/Garden</d:Scopes><d:XAddrs>{addresses}</d:XAddrs></d:ProbeMatch></d:ProbeMatches>
      </e:Body></e:Envelope>""".encode()


def entry(host: str = "10.0.0.7", **device: str) -> CameraEntry:
    content = {"source": f"rtsp://{host}:8554/1", "sub_source": f"rtsp://{host}:8554/2", "device": device}
    return CameraEntry.model_validate(content)


def test_an_answer_is_read_and_one_to_somebody_else_is_not() -> None:
    asked = str(uuid.uuid4())
    (answer,) = parse_answers(answer_to(asked), "10.0.0.7", {asked})
    assert answer.endpoint == "urn:uuid:1"
    assert answer.addresses == ("http://10.0.0.7/onvif/x",)
    assert scope_value(answer.scopes, "name") == "Yard North"
    assert parse_answers(answer_to(str(uuid.uuid4())), "10.0.0.7", {asked}) == []


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        b"\xff\xfe\x00",
        b"<a><b></a>",
        b"not xml",
        b"<a/>",
    ],
)
def test_what_is_no_answer_is_nothing(datagram: bytes) -> None:
    assert parse_answers(datagram, "10.0.0.7", {"x"}) == []


def test_one_host_cannot_answer_for_a_thousand_cameras() -> None:
    liar = [Answer(endpoint=f"urn:{number}", addresses=(), scopes=(), host="10.0.0.66") for number in range(1000)]
    found: dict[str, Answer] = {}
    note_answers(found, [*liar, Answer(endpoint="urn:yard", addresses=(), scopes=(), host="10.0.0.7")])
    assert len(found) == 65
    assert "urn:yard" in found


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_an_answer_with_a_document_type_is_nothing_in_any_encoding(encoding: str) -> None:
    bomb = f"<!DOCTYPE a [<!ENTITY b 'bbbb'>]>{answer_to('x').decode()}".replace("Garden", "&b;")
    assert parse_answers(answer_to("x"), "10.0.0.7", {"x"})
    assert parse_answers(bomb.encode(encoding), "10.0.0.7", {"x"}) == []


def test_sightings_of_one_address_are_one_and_unusable_addresses_are_left_out() -> None:
    answers = [
        Answer(
            endpoint="urn:1",
            addresses=("http://169.254.3.4/onvif/x", "http://10.0.0.9/onvif/y", "http://10.0.0.7:8080/onvif/x"),
            scopes=(),
            host="10.0.0.7",
        ),
        Answer(
            endpoint="urn:2",
            addresses=("http://[fe80::1]/onvif/x", "http://0.0.0.0/x", "http://8.8.8.8/x", "http://[/"),
            scopes=(),
            host="10.0.0.8",
        ),
    ]
    stream = Announced(
        kind="_rtsp._tcp", name="yard", host="yard", addresses=("10.0.0.7",), port=554, properties={"path": "/live"}
    )
    first, second = merge(
        answers, [stream], [Scanned(host="10.0.0.7", rtsp=8554, wants_login=True)], {"10.0.0.8": OTHER_MAC}
    )
    assert first.onvif == "http://10.0.0.7:8080/onvif/x"
    assert first.rtsp == "rtsp://10.0.0.7:554/live"
    assert first.seen_by == ("WS-Discovery", "mDNS", "scan")
    assert first.wants_login
    assert (second.onvif, second.mac) == ("http://10.0.0.8/onvif/device_service", OTHER_MAC)


@pytest.mark.parametrize("address", ["http://admin:pw@10.0.0.7/x", "ftp://10.0.0.7/x", "http://10.0.0.7:99999/x"])
def test_an_address_with_a_login_or_of_another_kind_is_not_taken(address: str) -> None:
    (seen,) = merge([Answer(endpoint="urn:1", addresses=(address,), scopes=(), host="10.0.0.7")], [], [], {})
    assert seen.onvif == "http://10.0.0.7/onvif/device_service"


def test_who_announces_an_address_of_the_wide_world_or_a_path_with_control_characters_is_not_followed() -> None:
    one = Announced(kind="_rtsp._tcp", name="a", host="a", addresses=("8.8.8.8",), port=554)
    assert merge([], [one], [], {}) == ()
    bad = replace(one, addresses=("8.8.8.8", "10.0.0.7"), properties={"path": "/a\nfile:/etc/passwd"})
    (seen,) = merge([], [bad], [], {})
    assert (seen.host, seen.rtsp) == ("10.0.0.7", "rtsp://10.0.0.7:554/")


def test_the_largest_stream_and_the_smallest_of_the_same_lens() -> None:
    tiny = replace(SMALL, uri="rtsp://10.0.0.7/3", encoding=replace(SMALL.encoding, width=160, height=90))
    other = replace(SMALL, uri="rtsp://10.0.0.7/4", lens="other")
    jpeg = replace(SMALL, uri="rtsp://10.0.0.7/5", encoding=replace(SMALL.encoding, codec="jpeg", height=200))
    assert choose_streams([tiny, other, SMALL, jpeg, LARGE]) == CameraStreams(main=LARGE, sub=SMALL, others=(other,))
    assert choose_streams([LARGE]) == CameraStreams(main=LARGE, sub=None)
    assert choose_streams([]) is None


@pytest.mark.parametrize(
    ("held", "facts", "endpoint", "found"),
    [
        ({"mac": MAC}, FACTS, "", "yard"),
        ({"mac": OTHER_MAC, "serial": "S1"}, FACTS, "", None),
        ({"serial": "S1", "manufacturer": "Make"}, FACTS, "", "yard"),
        ({"serial": "S1", "manufacturer": "Other"}, FACTS, "", None),
        ({"serial": "S1"}, replace(FACTS, mac=None), "", "yard"),
        ({"serial": "00000000"}, replace(FACTS, mac=None, serial="00000000"), "", None),
        ({"endpoint": "urn:1"}, None, "urn:1", "yard"),
        ({"endpoint": "urn:1", "mac": OTHER_MAC}, FACTS, "urn:1", None),
        ({}, FACTS, "urn:1", None),
    ],
)
def test_a_camera_is_known_again_by_what_it_is(
    held: dict[str, str], facts: DeviceFacts | None, endpoint: str, found: str | None
) -> None:
    known = KnownCameras({"yard": entry("10.0.0.3", **held)})
    sighting = Sighting(host="10.0.0.7", endpoint=endpoint)
    assert known.recognise(sighting, facts) == found


def test_at_the_address_of_a_camera_may_be_another_one() -> None:
    sighting = Sighting(host="10.0.0.7")
    assert KnownCameras({"yard": entry()}).recognise(sighting, FACTS) == "yard"
    assert KnownCameras({"yard": entry(mac=OTHER_MAC)}).recognise(sighting, FACTS) is None


def test_a_file_follows_with_ports_and_paths_and_a_host_name_stays() -> None:
    sighting = Sighting(host="10.0.0.9", onvif="http://10.0.0.9/onvif/device_service", endpoint="urn:1")
    assert changes_for(entry(mac=MAC), sighting, FACTS) == {
        "source": "rtsp://10.0.0.9:8554/1",
        "sub_source": "rtsp://10.0.0.9:8554/2",
        "device": {"serial": "S1", "onvif": "http://10.0.0.9/onvif/device_service", "endpoint": "urn:1"},
    }
    assert "source" not in changes_for(entry("yard.lan", mac=MAC), sighting, FACTS)
    same = entry("10.0.0.9", mac=MAC, serial="S1", onvif=sighting.onvif or "", endpoint="urn:1")
    assert changes_for(same, sighting, FACTS) == {}


def camera(host: str = "10.0.0.7", **facts: str) -> Camera:
    return Camera(
        sighting=Sighting(host=host, onvif=f"http://{host}/onvif/device_service", endpoint="urn:1"),
        facts=replace(FACTS, **facts),  # type: ignore[arg-type]  # texts, as the test gives them
        streams=CameraStreams(main=LARGE, sub=SMALL),
        login=Login(username="admin"),
    )


def test_a_file_follows_whoever_took_its_login_and_keeps_what_people_wrote(tmp_path: Path) -> None:
    folder = RegistryFolder(tmp_path)
    folder.change_camera("yard", {"source": "rtsp://10.0.0.3:554/1", "node": "porch", "device": {"mac": MAC}})
    file = folder.camera_file("yard")
    file.write_text(f"# by the gate\n{file.read_text()}")
    found = replace(camera(), known_as="yard")
    assert follow(folder, [replace(found, facts=None), camera("10.0.0.8")]) == {}
    assert follow(folder, [found]) == {"yard": ("10.0.0.3", "10.0.0.7")}
    assert folder.camera("yard").entry.source == "rtsp://10.0.0.7:554/1"
    assert file.read_text().startswith("# by the gate\n")
    assert follow(folder, [found]) == {}


def test_cameras_are_chosen_by_name_or_address(tmp_path: Path) -> None:
    proposals, _ = propose([camera("10.0.0.7"), camera("10.0.0.8")], ())
    assert chosen(proposals, ["10.0.0.8"]) == proposals[1:]
    assert chosen(proposals, ["ALL"]) == proposals
    with pytest.raises(ConfigError, match="no new camera is called door: there are back-yard, back-yard-8"):
        chosen(proposals, ["back-yard", "door"])
    folder = RegistryFolder(tmp_path)
    assert add(folder, proposals, {"pool": "house"}) == ["back-yard", "back-yard-8"]
    with pytest.raises(ConflictError):
        add(folder, proposals[:1], {"node": "porch"})


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        ({}, "back-yard"),
        ({"name": "IPC", "location": "Garageneinfahrt Süd"}, "garageneinfahrt-sud"),
        ({"name": "M1", "location": "country/china"}, "camera-7"),
        ({"name": "Make M1", "location": ""}, "camera-7"),
        ({"name": "IP Camera 01", "location": "city/x"}, "camera-7"),
        ({"name": "../../etc/passwd", "location": ""}, "etc-passwd"),
        ({"name": "日本", "location": "Hof"}, "hof"),
    ],
)
def test_a_name_is_what_a_person_has_chosen(facts: dict[str, str], name: str) -> None:
    (proposal,), refused = propose([camera(**facts)], ())
    assert proposal.name == name
    assert not refused
    CameraEntry.model_validate(proposal.content)


def test_names_are_given_once_and_what_holds_a_login_is_refused() -> None:
    twins = [camera("10.0.0.7"), camera("10.0.0.8"), camera("10.1.0.8")]
    proposals, _ = propose(twins, ["back-yard"])
    assert [one.name for one in proposals] == ["back-yard-7", "back-yard-8", "back-yard-8-3"]
    leaking = replace(camera(), streams=CameraStreams(main=replace(LARGE, uri="rtsp://10.0.0.7/s?password=x&user=a")))
    proposals, refused = propose([leaking], ())
    assert proposals == []
    assert "login" in refused["10.0.0.7"]


def test_only_what_differs_is_set() -> None:
    encoding = Encoding(codec="h264", width=1920, height=1080, fps=25, bitrate_bps=4_096_000)
    found = CameraSetup(name="Yard", ahead_s=-3600.0, main=encoding, sub=None)
    change = SetupChange(
        name="Yard", time=True, main=EncodingChange(codec="h264", size_px=(1280, 720), bitrate_bps=2_000_000)
    )
    assert [str(one) for one in differences(found, change)] == [
        "time: 3600 s behind -> as this machine's clock",
        "main.resolution: 1920x1080 -> 1280x720",
        "main.bitrate: 4.096M -> 2M",
    ]
    assert needed(found, change) == replace(change, name=None)
    assert differences(replace(found, ahead_s=1.5), SetupChange(time=True)) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("10.0.0.0/8", "16,777,216 addresses"),
        ("8.8.8.0/24", "not a private network"),
        ("yard", "no network"),
        ("10.0.0.0/40", "no network"),
    ],
)
def test_a_network_that_is_nobodys_is_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_network(text)


def test_a_network_is_what_was_named() -> None:
    assert count_hosts(check_network("10.0.0.7/24")) == 254
    assert count_hosts(check_network("10.0.0.7/32")) == 1
    assert check_network("8.8.8.0/30", public_too=True).num_addresses == 4


def test_a_page_shows_what_cameras_say_as_text() -> None:
    page = make_page(
        [replace(camera(manufacturer="<script>x"), picture=b"\xff\xd8", trouble="a & b")],
        {"10.0.0.7": "yard"},
        datetime(2026, 1, 2, tzinfo=UTC),
    )
    assert "<script>" not in page
    assert "&lt;script&gt;x" in page
    assert "a &amp; b" in page
    assert "data:image/jpeg;base64,/9g=" in page
