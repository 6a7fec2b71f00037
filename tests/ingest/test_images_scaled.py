"""What scaling and writing anew make of images, checked with Pillow: sizes, pixels, orientation, encodings; alone and through `convert`."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contracts.pictures import photo
from contracts.raw import image_folder, picture, quarantine, rows_of, run
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from penstock.errors import BadData, BadRequest
from penstock.ingest.images import apply, target_size
from penstock.ingest.settings import ImageRule

Side = st.integers(1, 20_000)


def opened(data: bytes) -> Image.Image:
    """Return the decoded image."""
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@given(Side, Side, st.integers(1, 3000), st.integers(1, 10**7))
def test_bounds_hold_together_and_alone(width: int, height: int, short: int, pixels: int) -> None:
    """`max_pixels` is never passed, whatever the shape; where it does not bind, the short side is exactly what was asked."""
    both = target_size(width, height, ImageRule(resize_short=short, max_pixels=pixels))
    alone = target_size(width, height, ImageRule(resize_short=short))
    assert both[0] * both[1] <= max(pixels, 1)
    assert min(alone) == min(short, width, height)
    if alone[0] * alone[1] <= pixels:
        assert both == alone
    capped = target_size(width, height, ImageRule(max_pixels=pixels))
    assert capped[0] * capped[1] <= pixels
    assert all(1 <= new <= old for new, old in zip(capped, (width, height), strict=True))
    assert capped == (width, height) or width * height > pixels


@given(Side, Side, st.integers(1, 3000))
def test_shape_is_kept_within_a_pixel(width: int, height: int, short: int) -> None:
    """The long side follows the short one in proportion, rounded to the nearest pixel."""
    wide, high = target_size(width, height, ImageRule(resize_short=short))
    scale = min(1.0, short / min(width, height))
    assert abs(wide - max(width * scale, 1)) <= 0.5 + 1e-6
    assert abs(high - max(height * scale, 1)) <= 0.5 + 1e-6


@pytest.mark.parametrize(("rule", "size"), [({"resize_short": 64}, (85, 64)), ({"max_pixels": 5000}, (81, 61)), ({"resize_short": 500}, (320, 240))])
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
def test_scaled_pixels_are_pillow_s(kind: str, rule: dict[str, int], size: tuple[int, int]) -> None:
    """A photograph that is scaled is near Pillow's own antialiased scaling of it, in each encoding; an image that fits is not touched."""
    out = io.BytesIO()
    Image.fromarray(photo(240, 320)).save(out, kind, **({} if kind == "png" else {"quality": 95}))
    made = apply(out.getvalue(), ImageRule(**rule, quality=95))  # type: ignore[arg-type]
    assert opened(made).size == size
    assert opened(made).format == kind.upper()
    wanted = np.asarray(opened(out.getvalue()).convert("RGB").resize(size, Image.Resampling.BILINEAR), np.int16)
    assert np.abs(np.asarray(opened(made).convert("RGB"), np.int16) - wanted).mean() < (0.5 if kind == "png" else 4)
    assert (made is out.getvalue() or made == out.getvalue()) is (size == (320, 240))


