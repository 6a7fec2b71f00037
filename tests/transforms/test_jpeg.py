"""Decoding: every encoding and colour space against Pillow, orientation, scale, and what damage looks like."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from contracts.pictures import Picture, encode, photo
from PIL import Image, ImageOps

from penstock.errors import BadData
from penstock.transforms.jpeg import decode, exif_orientation, read_header


def load(data: Picture, mode: str = "RGB", factor: int = 1, *, orientation: bool = False) -> Picture:
    """Return the decoded image."""
    return decode(data, read_header(data, orientation=orientation), mode, factor)  # type: ignore[arg-type]


def by_pillow(data: Picture, mode: str = "RGB") -> Picture:
    """Return what Pillow makes of it."""
    pixels = np.asarray(Image.open(io.BytesIO(data.tobytes())).convert("L" if mode == "GRAY" else "RGB"))
    return pixels.reshape(*pixels.shape[:2], -1)


def apart(left: Picture, right: Picture) -> float:
    """Return the mean absolute difference."""
    assert left.shape == right.shape
    return float(np.abs(left.astype(int) - right.astype(int)).mean())


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}, {"quality": 30}, {"restart_marker_blocks": 4}])
def test_jpeg_is_what_pillow_decodes(options: dict[str, Any]) -> None:
    """Baseline, progressive, subsampled and full-colour JPEGs differ from Pillow's decoding by less than a grey level."""
    data = encode(photo(120, 161), **options)
    assert apart(load(data), by_pillow(data)) < 1


@pytest.mark.parametrize("mode", ["RGB", "GRAY"])
@pytest.mark.parametrize("kind", ["png", "webp"])
def test_png_and_webp_are_what_pillow_decodes(kind: str, mode: str) -> None:
    """PNG and WebP come out exactly as from Pillow, in colour and in grey."""
    data = encode(photo(50, 61), kind)
    assert np.array_equal(load(data, mode), by_pillow(data, mode))


def test_grayscale_jpeg_becomes_three_equal_channels() -> None:
    """A JPEG with one channel decodes to RGB with equal channels, and to GRAY as it is."""
    data = encode(photo(50, 61)[:, :, :1])
    image = load(data)
    assert image.shape == (50, 61, 3)
    assert (image == image[:, :, :1]).all()
    assert np.array_equal(load(data, "GRAY"), image[:, :, :1])


def test_colour_jpeg_to_grey_is_its_luma() -> None:
    """Decoding colour to GRAY takes the luma channel, as Pillow does."""
    data = encode(photo(50, 61))
    assert load(data, "GRAY").shape == (50, 61, 1)
    assert apart(load(data, "GRAY"), by_pillow(data, "GRAY")) < 1


@pytest.mark.parametrize("mode", ["RGB", "GRAY"])
def test_cmyk_jpeg(mode: str) -> None:
    """A CMYK JPEG is converted as Pillow converts it."""
    sink = io.BytesIO()
    Image.fromarray(photo(50, 61)).convert("CMYK").save(sink, "jpeg")
    data = np.frombuffer(sink.getvalue(), np.uint8)
    assert np.array_equal(load(data, mode), by_pillow(data, mode))


