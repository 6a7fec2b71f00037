"""The topology: explicit numbers, torchrun's environment, or one process; contradictions are errors."""

from __future__ import annotations

import json
import re
import sys
from types import SimpleNamespace

import numpy as np
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
    assert detect((2, 3), {}) == detect((np.int64(2), np.int64(3)), {}) == Topology(rank=2, world_size=3)
    assert detect(Topology(rank=0, world_size=1), {}).world_size == 1


@pytest.mark.usefixtures("no_torch")
@pytest.mark.parametrize(
    ("given", "environment", "message"),
    [
        ((2, 2), {}, "rank 2 of world size 2"),
        ((0, 0), {}, "rank 0 of world size 0"),
        ((1,), {}, r"topology=\(1,\) is neither"),
        ((0.9, 2.7), {}, r"topology=\(0.9, 2.7\) is neither \(rank, world_size\), two integers"),
        (("0", "2"), {}, r"topology=\('0', '2'\) is neither"),
        (None, {"RANK": "x", "WORLD_SIZE": "2"}, "RANK='x'"),
        (None, {"RANK": "2", "WORLD_SIZE": "2"}, "RANK='2'"),
    ],
)
def test_numbers_that_are_no_place_are_refused(given: object, environment: dict[str, str], message: str) -> None:
    """A rank outside its world, or text that is no number, is refused with its value."""
    with pytest.raises(BadRequest, match=message):
        detect(given, environment)


