"""`.npz` archives: planning reads headers alone, reading takes only the arrays that are wanted, and damage is found where it is."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from contracts.raw import quarantine, rows_of, run

from penstock.errors import BadData
from penstock.ingest.locate import locate
from penstock.ingest.sources_numpy import NumpySource


def damaged(path: Path, member: str) -> None:
    """Turn the last bytes of one member of a stored archive over."""
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(member)
    data = bytearray(path.read_bytes())
    at = info.header_offset + 30 + len(info.filename) + info.compress_size
    data[at - 8 : at] = bytes(8 * [0xFF])
    path.write_bytes(data)


@pytest.mark.parametrize("packed", [False, True])
def test_planning_reads_no_array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool) -> None:
    """Description and cuts of an archive come from its headers: no array is loaded for them."""
    (np.savez_compressed if packed else np.savez)(tmp_path / "a.npz", x=np.zeros((1000, 300)), y=np.arange(1000).astype(">i4"))
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("an array was loaded"))
    source = NumpySource(locate(str(tmp_path / "a.npz")).files)
    described = source.describe(None)
    assert {name: field.dtype for name, field in described.schema.items()} == {"x": "float64", "y": "int32"}
    assert int((source.pieces(described).spans.stop - source.pieces(described).spans.start).sum()) == 1000


def test_only_wanted_arrays_are_read(tmp_path: Path) -> None:
    """A damaged array, or one of Python objects, that nobody wants does not hinder the others."""
    np.savez(tmp_path / "a.npz", x=np.arange(5), y=np.zeros((5, 4000)), z=np.array([None] * 5))
    damaged(tmp_path / "a.npz", "y.npy")
    run(tmp_path / "a.npz", tmp_path / "out", columns=["x"])
    assert [row["x"] for row in rows_of(tmp_path / "out")] == list(range(5))


def test_damaged_array_loses_its_rows(tmp_path: Path) -> None:
    """An array whose bytes do not have their checksum loses the file's rows, all counted."""
    (tmp_path / "raw").mkdir()
    np.savez(tmp_path / "raw" / "a.npz", x=np.arange(30_000))
    np.savez(tmp_path / "raw" / "b.npz", x=np.arange(10_000))
    damaged(tmp_path / "raw" / "b.npz", "x.npy")
    report = run(tmp_path / "raw", tmp_path / "out", max_bad="30%")
    assert (report.rows_out, report.rows_set_aside, report.uncounted) == (30_000, 10_000, 0)
    assert "CRC" in quarantine(tmp_path / "out")[0]["reason"]


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    """An array of Python objects that is wanted is refused, with what to do."""
    np.savez(tmp_path / "a.npz", x=np.arange(5), z=np.array([None] * 5))
    with pytest.raises(BadData, match=r"'z' \(object \(5,\)\).*--columns x.*never unpickles"):
        run(tmp_path / "a.npz", tmp_path / "out")


def test_header_that_lies_is_refused(tmp_path: Path) -> None:
    """A header that promises more rows than there are bytes is refused when planning, without making room for them."""
    np.savez(tmp_path / "a.npz", x=np.arange(5, dtype=np.int64))
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        inside = archive.read("x.npy").replace(b"(5,), }", b"(5555555555,), }").replace(b"          \n", b"\n")
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("x.npy", inside[:118] + inside[118:].rjust(50))
    with pytest.raises(BadData):
        run(tmp_path / "b.npz", tmp_path / "out")
    with zipfile.ZipFile(tmp_path / "c.npz", "w") as archive, zipfile.ZipFile(tmp_path / "a.npz") as good:
        archive.writestr("x.npy", good.read("x.npy")[:-8])
    with pytest.raises(BadData, match=r"says int64 of shape \(5,\), 168 bytes in all, but there are 160"):
        run(tmp_path / "c.npz", tmp_path / "out")
