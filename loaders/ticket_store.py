"""What tickets ask of a store: keys under a prefix, in torch's `TCPStore`, `FileStore` or `HashStore`, or whatever has `add`, `set` and `compare_set` as those have.

Nothing here waits: torch's `get` does, for a key that is deleted between a `check` and itself, so values are read by `compare_set`, which is one question too. Nothing
here imports torch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, final

from ..errors import BadRequest, StorageError

_NOTHING = "?"
"""What no value is: a store answers with it when it is asked to put it in its own place, and there is none."""


@final
class Keys:
    """A part of a store. Every method raises `StorageError` when the store does not answer."""

    def __init__(self, store: Any, prefix: str) -> None:
        """Ask nothing yet.

        Raises:
            BadRequest: the store lacks what is needed.
        """
        if any(not hasattr(store, method) for method in ("add", "set", "compare_set")):
            raise BadRequest(f"tickets={store!r} is no store: give a torch.distributed.TCPStore, or Tickets(store, ...)")
        self._store = store
        self.prefix = prefix
        """What all keys begin with."""

    def told(self, key: str) -> str:
        """Return a value, "" when there is none."""
        with _reaching():
            found = bytes(self._store.compare_set(self.prefix + key, _NOTHING, _NOTHING)).decode()
        return "" if found == _NOTHING else found

    def swap(self, key: str, before: str, after: str) -> bool:
        """Put a value that nobody else writes in another's place, "" for none; return whether it was that one that stood there."""
        with _reaching():
            found = self._store.compare_set(self.prefix + key, before, after)
        return bytes(found).decode() == after

    def say(self, key: str, value: str) -> None:
        """Put a value there."""
        with _reaching():
            self._store.set(self.prefix + key, value)

    def count(self, key: str, more: int) -> int:
        """Add to a counter; return what it is then."""
        with _reaching():
            return int(self._store.add(self.prefix + key, more))

    def drop(self, keys: Iterable[str]) -> None:
        """Delete what nobody asks for any more, where the store can."""
        delete = getattr(self._store, "delete_key", None)
        if delete is not None:
            with _reaching():
                for key in keys:
                    delete(self.prefix + key)


@contextlib.contextmanager
def _reaching() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, OSError) as error:  # torch's DistError is a RuntimeError
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise StorageError(f"the store of the tickets does not answer: {first}", url="tickets") from error
