"""What was asked, as one value: valid when built, the same after JSON, and refused by name and value when it cannot work."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import BadRequest
from penstock.ingest.assign import parse_splits
from penstock.ingest.report import parse_max_bad
from penstock.ingest.settings import ImageRule, Settings, parse_reencode

Names = st.text(max_size=6).map(str.strip).filter(lambda name: name and not name.startswith((".", "_")) and not set(name) & set("/\0="))


@given(
    splits=st.dictionaries(Names, st.floats(0.01, 0.2), max_size=4),
    columns=st.none() | st.lists(st.text(max_size=4), min_size=1, unique=True).map(tuple),
    shuffle=st.none() | st.integers(),
    short=st.none() | st.integers(1, 10**6),
    quality=st.integers(1, 100),
)
def test_settings_go_through_json(
    splits: dict[str, float], columns: tuple[str, ...] | None, shuffle: int | None, short: int | None, quality: int
) -> None:
    """Whatever is valid equals itself after JSON, the order of splits included, and names one target a split or one without name."""
    made = Settings(source="/é", kind="csv", splits=splits, columns=columns, shuffle=shuffle, image=ImageRule(resize_short=short, quality=quality))
    found = Settings.from_json(json.loads(json.dumps(made.to_json())))
    assert found == made
    assert list(found.splits) == list(made.splits)
    assert found.targets == (tuple(splits) or ("",))


@pytest.mark.parametrize(
    ("given_", "reason"),
    [
        ({"format": "zip"}, "format: 'zip' is not one of 'arrow', 'tar'"),
        ({"format": None}, "format: None"),
        ({"shuffle": 1.5}, "shuffle: seed 1.5 must be a whole number"),
        ({"shuffle": True}, "shuffle: seed True must be a whole number"),
        ({"columns": ()}, r"columns: \[\] must name one or more columns, each once"),
        ({"columns": ("a", "a")}, r"columns: \['a', 'a'\] must name"),
        ({"split_key": "user"}, "split_key: 'user' has no meaning without split"),
    ],
)
def test_settings_that_cannot_work(given_: dict[str, Any], reason: str) -> None:
    """Each is refused when the value is built, with what was given."""
    with pytest.raises(BadRequest, match=reason):
        Settings(source="/s", kind="csv", **given_)


@pytest.mark.parametrize(
    ("given_", "reason"),
    [
        ({"check": "twice"}, "check: 'twice' is not one of 'decode', 'header'"),
        ({"resize_short": 0}, "resize_short: 0 must be a whole number of pixels, 1 or more"),
        ({"resize_short": 2.5}, "resize_short: 2.5"),
        ({"max_pixels": -4}, "max_pixels: -4"),
        ({"max_pixels": True}, "max_pixels: True"),
        ({"quality": 0}, "reencode: quality 0 must lie between 1 and 100"),
        ({"quality": 101}, "reencode: quality 101"),
    ],
)
def test_image_rules_that_cannot_work(given_: dict[str, Any], reason: str) -> None:
    """Each is refused when the value is built, with what was given."""
    with pytest.raises(BadRequest, match=reason):
        ImageRule(**given_)


@pytest.mark.parametrize(
    ("given_", "changes"),
    [({}, False), ({"check": "header"}, False), ({"quality": 5}, False), ({"max_pixels": 1}, True), ({"encoding": "png"}, True)],
)
def test_rule_knows_whether_it_changes_anything(given_: dict[str, Any], changes: bool) -> None:
    """Only scaling and an encoding change bytes; a check and a quality that is not used do not."""
    assert ImageRule(**given_).changes is changes


@given(st.sampled_from(["jpeg", "png", "webp"]), st.integers(0, 999))
def test_every_encoding_with_every_quality(encoding: str, quality: int) -> None:
    """`ENCODING:QUALITY` is taken apart whatever the number, and the rule judges it."""
    assert parse_reencode(f"{encoding}:{quality}") == (encoding, quality)
    if not 1 <= quality <= 100:
        with pytest.raises(BadRequest, match=f"quality {quality}"):
            ImageRule(encoding=encoding, quality=quality)


@given(st.text(max_size=10))
def test_no_text_is_taken_for_an_encoding_by_chance(text: str) -> None:
    """Any text is one of the encodings, with a quality or without, or refused with itself and an example."""
    try:
        encoding, quality = parse_reencode(text)
    except BadRequest as error:
        assert repr(text) in str(error)  # noqa: PT017 - either is right, depending on the text
        assert "jpeg:90" in str(error)  # noqa: PT017 - as above
    else:
        assert text.split(":", maxsplit=1)[0] == encoding
        assert 0 <= quality <= 999


@given(st.dictionaries(Names, st.integers(1, 10), min_size=1, max_size=5))
def test_splits_mean_the_same_in_every_spelling(parts: dict[str, int]) -> None:
    """A mapping, fractions and percentages give the same fractions, in the order given, which never sum to more than 1."""
    whole = max(sum(parts.values()), 10)
    wanted = {name: part / whole for name, part in parts.items()}
    assert parse_splits(wanted) == wanted
    assert parse_splits([f" {name} = {part / whole} " for name, part in parts.items()]) == wanted
    percent = parse_splits([f"{name}={part / whole * 100}%" for name, part in parts.items()])
    assert list(percent) == list(wanted)
    assert list(percent.values()) == pytest.approx(list(wanted.values()))


@pytest.mark.parametrize(
    ("given_", "reason"),
    [
        (["train"], "split: 'train' lacks '=FRACTION'; write NAME=FRACTION, such as train=0.9"),
        (["train=much"], "split: 'train=much' is not NAME=FRACTION"),
        (["train=0"], "split: fraction 0.0 of 'train' must lie above 0 and at most at 1"),
        (["train=nan"], "split: fraction nan"),
        (["train=inf"], "split: fraction inf"),
        (["train=-5%"], "split: fraction -0.05"),
        (["a=0.7", "b=40%"], r"split: the fractions \{'a': 0.7, 'b': 0.4\} sum to 1.1; they must sum to 1 or less"),
        (["a=0.1", "a=0.1"], "split: 'a' cannot name a dataset of its own"),
        (["_penstock=0.1"], "split: '_penstock' cannot name"),
        (["../x=0.1"], "split: '../x' cannot name"),
        ({"a\0": 0.1}, "cannot name"),
    ],
)
def test_refusals_of_splits(given_: Any, reason: str) -> None:
    """Each says which split and which number; no name leads out of the destination or into its own folder."""
    with pytest.raises(BadRequest, match=reason):
        parse_splits(given_)


@given(st.integers(0, 10**6), st.integers(1, 10**6), st.integers(0, 10**6))
def test_count_and_fraction_bound_both_kinds_together(allowed: int, rows: int, bad: int) -> None:
    """A bound that was given holds for damaged structure and for values alike: what counts is their sum."""
    structure = bad // 3
    count = parse_max_bad(allowed)
    assert count.allows(rows, structure=structure, samples=bad - structure) is (bad <= allowed)
    assert parse_max_bad("100%").allows(rows, structure=structure, samples=min(bad, rows) - min(structure, rows)) or bad > rows
    assert parse_max_bad(None).allows(rows, structure=0, samples=bad) is (bad <= 0.001 * rows)
    assert not parse_max_bad(None).allows(rows, structure=1, samples=0)


@pytest.mark.parametrize("text", ["nan", "inf", "-0.1", "1e9%", "5 rows", "%", "1.5", "--", "0x10"])
def test_bounds_that_are_no_bounds(text: str) -> None:
    """Anything but a count, a fraction up to 1 or a percentage up to 100 is refused with itself."""
    with pytest.raises(BadRequest, match=rf"max_bad: '{text}'"):
        parse_max_bad(text)
