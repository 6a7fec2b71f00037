"""What only CUDA can show: batches arrive whole on the device, out of pinned memory, without a wait of the host, and serve graphs and compiled steps."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contracts.pictures import encode, noise

import penstock as ps
from penstock import transforms as t
from penstock.loaders import device as devices

pytestmark = pytest.mark.gpu

NORMAL = t.Normalize([0.4, 0.5, 0.6], [0.2, 0.3, 0.4])


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> ps.Dataset:
    """Return 2,000 rows of 10,000 numbers, each its own."""
    path: Path = tmp_path_factory.mktemp("rows") / "d"
    with ps.Writer(path, fields={"x": ps.Array((10_000,), "int32"), "n": ps.Scalar("int64")}) as writer:
        for i in range(2000):
            writer.write({"x": np.full(10_000, i, np.int32), "n": i})
    return ps.Dataset(path)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ps.Dataset:
    """Return 256 photographs with labels."""
    path: Path = tmp_path_factory.mktemp("images") / "d"
    with ps.Writer(path, fields={"image": ps.Image("jpeg"), "label": ps.Scalar("int64")}) as writer:
        for i in range(256):
            writer.write({"image": encode(noise(72, 90, seed=i)).tobytes(), "label": i % 10})
    return ps.Dataset(path)


def sleep(cycles: int) -> None:
    """Keep the current stream busy for so many cycles of the device's clock."""
    torch.cuda._sleep(cycles)  # type: ignore[no-untyped-call]  # torch does not type it


@contextmanager
def no_waiting() -> Iterator[None]:
    """Have every wait of the host for the device be an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("ahead", [0, 1, 3])
@pytest.mark.parametrize("late", ["consumer", "copies"])
def test_batches_survive_streams_that_lie_behind(rows: ps.Dataset, monkeypatch: pytest.MonkeyPatch, workers: int, ahead: int, late: str) -> None:
    """With the consumer's stream, or that of the copies, seconds behind the loop, every batch is as it was stored: neither slots nor device memory were used again too early."""
    real = devices.CudaMover.start

    def slow(mover: Any, batches: Any) -> Any:
        if mover._stream is not None:
            with torch.cuda.stream(mover._stream):
                sleep(20_000_000)
        return real(mover, batches)

    if late == "copies":
        monkeypatch.setattr(devices.CudaMover, "start", slow)
    loader = ps.DataLoader(rows, 32, shuffle=True, num_workers=workers, persistent_workers=workers > 0, device="cuda", device_prefetch=ahead)
    for _ in range(3):
        wrong = torch.zeros((), dtype=torch.int64, device="cuda")
        seen = torch.zeros(len(rows), dtype=torch.int64, device="cuda")
        for batch in loader:
            if late == "consumer":
                sleep(20_000_000)
            wrong += (batch["x"] != batch["n"][:, None]).sum()
            seen[batch["n"]] += 1
        assert wrong.item() == 0
        assert (seen == 1).all()
    assert loader.stats().copy_s > 0
    loader.close()


def test_the_host_waits_for_nothing(rows: ps.Dataset, images: ps.Dataset) -> None:
    """From the third batch on, no call inside next() waits for the device, of those that torch can tell of; neither does what is done to images there."""
    plain = ps.DataLoader(rows, 32, num_workers=2, device="cuda")
    augment = [t.RandomResizedCrop(32), t.RandomHorizontalFlip(), t.ColorJitter(0.4, 0.4, 0.4, 0.1), NORMAL, t.RandomErasing()]
    finished = ps.DataLoader(
        images, 16, num_workers=2, device="cuda", normalize_on="device", transforms={"image": augment}, batch_transforms=[t.MixUp(10), t.CutMix(10)]
    )
    for loader in (plain, finished):
        batches = iter(loader)
        for _ in range(3):
            next(batches)
        with no_waiting():
            for _ in range(8):
                next(batches)
        del batches


