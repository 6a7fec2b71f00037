"""The same run again, and the same run on other numbers of ranks: input batches are equal bit for bit, and a model trained on them twice is too."""

from __future__ import annotations

from ranks import run_ranks

import penstock as ps

PROGRAM = """
import hashlib, json, os, sys
import torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
import penstock as ps
from penstock import transforms as T

dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
torch.manual_seed(0)
torch.use_deterministic_algorithms(True)
model = DistributedDataParallel(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 12 * 12, 8)))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
loader = ps.DataLoader(
    ps.Dataset(sys.argv[1]), 24 // world, shuffle=True, seed=5, num_workers=int(sys.argv[2]), drop_last=True, lanes=int(sys.argv[3]),
    transforms={"image": [T.RandomResizedCrop(12), T.RandomHorizontalFlip(), T.ColorJitter(0.3), T.Normalize(0.5, 0.2)]},
)
told = {"inputs": [], "sets": []}
for _ in range(2):
    for batch in loader:
        whole = [torch.empty_like(batch["image"]) for _ in range(world)]
        labels = [torch.empty_like(batch["label"]) for _ in range(world)]
        dist.all_gather(whole, batch["image"])
        dist.all_gather(labels, batch["label"])
        told["inputs"].append(hashlib.sha256(torch.cat(whole).numpy().tobytes() + torch.cat(labels).numpy().tobytes()).hexdigest())
        rows = zip(torch.cat(whole).numpy(), torch.cat(labels).numpy())
        told["sets"].append(hashlib.sha256(b"".join(sorted(hashlib.sha256(row.tobytes() + label.tobytes()).digest() for row, label in rows))).hexdigest())
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(batch["image"]), batch["label"] % 8).backward()
        optimizer.step()
told["model"] = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest()
print(json.dumps(told))
dist.destroy_process_group()
"""


def test_one_two_and_four_ranks_are_given_the_same_batches(images: ps.Dataset) -> None:
    """With the same global batch all numbers of ranks and workers see equal inputs, bit for bit; the same run again ends with an equal model, on every rank."""
    runs = [run_ranks(world, PROGRAM, images.path, str(workers), "1") for world, workers in ((1, 0), (1, 2), (2, 0), (2, 1), (4, 0), (4, 1))]
    inputs = runs[0][0]["inputs"]
    assert len(set(inputs)) == len(inputs) == 2 * (len(images) // 24)
    assert all(rank["inputs"] == inputs for run in runs for rank in run)
    for one, other in ((0, 1), (2, 3), (4, 5)):
        assert {rank["model"] for run in (runs[one], runs[other]) for rank in run} == {runs[one][0]["model"]}


def test_with_lanes_all_numbers_of_ranks_are_given_the_same_sets(images: ps.Dataset) -> None:
    """With lanes a global batch is the same set of inputs on all numbers of ranks and workers, bit for bit, and the same sequence where the number of ranks is."""
    runs = [run_ranks(world, PROGRAM, images.path, str(workers), "4") for world, workers in ((1, 0), (2, 0), (2, 1), (4, 1))]
    sets = runs[0][0]["sets"]
    assert len(set(sets)) == len(sets) == 2 * (len(images) // 24)
    assert all(rank["sets"] == sets for run in runs for rank in run)
    assert (
        len({run[0]["inputs"][0] for run in runs}) == 2
    )  # one rank has positions in order, and more than one the order of lanes, wherever it is cut
    assert {rank["model"] for run in runs[1:3] for rank in run} == {runs[1][0]["model"]}
