"""The chain: fused equals op by op, decoding at scale stays close, samples stand alone, and what is refused before anything runs."""

from __future__ import annotations

import io
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cloudpickle
import numpy as np
import pytest
from contracts.pictures import encode, noise, photo
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from PIL import ImageOps
from sklearn.datasets import load_sample_images

import penstock.transforms as tr
from penstock import fields
from penstock.errors import BadData, BadRequest
from penstock.transforms.base import Ragged, Spec
from penstock.transforms.chain import Chain, compile_chain, given_of

JPEG = fields.Image("jpeg")
USUAL = [tr.RandomResizedCrop(48), tr.RandomHorizontalFlip(), tr.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]


def run(chain: Chain, value: Any, key: int = 7, sample: int = 0) -> Any:
    """Return what a chain writes into a slot that held rubbish."""
    assert isinstance(chain.output, Spec)
    out = np.full(chain.output.fixed_shape, 77, chain.output.dtype)
    times = chain.run(value, key, sample, out)
    assert min(times) >= 0
    return out


def same(chain: Chain, value: Any, key: int = 7, sample: int = 0) -> bool:
    """Return whether run and reference agree bit for bit in dtype, shape and value."""
    fast, slow = run(chain, value, key, sample), chain.reference(value, key, sample)
    return fast.dtype == slow.dtype and np.array_equal(fast, slow)


MOVES = st.lists(
    st.one_of(
        st.builds(tr.Resize, st.integers(8, 90)),
        st.builds(tr.Resize, st.tuples(st.integers(8, 90), st.integers(8, 90))),
        st.builds(tr.CenterCrop, st.integers(8, 90)),
        st.builds(tr.RandomCrop, st.integers(8, 90), padding=st.integers(0, 9), pad_if_needed=st.just(True), fill=st.integers(0, 255)),
        st.builds(tr.RandomResizedCrop, st.integers(8, 90)),
        st.builds(tr.RandomHorizontalFlip),
        st.builds(tr.ColorJitter, st.just(0.4), st.just(0.4), st.just(0.4), st.just(0.1)),
        st.just(tr.Grayscale(3)),
    ),
    max_size=4,
)
TAILS = st.sampled_from(
    [
        [],
        [tr.ToLayout("HWC")],
        [tr.Normalize((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))],
        [tr.Normalize(0.5, 0.5), tr.ToLayout("HWC")],
        [tr.ToLayout("CHW"), tr.ToDtype("float32", scale=True)],
        [tr.ToDtype("float16", scale=True)],
        [tr.ToDtype("uint16", scale=True), tr.ToLayout("HWC")],
        [tr.Grayscale(), tr.ToDtype("float32")],
        [tr.Cast("float64"), tr.Normalize(128, 64)],
    ]
)


@settings(max_examples=120, deadline=None)
@given(st.integers(8, 300), st.integers(8, 300), MOVES, TAILS, st.booleans(), st.integers(0, 2**64 - 1), st.integers(0, 2**63))
def test_run_equals_reference(height: int, width: int, moves: Any, tail: Any, scaled: bool, key: int, sample: int) -> None:
    """Any chain on a JPEG of any size, with scaled decoding and without, gives the bits that its ops give one after the other."""
    chain = compile_chain("image", JPEG, [tr.Decode(scaled=scaled), *moves, tr.Resize((24, 31)), *tail])
    assert same(chain, encode(photo(height, width), quality=80), key, sample)


