"""A DeviceMesh as the topology: who shares data, who sees the same, who has a part of a sequence; and one rank of a group reading for all."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from inside import stored_of
from ranks import run_ranks

import penstock as ps
from penstock import transforms as T  # noqa: N812  (the name torchvision's users know)
from penstock.errors import BadData, BadRequest, PenstockError, WorkerFailed
from penstock.loaders.faults import rebuild
from penstock.loaders.shared import Channel, PartEngine, Place, ReceivingEngine
from penstock.loaders.topology import Topology, detect

PROGRAM = """
import json, os, sys
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
import penstock as ps
from penstock.loaders.topology import Topology

dist.init_process_group("gloo")
told = {"rank": dist.get_rank()}
mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
rows = ps.Dataset(sys.argv[1])
loader = ps.DataLoader(rows, 40, shuffle=True, topology=mesh, broadcast=True, num_workers=1, output="numpy")
told["repr"] = repr(loader)
told["labels"] = [batch["label"].tolist() for batch in loader]
batch = next(iter(loader))
told["texts"] = [batch["text"].values.tobytes().decode(), batch["text"].offsets.tolist(), batch["flag"].tolist(), batch["x"].sum().item()]
state = loader.state_dict()

cube = init_device_mesh("cpu", (1, 2, 2), mesh_dim_names=("fsdp", "cp", "tp"))
windows = ps.TokenWindows(ps.Dataset(sys.argv[1], columns=["tokens"]), 64, dtype="int64")
parts = ps.DataLoader(windows, 8, shuffle=True, topology=cube, broadcast=True, output="numpy")
told["parts"] = [batch["tokens"].tolist() for batch in parts]

broken = ps.Dataset(sys.argv[2])
try:
    for batch in ps.DataLoader(broken, 4, topology=mesh, broadcast=True, transforms={"image": [ps.transforms.Resize((8, 8))]}):
        pass
except ps.BadData as error:
    told["error"] = [error.shard, error.row, error.field]
dist.barrier()

parting = ps.DataLoader(rows, 40, shuffle=True, topology=mesh, broadcast=True, output="numpy")
reads = mesh.get_local_rank("tp") == 0
batches = iter(parting)
for _ in range(3 if reads else 2):
    next(batches)
batches.close()
if not reads:
    try:
        next(iter(parting))
    except ps.BadRequest as error:
        told["parted"] = str(error)
