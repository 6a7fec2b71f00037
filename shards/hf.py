"""What Hugging Face's datasets library adds to Arrow and Parquet: its columns, class names, and folders. Pure but for reading `state.json`.

An `Image` or `Audio` there is a struct of `bytes` and `path`; here it is the bytes. An `Array2D` to `Array5D` of a whole shape there is
lists in lists; here it is an `Array`. Class names come from the schema's `huggingface` metadata, which is not trusted: what does not have the
expected form is passed over. A folder of `save_to_disk` says in `state.json` which data files it consists of, in order; its other Arrow files
are caches.

Must never: follow a `path` of a row, which may name any file. Cost: none per row, but a look at the lengths of inner lists.
Refused: importing datasets, for a format of a page; pyarrow.compute, which takes longer to import than it takes to look at a block.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..errors import BadData
from ..fields import Array, Audio, Bytes, Field, Image, Schema
from .arrow_columns import nulls_of
from .arrow_types import field_from_arrow
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
        shape = _shape(told.get(column.name, {}), column.type)
        if shape is not None:
            schema[column.name] = Array(shape, str(_innermost(column.type)))
        elif is_wrapped(column.type):
            schema[column.name] = _MEDIA.get(str(told.get(column.name, {}).get("_type")), Bytes())
        else:
            schema[column.name] = field_from_arrow(column)
    return schema


def is_nested(kind: pa.DataType) -> bool:
    """Return whether a type is lists in lists, with or without the extension type that datasets registers for them."""
    kind = _storage(kind)
    return bool(pa.types.is_list(kind)) and bool(pa.types.is_list(kind.value_type))


def _storage(kind: pa.DataType) -> pa.DataType:
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _innermost(kind: pa.DataType) -> str:
    kind = _storage(kind)
    while pa.types.is_list(kind):
        kind = kind.value_type
    return {"halffloat": "float16", "float": "float32", "double": "float64"}.get(str(kind), str(kind))


def _shape(feature: Mapping[str, Any], kind: pa.DataType) -> tuple[int, ...] | None:
    """Return the shape that a feature of datasets gives to lists in lists, or None when there is none or it is not fixed."""
    shape = feature.get("shape")
    if not is_nested(kind) or not str(feature.get("_type")).startswith("Array") or not isinstance(shape, list):
        return None
    depth = str(_storage(kind)).count("list<")
    return tuple(shape) if len(shape) == depth and all(type(n) is int and n > 0 for n in shape) else None


def unwrap(array: pa.Array, field: Field) -> pa.Array:
    """Return the bytes of a struct of bytes and path, lists in lists as one fixed list a row, or any other array as it is.

    Raises:
        BadData: a row has no bytes, or not the field's shape; the row is counted in the array.
    """
    if isinstance(field, Array) and is_nested(array.type):
        return _flat(array.storage if isinstance(array, pa.ExtensionArray) else array, field)
    if not is_wrapped(array.type):
        return array
    inner = array.field("bytes")
    for missing in (array, inner):
        if missing.null_count and (nulls := nulls_of(missing)).size:
            row = int(nulls[0])
            path = array.field("path")[row].as_py()
            raise BadData(
                f"the row has no bytes, only the path {str(path)[:200]!r}, which is not followed; save the data set with its files embedded", row=row
            )
    return inner


def _flat(array: pa.Array, field: Array) -> pa.Array:
    try:
        array.validate(full=True)
    except pa.ArrowException as error:
        raise BadData(f"the column is damaged: {error}") from None
    lists = 1
    for size in field.shape:
        if (wrong := _unlike(array, size)) is not None:
            raise BadData(f"the row is not an array of shape {field.shape}: one of its lists has {array[wrong].as_py()!s:.80}", row=wrong // lists)
        bounds = _bounds(array)
        array = array.values.slice(int(bounds[0]), int(bounds[-1] - bounds[0]))
        lists *= size
    return pa.FixedSizeListArray.from_arrays(array, prod(field.shape))


def _unlike(array: pa.ListArray, size: int) -> int | None:
    """Return the place of the first list that is null or has not this size."""
    wrong = np.union1d(np.flatnonzero(np.diff(_bounds(array)) != size), nulls_of(array))
    return int(wrong[0]) if wrong.size else None


def _bounds(array: pa.ListArray) -> npt.NDArray[np.int32]:
    return np.frombuffer(array.buffers()[1], np.int32)[array.offset : array.offset + len(array) + 1] if len(array) else np.zeros(1, np.int32)


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
