"""The index of a tar: what names mean, what samples must have in common, and how an index is kept, rebuilt or refused."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from contracts.tars import JPEG, PNG, npy, pairs, tar_bytes, write_tar
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import BadData, StorageError
from penstock.fields import Array, Audio, Bytes, Field, Image, Json, Scalar, Text, Tokens
from penstock.shards import storage, tarkeep
from penstock.shards.tarindex import TarIndex, build, from_bytes, to_bytes
from penstock.shards.tarnames import Facts, field_names, split

OURS = "part-00000000000000000001-00000-abc.tar"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test a cache folder of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "penstock" / "index"


def memory(data: bytes) -> npt.NDArray[np.uint8]:
    """Return bytes as mapped memory looks."""
    return np.frombuffer(data, np.uint8)


def indexed(*entries: tuple[str, bytes]) -> TarIndex:
    """Return the index of a tar of these members."""
    return build(memory(tar_bytes(entries)), hashed=False)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("000001.jpg", ("000001", "jpg")),
        ("train/a/000001.image.JPG", ("train/a/000001", "image.jpg")),
        ("./x.cls", ("./x", "cls")),
        ("a.b/c.d.e", ("a.b/c", "d.e")),
        ("x.Seg.PNG", ("x", "Seg.png")),
        ("README", None),
        ("._x.jpg", None),
        ("folder/.DS_Store", None),
        ("__meta__/info.json", None),
        ("x.", None),
        ("a\nb.txt", ("a\nb", "txt")),
    ],
)
def test_how_a_name_is_split(name: str, expected: tuple[str, str] | None) -> None:
    """The key ends at the first dot of the base name, as in WebDataset; what belongs to no sample is passed over."""
    assert split(name) == expected


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([("jpg", "cls")], {"jpg": "jpg", "cls": "cls"}),
        ([("image.jpg", "label.cls")], {"image.jpg": "image", "label.cls": "label"}),
        ([("image.jpg",), ("image.png",)], {"image.jpg": "image", "image.png": "image"}),
        ([("seg.png", "seg.json")], {"seg.png": "seg.png", "seg.json": "seg.json"}),
        ([("seg.png",), ("seg.json",)], {"seg.png": "seg.png", "seg.json": "seg.json"}),
        ([("a.b.txt", "state.pth")], {"a.b.txt": "a.b", "state.pth": "state.pth"}),
        ([("jpg",), ("jpg.png",)], {"jpg": "jpg", "jpg.png": "jpg"}),
    ],
)
def test_how_a_field_is_named(samples: list[tuple[str, ...]], expected: dict[str, str]) -> None:
    """A known extension behind a name is taken off, unless the name would then stand for two files."""
    assert field_names(samples) == expected


@pytest.mark.parametrize(
    ("suffix", "files", "expected"),
    [
        ("jpg", [JPEG, JPEG], Image("jpeg")),
        ("jpg", [JPEG, PNG], Image("any")),
        ("jpg", [JPEG, b"not an image"], Image("jpeg")),
        ("png", [PNG], Image("png")),
        ("cls", [b"1"], Scalar("int64")),
        ("id", [b"1"], Scalar("int64")),
        ("txt", [b"a"], Text()),
        ("jsn", [b"{}"], Json()),
        ("flac", [b"fLaC"], Audio("flac")),
        ("wav", [b"RIFF0000WAVE"], Audio("wav")),
        ("npy", [npy(np.zeros((2, 3)))] * 2, Array((2, 3), "float64")),
        ("npy", [npy(np.zeros(2, np.int32)), npy(np.zeros(5, np.int32))], Tokens("int32")),
        ("npy", [npy(np.zeros(0, np.int32))] * 2, Tokens("int32")),
        ("npy", [npy(np.float32(1)), npy(np.float32(2))], Scalar("float32")),
        ("npy", [npy(np.zeros((2, 3))), npy(np.zeros((3, 2)))], Bytes()),
        ("npy", [npy(np.zeros(2)), npy(np.zeros(2, np.int8))], Bytes()),
        ("pth", [b"\x80\x04"], Bytes()),
        ("pyd", [b"\x80\x04"], Bytes()),
        ("tokens.npy", [npy(np.zeros(1, bool)), npy(np.zeros(2, bool))], Bytes()),
    ],
)
def test_which_field_files_show(suffix: str, files: list[bytes], expected: Field) -> None:
    """The field follows from the extension and, for images and arrays, from what the files are."""
    index = indexed(*((f"{n}.{suffix}", data) for n, data in enumerate(files)))
    assert list(index.schema().values()) == [expected]


@given(
    st.lists(st.sampled_from([("int32", (2,)), ("int32", (3,)), ("int32", (2, 2)), ("int8", (2,)), ("int32", ()), ("int32", (0,))]), min_size=1),
    st.data(),
)
def test_facts_of_parts_are_facts_of_the_whole(arrays: list[tuple[str, tuple[int, ...]]], data: st.DataObject) -> None:
    """However shards divide the rows, the same field comes out."""
    facts = [Facts(group="npy", arrays=(array,)) for array in arrays]
    cut = data.draw(st.integers(0, len(facts)))

    def merged(some: list[Facts]) -> Facts:
        total = some[0]
        for fact in some[1:]:
            total = total.merge(fact)
        return total

    parts = [merged(part) for part in (facts[:cut], facts[cut:]) if part]
    whole = Facts(group="npy", arrays=tuple(sorted(set(arrays))))
    assert merged(parts).field() == merged(facts).field() == whole.field()


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([("0.jpg", JPEG), ("0.cls", b"1"), ("1.jpg", JPEG)], r"sample '1' has other fields than the first, '0': missing \['cls'\], extra \[\]"),
        ([("0.jpg", JPEG), ("1.jpg", JPEG), ("1.cls", b"1")], r"missing \[\], extra \['cls'\]"),
        ([("0.jpg", JPEG), ("0.JPG", JPEG)], "stands twice"),
        ([("0.jpg", JPEG), ("1.jpg", JPEG), ("0.cls", b"1")], "neighbours"),
        ([("README", b"text")], "holds no sample"),
        ([], "holds no sample"),
        ([("0.npy", npy(np.array([None]), pickled=True))], "never unpickles"),
        ([("0.npy", npy(np.zeros(3))[:-1])], "bytes in all"),
    ],
)
def test_samples_that_do_not_fit_are_refused(entries: list[tuple[str, bytes]], words: str) -> None:
    """Unlike fields, doubles, scattered samples, an empty tar and arrays that lie are named with the sample."""
    with pytest.raises(BadData, match=words):
        indexed(*entries)


def test_a_cut_tar_names_the_last_good_sample(tmp_path: Path) -> None:
    """The error says which tar, that it was cut, and what is still whole."""
    data = tar_bytes(pairs(5))
    path = tmp_path / "a.tar"
    path.write_bytes(data[: 512 * 13 + 100])
    with pytest.raises(BadData, match=r"cut short.*the last whole sample is '000002' \(row 2\)") as caught:
        tarkeep.load(path)
    assert caught.value.path == str(path)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 20), st.booleans())
def test_an_index_survives_its_file(rows: int, hashed: bool) -> None:
    """Written and read back it is the same, and equal indexes are equal bytes."""
    index = build(memory(tar_bytes(pairs(rows))), hashed=hashed, mtime_ns=5)
    again = from_bytes(memory(to_bytes(index)))
    assert to_bytes(again) == to_bytes(index)
    assert again.schema() == index.schema()
    assert again.keys.to_pylist() == [f"{row:06d}" for row in range(rows)]


def damaged(index: TarIndex, **changes: object) -> bytes:
    """Return the file of an index with some parts replaced."""
    return to_bytes(TarIndex(**{**vars(index), **changes}))


def test_an_index_that_points_elsewhere_is_refused() -> None:
    """Places outside the tar, between blocks, or shared by two samples never reach a reader."""
    index = build(memory(tar_bytes(pairs(3))), hashed=False)
    for start, words in ((10**12, "outside"), (0, "outside"), (-512, "outside"), (513, "outside"), (2**63 - 1, "outside"), (512, "share bytes")):
        places = index.starts["cls"].copy()
        places[2] = start
        with pytest.raises(BadData, match=words):
            from_bytes(memory(damaged(index, starts={**index.starts, "cls": places})))
    sizes = index.sizes["jpg"].copy()
    sizes[1] = -1
    with pytest.raises(BadData, match="outside"):
        from_bytes(memory(damaged(index, sizes={**index.sizes, "jpg": sizes})))


@pytest.mark.parametrize("size", [2**63, 2**64, 10**400, 2**60 + 1, -1])
def test_an_index_of_an_absurd_tar_is_refused(size: int) -> None:
    """A size that no 64-bit number holds is a damaged index, and no error of arithmetic."""
    index = build(memory(tar_bytes(pairs(3))), hashed=False)
    with pytest.raises(BadData, match=r"the index is of a tar of -?[0-9]+ bytes|not an index of a tar"):
        from_bytes(memory(damaged(index, tar_bytes=size)))


@pytest.mark.parametrize("shift", [0, 512, -512])
def test_two_columns_of_a_sample_that_share_bytes_are_refused(shift: int) -> None:
    """Neither may lie in the other, nor in the header before it; the row and both columns are named."""
    index = build(memory(tar_bytes(pairs(3))), hashed=False)
    starts, sizes = {name: each.copy() for name, each in index.starts.items()}, {name: each.copy() for name, each in index.sizes.items()}
    first, second = sorted(starts, key=lambda name: int(starts[name][1]))
    starts[second][1] = starts[first][1] + max(0, shift)
    if shift < 0:
        starts[second][1], sizes[first][1] = index.starts[second][1], int(index.starts[second][1] - index.starts[first][1])
    with pytest.raises(BadData, match=r"columns '(jpg|cls)' and '(jpg|cls)' share bytes") as caught:
        from_bytes(memory(damaged(index, starts=starts, sizes=sizes)))
    assert caught.value.row == 1


def test_files_that_are_no_index_are_refused() -> None:
    """Other Arrow files, nulls, other versions, and cut or random bytes are each a BadData."""
    index = build(memory(tar_bytes(pairs(3))), hashed=True)
    good = to_bytes(index)
    sink = pa.BufferOutputStream()
    table = pa.table({"a": [1]})
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    for data in (bytes(sink.getvalue()), b"v1.2 3\n", good[:-20], good[: len(good) // 2], good.replace(b'"version": 2', b'"version": 9')):
        with pytest.raises(BadData):
            from_bytes(memory(data))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_damage_makes_it_fail_otherwise(data: st.DataObject) -> None:
    """A damaged index is refused, or says what it said: the damage lies in padding."""
    whole = to_bytes(build(memory(tar_bytes(pairs(3))), hashed=False))
    good = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        index = from_bytes(memory(bytes(good)))
    except BadData:
        return
    assert to_bytes(index) == whole


@pytest.mark.parametrize("ours", [True, False])
def test_a_flipped_length_is_never_believed(tmp_path: Path, *, ours: bool) -> None:
    """A size that still fits the tar is told by the checksum: reported with the remedy beside a shard of ours, built again beside a foreign tar."""
    path = write_tar(tmp_path / (OURS if ours else "a.tar"), pairs(3))
    index = tarkeep.load(path)
    place = tarkeep.index_path(path)
    data = place.read_bytes()
    at = data.index(index.sizes["jpg"].tobytes())
    place.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    if ours:
        with pytest.raises(BadData, match=r"the index has checksum .* delete the index and it is built again") as caught:
            tarkeep.load(path)
        assert caught.value.path == str(place)
    else:
        assert tarkeep.load(path).sizes["jpg"].tolist() == index.sizes["jpg"].tolist()
        assert place.read_bytes() == data


def test_it_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second opening reads the file beside the tar; a tar that changed is indexed again."""
    path = write_tar(tmp_path / "a.tar", pairs(2))
    assert tarkeep.load(path).rows == 2
    assert (tmp_path / "a.tar.idx").exists()
    with monkeypatch.context() as patch:
        patch.setattr(tarkeep, "build", None)
        assert tarkeep.load(path).rows == 2
    write_tar(path, pairs(3))
    assert tarkeep.load(path).rows == 3
    write_tar(path, pairs(3, first=5))
    os.utime(path, ns=(1, 1))
    assert tarkeep.load(path).keys[0].as_py() == "000005"


