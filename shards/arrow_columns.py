"""Between Arrow arrays and columns: checked views one way, canonical arrays the other.

`column_of` turns any Arrow array that a field can be stored as (also large, view and dictionary types of foreign files) into a `Column`,
trusting neither its offsets nor its nulls. `array_of` turns a column into the one Arrow type that Penstock writes. What a table brings is
sent through both, so that equal values give equal bytes.

Cost: no copy for the types that Penstock writes, except truth values, which Arrow packs into bits; view and dictionary types are copied
once a block. Offsets are looked at once a block (O(rows)).
Refused: `Array.to_pylist` and friends, a Python object per row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..errors import BadData
from ..fields import Audio, Field, Image, Json, Schema
from .arrow_types import arrow_type, field_to_arrow, flattened
from .columns import Column, FixedColumn, ParsedColumn, RaggedColumn

_MOST_BYTES = 2**31 - 1
"""What 32-bit offsets can address; no ragged column of one block is larger."""

MOST_ROW_BYTES = 2**30 - 1
"""The most bytes one ragged value may have, so that a block that is not full always has room for it. A batch of a table that holds more in
one column is halved."""


def nulls_of(array: pa.Array) -> npt.NDArray[np.int64]:
    """Return where an array's nulls are, read from its bitmap: `Array.is_null` would import pyarrow.compute (0.1 s), and its result pandas."""
    bitmap, first = array.buffers()[0], array.offset
    if bitmap is None:
        return np.arange(len(array) if pa.types.is_null(array.type) else 0)
    packed = np.frombuffer(bitmap, np.uint8)[first // 8 : (first + len(array) + 7) // 8]
    return np.flatnonzero(np.unpackbits(packed, bitorder="little")[first % 8 :][: len(array)] == 0)


def is_viewed(kind: pa.DataType) -> bool:
    """Return whether `column_of` gives views of an array of this type; dictionary and view types are converted, and arrays of bits unpacked, which copies."""
    kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    if pa.types.is_fixed_size_list(kind):
        return not pa.types.is_boolean(kind.value_type) and is_viewed(kind.value_type)
    return not (pa.types.is_dictionary(kind) or pa.types.is_string_view(kind) or pa.types.is_binary_view(kind))


def _plain(array: pa.Array) -> pa.Array:
    """Return the array without extension, dictionary or views."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if pa.types.is_dictionary(array.type):
        array.validate(full=True)
        array = array.dictionary_decode()
    if pa.types.is_string_view(array.type):
        array.validate(full=True)
        return array.cast(pa.large_string())
    if pa.types.is_binary_view(array.type):
        array.validate(full=True)
        return array.cast(pa.large_binary())
    return array


def column_of(array: pa.Array, field: Field) -> Column:
    """Return the checked view of an Arrow array.

    Raises:
        BadData: there is a null, the offsets are damaged, or the type cannot hold the field. The row is counted in the array.
    """
    try:
        array = _plain(array)
        array.validate()
    except (pa.ArrowException, OSError) as error:
        raise BadData(f"the column is damaged: {error}", row=_loose_row(array)) from None
    if array.null_count and (nulls := nulls_of(array)).size:
        raise BadData("the value is null; every row needs one: fill or drop such rows first", row=int(nulls[0]))
    return _runs(array, field) if field.ragged else _fixed(array, field)


def _fixed(array: pa.Array, field: Field) -> FixedColumn:
    rows, size = len(array), prod(field.shape)
    if field.shape:
        if prod(flattened(array.type)[0]) != size or not pa.types.is_fixed_size_list(array.type):
            raise BadData(f"stored as {array.type}, which does not hold {field}")
        while pa.types.is_fixed_size_list(array.type):
            each = array.type.list_size
            array = array.values.slice(array.offset * each, len(array) * each)  # `flatten` would do, but imports pyarrow.compute
            if array.null_count and (nulls := nulls_of(array)).size:
                raise BadData("an element of the array is null; fill such elements first", row=int(nulls[0]) * rows // len(array))
    values = _numbers(array, field.dtype)
    if len(values) != rows * size:
        raise BadData(f"the column has {len(values)} elements where {rows} rows of {size} were expected")
    return FixedColumn(values=values.reshape(rows, *field.shape))


def _numbers(array: pa.Array, dtype: str) -> npt.NDArray[Any]:
    if array.type != pa.from_numpy_dtype(np.dtype(dtype)):
        raise BadData(f"stored as {array.type} where {dtype} was expected")
    data, first, last = array.buffers()[1], array.offset, array.offset + len(array)
    if not len(array) or data is None:
        return np.empty(0, dtype)
    if dtype != "bool":
        # Array.to_numpy would do, but imports pandas where it is installed (0.6 s); a damaged buffer may end inside an element
        return np.frombuffer(data, dtype, last - first, first * np.dtype(dtype).itemsize)
    packed = np.frombuffer(data, np.uint8)[first // 8 : (last + 7) // 8]
    return np.unpackbits(packed, bitorder="little")[first % 8 :][: last - first].view(np.bool_)


def _offsets(array: pa.Array) -> npt.NDArray[Any]:
    """Return where each row of an array of runs begins and, last, where the last one ends."""
    rows, kind = len(array), array.type
    if not rows:
        return np.zeros(1, np.int32)
    width = np.dtype(np.int64 if pa.types.is_large_binary(kind) or pa.types.is_large_string(kind) or pa.types.is_large_list(kind) else np.int32)
    return np.frombuffer(array.buffers()[1], width, rows + 1, array.offset * width.itemsize)


def _loose(offsets: npt.NDArray[Any], length: int) -> int | None:
    """Return the first row whose offsets leave the column's elements or go backwards, or None."""
    starts, ends = offsets[:-1], offsets[1:]
    if not len(starts) or not (offsets[0] < 0 or offsets[-1] > length or (ends < starts).any()):
        return None
    return int(np.argmax((starts < 0) | (ends > length) | (ends < starts)))


def _loose_row(array: pa.Array) -> int | None:
    """Return the first row of a damaged array whose offsets cannot be followed, or None where it has none or they are not the damage."""
    kind = array.type
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not listed and kind not in {pa.binary(), pa.string(), pa.large_binary(), pa.large_string()}:
        return None
    try:
        data = None if listed else array.buffers()[2]
        return _loose(_offsets(array), len(array.values) if listed else 0 if data is None else data.size)
    except (ValueError, TypeError, SystemError):  # the offsets themselves were cut; the last is what `len` of a negative length raises
        return None


def _runs(array: pa.Array, field: Field) -> RaggedColumn:
    kind = array.type
    values: npt.NDArray[Any]
    if kind in {pa.binary(), pa.string(), pa.large_binary(), pa.large_string()}:
        if field.dtype != "uint8":
            raise BadData(f"stored as {kind}, which does not hold {field}")
        data = array.buffers()[2]
        offsets = _offsets(array)
        values = np.empty(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        offsets = _offsets(array)
        values = _elements(array.values, offsets, field)
    else:
        raise BadData(f"stored as {kind}, which does not hold {field}")
    starts, ends = offsets[:-1], offsets[1:]
    if (wrong := _loose(offsets, len(values))) is not None:
        raise BadData(f"its offsets {starts[wrong]} to {ends[wrong]} are not inside the column's {len(values)} elements", row=wrong)
    return RaggedColumn(starts=starts, ends=ends, values=values)


def _elements(child: pa.Array, offsets: npt.NDArray[Any], field: Field) -> npt.NDArray[Any]:
    if child.null_count:
        nulls = nulls_of(child)
        nulls = nulls[(nulls >= offsets[0]) & (nulls < offsets[-1])]
        if len(nulls):
            raise BadData("an element of the run is null; drop such elements first", row=int(np.searchsorted(offsets, nulls[0], side="right")) - 1)
    return _numbers(child, field.dtype)


def array_of(column: FixedColumn | RaggedColumn, field: Field) -> pa.Array:
    """Return the column as the Arrow type that Penstock writes, looking at the same memory where Arrow's layout allows."""
    storage = arrow_type(field)
    if isinstance(column, FixedColumn):
        array = _primitive(column.values.reshape(-1), field.dtype)
        kinds = [storage]
        for _ in field.shape[1:]:
            kinds.append(kinds[-1].value_type)
        for depth in range(len(field.shape), 0, -1):
            array = pa.Array.from_buffers(kinds[depth - 1], len(column.values) * prod(field.shape[: depth - 1]), [None], children=[array])
        return array
    rows = len(column.starts)
    first, last = (int(column.starts[0]), int(column.ends[-1])) if rows else (0, 0)
    if last - first > _MOST_BYTES:
        raise BadData(f"{rows} rows hold {last - first} elements, more than the {_MOST_BYTES} that one block can; cut the rows into smaller ones")
    offsets = np.zeros(rows + 1, np.int32)
    np.subtract(column.ends, first, out=offsets[1:], casting="unsafe")
    values = column.values[first:last]
    if pa.types.is_list(storage):
        return pa.Array.from_buffers(storage, rows, [None, pa.py_buffer(offsets)], children=[_primitive(values, field.dtype)])
    return pa.Array.from_buffers(storage, rows, [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(values))])


def _primitive(values: npt.NDArray[Any], dtype: str) -> pa.Array:
    if dtype == "bool":
        packed = np.packbits(values, bitorder="little")  # zeros behind the last
        return pa.Array.from_buffers(pa.bool_(), len(values), [None, pa.py_buffer(packed)])
    return pa.Array.from_buffers(pa.from_numpy_dtype(np.dtype(dtype)), len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])


