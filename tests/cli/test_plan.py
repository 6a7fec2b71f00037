"""`penstock plan` says what loaders deliver, without reading a row."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import penstock as ps
from penstock.cli.app import app

ROWS = 50


def run(*arguments: object) -> Result:
    """Run the command line in this process."""
    return CliRunner().invoke(app, ["plan", *(str(a) for a in arguments)])


def told(*arguments: object) -> dict[str, Any]:
    """Return what it prints as JSON."""
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.output)
    return found


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dataset whose rows hold their numbers, in several shards, and 99 bytes that nobody asks for."""
    path = tmp_path_factory.mktemp("plan") / "ds"
    with ps.Writer(path, {"n": ps.Scalar("int64"), "pad": ps.Array((99,), "uint8")}, shard_size=107 * 7) as writer:
        for number in range(ROWS):
            writer.write({"n": number, "pad": np.zeros(99, np.uint8)})
    return path


ORDERS: list[dict[str, Any]] = [
    {"shuffle": True, "seed": 9},
    {},
    {"shuffle": True, "seed": 9, "window_shards": 2},
    {"shuffle": True, "lanes": 3},
    {"shuffle": True, "seed": -1, "window_shards": 1, "lanes": 4, "epoch_samples": 70},
    {"epoch_samples": 33},
]


def as_options(order: dict[str, Any]) -> list[object]:
    """Return a loader's arguments as the command's options."""
    options: list[object] = []
    for name, value in order.items():
        flag = name.replace("_", "-")
        options += [f"--{flag}" if value else f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}={value}"]
    return options


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("tail", ["drop", "pad", "ragged"])
def test_steps_and_samples_are_the_loaders(numbers: Path, tail: Any, order: dict[str, Any]) -> None:
    """Whatever the order: each batch of each rank holds the samples that are told, and each sample is told the batches that hold it."""
    held: dict[int, list[tuple[int, int, int]]] = {number: [] for number in range(ROWS)}
    options = ("--batch-size", 4, "--world-size", 3, "--epoch", 1, "--tail", tail, *as_options(order))
    for rank in range(3):
        loader = ps.DataLoader(ps.Dataset(numbers), 4, tail=tail, topology=(rank, 3), **order)
        loader.set_epoch(1)
        for step, batch in enumerate(loader):
            samples = batch["n"].tolist()
            assert told(numbers, "--step", step, "--rank", rank, *options)["ranks"][0]["samples"] == samples
            for index, sample in enumerate(samples):
                held[sample].append((step, rank, index))
    for sample, seats in held.items():
        found = told(numbers, "--sample", sample, *options)["seats"]
        assert sorted((seat["step"], seat["rank"], seat["row"]) for seat in found) == sorted(seats)


@pytest.mark.parametrize("order", ORDERS)
def test_a_resume_is_told_by_its_state(numbers: Path, tmp_path: Path, order: dict[str, Any]) -> None:
    """From a saved state on, with another batch size, it says what the resumed loader delivers, and the same from the state's numbers by hand."""
    loader = ps.DataLoader(ps.Dataset(numbers), 4, **order)
    loader.set_epoch(2)
    next(iterator := iter(loader))
    state = loader.state_dict()
    del iterator
    (tmp_path / "state.json").write_text(json.dumps(state))
    resumed = ps.DataLoader(ps.Dataset(numbers), 7, **order)
    resumed.load_state_dict(state)
    found = told(numbers, "--step", 0, "--batch-size", 7, "--state", tmp_path / "state.json")
    assert found["ranks"][0]["samples"] == next(iter(resumed))["n"].tolist()
    assert (found["epoch"], found["start"]) == (2, 4)
    assert told(numbers, "--step", 0, "--batch-size", 7, "--epoch", 2, "--start", state["samples"], *as_options(order)) == found
    other = told(numbers, "--step", 0, "--batch-size", 7, "--state", tmp_path / "state.json", "--epoch", 3)
    assert other == told(numbers, "--step", 0, "--batch-size", 7, "--epoch", 3, *as_options(order))
    again = told(numbers, "--step", 0, "--state", tmp_path / "state.json", "--epoch", 2, "--start", 9)
    assert (again["epoch"], again["start"]) == (2, 9)


def test_a_state_opens_the_version_that_it_was_saved_over(numbers: Path, tmp_path: Path) -> None:
    """When the dataset has grown, the state's version is looked at; another one, or another dataset, is refused by name."""
    copied = shutil.copytree(numbers, tmp_path / "grown")
    file = tmp_path / "state.json"
    file.write_text(json.dumps(ps.DataLoader(ps.Dataset(copied), 4, shuffle=True).state_dict()))
    before = told(copied, "--step", 2, "--state", file)
    with ps.Writer(copied, mode="append") as writer:
        writer.write({"n": ROWS, "pad": np.zeros(99, np.uint8)})
    assert told(copied, "--step", 2, "--state", file) == before
    done = run(copied, "--step", 2, "--state", file, "--version", 2)
    assert done.exit_code == 1
    assert "dataset_version was 1, is 2" in " ".join(done.output.split())


