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