def test_hashes_are_added_when_wanted(tmp_path: Path) -> None:
    """An index built from headers alone is replaced by one with checksums, which then serves both."""
    path = write_tar(tmp_path / "a.tar", pairs(2))
    assert tarkeep.load(path).hashes is None
    assert tarkeep.load(path, hashed=True).hashes is not None
    assert tarkeep.load(path).hashes is not None


def test_a_folder_that_cannot_be_written_uses_the_cache(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index goes to the user's cache folder and is found there; if that fails too, reading still works."""
    path = write_tar(tmp_path / "a.tar", pairs(2))
    real = storage.atomic_write
    refused: list[Path] = [tmp_path]

    def write(target: Path, data: bytes) -> None:
        if target.parent in refused:
            raise StorageError("read-only", url=target) from PermissionError(13, "Permission denied")
        real(target, data)

    monkeypatch.setattr(tarkeep, "atomic_write", write)
    assert tarkeep.load(path).rows == 2
    assert not (tmp_path / "a.tar.idx").exists()
    assert len(list(cache.iterdir())) == 1
    with monkeypatch.context() as patch:
        patch.setattr(tarkeep, "build", None)
        assert tarkeep.load(path).rows == 2
    refused.append(cache)
    os.utime(path, ns=(1, 1))
    assert tarkeep.load(path).rows == 2


def test_a_file_of_others_is_not_replaced(tmp_path: Path, cache: Path) -> None:
    """Other tools keep their own indexes under this ending; ours then goes to the cache."""
    path = write_tar(tmp_path / "a.tar", pairs(2))
    (tmp_path / "a.tar.idx").write_text("v1.2 2\n")
    assert tarkeep.load(path).rows == 2
    assert (tmp_path / "a.tar.idx").read_text() == "v1.2 2\n"
    assert len(list(cache.iterdir())) == 1


def test_damage_beside_a_shard_of_ours_is_reported(tmp_path: Path) -> None:
    """The index of our own shard is part of the dataset: it is not silently replaced, but may be deleted and is then built again."""
    path = write_tar(tmp_path / OURS, pairs(2))
    place = tarkeep.index_path(path)
    for data in (b"", b"garbage", to_bytes(build(memory(tar_bytes(pairs(50))), hashed=False))):
        place.write_bytes(data)
        with pytest.raises(BadData, match="delete the index") as caught:
            tarkeep.load(path)
        assert caught.value.path == str(place)
    place.unlink()
    assert tarkeep.load(path).rows == 2


def test_many_may_build_at_once(tmp_path: Path) -> None:
    """Eight that open a new tar at once all get it, and one whole index is left."""
    path = write_tar(tmp_path / "a.tar", pairs(50))
    with ThreadPoolExecutor(8) as pool:
        assert {index.rows for index in pool.map(tarkeep.load, [path] * 8)} == {50}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar", "a.tar.idx"]


def test_a_tar_that_is_not_there(tmp_path: Path) -> None:
    """A missing tar is a storage error that names it."""
    with pytest.raises(StorageError, match=r"gone\.tar"):
        tarkeep.load(tmp_path / "gone.tar")
