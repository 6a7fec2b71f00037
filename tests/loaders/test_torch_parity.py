"""Whatever torch's DataLoader does with a dataset of the user's own, ours does: one scenario, both classes, everything that can be seen compared."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import foreign
import numpy as np
import psutil
import pytest
import torch
from foreign import KINDS, Failing, Labelled, Lists, Nested, Numbers, Runs, Seeds, Several, Slices, Slow, Stream, Wrong, same
from torch.utils.data import BatchSampler, RandomSampler, SequentialSampler, SubsetRandomSampler, TensorDataset, WeightedRandomSampler
from torch.utils.data.distributed import DistributedSampler

import penstock as ps
from penstock.loaders.arena import HEADER_BYTES

TESTS = Path(__file__).resolve().parent.parent
BOTH = (torch.utils.data.DataLoader, ps.DataLoader)


def plain(text: str) -> str:
    """Return an error's words without what differs from run to run: process numbers, and the frames of whoever called."""
    text = re.sub(r"pid(\(s\))? [\d, ]+", "pid", text)
    return "\n".join(line for line in text.splitlines() if not line.startswith((" ", "Traceback")))


def seen(loader_class: Any, dataset: Callable[[], Any], epochs: int = 1, **options: Any) -> dict[str, Any]:
    """Return everything that can be seen of a loader: batches or errors in order, warnings, lengths, attributes."""
    torch.manual_seed(7)
    found: dict[str, Any] = {"batches": [], "errors": []}
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            loader = loader_class(dataset(), **{name: value() if callable(value) and name in MADE else value for name, value in options.items()})
            found["attributes"] = {name: getattr(loader, name) for name in ATTRIBUTES if name not in options}
            for _ in range(epochs):
                batches = iter(loader)
                while True:
                    try:
                        found["batches"].append(next(batches))
                    except StopIteration:
                        break
                    except Exception as error:  # noqa: BLE001  (whatever it is, it is compared)
                        found["errors"].append((len(found["batches"]), type(error), plain(str(error))))
                        if len(found["errors"]) > 30:
                            break
        except Exception as error:  # noqa: BLE001  (likewise)
            found["refused"] = (type(error), str(error))
    found["warnings"] = [
        (each.category, str(each.message)) for each in warned if "Sparse invariant" not in str(each.message)
    ]  # torch says that once a process
    found["random"] = torch.rand(1).item()
    gc.collect()  # torch's iterators, if they end as garbage in a worker of a later loader, wait there for workers that are not its own
    return found


ATTRIBUTES = ("batch_size", "num_workers", "pin_memory", "drop_last", "timeout", "prefetch_factor", "persistent_workers", "in_order", "generator")
MADE = ("sampler", "batch_sampler", "generator")
"""Options that are made anew for each class, since they are used up."""


def compare(dataset: Callable[[], Any], **options: Any) -> dict[str, Any]:
    """Run both classes, hold that all that is seen is the same, and return it."""
    theirs, ours = (seen(each, dataset, **options) for each in BOTH)
    assert theirs.keys() == ours.keys()
    for name, value in theirs.items():
        assert same(value, ours[name]), f"{name}: {value} and {ours[name]}"
    return ours


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_every_kind_are_collated_alike(kind: str, workers: int) -> None:
    """Whatever kind rows are of, batches are the same, the short last one too, in the order that torch's random numbers give."""
    found = compare(lambda: Numbers(23, kind), batch_size=4, shuffle=True, num_workers=workers)
    assert len(found["batches"]) == 6
    assert not found["errors"]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("options", [{"batch_size": None}, {"batch_size": 5, "drop_last": True}, {"batch_size": 100}, {}])
def test_batch_sizes(options: dict[str, Any], workers: int) -> None:
    """Without a batch size samples come one by one, converted and not stacked; a last batch is dropped on request; one batch may hold all."""
    for kind in ("int", "numpy", "nested", "str"):
        compare(lambda kind=kind: Numbers(11, kind), num_workers=workers, **options)  # type: ignore[misc]


@pytest.mark.parametrize("collate", [foreign.views, foreign.arrays, foreign.odd, foreign.overlapping])
@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_collate_function_returns_arrives(collate: Any, workers: int) -> None:
    """Views, strides, orders, classes and what fits no arena come out as they went in."""
    compare(Numbers, batch_size=4, collate_fn=collate, num_workers=workers)


