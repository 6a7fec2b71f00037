"""Every loader of the side-by-side table: its program, its environment, what it reads, and the settings it is tried with.

Values only; nothing of a rival is imported here. A rival has an environment of its own, `.venv-rivals/<environment>`, made by `make rivals`;
one that is not there is absent, with the reason that `make rivals` noted, and absent is never beaten.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parent.parent.parent
HOME = ROOT / ".venv-rivals"

Family = Literal["ours", "shards", "memmap", "limit"]
"""What a row is compared as: ours, a loader (of shards or files), torch over one memory-mapped array, or no loader at all."""

IMAGES = ("W1", "W1-u8")
STORED_IMAGES = ("W1-raw",)
ARRAYS = ("W2", "W3", "W4")
ALL = (*IMAGES, *STORED_IMAGES, *ARRAYS)


@dataclass(frozen=True, kw_only=True)
class Loader:
    """A loader in one of the ways it is tried.

    Attributes:
        name: as the table shows it.
        module: the program.
        family: what it is compared as.
        workloads: those it is tried on.
        least: the fewest workers that it can be set to: 0, or 1 for those whose threads or processes count as workers.
        processes: of a limit: in how many it works, whatever workers loaders are tried with; 0 for a loader.
        style: which of its program's ways.
        environment: of the interpreter; empty for this one.
        reads: the folder beside the source that holds its own format; empty when it reads the source.
        packages: whose versions are told.
    """

    name: str
    module: str
    family: Family = "shards"
    workloads: tuple[str, ...] = ALL
    least: int = 0
    processes: int = 0
    style: str = ""
    environment: str = ""
    reads: str = ""
    packages: tuple[str, ...] = ()

    @property
    def interpreter(self) -> Path:
        """The Python that runs it."""
        return HOME / self.environment / "bin" / "python" if self.environment else Path(sys.executable)

    def settings(self, workers: Sequence[int]) -> tuple[int, ...]:
        """Return those numbers of workers that it can be tried with."""
        return (self.processes,) if self.processes else tuple(number for number in workers if number >= self.least)

    def skipped(self, workers: Sequence[int]) -> str:
        """Return which numbers of workers it cannot be tried with, and why; empty when it can be with all."""
        few = [str(number) for number in workers if number < self.least]
        return f"not tried with {', '.join(few)} workers: it has at least {self.least}" if few and not self.processes else ""

    def absent(self) -> str:
        """Return why it cannot be run here; empty when it can."""
        note = HOME / f"{self.environment}.absent"
        if self.environment and note.exists():
            return note.read_text(encoding="utf-8").strip() or "it could not be installed"
        if not self.environment or (HOME / self.environment / ".installed").exists():
            return ""
        return "its environment is not made: make rivals"


def _rival(name: str, program: str, environment: str, *packages: str, **more: object) -> Loader:
    """Return a loader of a rival; what it is compared as, unless said otherwise, is a loader of shards."""
    options: dict[str, object] = {"reads": environment, **more}
    return Loader(name=name, module=f"benchmarks.rivals.{program}", environment=environment, packages=packages, **options)  # type: ignore[arg-type]


def _torch(name: str, style: str, workloads: tuple[str, ...], family: Family) -> Loader:
    return _rival(name, "torch_loader", "torch", "torch", "numpy", "simplejpeg", reads="", style=style, workloads=workloads, family=family)


def _limit(name: str, style: str, workloads: tuple[str, ...], processes: int) -> Loader:
    return Loader(name=name, module="benchmarks.limits", family="limit", style=style, workloads=workloads, processes=processes)


CORES = os.cpu_count() or 1

GRAIN = "grain-files"
"""Where Grain's many files are; in `grain` there used to be one, which is slow."""

LOADERS = (
    Loader(name="Penstock", module="benchmarks.ours", family="ours", reads="penstock", packages=("penstock", "torch", "numpy")),
    _torch("torch map-style", "map-style", IMAGES, "shards"),
    _torch("torch map-style, memory map", "map-style", (*STORED_IMAGES, *ARRAYS), "memmap"),
    _torch("torch __getitems__, memory map", "getitems", ARRAYS, "memmap"),
    _torch("torch BatchSampler, memory map", "batch-sampler", ARRAYS, "memmap"),
    _torch("torch BatchSampler, numpy.take", "take", ("W4",), "memmap"),
    _torch("torch own batch sampler, index_select", "arrays", ("W2", "W3", "W4"), "memmap"),
    _rival("webdataset", "webdataset_loader", "webdataset", "webdataset", "torch"),
    _rival("mosaicml-streaming", "mosaic_loader", "mosaic", "mosaicml-streaming", "torch"),
    _rival("litdata", "litdata_loader", "litdata", "litdata", "torch"),
    _rival("grain", "grain_loader", "grain", "grain", "array-record", reads=GRAIN, style="samples"),
    _rival("grain, batched reads", "grain_loader", "grain", "grain", "array-record", reads=GRAIN, style="batched", workloads=("W4",)),
    _rival("HF datasets", "hf_loader", "hf", "datasets", "pyarrow", style="torch"),
    _rival("HF datasets, Arrow", "hf_loader", "hf", "datasets", "pyarrow", style="arrow", workloads=ARRAYS),
    _rival("lance", "lance_loader", "lance", "pylance", "torch"),
    _rival("ffcv", "ffcv_loader", "ffcv", "ffcv", "numba", least=1),
    _rival("spdl", "spdl_loader", "spdl", "spdl-core", "simplejpeg", least=1, reads=""),
    _rival("dali, CPU", "dali_loader", "dali", "nvidia-dali-cuda130", least=1, reads=""),
    _limit("limit: whole images decoded", "full", IMAGES, CORES),
    _limit("limit: regions decoded", "region", IMAGES, CORES),
    _limit("limit: fused kernel", "fused", STORED_IMAGES, CORES),
    _limit("limit: gather", "gather", ARRAYS, 1),
    _limit("limit: gather, order given", "given", ARRAYS, 1),
    _limit("limit: copy of the bytes", "copy", ("W3",), 1),
)
"""All of them, in the order of the table."""

STATEFUL = (
    *(loader for loader in LOADERS if loader.name in ("Penstock", "litdata")),
    _rival("torchdata", "torchdata_loader", "torch", "torchdata", "torch", reads=""),
    _rival("mosaicml-streaming", "mosaic_loader", "mosaic", "mosaicml-streaming", "torch", style="stateful"),
    _rival("grain", "grain_loader", "grain", "grain", "array-record", reads=GRAIN, style="samples", workloads=("W2", "W3")),
    _rival("grain, batched reads", "grain_loader", "grain", "grain", "array-record", reads=GRAIN, style="batched", workloads=("W4",)),
)
"""Those that have a state to go on from, for `benchmarks.resume`."""
