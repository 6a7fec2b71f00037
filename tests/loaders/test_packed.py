"""Packed sequences: every token once an epoch, documents whole where they can be, columns that agree, any resume, workers and mixtures."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from contracts.loaders import LEGS, Leg, check_chain_of_resumes, check_resumes_at_every_step
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import penstock as ps
from penstock.errors import BadRequest
from penstock.loaders import packed as module
from penstock.loaders.law import Ordering
from penstock.loaders.mixture import stream_of
from penstock.transforms import packing

WINDOW = module.WINDOW
"""The value that training runs with; the tests of this file have a smaller one."""

LENGTHS = np.maximum(np.random.default_rng(3).lognormal(3.2, 1, 900), 0).astype(np.int64)


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ps.Dataset]:
    """Return a maker of datasets of documents whose tokens count through: token k of all is k."""
    made: dict[str, ps.Dataset] = {}

    def make(kind: str) -> ps.Dataset:
        if kind not in made:
            path = tmp_path_factory.mktemp(kind) / "out"
            with ps.Writer(path, fields={"tokens": ps.Tokens("int32")}, format=kind, shard_size="20KB") as writer:
                first = 0
                for length in LENGTHS.tolist():
                    writer.write({"tokens": np.arange(first, first + length, dtype=np.int32)})
                    first += length
            made[kind] = ps.Dataset(path)
        return made[kind]

    return make


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make windows of few sequences, so that there are many."""
    monkeypatch.setattr(module, "WINDOW", 8)


def check_row(row: dict[str, Any], seq_len: int) -> list[int]:
    """Columns of a sequence agree with each other; return its tokens, those of each piece in a row."""
    tokens, positions, owners, edges = (np.asarray(row[name]) for name in ("input_ids", "position_ids", "document_ids", "cu_seqlens"))
    assert edges[0] == 0
    assert edges[-1] == seq_len
    assert (np.diff(edges) > 0).all()
    found = []
    for number, (begin, end) in enumerate(itertools.pairwise(edges.tolist())):
        assert positions[begin:end].tolist() == list(range(end - begin))
        if owners[begin] == -1:
            assert end == seq_len
            assert (owners[begin:end] == -1).all()
            assert (tokens[begin:end] == 0).all()
            continue
        assert (owners[begin:end] == number).all()
        assert (np.diff(tokens[begin:end]) == 1).all()
        found += tokens[begin:end].tolist()
    return found


@pytest.mark.parametrize("algorithm", ["best_fit", "first_fit", "concat"])
@pytest.mark.parametrize("kind", ["arrow", "tar"])
@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_holds_every_token_once(documents: Callable[[str], ps.Dataset], kind: str, algorithm: Any, workers: int) -> None:
    """Whatever the algorithm, the format and the workers: all tokens come once, each piece a run of one document."""
    packed = ps.Packed(documents(kind), 128, algorithm, dtype="int64")
    loader = ps.DataLoader(packed, batch_size=7, shuffle=True, num_workers=workers, output="numpy")
    seen: list[int] = []
    for batch in loader:
        edges, values = batch["cu_seqlens"].offsets, batch["cu_seqlens"].values
        for number in range(len(batch["input_ids"])):
            row = {name: batch[name][number] for name in ("input_ids", "position_ids", "document_ids")}
            seen += check_row({**row, "cu_seqlens": values[edges[number] : edges[number + 1]]}, 128)
    assert sorted(seen) == list(range(int(LENGTHS.sum())))
    assert packed.filled == LENGTHS.sum() / (len(packed) * 128)
    assert f"{packed.filled:.1%} filled" in repr(packed)


def test_documents_stay_whole_where_they_can(documents: Callable[[str], ps.Dataset]) -> None:
    """Best fit cuts next to no document that a sequence could hold, concatenation many; and both say so."""
    best, end_to_end = (ps.Packed(documents("arrow"), 128, algorithm) for algorithm in ("best_fit", "concat"))
    assert best.cut(100) < 0.02
    assert end_to_end.cut(100) > 0.1
    assert best.filled < end_to_end.filled


