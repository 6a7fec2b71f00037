"""Batches drawn from a store: consumers of unlike speed share an epoch, the dead are replaced, the late are refused, and everything is confirmed once."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest
import torch.distributed
from inside import stored_of

import penstock as ps
from penstock.errors import BadRequest, StorageError
from penstock.loaders import tickets as module
from penstock.loaders.ledger import Digest
from penstock.loaders.ticket_store import Keys

HashStore: Any = vars(torch.distributed)["HashStore"]
TCPStore: Any = vars(torch.distributed)["TCPStore"]
CONSUMER = """
import json, sys, time
from torch.distributed import TCPStore
import penstock as ps

store = TCPStore("127.0.0.1", int(sys.argv[2]), is_master=False)
tickets = ps.Tickets(store, deadline_s=1.5)
store.add("here", 1)
while store.add("here", 0) < 3:
    time.sleep(0.01)
loader = ps.DataLoader(ps.Dataset(sys.argv[1]), 20, shuffle=True, tickets=tickets, num_workers=int(sys.argv[4]), output="numpy")
for batch in loader:
    time.sleep(float(sys.argv[3]))
    if loader.confirm():
        print(json.dumps(batch["label"].tolist()), flush=True)
print(json.dumps(loader.digest().to_json()), flush=True)
loader.close()
"""


@pytest.fixture
def made(rows: ps.Dataset) -> Callable[..., ps.DataLoader]:
    """Return a maker of loaders over one store."""
    store = HashStore()

    def make(
        batch_size: int = 40, *, store: Any = store, seed: int = 0, drop_last: bool = False, num_workers: int = 0, **options: Any
    ) -> ps.DataLoader:
        tickets = ps.Tickets(store, **{"deadline_s": 0.3, **options})
        return ps.DataLoader(rows, batch_size, shuffle=True, seed=seed, drop_last=drop_last, num_workers=num_workers, tickets=tickets, output="numpy")

    return make


def test_two_consumers_share_an_epoch(made: Callable[..., ps.DataLoader], rows: ps.Dataset) -> None:
    """One that takes three batches for each of the other's: together they get every row once, over two epochs, and their digests add up to the plan's."""
    loaders = [made(), made()]
    for _ in range(2):
        seen: Counter[int] = Counter()
        open_ones = {iter(loaders[0]): 3, iter(loaders[1]): 1}
        while open_ones:
            for batches, share in list(open_ones.items()):
                for _ in range(share):
                    batch = next(batches, None)
                    if batch is None:
                        open_ones.pop(batches)
                        break
                    seen.update(batch["label"].tolist())
                if len(open_ones) > 1 and sum(seen.values()) > len(rows) - 200:
                    # the last tickets are confirmed by asking for the next, which neither may wait for the other to do
                    for loader in loaders:
                        loader.confirm()
        assert set(seen.values()) == {1}
        assert len(seen) == len(rows)
    whole = loaders[0].digest().merge(loaders[1].digest())
    assert whole.differences(loaders[0].plan_digest(range(2))) == []
    assert loaders[0].digest().samples(0) > loaders[1].digest().samples(0)


def test_a_ticket_that_is_late_counts_elsewhere(made: Callable[..., ps.DataLoader], caplog: pytest.LogCaptureFixture) -> None:
    """A consumer that holds its batch beyond the deadline is refused, told so, and the batch is given to the other; those it had drawn ahead go too."""
    slow, fast = made(), made()
    held = iter(slow)
    late = next(held)["label"].tolist()
    seen = [label for batch in fast for label in batch["label"].tolist()]
    assert set(late) <= set(seen)
    assert len(seen) == len(set(seen)) == 1003
    with caplog.at_level(logging.WARNING, logger="penstock"):
        assert slow.confirm() is False
    assert "took longer than its deadline" in caplog.text
    assert list(held) == []
    assert fast.digest() == fast.plan_digest([0])
    assert slow.digest().epochs == {}


def test_what_was_drawn_and_not_wanted_is_given_back_at_once(made: Callable[..., ps.DataLoader]) -> None:
    """A consumer that ends its epoch early gives back what it had drawn; its last batch, unconfirmed, too."""
    leaving, staying = made(deadline_s=60), made(deadline_s=60)
    batches = iter(leaving)
    first = [label for batch in islice(batches, 3) for label in batch["label"].tolist()]
    batches.close()
    began = time.monotonic()
    rest = [label for batch in staying for label in batch["label"].tolist()]
    assert time.monotonic() - began < 30
    assert sorted(first[:80] + rest) == list(range(1003))


def test_a_state_goes_on_in_another_store(made: Callable[..., ps.DataLoader], rows: ps.Dataset) -> None:
    """What was done in one store is done in the next: a new set of consumers gets the rest, with holes where tickets were not confirmed; JSON holds it."""
    one, two = made(), made()
    first, second = iter(one), iter(two)
    seen = [label for batch in islice(first, 6) for label in batch["label"].tolist()]
    hole = next(second)["label"].tolist()
    seen += [label for batch in islice(first, 4) for label in batch["label"].tolist()]
    one.confirm()
    state = json.loads(json.dumps(one.state_dict()))
    assert len(state["tickets"]) == 2
    again = made(store=HashStore())
    again.load_state_dict(state)
    assert again.state_dict()["tickets"] == state["tickets"]
    rest = [label for batch in again for label in batch["label"].tolist()]
    assert set(hole) <= set(rest)
    assert sorted(seen + rest) == list(range(1003))
    assert sorted(label for batch in again for label in batch["label"].tolist()) == list(range(1003))


def test_many_consumers_load_one_state(made: Callable[..., ps.DataLoader]) -> None:
    """Three consumers that load the same checkpoint into a fresh store get the rest between them, and one that stays away leaves nothing behind."""
    one = made()
    first = iter(one)  # kept: one that is dropped gives back its last batch
    head = [label for batch in islice(first, 10) for label in batch["label"].tolist()]
    one.confirm()
    state = one.state_dict()
    store = HashStore()
    loaders = [made(store=store) for _ in range(3)]
    for loader in loaders:
        loader.load_state_dict(state)
    open_ones = [iter(loader) for loader in loaders]
    seen = list(head)
    idle = next(open_ones[0])["label"].tolist()  # never confirmed
    for batch in open_ones[1]:
        seen += batch["label"].tolist()
        if len(seen) > 800:
            break
    loaders[1].confirm()
    open_ones[1].close()
    seen += [label for batch in open_ones[2] for label in batch["label"].tolist()]
    assert set(idle) <= set(seen)
    assert sorted(seen) == list(range(1003))
    assert stored_of(loaders[2])._ticketed.done(loaders[2].plan, 0) == [[0, 25]]


def test_going_back_in_a_store_that_lived_on(made: Callable[..., ps.DataLoader]) -> None:
    """A state that is loaded where later tickets were done already goes on from itself, and not from them."""
    loader = made()
    batches = iter(loader)
    head = [label for batch in islice(batches, 8) for label in batch["label"].tolist()]
    loader.confirm()
    state = loader.state_dict()
    list(islice(batches, 10))
    batches.close()
    loader.load_state_dict(state)
    assert sorted(head + [label for batch in loader for label in batch["label"].tolist()]) == list(range(1003))


def test_going_back_twice_to_one_state(made: Callable[..., ps.DataLoader]) -> None:
    """Two consumers that load the same state again and again, in one store, are given all that it leaves to do each time, however far they came before."""
    loaders = [made(), made()]
    first = iter(loaders[0])
    head = [label for batch in islice(first, 8) for label in batch["label"].tolist()]
    loaders[0].confirm()
    first.close()
    state = loaders[0].state_dict()
    for come in (3, 7, 100):
        for loader in loaders:
            loader.load_state_dict(state)
        seen = [label for loader in loaders for batch in islice(loader, come) for label in batch["label"].tolist() if loader.confirm()]
        assert len(seen) == len(set(seen))
        assert not set(seen) & set(head)
    assert sorted(head + seen) == list(range(1003))


def test_a_stranger_goes_back_where_nobody_is(made: Callable[..., ps.DataLoader]) -> None:
    """A consumer started anew is refused a state from which others went on and are gone, in place of leaving out their batches; another name serves."""
    before = made()
    first = iter(before)
    head = [label for batch in islice(first, 8) for label in batch["label"].tolist()]
    before.confirm()
    state = before.state_dict()
    gone = made()
    gone.load_state_dict(state)
    list(islice(gone, 5))
    again = made()
    again.load_state_dict(state)
    began = time.monotonic()
    with pytest.raises(BadRequest, match=r"nobody confirmed another: going back to the state here would leave them out.*name="):
        next(iter(again))
    assert time.monotonic() - began < 10
    other = made(name="again")
    other.load_state_dict(state)
    assert sorted(head + [label for batch in other for label in batch["label"].tolist()]) == list(range(1003))


def test_a_stranger_joins_those_that_went_on(made: Callable[..., ps.DataLoader]) -> None:
    """A consumer that loads a state after another has confirmed batches behind it waits for a sign of that one, and shares what is left."""
    before = made()
    first = iter(before)
    head = [label for batch in islice(first, 8) for label in batch["label"].tolist()]
    before.confirm()
    state = before.state_dict()
    early, late = made(deadline_s=20), made(deadline_s=20)
    early.load_state_dict(state)
    batches = iter(early)
    head += [label for batch in islice(batches, 2) for label in batch["label"].tolist()]
    early.confirm()
    late.load_state_dict(state)
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.extend(label for batch in late for label in batch["label"].tolist()))
    thread.start()
    time.sleep(0.2)
    assert not seen
    head += [label for batch in islice(batches, 2) for label in batch["label"].tolist()]
    early.confirm()
    batches.close()
    thread.join(timeout=15)
    assert sorted(head + seen) == list(range(1003))


def test_nothing_is_confirmed_twice() -> None:
    """A consumer that stalls inside its confirmation, while another takes the ticket over and confirms it, is refused."""
    store = HashStore()
    one, two = ps.Tickets(store, deadline_s=0.05), ps.Tickets(store, deadline_s=0.05)
    for tickets in (one, two):
        tickets.join({})
    assert one.fresh(0, 1) == 0
    stalled = one._keys.told("0/t0")
    assert two.overdue(0, 1) == 0
    assert two.confirm(0, 0, 1)
    assert not one._keys.swap("0/t0", stalled, one._fresh_name("done:" + one._own))
    assert not one.confirm(0, 0, 1)
    assert one._keys.count("0/b0", 0) == 1
    assert one.unfinished(0, 1) == []


def test_from_dealt_to_drawn(made: Callable[..., ps.DataLoader], rows: ps.Dataset) -> None:
    """A state of ranks in step goes on with tickets, when it stands between two; and not the other way round."""
    dealt = ps.DataLoader(rows, 80, shuffle=True, output="numpy")
    batches = iter(dealt)
    head = [label for batch in islice(batches, 3) for label in batch["label"].tolist()]
    drawn = made(40)
    drawn.load_state_dict(dealt.state_dict())
    assert sorted(head + [label for batch in drawn for label in batch["label"].tolist()]) == list(range(1003))
    with pytest.raises(BadRequest, match="inside a ticket of 70"):
        made(70, store=HashStore()).load_state_dict(dealt.state_dict())
    with pytest.raises(BadRequest, match="resume it with tickets="):
        dealt.load_state_dict(drawn.state_dict())
    begun = iter(drawn)
    list(islice(begun, 2))
    inside = drawn.state_dict()
    begun.close()
    other = made(30, store=HashStore())
    with pytest.raises(BadRequest, match="tickets of 40 rows, and this loader has batch_size=30: resume it with batch_size=40; another one"):
        other.load_state_dict(inside)
    list(drawn)
    between = drawn.state_dict()
    other.load_state_dict(between)
    assert other.state_dict() == {**between, "ticket_rows": 30}
    assert sorted(label for batch in other for label in batch["label"].tolist()) == list(range(1003))
    for wrong in (7, [[0]], [[3, 1]], [[0, 10**6]], [["a", "b"]]):
        with pytest.raises(BadRequest, match="no stretches"):
            drawn.load_state_dict({**drawn.state_dict(), "tickets": wrong})


def test_nobody_runs_too_far_ahead(made: Callable[..., ps.DataLoader]) -> None:
    """With max_staleness=2 a consumer that has confirmed two more than the slowest waits until that one goes on; one that is dead is not waited for for ever."""
    fast, slow = made(max_staleness=2, deadline_s=1.0), made(max_staleness=2, deadline_s=1.0)
    lagging = iter(slow)
    next(lagging)
    taken: list[float] = []

    def run() -> None:
        taken.extend(time.monotonic() for _ in islice(iter(fast), 6))

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.4)
    assert 3 <= len(taken) <= 4  # two confirmed ahead, one in hand
    next(lagging)  # confirms one
    time.sleep(0.4)
    assert len(taken) <= 5
    thread.join(timeout=20)  # the slow one makes no more progress, and is left behind
    assert len(taken) == 6


def test_nobody_with_workers_runs_too_far_ahead(made: Callable[..., ps.DataLoader]) -> None:
    """Batches that workers draw ahead are not held back, and none of them is delivered beyond max_staleness: the bound is on what is confirmed."""
    fast, slow = (made(20, num_workers=workers, max_staleness=3, deadline_s=30) for workers in (2, 0))
    lagging = iter(slow)
    next(lagging)
    taken: list[int] = []
    batches = iter(fast)

    def run() -> None:
        for batch in batches:
            taken.extend(batch["label"].tolist())

    thread = threading.Thread(target=run)
    thread.start()
    ends = time.monotonic() + 60
    for bound in range(4, 9):
        while len(taken) < 20 * bound:
            assert time.monotonic() < ends
            time.sleep(0.01)
        time.sleep(0.2)
        assert len(taken) == 20 * bound  # three confirmed ahead, and one in hand
        assert stored_of(fast).engine._tickets.drawn(0, 51) > bound + 1  # type: ignore[attr-defined]  # the slow one has one
        next(lagging)
    slow.close()  # leaves: nobody waits for it
    lagging.close()
    thread.join(timeout=60)
    assert not thread.is_alive()
    fast.close()


def test_a_queue_that_outlives_the_deadline_is_done_elsewhere(made: Callable[..., ps.DataLoader]) -> None:
    """Batches that workers made ahead and nobody asked for in time go to another consumer; the one that comes back to them is given what is still its own."""
    slow, fast = made(20, num_workers=2, deadline_s=0.3), made(20, deadline_s=0.3)
    batches = iter(slow)
    first = next(batches)["label"].tolist()
    assert slow.confirm()
    ahead = stored_of(slow).engine._tickets.drawn(0, 51)  # type: ignore[attr-defined]
    assert ahead > 2
    seen = [label for batch in fast for label in batch["label"].tolist()]
    assert sorted(first + seen) == list(range(1003))
    assert list(batches) == []
    assert slow.digest().merge(fast.digest()).differences(slow.plan_digest([0])) == []
    assert slow.digest().samples(0) == 20
    slow.close()


def test_who_comes_late_holds_nobody_up(made: Callable[..., ps.DataLoader]) -> None:
    """A consumer that joins after others have confirmed many counts from the fastest of them, also when somebody left long ago with few."""
    gone = made(max_staleness=1, deadline_s=30)
    next(iter(gone))
    gone.close()
    early = made(max_staleness=1, deadline_s=30)
    batches = iter(early)
    list(islice(batches, 10))
    late = made(max_staleness=1, deadline_s=30)
    joined = iter(late)
    next(joined)
    began = time.monotonic()
    next(batches)
    assert time.monotonic() - began < 10
    early.close()
    late.close()


def test_consumers_of_another_plan_are_refused(made: Callable[..., ps.DataLoader]) -> None:
    """Another seed, batch size or end of an epoch in the same store is refused by name; a run of another name does not meet it."""
    next(iter(made(40)))
    with pytest.raises(BadRequest, match="batch_size is 40 there and 30 here"):
        next(iter(made(30)))
    with pytest.raises(BadRequest, match="seed is 0 there and 5 here"):
        next(iter(made(40, seed=5)))
    with pytest.raises(BadRequest, match="tail is 'ragged' there and 'drop' here; tickets is 26 there and 25 here"):
        next(iter(made(40, drop_last=True)))
    next(iter(made(30, seed=5, name="other")))


def test_an_answer_stands_until_the_next_batch(made: Callable[..., ps.DataLoader]) -> None:
    """A second confirm() of a refused batch is False as the first was, that of a confirmed one True; a batch that was given back unconfirmed does not count."""
    slow, fast = made(), made()
    held = iter(slow)
    next(held)
    list(fast)
    assert [slow.confirm() for _ in range(3)] == [False] * 3
    assert list(held) == []
    assert slow.confirm() is False
    batches = iter(slow)
    next(batches)
    assert [slow.confirm() for _ in range(3)] == [True] * 3
    assert slow.digest().samples(1) == 40
    next(batches)
    batches.close()
    assert slow.confirm() is False
    assert slow.digest().samples(1) == 40


def test_one_object_serves_one_plan(rows: ps.Dataset) -> None:
    """Tickets given to a loader for training and to one for evaluation are refused by the second, before it draws any; those of one plan may share them."""
    tickets = ps.Tickets(HashStore(), deadline_s=0.3)
    train, again, other = (ps.DataLoader(rows, 40, shuffle=shuffle, tickets=tickets, output="numpy") for shuffle in (True, True, False))
    first = iter(train)
    seen = [label for batch in islice(first, 5) for label in batch["label"].tolist()]
    with pytest.raises(BadRequest, match=r"joined by a loader with another plan: shuffle is True there and False here; .*name="):
        next(iter(other))
    train.confirm()
    assert sorted(seen + [label for batch in again for label in batch["label"].tolist()]) == list(range(1003))


def test_many_tickets_are_looked_at_once(made: Callable[..., ps.DataLoader], monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that are done, tickets that are not drawn and those that were seen to be done are passed over: a stranger asks for one block, and then for one ticket."""
    monkeypatch.setattr(module, "BLOCK", 100)
    loader = made(1)
    batches = iter(loader)
    list(islice(batches, 950))
    asked: list[str] = []
    told, counted = Keys.told, Keys.count

    def noted(keys: Keys, key: str) -> str:
        asked.append(key)
        return told(keys, key)

    def counting(keys: Keys, key: str, more: int) -> int:
        asked.append(key)
        return counted(keys, key, more)

    monkeypatch.setattr(Keys, "told", noted)
    monkeypatch.setattr(Keys, "count", counting)
    other = made(1)
    stranger = stored_of(other).engine._tickets  # type: ignore[attr-defined]
    open_ones = {950, 949}  # one in hand, and one drawn ahead
    assert {number for number, _ in stranger.unfinished(0, 1003)} == open_ones
    assert len(asked) == 1 + 10 + 51  # how many were drawn, blocks, tickets of the tenth
    asked.clear()
    assert other.state_dict()["tickets"] == [[0, 948]]
    assert len(asked) == 2 + 1 + 2
    monkeypatch.undo()
    batches.close()


