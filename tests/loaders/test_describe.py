"""Errors on their way from a worker: every class comes back as itself, whatever it says, and no message outgrows the socket."""

from __future__ import annotations

import json
from typing import Any, NoReturn

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import AlreadyExists, BadData, BadRequest, NotADataset, PenstockError, StorageError, WorkerFailed
from penstock.loaders.faults import describe, rebuild
from penstock.loaders.protocol import Answer, Kind, pack_answer, unpack_answer
from penstock.loaders.worker import MESSAGE_BYTES

NAME = st.none() | st.text(max_size=30)


def raised(error: BaseException) -> BaseException:
    """Return the error with a traceback."""
    with pytest.raises(type(error)) as caught:
        _raise(error)
    return caught.value


def _raise(error: BaseException) -> NoReturn:
    raise error


def sent(error: BaseException, stage: str = "read") -> PenstockError:
    """Return what arrives at the parent: described, packed, unpacked, rebuilt."""
    record = pack_answer(Answer(kind=Kind.ERROR, ticket=3, detail=describe(error, stage)))
    assert len(record) <= MESSAGE_BYTES
    return rebuild(unpack_answer(record).detail or {})


@given(reason=st.text(max_size=200), path=NAME, shard=NAME, field=NAME, row=st.none() | st.integers(0, 2**60) | st.text(max_size=9))
def test_bad_data_arrives_as_it_was(reason: str, path: Any, shard: Any, field: Any, row: Any) -> None:
    """BadData keeps its reason and every part of its place."""
    error = sent(BadData(reason, path=path, shard=shard, row=row, field=field))
    assert type(error) is BadData
    assert (error.reason, error.path, error.shard, error.row, error.field) == (reason, path, shard, row, field)


@pytest.mark.parametrize("row", [np.int64(7), np.int32(7), np.uint16(7)])
def test_rows_counted_by_numpy(row: Any) -> None:
    """A row number that numpy counted is a number on the other side."""
    error = sent(BadData("x", row=row))
    assert isinstance(error, BadData)
    assert error.row == 7


@pytest.mark.parametrize("kind", [BadRequest, NotADataset, AlreadyExists])
def test_requests_keep_their_class(kind: type[BadRequest]) -> None:
    """The caller's errors come back as the class that a caller would catch, with the same text."""
    error = sent(kind("no such thing: 'é'"))
    assert type(error) is kind
    assert str(error) == "no such thing: 'é'"


@given(message=st.text(max_size=100), url=st.text(max_size=50), attempts=st.integers(1, 9))
def test_storage_errors_keep_url_and_attempts(message: str, url: str, attempts: int) -> None:
    """StorageError keeps where and how often."""
    error = sent(StorageError(message, url=url, attempts=attempts))
    assert isinstance(error, StorageError)
    assert (error.message, error.url, error.attempts) == (message, url, attempts)


def test_worker_failures_keep_their_stage_and_cause() -> None:
    """WorkerFailed keeps message and stage, and its traceback holds the cause."""
    failure = WorkerFailed("map raised KeyError", stage="map")
    failure.__cause__ = raised(KeyError("theirs"))
    got = sent(failure, "transform")
    assert isinstance(got, WorkerFailed)
    assert (got.message, got.stage) == ("map raised KeyError", "map")
    assert "KeyError: 'theirs'" in got.traceback
    again = sent(WorkerFailed("without a stage"), "decode")
    assert isinstance(again, WorkerFailed)
    assert again.stage == "decode"


@pytest.mark.parametrize(
    "error", [ValueError("v"), KeyError("k"), MemoryError(), OSError(5, "io"), ZeroDivisionError(), PenstockError("base"), SystemExit(3)]
)
def test_anything_else_is_a_worker_failure(error: BaseException) -> None:
    """Other errors become WorkerFailed with their class, text, stage, and the worker's traceback."""
    got = sent(raised(error), "decode")
    assert isinstance(got, WorkerFailed)
    assert got.message.startswith(f"{type(error).__name__} while in stage 'decode': {error}")
    assert "in raised" in got.traceback
    assert got.stage == "decode"


def test_an_error_that_cannot_say_what_it_is() -> None:
    """A user's error whose text raises still arrives."""

    class MuteError(Exception):
        """Cannot be shown."""

        def __str__(self) -> str:
            raise RuntimeError("mute")

    got = sent(raised(MuteError()), "map")
    assert isinstance(got, WorkerFailed)
    assert "MuteError while in stage 'map': (an error whose text cannot be had)" in str(got)


ENDLESS = st.sampled_from(["x", "é", "\n", '"', "\\", "\0", "😀", "\ud800", "日本"])


@settings(max_examples=60, deadline=None)
@given(ENDLESS, ENDLESS, st.sampled_from([1, 1000, 40_000, 300_000]))
def test_no_error_is_too_long_for_the_socket(letter: str, other: str, size: int) -> None:
    """Texts and places of any length, in any alphabet, fit one message; what is cut keeps its beginning, and short ones are whole."""
    for error in (
        BadData(letter * size, path=other * size, shard=letter * size, field=other * size, row=letter * size),
        BadRequest(letter * size),
        StorageError(letter * size, url=other * size),
        WorkerFailed(letter * size),
        raised(ValueError(letter * size)),
    ):
        got = sent(error)
        text = got.reason if isinstance(got, BadData) else str(got)
        assert letter in text
        if isinstance(error, BadData) and size == 1:
            assert isinstance(got, BadData)
            assert (got.reason, got.path) == (letter, other)


def test_a_cut_traceback_keeps_its_end() -> None:
    """Of a long traceback the end stays, where the error is."""

    def deep(level: int) -> None:
        if level == 0:
            raise ValueError("at the bottom")
        deep_too(level - 1)

    def deep_too(level: int) -> None:
        names = f"{level} " * 3
        assert names
        deep(level)

    try:
        deep(400)
    except ValueError as error:
        told = describe(error, "map")
    assert len(json.dumps(told["traceback"])) <= 36_000
    assert told["traceback"].rstrip().endswith("ValueError: at the bottom")


def test_what_is_described_is_json() -> None:
    """A description holds nothing that JSON cannot say, so no class of the user's is ever unpickled in the parent."""
    for error in (ValueError(object()), BadData("x", row=np.int64(3)), WorkerFailed("x"), StorageError("x", url="y")):
        assert json.loads(json.dumps(describe(error, "read"))) == describe(error, "read")
