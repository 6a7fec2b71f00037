"""Fields: descriptions survive Arrow and JSON, values survive encoding, and what cannot is refused in the words a user needs."""

from __future__ import annotations

import json
import pickle
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from penstock.errors import BadData, BadRequest
from penstock.fields import (
    KINDS,
    Array,
    Audio,
    Bytes,
    Field,
    Image,
    Json,
    Scalar,
    Schema,
    Text,
    Tokens,
    field_from_json,
    schema_from_json,
    schema_to_json,
)
from penstock.shards.arrow_types import METADATA_KEY, arrow_type, field_from_arrow, field_to_arrow, flattened, schema_from_arrow, schema_to_arrow
from penstock.shards.infer import infer

DTYPES = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64")
HEADS = {
    "jpeg": b"\xff\xd8\xff\xe0",
    "png": b"\x89PNG\r\n\x1a\n",
    "webp": b"RIFF\x10\0\0\0WEBPVP8 ",
    "flac": b"fLaC\0",
    "wav": b"RIFF\x10\0\0\0WAVEfmt ",
    "mp3": b"ID3\x04",
}

shapes = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)
fields: st.SearchStrategy[Field] = st.one_of(
    st.sampled_from(DTYPES).map(Scalar),
    st.builds(Array, shapes, st.sampled_from(DTYPES)),
    st.sampled_from(DTYPES[1:]).map(Tokens),
    st.sampled_from(("jpeg", "png", "webp", "any")).map(Image),
    st.sampled_from(("flac", "wav", "mp3", "any")).map(Audio),
    st.sampled_from((Text(), Json(), Bytes())),
)
letters = st.characters(exclude_categories=["Cs"])
names = st.text(letters, min_size=1, max_size=12)
documents = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | st.text(letters),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)


def wrong(value: object) -> Any:
    """Return a value that the types forbid."""
    return value


def stored(field: Field, value: Any) -> Any:
    """Return an encoded value as a row looks when it is read: an array of the field's shape and dtype, or a run."""
    if isinstance(value, str):
        value = value.encode()
    return np.frombuffer(value, np.uint8) if isinstance(value, bytes) else np.asarray(value, field.dtype)


# Descriptions


@given(fields, names)
def test_a_field_survives_json_and_arrow(field: Field, name: str) -> None:
    """Through JSON text, through an Arrow field, and through a schema serialized as files hold it, a field is what it was."""
    described = field.to_json()
    assert field_from_json(name, json.loads(json.dumps(described))) == field
    arrow = field_to_arrow(name, field)
    assert (arrow.name, arrow.nullable) == (name, False)
    assert field_from_arrow(arrow) == field
    assert field_from_arrow(pa.ipc.read_schema(pa.schema([arrow]).serialize()).field(0)) == field
    assert pickle.loads(pickle.dumps(field)) == field
    assert hash(field_from_json(name, described)) == hash(field)


@given(st.dictionaries(names, fields, min_size=1, max_size=6))
def test_a_schema_survives_json_and_arrow_in_order(schema: Schema) -> None:
    """Names, fields and their order come back from JSON and from Arrow, and some columns from Arrow in the order of the file."""
    for back in (schema_from_json(json.loads(json.dumps(schema_to_json(schema)))), schema_from_arrow(schema_to_arrow(schema))):
        assert list(back.items()) == list(schema.items())
    some = list(schema)[::2]
    assert list(schema_from_arrow(schema_to_arrow(schema), some[::-1])) == some


@given(st.builds(Array, shapes, st.sampled_from(DTYPES)))
def test_an_array_is_nested_fixed_lists(field: Array) -> None:
    """Arrow's type has one fixed-size list a dimension, outermost first, and not even its elements are nullable."""
    kind = arrow_type(field)
    assert flattened(kind) == (field.shape, pa.from_numpy_dtype(np.dtype(field.dtype)))
    for _ in field.shape:
        assert not kind.value_field.nullable
        kind = kind.value_type
    assert field_from_arrow(pa.field("foreign", arrow_type(field))) == field


