"""Windows over a stream of tokens: the stream cut at every `seq_len`, whatever blocks, shards and documents it lies in."""

from __future__ import annotations

import pickle
import re
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import penstock as ps
from penstock.shards.columns import RaggedColumn
from penstock.shards.documents import Documents
from penstock.shards.plain import PlainReader
from penstock.shards.windows import TokenWindows


def written(folder: Path, documents: list[int], *, dtype: str = "uint16", shard_size: int = 400, kind: str = "arrow") -> tuple[ps.Dataset, Any]:
    """Return a dataset of documents of these lengths and all their tokens in a row."""
    stream = np.arange(sum(documents)).astype(dtype)
    ends = np.cumsum([0, *documents])
    with ps.Writer(folder / "ds", fields={"t": ps.Tokens(dtype), "n": ps.Scalar()}, shard_size=shard_size, format=kind) as writer:
        for number, (start, stop) in enumerate(pairwise(ends.tolist())):
            writer.write({"t": stream[start:stop], "n": number})
    return ps.Dataset(folder / "ds"), stream


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=40),
    st.integers(1, 90),
    st.sampled_from(["uint8", "uint16", "int32", "int64"]),
    st.sampled_from([None, "int64"]),
    st.sampled_from(["arrow", "tar"]),
)
def test_windows_are_the_stream_cut(documents: list[int], seq_len: int, stored: str, made: str | None, kind: str) -> None:
    """Every window is its stretch of the concatenated documents, in the dtype that was asked for; what is left over belongs to none."""
    with tempfile.TemporaryDirectory() as folder:
        dataset, stream = written(Path(folder), documents, dtype=stored, kind=kind)
        windows = TokenWindows(dataset, seq_len, dtype=made)
        assert len(windows) == len(stream) // seq_len
        assert windows.tokens == len(stream)
        for number in range(len(windows)):
            found = windows[number]["t"]
            assert found.dtype == (made or stored)
            assert np.array_equal(found, stream[number * seq_len : (number + 1) * seq_len])


def test_they_are_a_map_style_dataset(tmp_path: Path) -> None:
    """Numbers from the end, lists of numbers and numbers outside behave as a sequence's."""
    windows = TokenWindows(written(tmp_path, [7] * 20)[0], 10)
    assert windows[-1]["t"].tolist() == list(range(130, 140))
    assert [row["t"][0] for row in windows.__getitems__([3, -1, 0])] == [30, 130, 0]
    for number in (14, -15):
        with pytest.raises(IndexError, match="which has 14 windows of 10 tokens"):
            windows[number]
    assert dict(windows.fields) == {"t": ps.Array((10,), "uint16")}
    assert "10" in repr(windows)
    windows[0]["t"][:] = 9  # a copy: the file is mapped read-only
    assert windows[0]["t"][0] == 0


def test_they_travel_with_what_was_looked_up(tmp_path: Path) -> None:
    """Unpickled, they look at no block again and are the same windows."""
    windows = TokenWindows(written(tmp_path, [7] * 20)[0], 10, dtype="int32")
    again = pickle.loads(pickle.dumps(windows))
    assert again.firsts.tolist() == windows.firsts.tolist()
    assert (again.digest, again.version, again.field) == (windows.digest, windows.version, windows.field)
    assert len(again.dataset._readers) == 0
    assert again[3]["t"].tolist() == windows[3]["t"].tolist()


def test_the_digest_names_what_decides_them(tmp_path: Path) -> None:
    """Another length, dtype or dataset is another digest, by which a resume is refused."""
    dataset = written(tmp_path, [7] * 20)[0]
    kinds = [TokenWindows(dataset, 10), TokenWindows(dataset, 11), TokenWindows(dataset, 10, dtype="int64")]
    assert len({windows.digest for windows in kinds} | {dataset.digest}) == 4


@pytest.mark.parametrize(
    ("seq_len", "options", "message"),
    [
        (0, {}, "seq_len=0"),
        (2.0, {}, r"seq_len=2\.0"),
        (4, {"column": "n"}, r"the columns of tokens are \['t'\]"),
        (4, {"column": "x"}, "column='x'"),
        (4, {"dtype": "uint8"}, "dtype='uint8' cannot hold every uint16 token"),
        (4, {"dtype": "int16"}, "cannot hold"),
        (4, {"dtype": "text"}, "dtype='text' cannot hold every uint16 token"),
    ],
)
def test_bad_requests_are_named(tmp_path: Path, seq_len: object, options: dict[str, object], message: str) -> None:
    """A length that is none, a column that holds no tokens, and a dtype that would change tokens are refused with the remedy."""
    dataset = written(tmp_path, [3, 4])[0]
    with pytest.raises(ps.BadRequest, match=message):
        TokenWindows(dataset, seq_len, **options)  # type: ignore[arg-type]


