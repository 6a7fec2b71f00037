"""Tar shards: the contract of every format, views without copies, keys, and values that are not what their column says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contracts.shard_formats import CASES, JPEG, check_refuses_damage, check_writer, encoded, shard_of, write_shard
from contracts.tars import PNG, npy, pairs, write_tar

from penstock.errors import BadData, BadRequest
from penstock.fields import Array, Audio, Bytes, Field, Image, Json, Scalar, Schema, Text, Tokens
from penstock.shards import tarkeep
from penstock.shards.columns import ParsedColumn, RaggedColumn
from penstock.shards.manifest import Shard
from penstock.shards.shardwriter import open_shard_writer
from penstock.shards.tar import TarReader, open_shard, parser
from penstock.shards.tarindex import build, to_bytes
from penstock.shards.tarscan import members


def foreign(path: Path) -> Shard:
    """Return what adopting says of a tar."""
    index = tarkeep.load(path)
    return Shard(path=path.name, format="tar", rows=index.rows, bytes=path.stat().st_size, xxh3=None, block_rows=index.rows)


def opened(path: Path) -> TarReader:
    """Open a foreign tar with the columns that it shows."""
    return open_shard(path, foreign(path), tarkeep.load(path).schema())


@pytest.mark.parametrize("name", CASES)
def test_tar_keeps_the_contract(tmp_path: Path, name: str) -> None:
    """The tar writer and reader pass the checker of every format."""
    check_writer(tmp_path, "tar", *CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_tar_refuses_damage(tmp_path: Path, name: str) -> None:
    """A cut file, and a manifest that promises other rows, name the shard."""
    schema, rows = CASES[name]
    check_refuses_damage(tmp_path, write_shard(tmp_path / "a.tar", "tar", schema, rows), schema)


def test_blobs_are_views_and_outlive_the_reader(tmp_path: Path) -> None:
    """An image is the mapped file itself, which stays mapped while it is looked at."""
    path = write_tar(tmp_path / "a.tar", pairs(3))
    reader = opened(path)
    column = reader.block(0)["jpg"]
    assert isinstance(column, RaggedColumn)
    row = column.row(2)
    assert np.shares_memory(row, column.values)
    assert not row.flags.writeable
    reader.close()
    reader.close()
    assert bytes(row).endswith(b"2")
    with pytest.raises(BadRequest, match="closed"):
        reader.block(0)


def test_numbers_are_parsed_when_asked_for(tmp_path: Path) -> None:
    """A label is its text until its row is wanted, and then a numpy number of the field's dtype."""
    reader = opened(write_tar(tmp_path / "a.tar", pairs(12)))
    column = reader.block(0)["cls"]
    assert isinstance(column, ParsedColumn)
    assert [int(column.row(i)) for i in range(12)] == [i % 10 for i in range(12)]
    assert column.row(0).dtype == np.int64
    assert column.row(0).shape == ()


def test_there_is_one_block(tmp_path: Path) -> None:
    """Asking for another block than the first is the caller's error."""
    reader = opened(write_tar(tmp_path / "a.tar", pairs(2)))
    with pytest.raises(BadRequest, match="block 1"):
        reader.block(1)


@pytest.mark.parametrize(
    ("field", "group", "text", "value"),
    [
        (Scalar("int64"), "scalar", b"12\n", 12),
        (Scalar("int8"), "scalar", b" -128 ", -128),
        (Scalar("uint64"), "scalar", b"18446744073709551615", 2**64 - 1),
        (Scalar("float32"), "json", b"0.5", 0.5),
        (Scalar("float64"), "json", b"-Infinity", float("-inf")),
        (Scalar("bool"), "json", b"true", True),
        (Scalar("int16"), "json", b"-5", -5),
        (Scalar("float16"), "npy", npy(np.float16(2.5)), 2.5),
    ],
)
def test_what_parses(field: Field, group: str, text: bytes, value: Any) -> None:
    """Numbers come back with their dtype from each kind of file."""
    parse = parser(field, group)
    assert parse is not None
    found = parse(np.frombuffer(text, np.uint8))
    assert found == value
    assert found.dtype == field.dtype
    assert found.shape == ()


