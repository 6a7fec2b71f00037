"""The side-by-side table: its arithmetic on made-up runs, and what it does with loaders that are absent or fail. Nothing is measured here."""

from __future__ import annotations

import json
import shutil
import venv
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import chart, harness, overview, report, table
from benchmarks.harness import Run
from benchmarks.rivals import install
from benchmarks.rivals.registry import LOADERS, Loader

OURS = Loader(name="ours", module="m.ours", family="ours", reads="ours")
FAST = Loader(name="fast rival", module="m.fast", least=1)
MEMMAP = Loader(name="torch map", module="m.torch", family="memmap")
LIMIT = Loader(name="limit: none", module="m.limit", family="limit", processes=1)
GONE = Loader(name="gone", module="m.gone", environment="no-such-environment")
BROKEN = Loader(name="broken", module="m.broken")
FAKES = (OURS, FAST, MEMMAP, LIMIT, GONE, BROKEN)
RATES = {"m.ours": 1000.0, "m.fast": 400.0, "m.torch": 500.0, "m.limit": 4000.0}


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Have every program answer at once: its rate falls with workers and rises with rounds; one breaks. Return what was run."""
    asked: list[dict[str, Any]] = []

    def measure(config: dict[str, Any], limit_s: float = 0.0) -> Run:
        del limit_s
        if config["module"] == "m.broken":
            raise RuntimeError("it ended with code 1:\nValueError: no such luck")
        asked.append(config)
        if "make" in config:
            return Run(told={}, cpu_s=0, peak_bytes=0, wall_s=0)
        times = sum(one.get("workers") == config["workers"] and one["module"] == config["module"] for one in asked)
        rate = RATES[config["module"]] * (1 + times / 10) / (1 + config["workers"])
        told = {"samples_per_s": rate, "first_batch_s": 1 + config["workers"], "samples": 100, "window_cpu_s": 0.2, "versions": {"m": "1"}}
        return Run(told=told, cpu_s=1, peak_bytes=10**8, wall_s=1)

    monkeypatch.setattr(harness, "measure", measure)
    monkeypatch.setattr(harness, "warm", lambda _config: None)
    return asked


@pytest.fixture
def campaign(tmp_path: Path) -> table.Campaign:
    """Return a small campaign."""
    return table.Campaign(data=tmp_path, scale=0.0, rounds=3)


def test_every_row_ratio_and_absence_is_told(measured: list[dict[str, Any]], campaign: table.Campaign) -> None:
    """Each setting has its row, ratios are those of the rounds' medians, and what could not run is absent with its reason, never beaten."""
    table.measure(campaign, "W4", FAKES)
    found = json.loads(json.dumps(table.result(campaign, ["W4"], FAKES)))
    part = found["workloads"]["W4"]
    assert len(part["rows"]) == 3 + 2 + 3 + 1
    assert [row["loader"] for row in part["best"]] == ["limit: none", "ours", "torch map", "fast rival"]
    assert part["ratios"]["best loader of shards or files"]["ratio"] == pytest.approx(1000 / (400 / 2))
    assert part["ratios"]["best of torch over one memory map"]["against"] == "torch map (0)"
    assert part["ratios"]["torch over one memory map, both with 2 workers"]["ratio"] == pytest.approx(2)
    assert part["ratios"]["limit: none"]["ratio"] == pytest.approx(0.5)
    assert part["ratios"]["time to first batch, 2 workers, over torch's"]["ratio"] == 1
    assert part["absent"] == {"gone": "its environment is not made: make rivals", "broken with 0, 1, 2 workers": "ValueError: no such luck"}
    assert part["skipped"] == {"fast rival": "not tried with 0 workers: it has at least 1"}
    assert sum("make" in config for config in measured) == 1
    assert not any("gone" in name or "fast rival, absent" in name for name in part["ratios"])


def test_rounds_are_interleaved(measured: list[dict[str, Any]], campaign: table.Campaign) -> None:
    """A round runs every setting once, and begins one further on than the round before."""
    table.measure(campaign, "W4", (FAST, MEMMAP))
    names = [(config["module"], config["workers"]) for config in measured]
    first, second = names[:5], names[5:10]
    assert sorted(first) == sorted(second)
    assert second == first[1:] + first[:1]