def test_fields_are_values() -> None:
    """Equal arguments make equal fields however the dtype is spelled, unlike ones differ, and none can be changed."""
    assert Scalar("i4") == Scalar(np.int32) == Scalar(np.dtype(">i4")) == Scalar("int32")
    assert Array([2, np.int64(3)], "f4") == Array((2, 3), "float32")
    assert len({Bytes(), Text(), Json(), Image(), Audio(), Scalar(), Tokens("int64"), Array((1,), "int64")}) == 8
    assert Image("jpeg") != Image("png")
    with pytest.raises(AttributeError):
        Scalar().dtype = "int8"


def test_every_kind_says_what_a_row_is() -> None:
    """Kind, raggedness, shape and dtype are what the loader lays a batch out by; a kind's name leads back to its class."""
    layout = {
        Scalar("bool"): (False, (), "bool"),
        Array((2, 3), "uint16"): (False, (2, 3), "uint16"),
        Tokens("int16"): (True, (), "int16"),
        Image(): (True, (), "uint8"),
        Audio(): (True, (), "uint8"),
        Text(): (True, (), "uint8"),
        Bytes(): (True, (), "uint8"),
        Json(): (True, (), "uint8"),
    }
    assert {type(field) for field in layout} == set(KINDS.values())
    for field, (ragged, shape, dtype) in layout.items():
        assert (field.ragged, field.shape, field.dtype) == (ragged, shape, dtype)
        assert KINDS[field.kind] is type(field)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Scalar("complex64"), "Scalar: dtype 'complex64' cannot be stored; use one of bool, int8"),
        (lambda: Scalar("object"), "Scalar: dtype 'object' cannot be stored"),
        (lambda: Scalar(wrong(None)), "Scalar: dtype None cannot be stored"),
        (lambda: Scalar("(2,"), r"Scalar: dtype '\(2,' cannot be stored"),
        (lambda: Scalar("i4,f8"), "Scalar: dtype 'i4,f8' cannot be stored"),
        (lambda: Tokens("bool"), "Tokens: dtype 'bool' has no runs; use uint8"),
        (lambda: Tokens("datetime64[s]"), "Tokens: dtype 'datetime64"),
        (lambda: Array((2, 0)), r"Array: shape \(2, 0\) needs 1 to 32 dimensions"),
        (lambda: Array(()), r"Array: shape \(\) needs"),
        (lambda: Array((-1,)), r"Array: shape \(-1,\) needs"),
        (lambda: Array((2**16, 2**16)), r"shape \(65536, 65536\) needs .* 2147483647 elements at most"),
        (lambda: Array((1,) * 33), "needs 1 to 32 dimensions"),
        (lambda: Array(wrong((1.5,))), r"Array: shape \(1.5,\) is not a tuple of integers"),
        (lambda: Array(wrong("12")), "Array: shape 12 is not a tuple of integers"),
        (lambda: Array(wrong(3)), "Array: shape 3 is not a tuple of integers"),
        (lambda: Image("gif"), "Image: encoding 'gif' is not one of 'jpeg', 'png', 'webp', 'any'"),
        (lambda: Audio("ogg"), "Audio: encoding 'ogg' is not one of 'flac', 'wav', 'mp3', 'any'"),
        (lambda: Image(wrong(["jpeg"])), r"Image: encoding \['jpeg'\] is not one of"),
    ],
)
def test_wrong_arguments_are_the_callers(make: Any, message: str) -> None:
    """An argument that cannot work is refused when the field is made, naming field, argument, value and what would do."""
    with pytest.raises(BadRequest, match=message):
        make()


# Hostile descriptions


