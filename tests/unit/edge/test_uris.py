"""How sources are written."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.errors import ConfigError
from config.secrets import mask_uri
from edge.uris import FileUri, LibcameraUri, NetworkUri, SourceUri, SyntheticUri, V4l2Uri, parse_source


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("file:yard.mp4", FileUri(Path("yard.mp4"), "own", loop=True)),
        ("file:/srv/yard.mp4?pace=max", FileUri(Path("/srv/yard.mp4"), "max", loop=False)),
        ("file:../yard.mp4?pace=max&loop=1", FileUri(Path("../yard.mp4"), "max", loop=True)),
        ("file:yard.mp4?loop=0", FileUri(Path("yard.mp4"), "own", loop=False)),
        ("file:///srv/my%20yard%3F.mp4?loop=0", FileUri(Path("/srv/my yard?.mp4"), "own", loop=False)),
        ("file:100%25.mp4", FileUri(Path("100%25.mp4"), "own", loop=True)),
        ("synthetic:street", SyntheticUri(1, 10.0, 640, 360, "own")),
        ("synthetic:street?seed=3&fps=2.5&width=320&height=180", SyntheticUri(3, 2.5, 320, 180, "own")),
        ("synthetic:street?pace=max", SyntheticUri(1, 10.0, 640, 360, "max")),
        ("synthetic:room?fps=5", SyntheticUri(1, 5.0, 640, 360, "own", "room")),
        ("rtsp://10.0.0.7/live?channel=1&sub=0", NetworkUri("rtsp://10.0.0.7/live?channel=1&sub=0")),
        ("rtsp://admin:pass@cam.lan:8554/a", NetworkUri("rtsp://cam.lan:8554/a", "admin", "pass")),
        ("rtsp://a%40b:p%2Fw%3F%23@[fe80::1]:554/", NetworkUri("rtsp://[fe80::1]:554/", "a@b", "p/w?#")),
        ("rtsp://admin:p@ss@10.0.0.7/live", NetworkUri("rtsp://10.0.0.7/live", "admin", "p@ss")),
        ("rtsp://admin:a:b@10.0.0.7", NetworkUri("rtsp://10.0.0.7", "admin", "a:b")),
        ("rtsps://10.0.0.7/live#tls=insecure", NetworkUri("rtsps://10.0.0.7/live", tls_verified=False)),
        ("https://cam/x.m3u8?t=1#ca=/etc/cam.pem", NetworkUri("https://cam/x.m3u8?t=1", ca_file=Path("/etc/cam.pem"))),
        ("http://u:p@10.0.0.7:81/video", NetworkUri("http://10.0.0.7:81/video", "u", "p")),
        ("v4l2:/dev/video0", V4l2Uri(Path("/dev/video0"), "auto", 1280, 720, 10.0)),
        ("v4l2:/dev/video2?format=h264&fps=5&width=640&height=480", V4l2Uri(Path("/dev/video2"), "h264", 640, 480, 5)),
        ("libcamera:", LibcameraUri("", 1280, 720, 10.0)),
        (
            "libcamera:/base/soc/i2c0mux/i2c@1/imx708@1a?fps=15",
            LibcameraUri("/base/soc/i2c0mux/i2c@1/imx708@1a", 1280, 720, 15.0),
        ),
    ],
)
def test_a_source_uri_says_what_to_open(uri: str, expected: SourceUri) -> None:
    assert parse_source(uri) == expected


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("yard.mp4", "write file:yard.mp4"),
        ("", "known are file:PATH"),
        ("gopher://yard", "'gopher' are not known to this version; known are file:PATH"),
        ("file:", "names no file"),
        ("file:?pace=max", "names no file"),
        ("file:a.mp4?pace=fast", "pace=fast: write pace=own or pace=max"),
        ("file:a.mp4?loop=yes", "write loop=0 or loop=1"),
        ("file:a.mp4?lop=0", "no option 'lop'; did you mean 'loop'?"),
        ("file:a.mp4?fps=3", "no option 'fps'; known here: pace, loop"),
        ("synthetic:beach", "no synthetic scene 'beach'; write synthetic:street or synthetic:room"),
        ("synthetic:street?fps=0", "fps=0: write a number from 0.1 to 120"),
        ("synthetic:street?fps=nan", "fps=nan: write a number"),
        ("synthetic:street?seed=x", "seed=x: write a number"),
        ("synthetic:street?width=99999", "width=99999: write a number from 160 to 3840"),
        ("rtsp:10.0.0.7/live", "not the address of a camera: write rtsp://"),
        ("rtsp://admin:a/b@10.0.0.7/live", "/ ? # % and @ of a password or path as %2F %3F %23 %25 and %40"),
        ("rtsp://10.0.0.7/live#tls=insecure", "no option 'tls'; it has none"),
        ("rtsps://10.0.0.7/live#tls=off", "tls=off: write tls=verify or tls=insecure"),
        ("rtsps://10.0.0.7/live#tsl=insecure", "no option 'tsl'; did you mean 'tls'?"),
        ("v4l2:video0", "names no device; write v4l2:/dev/video0"),
        ("v4l2:/dev/video0?format=mpeg", "write format=auto or format=raw or format=jpeg or format=h264"),
        ("libcamera:?fps=0", "fps=0: write a number from 1 to 120"),
    ],
)
def test_a_wrong_source_uri_is_told_with_its_cure(uri: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_source(uri)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    [
        "rtps://admin:s3cret@10.0.0.7/live",
        "rtsp://admin:s3@cret/x@10.0.0.7/live",
        "rtsp://admin:s3/cret@10.0.0.7/live",
        "http:/10.0.0.7/?pw=s3cret",
    ],
)
def test_no_message_repeats_credentials(uri: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_source(uri)
    assert "s3" not in str(caught.value)


@given(st.text(max_size=60))
def test_any_text_is_a_source_or_a_config_error(text: str) -> None:
    for uri in (text, f"file:{text}", f"synthetic:street?{text}", f"rtsps://{text}", f"v4l2:/{text}"):
        with contextlib.suppress(ConfigError):
            parse_source(uri)


def test_a_login_is_in_no_repr_and_in_no_location() -> None:
    uri = parse_source("rtsp://admin:s3cret@10.0.0.7/live")
    assert "s3cret" not in repr(uri)
    assert "admin" not in repr(uri)


def test_a_camera_of_the_device_tree_has_no_login() -> None:
    uri = "libcamera:/base/soc/i2c0mux/i2c@1/imx708@1a"
    assert mask_uri(uri) == uri
