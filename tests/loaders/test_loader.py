"""The DataLoader: torch's face, every sample once, the same bits on every path, exact at every resume."""

from __future__ import annotations

import json
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from contracts.loaders import Plain, assert_same, check_resumes_at_every_step, plain
from hypothesis import given, settings
from hypothesis import strategies as st
from inside import stored_of
from torch.utils.data.distributed import DistributedSampler

import penstock as ps
from penstock import transforms as T  # noqa: N812  (the name torchvision's users know)

TRAIN = {"image": [T.RandomResizedCrop(32), T.RandomHorizontalFlip(), T.Normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.25))]}


def run(loader: Any, epochs: int = 1) -> list[Plain]:
    """Return the batches of some epochs as arrays of their own."""
    return [plain(batch) for _ in range(epochs) for batch in loader]


def test_it_is_torchs_dataloader(rows: ps.Dataset) -> None:
    """It passes isinstance, keeps torch's attributes and forbids changing what torch forbids."""
    loader = ps.DataLoader(rows, batch_size=10, num_workers=0, drop_last=True)
    assert isinstance(loader, torch.utils.data.DataLoader)
    assert isinstance(loader.sampler, DistributedSampler)
    assert (loader.batch_size, loader.num_workers, loader.drop_last) == (10, 0, True)
    shown: Any = loader.dataset
    assert shown is rows
    assert len(loader) == 100
    with pytest.raises(ValueError, match="batch_size"):
        loader.batch_size = 3


def test_every_row_once_and_right(rows: ps.Dataset) -> None:
    """A shuffled epoch holds every row once, each with its own values, ragged columns as values and offsets."""
    seen = []
    for batch in ps.DataLoader(rows, batch_size=64, shuffle=True):
        for i, label in enumerate(batch["label"].tolist()):
            row = rows[label]
            assert np.array_equal(batch["x"][i].numpy(), row["x"])
            assert bool(batch["flag"][i]) is row["flag"]
            for name, expected in (("text", row["text"].encode()), ("tokens", row["tokens"].tobytes())):
                values, offsets = batch[name]
                assert values[offsets[i] : offsets[i + 1]].numpy().tobytes() == expected
            seen.append(label)
    assert sorted(seen) == list(range(1003))
    assert seen != sorted(seen)


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_workers_equal_inline_on_rows(rows: ps.Dataset, workers: int) -> None:
    """One to four workers give the inline loader's bits, two epochs long, on every kind of column."""
    options: dict[str, Any] = {"batch_size": 50, "shuffle": True, "seed": 3}
    expected = run(ps.DataLoader(rows, **options), 2)
    assert_same(run(ps.DataLoader(rows, num_workers=workers, persistent_workers=True, **options), 2), expected, f"{workers} workers")


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_workers_equal_inline_on_images(images: ps.Dataset, workers: int) -> None:
    """One to four workers give the inline loader's bits on augmented images, whose batches are cut over workers."""
    options: dict[str, Any] = {"batch_size": 32, "shuffle": True, "transforms": TRAIN}
    expected = run(ps.DataLoader(images, **options))
    assert expected[0]["image"].shape == (32, 3, 32, 32)
    assert expected[0]["image"].dtype == np.float32
    assert_same(run(ps.DataLoader(images, num_workers=workers, **options)), expected, f"{workers} workers")


def test_batches_equal_the_reference_chain(images: ps.Dataset) -> None:
    """What the loader delivers is what the op-by-op reference of the chain gives for the same sample and epoch."""
    loader = ps.DataLoader(images, batch_size=16, shuffle=True, transforms=TRAIN, seed=5)
    key = ps.order.augment_key(5, 0)
    steps = stored_of(loader).work.steps
    assert steps is not None
    chain = steps.chains["image"]
    for batch in loader:
        for i, label in enumerate(batch["label"].tolist()):
            encoded = np.frombuffer(images[label]["image"], np.uint8)
            assert np.array_equal(batch["image"][i].numpy(), chain.reference(encoded, key, label))


def test_resume_at_every_step_inline(small: ps.Dataset) -> None:
    """Inline, a cut anywhere resumes exactly, and so does the epoch after."""
    check_resumes_at_every_step(lambda: ps.DataLoader(small, batch_size=3, shuffle=True))


