"""WebDataset: tar shards, as its documentation's multi-process recipe has it.

Shards are shuffled, then samples within a buffer of 1,000 ("shuffle(1000)"); batches are made in the workers and handed over by `WebLoader` with
`batch_size=None`. So its shuffle is weaker than a global one. One member a sample holds image or array and label (`samples.pack`), which is
the cheapest layout that it reads. Shards of about 64 MB, at least eight, so that workers share them evenly.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import webdataset

from .loop import Config, run
from .samples import Source, collate, finisher, pack, unpack

SHARD_BYTES = 64_000_000


def make(kind: str, source: Path, out: Path) -> None:
    """Write tar shards."""
    rows = Source(source, kind)
    per_shard = max(1, min(len(rows) // 8, SHARD_BYTES // (len(pack(rows[0])) + 1024)))
    with webdataset.ShardWriter(str(out / "shard-%06d.tar"), maxcount=per_shard, maxsize=4e9, verbose=0) as writer:
        for number, sample in enumerate(rows):
            writer.write({"__key__": f"{number:09d}", "bin": pack(sample)})


def load(config: Config) -> Iterable[Any]:
    """Return the loader."""
    kind, workers = config["kind"], config["workers"]
    finish = finisher(kind)

    def decode(sample: dict[str, Any]) -> dict[str, Any]:
        return finish(unpack(kind, sample["bin"]))

    def batch(samples: list[dict[str, Any]]) -> dict[str, Any]:
        plain = [{name: value for name, value in sample.items() if not name.startswith("__")} for sample in samples]  # it adds the key
        return {name: torch.from_numpy(array) for name, array in collate(plain).items()}

    shards = [str(path) for path in sorted(Path(config["data"]).glob("*.tar"))]
    dataset = webdataset.WebDataset(shards, shardshuffle=len(shards), empty_check=False).shuffle(1000)
    dataset = dataset.map(decode).batched(config["batch_size"], collation_fn=batch)
    loader: Iterable[Any] = webdataset.WebLoader(dataset, batch_size=None, num_workers=workers, persistent_workers=workers > 0)
    return loader


if __name__ == "__main__":
    run(make, load)