def test_the_column_must_be_told_apart(tmp_path: Path) -> None:
    """Without a column of tokens, with two of them, and without a dataset, the message says what there is."""
    with ps.Writer(tmp_path / "two", fields={"a": ps.Tokens(), "b": ps.Tokens()}) as writer:
        writer.write({"a": [1], "b": [2]})
    with pytest.raises(ps.BadRequest, match=r"the columns of tokens are \['a', 'b'\]"):
        TokenWindows(ps.Dataset(tmp_path / "two"), 2)
    with pytest.raises(ps.BadRequest, match=r"no column of \['a'\]|no column"):
        TokenWindows(ps.Dataset(written(tmp_path, [3])[0].path, columns=["n"]), 2)
    with pytest.raises(ps.BadRequest, match="over a penstock"):
        TokenWindows([1, 2, 3], 2)  # type: ignore[arg-type]
    assert TokenWindows(ps.Dataset(tmp_path / "two"), 1, column="b")[0]["b"].tolist() == [2]


def test_opening_looks_at_where_runs_begin_and_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an Arrow block, whose runs lie end to end, the first and the last offset are the count; runs that lie apart are added up."""
    dataset, stream = written(tmp_path, [7, 0, 5] * 20)
    opened = TokenWindows(dataset, 10)
    monkeypatch.setattr(Documents, "_lengths", lambda *_: pytest.fail("the documents are looked at"))
    assert TokenWindows(dataset, 10).firsts.tolist() == opened.firsts.tolist()
    monkeypatch.setattr(PlainReader, "elements", lambda *_: None)
    assert TokenWindows(dataset, 10).firsts.tolist() == opened.firsts.tolist()
    monkeypatch.undo()
    monkeypatch.setattr(PlainReader, "block", lambda *_: pytest.fail("a block is looked at"))
    assert TokenWindows(dataset, 10).firsts.tolist() == opened.firsts.tolist()
    monkeypatch.undo()
    monkeypatch.setattr(PlainReader, "elements", lambda *_: None)
    apart = RaggedColumn(starts=np.array([30, 0, 11]), ends=np.array([37, 4, 11]), values=stream)
    monkeypatch.setattr(Documents, "_block", lambda *_: apart)
    assert np.diff(TokenWindows(dataset, 10).firsts).tolist() == [11] * len(opened.blocks)
    assert opened.documents._tokens(0).tolist() == [*range(30, 37), *range(4)]


def test_offsets_that_lie_are_refused_before_a_token_is_given(tmp_path: Path) -> None:
    """What an Arrow block claims by its first and last offset is taken for its count, and judged when it is read: by the reader, or since tokens are missing."""
    dataset, _ = written(tmp_path, [7, 5, 9, 4] * 5, shard_size=10**6)
    (file,) = (tmp_path / "ds").rglob("*.arrow")
    whole = file.read_bytes()
    ends = np.cumsum([0, *[7, 5, 9, 4] * 5]).astype(np.int32)
    place = whole.index(ends.tobytes())
    for at, value in ((1, -3), (2, 10**9), (3, 2), (0, -1), (0, 1), (20, 10**6), (20, 124), (20, -7)):
        wrong = ends.copy()
        wrong[at] = value
        file.write_bytes(whole[:place] + wrong.tobytes() + whole[place + wrong.nbytes :])
        opened = ps.Dataset(dataset.path)
        if (at, value) in [(0, 1), (20, 124)]:  # offsets that may be: one token less
            assert TokenWindows(opened, 2).tokens == 124
            continue
        with pytest.raises(ps.BadData, match="offsets"):
            TokenWindows(opened, 2)[0]
        with pytest.raises(ps.BadData, match="offsets"):
            next(iter(ps.DataLoader(TokenWindows(opened, 2), 4)))
    assert PlainReader.elements(ps.Dataset(dataset.path).reader(0), -1, "t") is None  # type: ignore[arg-type]  # a plain one it is


def test_a_document_that_is_damaged_is_named_when_it_is_opened(tmp_path: Path) -> None:
    """In a tar every document is looked at, and one whose header lies is named by shard, row and column."""
    dataset, _ = written(tmp_path, [7, 0, 5] * 3, kind="tar", shard_size=10**6)
    (tar,) = (tmp_path / "ds").rglob("*.tar")
    data = bytearray(tar.read_bytes())
    place = [match.start() for match in re.finditer(rb"'shape': \((\d)", bytes(data))][4]
    data[place + 10 : place + 11] = b"9"
    tar.write_bytes(bytes(data))
    with pytest.raises(ps.BadData, match="npy header says") as caught:
        TokenWindows(ps.Dataset(dataset.path), 2)
    assert (caught.value.row, caught.value.field) == (4, "t")
    assert str(caught.value.shard).endswith(".tar")