def test_views_of_one_storage_stay_views_of_one() -> None:
    """What is written to a batch's inputs is seen in its labels, as it was where they were made; and other batches are left alone."""
    first, second = list(ps.DataLoader(Numbers(8), batch_size=4, collate_fn=foreign.views, num_workers=1))
    first["inputs"][:, 1] = -5
    assert (first["labels"][:, 0] == -5).all()
    assert (first["across"][1] == -5).all()
    assert first["twice"][0] is first["twice"][1]
    assert (second["labels"] >= 0).all()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "options",
    [
        {"sampler": lambda: range(2, 9)},
        {"sampler": lambda: SubsetRandomSampler([1, 5, 9])},
        {"sampler": lambda: WeightedRandomSampler([0.1, 5.0, 1.0], 20)},
        {"sampler": lambda: RandomSampler(range(23), replacement=True, num_samples=30)},
        {"sampler": lambda: DistributedSampler(Numbers(), 3, 1, shuffle=True)},
        {"batch_sampler": lambda: [[1, 2], [3], [4, 5, 6]]},
        {"batch_sampler": lambda: BatchSampler(SequentialSampler(range(23)), 4, drop_last=True)},
        {"shuffle": True, "generator": lambda: torch.Generator().manual_seed(3)},
    ],
)
def test_samplers(options: dict[str, Any], workers: int) -> None:
    """Any sampler, batch sampler or generator decides what it decides for torch, over two epochs."""
    compare(lambda: Numbers(23), epochs=2, num_workers=workers, **options)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sampler_of_lists(workers: int) -> None:
    """With `batch_size=None` a sampler may yield whole batches of rows, which the dataset is given as they are."""
    compare(Lists, batch_size=None, sampler=lambda: Runs(23, 4), num_workers=workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_rows_asked_for_by_the_batch(workers: int) -> None:
    """`__getitems__` is called where a dataset has it."""
    compare(Several, batch_size=4, num_workers=workers)


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
@pytest.mark.parametrize("options", [{"batch_size": 4}, {"batch_size": 4, "drop_last": True}, {"batch_size": None}])
def test_iterable_datasets(options: dict[str, Any], workers: int) -> None:
    """Streams are batched in each worker, and workers take turns, those that are done left out; a second epoch begins anew."""
    compare(Stream, epochs=2, num_workers=workers, **options)
    compare(lambda: Stream(0), num_workers=workers, **options)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_iterable_dataset_that_is_longer_than_it_says(workers: int) -> None:
    """Its length is believed until it is exceeded, and then there is torch's warning, at every batch."""
    for loader_class in BOTH:
        loader = loader_class(Stream(20, shared=False, length=6), batch_size=2, num_workers=workers)
        assert len(loader) == 3
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            list(loader)
        assert sum("samples have been fetched" in str(each.message) for each in warned) == (20 * max(workers, 1)) // 2 - 6
    for loader_class in BOTH:
        with pytest.raises(TypeError, match="NoneType"):
            len(loader_class(Stream()))


@pytest.mark.parametrize("workers", [0, 2])
def test_rows_that_raise(workers: int) -> None:
    """A row's error is raised in place of its batch, with its class and words, and the next batch comes; so it is with a collate function and with shapes that do not stack."""
    assert compare(Failing, batch_size=1, num_workers=workers)["errors"]
    assert compare(Numbers, batch_size=4, collate_fn=foreign.raising, num_workers=workers)["errors"]
    assert compare(Wrong, batch_size=4, num_workers=workers)["errors"]
    assert compare(lambda: Stream(fails=True), batch_size=4, num_workers=workers)


def test_the_traceback_of_a_worker_is_attached() -> None:
    """The error says in which worker it was, and where in the dataset."""
    with pytest.raises(KeyError, match="row 3") as caught:
        list(ps.DataLoader(Failing(), batch_size=4, num_workers=1))
    assert "DataLoader worker process 0" in str(caught.value)
    assert "foreign.py" in str(caught.value)


def test_a_worker_that_cannot_begin() -> None:
    """An error of `worker_init_fn` is raised at the first batch of each worker."""
    assert compare(Numbers, num_workers=2, worker_init_fn=foreign.broken)["errors"]


def test_workers_are_seeded_alike() -> None:
    """Each worker has torch's seed and numpy's, by number, from the loader's generator; `worker_init_fn` may change them; `get_worker_info` tells of the worker."""
    for options in ({}, {"generator": lambda: torch.Generator().manual_seed(9)}, {"worker_init_fn": foreign.seeded}, {"persistent_workers": True}):
        compare(Seeds, epochs=2, batch_size=3, num_workers=2, **options)
    compare(Seeds, epochs=2, batch_size=3)


@pytest.mark.parametrize("context", ["fork", "spawn", "forkserver"])
def test_start_methods(context: str) -> None:
    """Workers are started as the user says, and batches cross from all of them."""
    compare(lambda: Numbers(23, "tensor"), batch_size=4, num_workers=2, multiprocessing_context=context)


def test_batches_out_of_order() -> None:
    """With `in_order=False` whatever is ready comes, each batch once."""
    for loader_class in BOTH:
        batches = list(loader_class(Numbers(40), batch_size=4, num_workers=2, in_order=False))
        assert sorted(torch.cat(batches).tolist()) == list(range(40))


def test_persistent_workers() -> None:
    """The same processes serve every epoch, and end with the loader."""
    loader = ps.DataLoader(Numbers(20), batch_size=4, num_workers=2, persistent_workers=True)
    first = iter(loader)
    workers = [worker.pid for worker in first._workers]
    assert len(list(first)) == 5
    assert iter(loader) is first
    assert [worker.pid for worker in first._workers] == workers
    next(first)  # an epoch that is left in the middle
    assert [batch.tolist() for batch in loader][:1] == [[0, 1, 2, 3]]
    loader.close()
    assert not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in workers)


