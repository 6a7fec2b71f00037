"""Hostile and broken images: whatever the bytes, an image comes out or BadData does, and no header makes us ask for its memory."""

from __future__ import annotations

import contextlib
import io
import struct
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from contracts.pictures import encode, noise, photo
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from penstock.errors import BadData
from penstock.transforms import jpeg as jpegs
from penstock.transforms.jpeg import decode, exif_orientation, read_header

CAP = 100_000


def exif(orientation: int = 6) -> Image.Exif:
    """Return an EXIF block with an orientation."""
    made = Image.Exif()
    made[0x0112] = orientation
    made[0x010E] = "a description"
    return made


def small(kind: str, mode: str) -> bytes:
    """Return a small file with an EXIF block."""
    sink = io.BytesIO()
    Image.fromarray(noise(20, 30)).convert(mode).save(sink, kind, exif=exif())
    return sink.getvalue()


FILES = {f"{kind} {mode}": small(kind, mode) for kind, mode in (("png", "RGB"), ("png", "P"), ("webp", "RGB"), ("jpeg", "RGB"), ("jpeg", "CMYK"))}


def chunks_of(png: bytes) -> list[tuple[bytes, bytes]]:
    """Return the chunks of a PNG."""
    found, place = [], 8
    while place + 12 <= len(png):
        (size,) = struct.unpack(">I", png[place : place + 4])
        found.append((png[place + 4 : place + 8], png[place + 8 : place + 8 + size]))
        place += 12 + size
    return found


def png_of(chunks: list[tuple[bytes, bytes]]) -> Any:
    """Return a PNG of chunks, with right checksums."""
    body = b"".join(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks)
    return np.frombuffer(b"\x89PNG\r\n\x1a\n" + body, np.uint8)


def load(data: Any, mode: Any = "RGB", *, orientation: bool = True) -> Any:
    """Read the header, then decode."""
    return decode(data, read_header(data, orientation=orientation, max_pixels=CAP), mode)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FILES)
@given(places=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=5), head=st.booleans())
def test_changed_bytes_give_a_picture_or_bad_data(name: str, places: list[tuple[float, int]], head: bool) -> None:
    """Any bytes of a file changed, in its head or anywhere, with the checksums of a PNG made right again: no other error escapes."""
    data = bytearray(FILES[name])
    for share, byte in places:
        data[int(share * (min(len(data), 200) if head else len(data)))] = byte
    array = png_of(chunks_of(bytes(data))) if name.startswith("png") else np.frombuffer(bytes(data), np.uint8)
    with contextlib.suppress(BadData):
        picture = load(array)
        assert picture.dtype == np.uint8
        assert picture.size <= 3 * CAP


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([b"", b"\xff\xd8", b"\xff\xd8\xff\xe1", b"\x89PNG\r\n\x1a\n", b"RIFF\x10\0\0\0WEBP"]))
def test_rubbish_is_bad_data(rubbish: bytes, magic: bytes) -> None:
    """Random bytes behind every magic are bad data, and so are none at all."""
    with pytest.raises(BadData):
        load(np.frombuffer(magic + rubbish, np.uint8))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=120))
def test_any_exif_block_has_an_orientation(block: bytes) -> None:
    """Whatever an EXIF block holds, its orientation is a number from 1 to 8."""
    body = b"Exif\0\0" + block
    data = b"\xff\xd8\xff\xe1" + struct.pack(">H", len(body) + 2) + body
    assert exif_orientation(np.frombuffer(data, np.uint8)) in range(1, 9)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from("<>"), st.integers(0, 40), st.integers(0, 2**32 - 1), st.integers(0, 2**16 - 1), st.integers(0, 65535))
def test_tiff_directories_that_lie_are_ignored(order: str, pad: int, start: int, count: int, value: int) -> None:
    """Directories that begin anywhere and count anything end the search; a right one is read in both byte orders."""
    magic = b"II*\0" if order == "<" else b"MM\0*"
    entry = struct.pack(f"{order}HHIHH", 0x0112, 3, 1, value, 0)
    right = magic + struct.pack(f"{order}I", 8) + struct.pack(f"{order}H", 1) + entry
    lying = magic + struct.pack(f"{order}I", start) + bytes(pad) + struct.pack(f"{order}H", count) + entry

    def found(tiff: bytes) -> int:
        body = b"Exif\0\0" + tiff
        return exif_orientation(np.frombuffer(b"\xff\xd8\xff\xe1" + struct.pack(">H", len(body) + 2) + body + bytes(10), np.uint8))

    assert found(right) == (value if 1 <= value <= 8 else 1)
    assert found(lying) in range(1, 9)


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_broken_exif_means_no_orientation(kind: str) -> None:
    """A PNG or WebP whose EXIF block is rubbish is decoded as it lies, as a JPEG's is."""
    picture = noise(6, 9)
    broken = encode(picture, kind, exif=b"Exif\0\0rubbish that is no TIFF", **({"lossless": True} if kind == "webp" else {}))
    assert read_header(broken, orientation=True).orientation == 1
    assert np.array_equal(load(broken), picture)


def test_exif_behind_the_pixels_of_a_png_counts() -> None:
    """PNG lets the EXIF block stand behind the pixels; it is found there too."""
    parts = chunks_of(FILES["png RGB"])
    block = next(data for kind, data in parts if kind == b"eXIf")
    moved = [(kind, data) for kind, data in parts if kind not in (b"eXIf", b"IEND")]
    late = png_of([*moved, (b"eXIf", block), (b"IEND", b"")])
    assert read_header(late, orientation=True).orientation == 6
    assert load(late).shape == (30, 20, 3)


