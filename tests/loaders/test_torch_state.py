"""A loader over a dataset of the user's own goes on from its state with exactly the batches that an uninterrupted one gives."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from foreign import Breaking, Counting, Failing, Learned, Numbers, Seeds, Shuffled, Stateful, Stream, Turning, Walking, same
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, RandomSampler, SubsetRandomSampler, WeightedRandomSampler
from torch.utils.data.distributed import DistributedSampler

import penstock as ps

Make = Callable[[int], Any]


def cut(
    make: Make, at: int, workers: int, then: int, *, save: Callable[[Any], Any] = lambda state: state, epochs: int = 1
) -> tuple[list[Any], list[Any]]:
    """Return what an uninterrupted loader gives behind its first `at` batches, over epochs, and what one gives that goes on from a state there."""
    torch.manual_seed(11)
    loader = make(workers)
    batches = iter(loader)
    for _ in range(at):
        next(batches)
    state = save(loader.state_dict())
    whole = list(batches)
    for _ in range(epochs - 1):
        whole += list(loader)
    torch.manual_seed(99)
    other = make(then)
    other.load_state_dict(state)
    resumed = [batch for _ in range(epochs) for batch in other]
    return whole, resumed


SAMPLERS: dict[str, Make] = {
    "in order": lambda w: ps.DataLoader(Numbers(50), batch_size=4, num_workers=w),
    "shuffled": lambda w: ps.DataLoader(Numbers(50), batch_size=4, shuffle=True, num_workers=w),
    "dropping": lambda w: ps.DataLoader(Numbers(50), batch_size=4, shuffle=True, drop_last=True, num_workers=w),
    "one by one": lambda w: ps.DataLoader(Numbers(12), batch_size=None, shuffle=True, num_workers=w),
    "replaced": lambda w: ps.DataLoader(Numbers(50), batch_size=4, sampler=RandomSampler(range(50), replacement=True, num_samples=44), num_workers=w),
    "weighted": lambda w: ps.DataLoader(Numbers(50), batch_size=4, sampler=WeightedRandomSampler([1.0] * 50, 48), num_workers=w),
    "subset": lambda w: ps.DataLoader(Numbers(50), batch_size=4, sampler=SubsetRandomSampler(range(6, 50)), num_workers=w),
    "distributed": lambda w: ps.DataLoader(Numbers(90), batch_size=4, sampler=DistributedSampler(Numbers(90), 2, 1), num_workers=w),
    "stateful": lambda w: ps.DataLoader(Numbers(50), batch_size=4, sampler=Stateful(50), num_workers=w),
    "batches": lambda w: ps.DataLoader(Numbers(50), batch_sampler=[[n, n + 1] for n in range(0, 40, 3)], num_workers=w),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_map_style_data_goes_on_with_any_number_of_workers(name: str) -> None:
    """Whatever samples, and wherever the epoch is cut, the rest of it follows, with more or fewer workers."""
    for at, workers, then in ((0, 0, 2), (3, 2, 0), (5, 2, 3), (9, 0, 0), (10, 1, 2)):
        whole, resumed = cut(SAMPLERS[name], at, workers, then)
        assert same(whole, resumed)
        assert whole


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loaders_generator_stands_where_it_stood(workers: int) -> None:
    """With a generator of the loader's own, later epochs are those of the uninterrupted run too, from the middle of an epoch and from its end."""

    def make(w: int) -> Any:
        return ps.DataLoader(Numbers(30), batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(5), num_workers=w)

    whole, resumed = cut(make, 3, workers, 2 - workers, epochs=3)
    assert same(whole, resumed)
    torch.manual_seed(1)
    loader = make(workers)
    list(loader)
    other = make(0)
    other.load_state_dict(loader.state_dict())
    assert same(list(loader), list(other))


def test_the_consumers_random_numbers_are_left_alone() -> None:
    """Going on with an epoch takes no random number from the default generator: the run that began it has taken them."""
    torch.manual_seed(3)
    loader = ps.DataLoader(Numbers(30), batch_size=4, shuffle=True)
    batches = iter(loader)
    next(batches)
    state = loader.state_dict()
    torch.manual_seed(8)
    expected = torch.rand(3)
    other = ps.DataLoader(Numbers(30), batch_size=4, shuffle=True)
    other.load_state_dict(state)
    torch.manual_seed(8)
    rest = list(other)
    assert torch.equal(torch.rand(3), expected)
    assert same(rest, list(batches))


