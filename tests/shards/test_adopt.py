"""Adopting: what a source stands for, what is kept and when it is believed, publishing, and sources that do not hang together."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from contracts.tars import JPEG, PNG, npy, pairs, write_tar

from penstock.errors import AlreadyExists, BadData, BadRequest, NotADataset, StorageError
from penstock.fields import Array, Audio, Bytes, Image, Scalar, Text, Tokens
from penstock.shards import adopt as module
from penstock.shards import commits, storage, tarkeep
from penstock.shards.adopt import adopt
from penstock.shards.foreign import find
from penstock.shards.formats import open_reader


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test a cache folder of its own."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "penstock"


def arrow(path: Path, table: pa.Table, *, stream: bool = False, chunk: int = 1000) -> Path:
    """Write an Arrow file or stream."""
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=chunk)
    return path


def parquet(path: Path, table: pa.Table) -> Path:
    """Write a Parquet file."""
    pq.write_table(table, path)
    return path


def opened(source: Path | str) -> Any:
    """Adopt without hashing or publishing."""
    return adopt(str(source), hash=False, publish=False)


WRITERS: dict[str, Callable[[Path, int], Path]] = {
    "tar": lambda path, first: write_tar(path, pairs(3, first)),
    "arrow": lambda path, first: arrow(path, pa.table({"n": np.arange(first, first + 3)}), chunk=2),
    "parquet": lambda path, first: parquet(path, pa.table({"n": np.arange(first, first + 3)})),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_a_folder_and_a_pattern(tmp_path: Path, kind: str) -> None:
    """The three kinds of source give the same shards, in order, with their rows."""
    for number in range(3):
        WRITERS[kind](tmp_path / f"x-{number:03d}.{kind}", number * 3)
    for source in (tmp_path, tmp_path / f"x-{{000..002}}.{kind}"):
        made = opened(source)
        assert made.version == 0
        assert [shard.path for shard in made.shards] == [f"x-{number:03d}.{kind}" for number in range(3)]
        assert [shard.rows for shard in made.shards] == [3, 3, 3]
        assert {shard.format for shard in made.shards} == {kind}
    single = opened(tmp_path / f"x-001.{kind}")
    assert (single.rows, len(single.shards), single.root) == (3, 1, str(tmp_path))
    assert opened(tmp_path / f"x-{{002,000}}.{kind}").shards[0].path == f"x-002.{kind}"


def test_block_rows_are_those_of_the_file(tmp_path: Path) -> None:
    """Equal record batches give a `divmod`, unequal ones a search."""
    arrow(tmp_path / "even.arrow", pa.table({"n": np.arange(10)}), chunk=4)
    assert opened(tmp_path / "even.arrow").shards[0].block_rows == 4
    table = pa.table({"n": np.arange(2)})
    with pa.ipc.new_file(str(tmp_path / "odd.arrow"), table.schema) as writer:
        writer.write_table(table)
        writer.write_table(pa.table({"n": np.arange(5)}))
    assert opened(tmp_path / "odd.arrow").shards[0].block_rows == 0


def test_no_foreign_file_is_changed(tmp_path: Path) -> None:
    """Whatever adopting does, the shards keep their bytes and times."""
    for name, write in WRITERS.items():
        folder = tmp_path / name
        folder.mkdir()
        path = write(folder / f"a.{name}", 0)
        before = (path.read_bytes(), path.stat().st_mtime_ns)
        opened(folder)
        adopt(str(folder), hash=True, publish=True)
        assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_it_is_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found is kept and serves again; a file that changed in size or time, or one more, is looked at anew."""
    for number in range(2):
        WRITERS["tar"](tmp_path / f"{number}.tar", number * 3)
    first = opened(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_look", None)
        again = opened(tmp_path)
        assert (again.shards, again.schema, again.digest) == (first.shards, first.schema, first.digest)
    WRITERS["tar"](tmp_path / "2.tar", 6)
    assert opened(tmp_path).rows == 9
    write_tar(tmp_path / "1.tar", pairs(1, 3))
    assert opened(tmp_path).rows == 7
    os.utime(tmp_path / "1.tar", ns=(5, 5))
    with monkeypatch.context() as patch:
        patch.setattr(module, "_look", None)
        with pytest.raises(TypeError):
            opened(tmp_path)


@pytest.mark.parametrize("damage", ["", "{}", "[1]", '{"version": 1}', "nonsense", '{"version": 2, "files": []}'])
def test_a_damaged_kept_file_is_made_again(tmp_path: Path, damage: str) -> None:
    """Nothing in the kept file can make opening fail."""
    WRITERS["parquet"](tmp_path / "a.parquet", 0)
    opened(tmp_path)
    (kept,) = (tmp_path / module.ADOPTED).iterdir()
    kept.write_text(damage)
    assert opened(tmp_path).rows == 3
    assert json.loads(kept.read_text())["version"] == 1


@pytest.mark.parametrize(
    "change", [{"path": "../../etc/passwd"}, {"path": "b.parquet"}, {"rows": -1}, {"format": "tar"}, {"format": "exe"}, {"bytes": "many"}]
)
def test_a_hostile_kept_file_is_not_believed(tmp_path: Path, change: dict[str, Any]) -> None:
    """A kept file that names other files or absurd numbers is made again."""
    WRITERS["parquet"](tmp_path / "a.parquet", 0)
    good = opened(tmp_path)
    (kept,) = (tmp_path / module.ADOPTED).iterdir()
    told = json.loads(kept.read_text())
    told["shards"][0] |= change
    kept.write_text(json.dumps(told))
    assert opened(tmp_path).shards == good.shards


def test_a_folder_that_cannot_be_written_uses_the_cache(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found goes to the user's cache folder, and is found there the next time."""
    WRITERS["tar"](tmp_path / "a.tar", 0)
    real = storage.make_folder

    def refuse(path: Path) -> None:
        if path.is_relative_to(tmp_path):
            raise StorageError("read-only", url=path) from PermissionError(13, "Permission denied")
        real(path)

    monkeypatch.setattr(module, "make_folder", refuse)
    assert opened(tmp_path).rows == 3
    assert len(list((cache / "adopted").iterdir())) == 1
    assert not (tmp_path / "_penstock").exists()
    monkeypatch.setattr(module, "_look", None)
    assert opened(tmp_path).rows == 3


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path: Path, cache: Path) -> None:
    """The same with a folder whose permissions really forbid it."""
    WRITERS["tar"](tmp_path / "a.tar", 0)
    tmp_path.chmod(0o500)
    try:
        assert opened(tmp_path).rows == 3
    finally:
        tmp_path.chmod(0o700)
    assert len(list(cache.rglob("*.idx"))) == 1


def test_many_may_adopt_at_once(tmp_path: Path) -> None:
    """Six that open a new folder at once all get it, and no temporary file is left."""
    for number in range(3):
        WRITERS["tar"](tmp_path / f"{number}.tar", number * 3)
    with ThreadPoolExecutor(6) as pool:
        assert {made.rows for made in pool.map(opened, [tmp_path] * 6)} == {9}
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".tmp")]


