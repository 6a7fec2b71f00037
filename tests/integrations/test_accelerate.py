"""Accelerate's prepared loader, around our engine: what it yields, counts, skips and saves, in one process."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import penstock as ps

accelerate = pytest.importorskip("accelerate")

from accelerate.data_loader import DataLoaderShard  # noqa: E402  (only where it is installed)
from accelerate.state import AcceleratorState, PartialState  # noqa: E402  (only where it is installed)
from ranks import run_ranks  # noqa: E402  (only where it is installed)

from penstock.integrations.accelerate import PreparedLoader, prepare, skip_first_batches  # noqa: E402  (only where it is installed)


@pytest.fixture
def accelerator() -> Iterator[Any]:
    """Return an accelerator of this process alone, and leave no trace of it."""
    yield accelerate.Accelerator(cpu=True)
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState._reset_state()


def rows(batches: Any) -> list[list[int]]:
    """Return the rows of each batch."""
    return [batch["n"].tolist() for batch in batches]


def plain(fifty: ps.Dataset, epoch: int) -> list[list[int]]:
    """Return what the loader itself gives in an epoch."""
    loader = ps.DataLoader(fifty, 8, shuffle=True)
    loader.set_epoch(epoch)
    return rows(loader)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_prepared_loader_is_accelerates_and_ours(fifty: ps.Dataset, accelerator: Any, workers: int) -> None:
    """It is a DataLoaderShard and a penstock.DataLoader, epochs follow one another by themselves, and its samples are those of the loader."""
    loader = prepare(accelerator, ps.DataLoader(fifty, 8, shuffle=True, num_workers=workers))
    assert isinstance(loader, DataLoaderShard)
    assert isinstance(loader, ps.DataLoader)
    assert accelerator.prepare(loader) is loader
    assert len(loader) == 7
    assert (loader.total_batch_size, loader.total_dataset_length) == (8, 50)
    assert [rows(loader), rows(loader)] == [plain(fifty, 0), plain(fifty, 1)]
    loader.set_epoch(5)
    assert rows(loader) == plain(fifty, 5)
    assert loader.stats().batches == 7


GATHER = """
import json, os, sys
import accelerate, torch
import penstock as ps
accelerator = accelerate.Accelerator(cpu=True)
told = []
for options, start in (({}, 0), ({"epoch_samples": 37}, 0), ({}, 11), ({"tail": "drop"}, 0)):
    loader = ps.DataLoader(ps.Dataset(sys.argv[1]), 8, **options)
    loader.load_state_dict({**loader.state_dict(), "samples": start, "under_way": True})
    loader = ps.integrations.accelerate.prepare(accelerator, loader)
    seen, ends = [], []
    for batch in loader:
        ends.append(accelerator.gradient_state.end_of_dataloader)
        seen += accelerator.gather_for_metrics(batch["n"]).tolist()
    told.append([seen, ends])
try:
    ps.integrations.accelerate.prepare(accelerator, ps.DataLoader(ps.Dataset(sys.argv[1]), 8, tail="ragged"))
except ps.BadRequest as error:
    told.append(str(error))
print(json.dumps(told))
"""


def test_two_ranks_gather_every_row_once(fifty: ps.Dataset) -> None:
    """gather_for_metrics leaves out the padding of the last batch: of whole epochs, of shorter ones, and of one resumed between two batches; and the last batch is told."""
    for found in run_ranks(2, GATHER, str(fifty.path)):
        whole, shorter, resumed, dropped, refused = found
        assert sorted(whole[0]) == list(range(50))
        assert sorted(shorter[0]) == list(range(37))
        assert sorted(resumed[0]) == list(range(11, 50))
        assert sorted(dropped[0]) == list(range(48))
        for seen, ends in (whole, shorter, resumed, dropped):
            assert seen
            assert ends == [False] * (len(ends) - 1) + [True]
        assert "tail='ragged'" in refused


def test_batches_are_skipped_without_being_read(fifty: ps.Dataset, accelerator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The accelerator's own skip_first_batches begins behind so many batches of the epoch, reads none of them, and leaves the next epoch whole."""
    loader = prepare(accelerator, ps.DataLoader(fifty, 8, shuffle=True))
    loader.set_epoch(3)
    skipped = accelerator.skip_first_batches(loader, 2)
    skipped = accelerator.skip_first_batches(skipped, 3)
    assert type(skipped) is PreparedLoader
    assert len(skipped) == 2
    assert rows(skipped) == plain(fifty, 3)[5:]
    assert loader.stats().batches == 2
    assert rows(loader) == plain(fifty, 4)
    assert rows(accelerator.skip_first_batches(loader, 7)) == []
    assert rows(loader) == plain(fifty, 6)
    with pytest.raises(ps.BadRequest, match="7 steps"):
        accelerator.skip_first_batches(loader, 8)
    other: Any = torch.utils.data.DataLoader(torch.arange(6), 2)  # type: ignore[arg-type]  # a tensor is a dataset
    assert [batch.tolist() for batch in skip_first_batches(other, 1)] == [[2, 3], [4, 5]]


