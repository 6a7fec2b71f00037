"""A column's ops, checked before anything runs and carried out in as few passes over the pixels as their meaning allows.

`compile_chain` asks every op what it yields for what the one before it yields; the wrong op for a column is refused here, with the column's name.
A chain on images then runs like this: the header gives the size, all random parameters are drawn from it, geometry is folded into one `View`, the
JPEG is decoded at the smallest scale that the view needs, and one kernel crops, resizes, flips, normalises and writes the batch slot.
Colour ops stand between such passes. Anything else runs op by op with numpy.

A chain holds values only (no compiled code, no handles), so it is sent to workers as it is. `Chain.reference` is the slow way, op by op; `run`
equals it bit for bit, and so does `run_together`, which does a whole batch of stored images in one call where they are only cropped, resized and
mirrored. Cost of a sample: one decode, one read of the decoded pixels, one write of the slot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any

import numpy as np

from ..errors import BadRequest
from ..fields import Field, Image
from ..jit import Kernel
from . import region
from .arrays import ToLayout
from .base import Array, Encoded, Geometric, Given, Layout, Op, PixelOp, Ragged, SlotOp, Spec
from .geometry import Crop, Scale, Step, View
from .image import Decode
from .jpeg import Header, decode
from .random import Random, philox, philox_rows, words_of
from .resample import IDENTITY, enlarged, fused, fused_rows, resample_rows
from .sample import Sample, allowed, header_of


@dataclass(frozen=True)
class Stage:
    """An op in its chain.

    Attributes:
        number: its place, which keys its draws; `Decode` has place 0 whether it was written or implied.
        op: the op.
        given: what it is handed.
    """

    number: int
    op: Op
    given: Given


Item = Step | Stage
"""What a plan consists of: moves of pixels, and colour ops between them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Chain:
    """The checked ops of one column.

    Attributes:
        name: the column.
        source: the column that is read for it.
        ops: the ops, with those that were implied.
        output: what every sample comes out as, all dimensions known, or `Ragged`.
        rowwise: whether `run_rows` does a whole batch of fixed rows in one call.
        decoder: the first op of a chain on encoded images, else None.
        head: what turns stored pixels with their channels first before image ops see them.
        body: the image ops behind it.
        tail: the ops behind those.
        after: the ops that change some of the finished values.
        table: what `tail` makes of each byte of each channel, when it is an image's and can be told so; else `tail` runs with numpy.
    """

    name: str
    source: str
    ops: tuple[Op, ...]
    output: Spec | Ragged
    rowwise: bool
    decoder: Decode | None
    head: tuple[Stage, ...]
    body: tuple[Stage, ...]
    tail: tuple[Stage, ...]
    after: tuple[Stage, ...]
    table: Array | None

    def run(self, value: Array, key: int, sample: int, out: Array) -> tuple[int, int]:
        """Write the transformed sample into `out` and return the nanoseconds spent (decoding, transforming).

        Args:
            value: the row: encoded bytes (uint8, 1-D), an array of the field's shape, or a run.
            key: 64 bits folded from seed and epoch.
            sample: the sample's number in the dataset.
            out: the slot: shape and dtype of `output`, C-contiguous; for a ragged chain as long as `value`.

        Raises:
            BadData: the row is damaged or does not fit; the place is the caller's to add.
            BadRequest: the slot is not what `output` says.
        """
        begin = perf_counter_ns()
        self._check_slot(out)
        rng = Random(key, sample)
        if self.table is None:
            out[...] = _carried(self.tail, value, rng)
            self._touch(out, rng)
            return 0, perf_counter_ns() - begin
        work = Sample(self.decoder, _carried(self.head, value, rng))
        items = self._plan(*work.view.size, rng)
        for item in items:
            if isinstance(item, Stage):
                assert isinstance(item.op, PixelOp)
                work.replace(item.op.fast(work.carried_out(), item.given, rng.op(item.number)))
            else:
                work.extend(item)
        work.finish(self.table, out, channels_first=isinstance(self.output, Spec) and self.output.layout == "CHW")
        self._touch(out, rng)
        return work.decode_ns, perf_counter_ns() - begin - work.decode_ns

    def _touch(self, out: Array, rng: Random) -> None:
        for stage in self.after:
            assert isinstance(stage.op, SlotOp)
            stage.op.touch(out, stage.given, rng.op(stage.number))

    def run_rows(self, values: Array, out: Array) -> None:
        """Write a batch of transformed rows, `[rows, *shape]`; for chains whose `rowwise` is true.

        Raises:
            BadRequest: the chain needs each sample on its own.
        """
        if not self.rowwise:
            raise BadRequest(f"column {self.name!r}: {list(self.ops)} need each sample on its own; use run")
        out[...] = _carried(self.tail, values, Random(0, 0))

    @property
    def together(self) -> bool:
        """Whether `run_together` does a whole batch of stored images in one call: they are cropped, resized to one size, perhaps mirrored, and no more."""
        if self.decoder is not None or self.head or not self.body or self.table is None or self.table.dtype not in (np.uint8, np.float32):
            return False
        ops, given = [stage.op for stage in self.body], self.body[0].given
        if not isinstance(given, Spec) or not given.known or not all(isinstance(op, Geometric) for op in ops):
            return False
        return _does(ops[0], "crops") and all(_does(op, "flips") for op in ops[1:])

    def run_together(self, values: Sequence[Array], keys: Sequence[int], samples: Sequence[int], out: Array) -> None:
        """Write many transformed samples, each as `run` would, into `out`, `[N, *shape]`; for chains whose `together` is true.

        Raises:
            BadRequest: the chain needs each sample on its own, or `out` is not as many slots as there are values, each what `output` says.
        """
        if not self.together:
            raise BadRequest(f"column {self.name!r}: {list(self.ops)} need each sample on its own; use run")
        given, output, table = self.body[0].given, self.output, self.table
        assert isinstance(given, Spec)
        assert isinstance(output, Spec)
        assert table is not None
        if out.shape != (len(values), *output.shape) or out.dtype != output.dtype or not out.flags.c_contiguous:
            raise BadRequest(
                f"column {self.name!r}: the slots are {out.dtype} {list(out.shape)}, strides {out.strides}, not {len(values)} of {output}"
            )
        shape = given.fixed_shape
        wrong = next((each for each in values if each.shape != shape or each.dtype != np.uint8 or not each.flags.c_contiguous), None)
        if wrong is not None:
            raise BadRequest(f"column {self.name!r}: a row is {wrong.dtype} {list(wrong.shape)}, not {given}")
        key_words, sample_words = words_of(keys), words_of(samples)
        first = self.body[0]
        assert isinstance(first.op, Geometric)
        found = first.op.crops(shape[0], shape[1], key_words, sample_words, first.number)
        assert found is not None
        boxes, size = found
        if (boxes[:, :2].min(initial=0) < 0 or boxes[:, 2:].min(initial=1) < 1) or (boxes[:, :2] + boxes[:, 2:] > shape[:2]).any():
            raise BadRequest(f"column {self.name!r}: {first.op} crops beyond images of {shape[0]} x {shape[1]} pixels")
        flipped = np.zeros(len(values), np.bool_)
        for stage in self.body[1:]:
            assert isinstance(stage.op, Geometric)
            flips = stage.op.flips(key_words, sample_words, stage.number)
            assert flips is not None
            flipped ^= flips
        sources = np.array([each.ctypes.data for each in values], np.int64)
        channels_first = output.layout == "CHW"
        resample_rows(sources, (shape[0], shape[1], shape[2]), boxes, size, flipped, table, out, channels_first=channels_first)
        if self.after:
            for slot, key, sample in zip(out, keys, samples, strict=True):
                self._touch(slot, Random(key, sample))

    def reference(self, value: Array, key: int, sample: int) -> Array:
        """Return the transformed sample, op by op, from the same decoding as `run`'s."""
        rng = Random(key, sample)
        if self.decoder is not None:
            header = header_of(self.decoder, value)
            factor = _factor(self.decoder, header, self._plan(*header.upright, rng))
            value = enlarged(decode(value, header, self.decoder.mode, factor), factor, header.upright)
        for stage in (*self.head, *self.body):
            value = stage.op.apply(value, stage.given, rng.op(stage.number))
        return np.asarray(_carried((*self.tail, *self.after), value, rng), order="C")

    def kernels(self) -> tuple[Kernel, ...]:
        """Return the compiled functions that `run` calls."""
        if self.table is None:
            return ()
        ops = [stage.op for stage in self.body]
        draws: tuple[Kernel, ...] = (philox,) if ops else ()
        parts = (region.decode_part,) if self.decoder is not None and ops else ()
        rows: tuple[Kernel, ...] = (fused_rows, philox_rows) if self.together else ()
        return (fused, *rows, *draws, *parts, *(kernel for op in ops if isinstance(op, PixelOp) for kernel in op.kernels()))

    def cold(self) -> bool:
        """Return whether `warm` will have to compile, which takes some seconds, rather than load machine code; costs a look at a folder."""
        return any(kernel.cold() for kernel in self.kernels())

    def warm(self) -> int:
        """Have all machine code ready before the first sample, and return how many functions had to be compiled for it."""
        return sum(kernel.load() for kernel in self.kernels())

    def _check_slot(self, out: Array) -> None:
        """Refuse a slot that the kernel would write beyond."""
        wanted = self.output
        shape = wanted.shape if isinstance(wanted, Spec) else out.shape[:1]
        if out.shape != shape or out.dtype != wanted.dtype or not out.flags.c_contiguous:
            order = "" if out.flags.c_contiguous else " not C-contiguous"
            raise BadRequest(f"column {self.name!r}: the slot is {out.dtype} {list(out.shape)}{order}, not {wanted}")

    def _plan(self, height: int, width: int, rng: Random) -> list[Item]:
        """Draw all parameters for an image of this size: pure arithmetic."""
        items: list[Item] = []
        for stage in self.body:
            if not isinstance(stage.op, Geometric):
                items.append(stage)
                continue
            for step in stage.op.steps(height, width, rng.op(stage.number)):
                items.append(step)
                if isinstance(step, Scale):
                    height, width = step.height, step.width
                elif isinstance(step, Crop):
                    height, width = step.box[2:]
        return items