@pytest.mark.parametrize(
    "described",
    [
        None,
        [],
        "scalar",
        7,
        {},
        {"kind": "pickle"},
        {"kind": ["scalar"]},
        {"kind": {"scalar": 1}},
        {"kind": None},
        {"kind": "scalar", "dtype": "object"},
        {"kind": "scalar", "dtype": {"names": ["a"], "formats": ["O"]}},
        {"kind": "scalar", "dtype": [["a", "O"]]},
        {"kind": "scalar", "dtype": None},
        {"kind": "scalar", "dtype": 7},
        {"kind": "scalar", "shape": [2]},
        {"kind": "scalar", "__class__": "os.system"},
        {"kind": "array"},
        {"kind": "array", "shape": "12"},
        {"kind": "array", "shape": {"2": 1}},
        {"kind": "array", "shape": [1e300]},
        {"kind": "array", "shape": [float("inf")]},
        {"kind": "array", "shape": [2.0]},
        {"kind": "array", "shape": [None]},
        {"kind": "array", "shape": [10**30]},
        {"kind": "array", "shape": [1] * 100_000},
        {"kind": "array", "shape": [[2]]},
        {"kind": "array", "shape": [0]},
        {"kind": "tokens", "dtype": "bool"},
        {"kind": "image", "encoding": ["png"]},
        {"kind": "image", "encoding": "../../etc/passwd"},
        {"kind": "text", "encoding": "utf-16"},
    ],
)
def test_hostile_descriptions_are_refused_by_name(described: object) -> None:
    """Every description that is not one of ours is `BadData` of the column, short enough to read, and never another error."""
    with pytest.raises(BadData) as caught:
        field_from_json("column", described)
    assert caught.value.field == "column"
    assert len(str(caught.value)) < 1000


@given(
    documents
    | st.fixed_dictionaries({"kind": st.sampled_from(sorted(KINDS))}, optional={"dtype": documents, "shape": documents, "encoding": documents})
)
@example({"kind": "scalar", "dtype": "a" * 10_000})
@example({"kind": "scalar", "dtype": "("})
def test_any_document_is_a_field_or_refused(described: Any) -> None:
    """Whatever JSON says, it is a valid field that describes itself in the same way, or `BadData`."""
    try:
        field = field_from_json("x", described)
    except BadData:
        return
    assert field_from_json("x", json.loads(json.dumps(field.to_json()))) == field
    assert field_from_arrow(field_to_arrow("x", field)) == field


@given(documents)
def test_any_document_is_a_schema_or_refused(described: Any) -> None:
    """So it is for a whole schema."""
    try:
        schema = schema_from_json(described)
    except BadData:
        return
    assert schema_from_json(schema_to_json(schema)) == schema


@pytest.mark.parametrize(
    ("described", "message"),
    [
        ([], "a schema is a list of fields, not '\\[\\]'"),
        ({}, "a schema is a list of fields"),
        ([{"kind": "text"}], "a schema's field needs a name of its own, not None"),
        ([{"name": "", "kind": "text"}], "needs a name of its own, not ''"),
        ([{"name": 3, "kind": "text"}], "needs a name of its own, not 3"),
        ([{"name": "a", "kind": "text"}, {"name": "a", "kind": "json"}], "needs a name of its own, not 'a'"),
        ([["name", "a"]], "needs a name of its own, not None"),
        ([{"name": "a", "kind": "tuple"}], "field a: unknown field type 'tuple'; there are Scalar"),
    ],
)
def test_hostile_schemas_are_refused(described: object, message: str) -> None:
    """A schema without columns, with a nameless or a double one, or with an unknown kind is refused."""
    with pytest.raises(BadData, match=message):
        schema_from_json(described)


@pytest.mark.parametrize("metadata", [b"", b"{", b"\xff", b"null", b"[" * 100_000, b'{"kind": "image", "encoding": 1}', b'{"kind": ["text"]}'])
def test_hostile_metadata_is_refused(metadata: bytes) -> None:
    """Metadata under our key that is not a description of ours is `BadData` of the column."""
    with pytest.raises(BadData) as caught:
        field_from_arrow(pa.field("column", pa.binary(), metadata={METADATA_KEY: metadata}))
    assert caught.value.field == "column"


