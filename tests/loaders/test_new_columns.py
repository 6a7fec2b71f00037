"""Columns that begin with another one's values: labels beside the tokens they are of, made the same by every path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contracts.loaders import check_resumes_at_every_step

import penstock as ps
from penstock import transforms as T  # noqa: N812  (the name torchvision's users know)
from penstock.errors import BadRequest

MASK = T.MaskTokens(60_000, 50_000)


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> ps.Dataset:
    """Return documents of 0 to 30 tokens."""
    path = tmp_path_factory.mktemp("documents") / "out"
    rng = np.random.default_rng(5)
    with ps.Writer(path, fields={"tokens": ps.Tokens("uint16"), "n": ps.Scalar("int64")}, shard_size="4KB") as writer:
        for n in range(300):
            writer.write({"tokens": rng.integers(0, 50_000, n % 31).astype(np.uint16), "n": n})
    return ps.Dataset(path)


@pytest.mark.parametrize("workers", [0, 2])
def test_shifted_labels_of_windows(documents: ps.Dataset, workers: int) -> None:
    """Labels are the next tokens of the very windows they stand beside, whether those are changed themselves or not."""
    windows = ps.TokenWindows(documents, 20, dtype="int64")
    for own in ({}, {"tokens": [T.Cast("int32")]}):
        ops = {**own, "labels": [T.From("tokens"), T.ShiftLabels()]}
        seen = 0
        for batch in ps.DataLoader(windows, batch_size=16, shuffle=True, num_workers=workers, transforms=ops, output="numpy"):
            assert list(batch) == ["tokens", "labels"]
            assert batch["tokens"].dtype == ("int32" if own else "int64")
            assert batch["labels"].dtype == np.int64
            assert (batch["labels"][:, :-1] == batch["tokens"][:, 1:]).all()
            assert (batch["labels"][:, -1] == -100).all()
            seen += len(batch["labels"])
        assert seen == len(windows)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("source", ["windows", "documents"])
def test_masked_tokens_and_their_labels_agree(documents: ps.Dataset, source: str, workers: int) -> None:
    """Where a label stands a token was chosen, elsewhere the token is as it was; over windows, and over documents of any length."""
    data: Any = ps.TokenWindows(documents, 50, dtype="int64") if source == "windows" else documents
    first = [] if source == "windows" else [T.Cast("int64")]
    ops = {"masked": [T.From("tokens"), *first, MASK], "labels": [T.From("tokens"), T.Cast("int32"), *first, MASK.labels()]}
    hidden = chosen = 0
    for batch in ps.DataLoader(data, batch_size=32, shuffle=True, num_workers=workers, transforms=ops, output="numpy"):
        tokens, masked, labels = ((batch[n].values if source == "documents" else batch[n].reshape(-1)) for n in ("tokens", "masked", "labels"))
        hit = labels != -100
        assert (labels[hit] == tokens[hit]).all()
        assert (masked[~hit] == tokens[~hit]).all()
        hidden, chosen = hidden + int((masked[hit] == 60_000).sum()), chosen + int(hit.sum())
    assert 0.7 < hidden / chosen < 0.9


def test_every_cut_resumes(documents: ps.Dataset) -> None:
    """A loader with new columns cut anywhere goes on with the same rest."""
    ops = {"tokens": [T.Cast("int64"), MASK, T.Pad(40)], "labels": [T.From("tokens"), T.Cast("int64"), MASK.labels(), T.Pad(40, -100)]}
    check_resumes_at_every_step(lambda: ps.DataLoader(documents, batch_size=64, shuffle=True, transforms=ops, output="numpy"))


def test_a_map_sees_new_columns(documents: ps.Dataset) -> None:
    """A function on samples, or on batches, gets new columns beside the others, as arrays."""
    ops = {"labels": [T.From("tokens"), T.Cast("int64"), T.ShiftLabels()]}

    def count(sample: dict[str, Any]) -> dict[str, Any]:
        assert sample["labels"][:-1].tolist() == sample["tokens"][1:].tolist()
        return {"n": sample["n"], "size": sample["labels"].size}

    for batch in ps.DataLoader(documents, batch_size=50, transforms=ops, map=count, output="numpy"):
        assert (batch["size"] == batch["n"] % 31).all()


def test_new_columns_of_a_mixture_and_of_packed_sequences(documents: ps.Dataset, tmp_path: Path) -> None:
    """Mixtures and packed sequences take them too."""
    packed = ps.Packed(documents, 64, dtype="int64")
    ops = {"labels": [T.From("input_ids"), T.ShiftLabels()]}
    for source in (packed, ps.Mixture({"a": packed, "b": packed}, block=10)):
        for batch in ps.DataLoader(source, batch_size=8, shuffle=True, transforms=ops, output="numpy"):
            assert (batch["labels"][:, :-1] == batch["input_ids"][:, 1:]).all()


def test_names_that_cannot_be_are_refused(documents: ps.Dataset) -> None:
    """A new column needs a name of its own and a column that exists, and From stands first."""
    for ops, named in (
        ({"tokens": [T.From("n")]}, "begins a column that is new, and the dataset has this one"),
        ({"labels": [T.From("words")]}, "transforms name 'words'"),
        ({"labels": [T.Cast("int64")]}, r"a new column begins with From\('one of them'\)"),
        ({"labels": [T.From("tokens"), T.From("tokens")]}, "stands first"),
    ):
        with pytest.raises(BadRequest, match=named):
            ps.DataLoader(documents, transforms=ops)