@pytest.mark.parametrize("options", [{"shuffle": True}, {"shuffle": True, "window_shards": 2}, {}])
def test_every_cut_resumes(documents: Callable[[str], ps.Dataset], options: dict[str, Any]) -> None:
    """A loader cut anywhere goes on with the same rest, shuffled globally, by windows of shards, or not at all."""
    check_resumes_at_every_step(lambda: ps.DataLoader(ps.Packed(documents("arrow"), 256), batch_size=12, output="numpy", **options))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["arrow", "tar"]),
    st.integers(20, 300),
    st.sampled_from(["best_fit", "first_fit", "concat"]),
    st.sampled_from([{}, {"shuffle": True}, {"shuffle": True, "window_shards": 2}, {"shuffle": True, "epoch_samples": 400}]),
    st.integers(0, 3),
    LEGS,
)
def test_any_chain_of_resumes_is_one_sequence(
    documents: Callable[[str], ps.Dataset], kind: str, seq_len: int, algorithm: Any, options: dict[str, Any], parts: int, legs: list[Leg]
) -> None:
    """Any packing, alone or in a mixture, going on with other ranks and batch sizes: the ranks' batches, joined step by step, are one sequence."""
    packed: Any = ps.Packed(documents(kind), seq_len, algorithm)
    source = packed if not parts else ps.Mixture({"a": packed, "b": ps.Packed(documents("arrow"), seq_len)}, {"a": parts, "b": 1}, block=8)

    def made(rank: int, world: int, size: int) -> ps.DataLoader:
        return ps.DataLoader(source, batch_size=size, seed=1, topology=(rank, world), tail="ragged", output="numpy", **options)

    def numbers(batch: dict[str, Any]) -> list[tuple[bytes, bytes]]:
        edges = batch["cu_seqlens"]
        ends = zip(edges.offsets.tolist(), edges.offsets[1:].tolist(), strict=False)
        return [(row.tobytes(), edges.values[begin:end].tobytes()) for row, (begin, end) in zip(batch["input_ids"], ends, strict=True)]

    stream = stream_of(source, Ordering(**{"seed": 1, "shuffle": False, **options}))
    rows = [source[row] for row in stream.draw(0, np.arange(stream.positions)).rows.tolist()]
    check_chain_of_resumes(made, legs, numbers, [(row["input_ids"].tobytes(), row["cu_seqlens"].tobytes()) for row in rows])


def test_rows_by_number_and_by_shard(documents: Callable[[str], ps.Dataset]) -> None:
    """Sequences are found by number from either end, travel to other processes, and count to the shard that their window begins in."""
    packed = ps.Packed(documents("arrow"), 100)
    again = pickle.loads(pickle.dumps(packed))  # our own
    for index in (0, 5, len(packed) - 1, -1):
        for name, value in packed[index].items():
            assert np.array_equal(again[index][name], value)
    assert [row["input_ids"][0] for row in packed.__getitems__([0, 3])] == [packed[0]["input_ids"][0], packed[3]["input_ids"][0]]
    with pytest.raises(IndexError, match=f"which has {len(packed)} sequences of 100 tokens"):
        packed[len(packed)]
    starts = packed.starts
    assert starts[0] == 0
    assert starts[-1] == len(packed)
    assert (np.diff(starts) >= 0).all()
    assert starts.size == len(packed.dataset.manifest.shards) + 1


@pytest.mark.parametrize("changed", [5, -5])
def test_a_block_that_changed_is_refused(documents: Callable[[str], ps.Dataset], changed: int) -> None:
    """A block that holds more or fewer tokens than when it was looked at is named, where a plan is made of it and where a document is read."""
    packed = ps.Packed(documents("arrow"), 128)
    packed.documents.firsts = packed.documents.firsts.copy()
    packed.documents.firsts[1:] += changed
    with pytest.raises(ps.BadData, match=r"changed while it was read: \d+ tokens where \d+ were planned"):
        packed[0]
    with pytest.raises(ps.BadData, match=r"tokens of document 3 where 100000 were planned"):
        packed.documents.piece(0, 3, 0, 100_000)


