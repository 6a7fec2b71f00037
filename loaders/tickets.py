"""Batches drawn instead of dealt: consumers of unlike speed, and ones that come and go, share an epoch through a store that they all reach.

An epoch of E positions is cut into tickets of one batch each. A consumer draws the next free ticket, works on it, and confirms it; what is not confirmed within a
deadline is drawn again by somebody who has nothing else to do, and the late one's confirmation is refused. So every sample is confirmed exactly once, whoever
dies. The store is torch's `TCPStore` (or `FileStore`, `HashStore`), which training jobs have already; all that is asked of it is `add`, `set`, `get`, `check` and
`compare_set`. Nothing here imports torch.

What stands in the store, under the run's name: the plan, which all must share; for each epoch a counter of tickets drawn, and for each ticket its owner or `done`;
how many of each block of 1,024 are done, so that nobody looks at all of them; and for each consumer how many it has confirmed, for the bound on staleness (Ho et
al., "More Effective Distributed ML via a Stale Synchronous Parallel Parameter Server", NeurIPS 2013).

Clocks are never compared: who waits for a ticket, or for a consumer that lags, measures how long it sees no change.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
import uuid
from collections.abc import Generator, Mapping, Sequence
from typing import Any, NoReturn, final

import xxhash

from ..errors import BadRequest, StorageError
from .engine import Delivered, Engine, RunSource
from .plan import Plan, Run

_LOG = logging.getLogger("penstock")

BLOCK = 1024
"""Tickets that are counted together."""

_DONE, _FREE = "done:", "free:"
"""What values of tickets begin with that nobody holds; who wrote them stands behind, since a store only tells what stands there afterwards."""

_POLL_S = 0.02
_SLOWEST_POLL_S = 0.5


@final
class Tickets:
    """One consumer's hold on a shared run: `DataLoader(..., tickets=Tickets(store, deadline_s=60))`; `tickets=store` takes the defaults."""

    def __init__(self, store: Any, *, name: str = "run", deadline_s: float = 60.0, max_staleness: int | None = None) -> None:
        """Join nothing yet: that happens with the first draw.

        Args:
            store: a torch `TCPStore` that all consumers reach.
            name: of the run in the store; runs of unlike names do not meet. A run that goes back to a state in the same store wants another name, unless
                torchrun started it again.
            deadline_s: seconds after which a batch that was delivered and not confirmed is given to somebody else, and after which a consumer that makes no
                progress is not waited for. More than any step takes.
            max_staleness: how many more batches than the slowest consumer one may have confirmed before its next draw waits; None for any number.

        Raises:
            BadRequest: a number is out of range, or the store lacks what is needed.
        """
        if any(not hasattr(store, method) for method in ("add", "set", "get", "check", "compare_set")):
            raise BadRequest(f"tickets={store!r} is no store: give a torch.distributed.TCPStore, or Tickets(store, ...)")
        if not 0 < deadline_s < float("inf"):
            raise BadRequest(f"Tickets: deadline_s={deadline_s!r} is no number of seconds above 0")
        if max_staleness is not None and (type(max_staleness) is not int or max_staleness < 0):
            raise BadRequest(f"Tickets: max_staleness={max_staleness!r} is no integer of at least 0")
        start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # torchrun's store outlives its workers: each start has names of its own
        self._store, self._name = store, f"penstock/{name}/{start}"
        self._prefix = f"{self._name}/new/"
        self._deadline_s, self._most_ahead = deadline_s, max_staleness
        self._own = uuid.uuid4().hex[:12] + ":"
        self._number = -1
        self._joined = ""
        """The plan that this object was joined with first."""

        self._attempts = 0
        self._seen: dict[str, tuple[str, float]] = {}

    def _told(self, key: str) -> str:
        """Return a value of the store, "" when there is none."""
        full = self._prefix + key
        with self._reaching():
            if not self._store.check([full]):
                return ""
            return bytes(self._store.get(full)).decode()

    def _swap(self, key: str, before: str, after: str) -> bool:
        """Put a value that nobody else writes in another's place, "" for none; return whether it was that one that stood there."""
        with self._reaching():
            found = self._store.compare_set(self._prefix + key, before, after)
        return bytes(found).decode() == after

    def _say(self, key: str, value: str) -> None:
        """Put a value in the store."""
        with self._reaching():
            self._store.set(self._prefix + key, value)

    def _count(self, key: str, more: int) -> int:
        """Add to a counter; return what it is then."""
        with self._reaching():
            return int(self._store.add(self._prefix + key, more))

    @staticmethod
    @contextlib.contextmanager
    def _reaching() -> Any:
        try:
            yield
        except (RuntimeError, OSError) as error:  # torch's DistError is a RuntimeError
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise StorageError(f"the store of the tickets does not answer: {first}", url="tickets") from error

    def join(self, plan: Mapping[str, Any]) -> None:
        """Take part in the run, whose order and tickets must be these; whoever takes part already is asked again, since loaders may share this object.

        Raises:
            BadRequest: it has others; the differences are named.
            StorageError: the store does not answer.
        """
        told = json.dumps(dict(plan), sort_keys=True)
        if self._joined not in ("", told):
            self._refuse(plan, self._joined, "these Tickets were joined by a loader with another plan")
        if self._number >= 0:
            return
        if not self._swap("plan", "", told):
            self._refuse(plan, self._told("plan"), "the run in the store has another plan")
        self._joined = told
        counts = [self._count(f"count/{number}", 0) for number in range(self._count("consumers", 0))]
        self._number = self._count("consumers", 1) - 1
        self._count(f"count/{self._number}", max(counts, default=0))  # who comes late holds nobody up

    @staticmethod
    def _refuse(plan: Mapping[str, Any], told: str, why: str) -> NoReturn:
        have = json.loads(told)
        unlike = [f"{name} is {have.get(name)!r} there and {plan.get(name)!r} here" for name in {**have, **plan} if have.get(name) != plan.get(name)]
        raise BadRequest(f"{why}: {'; '.join(unlike)}; give this loader a name of its own with Tickets(store, name=...)")

    def leave(self) -> None:
        """Say that nobody has to wait for this consumer any more."""
        if self._number >= 0:
            with contextlib.suppress(StorageError):  # the store's owner may have gone first
                self._say(f"left/{self._number}", "yes")
            self._number = -1

    def _unchanged_s(self, key: str, value: str) -> float:
        """Return for how many seconds this consumer has seen this value."""
        now = time.monotonic()
        seen = self._seen.get(key)
        if seen is None or seen[0] != value:
            self._seen[key] = (value, now)
            return 0.0
        return now - seen[1]

    def wait_for_the_slowest(self) -> None:
        """Wait while this consumer is too far ahead of one that still makes progress.

        Raises:
            StorageError: the store does not answer.
        """
        pause_s = _POLL_S
        while self._most_ahead is not None and self._ahead() > self._most_ahead:
            time.sleep(pause_s)  # ends: who makes no progress for the deadline is not counted
            pause_s = min(pause_s * 1.5, _SLOWEST_POLL_S)

    def _ahead(self) -> int:
        counts = []
        for number in range(self._count("consumers", 0)):
            if number == self._number or self._told(f"left/{number}") or self._told(f"idle/{number}") == "yes":
                continue
            count = self._count(f"count/{number}", 0)
            if self._unchanged_s(f"count/{number}", str(count)) < self._deadline_s:
                counts.append(count)
        return self._count(f"count/{self._number}", 0) - min(counts) if counts else 0

    def fresh(self, epoch: int, tickets: int) -> int | None:
        """Draw a ticket that nobody had; None when there is none left.

        Raises:
            StorageError: the store does not answer.
        """
        while True:
            number = self._count(f"{epoch}/next", 1) - 1
            if number >= tickets:
                return None
            if self._swap(f"{epoch}/t{number}", "", self._fresh_name(self._own)):
                return number  # it may be done already: from a state that was loaded

    def overdue(self, epoch: int, tickets: int) -> int | None:
        """Draw a ticket that somebody did not confirm in time; None once all are done. Waits for others' tickets meanwhile.

        Raises:
            StorageError: the store does not answer.
        """
        self._say(f"idle/{self._number}", "yes")  # nobody has to wait for who has nothing to do
        pause_s = _POLL_S
        try:
            while True:
                open_ones = self.unfinished(epoch, tickets)
                if not open_ones:
                    return None
                for number, owner in open_ones:
                    key = f"{epoch}/t{number}"
                    overdue = owner.startswith(_FREE) or self._unchanged_s(key, owner) >= self._deadline_s
                    if overdue and self._swap(key, owner, self._fresh_name(self._own)):
                        return number
                time.sleep(pause_s)  # ends: a ticket is confirmed, or overdue after the deadline
                pause_s = min(pause_s * 1.5, _SLOWEST_POLL_S)
        finally:
            self._say(f"idle/{self._number}", "no")

    def unfinished(self, epoch: int, tickets: int) -> list[tuple[int, str]]:
        """Return the tickets that are not done, and who has them; "" when nobody is known to."""
        found, touched = [], max(self._count(f"{epoch}/next", 0), self._count(f"{epoch}/loaded", 0))
        for first in range(0, tickets, BLOCK):
            last = min(first + BLOCK, tickets)
            if self._count(f"{epoch}/b{first // BLOCK}", 0) >= last - first:
                continue
            told = [(number, self._told(f"{epoch}/t{number}") if number < touched else "") for number in range(first, last)]
            found += [one for one in told if not one[1].startswith(_DONE)]
        return found

    def renew(self, epoch: int, number: int) -> bool:
        """Begin a ticket's deadline anew; return False when it is not this consumer's any more."""
        key = f"{epoch}/t{number}"
        owner = self._told(key)
        return owner.startswith(self._own) and self._swap(key, owner, self._fresh_name(self._own))

    def confirm(self, epoch: int, number: int) -> bool:
        """Say that a ticket is done; return False when it was given to somebody else meanwhile.

        Raises:
            StorageError: the store does not answer.
        """
        key = f"{epoch}/t{number}"
        owner = self._told(key)
        if not owner.startswith(self._own) or not self._swap(key, owner, self._fresh_name(_DONE + self._own)):
            return False
        self._count(f"{epoch}/b{number // BLOCK}", 1)
        self._count(f"count/{self._number}", 1)
        return True

    def release(self, epoch: int, number: int) -> None:
        """Give back a ticket that was drawn and not worked on, if it is still this consumer's."""
        key = f"{epoch}/t{number}"
        owner = self._told(key)
        if owner.startswith(self._own):
            self._swap(key, owner, self._fresh_name(_FREE + self._own))

    def begin_with(self, epoch: int, done: Sequence[tuple[int, int]]) -> None:
        """Note tickets that were done before a state was saved, as first and last of each stretch, unless somebody has.

        Raises:
            StorageError: the store does not answer.
        """
        if not done or self._told(f"{epoch}/begun"):
            return
        last = max(end for _, end in done) + 1
        self._count(f"{epoch}/loaded", max(last - self._count(f"{epoch}/loaded", 0), 0))
        for first, end in done:
            for number in range(first, end + 1):
                if self._swap(f"{epoch}/t{number}", "", self._fresh_name(_DONE + self._own)):
                    self._count(f"{epoch}/b{number // BLOCK}", 1)
        self._say(f"{epoch}/begun", "yes")

    def generation(self, name: str) -> None:
        """Go on under another name in the store: that of a state that was loaded, which all that loaded it share."""
        self.leave()
        self._prefix = f"{self._name}/{name}/"

    def _fresh_name(self, begin: str) -> str:
        """Return a value that nobody writes twice."""
        self._attempts += 1
        return f"{begin}{self._attempts}"


