"""Every kind of column through the loader, inline and with workers: each dtype, rows of no length, truth values, huge and tiny batches, foreign files."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import webdataset
from contracts.loaders import assert_same, check_resumes_at_every_step, plain
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

import penstock as ps
from penstock import transforms as T  # noqa: N812  (the name torchvision's users know)

NUMBERS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64"]


def values_of(dtype: str, count: int, seed: int) -> Any:
    """Return numbers that use the whole width of a dtype."""
    raw = np.random.default_rng(seed).integers(0, 256, count * np.dtype(dtype).itemsize, np.uint8).view(dtype)
    return np.nan_to_num(raw, nan=0.5, posinf=1, neginf=-1) if np.dtype(dtype).kind == "f" else raw


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> ps.Dataset:
    """Return 57 rows with a scalar, an array and a run of every dtype there is, in several shards."""
    fields: dict[str, Any] = {"n": ps.Scalar("int64"), "flag": ps.Scalar("bool"), "mask": ps.Array((3, 2), "bool")}
    for dtype in NUMBERS:
        fields |= {f"s_{dtype}": ps.Scalar(dtype), f"a_{dtype}": ps.Array((2, 3), dtype), f"t_{dtype}": ps.Tokens(dtype)}
    path = tmp_path_factory.mktemp("every") / "d"
    with ps.Writer(path, fields=fields, shard_size="12KB") as writer:
        for i in range(57):
            row: dict[str, Any] = {"n": i, "flag": i % 3 == 0, "mask": np.arange(6).reshape(3, 2) % (i + 2) == 0}
            for dtype in NUMBERS:
                row[f"s_{dtype}"] = values_of(dtype, 1, i)[0]
                row[f"a_{dtype}"] = values_of(dtype, 6, i + 100).reshape(2, 3)
                row[f"t_{dtype}"] = values_of(dtype, i % 5 if dtype != "int8" else 0, i + 200)
            writer.write(row)
    return ps.Dataset(path)


def check_rows(ds: ps.Dataset, batch: dict[str, Any], key: str = "n") -> list[int]:
    """Assert that a numpy batch holds the rows that its key column names; return them."""
    rows: list[int] = batch[key].tolist()
    for i, number in enumerate(rows):
        row = ds[number]
        for name, field in ds.fields.items():
            wanted = row[name]
            if not field.ragged:
                assert batch[name].dtype == field.dtype
                assert np.asarray(wanted, field.dtype).tobytes() == batch[name][i].tobytes(), f"{name} of row {number}"
                continue
            values, offsets = batch[name]
            got = values[offsets[i] : offsets[i + 1]]
            assert values.dtype == field.dtype
            raw = wanted if isinstance(wanted, bytes) else wanted.encode() if isinstance(wanted, str) else None
            if isinstance(wanted, (dict, list)):
                assert json.loads(got.tobytes()) == wanted
            else:
                assert got.tobytes() == (raw if raw is not None else wanted.tobytes()), f"{name} of row {number}"
    return rows


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch_size", [8, 1000])
def test_every_dtype_as_scalar_array_and_run(every: ps.Dataset, workers: int, batch_size: int) -> None:
    """All eleven dtypes and bool, as scalars, arrays and runs (some of no length, one always), also in a batch larger than the dataset."""
    loader = ps.DataLoader(every, batch_size=batch_size, shuffle=True, num_workers=workers, output="numpy")
    seen = [n for batch in loader for n in check_rows(every, batch)]
    assert sorted(seen) == list(range(57))
    assert len(loader) == -(-57 // batch_size)


def test_tensors_have_the_dtype_and_share_the_memory(every: ps.Dataset) -> None:
    """Every dtype becomes the tensor of that name without a copy, runs of no length included."""
    arrays = next(iter(ps.DataLoader(every, batch_size=5, output="numpy")))
    tensors = next(iter(ps.DataLoader(every, batch_size=5)))
    for dtype in NUMBERS:
        assert tensors[f"s_{dtype}"].dtype == getattr(torch, dtype)
        assert tensors[f"a_{dtype}"].shape == (5, 2, 3)
        assert tensors[f"a_{dtype}"].numpy().tobytes() == arrays[f"a_{dtype}"].tobytes()
        assert tensors[f"t_{dtype}"].values.numpy().tobytes() == arrays[f"t_{dtype}"].values.tobytes()
    assert tensors["mask"].dtype == torch.bool
    assert tensors["t_int8"].values.shape == (0,)
    assert tensors["t_int8"].offsets.tolist() == [0] * 6


@pytest.mark.parametrize("batch_size", [10**6, 2**40])
def test_a_batch_far_larger_than_the_dataset(small: ps.Dataset, batch_size: int) -> None:
    """A batch size beyond all memory is one batch of the rows there are, with workers as inline, and on several ranks."""
    for workers in (0, 1):
        batches = list(ps.DataLoader(small, batch_size=batch_size, num_workers=workers, output="numpy"))
        assert [b["n"].tolist() for b in batches] == [list(range(23))]
    ranks = [list(ps.DataLoader(small, batch_size=batch_size, topology=(r, 4), num_workers=r % 2, output="numpy")) for r in range(4)]
    assert sorted(n for r in ranks for b in r for n in b["n"][b["valid"]].tolist()) == list(range(23))


def test_a_huge_batch_through_a_worker(tmp_path: Path) -> None:
    """Three batches of 100,000 rows each come through one worker as they come inline."""
    with ps.Writer(tmp_path / "d", fields={"n": ps.Scalar("int32"), "t": ps.Tokens("uint8")}) as writer:
        count = 250_000
        offsets = np.arange(count + 1, dtype=np.int32) // 3
        runs = pa.ListArray.from_arrays(offsets, pa.array(np.arange(offsets[-1]) % 251, pa.uint8()))
        writer.write_table(pa.table({"n": pa.array(np.arange(count), pa.int32()), "t": runs}))
    ds = ps.Dataset(tmp_path / "d")
    options: dict[str, Any] = {"batch_size": 100_000, "output": "numpy"}
    inline = [plain(b) for b in ps.DataLoader(ds, **options)]
    assert [len(b["n"]) for b in inline] == [100_000, 100_000, 50_000]
    assert_same([plain(b) for b in ps.DataLoader(ds, num_workers=1, **options)], inline, "huge")
    assert inline[0]["t"][1][-1] == 100_000 // 3


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=6), st.binary(max_size=6)), min_size=1, max_size=12), st.integers(1, 5), st.data())
def test_any_texts_and_bytes(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, bytes]], batch_size: int, data: st.DataObject) -> None:
    """Text of any alphabet and bytes of any value, empty ones among them, come out of a batch as they were written."""
    path = tmp_path_factory.mktemp("any") / "d"
    with ps.Writer(path, fields={"n": ps.Scalar(), "text": ps.Text(), "raw": ps.Bytes()}) as writer:
        for n, (text, raw) in enumerate(rows):
            writer.write({"n": n, "text": text, "raw": raw})
    ds = ps.Dataset(path)
    seed = data.draw(st.integers(0, 9))
    seen = [n for b in ps.DataLoader(ds, batch_size=batch_size, shuffle=True, seed=seed, output="numpy") for n in check_rows(ds, b)]
    assert sorted(seen) == list(range(len(rows)))


def test_a_column_of_ones_own_called_valid(tmp_path: Path) -> None:
    """A dataset's or a map's own column `valid`, of whatever kind, is delivered as it is; with tail='pad' it is refused."""
    with ps.Writer(tmp_path / "d", fields={"n": ps.Scalar(), "valid": ps.Text()}) as writer:
        for n in range(7):
            writer.write({"n": n, "valid": f"row {n}"})
    ds = ps.Dataset(tmp_path / "d")
    for workers in (0, 1):
        batch = next(iter(ps.DataLoader(ds, batch_size=4, num_workers=workers, output="numpy")))
        assert batch["valid"].values.tobytes() == b"row 0row 1row 2row 3"
        mapped = next(iter(ps.DataLoader(ds, batch_size=4, num_workers=workers, map=lambda s: {"valid": np.full((2, 2), s["n"])}, output="numpy")))
        assert mapped["valid"].tolist() == [[[n, n], [n, n]] for n in range(4)]
    with pytest.raises(ps.BadRequest, match="tail='pad' adds a column 'valid', and the batch has one already"):
        ps.DataLoader(ds, topology=(0, 2))
    padded = next(iter(ps.DataLoader(ds, batch_size=8, topology=(1, 2), map=lambda s: {"n": s["n"]}, output="numpy")))
    assert padded["valid"].tolist() == [True] * 3 + [False]


def _parquet(root: Path) -> str:
    table = pa.table({"n": pa.array(range(40), pa.int64()), "text": [f"t{i}" * (i % 4) for i in range(40)], "v": [[i] * (i % 3) for i in range(40)]})
    pq.write_table(table.slice(0, 25), root / "a.parquet", row_group_size=7)
    pq.write_table(table.slice(25), root / "b.parquet", row_group_size=4)
    return str(root)


def _arrow_of_unequal_blocks(root: Path) -> str:
    table = pa.table(
        {"n": pa.array(range(40), pa.int64()), "f": pa.array(np.linspace(0, 1, 40).astype(np.float16)), "b": [i % 2 == 0 for i in range(40)]}
    )
    with pa.OSFile(str(root / "x.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        for start, stop in ((0, 3), (3, 20), (20, 21), (21, 40)):
            writer.write_table(table.slice(start, stop - start))
    return str(root / "x.arrow")


def _hugging_face(root: Path) -> str:
    table = pa.table({"n": pa.array(range(40), pa.int64()), "text": [f"text {i}" for i in range(40)]})
    with pa.OSFile(str(root / "data-00000-of-00001.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=9)
    return str(root)


def _webdataset(root: Path) -> str:
    rng = np.random.default_rng(0)
    for shard in range(2):
        with webdataset.TarWriter(str(root / f"train-{shard:06d}.tar")) as writer:
            for i in range(shard * 20, shard * 20 + 20):
                sink = io.BytesIO()
                Pillow.fromarray(rng.integers(0, 255, (12, 10 + i % 5, 3), np.uint8)).save(sink, "PNG")
                writer.write({"__key__": f"{i:05d}", "n.cls": i, "png": sink.getvalue(), "txt": f"number {i}", "json": {"i": i}})
    return str(root / "train-{000000..000001}.tar")


FOREIGN: dict[str, Callable[[Path], str]] = {
    "parquet": _parquet,
    "arrow": _arrow_of_unequal_blocks,
    "hf": _hugging_face,
    "webdataset": _webdataset,
}


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ps.Dataset]:
    """Return a dataset of each foreign kind, 40 rows each."""
    return {name: ps.Dataset(make(tmp_path_factory.mktemp(name))) for name, make in FOREIGN.items()}


def key_of(ds: ps.Dataset) -> str:
    """Return the column that counts the rows."""
    return next(name for name in ds.fields if name.split(".")[0] == "n" or name == "cls")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_files_through_the_loader(foreign: dict[str, ps.Dataset], kind: str, workers: int) -> None:
    """Parquet, Arrow of unequal blocks, HF's streams and WebDataset's tars, shuffled: every row once, each with its own values."""
    ds = foreign[kind]
    loader = ps.DataLoader(ds, batch_size=6, shuffle=True, num_workers=workers, output="numpy", seed=2)
    seen = [n for batch in loader for n in check_rows(ds, batch, key_of(ds))]
    assert sorted(seen) == list(range(40))
    assert seen != sorted(seen)


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_files_resume_at_every_step(foreign: dict[str, ps.Dataset], kind: str) -> None:
    """A cut anywhere resumes exactly on foreign files too."""
    check_resumes_at_every_step(lambda: ps.DataLoader(foreign[kind], batch_size=9, shuffle=True))


def test_tar_shards_of_ours(tmp_path: Path) -> None:
    """A dataset written as tars gives the bits of the same dataset written as Arrow, with images transformed, inline and with workers."""
    fields = {"image": ps.Image("png"), "n": ps.Scalar("int32"), "x": ps.Array((3,), "float16"), "t": ps.Tokens("int16"), "ok": ps.Scalar("bool")}
    rng = np.random.default_rng(0)
    rows = []
    for i in range(30):
        sink = io.BytesIO()
        Pillow.fromarray(rng.integers(0, 255, (9 + i % 4, 9, 3), np.uint8)).save(sink, "PNG")
        rows.append(
            {"image": sink.getvalue(), "n": i, "x": rng.random(3).astype(np.float16), "t": np.arange(i % 4, dtype=np.int16), "ok": i % 2 == 0}
        )
    runs = []
    for kind in ("arrow", "tar"):
        with ps.Writer(tmp_path / kind, fields=fields, format=kind) as writer:
            for row in rows:
                writer.write(row)
        for workers in (0, 1):
            loader = ps.DataLoader(
                ps.Dataset(tmp_path / kind), batch_size=7, shuffle=True, num_workers=workers, transforms={"image": [T.RandomResizedCrop(8)]}
            )
            runs.append([plain(b) for b in loader])
    for other in runs[1:]:
        assert_same(other, runs[0], "tar against Arrow")
