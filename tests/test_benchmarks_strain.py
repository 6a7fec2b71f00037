"""The arithmetic of `benchmarks/strain` and `benchmarks/scaling`, and that their programs run. Nothing is measured here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import strain, strain_loop
from benchmarks.harness import Run
from benchmarks.scaling_model import MOST_WORKERS, Cost, fitted, saturation, simulated

COST = Cost(rows=256, batch_s=400e-6, task_s=20e-6, work_s=0.2)


def test_a_line_gives_back_what_it_was_made_from() -> None:
    """Costs for a batch and for a task are found again from the parent's times, also where tasks stop getting smaller."""
    found = fitted({workers: COST.parent_s(workers) for workers in (1, 2, 4, 64, 128)}, 256, COST.work_s)
    assert found.batch_s == pytest.approx(COST.batch_s)
    assert found.task_s == pytest.approx(COST.task_s)
    assert fitted({1: 1e-3}, 8, 1.0).parent_s(1) == pytest.approx(1e-3)


def test_saturation_is_where_workers_make_what_the_parent_hands_over() -> None:
    """One worker fewer leaves the parent idle at times; beyond it the rate is the parent's."""
    workers = saturation(COST)
    assert (workers - 1) / COST.work_s < 1 / COST.parent_s(workers - 1)
    assert COST.rate(workers) == pytest.approx(256 / COST.parent_s(workers))
    assert COST.rate(2 * workers) == pytest.approx(COST.rate(workers))
    assert saturation(Cost(rows=8, batch_s=0.0, task_s=1e-12, work_s=1e9)) == MOST_WORKERS


@pytest.mark.parametrize("workers", [1, 2, 8, 64, 512])
def test_the_simulation_agrees_with_the_formula(workers: int) -> None:
    """With a window of batches in flight, times that scatter cost little; the parent is busy as the formula says."""
    rate, busy = simulated(COST, workers, batches=2000)
    assert rate == pytest.approx(COST.rate(workers), rel=0.1)
    assert busy == pytest.approx(min(COST.rate(workers) * COST.parent_s(workers) / 256, 1), rel=0.1)


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
    }
    runs = {name: [run_of(**told)] * 3 for name in configs}
    runs["consumer of rows, 1 workers"] = [run_of(**{**told, "waiting": 0.03, "waiting_when_ready": 0.025})] * 3
    runs["consumer of rows, 2 workers"] = [run_of(**{**told, "waiting": 0.03, "waiting_when_ready": 0.01})] * 3
    runs["uneven samples, 2 workers"] = [run_of(**{**told, "samples_per_s": 90.0, "order": 8})] * 3
    found = {question: good for question, _, good in strain.answers(runs, 2_000_000)}
    bad = [question for question, good in found.items() if not good]
    assert len(found) == 12
    assert [question.partition(",")[0] for question in bad] == [
        "waiting of a slow consumer of rows",
        "rate with slow samples over their share of the work",
        "order with slow samples",
        "waiting of a slow consumer of rows",
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
