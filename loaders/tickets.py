"""Batches drawn instead of dealt: consumers of unlike speed, and ones that come and go, share an epoch through a store that they all reach.

An epoch of E positions is cut into tickets of one batch each. A consumer draws the next free ticket, works on it, and confirms it; what is not confirmed within a
deadline is drawn again by somebody who has nothing else to do, and the late one's confirmation is refused. So every sample is confirmed exactly once, whoever
dies. The store is torch's `TCPStore` (or `FileStore`, `HashStore`), which training jobs have already; all that is asked of it is `add`, `set` and `compare_set`,
and `delete_key` where it has that. Nothing here imports torch.

What stands in the store, under the run's name: the plan, which all must share; for each epoch a counter of tickets drawn, and for each ticket its owner or `done`;
how many of each block of 1,024 are done, so that nobody looks at all of them; and for each consumer how many it has confirmed, for the bound on staleness (Ho et
al., "More Effective Distributed ML via a Stale Synchronous Parallel Parameter Server", NeurIPS 2013). What a state says was done before is not told to the store:
who loads it counts only what is left.

Cost, in questions to the store (some 50 microseconds each on one machine): a batch takes seven, from its draw to its confirmation. The end of an epoch and `state_dict()`
ask for each block drawn since this consumer last looked whose end it has not seen, and in those that are not full one for each ticket that it does not know to be done. With
`max_staleness`, up to three for each consumer that takes part, each time that this one has come so far that the slowest it saw might be too far behind. A consumer that joins
asks for the count of each that ever did. Tickets are deleted a block at a time once all of it is done, by who confirms the last (1,024 deletions), where the store can; what
stays is a counter for each block and each epoch, and three keys for each consumer.

Consumers find each other by the run's name, and by nothing else: they come and go, and a name lasts as long as the store. Where all of them are started together, and together
again after a failure, as torchrun does it, workers that begin anew must not meet the tickets of those before them; and nothing that torchrun tells a worker differs for
each start and is the same for all (TORCHELASTIC_RESTART_COUNT counts failures of one node's workers; other nodes, and those that join, count others). So with
`together=True` the first rank makes up a name for the start and tells the others, by a broadcast that all ranks take part in.

A state that is loaded opens a part of the store of its own, which all share that loaded it as often; so each return to it begins with what it leaves to do. A consumer that
loads it for its first time goes where those went that did so before. If they have gone on from it, and give no sign of life, it is refused: whether it replaces one
of them, or all of them are gone and their batches are to be done again, nobody could tell it.

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
from .start import start_of
from .ticket_store import Keys
from .undone import Undone

_LOG = logging.getLogger("penstock")

BLOCK = 1024
"""Tickets that are counted together."""

_DONE, _FREE = "done:", "free:"
"""What values of tickets begin with that nobody holds; who wrote them stands behind, since a store only tells what stands there afterwards."""

_POLL_S = 0.02
_SLOWEST_POLL_S = 0.5


class _Done:
    """What a consumer knows to be done of an epoch, which stays so: whole blocks, and tickets of other ones."""

    def __init__(self, epoch: int) -> None:
        """Know nothing."""
        self.epoch, self.blocks, self.tickets = epoch, set[int](), set[int]()


def _block_size(block: int, tickets: int) -> int:
    return min(BLOCK, tickets - block * BLOCK)


@final
class Tickets:
    """One consumer's hold on a shared run: `DataLoader(..., tickets=Tickets(store, deadline_s=60))`; `tickets=store` takes the defaults."""

    def __init__(self, store: Any, *, name: str = "run", deadline_s: float = 60.0, max_staleness: int | None = None, together: Any = False) -> None:
        """Join nothing yet: that happens with the first draw.

        Args:
            store: a torch `TCPStore` that all consumers reach.
            name: of the run in the store; runs of unlike names do not meet. Consumers that were started anew and go back to a state want another name,
                once others have gone on from that state in the same store.
            deadline_s: seconds after which a batch that was delivered and not confirmed is given to somebody else, and after which a consumer that makes no
                progress is not waited for. More than any step takes. A batch that was made ahead has so long from its draw to its delivery, and as long again
                from there on; one that lies in the queue for longer may go to somebody who has nothing else to do, and is then left out here: so more than
                `prefetch_factor * num_workers` steps take keeps them.
            max_staleness: how many more batches than the slowest consumer one may have confirmed before its next batch is delivered; None for any number.
                Batches may be drawn and made ahead meanwhile.
            together: True when all ranks of torch.distributed make their Tickets now, as after a start by torchrun; a process group when all of its ranks
                do. What they draw is then a run of this start alone: go on from a checkpoint by `load_state_dict`. False when consumers come and go.

        Raises:
            BadRequest: a number is out of range, the store lacks what is needed, or `together` is no process group.
        """
        if not 0 < deadline_s < float("inf"):
            raise BadRequest(f"Tickets: deadline_s={deadline_s!r} is no number of seconds above 0")
        if max_staleness is not None and (type(max_staleness) is not int or max_staleness < 0):
            raise BadRequest(f"Tickets: max_staleness={max_staleness!r} is no integer of at least 0")
        self._keys = Keys(store, "")
        self._together = together is not False
        self._name = f"penstock/{name}/{start_of(together)}" if self._together else f"penstock/{name}"
        self._keys.prefix = f"{self._name}/new/"
        self._deadline_s, self._most_ahead = deadline_s, max_staleness
        self._own = uuid.uuid4().hex[:12] + ":"
        self._number = -1
        self._joined = ""
        """The plan that this object was joined with first."""

        self._attempts = 0
        self._mine: dict[str, str] = {}
        """The values of the tickets that this consumer holds."""

        self._seen: dict[str, tuple[str, float]] = {}
        self._gone: set[int] = set()
        """Consumers that have left."""

        self._slowest = 0
        """What every consumer that has not left has confirmed at least."""

        self._done = _Done(-1)
        self._loads: dict[str, int] = {}
        """How often each state was loaded."""

        self._strange = False
        """Whether others went on from the state before this consumer loaded it."""

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
        if self._strange:
            self._wait_for_a_sign()
        self._warn_of_others()
        if not self._keys.swap("plan", "", told):
            self._refuse(plan, self._keys.told("plan"), "the run in the store has another plan")
        self._joined = told
        self._number = self._keys.count("consumers", 1) - 1
        counts = [self._keys.count(f"count/{number}", 0) for number in range(self._number)]
        self._keys.count(f"count/{self._number}", max(counts, default=0))  # who comes late holds nobody up

    def _warn_of_others(self) -> None:
        """Say so when torchrun started this rank again, and it goes on where the one before it was."""
        rank = os.environ.get("RANK")
        if "TORCHELASTIC_RUN_ID" not in os.environ or self._together or self._loads or self._joined:
            return
        if self._keys.count(f"rank/{rank}", 1) > 1:
            _LOG.warning(
                "penstock: rank %s was started again, and goes on in the run %r where the workers before it stood; where they all begin anew, "
                "give Tickets(store, together=True), and load a checkpoint if there is one",
                rank,
                self._name,
            )

    def _confirmed(self) -> int:
        """Return a number that grows with each batch that anybody confirms."""
        return sum(self._keys.count(f"count/{number}", 0) for number in range(self._keys.count("consumers", 0)))

    def _wait_for_a_sign(self) -> None:
        before, ends, pause_s = self._confirmed(), time.monotonic() + self._deadline_s, _POLL_S
        while self._confirmed() == before:
            if time.monotonic() > ends:
                raise BadRequest(
                    f"batches behind this state were confirmed in the store, and in {self._deadline_s:g} s (deadline_s) nobody confirmed another: "
                    "going back to the state here would leave them out. Give the run another name with Tickets(store, name=...), or load its last state; "
                    "where all consumers are started together, Tickets(store, together=True) gives each start its own"
                )
            time.sleep(pause_s)  # ends: with a confirmation, or at the deadline
            pause_s = min(pause_s * 1.5, _SLOWEST_POLL_S)
        self._strange = False

    @staticmethod
    def _refuse(plan: Mapping[str, Any], told: str, why: str) -> NoReturn:
        have = json.loads(told)
        unlike = [f"{name} is {have.get(name)!r} there and {plan.get(name)!r} here" for name in {**have, **plan} if have.get(name) != plan.get(name)]
        raise BadRequest(f"{why}: {'; '.join(unlike)}; give this loader a name of its own with Tickets(store, name=...)")

    def leave(self) -> None:
        """Say that nobody has to wait for this consumer any more."""
        if self._number >= 0:
            with contextlib.suppress(StorageError):  # the store's owner may have gone first
                self._keys.say(f"left/{self._number}", "yes")
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
        own = self._keys.count(f"count/{self._number}", 0)
        if self._most_ahead is not None and own - self._slowest <= self._most_ahead:
            return own - self._slowest  # nobody's count falls, and who joins begins with the highest
        slowest, awaited = own, own
        for number in range(self._keys.count("consumers", 0)):
            if number == self._number or number in self._gone:
                continue
            count = self._keys.count(f"count/{number}", 0)
            if count < own and self._keys.told(f"left/{number}"):
                self._gone.add(number)
                continue
            slowest = min(slowest, count)
            moves = self._unchanged_s(f"count/{number}", str(count)) < self._deadline_s
            if count < awaited and moves and self._keys.told(f"idle/{number}") != "yes":
                awaited = count
        self._slowest = slowest
        return own - awaited

    def fresh(self, epoch: int, tickets: int) -> int | None:
        """Draw a ticket that nobody had; None when there is none left.

        Raises:
            StorageError: the store does not answer.
        """
        while True:
            number = self._keys.count(f"{epoch}/next", 1) - 1
            if number >= tickets:
                return None
            if self._take(f"{epoch}/t{number}", ""):
                return number  # else somebody took it over while this consumer stood still

    def overdue(self, epoch: int, tickets: int) -> int | None:
        """Draw a ticket that somebody did not confirm in time; None once all are done. Waits for others' tickets meanwhile.

        Raises:
            StorageError: the store does not answer.
        """
        self._keys.say(f"idle/{self._number}", "yes")  # nobody has to wait for who has nothing to do
        pause_s = _POLL_S
        try:
            while True:
                open_ones = self.unfinished(epoch, tickets)
                if not open_ones:
                    return None
                for number, owner in open_ones:
                    key = f"{epoch}/t{number}"
                    overdue = owner.startswith(_FREE) or self._unchanged_s(key, owner) >= self._deadline_s
                    if overdue and self._take(key, owner):
                        return number
                time.sleep(pause_s)  # ends: a ticket is confirmed, or overdue after the deadline
                pause_s = min(pause_s * 1.5, _SLOWEST_POLL_S)
        finally:
            self._keys.say(f"idle/{self._number}", "no")

    def drawn(self, epoch: int, tickets: int) -> int:
        """Return how many tickets were drawn so far."""
        return min(self._keys.count(f"{epoch}/next", 0), tickets)

    def unfinished(self, epoch: int, tickets: int) -> list[tuple[int, str]]:
        """Return the tickets that were drawn and are not done, and who has them; "" when nobody is known to."""
        drawn, known = self.drawn(epoch, tickets), self._known(epoch)
        found = []
        for block in range(-(-drawn // BLOCK)):
            if block in known.blocks:
                continue
            first, size = block * BLOCK, _block_size(block, tickets)
            if self._keys.count(f"{epoch}/b{block}", 0) >= size:
                known.blocks.add(block)
                known.tickets.difference_update(range(first, first + size))
                continue
            for number in range(first, min(first + size, drawn)):
                if number not in known.tickets:
                    owner = self._keys.told(f"{epoch}/t{number}")
                    if owner.startswith(_DONE):
                        known.tickets.add(number)
                    else:
                        found.append((number, owner))
        return found

    def _known(self, epoch: int) -> _Done:
        if self._done.epoch != epoch:
            self._done = _Done(epoch)
            self._seen = {key: seen for key, seen in self._seen.items() if key.startswith("count/")}
        return self._done

    def _take(self, key: str, before: str) -> bool:
        """Have a ticket from whoever had it when this value stood there; return False when somebody was faster."""
        mine = self._fresh_name(self._own)
        if not self._keys.swap(key, before, mine):
            return False
        self._mine[key] = mine
        return True

    def renew(self, epoch: int, number: int) -> bool:
        """Begin a ticket's deadline anew; return False when it is not this consumer's any more."""
        key = f"{epoch}/t{number}"
        mine = self._mine.pop(key, None)
        return mine is not None and self._take(key, mine)

    def confirm(self, epoch: int, number: int, tickets: int) -> bool:
        """Say that a ticket is done, of so many that the epoch has; return False when it was given to somebody else meanwhile.

        Raises:
            StorageError: the store does not answer.
        """
        key = f"{epoch}/t{number}"
        mine = self._mine.pop(key, None)
        if mine is None or not self._keys.swap(key, mine, self._fresh_name(_DONE + self._own)):
            return False
        block = number // BLOCK
        size, done = _block_size(block, tickets), self._keys.count(f"{epoch}/b{block}", 1)
        if done > size:  # it was done and deleted while this consumer, drawing it, stood still
            self._keys.drop([key])
            return False
        self._known(epoch).tickets.add(number)
        self._keys.count(f"count/{self._number}", 1)
        if done == size:
            self._keys.drop([f"{epoch}/t{one}" for one in range(block * BLOCK, block * BLOCK + size)])
        return True

    def release(self, epoch: int, number: int) -> None:
        """Give back a ticket that was drawn and not worked on, if it is still this consumer's."""
        key = f"{epoch}/t{number}"
        mine = self._mine.pop(key, None)
        if mine is not None:
            self._keys.swap(key, mine, self._fresh_name(_FREE + self._own))

    def go_back(self, state: str) -> None:
        """Go on in the part of the store that belongs to a state, and to this return to it.

        Raises:
            StorageError: the store does not answer.
        """
        self.leave()
        self._keys.prefix = f"{self._name}/{state}/"
        known = self._keys.told("loads")
        before = self._loads.get(state)
        load = self._loads[state] = max(int(known or 0), 1) if before is None else before + 1
        while int(known or 0) < load and not self._keys.swap("loads", known, str(load)):
            known = self._keys.told("loads")
        self._keys.prefix = f"{self._name}/{state}.{load}/"
        self._strange = before is None and not self._together and self._confirmed() > 0
        self._mine.clear()
        self._seen.clear()
        self._gone.clear()
        self._slowest, self._done = 0, _Done(-1)

    def _fresh_name(self, begin: str) -> str:
        """Return a value that nobody writes twice."""
        self._attempts += 1
        return f"{begin}{self._attempts}"


@final
class TicketRuns:
    """The batches of an epoch as a consumer draws them, one after the other."""

    def __init__(self, tickets: Tickets, plan: Plan, epoch: int, undone: Undone) -> None:
        """Draw nothing yet; `undone` are the epoch's tickets that there are."""
        self._tickets, self._plan, self._epoch, self._undone = tickets, plan, epoch, undone
        self.drawn: list[int] = []
        """The places of the tickets drawn so far, in order."""

        self._none_fresh = False

    def get(self, number: int, *, wait: bool) -> Run | None:
        """Return batch `number` of those that this consumer gets; None when there is none, or, without `wait`, when one would have to be waited for."""
        if wait and not (self._none_fresh and len(self.drawn) <= number):
            self._tickets.wait_for_the_slowest()
        count = len(self._undone)
        while len(self.drawn) <= number:
            place = None if self._none_fresh else self._tickets.fresh(self._epoch, count)
            self._none_fresh = place is None
            if place is None and wait:
                place = self._tickets.overdue(self._epoch, count)
            if place is None:
                return None
            self.drawn.append(place)
        return self._plan.batch(self._undone.ticket(self.drawn[number]))


@final
class TicketEngine(Engine):
    """Has another engine make the batches that this consumer draws, and confirms each when the next one is asked for."""

    def __init__(self, inner: Engine, tickets: Tickets, plan: Mapping[str, Any]) -> None:
        """Note what all consumers of the run must share; nothing is drawn before an epoch is entered."""
        self._inner, self._tickets, self._shared = inner, tickets, dict(plan)
        self._held: tuple[int, int, Undone] | None = None
        self._answer = True
        """What was said of the batch delivered last, once it is no longer held; it stands until the next one is delivered."""

        self._loaded: tuple[int, list[tuple[int, int]]] | None = None
        """The epoch in which a loaded state stands, and what was done of it before."""

        self.confirmed: dict[int, list[int]] = {}
        """The tickets of each epoch that this consumer has confirmed."""

    def epoch(self, plan: Plan, epoch: int, start: int, runs: RunSource | None = None) -> Generator[Delivered, None, None]:  # noqa: ARG002  (tickets say what)
        """Yield batches that were drawn and are still this consumer's.

        Raises:
            BadRequest: the run in the store has another plan.
            StorageError: the store does not answer.
        """
        self._tickets.join({**self._shared, "batch_size": plan.batch_size, "tail": plan.tail, "tickets": plan.steps()})
        undone = self._undone(plan, epoch)
        drawn = TicketRuns(self._tickets, plan, epoch, undone)
        source = self._inner.epoch(plan, epoch, 0, drawn)
        finished = 0
        try:
            for number, made in enumerate(source):
                place = drawn.drawn[number]
                if self._tickets.renew(epoch, place):
                    self._held = (epoch, place, undone)
                    yield made
                    self.confirm()
                finished = number + 1
        finally:
            source.close()
            if self._held is not None:  # it is given back, and counts for whoever draws it
                self._held, self._answer = None, False
            with contextlib.suppress(StorageError):
                for place in drawn.drawn[finished:]:
                    self._tickets.release(epoch, place)

    def _undone(self, plan: Plan, epoch: int) -> Undone:
        loaded, done = self._loaded or (-1, [])
        return Undone(plan.steps(), done if loaded == epoch else ())

    def confirm(self) -> bool:
        """Say that the batch delivered last is done with; return False when it was given to somebody else meanwhile, and should not count.

        Asked again, it answers the same until the next batch is delivered.
        """
        held, self._held = self._held, None
        if held is None:
            return self._answer
        epoch, place, undone = held
        ticket = undone.ticket(place)
        self._answer = self._tickets.confirm(epoch, place, len(undone))
        if not self._answer:
            _LOG.warning(
                "penstock: ticket %d of epoch %d took longer than its deadline and was given to somebody else; it counts there", ticket, epoch
            )
            return False
        self.confirmed.setdefault(epoch, []).append(ticket)
        return True

    def done(self, plan: Plan, epoch: int) -> list[list[int]]:
        """Return the tickets of an epoch that are done, whoever had them, as first and last of each stretch."""
        undone = self._undone(plan, epoch)
        drawn = self._tickets.drawn(epoch, len(undone))
        return undone.done(drawn, [place for place, _ in self._tickets.unfinished(epoch, len(undone))])

    def saved(self, plan: Plan, epoch: int) -> dict[str, Any]:
        """Return what a state holds of an epoch's tickets."""
        return {"samples": 0, "tickets": self.done(plan, epoch), "ticket_rows": plan.batch_size}

    def begin_with(self, epoch: int, done: Sequence[tuple[int, int]]) -> None:
        """Note what was done of an epoch before."""
        self._loaded, self._answer = (epoch, list(done)), True
        self._tickets.go_back(xxhash.xxh3_64_hexdigest(json.dumps([epoch, [list(stretch) for stretch in done]]).encode()))

    def close(self) -> None:
        """Leave the run, and end what the inner engine keeps."""
        self._tickets.leave()
        self._inner.close()