@pytest.mark.parametrize("turned", range(1, 9))
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff"])
def test_picture_stays_the_same_way_up(kind: str, turned: int) -> None:
    """Whatever the EXIF orientation and the encoding, a viewer that honours it sees the same picture after scaling as before."""
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:24, :32] = (255, 0, 0)
    pixels[24:, 32:] = (0, 0, 255)
    exif = Image.Exif()
    exif[0x0112] = turned
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, exif=exif, **({"quality": 95} if kind in {"jpeg", "webp"} else {}))
    data = out.getvalue()
    made = apply(data, ImageRule(resize_short=24, encoding="png" if kind == "tiff" else None))
    seen = [ImageOps.exif_transpose(opened(one)).convert("RGB") for one in (data, made)]
    assert seen[1].size == tuple(side // 2 for side in seen[0].size)
    quarters = [np.asarray(image.resize((2, 2), Image.Resampling.BOX), np.int16) for image in seen]
    assert np.abs(quarters[0] - quarters[1]).max() < 40


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "1", "CMYK"])
@pytest.mark.parametrize("encoding", ["jpeg", "png", "webp"])
def test_every_mode_can_be_written_in_every_encoding(mode: str, encoding: str) -> None:
    """Grey stays grey where the encoding has grey, transparency stays where it has transparency, and all else becomes RGB."""
    image = Image.effect_noise((32, 24), 60).convert(mode)
    if "A" in mode:
        image.putalpha(90)
    out = io.BytesIO()
    image.save(out, "tiff")
    made = opened(apply(out.getvalue(), ImageRule(encoding=encoding)))
    assert made.format == encoding.upper()
    clear = mode in {"RGBA", "LA"} and encoding != "jpeg"
    assert ("A" in made.mode) is clear
    assert made.size == (32, 24)


def test_quality_and_lossless() -> None:
    """A lower quality gives a smaller file; PNG keeps every pixel."""
    out = io.BytesIO()
    Image.fromarray(photo(120, 160)).save(out, "bmp")
    sizes = [len(apply(out.getvalue(), ImageRule(encoding="jpeg", quality=quality))) for quality in (20, 60, 95)]
    assert sizes == sorted(set(sizes))
    assert (np.asarray(opened(apply(out.getvalue(), ImageRule(encoding="png")))) == photo(120, 160)).all()


@pytest.mark.parametrize(
    ("data", "rule", "reason"),
    [
        (b"", {}, r"the file is empty \(0 bytes\)"),
        (b"hello there", {}, r"the 11 bytes, beginning b'hello th', are not an image"),
        (picture("gif", "L"), {}, "gif images are not stored as they are.*--reencode"),
        (picture("tiff"), {}, "tiff images are not stored"),
        (picture("ppm"), {}, "ppm images are not stored"),
        (picture("bmp")[:60], {"encoding": "png"}, "the image of 60 bytes does not decode"),
        (picture("jpeg", size=(200, 200))[:900], {"resize_short": 10}, "JPEG"),
        (picture("jpeg", size=(200, 200))[:900], {}, "the JPEG of 900 bytes is damaged"),
    ],
)
def test_refusals_of_an_image(data: bytes, rule: dict[str, Any], reason: str) -> None:
    """Each says how many bytes there were, what is wrong with them, and what can be done."""
    with pytest.raises(BadData, match=reason):
        apply(data, ImageRule(**rule))


def test_encoding_that_pillow_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoder that is not there is the caller's to know, not the image's fault."""
    data = picture("png")

    def refuse(*_: object, **__: object) -> None:
        raise OSError("encoder error")

    monkeypatch.setattr(Image.Image, "save", refuse)
    with pytest.raises(BadRequest, match="Pillow cannot write 'webp' here: encoder error"):
        apply(data, ImageRule(encoding="webp"))


@pytest.mark.parametrize("shard_format", ["arrow", "tar"])
def test_conversion_bounds_every_image(tmp_path: Path, shard_format: str) -> None:
    """Through `convert`, in both formats: sizes and encoding as asked, bad ones aside, labels as they were, and less than half the bytes."""
    image_folder(tmp_path / "raw", classes=2, each=4, height=240, width=320, quality=95)
    (tmp_path / "raw" / "class_0" / "bad.jpg").write_bytes(b"no image")
    report = run(tmp_path / "raw", tmp_path / "out", format=shard_format, resize_short=96, max_pixels=11_000, reencode="jpeg:80", max_bad=1)
    found = rows_of(tmp_path / "out")
    assert [row["label"] for row in found] == [0] * 4 + [1] * 4
    for row in found:
        image = opened(row["image"])
        assert (image.format, image.size) == ("JPEG", (121, 90))
    assert report.bytes_out < report.bytes_in / 2
    assert "not an image" in quarantine(tmp_path / "out")[0]["reason"]
