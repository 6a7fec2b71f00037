"""`penstock inspect` and `penstock show` tell a person, or a script with --json, what a dataset holds."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

import penstock as ps
from penstock.cli.app import app
from penstock.cli.show import spread
from penstock.cli.values import line, summary


def run(*arguments: object) -> Result:
    """Run the command line in this process."""
    return CliRunner().invoke(app, [str(a) for a in arguments])


def jpeg(shade: int, size: tuple[int, int] = (40, 30)) -> bytes:
    """Return a small JPEG."""
    data = io.BytesIO()
    Image.new("RGB", size, (shade, 120, 40)).save(data, "JPEG")
    return data.getvalue()


FIELDS: dict[str, Any] = {
    "image": ps.Image(),
    "label": ps.Scalar("int64"),
    "vector": ps.Array((3,), "float32"),
    "tokens": ps.Tokens("int32"),
    "text": ps.Text(),
    "meta": ps.Json(),
    "blob": ps.Bytes(),
}


def row(number: int) -> dict[str, Any]:
    """Return a row with a value for every kind of field."""
    return {
        "image": jpeg(number * 10),
        "label": number % 2,
        "vector": np.array([number, 0.5, -1], np.float32),
        "tokens": np.arange(number, dtype=np.int32),
        "text": f"row {number}\nof [red]many[/red]",
        "meta": {"n": number},
        "blob": b"\0" * 2000,
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dataset of 20 rows in two versions, with class names."""
    path = tmp_path_factory.mktemp("show") / "ds"
    with ps.Writer(path, FIELDS, metadata={"class_names": {"label": ["cat", "dög"]}}) as writer:
        for number in range(12):
            writer.write(row(number))
    with ps.Writer(path, FIELDS, mode="append") as writer:
        for number in range(12, 20):
            writer.write(row(number))
    return path


def test_inspect_tells_everything(made: Path) -> None:
    """Columns with their arguments and Arrow types, rows, shards, versions, and metadata are all in the text."""
    told = run("inspect", made)
    assert told.exit_code == 0
    assert f"{made}: 20 rows, " in told.stdout
    assert "in 2 shards, version 2" in told.stdout
    for expected in ("encoding=any", "dtype=int64", "shape=[3]", "fixed_size_list", "arrow", "create", "append", '{"label": ["cat", "dög"]}'):
        assert expected in told.stdout


def test_inspect_json_is_the_manifest(made: Path) -> None:
    """With --json the digest, shards and versions are those of the dataset itself."""
    told = json.loads(run("inspect", made, "--json").stdout)
    dataset = ps.Dataset(made)
    assert (told["rows"], told["version"], told["digest"]) == (20, 2, dataset.digest)
    assert told["shards"] == [shard.to_json() for shard in dataset.manifest.shards]
    assert [(v["operation"], v["rows_added"], v["shards_removed"]) for v in told["versions"]] == [("create", 12, 0), ("append", 8, 0)]
    assert [f["name"] for f in told["fields"]] == list(FIELDS)


def test_inspect_of_an_older_version(made: Path) -> None:
    """`--version` looks at the dataset as it was; a version that does not exist is refused with those that do."""
    assert json.loads(run("inspect", made, "--version", 1, "--json").stdout)["rows"] == 12
    told = run("inspect", made, "--version", 9)
    assert told.exit_code == 1
    assert "has no version 9; it has 1, 2" in told.stderr


def test_inspect_cuts_a_long_list_of_shards(tmp_path: Path) -> None:
    """Ten shards are listed and the others counted; `--all` lists them."""
    with ps.Writer(tmp_path / "ds", {"n": ps.Scalar("int64")}, shard_size=8) as writer:
        for number in range(14):
            writer.write({"n": number})
    short, whole = run("inspect", tmp_path / "ds").stdout, run("inspect", tmp_path / "ds", "--all").stdout
    assert "and 4 more shards; --all lists them" in short
    assert (short.count(".arrow"), whole.count(".arrow")) == (10, 14)


@pytest.mark.parametrize("command", ["inspect", "show", "verify"])
def test_what_is_no_dataset_is_refused(tmp_path: Path, command: str) -> None:
    """A missing path ends with exit code 1 and one message without a traceback."""
    told = run(command, tmp_path / "missing")
    assert told.exit_code == 1
    assert told.stderr.startswith("penstock: ")
    assert "missing" in told.stderr
    assert "Traceback" not in told.stderr


def test_show_a_row(made: Path) -> None:
    """One row is shown a column a line: the image by its header, the label by its name, long text by its beginning."""
    told = run("show", made, 3)
    assert told.exit_code == 0
    for expected in (
        "row 3",
        "jpeg 40 x 30 RGB",
        "1 (dög)",
        "float32 3: 3, 0.5, -1",
        "int32 3: 0, 1, 2",
        "row 3 of [red]many[/red]",
        '{"n": 3}',
        "2.0 kB",
    ):
        assert expected in told.stdout