def test_what_is_done_is_deleted(made: Callable[..., ps.DataLoader], monkeypatch: pytest.MonkeyPatch) -> None:
    """After an epoch a store that can delete holds no ticket, and after ten of them what it holds has not grown with their tickets; one that cannot serves too."""
    monkeypatch.setattr(module, "BLOCK", 10)
    store = HashStore()
    loader = made(20, store=store)
    sizes = []
    for _ in range(3):
        assert sorted(label for batch in loader for label in batch["label"].tolist()) == list(range(1003))
        sizes.append(store.num_keys())
        assert not any(store.check([f"{stored_of(loader).engine._tickets._keys.prefix}0/t{number}"]) for number in range(51))  # type: ignore[attr-defined]
    assert sizes[2] - sizes[1] == sizes[1] - sizes[0] == 1 + 6  # how many were drawn, and a counter for each block

    class Old:
        """A store without delete_key."""

        def __init__(self) -> None:
            inner = HashStore()
            self.add, self.set, self.compare_set = inner.add, inner.set, inner.compare_set

    assert sorted(label for batch in made(20, store=Old()) for label in batch["label"].tolist()) == list(range(1003))


def test_a_ticket_that_was_deleted_is_not_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A consumer that stalls inside its draw, until another has taken the ticket over, confirmed it and deleted the block, is refused."""
    store = HashStore()
    one, two = ps.Tickets(store, deadline_s=0.05), ps.Tickets(store, deadline_s=0.05)
    for tickets in (one, two):
        tickets.join({})
    take = one._take

    def stalling(key: str, before: str) -> bool:
        assert two.overdue(0, 1) == 0
        assert two.confirm(0, 0, 1)
        assert two._keys.told("0/t0") == ""
        return take(key, before)

    monkeypatch.setattr(one, "_take", stalling)
    assert one.fresh(0, 1) == 0
    monkeypatch.undo()
    assert one.renew(0, 0)
    assert one.confirm(0, 0, 1) is False
    assert one._keys.told("0/t0") == ""
    assert one.unfinished(0, 1) == two.unfinished(0, 1) == []
    assert two.overdue(0, 1) is None


def test_a_batch_is_few_questions(made: Callable[..., ps.DataLoader]) -> None:
    """From its draw to its confirmation a batch asks the store seven times; with max_staleness a consumer far from the bound asks once more."""

    class Counting:
        """A store that counts what it is asked."""

        def __init__(self) -> None:
            self.inner, self.asked = HashStore(), 0

        def __getattr__(self, name: str) -> Any:
            self.asked += 1
            return getattr(self.inner, name)

    for options, most in (({}, 7), ({"max_staleness": 100}, 8)):
        store = Counting()
        others = [made(1, store=store, **options) for _ in range(3)]
        held = [iter(loader) for loader in others]
        for one in held:
            next(one)
        batches = iter(made(1, store=store, **options))
        list(islice(batches, 10))
        before = store.asked
        list(islice(batches, 50))
        assert store.asked - before <= 50 * most


def test_a_state_costs_the_store_nothing(made: Callable[..., ps.DataLoader], monkeypatch: pytest.MonkeyPatch) -> None:
    """However much was done before a state, with holes: loading it writes no ticket, and each draw is a ticket that is left."""
    state = {**made(1).state_dict(), "under_way": True, "tickets": [[0, 700], [703, 1000]]}
    store = HashStore()
    loader = made(1, store=store)
    loader.load_state_dict(state)
    drawn: list[int | None] = []
    fresh = module.Tickets.fresh

    def noted(tickets: Any, epoch: int, count: int) -> int | None:
        drawn.append(fresh(tickets, epoch, count))
        return drawn[-1]

    monkeypatch.setattr(module.Tickets, "fresh", noted)
    before = store.num_keys()
    assert loader.state_dict()["tickets"] == state["tickets"]
    assert store.num_keys() - before <= 2
    assert len(list(loader)) == 4
    assert drawn == [0, 1, 2, 3, None]
    assert loader.digest().samples(0) == 4


def test_processes_that_are_killed_lose_nothing(rows: ps.Dataset) -> None:
    """Three processes of unlike speed over a TCPStore, one with a worker, one killed in mid-epoch: what was confirmed is every row, once."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    running = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", CONSUMER, rows.path, str(store.port), pause, workers], stdout=subprocess.PIPE, text=True
        )
        for pause, workers in (("0.01", "0"), ("0.05", "1"), ("0.02", "0"))
    ]
    lines: list[list[str]] = [[], [], []]

    def read(number: int) -> None:
        stream = running[number].stdout
        assert stream is not None
        with stream:
            for line in stream:
                lines[number].append(line)
                if number == 2 and len(lines[2]) == 2:
                    running[2].send_signal(signal.SIGKILL)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert [process.wait(timeout=60) for process in running] == [0, 0, -signal.SIGKILL]
    digests = [Digest.from_json(json.loads(lines[number].pop())) for number in (0, 1)]
    seen = [label for told in lines for line in told for label in json.loads(line)]
    # the killed one may have confirmed a batch and been killed before it could say so
    assert len(seen) == len(set(seen)) >= 1003 - 20
    assert digests[0].merge(digests[1]).samples(0) + 20 * len(lines[2]) >= 1003 - 20


def test_what_is_no_store_is_refused(rows: ps.Dataset) -> None:
    """Arguments out of range, things that are no store, and broadcasting are refused; a store that went away is told as such."""
    for make, named in (
        (lambda: ps.Tickets(3), "is no store"),
        (lambda: ps.Tickets(HashStore(), deadline_s=0), "deadline_s=0"),
        (lambda: ps.Tickets(HashStore(), max_staleness=-1), "max_staleness=-1"),
        (lambda: ps.DataLoader(rows, 4, tickets=HashStore(), broadcast=True), "leave one or the other out"),
        (lambda: ps.DataLoader(rows, 4, tickets=HashStore(), topology=(0, 2)), "leave one or the other out"),
        (lambda: ps.DataLoader(rows, 4, tickets=7), "is no store"),
    ):
        with pytest.raises(BadRequest, match=named):
            make()

    class Gone:
        """A store that does not answer."""

        add = set = compare_set = lambda *_: (_ for _ in ()).throw(RuntimeError("Connection refused"))

    with pytest.raises(StorageError, match="does not answer: Connection refused"):
        next(iter(ps.DataLoader(rows, 4, tickets=Gone())))
    assert len(list(ps.DataLoader(rows, 100, tickets=HashStore()))) == 11