def _does(op: Op, what: str) -> bool:
    """Return whether an op says of many images at once what it does to them."""
    return getattr(type(op), what, None) is not getattr(Geometric, what)


def _carried(stages: Sequence[Stage], value: Array, rng: Random) -> Array:
    for stage in stages:
        value = stage.op.apply(value, stage.given, rng.op(stage.number))
    return value


def _factor(decoder: Decode, header: Header, items: Sequence[Item]) -> int:
    """Return the scale at which an image is decoded: what the first pass over it allows."""
    if not (decoder.scaled and header.turbo):
        return 1
    view = View.whole(*header.upright)
    for item in items:
        longer = None if isinstance(item, Stage) else view.then(item)
        if longer is None:
            break
        view = longer
    return allowed(header, view.factor())


def given_of(field: Field) -> Given:
    """Return what a column hands to the first op."""
    if isinstance(field, Image):
        return Encoded(field.encoding)
    if field.ragged:
        return Ragged(field.dtype)
    layout: Layout | None = None
    if len(field.shape) == 3:
        layout = "HWC" if field.shape[2] in (1, 3) else "CHW" if field.shape[0] in (1, 3) else None
    return Spec(field.shape, field.dtype, layout)


def compile_chain(name: str, field: Field, ops: Sequence[Op], source: str | None = None) -> Chain:
    """Return the chain of a column's ops, checked.

    An image that is not decoded by the first op is decoded by an implied `Decode()`, and one whose layout is not said ends as `"CHW"`.

    Args:
        name: the column, for errors.
        field: what the column holds.
        ops: in the order of application.
        source: the column that is read, when it has another name.

    Raises:
        BadRequest: an op does not fit what it gets, or rows would come out in different shapes.
    """
    given = given_of(field)
    found: list[Any] = list(ops)
    for op in found:
        if not isinstance(op, Op):
            raise BadRequest(f"column {name!r}: {op!r} is not a transform; a function on whole samples goes to the loader's map= argument")
    if isinstance(field, Image) and not (found and isinstance(found[0], Decode)):
        found.insert(0, Decode())
    finishing = next((count for count, op in enumerate(reversed(found)) if not isinstance(op, SlotOp)), len(found))
    if early := [op for op in found[: len(found) - finishing] if isinstance(op, SlotOp)]:
        raise BadRequest(f"column {name!r}: {early[0]} changes finished values: put it behind all other ops")
    if isinstance(field, Image) and not any(isinstance(op, ToLayout) for op in found):
        found.insert(len(found) - finishing, ToLayout("CHW"))
    stages, output = _declared(name, given, found)
    if isinstance(output, Spec) and not output.known:
        last = next((s.op for s in reversed(stages) if not isinstance(s.op, ToLayout)), found[-1])
        shape = "[" + ", ".join("any" if n is None else str(n) for n in output.shape) + "]"
        raise BadRequest(
            f"column {name!r}: {last} yields {shape}: add Resize((height, width)), CenterCrop or RandomResizedCrop so that all rows have one shape"
        )
    decoder = found[0] if found and isinstance(found[0], Decode) else None
    moving = [number for number, stage in enumerate(stages) if isinstance(stage.op, (Geometric, PixelOp))]
    split = moving[-1] + 1 if moving else int(decoder is not None)
    body = tuple(stage for stage in stages[int(decoder is not None) : split] if isinstance(stage.op, (Geometric, PixelOp)))
    tail, after = tuple(stages[split : len(stages) - finishing]), tuple(stages[len(stages) - finishing :])
    pixels = decoder is not None or bool(body)
    return Chain(
        name=name,
        source=source or name,
        ops=tuple(found),
        output=output,
        rowwise=not pixels and isinstance(output, Spec) and not field.ragged and all(op.rowwise for op in found),
        decoder=decoder,
        head=_between(name, stages[int(decoder is not None) : split]),
        body=body,
        tail=tail,
        after=after,
        table=_table(tail, output) if pixels and isinstance(output, Spec) else None,
    )