def test_slots_are_pinned_and_copied_from_directly(rows: ps.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """With workers no batch takes a detour through other pinned memory."""
    detours = []
    real = torch.Tensor.pin_memory

    def noted(tensor: torch.Tensor, *rest: Any) -> torch.Tensor:
        detours.append(tensor.shape)
        return real(tensor, *rest)

    monkeypatch.setattr(torch.Tensor, "pin_memory", noted)
    for _ in ps.DataLoader(rows, 32, num_workers=2, device="cuda"):
        pass
    assert not detours


def test_a_captured_graph_reads_static_buffers(rows: ps.Dataset) -> None:
    """A graph captured on the first batch, replayed for each of the others of two epochs, computes each one's own result."""
    loader = ps.DataLoader(rows, 50, shuffle=True, num_workers=1, device="cuda", static_buffers=True)
    batches = iter(loader)
    batch = next(batches)
    total = torch.zeros((), dtype=torch.int64, device="cuda")
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        total += batch["x"][:, 0].long().sum()
    total.zero_()
    graph.replay()
    for again in (*batches, *loader):
        assert again["x"].data_ptr() == batch["x"].data_ptr()
    total.zero_()
    for _ in range(2):
        for _ in loader:
            graph.replay()
    assert total.item() == 2 * sum(range(2000))


def test_a_compiled_step_takes_batches(rows: ps.Dataset) -> None:
    """torch.compile traces a step over our batches once, and its results are those of the plain step."""
    step = torch.compile(lambda x: (x.float() * 2).sum(1))
    for batch in ps.DataLoader(rows, 100, num_workers=1, device="cuda"):
        assert torch.equal(step(batch["x"]), batch["x"].float().mul(2).sum(1))


@pytest.mark.parametrize("workers", [0, 2])
def test_images_finished_on_the_device_are_the_hosts(images: ps.Dataset, workers: int) -> None:
    """Flips, normalising, erasing and mixing agree to float tolerance with what the host does, in every sample."""
    augment = [t.RandomResizedCrop(32), t.RandomHorizontalFlip(), NORMAL, t.RandomErasing()]
    told: dict[str, Any] = {"shuffle": True, "transforms": {"image": augment}, "batch_transforms": [t.MixUp(10)], "num_workers": workers}
    device = ps.DataLoader(images, 16, **told, device="cuda", normalize_on="device")
    for one, other in zip(device, ps.DataLoader(images, 16, **told), strict=True):
        assert one["image"].is_cuda
        assert torch.allclose(one["image"].cpu(), other["image"], atol=1e-5)
        assert torch.allclose(one["label"].cpu(), other["label"], atol=1e-6)


def test_colours_changed_on_the_device_round_alike(images: ps.Dataset) -> None:
    """ColorJitter on the device differs from the host's by at most two grey levels anywhere, and in fewer than one value of a hundred."""
    augment = [t.RandomResizedCrop(32), t.ColorJitter(0.4, 0.4, 0.4, 0.1)]
    device = ps.DataLoader(images, 64, transforms={"image": augment}, device="cuda", normalize_on="device")
    for one, other in zip(device, ps.DataLoader(images, 64, transforms={"image": augment}), strict=True):
        gap = (one["image"].cpu().int() - other["image"].int()).abs()
        assert gap.max() <= 2
        assert (gap > 0).float().mean() < 0.01


def test_pinned_memory_is_let_go(rows: ps.Dataset, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Of twenty loaders, one after the other, CUDA took every ring and was told to let go of it, and refused neither."""
    live: list[int] = []
    real = devices.register

    def register(device: torch.device, address: int, size: int) -> Callable[[], None]:
        let_go = real(device, address, size)
        live.append(address)

        def gone() -> None:
            live.remove(address)
            let_go()

        return gone

    monkeypatch.setattr(devices, "register", register)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(20):
            batches = iter(ps.DataLoader(rows, 64, num_workers=1, device="cuda"))
            next(batches)
            del batches
    gc.collect()
    assert not live
    assert "did not let go" not in caplog.text


def test_a_refused_registration_is_told_and_harms_nothing(rows: ps.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where CUDA refuses to pin the ring, a warning says so, and neither the loader nor the next kernel of the user's meets that error."""
    real = devices.register
    monkeypatch.setattr(devices, "register", lambda device, address, size: real(device, 1, size))
    with pytest.warns(UserWarning, match="copies to the device take a detour"):
        found = [n for batch in ps.DataLoader(rows, 64, num_workers=1, device="cuda") for n in batch["n"].tolist()]
    assert found == list(range(2000))
    assert torch.ones(4, device="cuda").sum().item() == 4


@pytest.mark.parametrize("device", ["auto", "cuda", "cuda:0", 0, torch.device("cuda", 0)])
def test_every_name_of_the_device_works(rows: ps.Dataset, device: Any) -> None:
    """A name, a number or a torch.device, and 'auto'; a device that is not there is refused with how many there are."""
    batch = next(iter(ps.DataLoader(rows, 8, device=device)))
    assert batch["x"].device == torch.device("cuda", 0)
    with pytest.raises(ps.BadRequest, match=f"there are {torch.cuda.device_count()} CUDA devices"):
        ps.DataLoader(rows, 8, device="cuda:63")
