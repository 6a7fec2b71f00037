"""Between fields and Arrow: the type that Penstock stores a field as, and the field of any Arrow type, ours or foreign.

Fields go to canonical Arrow types, with their own description in the Arrow field's metadata under the key `penstock`. They are plain values in
`fields`, which knows no Arrow: whoever trains on Arrow shards of ours does not import pyarrow (`plain`), unless the dataset has a checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from ..errors import BadData
from ..fields import DTYPES, KNOWN, Array, Bytes, Field, Json, Scalar, Schema, Text, Tokens, field_from_json

METADATA_KEY = b"penstock"
"""The key in an Arrow field's metadata that holds the field's description as JSON."""


def arrow_type(field: Field) -> pa.DataType:
    """Return the Arrow type that a field is stored as.

    An array is fixed-size lists, one in the other for each dimension. Every reader knows them; the canonical `arrow.fixed_shape_tensor`, read
    all the same, is refused by HF datasets.
    """
    if isinstance(field, (Text, Json)):
        return pa.string()
    if field.ragged and not isinstance(field, Tokens):
        return pa.binary()
    kind = pa.from_numpy_dtype(np.dtype(field.dtype))
    if field.ragged:
        return pa.list_(pa.field("item", kind, nullable=False))
    for size in reversed(field.shape):
        kind = pa.list_(pa.field("item", kind, nullable=False), size)
    return kind


def field_to_arrow(name: str, field: Field) -> pa.Field:
    """Return the Arrow field, not nullable, with the description in its metadata."""
    return pa.field(name, arrow_type(field), nullable=False, metadata={METADATA_KEY: json.dumps(field.to_json(), sort_keys=True).encode()})


def field_from_arrow(arrow: pa.Field) -> Field:
    """Return the field of any Arrow field: ours by its metadata, a foreign one by its type.

    Raises:
        BadData: the Arrow type has no field type, or the metadata does not fit the type.
    """
    described = (arrow.metadata or {}).get(METADATA_KEY)
    if described is not None:
        try:
            parsed = json.loads(described)
        except (ValueError, RecursionError):
            raise BadData(f"the field's metadata {described[:80]!r} is not JSON", field=arrow.name) from None
        field = field_from_json(arrow.name, parsed)
        if _storage(arrow_type(field)) != _storage(arrow.type):
            raise BadData(f"described as {field} but stored as {arrow.type}", field=arrow.name)
        return field
    found = _foreign(arrow.type)
    if found is None:
        raise BadData(f"Arrow type {arrow.type} has no field type; there are {KNOWN}. Leave the column out with columns=", field=arrow.name)
    return found


def _storage(kind: pa.DataType) -> pa.DataType:
    """Return the type without extension and without the names and nullability of list items."""
    kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    if pa.types.is_fixed_size_list(kind):  # of a size below 1 Arrow reads a type, but makes none; no field is stored so
        return pa.list_(_storage(kind.value_type), kind.list_size) if kind.list_size > 0 else kind
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(kind.value_type)
    if pa.types.is_large_binary(kind):
        return pa.binary()
    return pa.string() if pa.types.is_large_string(kind) or pa.types.is_string_view(kind) else kind


def _foreign(kind: pa.DataType) -> Field | None:
    """Return the field of a foreign Arrow type, or None."""
    if isinstance(kind, pa.FixedShapeTensorType):
        plain = min(kind.shape, default=0) > 0 and kind.permutation in (None, list(range(len(kind.shape))))
        return Array(tuple(kind.shape), dtype) if plain and (dtype := _dtype_name(kind.value_type)) is not None else None
    kind = _storage(kind)
    if (dtype := _dtype_name(kind)) is not None:
        return Scalar(dtype)
    if pa.types.is_string(kind) or (pa.types.is_dictionary(kind) and pa.types.is_string(_storage(kind.value_type))):
        return Text()
    if pa.types.is_binary(kind) or pa.types.is_binary_view(kind):
        return Bytes()
    if pa.types.is_fixed_size_list(kind):
        shape, element = flattened(kind)
        dtype = _dtype_name(element)
        return Array(shape, dtype) if dtype is not None and min(shape) > 0 else None
    if pa.types.is_list(kind) and (dtype := _dtype_name(kind.value_type)) not in (None, "bool"):
        return Tokens(str(dtype))
    return None


def flattened(kind: pa.DataType) -> tuple[tuple[int, ...], pa.DataType]:
    """Return the sizes of fixed-size lists within fixed-size lists, outermost first, and the type of their elements."""
    shape = []
    while pa.types.is_fixed_size_list(kind):
        shape.append(kind.list_size)
        kind = kind.value_type
    return tuple(shape), kind


def _dtype_name(kind: pa.DataType) -> str | None:
    name = {"halffloat": "float16", "float": "float32", "double": "float64"}.get(str(kind), str(kind))
    return name if name in DTYPES else None


def schema_to_arrow(schema: Mapping[str, Field]) -> pa.Schema:
    """Return the Arrow schema of a dataset's columns."""
    return pa.schema([field_to_arrow(name, field) for name, field in schema.items()])


def schema_from_arrow(arrow: pa.Schema, columns: Sequence[str] | None = None) -> Schema:
    """Return the columns of an Arrow schema, or those of them that are named.

    Raises:
        BadData: two columns share a name, or a type has no field type.
    """
    if len(set(arrow.names)) != len(arrow.names):
        raise BadData(f"two columns share a name: {arrow.names}")
    return {f.name: field_from_arrow(f) for f in arrow if columns is None or f.name in columns}