@pytest.mark.parametrize("size", [(64, 500), (500, 64), (9, 9), (375, 500), (1000, 1100)])
@pytest.mark.parametrize("crop", [tr.RandomResizedCrop(16), tr.Resize((16, 16)), tr.RandomCrop((8, 9)), tr.CenterCrop(70)])
def test_scaled_decoding_equals_its_reference(size: tuple[int, int], crop: Any) -> None:
    """For every scale of decoding that a crop leads to, the reference at the same scale agrees."""
    chain = compile_chain("image", JPEG, [crop, tr.RandomHorizontalFlip(), tr.Normalize(0.5, 0.5)])
    data = encode(photo(*size))
    assert all(same(chain, data, sample=sample) for sample in range(8))


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("size", [(224, 224), (100, 130), (48, 48), (20, 20)])
def test_scaled_decoding_stays_close_to_the_whole(size: tuple[int, int], number: int) -> None:
    """On photographs, a resize from a scaled decode differs from Pillow's resize of the whole by at most 3 grey levels on average, unscaled by 1."""
    data = encode(photo(427, 640, number), quality=90)
    whole = Pillow.fromarray(run(compile_chain("i", JPEG, [tr.Decode(scaled=False), tr.CenterCrop((427, 640)), tr.ToLayout("HWC")]), data))
    expected = np.asarray(whole.resize(size[::-1], Pillow.Resampling.BILINEAR)).astype(int)
    for scaled, most in ((True, 3.0), (False, 1.0)):
        got = run(compile_chain("i", JPEG, [tr.Decode(scaled=scaled), tr.Resize(size), tr.ToLayout("HWC")]), data)
        assert np.abs(got.astype(int) - expected).mean() <= most


def test_scaled_decoding_of_random_crops_stays_close() -> None:
    """The same for random crops: over 40 draws the mean difference between scaled and full decoding stays within 3 grey levels each."""
    data = encode(photo(854, 1280), quality=90)
    scaled, full = (compile_chain("i", JPEG, [tr.Decode(scaled=flag), tr.RandomResizedCrop(96)]) for flag in (True, False))
    for sample in range(40):
        assert np.abs(run(scaled, data, sample=sample).astype(int) - run(full, data, sample=sample)).mean() <= 3


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["RGB", "GRAY"])
def test_every_encoding_and_mode(kind: str, channels: int, mode: Any) -> None:
    """Colour and grey images in every encoding, decoded to colour or grey, fused and op by op alike."""
    chain = compile_chain("image", fields.Image(), [tr.Decode(mode=mode), *USUAL[:2], tr.Normalize(0.5, 0.5)])
    assert same(chain, encode(photo(90, 120)[:, :, :channels], kind))
    assert run(chain, encode(photo(90, 120)[:, :, :channels], kind)).shape == (3 if mode == "RGB" else 1, 48, 48)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_before_the_crop(orientation: int) -> None:
    """With apply_exif_orientation the crop is drawn on the upright picture, at any scale of decoding."""
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    data = encode(photo(300, 400), exif=exif)
    chain = compile_chain("image", JPEG, [tr.Decode(apply_exif_orientation=True), tr.RandomResizedCrop((30, 40))])
    assert all(same(chain, data, sample=sample) for sample in range(3))


def test_samples_stand_alone() -> None:
    """The same (key, sample) gives the same pixels in any order, on any thread and in a copy of the chain; other keys and samples differ."""
    chain, data = compile_chain("image", JPEG, [*USUAL[:2], tr.ColorJitter(0.4), USUAL[2]]), encode(photo(120, 160))
    first = [run(chain, data, sample=sample) for sample in range(12)]
    backwards = [run(chain, data, sample=sample) for sample in reversed(range(12))][::-1]
    copy = cloudpickle.loads(cloudpickle.dumps(chain))
    with ThreadPoolExecutor(4) as pool:
        threaded = list(pool.map(lambda sample: run(copy, data, sample=sample), range(12)))
    for one, two, three in zip(first, backwards, threaded, strict=True):
        assert np.array_equal(one, two)
        assert np.array_equal(one, three)
    assert len({one.tobytes() for one in first}) == 12
    assert not np.array_equal(run(chain, data, key=8), first[0])


def test_ops_draw_independently() -> None:
    """Adding an op behind another leaves the first one's draws as they were."""
    data = encode(photo(120, 160))
    alone = run(compile_chain("i", JPEG, [tr.RandomResizedCrop(32)]), data)
    flipped = run(compile_chain("i", JPEG, [tr.RandomResizedCrop(32), tr.RandomHorizontalFlip(1.0)]), data)
    assert np.array_equal(alone[:, :, ::-1], flipped)
    spelled = run(compile_chain("i", JPEG, [tr.Decode(), tr.RandomResizedCrop(32), tr.ToLayout("CHW")]), data)
    assert np.array_equal(alone, spelled)


