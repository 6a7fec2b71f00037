"""Images are judged by decoding, scaled down only, and written anew only when asked."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from contracts.raw import image_folder, jpeg, picture, rows_of
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import penstock as ps
from penstock.errors import BadData, BadRequest
from penstock.ingest.convert import convert
from penstock.ingest.images import apply, target_size
from penstock.ingest.settings import ImageRule, parse_reencode


def opened(data: bytes) -> Image.Image:
    """Return the decoded image."""
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@pytest.mark.parametrize(
    "data", [jpeg(1), picture("png"), picture("png", "RGBA"), picture("webp"), picture("jpeg", "CMYK"), picture("jpeg", "L"), picture("png", "P")]
)
def test_readable_images_stay_as_they_are(data: bytes) -> None:
    """Without a change asked for, the very same bytes come back."""
    assert apply(data, ImageRule()) is data
    assert apply(data, ImageRule(check="header")) is data
    assert apply(data, ImageRule(resize_short=24, max_pixels=24 * 32)) is data


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 600), st.integers(1, 10**6))
def test_target_sizes_keep_their_bounds(width: int, height: int, short: int, pixels: int) -> None:
    """Sizes never grow, never reach zero, and keep to what was asked as far as one pixel a side allows."""
    for rule in (ImageRule(resize_short=short), ImageRule(max_pixels=pixels), ImageRule(resize_short=short, max_pixels=pixels)):
        w, h = target_size(width, height, rule)
        assert 1 <= w <= width
        assert 1 <= h <= height
        if rule.max_pixels is not None:
            assert w * h <= max(rule.max_pixels, w, h)
        elif min(width, height) > short:
            assert min(w, h) == short
        if rule.max_pixels is None and min(width, height) <= short:
            assert (w, h) == (width, height)


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
def test_resized_images_keep_their_encoding(kind: str) -> None:
    """A scaled image is written in its own encoding, close to Pillow's own scaling."""
    data = picture(kind, size=(64, 48))
    made = opened(apply(data, ImageRule(resize_short=24)))
    assert made.format == kind.upper()
    assert made.size == (32, 24)
    wanted = np.asarray(opened(data).convert("RGB").resize((32, 24), Image.Resampling.BILINEAR), np.int16)
    assert np.abs(np.asarray(made.convert("RGB"), np.int16) - wanted).mean() < 8


def test_reencode_writes_every_image_anew() -> None:
    """With an encoding asked for, other encodings and modes become it; the same encoding stays."""
    for data in (picture("png", "RGBA"), picture("png", "P"), picture("webp"), picture("bmp"), picture("gif", "L"), picture("tiff", "CMYK")):
        assert opened(apply(data, ImageRule(encoding="jpeg"))).format == "JPEG"
    clear = io.BytesIO()
    Image.new("RGBA", (16, 16), (255, 0, 0, 90)).save(clear, "png")
    assert opened(apply(clear.getvalue(), ImageRule(encoding="webp"))).mode == "RGBA"
    assert opened(apply(picture("png", "L"), ImageRule(encoding="jpeg"))).mode == "L"
    assert len(apply(jpeg(1, 240, 320), ImageRule(encoding="webp", quality=20))) < len(
        apply(jpeg(1, 240, 320), ImageRule(encoding="webp", quality=95))
    )


def test_orientation_survives_scaling() -> None:
    """A JPEG that says how to hold it says so after scaling too, and nothing else of its EXIF stays."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "a camera"
    made = opened(apply(picture("jpeg", size=(64, 48), exif=exif), ImageRule(resize_short=24)))
    assert dict(made.getexif()) == {0x0112: 6}
    assert made.size == (32, 24)


def test_cmyk_and_grey_jpegs_are_scaled() -> None:
    """CMYK becomes RGB and grey stays grey when an image is written anew."""
    assert opened(apply(picture("jpeg", "CMYK", (64, 48)), ImageRule(resize_short=24))).mode == "RGB"
    assert opened(apply(picture("jpeg", "L", (64, 48)), ImageRule(resize_short=24))).mode == "L"


def test_deep_images_are_refused_not_clipped() -> None:
    """A 16-bit image is stored as it is, and refused when writing it anew would cut it to 8 bits."""
    out = io.BytesIO()
    Image.fromarray(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16).save(out, "png")
    assert apply(out.getvalue(), ImageRule()) == out.getvalue()
    with pytest.raises(BadData, match="more than 8 bits"):
        apply(out.getvalue(), ImageRule(resize_short=8))


@pytest.mark.parametrize("position", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
def test_cut_images_are_refused(kind: str, position: float) -> None:
    """An image cut anywhere does not decode, whatever its encoding."""
    data = picture(kind, size=(200, 150))
    with pytest.raises(BadData):
        apply(data[: int(len(data) * position)], ImageRule())


def test_bomb_is_refused_before_it_is_decoded() -> None:
    """A header that claims more pixels than the cap is refused by its size."""
    small = bytearray(picture("png"))
    small[16:24] = (60_000).to_bytes(4, "big") + (60_000).to_bytes(4, "big")
    with pytest.raises(BadData):
        apply(bytes(small), ImageRule(check="header"))


@pytest.mark.parametrize(("text", "found"), [(None, (None, 90)), ("jpeg", ("jpeg", 90)), ("jpeg:75", ("jpeg", 75)), ("png", ("png", 90))])
def test_reencode_argument(text: str | None, found: tuple[str | None, int]) -> None:
    """`jpeg:90` names an encoding and a quality; the quality is 90 unless given."""
    assert parse_reencode(text) == found


@pytest.mark.parametrize("text", ["jpg", "jpeg:", "jpeg:x", "tiff:90", "jpeg:1000"])
def test_reencode_argument_that_is_none(text: str) -> None:
    """Anything else is refused with an example."""
    with pytest.raises(BadRequest, match="'jpeg:90'"):
        parse_reencode(text)


def test_conversion_applies_the_rule(tmp_path: Path) -> None:
    """Through `convert`: sizes are bounded, the schema says the encoding, all rows are there."""
    image_folder(tmp_path / "raw", classes=2, each=3, height=160, width=200)
    convert(tmp_path / "raw", tmp_path / "out", workers=0, resize_short=80, max_pixels=6000, reencode="webp:70")
    dataset = ps.Dataset(str(tmp_path / "out"))
    assert dataset.fields["image"] == ps.Image("webp")
    for row in rows_of(tmp_path / "out"):
        image = opened(row["image"])
        assert image.format == "WEBP"
        assert image.width * image.height <= 6000