@pytest.mark.parametrize("kind", WRITERS)
def test_publishing_hashes_and_commits(tmp_path: Path, kind: str) -> None:
    """Published, the files are version 1 of a dataset in their folder, with checksums, and can be read back."""
    path = WRITERS[kind](tmp_path / f"a.{kind}", 0)
    made = adopt(str(tmp_path), hash=True, publish=True)
    assert made.version == 1
    assert made.shards[0].xxh3 == xxhash.xxh3_64_hexdigest(path.read_bytes())
    loaded = commits.load(tmp_path)
    assert loaded == made
    reader = open_reader(loaded.root, loaded.shards[0], loaded.schema)
    assert reader.rows == 3
    reader.row(2)
    reader.close()
    if kind == "tar":
        assert tarkeep.load(path).hashes is not None


def test_publishing_again_needs_append(tmp_path: Path) -> None:
    """A dataset is not overwritten; append takes the new files only, and says so when there are none."""
    WRITERS["tar"](tmp_path / "0.tar", 0)
    adopt(str(tmp_path), hash=True, publish=True)
    WRITERS["tar"](tmp_path / "1.tar", 3)
    with pytest.raises(AlreadyExists, match="--append"):
        adopt(str(tmp_path), hash=True, publish=True)
    made = adopt(str(tmp_path), hash=True, publish=True, append=True)
    assert (made.version, [shard.path for shard in made.shards]) == (2, ["0.tar", "1.tar"])
    with pytest.raises(BadRequest, match="already"):
        adopt(str(tmp_path), hash=True, publish=True, append=True)


