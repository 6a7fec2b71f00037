"""Makes a job's plan: describes the source, finds where it can be cut, and cuts it into parts. Reads headers and names, writes nothing."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..errors import BadData, BadRequest
from ..fields import Bytes, Image, Scalar, Schema, Text
from ..shards import commits
from ..shards.manifest import Manifest
from ..shards.tarnames import file_fields
from .assign import cut, part_bytes
from .job import Plan
from .settings import Settings
from .source import Described, Files, Source
from .sources_csv import CsvSource
from .sources_files import ImageFolder, LooseFiles
from .sources_jsonl import JsonlSource
from .sources_numpy import NumpySource
from .sources_penstock import PenstockSource
from .sources_table import ArrowSource, HuggingFaceSource, ParquetSource
from .sources_tar import TarSource
from .tokenize import written

SOURCES: dict[str, type[Source]] = {
    source.kind: source
    for source in (
        ImageFolder,
        LooseFiles,
        TarSource,
        ParquetSource,
        CsvSource,
        JsonlSource,
        ArrowSource,
        HuggingFaceSource,
        NumpySource,
        PenstockSource,
    )
}
"""Every kind of source, by its name for `--from`."""


def open_source(kind: str, files: Files) -> Source:
    """Return the source of a kind."""
    return SOURCES[kind](files)


def make_plan(settings: Settings, files: Files, operation: str, standing: list[Manifest | None]) -> Plan:
    """Return the plan of a conversion.

    Args:
        settings: what was asked.
        files: of the source.
        operation: `"create"`, `"append"` or `"overwrite"`.
        standing: what stands at each target now.

    Raises:
        BadData: the source cannot be understood.
        BadRequest: a setting does not fit the source, or the columns are not those of the dataset to append to.
    """
    source = open_source(settings.kind, files)
    described = source.describe(settings.columns)
    if operation == "append":
        described = _fit(described, standing, settings)
    described = _rewritten(described, settings)
    schema = written(described.schema, settings.tokens)
    _check_settings(schema, settings)
    if settings.tokens is not None:
        told = {"name": Path(settings.tokens.tokenizer).name, "digest": settings.tokens.digest, "end": settings.tokens.end}
        described = replace(described, metadata={**described.metadata, "tokenizer": told})
    pieces = source.pieces(described)
    bounds = cut(pieces.sizes, part_bytes(int(pieces.sizes.sum()), settings.shard_bytes)).tolist()
    runs = list(pairwise(bounds))
    return Plan(
        settings=settings,
        operation=operation,
        bases=tuple(0 if there is None else there.version for there in standing),
        described=described,
        files=files,
        parts=tuple(pieces.spans.take(start, stop).merged() for start, stop in runs),
        part_bytes=tuple(int(pieces.sizes[start:stop].sum()) for start, stop in runs),
        bad=pieces.bad,
    )


def _rewritten(described: Described, settings: Settings) -> Described:
    """Return the description with the encoding that every image will have."""
    if settings.image.encoding is None:
        return described
    schema = {name: Image(settings.image.encoding) if isinstance(field, Image) else field for name, field in described.schema.items()}
    return replace(described, schema=schema)


def _check_settings(schema: Schema, settings: Settings) -> None:
    if settings.image.changes and not any(isinstance(field, Image) for field in schema.values()):
        raise BadRequest(
            f"resize_short, max_pixels and reencode need a column of images; the source has {', '.join(f'{n} ({f})' for n, f in schema.items())}"
        )
    if settings.format == "tar":
        file_fields(schema)
    if settings.split_key is not None:
        field = schema.get(settings.split_key)
        if not isinstance(field, (Scalar, Text, Bytes)):
            usable = [name for name, of in schema.items() if isinstance(of, (Scalar, Text, Bytes))]
            raise BadRequest(f"split_key: {settings.split_key!r} is not a column of numbers, text or bytes; those are {usable or 'none'}")


def _fit(described: Described, standing: list[Manifest | None], settings: Settings) -> Described:
    """Return the description as the dataset appended to has it: its class names first, in its order."""
    found: list[Any] = [there for there in standing if there is not None]
    for there in found:
        commits.check_same_schema(there.root, there.schema, written(_rewritten(described, settings).schema, settings.tokens))
    known = [there.metadata.get("class_names", {}) for there in found if there.metadata.get("class_names")]
    ours = described.metadata.get("class_names", {})
    if not known or ours == known[0]:
        return described
    if settings.kind != "images":
        raise BadRequest(f"append: the class names {ours} are not those of the dataset, {known[0]}; labels would change their meaning")
    merged = [*known[0].get("label", []), *(name for name in described.details["classes"] if name not in known[0].get("label", []))]
    metadata = {"class_names": {"label": merged}} if ours else {}
    return replace(described, metadata=metadata, details={**described.details, "classes": merged})


def check_source(plan: Plan) -> None:
    """Refuse a source with nothing in it.

    Raises:
        BadData: no part and nothing set aside.
    """
    if not plan.parts and not plan.bad:
        raise BadData(f"the source holds no rows: {len(plan.files)} files, {int(plan.files.sizes.sum())} bytes", path=plan.settings.source)
