"""The state: small, JSON, and refused by name when the plan is another."""

from __future__ import annotations

import json

import pytest

from penstock.errors import BadRequest
from penstock.loaders import state
from penstock.loaders.law import Ordering
from penstock.loaders.state import Fingerprint, Progress

HERE = Fingerprint(dataset_version=3, dataset_digest="00ff", rows=100, epoch_rows=100, ordering=Ordering(1, True))


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
        ({"ordering": Ordering(2, True)}, "seed was 1, is 2"),
        ({"ordering": Ordering(1, False)}, "shuffle was True, is False"),
        ({"ordering": Ordering(1, True, 4, 2)}, "window_shards was 0, is 4; lanes was 1, is 2"),
        ({"ordering": Ordering(1, True, epoch_samples=50)}, "epoch_samples was 0, is 50"),
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


def test_what_was_left_out_is_compared_too() -> None:
    """A state of a windowed order is refused by a loader without windows."""
    with pytest.raises(BadRequest, match="window_shards was 4, is 0"):
        state.load(state.save(HERE._replace(ordering=Ordering(1, True, 4)), Progress()), HERE)


def test_a_difference_may_be_accepted_knowingly() -> None:
    """What `accept` names may differ, and nothing else; a name that no plan has is refused, and so is a place beyond the epoch's end."""
    saved = state.save(HERE._replace(dataset_version=4, ordering=Ordering(2, True)), Progress(1, 50, True))
    assert state.load(saved, HERE, accept=["dataset_version", "seed"]) == Progress(1, 50, True)
    with pytest.raises(BadRequest, match=r"dataset_version was 4, is 3.*accept=\['dataset_version'\]"):
        state.load(saved, HERE, accept=("seed",))
    for wrong in (("sed",), "seed"):
        with pytest.raises(BadRequest, match="is no list of what a plan has"):
            state.load(saved, HERE, accept=wrong)
    with pytest.raises(BadRequest, match="no place in epochs of 40 samples"):
        state.load(
            saved, HERE._replace(epoch_rows=40, ordering=Ordering(2, True, epoch_samples=40)), accept=("dataset_version", "seed", "epoch_samples")
        )
