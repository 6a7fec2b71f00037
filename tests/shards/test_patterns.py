"""Brace patterns stand for the names that bash would give, and never for more than a limit."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import BadRequest
from penstock.shards.patterns import expand, is_pattern

LIKE_BASH = [
    "plain.tar",
    "train-{000000..000003}.tar",
    "{8..11}",
    "{08..11}",
    "{3..1}",
    "{0..10..5}",
    "{10..0..5}",
    "{-2..2}",
    "{-01..1}",
    "{a,b}{1..2}.tar",
    "{a,{b,c},d}",
    "{a..e}",
    "{e..a..2}",
    "x{single}y",
    "a{,b}c",
    "{{1..2},9}",
    "{1..2}-{1..2}",
    "{{a,b}}",
]


@pytest.mark.parametrize("pattern", LIKE_BASH)
def test_it_is_what_bash_says(pattern: str) -> None:
    """Each form of a pattern gives bash's names in bash's order."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash to compare with")
    said = subprocess.run([bash, "-c", f"printf '%s\\n' {pattern}"], capture_output=True, text=True, check=True).stdout.splitlines()
    assert expand(pattern) == said


@pytest.mark.parametrize("pattern", ["a{b", "a}b", "{1..3}}", "{{1..3}", "{1..3..0}", "{a..c..0}"])
def test_a_broken_pattern_is_refused_by_name(pattern: str) -> None:
    """A brace out of balance or a step of zero is the caller's error and shows the pattern."""
    with pytest.raises(BadRequest) as caught:
        expand(pattern)
    assert repr(pattern) in str(caught.value)


@pytest.mark.parametrize("pattern", ["{0..999999999999999999}", "{0..9999}{0..9999}", "{-999999999999999999..999999999999999999}"])
def test_a_typo_cannot_fill_the_memory(pattern: str) -> None:
    """A pattern of too many names is refused before any is made."""
    with pytest.raises(BadRequest, match="more than 1000000"):
        expand(pattern)


def test_the_limit_is_exact() -> None:
    """As many names as the limit are fine, one more is not."""
    assert len(expand("{1..5}", limit=5)) == 5
    with pytest.raises(BadRequest, match="6 names, more than 5"):
        expand("{1..6}", limit=5)


@given(st.integers(0, 10**6), st.integers(0, 50), st.integers(1, 9))
def test_a_padded_range_counts(first: int, more: int, width: int) -> None:
    """A zero-padded range is every number between its ends, padded alike."""
    width = max(width, len(str(first + more)) + 1)
    names = expand(f"s-{{{first:0{width}d}..{first + more:0{width}d}}}.tar")
    assert names == [f"s-{n:0{width}d}.tar" for n in range(first, first + more + 1)]


@given(st.text(st.characters(exclude_characters="{}", exclude_categories=["Cs"])))
def test_text_without_braces_stands_for_itself(text: str) -> None:
    """Nothing but a brace has a meaning."""
    assert expand(text) == [text]
    assert not is_pattern(text)


@given(st.text("{},.ab01-", max_size=24))
def test_any_text_is_expanded_or_refused(text: str) -> None:
    """No text makes it fail in another way, or run on."""
    with suppress(BadRequest):
        assert expand(text, limit=1000)