@pytest.mark.parametrize(
    ("field", "group", "text"),
    [
        (Scalar("int64"), "scalar", b"cat"),
        (Scalar("int64"), "scalar", b""),
        (Scalar("int64"), "scalar", b"1_000"),
        (Scalar("int64"), "scalar", b"1.5"),
        (Scalar("int64"), "scalar", b"9" * 5000),
        (Scalar("int8"), "scalar", b"128"),
        (Scalar("uint8"), "scalar", b"-1"),
        (Scalar("bool"), "json", b"1"),
        (Scalar("float32"), "json", b"true"),
        (Scalar("float32"), "json", b"[" * 9000),
        (Scalar("float64"), "json", b"1" + b"0" * 400),
        (Scalar("int16"), "json", b"40000"),
        (Scalar("int16"), "json", b"1.0"),
        (Array((3,), "float32"), "npy", npy(np.zeros(4, np.float32))),
        (Array((3,), "float32"), "npy", npy(np.zeros(3))),
        (Tokens("int32"), "npy", npy(np.zeros((2, 2), np.int32))),
        (Scalar("float32"), "npy", npy(np.zeros(1, np.float32))),
    ],
)
def test_what_does_not_parse(field: Field, group: str, text: bytes) -> None:
    """A value that its column cannot hold is BadData, never a changed number."""
    parse = parser(field, group)
    assert parse is not None
    with pytest.raises(BadData):
        parse(np.frombuffer(text, np.uint8))


def test_a_bad_value_is_named_with_its_place(tmp_path: Path) -> None:
    """Path, shard, row and field of a label that is no number are in the error, and its neighbours are read."""
    path = write_tar(tmp_path / "a.tar", [("0.cls", b"1"), ("1.cls", b"cat"), ("2.cls", b"3")])
    reader = opened(path)
    with pytest.raises(BadData, match="whole number") as caught:
        reader.row(1)
    assert (caught.value.path, caught.value.shard, caught.value.row, caught.value.field) == (str(path), "a.tar", 1, "cls")
    assert reader.row(2)["cls"] == 3


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    """A schema that asks for more than the tar has, or for another kind of file, is refused."""
    path = write_tar(tmp_path / "a.tar", pairs(2))
    with pytest.raises(BadData, match=r"no such column; it has cls, jpg") as caught:
        open_shard(path, foreign(path), {"mask": Image()})
    assert caught.value.field == "mask"
    with pytest.raises(BadData, match="stored as image files"):
        open_shard(path, foreign(path), {"jpg": Text()})
    assert open_shard(path, foreign(path), {"jpg": Bytes()}).row(0)["jpg"].tobytes().startswith(b"\xff\xd8")


def test_a_tar_of_another_size_than_promised_is_refused(tmp_path: Path) -> None:
    """The manifest's size is compared before anything is read."""
    path = write_tar(tmp_path / "a.tar", pairs(2))
    shard = foreign(path)
    path.write_bytes(path.read_bytes() + bytes(512))
    with pytest.raises(BadData, match="the manifest says"):
        open_shard(path, shard, {"cls": Scalar()})


def test_check_finds_a_flipped_bit(tmp_path: Path) -> None:
    """Each sample has its own checksum, so the damaged row is named."""
    schema, rows = CASES["mixed"]
    shard = write_shard(tmp_path / "a.tar", "tar", schema, rows)
    path = tmp_path / "a.tar"
    open_shard(path, shard, schema).check(0)
    data = bytearray(path.read_bytes())
    at = next(m.start for m in members(bytes(data)) if m.name == "000000031.image.jpg") + 7
    data[at] ^= 4
    path.write_bytes(data)
    with pytest.raises(BadData, match="checksum") as caught:
        open_shard(path, shard, schema).check(0)
    assert caught.value.row == 31


def test_check_finds_bad_values_without_checksums(tmp_path: Path) -> None:
    """In a foreign tar that was not hashed, every number, array and text is still parsed."""
    path = write_tar(tmp_path / "a.tar", [("0.txt", b"fine"), ("1.txt", b"\xff\xfe")])
    with pytest.raises(BadData, match="not UTF-8") as caught:
        opened(path).check(0)
    assert (caught.value.row, caught.value.field) == (1, "txt")


SOUND = b"fLaC" + bytes(20)