@pytest.mark.usefixtures("no_torch")
@pytest.mark.parametrize(
    ("environment", "source"),
    [
        ({"HOROVOD_RANK": "3", "HOROVOD_SIZE": "8"}, "Horovod"),
        ({"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "8"}, "Open MPI"),
        ({"JAX_PROCESS_ID": "3", "JAX_NUM_PROCESSES": "8"}, "JAX environment"),
        ({"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8", "SLURM_NTASKS": "16"}, "SLURM"),
        ({"TF_CONFIG": '{"cluster": {"worker": ["a", "b", "c", "d", "e", "f", "g", "h"]}, "task": {"type": "worker", "index": 3}}'}, "TF_CONFIG"),
    ],
)
def test_every_launcher_is_heard(environment: dict[str, str], source: str) -> None:
    """Whichever of them started this process, its rank and world size are used and named."""
    found = detect(environment=environment)
    assert (found.rank, found.world_size, found.source) == (3, 8, source)


@pytest.mark.usefixtures("no_torch")
def test_a_chief_comes_before_the_workers() -> None:
    """In a TF_CONFIG the chief is rank 0, workers follow, an evaluator is alone, and a parameter server is refused."""

    def place(kind: str, index: int) -> tuple[int, int]:
        cluster = {"chief": ["c:1"], "worker": ["a:1", "b:1"], "ps": ["p:1"], "evaluator": ["e:1"]}
        found = detect(environment={"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})})
        return found.rank, found.world_size

    assert [place("chief", 0), place("worker", 0), place("worker", 1), place("evaluator", 0)] == [(0, 3), (1, 3), (2, 3), (0, 1)]
    with pytest.raises(BadRequest, match="task 'ps', which reads no data"):
        place("ps", 0)


@pytest.mark.usefixtures("no_torch")
def test_a_batch_script_is_one_process() -> None:
    """The job's variables alone, as a batch script has them, say nothing about this process."""
    assert detect(environment={"SLURM_PROCID": "0", "SLURM_NTASKS": "16", "SLURM_JOB_ID": "7"}).world_size == 1


@pytest.mark.usefixtures("no_torch")
def test_a_launcher_that_slurm_started_is_believed() -> None:
    """Two tasks of srun that are two torchruns with eight processes each are sixteen ranks."""
    found = detect(environment={"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "RANK": "11", "WORLD_SIZE": "16"})
    assert (found.rank, found.world_size, found.source) == (11, 16, "torchrun environment")


@pytest.mark.usefixtures("no_torch")
@pytest.mark.parametrize(
    ("source", "rank", "size"),
    [
        ("torchrun environment", "RANK", "WORLD_SIZE"),
        ("Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
        ("JAX environment", "JAX_PROCESS_ID", "JAX_NUM_PROCESSES"),
    ],
)
def test_slurm_with_the_same_world_and_another_rank_is_a_contradiction(source: str, rank: str, size: str) -> None:
    """As many tasks as processes are these processes, whose ranks must be SLURM's too; torchrun's agents, one a task, number their workers as they met."""
    step = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8"}
    with pytest.raises(BadRequest, match=f"{source} says rank 0 of 8; SLURM says rank 3 of 8; pass topology="):
        detect(environment={**step, rank: "0", size: "8"})
    assert detect(environment={**step, rank: "3", size: "8"}).source == source
    assert detect(environment={**step, rank: "0", size: "4"}).world_size == 4
    assert detect(environment={**step, rank: "0", size: "8", "TORCHELASTIC_RUN_ID": "none"}).rank == 0


@pytest.mark.usefixtures("no_torch")
@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "3"}, "RANK='3' and no WORLD_SIZE, and nobody else says"),
        ({"WORLD_SIZE": "4"}, "WORLD_SIZE='4' and no RANK, and nobody else says"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE='' and no RANK"),
        ({"RANK": "0"}, "RANK='0' and no WORLD_SIZE"),
        ({"JAX_NUM_PROCESSES": "4"}, "JAX_NUM_PROCESSES='4' and no JAX_PROCESS_ID"),
        (
            {"RANK": "3", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"},
            r"RANK='3' and no WORLD_SIZE, and this is rank 1 of 2 \(Open MPI\)",
        ),
    ],
)
def test_half_a_place_is_refused(environment: dict[str, str], message: str) -> None:
    """A rank without a world, or a world without a rank, would make every process read everything: it is refused by name, with what to do."""
    with pytest.raises(BadRequest, match=message):
        detect(environment=environment)


def test_half_a_place_that_is_known_whole_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A world of one needs no rank; and what Lightning leaves beside an initialised torch.distributed must only say the same, as beside explicit numbers anything may."""
    fake_distributed(monkeypatch, 1, 2)
    assert detect(environment={"WORLD_SIZE": "2"}).rank == 1
    with pytest.raises(BadRequest, match=r"WORLD_SIZE='3' and no RANK, and this is rank 1 of 2 \(torch.distributed\)"):
        detect(environment={"WORLD_SIZE": "3"})
    assert detect((0, 2), {"WORLD_SIZE": "3"}).rank == 0
    fake_distributed(monkeypatch, 0, 1, initialised=False)
    assert detect(environment={"WORLD_SIZE": "1"}).source == "one process"


@pytest.mark.usefixtures("no_torch")
def test_launchers_that_agree_are_no_contradiction_and_others_are() -> None:
    """Horovod over Open MPI says the same twice; where two differ, each is named with its numbers."""
    both = {"HOROVOD_RANK": "1", "HOROVOD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}
    assert detect(environment=both).source == "Horovod"
    with pytest.raises(BadRequest, match=r"torchrun environment says rank 0 of 4; Open MPI says rank 1 of 2; pass topology="):
        detect(environment={"RANK": "0", "WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"})


@pytest.mark.usefixtures("no_torch")
@pytest.mark.parametrize(
    "text", ["{", "[]", "7", "null", '{"cluster": {"worker": 3}, "task": {"type": "worker", "index": 0}}', "[" * 100_000, "1" * 5000]
)
def test_a_broken_tf_config_is_refused(text: str) -> None:
    """What is no JSON object of the right shape is shown, with what to do, however deep or long it is."""
    with pytest.raises(BadRequest, match="TF_CONFIG="):
        detect(environment={"TF_CONFIG": text})


@pytest.mark.usefixtures("no_torch")
@pytest.mark.parametrize(
    ("cluster", "task", "message"),
    [
        ('{"worker": "hostA:2222"}', '{"type": "worker", "index": 5}', "whose 'worker' is no list of addresses"),
        ('{"worker": [1, 2]}', '{"type": "worker", "index": 0}', "whose 'worker' is no list of addresses"),
        ('{"worker": {"0": "a"}}', '{"type": "worker", "index": 0}', "whose 'worker' is no list of addresses"),
        ('{"worker": ["a", "b"]}', '{"type": "worker", "index": 0.9}', "index '0.9', which are no name and no integer"),
        ('{"worker": ["a", "b"]}', '{"type": "worker", "index": 1e999}', "index 'inf', which are"),
        ('{"worker": ["a", "b"]}', '{"type": "worker", "index": true}', "index 'True', which are"),
        ('{"worker": ["a", "b"]}', '{"type": ["worker"], "index": 0}', "no name and no integer"),
        ('{"worker": ["a", "b"]}', '["worker", 0]', "no cluster and task in JSON"),
        ('{"chief": ["c"], "worker": ["a"]}', '{"type": "chief", "index": 1}', "has 1 of 'chief' and no number 1"),
        ('{"worker": ["a"]}', '{"type": "worker", "index": -1}', "has 1 of 'worker' and no number -1"),
        ('{"worker": ["a"]}', '{"type": "chief", "index": 0}', "has 0 of 'chief' and no number 0"),
        ('{"chief": ["c", "d"], "worker": ["a"]}', '{"type": "worker", "index": 0}', "has 2 chiefs, where one leads"),
        ('{"chief": ["c"], "master": ["d"], "worker": ["a"]}', '{"type": "worker", "index": 0}', "has 2 chiefs, where one leads"),
    ],
)
def test_a_tf_config_that_gives_no_place_is_refused(cluster: str, task: str, message: str) -> None:
    """Addresses that are no lists of strings, indices that are no integers or that nobody has, and second chiefs are named, never rounded or counted by letters."""
    with pytest.raises(BadRequest, match=re.escape(message)):
        detect(environment={"TF_CONFIG": f'{{"cluster": {cluster}, "task": {task}}}'})
    assert detect(environment={"TF_CONFIG": '{"cluster": {"worker": ["a", "b"]}, "task": {"type": "worker", "index": "1"}}'}).rank == 1


@pytest.mark.usefixtures("no_torch")
def test_what_was_detected_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """The first loader of a process says whose share it has, later ones do not repeat it, and one process says nothing."""
    environment = {"RANK": "40", "WORLD_SIZE": "41"}
    with caplog.at_level("INFO", "penstock"):
        for _ in range(3):
            detect(environment=environment)
            detect(environment={})
    assert [record.getMessage() for record in caplog.records] == ["penstock: data is shared as rank 40 of 41 (torchrun environment)"]


@pytest.mark.usefixtures("no_torch")
def test_parts_of_sequences_are_logged_too(caplog: pytest.LogCaptureFixture) -> None:
    """One data-parallel rank whose sequences are cut says which part it has."""
    with caplog.at_level("INFO", "penstock"):
        detect(Topology(context_rank=1, context_size=5, source="test"), {})
    assert [record.getMessage() for record in caplog.records] == ["penstock: data is shared as rank 0 of 1, part 1 of 5 of each sequence (test)"]