def test_fields_follow_from_all_tars_together(tmp_path: Path) -> None:
    """One tar of JPEG and one of PNG make a column of any image; runs of one length each may differ between tars."""
    write_tar(tmp_path / "0.tar", [("0.x.jpg", JPEG), ("0.t.npy", npy(np.zeros(2, np.int32)))])
    write_tar(tmp_path / "1.tar", [("1.x.png", PNG), ("1.t.npy", npy(np.zeros(3, np.int32)))])
    made = opened(tmp_path)
    assert made.schema == {"x": Image("any"), "t": Tokens("int32")}
    assert opened(tmp_path / "0.tar").schema == {"x": Image("jpeg"), "t": Array((2,), "int32")}
    for shard in made.shards:
        assert len(open_reader(made.root, shard, made.schema).row(0)["t"]) in {2, 3}


def test_shards_with_unlike_columns_are_named(tmp_path: Path) -> None:
    """The shard, and which columns it lacks or has too many, are in the error; so are unlike types."""
    write_tar(tmp_path / "0.tar", pairs(2))
    write_tar(tmp_path / "1.tar", [("9.jpg", JPEG), ("9.txt", b"a")])
    with pytest.raises(BadData, match=r"missing \['cls'\], extra \['txt'\]") as caught:
        opened(tmp_path)
    assert caught.value.shard == "1.tar"
    parquet(tmp_path / "0.parquet", pa.table({"n": [1]}))
    parquet(tmp_path / "1.parquet", pa.table({"n": [1.5]}))
    with pytest.raises(BadData, match=r"float64.*int64") as caught:
        opened(tmp_path / "{0,1}.parquet")
    assert (caught.value.shard, caught.value.field) == ("1.parquet", "n")


def test_samples_with_unlike_fields_are_named(tmp_path: Path) -> None:
    """Tar, row and sample key are in the error of a sample that has other fields."""
    write_tar(tmp_path / "0.tar", [*pairs(2), ("000009.jpg", JPEG)])
    with pytest.raises(BadData, match=r"'000009'.*missing \['cls'\]") as caught:
        opened(tmp_path)
    assert (caught.value.shard, caught.value.row) == ("0.tar", 2)


TIME = pa.array([0], pa.timestamp("s"))


def test_a_column_without_a_field_type_is_not_left_out_unasked(tmp_path: Path) -> None:
    """It is refused by name, unless only other columns are wanted; the digest does not depend on which."""
    parquet(tmp_path / "a.parquet", pa.table({"n": [1], "m": [2], "when": TIME}))
    for _ in range(2):
        with pytest.raises(BadData, match="no field type") as caught:
            opened(tmp_path)
        assert caught.value.field == "when"
        some = adopt(str(tmp_path), hash=False, publish=False, columns=["n"])
        other = adopt(str(tmp_path), hash=False, publish=False, columns=["m"])
        assert some.digest == other.digest
        assert list(some.schema) == ["n", "m"]
        with pytest.raises(BadData, match="no field type"):
            adopt(str(tmp_path), hash=False, publish=False, columns=["n", "when"])
    assert list(adopt(str(tmp_path), hash=True, publish=True, columns=["n"]).schema) == ["n"]


def test_empty_files_are_passed_over(tmp_path: Path) -> None:
    """A file without rows is no shard; a source without any row is refused."""
    parquet(tmp_path / "0.parquet", pa.table({"n": np.arange(0)}))
    with pytest.raises(BadData, match="has a row"):
        opened(tmp_path)
    parquet(tmp_path / "1.parquet", pa.table({"n": np.arange(2)}))
    assert [shard.path for shard in opened(tmp_path).shards] == ["1.parquet"]