@pytest.mark.parametrize(
    ("field", "kind"),
    [
        (Scalar("int64"), pa.int32()),
        (Scalar("int64"), pa.uint64()),
        (Array((2, 3), "int8"), pa.list_(pa.list_(pa.int8(), 2), 3)),
        (Array((6,), "int8"), pa.list_(pa.int8(), 5)),
        (Array((2,), "int8"), pa.list_(pa.int8())),
        (Tokens("int8"), pa.list_(pa.int16())),
        (Text(), pa.binary()),
        (Image(), pa.string()),
        (Json(), pa.int64()),
    ],
)
def test_a_description_that_contradicts_its_storage_is_refused(field: Field, kind: pa.DataType) -> None:
    """A file that says one thing and stores another is not believed."""
    with pytest.raises(BadData, match=r"field c: described as .* but stored as"):
        field_from_arrow(pa.field("c", kind, metadata={METADATA_KEY: json.dumps(field.to_json()).encode()}))


@pytest.mark.parametrize(
    ("field", "kind"),
    [
        (Text(), pa.large_string()),
        (Json(), pa.string_view()),
        (Bytes(), pa.large_binary()),
        (Tokens("int8"), pa.large_list(pa.int8())),
        (Tokens("int8"), pa.list_(pa.field("element", pa.int8(), nullable=True))),
        (Array((2, 3), "int8"), pa.list_(pa.list_(pa.field("x", pa.int8()), 3), 2)),
    ],
)
def test_what_other_libraries_make_of_our_columns_is_read(field: Field, kind: pa.DataType) -> None:
    """A wider, viewed or renamed storage, as polars and pandas write it back with our metadata, is still the field."""
    assert field_from_arrow(pa.field("c", kind, metadata={METADATA_KEY: json.dumps(field.to_json()).encode()})) == field


# Foreign types


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        (pa.bool_(), Scalar("bool")),
        (pa.float16(), Scalar("float16")),
        (pa.float64(), Scalar("float64")),
        (pa.uint8(), Scalar("uint8")),
        (pa.string(), Text()),
        (pa.large_string(), Text()),
        (pa.string_view(), Text()),
        (pa.dictionary(pa.int8(), pa.string()), Text()),
        (pa.dictionary(pa.int64(), pa.large_string()), Text()),
        (pa.binary(), Bytes()),
        (pa.large_binary(), Bytes()),
        (pa.binary_view(), Bytes()),
        (pa.list_(pa.float32()), Tokens("float32")),
        (pa.large_list(pa.int64()), Tokens("int64")),
        (pa.list_(pa.bool_(), 4), Array((4,), "bool")),
        (pa.list_(pa.list_(pa.float32(), 3), 2), Array((2, 3), "float32")),
        (pa.fixed_shape_tensor(pa.int16(), [2, 3]), Array((2, 3), "int16")),
    ],
    ids=str,
)
def test_foreign_types_have_fields(kind: pa.DataType, field: Field) -> None:
    """What others write without our metadata is the field that holds it; other metadata does not matter."""
    assert field_from_arrow(pa.field("x", kind)) == field
    assert field_from_arrow(pa.field("x", kind, metadata={b"PARQUET:field_id": b"1"})) == field


@pytest.mark.parametrize(
    "kind",
    [
        pa.null(),
        pa.timestamp("ns"),
        pa.date32(),
        pa.decimal128(10, 2),
        pa.list_(pa.bool_()),
        pa.list_(pa.string()),
        pa.list_(pa.list_(pa.int8())),
        pa.list_(pa.string(), 2),
        pa.list_(pa.int8(), 0),
        pa.struct([("a", pa.int8())]),
        pa.map_(pa.string(), pa.int8()),
        pa.dictionary(pa.int8(), pa.int64()),
        pa.binary(16),
        pa.fixed_shape_tensor(pa.int16(), [2, 3], permutation=[1, 0]),
        pa.fixed_shape_tensor(pa.int16(), [2, 0]),
        pa.fixed_shape_tensor(pa.date32(), [2]),
    ],
    ids=str,
)
def test_types_without_a_field_are_refused(kind: pa.DataType) -> None:
    """A type that no field holds is named with the column, the fields there are, and how to go on without it."""
    with pytest.raises(BadData, match=r"there are Scalar\(dtype\).*Leave the column out with columns=") as caught:
        field_from_arrow(pa.field("when", kind))
    assert caught.value.field == "when"