def test_arrays_of_images() -> None:
    """A column of decoded images takes image ops too, from read-only memory, and keeps its layout unless told."""
    field, value = fields.Array((32, 32, 3), "uint8"), noise(32, 32)
    value.flags.writeable = False
    chain = compile_chain("pixels", field, [tr.RandomCrop(32, padding=4), tr.RandomHorizontalFlip(), tr.Normalize(0.5, 0.5), tr.ToLayout("CHW")])
    assert chain.output == Spec((3, 32, 32), "float32", "CHW")
    assert all(same(chain, value, sample=sample) for sample in range(10))
    assert compile_chain("pixels", field, [tr.RandomHorizontalFlip()]).output == Spec((32, 32, 3), "uint8", "HWC")
    assert same(compile_chain("pixels", field, [tr.ColorJitter(0.4)]), value)
    assert same(compile_chain("pixels", field, [tr.Normalize(0.5, 0.5)]), value)


def test_rows_in_one_call() -> None:
    """A chain of rowwise ops does a batch in one call and gives what it gives row by row."""
    chain = compile_chain("x", fields.Array((32,), "int16"), [tr.Cast("float32"), tr.Normalize(3.0, 2.0)])
    assert chain.rowwise
    values = np.arange(320, dtype=np.int16).reshape(10, 32)
    out = np.empty((10, 32), np.float32)
    chain.run_rows(values, out)
    assert np.array_equal(out, np.stack([run(chain, row) for row in values]))
    images = compile_chain("i", JPEG, USUAL)
    assert not images.rowwise
    with pytest.raises(BadRequest, match=r"column 'i': .* need each sample on its own; use run"):
        images.run_rows(values, out)


def test_tokens() -> None:
    """Runs are padded to a shape, or stay runs of another dtype."""
    padded = compile_chain("tokens", fields.Tokens("int32"), [tr.Cast("int64"), tr.Pad(6, value=-100)])
    assert padded.output == Spec((6,), "int64")
    assert run(padded, np.arange(4, dtype=np.int32)).tolist() == [0, 1, 2, 3, -100, -100]
    ragged = compile_chain("tokens", fields.Tokens("int32"), [tr.Cast("int64")])
    assert ragged.output == Ragged("int64")
    out = np.empty(4, np.int64)
    ragged.run(np.arange(4, dtype=np.int32), 0, 0, out)
    assert out.tolist() == [0, 1, 2, 3]


def test_scalars() -> None:
    """A column of numbers can be cast and normalised."""
    chain = compile_chain("label", fields.Scalar("int64"), [tr.Cast("float32"), tr.Normalize(2, 4)])
    assert run(chain, np.array(10)).item() == 2.0
    assert chain.rowwise


def test_what_columns_hand_over() -> None:
    """Fields describe themselves to the first op; three-dimensional arrays with one or three channels are images."""
    assert given_of(fields.Array((8, 9, 3), "uint8")) == Spec((8, 9, 3), "uint8", "HWC")
    assert given_of(fields.Array((3, 8, 9), "float32")) == Spec((3, 8, 9), "float32", "CHW")
    assert given_of(fields.Array((5, 8, 9), "float32")) == Spec((5, 8, 9), "float32", None)
    assert given_of(fields.Text()) == Ragged("uint8")