def test_what_is_no_source(tmp_path: Path) -> None:
    """Missing files, empty folders, unknown endings, mixtures, URLs and doubles are each refused by name."""
    cases: list[tuple[str, type[Exception], str]] = [
        (str(tmp_path / "gone"), NotADataset, "gone does not exist"),
        (str(tmp_path), NotADataset, "holds no dataset and no shard"),
        (str(tmp_path / "x-{0..3}.tar"), NotADataset, "4 of 4 files"),
        ("s3://bucket/x.tar", BadRequest, "'s3'"),
        (str(tmp_path / "x-{0..3.tar"), BadRequest, "nothing closes"),
    ]
    for source, kind, words in cases:
        with pytest.raises(kind, match=words):
            opened(source)
    (tmp_path / "inner").mkdir()
    with pytest.raises(NotADataset, match="its folders are inner"):
        opened(tmp_path)
    (tmp_path / "a.tar.gz").write_bytes(b"x")
    with pytest.raises(BadRequest, match="decompressed first"):
        opened(tmp_path / "a.tar.gz")
    for name, write in WRITERS.items():
        write(tmp_path / f"a.{name}", 0)
    with pytest.raises(BadRequest, match="3 formats"):
        opened(tmp_path)
    with pytest.raises(BadRequest, match="twice"):
        opened(tmp_path / "{a,a}.tar")


def test_a_name_with_a_brace_is_itself_when_it_exists(tmp_path: Path) -> None:
    """A file whose name happens to be a pattern is opened as that file."""
    WRITERS["tar"](tmp_path / "x{0..9}.tar", 0)
    assert find(str(tmp_path / "x{0..9}.tar")).paths == ("x{0..9}.tar",)


def test_a_cut_tar_among_good_ones_is_named(tmp_path: Path) -> None:
    """The error names the tar and the last good sample."""
    WRITERS["tar"](tmp_path / "0.tar", 0)
    path = WRITERS["tar"](tmp_path / "1.tar", 3)
    path.write_bytes(path.read_bytes()[:5200])
    with pytest.raises(BadData, match="last whole sample is '000004'") as caught:
        opened(tmp_path)
    assert (caught.value.shard, caught.value.path) == ("1.tar", str(path))


def hugging(feature: dict[str, Any], table: pa.Table) -> pa.Table:
    """Return a table with the metadata that datasets writes."""
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": feature}})})


WRAPPED = pa.array([{"bytes": JPEG, "path": None}, {"bytes": JPEG + b"2", "path": "x.jpg"}], pa.struct({"bytes": pa.binary(), "path": pa.string()}))


