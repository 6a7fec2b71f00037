"""The arithmetic of `benchmarks/strain` and `benchmarks/scaling`, and that their programs run, small. No figure is looked at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import penstock as ps
from benchmarks import harness, images, scaling, strain, strain_loop
from benchmarks.harness import Run
from benchmarks.scaling_engine import shapes, simulated
from benchmarks.scaling_model import Cost, ShapeAt, at_work, fitted, saturation, useful
from penstock.loaders.pooled import Shape

COST = Cost(rows=256, batch_s=400e-6, task_s=20e-6, work_s=0.2)


@pytest.fixture(scope="module")
def shape_at(tmp_path_factory: pytest.TempPathFactory) -> ShapeAt:
    """Return how the engine cuts batches of 256 images that are augmented."""
    folder = tmp_path_factory.mktemp("images")
    images.generate(folder / "files", count=256, seed=0)
    ps.convert(folder / "files", folder / "images", workers=0)
    return shapes(strain_loop.loader_of({"data": str(folder / "images"), "images": True, "batch_size": 256, "workers": 1}))


@pytest.fixture(scope="module")
def rows_at(tmp_path_factory: pytest.TempPathFactory) -> ShapeAt:
    """Return how the engine lays out batches of 1,024 numbers."""
    data = strain.make_rows(tmp_path_factory.mktemp("rows") / "rows", 100_000)
    return shapes(strain_loop.loader_of({"data": data, "batch_size": 1024, "workers": 1}))


def test_a_line_gives_back_what_it_was_made_from(shape_at: ShapeAt, rows_at: ShapeAt) -> None:
    """Costs for a batch and for a task are found again from the parent's times, also where tasks stop getting smaller; uncut batches have one cost."""
    found = fitted({workers: COST.parent_s(shape_at(workers)) for workers in (1, 2, 4, 64, 128)}, shape_at, 256, COST.work_s)
    assert found.batch_s == pytest.approx(COST.batch_s)
    assert found.task_s == pytest.approx(COST.task_s)
    assert fitted({1: 1e-3, 8: 1e-3}, rows_at, 8, 1.0).parent_s(rows_at(1)) == pytest.approx(1e-3)


def test_saturation_is_where_workers_make_what_the_parent_hands_over(shape_at: ShapeAt) -> None:
    """One worker fewer leaves the parent idle at times; beyond it the rate is the parent's. Where too few can be at work there is no such number."""
    slow = COST._replace(batch_s=5e-3)
    workers = saturation(slow, shape_at, 500)
    assert workers is not None
    assert (workers - 1) / slow.work_s < 1 / slow.parent_s(shape_at(workers - 1))
    assert slow.rate(shape_at(workers), workers) == pytest.approx(256 / slow.parent_s(shape_at(workers)))
    assert useful(shape_at, 500) == 500

    def two(workers: int) -> Shape:
        return shape_at(workers)._replace(least=2)

    assert saturation(COST, two, 500) is None
    assert useful(two, 500) == 64
    assert "no more than 64" in scaling.sentence("images", scaling.told(COST, two))
    assert f"from {workers} workers on" in scaling.sentence("images", scaling.told(slow, shape_at))


@pytest.mark.parametrize("workers", [1, 2, 8, 64, 500])
def test_the_simulation_agrees_with_the_formula(shape_at: ShapeAt, workers: int) -> None:
    """Where times do not scatter the rate is the formula's but for the parent's share; where they do it is lower, and the parent as much less busy."""
    shape = shape_at(workers)
    even, busy = simulated(COST, shape, workers, scatter=0.0)
    assert even == pytest.approx(COST.rate(shape, workers), rel=0.01 if workers < 64 else 0.2)
    assert busy == pytest.approx(even * COST.parent_s(shape) / 256, rel=0.01)
    uneven, less_busy = simulated(COST, shape, workers)
    assert 0.5 * even < uneven <= even * 1.01
    assert less_busy == pytest.approx(uneven * COST.parent_s(shape) / 256, rel=0.01)


