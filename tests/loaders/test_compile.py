"""From arguments to work: what batches will hold is known before anything runs, and every refusal names column, value and remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import penstock as ps
from penstock import order
from penstock import transforms as T  # noqa: N812  (the name torchvision's users know)
from penstock.loaders.compile import compile_work
from penstock.loaders.engine import Settings
from penstock.loaders.engines import make_engine
from penstock.loaders.fill import Filler
from penstock.loaders.inline import OwnArrays, fill_run
from penstock.loaders.law import Ordering
from penstock.loaders.lookup import Lookup
from penstock.loaders.plan import Plan, Run
from penstock.loaders.ring import Stage
from penstock.loaders.work import VALID, Work


def compiled(ds: ps.Dataset, transforms: Any = None, function: Any = None, tail: Any = "ragged", *, shuffle: bool = True) -> Work:
    """Return the work of some arguments."""
    return compile_work(ds, transforms or {}, function, ordering=Ordering(3, shuffle), tail=tail)


def test_outputs_without_transforms(rows: ps.Dataset) -> None:
    """Columns come out as their fields say, in their order."""
    outputs = compiled(rows).outputs
    assert list(outputs) == list(rows.fields)
    assert {name: (o.shape, o.dtype, o.ragged) for name, o in outputs.items()} == {
        "x": ((32,), "float32", False),
        "label": ((), "int64", False),
        "flag": ((), "bool", False),
        "text": ((), "uint8", True),
        "tokens": ((), "uint16", True),
        "meta": ((), "uint8", True),
    }


def test_outputs_with_transforms_and_padding(rows: ps.Dataset) -> None:
    """Chains change what comes out; tail='pad' adds a truth value; a single op stands for a list of one."""
    outputs = compiled(rows, {"tokens": T.Pad(40), "x": [T.Cast("float16")]}, tail="pad").outputs
    assert (outputs["tokens"].shape, outputs["tokens"].dtype, outputs["tokens"].ragged) == ((40,), "uint16", False)
    assert outputs["x"].dtype == "float16"
    assert list(outputs)[-1] == VALID
    assert outputs[VALID].dtype == "bool"


def test_outputs_of_a_map(rows: ps.Dataset) -> None:
    """With a map a batch holds what the function returned for the first row, and nothing else."""
    work = compiled(rows, {"x": [T.Normalize(0.5, 2)]}, lambda s: {"sum": s["x"].sum(), "n": np.int16(s["label"]), "t": np.zeros((2, 3))})
    assert {name: (o.shape, o.dtype) for name, o in work.outputs.items()} == {"sum": ((), "float32"), "n": ((), "int16"), "t": ((2, 3), "float64")}


@pytest.mark.parametrize(
    ("transforms", "function", "tail", "message"),
    [
        ({"nope": [T.Cast("int8")]}, None, "ragged", r"transforms name 'nope', but the columns that are read are \['x', 'label'"),
        ([T.Cast("int8")], None, "ragged", "is not a dict from column to a list of ops"),
        ({"x": [T.Resize(8)]}, None, "ragged", r"column 'x': Resize\(.*works on images"),
        ({"x": [T.Pad(8)]}, None, "ragged", r"column 'x': Pad\(.*would cut"),
        ({"tokens": [T.Normalize(0, 1)]}, None, "ragged", "column 'tokens': .*Pad"),
        ({"text": [T.Decode()]}, None, "ragged", "column 'text': Decode.*takes encoded image bytes"),
        ({"flag": [T.ToDtype("float32", scale=True)]}, None, "ragged", "column 'flag': .*no range"),
        ({"label": [lambda x: x]}, None, "ragged", "column 'label': .*is not a transform; a function on whole samples goes to"),
        ({}, lambda s: [s], "ragged", "returned list, not a dict"),
        ({}, lambda s: {"t": s["text"]}, "ragged", "field 't' is str"),
        ({}, lambda s: {"valid": 1}, "pad", "tail='pad' adds a column 'valid'.*rename it in map="),
        ({}, 3, "ragged", "Map: fn=3 cannot be called"),
    ],
)
def test_refusals(rows: ps.Dataset, transforms: Any, function: Any, tail: Any, message: str) -> None:
    """Each thing that cannot work is refused when the loader is built."""
    with pytest.raises(ps.BadRequest, match=message):
        compiled_or_raise(rows, transforms, function, tail)


def compiled_or_raise(ds: ps.Dataset, transforms: Any, function: Any, tail: Any) -> Work:
    """Compile without defaults."""
    return compile_work(ds, transforms, function, ordering=Ordering(0, False), tail=tail)


def test_a_map_on_no_rows_is_refused(tmp_path: Path) -> None:
    """Without a first row nobody knows what a function returns."""
    with ps.Writer(tmp_path / "none", fields={"n": ps.Scalar()}):
        pass
    with pytest.raises(ps.BadRequest, match=r"needs a first row to say what it returns, and .*none has none"):
        compiled(ps.Dataset(tmp_path / "none"), None, lambda s: s)


def test_a_bad_first_row_is_named(tmp_path: Path) -> None:
    """When the row that a map is probed with is damaged, its place is in the error."""
    with ps.Writer(tmp_path / "d", fields={"image": ps.Image("jpeg")}) as writer:
        writer.write({"image": b"\xff\xd8\xff\xe0 not much of a JPEG"})
    with pytest.raises(ps.BadData, match=r"shard data/.*, row 0, field image: the JPEG of \d+ bytes"):
        compiled(ps.Dataset(tmp_path / "d"), {"image": [T.Resize((4, 4))]}, lambda s: {"m": s["image"].mean()})


def test_work_travels_small(rows: ps.Dataset) -> None:
    """A work is pickled in a few kilobytes whatever the dataset holds, and opens the same version there."""
    rows[0]
    pickled = cloudpickle.dumps(compiled(rows, {"x": [T.Normalize(0, 1)]}, lambda s: {"n": s["label"]}))
    assert len(pickled) < 20_000
    again = cloudpickle.loads(pickled)
    again.check()
    assert again.dataset.digest == rows.digest


def test_who_splits_batches(rows: ps.Dataset, images: ps.Dataset) -> None:
    """Batches are cut over workers when rows are costly (images, maps on samples) and never under a batched map."""
    assert not compiled(rows).splits
    assert compiled(images, {"image": [T.Resize((8, 8))]}).splits
    assert compiled(rows, None, lambda s: {"n": s["label"]}).splits
    assert not compiled(rows, None, T.Map(lambda b: {"n": np.asarray(b["label"])}, batched=True)).splits


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1002), st.integers(1, 60), st.integers(0, 3), st.booleans())
def test_filling_is_row_by_row(rows: ps.Dataset, start: int, size: int, epoch: int, shuffle: bool) -> None:
    """Any span of any epoch holds the rows that the law of order names, padding wrapped to the beginning and marked."""
    work = compiled(rows, tail="pad", shuffle=shuffle)
    (batch,), times = fill_run(Filler(work), OwnArrays(work.outputs, size), epoch, Run(start, start + size))
    positions = np.arange(start, start + size)
    wanted = order.rows_at(positions % 1003, n=1003, seed=3, epoch=epoch, shuffle=shuffle).tolist()
    assert batch["label"].tolist() == wanted
    assert batch[VALID].tolist() == (positions < 1003).tolist()
    for i, number in enumerate(wanted):
        row = rows[number]
        assert np.array_equal(batch["x"][i], row["x"])
        assert bool(batch["flag"][i]) == row["flag"]
        values, offsets = batch["tokens"]
        assert np.array_equal(values[offsets[i] : offsets[i + 1]], row["tokens"])
    assert times.read_ns > 0
    assert times.decode_ns == 0


def test_filling_again_gives_the_same_bytes(images: ps.Dataset) -> None:
    """A filler has no memory: the same span gives the same bytes from it, from another one, and in pieces."""
    work = compiled(images, {"image": [T.RandomResizedCrop(12), T.ColorJitter(0.4)]})
    one, outputs = Filler(work), dict(work.outputs)
    whole = fill_run(one, OwnArrays(outputs, 20), 1, Run(10, 30))[0][0]
    fill_run(one, OwnArrays(outputs, 50), 0, Run(0, 50))
    again = fill_run(one, OwnArrays(outputs, 20), 1, Run(10, 30))[0][0]
    pieces = [fill_run(Filler(work), OwnArrays(outputs, 4), 1, Run(s, s + 4))[0][0]["image"] for s in range(10, 30, 4)]
    assert whole["image"].tobytes() == again["image"].tobytes() == np.concatenate(pieces).tobytes()


def test_a_sink_hears_the_stages(images: ps.Dataset) -> None:
    """While it fills, a filler tells what it does: reading, then decoding; with a map, the map."""
    heard: list[Stage] = []

    class Listening(OwnArrays):
        """Writes down stages."""

        def stage(self, stage: Stage) -> None:
            """Note it."""
            heard.append(stage)

    for function, last in ((None, Stage.DECODE), (lambda s: {"m": s["image"].mean()}, Stage.MAP)):
        heard.clear()
        work = compiled(images, {"image": [T.Resize((8, 8))]}, function)
        Filler(work).fill(0, np.arange(3), Listening(dict(work.outputs), 3))
        assert heard[0] is Stage.READ
        assert heard[-1] is last


def test_lookups_name_places(rows: ps.Dataset) -> None:
    """A place knows its shard, its row there and its row in the dataset, and puts them into errors of the data and of a user's function."""
    starts = rows.manifest.starts
    numbers = np.array([0, int(starts[1]), int(starts[1]) - 1, 1002], np.int64)
    places = Lookup(rows).places(numbers)
    assert [p.sample for p in places] == numbers.tolist()
    assert [p.row for p in places] == [0, 0, int(starts[1]) - 1, 1002 - int(starts[-2])]
    assert [p.value("label").item() for p in places] == numbers.tolist()
    place = places[3]
    with pytest.raises(ps.BadData, match=rf"shard {place.shard}, row {place.row}, field text: torn") as caught, place.blame("text"):
        raise ps.BadData("torn")
    assert caught.value.path == rows.manifest.root
    with (
        pytest.raises(ps.WorkerFailed, match=rf"map raised KeyError: 'k', at row {place.row} of shard .* \(row 1002 of ") as failed,
        place.blame_map(),
    ):
        raise KeyError("k")
    assert isinstance(failed.value.__cause__, KeyError)