def test_labels_end_with_their_document(documents: Callable[[str], ps.Dataset]) -> None:
    """With labels each token's is the next one of its document; the last of each, and padding, have the number that was asked for."""
    packed = ps.Packed(documents("arrow"), 64, labels=-100)
    for batch in ps.DataLoader(packed, 16, shuffle=True, output="numpy"):
        for tokens, owners, labels in zip(batch["input_ids"], batch["document_ids"], batch["labels"], strict=True):
            expected = [
                int(tokens[place + 1]) if place < 63 and owners[place] >= 0 and owners[place] == owners[place + 1] else -100 for place in range(64)
            ]
            assert labels.tolist() == expected
    with pytest.raises(BadRequest, match="labels='0'"):
        ps.Packed(documents("arrow"), 64, labels="0")  # type: ignore[arg-type]


def test_packed_sequences_mix(documents: Callable[[str], ps.Dataset]) -> None:
    """Packed sequences of two datasets are mixed in their proportions."""
    sources = {kind: ps.Packed(documents(kind), 64) for kind in ("arrow", "tar")}
    mixture = ps.Mixture(sources, {"arrow": 3, "tar": 1}, block=8, source_column="source")
    batches = list(ps.DataLoader(mixture, batch_size=8, shuffle=True, output="numpy"))
    assert all(batch["source"].sum() == 2 for batch in batches[:-1])


GOLDEN = {
    "best_fit": ("c04cddd87aa7450c", [358, 8777], [315, 6696, 12024, 13295, 13206, 7401]),
    "first_fit": ("dee9ca47d2f05e3c", [6928, 0], [8069, 7773, 10731, 10211, 11435, 1821]),
    "concat": ("18b19d083565d714", [7200, 7208, 7209, 7219], [12115, 8928, 1008, 12307, 3936, 11995]),
}
"""By algorithm: the hash of all rows, the first tokens of the documents in row 300, and the first token of the first rows in a shuffled order."""


