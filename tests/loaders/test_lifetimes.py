"""Loaders over time: many epochs leak nothing, several loaders live side by side, and a loader is never two."""

from __future__ import annotations

import copy
import gc
import itertools
import pickle
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import psutil
import pytest
import torch
from contracts.loaders import assert_same, plain

import penstock as ps
from penstock import transforms as T  # noqa: N812  (the name torchvision's users know)


def resources() -> tuple[int, int]:
    """Return how many descriptors and mappings of rings this process has."""
    gc.collect()
    maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    return len(list(Path("/proc/self/fd").iterdir())), maps.count("penstock-ring")


def test_five_epochs_of_persistent_workers_leak_nothing(rows: ps.Dataset) -> None:
    """From the second epoch to the fifth, some of them broken off, descriptors, mappings and memory of parent and workers stay as they are."""
    loader = ps.DataLoader(rows, batch_size=50, shuffle=True, num_workers=2, persistent_workers=True, map=lambda s: {"label": s["label"]})
    sizes, memory = [], []
    for epoch in range(5):
        for step, batch in enumerate(loader):
            assert len(batch["label"]) in (50, 3)
            if epoch % 2 and step == 4:
                break
        del batch
        children = psutil.Process().children()
        sizes.append((*resources(), sorted(p.pid for p in children), tuple(p.num_fds() for p in sorted(children, key=lambda p: p.pid))))
        memory.append(sum(p.memory_info().rss - p.memory_info().shared for p in [psutil.Process(), *children]))
    assert len(set(map(str, sizes[2:]))) == 1, sizes
    assert memory[4] - memory[1] < 8_000_000, memory
    loader.close()


def test_short_lived_loaders_leave_nothing(small: ps.Dataset) -> None:
    """Loaders that are made, used for a batch or not at all, and dropped leave no process, descriptor or mapping."""
    small[0]
    before = resources()
    for workers, use in itertools.product((0, 1), (0, 1)):
        loader = ps.DataLoader(small, batch_size=4, num_workers=workers, persistent_workers=bool(workers))
        batches = iter(loader)
        for _ in range(use):
            next(batches)
        del batches, loader
        gc.collect()
    assert psutil.Process().children() == []
    assert resources() == before


@pytest.mark.parametrize("persistent", [False, True])
def test_two_loaders_interleaved(rows: ps.Dataset, small: ps.Dataset, persistent: bool) -> None:
    """Training and validation loaders taken batch by batch in turn give what each gives alone, and count for themselves."""
    one = ps.DataLoader(rows, batch_size=100, shuffle=True, num_workers=1, persistent_workers=persistent)
    two = ps.DataLoader(small, batch_size=3, shuffle=True, num_workers=1, persistent_workers=persistent, seed=5)
    mixed = [(plain(a) if a else None, plain(b) if b else None) for a, b in itertools.zip_longest(one, two)]
    assert_same([a for a, _ in mixed if a], [plain(b) for b in ps.DataLoader(rows, batch_size=100, shuffle=True)], "the first")
    assert_same([b for _, b in mixed if b], [plain(b) for b in ps.DataLoader(small, batch_size=3, shuffle=True, seed=5)], "the second")
    assert (one.stats().samples, two.stats().samples) == (1003, 23)
    one.close()
    two.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_two_iterations_of_one_loader_interleaved(small: ps.Dataset, workers: int) -> None:
    """Without persistent workers two iterations of one loader are two epochs, each whole; the state follows the newer one."""
    loader = ps.DataLoader(small, batch_size=6, shuffle=True, num_workers=workers)
    reference = ps.DataLoader(small, batch_size=6, shuffle=True)
    epochs = [[plain(b) for b in reference] for _ in range(2)]
    pairs = [(plain(a), plain(b)) for a, b in zip(loader, loader, strict=True)]
    assert_same([a for a, _ in pairs], epochs[0], "the older iteration")
    assert_same([b for _, b in pairs], epochs[1], "the newer iteration")
    assert loader.state_dict()["epoch"] == 2


def test_the_newer_iteration_survives_the_older_ones_end(small: ps.Dataset) -> None:
    """With persistent workers an older iteration that is told it ended takes nothing with it: the newer one goes on to its end."""
    loader = ps.DataLoader(small, batch_size=4, num_workers=1, persistent_workers=True)
    one, two = iter(loader), iter(loader)
    next(one)
    got = [plain(next(two))]
    with pytest.raises(ps.BadRequest, match="ended when iteration 2 began"):
        next(one)
    pids = [p.pid for p in psutil.Process().children()]
    got += [plain(b) for b in two]
    assert [n for b in got for n in b["n"].tolist()] == list(range(23))
    assert [p.pid for p in psutil.Process().children()] == pids
    loader.close()


def test_closing_in_the_middle_is_told(small: ps.Dataset) -> None:
    """An iteration whose loader was closed says so at its next batch that is not ready; a new iteration starts new workers."""
    loader = ps.DataLoader(small, batch_size=1, num_workers=1, persistent_workers=True)
    batches = iter(loader)
    next(batches)
    loader.close()
    loader.close()
    with pytest.raises(ps.BadRequest, match=r"workers of this iteration were closed, by close\(\) on the loader"):
        list(batches)
    assert [b["n"].item() for b in loader] == list(range(23))
    loader.close()
    assert psutil.Process().children() == []


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, pickle.dumps, cloudpickle.dumps])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_is_not_copied(small: ps.Dataset, make: Any, workers: int) -> None:
    """Copying or pickling a loader is refused with what to do instead, before and while it works."""
    loader = ps.DataLoader(small, batch_size=4, num_workers=workers)
    with pytest.raises(ps.BadRequest, match=r"DataLoader owns worker processes .* can be neither copied nor pickled.*pass on state_dict\(\)"):
        make(loader)
    if workers == 0:
        next(iter(loader))
        with pytest.raises(ps.BadRequest, match="neither copied nor pickled"):
            make(loader)