def test_a_program_after_another_is_warmed_first(monkeypatch: pytest.MonkeyPatch, measured: list[dict[str, Any]], campaign: table.Campaign) -> None:
    """Each change of program in a round is preceded by an import that is not measured, and settings of one program by none."""
    heard: list[str] = []
    monkeypatch.setattr(harness, "warm", lambda config: heard.append(config["module"]))
    campaign.rounds = 1
    table.measure(campaign, "W4", FAKES)
    ran = [config["module"] for config in measured if "make" not in config]
    changes = [module for module, before in zip(ran, ["", *ran], strict=False) if module != before]
    assert [module for module in heard if module != "m.broken"] == changes


def test_loaders_are_tried_with_the_numbers_that_are_asked_for(measured: list[dict[str, Any]], campaign: table.Campaign) -> None:
    """Any number from a loader's least on is run and has its row; one below is told, a loader that has none left is absent, and a limit is as it is."""
    campaign.workers, campaign.rounds = (0, 4), 1
    table.measure(campaign, "W4", FAKES)
    part = table.result(campaign, ["W4"], FAKES)["workloads"]["W4"]
    assert {(row["loader"], row["workers"]) for row in part["rows"]} == {
        ("ours", 0),
        ("ours", 4),
        ("fast rival", 4),
        ("torch map", 0),
        ("torch map", 4),
        ("limit: none", 1),
    }
    assert part["skipped"] == {"fast rival": "not tried with 0 workers: it has at least 1"}
    assert "| the same, both with 4 workers | 2.00 |" in overview.overview({"workloads": {"W4": part}})
    assert "fast rival: not tried with 0 workers: it has at least 1" in report.markdown({"workloads": {"W4": part}})
    campaign.workers = (0,)
    table.measure(campaign, "W4", FAKES)
    part = table.result(campaign, ["W4"], FAKES)["workloads"]["W4"]
    assert part["absent"]["fast rival"] == "not tried with 0 workers: it has at least 1"
    assert part["skipped"] == {}
    assert measured


def test_all_data_are_read_before_the_first_round(monkeypatch: pytest.MonkeyPatch, measured: list[dict[str, Any]], campaign: table.Campaign) -> None:
    """Each loader's folder is read, once however many settings it has, when all are made and none has run."""
    heard: list[tuple[list[str], int]] = []

    def read_once(folders: set[Path]) -> int:
        heard.append((sorted(path.name for path in folders), len(measured)))
        return 0

    monkeypatch.setattr(harness, "read_once", read_once)
    table.measure(campaign, "W4", FAKES)
    assert heard == [(["ours", "source"], 1)], "one run before: it made the data"


def test_reading_once_reads_every_byte(tmp_path: Path) -> None:
    """Files in folders of folders too, those of several blocks whole, and a folder given twice once."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "large").write_bytes(bytes(harness.BLOCK_BYTES + 1))
    (tmp_path / "a" / "small").write_bytes(b"xyz")
    assert harness.read_once([tmp_path / "a", tmp_path / "a" / "b"]) == harness.BLOCK_BYTES + 4


def test_data_are_made_once(measured: list[dict[str, Any]], campaign: table.Campaign) -> None:
    """A second workload on the same data, and a second campaign, find them there."""
    for _ in range(2):
        table.measure(campaign, "W4", (OURS,))
    assert sum("make" in config for config in measured) == 1


def test_slow_settings_can_be_left_out_after_a_round(measured: list[dict[str, Any]], campaign: table.Campaign) -> None:
    """Pruning drops a rival's slow setting only: ours, torch's and the limits run in every round, since more is asked of them."""
    campaign.prune = 0.7
    table.measure(campaign, "W4", FAKES)
    rounds = {name: len(runs) for name, runs in campaign.runs.items()}
    assert rounds.pop("W4 | fast rival | 2") == 1
    assert set(rounds.values()) == {3}
    assert measured


def failing(monkeypatch: pytest.MonkeyPatch, module: str, workers: int, *rounds: int) -> None:
    """Have a setting's runs of these rounds fail."""
    measure, seen = harness.measure, [0]

    def fails(config: dict[str, Any], limit_s: float = 0.0) -> Run:
        if config["module"] == module and config.get("workers") == workers:
            seen[0] += 1
            if seen[0] in rounds:
                raise RuntimeError("it ended with code -9:\nKilled")
        return measure(config, limit_s)

    monkeypatch.setattr(harness, "measure", fails)


