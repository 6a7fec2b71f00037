"""SPDL: a pipeline of threads over the source as it is, with the same decoder as the others (simplejpeg).

As its guide has it: a source of sample numbers, a stage that reads, decodes and augments with as many threads as "workers" says, aggregation, a
stage that makes the batch, a sink of two. For arrays a source of batches of numbers and one stage that gathers a batch from the memory map.
Batches are numpy arrays.
"""

from __future__ import annotations

import atexit
import math
from collections.abc import Iterable, Iterator
from typing import Any

from spdl.pipeline import PipelineBuilder

from .endless import Endless, orders
from .loop import Config, run
from .nothing import make
from .samples import Source, collate, finisher, take


def batches_of(source: Source, size: int) -> Iterator[Any]:
    """Yield the numbers of batch after batch, a new order each epoch."""
    for order in orders(len(source)):
        yield from (order[start : start + size] for start in range(0, len(order), size))


def load(config: Config) -> Iterable[Any]:
    """Return the loader."""
    kind, threads, size = config["kind"], config["workers"], config["batch_size"]
    source, builder = Source(config["source"], kind), PipelineBuilder()
    if kind.startswith("W1"):
        finish = finisher(kind)
        numbers = (index for rows in batches_of(source, size) for index in rows.tolist())
        builder.add_source(numbers).pipe(lambda index: finish(source[index]), concurrency=threads).aggregate(size).pipe(collate)
    else:
        builder.add_source(batches_of(source, size)).pipe(lambda rows: take(source, rows), concurrency=threads)
    pipeline = builder.add_sink(2).build(num_threads=threads)
    pipeline.start()
    atexit.register(pipeline.stop)
    return Endless(iter(pipeline), math.ceil(len(source) / size))


if __name__ == "__main__":
    run(make, load)
