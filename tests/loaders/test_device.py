"""Batches on their way to a device, over a device that is none: what is copied when, what is held until then, and what is refused without CUDA."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Collection, Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch
from contracts.pictures import encode, noise
from inside import stored_of

import penstock as ps
from penstock.loaders import device as devices
from penstock.loaders import device_finish
from penstock.loaders.batch import Batch, Ragged
from penstock.loaders.device import DeviceEngine, Mover, Static, device_of
from penstock.loaders.engine import Delivered, Engine
from penstock.loaders.plan import Plan
from penstock.metrics import NO_TIME


def unowned(array: Any) -> Any:
    """Return an array over the same memory that does not keep it: what a device has of it is an address."""
    raw = (ctypes.c_uint8 * array.nbytes).from_address(array.ctypes.data)
    return np.frombuffer(raw, array.dtype).reshape(array.shape)


class SlowMover(Mover):
    """A device that reads the arrays long after it was told to: when somebody waits for the copy, or `lag` copies later. It keeps none of them."""

    def __init__(self, lag: int = 2, stays: Collection[str] = ()) -> None:
        """Have read nothing; some columns stay where they are."""
        self.lag, self.stays = lag, stays
        self.started: list[dict[str, Any]] = []

    def start(self, batches: list[Batch]) -> dict[str, Any]:
        """Note what is to be read, and where to; do what was told `lag` copies ago."""
        kept = [{name: value for name, value in batch.items() if name in self.stays} for batch in batches]
        source = [{name: unowned(value) for name, value in batch.items() if name not in self.stays} for batch in batches]
        made = [{name: torch.zeros(value.shape, dtype=torch.from_numpy(value).dtype) for name, value in batch.items()} for batch in source]
        moving = {"source": source, "made": made, "kept": kept}
        self.started.append(moving)
        for old in self.started[: -self.lag]:
            self._read(old)
        return moving

    def _read(self, moving: dict[str, Any]) -> None:
        source, moving["source"] = moving["source"], None
        for batch, read in zip(moving["made"], source or [], strict=False):
            for name, value in read.items():
                batch[name].copy_(torch.from_numpy(value))

    def arrive(self, moving: dict[str, Any]) -> list[Batch]:
        """Return tensors that are right once the copy is through."""
        return [{**made, **kept} for made, kept in zip(moving["made"], moving["kept"], strict=True)]

    def passed(self, moving: dict[str, Any]) -> bool:
        """Return whether it was read."""
        return moving["source"] is None

    def took_ns(self, moving: dict[str, Any]) -> int:
        """Return the same for each."""
        return 1000

    def finish(self, moving: dict[str, Any]) -> None:
        """Read it now."""
        self._read(moving)


class Told(Engine):
    """An engine whose batches are numbers, which says when the next one is ready, and fails where it is told to."""

    def __init__(self, ready: Callable[[int], bool], fails: int = -1) -> None:
        """Have made nothing."""
        self._ready, self._fails, self.made, self.ended = ready, fails, 0, False

    def epoch(self, plan: Plan, epoch: int, start: int, runs: Any = None) -> Generator[Delivered, None, None]:
        """Yield a number a batch."""
        try:
            for step in range(plan.steps(start)):
                if step == self._fails:
                    raise ps.BadData("broken")
                self.made = step + 1
                yield Delivered([{"n": np.array([step])}], 1, NO_TIME)
        finally:
            self.ended = True

    def ready(self) -> bool:
        """Say so."""
        return self._ready(self.made)

    def close(self) -> None:
        """Do nothing."""


def numbers(engine: DeviceEngine, steps: int = 6) -> Iterator[int]:
    """Yield the numbers that come, as a device has them that reads at once."""
    for made in engine.epoch(Plan(rows=steps, batch_size=1), 0, 0):
        yield from (int(batch["n"][0]) for batch in made.batches)


class PromptMover(SlowMover):
    """A device that is through with a batch before it is handed out."""

    def arrive(self, moving: dict[str, Any]) -> list[Batch]:
        """Read it first."""
        self._read(moving)
        return super().arrive(moving)


@pytest.mark.parametrize(("ahead", "expected"), [(0, [1, 2, 3, 4, 5, 6]), (1, [2, 3, 4, 5, 6, 6]), (3, [4, 5, 6, 6, 6, 6])])
def test_ready_batches_are_under_way_before_they_are_asked_for(ahead: int, expected: list[int]) -> None:
    """With a loader that has them, as many batches as asked are started ahead of the one that is handed out, which come in order."""
    inner = Told(lambda made: True)
    engine = DeviceEngine(inner, PromptMover(), ahead)
    made = [(number, inner.made) for number in numbers(engine)]
    assert [number for number, _ in made] == list(range(6))
    assert [count for _, count in made] == expected


def test_a_batch_at_hand_waits_for_no_other() -> None:
    """With a loader that is behind, a batch is handed out as soon as it is there."""
    inner = Told(lambda made: False)
    assert [(number, inner.made) for number in numbers(DeviceEngine(inner, PromptMover(), 3))] == [(n, n + 1) for n in range(6)]


@pytest.mark.parametrize("ready", [False, True])
def test_an_error_comes_in_place_of_its_batch(ready: bool) -> None:
    """What the engine met while it was ahead is raised behind the batches before it, and its epoch is closed."""
    inner = Told(lambda made: ready, fails=3)
    found = numbers(DeviceEngine(inner, PromptMover(), 2))
    assert [next(found) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ps.BadData, match="broken"):
        next(found)
    assert inner.ended


def test_an_error_met_while_looking_ahead_comes_behind_the_batches_at_hand() -> None:
    """What is raised when the next batch is asked whether it is ready is raised in that batch's place too."""

    def broken(made: int) -> bool:
        if made == 3:
            raise ps.WorkerFailed("all died", stage="read")
        return True

    found = numbers(DeviceEngine(Told(broken), PromptMover(), 2))
    assert [next(found) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ps.WorkerFailed, match="all died"):
        next(found)