def test_a_state_of_rows_that_are_made_is_refused_with_what_answers(tmp_path: Path) -> None:
    """A state of windows, of packed sequences, of a mixture or of another dataset is known by its digest, and the loader's own answers are named."""
    datasets: list[ps.Dataset] = []
    for name in ("one", "two"):
        with ps.Writer(tmp_path / name, {"tokens": ps.Tokens("uint16")}) as writer:
            for number in range(ROWS):
                writer.write({"tokens": np.full(20 + number, len(datasets), np.uint16)})
        datasets.append(ps.Dataset(tmp_path / name))
    sources: list[Any] = [ps.TokenWindows(datasets[0], 16), ps.Packed(datasets[0], 64), ps.Mixture({"a": datasets[0], "b": datasets[1]}), datasets[1]]
    for source in sources:
        (tmp_path / "state.json").write_text(json.dumps(ps.DataLoader(source, 4, shuffle=True).state_dict()))
        done = run(tmp_path / "one", "--step", 0, "--state", tmp_path / "state.json")
        assert done.exit_code == 1
        told_so = " ".join(done.output.split())
        assert f"dataset_digest was '{source.digest}', is '{datasets[0].digest}'" in told_so
        assert "loader.plan, loader.state_at and loader.digest for the others" in told_so
        assert "accept=" not in told_so
    assert "rows of the dataset, as a loader over the dataset itself delivers them" in " ".join(run("--help").output.split())


@pytest.mark.parametrize(
    ("saved", "arguments", "message"),
    [
        ("{", (), "not JSON"),
        ("[" * 100_000, (), "not JSON"),
        ("[1]", (), "is not the state_dict() of a penstock.DataLoader"),
        ({"plan": 7}, (), "is not the state_dict() of a penstock.DataLoader"),
        ({"tickets": []}, (), "whose batches are drawn"),
        ({"penstock_state": 2}, (), "not a state of penstock.DataLoader in format 1"),
        ({"plan": {"seed": "x"}}, (), "which are no integer and no truth value"),
        ({"plan": {"shuffle": True, "lanes": 2**40}}, (), "lanes=1099511627776 are more"),
        ({"epoch": 2**62}, (), "lies beyond sample 2**62"),
        ({}, ("--seed", 3, "--epoch-samples", 5), "--state says seed, epoch_samples: leave out --seed, --epoch-samples"),
        ({}, ("--no-shuffle",), "leave out --shuffle"),
    ],
)
def test_what_is_no_state_is_refused(numbers: Path, tmp_path: Path, saved: Any, arguments: tuple[object, ...], message: str) -> None:
    """Text that is no JSON, JSON that is no state, a state of drawn batches and hostile numbers are refused by value; so is what the state says already."""
    good = ps.DataLoader(ps.Dataset(numbers), 4, shuffle=True).state_dict()
    file = tmp_path / "state.json"
    file.write_text(saved if isinstance(saved, str) else json.dumps({**good, **saved}))
    done = run(numbers, "--step", 0, "--state", file, *arguments)
    assert done.exit_code == 1
    assert message in " ".join(done.output.split())


def test_it_is_shown_to_people_too(numbers: Path) -> None:
    """A table names ranks, positions and samples, or steps; a sample that nobody is given is said to be that."""
    shown = run(numbers, "--step", 0, "--batch-size", 20, "--world-size", 2).output
    assert "step 0 of epoch 0" in shown
    assert "20 to 39" in shown
    assert "20, 21, 22, 23, 24, 25, 26, 27, ... (20 in all)" in shown
    shown = run(numbers, "--sample", 49, "--batch-size", 20, "--tail", "drop").output
    assert "sample 49 stands at position 49 of epoch 0, and is given to nobody" in shown
    assert "the first 64 of" not in run(numbers, "--step", 0, "--world-size", 50).output
    assert "step 0 of epoch 0 (the first 64 of 100 ranks)" in run(numbers, "--step", 0, "--world-size", 100).output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "either --step or --sample"),
        (("--step", 1, "--sample", 1), "either --step or --sample"),
        (("--step", 1000), "rank 0 has 50 steps from position 0 on"),
        (("--sample", 50), "no row 50 among 50"),
        (("--step", 0, "--tail", "short"), "'short' is not one of drop, pad, ragged"),
        (("--step", 0, "--rank", 2, "--world-size", 2), "rank 2 of world size 2"),
        (("--step", 0, "--epoch", 10**18, "--epoch-samples", 100), "epoch 1000000000000000000 of 100 samples each lies beyond sample 2**62"),
        (("--sample", 0, "--epoch", 2**62), "lies beyond sample 2**62"),
        (("--step", 0, "--lanes", 2**62, "--shuffle"), "lanes=4611686018427387904 are more"),
        (("--step", 0, "--state", "/nowhere/state.json"), "/nowhere/state.json"),
    ],
)
def test_what_cannot_be_told_is_refused(numbers: Path, arguments: tuple[object, ...], message: str) -> None:
    """Nothing asked for, or what is not there, is an error with its value."""
    done = run(numbers, *arguments)
    assert done.exit_code == 1
    assert message in " ".join(done.output.split())
