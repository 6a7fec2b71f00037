"""Reading plain Arrow shards without Arrow: what it answers is what Arrow answers, and where it is not sure it leaves the answer to Arrow."""

from __future__ import annotations

import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from contracts.shard_formats import MIXED, NUMBERS, as_table, mixed, numbers, write_shard
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import BadData, BadRequest
from penstock.fields import Array, Bytes, Field, Image, Scalar, Schema, Text, Tokens
from penstock.shards import arrow
from penstock.shards.columns import FixedColumn, RaggedColumn
from penstock.shards.ipc import NotPlain, PlainFile
from penstock.shards.manifest import Shard
from penstock.shards.plain import PlainReader
from penstock.shards.reader import ShardReader
from penstock.shards.storage import map_file


def values_of(reader: ShardReader) -> list[dict[str, Any]]:
    """Return everything a reader gives, as plain values that can be compared."""
    made = []
    for number in range(len(reader.block_starts) - 1):
        block: dict[str, Any] = {}
        for name, column in reader.block(number).items():
            if isinstance(column, FixedColumn):
                block[name] = (column.values.dtype.str, column.values.shape, column.values.tobytes())
                continue
            assert isinstance(column, RaggedColumn)
            block[name] = (column.values.dtype.str, None, [column.row(i).tobytes() for i in range(len(column.starts))])
        made.append(block)
    return made


def outcome(opener: Any, path: Path, shard: Shard, schema: Schema) -> Any:
    """Return what a reader gives, or the message of what it raises."""
    try:
        return values_of(opener(path, shard, schema))
    except BadData as error:
        return str(error)


def plainly(path: Path, shard: Shard, schema: Schema) -> ShardReader:
    """Open a shard as `formats` does."""
    try:
        return PlainReader(map_file(path), path, shard, schema)
    except NotPlain:
        return arrow.open_shard(path, shard, schema)


@pytest.mark.parametrize("schema", [NUMBERS, MIXED, {"image": MIXED["image"]}], ids=["numbers", "mixed", "one"])
def test_it_reads_what_arrow_reads(tmp_path: Path, schema: Schema) -> None:
    """Every column of ours, or some of them, are the same views with and without Arrow."""
    whole, rows = (NUMBERS, numbers(70)) if schema is NUMBERS else (MIXED, mixed(70))
    shard = write_shard(tmp_path / "x.arrow", "arrow", whole, rows, block_bytes=600)
    reader = PlainReader(map_file(tmp_path / "x.arrow"), tmp_path / "x.arrow", shard, schema)
    assert reader.mapped
    assert len(reader.block_starts) > 3
    assert values_of(reader) == values_of(arrow.open_shard(tmp_path / "x.arrow", shard, schema))


@pytest.mark.parametrize("rows", [0, 1, 16, 40])
def test_it_reads_foreign_files_of_plain_types(tmp_path: Path, rows: int) -> None:
    """Files of pyarrow's own, in unequal blocks and without our descriptions, are read alike."""
    schema: Schema = {"n": Scalar("int64"), "x": Array((2, 3), "float32"), "t": Text(), "b": Bytes(), "k": Tokens("uint16"), "f": Scalar("bool")}
    values = {
        "n": pa.array(range(rows), pa.int64()),
        "x": pa.array([[[i, 1, 2], [3, 4, 5]] for i in range(rows)], pa.list_(pa.list_(pa.float32(), 3), 2)),
        "t": pa.array(["ä" * i for i in range(rows)], pa.string()),
        "b": pa.array([b"b" * (i % 5) for i in range(rows)], pa.binary()),
        "k": pa.array([list(range(i % 7)) for i in range(rows)], pa.list_(pa.uint16())),
        "f": pa.array([i % 3 == 0 for i in range(rows)], pa.bool_()),
    }
    table = pa.table(values)
    path = tmp_path / "x.arrow"
    with pa.ipc.new_file(str(path), table.schema) as sink:
        for start, stop in ((0, rows // 3), (rows // 3, rows)):
            sink.write_table(table.slice(start, stop - start))
    shard = Shard(path=path.name, format="arrow", rows=rows, bytes=path.stat().st_size, xxh3=None, block_rows=0)
    reader = PlainReader(map_file(path), path, shard, schema)
    assert values_of(reader) == values_of(arrow.open_shard(path, shard, schema))


@pytest.mark.parametrize(
    ("column", "field"),
    [
        (pa.array(["a", "b"]).dictionary_encode(), Text()),
        (pa.array(["a", "b"], pa.large_string()), Text()),
        (pa.array(["a", "b"], pa.string_view()), Text()),
        (pa.array([1, None], pa.int64()), Scalar("int64")),
        (pa.array([1, 2], pa.int32()), Scalar("int64")),
        (pa.array([[1.0], [2.0]], pa.list_(pa.float32(), 1)), Array((2,), "float32")),
        (pa.array([b"a", b"b"], pa.binary()), Image("jpeg")),
        (pa.array([{"a": 1}, {"a": 2}]), Scalar("int64")),
        (pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.int8(), [1]), pa.array([[1], [2]], pa.list_(pa.int8(), 1))), Array((1,), "int8")),
    ],
    ids=str,
)
def test_what_is_not_plain_is_left_to_arrow(tmp_path: Path, column: pa.Array, field: Field) -> None:
    """Wide, view, dictionary and extension types, nulls, and columns that are not what the dataset says are never answered here."""
    path = tmp_path / "x.arrow"
    table = pa.table({"c": column})
    with pa.ipc.new_file(str(path), table.schema) as sink:
        sink.write_table(table)
    shard = Shard(path=path.name, format="arrow", rows=2, bytes=path.stat().st_size, xxh3=None, block_rows=2)
    try:
        reader = PlainReader(map_file(path), path, shard, {"c": field})
    except NotPlain:
        return
    with pytest.raises(BadData, match="null"):  # a null is noticed with its block
        reader.block(0)