def test_an_epoch_that_is_left_waits_for_its_copies() -> None:
    """Closed in the middle, every copy under way is finished, since the memory it reads goes on to others."""
    mover = SlowMover(lag=10)
    found = DeviceEngine(Told(lambda made: True), mover, 3).epoch(Plan(rows=6, batch_size=1), 0, 0)
    next(found)
    found.close()
    assert all(mover.passed(moving) for moving in mover.started)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> ps.Dataset:
    """Return 400 rows of 1,000 numbers, each its own, and a label."""
    path: Path = tmp_path_factory.mktemp("rows") / "d"
    with ps.Writer(path, fields={"x": ps.Array((1000,), "int32"), "n": ps.Scalar("int64")}, shard_size="400KB") as writer:
        for i in range(400):
            writer.write({"x": np.full(1000, i, np.int32), "n": i})
    return ps.Dataset(path)


@pytest.fixture
def pins(monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """Have `device="cuda"` be a slow device that is none; return the memory that is pinned at the moment."""
    pinned: dict[int, int] = {}

    def pin(address: int, size: int) -> Callable[[], None]:
        pinned[address] = size

        def let_go() -> None:
            del pinned[address]

        return let_go

    monkeypatch.setattr(devices, "device_of", lambda asked: torch.device("cuda", 0))
    monkeypatch.setattr(devices, "register", lambda device, address, size: pin(address, size))
    monkeypatch.setattr(devices, "CudaMover", lambda device, stays: PromptMover(stays=stays))
    return pinned


def slow(sample: dict[str, Any]) -> dict[str, Any]:
    """Return a row as it is; a function is what makes rows costly, so that a batch is cut into parts."""
    return sample


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("ahead", [0, 1, 3])
@pytest.mark.parametrize("lag", [1, 2, 5])
@pytest.mark.parametrize("function", [None, slow])
def test_no_slot_is_written_while_a_copy_may_read_it(
    rows: ps.Dataset, pins: dict[int, int], monkeypatch: pytest.MonkeyPatch, workers: int, ahead: int, lag: int, function: Any
) -> None:
    """With a device that reads up to five batches late, long after they were handed out and dropped, every row arrives as it is stored, epoch after epoch."""
    monkeypatch.setattr(devices, "CudaMover", lambda device, stays: SlowMover(lag))
    options: dict[str, Any] = {"num_workers": workers, "persistent_workers": workers > 0, "map": function}
    loader = ps.DataLoader(rows, 8, shuffle=True, device="cuda", device_prefetch=ahead, **options)
    plain = ps.DataLoader(rows, 8, shuffle=True, output="numpy")
    for _ in range(2):
        found = list(loader)  # read to the end, as the end of an epoch waits for
        for batch, expected in zip(found, plain, strict=True):
            assert batch["n"].tolist() == expected["n"].tolist()
            assert torch.equal(batch["x"], batch["n"].int()[:, None].expand(-1, 1000))
    stats = loader.stats()
    assert stats.batches == 50
    assert stats.copy_s >= 40e-6 or not (workers and function)  # plain rows are filled and copied many batches at a time
    loader.close()


@pytest.mark.parametrize("persistent", [False, True])
def test_the_ring_is_pinned_as_long_as_it_is_there(rows: ps.Dataset, pins: dict[int, int], persistent: bool) -> None:
    """A ring is pinned whole when it is made, and let go of when the last array over it is gone: behind the epoch, or the loader."""
    loader = ps.DataLoader(rows, 8, num_workers=1, persistent_workers=persistent, device="cuda")
    batches = iter(loader)
    next(batches)
    (size,) = pins.values()
    assert size > 4 * 8 * 4008
    for _ in batches:
        pass
    gc.collect()
    assert len(pins) == persistent
    loader.close()
    del loader, batches
    gc.collect()
    assert not pins


def test_what_is_under_way_is_not_counted(rows: ps.Dataset, pins: dict[int, int]) -> None:
    """A state counts what the loop was given, though the device is three batches ahead; the rest comes behind a resume."""
    loader = ps.DataLoader(rows, 8, num_workers=1, device="cuda", device_prefetch=3)
    for step, _ in enumerate(loader):
        if step == 9:
            break
    state = loader.state_dict()
    assert state["samples"] == 80
    again = ps.DataLoader(rows, 8, device="cuda")
    again.load_state_dict(state)
    assert [n for batch in again for n in batch["n"].tolist()] == list(range(80, 400))


def test_static_buffers_are_the_same_tensors(rows: ps.Dataset, pins: dict[int, int]) -> None:
    """Every batch of every epoch comes in the tensors of the first one, also behind a resume, and one of another shape is refused with the remedy."""
    loader = ps.DataLoader(rows, 96, tail="drop", device="cuda", static_buffers=True)
    found = [(batch["n"].data_ptr(), batch["n"].tolist()) for _ in range(2) for batch in loader]
    loader.load_state_dict(loader.state_at(0, 3))
    found += [(batch["n"].data_ptr(), batch["n"].tolist()) for batch in loader]
    assert len({place for place, _ in found}) == 1
    assert [n for _, some in found for n in some] == [*range(384), *range(384), *range(288, 384)]
    for tail in ("pad", "ragged"):
        with pytest.raises(ps.BadRequest, match=r"column 'x' came as \[16, 1000\] behind \[96, 1000\]: use tail='drop'"):
            list(ps.DataLoader(rows, 96, tail=tail, device="cuda", static_buffers=True))


def test_static_buffers_take_no_ragged_columns() -> None:
    """Rows of unlike length come in runs of unlike length."""
    with pytest.raises(ps.BadRequest, match="column 'words' has rows of unlike length"):
        Static()({"words": Ragged(torch.zeros(3), torch.zeros(2))})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_cuda_auto_stays_on_the_host_and_the_rest_is_refused(rows: ps.Dataset) -> None:
    """'auto' and 'cpu' leave batches where they are; a CUDA device is refused with the remedy, and so is what needs one."""
    for device in (None, "auto", "cpu", torch.device("cpu")):
        loader = ps.DataLoader(rows, 8, device=device)
        assert loader.device == "cpu"
        assert not isinstance(stored_of(loader).engine, DeviceEngine)
        assert next(iter(loader))["x"].device.type == "cpu"
    for wanted in ("cuda", "cuda:1", 0, torch.device("cuda")):
        with pytest.raises(ps.BadRequest, match="no CUDA device here; use device='auto'"):
            ps.DataLoader(rows, 8, device=wanted)
    for options, match in (
        ({"device": "mps"}, "go to CUDA devices or stay on the host"),
        ({"device": "gpu"}, "names no device"),
        ({"device": 1.5}, "names no device"),
        ({"device": "cuda", "output": "numpy"}, "output='numpy'"),
        ({"device": "auto", "device_prefetch": -1}, "device_prefetch=-1"),
        ({"static_buffers": True}, "give device='cuda'"),
    ):
        with pytest.raises(ps.BadRequest, match=match):
            ps.DataLoader(rows, 8, **options)
    with pytest.raises(ps.BadRequest, match="needs a penstock"):
        ps.DataLoader([1, 2], device="cuda")
    assert device_of(None) is None


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ps.Dataset:
    """Return 60 small photographs with labels."""
    path: Path = tmp_path_factory.mktemp("images") / "d"
    with ps.Writer(path, fields={"image": ps.Image("jpeg"), "label": ps.Scalar("int64")}, shard_size="40KB") as writer:
        for i in range(60):
            writer.write({"image": encode(noise(24, 30, seed=i)).tobytes(), "label": i % 7})
    return ps.Dataset(path)


AUGMENT = [
    ps.transforms.RandomResizedCrop(16),
    ps.transforms.RandomHorizontalFlip(),
    ps.transforms.Normalize([0.4, 0.5, 0.6], [0.2, 0.3, 0.4]),
    ps.transforms.RandomErasing(0.5),
]


def same(left: Any, right: Any) -> None:
    """Compare two runs of batches."""
    for one, other in zip(left, right, strict=True):
        assert list(one) == list(other)
        for name, value in one.items():
            assert value.dtype == other[name].dtype
            assert torch.allclose(value.float(), other[name].float(), atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_workers": 2},
        {"tail": "pad", "topology": (1, 2)},
        {"window_shards": 2, "lanes": 2, "topology": (0, 2)},
        {"epoch_samples": 90},
    ],
    ids=str,
)
def test_bytes_finished_on_the_device_are_what_workers_finish(images: ps.Dataset, pins: dict[int, int], options: dict[str, Any]) -> None:
    """normalize_on='device' sends bytes and yields the host's batches, for every order and tail, over two epochs, and from the middle of one."""
    told: dict[str, Any] = {"shuffle": True, "seed": 3, "transforms": {"image": AUGMENT}, **options}
    host = ps.DataLoader(images, 8, **told)
    device = ps.DataLoader(images, 8, **told, device="cuda", normalize_on="device")
    assert stored_of(device).work.outputs["image"].dtype == "uint8"
    assert device.transforms["image"] is AUGMENT
    for _ in range(2):
        same(device, host)
    for loader in (host, device):
        loader.load_state_dict(host.state_at(5, 2))
    same(device, host)