@pytest.mark.parametrize("algorithm", GOLDEN)
def test_golden_rows(algorithm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With windows of the size that training runs have, which may never change in this format, these rows may never move."""
    assert (WINDOW, packing.FORMAT) == (256, 1)
    monkeypatch.setattr(module, "WINDOW", WINDOW)
    with ps.Writer(tmp_path / "out", fields={"tokens": ps.Tokens("int32")}, shard_size="20KB") as writer:
        first = 0
        for number in range(1200):
            length = number * number * 7919 % 31
            writer.write({"tokens": np.arange(first, first + length, dtype=np.int32)})
            first += length
    packed = ps.Packed(ps.Dataset(tmp_path / "out"), 24, algorithm)
    assert packed._edges.size > 2
    rows = [packed[number] for number in range(len(packed))]
    whole = xxhash.xxh3_64_hexdigest(
        b"".join(row[name].tobytes() for row in rows for name in ("input_ids", "position_ids", "document_ids", "cu_seqlens"))
    )
    begins = rows[300]["input_ids"][rows[300]["cu_seqlens"][:-1]].tolist()
    batch = next(iter(ps.DataLoader(packed, 6, shuffle=True, seed=3, output="numpy")))
    assert (whole, begins, batch["input_ids"][:, 0].tolist()) == GOLDEN[algorithm]


def test_plans_that_were_asked_for_last_are_kept(documents: Callable[[str], ps.Dataset], monkeypatch: pytest.MonkeyPatch) -> None:
    """However few plans fit, rows are the same; a plan that is used again and again stays while others go; and no more bytes are kept than allowed."""
    whole = ps.Packed(documents("arrow"), 128)
    expected = whole.__getitems__(range(len(whole)))
    sizes = [plan.size_bytes for plan in whole._plans.values()]
    assert len(sizes) == whole._edges.size - 1 > 6
    assert whole._plan_bytes == sum(sizes)
    monkeypatch.setattr(module, "PLAN_BYTES", 3 * max(sizes))
    few = ps.Packed(documents("arrow"), 128)
    kept = few._plan(0)
    for number in np.random.default_rng(0).permutation(len(few)).tolist():
        for name, value in few[number].items():
            assert np.array_equal(value, expected[number][name])
        assert few._plan(0) is kept
        assert few._plan_bytes == sum(plan.size_bytes for plan in few._plans.values()) <= 3 * max(sizes)
    monkeypatch.setattr(module, "PLAN_BYTES", 0)
    one = ps.Packed(documents("arrow"), 128)
    one.__getitems__([0, len(one) - 1])
    assert len(one._plans) == 1
    again = pickle.loads(pickle.dumps(whole))  # our own
    assert (len(again._plans), again._plan_bytes) == (0, 0)


def test_numbers_beyond_32_bits_are_kept_whole() -> None:
    """Plans are of 32-bit numbers where those hold them, and of 64-bit ones where not."""
    for most, kind in ((2**31 - 1, np.int32), (2**31, np.int64)):
        narrow = module._narrow(np.array([0, most]))
        assert (narrow.dtype, narrow.tolist()) == (kind, [0, most])
    assert module._narrow(np.empty(0, np.int64)).size == 0


def test_a_sequence_no_shorter_than_all_documents(tmp_path: Path) -> None:
    """One sequence holds everything, what is left is padding; and no documents at all make no sequence."""
    for name, count in (("few", 3), ("none", 0)):
        with ps.Writer(tmp_path / name, fields={"tokens": ps.Tokens("uint16"), "n": ps.Scalar("int8")}) as writer:
            for n in range(count):
                writer.write({"tokens": np.full(2 * n, 7, np.uint16), "n": n})
    packed = ps.Packed(ps.Dataset(tmp_path / "few"), 1000, pad_id=65_535)
    (batch,) = ps.DataLoader(packed, batch_size=4, output="numpy")
    assert batch["input_ids"].tolist() == [[7] * 6 + [65_535] * 994]
    assert batch["document_ids"].tolist() == [[0] * 4 + [1] * 2 + [-1] * 994]
    assert batch["cu_seqlens"].values.tolist() == [0, 4, 6, 1000]
    empty = ps.Packed(ps.Dataset(tmp_path / "none"), 1000)
    assert (len(empty), empty.filled, empty.cut(), list(ps.DataLoader(empty))) == (0, 0.0, 0.0, [])


def test_what_cannot_be_packed_is_refused(documents: Callable[[str], ps.Dataset], images: ps.Dataset) -> None:
    """No tokens, no length, no such algorithm, too narrow a dtype and a padding token that is none are refused by value."""
    tokens = documents("arrow")
    for arguments, options, named in (
        ((images, 10), {}, "holds Tokens"),
        ((tokens, 0), {}, "seq_len=0"),
        ((tokens, 10, "worst_fit"), {}, "algorithm='worst_fit'"),
        ((tokens, 10), {"dtype": "int16"}, "cannot hold every int32 token"),
        ((tokens, 10), {"dtype": "float64"}, "cannot hold every int32 token"),
        ((tokens, 10), {"dtype": "words"}, "cannot hold every int32 token"),
        ((tokens, 10), {"pad_id": 2**40}, "pad_id="),
        (([1], 10), {}, "not over list"),
    ):
        with pytest.raises(BadRequest, match=named):
            ps.Packed(*arguments, **options)
    state = ps.DataLoader(ps.Packed(tokens, 100)).state_dict()
    with pytest.raises(BadRequest, match="dataset_digest was"):
        ps.DataLoader(ps.Packed(tokens, 100, "first_fit")).load_state_dict(state)