@pytest.mark.parametrize("mode", ["P", "L", "LA", "RGBA", "1", "I;16"])
def test_png_modes(mode: str) -> None:
    """Palette, grey, transparent, one-bit and 16-bit PNGs become RGB; 16-bit keeps its high bytes."""
    gray = photo(30, 41)[:, :, 0]
    image = Image.fromarray(gray.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(photo(30, 41)).convert(mode)
    sink = io.BytesIO()
    image.save(sink, "png")
    data = np.frombuffer(sink.getvalue(), np.uint8)
    expected = np.repeat(gray[:, :, None], 3, axis=2) if mode == "I;16" else by_pillow(data)
    assert np.array_equal(load(data), expected)


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(kind: str, orientation: int) -> None:
    """On request each of the eight orientations is applied as Pillow applies it, and the header tells the upright size; else none is."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(photo(40, 61), kind, exif=exif)
    opened = Image.open(io.BytesIO(data.tobytes()))
    expected = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    header = read_header(data, orientation=True)
    assert header.upright == expected.shape[:2]
    assert apart(load(data, orientation=True), expected) < 1
    assert load(data).shape == (40, 61, 3)


def test_exif_that_makes_no_sense_is_ignored() -> None:
    """Broken or foreign EXIF blocks mean no orientation, never an error."""
    data = encode(photo(16, 16)).tobytes()

    def with_block(block: bytes) -> Picture:
        return np.frombuffer(data[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + data[2:], np.uint8)

    for tiff in (
        b"",
        b"II*\0",
        b"XX*\0\x08\0\0\0",
        b"II*\0\xff\xff\xff\xff",
        b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x63\0\0\0",
        b"II*\0\x08\0\0\0\x09\0",
    ):
        assert exif_orientation(with_block(b"Exif\0\0" + tiff)) == 1
    good = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0"
    assert exif_orientation(with_block(b"Exif\0\0" + good)) == 6


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_scaled_decoding(factor: int) -> None:
    """Decoding at a fraction gives each side divided and rounded up, close to Pillow's reduction of the whole."""
    data = encode(photo(203, 301))
    image = load(data, factor=factor)
    assert image.shape == (-(-203 // factor), -(-301 // factor), 3)
    whole = Image.fromarray(load(data)).reduce(factor)
    assert apart(image, np.asarray(whole)) < 3


def test_a_lent_buffer_is_used_when_it_is_large_enough() -> None:
    """The pixels land in the caller's buffer, or in fresh memory when it is too small; the picture is the same."""
    data = encode(photo(40, 61))
    header = read_header(data, orientation=False)
    buffer = np.zeros(40 * 61 * 3 + 7, np.uint8)
    lent = decode(data, header, "RGB", 1, buffer)
    assert np.shares_memory(lent, buffer)
    small = decode(data, header, "RGB", 1, np.zeros(10, np.uint8))
    assert np.array_equal(lent, small)


def test_a_bomb_is_refused_by_its_header() -> None:
    """An image above the cap is refused before it is decoded, with its size, the cap and the way to raise it."""
    data = encode(photo(40, 61))
    with pytest.raises(BadData, match=r"61 x 40 = 2440 pixels, above the cap of 2439; .*Decode\(max_pixels=\.\.\.\)"):
        read_header(data, orientation=False, max_pixels=2439)
    assert read_header(data, orientation=False, max_pixels=2440).upright == (40, 61)


def test_a_png_bomb_is_refused_by_its_header() -> None:
    """A PNG that claims 60,000 x 60,000 pixels is refused without memory being asked for."""
    data = bytearray(encode(photo(8, 8), "png").tobytes())
    import zlib

    data[16:24] = (60000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    with pytest.raises(BadData, match="max_pixels"):
        read_header(np.frombuffer(bytes(data), np.uint8), orientation=False)


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_a_header_that_does_not_fit_is_bad_data(kind: str) -> None:
    """Pixels of another size than the header said never reach a kernel that trusts the header."""
    data, other = encode(photo(40, 61), kind), encode(photo(30, 61), kind)
    with pytest.raises(BadData, match="header says 61 x 30 pixels and 61 x 40 came out"):
        decode(data, read_header(other, orientation=False), "RGB")


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.98])
def test_cut_files_are_bad_data(kind: str, share: float) -> None:
    """A file cut anywhere is bad data, not a picture with a grey half, and the message says how many bytes there were."""
    data = encode(photo(100, 120), kind)
    cut = data[: int(data.size * share)]
    with pytest.raises(BadData, match=f"{cut.size} bytes"):
        load(cut)


def test_damaged_entropy_data_is_bad_data() -> None:
    """Bytes overwritten in the middle of a JPEG are an error, although libjpeg itself would only warn."""
    data = encode(photo(100, 120), quality=95).copy()
    data[data.size // 2 : data.size // 2 + 40] = 0xFF
    with pytest.raises(BadData, match="is damaged: "):
        load(data)


def test_other_bytes_are_bad_data() -> None:
    """Bytes that are no image are named by how they begin."""
    with pytest.raises(BadData, match=r"the 11 bytes, beginning b'hello wo', are not a readable JPEG, PNG or WebP image"):
        load(np.frombuffer(b"hello world", np.uint8))
    with pytest.raises(BadData, match="not a readable"):
        load(np.frombuffer(b"GIF89a" + bytes(100), np.uint8))