def test_columns_of_one_name_are_refused() -> None:
    """An Arrow schema that names two columns alike could mean either."""
    twice = pa.schema([("a", pa.int8()), ("b", pa.int8()), ("a", pa.string())])
    with pytest.raises(BadData, match=r"two columns share a name: \['a', 'b', 'a'\]"):
        schema_from_arrow(twice, ["b"])


# Values


@given(st.sampled_from(DTYPES).flatmap(lambda dtype: st.tuples(st.just(dtype), shapes.flatmap(lambda shape: hnp.arrays(dtype, shape)))))
def test_arrays_survive(case: tuple[str, Any]) -> None:
    """An array of the declared shape and dtype is stored bit for bit, contiguous, and decoded as a copy; so are its runs and numbers."""
    dtype, value = case
    field = Array(value.shape, dtype)
    kept = field.encode(value.T.copy().T)  # in Fortran order
    assert kept.flags.c_contiguous
    assert kept.tobytes() == value.tobytes()
    back = field.decode(kept)
    assert (back.dtype, back.shape, back.tobytes()) == (value.dtype, value.shape, value.tobytes())
    assert not np.shares_memory(back, kept)
    number = Scalar(dtype).encode(value.flat[0])
    assert np.array(Scalar(dtype).decode(stored(Scalar(dtype), number)), dtype).tobytes() == value.flat[0].tobytes() or np.isnan(value.flat[0])
    if dtype != "bool":
        assert Tokens(dtype).decode(Tokens(dtype).encode(value.reshape(-1))).tobytes() == value.tobytes()


@given(documents)
def test_documents_survive(value: Any) -> None:
    """What JSON can say comes back equal, from a text that does not depend on the order of keys."""
    text = Json().encode(value)
    assert Json().decode(stored(Json(), text)) == value
    assert Json().encode(json.loads(text)) == text


@given(st.text(letters), st.binary())
def test_text_and_bytes_survive(text: str, data: bytes) -> None:
    """Any text that is UTF-8 and any bytes, in any container, come back equal."""
    assert Text().decode(stored(Text(), Text().encode(text))) == text
    for given_as in (data, bytearray(data), memoryview(data)):
        kept = Bytes().encode(given_as)
        assert type(kept) is bytes
        assert Bytes().decode(stored(Bytes(), kept)) == data


