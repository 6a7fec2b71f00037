"""A chain cut in two: what shrinks an image stays with the workers, and what is done to each of its bytes goes to the device.

Bytes are a quarter of the float32 that they become, so a quarter crosses the bus; and the ops behind the last one that moves pixels to a size of its own are the same work for every pixel,
which a device does at its memory's speed. Every op keeps its number, and so its draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..fields import Field
from .arrays import ToLayout
from .base import Array, Geometric, Op, Spec
from .chain import Chain, Stage, compile_chain


class Rest(NamedTuple):
    """What a device does to a batch of bytes.

    Attributes:
        name: the column.
        given: what a row is when it comes.
        output: what it is in the end.
        body: image ops.
        table: what the ops behind them make of each byte of each channel, `[channels, 256]`.
        after: ops on the finished values.
    """

    name: str
    given: Spec
    output: Spec
    body: tuple[Stage, ...]
    table: Array
    after: tuple[Stage, ...]


def split(name: str, field: Field, ops: Sequence[Op], source: str | None = None) -> tuple[tuple[Op, ...], Rest] | None:
    """Return the ops that stay, and the rest; None where nothing could go: the column holds no images, or nothing is done to their bytes.

    Raises:
        BadRequest: the ops do not fit the column, as `compile_chain` says.
    """
    whole = compile_chain(name, field, ops, source)
    if whole.table is None or not isinstance(whole.output, Spec):
        return None
    keep = next((count for count in range(len(whole.body), 0, -1) if not whole.body[count - 1].op.on_device), 0)
    body = whole.body[keep:]
    plain = all(isinstance(stage.op, ToLayout) for stage in whole.tail)
    if plain and not body and not whole.after:
        return None
    stays = (*_front(whole, keep), ToLayout(whole.output.layout or "CHW"))
    given = compile_chain(name, field, stays, source).output
    assert isinstance(given, Spec)
    return stays, Rest(name, given, whole.output, body, whole.table, whole.after)


def decodable(name: str, field: Field, stays: Sequence[Op], source: str | None = None) -> Chain | None:
    """Return the chain of what stays when a device can do that too: it decodes colours, and then moves pixels only; or None."""
    chain = compile_chain(name, field, stays, source)
    if chain.decoder is None or chain.decoder.mode != "RGB" or chain.head or not all(isinstance(stage.op, Geometric) for stage in chain.body):
        return None
    return chain if chain.after == () and all(isinstance(stage.op, ToLayout) for stage in chain.tail) else None


def _front(whole: Chain, keep: int) -> tuple[Op, ...]:
    """Return the ops up to and with the last image op that stays."""
    first = [*whole.body[keep:], *whole.tail, *whole.after]
    return whole.ops[: first[0].number] if first else whole.ops