def test_a_map_that_holds_a_loader_is_refused(small: ps.Dataset) -> None:
    """A function that refers to a loader cannot go to workers, and the reason is in the message."""
    other = ps.DataLoader(small)
    loader = ps.DataLoader(small, num_workers=1, map=lambda s: {"n": s["n"] + len(other)})
    with pytest.raises(ps.BadRequest, match="cannot be sent to workers: DataLoader owns worker processes"):
        next(iter(loader))


def test_as_torch_subclasses_see_it(small: ps.Dataset) -> None:
    """A subclass with its own name is refused copies under its name, and works otherwise."""

    class Mine(ps.DataLoader):
        """One more."""

    loader = Mine(small, batch_size=23)
    assert next(iter(loader))["n"].tolist() == list(range(23))
    with pytest.raises(ps.BadRequest, match="Mine owns worker processes"):
        copy.deepcopy(loader)


def test_batches_outlive_everything(rows: ps.Dataset) -> None:
    """Batches kept after loader, workers and dataset are gone hold their values, and their memory goes with them."""
    rows[0]
    before = resources()[1]
    loader = ps.DataLoader(ps.Dataset(rows.path), batch_size=20, num_workers=1, shuffle=True)
    kept = list(itertools.islice(loader, 5))
    copies = [plain(b) for b in kept]
    del loader
    gc.collect()
    assert_same([plain(b) for b in kept], copies, "after the loader")
    assert resources()[1] > before
    del kept
    assert resources()[1] == before


def test_held_tensors_are_freed_one_by_one(rows: ps.Dataset) -> None:
    """A consumer that keeps one tensor of each batch makes later ones copies, and one that lets go never does."""
    greedy = ps.DataLoader(rows, batch_size=50, num_workers=1)
    kept = [batch["x"][:1] for batch in greedy]
    assert greedy.stats().copied_batches == len(kept) - 2
    modest = ps.DataLoader(rows, batch_size=50, num_workers=1)
    total = torch.zeros(())
    for batch in modest:
        total += batch["x"].sum()
    assert modest.stats().copied_batches == 0
    assert total > 0


def test_long_queues_do_not_block(small: ps.Dataset, tmp_path: Path) -> None:
    """A thousand batches ahead for one worker are handed out piece by piece: neither side waits for the other's socket to empty."""
    with ps.Writer(tmp_path / "d", fields={"n": ps.Scalar("int32")}) as writer:
        for n in range(1500):
            writer.write({"n": n})
    loader = ps.DataLoader(ps.Dataset(tmp_path / "d"), batch_size=1, num_workers=1, prefetch_factor=1200, timeout=30, worker_init_fn=lambda _: None)
    assert [int(b["n"]) for b in loader] == list(range(1500))


def test_integers_of_numpy(small: ps.Dataset) -> None:
    """Epochs and seeds that numpy counted are taken as integers, and saved as such; other numbers are refused by name."""
    loader = ps.DataLoader(small, batch_size=23, shuffle=True, seed=np.int64(3))
    loader.set_epoch(np.int32(2))
    other = ps.DataLoader(small, batch_size=23, shuffle=True, seed=3)
    other.set_epoch(2)
    assert loader.state_dict() == other.state_dict()
    assert_same([plain(b) for b in loader], [plain(b) for b in other], "numpy's integers")
    assert type(loader.state_dict()["epoch"]) is int
    with pytest.raises(ps.BadRequest, match=r"epoch=1.5 is not an integer"):
        loader.set_epoch(1.5)  # type: ignore[arg-type]
    with pytest.raises(ps.BadRequest, match="seed='7' is not an integer"):
        ps.DataLoader(small, seed="7")  # type: ignore[arg-type]


def test_contradicting_tails_are_refused(small: ps.Dataset) -> None:
    """drop_last=True beside another tail is refused rather than ignored."""
    with pytest.raises(ps.BadRequest, match="drop_last=True and tail='pad' contradict each other"):
        ps.DataLoader(small, drop_last=True, tail="pad")
    assert ps.DataLoader(small, drop_last=True, tail="drop", batch_size=4).drop_last


@pytest.mark.parametrize("workers", [0, 1])
def test_batched_maps_get_bytes_whole(tmp_path: Path, workers: int) -> None:
    """A batched function gets bytes with their trailing zeros and text as str, at its probe as later."""
    with ps.Writer(tmp_path / "d", fields={"raw": ps.Bytes(), "text": ps.Text()}) as writer:
        for n in range(9):
            writer.write({"raw": np.array([n, 0, 0], np.int32).tobytes(), "text": f"{n}" + "\0"})

    def parse(batch: dict[str, Any]) -> dict[str, Any]:
        return {"v": np.stack([np.frombuffer(raw, np.int32) for raw in batch["raw"]]), "size": np.array([len(t) for t in batch["text"]])}

    loader = ps.DataLoader(ps.Dataset(tmp_path / "d"), batch_size=4, num_workers=workers, map=T.Map(parse, batched=True), output="numpy")
    batches = list(loader)
    assert [b["v"][:, 0].tolist() for b in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    assert {n for b in batches for n in b["size"].tolist()} == {2}