def test_show_rows_spread_over_the_dataset(made: Path) -> None:
    """Without a row number, rows from the beginning to the end are shown, with their numbers."""
    told = run("show", made, "--columns", "label, tokens", "--count", 4)
    assert "4 of 20 rows" in told.stdout
    assert [text.split()[0] for text in told.stdout.splitlines() if "int32" in text] == ["0", "5", "10", "15"]
    assert "image" not in told.stdout


def test_show_json_is_one_object_a_row(made: Path) -> None:
    """With --json each row is a line, and values that are not JSON are described."""
    rows = [json.loads(text) for text in run("show", made, "--json", "--count", 2).stdout.splitlines()]
    assert [found["row"] for found in rows] == [0, 10]
    values = rows[1]["values"]
    assert values["label"] == {"value": 0, "name": "cat"}
    assert values["vector"] == {"shape": [3], "dtype": "float32", "first": [10.0, 0.5, -1.0]}
    assert values["blob"] == {"bytes": 2000}
    assert (values["image"]["format"], values["image"]["width"], values["image"]["height"]) == ("jpeg", 40, 30)
    assert values["meta"] == {"n": 10}


@pytest.mark.parametrize("number", ["20", "1000000"])
def test_show_a_row_that_is_not_there(made: Path, number: str) -> None:
    """A row past the end is refused with the number of rows."""
    told = run("show", made, number)
    assert told.exit_code == 1
    assert f"has 20 rows, numbered from 0, and no row {number}" in told.stderr


def test_contact_sheet_shows_the_images(made: Path, tmp_path: Path) -> None:
    """The PNG has a tile per row in which the image's own colour is found; the size follows from the count."""
    told = run("show", made, "--png", tmp_path / "sheet.png", "--count", 6)
    assert told.exit_code == 0, told.stderr
    assert "6 of 20 rows" in told.stdout
    sheet = Image.open(tmp_path / "sheet.png")
    assert sheet.size == (3 * 160, 2 * 176)
    for tile, number in enumerate(spread(20, 6)):
        pixel = sheet.getpixel((tile % 3 * 160 + 80, tile // 3 * 176 + 80))
        assert isinstance(pixel, tuple)
        assert np.abs(np.subtract(pixel, (number * 10, 120, 40))).max() < 6


def test_contact_sheet_marks_what_does_not_decode(tmp_path: Path) -> None:
    """A broken image gets a tile that says so and does not hide the others; arrays of pixels are shown too."""
    with ps.Writer(tmp_path / "ds", {"image": ps.Image()}) as writer:
        writer.write({"image": jpeg(100)[:200] + b"\0" * 30})
        writer.write({"image": jpeg(200)})
    assert run("show", tmp_path / "ds", "--png", tmp_path / "sheet.png").exit_code == 0
    assert "not readable" not in run("show", tmp_path / "ds", 1).stdout
    with ps.Writer(tmp_path / "arrays", {"pixels": ps.Array((8, 9, 3), "uint8")}) as writer:
        writer.write({"pixels": np.full((8, 9, 3), 77, np.uint8)})
    assert run("show", tmp_path / "arrays", "--png", tmp_path / "arrays.png").exit_code == 0
    assert (np.asarray(Image.open(tmp_path / "arrays.png")) == 77).sum() >= 8 * 9 * 3


def test_contact_sheet_needs_images_and_a_place(made: Path, tmp_path: Path) -> None:
    """Without a column of images, or with a folder that does not exist, the reason is told and the exit code is 1."""
    told = run("show", made, "--columns", "label", "--png", tmp_path / "sheet.png")
    assert told.exit_code == 1
    assert "no column holds images; the columns are label (scalar)" in told.stderr
    told = run("show", made, "--png", tmp_path / "no" / "sheet.png")
    assert told.exit_code == 1
    assert f"{tmp_path / 'no' / 'sheet.png'}: cannot write the file: it does not exist" in told.stderr


@pytest.mark.parametrize(("rows", "count", "expected"), [(0, 8, []), (3, 8, [0, 1, 2]), (10, 2, [0, 5]), (10**12, 2, [0, 5 * 10**11])])
def test_spread_is_even(rows: int, count: int, expected: list[int]) -> None:
    """The rows shown begin at the first, are evenly apart, and cost nothing to choose in a dataset of any size."""
    assert spread(rows, count) == expected


def test_values_are_never_long() -> None:
    """A long text is cut with its length, a long array after its first numbers, and a broken image says what is wrong."""
    assert line(ps.Text(), "x" * 5000) == "x" * 120 + "... (5,000 characters)"
    assert line(ps.Tokens(), np.arange(100, dtype=np.int32)).endswith("14, 15, ...")
    assert summary(ps.Scalar("int64"), 7, ["only", "two"]) == 7
    assert "not readable" in line(ps.Image(), b"\xff\xd8\xff" + b"\0" * 20)


def test_an_empty_dataset_is_shown(tmp_path: Path) -> None:
    """A dataset without rows has columns to tell and no rows to show."""
    with ps.Writer(tmp_path / "ds", {"n": ps.Scalar("int64")}):
        pass
    assert "0 rows" in run("inspect", tmp_path / "ds").stdout
    assert run("show", tmp_path / "ds").exit_code == 0