@given(st.integers(-(2**64), 2**65) | st.floats(allow_nan=False) | st.booleans(), st.sampled_from(DTYPES))
def test_a_number_is_kept_or_refused(value: Any, dtype: str) -> None:
    """A whole number is never wrapped, cut or turned into a truth value: it is stored as it is or refused; so for float into int."""
    try:
        kept = Scalar(dtype).encode(value)
    except BadData:
        return
    assert kept.dtype == dtype
    if not dtype.startswith("float"):
        assert kept == value
        assert not isinstance(value, float)
    elif isinstance(value, int):
        assert kept.item() == value
    elif np.isfinite(float(value)):
        assert np.isfinite(kept)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (Scalar("int8"), 300, r"Scalar\('int8'\) would change int64 value 300; declare a wider dtype"),
        (Scalar("int64"), 1.5, r"Scalar\('int64'\) would change float64 value 1.5"),
        (Scalar("float16"), 1e9, r"would change float64 value 1.e\+09"),
        (Scalar("float32"), 16777217, r"Scalar\('float32'\) would change int64 value 16777217; declare a wider dtype"),
        (Scalar("float64"), 2**53 + 1, "would change int64 value 9007199254740993"),
        (Scalar("float64"), 2**64 - 1, "would change uint64 value 18446744073709551615"),
        (Scalar("float64"), -(2**63) + 1, "would change int64 value"),
        (Scalar("float16"), 2049, "would change int64 value 2049"),
        (Scalar("float16"), 10**6, "would change int64 value 1000000"),
        (Array((2,)), [1, 2**24 + 1], r"Array\('float32'\) would change int64 value \[ +1 16777217\]"),
        (Tokens("float32"), np.array([2**31 - 1], np.uint32), "would change uint32 value"),
        (Scalar("bool"), 2, "would change int64 value 2"),
        (Scalar("int64"), "7", r"Scalar\('int64'\) takes numbers, not str"),
        (Scalar("int64"), None, "takes numbers, not NoneType"),
        (Scalar("int64"), [1, 2], r"a Scalar\('int64'\) holds one number, not an array of shape \(2,\); declare the column as Array"),
        (Array((2,)), [1.0, 2.0, 3.0], r"expected an array of shape \(2,\), got \(3,\)"),
        (Array((2, 2)), [[1.0], [1.0, 2.0]], r"Array\('float32'\) takes an array, not list of rows that differ"),
        (Array((1,)), object(), "takes numbers"),
        (Tokens(), [[1, 2]], r"Tokens\('int32'\) holds a run of numbers \(1-D\), not an array of shape \(1, 2\)"),
        (Tokens(), [2**31], r"Tokens\('int32'\) would change int64 value \[2147483648\]"),
        (Text(), b"bytes", "a column of text takes str, not bytes"),
        (Text(), "a\ud800", "cannot be written as UTF-8: surrogates not allowed at character 1"),
        (Json(), {"a": "\udcff"}, "cannot be written as UTF-8"),
        (Json(), {"a": {1, 2}}, "a value of dict cannot be written as JSON"),
        (Json(), {1: 2, "a": 3}, "cannot be written as JSON: the key '1' is int, and a key in JSON is text"),
        (Json(), {"a": [({None: 1},)]}, "the key 'None' is NoneType"),
        (Json(), [{"a": {True: 1}}], "the key 'True' is bool"),
        (Json(), {"a": [float("nan")]}, "a value of dict cannot be written as JSON: it holds NaN or an infinity, .* use None"),
        (Json(), float("inf"), "it holds NaN or an infinity"),
        (Json(), -np.float64("inf"), "it holds NaN or an infinity"),
        (Bytes(), "text", "a column of bytes takes bytes, not str"),
        (Image(), "photo.jpg", "a column of image takes bytes, not str"),
        (Image("jpeg"), HEADS["png"], r"the 8 bytes, beginning b'\\x89PNG.*', are not jpeg image data"),
        (Image(), b"", "the 0 bytes, beginning b'', are not jpeg or png or webp image data"),
        (Image("webp"), HEADS["wav"], "are not webp image data"),
        (Audio("wav"), HEADS["webp"], "are not wav audio data"),
        (Audio(), HEADS["jpeg"], "are not flac or wav or mp3 audio data"),
    ],
)
def test_a_value_that_does_not_fit_is_refused(field: Field, value: object, message: str) -> None:
    """A value that its column cannot hold unchanged is `BadData` that says what was expected, what came, and often what to do."""
    with pytest.raises(BadData, match=message):
        field.encode(value)


def test_empty_runs_and_odd_numbers_are_kept() -> None:
    """An empty list is a run, NaN and infinities are numbers, and whole numbers fit where their value does."""
    assert Tokens("int32").encode([]).shape == (0,)
    assert np.isnan(Scalar("float32").encode(float("nan")))
    assert Scalar("float16").encode(float("-inf")) == -np.inf
    assert Scalar("uint64").encode(2**64 - 1) == 2**64 - 1
    assert Scalar("int8").encode(np.uint64(5)).dtype == np.int8
    assert Scalar("float32").encode(True) == 1.0
    assert Scalar("float32").encode(2**24) == 2**24
    assert Scalar("float32").encode(2**60).item() == 2**60
    assert Scalar("float64").encode(-(2**63)).item() == -(2**63)
    assert Array((2,), "float32").encode(np.array([0, 255], np.uint8)).tolist() == [0.0, 255.0]
    assert Tokens("float16").encode(np.array([], np.int64)).shape == (0,)
    assert Json().encode({"a": (1, 2), "b": None}) == '{"a":[1,2],"b":null}'


