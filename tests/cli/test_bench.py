"""`penstock bench`: fresh processes in turn, medians, a recommendation, and refusals that name what is wrong."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
from contracts.raw import image_folder
from PIL import Image
from typer.testing import CliRunner, Result

import penstock as ps
from benchmarks import table
from penstock.cli import bench_machine, bench_rivals
from penstock.cli.app import app, command_function
from penstock.cli.bench import advice, best_of, measured, medians, numbers_of
from penstock.cli.bench_one import find
from penstock.cli.chart import Bar, Panel, draw_bars
from penstock.errors import BadData, BadRequest, NotADataset, StorageError, WorkerFailed


def run(*arguments: object) -> Result:
    """Run the command line in this process."""
    return CliRunner().invoke(app, ["bench", *map(str, arguments)])


@pytest.fixture(autouse=True)
def here(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have every test start in an empty folder, where what is written by default lands."""
    path = tmp_path_factory.mktemp("here")
    monkeypatch.chdir(path)
    return path


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dataset of numbers."""
    path = tmp_path_factory.mktemp("bench") / "rows"
    with ps.Writer(path, fields={"x": ps.Array((8,), "float32"), "n": ps.Scalar()}) as writer:
        for n in range(500):
            writer.write({"x": np.full(8, n, np.float32), "n": n})
    return path


@pytest.mark.parametrize(("text", "expected"), [("0", [0]), ("4,0,2,2", [0, 2, 4]), (" 1 , 3 ", [1, 3])])
def test_numbers_of_workers_are_read(text: str, expected: list[int]) -> None:
    """A list in any order, with repeats, is each number once, smallest first."""
    assert numbers_of(text) == expected


@pytest.mark.parametrize("text", ["", "two", "1,,2", "-1,2", "1.5"])
def test_what_is_no_list_of_numbers_is_refused(text: str) -> None:
    """The message shows what was given and what would do."""
    with pytest.raises(BadRequest, match="is not a list of numbers, such as 0,1,2,4"):
        numbers_of(text)


def test_the_fewest_workers_that_are_as_fast_win() -> None:
    """Medians are compared, within the margin the smaller number is recommended, and the gain is told against the first setting."""
    one = {"first_batch_s": 1.0, "waiting": 0.5, "parent_cpu": 0.5}
    runs = {
        0: [{**one, "samples_per_s": rate} for rate in (90.0, 100.0, 500.0)],
        1: [{**one, "samples_per_s": rate} for rate in (195.0, 196.0, 1.0)],
        2: [{**one, "samples_per_s": 200.0}],
        3: [],
    }
    rows = medians(runs)
    assert [(row["workers"], row["samples_per_s"], row["rounds"]) for row in rows] == [(0, 100.0, 3), (1, 195.0, 3), (2, 200.0, 1)]
    assert (rows[0]["lowest"], rows[0]["highest"]) == (90.0, 500.0)
    assert best_of(rows)["workers"] == 1
    assert advice(rows) == "best: num_workers=1, persistent_workers=True (195 samples/s, 1.95 times 0; first batch after 1.00 s)"
    assert "times" not in advice(rows[:1])


def test_a_dataset_is_measured(rows: Path, tmp_path: Path) -> None:
    """Each number of workers is measured as often as asked, and the report on the screen and in the file is one and the same."""
    done = run(
        rows,
        "--workers",
        "0,1",
        "--rounds",
        2,
        "--seconds",
        0.05,
        "--batch-size",
        32,
        "--json",
        "--report",
        tmp_path / "r.json",
        "--png",
        tmp_path / "r.png",
    )
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told == json.loads((tmp_path / "r.json").read_text())
    assert [(row["workers"], row["rounds"]) for row in told["settings"]] == [(0, 2), (1, 2)]
    assert all(row["lowest"] <= row["samples_per_s"] <= row["highest"] and row["first_batch_s"] > 0 for row in told["settings"])
    assert told["best_workers"] in {0, 1}
    assert {"date", "processor", "cores", "python"} <= set(told["machine"])
    assert {"penstock", "torch", "numpy"} <= set(told["machine"]["versions"])
    with Image.open(tmp_path / "r.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > picture.height > 100


def test_without_a_terminal_each_measurement_is_a_line(rows: Path) -> None:
    """Lines come as the measurements do, then the table, and last what is best."""
    lines = run(rows, "--workers", "0", "--rounds", 1, "--seconds", 0.05).stdout.splitlines()
    assert lines[0].startswith("round 1 of 1, 0 workers: ")
    assert any("samples/s" in line and "first batch" in line for line in lines)
    assert lines[-1].startswith("best: num_workers=0 (")


def test_what_is_found_is_kept_unasked(rows: Path, here: Path) -> None:
    """Report and picture are written into the current folder, which is said: on stderr when standard output is for the result."""
    plain = run(rows, "--workers", "0", "--rounds", 1, "--seconds", 0.05)
    assert "written: penstock-bench.json, penstock-bench.png" in plain.stdout.splitlines()
    told = run(rows, "--workers", "0", "--rounds", 1, "--seconds", 0.05, "--json")
    assert "written: penstock-bench.json, penstock-bench.png" in told.stderr
    assert json.loads(told.stdout) == json.loads((here / "penstock-bench.json").read_text())
    assert sorted(path.name for path in here.iterdir()) == ["penstock-bench.json", "penstock-bench.png"]


def test_a_machine_that_tells_little_is_told_all_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a list of processors there is the architecture, and a package that is not installed has no version."""
    monkeypatch.setattr(bench_machine, "CPUINFO", tmp_path / "none")
    monkeypatch.setattr(bench_machine, "PACKAGES", ("penstock", "no-such-package"))
    told = bench_machine.machine()
    assert told["processor"] == platform.machine()
    assert list(told["versions"]) == ["penstock"]


