"""Which files a source has, in which order, and of which kind: decided by names alone, and never by guessing."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import BadData, BadRequest, NotADataset
from penstock.ingest.locate import KINDS, SUFFIXES, locate

Names = st.sets(st.text("abB0é.", min_size=1, max_size=4).filter(lambda name: not name.startswith(".")), min_size=1, max_size=12)


def names(source: object, kind: str | None = None) -> list[str]:
    """Return the files that are found, relative to the source's folder."""
    found = locate(str(source), kind)
    return [found.files.name(number) for number in range(len(found.files))]


def touch(root: Path, *files: str) -> Path:
    """Make files with a byte in each."""
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


@settings(deadline=None, max_examples=30)
@given(files=Names, folders=Names, seed=st.integers(0, 99))
def test_order_does_not_depend_on_the_file_system(tmp_path_factory: pytest.TempPathFactory, files: set[str], folders: set[str], seed: int) -> None:
    """However files were made, a walk gives each folder's entries by the bytes of their names, folders in their places among the files."""
    made = [f"{name}.csv" for name in files] + [f"d{folder}/{name}.csv" for folder in folders for name in files]
    random.Random(seed).shuffle(made)
    root = touch(tmp_path_factory.mktemp("walk"), *made)
    found = names(root)
    assert sorted(found) == sorted(made)
    assert found == sorted(found, key=lambda name: [os.fsencode(part) for part in name.split("/")])


def test_what_a_walk_passes_over(tmp_path: Path) -> None:
    """Hidden files and folders, a dataset's own folder and what a Mac leaves in a zip are no part of a source."""
    touch(tmp_path, "a.csv", ".b.csv", ".git/c.csv", "_penstock/d.csv", "__MACOSX/e.csv", "in/.f/g.csv", "in/h.csv")
    assert names(tmp_path) == ["a.csv", "in/h.csv"]


@pytest.mark.parametrize("kind", SUFFIXES)
def test_kind_by_suffix(tmp_path: Path, kind: str) -> None:
    """Each suffix that stands in the table is known, in capitals too; images without folders are files."""
    for suffix in SUFFIXES[kind]:
        root = touch(tmp_path / suffix, f"class/a{suffix}", f"class/b{suffix.upper()}")
        assert locate(str(root)).kind == kind
        assert names(root) == [f"class/a{suffix}", f"class/b{suffix.upper()}"]
    if kind == "images":
        assert locate(str(touch(tmp_path / "flat", "a.jpg"))).kind == "files"


def test_single_file(tmp_path: Path) -> None:
    """One file is a source; a kind that is forced takes it whatever its name."""
    touch(tmp_path, "a.csv", "b", "[x].csv")
    assert locate(str(tmp_path / "a.csv")).kind == "csv"
    assert locate(str(tmp_path / "b"), "jsonl").kind == "jsonl"
    assert names(tmp_path / "[x].csv") == ["[x].csv"]
    with pytest.raises(BadRequest, match=r"no file of a known kind among 1 \(1 x no suffix\); force one with --from"):
        locate(str(tmp_path / "b"))


def test_json_counts_as_lines_when_nothing_else_is_there(tmp_path: Path) -> None:
    """`.json` is read as lines of JSON unless the folder holds a kind that is sure."""
    touch(tmp_path / "a", "x.json")
    assert locate(str(tmp_path / "a" / "x.json")).kind == "jsonl"
    touch(tmp_path / "b", "x.csv", "meta.json")
    assert locate(str(tmp_path / "b")).kind == "csv"


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("raw/*.csv", ["a-1.csv", "a-2.csv", "b.csv"]),
        ("raw/a-{2..1}.csv", ["a-2.csv", "a-1.csv"]),
        ("raw/{b,a-1}.csv", ["b.csv", "a-1.csv"]),
        ("raw/{a-*,b,a-1}.csv", ["a-1.csv", "a-2.csv", "b.csv"]),
        ("raw/**/*.csv", ["a-1.csv", "a-2.csv", "b.csv", "in/c.csv"]),
        ("raw/?.csv", ["b.csv"]),
        ("raw/*/[c].csv", ["c.csv"]),
    ],
)
def test_patterns(tmp_path: Path, pattern: str, found: list[str]) -> None:
    """Globs give files by name, braces in their own order, and no file stands twice; names are relative to what they have in common."""
    touch(tmp_path / "raw", "b.csv", "a-2.csv", "a-1.csv", "in/c.csv", "x.txt")
    assert names(tmp_path / pattern) == found


