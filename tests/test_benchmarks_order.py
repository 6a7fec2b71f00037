"""The benchmarks of the order, of scale and of resuming run, small, so that none rots; their figures are not looked at but where they are exact."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import penstock as ps
from benchmarks import order_cost, resume, scale
from benchmarks.rivals.registry import LOADERS


def told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: Any, *options: str) -> Any:
    """Run a program's `main` and return the JSON that it wrote."""
    path = tmp_path / "found.json"
    monkeypatch.setattr("sys.argv", [program.__name__, *options, "--json", str(path)])
    program.main()
    return json.loads(path.read_text(encoding="utf-8"))


def test_what_the_order_costs_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every question of `order_cost` has its answer; those that are no times are what the law makes them."""
    small = ("--rounds", "1", "--positions", "4096", "--rows", "5000", "--documents", "2000", "--shards", "1000")
    found = told(monkeypatch, tmp_path, order_cost, *small)
    assert found["orders_ns"].keys() >= found["loaders"].keys() == order_cost.ORDERS.keys()
    assert found["windows"]["1"]["one_shard"] > 0.99
    assert found["windows"]["all"]["one_shard"] < 0.02
    for name, width in (("1", 1), ("4", 4), ("16", 16), ("32", 32), ("all", 100)):
        assert 0.5 < found["windows"][name]["in_window"] * (1000 * width) ** 0.5 < 2
    assert found["packing"]["best_fit"]["filled"] > 0.97
    assert found["packing"]["best_fit"]["cut"] == 0
    assert found["seeking"].keys() == {f"{name}, {shards} shards" for name in order_cost.SEEKING for shards in ("1", "1,000")}
    assert all(one["mb"] < 0.1 for name, one in found["seeking"].items() if name.startswith("global"))
    assert all(min(one["ms"], one["first_shard_ms"]) > 0 for one in found["seeking"].values())


def test_a_loader_of_one_of_many_ranks_is_measured_by_its_own_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What a loader takes is divided by the rows that it was given: each case's loader is of its ranks and lanes, and a mixture where it says so."""
    made: list[ps.DataLoader] = []

    class Noted(ps.DataLoader):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            made.append(self)

    monkeypatch.setattr(ps, "DataLoader", Noted)
    order_cost.loaders(order_cost.w4(tmp_path, 3000), 1)
    assert [(loader.topology.world_size, loader.ordering.lanes, loader.ordering.window_shards) for loader in made] == [
        (case.ranks, case.ordering.lanes, case.ordering.window_shards) for case in order_cost.ORDERS.values()
    ]
    assert [isinstance(loader.dataset, ps.Mixture) for loader in made] == [case.mixed for case in order_cost.ORDERS.values()]


def test_scale_is_simulated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every lane count has a row for the whole run and one for the run that lost a tenth of its ranks; as many lanes as nodes read hardly more than the data."""
    monkeypatch.setattr(scale, "SHARDS", 1000)
    monkeypatch.setattr(scale, "ROWS", 1000)
    monkeypatch.setattr(scale, "ROW_BYTES", 10**6)
    found = told(monkeypatch, tmp_path, scale, "--ranks", "80", "--lanes", "10,80", "--batch-size", "16", "--markdown", str(tmp_path / "found.md"))
    assert [row["ranks"] for row in found] == [80, 72] * 4
    assert found[0]["all traffic / data"] < 1.05
    assert [row["a lane: most / mean"] for row in found[:4]] == [1] * 4  # equal shards, of which each lane has whole ones, or of 80 lanes equal parts
    assert all(row["GB a node"] == round(row["requests a node"], 1) for row in found[:4])
    assert [row["new shards a node"] > 0 for row in found] == [False, True] * 4
    for row in found[
        :4
    ]:  # each row of the last step is of another lane, as long as there are lanes, and so of another shard but where 80 lanes are parts of some
        left = (10**6 if row["ranks"] == 80 else 10**6 // 2) % (row["ranks"] * 16)
        of_a_node = 8 * -(-left // row["ranks"])
        assert min(of_a_node, row["lanes"]) * 0.8 <= row["shards in the last step, pad"] <= of_a_node
    monkeypatch.setattr(scale, "SHARDS", 1280)
    assert told(monkeypatch, tmp_path, scale, "--ranks", "80", "--lanes", "80", "--batch-size", "16")[0]["shards in the last step, pad"] == 0
    assert (tmp_path / "found.md").read_text(encoding="utf-8").count("\n") >= 10


def test_resuming_is_measured_and_compared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ours goes on with the batches of an uninterrupted run, for windows and rows; a loader that fails is told with the reason and holds up nobody."""
    broken = replace(LOADERS[0], name="broken", module="benchmarks.rivals.nothing")
    monkeypatch.setattr(resume, "STATEFUL", (LOADERS[0], broken))
    found = told(monkeypatch, tmp_path, resume, "--data", str(tmp_path), "--rounds", "1", "--scale", "0.002", "--workers", "0")
    assert found["rows"].keys() == {"W3, 0 workers", "W4, 0 workers"}
    for rows in found["rows"].values():
        assert rows["Penstock"]["exact"]
        assert "load" in rows["broken"]["absent"]
