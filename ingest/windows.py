"""Walks a large text file window by window: its records, where it is cut, how many records it has, and some of them to look at. Pure.

What is found is what `records` and `cuts` find in the whole file at once, which stay as the reference; a property test says so for every window from one byte
up. A window hands on whether it ends inside quotes, how many lines came before, and where the record that it cuts begins; the byte before its first
quote and the byte behind its last are looked up in the mapped file, so a doubled quote or a CR LF may lie across an edge.

Must never: hold more than the records of one window. Cost: one pass of numpy over the bytes, about 2 GB/s for JSON Lines and 0.5 GB/s for CSV with
quotes, and some MB whatever the file's size, besides the mapped pages, which the kernel takes back. Refused: windows of 64 MiB, which leave the
processor's cache and are half as fast.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from .records import NEWLINE, QUOTE, RETURN, Memory, Records, full_records

WINDOW_BYTES = 2**20
"""So much of a file is looked at at once; at most 50 bytes of memory for each, when all are line breaks."""


class Unruly(Exception):
    """The quotes of a text do not stand around whole values, so its records cannot be told apart."""


def walk(data: Memory, *, delimiter: int | None = None, quotes: bool = True, window_bytes: int = WINDOW_BYTES) -> Iterator[Records]:
    """Yield the records of a text, those that end in one window at a time; places and lines are counted from the text's first byte.

    Args:
        data: the bytes, mapped.
        delimiter: of values (CSV), or None (JSON Lines).
        quotes: whether quotes hold line breaks in CSV; without it each line is taken for a record.
        window_bytes: how much is looked at at once.

    Raises:
        Unruly: the quotes do not stand around whole values; perhaps only said behind many records.
    """
    start = line = lines = quoted = 0
    for low in range(0, len(data), window_bytes):
        window = data[low : low + window_bytes]
        ends = np.flatnonzero(window == NEWLINE) + (low + 1)
        numbers = np.arange(lines + 1, lines + 1 + len(ends), dtype=np.int64)
        lines += len(ends)
        if delimiter is not None and quotes:
            inside = _inside(data, low, low + len(window), delimiter, quoted=quoted)
            outside = inside[ends - (low + 1)] == 0
            ends, numbers = ends[outside], numbers[outside]
            quoted = int(inside[-1])
        if len(ends):
            yield full_records(data, ends, numbers, start=start, line=line, delimiter=delimiter)
            start, line = int(ends[-1]), int(numbers[-1])
    if quoted:
        raise Unruly
    if start < len(data):
        yield full_records(data, np.array([len(data)]), np.array([lines + 1]), start=start, line=line, delimiter=delimiter)


def _inside(data: Memory, low: int, high: int, delimiter: int, *, quoted: int) -> Memory:
    """Return for each byte of a window 1 when an odd number of quotes stands up to and with it, `quoted` of them before the window, and 0 otherwise.

    Raises:
        Unruly: a quote does not open behind, or close before, a delimiter, a line's edge, the text's edge or a quote that it doubles.
    """
    near = data[max(low - 1, 0) : high + 1]
    edge = np.ones(high - low + 2, np.bool_)  # a byte before the window and one behind it; the text's edges count as line breaks
    edge[int(low == 0) :][: len(near)] = (near == QUOTE) | (near == NEWLINE) | (near == delimiter) | (near == RETURN)
    quotes = data[low:high] == QUOTE
    inside = _odd(quotes)
    if quoted:
        inside ^= 1
    if not (np.where(inside, edge[:-2], edge[2:]) | ~quotes).all():
        raise Unruly
    return inside


def _odd(marks: npt.NDArray[np.bool_]) -> Memory:
    """Return for each mark 1 when an odd number of them is true up to and with it, and 0 otherwise: within words of 64 bits by shifts, then over words."""
    packed = np.packbits(marks, bitorder="little")
    words = np.concatenate([packed, np.zeros(-len(packed) % 8, np.uint8)]).view("<u8")
    for width in (1, 2, 4, 8, 16, 32):
        words ^= words << np.uint64(width)
    before = np.bitwise_xor.accumulate(words >> np.uint64(63))[:-1]
    words[1:] ^= np.uint64(0) - before  # all bits where the words before hold an odd number
    return np.unpackbits(words.view(np.uint8), count=len(marks), bitorder="little")


def walk_cuts(data: Memory, piece_bytes: int, *, delimiter: int | None = None, window_bytes: int = WINDOW_BYTES) -> list[tuple[int, int, int]] | None:
    """Return (start, stop, line) of runs of whole records, about `piece_bytes` each, which together cover the text; None when it cannot be cut."""
    runs: list[tuple[int, int, int]] = []
    start = line = 0
    limit: int | None = None
    try:
        for found in walk(data, delimiter=delimiter, window_bytes=window_bytes):
            at = 0
            if limit is None and len(found):
                limit, at = int(found.starts[0]) + piece_bytes, 1
            while limit is not None:
                following = max(int(np.searchsorted(found.ends, limit, side="right")), at)
                if following >= len(found):
                    break
                stop = int(found.starts[following])
                runs.append((start, stop, line))
                start, line = stop, int(found.lines[following])
                limit, at = start + piece_bytes, following + 1
    except Unruly:
        return None
    return runs if limit is None else [*runs, (start, len(data), line)]


def count_records(data: Memory, *, delimiter: int | None = None, window_bytes: int = WINDOW_BYTES) -> int:
    """Return how many records a text has; how many lines that are not blank where records cannot be told apart."""
    try:
        return sum(len(found) for found in walk(data, delimiter=delimiter, window_bytes=window_bytes))
    except Unruly:
        return sum(len(found) for found in walk(data, delimiter=delimiter, quotes=False, window_bytes=window_bytes))


def is_regular(data: Memory, delimiter: int | None) -> bool:
    """Whether records can be told apart: always, unless quotes may hold line breaks and do not stand around whole values."""
    if delimiter is None:
        return True
    try:
        for _ in walk(data, delimiter=delimiter):
            pass
    except Unruly:
        return False
    return True


def count_lines(data: Memory, *, window_bytes: int = WINDOW_BYTES) -> int:
    """Return how many line breaks a text has."""
    return sum(int(np.count_nonzero(data[low : low + window_bytes] == NEWLINE)) for low in range(0, len(data), window_bytes))


def walk_samples(
    data: Memory, places: tuple[int, ...], look_bytes: int, *, delimiter: int | None = None, window_bytes: int = WINDOW_BYTES
) -> list[Memory] | None:
    """Return for each place the records that begin in the `look_bytes` behind it, at least one, or else the last record.

    Returns:
        none at all when there is no record; None when records cannot be told apart.
    """
    wanted: list[tuple[int, int] | None] = [None] * len(places)
    last: tuple[int, int] | None = None
    try:
        for found in walk(data, delimiter=delimiter, window_bytes=window_bytes):
            if not len(found):
                continue
            last = int(found.starts[-1]), int(found.ends[-1])
            for number, place in enumerate(places):
                wanted[number] = _widened(wanted[number], found, place, look_bytes)
    except Unruly:
        return None
    return [] if last is None else [data[start:stop] for start, stop in (run or last for run in wanted)]


def _widened(run: tuple[int, int] | None, found: Records, place: int, look_bytes: int) -> tuple[int, int] | None:
    """Return a run of records, begun or made longer by those of one window that begin in the bytes behind a place."""
    if run is None:
        low = int(np.searchsorted(found.starts, place))
        if low == len(found):
            return None
        run = int(found.starts[low]), int(found.ends[low])
    high = int(np.searchsorted(found.starts, place + look_bytes))
    return (run[0], max(run[1], int(found.ends[high - 1]))) if high else run
