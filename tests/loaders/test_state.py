"""The state: small, JSON, and refused by name when the plan is another."""

from __future__ import annotations

import json

import pytest

from penstock.errors import BadRequest
from penstock.loaders import state
from penstock.loaders.state import Fingerprint, Progress

HERE = Fingerprint(dataset_version=3, dataset_digest="00ff", rows=100, seed=1, shuffle=True)


@pytest.mark.parametrize("progress", [Progress(), Progress(epoch=2, samples=40, under_way=True), Progress(epoch=1, samples=100, under_way=True)])
def test_round_trip_through_json(progress: Progress) -> None:
    """What is saved comes back, through JSON, in a few hundred bytes."""
    text = json.dumps(state.save(HERE, progress))
    assert len(text) < 400
    assert state.load(json.loads(text), HERE) == progress


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"dataset_version": 4}, "dataset_version was 3, is 4"),
        ({"dataset_digest": "11"}, "dataset_digest was '00ff', is '11'"),
        ({"seed": 2}, "seed was 1, is 2"),
        ({"shuffle": False}, "shuffle was True, is False"),
        ({"rows": 101}, "rows was 100, is 101"),
        ({"order_format": 9}, "order_format was 1, is 9"),
    ],
)
def test_another_plan_is_refused_by_name(change: dict[str, object], named: str) -> None:
    """Each thing that decides the order is compared, and the difference named."""
    with pytest.raises(BadRequest, match=named):
        state.load(state.save(HERE, Progress()), HERE._replace(**change))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "broken",
    [
        None,
        {},
        {"penstock_state": 2},
        {**state.save(HERE, Progress()), "plan": 7},
        {**state.save(HERE, Progress()), "samples": 101},
        {**state.save(HERE, Progress()), "samples": "5"},
        {**state.save(HERE, Progress()), "epoch": -1},
        {**state.save(HERE, Progress()), "under_way": 1},
    ],
)
def test_garbage_is_refused(broken: object) -> None:
    """A state that is no state, or holds no place in the dataset, is refused."""
    with pytest.raises(BadRequest):
        state.load(broken, HERE)