STREAMS: dict[str, Make] = {
    "plain": lambda w: ps.DataLoader(Stream(60), batch_size=4, num_workers=w),
    "one by one": lambda w: ps.DataLoader(Stream(20), batch_size=None, num_workers=w),
    "iterators with a state": lambda w: ps.DataLoader(Walking(60), batch_size=4, num_workers=w),
    "a state now and then": lambda w: ps.DataLoader(Walking(90), batch_size=4, num_workers=w, snapshot_every_n_steps=3),
    "a state of its own": lambda w: ps.DataLoader(Counting(60), batch_size=4, num_workers=w),
    "persistent": lambda w: ps.DataLoader(Walking(60), batch_size=4, num_workers=w, persistent_workers=w > 0),
}


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
@pytest.mark.parametrize("name", STREAMS)
def test_streams_go_on_with_the_same_number_of_workers(name: str, workers: int) -> None:
    """A stream whose iterator, or which itself, has a state is given it; any other is passed over up to there; whose turn it was is whose turn it is."""
    for at in (0, 1, 5, 8):
        whole, resumed = cut(STREAMS[name], at, workers, workers)
        assert same(whole, resumed)
    whole, resumed = cut(STREAMS[name], 4, workers, workers, epochs=2)
    assert same(whole, resumed)


def test_another_number_of_workers_of_a_stream_is_refused() -> None:
    """Each worker has its own part of a stream, so that another number of them is refused, with both numbers."""
    loader = ps.DataLoader(Stream(60), batch_size=4, num_workers=2)
    next(iter(loader))
    with pytest.raises(ps.BadRequest, match=r"num_workers=3, and the state was saved with 2"):
        ps.DataLoader(Stream(60), batch_size=4, num_workers=3).load_state_dict(loader.state_dict())


def test_workers_are_seeded_as_they_were() -> None:
    """The workers of a resumed epoch have the seeds of those that began it."""
    torch.manual_seed(2)
    loader = ps.DataLoader(Seeds(12), batch_size=2, num_workers=2)
    batches = iter(loader)
    first = next(batches)
    other = ps.DataLoader(Seeds(12), batch_size=2, num_workers=2)
    other.load_state_dict(loader.state_dict())
    assert {int(seed) for batch in other for seed in batch[:, 2]} == {int(seed) for batch in [first, *batches] for seed in batch[:, 2]}


def test_a_batch_that_failed_counts_as_given() -> None:
    """Behind a row's error the epoch goes on with the next batch, in a resumed loader as in the same one."""
    for workers in (0, 2):
        loader = ps.DataLoader(Failing(20), batch_size=1, num_workers=workers)
        batches = iter(loader)
        for _ in range(3):
            next(batches)
        with pytest.raises(KeyError):
            next(batches)
        other = ps.DataLoader(Failing(20), batch_size=1, num_workers=workers)
        other.load_state_dict(loader.state_dict())
        assert int(next(iter(other))) == int(next(batches)) == 4


def test_out_of_order_each_row_once() -> None:
    """With `in_order=False`, what was given before a cut and what comes behind it make the epoch, each row once."""
    loader = ps.DataLoader(Numbers(80), batch_size=4, num_workers=3, in_order=False, shuffle=True)
    batches = iter(loader)
    given = [next(batches) for _ in range(7)]
    other = ps.DataLoader(Numbers(80), batch_size=4, num_workers=2, in_order=False, shuffle=True)
    other.load_state_dict(loader.state_dict())
    assert sorted(torch.cat([*given, *other]).tolist()) == list(range(80))


def test_chains_of_resumes() -> None:
    """A run that is cut again and again, with other numbers of workers, gives what one gives that is never cut."""
    torch.manual_seed(4)
    whole = list(ps.DataLoader(Numbers(100), batch_size=3, shuffle=True))
    torch.manual_seed(4)
    loader = ps.DataLoader(Numbers(100), batch_size=3, shuffle=True)
    given: list[Any] = []
    for workers in (2, 0, 1, 0):
        batches = iter(loader)
        given += [next(batches) for _ in range(6)]
        state = json.loads(json.dumps(loader.state_dict()))
        loader = ps.DataLoader(Numbers(100), batch_size=3, shuffle=True, num_workers=workers)
        loader.load_state_dict(state)
        assert loader.state_dict() == {**state, "num_workers": workers, **({} if workers == state["num_workers"] else {"workers": [], "worker": -1})}
    assert same(given + list(loader), whole)