@pytest.mark.parametrize("write", [lambda p, t: arrow(p.with_suffix(".arrow"), t, stream=True), lambda p, t: parquet(p.with_suffix(".parquet"), t)])
def test_images_and_class_names_of_datasets(tmp_path: Path, write: Callable[[Path, pa.Table], Path]) -> None:
    """A struct of bytes and path is the bytes, and names of classes become the dataset's metadata."""
    told = {"image": {"_type": "Image"}, "sound": {"_type": "Audio"}, "label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}
    write(tmp_path / "a", hugging(told, pa.table({"image": WRAPPED, "sound": WRAPPED, "raw": WRAPPED, "label": [0, 1]})))
    made = opened(tmp_path)
    assert made.schema == {"image": Image("any"), "sound": Audio("any"), "raw": Bytes(), "label": Scalar("int64")}
    assert made.metadata == {"class_names": {"label": ["cat", "dog"]}}
    reader = open_reader(made.root, made.shards[0], made.schema)
    assert reader.row(1)["image"].tobytes() == JPEG + b"2"


GRID = {"grid": {"_type": "Array2D", "shape": [2, 2], "dtype": "float32"}}


@pytest.mark.parametrize("write", [lambda p, t: arrow(p.with_suffix(".arrow"), t, stream=True), lambda p, t: parquet(p.with_suffix(".parquet"), t)])
def test_arrays_of_datasets(tmp_path: Path, write: Callable[[Path, pa.Table], Path]) -> None:
    """Lists in lists with a shape in the metadata are arrays; a row of another shape is named, also when the lists add up."""
    kind = pa.list_(pa.list_(pa.float32()))
    good = [[[1, 2], [3, 4]]] * 3
    write(tmp_path / "a", hugging(GRID, pa.table({"grid": pa.array(good, kind)})))
    made = opened(tmp_path)
    assert made.schema == {"grid": Array((2, 2), "float32")}
    assert open_reader(made.root, made.shards[0], made.schema).row(1)["grid"].tolist() == good[1]
    for bad in ([[1], [2, 3, 4]], [[1, 2]], [[1, 2], [3, 4], [5, 6]], None, [[1, 2], None]):
        write(tmp_path / "a", hugging(GRID, pa.table({"grid": pa.array([*good, bad], kind)})))
        made = opened(tmp_path)
        with pytest.raises(BadData, match="shape") as caught:
            open_reader(made.root, made.shards[0], made.schema).block(0)
        assert (caught.value.row, caught.value.field) == (3, "grid")


def test_damaged_offsets_of_nested_lists_are_refused(tmp_path: Path) -> None:
    """Offsets that point outside the inner lists are noticed before they are followed."""
    table = pa.table({"grid": pa.array([[[1, 2], [3, 4]]] * 2, pa.list_(pa.list_(pa.float32())))})
    path = arrow(tmp_path / "a.arrow", hugging(GRID, table))
    data = bytearray(path.read_bytes())
    outer = data.index(np.array([0, 2, 4], np.int32).tobytes())
    data[outer + 8 : outer + 12] = np.int32(4_000_000).tobytes()
    path.write_bytes(data)
    made = opened(tmp_path)
    with pytest.raises(BadData, match="damaged") as caught:
        open_reader(made.root, made.shards[0], made.schema).block(0)
    assert caught.value.field == "grid"


@pytest.mark.parametrize("row", [None, {"bytes": None, "path": "/etc/passwd"}])
def test_a_path_in_a_row_is_never_followed(tmp_path: Path, row: Any) -> None:
    """A row of datasets that only names a file is refused with its place."""
    array = pa.array([{"bytes": b"x", "path": None}, row], WRAPPED.type)
    arrow(tmp_path / "a.arrow", pa.table({"image": array}), stream=True)
    made = opened(tmp_path)
    with pytest.raises(BadData, match="not followed") as caught:
        open_reader(made.root, made.shards[0], made.schema).block(0)
    assert (caught.value.shard, caught.value.row, caught.value.field) == ("a.arrow", 1, "image")


@pytest.mark.parametrize(
    "note", [b"nonsense", b"[]", b'{"info": {"features": [1]}}', b'{"info": {"features": {"n": {"_type": "ClassLabel", "names": "ab"}}}}']
)
def test_metadata_of_datasets_is_not_trusted(tmp_path: Path, note: bytes) -> None:
    """Metadata of another form than expected is passed over."""
    arrow(tmp_path / "a.arrow", pa.table({"n": [1]}).replace_schema_metadata({"huggingface": note}))
    assert opened(tmp_path).metadata == {}


def saved(folder: Path, state: Any) -> None:
    """Make a folder look like one of `save_to_disk`."""
    arrow(folder / "data-00000-of-00001.arrow", pa.table({"n": [1, 2]}), stream=True)
    arrow(folder / "cache-123.arrow", pa.table({"n": [7]}), stream=True)
    (folder / "dataset_info.json").write_text("{}")
    (folder / "state.json").write_text(json.dumps(state))


def test_a_saved_folder_is_what_its_state_says(tmp_path: Path) -> None:
    """Caches that lie beside the data files are not part of the data."""
    saved(tmp_path, {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_indices_data_files": None})
    assert [shard.path for shard in opened(tmp_path).shards] == ["data-00000-of-00001.arrow"]


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"_data_files": [{"filename": "../x.arrow"}]}, "not a file of its folder"),
        ({"_data_files": [{"filename": 3}]}, "not a file of its folder"),
        ({"_data_files": []}, "no data files"),
        ([], "no data files"),
        ({"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_indices_data_files": [{"filename": "i.arrow"}]}, "flatten_indices"),
    ],
)
def test_a_hostile_state_is_refused(tmp_path: Path, state: Any, words: str) -> None:
    """A state that names files elsewhere, or none, or a selection of rows, is refused."""
    saved(tmp_path, state)
    with pytest.raises(BadData, match=words) as caught:
        opened(tmp_path)
    assert caught.value.path == str(tmp_path / "state.json")


def test_text_stays_text(tmp_path: Path) -> None:
    """Dictionary and view types of other writers are adopted as the fields they hold."""
    arrow(tmp_path / "a.arrow", pa.table({"a": pa.array(["x", "y"]).dictionary_encode(), "b": pa.array(["x", "y"], pa.string_view())}))
    assert opened(tmp_path).schema == {"a": Text(), "b": Text()}
