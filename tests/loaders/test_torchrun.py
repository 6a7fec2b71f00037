"""Two processes under torchrun with gloo: without a word about ranks they divide an epoch exactly, and a state of one resumes on one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import penstock as ps

PROGRAM = """
import json, sys
import torch, torch.distributed as dist
import penstock as ps

dist.init_process_group("gloo")
rank, folder = dist.get_rank(), sys.argv[2]
told = {}
for name, options in {"inline": {}, "workers": {"num_workers": 1}, "ragged": {"tail": "ragged"}, "drop": {"drop_last": True}}.items():
    loader = ps.DataLoader(ps.Dataset(sys.argv[1]), batch_size=100, shuffle=True, seed=3, **options)
    batches = [{k: b[k].tolist() for k in ("label", "valid") if k in b} for b in loader]
    told[name] = {"batches": batches, "len": len(loader), "source": loader.topology.source, "sampler": list(loader.sampler)}
loader = ps.DataLoader(ps.Dataset(sys.argv[1]), batch_size=100, shuffle=True, seed=3)
cut = iter(loader)
told["head"] = [next(cut)["label"].tolist() for _ in range(2)]
told["state"] = loader.state_dict()
total = torch.tensor([len(told["inline"]["batches"])])
dist.all_reduce(total)
told["steps"] = int(total)
with open(f"{folder}/{rank}.json", "w") as file:
    json.dump(told, file)
dist.destroy_process_group()
"""


def test_two_ranks_partition_an_epoch(rows: ps.Dataset, tmp_path: Path) -> None:
    """Inline and with workers, padded, ragged and dropped: ranks see disjoint rows, together every row once in the global order."""
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(program), rows.path, str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    ranks: list[dict[str, Any]] = [json.loads((tmp_path / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(2)]
    whole = [n for b in ps.DataLoader(rows, batch_size=100, shuffle=True, seed=3, output="numpy") for n in b["label"].tolist()]

    def in_global_order(name: str) -> list[int]:
        steps = zip(*(rank[name]["batches"] for rank in ranks), strict=True)
        return [n for step in steps for b in step for n, ok in zip(b["label"], b.get("valid", [True] * 999), strict=False) if ok]

    assert in_global_order("inline") == in_global_order("ragged") == whole
    assert in_global_order("drop") == whole[:1000]
    assert ranks[0]["workers"] == {**ranks[0]["inline"]}
    for rank in ranks:
        assert rank["inline"]["source"] == "torch.distributed"
        assert rank["steps"] == 2 * rank["inline"]["len"]
        for name in ("inline", "ragged", "drop"):
            assert rank[name]["sampler"] == [n for b in rank[name]["batches"] for n in b["label"]]
    assert not {n for b in ranks[0]["ragged"]["batches"] for n in b["label"]} & {n for b in ranks[1]["ragged"]["batches"] for n in b["label"]}
    assert ranks[0]["state"] == ranks[1]["state"]
    alone = ps.DataLoader(rows, batch_size=77, shuffle=True, seed=3, output="numpy", topology=(0, 1))
    alone.load_state_dict(ranks[1]["state"])
    head = [n for step in zip(*(rank["head"] for rank in ranks), strict=True) for b in step for n in b]
    assert head + [n for b in alone for n in b["label"].tolist()] == whole
