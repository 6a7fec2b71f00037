"""The parent's side of the pipe: what it takes for a death, how it counts deaths, and what errors keep on the way."""

from __future__ import annotations

import json
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contracts.raw import image_folder

from penstock.errors import AlreadyExists, BadData, BadRequest, NotADataset, PenstockError, StorageError, WorkerFailed
from penstock.ingest import engines
from penstock.ingest.convert import convert
from penstock.ingest.engines import LocalEngine, rebuild
from penstock.ingest.worker import describe_error


def crossed(error: Exception) -> PenstockError:
    """Return an error as it arrives in the parent, raised in a worker first so that it has a traceback."""
    try:
        raise error  # noqa: TRY301 - raised here so that it has a traceback
    except Exception as raised:  # noqa: BLE001 - any error crosses the pipe
        return rebuild(json.loads(json.dumps(describe_error(raised))), 1, 7)


@pytest.mark.parametrize(
    "error",
    [
        BadData("broken", path="p", shard="s", row=3, field="f"),
        BadData("broken", row="3 to 5"),
        BadRequest("odd"),
        AlreadyExists("stands"),
        NotADataset("nowhere"),
        StorageError("full", url="/y", attempts=4),
    ],
)
def test_errors_keep_class_place_and_traceback(error: PenstockError) -> None:
    """An error arrives as its own class, equal in all it says, and its cause shows the worker's traceback."""
    arrived = crossed(error)
    assert type(arrived) is type(error)
    assert arrived.__reduce__() == error.__reduce__()
    assert str(arrived) == str(error)
    assert isinstance(arrived.__cause__, WorkerFailed)
    assert "in crossed" in arrived.__cause__.traceback
    assert "part 7 of stage 1" in arrived.__cause__.message


def test_row_of_numpy_crosses_too() -> None:
    """A row number that NumPy made is a number on the other side."""
    arrived = crossed(BadData("broken", row=np.int64(5)))
    assert isinstance(arrived, BadData)
    assert arrived.row == 5


def _engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[LocalEngine, engines._State, Any]:
    """Return an engine whose deaths are only told, and one process of it."""
    engine = LocalEngine(1)
    monkeypatch.setattr(engine, "_tail", lambda _: "")
    process = engines._Process(popen=None, log=None, deadline=0.0)  # type: ignore[arg-type]
    engine._processes.append(process)
    return engine, engines._State(stage=1, waiting=deque()), process


def test_deaths_count_in_a_row_and_per_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Success of a part, and a start, begin their counts anew; deaths of one part do not count for another."""
    engine, state, process = _engine(tmp_path, monkeypatch)

    def die(part: int | None) -> None:
        process.part = part
        engine._died(process, state, "died")
        engine._processes.append(process)

    for _ in range(4):  # starts that fail twice, and then one that works
        die(None)
        die(None)
        engine._answer(process, {"ready": True}, state, lambda *_: None)
    die(1)
    die(1)
    die(2)
    die(2)
    engine._answer(process, {"done": 1}, state, lambda *_: None)
    die(1)
    with pytest.raises(WorkerFailed, match="part 2 of stage 1: the worker died, 3 times in a row"):
        die(2)


def test_waking_for_nothing_is_no_death(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read that finds nothing yet does not end the worker: no part is tried twice."""
    image_folder(tmp_path / "raw", classes=1, each=20)
    original, idle, deaths = LocalEngine._start, [0], [0]

    class Drowsy:
        """A pipe that now and then has nothing, though the selector said it had."""

        def __init__(self, pipe: Any) -> None:
            self._pipe = pipe

        def read(self) -> bytes | None:
            """Return nothing every other time."""
            idle[0] += 1
            return None if idle[0] % 2 else self._pipe.read()

        def __getattr__(self, name: str) -> Any:
            return getattr(self._pipe, name)

    def start(self: LocalEngine, *given: Any) -> None:
        original(self, *given)
        self._processes[-1].popen.stdout = Drowsy(self._processes[-1].popen.stdout)  # type: ignore[assignment]

    died = LocalEngine._died

    def counted(self: LocalEngine, *given: Any) -> None:
        deaths[0] += 1
        died(self, *given)

    monkeypatch.setattr(LocalEngine, "_start", start)
    monkeypatch.setattr(LocalEngine, "_died", counted)
    assert convert(tmp_path / "raw", tmp_path / "out", workers=1).rows_out == 20
    assert idle[0] > 1
    assert deaths == [0]
