"""Decoding a part of a JPEG: the bytes of the whole image, at every scale and place, or no answer at all."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from penstock import transforms as T  # noqa: N812  (the name torchvision's users know)
from penstock.errors import BadData
from penstock.fields import Image as ImageField
from penstock.transforms import region
from penstock.transforms import sample as samples
from penstock.transforms.chain import compile_chain


def picture(height: int, width: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return colours that change sharply, so that wrong chroma at an edge shows."""
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 256, (height // 5 + 1, width // 5 + 1, 3), np.uint8)
    return np.ascontiguousarray(blocks.repeat(5, 0).repeat(5, 1)[:height, :width])


QUANTISATION, HUFFMAN = b"\xff\xdb", b"\xff\xc4"
"""What begins a JPEG's tables."""


def encoded(pixels: np.ndarray[Any, Any], **options: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return the bytes of a JPEG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", **{"quality": 90, **options})
    return np.frombuffer(file.getvalue(), np.uint8)


def shown(found: region.Region | None, left: int, width: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return the columns that were asked for; chroma beside them may be that of an edge."""
    assert found is not None
    return found.pixels[:, left - found.left : left - found.left + width]


def test_it_is_there() -> None:
    """With the Pillow that is installed here parts can be decoded; otherwise the tests below would prove nothing."""
    assert region.available()


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 150),
    st.integers(1, 150),
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from([0, 1, 2]),
    st.sampled_from(
        [{}, {"progressive": True}, {"restart_marker_blocks": 3}, {"optimize": True}, {"quality": 30}, {"keep_rgb": True, "subsampling": 0}]
    ),
    st.data(),
)
def test_a_part_is_what_the_whole_has_there(
    height: int, width: int, factor: int, subsampling: int, options: dict[str, Any], data: st.DataObject
) -> None:
    """Whatever the size, scale, chroma subsampling, coding and box: the same bytes as decoding everything and cutting it out."""
    jpeg = encoded(picture(height, width), **{"subsampling": subsampling, **options})
    size = (-(-height // factor), -(-width // factor))
    top, left = data.draw(st.integers(0, size[0] - 1)), data.draw(st.integers(0, size[1] - 1))
    tall, wide = data.draw(st.integers(1, size[0] - top)), data.draw(st.integers(1, size[1] - left))
    whole = simplejpeg.decode_jpeg(jpeg, min_height=size[0], min_width=size[1], strict=True)
    found = region.decode_region(jpeg, factor, (top, left, tall, wide), size, np.empty(whole.size, np.uint8))
    assert found is not None
    assert 0 <= found.left <= left
    assert np.array_equal(shown(found, left, wide), whole[top : top + tall, left : left + wide])


@pytest.mark.parametrize(
    "jpeg",
    [
        encoded(picture(40, 60)[:, :, 0]),
        encoded(np.dstack([picture(40, 60), picture(40, 60)[:, :, :1]]).view(np.uint8)[:, :, :3])[:-2],
        np.concatenate([encoded(picture(40, 60)), np.zeros(4, np.uint8)]),
        encoded(picture(40, 60))[:300],
        np.frombuffer(b"\xff\xd8\xff\xd9", np.uint8),
        np.zeros(0, np.uint8),
    ],
    ids=["grey", "no end", "something behind the end", "cut", "nothing between", "empty"],
)
def test_the_unusual_has_no_answer(jpeg: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
    """Grey images, and data that do not end as a JPEG does, are left to the decoder of whole images."""
    assert region.decode_region(jpeg, 1, (3, 3, 20, 20), (40, 60), np.empty(9000, np.uint8)) is None


@pytest.mark.parametrize("box", [(0, 0, 41, 10), (0, 55, 4, 6), (-1, 0, 4, 4), (0, -1, 4, 4), (39, 0, 2, 2)])
def test_a_box_outside_has_no_answer(box: tuple[int, int, int, int]) -> None:
    """Nothing is read or written beyond the image."""
    jpeg = encoded(picture(40, 60))
    assert region.decode_region(jpeg, 1, box, (40, 60), np.empty(9000, np.uint8)) is None


def test_a_size_that_is_not_the_images_has_no_answer() -> None:
    """When the header that was read says otherwise than the decoder does, the whole is decoded, which names the contradiction."""
    jpeg = encoded(picture(40, 60))
    assert region.decode_region(jpeg, 1, (0, 0, 4, 4), (60, 40), np.empty(9000, np.uint8)) is None


def test_too_little_room_is_not_overrun() -> None:
    """A buffer that the rows do not fit into is left as it was."""
    buffer = np.full(2000, 7, np.uint8)
    assert region.decode_region(encoded(picture(40, 60)), 1, (0, 0, 40, 40), (40, 60), buffer[:1000]) is None
    assert (buffer == 7).all()


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_damage_is_an_error_or_no_answer(data: st.DataObject) -> None:
    """Any bytes changed: the decoder comes back, writes only what it was lent, and works for the next image as before."""
    good = encoded(picture(64, 80), subsampling=2, progressive=data.draw(st.booleans()))
    jpeg = good.copy()
    for _ in range(data.draw(st.integers(1, 6))):
        jpeg[data.draw(st.integers(0, jpeg.size - 3))] = data.draw(st.integers(0, 255))
    buffer = np.full(64 * 80 * 3 + 64, 9, np.uint8)
    region.decode_region(jpeg, 1, (20, 20, 30, 30), (64, 80), buffer[:-64])
    assert (buffer[-64:] == 9).all()
    found = region.decode_region(good, 1, (20, 20, 30, 30), (64, 80), buffer)
    assert np.array_equal(shown(found, 20, 30), simplejpeg.decode_jpeg(good)[20:50, 20:50])


@pytest.mark.parametrize("marker", [QUANTISATION, HUFFMAN], ids=["quantisation", "Huffman"])
def test_no_table_of_the_image_before_is_used(marker: bytes) -> None:
    """A JPEG without tables of its own has the answer that it has alone, whatever was decoded before it."""
    good = encoded(picture(64, 80), subsampling=2)
    poor = good.tobytes()
    while (at := poor.find(marker)) >= 0:
        poor = poor[:at] + poor[at + 2 + int.from_bytes(poor[at + 2 : at + 4], "big") :]
    buffer = np.empty(64 * 80 * 3, np.uint8)
    for quality in (10, 90):
        before = encoded(picture(64, 80), subsampling=2, quality=quality)
        assert region.decode_region(before, 1, (20, 20, 30, 30), (64, 80), buffer) is not None
        found = region.decode_region(np.frombuffer(poor, np.uint8), 1, (20, 20, 30, 30), (64, 80), buffer)
        if marker == QUANTISATION:
            assert found is None
        else:  # libjpeg has tables for that, the standard's (annex K)
            assert np.array_equal(shown(found, 20, 30), simplejpeg.decode_jpeg(poor)[20:50, 20:50])


def test_a_broken_part_is_an_error_of_the_chain() -> None:
    """Data that end within the crop are reported as by decoding the whole."""
    jpeg = encoded(picture(200, 200)).copy()
    jpeg[jpeg.size // 2 : jpeg.size // 2 + 2] = 0xFF, 0xD9
    crop = compile_chain("image", ImageField(), [T.Decode(), T.CenterCrop(120)])
    with pytest.raises(BadData, match="damaged"):
        crop.run(jpeg, 0, 0, np.empty((3, 120, 120), np.uint8))


def test_threads_have_decoders_of_their_own() -> None:
    """Many threads at once, each on its own images, get what one gets."""
    jpegs = [encoded(picture(90, 120, seed)) for seed in range(8)]
    expected = [simplejpeg.decode_jpeg(jpeg)[10:70, 30:70] for jpeg in jpegs]
    wrong: list[int] = []

    def work(number: int) -> None:
        buffer = np.empty(90 * 120 * 3, np.uint8)
        for _ in range(60):
            found = region.decode_region(jpegs[number], 1, (10, 30, 60, 40), (90, 120), buffer)
            if found is None or not np.array_equal(shown(found, 30, 40), expected[number]):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []


@pytest.mark.parametrize("there", [True, False])
def test_chains_use_parts_and_do_without(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    """A random crop decodes a part where that is possible, and gives the same bytes where it is not."""
    asked: list[Any] = []
    real = region.decode_region

    def asked_for(*arguments: Any) -> Any:
        asked.append(arguments)
        return real(*arguments) if there else None

    monkeypatch.setattr(samples, "decode_region", asked_for)
    jpeg = encoded(picture(300, 400))
    ops = [T.RandomResizedCrop(64), T.RandomHorizontalFlip(), T.Normalize((0.4, 0.5, 0.6), (0.2, 0.2, 0.2))]
    made = compile_chain("image", ImageField(), ops)
    for sample in range(40):
        out = np.empty((3, 64, 64), np.float32)
        made.run(jpeg, 5, sample, out)
        assert np.array_equal(out, made.reference(jpeg, 5, sample))
    assert len(asked) > 20


@pytest.fixture
def forgetful() -> Iterator[None]:
    """Have the library looked for anew, before and after."""
    for found in (region._library, region.available):
        found.cache_clear()
    yield
    for found in (region._library, region.available):
        found.cache_clear()


@pytest.mark.parametrize("where", ["no Pillow wheel", "another decoder's bytes"])
def test_without_a_fitting_library_nothing_is_decoded_in_part(forgetful: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, where: str) -> None:
    """Where Pillow brings no libjpeg of its own, or one that decodes the small picture to other bytes than simplejpeg, the whole is decoded."""
    if where == "no Pillow wheel":
        monkeypatch.setattr(PIL, "__file__", str(tmp_path / "PIL" / "__init__.py"))
        assert region._library() is None
    else:
        real = simplejpeg.decode_jpeg
        monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda data: real(data) ^ 1)
    assert not region.available()
    assert region.decode_region(encoded(picture(40, 60)), 1, (0, 0, 4, 4), (40, 60), np.empty(9000, np.uint8)) is None


def test_too_many_scans_are_left_to_the_decoder_of_whole_images() -> None:
    """A progressive JPEG, all of which is read before its first row comes, is decoded in part as long as its scans are as many as an encoder makes."""
    sink = io.BytesIO()
    Image.fromarray(picture(40, 60)).save(sink, "JPEG", progressive=True)
    file = sink.getvalue()
    last = file.rindex(b"\xff\xda")
    many = np.frombuffer(file[:last] + file[last:-2] * 600 + file[-2:], np.uint8)
    assert region.decode_region(np.frombuffer(file, np.uint8), 1, (0, 0, 4, 4), (40, 60), np.empty(9000, np.uint8)) is not None
    assert region.decode_region(many, 1, (0, 0, 4, 4), (40, 60), np.empty(9000, np.uint8)) is None