def test_the_users_transforms_are_what_is_measured(tmp_path: Path) -> None:
    """Transforms are taken from a file, as a dict or from a function, and are those of the loader."""
    image_folder(tmp_path / "raw", classes=2, each=3)
    ps.convert(tmp_path / "raw", tmp_path / "ds", workers=0)
    (tmp_path / "train.py").write_text(
        "import penstock as ps\nOPS = [ps.transforms.Resize((8, 8))]\nTRANSFORMS = {'image': OPS}\n\ndef made():\n    return TRANSFORMS\n"
    )
    for name in ("TRANSFORMS", "made"):
        done = run(tmp_path / "ds", "--workers", 0, "--rounds", 1, "--seconds", 0.05, "--transforms", f"{tmp_path / 'train.py'}:{name}", "--json")
        assert done.exit_code == 0, done.output
    found: Any = find(f"{tmp_path / 'train.py'}:made")
    assert list(found) == ["image"]
    assert find("json:__name__") == "json"


@pytest.mark.parametrize("place", ["train.py", "nowhere.py:X", "json:nothing", "no_such_module_here:X", ":X", "x:"])
def test_transforms_that_are_not_there_are_refused(rows: Path, place: str) -> None:
    """A file, module or name that does not exist is one line that names it, and exit code 1."""
    with pytest.raises(BadRequest, match="--transforms"):
        find(place)
    if place == "json:nothing":
        done = run(rows, "--workers", 0, "--transforms", place)
        assert done.exit_code == 1
        assert "json:nothing" in done.stderr


def test_refusals_of_the_loader_arrive(rows: Path, tmp_path: Path) -> None:
    """A dataset that is none and a column that is none are told as the loader tells them."""
    for arguments, message in (((tmp_path / "none",), "none"), ((rows, "--columns", "y"), "there is no 'y'")):
        done = run(*arguments, "--workers", 0, "--seconds", 0.05)
        assert done.exit_code == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr


TABLE = """
import argparse, json, pathlib
parser = argparse.ArgumentParser()
for name in ("data", "prune", "json", "rounds", "seconds", "warm", "workers", "png", "markdown"):
    parser.add_argument(f"--{name}")
given = vars(parser.parse_args())
print("a line of the table")
if given["rounds"] != "9":
    pathlib.Path(given["json"]).write_text(json.dumps(given))
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a checkout whose table only tells how it was started."""
    (tmp_path / "checkout" / "benchmarks").mkdir(parents=True)
    (tmp_path / "checkout" / "benchmarks" / "__init__.py").touch()
    (tmp_path / "checkout" / "benchmarks" / "table.py").write_text(TABLE)
    monkeypatch.setattr("penstock.cli.bench_rivals.ROOT", tmp_path / "checkout")
    return tmp_path / "checkout"