def columns_of(batch: pa.RecordBatch, schema: Schema) -> dict[str, Column]:
    """Return the checked views of a batch's columns, in the order of the schema; each must be there once."""
    made = {}
    for name, field in schema.items():
        try:
            made[name] = column_of(batch.column(name), field)
        except BadData as error:
            raise error.at(field=name) from None
    return made


def batch_of(columns: Mapping[str, Column], schema: Schema, arrow_schema: pa.Schema) -> pa.RecordBatch:
    """Return columns, none of them parsed, as the batch that Penstock writes."""
    arrays = []
    for name, field in schema.items():
        column = columns[name]
        assert not isinstance(column, ParsedColumn)
        arrays.append(array_of(column, field))
    return pa.RecordBatch.from_arrays(arrays, schema=arrow_schema)


def row_bytes(columns: Mapping[str, Column]) -> npt.NDArray[np.int64] | int:
    """Return the bytes of values of each row, or of every row when all columns are fixed: elements, and 4 for each run's length."""
    total: npt.NDArray[np.int64] | int = 0
    for column in columns.values():
        assert not isinstance(column, ParsedColumn)
        if isinstance(column, FixedColumn):
            total = total + column.values.dtype.itemsize * prod(column.values.shape[1:])
        else:
            total = total + ((column.ends - column.starts).astype(np.int64) * column.values.dtype.itemsize + 4)
    return total