def test_workers_end_with_an_iterator_that_is_dropped() -> None:
    """An epoch that nobody goes on with leaves no process behind."""
    batches = iter(ps.DataLoader(Numbers(400), batch_size=4, num_workers=2))
    workers = batches._workers
    next(batches)
    del batches
    gc.collect()
    for worker in workers:
        worker.join(20)
        assert not worker.is_alive()


@pytest.mark.parametrize("loader_class", BOTH, ids=["torch", "penstock"])
def test_a_timeout(loader_class: Any) -> None:
    """A batch that takes longer than `timeout` is torch's error."""
    batches = iter(loader_class(Slow(), batch_size=2, num_workers=1, timeout=1))
    with pytest.raises(RuntimeError, match="DataLoader timed out after 1 seconds"):
        next(batches)


KILLED = """
import penstock
from foreign import Slow
batches = iter(penstock.DataLoader(Slow(100), batch_size=2, num_workers=1, sampler=[1, 2, 3, 4, 0, 5]))
next(batches)
try:
    batches._workers[0].kill()
    print(len(list(batches)))
except RuntimeError as error:
    print(error)
"""


def test_a_worker_that_is_killed() -> None:
    """Its death is torch's error, in place of the next batch; in a program of its own, since torch raises it wherever the loop stands by then."""
    command = [sys.executable, "-W", "ignore", "-c", KILLED]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=TESTS, timeout=60, check=False)
    assert re.search(r"DataLoader worker \(pid.*\) (exited unexpectedly|is killed by signal)", ended.stdout), ended


def test_pinning_without_a_device_warns() -> None:
    """Where there is no accelerator torch's warning comes, and batches as they are; one of a class of its own keeps its class."""
    compare(lambda: Numbers(8, "dict"), batch_size=4, pin_memory=True, num_workers=1, collate_fn=foreign.wrap)


REFUSED: list[dict[str, Any]] = [
    {"num_workers": -1},
    {"timeout": -1},
    {"batch_size": None, "drop_last": True},
    {"batch_size": 0},
    {"batch_size": 2.5},
    {"multiprocessing_context": "fork"},
    {"num_workers": 1, "multiprocessing_context": "bad"},
    {"num_workers": 1, "multiprocessing_context": 5},
    {"sampler": lambda: [1], "shuffle": True},
    {"batch_sampler": lambda: [[1]], "batch_size": 4},
    {"batch_sampler": lambda: [[1]], "shuffle": True},
    {"batch_sampler": lambda: [[1]], "drop_last": True},
    {"prefetch_factor": 2},
    {"prefetch_factor": -2, "num_workers": 1},
    {"persistent_workers": True},
]