@pytest.mark.parametrize("change", [{"rows": 29}, {"rows": 31}, {"block_rows": 7}, {"block_rows": 0, "rows": 31}], ids=str)
def test_a_manifest_that_says_otherwise_is_left_to_arrow(tmp_path: Path, change: dict[str, int]) -> None:
    """Other rows, or other rows a block, than the file has are not served."""
    shard = write_shard(tmp_path / "x.arrow", "arrow", NUMBERS, numbers(30), block_bytes=300)
    told = Shard(**{**{name: getattr(shard, name) for name in ("path", "format", "rows", "bytes", "xxh3", "block_rows")}, **change})
    assert outcome(plainly, tmp_path / "x.arrow", told, NUMBERS) == outcome(arrow.open_shard, tmp_path / "x.arrow", told, NUMBERS)


def test_compressed_files_are_left_to_arrow(tmp_path: Path) -> None:
    """Compressed buffers are no views."""
    path = tmp_path / "x.arrow"
    table = as_table(numbers(30), NUMBERS)
    with pa.ipc.new_file(str(path), table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as sink:
        sink.write_table(table)
    shard = Shard(path=path.name, format="arrow", rows=30, bytes=path.stat().st_size, xxh3=None, block_rows=30)
    with pytest.raises(NotPlain):
        PlainReader(map_file(path), path, shard, NUMBERS)


class Whole:
    """A shard of every kind of column, in several blocks."""

    def __init__(self, folder: Path) -> None:
        """Write it."""
        self.path = folder / "x.arrow"
        self.shard = write_shard(self.path, "arrow", MIXED, mixed(30), block_bytes=500)
        self.data = self.path.read_bytes()
        self.values = values_of(plainly(self.path, self.shard, MIXED))
        messages = [place for start, size, _ in PlainFile(map_file(self.path))._places for place in range(start, start + size)]
        footer = len(self.data) - 10 - int.from_bytes(self.data[-10:-6], "little")
        self.metadata = [*messages, *range(footer, len(self.data))]
        """Where bytes are that say where others lie."""

    def differs(self, damaged: bytes) -> bool:
        """Return whether other bytes are read unlike Arrow reads them; a flaw that only Arrow looks at may go unnoticed here."""
        self.path.write_bytes(damaged)
        quick, slow = outcome(plainly, self.path, self.shard, MIXED), outcome(arrow.open_shard, self.path, self.shard, MIXED)
        return not isinstance(slow, str) and quick != slow


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Return a shard to be damaged."""
    return Whole(tmp_path_factory.mktemp("plain"))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damage_is_never_read_as_other_values(whole: Whole, data: st.DataObject) -> None:
    """With any few bytes of the file changed, what Arrow still reads is read alike."""
    damaged = bytearray(whole.data)
    places = st.one_of(st.integers(0, len(damaged) - 1), st.integers(len(damaged) - 2500, len(damaged) - 1))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(places)] = data.draw(st.one_of(st.sampled_from([0, 1, 127, 128, 255]), st.integers(0, 255)))
    assert not whole.differs(bytes(damaged))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_a_cut_file_is_refused(whole: Whole, at: int) -> None:
    """Cut anywhere, the file is an error."""
    whole.path.write_bytes(whole.data[: at % len(whole.data)])
    assert isinstance(outcome(plainly, whole.path, whole.shard, MIXED), str)


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_damaged_metadata_never_make_other_values(whole: Whole, data: st.DataObject) -> None:
    """With one bit of a message or of the footer changed, it gives the values that were written, or those that Arrow gives, or an error."""
    damaged = bytearray(whole.data)
    damaged[data.draw(st.sampled_from(whole.metadata))] ^= 1 << data.draw(st.integers(0, 7))
    whole.path.write_bytes(damaged)
    found = outcome(plainly, whole.path, whole.shard, MIXED)
    assert isinstance(found, str) or found == whole.values or found == outcome(arrow.open_shard, whole.path, whole.shard, MIXED)


@pytest.mark.parametrize("word", [0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_no_place_in_the_metadata_is_trusted(whole: Whole, word: int) -> None:
    """Every 32-bit word of footer and messages, set to a hostile value, is refused or harmless: every view lies inside the map."""
    for at in [place for place in whole.metadata if place % 4 == 0]:
        damaged = bytearray(whole.data)
        damaged[at : at + 4] = word.to_bytes(4, "little")[: len(damaged) - at]
        whole.path.write_bytes(damaged)
        memory = map_file(whole.path)
        first = memory.ctypes.data
        try:
            reader = PlainReader(memory, whole.path, whole.shard, MIXED)
            columns = [column for number in range(len(reader.block_starts) - 1) for column in reader._views(PlainFile(memory), number).values()]
        except NotPlain:
            continue
        for column in columns:
            assert isinstance(column, FixedColumn | RaggedColumn)
            start = column.values.ctypes.data
            assert not column.values.size or first <= start <= start + column.values.nbytes <= first + memory.size
            if isinstance(column, RaggedColumn) and len(column.starts):
                assert 0 <= int(column.starts.min()) <= int(column.ends.max()) <= len(column.values)


def test_metadata_that_refer_to_each_other_end_soon() -> None:
    """Many fields that share one long list of long keys are refused, and not read for minutes: bytes looked at are counted."""
    keys, pairs, fields = b"k" * 512, 512, 512
    built = bytearray(b"\0" * 8)

    def put(data: bytes) -> int:
        built.extend(b"\0" * (-len(built) % 4))
        built.extend(data)
        return len(built) - len(data)

    def table(*places: int | None) -> int:
        """Write a table of offsets to what was written, which must lie behind: they are filled in at the end."""
        vtable = struct.pack(
            f"<HH{len(places)}H", 4 + 2 * len(places), 4 + 4 * len(places), *[4 + 4 * i if p is not None else 0 for i, p in enumerate(places)]
        )
        start = put(vtable + b"\0" * (-len(vtable) % 4))
        at = put(struct.pack("<i", len(vtable) + (-len(vtable) % 4)) + b"\0" * (4 * len(places)))
        assert at - start == len(vtable) + (-len(vtable) % 4)
        waiting.extend((at + 4 + 4 * i, p) for i, p in enumerate(places) if p is not None)
        return at

    waiting: list[tuple[int, int]] = []
    # what is pointed at must lie behind what points, so places are promised by name and settled below
    names: dict[str, int] = {}
    order = ["footer", "schema", "fields", "field", "pairs", "pair", "key"]
    promised = {name: -1 - i for i, name in enumerate(order)}
    names["footer"] = table(None, promised["schema"], None, None)
    names["schema"] = table(None, promised["fields"])
    names["fields"] = put(struct.pack("<I", fields) + b"\0" * (4 * fields))
    names["field"] = table(None, None, None, None, None, None, promised["pairs"])
    names["pairs"] = put(struct.pack("<I", pairs) + b"\0" * (4 * pairs))
    names["pair"] = table(promised["key"], promised["key"])
    names["key"] = put(struct.pack("<I", len(keys)) + keys)
    for vector, count, target in (("fields", fields, "field"), ("pairs", pairs, "pair")):
        for i in range(count):
            at = names[vector] + 4 + 4 * i
            struct.pack_into("<I", built, at, names[target] - at)
    for at, target_number in waiting:
        struct.pack_into("<I", built, at, names[order[-1 - target_number]] - at)
    struct.pack_into("<I", built, 0, names["footer"])
    whole = b"ARROW1\0\0" + bytes(built) + struct.pack("<i", len(built)) + b"ARROW1"
    began = time.perf_counter()
    with pytest.raises(NotPlain, match="again and again"):
        PlainFile(np.frombuffer(whole, np.uint8))
    assert time.perf_counter() - began < 5


def test_closing_ends_it(tmp_path: Path) -> None:
    """A closed reader says so, also when the file is gone; views it gave stay valid, and closing twice is nothing."""
    shard = write_shard(tmp_path / "x.arrow", "arrow", NUMBERS, numbers(30))
    reader = PlainReader(map_file(tmp_path / "x.arrow"), tmp_path / "x.arrow", shard, NUMBERS)
    kept = reader.block(0)
    before = values_of(reader)
    reader.close()
    reader.close()
    assert isinstance(kept["label"], FixedColumn)
    assert kept["label"].values.tobytes() == before[0]["label"][2]
    (tmp_path / "x.arrow").unlink()
    with pytest.raises(BadRequest, match="closed"):
        reader.block(0)


def test_blocks_are_opened_once(tmp_path: Path) -> None:
    """A block asked for again is the one that was checked."""
    shard = write_shard(tmp_path / "x.arrow", "arrow", NUMBERS, numbers(70), block_bytes=300)
    reader = PlainReader(map_file(tmp_path / "x.arrow"), tmp_path / "x.arrow", shard, NUMBERS)
    assert reader.block(1) is reader.block(1)


def test_a_file_without_batches(tmp_path: Path) -> None:
    """A shard of no rows has no blocks."""
    shard = write_shard(tmp_path / "x.arrow", "arrow", NUMBERS, [])
    reader = PlainReader(map_file(tmp_path / "x.arrow"), tmp_path / "x.arrow", shard, NUMBERS)
    assert reader.block_starts.tolist() == [0]
    assert PlainFile(map_file(tmp_path / "x.arrow")).count == 0


_TRAIN = """
import sys
import penstock as ps
loader = ps.DataLoader(ps.Dataset(sys.argv[1]), batch_size=4, shuffle=True, output="numpy")
assert sum(len(batch["label"]) for batch in loader) == 30
print(sorted(set(sys.modules) & {"pyarrow", "PIL", "simplejpeg", "penstock.loaders.pool", "penstock.transforms.chain"}))
"""


def test_training_on_plain_shards_needs_no_arrow(tmp_path: Path) -> None:
    """A fresh process that trains on shards of ours, without transforms or workers, imports neither pyarrow nor what decodes or starts workers."""
    import penstock as ps

    with ps.Writer(tmp_path / "ds", fields=NUMBERS) as writer:
        for row in numbers(30):
            writer.write(row)
    told = subprocess.run([sys.executable, "-c", _TRAIN, str(tmp_path / "ds")], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


_WORKER = """
import sys
import penstock as ps

note = sys.argv[2]

def noted(number):
    import os, pathlib
    pathlib.Path(note).write_text("libarrow" if "libarrow" in pathlib.Path(f"/proc/{os.getpid()}/maps").read_text() else "none")

loader = ps.DataLoader(ps.Dataset(sys.argv[1]), batch_size=4, num_workers=1, worker_init_fn=noted, output="numpy")
assert sum(len(batch["label"]) for batch in loader) == 30
"""


def test_workers_on_plain_shards_need_no_arrow(tmp_path: Path) -> None:
    """A worker maps no library of Arrow's."""
    import penstock as ps

    with ps.Writer(tmp_path / "ds", fields=NUMBERS) as writer:
        for row in numbers(30):
            writer.write(row)
    subprocess.run([sys.executable, "-c", _WORKER, str(tmp_path / "ds"), str(tmp_path / "note")], check=True)
    assert (tmp_path / "note").read_text() == "none"


def test_arrays_are_the_files_memory(tmp_path: Path) -> None:
    """Columns are views of the map, not copies."""
    shard = write_shard(tmp_path / "x.arrow", "arrow", NUMBERS, numbers(30))
    memory = map_file(tmp_path / "x.arrow")
    reader = PlainReader(memory, tmp_path / "x.arrow", shard, NUMBERS)
    for column in reader.block(0).values():
        assert isinstance(column, FixedColumn)
        assert column.values.dtype == np.bool_ or np.shares_memory(column.values, memory)
