"""Ops on tokens: shifted labels, BERT's masking with labels that agree, and columns that begin with another's values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock import transforms as T  # noqa: N812  (the name torchvision's users know)
from penstock.errors import BadRequest
from penstock.fields import Array, Image, Tokens
from penstock.transforms.base import Spec
from penstock.transforms.chain import compile_chain
from penstock.transforms.random import Random

SEQUENCE = Spec((4000,), "int64")


def chosen(value: Any, p: float, special: tuple[int, ...], rng: Random) -> list[bool]:
    """Return which tokens are chosen, one draw after the other."""
    return [rng.uniform() < p and token not in special for token in value.tolist()]


def test_labels_are_one_token_ahead() -> None:
    """Each label is the next token, in one sequence and in a batch of them; the last is left out; an empty run stays empty."""
    op = T.ShiftLabels()
    rows = np.arange(12).reshape(3, 4)
    assert op.apply(rows, SEQUENCE, Random(0, 0)).tolist() == [[1, 2, 3, -100], [5, 6, 7, -100], [9, 10, 11, -100]]
    assert op.apply(rows[0], SEQUENCE, Random(0, 0)).tolist() == [1, 2, 3, -100]
    assert op.apply(rows[0, :0], SEQUENCE, Random(0, 0)).tolist() == []


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, 50))
def test_masking_draws_as_the_generator_says(key: int, sample: int, length: int) -> None:
    """The vector of draws is the generator's, one by one: first which are chosen, then what becomes of each, then the other tokens."""
    value = np.random.default_rng(length).integers(0, 100, length)
    rng = Random(key, sample, 0xFFFFFFFE)
    wanted = chosen(value, 0.3, (7, 8), rng)
    fates = [rng.uniform() for _ in range(length)]
    others = [(rng.bits() >> 32) * 100 >> 32 for _ in range(length)]
    expected = [
        (999 if fate < 0.8 else other if fate < 0.9 else token) if hit else token
        for token, hit, fate, other in zip(value.tolist(), wanted, fates, others, strict=True)
    ]
    op = T.MaskTokens(999, 100, p=0.3, special_ids=(7, 8))
    assert op.apply(value, SEQUENCE, Random(key, sample, 3)).tolist() == expected
    labels = op.labels().apply(value, SEQUENCE, Random(key, sample, 1)).tolist()
    assert labels == [token if hit else -100 for token, hit in zip(value.tolist(), wanted, strict=True)]


def test_masking_has_berts_shares() -> None:
    """Of many tokens 15 % are chosen; of those 80 % are hidden, 10 % replaced; what was not chosen is as it was, and so are special tokens."""
    value = np.random.default_rng(0).integers(0, 1000, 4000)
    op = T.MaskTokens(1000, 1000, special_ids=[5])
    masked, labels = (one.apply(value, SEQUENCE, Random(1, 2)) for one in (op, op.labels()))
    hit = labels != -100
    assert 0.13 < hit.mean() < 0.17
    assert 0.75 < (masked[hit] == 1000).mean() < 0.85
    assert 0.07 < ((masked[hit] != 1000) & (masked[hit] != value[hit])).mean() < 0.13
    assert (masked[~hit] == value[~hit]).all()
    assert not hit[value == 5].any()
    assert not np.array_equal(masked, op.apply(value, SEQUENCE, Random(1, 3)))


def test_a_chain_on_documents_of_any_length_and_on_sequences() -> None:
    """The ops stand in chains on ragged and on fixed tokens, behind casts and padding, and shifting alone works on whole batches."""
    ragged = compile_chain("ids", Tokens("uint16"), [T.Cast("int64"), T.MaskTokens(60_000, 50_000), T.Pad(9, 1)])
    out = np.empty(9, np.int64)
    ragged.run(np.arange(5, dtype=np.uint16), 1, 2, out)
    assert np.array_equal(out, ragged.reference(np.arange(5, dtype=np.uint16), 1, 2))
    assert out[5:].tolist() == [1] * 4
    assert compile_chain("labels", Array((8,), "int32"), [T.ShiftLabels()], "ids").rowwise
    assert not compile_chain("ids", Array((8,), "int32"), [T.MaskTokens(1, 2)]).rowwise


@pytest.mark.parametrize(
    ("make", "field", "named"),
    [
        (T.ShiftLabels, Array((8,), "uint16"), r"ignore_index=-100 is no uint16; put Cast"),
        (T.ShiftLabels, Array((8,), "float32"), "works on sequences of tokens"),
        (T.ShiftLabels, Array((8, 2), "int32"), "works on sequences of tokens"),
        (T.ShiftLabels, Image("jpeg"), "works on sequences of tokens"),
        (lambda: T.MaskTokens(70_000, 10), Tokens("uint16"), "mask_id=70000 is no uint16"),
        (lambda: T.MaskTokens(1, 70_000), Tokens("uint16"), "vocab_size=69999 is no uint16"),
        (lambda: T.MaskTokens(1, 10).labels(), Tokens("uint16"), "ignore_index=-100 is no uint16"),
        (lambda: T.MaskTokens(1, 0), Tokens("uint16"), "vocab_size=0"),
        (lambda: T.MaskTokens(1, 5, p=2), Tokens("uint16"), "p=2"),
        (lambda: T.MaskTokens(1, 5, special_ids=3), Tokens("uint16"), "special_ids=3"),
        (lambda: T.From("x"), Tokens("uint16"), "stands first in the chain of a new column"),
    ],
)
def test_what_does_not_fit_is_refused(make: Any, field: Any, named: str) -> None:
    """Numbers that the dtype cannot hold, values that are no tokens, and arguments out of range are refused by name."""
    with pytest.raises(BadRequest, match=named):
        compile_chain("ids", field, [make()])