def test_an_engine_without_steps_starts_nothing(small: ps.Dataset) -> None:
    """An epoch of no batches ends at once, with workers asked for or not, and closing an idle engine is nothing."""
    for workers in (0, 2):
        options = Settings(num_workers=workers, prefetch_factor=2, persistent=True, timeout_s=0, init=None)
        engine = make_engine(compiled(small), options)
        assert list(engine.epoch(Plan(rows=23, batch_size=4), 0, 23)) == []
        assert list(engine.epoch(Plan(rows=23, batch_size=30, tail="drop"), 0, 0)) == []
        engine.close()
        engine.close()


def test_an_engine_counts_rows_with_their_padding(small: ps.Dataset) -> None:
    """Inline deliveries say how many rows they hold, padding included, and where the time went."""
    engine = make_engine(compiled(small, tail="pad"), Settings(num_workers=0, prefetch_factor=2, persistent=False, timeout_s=0, init=None))
    made = list(engine.epoch(Plan(rows=23, batch_size=4, rank=1, world_size=2, tail="pad"), 0, 0))
    assert [m.rows for m in made] == [4, 4, 4]
    assert [len(m.batches[0]["n"]) for m in made] == [4, 4, 4]
    assert all(m.times.read_ns > 0 and not m.copied for m in made)