def test_resume_at_every_step_with_workers(small: ps.Dataset) -> None:
    """With workers, what was prefetched but not delivered is not counted: a cut anywhere resumes exactly."""
    check_resumes_at_every_step(lambda: ps.DataLoader(small, batch_size=4, shuffle=True, num_workers=2))


def test_resume_of_augmented_images(images: ps.Dataset) -> None:
    """Augmentation is keyed by epoch and sample, so a resume repeats it."""
    check_resumes_at_every_step(lambda: ps.DataLoader(images, batch_size=20, shuffle=True, transforms=TRAIN))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_chain_of_worlds_and_batch_sizes_delivers_each_sample_once(rows: ps.Dataset, data: st.DataObject) -> None:
    """Cut, saved, and resumed on other world sizes and batch sizes, an epoch still delivers every row exactly once in the global order."""
    whole = [n for b in ps.DataLoader(rows, batch_size=100, shuffle=True, output="numpy") for n in b["label"].tolist()]
    seen: list[int] = []
    saved: dict[str, Any] | None = None
    while len(seen) < len(whole):
        world, batch_size = data.draw(st.integers(1, 3)), data.draw(st.integers(40, 200))
        steps = data.draw(st.integers(1, 4))
        streams = []
        for rank in range(world):
            loader = ps.DataLoader(rows, batch_size=batch_size, shuffle=True, topology=(rank, world), tail="ragged", output="numpy")
            if saved is not None:
                loader.load_state_dict(json.loads(json.dumps(saved)))
            streams.append((loader, iter(loader)))
        for _ in range(steps):
            for _, stream in streams:
                batch = next(stream, None)
                seen += [] if batch is None else batch["label"].tolist()
        saved = streams[0][0].state_dict()
    assert seen == whole