def canonical(table: pa.Table | pa.RecordBatch, schema: Schema) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a table as batches of the types that Penstock writes; columns are matched by name.

    Raises:
        BadData: a column is missing, unknown, unlike its field, or has a null or a value that is not what its field says.
    """
    names = table.schema.names
    if sorted(names) != sorted(schema):
        missing, extra = sorted(set(schema) - set(names)), sorted(name for name in names if name not in schema or names.count(name) > 1)
        raise BadData(f"the table's columns do not match the fields: missing {missing}, extra {extra}; select and rename them first")
    arrow_schema = pa.schema([field_to_arrow(name, field) for name, field in schema.items()])
    first_row = 0
    for batch in [table] if isinstance(table, pa.RecordBatch) else table.to_batches():
        yield from _canonical_batch(batch, schema, arrow_schema, first_row)
        first_row += batch.num_rows


def _canonical_batch(batch: pa.RecordBatch, schema: Schema, arrow_schema: pa.Schema, first_row: int) -> Iterator[pa.RecordBatch]:
    if batch.num_rows == 0:
        return
    columns: dict[str, Column] = {}
    for name, field in schema.items():
        try:
            columns[name] = column_of(_cast(batch.column(name), field), field)
            _check_values(columns[name], field)
        except BadData as error:
            row = error.row if error.row is None else int(error.row) + first_row
            raise BadData(error.reason, row=row, field=name) from None
    widest = max((int(c.ends[-1]) - int(c.starts[0])) * c.values.dtype.itemsize if isinstance(c, RaggedColumn) else 0 for c in columns.values())
    if widest > MOST_ROW_BYTES and batch.num_rows == 1:
        raise BadData(
            f"the value has {widest} bytes; one row may have {MOST_ROW_BYTES}: cut it into several rows, or keep it in a file", row=first_row
        )
    if widest > MOST_ROW_BYTES:
        half = batch.num_rows // 2
        yield from _canonical_batch(batch.slice(0, half), schema, arrow_schema, first_row)
        yield from _canonical_batch(batch.slice(half), schema, arrow_schema, first_row + half)
        return
    yield batch_of(columns, schema, arrow_schema)


def _cast(array: pa.Array, field: Field) -> pa.Array:
    """Return the array in the field's own storage, where another number type can be converted without changing a value."""
    storage = arrow_type(field)
    try:
        array = _plain(array)
        (shape, element), (wanted_shape, wanted) = flattened(array.type), flattened(storage)
        if shape and element == wanted and prod(shape) == prod(wanted_shape):
            return array
        alike = pa.types.is_large_binary(array.type) or pa.types.is_large_string(array.type)
        alike = alike or (pa.types.is_large_list(array.type) and pa.types.is_list(storage) and array.type.value_type == storage.value_type)
        if array.type == storage or (alike and field.ragged):
            return array
        array.validate()
        return _own(array).cast(storage)
    except (pa.ArrowException, OSError) as error:
        raise BadData(f"{array.type} values cannot be stored as {field}: {error}") from None