def test_bytes_of_a_mixture_are_keyed_as_by_workers(images: ps.Dataset, pins: dict[int, int]) -> None:
    """Samples of a mixture, some of them twice an epoch, look on the device as they do from workers, each time."""

    def made(**options: Any) -> ps.DataLoader:
        mixture = ps.Mixture({"a": images, "b": images}, weights={"a": 3, "b": 1})
        return ps.DataLoader(mixture, 8, shuffle=True, transforms={"image": AUGMENT}, **options)

    same(made(device="cuda", normalize_on="device"), made())


def test_without_a_device_the_host_normalises(images: ps.Dataset) -> None:
    """normalize_on='device' with device='auto' on a machine without CUDA is the host's chain."""
    told: dict[str, Any] = {"transforms": {"image": AUGMENT}}
    loader = ps.DataLoader(images, 8, device="cpu", normalize_on="device", **told)
    assert stored_of(loader).work.outputs["image"].dtype == "float32"
    same(loader, ps.DataLoader(images, 8, **told))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_mixed_where_they_arrive(images: ps.Dataset, pins: dict[int, int], workers: int) -> None:
    """MixUp and CutMix give labels that are shares, the same at a resume, on the host and on a device that also normalises."""
    ops = [ps.transforms.MixUp(7, 0.3), ps.transforms.CutMix(7)]
    told: dict[str, Any] = {"shuffle": True, "transforms": {"image": AUGMENT}, "batch_transforms": ops, "num_workers": workers}
    host = ps.DataLoader(images, 8, **told)
    found = [{name: value.clone() for name, value in batch.items()} for batch in host]
    assert all(batch["label"].shape == (len(batch["image"]), 7) for batch in found)
    assert all(torch.allclose(batch["label"].sum(1), torch.ones(len(batch["label"])), atol=1e-5) for batch in found)
    same(ps.DataLoader(images, 8, **told, device="cuda", normalize_on="device", static_buffers=False), found)
    host.load_state_dict(host.state_at(0, 5))
    same(host, found[5:])