def bomb(kind: str) -> Any:
    """Return a file that claims 60,000 x 60,000 pixels (16,383 x 16,383 in WebP, which has no more bits)."""
    if kind == "png":
        parts = chunks_of(encode(photo(8, 8), "png").tobytes())
        return png_of([(k, struct.pack(">II", 60_000, 60_000) + d[8:] if k == b"IHDR" else d) for k, d in parts])
    if kind == "jpeg":
        data = bytearray(encode(photo(8, 8)).tobytes())
        place = data.index(b"\xff\xc0") + 5
        data[place : place + 4] = struct.pack(">HH", 60_000, 60_000)
        return np.frombuffer(bytes(data), np.uint8)
    data = bytearray(encode(photo(8, 8), "webp").tobytes())
    place = data.index(b"\x9d\x01\x2a") + 3
    data[place : place + 4] = struct.pack("<HH", 16_383, 16_383)
    return np.frombuffer(bytes(data), np.uint8)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("orientation", [False, True])
@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_bombs_are_refused_before_memory_is_asked_for(kind: str, orientation: bool) -> None:
    """A header that claims billions of pixels is refused by its header alone, also when an orientation is looked for."""
    data = bomb(kind)
    tracemalloc.start()
    with pytest.raises(BadData, match="max_pixels"):
        read_header(data, orientation=orientation)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


def test_the_cap_is_checked_before_a_png_is_searched_for_exif(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking for EXIF behind a PNG's pixels decodes them, so the cap comes first."""

    def never(self: Any) -> Any:
        raise AssertionError("decoded in front of the cap")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.getexif", never)
    with pytest.raises(BadData, match="61 x 40 = 2440 pixels, above the cap of 2439"):
        read_header(encode(photo(40, 61), "png"), orientation=True, max_pixels=2439)


def test_a_bomb_of_text_in_a_png_is_bad_data() -> None:
    """A compressed comment of 60 MB in a file of 60 kB is refused, not unpacked."""
    parts = chunks_of(encode(photo(8, 8), "png").tobytes())
    text = b"comment\0\0" + zlib.compress(bytes(60_000_000), 9)
    with pytest.raises(BadData):
        load(png_of([parts[0], (b"zTXt", text), *parts[1:]]))


@pytest.mark.parametrize("kind", ["png", "webp", "jpeg"])
def test_cut_at_every_byte(kind: str) -> None:
    """A small file cut at any byte is bad data, or, where only the end's padding or trailer is missing, the same picture."""
    whole = encode(noise(6, 7), kind)
    expected = load(whole)
    survived = 0
    for size in range(whole.size):
        try:
            picture = load(whole[:size])
        except BadData:
            continue
        survived += 1
        assert size > 0.5 * whole.size
        assert np.array_equal(picture, expected)
    assert survived <= 20  # of a PNG: the checksums of pixels and chunk, and the chunk that says the end


@pytest.mark.parametrize("kind", ["png", "webp", "jpeg"])
def test_bytes_behind_the_end_do_no_harm(kind: str) -> None:
    """A file with rubbish behind its end decodes as without."""
    whole = encode(noise(6, 7), kind)
    longer = np.concatenate([whole, np.arange(100, dtype=np.uint8)])
    assert np.array_equal(load(longer), load(whole))


@pytest.mark.parametrize("orientation", [0, 9, 255, 65535])
@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_orientations_that_do_not_exist_are_none(kind: str, orientation: int) -> None:
    """Orientation 0, 9 or anything else outside 1 to 8 leaves the picture as it lies."""
    data = encode(noise(4, 6), kind, exif=exif(orientation))
    assert read_header(data, orientation=True).orientation == 1
    assert load(data).shape == (4, 6, 3)


def test_a_jpeg_that_goes_over_its_pixels_for_ever_is_refused() -> None:
    """A small file with its last scan 600 times over, which would cost 600 passes over as many pixels as its header claims, is refused; 400 are decoded."""
    sink = io.BytesIO()
    Image.fromarray(noise(20, 30)).save(sink, "JPEG", progressive=True)
    file = sink.getvalue()
    last = file.rindex(b"\xff\xda")
    for scans, refused in ((400, False), (600, True)):
        data = np.frombuffer(file[:last] + file[last:-2] * scans + file[-2:], np.uint8)
        header = read_header(data, orientation=True)
        with pytest.raises(BadData, match=r"has 6\d\d scans, and no encoder") if refused else contextlib.suppress(BadData):
            decode(data, header, "RGB")


def test_only_jpegs_that_announce_several_scans_are_searched_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The usual photograph is decoded without counting, also with notes before its frame; progressive ones, ones by component and ones with an unreadable head are counted."""
    counted: list[int] = []

    def count(data: Any) -> int:
        counted.append(data.size)
        return 1

    monkeypatch.setattr(jpegs, "scans_of", count)

    def asked(file: bytes) -> bool:
        counted.clear()
        data = np.frombuffer(file, np.uint8)
        with contextlib.suppress(BadData):
            decode(data, read_header(data, orientation=True), "RGB")
        return bool(counted)

    def made(**options: Any) -> bytes:
        sink = io.BytesIO()
        Image.fromarray(noise(20, 30)).save(sink, "JPEG", **options)
        return sink.getvalue()

    plain, progressive = made(), made(progressive=True)
    assert not asked(plain)
    assert not asked(made(exif=exif(), comment=b"a" * 40_000, optimize=True))
    assert not asked(FILES["jpeg CMYK"])
    assert asked(progressive)
    scan = plain.index(b"\xff\xda")
    one = plain[: scan + 2] + b"\x00\x08\x01\x01\x00" + plain[scan + 2 + 12 - 3 :]  # a scan of the first component alone
    assert asked(one)
    assert asked(plain[:2] + (b"\xff\xfe\xff\xff" + b"a" * 0xFFFD) * 3 + plain[2:])
