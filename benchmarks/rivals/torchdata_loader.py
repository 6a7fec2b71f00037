"""torchdata's StatefulDataLoader over memory-mapped arrays: `shuffle=True`, and `__getitems__` for a batch at once. For `benchmarks.resume`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torchdata.stateful_dataloader import StatefulDataLoader

from .loop import Config, run
from .nothing import make
from .samples import Source
from .torch_loader import Batches, as_it_is


def load(config: Config) -> Iterable[Any]:
    """Return the loader."""
    batches, workers = Batches(Source(config["source"], config["kind"])), config["workers"]
    loader: Iterable[Any] = StatefulDataLoader(
        batches, batch_size=config["batch_size"], shuffle=True, collate_fn=as_it_is, num_workers=workers, persistent_workers=workers > 0
    )
    return loader


if __name__ == "__main__":
    run(make, load)