def test_what_cannot_be_finished_is_refused(images: ps.Dataset, pins: dict[int, int]) -> None:
    """Functions on rows, arrays, tickets, ops that are none, and batches without floats, each by name."""
    op = ps.transforms.MixUp(7)
    augment: dict[str, Any] = {"transforms": {"image": AUGMENT}}
    for options, match in (
        ({"device": "cuda", "normalize_on": "device", "map": slow, **augment}, "map= would see bytes"),
        ({"normalize_on": "gpu"}, "normalize_on='gpu'"),
        ({"batch_transforms": [op], "output": "numpy", **augment}, "output='numpy'"),
        ({"batch_transforms": [op], "transforms": {"image": AUGMENT[:1]}}, "put Normalize or ToDtype first"),
        ({"batch_transforms": [AUGMENT[0]], **augment}, "is not MixUp or CutMix"),
        ({"batch_transforms": [ps.transforms.MixUp(7, label="class")], **augment}, "no column 'class'"),
        ({"device": "cuda", "normalize_on": "device", "transforms": AUGMENT}, "is not a dict"),
        ({"device": "cuda", "normalize_on": "device", "transforms": {"picture": AUGMENT}}, "transforms name 'picture'"),
    ):
        with pytest.raises(ps.BadRequest, match=match):
            ps.DataLoader(images, 8, **options)


