"""A loader driven at random (iterated, broken off, saved, loaded, told an epoch, its workers killed) against a model of the order in plain Python."""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import psutil
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

import penstock as ps
from penstock import order

ROWS = 29


@pytest.fixture(scope="module", autouse=True)
def numbers(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Write the dataset that the machines read: a number and as many bytes, in several shards."""
    path = tmp_path_factory.mktemp("machine") / "d"
    with ps.Writer(path, fields={"n": ps.Scalar("int64"), "raw": ps.Bytes()}, shard_size="1KB") as writer:
        for n in range(ROWS):
            writer.write({"n": n, "raw": bytes([n]) * (n % 7) * 20})
    Machine.path = path


class Model:
    """What a loader must do, in a few lines: an epoch is a permutation, a state a place in it."""

    def __init__(self, seed: int, shuffle: bool) -> None:
        """Stand before epoch 0."""
        self.seed, self.shuffle = seed, shuffle
        self.epoch, self.place, self.entered = 0, 0, False
        self.chosen: int | None = None
        self.resuming = False

    def rows(self, epoch: int) -> list[int]:
        """Return the epoch's rows in order, by the slow law."""
        key = order.order_key(self.seed, epoch)
        return [order.permute_reference(p, ROWS, key) if self.shuffle else p for p in range(ROWS)]

    def begin(self) -> None:
        """Enter the epoch that comes next."""
        if not self.resuming:
            self.epoch = self.chosen if self.chosen is not None else self.epoch + self.entered
            self.place = 0
        self.resuming, self.chosen, self.entered = False, None, True

    def take(self, batch_size: int) -> list[int]:
        """Return the next batch's rows; none at the end, with which the epoch is over."""
        batch = self.rows(self.epoch)[self.place : self.place + batch_size]
        self.place += len(batch)
        if not batch:
            self.epoch, self.place, self.entered = self.epoch + 1, 0, False
        return batch

    def choose(self, epoch: int) -> None:
        """Choose the next epoch, unless a loaded place is in it."""
        if not (self.resuming and epoch == self.epoch):
            self.resuming, self.chosen = False, epoch

    def state(self, iterating: bool) -> tuple[int, int, bool]:
        """Return (epoch, place, whether it was entered) as a state says them."""
        if self.chosen is not None and not iterating:
            return self.chosen, 0, False
        return self.epoch, self.place, self.entered


class Machine(RuleBasedStateMachine):
    """One loader inline, or with workers, and its model."""

    path: Path
    workers = 0
    started = False
    kills = 0

    @initialize(seed=st.integers(0, 5), shuffle=st.booleans(), batch_size=st.integers(1, 12), persistent=st.booleans())
    def start(self, seed: int, shuffle: bool, batch_size: int, persistent: bool) -> None:
        """Make the loader."""
        self.options: dict[str, Any] = {"seed": seed, "shuffle": shuffle, "output": "numpy", "num_workers": self.workers}
        if self.workers:
            self.options["persistent_workers"] = persistent
        self.model = Model(seed, shuffle)
        self.make(batch_size)
        self.started = True

    def make(self, batch_size: int) -> None:
        """Make a loader of some batch size."""
        self.batch_size = batch_size
        self.loader = ps.DataLoader(ps.Dataset(self.path), batch_size=batch_size, **self.options)
        self.batches: Iterator[Any] | None = None
        self.held: list[tuple[Any, list[int]]] = []
        self.kills = 0

    def check(self, batch: Any, expected: list[int]) -> None:
        """Assert a batch's rows and bytes."""
        assert batch["n"].tolist() == expected
        values, offsets = batch["raw"]
        assert [values[a:b].tobytes() for a, b in itertools.pairwise(offsets)] == [bytes([n]) * (n % 7) * 20 for n in expected]

    @precondition(lambda self: self.batches is None)
    @rule()
    def iterate(self) -> None:
        """Begin an iteration, which nothing but its first batch enters."""
        self.batches = iter(self.loader)
        self.fresh = True

    @precondition(lambda self: self.batches is not None)
    @rule(count=st.integers(1, 6), hold=st.booleans())
    def take(self, count: int, hold: bool) -> None:
        """Take some batches, perhaps keeping the last one."""
        for _ in range(count):
            assert self.batches is not None
            if self.fresh:
                self.model.begin()
                self.fresh = False
            expected = self.model.take(self.batch_size)
            batch = next(self.batches, None)
            if batch is None:
                assert expected == []
                self.batches = None
                return
            self.check(batch, expected)
            if hold:
                self.held = [*self.held[-3:], (batch, expected)]

    @precondition(lambda self: self.batches is not None)
    @rule()
    def break_off(self) -> None:
        """Leave the loop."""
        assert self.batches is not None
        self.batches.close()  # type: ignore[attr-defined]
        self.batches = None

    @rule(epoch=st.integers(0, 4))
    def set_epoch(self, epoch: int) -> None:
        """Choose the next epoch, in a loop or outside."""
        self.loader.set_epoch(epoch)
        self.model.choose(epoch)

    @precondition(lambda self: self.batches is None)
    @rule(batch_size=st.integers(1, 12))
    def save_and_load_elsewhere(self, batch_size: int) -> None:
        """Go on in another loader, with another batch size, from the state through JSON."""
        saved = json.loads(json.dumps(self.loader.state_dict()))
        self.loader.close()
        self.make(batch_size)
        self.loader.load_state_dict(saved)
        self.model.epoch, self.model.place, self.model.entered = self.model.state(iterating=False)
        self.model.chosen, self.model.resuming = None, True

    @precondition(lambda self: self.workers > 0)
    @rule(which=st.integers(0, 3))
    def kill_a_worker(self, which: int) -> None:
        """Kill a worker, if there is one; no more than three of a loader, which any pool of it survives."""
        children = [p for p in psutil.Process().children() if p.status() != psutil.STATUS_ZOMBIE]
        self.kills += 1
        if children and self.kills <= 3:
            os.kill(children[which % len(children)].pid, signal.SIGKILL)

    @invariant()
    def state_is_the_models(self) -> None:
        """The state says the model's place; held batches keep their rows."""
        if not self.started:
            return
        saved = self.loader.state_dict()
        iterating = self.batches is not None and not self.fresh
        assert (saved["epoch"], saved["samples"], saved["under_way"]) == self.model.state(iterating)
        for batch, expected in self.held:
            self.check(batch, expected)

    def teardown(self) -> None:
        """End everything."""
        if self.started:
            self.held.clear()
            if self.batches is not None:
                self.batches.close()  # type: ignore[attr-defined]
            self.loader.close()


class MachineWithWorkers(Machine):
    """The same with two workers."""

    workers = 2


HEALTH = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]


def test_inline_against_the_model() -> None:
    """Any sequence of actions on an inline loader gives the batches and the states of the model."""
    run_state_machine_as_test(Machine, settings=settings(max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=HEALTH))


def test_workers_against_the_model() -> None:
    """The same with two workers, persistent or not, that are killed now and then."""
    run_state_machine_as_test(
        MachineWithWorkers, settings=settings(max_examples=10, stateful_step_count=30, deadline=None, suppress_health_check=HEALTH)
    )
