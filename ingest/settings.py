"""What a conversion was asked to do, as one frozen value that is valid when built and goes through JSON unchanged.

Everything here changes the result and therefore enters the job's fingerprint. What does not (workers, progress, `max_bad`) is not here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import BadRequest
from .tokenize import TokenRule

CHECKS = ("decode", "header")
"""How an image is judged readable."""

FORMATS = ("arrow", "tar")
"""Shard formats that are written."""

_REENCODE = re.compile(r"(jpeg|png|webp)(?::(\d{1,3}))?")


@dataclass(frozen=True, kw_only=True)
class ImageRule:
    """What happens to an image.

    Attributes:
        check: `"decode"` (it is readable if it really decodes) or `"header"` (if its header makes sense).
        resize_short: images whose short side is longer are scaled down to it; None keeps the size. Never enlarges.
        max_pixels: images with more pixels are scaled down to at most so many; None keeps the size.
        encoding: the encoding in which every image is written, or None to keep bytes that were not resized.
        quality: 1 to 100, for jpeg and webp.
    """

    check: str = "decode"
    resize_short: int | None = None
    max_pixels: int | None = None
    encoding: str | None = None
    quality: int = 90

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if self.check not in CHECKS:
            raise BadRequest(f"check: {self.check!r} is not one of {', '.join(map(repr, CHECKS))}")
        for name in ("resize_short", "max_pixels"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise BadRequest(f"{name}: {value!r} must be a whole number of pixels, 1 or more")
        if not 1 <= self.quality <= 100:
            raise BadRequest(f"reencode: quality {self.quality} must lie between 1 and 100")

    @property
    def changes(self) -> bool:
        """Whether an image's bytes may differ from the source's."""
        return self.resize_short is not None or self.max_pixels is not None or self.encoding is not None


def parse_reencode(given: str | None) -> tuple[str | None, int]:
    """Return encoding and quality of `"jpeg:90"`, `"webp:80"`, `"png"`, or None.

    Raises:
        BadRequest: it is none of these.
    """
    if given is None:
        return None, 90
    found = _REENCODE.fullmatch(given)
    if found is None:
        raise BadRequest(f"reencode: {given!r} is not ENCODING or ENCODING:QUALITY, such as 'jpeg:90', 'webp:80' or 'png'")
    return found[1], int(found[2] or 90)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a conversion was asked to do.

    Attributes:
        source: what to read: a file, a folder, a glob or brace pattern, as an absolute path.
        kind: the kind of source.
        format: of the shards.
        shard_bytes: the size that no shard exceeds, unless one row does.
        shuffle: the seed of the pre-shuffle, or None to keep the source's order.
        splits: fraction of each split; empty for one dataset.
        split_key: the column whose value chooses the split, or None for the row's key.
        columns: the columns to keep, or None for all.
        image: what happens to images.
        tokens: what happens to a column of text, or None to keep it.
    """

    source: str
    kind: str
    format: str = "arrow"
    shard_bytes: int = 128_000_000
    shuffle: int | None = None
    splits: dict[str, float] = field(default_factory=dict)
    split_key: str | None = None
    columns: tuple[str, ...] | None = None
    image: ImageRule = field(default_factory=ImageRule)
    tokens: TokenRule | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if self.format not in FORMATS:
            raise BadRequest(f"format: {self.format!r} is not one of {', '.join(map(repr, FORMATS))}")
        if self.shuffle is not None and type(self.shuffle) is not int:
            raise BadRequest(f"shuffle: seed {self.shuffle!r} must be a whole number")
        if self.columns is not None and (not self.columns or len(set(self.columns)) != len(self.columns)):
            raise BadRequest(f"columns: {list(self.columns)} must name one or more columns, each once")
        if self.split_key is not None and not self.splits:
            raise BadRequest(f"split_key: {self.split_key!r} has no meaning without split")

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the datasets to write; one unnamed when there are no splits."""
        return tuple(self.splits) or ("",)

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Settings:
        """Return the settings that `to_json` described."""
        columns, tokens = given["columns"], given["tokens"]
        return cls(
            **{
                **given,
                "columns": None if columns is None else tuple(columns),
                "image": ImageRule(**given["image"]),
                "tokens": None if tokens is None else TokenRule(**tokens),
            }
        )