@final
class TicketRuns:
    """The batches of an epoch as a consumer draws them, one after the other."""

    def __init__(self, tickets: Tickets, plan: Plan, epoch: int) -> None:
        """Draw nothing yet."""
        self._tickets, self._plan, self._epoch = tickets, plan, epoch
        self._count = plan.steps()
        self.drawn: list[int] = []
        """The tickets drawn so far, in order."""

        self._none_fresh = False

    def get(self, number: int, *, wait: bool) -> Run | None:
        """Return batch `number` of those that this consumer gets; None when there is none, or, without `wait`, when one would have to be waited for."""
        if wait and not (self._none_fresh and len(self.drawn) <= number):
            self._tickets.wait_for_the_slowest()
        while len(self.drawn) <= number:
            ticket = None if self._none_fresh else self._tickets.fresh(self._epoch, self._count)
            self._none_fresh = ticket is None
            if ticket is None and wait:
                ticket = self._tickets.overdue(self._epoch, self._count)
            if ticket is None:
                return None
            self.drawn.append(ticket)
        return self._plan.batch(self.drawn[number])


@final
class TicketEngine(Engine):
    """Has another engine make the batches that this consumer draws, and confirms each when the next one is asked for."""

    def __init__(self, inner: Engine, tickets: Tickets, plan: Mapping[str, Any]) -> None:
        """Note what all consumers of the run must share; nothing is drawn before an epoch is entered."""
        self._inner, self._tickets, self._shared = inner, tickets, dict(plan)
        self._held: tuple[int, int] | None = None
        self._answer = True
        """What was said of the batch delivered last, once it is no longer held; it stands until the next one is delivered."""

        self._before: tuple[int, list[tuple[int, int]]] | None = None
        self.confirmed: dict[int, list[int]] = {}
        """The tickets of each epoch that this consumer has confirmed."""

    def epoch(self, plan: Plan, epoch: int, start: int, runs: RunSource | None = None) -> Generator[Delivered, None, None]:  # noqa: ARG002  (tickets say what)
        """Yield batches that were drawn and are still this consumer's.

        Raises:
            BadRequest: the run in the store has another plan.
            StorageError: the store does not answer.
        """
        self._tickets.join({**self._shared, "batch_size": plan.batch_size, "tail": plan.tail, "tickets": plan.steps()})
        if self._before is not None and self._before[0] == epoch:
            self._tickets.begin_with(*self._before)
        self._before = None
        drawn = TicketRuns(self._tickets, plan, epoch)
        source = self._inner.epoch(plan, epoch, 0, drawn)
        finished = 0
        try:
            for number, made in enumerate(source):
                ticket = drawn.drawn[number]
                if self._tickets.renew(epoch, ticket):
                    self._held = (epoch, ticket)
                    yield made
                    self.confirm()
                finished = number + 1
        finally:
            source.close()
            if self._held is not None:  # it is given back, and counts for whoever draws it
                self._held, self._answer = None, False
            with contextlib.suppress(StorageError):
                for ticket in drawn.drawn[finished:]:
                    self._tickets.release(epoch, ticket)

    def confirm(self) -> bool:
        """Say that the batch delivered last is done with; return False when it was given to somebody else meanwhile, and should not count.

        Asked again, it answers the same until the next batch is delivered.
        """
        held, self._held = self._held, None
        if held is None:
            return self._answer
        epoch, ticket = held
        self._answer = self._tickets.confirm(epoch, ticket)
        if not self._answer:
            _LOG.warning(
                "penstock: ticket %d of epoch %d took longer than its deadline and was given to somebody else; it counts there", ticket, epoch
            )
            return False
        self.confirmed.setdefault(epoch, []).append(ticket)
        return True

    def done(self, plan: Plan, epoch: int) -> list[list[int]]:
        """Return the tickets of an epoch that are done, whoever had them, as first and last of each stretch."""
        if self._before is not None and self._before[0] == epoch:
            return [list(stretch) for stretch in self._before[1]]
        found, first, count = [], 0, plan.steps()
        for number, _ in [*self._tickets.unfinished(epoch, count), (count, "")]:
            if first < number:
                found.append([first, number - 1])
            first = number + 1
        return found

    def saved(self, plan: Plan, epoch: int) -> dict[str, Any]:
        """Return what a state holds of an epoch's tickets."""
        return {"samples": 0, "tickets": self.done(plan, epoch), "ticket_rows": plan.batch_size}

    def begin_with(self, epoch: int, done: Sequence[tuple[int, int]]) -> None:
        """Note what was done of an epoch before; the store is told when it is entered."""
        self._before = (epoch, list(done))
        self._tickets.generation(xxhash.xxh3_64_hexdigest(json.dumps([epoch, [list(stretch) for stretch in done]]).encode()))

    def close(self) -> None:
        """Leave the run, and end what the inner engine keeps."""
        self._tickets.leave()
        self._inner.close()