@pytest.mark.parametrize(
    ("field", "ops", "message"),
    [
        (
            fields.Scalar(),
            [tr.Resize(4)],
            r"column 'x': Resize\(size=4, max_size=None\) works on images, not on int64 \[\]: use it on a column of Image",
        ),
        (
            JPEG,
            [tr.RandomHorizontalFlip()],
            r"column 'x': RandomHorizontalFlip\(p=0.5\) yields \[3, any, any\]: add Resize\(\(height, width\)\), CenterCrop",
        ),
        (JPEG, [], r"column 'x': Decode\(.*\) yields \[3, any, any\]: add Resize"),
        (JPEG, [tr.Resize(224)], r"column 'x': Resize\(size=224, max_size=None\) yields \[3, any, any\]"),
        (JPEG, [tr.Normalize(0, 1), tr.Resize((4, 4))], r"column 'x': Resize\(.*not on float32 \[any, any, 3\] HWC: put it before Normalize"),
        (JPEG, [tr.Resize((4, 4)), tr.Decode()], r"column 'x': Decode\(.* takes encoded image bytes, not uint8 \[4, 4, 3\] HWC: it comes first"),
        (JPEG, [tr.CenterCrop(4), tr.Pad(3)], r"column 'x': Pad\(.*not on uint8 \[4, 4, 3\] HWC: remove it"),
        (fields.Tokens(), [tr.Normalize(0, 1)], r"column 'x': Normalize\(.*: put Pad\(length\) and Cast\('float32'\) before it"),
        (
            fields.Scalar(),
            [lambda x: x],
            r"column 'x': <function .* is not a transform; a function on whole samples goes to the loader's map= argument",
        ),
        (JPEG, [tr.Resize], r"column 'x': <class .*Resize'> is not a transform"),
    ],
)
def test_refused_before_anything_runs(field: Any, ops: Any, message: str) -> None:
    """A chain that cannot work is refused when it is compiled, naming column, op, what it got and the remedy."""
    with pytest.raises(BadRequest, match=message):
        compile_chain("x", field, ops)


