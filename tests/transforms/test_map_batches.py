"""Batched functions get every kind of value whole: numbers stacked, text and bytes and runs of unlike length as lists."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import BadData, BadRequest
from penstock.transforms import Map
from penstock.transforms.map import stacked


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=5))
def test_bytes_stay_whole(values: list[bytes]) -> None:
    """Bytes come as they are, trailing zeros included, in a list."""
    assert stacked(values) == values


@given(st.lists(st.text(max_size=20), min_size=1, max_size=5))
def test_text_stays_whole(values: list[str]) -> None:
    """Text comes as it is, trailing NULs included, in a list."""
    assert stacked(values) == values


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "int64", "float16", "float64"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 2), (0,)])
def test_numbers_of_one_shape_are_stacked(dtype: str, shape: tuple[int, ...]) -> None:
    """Numbers and arrays of one shape become one array of their dtype with the batch in front."""
    values = [np.full(shape, n, dtype) for n in range(4)]
    got = stacked(values)
    assert got.dtype == dtype
    assert got.shape == (4, *shape)
    assert all(np.array_equal(a, b) for a, b in zip(got, values, strict=True))


def test_runs_of_unlike_length_and_documents_are_lists() -> None:
    """Runs that differ in length and JSON documents are not stacked."""
    runs = [np.arange(3), np.arange(2)]
    assert stacked(runs) == runs or [r.tolist() for r in stacked(runs)] == [[0, 1, 2], [0, 1]]
    assert stacked([{"a": 1}, {"b": 2}]) == [{"a": 1}, {"b": 2}]
    assert stacked([[1, 2], [3]]) == [[1, 2], [3]]


def test_the_probe_sees_what_later_batches_hold() -> None:
    """The first call, on one sample, hands over the same types as a batch does: bytes with their zeros, text as str, documents as dicts."""
    seen: list[Any] = []

    def look(batch: Any) -> Any:
        seen.append({name: [type(v).__name__ for v in values] for name, values in batch.items()})
        sizes = np.array([np.frombuffer(b, np.int32).sum() for b in batch["raw"]])
        return {"sum": sizes, "words": np.array([len(t.split()) for t in batch["text"]]), "k": np.array([d["k"] for d in batch["doc"]])}

    sample = {"raw": b"\1\0\0\0", "text": "two words", "doc": {"k": 7}}
    declared = Map(look, batched=True).declare(sample, 0, 0)
    assert {name: spec.shape for name, spec in declared.outputs.items()} == {"sum": (), "words": (), "k": ()}
    batch = {name: stacked([value] * 3) for name, value in sample.items()}
    assert declared.run_batch(batch, [0] * 3, range(3))["sum"].tolist() == [1, 1, 1]
    assert declared.run(sample, 0, 0)["words"].item() == 2
    assert [{n: t[0] for n, t in s.items()} for s in seen] == [{"raw": "bytes", "text": "str", "doc": "dict"}] * 3


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"y": np.zeros((2, 3))}, r"field 'y' is float64 \[2, 3\], not an array whose first dimension counts the batch's samples \(1 here\)"),
        ({"y": ["a"]}, "field 'y' is list, not an array"),
        ({"y": np.array([1 + 2j])}, "field 'y' is ndarray"),
        ({"y": np.array(["2020"], "datetime64[Y]")}, "field 'y' is ndarray"),
        ([("y", 1)], "returned list, not a dict"),
        (None, "returned NoneType"),
    ],
)
def test_first_results_of_batched_functions_that_cannot_be(answer: Any, message: str) -> None:
    """A batched function whose first result has another number of rows, or no numbers, is refused before training starts."""
    with pytest.raises(BadRequest, match=message):
        Map(lambda _: answer, batched=True).declare({"x": 1}, 0, 0)


@pytest.mark.parametrize(
    ("later", "message"),
    [
        (lambda n: {"y": np.zeros(n + 1)}, r"returned float64 \[4\]; on the first sample it was float64 \[3\]"),
        (lambda n: {"y": np.zeros((n, 1))}, r"returned float64 \[3, 1\]"),
        (lambda n: {"y": np.zeros(n, np.float32)}, r"returned float32 \[3\]"),
        (lambda n: {"y": np.zeros(n), "z": 1}, r"returned \['y', 'z'\]; on the first sample it returned fields \['y'\]"),
        (lambda n: {}, r"returned \[\]"),
        (lambda n: "text", "returned str"),
    ],
)
def test_later_results_of_batched_functions_must_agree(later: Any, message: str) -> None:
    """What differs from the first result in rows, shape, dtype or fields is bad data, with expected and got."""
    calls: list[int] = []

    def function(batch: Any) -> Any:
        calls.append(1)
        return {"y": np.zeros(1)} if len(calls) == 1 else later(len(batch["x"]))

    declared = Map(function, batched=True).declare({"x": 1}, 0, 0)
    with pytest.raises(BadData, match=message):
        declared.run_batch({"x": np.arange(3)}, [0] * 3, range(3))


def test_a_batch_composed_otherwise_draws_the_same() -> None:
    """Each sample of a batch has its own generator, whatever stands beside it."""
    noisy = Map(lambda b, rngs: {"y": np.array([r.integers(0, 2**60) for r in rngs])}, batched=True, random=True).declare({"x": 1}, 3, 0)
    whole = noisy.run_batch({"x": np.arange(6)}, [3] * 6, range(6))["y"].tolist()
    parts = [noisy.run_batch({"x": np.arange(2)}, [3, 3], [n, n + 1])["y"].tolist() for n in (0, 2, 4)]
    assert [n for part in parts for n in part] == whole
    assert len(set(whole)) == 6


def test_callables_of_every_kind() -> None:
    """Classes, bound methods and partials serve, and are named in messages by what they are."""
    import functools

    class Scale:
        """Multiplies."""

        def __init__(self, factor: float) -> None:
            self.factor = factor

        def __call__(self, sample: Any) -> Any:
            return {"y": sample["x"] * self.factor}

        def method(self, sample: Any) -> Any:
            return self(sample)

    def scaled(factor: float, sample: Any) -> Any:
        return {"y": sample["x"] * factor}

    for fn in (Scale(2.0), Scale(2.0).method, functools.partial(scaled, 2.0)):
        assert Map(fn).declare({"x": 3.0}, 0, 0).run({"x": 4.0}, 0, 1)["y"].item() == 8.0
    with pytest.raises(BadRequest, match="map=partial returned list"):
        Map(functools.partial(lambda f, _: [f], 1)).declare({"x": 1}, 0, 0)
