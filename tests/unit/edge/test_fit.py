from __future__ import annotations

import io
from datetime import UTC, datetime

import numpy as np
import pytest
from PIL import Image

from config.cameras import PrivacySettings
from edge.fit import PictureFit
from edge.picture import Picture, Retouch, reduced_size
from edge.privacy import Privacy
from edge.source import CapturedFrame
from edge.synthetic.street import encode_jpeg

PICTURE = np.random.default_rng(1).integers(0, 256, (360, 640, 3), np.uint8)


class Shot:
    """A picture of noise, and how often it was encoded."""

    def __init__(self) -> None:
        self.encodings = 0
        frame = CapturedFrame(0, datetime.now(UTC), 0.0, PICTURE[:100, :, 0], 640, 360, self._encode, self._picture)
        self.frame = Privacy(PrivacySettings()).show(frame)

    def _encode(self, quality: int, *, height_px: int | None = None, retouch: Retouch | None = None) -> bytes:
        self.encodings += 1
        image = Image.fromarray(PICTURE).resize(reduced_size(640, 360, height_px), Image.Resampling.BILINEAR)
        return encode_jpeg(np.asarray(image), quality)

    def _picture(self) -> Picture:
        raise AssertionError


def test_what_fits_is_sent_as_it_was_wanted() -> None:
    shot = Shot()
    fit = PictureFit(80)
    fitted = fit.encode(shot.frame, 10_000_000, height_px=720)
    assert fitted is not None
    assert fitted.jpeg == encode_jpeg(PICTURE, 80)
    assert (fitted.width_px, fitted.height_px, shot.encodings, fit.reduced) == (640, 360, 1, False)


def test_no_picture_is_higher_than_wanted_and_a_lower_one_keeps_its_size() -> None:
    for wanted_px, size_px in [(180, (320, 180)), (100, (178, 100)), (360, (640, 360)), (1080, (640, 360))]:
        fitted = PictureFit(80).encode(Shot().frame, 10_000_000, height_px=wanted_px)
        assert fitted is not None
        assert (fitted.width_px, fitted.height_px) == size_px
        with Image.open(io.BytesIO(fitted.jpeg)) as picture:
            assert picture.size == size_px


@pytest.mark.parametrize("share", [0.9, 0.6, 0.45, 0.3, 0.1, 0.03])
def test_a_picture_loses_quality_first_then_size_and_no_more_than_it_must(share: float) -> None:
    wanted = len(encode_jpeg(PICTURE, 80))
    shot = Shot()
    fit = PictureFit(80)
    bytes_max = int(wanted * share)
    fitted = fit.encode(shot.frame, bytes_max, height_px=720)
    assert fitted is not None
    assert bytes_max * 0.35 < len(fitted.jpeg) <= bytes_max
    assert ((fitted.width_px, fitted.height_px) == (640, 360)) == (share > 0.35)
    with Image.open(io.BytesIO(fitted.jpeg)) as picture:
        picture.load()
        assert picture.size == (fitted.width_px, fitted.height_px)
    assert shot.encodings <= 6


def test_the_search_is_remembered_and_the_way_back_is_tried_now_and_then() -> None:
    wanted = len(encode_jpeg(PICTURE, 80))
    fit = PictureFit(80)
    assert fit.encode(Shot().frame, wanted // 2, height_px=720) is not None
    again = Shot()
    assert fit.encode(again.frame, wanted // 2, height_px=720) is not None
    assert again.encodings == 1
    for _ in range(300):
        fit.encode(Shot().frame, wanted * 2, height_px=720)
    assert not fit.reduced


def test_when_nothing_fits_it_says_so_and_does_not_search_each_time() -> None:
    fit = PictureFit(80)
    assert fit.encode(Shot().frame, 500, height_px=720) is None
    again = Shot()
    assert fit.encode(again.frame, 500, height_px=720) is None
    assert again.encodings == 1
    assert fit.encode(Shot().frame, 100_000, height_px=720) is not None