def test_images_are_decoded_where_they_arrive(images: ps.Dataset, pins: dict[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """decode_on='device' sends encoded bytes, which stay on the host until what stands in for nvJPEG takes them, and yields the host's batches to a few grey levels."""
    monkeypatch.setattr(devices, "device_of", lambda asked: torch.device("cpu", 0))
    monkeypatch.setattr(
        device_finish,
        "decoder_of",
        lambda: lambda encoded, device: [torch.from_numpy(simplejpeg.decode_jpeg(each)).movedim(-1, 0) for each in encoded],
    )
    told: dict[str, Any] = {"shuffle": True, "transforms": {"image": AUGMENT}, "num_workers": 1}
    for normalize_on in ("host", "device"):
        loader = ps.DataLoader(images, 8, **told, device="cuda", decode_on="device", normalize_on=normalize_on)
        assert stored_of(loader).work.outputs["image"].ragged
        for one, other in zip(loader, ps.DataLoader(images, 8, **told), strict=True):
            assert one["image"].dtype == torch.float32
            gap = (one["image"] - other["image"]).abs() * 0.2 * 255
            assert gap.mean() < 1
            assert gap.max() < 12
            assert torch.equal(one["label"], other["label"])


def test_without_nvjpeg_workers_decode(images: ps.Dataset, pins: dict[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A warning says what is missing, or that no column is one, and batches are the host's."""
    monkeypatch.setattr(device_finish, "decoder_of", lambda: None)
    with pytest.warns(UserWarning, match="neither torchvision nor nvidia-nvimgcodec"):
        loader = ps.DataLoader(images, 8, transforms={"image": AUGMENT}, device="cuda", decode_on="device", normalize_on="device")
    same(loader, ps.DataLoader(images, 8, transforms={"image": AUGMENT}))
    with pytest.warns(UserWarning, match="no column is one"):
        ps.DataLoader(images, 8, transforms={"image": [ps.transforms.Decode("GRAY"), ps.transforms.CenterCrop(8)]}, device="cuda", decode_on="device")
    with pytest.raises(ps.BadRequest, match="decode_on='gpu'"):
        ps.DataLoader(images, 8, decode_on="gpu")  # type: ignore[arg-type]  # the value is the test