def _own(array: pa.Array) -> pa.Array:
    """Return lists whose child holds their own elements alone: a cast judges the whole child, also the rows that a slice has left out."""
    kind, rows = array.type, len(array)
    if not rows or array.null_count:  # a null is refused later, with its row
        return array
    if pa.types.is_fixed_size_list(kind):
        child = array.values.slice(array.offset * kind.list_size, rows * kind.list_size)
        return pa.Array.from_buffers(kind, rows, [None], children=[_own(child)])
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        width = np.int64 if pa.types.is_large_list(kind) else np.int32
        offsets = np.frombuffer(array.buffers()[1], width)[array.offset : array.offset + rows + 1]
        child = array.values.slice(int(offsets[0]), int(offsets[-1]) - int(offsets[0]))
        return pa.Array.from_buffers(kind, rows, [None, pa.py_buffer(offsets - offsets[0])], children=[child])
    return array


def _check_values(column: Column, field: Field) -> None:
    """Refuse values that the field's own `encode` would refuse: an image that is not one, text that is not UTF-8, JSON that does not parse."""
    if not isinstance(column, RaggedColumn) or field.dtype != "uint8" or field.kind == "bytes" or (field.kind == "text" and is_text(column)):
        return
    for row in range(len(column.starts)):
        try:
            if isinstance(field, (Image, Audio)):
                field.encode(column.row(row)[:16].tobytes())
            elif field.kind in {"text", "json"}:
                text = column.row(row).tobytes().decode()
                if isinstance(field, Json):
                    json.loads(text)
        except BadData as error:
            raise error.at(row=row) from None
        except (ValueError, RecursionError) as error:
            raise BadData(f"the value is not {field.kind}: {error}", row=row) from None


def is_text(column: RaggedColumn) -> bool:
    """Whether each row of a column whose runs follow each other is UTF-8; all rows are looked at in one call, 100 times as fast as one by one."""
    rows = len(column.starts)
    if not rows:
        return True
    bounds = np.append(column.starts, column.ends[-1]).astype(np.int64)
    buffers = [None, pa.py_buffer(bounds), pa.py_buffer(np.ascontiguousarray(column.values))]
    try:
        pa.Array.from_buffers(pa.large_string(), rows, buffers).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def first_no_text(column: RaggedColumn) -> int | None:
    """Return the first row that is not UTF-8, or None."""
    for row in range(0 if is_text(column) else len(column.starts)):
        try:
            column.row(row).tobytes().decode()
        except UnicodeDecodeError:
            return row
    return None


def encoded_rows(batch: pa.RecordBatch, schema: Schema) -> Iterator[dict[str, Any]]:
    """Yield the rows of a batch as `Field.encode` would give them; the slow, obvious way for formats that have no faster one."""
    columns = columns_of(batch, schema)
    for row in range(batch.num_rows):
        yield {name: _encoded(columns[name].row(row), field) for name, field in schema.items()}


def _encoded(value: npt.NDArray[Any], field: Field) -> Any:
    if not field.ragged:
        return value if field.shape else value[()]
    if field.kind == "tokens":
        return value
    return value.tobytes().decode() if field.kind in {"text", "json"} else value.tobytes()
