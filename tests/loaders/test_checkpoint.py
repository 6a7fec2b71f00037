"""The state inside other people's checkpoints: torch.save, and torch.distributed.checkpoint saved on four ranks and loaded on two and on eight."""

from __future__ import annotations

import io
import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_ranks
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # torch does not list it
from torch.distributed.checkpoint.state_dict_loader import load as load_checkpoint
from torch.distributed.checkpoint.state_dict_saver import save as save_checkpoint

import penstock as ps

PROGRAM = """
import json, os, sys
from itertools import islice
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import penstock as ps

dist.init_process_group("gloo")
loader = ps.DataLoader(ps.Dataset(sys.argv[1]), int(sys.argv[4]), shuffle=True, tail="ragged", output="numpy")
if sys.argv[3] == "save":
    batches = iter(loader)
    told = [batch["label"].tolist() for batch in islice(batches, 5)]
    dcp.save({"loader": loader}, checkpoint_id=sys.argv[2])
else:
    dcp.load({"loader": loader}, checkpoint_id=sys.argv[2])
    told = [batch["label"].tolist() for batch in loader]
print(json.dumps(told))
dist.destroy_process_group()
"""


def test_a_distributed_checkpoint_resumes_on_fewer_and_on_more_ranks(rows: ps.Dataset, tmp_path: Path) -> None:
    """A loader is a Stateful of torch.distributed.checkpoint: saved in mid-epoch on four ranks, loaded on two and on eight, the epoch is whole each time."""
    folder = str(tmp_path / "checkpoint")
    head = run_ranks(4, PROGRAM, rows.path, folder, "save", "20")
    for world, size in ((2, "33"), (8, "5")):
        rest = run_ranks(world, PROGRAM, rows.path, folder, "load", size)
        assert sorted(n for part in (head, rest) for rank in part for batch in rank for n in batch) == list(range(len(rows)))


@pytest.mark.parametrize("options", [{}, {"window_shards": 2, "lanes": 2, "epoch_samples": 700}])
def test_a_state_goes_through_torch_save(rows: ps.Dataset, options: dict[str, Any]) -> None:
    """Saved with `torch.save` and read with `weights_only`, the state is what it was, and small."""
    loader = ps.DataLoader(rows, 30, shuffle=True, **options)
    list(islice(iter(loader), 3))
    file = io.BytesIO()
    torch.save({"loader": loader.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)["loader"]
    assert state == loader.state_dict()
    assert len(json.dumps(state)) < 500
    again = ps.DataLoader(rows, 30, shuffle=True, **options)
    again.load_state_dict(state)
    assert len(list(again)) == len(loader) - 3


@pytest.mark.parametrize("options", [{"window_shards": 2, "lanes": 2}, {"epoch_samples": 70}, {"seed": 1}, {"shuffle": False}], ids=str)
def test_a_distributed_checkpoint_of_another_order_is_refused(rows: ps.Dataset, tmp_path: Path, options: dict[str, Any]) -> None:
    """torch.distributed.checkpoint loads only the keys that the loading side has; a state has them all, so that another order is refused by name through it too, both ways round."""
    one = ps.DataLoader(rows, 10, **{"shuffle": True, **options})
    other = ps.DataLoader(rows, 10, shuffle=True)
    for number, (saving, loading) in enumerate(((one, other), (other, one))):
        next(iter(saving))
        save_checkpoint({"loader": saving}, checkpoint_id=tmp_path / str(number), no_dist=True)
        with pytest.raises(Exception, match=f"the state was saved under another plan: .*{next(iter(options))} was"):
            load_checkpoint({"loader": loading}, checkpoint_id=tmp_path / str(number), no_dist=True)


def test_a_distributed_checkpoint_of_tickets_needs_tickets(rows: ps.Dataset, tmp_path: Path) -> None:
    """Tickets that are done are not dropped on the way to a loader that draws none."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    drawing = ps.DataLoader(rows, 10, tickets=store)
    batches = iter(drawing)
    next(batches)
    next(batches)
    save_checkpoint({"loader": drawing}, checkpoint_id=tmp_path / "c", no_dist=True)
    with pytest.raises(Exception, match="resume it with tickets="):
        load_checkpoint({"loader": ps.DataLoader(rows, 10)}, checkpoint_id=tmp_path / "c", no_dist=True)
    drawing.close()


def test_the_state_of_an_older_version_is_taken(rows: ps.Dataset) -> None:
    """A state without the names that say nothing, as states were written once, is taken where they say nothing, and refused elsewhere."""
    loader = ps.DataLoader(rows, 10, shuffle=True)
    state = loader.state_dict()
    old = {name: value for name, value in state.items() if name not in ("tickets", "ticket_rows", "sampler_epoch")}
    old["plan"] = {name: value for name, value in state["plan"].items() if name not in ("window_shards", "lanes", "epoch_samples")}
    loader.load_state_dict(old)
    with pytest.raises(ps.BadRequest, match="lanes was 1, is 2"):
        ps.DataLoader(rows, 10, shuffle=True, lanes=2).load_state_dict(old)
    for accept in (None, 5, "lanes", ["colour"]):
        with pytest.raises(ps.BadRequest, match="is no list of what a plan has"):
            loader.load_state_dict(old, accept=accept)  # type: ignore[arg-type]  # the value is the test
