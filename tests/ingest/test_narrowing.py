"""A chunk with bad rows is taken apart without a deep stack and without a pass a bad row, and its order is kept."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from penstock import Json
from penstock.ingest import normalize as module
from penstock.ingest.normalize import Clean, normalize
from penstock.ingest.report import Bad
from penstock.ingest.settings import ImageRule
from penstock.ingest.source import Chunk

RULE = ImageRule(check="decode", resize_short=None, max_pixels=None, encoding=None, quality=90)


def chunk(values: list[bytes]) -> Chunk:
    """Return rows of one JSON column."""
    return Chunk(columns={"j": values}, source="s", rows=np.arange(len(values), dtype=np.int64), keys=None, size_bytes=1)


@pytest.mark.parametrize("good_every", [1, 2, 7, 10**9])
def test_thousands_of_bad_rows(good_every: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """4,000 rows of broken JSON, with good ones between, are set aside each by its number; rows tried stay O(rows log rows)."""
    values = [b'{"a": 1}' if i % good_every == good_every - 1 else b"{broken" for i in range(4000)]
    tried = 0
    original = module.canonical  # type: ignore[attr-defined]

    def counted(batch: object, schema: object) -> object:
        nonlocal tried
        tried += batch.num_rows  # type: ignore[attr-defined]
        return original(batch, schema)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "canonical", counted)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(400)
    try:
        found = list(normalize(chunk(values), {"j": Json()}, RULE))
    finally:
        sys.setrecursionlimit(limit)
    order = [n for one in found for n in ([one.row] if isinstance(one, Bad) else one.kept.tolist())]
    assert order == list(range(4000))
    assert [one.row for one in found if isinstance(one, Bad)] == [i for i, value in enumerate(values) if value == b"{broken"]
    assert sum(one.batch.num_rows for one in found if isinstance(one, Clean)) == sum(value != b"{broken" for value in values)
    assert tried <= 4000 * 13


def test_reason_is_the_writer_s_own() -> None:
    """A bad row carries its column, its key and why."""
    (bad,) = [one for one in normalize(chunk([b"1", b"{", b"2"]), {"j": Json()}, RULE) if isinstance(one, Bad)]
    assert bad.reason.startswith("j: ")
    assert bad.key == "s#1"
