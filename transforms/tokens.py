"""Ops on sequences of tokens: labels one token ahead, masking as BERT has it; and `From`, which lets a new column begin with another one's values.

Masking draws by the sample alone, wherever the ops stand in their chains, so the chain of the masked tokens and that of their labels choose the same tokens:
`{"input_ids": [mask], "labels": [From("input_ids"), Cast("int64"), mask.labels()]}`.
"""

# ruff: noqa: ARG002 - every op has the contract's signature, whether it needs the spec and the draws or not

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ..errors import BadRequest
from .base import Array, Given, Op, Ragged, Spec
from .random import Random

_DRAWS = 0xFFFFFFFE
"""The op number of masking: one for all, and no chain is so long."""

_MASKED, _REPLACED = 0.8, 0.9
"""Of the chosen tokens 80 % become the mask, 10 % a random token, and 10 % stay (Devlin et al., "BERT", NAACL 2019, section 3.1)."""


def _tokens(op: Op, given: Given) -> Spec | Ragged:
    """Return what was given, if it is integers that lie in a row."""
    if not isinstance(given, (Spec, Ragged)) or np.dtype(given.dtype).kind not in "iu" or (isinstance(given, Spec) and len(given.shape) != 1):
        raise BadRequest(f"{op} works on sequences of tokens, not on {given}: use it on a column of Tokens, or on the rows of TokenWindows or Packed")
    return given


def _holds(op: Op, name: str, value: object, dtype: str) -> None:
    if type(value) is not int or not np.iinfo(dtype).min <= value <= np.iinfo(dtype).max:
        raise BadRequest(f"{op}: {name}={value!r} is no {dtype}; put Cast before it, or read the tokens with dtype='int64'")


@dataclass(frozen=True)
class From(Op):
    """Begin with the values of another column: first in the chain of a column that the dataset does not have.

    Attributes:
        column: which.
    """

    column: str

    def declare(self, given: Given) -> Spec | Ragged:
        """Refuse: where it may stand, it is taken off before ops are asked."""
        raise BadRequest(f"{self} stands first in the chain of a new column, and nowhere else")

    def apply(self, value: Array, given: Given, rng: Random) -> Array:
        """Return what was given."""
        return value


@dataclass(frozen=True)
class ShiftLabels(Op):
    """Labels of a language model: what stands at each place is the token one further on; the last has none.

    Attributes:
        ignore_index: the label where there is no next token; -100 is what torch's cross entropy leaves out.
    """

    ignore_index: int = -100
    rowwise: ClassVar[bool] = True

    def declare(self, given: Given) -> Spec | Ragged:
        """Return what was given."""
        given = _tokens(self, given)
        _holds(self, "ignore_index", self.ignore_index, given.dtype)
        return given

    def apply(self, value: Array, given: Given, rng: Random) -> Array:
        """Move one place to the front."""
        out = np.empty_like(value)
        out[..., :-1] = value[..., 1:]
        out[..., -1:] = self.ignore_index
        return out


@dataclass(frozen=True)
class MaskTokens(Op):
    """Hide some tokens, as BERT's training does: of those chosen most become the mask, some another token, some stay.

    Attributes:
        mask_id: the token that hides.
        vocab_size: tokens put in place of others are drawn below it.
        p: the probability that a token is chosen.
        special_ids: tokens that are never chosen, such as separators and padding.
    """

    mask_id: int
    vocab_size: int
    p: float = 0.15
    special_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Check the numbers."""
        if type(self.vocab_size) is not int or self.vocab_size < 1:
            raise BadRequest(f"MaskTokens: vocab_size={self.vocab_size!r} is not an integer of at least 1")
        _check_choice("MaskTokens", self.p, self.special_ids)
        object.__setattr__(self, "special_ids", tuple(self.special_ids))

    def labels(self, ignore_index: int = -100) -> MaskLabels:
        """Return the op whose values are the tokens that this one chose."""
        return MaskLabels(self.p, self.special_ids, ignore_index)

    def declare(self, given: Given) -> Spec | Ragged:
        """Return what was given."""
        given = _tokens(self, given)
        _holds(self, "mask_id", self.mask_id, given.dtype)
        _holds(self, "vocab_size", self.vocab_size - 1, given.dtype)
        return given

    def apply(self, value: Array, given: Given, rng: Random) -> Array:
        """Draw three numbers a token: whether it is chosen, what becomes of it, and another token."""
        rng = rng.op(_DRAWS)
        chosen = _chosen(value, self.p, self.special_ids, rng)
        fate = _unit(rng.words(value.size))
        another = (rng.words(value.size) >> np.uint64(32)) * np.uint64(self.vocab_size) >> np.uint64(32)
        out = value.copy()
        out[chosen & (fate < _MASKED)] = self.mask_id
        replaced = chosen & (fate >= _MASKED) & (fate < _REPLACED)
        out[replaced] = another[replaced].astype(value.dtype)
        return np.asarray(out)


@dataclass(frozen=True)
class MaskLabels(Op):
    """What `MaskTokens` chose, and elsewhere what a loss leaves out; made by `MaskTokens.labels`.

    Attributes:
        p: the probability that a token is chosen.
        special_ids: tokens that are never chosen.
        ignore_index: the label of tokens that were not chosen.
    """

    p: float = 0.15
    special_ids: tuple[int, ...] = ()
    ignore_index: int = -100

    def __post_init__(self) -> None:
        """Check the numbers."""
        _check_choice("MaskLabels", self.p, self.special_ids)
        object.__setattr__(self, "special_ids", tuple(self.special_ids))

    def declare(self, given: Given) -> Spec | Ragged:
        """Return what was given."""
        given = _tokens(self, given)
        _holds(self, "ignore_index", self.ignore_index, given.dtype)
        return given

    def apply(self, value: Array, given: Given, rng: Random) -> Array:
        """Keep the chosen ones."""
        return np.asarray(np.where(_chosen(value, self.p, self.special_ids, rng.op(_DRAWS)), value, value.dtype.type(self.ignore_index)))


def _check_choice(op: str, p: Any, special_ids: Any) -> None:
    if not isinstance(p, (int, float)) or not 0 <= p <= 1:
        raise BadRequest(f"{op}: p={p!r} is not a probability from 0 to 1")
    if not isinstance(special_ids, Sequence) or any(type(token) is not int for token in special_ids):
        raise BadRequest(f"{op}: special_ids={special_ids!r} is not a sequence of tokens")


def _unit(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """Return numbers in [0, 1) with 53 random bits."""
    return np.asarray((words >> np.uint64(11)) * 2.0**-53)


def _chosen(value: Array, p: float, special_ids: Sequence[int], rng: Random) -> npt.NDArray[np.bool_]:
    chosen = _unit(rng.words(value.size)) < p
    return chosen & ~np.isin(value, special_ids) if special_ids else chosen
