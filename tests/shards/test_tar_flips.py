"""Wherever one byte of a tar changes, verifying names no row but the one whose bytes changed, and finds what the format can show."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from contracts.shard_formats import write_shard
from contracts.tars import JPEG, Entry, npy, pairs, pokes, tar_bytes, write_tar

from penstock.errors import BadData
from penstock.fields import Bytes, Scalar, Text
from penstock.shards import commits
from penstock.shards.adopt import adopt
from penstock.shards.tarfault import row_at_break, row_of_double, unlike
from penstock.shards.tarindex import build
from penstock.shards.tarnames import split
from penstock.shards.verify import Problem, verify

ROWS = 5
SCHEMA = {"note": Text(), "raw": Bytes(), "label": Scalar("int32")}
LONG = "a folder/" * 14
"""Names that no header holds whole, so that each member has another one before it."""


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test a cache folder of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def owners(data: bytes) -> list[int | None]:
    """Return for each block of a tar the row it is part of: of its data, its padding, its header or a header before that; None behind the last."""
    found: list[int | None] = [None] * (len(data) // 512)
    keys: list[str] = []
    before = 0
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for info in tar:
            parts = split(info.name)
            assert parts is not None
            if parts[0] not in keys:
                keys.append(parts[0])
            end = (info.offset_data + info.size + 511) // 512
            found[before:end] = [keys.index(parts[0])] * (end - before)
            before = end
    return found


def ours(root: Path) -> Path:
    """Publish a tar of a few rows, as a conversion does, and return it."""
    (root / "data").mkdir(parents=True)
    path = root / "data" / f"part-{1:020d}-{0:05d}-x.tar"
    rows = [{"note": f"note {n}", "raw": bytes([n]) * (500 + n), "label": n} for n in range(ROWS)]
    shard = write_shard(path, "tar", SCHEMA, rows)
    commits.commit(root, operation="create", schema=SCHEMA, added=[type(shard)(**{**shard.to_json(), "path": f"data/{path.name}"})])
    return path


def flipped(data: bytes, at: int, change: int) -> bytes:
    """Return the bytes with one of them changed."""
    return pokes(data, [(at, bytes([data[at] ^ change]))])


def flips(root: Path, path: Path, places: range, change: int) -> Iterator[tuple[int, list[Problem]]]:
    """Yield what verifying finds for each place with its byte changed; the file's time stays."""
    whole, stat = path.read_bytes(), path.stat()
    for at in places:
        path.write_bytes(flipped(whole, at, change))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        yield at, list(verify(str(root)))
    path.write_bytes(whole)


