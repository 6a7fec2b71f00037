"""`penstock plan` says what loaders deliver, without reading a row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
    """Return a dataset whose rows hold their numbers."""
    path = tmp_path_factory.mktemp("plan") / "ds"
    with ps.Writer(path, {"n": ps.Scalar("int64")}) as writer:
        for number in range(ROWS):
            writer.write({"n": number})
    return path


@pytest.mark.parametrize("tail", ["drop", "pad", "ragged"])
def test_steps_and_samples_are_the_loaders(numbers: Path, tail: Any) -> None:
    """Each batch of each rank holds the samples that are told, and each sample is told the batches that hold it."""
    held: dict[int, list[tuple[int, int, int]]] = {number: [] for number in range(ROWS)}
    options = ("--batch-size", 4, "--world-size", 3, "--epoch", 1, "--seed", 9, "--tail", tail)
    for rank in range(3):
        loader = ps.DataLoader(ps.Dataset(numbers), 4, shuffle=True, seed=9, tail=tail, topology=(rank, 3))
        loader.set_epoch(1)
        for step, batch in enumerate(loader):
            samples = batch["n"].tolist()
            assert told(numbers, "--step", step, "--rank", rank, *options)["ranks"][0]["samples"] == samples
            for index, sample in enumerate(samples):
                held[sample].append((step, rank, index))
    for sample, seats in held.items():
        found = told(numbers, "--sample", sample, *options)["seats"]
        assert sorted((seat["step"], seat["rank"], seat["row"]) for seat in found) == sorted(seats)


def test_a_resume_is_told_by_its_position(numbers: Path) -> None:
    """From the position of a state on, with another batch size, it says what the resumed loader delivers."""
    loader = ps.DataLoader(ps.Dataset(numbers), 4, shuffle=True, seed=9)
    next(iterator := iter(loader))
    state = loader.state_dict()
    del iterator
    resumed = ps.DataLoader(ps.Dataset(numbers), 7, shuffle=True, seed=9)
    resumed.load_state_dict(state)
    found = told(numbers, "--step", 0, "--batch-size", 7, "--seed", 9, "--start", state["samples"])
    assert found["ranks"][0]["samples"] == next(iter(resumed))["n"].tolist()


def test_it_is_shown_to_people_too(numbers: Path) -> None:
    """A table names ranks, positions and samples, or steps; a sample that nobody is given is said to be that."""
    shown = run(numbers, "--step", 0, "--batch-size", 20, "--world-size", 2, "--no-shuffle").output
    assert "step 0 of epoch 0" in shown
    assert "20 to 39" in shown
    assert "20, 21, 22, 23, 24, 25, 26, 27, ... (20 in all)" in shown
    shown = run(numbers, "--sample", 49, "--batch-size", 20, "--no-shuffle", "--tail", "drop").output
    assert "sample 49 stands at position 49 of epoch 0, and is given to nobody" in shown
    assert "the first 64 of" not in run(numbers, "--step", 0, "--world-size", 50, "--no-shuffle").output
    assert "step 0 of epoch 0 (the first 64 of 100 ranks)" in run(numbers, "--step", 0, "--world-size", 100, "--no-shuffle").output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "either --step or --sample"),
        (("--step", 1, "--sample", 1), "either --step or --sample"),
        (("--step", 1000), "rank 0 has 50 steps from position 0 on"),
        (("--sample", 50), "no row 50 among 50"),
        (("--step", 0, "--tail", "short"), "'short' is not one of drop, pad, ragged"),
        (("--step", 0, "--rank", 2, "--world-size", 2), "rank 2 of world size 2"),
    ],
)
def test_what_cannot_be_told_is_refused(numbers: Path, arguments: tuple[object, ...], message: str) -> None:
    """Nothing asked for, or what is not there, is an error with its value."""
    done = run(numbers, *arguments)
    assert done.exit_code == 1
    assert message in " ".join(done.output.split())