def test_damage_leaves_the_place_to_the_caller() -> None:
    """A damaged image is bad data without a place; the caller adds shard and row."""
    chain, data = compile_chain("image", JPEG, USUAL), encode(photo(60, 80))
    with pytest.raises(BadData, match=r"^the JPEG of \d+ bytes, 80 x 60 pixels, is damaged") as caught:
        run(chain, data[: data.size // 2])
    assert str(caught.value.at(shard="a", row=3)).startswith("shard a, row 3: the JPEG")
    with pytest.raises(BadData, match="above the cap"):
        run(compile_chain("image", JPEG, [tr.Decode(max_pixels=100), *USUAL]), data)
    run(chain, data)


def test_a_wrong_slot_is_refused() -> None:
    """A slot of another shape or dtype is refused by name rather than written beyond its end."""
    chain, data = compile_chain("image", JPEG, USUAL), encode(photo(60, 80))
    for out in (np.empty((3, 47, 48), np.float32), np.empty((3, 48, 48), np.float64), np.empty((48, 3, 48), np.float32).transpose(1, 0, 2)):
        with pytest.raises(BadRequest, match=r"column 'image': the slot is .*, not float32 \[3, 48, 48\]"):
            chain.run(data, 0, 0, out)


def test_warming(tmp_path: Any) -> None:
    """In a fresh cache folder a chain is cold, warming compiles, then nothing more is compiled; the next process only loads."""
    program = """
from penstock import fields
import penstock.transforms as tr
from penstock.transforms.chain import compile_chain
chain = compile_chain("i", fields.Image(), [tr.RandomCrop(8, pad_if_needed=True), tr.Grayscale(3)])
print(chain.cold(), chain.warm() > 0, chain.warm(), chain.cold())
"""
    answers = [
        subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            env={"PENSTOCK_KERNEL_CACHE": str(tmp_path), "PATH": "/usr/bin:/bin"},
        ).stdout.split()
        for _ in range(2)
    ]
    assert answers == [["True", "True", "0", "False"], ["False", "False", "0", "False"]]


def test_chains_without_pixels_need_no_kernels() -> None:
    """A chain on numbers is never cold, and warming it compiles nothing."""
    chain = compile_chain("x", fields.Scalar("float32"), [tr.Normalize(0, 1)])
    assert (chain.kernels(), chain.cold(), chain.warm()) == ((), False, 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_images_decoded_at_a_fraction_stay_close(orientation: int) -> None:
    """A photograph that is turned upright and much reduced stays within 3 grey levels of Pillow, also when its sides are no multiples of the fraction."""
    picture = Pillow.fromarray(load_sample_images().images[0]).crop((10, 20, 10 + 313, 20 + 299))
    exif = Pillow.Exif()
    exif[0x112] = orientation
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=92, exif=exif)
    chain = compile_chain("i", fields.Image("jpeg"), [tr.Decode(apply_exif_orientation=True), tr.Resize((24, 24)), tr.ToLayout("HWC")])
    out = np.empty((24, 24, 3), np.uint8)
    chain.run(np.frombuffer(file.getvalue(), np.uint8), 0, 0, out)
    upright = ImageOps.exif_transpose(Pillow.open(file)).resize((24, 24), Pillow.Resampling.BILINEAR)
    assert np.abs(out.astype(float) - np.asarray(upright)).mean() <= 3


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    channels=st.sampled_from([1, 3]),
    target=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    scale=st.sampled_from([(0.08, 1.0), (0.9, 1.0), (1.0, 1.0), (0.001, 0.01)]),
    ratio=st.sampled_from([(0.75, 4 / 3), (1.0, 1.0), (0.1, 10.0)]),
    flips=st.integers(0, 2),
    floats=st.booleans(),
    layout=st.sampled_from(["HWC", "CHW"]),
    seed=st.integers(0, 2**64 - 1),
)
def test_many_images_at_once_are_what_each_is_alone(
    size: tuple[int, int],
    channels: int,
    target: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    flips: int,
    floats: bool,
    layout: Any,
    seed: int,
) -> None:
    """Stored images that are cropped at random, resized and mirrored in one call are bit for bit what `run` and the reference make of each."""
    ops: list[Any] = [tr.RandomResizedCrop(target, scale, ratio), *[tr.RandomHorizontalFlip(0.5)] * flips]
    ops += [tr.Normalize((0.5,) * channels, (0.25,) * channels)] if floats else []
    chain = compile_chain("image", fields.Array((*size, channels), "uint8"), [*ops, tr.ToLayout(layout)])
    assert chain.together
    images = [np.random.default_rng(n).integers(0, 256, (*size, channels), np.uint8) for n in range(5)]
    assert isinstance(chain.output, Spec)
    out = np.empty((5, *chain.output.fixed_shape), chain.output.dtype)
    keys, samples = [(seed + n) % 2**64 for n in range(5)], [seed % 1000, 7, 2**40 + seed % 9, 3, 3]
    chain.run_together(images, keys, samples, out)
    for image, key, sample, found in zip(images, keys, samples, out, strict=True):
        alone = np.empty_like(found)
        chain.run(image, key, sample, alone)
        assert np.array_equal(found, alone)
        assert np.array_equal(found, chain.reference(image, key, sample))


def test_what_would_be_written_beyond_a_batch_is_refused() -> None:
    """Slots that are too few, of another dtype or not end to end, and crops that an op draws beyond the images, are refused before the kernel is called."""
    chain = compile_chain("image", fields.Array((20, 30, 3), "uint8"), [tr.RandomResizedCrop(8)])
    images = [np.zeros((20, 30, 3), np.uint8)] * 4
    good = np.empty((4, 8, 8, 3), np.uint8)
    for out in (good[:3], np.empty((5, 8, 8, 3), np.uint8), np.empty((4, 8, 8, 3), np.float32), np.empty((8, 8, 8, 3), np.uint8)[::2]):
        with pytest.raises(BadRequest, match="the slots are"):
            chain.run_together(images, [1] * 4, [1] * 4, out)

    class Beyond(tr.RandomResizedCrop):  # type: ignore[misc]  # the room hands its names out one by one
        def crops(self, height: int, width: int, *words: Any) -> Any:
            boxes, size = super().crops(height, width, *words)
            return boxes + np.array([0, 0, height, 0]), size

    chain = compile_chain("image", fields.Array((20, 30, 3), "uint8"), [Beyond(8)])
    assert chain.together
    with pytest.raises(BadRequest, match="crops beyond images of 20 x 30 pixels"):
        chain.run_together(images, [1] * 4, [1] * 4, good)
