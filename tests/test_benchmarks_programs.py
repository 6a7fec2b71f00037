"""Every program of the side-by-side table that this environment can run does run, small, so that none rots; its numbers are not looked at."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import harness, table, workloads
from benchmarks.rivals import endless, loop, samples
from benchmarks.rivals.registry import ALL, LOADERS, Loader

HERE = ("torch", "webdataset", "hf")
"""Environments whose packages this one has too."""

SKIPPED = {
    ("HF datasets", "W1-u8"),
    ("HF datasets", "W3"),
    ("webdataset", "W1-u8"),
    ("webdataset", "W2"),
    ("webdataset", "W4"),
    ("HF datasets", "W2"),
}
"""The same code as another workload's; a process each is slow."""


def cases() -> Iterator[tuple[Loader, str]]:
    """Yield each loader and workload that can run here."""
    for loader in LOADERS:
        if not loader.environment or loader.environment in HERE:
            yield from ((loader, workload) for workload in ALL if workload in loader.workloads and (loader.name, workload) not in SKIPPED)


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> table.Campaign:
    """Return the smallest campaign there is."""
    return table.Campaign(data=tmp_path_factory.mktemp("data"), scale=0.0, seconds=0.01, warm_s=0.0)


@pytest.mark.parametrize(("loader", "workload"), [pytest.param(*case, id=f"{case[0].name}-{case[1]}") for case in cases()])
def test_a_program_runs(campaign: table.Campaign, loader: Loader, workload: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It makes its data, tells every figure, and counts as many samples as its batches hold."""
    monkeypatch.setattr(Loader, "interpreter", property(lambda _self: Path(sys.executable)))
    monkeypatch.setattr(Loader, "absent", lambda _self: "")
    config = {**table.prepared(campaign, loader, workload), "workers": loader.settings((0, 1))[0], "batch_size": 8}
    told = harness.measure(config, limit_s=120).told
    assert set(told) >= {"samples_per_s", "first_batch_s", "samples", "window_cpu_s"}
    assert told["samples"] > 0
    assert loader.family == "limit" or set(told["versions"]) == set(loader.packages)


@pytest.mark.parametrize("scale", [0.0, 0.018])
def test_the_data_are_the_same_each_time(tmp_path: Path, scale: float) -> None:
    """Two makings agree byte for byte, at the least size and where the scale says how many rows there are."""
    for workload in ("W1", "W2", "W3", "W4"):
        stored = workloads.STORED[workload]
        assert (workloads.rows_of(stored, scale) > workloads.LEAST[stored]) == (scale > 0)
        one, two = (workloads.source(tmp_path / name, workload, scale) for name in ("one", "two"))
        files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
        assert files
        assert all((one / file).read_bytes() == (two / file).read_bytes() for file in files)


def test_an_interrupted_making_is_begun_again(tmp_path: Path) -> None:
    """A folder without its marker, or with that of other data, is made anew; one with it is left alone."""
    made: list[Path] = []
    for stamp in ("a", "a", "b"):
        workloads.made(tmp_path / "x", stamp, made.append)
    (tmp_path / "x/.done").unlink()
    (tmp_path / "x/half").write_text("")
    workloads.made(tmp_path / "x", "b", made.append)
    assert len(made) == 3
    assert not (tmp_path / "x/half").exists()


def test_photographs_are_photo_like() -> None:
    """They are around 500 x 375, one in four is upright, and labels go round the classes."""
    sizes = [workloads.photograph(index).size for index in range(8)]
    assert all(440 <= max(size) <= 560 and 330 <= min(size) <= 420 for size in sizes)
    assert [width > height for width, height in sizes] == [True, True, True, False] * 2
    assert [workloads.label_of(index) for index in range(9)] == [*range(8), 0]


def test_a_row_survives_packing(tmp_path: Path) -> None:
    """What is packed into bytes for formats that know no columns comes back, array, image and label."""
    for kind in ("W1", "W3", "W4"):
        row = samples.Source(workloads.source(tmp_path, kind, 0.0), kind)[5]
        back = samples.unpack(kind, samples.pack(row))
        assert set(back) == set(row)
        assert all(np.array_equal(back[name], row[name]) for name in row)


def config_of(**more: Any) -> dict[str, Any]:
    """Return what the loop needs to know."""
    return {"began": time.time(), "seconds": 0.02, "warm_s": 0.01, **more}


def test_the_loop_counts_whole_epochs() -> None:
    """A fast loader is measured over whole epochs behind the first."""
    batches = [{"x": np.zeros((4, 2)), "label": np.arange(4)}] * 5
    told = loop.measure(batches, config_of())
    assert told["samples"] % 20 == 0
    assert told["samples"] > 0
    assert told["samples_per_s"] == pytest.approx(told["samples"] / told["window_s"])


class Paced:
    """Epochs of so many batches, each after a pause, as a list of where each batch stood."""

    def __init__(self, per_epoch: int, pause_s: float) -> None:
        """Begin with nothing given."""
        self.per_epoch, self.pause_s, self.given = per_epoch, pause_s, list[int]()

    def __iter__(self) -> Iterator[Any]:
        """Yield an epoch."""
        for place in range(self.per_epoch):
            time.sleep(self.pause_s)
            self.given.append(place)
            yield {"x": np.zeros((4, 2)), "label": np.arange(4)}


def test_a_warm_up_that_ends_within_an_epoch_moves_the_epochs_that_are_measured() -> None:
    """Where the first epoch is longer than the warm-up, the measured time ends as far in an epoch as it began, with as many starts as epochs."""
    loader = Paced(per_epoch=12, pause_s=0.002)
    told = loop.measure(loader, config_of(warm_s=0.01, seconds=0.1))
    measured = round(told["samples"]) // 4
    assert len(loader.given) - measured < 12, "the warm-up did not see the epoch's end"
    assert measured % 12 == 0
    assert told["epoch_starts"] == measured // 12 >= 1
    assert told["window_s"] < 2 * 0.1


def test_an_epoch_that_is_too_long_is_measured_in_part() -> None:
    """One that began within its first epoch and does not come round in twice the time stops there, and no start is claimed that was not seen."""
    told = loop.measure(Paced(per_epoch=10_000, pause_s=0.002), config_of(warm_s=0.01, seconds=0.05))
    assert told["epoch_starts"] == 0
    assert 0.1 <= told["window_s"] < 0.5


def test_the_loop_stops_within_a_slow_epoch() -> None:
    """A loader whose epoch does not end is measured over part of it."""

    def forever() -> Iterator[Any]:
        while True:
            time.sleep(0.002)
            yield [np.zeros((3, 2)), np.arange(3)]

    told = loop.measure(forever(), config_of())
    assert 0 < told["samples"] < 100


def test_the_loop_looks_into_batches() -> None:
    """A batch that was not really made is noticed; tuples, dicts and wrapped dicts are batches alike."""
    with pytest.raises(TypeError):
        loop.look({"x": [object()]})
    for batch in ({"x": np.zeros((4, 2))}, [np.zeros((4, 2)), np.arange(4)], [{"x": np.zeros((4, 2))}]):
        loop.look(batch)
        assert loop.rows_in(batch) == 4


def test_an_endless_loader_has_epochs() -> None:
    """Each `iter` goes on where the last one stopped, and an order holds every row."""
    loader = endless.Endless(iter(range(10)), 3)
    assert [list(loader), list(loader)] == [[0, 1, 2], [3, 4, 5]]
    orders = endless.orders(50)
    first, second = next(orders), next(orders)
    assert sorted(first) == sorted(second) == list(range(50))
    assert list(first) != list(second)


def test_a_program_that_does_not_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that told its result and hangs is measured all the same; one that hangs before is an error."""
    (tmp_path / "tells.py").write_text("import time\nprint('{\"a\": 1}', flush=True)\ntime.sleep(60)\n")
    (tmp_path / "silent.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(harness, "GRACE_S", 0.2)
    began = time.monotonic()
    assert harness.measure({"module": "tells"}).told == {"a": 1}
    with pytest.raises(RuntimeError, match="ended with code -9"):
        harness.measure({"module": "silent"}, limit_s=0.5)
    assert time.monotonic() - began < 30


def test_a_program_is_warmed_by_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program is imported and not run, in a folder of its own; one that cannot be imported, or hangs, stops nobody."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "counted.py").write_text(f"open({str(tmp_path / 'seen')!r}, 'a').write(__name__ + '\\n')\n")
    (tmp_path / "hanging.py").write_text("import time; time.sleep(60)\n")
    monkeypatch.setattr(harness, "WARM_S", 5.0)
    harness.warm({"module": "counted"})
    assert (tmp_path / "seen").read_text() == "counted\n"
    harness.warm({"module": "no_such_program"})
    monkeypatch.setattr(harness, "WARM_S", 0.3)
    harness.warm({"module": "hanging"})
