"""What is decided about a stream, without any stream."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.errors import PermanentError, TransientError
from edge.gst.codecs import CODECS, choose_decoders, codec_of
from edge.gst.fronts import front_of
from edge.gst.slot import Slot
from edge.gst.timeline import SLICE_S, KeyframeGate, TimeLine, Watch
from edge.gst.trouble import Cause, explain_device, explain_file, explain_network
from edge.reach import why_unreachable
from edge.uris import parse_source
from tests.support.ports import free_port

PI_4 = {"v4l2h264dec": 257, "v4l2h265dec": 0, "avdec_h264": 256, "openh264dec": 64, "avdec_h265": 256, "jpegdec": 256}
PI_5 = {"avdec_h264": 256, "openh264dec": 64, "avdec_h265": 256, "jpegdec": 256}


def ranks(machine: dict[str, int]) -> Callable[[str], int | None]:
    def rank_of(name: str) -> int | None:
        return machine.get(name)

    return rank_of


class TestDecoders:
    @pytest.mark.parametrize(
        ("codec", "wanted", "machine", "chosen"),
        [
            ("H264", "auto", PI_4, ("v4l2h264dec", "avdec_h264")),
            ("H264", "auto", PI_5, ("avdec_h264",)),
            ("H264", "software", PI_4, ("avdec_h264",)),
            ("H264", "openh264dec", PI_4, ("openh264dec",)),
            ("H265", "auto", PI_4, ("avdec_h265",)),
            ("H265", "v4l2h265dec", PI_4, ("v4l2h265dec",)),
            ("JPEG", "auto", PI_4, ("jpegdec",)),
            ("H264", "auto", {"vah264dec": 257, "openh264dec": 64}, ("vah264dec", "openh264dec")),
        ],
    )
    def test_the_machine_decides_and_its_owner_more(
        self, codec: str, wanted: str, machine: dict[str, int], chosen: tuple[str, ...]
    ) -> None:
        assert choose_decoders(CODECS[codec], wanted, ranks(machine)) == chosen

    def test_none_is_told_with_its_cure(self) -> None:
        with pytest.raises(PermanentError, match=r"no H\.264 decoder; sudo apt-get install"):
            choose_decoders(CODECS["H264"], "auto", ranks({}))
        with pytest.raises(PermanentError, match="no decoder 'v4l2h264dec': set decoder: auto"):
            choose_decoders(CODECS["H264"], "v4l2h264dec", ranks(PI_5))

    def test_only_what_packets_are_made_of_is_a_codec(self) -> None:
        assert codec_of("video/x-h265") is CODECS["H265"]
        assert codec_of("video/x-vp8") is None


class TestFronts:
    def test_a_login_never_stands_in_a_description_or_a_repr(self) -> None:
        for scheme in ("rtsp", "rtsps", "http", "https"):
            front = front_of(parse_source(f"{scheme}://admin:s3cret@10.0.0.7/live?token=t0ken"), stall_timeout_s=5)
            assert (front.settings["user-id"], front.settings["user-pw"]) == ("admin", "s3cret")
            assert "s3cret" not in f"{front.description}{front.shown}{front!r}{front.settings['location']}"
            assert "t0ken" not in f"{front.shown}{front!r}"

    def test_rtsp_comes_over_tcp_and_does_not_wait_long(self) -> None:
        front = front_of(parse_source("rtsp://10.0.0.7/live"), stall_timeout_s=2)
        assert "protocols=tcp" in front.description
        assert front.settings["tcp-timeout"] == 2_000_000
        assert "user-id" not in front.settings
        assert "tls-validation-flags" not in front.settings

    def test_who_asks_for_it_gets_no_check_of_the_certificate(self) -> None:
        assert (
            front_of(parse_source("rtsps://c/l#tls=insecure"), stall_timeout_s=2).settings["tls-validation-flags"] == 0
        )
        assert front_of(parse_source("https://c/l#tls=insecure"), stall_timeout_s=2).settings["ssl-strict"] is False
        assert front_of(parse_source("rtsps://c/l#ca=/x.pem"), stall_timeout_s=2).tls_ca_file == Path("/x.pem")

    def test_a_usb_camera_gives_raw_pictures_where_it_is_fast_enough_and_jpegs_otherwise(self) -> None:
        front = front_of(parse_source("v4l2:/dev/video0?width=640&height=480&fps=15"), stall_timeout_s=2)
        size = "width=[16,640],height=[16,480]"
        assert front.description.startswith(
            f'v4l2src name=source ! capsfilter caps="video/x-raw,{size},framerate=[15/1,240/1];image/jpeg,{size},'
        )
        assert front.description.endswith(f'image/jpeg,{size};video/x-h264,{size}" ! parsebin name=open')
        assert front.settings == {"device": "/dev/video0"}

    def test_a_usb_camera_gives_what_it_is_told(self) -> None:
        front = front_of(parse_source("v4l2:/dev/video0?format=h264"), stall_timeout_s=2)
        assert "video/x-raw" not in front.description
        assert "image/jpeg" not in front.description

    def test_libcamera_is_told_everything(self) -> None:
        front = front_of(parse_source("libcamera:imx708?width=1920&height=1080&fps=7.5"), stall_timeout_s=2)
        assert front.description == (
            'libcamerasrc name=source ! capsfilter caps="video/x-raw,format=NV12,width=1920,height=1080,framerate=15/2,'
            'colorimetry=bt709,interlace-mode=progressive" ! parsebin name=open'
        )
        assert front.settings == {"camera-name": "imx708"}
        assert front_of(parse_source("libcamera:"), stall_timeout_s=2).settings == {}


class TestTimeLine:
    def test_times_begin_at_0_whatever_the_stream_says(self) -> None:
        line = TimeLine()
        assert [line.place(stamp_s, 0.1) for stamp_s in (3600.0, 3600.1, 3600.3)] == pytest.approx([0.0, 0.1, 0.3])

    def test_without_times_one_picture_follows_the_other(self) -> None:
        line = TimeLine()
        assert [line.place(None, 0.1) for _ in range(3)] == pytest.approx([0.0, 0.1, 0.2])
        assert line.place(77.0, 0.1) == pytest.approx(0.3)
        assert line.place(77.5, 0.1) == pytest.approx(0.8)

    @pytest.mark.parametrize("jump_s", [-1e6, -5.0, 1e6])
    def test_a_camera_that_sets_its_clock_goes_on(self, jump_s: float) -> None:
        line = TimeLine()
        times_s = [line.place(stamp_s, 0.1) for stamp_s in (0.0, 0.1, 0.2 + jump_s, 0.3 + jump_s)]
        assert times_s == pytest.approx([0.0, 0.1, 0.2, 0.3])

    @given(st.lists(st.none() | st.floats(-1e9, 1e9), max_size=50))
    def test_no_time_ever_falls(self, stamps_s: list[float | None]) -> None:
        line = TimeLine()
        times_s = [line.place(stamp_s, 0.1) for stamp_s in stamps_s]
        assert times_s == sorted(times_s)


class TestKeyframeGate:
    def test_nothing_is_decoded_before_the_first_keyframe(self) -> None:
        gate = KeyframeGate()
        assert [gate.passes(n / 10, keyframe=n == 2) for n in range(4)] == [False, False, True, True]
        assert gate.passed == 2

    def test_eco_decodes_keyframes_and_afterwards_waits_for_one(self) -> None:
        gate = KeyframeGate()
        passed = []
        for n in range(60):
            gate.only = 15 <= n < 35
            if gate.passes(n / 10, keyframe=n % 20 == 0):
                passed.append(n)
        assert passed == [*range(15), 20, *range(40, 60)]

    def test_eco_of_a_stream_of_keyframes_is_one_a_second(self) -> None:
        gate = KeyframeGate()
        gate.only = True
        assert [n for n in range(35) if gate.passes(n / 10, keyframe=True)] == pytest.approx([0, 9, 18, 27], abs=3)


class TestWatch:
    def test_silence_is_told_when_it_has_lasted(self) -> None:
        watch = Watch(1.0)
        said = [watch.misses(5, 5) for _ in range(11)]
        assert said.index("silent") == pytest.approx(10, abs=1)

    def test_what_still_comes_is_not_silence(self) -> None:
        watch = Watch(1.0)
        assert [watch.misses(heard, 0) for heard in range(100)] == [None] * 100

    def test_a_decoder_that_gives_nothing_is_told(self) -> None:
        watch = Watch(1.0)
        assert [watch.misses(n, n) for n in range(1, 70)][-1] == "undecoded"

    def test_a_stream_without_keyframes_is_told_at_last(self) -> None:
        watch = Watch(1.0)
        said = [watch.misses(n, 0) for n in range(round(31 / SLICE_S))]
        assert said.index("no keyframe") == pytest.approx(30 / SLICE_S, abs=2)

    def test_who_wants_no_pictures_misses_none(self) -> None:
        watch = Watch(1.0)
        assert not any(watch.misses(n, 0, pictures=False) for n in range(1000))

    def test_a_picture_begins_it_all_again(self) -> None:
        watch = Watch(1.0)
        for n in range(100):
            assert watch.misses(0, 0) is None
            if n % 5 == 0:
                watch.saw(0, 0)


class TestSlot:
    def test_the_newest_is_there(self) -> None:
        slot = Slot[int](keeps_all=False)
        slot.put(1)
        slot.put(2)
        assert slot.take(0) == 2
        assert slot.take(0) is None

    def test_who_keeps_all_waits_for_room(self) -> None:
        slot = Slot[int](keeps_all=True)

        def give() -> None:
            for number in range(20):
                slot.put(number)

        giver = threading.Thread(target=give)
        giver.start()
        assert [slot.take(5) for _ in range(20)] == list(range(20))
        giver.join(5)
        assert not giver.is_alive()

    def test_closing_lets_everybody_go(self) -> None:
        slot = Slot[int](keeps_all=True)
        slot.put(1)
        giver = threading.Thread(target=slot.put, args=(2,))
        giver.start()
        slot.close()
        giver.join(5)
        assert not giver.is_alive()
        assert slot.take(5) is None


class TestTrouble:
    def nothing(self) -> None:
        return None

    def test_a_wrong_password_is_not_tried_often(self) -> None:
        error = explain_network("rtsp://cam/a", self.nothing, Cause("gst-resource-error-quark", 15, "Unauthorized"))
        assert isinstance(error, TransientError)
        assert error.retry_after_s == 30
        assert str(error).startswith("rtsp://cam/a: the camera refuses user and password (401); correct them")

    def test_a_missing_stream_is_told(self) -> None:
        error = explain_network("rtsp://cam/a", self.nothing, Cause("gst-resource-error-quark", 3, "Not found"))
        assert "has no such stream (404); correct the path" in str(error)

    def test_the_reason_is_looked_for_where_gstreamer_has_none(self) -> None:
        cause = Cause("gst-resource-error-quark", 7, "Could not open")
        assert str(explain_network("rtsp://cam/a", lambda: "no power", cause)) == "rtsp://cam/a: no power"
        assert "broke off before its first picture (Could not open)" in str(
            explain_network("rtsp://cam/a", self.nothing, cause)
        )

    def test_what_broke_in_the_middle_is_not_looked_for(self) -> None:
        cause = Cause("gst-stream-error-quark", 1, "Internal.", pictures=7)
        error = explain_network("rtsp://cam/a", lambda: pytest.fail("looked"), cause)
        assert "broke off after 7 pictures: Internal" in str(error)

    def test_a_missing_plugin_needs_a_person(self) -> None:
        cause = Cause("gst-core-error-quark", 12, "x", missing=("VP9 decoder",))
        for error in (
            explain_network("rtsp://cam/a", self.nothing, cause),
            explain_device("v4l2:/dev/video0", cause),
            explain_file(Path("a.mkv"), cause),
        ):
            assert isinstance(error, PermanentError)
            assert "GStreamer has no VP9 decoder; sudo apt-get install" in str(error)

    def test_a_camera_that_is_not_plugged_in_is_waited_for(self) -> None:
        error = explain_device("v4l2:/dev/video0", Cause("gst-resource-error-quark", 3, "Cannot identify device."))
        assert isinstance(error, TransientError)
        assert "Cannot identify device; check that it is plugged in" in str(error)
        broken = explain_device("v4l2:/dev/video0", Cause("gst-resource-error-quark", 9, "gone", pictures=3))
        assert "after 3 pictures: gone; check its cable" in str(broken)


class TestReach:
    def why(self, location: str) -> str | None:
        return why_unreachable(location, tls_verified=True, ca_file=None, timeout_s=2)

    def test_nothing_listens(self) -> None:
        assert "has nothing at port" in (self.why(f"rtsp://127.0.0.1:{free_port()}/a") or "")

    def test_nobody_knows_the_name(self) -> None:
        assert "the name nobody.invalid is not known" in (self.why("http://nobody.invalid/a") or "")

    def test_somebody_listens(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            assert self.why(f"rtsp://127.0.0.1:{server.getsockname()[1]}/a") is None

    def test_somebody_listens_who_speaks_no_tls(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:

            def answer_plainly() -> None:
                with server.accept()[0] as client:
                    client.sendall(b"RTSP/1.0 400 Bad Request\r\n\r\n")

            answer = threading.Thread(target=answer_plainly)
            answer.start()
            assert "speaks no TLS" in (self.why(f"rtsps://127.0.0.1:{server.getsockname()[1]}/a") or "")
            answer.join()