def test_ranks_partition_and_pad_marks_repeats(rows: ps.Dataset) -> None:
    """Three ranks pad to equal steps by default, and the rows marked valid are every row once."""
    ranks = [run(ps.DataLoader(rows, batch_size=50, shuffle=True, topology=(rank, 3))) for rank in range(3)]
    assert len({len(rank) for rank in ranks}) == 1
    valid = np.concatenate([batch["label"][batch["valid"]] for rank in ranks for batch in rank])
    assert sorted(valid.tolist()) == list(range(1003))
    assert sum(batch["label"].size for rank in ranks for batch in rank) == 3 * -(-1003 // 3)


def test_drop_last_gives_full_batches(rows: ps.Dataset) -> None:
    """drop_last gives whole batches on every rank and adds no column."""
    batches = run(ps.DataLoader(rows, batch_size=100, drop_last=True, topology=(1, 2)))
    assert [batch["label"].size for batch in batches] == [100] * 5
    assert "valid" not in batches[0]


def test_torchruns_environment_divides_the_data(rows: ps.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """RANK and WORLD_SIZE are enough to get a rank's slice."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    loader = ps.DataLoader(rows, batch_size=10)
    assert (loader.topology.rank, loader.topology.world_size) == (1, 2)
    assert next(iter(loader))["label"].tolist() == list(range(10, 20))


def test_epochs_advance_and_set_epoch_chooses(small: ps.Dataset) -> None:
    """Each iteration is a new epoch; set_epoch on loader or sampler repeats a chosen one; a broken epoch counts."""
    loader = ps.DataLoader(small, batch_size=5, shuffle=True)
    zero, one = run(loader), run(loader)
    assert zero[0]["n"].tolist() != one[0]["n"].tolist()
    loader.set_epoch(0)
    assert_same(run(loader), zero, "set_epoch(0)")
    assert isinstance(loader.sampler, DistributedSampler)
    loader.sampler.set_epoch(1)
    assert_same(run(loader), one, "sampler.set_epoch(1)")
    loader.set_epoch(0)
    next(iter(loader))
    assert_same(run(loader), one, "after a broken epoch 0")


def test_set_epoch_keeps_a_loaded_place(small: ps.Dataset) -> None:
    """The usual loop calls set_epoch after a resume: the same epoch keeps its place, another one begins anew."""
    loader = ps.DataLoader(small, batch_size=5, shuffle=True)
    batches = iter(loader)
    next(batches)
    saved = loader.state_dict()
    batches.close()
    resumed = ps.DataLoader(small, batch_size=5, shuffle=True)
    resumed.load_state_dict(saved)
    resumed.set_epoch(0)
    assert len(run(resumed)) == 4
    resumed.load_state_dict(saved)
    resumed.set_epoch(1)
    assert len(run(resumed)) == 5


def test_iter_is_lazy(rows: ps.Dataset) -> None:
    """iter() alone starts no process and enters no epoch."""
    loader = ps.DataLoader(rows, batch_size=10, num_workers=2)
    batches = iter(loader)
    assert loader.state_dict()["under_way"] is False
    assert len(batches) == 101
    batches.close()


def test_sampler_lists_the_delivered_rows(rows: ps.Dataset) -> None:
    """The sampler shown to frameworks yields the rows that the engine delivers, in order."""
    for rank in range(2):
        loader = ps.DataLoader(rows, batch_size=64, shuffle=True, topology=(rank, 2), seed=9)
        assert list(loader.sampler) == [n for batch in loader for n in batch["label"].tolist()]
        assert isinstance(loader.sampler, DistributedSampler)
        assert len(loader.sampler) == 502


def test_keeping_every_batch_is_safe(rows: ps.Dataset) -> None:
    """list(loader) holds more batches than the ring has slots: later ones are copied, none changes, and stats say so."""
    loader = ps.DataLoader(rows, batch_size=20, shuffle=True, num_workers=2)
    kept = list(loader)
    assert_same([plain(b) for b in kept], run(ps.DataLoader(rows, batch_size=20, shuffle=True)), "kept batches")
    assert loader.stats().copied_batches > 0


def test_a_kept_tensor_is_never_overwritten(rows: ps.Dataset) -> None:
    """A tensor, or a view of one, keeps its slot while the loader goes on."""
    loader = ps.DataLoader(rows, batch_size=10, num_workers=1)
    batches = iter(loader)
    part = next(batches)["x"][3:5]
    before = part.clone()
    for _ in batches:
        pass
    assert torch.equal(part, before)


def test_numpy_output(rows: ps.Dataset) -> None:
    """output='numpy' gives the same values as arrays that can be written to."""
    for workers in (0, 1):
        batch = next(iter(ps.DataLoader(rows, batch_size=10, output="numpy", num_workers=workers)))
        assert isinstance(batch["x"], np.ndarray)
        assert batch["label"].tolist() == list(range(10))
        batch["x"][0] = 0


def test_text_longer_than_the_budget_grows_the_ring(tmp_path: Any) -> None:
    """Rows far longer than the mean make the ring grow in mid-epoch without a changed bit, while the consumer holds batches."""
    with ps.Writer(tmp_path / "d", fields={"text": ps.Text(), "n": ps.Scalar("int64")}) as writer:
        for i in range(300):
            writer.write({"text": "x" * (20000 if i % 97 == 96 else i % 5), "n": i})
    ds = ps.Dataset(tmp_path / "d")
    kept = list(ps.DataLoader(ds, batch_size=8, num_workers=2))
    assert_same([plain(b) for b in kept], run(ps.DataLoader(ds, batch_size=8)), "grown ring")


def test_padded_tokens(rows: ps.Dataset) -> None:
    """Pad makes a ragged column a fixed one."""
    batch = next(iter(ps.DataLoader(rows, batch_size=8, transforms={"tokens": [T.Pad(64, 7)]})))
    assert batch["tokens"].shape == (8, 64)
    assert batch["tokens"][3, :3].tolist() == rows[3]["tokens"].tolist()
    assert batch["tokens"][3, 3:].eq(7).all()


@pytest.mark.parametrize("workers", [0, 2])
def test_array_ops(rows: ps.Dataset, workers: int) -> None:
    """Cast and Normalize work on arrays and on ragged columns, inline and in workers."""
    options: dict[str, Any] = {"transforms": {"x": [T.Normalize(0.5, 2.0)], "tokens": [T.Cast("int64")], "label": [T.Cast("float32")]}}
    batch = next(iter(ps.DataLoader(rows, batch_size=8, num_workers=workers, **options)))
    assert np.allclose(batch["x"][2].numpy(), (rows[2]["x"] - 0.5) / 2.0)
    assert batch["tokens"].values.dtype == torch.int64
    assert batch["label"].dtype == torch.float32


def test_state_is_small_and_refused_by_name(rows: ps.Dataset, small: ps.Dataset) -> None:
    """The state is a few hundred bytes of JSON, and one of another dataset or seed is refused naming the difference."""
    saved = ps.DataLoader(rows, batch_size=10, seed=1).state_dict()
    assert len(json.dumps(saved)) < 400
    with pytest.raises(ps.BadRequest, match="seed was 1, is 0"):
        ps.DataLoader(rows, batch_size=10).load_state_dict(saved)
    with pytest.raises(ps.BadRequest, match="dataset_digest was"):
        ps.DataLoader(small, batch_size=10, seed=1).load_state_dict(saved)


def test_stats_count_what_was_delivered(images: ps.Dataset) -> None:
    """stats() counts samples and batches and splits the work's time into its parts."""
    loader = ps.DataLoader(images, batch_size=25, transforms=TRAIN, num_workers=2)
    assert loader.stats().samples == 0
    run(loader)
    stats = loader.stats()
    assert (stats.samples, stats.batches) == (75, 3)
    assert stats.samples_per_s > 0
    assert stats.decode_s > 0
    assert stats.transform_s > 0
    assert stats.read_s > 0
    assert 0 < stats.wait_s <= stats.elapsed_s


def test_generator_seeds_the_order(small: ps.Dataset) -> None:
    """Torch's generator argument decides the order when no seed is given."""
    made = [run(ps.DataLoader(small, batch_size=23, shuffle=True, generator=torch.Generator().manual_seed(s)))[0]["n"].tolist() for s in (1, 1, 2)]
    assert made[0] == made[1] != made[2]


def test_repr_tells_the_plan(rows: ps.Dataset) -> None:
    """Repr shows who reads what in how many steps, and where the topology came from."""
    text = repr(ps.DataLoader(rows, batch_size=10, topology=(1, 4)))
    assert "rank 1 of 4 (explicit)" in text
    assert "steps" in text


def test_an_empty_epoch_of_an_empty_dataset(tmp_path: Any) -> None:
    """A dataset without rows gives an epoch without batches, with and without workers."""
    with ps.Writer(tmp_path / "none", fields={"n": ps.Scalar("int64")}):
        pass
    assert list(ps.DataLoader(ps.Dataset(tmp_path / "none"), batch_size=4, shuffle=True)) == []
    assert list(ps.DataLoader(ps.Dataset(tmp_path / "none"), batch_size=4, num_workers=1)) == []


def test_ragged_batches_survive_pickling(rows: ps.Dataset) -> None:
    """A ragged column is a named tuple of tensors, which frameworks move and pickle as such."""
    batch = next(iter(ps.DataLoader(rows, batch_size=4)))
    again = pickle.loads(pickle.dumps(batch["text"]))
    assert torch.equal(again.values, batch["text"].values)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": None}, "batch_size=None"),
        ({"output": "jax"}, "output='jax'"),
        ({"sampler": [1]}, "sampler=.*use shuffle="),
        ({"collate_fn": print}, "collate_fn=.*batched=True"),
        ({"batch_sampler": [[1]]}, "batch_sampler="),
        ({"multiprocessing_context": "fork"}, "multiprocessing_context='fork'"),
        ({"transforms": {"picture": [T.Resize(3)]}}, r"'picture'.*'label'"),
        ({"transforms": {"label": [T.Resize(3)]}}, "label.*Resize"),
        ({"transforms": {"text": [T.RandomHorizontalFlip()]}}, "text.*RandomHorizontalFlip"),
        ({"transforms": [T.Resize(3)]}, "not a dict"),
        ({"tail": "keep"}, "tail='keep'"),
        ({"topology": (3, 2)}, "rank 3 of world size 2"),
    ],
)
def test_bad_requests_name_argument_and_remedy(rows: ps.Dataset, options: dict[str, Any], message: str) -> None:
    """Each argument that cannot work is refused by name when the loader is built."""
    with pytest.raises(ps.BadRequest, match=message):
        ps.DataLoader(rows, **options)


def test_negative_epochs_and_foreign_states_are_refused(small: ps.Dataset) -> None:
    """set_epoch(-1) and a state of another class are refused."""
    loader = ps.DataLoader(small)
    with pytest.raises(ps.BadRequest, match="epoch -1"):
        loader.set_epoch(-1)
    with pytest.raises(ps.BadRequest, match="not a state of penstock"):
        loader.load_state_dict({"_num_yielded": 3})
