"""What a conversion did: rows in, out and set aside, bytes, shards. Values and arithmetic only.

The invariant is `rows_in == rows_out + rows_set_aside + rows_left_out`: nothing is lost without a line in the quarantine. A `Report` compares
equal when the results are equal; how long it took and whether it was resumed are not part of that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import BadRequest

DEFAULT_SAMPLE_FRACTION = 0.001
"""Rows that may be unreadable before a conversion fails, unless `max_bad` says otherwise. Damaged structure is never accepted by default."""


@dataclass(frozen=True, kw_only=True)
class Bad:
    """One thing that could not become a row.

    Attributes:
        source: the file it came from.
        key: the row's key: file path, tar key, or `file#row`.
        row: its row (or line) in the file, or None.
        reason: what is wrong.
        structure: whether the file's structure is at fault (a cut tar, a CSV line with other columns) and not one value.
        rows: how many rows are lost by it, 1 when nobody can tell.
        counted: whether `rows` is known. A file that cannot be opened counts as one row in the sums, but no fraction of all rows allows it.
    """

    source: str
    key: str
    reason: str
    row: int | None = None
    structure: bool = False
    rows: int = 1
    counted: bool = True

    def to_json(self) -> dict[str, Any]:
        """Return the line that stands in the quarantine file."""
        return asdict(self)

    def __str__(self) -> str:
        """Return the place and the reason, for a person."""
        place = self.source if self.row is None else f"{self.source}, row {self.row}"
        return f"{place}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class SplitReport:
    """What one split (or the dataset, when there are none) received.

    Attributes:
        path: the dataset.
        version: the version that was committed, or 0 when nothing had to be.
        rows: rows written.
        bytes: size of the shards.
        shards: how many.
    """

    path: str
    version: int
    rows: int
    bytes: int
    shards: int


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a conversion did.

    Attributes:
        path: the destination.
        job: the job's fingerprint.
        rows_in: rows found in the source.
        rows_out: rows written.
        rows_set_aside: rows that went to the quarantine.
        rows_left_out: rows that no split wanted, when the fractions sum to less than 1.
        bytes_in: bytes of the source's files.
        bytes_out: bytes of the shards.
        shards: how many.
        quarantine: the file with the reasons, or None when no row was set aside.
        splits: per split; the name is `""` when the conversion was not split.
        uncounted: files, or rests of files, that were lost whole with an unknown number of rows; each counts as one row above.
        seconds: wall time, 0.0 for a conversion that was already done.
    """

    path: str
    job: str
    rows_in: int
    rows_out: int
    rows_set_aside: int
    rows_left_out: int
    bytes_in: int
    bytes_out: int
    shards: int
    quarantine: str | None
    splits: dict[str, SplitReport]
    uncounted: int = 0
    seconds: float = field(default=0.0, compare=False)

    def __post_init__(self) -> None:
        """Refuse numbers that do not add up."""
        if self.rows_in != self.rows_out + self.rows_set_aside + self.rows_left_out:
            raise BadRequest(
                f"rows do not add up: {self.rows_in} in, {self.rows_out} out, {self.rows_set_aside} aside, {self.rows_left_out} left out"
            )

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Report:
        """Return the report that `to_json` described."""
        return cls(**{**given, "splits": {name: SplitReport(**split) for name, split in given["splits"].items()}})

    def __str__(self) -> str:
        """Return one or more lines for a person."""
        lines = [
            f"{self.path}: {self.rows_in:,} rows in, {self.rows_out:,} out, {self.rows_set_aside:,} set aside"
            + (f", {self.rows_left_out:,} in no split" if self.rows_left_out else "")
            + f"; {human_bytes(self.bytes_in)} in, {human_bytes(self.bytes_out)} in {self.shards:,} shards, {self.seconds:.1f} s"
        ]
        lines += [
            f"  {name}: {split.rows:,} rows, {human_bytes(split.bytes)}, {split.shards:,} shards" for name, split in self.splits.items() if name
        ]
        if self.uncounted:
            lines.append(f"  {self.uncounted:,} of those set aside are files, or rests of files, whose rows nobody could count: each counts as one")
        if self.quarantine:
            lines.append(f"  reasons: {self.quarantine}")
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class MaxBad:
    """How much may be set aside.

    Attributes:
        text: what was asked, for messages.
        rows: rows that may be lost to damaged structure, or None for a fraction.
        fraction: fraction of all rows that may be lost.
        same: whether one bound holds for both kinds (the caller gave it), or structure allows none (the default).
    """

    text: str
    rows: int | None
    fraction: float
    same: bool

    def allows(self, rows: int, *, structure: int, samples: int, uncounted: int = 0) -> bool:
        """Return whether a conversion that found `rows` rows may set aside so many.

        Files whose rows nobody could count (`uncounted`) are more than any fraction; a number of rows counts each as one.
        """
        if uncounted and self.rows is None:
            return False
        bound = self.rows if self.rows is not None else self.fraction * rows
        return structure + samples <= bound if self.same else structure == 0 and samples <= bound


def parse_max_bad(given: float | str | None) -> MaxBad:
    """Return the bound that `--max-bad` names: `None` for the default, `10` for rows, `0.01` or `"1%"` for a fraction of all rows.

    Raises:
        BadRequest: it is neither, or negative, or more than all rows.
    """
    if given is None:
        return MaxBad(text="0.1% of samples, no damaged structure", rows=None, fraction=DEFAULT_SAMPLE_FRACTION, same=False)
    text = str(given).strip()
    try:
        if text.endswith("%"):
            rows, fraction = None, float(text[:-1]) / 100
        elif isinstance(given, int) or text.isdigit():
            rows, fraction = int(text), 0.0
        else:
            rows, fraction = None, float(text)
    except ValueError:
        raise BadRequest(f"max_bad: {given!r} is neither a number of rows (10), a fraction (0.01) nor a percentage ('1%')") from None
    if not 0 <= fraction <= 1 or (rows is not None and rows < 0) or isinstance(given, bool):
        raise BadRequest(f"max_bad: {given!r} must be a number of rows from 0, a fraction from 0 to 1, or a percentage from 0% to 100%")
    return MaxBad(text=text, rows=rows, fraction=fraction, same=True)


_SIZES = ("B", "kB", "MB", "GB", "TB", "PB")


def human_bytes(count: float) -> str:
    """Return a size for a person: `1.2 MB`."""
    shown, unit = _human(count, _SIZES)
    return f"{shown} {unit}"


def human_share(done: float, total: float) -> str:
    """Return how much of a size is done, in one unit: `0.4/1.2 MB`."""
    shown, unit = _human(total, _SIZES)
    part = done / 1000 ** _SIZES.index(unit)
    return f"{part:.0f}/{shown} {unit}" if unit == "B" else f"{part:.1f}/{shown} {unit}"


def human_count(count: float) -> str:
    """Return a number for a person, in few characters: `999`, `1.2k`, `3.4M`."""
    return "".join(_human(count, ("", "k", "M", "G")))


def _human(count: float, units: tuple[str, ...]) -> tuple[str, str]:
    """Return a number of at most three digits before its point, and the unit it is in."""
    for number, unit in enumerate(units[:-1]):
        shown = f"{count:.1f}" if number else f"{count:.0f}"
        if abs(float(shown)) < 1000:
            return shown, unit
        count /= 1000
    return f"{count:.1f}", units[-1]
