"""Brace patterns: `train-{000000..000146}.tar` to the list of names it stands for. A pure function; it never looks at a disk.

The notation is that of bash and of WebDataset: `{a,b}` is a choice, `{1..9}` a range (zero padding kept, `{1..9..2}` with a step, `{a..e}`
of letters, also downwards), braces nest, and `{single}` stands for itself. What differs: an unbalanced brace is refused instead of being
taken literally, and the number of names is computed before the first is made, so that a typo cannot fill the memory.

Cost: O(names). Refused: the `braceexpand` package, one dependency for one small function, without a limit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise, product
from math import prod

from ..errors import BadRequest

MAX_NAMES = 1_000_000
"""A pattern that stands for more names than this is taken for a typo."""

_NUMBERS = re.compile(r"(-?\d{1,18})\.\.(-?\d{1,18})(?:\.\.(-?\d{1,18}))?", re.ASCII)
_LETTERS = re.compile(r"([a-zA-Z])\.\.([a-zA-Z])(?:\.\.(-?\d{1,18}))?", re.ASCII)

_Piece = list[str] | range | tuple[int, range]
"""What stands at one place: names, letters' code points, or (width, numbers)."""


def is_pattern(text: str) -> bool:
    """Return whether `text` holds a brace."""
    return "{" in text


def expand(pattern: str, *, limit: int = MAX_NAMES) -> list[str]:
    """Return the names that `pattern` stands for, in order; a text without braces stands for itself.

    Raises:
        BadRequest: a brace is unbalanced, a step is zero, or there are more than `limit` names.
    """
    pieces = list(_pieces(pattern, limit))
    count = prod(_size(piece) for piece in pieces)
    if count > limit:
        raise BadRequest(f"pattern {pattern!r} stands for {count} names, more than {limit}; is a range mistyped?")
    return ["".join(names) for names in product(*(_names(piece) for piece in pieces))]


def _pieces(pattern: str, limit: int) -> Iterator[_Piece]:
    place = 0
    while (opening := pattern.find("{", place)) >= 0:
        _refuse_stray(pattern, place, opening)
        closing, commas = _matching(pattern, opening)
        yield [pattern[place:opening]]
        yield _group(pattern, opening, closing, commas, limit)
        place = closing + 1
    _refuse_stray(pattern, place, len(pattern))
    yield [pattern[place:]]


def _refuse_stray(pattern: str, start: int, end: int) -> None:
    if (stray := pattern.find("}", start, end)) >= 0:
        raise BadRequest(f"pattern {pattern!r} has a '}}' at {stray} that nothing opens")


def _matching(pattern: str, opening: int) -> tuple[int, list[int]]:
    """Return where the brace at `opening` closes and the commas that divide it."""
    depth = 0
    commas: list[int] = []
    for place in range(opening, len(pattern)):
        match pattern[place]:
            case "{":
                depth += 1
            case "}":
                depth -= 1
                if depth == 0:
                    return place, commas
            case "," if depth == 1:
                commas.append(place)
    raise BadRequest(f"pattern {pattern!r} has a '{{' at {opening} that nothing closes")


def _group(pattern: str, opening: int, closing: int, commas: list[int], limit: int) -> _Piece:
    inside = pattern[opening + 1 : closing]
    if commas:
        edges = [opening, *commas, closing]
        choices = (expand(pattern[a + 1 : b], limit=limit) for a, b in pairwise(edges))
        return [name for names in choices for name in names]
    if found := _NUMBERS.fullmatch(inside):
        first, last, step = found.groups()
        padded = any(len(text.lstrip("-")) > 1 and text.lstrip("-").startswith("0") for text in (first, last))
        return (max(len(first), len(last)) if padded else 0), _range(pattern, int(first), int(last), step)
    if found := _LETTERS.fullmatch(inside):
        first, last, step = found.groups()
        return _range(pattern, ord(first), ord(last), step)
    return [f"{{{name}}}" for name in expand(inside, limit=limit)]


def _range(pattern: str, first: int, last: int, step: str | None) -> range:
    width = abs(int(step)) if step is not None else 1
    if width == 0:
        raise BadRequest(f"pattern {pattern!r} has a range with step 0")
    return range(first, last + 1, width) if first <= last else range(first, last - 1, -width)


def _size(piece: _Piece) -> int:
    return len(piece[1] if isinstance(piece, tuple) else piece)


def _names(piece: _Piece) -> list[str]:
    if isinstance(piece, tuple):
        width, numbers = piece
        return [f"{number:0{width}d}" for number in numbers] if width else [str(number) for number in numbers]
    return [chr(code) for code in piece] if isinstance(piece, range) else piece