def test_a_failure_takes_away_no_round_that_was_measured(
    monkeypatch: pytest.MonkeyPatch, measured: list[dict[str, Any]], campaign: table.Campaign
) -> None:
    """A setting that fails once keeps its other rounds, is marked with the reason, and its ratios pair rounds in which both sides ran."""
    failing(monkeypatch, "m.fast", 1, 2)
    campaign.prune = 0.7
    table.measure(campaign, "W4", FAKES)
    found = json.loads(json.dumps(table.result(campaign, ["W4"], FAKES)))
    part = found["workloads"]["W4"]
    assert list(campaign.runs["W4 | fast rival | 1"]) == [0, 2]
    row = next(row for row in part["best"] if row["loader"] == "fast rival")
    assert (row["workers"], row["rounds"], row["failed"]) == (1, 2, 1)
    assert part["failed"] == {"fast rival with 1 workers": "1 of 3 rounds failed: Killed"}
    assert "fast rival" not in str(part["absent"])
    ratio = part["ratios"]["best loader of shards or files"]
    assert ratio["least"] == pytest.approx(5)
    assert ratio["most"] == pytest.approx(5 * 1.3 / 1.2), "third round by third round, in which it ran for the second time"
    text = overview.overview(found) + report.markdown(found)
    assert "| fast rival | 1* |" in text
    assert "(1*) |" in text
    assert "\\* fast rival with 1 workers: 1 of 3 rounds failed: Killed" in text
    table.show(found)
    assert measured


def test_a_failure_in_the_first_round_is_not_slowness(
    monkeypatch: pytest.MonkeyPatch, measured: list[dict[str, Any]], campaign: table.Campaign
) -> None:
    """A setting that pruning knows nothing of is run again, and so are those that were measured beside it; what fails twice is given up."""
    failing(monkeypatch, "m.fast", 1, 1)
    campaign.prune = 0.7
    table.measure(campaign, "W4", FAKES)
    assert list(campaign.runs["W4 | fast rival | 1"]) == [1, 2]
    assert list(campaign.runs["W4 | fast rival | 2"]) == [0, 1, 2]
    assert len(campaign.failures["W4 | broken | 0"]) == table.MOST_FAILURES < campaign.rounds
    assert measured


def test_first_batch_and_memory_are_compared_within_rounds(measured: list[dict[str, Any]], campaign: table.Campaign) -> None:
    """Where a round is slow for both sides their ratio is not, and the range of the rounds is told; medians taken apart would say otherwise."""
    table.measure(campaign, "W4", (OURS, MEMMAP))
    ours_s, theirs_s, ours_mb, theirs_mb = (3.0, 6.0, 4.0), (2.0, 6.0, 1.0), (30, 10, 80), (10, 40, 20)
    for turn in range(3):
        for name, seconds, size_mb in (("ours", ours_s, ours_mb), ("torch map", theirs_s, theirs_mb)):
            runs = campaign.runs[f"W4 | {name} | 2"]
            runs[turn] = replace(runs[turn], told={**runs[turn].told, "first_batch_s": seconds[turn]}, peak_bytes=size_mb[turn] * 10**6)
    ratios = table.result(campaign, ["W4"], (OURS, MEMMAP))["workloads"]["W4"]["ratios"]
    assert ratios["time to first batch, 2 workers, over torch's"] == {"ratio": 1.5, "least": 1.0, "most": 4.0, "against": "torch map (2)"}
    assert ratios["peak memory, 2 workers, over torch's"] == {"ratio": 3.0, "least": 0.25, "most": 4.0, "against": "torch map (2)"}
    assert measured


def test_what_never_ran_in_one_round_has_no_ratio(monkeypatch: pytest.MonkeyPatch, measured: list[dict[str, Any]], campaign: table.Campaign) -> None:
    """Two that were measured in different rounds met different states of the machine, and are not divided."""
    campaign.rounds = 2
    failing(monkeypatch, "m.ours", 0, 2)
    failing(monkeypatch, "m.limit", 1, 1)
    table.measure(campaign, "W4", FAKES)
    ratios = table.result(campaign, ["W4"], FAKES)["workloads"]["W4"]["ratios"]
    assert "best loader of shards or files" in ratios
    assert "limit: none" not in ratios
    assert measured


