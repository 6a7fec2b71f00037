"""A user's function is held to the shapes of its first result, gets keyed randomness, and travels by cloudpickle."""

from __future__ import annotations

from typing import Any

import cloudpickle
import numpy as np
import pytest

from penstock.errors import BadData, BadRequest
from penstock.transforms import Map
from penstock.transforms.base import Spec

SAMPLE: dict[str, Any] = {"x": np.arange(3, dtype=np.float32), "n": np.int64(4)}
BATCH: dict[str, Any] = {"x": np.arange(12, dtype=np.float32).reshape(4, 3), "n": np.arange(4)}


def test_declares_what_the_first_sample_gives() -> None:
    """Arrays, numbers and truth values are declared by shape and dtype, and later samples come out so."""
    declared = Map(lambda s: {"y": s["x"] * int(s["n"]), "z": 1.5, "ok": True}).declare(SAMPLE, 0, 0)
    assert declared.outputs == {"y": Spec((3,), "float32"), "z": Spec((), "float64"), "ok": Spec((), "bool")}
    result = declared.run({"x": np.ones(3, np.float32), "n": np.int64(2)}, 0, 1)
    assert result["y"].tolist() == [2, 2, 2]
    assert result["z"].item() == 1.5


def test_batched_functions_see_batches() -> None:
    """A batched function is probed with a batch of one, declares rows, and gets whole batches or single samples as batches of one."""
    seen = []

    def double(batch: Any) -> Any:
        seen.append(batch["x"].shape)
        return {"y": batch["x"] * 2}

    declared = Map(double, batched=True).declare(SAMPLE, 0, 0)
    assert declared.outputs == {"y": Spec((3,), "float32")}
    assert np.array_equal(declared.run_batch(BATCH, [0] * 4, [5, 6, 7, 8])["y"], BATCH["x"] * 2)
    assert declared.run(SAMPLE, 0, 0)["y"].tolist() == [0, 2, 4]
    assert seen == [(1, 3), (4, 3), (1, 3)]


def test_a_map_on_samples_over_a_batch() -> None:
    """Run on a batch, a map on samples gives what it gives on each."""
    declared = Map(lambda s: {"y": s["x"].sum() + s["n"]}).declare(SAMPLE, 0, 0)
    assert declared.run_batch(BATCH, [0] * 4, range(4))["y"].tolist() == [(row.sum() + n) for row, n in zip(BATCH["x"], BATCH["n"], strict=True)]


@pytest.mark.parametrize("batched", [False, True])
def test_randomness_is_keyed(batched: bool) -> None:
    """With random=True a sample's draws depend on (key, sample) alone, also inside a batch of any composition."""

    def jitter(rows: Any, rng: Any) -> Any:
        return {"y": np.array([one.random() for one in rng]) if batched else rng.random()}

    declared = Map(jitter, batched=batched, random=True).declare(SAMPLE, 7, 0)
    alone = [declared.run(SAMPLE, 7, sample)["y"].item() for sample in range(4)]
    assert declared.run_batch(BATCH, [7] * 4, [0, 1, 2, 3])["y"].tolist() == alone
    assert declared.run_batch({name: column[:2] for name, column in BATCH.items()}, [7, 7], [3, 1])["y"].tolist() == [alone[3], alone[1]]
    assert len({*alone, declared.run(SAMPLE, 8, 0)["y"].item()}) == 5


@pytest.mark.parametrize(
    ("later", "message"),
    [
        ({"y": np.zeros(4, np.float32)}, r"field y: map=.* returned float32 \[4\]; on the first sample it was float32 \[3\]; all must agree"),
        ({"y": np.zeros(3, np.float64)}, r"field y: map=.* returned float64 \[3\]"),
        ({"y": "text"}, "field y: map=.* returned str"),
        ({"y": [[1], [1, 2]]}, "field y: map=.* returned list"),
        ({"z": 1}, r"map=.* returned \['z'\]; on the first sample it returned fields \['y'\]"),
        (None, r"map=.* returned NoneType; on the first sample"),
    ],
)
def test_later_results_must_agree(later: Any, message: str) -> None:
    """A result of another shape, dtype, type or set of fields is bad data that names field, expected and got."""
    answers = iter([{"y": np.zeros(3, np.float32)}, later])
    declared = Map(lambda _: next(answers)).declare(SAMPLE, 0, 0)
    with pytest.raises(BadData, match=message):
        declared.run(SAMPLE, 0, 1)


def test_a_batch_must_keep_its_samples() -> None:
    """A batched function that returns another number of rows is bad data."""
    declared = Map(lambda b: {"y": b["x"][:1]}, batched=True).declare(SAMPLE, 0, 0)
    with pytest.raises(BadData, match=r"field y: .* returned float32 \[1, 3\]; on the first sample it was float32 \[4, 3\]"):
        declared.run_batch(BATCH, [0] * 4, range(4))


@pytest.mark.parametrize(
    ("fn", "batched", "message"),
    [
        (lambda _: [1], False, "returned list, not a dict of arrays by name"),
        (lambda _: {}, False, "returned dict, not a dict"),
        (lambda _: {"y": "text"}, False, "field 'y' is str, not an array or a number"),
        (lambda _: {3: 1.0}, False, r"field 3 is float64 \[\], not an array"),
        (lambda _: {"y": 1.0}, True, r"field 'y' is float64 \[\], not an array whose first dimension counts the batch's samples"),
    ],
)
def test_refused_results(fn: Any, batched: bool, message: str) -> None:
    """A first result that is no dict of numeric arrays is refused by name before training starts."""
    with pytest.raises(BadRequest, match=message):
        Map(fn, batched=batched).declare(SAMPLE, 0, 0)


def test_refused_function() -> None:
    """What cannot be called is refused when the map is made."""
    with pytest.raises(BadRequest, match="fn=3 cannot be called"):
        Map(3)


def test_errors_of_the_function_come_through() -> None:
    """An exception in the user's function is the user's: it is not dressed up."""

    def broken(_: Any) -> Any:
        raise KeyError("theirs")

    with pytest.raises(KeyError, match="theirs"):
        Map(broken).declare(SAMPLE, 0, 0)


def test_lambdas_travel() -> None:
    """A declared map with a lambda and a closure crosses to a worker by cloudpickle."""
    factor = 3
    declared = cloudpickle.loads(cloudpickle.dumps(Map(lambda s: {"y": s["x"] * factor}).declare(SAMPLE, 0, 0)))
    assert declared.run(SAMPLE, 0, 0)["y"].tolist() == [0, 3, 6]