@pytest.mark.parametrize("encoding", HEADS)
def test_images_and_sounds_are_known_by_their_first_bytes(encoding: str) -> None:
    """Bytes that begin as the encoding does are taken by its own field and by `any`, and by no other encoding's."""
    kinds: dict[str, tuple[Any, tuple[str, ...]]] = {"image": (Image, ("jpeg", "png", "webp")), "audio": (Audio, ("flac", "wav", "mp3"))}
    for make, encodings in kinds.values():
        takes = []
        for each in encodings:
            try:
                takes += [each] if make(each).encode(HEADS[encoding]) else []
            except BadData:
                continue
        assert takes == ([encoding] if encoding in encodings else [])
    make = Image if encoding in Image.encodings else Audio
    assert make("any").decode(stored(make("any"), make("any").encode(memoryview(HEADS[encoding])))) == HEADS[encoding]


@pytest.mark.parametrize(
    ("field", "data", "message"),
    [
        (Text(), b"ab\xff", "the text is not UTF-8: invalid start byte at byte 2"),
        (Json(), b"{", "the row is not JSON"),
        (Json(), b"\xff", "the row is not JSON"),
        (Json(), b"[" * 100_000, "the row is not JSON"),
    ],
)
def test_damaged_values_are_refused_when_read(field: Field, data: bytes, message: str) -> None:
    """A row that is not what its column says is `BadData`, also when it is made to exhaust the parser."""
    with pytest.raises(BadData, match=message):
        field.decode(np.frombuffer(data, np.uint8))


# Inference


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (True, Scalar("bool")),
        (np.True_, Scalar("bool")),
        (3, Scalar("int64")),
        (2.5, Scalar("float64")),
        (np.float16(1), Scalar("float16")),
        (np.float64(1), Scalar("float64")),
        (np.uint8(1), Scalar("uint8")),
        (np.array(5, np.int16), Scalar("int16")),
        (np.zeros((2, 3), np.float32), Array((2, 3), "float32")),
        (np.zeros(4, bool), Array((4,), "bool")),
        ("text", Text()),
        (b"bytes", Bytes()),
        (bytearray(b"bytes"), Bytes()),
        ({"a": [1, None]}, Json()),
        ([1, 2], Json()),
    ],
)
def test_infer_finds_the_field_that_holds_the_value(value: Any, field: Field) -> None:
    """The field inferred from a value is the expected one, and it takes that value."""
    assert infer(value) == field
    field.encode(value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, r"a value of builtins\.NoneType has no field type; there are Scalar\(dtype\), Array"),
        (object(), r"a value of builtins\.object has no field type"),
        ({1, 2}, r"builtins\.set"),
        (1j, r"builtins\.complex"),
        (np.array(["a"]), r"numpy\.ndarray has no field type"),
        (np.array([object()]), r"numpy\.ndarray has no field type"),
        (np.zeros((0,), np.int16), r"an array of shape \(0,\) does not say what the column holds; declare it, perhaps as Tokens\('int16'\)"),
        (np.zeros((2, 0)), r"an array of shape \(2, 0\)"),
        ({"a": object()}, "cannot be written as JSON"),
    ],
)
def test_infer_refuses_what_no_field_holds(value: object, message: str) -> None:
    """An object without a field is never pickled: it is refused with its type and the list of fields."""
    with pytest.raises(BadData, match=message):
        infer(value)


@given(documents | st.binary() | hnp.arrays(st.sampled_from(DTYPES), shapes))
def test_what_infer_accepts_is_stored_and_comes_back(value: Any) -> None:
    """An inferred field gives back its value, or the value is refused in words; nothing else happens."""
    try:
        field = infer(value)
        kept = field.encode(value)
    except BadData:
        assert value is None or isinstance(value, int)
        return
    back = field.decode(stored(field, kept))
    assert np.array_equal(back, value, equal_nan=back.dtype.kind == "f") if isinstance(value, np.ndarray) else back == value
