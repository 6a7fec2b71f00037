"""Says which row of a damaged tar is at fault, from the samples found before the damage, when nothing else tells where each sample lies. Pure.

A tar says nowhere where a sample ends, so a sample is held to be whole when it has the fields that the others have. A row is named only when the bytes at
fault must be its own, were one place of the tar damaged: what stands behind the last sample belongs to none, and where two rows could be meant none is named.

Must never: name the sample before the damage because it is the one that was being gathered. Cost: a pass over the samples, of a damaged tar only.
Refused: the sample's own name in a damaged header alone, since the name may be what was damaged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from .tarnames import field_names, split
from .tarscan import is_end_marker, name_in

Sample = dict[str, tuple[int, int]]
"""One sample's members: by suffix, where each begins and how many bytes it has."""

_Fields = frozenset[str]


def row_at_break(keys: Sequence[str], samples: Sequence[Sample], header: bytes) -> int | None:
    """Return the row whose bytes stand where the walk of a tar ended, or None when they are no row's or could be either of two.

    Args:
        keys: the key of each sample found before.
        samples: their members; more of the last one's may have been to come.
        header: the block at which the walk ended, or what is left of it.
    """
    found = split(name_in(header))
    if not keys or is_end_marker(header):
        return None
    if len(keys) == 1:
        if found is None:
            return None
        again = found[0] == keys[0]
        begins = found[1] == next(iter(samples[0]))
        return None if again == begins else 0 if again and found[1] not in samples[0] else 1 if begins else None
    name_of = field_names(dict.fromkeys(map(tuple, samples)))
    fields = _fields(samples, name_of)
    usual = Counter(fields[:-1]).most_common(1)[0][0]
    if not usual <= fields[-1]:
        return len(keys) - 1
    return len(keys) if found is not None and name_of.get(found[1]) in usual else None


def row_of_double(samples: Sequence[Sample]) -> int | None:
    """Return the row at fault when a name comes again behind some samples: the first without all its members, or else the next; None when none is sure."""
    fields = _fields(samples, field_names(dict.fromkeys(map(tuple, samples))))
    usual = _most(fields)
    if usual is None or len(usual) == 1:
        return None  # a sample of one member is whole under any name
    return next((row for row, each in enumerate(fields) if each != usual), len(samples))


def unlike(samples: Sequence[Sample], name_of: Mapping[str, str]) -> tuple[int, int, bool]:
    """Return the first row with other fields than most, a row that has theirs, and whether most agree; if not, the first row is held to be right."""
    fields = _fields(samples, name_of)
    usual = _most(fields)
    wanted = fields[0] if usual is None else usual
    return next(row for row, each in enumerate(fields) if each != wanted), fields.index(wanted), usual is not None


def _fields(samples: Sequence[Sample], name_of: Mapping[str, str]) -> list[_Fields]:
    of = {suffixes: frozenset(name_of[suffix] for suffix in suffixes) for suffixes in set(map(tuple, samples))}
    return [of[tuple(sample)] for sample in samples]


def _most(fields: Sequence[_Fields]) -> _Fields | None:
    """Return the fields that more samples have than any others, and two at least."""
    counts = [*Counter(fields).most_common(2), (frozenset(), 1)]
    return counts[0][0] if counts[0][1] > counts[1][1] else None