def test_rivals_are_measured_by_the_checkouts_table(checkout: Path, tmp_path: Path) -> None:
    """`--rivals` starts the table with what was asked for, wherever it is called from, and tells and saves its result as JSON."""
    assert checkout.is_dir()
    options = ("--rounds", 2, "--seconds", 4, "--workers", "2,0", "--data", tmp_path / "data", "--png", tmp_path / "c.png")
    done = run("--rivals", "--json", *options, "--report", tmp_path / "r.json")
    told = json.loads(done.stdout)
    assert told == json.loads((tmp_path / "r.json").read_text())
    assert (told["data"], told["png"]) == (str(tmp_path / "data"), str(tmp_path / "c.png"))
    assert (told["rounds"], float(told["seconds"]), float(told["warm"]), told["workers"]) == ("2", 4.0, 3.0, "0,2")
    assert told["prune"] == "0.7"


def test_rivals_are_measured_as_the_table_has_it(checkout: Path, here: Path) -> None:
    """What is not asked for is left to the table's own defaults, and its result, chart and tables are kept in the current folder."""
    assert checkout.is_dir()
    done = run("--rivals", "--json")
    told = json.loads(done.stdout)
    assert [told[name] for name in ("rounds", "seconds", "warm", "workers")] == [None] * 4
    assert [told[name] for name in ("json", "png", "markdown")] == [str(here / f"penstock-rivals.{kind}") for kind in ("json", "png", "md")]
    assert "written: penstock-rivals.json, penstock-rivals.png, penstock-rivals.md" in done.stderr


def test_the_help_tells_the_tables_own_defaults() -> None:
    """What `--help` says of `--rivals` is what the program in the checkout does when it is told nothing."""
    campaign = table.parsed(["--data", "x"])
    options = get_type_hints(command_function("bench"), include_extras=True)
    for name, value in (("rounds", campaign.rounds), ("seconds", campaign.seconds)):
        assert f"{value:g} with --rivals" in options[name].__metadata__[0].help
    assert campaign.warm == campaign.seconds * bench_rivals.WARM


def test_a_table_that_fails_is_told(checkout: Path, tmp_path: Path) -> None:
    """Without a result the exit code is 1; without a checkout it is said what to do."""
    done = run("--rivals", "--rounds", 9)
    assert done.exit_code == 1
    assert "the table ended with code 0" in done.stderr
    (checkout / "benchmarks" / "table.py").unlink()
    assert "clone it, then `make rivals`" in run("--rivals", "--data", tmp_path).stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name a dataset"),
        (("x", "--rivals"), "leave out PATH"),
        (("--rivals", "--batch-size", "8"), "leave out --batch-size"),
        (("x", "--data", "d"), "--data 'd' goes with --rivals"),
        (("x", "--markdown", "m"), "--markdown 'm' goes with --rivals"),
    ],
)
def test_options_that_do_not_go_together_are_refused(arguments: tuple[str, ...], message: str) -> None:
    """Nothing to measure, a dataset beside the rivals, and data without them."""
    done = run(*arguments)
    assert done.exit_code == 1
    assert message in done.stderr


def test_what_cannot_end_well_is_refused_first(rows: Path, tmp_path: Path) -> None:
    """A dataset without rows is told as such; a report that cannot be written is refused before anything is measured."""
    with ps.Writer(tmp_path / "empty", fields={"n": ps.Scalar()}):
        pass
    done = run(tmp_path / "empty", "--workers", 0, "--seconds", 0.05)
    assert done.exit_code == 1
    assert "has no rows" in done.stderr
    for option in ("--report", "--png"):
        done = run(rows, "--workers", 0, "--seconds", 60, option, tmp_path / "nowhere" / "file")
        assert done.exit_code == 1
        assert "no file can be written in this folder" in done.stderr


OPS = """
import os
import penstock as ps
from penstock.errors import StorageError

def full():
    raise StorageError("the disk is full", url="s3://bucket/x", attempts=3)

class Die(ps.transforms.Op):
    parent = os.getpid()
    def declare(self, given):
        return given
    def apply(self, value, given, rng):
        return value if os.getpid() == self.parent else os._exit(9)

dying = {"x": [Die()]}
"""