def test_every_field_has_its_file(tmp_path: Path) -> None:
    """Member names are key, field and extension, sorted; a field named as its extension stands alone; any image gets its own ending."""
    schema: Schema = {
        "image": Image("any"),
        "jpg": Image("any"),
        "sound": Audio("flac"),
        "label": Scalar("int8"),
        "cls": Scalar("int64"),
        "weight": Scalar("float32"),
        "on": Scalar("bool"),
        "txt": Text(),
        "note.more": Json(),
        "x": Array((2,), "float32"),
        "run": Tokens("int16"),
        "raw": Bytes(),
    }
    row = {"image": PNG, "jpg": JPEG, "sound": SOUND, "label": 1, "cls": 2, "weight": 0.1, "on": True, "txt": "é", "note.more": [1]}
    row |= {"x": np.ones(2, np.float32), "run": np.arange(3, dtype=np.int16), "raw": b"r"}
    shard = write_shard(tmp_path / "a.tar", "tar", schema, [row])
    names = [m.name for m in members((tmp_path / "a.tar").read_bytes())]
    tails = ["cls", "image.png", "jpg", "label.cls", "note.more.json", "on.json", "raw.bin", "run.npy", "sound.flac", "txt", "weight.json", "x.npy"]
    assert names == [f"000000000.{tail}" for tail in tails]
    found = open_shard(tmp_path / "a.tar", shard, schema).row(0)
    assert schema["weight"].decode(found["weight"]) == np.float32(0.1)
    assert schema["note.more"].decode(found["note.more"]) == [1]


def test_rows_may_bring_their_keys(tmp_path: Path) -> None:
    """A `__key__` column of text names the files and is read back from them."""
    schema: Schema = {"__key__": Text(), "cls": Scalar()}
    rows = [{"__key__": f"train/n0{i}", "cls": i} for i in range(3)]
    shard = write_shard(tmp_path / "a.tar", "tar", schema, rows)
    reader = open_shard(tmp_path / "a.tar", shard, schema)
    assert [reader.row(i)["__key__"].tobytes().decode() for i in range(3)] == ["train/n00", "train/n01", "train/n02"]


@pytest.mark.parametrize("key", ["a.b", "", "x/", "../x", "__meta__", "a\0b", "twice", "k" * 300])
def test_bad_keys_are_refused_and_write_nothing(tmp_path: Path, key: str) -> None:
    """A key that WebDataset would read otherwise is refused, and the shard goes on as if the row had not been."""
    schema: Schema = {"__key__": Text(), "cls": Scalar()}
    writer = open_shard_writer(tmp_path / "a.tar", schema, "tar")
    writer.write_row(encoded({"__key__": "twice", "cls": 0}, schema))
    with pytest.raises(BadData, match=r"key|name") as caught:
        writer.write_row(encoded({"__key__": key, "cls": 1}, schema))
    assert caught.value.row == 1
    writer.write_row(encoded({"__key__": "last", "cls": 2}, schema))
    reader = open_shard(tmp_path / "a.tar", shard_of(tmp_path / "a.tar", "tar", writer.close()), schema)
    assert [int(reader.row(i)["cls"]) for i in range(reader.rows)] == [0, 2]


@pytest.mark.parametrize(
    "schema", [{"_hidden": Text()}, {"a/b": Text()}, {".a": Text()}, {"a.": Text()}, {"Label": Scalar(), "label": Scalar()}, {"__key__": Text()}]
)
def test_columns_that_cannot_be_suffixes_are_refused(tmp_path: Path, schema: Schema) -> None:
    """A column that WebDataset would drop or mix up with another is refused before a file is made."""
    with pytest.raises(BadRequest, match="tar"):
        open_shard_writer(tmp_path / "a.tar", schema, "tar")
    assert not list(tmp_path.iterdir())


def test_the_index_of_the_writer_is_that_of_a_scan(tmp_path: Path) -> None:
    """The index beside a shard of ours holds what a walk of the finished file says, checksums included."""
    schema, rows = CASES["mixed"]
    write_shard(tmp_path / "a.tar", "tar", schema, rows)
    data = np.fromfile(tmp_path / "a.tar", np.uint8)
    assert (tmp_path / "a.tar.idx").read_bytes() == to_bytes(build(data, hashed=True))


def test_reading_a_tar_does_not_bring_webdataset(tmp_path: Path) -> None:
    """Workers read tars without paying for torch."""
    write_tar(tmp_path / "a.tar", pairs(2))
    program = f"import sys; from penstock.shards import tar, tarkeep; from pathlib import Path; tarkeep.load(Path({str(tmp_path / 'a.tar')!r}));"
    program += "print(sorted({'torch', 'webdataset'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_equal_rows_give_the_same_tar_as_before(tmp_path: Path) -> None:
    """The bytes of a small shard are pinned: no time, owner or version of a library enters them."""
    shard = write_shard(tmp_path / "a.tar", "tar", {"jpg": Image("jpeg"), "cls": Scalar()}, [{"jpg": JPEG, "cls": 7}])
    assert (tmp_path / "a.tar").read_bytes()[512:513] == b"7"
    assert shard.xxh3 == "28da9b0475e08fd7"
