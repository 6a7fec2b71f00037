"""A column of text becomes one of tokens while it is converted, by a tokenizer file of Hugging Face's `tokenizers`.

What the tokenizer is is part of the job: its digest stands in the settings, and a worker that finds another one refuses to work, so that a
conversion that is continued a week later cannot change its tokens on the way. Truncation and padding that such a file may ask for are switched off:
documents are kept whole, and cut by whoever trains.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from ..errors import BadData, BadRequest
from ..fields import Schema, Text, Tokens
from .source import Chunk

TOKENS = "tokens"
"""The name of the column of tokens."""


@dataclass(frozen=True, kw_only=True)
class TokenRule:
    """What happens to a column of text.

    Attributes:
        tokenizer: a `tokenizer.json`, a folder with one, as an absolute path; or a name on the Hugging Face hub.
        digest: of the tokenizer, by which it is known again.
        column: the column of text, in whose place the tokens stand.
        dtype: of the tokens: the narrowest that holds every one of the vocabulary.
        special: whether the tokenizer adds what it adds to every document, such as a token that begins it.
        end: the token that is put behind every document, or None.
    """

    tokenizer: str
    digest: str
    column: str
    dtype: str
    special: bool = True
    end: int | None = None


def rule_of(tokenizer: str, column: str, end_token: str | None, *, special: bool) -> TokenRule:
    """Return the rule for a tokenizer that is opened to know it.

    Raises:
        BadRequest: there is no such tokenizer, or `tokenizers` is not installed, or the vocabulary has no such token.
    """
    place = str(Path(tokenizer).absolute()) if Path(tokenizer).exists() else tokenizer
    opened = _opened(place)
    size = max(opened.get_vocab(with_added_tokens=True).values(), default=0) + 1
    end = None if end_token is None else opened.token_to_id(end_token)
    if end_token is not None and end is None:
        raise BadRequest(f"end_token: {end_token!r} is no token of {tokenizer!r}")
    return TokenRule(tokenizer=place, digest=_digest(opened), column=column, dtype="uint16" if size <= 2**16 else "int32", special=special, end=end)


def _opened(place: str) -> Any:
    """Open a tokenizer, without what would cut or pad documents."""
    try:
        library = importlib.import_module("tokenizers")  # by name: few conversions need it, and it is an extra
    except ImportError:
        raise BadRequest("tokenize needs Hugging Face's tokenizers: pip install 'penstock[tokenize]'") from None
    path = Path(place)
    try:
        if path.exists():
            opened = library.Tokenizer.from_file(str(path / "tokenizer.json" if path.is_dir() else path))
        else:
            opened = library.Tokenizer.from_pretrained(place)
    except Exception as error:  # noqa: BLE001  (the library raises no other)
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadRequest(f"tokenize: {place!r} is no file, folder or hub name of a tokenizer that can be read: {first}") from None
    opened.no_truncation()
    opened.no_padding()
    return opened


def _digest(opened: Any) -> str:
    return xxhash.xxh3_128_hexdigest(opened.to_str().encode())


def written(schema: Schema, rule: TokenRule | None) -> Schema:
    """Return the columns that are written: tokens in the place of the text.

    Raises:
        BadRequest: there is no such column of text, or the tokens' name is taken.
    """
    if rule is None:
        return schema
    if not isinstance(schema.get(rule.column), Text):
        texts = [name for name, field in schema.items() if isinstance(field, Text)]
        raise BadRequest(f"text_column: {rule.column!r} is no column of text; those are {texts or 'none'}")
    if TOKENS in schema and rule.column != TOKENS:
        raise BadRequest(f"tokenize makes a column {TOKENS!r}, and the source has one already; leave it out with columns=")
    return {(TOKENS if name == rule.column else name): (Tokens(rule.dtype) if name == rule.column else field) for name, field in schema.items()}


class Tokenizer:
    """Turns the text of chunks into tokens."""

    def __init__(self, rule: TokenRule) -> None:
        """Open the tokenizer.

        Raises:
            BadRequest: it cannot be opened, or is not the one that was planned with.
        """
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the job's workers are the cores already
        self._rule = rule
        self._opened = _opened(rule.tokenizer)
        if _digest(self._opened) != rule.digest:
            raise BadRequest(f"tokenize: {rule.tokenizer!r} is not the tokenizer that this conversion began with; put that one back, or begin anew")

    def apply(self, chunk: Chunk) -> tuple[Chunk, dict[int, str]]:
        """Return the rows with tokens in the place of their text, and why those that have none have none, by their index."""
        given = chunk.columns[self._rule.column]
        values: list[Any] = given if isinstance(given, list) else given.to_pylist()
        refused: dict[int, str] = {}
        texts = [self._text(value, index, refused) for index, value in enumerate(values)]
        rows = self._encoded(texts, refused)
        others = {name: column for name, column in chunk.columns.items() if name != self._rule.column}
        return replace(chunk, columns={**others, TOKENS: self._array(rows)}), refused

    def _text(self, value: Any, index: int, refused: dict[int, str]) -> str:
        """Return a row's text, "" for one that has none."""
        if value is None:
            refused[index] = f"{self._rule.column}: the value is null; every row needs one"
            return ""
        try:
            return value.decode() if isinstance(value, bytes) else str(value)
        except UnicodeDecodeError as error:
            refused[index] = f"{self._rule.column}: not UTF-8 at byte {error.start}"
            return ""

    def _encoded(self, texts: Sequence[str], refused: dict[int, str]) -> list[list[int]]:
        """Return the tokens of each row, none for those that are refused."""
        try:
            found: list[list[int]] = [one.ids for one in self._opened.encode_batch(texts, add_special_tokens=self._rule.special)]
        except Exception:  # noqa: BLE001  (the library raises no other): find out which
            found = [self._alone(text, index, refused) for index, text in enumerate(texts)]
        most = np.iinfo(self._rule.dtype).max
        for index, ids in enumerate(found):
            if max(ids, default=0) > most:
                refused[index] = f"{self._rule.column}: token {max(ids)} is beyond the tokenizer's vocabulary"
        end = [] if self._rule.end is None else [self._rule.end]
        return [[] if index in refused else [*ids, *end] for index, ids in enumerate(found)]

    def _alone(self, text: str, index: int, refused: dict[int, str]) -> list[int]:
        try:
            ids: list[int] = self._opened.encode(text, add_special_tokens=self._rule.special).ids
        except Exception as error:  # noqa: BLE001  (as above)
            refused[index] = f"{self._rule.column}: the tokenizer refuses it: {(str(error).splitlines() or [type(error).__name__])[0]}"
            return []
        return ids

    def _array(self, rows: Sequence[Sequence[int]]) -> pa.Array:
        """Return the tokens as a list a row."""
        offsets = np.cumsum([0, *map(len, rows)])
        if offsets[-1] >= 2**31:
            raise BadData(f"{int(offsets[-1])} tokens in {len(rows)} rows that were read together; convert with shorter texts")
        values = np.fromiter((token for ids in rows for token in ids), self._rule.dtype, int(offsets[-1]))
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values))