def test_only_the_loaders_asked_for_run(monkeypatch: pytest.MonkeyPatch, measured: list[dict[str, Any]], tmp_path: Path) -> None:
    """`--only` and `--workers` narrow the campaign; JSON, picture and markdown are written, and the result can be shown again."""
    monkeypatch.setattr(table, "LOADERS", FAKES)
    out = [tmp_path / name for name in ("out.json", "out.png", "out.md")]
    words = [
        "table",
        "--data",
        str(tmp_path / "data"),
        "--scale",
        "0",
        "--workloads",
        "W4",
        "--only",
        "OURS,fast",
        "--workers",
        "0,2",
        "--rounds",
        "1",
    ]
    monkeypatch.setattr("sys.argv", [*words, "--json", str(out[0]), "--png", str(out[1]), "--markdown", str(out[2])])
    table.main()
    assert {(config["module"], config.get("workers")) for config in measured} == {("m.ours", None), ("m.ours", 0), ("m.ours", 2), ("m.fast", 2)}
    assert json.loads(out[0].read_text())["campaign"]["workers"] == [0, 2]
    assert "| ours | 0 | 1,100 |" in out[2].read_text()
    assert out[2].read_text().startswith("Measured ")
    assert out[1].read_bytes()[1:4] == b"PNG"
    monkeypatch.setattr("sys.argv", [*words, "--from-json", str(out[0])])
    table.main()


def test_the_picture_has_a_bar_for_every_loader(measured: list[dict[str, Any]], campaign: table.Campaign) -> None:
    """Each family's colour is in it, and the longest bar is the fastest loader's."""
    table.measure(campaign, "W4", FAKES)
    picture = chart.chart(table.result(campaign, ["W4"], FAKES))
    shades = np.asarray(picture).reshape(-1, 3)
    colours = Counter(f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in shades.tolist())
    assert set(chart.COLOURS.values()) <= set(colours)
    assert colours[chart.COLOURS["shards"]] < colours[chart.COLOURS["ours"]]
    assert measured


def test_absences_are_in_the_markdown(measured: list[dict[str, Any]], campaign: table.Campaign) -> None:
    """A loader that could not be installed has its line, with the reason where its figures would be."""
    table.measure(campaign, "W4", FAKES)
    text = report.markdown(table.result(campaign, ["W4"], FAKES))
    assert "| gone | - | absent | its environment is not made: make rivals |" in text
    assert measured


def test_the_tables_say_what_was_measured(measured: list[dict[str, Any]], campaign: table.Campaign) -> None:
    """Over the markdown stand date, machine, versions, commit and how it was measured; files that were changed are told."""
    table.measure(campaign, "W4", (OURS,))
    found = table.result(campaign, ["W4"], (OURS,))
    found["machine"] |= {"commit": "0123456789abcdef", "dirty": True, "date": "2026-01-02"}
    line = report.heading(found)
    assert line.startswith("Measured 2026-01-02 on ")
    assert "(commit 0123456789ab with changes): 3 rounds of 4 s behind 3 s of warm-up, 0, 1, 2 workers, scale 0." in line
    found["machine"]["dirty"] = False
    assert "(commit 0123456789ab): " in report.heading(found)
    del found["machine"]["commit"]
    assert "(no checkout): " in report.heading(found)
    assert measured


def test_the_overview_has_each_loader_once_and_every_loss(measured: list[dict[str, Any]], campaign: table.Campaign) -> None:
    """One line a loader, ours first; what is ahead of ours, in rate, first batch or memory, is among the losses, and a limit is not."""
    table.measure(campaign, "W4", FAKES)
    found = table.result(campaign, ["W4"], FAKES)
    text = overview.overview(found)
    lines = text.splitlines()
    assert lines[0] == "| samples/s, at the best number of workers | W4 |"
    assert lines[2].startswith("| ours | 1,")
    assert sum(line.startswith("| fast rival |") for line in lines) == 1
    assert "| gone | absent |" in lines
    part = found["workloads"]["W4"]
    faster = next(row for row in part["best"] if row["family"] == "shards")
    faster["samples_per_s"] = 1e9
    part["ratios"]["peak memory, 0 workers, over torch's"] = {"ratio": 1.21, "least": 1.1, "most": 1.3, "against": "torch"}
    part["ratios"]["time to first batch, 0 workers, over torch's"] = {"ratio": 1.004, "against": "torch"}
    losses = overview.overview(found).partition("| behind: in rate, any loader")[2].partition("\n")[2]
    assert f"| W4: rate | 0.00 | - | {faster['loader']} ({faster['workers']}) |" in losses
    assert "| W4: peak memory, 0 workers, over torch's | 1.21 | 1.10 to 1.30 | torch |" in losses
    assert "first batch" not in losses
    assert "limit" not in losses
    assert f"**1,000,000,000 ({faster['workers']})**" in overview.overview(found)
    assert measured