@pytest.mark.parametrize("skipped", [0, 2])
@pytest.mark.parametrize("at", [0, 3, 6])
@pytest.mark.parametrize("stateful", [False, True])
def test_a_checkpoint_goes_on_behind_the_batch_that_was_given(
    fifty: ps.Dataset, accelerator: Any, tmp_path: Path, at: int, skipped: int, stateful: bool
) -> None:
    """save_state inside any step, also the last, of an epoch that was begun in its middle too, and load_state in another process's place: the rest of the epoch, then the next one, nothing twice."""
    loader = prepare(accelerator, ps.DataLoader(fifty, 8, shuffle=True, num_workers=1))
    rows(loader)
    for step, _ in enumerate(accelerator.skip_first_batches(loader, skipped), skipped):
        if step == max(at, skipped):
            accelerator.save_state(str(tmp_path))
            break
    at = max(at, skipped)
    AcceleratorState._reset_state(reset_partial_state=True)
    again = accelerate.Accelerator(cpu=True, dataloader_config=accelerate.DataLoaderConfiguration(use_stateful_dataloader=stateful))
    loader = prepare(again, ps.DataLoader(fifty, 8, shuffle=True))
    again.load_state(str(tmp_path))
    expected = plain(fifty, 1)[at + 1 :] + plain(fifty, 2)
    found = rows(loader)
    while len(found) < len(expected):
        found += rows(loader)
    assert found == expected


def test_an_accelerator_that_deals_out_batches_is_refused(fifty: ps.Dataset) -> None:
    """Splitting and dispatching are refused by name, and so is a loader for other ranks than the accelerator has."""
    for options, match in (
        ({"split_batches": True}, "split_batches=True"),
        ({"dispatch_batches": True}, "dispatch_batches=True"),
        ({}, "the loader is for 4 ranks"),
    ):
        made = accelerate.Accelerator(cpu=True, dataloader_config=accelerate.DataLoaderConfiguration(**options))
        with pytest.raises(ps.BadRequest, match=match):
            prepare(made, ps.DataLoader(fifty, 8, topology=None if options else (0, 4)))
        AcceleratorState._reset_state(reset_partial_state=True)


def test_a_loader_that_accelerate_rebuilds_warns_and_names_the_helper(fifty: ps.Dataset, accelerator: Any) -> None:
    """accelerator.prepare of the loader itself reads its rows with a loader of its own, and the first of them comes with the way out."""
    rebuilt = accelerator.prepare(ps.DataLoader(fifty, 8))
    with pytest.warns(UserWarning, match=r"penstock\.integrations\.accelerate\.prepare\(accelerator, loader\)"):
        rows(rebuilt)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows(prepare(accelerator, ps.DataLoader(fifty, 8)))


def test_other_loaders_go_to_accelerate_itself(accelerator: Any) -> None:
    """A loader over a dataset of torch's kind is prepared as Accelerate does it."""
    loader = prepare(accelerator, ps.DataLoader([np.float32(n) for n in range(6)], 2))
    assert isinstance(loader, DataLoaderShard)
    assert not isinstance(loader, PreparedLoader)
    assert len(list(loader)) == 3
    plain_loader: Any = torch.utils.data.DataLoader(torch.arange(6), 2)  # type: ignore[arg-type]  # a tensor is a dataset
    assert len(list(prepare(accelerator, plain_loader))) == 3


def test_frameworks_are_found_by_name() -> None:
    """Each has its module under penstock.integrations; one that has none is told with those that have."""
    assert ps.integrations.accelerate.prepare is prepare
    with pytest.raises(AttributeError, match="it has accelerate, transformers"):
        ps.integrations.keras  # noqa: B018  (the look is the test)


def test_what_cannot_bear_reading_ahead_is_refused(fifty: ps.Dataset, accelerator: Any) -> None:
    """Accelerate has the next batch before the loop has this one: static buffers would hold the wrong one, and tickets confirm what nobody trained on."""
    loader = ps.DataLoader(fifty, 8)
    for name, value in (("static_buffers", True), ("tickets", object())):
        setattr(loader, name, value)
        with pytest.raises(ps.BadRequest, match=f"{name}="):
            prepare(accelerator, loader)
        setattr(loader, name, None)


def test_a_state_saved_between_two_epochs_is_of_the_next(fifty: ps.Dataset, accelerator: Any) -> None:
    """Behind set_epoch, and behind a loop that was left, the state is of the epoch that comes, or of the place where the loop was left."""
    loader = prepare(accelerator, ps.DataLoader(fifty, 8, shuffle=True))
    for step, _ in enumerate(loader):
        if step == 2:
            break
    assert loader.state_dict()["samples"] == 24
    loader.set_epoch(4)
    state = loader.state_dict()
    assert (state["epoch"], state["samples"]) == (4, 0)