def test_a_sampler_is_told_its_epoch() -> None:
    """The epoch that a sampler was in is in the state, and `set_epoch` reaches sampler and dataset."""
    sampler: Any = DistributedSampler(Numbers(40), 2, 0, shuffle=True)
    loader = ps.DataLoader(Numbers(40), batch_size=4, sampler=sampler)
    loader.set_epoch(3)
    assert sampler.epoch == 3
    batches = iter(loader)
    next(batches)
    other = ps.DataLoader(Numbers(40), batch_size=4, sampler=DistributedSampler(Numbers(40), 2, 0, shuffle=True))
    other.load_state_dict(loader.state_dict())
    assert same(list(other), list(batches))


@pytest.mark.parametrize(
    "state", [{}, {"kind": "torch", "version": 9}, {"kind": "torch", "version": 1}, [], {"kind": "torch", "version": 1, "batches": -1}]
)
def test_a_state_that_is_none_is_refused(state: Any) -> None:
    """Anything that `state_dict` did not return is refused, and the loader is as before."""
    loader = ps.DataLoader(Numbers(9), batch_size=4)
    with pytest.raises(ps.BadRequest, match="state"):
        loader.load_state_dict(state)
    assert len(list(loader)) == 3


def test_a_samplers_state_needs_such_a_sampler() -> None:
    """The state of a sampler that has one cannot be given to a sampler that takes none."""
    loader = ps.DataLoader(Numbers(20), batch_size=4, sampler=Stateful(20))
    next(iter(loader))
    other = ps.DataLoader(Numbers(20), batch_size=4)
    other.load_state_dict(loader.state_dict(), accept=["samplers"])
    with pytest.raises(ps.BadRequest, match="takes none"):
        iter(other)


def test_generators_of_samplers_stand_where_they_stood() -> None:
    """A sampler's own generator, also inside a batch sampler, goes on in a later epoch as the uninterrupted run's does."""
    for wrapped in (False, True):

        def make() -> Any:
            sampler = RandomSampler(range(40), generator=torch.Generator().manual_seed(3))
            if wrapped:  # noqa: B023  (likewise)
                return ps.DataLoader(Numbers(40), batch_sampler=BatchSampler(sampler, 4, drop_last=False))
            return ps.DataLoader(Numbers(40), batch_size=4, sampler=sampler)

        loader = make()
        list(loader)
        batches = iter(loader)
        for _ in range(3):
            next(batches)
        other = make()
        other.load_state_dict(loader.state_dict())
        assert same(list(batches), list(other))
        assert same(list(loader), list(other))


def test_another_plan_is_refused_by_name() -> None:
    """Another batch size, number of rows, sampler or generator is named, with both values; what is accepted may differ."""
    loader = ps.DataLoader(Numbers(40), batch_size=4, shuffle=True)
    next(iter(loader))
    state = loader.state_dict()
    others: list[tuple[Any, str]] = [
        (ps.DataLoader(Numbers(40), batch_size=5, shuffle=True), "batch_size was 4 and is 5"),
        (ps.DataLoader(Numbers(41), batch_size=4, shuffle=True), "rows was 40 and is 41"),
        (ps.DataLoader(Numbers(40), batch_size=4, shuffle=True, drop_last=True), "drop_last was False and is True"),
        (ps.DataLoader(Numbers(40), batch_size=4), "samplers was"),
        (ps.DataLoader(Numbers(40), batch_size=4, shuffle=True, generator=torch.Generator()), "own_generators was 0 and is 1"),
    ]
    for other, message in others:
        with pytest.raises(ps.BadRequest, match=message):
            other.load_state_dict(state)
    others[1][0].load_state_dict(state, accept=["rows"])
    assert len(list(others[1][0])) == 10


def test_samplers_that_change_from_epoch_to_epoch() -> None:
    """A sampler with a state goes on in the right epoch, from the middle of one, from its end, and before the first batch of the next."""
    for at in (3, 10, 10.5):
        loader = ps.DataLoader(Numbers(40), batch_size=4, sampler=Turning(40))
        list(loader)
        batches = iter(loader)
        for _ in range(int(at)):
            next(batches)
        if at == 10:
            assert next(batches, None) is None
        if at == 10.5:
            list(batches)
            batches = iter(loader)
        other = ps.DataLoader(Numbers(40), batch_size=4, sampler=Turning(40))
        other.load_state_dict(loader.state_dict())
        assert same([*batches, *loader], [*other, *(other if at != 10 else ())])


