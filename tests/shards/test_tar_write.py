"""Writing tars: equal bytes for equal rows, nothing left of an aborted shard, and limits that are checked before a row is begun."""

from __future__ import annotations

import io
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from contracts.shard_formats import CASES, JPEG, encoded, shard_of, write_shard
from contracts.tars import PNG
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.errors import BadData, StorageError
from penstock.fields import Image, Json, Scalar, Schema, Text, Tokens
from penstock.shards import tar_write
from penstock.shards.shardwriter import open_shard_writer
from penstock.shards.tar import open_shard
from penstock.shards.tarscan import members

WORDS: Schema = {"t": Text(), "j": Json(), "n": Scalar("float64"), "r": Tokens("int16")}
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "t": st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
            "j": st.recursive(
                st.none() | st.booleans() | st.integers() | st.text("ab", max_size=3), lambda inner: st.lists(inner, max_size=3), max_leaves=5
            ),
            "n": st.floats(allow_nan=False),
            "r": st.lists(st.integers(-(2**15), 2**15 - 1), max_size=5).map(lambda values: np.array(values, np.int16)),
        }
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ROWS)
def test_any_rows_come_back(tmp_path: Path, rows: list[dict[str, object]]) -> None:
    """Text, JSON, numbers and runs of any value are read as they were written, and counted as Arrow shards count them."""
    for old in tmp_path.iterdir():
        old.unlink()
    shard = write_shard(tmp_path / "a.tar", "tar", WORDS, rows)
    reader = open_shard(tmp_path / "a.tar", shard, WORDS)
    for number, row in enumerate(rows):
        found = reader.row(number)
        assert {name: WORDS[name].decode(found[name]) for name in "tjn"} == {name: row[name] for name in "tjn"}
        np.testing.assert_array_equal(found["r"], row["r"])


def test_a_float_that_is_no_number_comes_back(tmp_path: Path) -> None:
    """NaN is written as Python's JSON writes it, which webdataset's decoder reads too."""
    shard = write_shard(tmp_path / "a.tar", "tar", {"w": Scalar("float32")}, [{"w": np.float32("nan")}])
    assert b"NaN" in (tmp_path / "a.tar").read_bytes()
    assert np.isnan(open_shard(tmp_path / "a.tar", shard, {"w": Scalar("float32")}).row(0)["w"])


@pytest.mark.parametrize("name", CASES)
def test_a_tar_counts_what_its_file_holds(tmp_path: Path, name: str) -> None:
    """What decides when a shard is full is the file's size, headers included: at the end only the end marker and padding are more."""
    schema, rows = CASES[name]
    tar = open_shard_writer(tmp_path / "a.tar", schema, "tar")
    for row in rows:
        before = tar.size_bytes
        tar.write_row(encoded(row, schema))
        assert tar.size_bytes >= before + 512
    size = tar.size_bytes
    assert size + 1024 <= tar.close().bytes <= size + 1024 + 10_240


def test_time_does_not_enter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard written at another time, in another folder, has the same bytes and the same index."""
    schema, rows = CASES["mixed"]
    write_shard(tmp_path / "a.tar", "tar", schema, rows)
    monkeypatch.setattr(time, "time", lambda: 4e9)
    (tmp_path / "other").mkdir()
    write_shard(tmp_path / "other" / "b.tar", "tar", schema, rows)
    for ending in ("", ".idx"):
        assert (tmp_path / f"a.tar{ending}").read_bytes() == (tmp_path / "other" / f"b.tar{ending}").read_bytes()


def test_members_have_constant_owners(tmp_path: Path) -> None:
    """Owner, mode and time of every member are those of WebDataset's writer, and the same on every machine."""
    write_shard(tmp_path / "a.tar", "tar", {"cls": Scalar()}, [{"cls": 1}])
    with tarfile.open(tmp_path / "a.tar") as tar:
        (member,) = tar.getmembers()
    assert (member.uid, member.gid, member.uname, member.gname, member.mode, member.mtime) == (0, 0, "bigdata", "bigdata", 0o444, 0)


def test_memory_does_not_grow_with_members(tmp_path: Path) -> None:
    """Tarfile's list of what it wrote is dropped after each row."""
    writer = tar_write.TarShardWriter(tmp_path / "a.tar", {"cls": Scalar()})
    for number in range(20):
        writer.write_row({"cls": np.int64(number)})
        assert writer._tar.tarstream.members == []
    writer.abort()


def test_an_aborted_shard_leaves_nothing(tmp_path: Path) -> None:
    """Neither the tar nor its index is left, whether it was closed before or not, and tarfile's finaliser does not bring it back."""
    for close in (False, True):
        writer = open_shard_writer(tmp_path / "a.tar", {"cls": Scalar()}, "tar")
        writer.write_row({"cls": np.int64(1)})
        if close:
            writer.close()
        writer.abort()
        del writer
        assert not list(tmp_path.iterdir())


def test_a_row_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that is too large for a tar, or a column that is missing, is refused before the row's first member."""
    schema: Schema = {"a": Text(), "z": Text()}
    writer = open_shard_writer(tmp_path / "a.tar", schema, "tar")
    monkeypatch.setattr(tar_write, "_MAX_MEMBER_BYTES", 10)
    writer.write_row({"a": "1", "z": "1"})
    with pytest.raises(BadData, match="at most 10") as caught:
        writer.write_row({"a": "2", "z": "2" * 11})
    assert (caught.value.row, caught.value.field) == (1, "z")
    with pytest.raises(BadData, match="no column 'z'"):
        writer.write_row({"a": "3"})
    writer.write_row({"a": "4", "z": "4"})
    shard = shard_of(tmp_path / "a.tar", "tar", writer.close())
    assert shard.rows == 2
    assert [m.name for m in members((tmp_path / "a.tar").read_bytes())] == [
        "000000000.a.txt",
        "000000000.z.txt",
        "000000001.a.txt",
        "000000001.z.txt",
    ]


def test_images_of_any_encoding_get_their_ending(tmp_path: Path) -> None:
    """Rows of one column may be JPEG and PNG; each has its own extension and the column stays one."""
    schema: Schema = {"image": Image("any")}
    shard = write_shard(tmp_path / "a.tar", "tar", schema, [{"image": JPEG}, {"image": PNG}])
    assert [m.name for m in members((tmp_path / "a.tar").read_bytes())] == ["000000000.image.jpg", "000000001.image.png"]
    reader = open_shard(tmp_path / "a.tar", shard, schema)
    assert [reader.row(n)["image"].tobytes() for n in range(2)] == [JPEG, PNG]


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the file system names the shard, and aborting afterwards works."""
    writer = open_shard_writer(tmp_path / "a.tar", {"t": Text()}, "tar")
    assert isinstance(writer, tar_write.TarShardWriter)
    writer.write_row({"t": "x"})

    class Full(io.RawIOBase):
        """A file on a full disk."""

        def write(self, data: object) -> int:
            """Fail as the system does."""
            raise OSError(28, "No space left on device")

    file, writer._sink._file = writer._sink._file, Full()  # type: ignore[assignment]
    with pytest.raises(StorageError, match="disk is full"):
        writer.write_row({"t": "y" * 5_000_000})
    file.close()
    writer.abort()
    assert not list(tmp_path.iterdir())