def test_an_error_arrives_as_what_it_is(rows: Path, tmp_path: Path) -> None:
    """Damaged data, storage that fails, a dead worker and a path that is none keep their class, place and words on the way out of the process."""
    (tmp_path / "ops.py").write_text(OPS)
    config = {"path": str(rows), "batch_size": 4, "transforms": None, "columns": None, "seconds": 0.05, "workers": 0}
    with pytest.raises(StorageError, match="the disk is full") as full:
        measured({**config, "transforms": f"{tmp_path / 'ops.py'}:full"})
    assert (full.value.url, full.value.attempts) == ("s3://bucket/x", 3)
    with pytest.raises(NotADataset, match="none"):
        measured({**config, "path": str(tmp_path / "none")})
    with ps.Writer(tmp_path / "torn", fields={"image": ps.Image("jpeg")}) as writer:
        writer.write({"image": b"\xff\xd8\xff nothing that an image begins with"})
    (tmp_path / "sized.py").write_text("import penstock as ps\nOPS = {'image': [ps.transforms.Resize((8, 8))]}\n")
    with pytest.raises(BadData, match="row 0, field image") as torn:
        measured({**config, "path": str(tmp_path / "torn"), "transforms": f"{tmp_path / 'sized.py'}:OPS"})
    assert (torn.value.row, torn.value.field) == (0, "image")
    with pytest.raises(WorkerFailed, match="workers died without finishing a task") as dead:
        measured({**config, "workers": 1, "seconds": 60, "transforms": f"{tmp_path / 'ops.py'}:dying"})
    assert "Traceback" not in str(dead.value), "the worker was gone before it could tell one, and whose it is otherwise is no matter"


def test_a_program_that_fails_says_how(rows: Path, tmp_path: Path) -> None:
    """A program that ends without an answer is told with what it said last, and the exit code."""
    (tmp_path / "bad.py").write_text("import os, sys\nprint('no luck today', file=sys.stderr, flush=True)\nos._exit(3)")
    config = {"path": str(rows), "batch_size": 4, "transforms": f"{tmp_path / 'bad.py'}:X", "columns": None, "seconds": 0.05, "workers": 0}
    with pytest.raises(WorkerFailed, match="code 3: no luck today"):
        measured(config)


def test_bars_are_as_long_as_their_values() -> None:
    """The longest bar of a panel fills it, one of half the value is half as long, and one of nothing is a line."""
    red, green, blue = (255, 0, 0), (0, 128, 0), (0, 0, 255)
    image = draw_bars([Panel("two", [Bar("a", 10, "red"), Bar("b", 5, "green"), Bar("c", 0, "blue")]), Panel("none", [])], "note")
    lengths = {}
    for colour in (red, green, blue):
        columns = np.flatnonzero((np.asarray(image) == colour).all(2).any(0))
        lengths[colour] = len(columns)
    assert lengths[red] - 1 == pytest.approx(2 * (lengths[green] - 1), abs=2)
    assert lengths[blue] == 2


@pytest.mark.parametrize("code", ["def (", "raise RuntimeError('no')", "def augment(): return {}[0]"])
def test_a_transforms_file_that_fails_is_refused_in_a_line(rows: Path, tmp_path: Path, code: str) -> None:
    """A file with a wrong line, one that raises, and a function that raises are refused as the caller's, without a traceback."""
    (tmp_path / "mine.py").write_text(code)
    with pytest.raises(BadRequest, match=r"--transforms .*mine\.py:augment': (SyntaxError|RuntimeError|KeyError)"):
        find(f"{tmp_path / 'mine.py'}:augment")


def test_files_that_are_one_or_a_folder_are_refused_first(rows: Path, tmp_path: Path) -> None:
    """Before anything is measured: the report and the picture in one file, and a folder for a file."""
    for arguments in (("--report", str(tmp_path / "x"), "--png", str(tmp_path / "x")), ("--report", str(tmp_path))):
        done = run(rows, *arguments)
        assert done.exit_code == 1
        assert "is a folder, or the place of two results" in " ".join(done.output.split())