@pytest.mark.parametrize("options", REFUSED, ids=" ".join)
def test_what_torch_refuses_is_refused(options: dict[str, Any]) -> None:
    """Arguments that contradict each other are refused with the same error and the same words."""
    assert "refused" in compare(Numbers, **options)


@pytest.mark.parametrize("options", [{"shuffle": True}, {"sampler": lambda: [1]}, {"batch_sampler": lambda: [[1]]}], ids=" ".join)
def test_an_iterable_dataset_has_no_sampler(options: dict[str, Any]) -> None:
    """What only a map-style dataset can have is refused for a stream."""
    assert "refused" in compare(Stream, **options)


def test_a_loader_is_what_torchs_is() -> None:
    """It is an instance of torch's class and can be subscripted; what may not be set is not set; what may be, is; it can be copied and pickled."""
    loader = ps.DataLoader(Numbers(), batch_size=4)
    assert isinstance(loader, torch.utils.data.DataLoader)
    assert ps.DataLoader[int] is not None
    for name in ("batch_size", "sampler", "batch_sampler", "drop_last", "dataset", "persistent_workers"):
        with pytest.raises(ValueError, match=f"{name} attribute should not be set after DataLoader is initialized"):
            setattr(loader, name, None)
    loader.pin_memory_device = ""
    assert isinstance(loader.sampler, SequentialSampler)
    assert isinstance(loader.batch_sampler, BatchSampler)
    for other in (copy.copy(loader), copy.deepcopy(loader), pickle.loads(pickle.dumps(loader))):
        assert same(list(other), list(loader))
    assert set(vars(torch.utils.data.DataLoader(Numbers()))) <= set(vars(loader))


def test_a_dataset_that_grows() -> None:
    """Length follows the dataset, as torch's does."""
    rows = [1, 2, 3]
    loader = ps.DataLoader(rows, batch_size=1)  # a list is a dataset, too
    rows.append(4)
    assert len(loader) == 4
    assert [int(batch) for batch in loader] == [1, 2, 3, 4]


def test_batches_may_be_kept() -> None:
    """All batches of an epoch may be held at once, more than the arena has words for, and none is written over."""
    data = TensorDataset(torch.arange(2400).reshape(600, 4))
    batches = list(ps.DataLoader(data, batch_size=1, num_workers=1))
    time.sleep(0.2)
    assert torch.equal(torch.cat([batch[0] for batch in batches]), data.tensors[0])


def test_a_batch_is_let_go_of_in_any_order() -> None:
    """While batches of many sizes are held and dropped at random, none that is held changes."""
    rng = np.random.default_rng(0)
    held: list[tuple[int, torch.Tensor]] = []
    loader = ps.DataLoader(Growing(), batch_size=None, num_workers=2)
    for number, batch in enumerate(loader):
        held.append((number, batch))
        while len(held) > 6:
            held.pop(int(rng.integers(len(held))))
        assert all(bool((values == each % 251).all()) for each, values in held)
    assert number == 299


class Growing(Numbers):
    """Tensors of sizes that jump about."""

    def __init__(self) -> None:
        """Have 300 rows."""
        super().__init__(300)

    def __getitem__(self, i: int) -> Any:
        """Return a tensor full of i."""
        return torch.full((1 + (i * 7919) % 50_000,), i % 251, dtype=torch.uint8)


def words(batches: Any) -> Any:
    """Return the words that say which blocks of the first worker are looked at."""
    return batches._arena._memory[:HEADER_BYTES].view(np.int64)


def test_a_label_that_is_kept_does_not_keep_its_images() -> None:
    """What is small is copied out of the arena, so that keeping it keeps nothing else."""
    batches = iter(ps.DataLoader(Labelled(80), batch_size=4, num_workers=1))
    labels = [label for _, label in batches]
    assert torch.equal(torch.cat(labels), torch.arange(80))
    batches = iter(ps.DataLoader(Labelled(80), batch_size=4, num_workers=1))
    kept = [next(batches)[1] for _ in range(12)]
    assert words(batches).sum() <= 3, kept