def _declared(name: str, given: Given, ops: Sequence[Op]) -> tuple[list[Stage], Spec | Ragged]:
    """Return the ops with what each is given, and what the last one yields."""
    stages = []
    for number, op in enumerate(ops):
        stages.append(Stage(number, op, given))
        try:
            given = op.declare(given)
        except BadRequest as error:
            raise BadRequest(f"column {name!r}: {error}") from None
    if isinstance(given, Encoded):
        raise BadRequest(f"column {name!r}: there is no transform for {given}")
    return stages, given


def _between(name: str, stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """Return the ops in front of the first image op that turn a stored image; those that change nothing are left out, there and further on.

    Raises:
        BadRequest: ops that change a byte's value stand in front of an image op, which works on the bytes themselves.
    """
    waiting: list[Stage] = []
    head: tuple[Stage, ...] = ()
    for stage in stages:
        if not isinstance(stage.op, (Geometric, PixelOp)):
            waiting.append(stage)
            continue
        turned = bool(waiting) and isinstance(waiting[0].given, Spec) and waiting[0].given.layout == "CHW"
        before = np.moveaxis(_BYTES, -1, -3) if turned else _BYTES
        with np.errstate(all="ignore"):
            after = _carried(waiting, before, Random(0, 0))
        if not np.array_equal(after, _BYTES):
            raise BadRequest(f"column {name!r}: {[s.op for s in waiting]} change values in front of {stage.op}: put them behind all image ops")
        head = tuple(waiting) if turned else head
        waiting = []
    return head


_BYTES = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2)
"""An image laid out HWC with every byte in every channel."""


def _table(tail: Sequence[Stage], output: Spec) -> Array:
    """Return what the last ops make of each byte of each channel."""
    channels = output.fixed_shape[0 if output.layout == "CHW" else 2]
    if not tail:
        return np.ascontiguousarray(IDENTITY[:channels])
    value = _carried(tail, _BYTES[:, :, :channels], Random(0, 0))
    return np.ascontiguousarray(value.reshape(channels, 256) if output.layout == "CHW" else value.reshape(256, channels).T)