@pytest.mark.parametrize("tail", ["drop", "pad", "ragged"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_the_sampler_follows_the_epochs(rows: ps.Dataset, tail: Any, shuffle: bool) -> None:
    """Before each epoch and after set_epoch the sampler lists what this rank is given, for every tail, and its length."""
    for rank in range(3):
        loader = ps.DataLoader(rows, batch_size=90, shuffle=shuffle, topology=(rank, 3), tail=tail, output="numpy")
        loader.set_epoch(4)
        sampler: Any = loader.sampler
        expected = list(sampler)
        assert [n for b in loader for n in b["label"].tolist()] == expected
        assert len(sampler) == len(expected)
        following = iter(loader)
        first = next(following)["label"].tolist()
        assert list(sampler)[: len(first)] == first
        assert sampler.epoch == 5


def test_set_epoch_after_a_break_is_what_is_saved(small: ps.Dataset) -> None:
    """A state says what comes next: the chosen epoch once the loop was left, the running one while it runs."""
    loader = ps.DataLoader(small, batch_size=5, shuffle=True)
    batches = iter(loader)
    next(batches)
    loader.set_epoch(7)
    assert loader.state_dict()["epoch"] == 0
    batches.close()
    saved = loader.state_dict()
    assert (saved["epoch"], saved["samples"], saved["under_way"]) == (7, 0, False)
    other = ps.DataLoader(small, batch_size=5, shuffle=True)
    other.load_state_dict(saved)
    assert [b["n"].tolist() for b in other] == [b["n"].tolist() for b in loader]


def test_decoding_lets_go_of_what_was_read(images: ps.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """After so many bytes of encoded rows the pages of the shards are let go of, and the batches are what they were; plain rows keep theirs."""
    ops = {"image": [T.Resize((8, 8))]}
    wanted = [batch["image"].tobytes() for batch in ps.DataLoader(images, 4, transforms=ops, output="numpy")]
    let_go = []
    real = ps.Dataset.let_go_of_pages

    def noted(self: ps.Dataset) -> None:
        let_go.append(self.path)
        real(self)

    monkeypatch.setattr(ps.Dataset, "let_go_of_pages", noted)
    list(ps.DataLoader(images, 4, transforms=ops))
    assert let_go == []
    monkeypatch.setattr("penstock.loaders.fill._PAGES_BYTES", 1)
    assert [batch["image"].tobytes() for batch in ps.DataLoader(images, 4, transforms=ops, output="numpy")] == wanted
    assert len(let_go) == len(wanted)
    list(ps.DataLoader(images, 4))
    assert len(let_go) == len(wanted)