def test_what_is_kept_keeps_no_more_than_itself_when_the_workers_are_gone() -> None:
    """The arena's memory is given back when an epoch ends, but for batches that are still held."""
    loader = ps.DataLoader(Labelled(80), batch_size=4, num_workers=2)
    batches = iter(loader)
    arena = batches._arena
    first = next(batches)
    rest = sum(1 for _ in batches)
    assert rest == 19
    assert os.fstat(arena.descriptor).st_blocks * 512 <= 500_000
    assert (first[0] == torch.arange(4, dtype=torch.uint8)[:, None]).all()


def test_batches_that_cross_as_torch_has_them_leave_nothing_open() -> None:
    """Tensors that the arena cannot hold are sent once: a worker's open files do not grow."""
    batches = iter(ps.DataLoader(Numbers(200, "uint16"), batch_size=None, num_workers=1))
    worker, counts = batches._workers[0].pid, []
    for number, _ in enumerate(batches):
        if number in {40, 180}:
            counts.append(len(list(Path(f"/proc/{worker}/fd").iterdir())))
    assert counts[1] <= counts[0] + 6


@pytest.mark.parametrize("workers", [0, 2])
def test_a_dataset_may_have_loaders_of_its_own(workers: int) -> None:
    """A loader that a dataset makes in a worker gives what torch's gives."""
    compare(Nested, batch_size=3, num_workers=workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_views_of_a_large_tensor(workers: int) -> None:
    """A stream of slices of one tensor sends the slices, not the tensor again and again."""
    compare(Slices, batch_size=None, num_workers=workers)


def test_a_process_that_was_forked_off_with_a_batch_may_read_it() -> None:
    """A batch that a child looks at is not written over when the loop has gone on, though the parent's last tensor over it is gone."""
    batches = iter(ps.DataLoader(Labelled(200), batch_size=4, num_workers=1))
    batch, label = next(batches)
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(ready, 1)
        os._exit(0 if (batch.numpy() == label.numpy()[:, None]).all() else 1)  # torch's threads are not there
    del batch
    for _ in range(30):
        next(batches)
    os.write(told, b"x")
    assert os.waitpid(pid, 0)[1] == 0
    os.close(ready)
    os.close(told)


def no_rows(row: int) -> int:
    """Raise in place of a row's number."""
    raise RuntimeError(f"no rows, not even {row}")


class Raising:
    """A sampler that raises at once."""

    def __iter__(self) -> Any:
        """Return an iterator that raises."""
        return map(no_rows, range(5))

    def __len__(self) -> int:
        """Return how many rows it would have."""
        return 5


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sampler_that_raises(workers: int) -> None:
    """Its error is the loop's."""
    found = compare(Numbers, sampler=Raising, num_workers=workers)
    assert "no rows" in str(found)


def test_subclasses() -> None:
    """A subclass may have attributes and a constructor of its own; one that makes its own iterators has no state, and says so."""

    class Mine(ps.DataLoader):
        def __init__(self, rows: int, shuffle: bool) -> None:
            self.shuffle, self.seed = shuffle, 5
            super().__init__(Numbers(rows), batch_size=4, shuffle=shuffle)

    assert len(list(Mine(9, True))) == 3
    assert Mine(9, False).state_dict()["batches"] == 0

    class Own(ps.DataLoader):
        def _get_iterator(self) -> Any:
            return torch.utils.data.dataloader._SingleProcessDataLoaderIter(self)

    own = Own(Numbers(9), batch_size=4)
    assert len(list(own)) == 3
    with pytest.raises(ps.BadRequest, match="_SingleProcessDataLoaderIter"):
        own.state_dict()


def test_a_copy_stands_by_itself() -> None:
    """A copied loader has the settings of the other, and an epoch of its own."""
    loader = ps.DataLoader(Numbers(20), batch_size=4)
    next(iter(loader))
    other = copy.copy(loader)
    assert other.state_dict()["batches"] == 0
    batches = iter(other)
    next(batches)
    next(batches)
    assert loader.state_dict()["batches"] == 1


def test_what_only_stored_data_has_is_refused_with_a_reason() -> None:
    """Penstock's own arguments and questions need a stored dataset, and say so."""
    with pytest.raises(ps.BadRequest, match=r"lanes=4 needs a penstock\.Dataset"):
        ps.DataLoader(Numbers(), lanes=4)
    loader = ps.DataLoader(Numbers())
    for ask in (loader.stats, loader.digest, loader.confirm):
        with pytest.raises(ps.BadRequest, match="stored data only"):
            ask()
    assert not hasattr(loader, "plan")