@pytest.mark.parametrize(("change", "step"), [(1, 7), (16, 61)])
def test_a_flip_anywhere_in_a_tar_of_ours_is_found_and_its_row_named(tmp_path: Path, change: int, step: int) -> None:
    """Each byte of a row, header and padding included, names that row; each byte behind the last is found and names none."""
    path = ours(tmp_path)
    rows = owners(path.read_bytes())
    assert set(rows) == {*range(ROWS), None}
    behind = rows.index(None) * 512
    places = (range(change % step, behind, step), range(behind, path.stat().st_size, 10 * step + 1))
    for at, found in (each for some in places for each in flips(tmp_path, path, some, change)):
        (problem,) = found
        assert problem.row == rows[at // 512], f"byte {at}"


def test_damage_behind_the_last_row_names_none_and_says_so(tmp_path: Path) -> None:
    """The first block of zeros that ends a tar is no row's; the message says what is damaged and where the last row ends."""
    path = ours(tmp_path)
    end = owners(path.read_bytes()).index(None) * 512
    for at, (problem,) in flips(tmp_path, path, range(end, end + 512, 73), 16):
        assert (problem.row, problem.dataset_row, problem.field) == (None, None, None), f"byte {at}"
        assert problem.reason == (
            f"the zeros at byte {end} that end the tar are damaged: no member's header stands there; "
            f"the last sample found, '{ROWS - 1:09d}' (row {ROWS - 1}), ends before that, so no row is named"
        )


KINDS: dict[str, tuple[Sequence[tuple[str, bytes] | tarfile.TarInfo], int]] = {
    "ustar": (pairs(ROWS), tarfile.USTAR_FORMAT),
    "one member": ([(f"{n}.bin", b"x" * n) for n in range(ROWS)], tarfile.USTAR_FORMAT),
    "pax": ([(f"{LONG}{n}.{suffix}", b"x" * n) for n in range(ROWS) for suffix in ("cls.bin", "raw.bin")], tarfile.PAX_FORMAT),
    "gnu": ([(f"{LONG}{n}.{suffix}", b"x" * n) for n in range(ROWS) for suffix in ("cls.bin", "raw.bin")], tarfile.GNU_FORMAT),
    "gnu, one member": ([(f"{LONG}{n}.raw.bin", b"x" * n) for n in range(ROWS)], tarfile.GNU_FORMAT),
    "arrays": ([(f"{n}.{name}.npy", npy(np.arange(3) + n)) for n in range(4) for name in "ab"], tarfile.USTAR_FORMAT),
    "one row": (pairs(1), tarfile.USTAR_FORMAT),
    "two rows": ([(f"{LONG}{n}.{suffix}", JPEG) for n in range(2) for suffix in ("a.jpg", "b.jpg")], tarfile.GNU_FORMAT),
}


def named(data: bytes) -> int | None:
    """Return the row that building an index of a tar refuses it for."""
    try:
        build(np.frombuffer(data, np.uint8), hashed=False)
    except BadData as error:
        return error.row if isinstance(error.row, int | None) else int(error.row.split()[0])
    return None


@pytest.mark.parametrize("change", [1, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_a_flip_in_a_foreign_tar_names_no_other_row(kind: str, change: int) -> None:
    """Without checksums of the samples, also where long names stand before members, a named row is the one that changed."""
    entries, form = KINDS[kind]
    data = tar_bytes(entries, form)
    rows = owners(data)
    for at in range(change % 7, len(data), 7):
        assert named(flipped(data, at, change)) in {None, rows[at // 512]}, f"byte {at}"


@pytest.mark.parametrize("publish", [True, False])
def test_verifying_a_foreign_tar_names_the_row_of_a_header(tmp_path: Path, publish: bool) -> None:
    """A damaged header names its row; where checksums of samples were taken, every other byte of the row does too."""
    path = write_tar(tmp_path / "a.tar", pairs(4))
    rows = owners(path.read_bytes())
    if publish:
        adopt(str(tmp_path), hash=True, publish=True)
    for at, found in flips(tmp_path, path, range(512, len(rows) * 512, 61), 2):
        if publish or (at // 512 % 2 == 0 and rows[at // 512] is not None):
            (problem,) = found
            assert problem.row == rows[at // 512], f"byte {at}"


def damaged(data: bytes, at: int) -> BadData:
    """Return what building an index says of a tar with a byte changed."""
    with pytest.raises(BadData) as caught:
        build(np.frombuffer(flipped(data, at, 1), np.uint8), hashed=False)
    return caught.value


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_a_damaged_header_names_its_row_and_the_last_whole_one(rows: int) -> None:
    """The first header of a row, and its second, name that row and not the one gathered before; a first row has none before it."""
    data = tar_bytes(pairs(rows))
    for row in range(rows):
        for member in range(2):
            error = damaged(data, (row * 4 + member * 2) * 512 + 110)
            assert error.row == (row if row or member else None)
            assert error.reason.endswith(f"the last whole sample is '{row - 1:06d}' (row {row - 1})" if row else "no sample before it is whole")


def test_a_cut_between_rows_names_none_and_in_a_row_that_one() -> None:
    """A tar cut behind a whole row has lost no byte of it."""
    data = tar_bytes(pairs(3))
    for blocks, row in ((12, None), (11, 2), (9.5, 2), (8.5, 2), (8, None), (7, 1)):
        with pytest.raises(BadData, match="cut short") as caught:
            build(np.frombuffer(data[: int(blocks * 512)], np.uint8), hashed=False)
        assert caught.value.row == row, f"{blocks} blocks"


def samples(*suffixes: str) -> list[dict[str, tuple[int, int]]]:
    """Return samples of one-letter suffixes."""
    return [dict.fromkeys(each, (512, 1)) for each in suffixes]


def test_which_row_a_break_belongs_to() -> None:
    """It is the last one's while members of it are missing, the next one's when its header says so, and else no row's."""
    header = b"2.a".ljust(100, b"\0") + b"0000644\0" * 40
    assert row_at_break(["0", "1"], samples("ab", "a"), b"") == 1
    assert row_at_break(["0", "1"], samples("ab", "ab"), header) == 2
    assert row_at_break(["0", "1"], samples("ab", "ab"), b"README".ljust(100, b"\0") + header[100:]) is None
    assert row_at_break(["0", "1"], samples("ab", "a"), b"\1" + bytes(511)) is None
    assert row_at_break([], [], header) is None
    assert [row_at_break([key], samples(one), header) for key, one in (("2", "b"), ("2", "a"), ("1", "a"), ("1", "b"))] == [0, None, 1, None]


def test_which_row_a_double_belongs_to() -> None:
    """It is the first that lacks a member, or the next when all are whole; with one member each, or when no two agree, none."""
    cases: list[tuple[list[str], int | None]] = [
        (["ab", "ab"], 2),
        (["ab", "a", "ab", "b"], 1),
        (["ab", "a"], None),
        (["a", "a"], None),
        (["ab"], None),
    ]
    assert [row_of_double(samples(*each)) for each, _ in cases] == [row for _, row in cases]


def test_which_row_is_unlike_the_others() -> None:
    """What most have is right, also when the first has not; when no two agree, or as many each way, the first is compared with and none is sure."""
    name_of = {"a": "a", "b": "b"}
    assert unlike(samples("a", "ab", "ab"), name_of) == (0, 1, True)
    assert unlike(samples("ab", "ab", "a"), name_of) == (2, 0, True)
    assert unlike(samples("ab", "a"), name_of) == (1, 0, False)


def test_the_sample_that_is_unlike_most_is_named() -> None:
    """A first sample that lacks what all others have is the one at fault."""
    entries: list[Entry] = [("0.txt", b"x"), *((f"{n}.{suffix}", b"1") for n in range(1, 4) for suffix in ("txt", "cls"))]
    with pytest.raises(BadData, match=r"sample '0' has other fields than most, '1': missing \['cls'\], extra \[\]") as caught:
        build(np.frombuffer(tar_bytes(entries), np.uint8), hashed=False)
    assert caught.value.row == 0
