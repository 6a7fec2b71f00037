"""Errors name the place and the fault, are caught by the built-ins that users know, and reach the parent process whole."""

from __future__ import annotations

import copy
import inspect
import multiprocessing
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import penstock
from penstock import errors
from penstock.errors import AlreadyExists, BadData, BadRequest, NotADataset, PenstockError, StorageError, WorkerFailed

ONE_OF_EACH: tuple[PenstockError, ...] = (
    PenstockError("base"),
    BadRequest("batch_size: 0 is not positive"),
    NotADataset("/data/none holds no dataset"),
    AlreadyExists("/data/out is a dataset already"),
    BadData("its offsets are damaged", path="/data/ds", shard="data/part-0.arrow", row=7, field="image"),
    WorkerFailed("worker 3 died", stage="decode", traceback="Traceback (most recent call last):\n  ValueError: no\n"),
    StorageError("cannot write the file: the disk is full", url="/data/out/x", attempts=3),
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
places: dict[str, Any] = {"path": st.none() | texts, "shard": st.none() | texts, "row": st.none() | st.integers() | texts, "field": st.none() | texts}


def test_each_kind_is_here_once() -> None:
    """The list above has every error of the family, so what follows holds for all of them."""
    family = {kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, PenstockError)}
    assert {type(error) for error in ONE_OF_EACH} == family
    assert len(ONE_OF_EACH) == len(family)


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (BadRequest, ValueError),
        (BadData, ValueError),
        (NotADataset, FileNotFoundError),
        (AlreadyExists, FileExistsError),
        (WorkerFailed, RuntimeError),
        (StorageError, OSError),
        (NotADataset, BadRequest),
        (AlreadyExists, BadRequest),
    ],
)
def test_each_is_also_what_a_user_would_catch(kind: type[Exception], builtin: type[Exception]) -> None:
    """Besides the family's base, each error is the built-in that code without knowledge of us catches."""
    assert issubclass(kind, builtin)
    assert issubclass(kind, PenstockError)


def test_whose_fault_it_is_is_not_confused() -> None:
    """Bad data and storage are never the caller's mistake, and data is never storage."""
    assert not issubclass(BadData, BadRequest)
    assert not issubclass(StorageError, ValueError)
    assert not issubclass(BadData, OSError)
    assert not issubclass(WorkerFailed, (ValueError, OSError))


@pytest.mark.parametrize("error", ONE_OF_EACH, ids=lambda error: type(error).__name__)
def test_each_travels_whole(error: PenstockError) -> None:
    """Pickled with any protocol, copied, and sent from a process, an error keeps its class, its words and its attributes."""
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        same(pickle.loads(pickle.dumps(error, protocol)), error)
    same(copy.copy(error), error)
    same(copy.deepcopy(error), error)


def same(back: BaseException, error: PenstockError) -> None:
    """Two errors are one to whoever reads them."""
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert vars(back) == vars(error)


def _fail(number: int) -> None:
    raise ONE_OF_EACH[number]


def test_each_comes_out_of_a_worker_process() -> None:
    """Raised in a process of a pool, an error arrives as itself, and does not break the pool for the next."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        for number, error in enumerate(ONE_OF_EACH):
            arrived = pool.submit(_fail, number).exception(timeout=60)
            assert arrived is not None
            same(arrived, error)


@given(st.fixed_dictionaries(places), texts)
def test_bad_data_shows_the_place_it_knows(place: dict[str, Any], reason: str) -> None:
    """The message is the reason behind the known parts of the place, in the order path, shard, row, field, and no `None` among them."""
    text = str(BadData(reason, **place))
    parts = [str(place["path"])] if place["path"] is not None else []
    parts += [f"{name} {place[name]}" for name in ("shard", "row", "field") if place[name] is not None]
    assert text == (f"{', '.join(parts)}: {reason}" if parts else reason)


@given(st.fixed_dictionaries(places), st.fixed_dictionaries(places), st.fixed_dictionaries(places), texts)
def test_the_place_is_filled_from_the_inside_out(inner: dict[str, Any], middle: dict[str, Any], outer: dict[str, Any], reason: str) -> None:
    """`at` adds what was not known and changes nothing that was, so the layer nearest to the damage has the say."""
    error = BadData(reason, **inner)
    placed = error.at(**middle).at(**outer)
    for name in places:
        known = [each[name] for each in (inner, middle, outer) if each[name] is not None]
        assert getattr(placed, name) == (known[0] if known else None)
    assert placed.reason == reason
    assert {name: getattr(error, name) for name in places} == inner


def test_row_zero_and_empty_names_are_known() -> None:
    """What is falsy is not unknown: the first row is shown, and kept."""
    error = BadData("wrong", row=0, field="")
    assert str(error) == "row 0, field : wrong"
    assert error.at(row=5, field="x").row == 0


def test_paths_become_text() -> None:
    """A `Path` is kept as text, so that an error can be written to JSON and compared."""
    assert BadData("wrong", path=Path("/data/x")).path == "/data/x"
    assert StorageError("wrong", url=Path("/data/x")).url == "/data/x"


def test_file_errors_print_no_errno() -> None:
    """The built-in parents would print `[Errno ...]` or a bare tuple; ours print the sentence, also when there is none."""
    for kind in (NotADataset, AlreadyExists):
        assert str(kind("it is so: do this")) == "it is so: do this"
        assert str(kind()) == ""
    error = StorageError("cannot read the file: permission denied", url="/data/x")
    assert str(error) == "/data/x: cannot read the file: permission denied"
    assert error.errno is None
    assert error.attempts == 1


def test_a_workers_traceback_is_shown_behind_the_message() -> None:
    """The worker's own traceback follows the message; a killed worker has none, and no empty heading."""
    failed = WorkerFailed("worker 3 failed", stage="map", traceback="Traceback:\n  ZeroDivisionError\n")
    assert str(failed) == "worker 3 failed\n\nin the worker:\nTraceback:\n  ZeroDivisionError\n"
    assert (failed.stage, failed.message) == ("map", "worker 3 failed")
    assert str(WorkerFailed("worker 3 was killed by signal 9")) == "worker 3 was killed by signal 9"


def test_the_errors_users_need_are_in_front() -> None:
    """What a user catches is found in the package itself and is the same class as in its room."""
    for name in ("BadData", "BadRequest", "PenstockError", "StorageError", "WorkerFailed"):
        assert getattr(penstock, name) is getattr(errors, name)


def test_errors_bring_nothing() -> None:
    """The lowest layer imports neither numpy nor anything else that is not Python's own."""
    program = "import sys; before = set(sys.modules); import penstock.errors; print(*(set(sys.modules) - before))"
    brought = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60).stdout.split()
    assert {name.split(".")[0] for name in brought} - set(sys.stdlib_module_names) <= {"penstock", *(n for n in brought if "editable" in n)}