def test_a_finished_state_is_still_one_when_it_was_loaded() -> None:
    """A state of an epoch's end, loaded and saved again before anything was iterated, is the same state."""
    loader = ps.DataLoader(Numbers(20), batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(1))
    list(loader)
    state = loader.state_dict()
    second = ps.DataLoader(Numbers(20), batch_size=4, shuffle=True, generator=torch.Generator())
    second.load_state_dict(state)
    assert second.state_dict() == state
    third = ps.DataLoader(Numbers(20), batch_size=4, shuffle=True, generator=torch.Generator())
    third.load_state_dict(second.state_dict())
    assert same(list(third), list(loader))


@pytest.mark.parametrize("workers", [0, 2])
def test_map_style_data_with_a_state(workers: int) -> None:
    """A map-style dataset's own state goes along, in each worker, behind every batch whatever `snapshot_every_n_steps` says; for other workers it is refused."""

    def make(w: int) -> Any:
        return ps.DataLoader(Learned(60), batch_size=3, num_workers=w, snapshot_every_n_steps=4)

    whole, resumed = cut(make, 7, workers, workers)
    assert same([batch[:, 0] for batch in whole], [batch[:, 0] for batch in resumed])
    counts = [[int(batch[-1, 1]) for batch in batches] for batches in (whole, resumed)]
    assert sorted(counts[0]) == sorted(counts[1])
    loader = make(workers)
    next(iter(loader))
    with pytest.raises(ps.BadRequest, match="num_workers=3"):
        make(3).load_state_dict(loader.state_dict())


def test_a_stream_that_shuffles_itself_inline() -> None:
    """Without workers an iterable dataset that draws its order when it begins begins with the same random numbers."""
    whole, resumed = cut(lambda _: ps.DataLoader(Shuffled(30), batch_size=4), 3, 0, 0)
    assert same(whole, resumed)


@pytest.mark.parametrize("workers", [0, 1])
def test_streams_that_fail_and_go_on(workers: int) -> None:
    """A batch of a stream that failed is passed over as it failed, and the rest follows."""

    def rest(batches: Any) -> list[Any]:
        found = []
        while True:
            try:
                found.append(next(batches).tolist())
            except KeyError as error:
                found.append(str(error).splitlines()[-1])
            except StopIteration:
                return found

    loader = ps.DataLoader(Breaking(40), batch_size=3, num_workers=workers)
    batches = iter(loader)
    for _ in range(5):
        with contextlib.suppress(KeyError):
            next(batches)
    other = ps.DataLoader(Breaking(40), batch_size=3, num_workers=workers)
    other.load_state_dict(loader.state_dict())
    assert rest(batches) == rest(iter(other))


def test_a_state_that_cannot_be_pickled_is_an_error_in_the_loop() -> None:
    """What a dataset says of itself must be sent to the loop; where it cannot be, the batch's place has the error, and nothing hangs."""
    batches = iter(ps.DataLoader(Unsendable(20), batch_size=4, num_workers=1))
    with pytest.raises(Exception, match="pickle"):
        next(batches)


class Unsendable(Counting):
    """Its state holds a function."""

    def state_dict(self) -> Any:
        """Return what cannot be pickled."""
        return {"at": lambda: 0}


def test_how_often_a_state_is_taken_is_checked() -> None:
    """`snapshot_every_n_steps` is a number of batches, or None."""
    for wrong in (0, -1, 1.5, "1"):
        with pytest.raises(ps.BadRequest, match="snapshot_every_n_steps"):
            ps.DataLoader(Numbers(), snapshot_every_n_steps=wrong)  # type: ignore[arg-type]
    assert list(ps.DataLoader(Numbers(2), snapshot_every_n_steps=None))


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 60), size=st.integers(1, 9), shuffle=st.booleans(), drop=st.booleans(), data=st.data())
def test_any_cut_of_any_epoch(rows: int, size: int, shuffle: bool, drop: bool, data: st.DataObject) -> None:
    """Inline, over any number of rows, batch size and place: nothing is lost and nothing doubled."""

    def make(_: int) -> Any:
        return ps.DataLoader(Numbers(rows), batch_size=size, shuffle=shuffle, drop_last=drop)

    steps = len(make(0))
    whole, resumed = cut(make, data.draw(st.integers(0, steps)), 0, 0)
    assert same(whole, resumed)