def test_each_loader_ahead_of_ours_is_told_with_its_range(
    monkeypatch: pytest.MonkeyPatch, measured: list[dict[str, Any]], campaign: table.Campaign
) -> None:
    """Every loader whose best setting is faster than our best has its own row, by rounds; when there is none, and no other loss, that is said."""
    monkeypatch.setitem(RATES, "m.fast", 4000.0)
    monkeypatch.setitem(RATES, "m.torch", 1250.0)
    table.measure(campaign, "W4", FAKES)
    found = table.result(campaign, ["W4"], FAKES)
    lines = overview.overview(found).splitlines()
    assert "| W4: rate | 0.50 | 0.50 to 0.50 | fast rival (1) |" in lines
    assert "| W4: rate | 0.80 | 0.80 to 0.80 | torch map (0) |" in lines
    assert "| rate, over torch map | 0.80 | 0.80 to 0.80 | torch map (0) |" in report.markdown(found)
    for name in RATES:
        monkeypatch.setitem(RATES, name, 1.0)
    table.measure(campaign, "W4", FAKES)
    assert "No loader is ahead of us in rate" in overview.overview(table.result(campaign, ["W4"], FAKES))
    assert measured


def test_settings_that_fail_alike_are_one_absence() -> None:
    """A loader that fails in the same way with every number of workers has one line; one that fails otherwise has another."""
    found = report.gathered({"a with 0 workers": "x", "a with 2 workers": "x", "a with 1 workers": "y", "b": "z"})
    assert found == {"a with 0, 2 workers": "x", "a with 1 workers": "y", "b": "z"}


def test_a_table_without_ours_has_no_ratios() -> None:
    """With nothing of ours measured there is nothing to compare."""
    assert report.ratios_of("W4", [], {}) == {}
    assert report.best([], "ours") is None


def test_the_registry_is_complete() -> None:
    """Names are unique, every program is there, and every environment has its requirements, each pinned to one version."""
    assert len({loader.name for loader in LOADERS}) == len(LOADERS)
    for loader in LOADERS:
        assert (harness.ROOT / f"{loader.module.replace('.', '/')}.py").exists()
        if loader.environment:
            lines = (Path(install.HERE) / "requirements" / f"{loader.environment}.txt").read_text().splitlines()
            pins = [line for line in lines if not line.startswith("#")]
            assert all("==" in line for line in pins)
            pinned = {line.partition("==")[0].lower().replace("_", "-") for line in pins}
            assert {name.replace("_", "-") for name in loader.packages} <= pinned


def test_rivals_import_nothing_of_penstock() -> None:
    """No program of a rival mentions the package it is measured against."""
    for path in Path(install.HERE).glob("*.py"):
        lines = path.read_text().splitlines()
        assert not [line for line in lines if line.lstrip().startswith(("import penstock", "from penstock"))], path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have environments made, and requirements read, in an empty folder."""
    (tmp_path / "requirements").mkdir()
    monkeypatch.setattr(install, "HERE", tmp_path)
    monkeypatch.setattr(install, "HOME", tmp_path)
    return tmp_path


def test_a_rival_that_cannot_be_installed_leaves_its_reason(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The installer's last words are kept for the table, nothing half made stays, and a later success takes them away."""
    (folder / "requirements/x.txt").write_text("# pip: --no-deps\nx==1\n")

    def fails(command: list[str]) -> None:
        assert "--no-deps" in command
        raise RuntimeError("pip install failed: no x for this Python")

    monkeypatch.setattr(venv.EnvBuilder, "create", lambda _self, path: Path(path).mkdir())
    monkeypatch.setattr(install, "_run", fails)
    assert "no x" in install.install("x")
    assert (folder / "x.absent").read_text().strip() == "pip install failed: no x for this Python"
    assert not (folder / "x").exists()
    monkeypatch.setattr(install, "_run", lambda command: None)
    assert install.install("x") == ""
    assert not (folder / "x.absent").exists()
    monkeypatch.setattr(install, "_run", fails)
    assert install.install("x") == "", "a complete environment is left alone"


def test_missing_system_packages_are_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where they cannot be installed, the reason names them."""
    (folder / "requirements/y.txt").write_text("# pip: --no-deps\n# apt: libnothing-dev\ny==1\n")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "libnothing-dev" in install.install("y")


def test_a_failing_command_says_why(tmp_path: Path) -> None:
    """The reason holds the command's last line, without the installer's warnings."""
    with pytest.raises(RuntimeError, match="No such file"):
        install._run(["ls", str(tmp_path / "nothing")])