dist.barrier()
print(json.dumps(told))
dist.destroy_process_group()
"""


class Mesh(SimpleNamespace):
    """What is used of a DeviceMesh."""

    def get_local_rank(self, name: str) -> int:
        """Return the coordinate along a dimension."""
        return int(self.place[self.mesh_dim_names.index(name)])


def mesh(names: tuple[str, ...] | None, shape: tuple[int, ...], place: tuple[int, ...]) -> Mesh:
    """Return a mesh seen from a place."""
    return Mesh(mesh_dim_names=names, shape=shape, place=place)


@pytest.mark.parametrize(
    ("names", "shape", "place", "found"),
    [
        (("dp",), (4,), (3,), (3, 4, 0, 1)),
        (("dp", "tp"), (2, 4), (1, 3), (1, 2, 0, 1)),
        (("pp", "dp_replicate", "dp_shard", "cp", "tp"), (2, 3, 4, 2, 2), (1, 2, 1, 1, 0), (9, 12, 1, 2)),
        (("tp",), (8,), (5,), (0, 1, 0, 1)),
    ],
)
def test_dimensions_with_known_names(names: Any, shape: Any, place: Any, found: tuple[int, ...]) -> None:
    """Data-parallel dimensions together give the rank, the last one fastest; model-parallel ones nothing; context-parallel ones the part."""
    topology = detect(mesh(names, shape, place), {})
    assert (topology.rank, topology.world_size, topology.context_rank, topology.context_size) == found
    assert f"rank {found[0]} of {found[1]}" in str(topology)


def test_dimensions_with_names_of_ones_own() -> None:
    """What the names do not tell can be said; what is neither data nor context then sees the same."""
    own = mesh(("nodes", "cards", "slices"), (2, 4, 2), (1, 2, 1))
    topology = Topology.of_mesh(own, data=["nodes", "cards"], context=["slices"])
    assert (topology.rank, topology.world_size, topology.context_rank, topology.context_size) == (6, 8, 1, 2)
    assert Topology.of_mesh(own, data=["nodes"]).same == ("cards", "slices")
    for wrong, options, named in (
        (own, {}, r"mesh dimensions \['nodes', 'cards', 'slices'\].*of_mesh"),
        (own, {"data": ["rows"]}, r"\['rows'\] are no dimensions of the mesh"),
        (mesh(None, (2,), (0,)), {}, "without names"),
    ):
        with pytest.raises(BadRequest, match=named):
            Topology.of_mesh(wrong, **options)


def test_context_parallel_ranks_get_parts_of_the_same_sequences(rows: ps.Dataset) -> None:
    """The parts of both ranks, side by side, are the sequences of one; labels made beside the tokens are cut alike; the rest is shared whole."""
    packed = ps.Packed(rows_of_tokens(rows), 64, dtype="int64")
    ops = {"labels": [T.From("input_ids"), T.ShiftLabels()]}

    def batches(topology: Any) -> list[dict[str, Any]]:
        return list(ps.DataLoader(packed, 8, shuffle=True, topology=topology, transforms=ops, output="numpy"))

    parts = [batches(mesh(("dp", "cp"), (1, 2), (0, part))) for part in range(2)]
    for whole, one, two in zip(batches((0, 1)), *parts, strict=True):
        for name in ("input_ids", "position_ids", "document_ids", "labels"):
            assert np.array_equal(np.concatenate([one[name], two[name]], axis=1), whole[name])
            assert one[name].flags.c_contiguous
        assert np.array_equal(one["cu_seqlens"].values, whole["cu_seqlens"].values)


def rows_of_tokens(rows: ps.Dataset) -> ps.Dataset:
    """Return the rows with their tokens only."""
    return ps.Dataset(rows.path, columns=["tokens"])


def test_what_cannot_be_cut_is_refused(rows: ps.Dataset) -> None:
    """Rows that are no sequences need their columns named; ragged ones and odd lengths are refused; and broadcasting needs a mesh with somebody to share with."""
    place = mesh(("dp", "cp"), (1, 3), (0, 0))
    for options, named in (
        ({}, r"name the columns with sequence="),
        ({"sequence": ["tokens"]}, "'tokens' is no fixed sequence"),
        ({"sequence": ["x"]}, "has 32 elements, which 3 context-parallel ranks cannot share evenly"),
        ({"broadcast": True, "topology": (0, 1)}, "needs topology=DeviceMesh"),
        ({"broadcast": True, "topology": mesh(("dp",), (2,), (0,))}, "no dimension of"),
    ):
        with pytest.raises(BadRequest, match=named):
            ps.DataLoader(rows, 4, **{"topology": place, **options})  # type: ignore[arg-type]


class Line(Channel):
    """A channel within a process: what the leader gives waits for who receives."""

    def __init__(self, sent: list[Any], *, leads: bool) -> None:
        """Share a list."""
        self.sent, self.leads = sent, leads
        self.places: list[Place] = []

    def batch(self, place: Place, made: Any) -> Any:
        """Pass a batch on, and note where it stands."""
        self.places.append(place)
        if made is not None:
            self.sent.append(made)
            return made
        found = self.sent.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    def fail(self, told: Any) -> None:
        """Pass an error on."""
        self.sent.append(rebuild(told))


@pytest.mark.parametrize("batch_size", [5, 200])
def test_receivers_get_what_the_leader_read(rows: ps.Dataset, batch_size: int) -> None:
    """Batch for batch, also when several are made at a time, and from the middle of an epoch on."""
    for start in (0, 400):
        leader, follower = (ps.DataLoader(ps.Dataset(rows.path, columns=["x", "label"]), batch_size, shuffle=True, output="numpy") for _ in range(2))
        sent: list[Any] = []
        lines = Line(sent, leads=True), Line(sent, leads=False)
        leading, following = (ReceivingEngine(stored_of(one).engine, line) for one, line in zip((leader, follower), lines, strict=True))
        made = [{name: value.copy() for name, value in batch.items()} for one in leading.epoch(leader.plan, 0, start) for batch in one.batches]
        sent[:] = made
        got = [batch for one in following.epoch(follower.plan, 0, start) for batch in one.batches]
        assert len(got) == leader.plan.steps(start)
        assert all(np.array_equal(a["label"], b["label"]) for a, b in zip(made, got, strict=True))
        assert lines[0].places == lines[1].places == [Place(0, start, step) for step in range(len(got))]
        leading.close()
        following.close()


@pytest.mark.parametrize(
    ("raised", "kind"), [(BadData("torn", path="p", shard="s", row=7, field="x"), BadData), (ZeroDivisionError("torn"), WorkerFailed)]
)
def test_an_error_reaches_everybody(rows: ps.Dataset, raised: Exception, kind: type[PenstockError]) -> None:
    """What the leader meets, the others meet in its place, whatever it is; what is no error of ours comes with its traceback."""
    loader = ps.DataLoader(rows, 500, output="numpy")
    sent: list[Any] = []

    def broken(*_: Any) -> Any:
        yield next(stored_of(loader).engine.epoch(loader.plan, 0, 0))
        raise raised

    inner: Any = SimpleNamespace(epoch=broken, close=lambda: None)
    for engine, met in ((ReceivingEngine(inner, Line(sent, leads=True)), type(raised)), (ReceivingEngine(inner, Line(sent, leads=False)), kind)):
        batches = PartEngine(engine, ["x"], 1, 2).epoch(loader.plan, 0, 0)
        assert next(batches).batches[0]["x"].shape == (500, 16)
        with pytest.raises(met, match="torn") as caught:
            next(batches)
        assert getattr(caught.value, "row", 7) == 7
    assert isinstance(caught.value, PenstockError)
    assert type(raised).__name__ in str(caught.value.worker_traceback)


def test_four_processes_share_by_mesh(rows: ps.Dataset, tmp_path: Path) -> None:
    """On a 2 x 2 mesh tensor-parallel ranks get the same batches and data-parallel ones their own; context-parallel ones parts; errors reach every rank."""
    with ps.Writer(tmp_path / "broken", fields={"image": ps.Image("jpeg")}) as writer:
        writer.write({"image": b"\xff\xd8\xff\xe0 no picture"})
    told = run_ranks(4, PROGRAM, rows.path, str(tmp_path / "broken"))
    assert told[0]["labels"] == told[1]["labels"]
    assert told[2]["labels"] == told[3]["labels"]
    assert told[0]["texts"] == told[1]["texts"]
    seen = [label for rank in (0, 2) for batch in told[rank]["labels"] for label in batch]
    assert len(set(seen)) == len(rows)
    assert "rank 1 of 2 (DeviceMesh(dp=2, tp=2))" in told[2]["repr"]
    windows = ps.TokenWindows(rows_of_tokens(rows), 64, dtype="int64")
    whole = [batch["tokens"] for batch in ps.DataLoader(windows, 8, shuffle=True, topology=(0, 1), output="numpy")]
    for rank in range(4):
        half = rank // 2
        assert told[rank]["parts"] == [batch[:, half * 32 : half * 32 + 32].tolist() for batch in whole]
        assert told[rank]["error"][1:] == [0, "image"]
        if rank % 2:
            assert "sent step 2 of epoch 0 (entered at sample 0), and this one is at step 0 of epoch 1" in told[rank]["parted"]
