"""What Hugging Face's datasets library adds to Arrow and Parquet: its columns, class names, and folders. Pure but for reading `state.json`.

An `Image` or `Audio` there is a struct of `bytes` and `path`; here it is the bytes. Class names come from the schema's `huggingface`
metadata, which is not trusted: what does not have the expected form is passed over. A folder of `save_to_disk` says in `state.json` which
data files it consists of, in order; its other Arrow files are caches.

Must never: follow a `path` of a row, which may name any file. Cost: none per row. Refused: importing datasets, for a format of a page.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..errors import BadData
from ..fields import Audio, Bytes, Field, Image, Schema, field_from_arrow
from .manifest import parse_json
from .storage import read_file

_METADATA = b"huggingface"
_MAX_STATE_BYTES = 64 << 20
_MEDIA: dict[str, Field] = {"Image": Image("any"), "Audio": Audio("any")}


def features(arrow: pa.Schema) -> dict[str, Mapping[str, Any]]:
    """Return the features that the schema's metadata describes, by column; none when there is no such metadata."""
    try:
        told = json.loads((arrow.metadata or {}).get(_METADATA, b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return {name: feature for name, feature in told.items() if isinstance(feature, dict)} if isinstance(told, dict) else {}


def class_names(arrow: pa.Schema) -> dict[str, list[str]]:
    """Return the names of the classes of each `ClassLabel` column."""
    found = {}
    for name, feature in features(arrow).items():
        names = feature.get("names")
        if feature.get("_type") == "ClassLabel" and isinstance(names, list) and all(isinstance(each, str) for each in names):
            found[name] = names
    return found


def is_wrapped(kind: pa.DataType) -> bool:
    """Return whether a type is a struct of `bytes` and `path`."""
    return (
        pa.types.is_struct(kind)
        and {kind.field(i).name for i in range(kind.num_fields)} == {"bytes", "path"}
        and (pa.types.is_binary(kind.field("bytes").type) or pa.types.is_large_binary(kind.field("bytes").type))
    )


def schema_of(arrow: pa.Schema, columns: Sequence[str] | None = None) -> Schema:
    """Return the fields of a foreign Arrow schema, or of the columns that are named, with structs of bytes and path as the bytes.

    Raises:
        BadData: two columns share a name, or a type has no field type.
    """
    if len(set(arrow.names)) != len(arrow.names):
        raise BadData(f"two columns share a name: {arrow.names}")
    told = features(arrow)
    schema: Schema = {}
    for column in arrow:
        if columns is not None and column.name not in columns:
            continue
        if is_wrapped(column.type):
            schema[column.name] = _MEDIA.get(str(told.get(column.name, {}).get("_type")), Bytes())
        else:
            schema[column.name] = field_from_arrow(column)
    return schema


def unwrap(array: pa.Array) -> pa.Array:
    """Return the bytes of a struct of bytes and path, or any other array as it is.

    Raises:
        BadData: a row has no bytes; the row is counted in the array.
    """
    if not is_wrapped(array.type):
        return array
    inner = array.field("bytes")
    for missing in (array, inner):
        if missing.null_count:
            row = missing.is_null().index(True).as_py()
            path = array.field("path")[row].as_py()
            raise BadData(
                f"the row has no bytes, only the path {str(path)[:200]!r}, which is not followed; save the data set with its files embedded", row=row
            )
    return inner


def data_files(folder: Path) -> list[str] | None:
    """Return the data files of a folder made by `save_to_disk`, in order, or None when it is no such folder.

    Raises:
        BadData: its `state.json` is damaged, or names a file elsewhere.
    """
    state = folder / "state.json"
    if not state.is_file() or not (folder / "dataset_info.json").is_file():
        return None
    told = parse_json(read_file(state, cap_bytes=_MAX_STATE_BYTES))
    files = told.get("_data_files") if isinstance(told, dict) else None
    if not isinstance(files, list) or not files:
        raise BadData("it lists no data files", path=state)
    names = [entry.get("filename") if isinstance(entry, dict) else None for entry in files]
    for name in names:
        if not isinstance(name, str) or "/" in name or "\\" in name or name in {"", ".", ".."} or "\0" in name:
            raise BadData(f"it names the data file {str(name)[:200]!r}, which is not a file of its folder", path=state)
    if isinstance(told, dict) and told.get("_indices_data_files"):
        raise BadData("the data set is a selection of its rows by an index; save it again after flatten_indices()", path=state)
    return [str(name) for name in names]
