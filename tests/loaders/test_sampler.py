"""What frameworks see of a loader: a sampler whose epochs they set, from wherever they count, and a batch sampler that says who should not read it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

import penstock as ps


def rows(batches: Any) -> list[list[int]]:
    """Return the rows of each batch."""
    return [batch["n"].tolist() for batch in batches]


def epochs(fifty: ps.Dataset, *wanted: int) -> list[list[list[int]]]:
    """Return the batches of these epochs."""
    loader = ps.DataLoader(fifty, 8, shuffle=True)
    found = []
    for epoch in wanted:
        loader.set_epoch(epoch)
        found.append(rows(loader))
    return found


def resumed(fifty: ps.Dataset, epoch: int, step: int) -> ps.DataLoader:
    """Return a loader that stands behind so many steps of an epoch."""
    loader = ps.DataLoader(fifty, 8, shuffle=True)
    loader.load_state_dict(json.loads(json.dumps(loader.state_at(epoch, step))))
    return loader


def test_a_framework_that_counts_from_its_start_goes_on_from_the_resumed_epoch(fifty: ps.Dataset) -> None:
    """Epochs set from 0 on behind a state of epoch 3, as Fabric does, are 3, 4 and 5; so it is after another state, and told twice it is the same."""
    loader = resumed(fifty, 3, 2)
    found = []
    for epoch in range(3):
        for _ in range(2):
            loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        found.append(rows(loader))
    three, four, five = epochs(fifty, 3, 4, 5)
    assert found == [three[2:], four, five]
    loader.load_state_dict(loader.state_at(7, 6))
    loader.sampler.set_epoch(2)  # type: ignore[attr-defined]
    assert rows(loader) == epochs(fifty, 7)[0][6:]


def test_a_framework_that_keeps_its_epoch_is_taken_at_its_word(fifty: ps.Dataset) -> None:
    """The resumed epoch or a later one means itself, so does any epoch that the loader itself is told, and without a resume all do."""
    loader = resumed(fifty, 3, 2)
    loader.sampler.set_epoch(3)  # type: ignore[attr-defined]
    assert rows(loader) == epochs(fifty, 3)[0][2:]
    loader.sampler.set_epoch(1)  # type: ignore[attr-defined]
    assert rows(loader) == epochs(fifty, 1)[0]
    loader = resumed(fifty, 3, 2)
    loader.set_epoch(0)
    assert rows(loader) == epochs(fifty, 0)[0]
    loader.sampler.set_epoch(2)  # type: ignore[attr-defined]
    assert rows(loader) == epochs(fifty, 2)[0]


@pytest.mark.parametrize("step", [0, 1, 6, 7])
def test_the_state_of_a_step_is_the_one_saved_there(fifty: ps.Dataset, step: int) -> None:
    """state_at names the same place as state_dict does behind as many batches, and what is left comes from there on."""
    loader = ps.DataLoader(fifty, 8, shuffle=True)
    loader.set_epoch(2)
    batches = iter(loader)
    for _ in range(step):
        next(batches)
    assert loader.state_at(2, step) == loader.state_dict()
    assert rows(resumed(fifty, 2, step)) == epochs(fifty, 2)[0][step:]


@pytest.mark.parametrize(
    ("epoch", "step", "match"), [(-1, 0, "count from 0"), (0, 8, "7 steps"), (0, -1, "7 steps"), (2**60, 0, r"2\*\*62"), (0, 1.5, "integer")]
)
def test_steps_that_no_epoch_has_are_refused(fifty: ps.Dataset, epoch: Any, step: Any, match: str) -> None:
    """Negative ones, ones behind the end, fractions, and epochs beyond the end of a run."""
    with pytest.raises(ps.BadRequest, match=match):
        ps.DataLoader(fifty, 8).state_at(epoch, step)
    with pytest.raises(ps.BadRequest, match="stored data only"):
        ps.DataLoader([1, 2, 3]).state_at(0, 0)


def test_who_reads_the_rows_with_another_loader_is_told(fifty: ps.Dataset) -> None:
    """A torch loader built from our batch sampler gets the rows of the epoch, with a warning that names the helpers."""
    ours = ps.DataLoader(fifty, 8, shuffle=True)
    rebuilt = torch.utils.data.DataLoader(fifty.to_torch(), batch_sampler=ours.batch_sampler)
    with pytest.warns(UserWarning, match=r"integrations\.accelerate\.prepare.*integrations\.transformers\.attach"):
        assert rows(rebuilt) == epochs(fifty, 0)[0]


def test_a_loader_read_twice_in_an_epoch_of_the_frameworks_goes_on_as_without_a_break(fifty: ps.Dataset) -> None:
    """Where a framework cycles a short loader, so that its own epoch is told once for two of ours, a resume inside the second goes on there, and the next epoch told means itself."""
    loader = ps.DataLoader(fifty, 8, shuffle=True)
    loader.sampler.set_epoch(0)  # type: ignore[attr-defined]
    rows(loader)
    batches = iter(loader)
    for _ in range(3):
        next(batches)
    state = json.loads(json.dumps(loader.state_dict()))
    again = ps.DataLoader(fifty, 8, shuffle=True)
    again.load_state_dict(state)
    again.sampler.set_epoch(0)  # type: ignore[attr-defined]
    assert rows(again) == epochs(fifty, 1)[0][3:]
    for one in (loader, again):
        one.sampler.set_epoch(1)  # type: ignore[attr-defined]
        assert rows(one) == epochs(fifty, 1)[0]
    with pytest.raises(ps.BadRequest, match="sampler_epoch -1"):
        again.load_state_dict({**state, "sampler_epoch": -1})


def test_a_loader_that_lightning_builds_anew_says_why_it_cannot(fifty: ps.Dataset) -> None:
    """Made from our batch sampler, or from another around it, the error names what does that and what to do instead."""
    ours = ps.DataLoader(fifty, 8).batch_sampler

    class Around:
        """As Lightning wraps it to predict."""

        def __init__(self, batch_sampler: Any) -> None:
            self._batch_sampler = batch_sampler

    for sampler in (ours, Around(ours)):
        with pytest.raises(ps.BadRequest, match=r"Lightning does to predict.*dataset\.to_torch\(\)"):
            ps.DataLoader(fifty, batch_sampler=sampler)
    with pytest.raises(ps.BadRequest, match="use batch_size= and tail="):
        ps.DataLoader(fifty, batch_sampler=[[1]])
