"""Counters and timers add up: merging is a sum in any order, and a report says what the fields say."""

from __future__ import annotations

import dataclasses
import json
import pickle
from functools import reduce
from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.metrics import LoaderStats, WorkTimes

ns = st.integers(0, 2**62)
seconds = st.integers(0, 2**20).map(lambda n: n / 64)  # exact in binary, so that sums do not depend on their order
counts = st.integers(0, 2**40)
times = st.builds(WorkTimes, read_ns=ns, decode_ns=ns, transform_ns=ns)
stats = st.builds(
    LoaderStats,
    samples=counts,
    batches=counts,
    elapsed_s=seconds,
    wait_s=seconds,
    read_s=seconds,
    decode_s=seconds,
    transform_s=seconds,
    copied_batches=counts,
    replaced_workers=counts,
)
several = st.one_of(st.lists(times, min_size=1, max_size=6), st.lists(stats, min_size=1, max_size=6))


def names_of(value: Any) -> list[str]:
    """Return the fields of a value, or of its class, in order."""
    return list((value if isinstance(value, type) else type(value)).__annotations__)


@given(several, st.randoms())
def test_merging_is_a_sum_in_any_order(parts: list[Any], random: Any) -> None:
    """Each field of the merged is the sum of that field, however the parts come and are grouped; nothing is the neutral part."""
    merged = reduce(lambda a, b: a.merge(b), parts)
    for name in names_of(merged):
        assert getattr(merged, name) == sum(getattr(part, name) for part in parts)
    shuffled = random.sample(parts, len(parts))
    assert reduce(lambda a, b: b.merge(a), shuffled) == merged
    assert merged.merge(type(merged)()) == merged == type(merged)().merge(merged)


@given(st.one_of(times, stats))
def test_they_are_values(value: Any) -> None:
    """They equal what they were through a pickle, merging leaves the parts as they were, and none can be changed."""
    before = [getattr(value, name) for name in names_of(value)]
    value.merge(value)
    assert [getattr(value, name) for name in names_of(value)] == before
    assert pickle.loads(pickle.dumps(value)) == value
    with pytest.raises(AttributeError):
        setattr(value, names_of(value)[0], 1)


def test_statistics_are_built_by_name() -> None:
    """What users see cannot be built by position, where counts and seconds could change places."""
    with pytest.raises(TypeError):
        LoaderStats(1)  # type: ignore[call-arg]


@given(stats)
def test_the_report_says_what_the_fields_say(value: LoaderStats) -> None:
    """Through JSON text the report has every field, and the rate, and nothing else."""
    told = json.loads(json.dumps(value.to_json()))
    assert told == {**dataclasses.asdict(value), "samples_per_s": value.samples_per_s}
    assert LoaderStats(**{name: told[name] for name in dataclasses.asdict(value)}) == value


def test_the_rate_is_of_the_whole() -> None:
    """Rows by wall clock; before the first batch it is 0, and of two epochs it is that of both together, not the mean of rates."""
    assert LoaderStats().samples_per_s == 0.0
    slow, fast = LoaderStats(samples=100, elapsed_s=10.0), LoaderStats(samples=900, elapsed_s=10.0)
    assert (slow.samples_per_s, fast.samples_per_s) == (10.0, 90.0)
    assert slow.merge(fast).samples_per_s == 50.0
    assert LoaderStats(samples=300, elapsed_s=1.0).merge(slow).samples_per_s == pytest.approx(400 / 11)


@pytest.mark.parametrize("kind", [WorkTimes, LoaderStats])
def test_units_are_in_the_names(kind: type[Any]) -> None:
    """A whole number is a count or nanoseconds, a float is seconds, the name says which, and the docstring explains each."""
    for name in names_of(kind):
        assert name.endswith({"float": "_s", "int": "_ns" if kind is WorkTimes else name}[get_type_hints(kind)[name].__name__])
        assert f"{name}:" in (kind.__doc__ or "")
