"""A dataset, opened for reading: rows for people, readers of shards for the loader.

It pins one version when it is opened and never looks for a newer one. Opening reads the manifest and no shard; a shard is mapped when one of
its rows is first asked for, and stays mapped, without a descriptor (`readers`).

Must never: hold rows in memory, or change with the files that are added later.
Cost: opening O(shards); a row is one search over the shards and one view a column, plus the copy that `Field.decode` makes for a person.
Pickled, it is its absolute path, columns and version, and opens itself again where it arrives.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, final, overload

import numpy as np
import numpy.typing as npt

from ..errors import BadData, BadRequest
from ..fields import Field, Schema
from . import commits
from .columns import Column
from .formats import choose_columns, open_foreign, open_reader
from .later import load_later
from .manifest import Manifest
from .reader import ShardReader
from .readers import OpenReaders
from .storage import local_path

if TYPE_CHECKING:
    from .torch_views import IterableStyle, MapStyle


@final
class Dataset:
    """Rows by number: `len(ds)`, `ds[5]`, `ds[-1]`, `ds[10:20]`, `ds[[3, 1, 4]]`, and iteration in stored order.

    A row is a dict of columns as people use them: numbers, numpy arrays, text, bytes.
    """

    def __init__(self, path: str | os.PathLike[str], columns: Sequence[str] | None = None, version: int | None = None) -> None:
        """Open a dataset, or files written by others.

        Args:
            path: the folder of a dataset; or a foreign Arrow, Parquet or tar file, a folder of them, or a pattern such as
                `train-{000000..000146}.tar`, of which an index is then kept (beside them, or in the user's cache).
            columns: the columns to read; all of them without it. Others are never touched.
            version: the version to pin; the newest without it.

        Raises:
            NotADataset: there is nothing to read.
            BadRequest: the version or a column does not exist; the message names those that do.
            BadData: the manifest is damaged.
        """
        self._path = os.fspath(path)
        self._absolute = str(local_path(self._path))  # the working folder may have changed by the time it is pickled
        self._columns = None if columns is None else tuple(columns) if not isinstance(columns, str) else columns
        self._own = commits.is_dataset(self._path)
        if self._own:
            self.manifest: Manifest = commits.load(self._path, version)
            """The dataset at the pinned version, as a value."""
        else:
            wanted = self._columns if isinstance(self._columns, tuple) else None
            self.manifest = open_foreign(self._path, wanted)
            if version is not None:
                raise BadRequest(f"version: {version!r} of {self._path}: foreign files have no versions; publish them with `penstock index` first")
        self.schema: Schema = choose_columns(self.manifest.schema, self._columns)
        """The columns that are read, by name, in order."""
        manifest, chosen, own = self.manifest, self._columns, self._own  # not `self`: a dataset must go when its last user drops it
        self._readers = OpenReaders(lambda shard: open_reader(manifest.root, manifest.shards[shard], manifest.schema, chosen, follow_links=not own))

    @property
    def path(self) -> str:
        """What was opened, as it was given."""
        return self._path

    @property
    def fields(self) -> Mapping[str, Field]:
        """The columns that are read; it cannot be changed."""
        return MappingProxyType(self.schema)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns that are read, in order."""
        return tuple(self.schema)

    @property
    def version(self) -> int:
        """The pinned version; 0 for foreign files."""
        return self.manifest.version

    @property
    def digest(self) -> str:
        """32 hex digits that name these shards in this order; a resume against others is refused by it."""
        return self.manifest.digest

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What the dataset's maker noted, such as `{"class_names": {"label": ["cat", "dog"]}}`."""
        return MappingProxyType(self.manifest.metadata)

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.manifest.rows

    def __repr__(self) -> str:
        """Return what it is, for a person."""
        shown = ", ".join(f"{name}: {field}" for name, field in self.schema.items())
        return f"Dataset({self._path!r}, version={self.version}, rows={len(self)}, shards={len(self.manifest.shards)}, fields={{{shown}}})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as absolute path, columns and version."""
        return type(self), (self._absolute, self._columns, self.version if self._own else None)

    @property
    def starts(self) -> npt.NDArray[np.int64]:
        """`[shards + 1]`, the first row of each shard and, last, how many rows there are."""
        return self.manifest.starts

    def locate(self, rows: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return for each row, from 0 to `len - 1`, its shard's number and its number in that shard."""
        starts = self.manifest.starts
        shards = np.searchsorted(starts, rows, side="right") - 1
        return shards, rows - starts[shards]

    def reader(self, shard: int) -> ShardReader:
        """Return the reader of a shard, opened when first asked for. It may be another thread's too: do not close it."""
        return self._readers.get(shard)

    def let_go_of_pages(self) -> None:
        """Have this process forget which pages of the mapped shards are in memory; they stay in the system's cache, and cost a page fault when read again."""
        self._readers.let_go_of_pages()

    @overload
    def __getitem__(self, index: int | np.integer[Any]) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice | Sequence[int] | npt.NDArray[Any]) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: Any) -> Any:
        """Return a row for a number, rows for a slice or a list of numbers.

        Raises:
            IndexError: there is no such row.
            BadData: the row is damaged; the error names shard, row and field.
        """
        if isinstance(index, slice):
            return self.__getitems__(range(*index.indices(len(self))))
        if isinstance(index, (list, tuple, range)):
            return self.__getitems__(index)
        if hasattr(index, "__array__") and not isinstance(index, np.generic):  # an array or a tensor, also one of a single number
            array = _numbers(index)
            return self.__getitems__(array) if array.ndim or array.dtype.kind not in "iu" else self._row(int(array))
        if isinstance(index, (bool, np.bool_)) or not hasattr(index, "__index__"):
            raise BadRequest(f"a row's number is an int, not {type(index).__name__} {index!r}; use ds[5], ds[2:5] or ds[[1, 2]]")
        return self._row(int(index))

    def _row(self, index: int) -> dict[str, Any]:
        starts = self.manifest.starts
        count = int(starts[-1])
        if not -count <= index < count:
            raise IndexError(f"row {index} of {self._path}, which has {count} rows")
        index += count if index < 0 else 0
        shard = int(starts.searchsorted(index, "right")) - 1
        row = index - int(starts[shard])
        reader = self.reader(shard)
        block = int(reader.block_starts.searchsorted(row, "right")) - 1
        return self._decode(reader.block(block), shard, row, row - int(reader.block_starts[block]))

    def __getitems__(self, indices: Sequence[int] | npt.NDArray[Any]) -> list[dict[str, Any]]:
        """Return the rows of a list of numbers, in its order; what torch's DataLoader calls for a batch."""
        rows = _numbers(indices)
        if rows.size == 0:
            return []
        if rows.ndim != 1 or rows.dtype.kind not in "iu":
            raise BadRequest(f"rows are asked for by a list of whole numbers, not by {rows.dtype} of shape {rows.shape}: {str(indices)[:80]}")
        count = len(self)
        outside = rows >= count if rows.dtype.kind == "u" else (rows < -count) | (rows >= count)
        if outside.any():
            raise IndexError(f"row {int(rows[outside][0])} of {self._path}, which has {count} rows")
        rows = rows.astype(np.int64)
        shards, inner = self.locate(np.where(rows < 0, rows + count, rows))
        return self._rows(shards, inner)

    def _rows(self, shards: npt.NDArray[np.int64], inner: npt.NDArray[np.int64]) -> list[dict[str, Any]]:
        """Return decoded rows by shard and number in the shard; each shard is looked up once."""
        made: list[dict[str, Any]] = [{}] * len(shards)
        order = np.argsort(shards, kind="stable")
        edges = np.flatnonzero(np.diff(shards[order])) + 1
        for group in np.split(order, edges):
            shard = int(shards[group[0]])
            reader = self.reader(shard)
            blocks, places = reader.places(inner[group])
            for position, row, block, place in zip(group.tolist(), inner[group].tolist(), blocks.tolist(), places.tolist(), strict=True):
                made[position] = self._decode(reader.block(block), shard, row, place)
        return made

    def _decode(self, block: dict[str, Column], shard: int, row: int, place: int) -> dict[str, Any]:
        decoded = {}
        name = None
        try:
            for name, field in self.schema.items():
                decoded[name] = field.decode(block[name].row(place))
        except BadData as error:
            raise error.at(path=self.manifest.root, shard=self.manifest.shards[shard].path, row=row, field=name) from None
        return decoded

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield every row in stored order, a thousand at a time from one shard."""
        for start in range(0, len(self), 1024):
            yield from self.__getitems__(range(start, min(start + 1024, len(self))))

    def to_torch(self) -> MapStyle:
        """Return a map-style `torch.utils.data.Dataset` of these rows, for loaders that are not Penstock's."""
        made: MapStyle = load_later("torch").MapStyle(self)
        return made

    def to_iterable(self, *, shuffle: bool = False, seed: int = 0, topology: Any = None) -> IterableStyle:
        """Return a `torch.utils.data.IterableDataset` of these rows, for loaders that are not Penstock's: each row in one worker of one rank.

        Args:
            shuffle: whether each epoch is a new permutation, the one that `DataLoader(shuffle=True)` has; `set_epoch` says which.
            seed: of the shuffling.
            topology: as `DataLoader` has it: `(rank, world_size)`, a torch `DeviceMesh`, or what torch.distributed or the launcher says.

        Raises:
            BadRequest: the rank is none of the world, or two launchers contradict each other.
        """
        made: IterableStyle = load_later("torch").IterableStyle(self, shuffle=shuffle, seed=seed, topology=topology)
        return made

    def close(self) -> None:
        """Let go of the mapped shards; arrays handed out stay valid, and a row asked for later maps its shard again."""
        self._readers.clear()

    def __enter__(self) -> Dataset:
        """Return the dataset."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close it."""
        self.close()


def _numbers(indices: Any) -> npt.NDArray[Any]:
    """Return what rows are asked for by as an array of whatever type it has."""
    try:
        return np.asarray(indices)
    except (TypeError, ValueError, RuntimeError) as error:  # lists of unlike lengths; a tensor on another device or of a type numpy lacks
        shown = f"{type(indices).__name__} {str(indices)[:80]}"
        raise BadRequest(f"rows are asked for by a list of whole numbers, not by {shown}: {str(error)[:80]}; use ds[[1, 2]]") from None
