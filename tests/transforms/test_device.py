"""What a device does to a batch equals what workers do to its samples; run on the CPU, where torch's arithmetic is a device's, and on CUDA where there is one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from contracts.pictures import encode, photo
from hypothesis import given, settings
from hypothesis import strategies as st

import penstock.transforms as tr
from penstock import fields
from penstock.errors import BadRequest
from penstock.transforms.base import Spec
from penstock.transforms.chain import compile_chain
from penstock.transforms.device import DeviceChain, Keyed, mixed
from penstock.transforms.mixing import FIRST_NUMBER, BatchOp, beta
from penstock.transforms.random import Random, words_of
from penstock.transforms.split import split

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
KEYS = [7, 7, 2**64 - 1, 12345678901234567]
SAMPLES = [0, 41, 2**40 + 3, 9]
JITTER = tr.ColorJitter(0.4, 0.4, 0.4, 0.1)
NORMAL = tr.Normalize((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))


def both(field: Any, value: Any, ops: list[Any], device: str) -> tuple[Any, Any]:
    """Return what the whole chain makes of samples on the host, and what its two halves make of them."""
    whole = compile_chain("image", field, ops)
    assert isinstance(whole.output, Spec)
    expected = np.empty((len(KEYS), *whole.output.fixed_shape), whole.output.dtype)
    for key, sample, out in zip(KEYS, SAMPLES, expected, strict=True):
        whole.run(value, key, sample, out)
    cut = split("image", field, ops)
    assert cut is not None
    stays, rest = cut
    first = compile_chain("image", field, stays)
    assert first.output == rest.given
    sent = np.empty((len(KEYS), *rest.given.fixed_shape), np.uint8)
    for key, sample, out in zip(KEYS, SAMPLES, sent, strict=True):
        first.run(value, key, sample, out)
    made = DeviceChain(rest)(torch.from_numpy(sent).to(device), Keyed(words_of(KEYS), words_of(SAMPLES)))
    assert made.is_contiguous()
    return expected, made.cpu().numpy()


CHAINS: list[tuple[list[Any], int]] = [
    ([tr.RandomResizedCrop(32), tr.RandomHorizontalFlip(), NORMAL], 0),
    ([tr.Resize((30, 40)), tr.RandomHorizontalFlip(0.5), tr.ToLayout("HWC")], 0),
    ([tr.RandomResizedCrop(24), NORMAL, tr.RandomErasing(0.7, value=(0.1, 0.2, 0.3))], 0),
    ([tr.RandomResizedCrop(24), tr.RandomHorizontalFlip(), JITTER, NORMAL, tr.RandomErasing(1.0)], 1),
    ([tr.RandomResizedCrop(24), JITTER, tr.ToLayout("HWC")], 1),
    ([JITTER, tr.RandomResizedCrop(24), tr.RandomHorizontalFlip(1.0), tr.RandomErasing(0.5, value=9)], 0),
    ([tr.CenterCrop(20), tr.Grayscale(3), tr.RandomHorizontalFlip(), tr.ToDtype("float32", scale=True)], 0),
    ([tr.CenterCrop(20), tr.Grayscale(), tr.ColorJitter(0.5, 0.5, 0.5, 0.5), tr.Normalize(0.5, 0.25)], 1),
    ([tr.RandomResizedCrop(24), tr.ToDtype("float16", scale=True)], 0),
    ([tr.RandomResizedCrop(24), NORMAL, tr.ToDtype("float64"), tr.ToLayout("HWC"), tr.RandomErasing(0.9)], 0),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("ops", "levels"), CHAINS)
@pytest.mark.parametrize("stored", [False, True])
def test_both_halves_are_the_whole(ops: list[Any], levels: int, stored: bool, device: str) -> None:
    """JPEGs and stored pixels come out as from the workers: to the last bits of a float, and where colours are changed to one grey level in few places."""
    picture = photo(60, 80)
    field = fields.Array((60, 80, 3), "uint8") if stored else fields.Image("jpeg")
    expected, found = both(field, picture if stored else encode(picture), ops, device)
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    gap = np.abs(found.astype(np.float64) - expected)
    exact = gap <= 2e-3 if expected.dtype == np.float16 else gap <= 1e-5
    if expected.dtype == np.uint8:
        assert gap.max() <= levels
    else:
        assert gap.max() <= 1e-5 + levels * 1.001 / 255 / 0.2 or expected.dtype == np.float16
    assert exact.mean() > 0.98


def test_what_shrinks_an_image_stays() -> None:
    """The cut is behind the last op that moves pixels to a size of its own; nothing goes where nothing is done to bytes, or where there are no bytes of images."""
    jpeg = fields.Image("jpeg")
    for ops, kept in (
        ([tr.RandomResizedCrop(8), tr.RandomHorizontalFlip(), NORMAL], [tr.Decode(), tr.RandomResizedCrop(8), tr.ToLayout("CHW")]),
        ([JITTER, tr.Resize((8, 8)), tr.Grayscale(3)], [tr.Decode(), JITTER, tr.Resize((8, 8)), tr.ToLayout("CHW")]),
        ([tr.Decode("GRAY"), tr.CenterCrop(8), NORMAL.__class__(0.5, 0.5)], [tr.Decode("GRAY"), tr.CenterCrop(8), tr.ToLayout("CHW")]),
    ):
        cut = split("image", jpeg, ops)
        assert cut is not None
        assert list(cut[0]) == kept
    assert split("image", jpeg, [tr.RandomResizedCrop(8)]) is None
    assert split("x", fields.Array((5,), "float32"), [tr.Normalize(0.5, 0.5)]) is None
    assert split("words", fields.Tokens("int32"), [tr.Pad(4)]) is None
    with pytest.raises(BadRequest, match="column 'image'"):
        split("image", jpeg, [NORMAL])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.floats(0.01, 1), st.floats(0.1, 4), st.integers(0, 2**64 - 1))
def test_erased_boxes_of_many_are_those_of_each(height: int, width: int, p: float, scale: float, ratio: float, seed: int) -> None:
    """The boxes drawn at once for a batch equal those drawn for each sample alone, and lie inside."""
    op = tr.RandomErasing(p, (scale / 2, scale), (ratio / 2, ratio))
    keys, samples = words_of([seed] * 6), words_of([seed + n for n in range(6)])
    found = op.boxes(height, width, keys, samples, 5)
    alone = [op.box(height, width, Random(int(key), int(sample), 5)) for key, sample in zip(keys, samples, strict=True)]
    assert found.tolist() == [list(box) for box in alone]
    assert (found >= 0).all()
    assert (found[:, :2] + found[:, 2:] <= (height, width)).all()


def test_erasing_stands_last_and_knows_its_channels() -> None:
    """It is refused in front of other ops and with values for other channels, and finds the implied layout behind it no hindrance."""
    jpeg = fields.Image("jpeg")
    for ops, match in (
        ([tr.RandomErasing(), tr.Resize((8, 8))], "put it behind all other ops"),
        ([tr.Resize((8, 8)), tr.RandomErasing(value=(1, 2))], "2 values for 3 channels"),
    ):
        with pytest.raises(BadRequest, match=match):
            compile_chain("image", jpeg, ops)
    for options, match in (
        ({"p": 2}, "p=2"),
        ({"scale": (0.5, 0.1)}, "scale="),
        ({"ratio": 3}, "ratio=3"),
        ({"value": "random"}, "value='random'"),
        ({"value": ()}, "empty"),
    ):
        with pytest.raises(BadRequest, match=match):
            tr.RandomErasing(**options)
    assert compile_chain("image", jpeg, [tr.Resize((8, 8)), tr.RandomErasing(1.0, value=7)]).output == Spec((3, 8, 8), "uint8", "CHW")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("op", [tr.MixUp(10, 0.2), tr.MixUp(10, 4.0), tr.CutMix(10), tr.CutMix(10, 0.1)])
def test_mixing_on_a_device_is_the_reference(op: BatchOp, device: str) -> None:
    """With torch a batch is mixed as the numpy reference mixes it, keyed by its first sample; labels sum to one."""
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(6, 3, 9, 12)).astype(np.float32), rng.integers(0, 10, 6)
    for sample in range(8):
        keyed = Keyed(words_of([5] * 6), words_of(range(sample, sample + 6)))
        batch = {"image": torch.from_numpy(images).to(device), "label": torch.from_numpy(labels).to(device)}
        found = mixed(batch, (op,), keyed)
        pixels, told = op.apply(images, labels, Random(5, sample, FIRST_NUMBER))
        assert np.allclose(found["image"].cpu(), pixels, atol=1e-6)
        assert np.allclose(found["label"].cpu(), told, atol=1e-6)
        assert np.allclose(told.sum(1), 1, atol=1e-6)
        assert torch.equal(batch["image"].cpu(), torch.from_numpy(images))
    twice = mixed(batch, (op, op), keyed)
    again = op.apply(pixels, told, Random(5, 7, FIRST_NUMBER + 1))
    assert np.allclose(twice["label"].cpu(), again[1], atol=1e-6)


@pytest.mark.parametrize("alpha", [0.01, 0.3, 1.0, 1.5, 7.0])
def test_shares_have_the_distribution_that_is_asked_for(alpha: float) -> None:
    """Mean and variance of 4,000 draws are those of Beta(alpha, alpha), within four standard errors, and all lie in [0, 1]."""
    drawn = np.array([beta(alpha, Random(1, sample)) for sample in range(4000)])
    variance = 1 / (4 * (2 * alpha + 1))
    assert ((drawn >= 0) & (drawn <= 1)).all()
    assert abs(drawn.mean() - 0.5) < 4 * (variance / 4000) ** 0.5
    assert abs(drawn.var() / variance - 1) < 0.15


def test_arguments_of_mixing_are_checked() -> None:
    """Numbers of classes and alphas that are none, and batches without such columns, are refused by name."""
    for options, match in (({"num_classes": 0}, "num_classes=0"), ({"num_classes": 3, "alpha": 0}, "alpha=0")):
        with pytest.raises(BadRequest, match=match):
            tr.MixUp(**options)
    shapes: dict[str, tuple[tuple[int, ...], str]] = {"image": ((3, 4, 4), "float32"), "label": ((), "int64")}
    tr.CutMix(3).check(shapes)
    for wrong, match in (
        ({"image": ((3, 4, 4), "uint8")}, "put Normalize or ToDtype first"),
        ({"label": ((2,), "int64")}, "not integer labels"),
        ({"label": ((), "float32")}, "not integer labels"),
    ):
        with pytest.raises(BadRequest, match=match):
            tr.CutMix(3).check({**shapes, **wrong})
    with pytest.raises(BadRequest, match="no column 'class'; the batch has image, label"):
        tr.CutMix(3, label="class").check(shapes)
