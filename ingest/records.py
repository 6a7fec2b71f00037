"""Where the records of a text file begin: lines, and CSV records with quoted line breaks. Pure.

A quoted value may hold line breaks; a line break ends a record when an even number of quotes stands before it (a doubled quote counts twice).
That holds exactly when quotes stand only around whole values, which is checked; a file that breaks the rule (`5" pipe`) is not cut at all.
Cost: two passes of numpy over the bytes, about 1 GB/s, and memory of about 80 bytes a record for the whole run that is given: a part, when it is
read. Whole files are walked window by window (`windows.py`), for which `records` and `cuts` are the reference. Refused: a state machine in Python, a
hundred times slower.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .assign import Ints

NEWLINE, RETURN, QUOTE = 10, 13, 34
"""The bytes that make records."""

SPACE = b" \t\r\n"
"""What may stand between JSON documents, so that a line of nothing else is blank. In CSV only line breaks are: a space or a tab is, or parts, values."""

_BREAKS = b"\r\n"
_BLOCK = 1 << 24
_QUOTES_BLOCK = 1 << 20
_SPACE_BLOCK = 1 << 16

Memory = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Records:
    """The records of a run of text.

    Attributes:
        starts: where each begins, in bytes; blank lines are no records: empty ones in CSV, those of nothing but space in JSON Lines.
        ends: where each ends, its line break included.
        lines: the line on which each begins, counted from 0 at the run's first byte.
    """

    starts: Ints
    ends: Ints
    lines: Ints

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.starts)


def find_all(data: Memory, value: int) -> Ints:
    """Return where a byte stands; works block by block, so that no temporary is as large as the file."""
    found = [np.flatnonzero(data[at : at + _BLOCK] == value) + at for at in range(0, len(data), _BLOCK)]
    return np.concatenate(found).astype(np.int64) if found else np.zeros(0, np.int64)


def quotes_are_regular(data: Memory, quotes: Ints, delimiter: int) -> bool:
    """Whether every quote opens at the beginning of a value, closes at its end, or is one of a doubled pair."""
    if len(quotes) % 2:
        return False
    opening, closing = quotes[::2], quotes[1::2]
    before = np.where(opening > 0, data[np.maximum(opening - 1, 0)], NEWLINE)
    after = np.where(closing + 1 < len(data), data[np.minimum(closing + 1, len(data) - 1)], NEWLINE) if len(data) else closing
    opens = np.isin(before, (delimiter, NEWLINE, RETURN, QUOTE))
    doubled = np.concatenate([[False], opening[1:] == closing[:-1] + 1])
    closes = np.isin(after, (delimiter, NEWLINE, RETURN, QUOTE))
    return bool((opens & ((before != QUOTE) | doubled)).all() and closes.all())


def stray_quote(data: Memory, delimiter: int, *, window_bytes: int = _QUOTES_BLOCK) -> tuple[int, str] | None:
    """Return where the first quote opens that takes other records into its value, and why it does; None when there is none.

    Such a quote is never closed, or what closes it behind a line break stands inside another value. A parser sees one long value there and loses the
    records in it without a word. One step of Python a quote, and memory of one window's quotes: for text whose quotes are not regular.
    """
    ends = (delimiter, NEWLINE, RETURN)
    places = _quotes(data, ends, window_bytes)
    for opened, opens, _ in places:
        if not opens:
            continue  # such as 5" pipe
        for at, _, follows in places:
            if follows == QUOTE:
                next(places, None)  # the second of a doubled pair
            elif follows not in ends and _has_break(data, opened, at):
                return opened, "is closed on another line, inside a value"
            else:
                break
        else:
            return opened, "is never closed"
    return None


def _quotes(data: Memory, ends: tuple[int, ...], window_bytes: int) -> Iterator[tuple[int, bool, int]]:
    """Yield where each quote stands, whether a value can begin there, and the byte behind it; both edges of the text count as line breaks."""
    for low in range(0, len(data), window_bytes):
        quotes = np.flatnonzero(data[low : low + window_bytes] == QUOTE) + low
        before = np.where(quotes > 0, data[np.maximum(quotes - 1, 0)], NEWLINE)
        after = np.where(quotes + 1 < len(data), data[np.minimum(quotes + 1, len(data) - 1)], NEWLINE)
        yield from zip(quotes.tolist(), np.isin(before, ends).tolist(), after.tolist(), strict=True)


def _has_break(data: Memory, start: int, stop: int) -> bool:
    return any((data[low : min(low + _BLOCK, stop)] == NEWLINE).any() for low in range(start, stop, _BLOCK))


def records(data: Memory, *, delimiter: int | None = None, quotes: bool = True) -> Records | None:
    """Return the records of a run of text.

    Args:
        data: the bytes.
        delimiter: of values (CSV), or None (JSON Lines).
        quotes: whether quotes hold line breaks in CSV; without it each line is taken for a record.

    Returns:
        None when the quotes do not stand around whole values, so that records cannot be told apart.
    """
    breaks = find_all(data, NEWLINE)
    ends = breaks + 1
    lines = np.arange(1, len(breaks) + 1, dtype=np.int64)
    if delimiter is not None and quotes:
        found = find_all(data, QUOTE)
        if not quotes_are_regular(data, found, delimiter):
            return None
        outside = np.searchsorted(found, breaks) % 2 == 0
        ends, lines = ends[outside], lines[outside]
    if not len(ends) or ends[-1] < len(data):
        ends = np.append(ends, len(data))
        lines = np.append(lines, len(breaks) + 1)
    return full_records(data, ends, lines, start=0, line=0, delimiter=delimiter)


def full_records(data: Memory, ends: Ints, lines: Ints, *, start: int, line: int, delimiter: int | None) -> Records:
    """Return the records that are not blank.

    Args:
        data: the bytes.
        ends: where each record ends, blank ones included.
        lines: the line that begins there.
        start: where the first record begins.
        line: the line on which it begins.
        delimiter: of values (CSV), or None (JSON Lines); says which lines are blank.
    """
    starts = np.concatenate([[start], ends[:-1]]).astype(np.int64)
    first = np.concatenate([[line], lines[:-1]]).astype(np.int64)
    full = ~_blank(data, starts, ends, SPACE if delimiter is None else _BREAKS)
    return Records(starts=starts[full], ends=ends[full], lines=first[full])


def _blank(data: Memory, starts: Ints, ends: Ints, space: bytes) -> npt.NDArray[Any]:
    """Return which lines hold nothing but space; only lines that have some at both ends and in the middle are looked at one by one."""
    blank: npt.NDArray[Any] = ends == starts
    if not len(data):
        return blank
    marks = np.zeros(256, np.bool_)
    marks[list(space)] = True
    at = np.flatnonzero(marks[data[starts]])
    single = ends[at] - starts[at] == 1
    blank[at[single]] = True
    at = at[~single]
    for back in (2, 3):  # before a line break of one byte or two
        at = at[marks[data[np.maximum(ends[at] - back, starts[at])]]]
    at = at[marks[data[(starts[at] + ends[at]) // 2]]]
    for line, start, end in zip(at.tolist(), starts[at].tolist(), ends[at].tolist(), strict=True):
        blank[line] = not any(data[low : min(low + _SPACE_BLOCK, end)].tobytes().strip(space) for low in range(start, end, _SPACE_BLOCK))
    return blank


def cuts(found: Records, size: int, piece_bytes: int) -> list[tuple[int, int, int]]:
    """Return (start, stop, line) of runs of whole records, about `piece_bytes` each, which together cover `[0, size)`."""
    if not len(found):
        return []
    runs = []
    at = 0
    while at < len(found):
        limit = int(found.starts[at]) + piece_bytes
        following = max(int(np.searchsorted(found.ends, limit, side="right")), at + 1)
        start = 0 if at == 0 else int(found.starts[at])
        stop = size if following >= len(found) else int(found.starts[following])
        runs.append((start, stop, 0 if at == 0 else int(found.lines[at])))
        at = following
    return runs