def test_pattern_with_files_takes_all_it_matches(tmp_path: Path) -> None:
    """`--from files` with a pattern keeps every file that was named, images or not; of a folder of images it takes the images."""
    touch(tmp_path, "a.jpg", "b.txt")
    assert names(tmp_path / "*", "files") == ["a.jpg", "b.txt"]
    assert names(tmp_path, "files") == ["a.jpg"]


@pytest.mark.parametrize(
    ("source", "error", "reason"),
    [
        ("nowhere", NotADataset, r"nowhere: no such file or folder; give a file, a folder, or a pattern such as 'raw/\*\.csv'"),
        ("*.csv", NotADataset, r"\*\.csv: the pattern matches no file; check it, and quote it"),
        ("{a,b}.csv", NotADataset, r"a\.csv does not exist; check the range"),
        ("link", NotADataset, "link: is a link to gone, which does not exist"),
        ("empty", BadRequest, "empty: the folder is empty; there is nothing to convert"),
        ("packed", BadRequest, r"packed: 2 files end in '\.gz'; unpack them first"),
        ("mixed", BadRequest, r"several kinds of files lie together \(1 of csv, 2 of parquet\); choose one with --from"),
        ("odd", BadRequest, r"no file of a known kind among 3 \(2 x \.abc, 1 x \.xyz\); force one"),
    ],
)
def test_refusals(tmp_path: Path, source: str, error: type[Exception], reason: str) -> None:
    """Each says what was asked, what there is, and what to do."""
    (tmp_path / "link").symlink_to("gone")
    (tmp_path / "empty" / ".hidden").mkdir(parents=True)
    touch(tmp_path, "packed/a.csv.gz", "packed/b.gz", "mixed/a.csv", "mixed/b.parquet", "mixed/c.pq", "odd/a.abc", "odd/b.abc", "odd/c.xyz")
    with pytest.raises(error, match=reason):
        locate(str(tmp_path / source))


def test_unknown_kind_and_kind_that_is_not_there(tmp_path: Path) -> None:
    """A kind that does not exist is refused with those that do; one that no file looks like, with the suffixes it has."""
    touch(tmp_path, "a.csv", "b.csv")
    with pytest.raises(BadRequest, match=rf"kind: 'zip' is not one of {', '.join(KINDS)}"):
        locate(str(tmp_path), "zip")
    with pytest.raises(BadRequest, match=r"none of its 2 files looks like parquet \(\.parquet, \.pq\)"):
        locate(str(tmp_path), "parquet")


def test_dataset_dict_names_its_splits(tmp_path: Path) -> None:
    """A folder of several HF datasets is refused with a split to begin with."""
    touch(tmp_path, "dataset_dict.json", "train/state.json", "test/state.json")
    with pytest.raises(BadRequest, match=r"with the splits test, train; convert one at a time, e\.g\. .*/test"):
        locate(str(tmp_path))


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    """The same folder may stand twice, beside itself; one that holds itself is refused by its path."""
    touch(tmp_path / "raw", "one/a.csv")
    (tmp_path / "raw" / "two").symlink_to("one")
    assert names(tmp_path / "raw") == ["one/a.csv", "two/a.csv"]
    (tmp_path / "raw" / "one" / "up").symlink_to("..")
    with pytest.raises(BadData, match="one/up: a symbolic link that leads back to a folder it lies in"):
        locate(str(tmp_path / "raw"))


def test_sizes_and_times_are_noted(tmp_path: Path) -> None:
    """The list says what the file system says; a link that leads nowhere has no size and is left to the reader."""
    touch(tmp_path, "a.csv")
    (tmp_path / "b.csv").symlink_to("gone")
    files = locate(str(tmp_path)).files
    assert files.sizes.tolist() == [1, 0]
    assert files.mtimes.tolist() == [(tmp_path / "a.csv").stat().st_mtime_ns, -1]