@pytest.mark.parametrize("workers", [1, 2, 8, 64, 500])
def test_the_simulation_keeps_in_work_what_the_engine_does(shape_at: ShapeAt, workers: int) -> None:
    """While the consumer waits, as many batches of images in chunks of 8 rows or more are in work as give each worker two: by the engine's own numbers, and never more tasks."""
    found: list[int] = []
    simulated(COST, shape_at(workers), workers, trace=found)
    shape = shape_at(workers)
    assert max(found) == shape.least * min(workers, 256 // 8)
    assert max(found) >= 2 * workers
    assert at_work(shape_at(workers), workers) == min(workers, max(found))


def test_a_parent_that_takes_long_sets_the_rate(shape_at: ShapeAt) -> None:
    """Workers then have batches ready, of which there are never more ahead than the engine's window."""
    slow, found = COST._replace(batch_s=50e-3), list[int]()
    shape = shape_at(16)
    rate, busy = simulated(slow, shape, 16, trace=found)
    assert max(found) <= shape.window * 16
    assert rate == pytest.approx(256 / slow.parent_s(shape), rel=0.05)
    assert busy == pytest.approx(1, rel=0.05)


def test_batches_of_plain_rows_have_the_whole_window_in_work(rows_at: ShapeAt) -> None:
    """They are not cut, several share a slot, and each worker has its prefetched slots in work from the beginning."""
    found: list[int] = []
    shape = rows_at(4)
    assert (shape.parts, shape.least) == (1, shape.window)
    simulated(COST._replace(rows=1024), shape, 4, trace=found)
    assert max(found) == shape.window
    assert useful(rows_at, 500) == 500


def run_of(**told: Any) -> Run:
    """Return a run that told this."""
    return Run(told=told, cpu_s=0, peak_bytes=0, wall_s=0)


def test_every_question_has_its_answer(tmp_path: Path) -> None:
    """Each bound is judged from the medians: what keeps it and what does not."""
    configs = strain.configurations(tmp_path, 8, 2_000_000)
    grown = [{"memory_bytes": n * 1_000_000, "mapped_bytes": 5} for n in range(20)]
    told = {
        "samples_per_s": 100.0,
        "order": 7,
        "waiting": 0.002,
        "waiting_when_ready": 0.001,
        "step_s": 0.01,
        "memory_bytes": 10_000_000,
        "mapped_bytes": 5,
        "epochs": grown,
        "parent_s_per_1000": 0.049,
    }
    runs = {name: [run_of(**told)] * 3 for name in configs}
    runs["consumer of rows, 1 workers"] = [run_of(**{**told, "waiting": 0.03, "waiting_when_ready": 0.025})] * 3
    runs["consumer of rows, 2 workers"] = [run_of(**{**told, "waiting": 0.03, "waiting_when_ready": 0.01})] * 3
    runs["uneven samples, 2 workers"] = [run_of(**{**told, "samples_per_s": 90.0, "order": 8})] * 3
    runs["handover of images, 2 workers"] = [run_of(parent_s_per_1000=share) for share in (0.0, 0.05, 0.9)]
    found = {question: good for question, _, good in strain.answers(runs, 2_000_000)}
    bad = [question for question, good in found.items() if not good]
    assert len(found) == 14
    assert "parent CPU per 1,000 images/s, 1 workers (under 5 % of a core)" in found
    assert [question.partition(",")[0] for question in bad] == [
        "waiting of a slow consumer of rows",
        "rate with slow samples over their share of the work",
        "order with slow samples",
        "waiting of a slow consumer of rows",
        "parent CPU per 1",
        "growth over 20 epochs of images",
        "growth over 20 epochs of images",
    ]


@pytest.mark.parametrize("experiment", sorted(strain_loop.EXPERIMENTS))
@pytest.mark.parametrize("workers", [0, 1])
def test_each_experiment_runs(tmp_path: Path, experiment: str, workers: int) -> None:
    """Each returns numbers from a small dataset, inline and with a worker."""
    data = strain.make_rows(tmp_path / "rows", 400)
    config = {"data": data, "batch_size": 32, "workers": workers, "cost_s": 1e-5, "every": 10, "factor": 3, "epochs": 2, "batches": 5}
    found = strain_loop.EXPERIMENTS[experiment](config)
    assert found
    assert all(value >= 0 for value in found.values() if isinstance(value, (int, float)))


def test_the_program_of_scaling_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It makes its data, measures in processes of their own, prints a table and an answer for each kind, and saves them."""
    monkeypatch.setattr(scaling, "MEASURED", (1,))
    monkeypatch.setattr(scaling, "SHOWN", (1, 4))
    scaling.main(["--rounds", "1", "--count", "8", "--rows", "5000", "--json", str(tmp_path / "new" / "out.json")])
    told = json.loads((tmp_path / "new" / "out.json").read_text())
    assert set(told) == {"machine", "images", "rows"}
    assert all(set(told[kind]) >= {"batch_s", "task_s", "work_s", "saturation", "useful", "rate", "points"} for kind in ("images", "rows"))
    printed = capsys.readouterr().out
    assert "images: parent" in printed
    assert "rows: " in printed


def test_the_program_of_strain_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It makes its data, runs each kind of experiment in a process of its own (one stands for those of its kind), judges every answer and saves all."""

    def interleaved(configs: dict[str, dict[str, Any]], rounds: int) -> dict[str, list[Run]]:
        few = {"cost_s": 1e-6, "epochs": 10, "batches": 5, "workers": 1, "batch_size": 1024}
        chosen = {config["experiment"]: {**config, **few} for config in reversed(configs.values())}
        ran = {experiment: [harness.measure(config)] * rounds for experiment, config in chosen.items()}
        return {name: ran[config["experiment"]] for name, config in configs.items()}

    monkeypatch.setattr(strain, "interleaved", interleaved)
    strain.main(["--rounds", "2", "--count", "8", "--rows", "2000000", "--json", str(tmp_path / "new" / "out.json")])
    told = json.loads((tmp_path / "new" / "out.json").read_text())
    assert len(told["answers"]) == 14
    assert all(len(answer) == 3 for answer in told["answers"])
    assert {len(runs) for runs in told["runs"].values()} == {2}
    assert "within the bound" in capsys.readouterr().out
