"""The topology: explicit numbers, torchrun's environment, or one process; contradictions are errors."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from penstock.errors import BadRequest
from penstock.loaders.topology import Topology, detect


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Act as a process that never imported torch.distributed."""
    monkeypatch.delitem(sys.modules, "torch.distributed", raising=False)


def fake_distributed(monkeypatch: pytest.MonkeyPatch, rank: int, world_size: int, *, initialised: bool = True) -> None:
    """Act as a process in which torch.distributed was initialised."""
    fake = SimpleNamespace(is_available=lambda: True, is_initialized=lambda: initialised, get_rank=lambda: rank, get_world_size=lambda: world_size)
    monkeypatch.setitem(sys.modules, "torch.distributed", fake)


@pytest.mark.usefixtures("no_torch")
def test_alone_without_any_sign() -> None:
    """No numbers, no torch, no environment: one process."""
    assert detect(environment={}) == Topology(source="one process")


@pytest.mark.usefixtures("no_torch")
def test_torchruns_environment_is_read() -> None:
    """RANK and WORLD_SIZE as torchrun sets them are used."""
    found = detect(environment={"RANK": "3", "WORLD_SIZE": "8"})
    assert (found.rank, found.world_size, found.source) == (3, 8, "torchrun environment")


def test_initialised_torch_distributed_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """An initialised process group gives the numbers, one that is not is ignored."""
    fake_distributed(monkeypatch, 1, 2)
    assert (detect(environment={}).rank, detect(environment={}).world_size) == (1, 2)
    fake_distributed(monkeypatch, 1, 2, initialised=False)
    assert detect(environment={}).world_size == 1


def test_contradiction_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process group and an environment that disagree are refused with both."""
    fake_distributed(monkeypatch, 1, 2)
    with pytest.raises(BadRequest, match=r"rank 1 of 2.*rank 0 of 4"):
        detect(environment={"RANK": "0", "WORLD_SIZE": "4"})


def test_explicit_numbers_win(monkeypatch: pytest.MonkeyPatch) -> None:
    """Explicit numbers are taken whatever the process group says."""
    fake_distributed(monkeypatch, 1, 2)
    assert detect((2, 3), {}) == Topology(rank=2, world_size=3)
    assert detect(Topology(rank=0, world_size=1), {}).world_size == 1


@pytest.mark.usefixtures("no_torch")
@pytest.mark.parametrize(
    ("given", "environment", "message"),
    [
        ((2, 2), {}, "rank 2 of world size 2"),
        ((0, 0), {}, "rank 0 of world size 0"),
        ((1,), {}, r"topology=\(1,\) is not"),
        (None, {"RANK": "x", "WORLD_SIZE": "2"}, "RANK='x'"),
        (None, {"RANK": "2", "WORLD_SIZE": "2"}, "RANK='2'"),
    ],
)
def test_numbers_that_are_no_place_are_refused(given: object, environment: dict[str, str], message: str) -> None:
    """A rank outside its world, or text that is no number, is refused with its value."""
    with pytest.raises(BadRequest, match=message):
        detect(given, environment)  # type: ignore[arg-type]
