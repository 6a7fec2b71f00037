"""Bad days of the loader: killed workers, killed parents, bad rows, bad functions. Nothing is lost, nothing hangs, nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from contracts.loaders import assert_same, plain

import penstock as ps
from penstock import transforms as T  # noqa: N812  (the name torchvision's users know)


def workers() -> list[psutil.Process]:
    """Return the worker processes of this process."""
    living = [p for p in psutil.Process().children() if p.status() != psutil.STATUS_ZOMBIE]
    return [p for p in living if "penstock.loaders.worker" in " ".join(p.cmdline())]


def descriptors() -> int:
    """Return how many descriptors this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def wait_until(condition: Callable[[], bool], limit_s: float = 5.0) -> bool:
    """Return whether the condition came true in time."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.mark.parametrize("persistent", [False, True])
def test_a_killed_worker_is_replaced_and_the_stream_is_the_same(images: ps.Dataset, persistent: bool) -> None:
    """SIGKILL to a worker, several times in an epoch, changes no bit of the stream."""
    options: dict[str, Any] = {"batch_size": 10, "shuffle": True, "transforms": {"image": [T.RandomResizedCrop(24)]}}
    expected = [plain(b) for b in ps.DataLoader(images, **options)]
    loader = ps.DataLoader(images, num_workers=2, persistent_workers=persistent, **options)
    got = []
    for step, batch in enumerate(loader):
        got.append(plain(batch))
        if step in {0, 2, 4}:
            os.kill(workers()[0].pid, signal.SIGKILL)
    assert_same(got, expected, "after kills")
    assert loader.stats().replaced_workers >= 1
    loader.close()


def test_a_worker_killed_while_it_works_is_replaced(small: ps.Dataset) -> None:
    """A worker killed in the middle of a task leaves no half-written row in the batch."""

    def slow(sample: dict[str, Any]) -> dict[str, Any]:
        time.sleep(0.05)
        return {"n": np.full(50_000, sample["n"])}

    loader = ps.DataLoader(small, batch_size=8, num_workers=2, map=slow)
    batches = iter(loader)
    got = [next(batches)]
    os.kill(workers()[0].pid, signal.SIGKILL)
    got += list(batches)
    assert [b["n"].shape[0] for b in got] == [8, 8, 7]
    assert np.array_equal(np.concatenate([b["n"].numpy() for b in got]), np.repeat(np.arange(23)[:, None], 50_000, axis=1))


def _fail(step: int) -> None:
    raise KeyError(step)


@pytest.mark.parametrize("end", ["whole", "break", "exception", "close"])
def test_nothing_is_left_however_the_loop_ends(rows: ps.Dataset, end: str) -> None:
    """After a whole epoch, a break, an exception or close(), no process and no descriptor remains."""
    rows.close()
    before = descriptors()
    loader = ps.DataLoader(rows, batch_size=10, num_workers=2)
    batches = iter(loader)
    try:
        for step, batch in enumerate(batches):
            assert len(batch["label"]) == 10 or step == 100
            if step == 3:
                assert len(workers()) == 2
                if end == "break":
                    break
                if end == "exception":
                    _fail(step)
                if end == "close":
                    batches.close()
                    break
    except KeyError:
        pass
    del batches, batch  # a batch that is still held keeps its ring's memory
    assert wait_until(lambda: not workers())
    rows.close()
    assert wait_until(lambda: descriptors() <= before), (before, descriptors())


def test_persistent_workers_stay_and_leave_with_the_loader(rows: ps.Dataset) -> None:
    """Persistent workers are the same processes in the next epoch, also after a break, and end when the loader is gone."""
    loader = ps.DataLoader(rows, batch_size=50, num_workers=2, persistent_workers=True, shuffle=True)
    expected = [[plain(b) for b in ps.DataLoader(rows, batch_size=50, shuffle=True)]]
    reference = ps.DataLoader(rows, batch_size=50, shuffle=True)
    expected = [[plain(b) for b in reference] for _ in range(3)]
    assert_same([plain(b) for b in loader], expected[0], "first epoch")
    pids = {p.pid for p in workers()}
    for batch in loader:
        assert np.array_equal(batch["label"].numpy(), expected[1][0]["label"])
        break
    assert_same([plain(b) for b in loader], expected[2], "after a break")
    assert {p.pid for p in workers()} == pids
    del loader, batch
    assert wait_until(lambda: not workers())


def test_a_second_iteration_ends_the_first_with_persistent_workers(rows: ps.Dataset) -> None:
    """Persistent workers serve one iteration at a time; the older one is told so instead of mixing batches."""
    loader = ps.DataLoader(rows, batch_size=50, num_workers=1, persistent_workers=True)
    one, two = iter(loader), iter(loader)
    next(one)
    next(two)
    with pytest.raises(ps.BadRequest, match="ended when iteration 2 began"):
        next(one)
    loader.close()


SCRIPT = """
import sys, time
import penstock as ps
loader = ps.DataLoader(ps.Dataset(sys.argv[1]), batch_size=5, num_workers=2, map=lambda s: (time.sleep(0.01), {{"n": s["label"]}})[1])
for step, batch in enumerate(loader):
    if step == 2:
        print("going", flush=True)
        {action}
"""


def script(rows: ps.Dataset, action: str) -> subprocess.Popen[str]:
    """Start a training script without a main guard, whose map is a lambda of __main__."""
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(SCRIPT.format(action=action)), rows.path]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_die_with_their_parent(rows: ps.Dataset, kill: signal.Signals) -> None:
    """Within 5 s of the parent's death by SIGKILL, SIGTERM or Ctrl-C no worker is left, and workers print nothing."""
    parent = script(rows, "time.sleep(60)")
    assert parent.stdout is not None
    assert parent.stdout.readline() == "going\n"
    children = psutil.Process(parent.pid).children(recursive=True)
    assert len(children) == 2
    if kill is signal.SIGINT:
        for child in children:
            child.send_signal(signal.SIGINT)  # a terminal sends it to the whole group
    parent.send_signal(kill)
    began = time.monotonic()
    _, stderr = parent.communicate(timeout=10)
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive
    assert time.monotonic() - began < 5
    assert stderr.count("Traceback") == (1 if kill is signal.SIGINT else 0), stderr


@pytest.mark.parametrize("delay_s", [0.0, 0.03, 0.1])
def test_interrupted_workers_that_start_are_silent(rows: ps.Dataset, delay_s: float) -> None:
    """Ctrl-C, which a terminal sends to all, while workers import: they end with the parent, whose traceback is the only one."""
    code = "import sys, penstock as ps\nloader = ps.DataLoader(ps.Dataset(sys.argv[1]), num_workers=3)\nwhile True:\n    list(loader)"
    command = [sys.executable, "-W", "ignore", "-c", code, rows.path]
    parent = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert wait_until(lambda: bool(psutil.Process(parent.pid).children()), 30)
    time.sleep(delay_s)
    children = psutil.Process(parent.pid).children()
    os.killpg(parent.pid, signal.SIGINT)
    _, stderr = parent.communicate(timeout=10)
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive
    assert stderr.count("Traceback") == 1, stderr
    assert stderr.strip().endswith("KeyboardInterrupt")


def test_a_worker_busy_in_user_code_dies_with_its_parent(rows: ps.Dataset) -> None:
    """A worker inside a function that would run for a minute still ends within 5 s of its parent's SIGKILL."""
    code = """
    import sys, time, threading
    import penstock as ps
    loader = ps.DataLoader(ps.Dataset(sys.argv[1]), batch_size=5, num_workers=1, map=lambda s: (s["label"] and time.sleep(60), {"n": s["label"]})[1])
    threading.Timer(1.5, lambda: print("going", flush=True)).start()
    next(iter(loader))
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), rows.path], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "going\n"
    children = psutil.Process(parent.pid).children(recursive=True)
    assert children
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert not psutil.wait_procs(children, timeout=5)[1]


def test_an_unguarded_script_runs_to_its_end(rows: ps.Dataset) -> None:
    """A script without `if __name__ == "__main__"` and with a lambda as map works: workers never import the user's main module."""
    parent = script(rows, "break")
    _, stderr = parent.communicate(timeout=60)
    assert (parent.returncode, stderr) == (0, "")


@pytest.fixture
def damaged(tmp_path: Path, jpeg: Callable[[int, int, int], bytes]) -> ps.Dataset:
    """Return 30 images of which the 17th is cut short."""
    with ps.Writer(tmp_path / "damaged", fields={"image": ps.Image("jpeg"), "n": ps.Scalar("int64")}) as writer:
        for i in range(30):
            data = jpeg(i, 60, 60)
            writer.write({"image": data[: len(data) // 2] if i == 17 else data, "n": i})
    return ps.Dataset(tmp_path / "damaged")


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_a_bad_image_is_named_and_earlier_batches_arrive(damaged: ps.Dataset, num_workers: int) -> None:
    """A cut JPEG raises BadData naming dataset, shard, row and column, in place of its own batch and not earlier, on every path."""
    loader = ps.DataLoader(damaged, batch_size=5, num_workers=num_workers, transforms={"image": [T.Resize((20, 20))]})
    batches = iter(loader)
    assert [next(batches)["n"].tolist()[0] for _ in range(3)] == [0, 5, 10]
    with pytest.raises(ps.BadData) as caught:
        next(batches)
    error = caught.value
    assert (error.path, error.shard, error.row, error.field) == (damaged.manifest.root, damaged.manifest.shards[0].path, 17, "image")
    assert loader.state_dict()["samples"] == 15
    assert wait_until(lambda: not workers())


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_error_in_map_names_the_row_and_keeps_the_traceback(small: ps.Dataset, num_workers: int) -> None:
    """What a user's function raises arrives as WorkerFailed with row and cause, from this process or another."""

    def picky(sample: dict[str, Any]) -> dict[str, Any]:
        return {"n": {10: None}.get(sample["n"], sample["n"]) + 1}

    with pytest.raises(ps.WorkerFailed, match=r"map raised TypeError.*row 10 of shard") as caught:
        list(ps.DataLoader(small, batch_size=4, num_workers=num_workers, map=picky))
    assert caught.value.stage == "map"
    if num_workers:
        assert "in picky" in caught.value.traceback
    else:
        assert isinstance(caught.value.__cause__, TypeError)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_map_that_changes_shape_is_bad_data(small: ps.Dataset, num_workers: int) -> None:
    """A function whose result changes shape is refused with row, field, expected and got."""
    with pytest.raises(ps.BadData, match=r"row 3.*all must agree"):
        list(ps.DataLoader(small, batch_size=4, num_workers=num_workers, map=lambda s: {"n": np.zeros(2 + (s["n"] == 3))}))


def test_a_stuck_worker_is_reported_by_stage(small: ps.Dataset) -> None:
    """When nothing comes within `timeout`, the error says which worker is in which stage, and no process is left."""

    def sleepy(sample: Any) -> Any:
        if sample["n"] > 7:
            time.sleep(60)
        return {"n": sample["n"]}

    loader = ps.DataLoader(small, batch_size=4, num_workers=1, timeout=8, map=sleepy)
    batches = iter(loader)
    next(batches)
    next(batches)
    with pytest.raises(ps.WorkerFailed, match=r"timed out after 8 seconds: worker 0 \(pid \d+\) is in stage 'map'"):
        next(batches)
    assert wait_until(lambda: not workers())


def test_a_function_that_kills_its_worker_is_given_up(small: ps.Dataset) -> None:
    """A row that kills every worker ends in an error that says how and where, not in an endless replacement."""
    loader = ps.DataLoader(small, batch_size=4, num_workers=2, map=lambda s: (s["n"] == 9 and os._exit(3), {"n": s["n"]})[1])
    with pytest.raises(ps.WorkerFailed, match=r"exited with code 3 while it filled positions 8 to 11 of epoch 0; 4 workers died"):
        list(loader)
    assert wait_until(lambda: not workers())


def test_a_worker_that_cannot_start_says_why(small: ps.Dataset) -> None:
    """An error in worker_init_fn arrives with the worker's traceback."""

    def broken(number: int) -> None:
        raise RuntimeError(f"no licence for {number}")

    with pytest.raises(ps.WorkerFailed, match="no licence for 0"):
        list(ps.DataLoader(small, batch_size=4, num_workers=1, worker_init_fn=broken))


def test_worker_init_fn_runs_in_each_worker(small: ps.Dataset) -> None:
    """worker_init_fn is called with the worker's number before it works."""

    def init(number: int) -> None:
        os.environ["NUMBER"] = str(number)

    batches = ps.DataLoader(small, batch_size=1, num_workers=2, worker_init_fn=init, map=lambda s: {"w": int(os.environ.get("NUMBER", "9"))})
    assert {int(b["w"]) for b in batches} <= {0, 1}


def test_a_function_that_cannot_travel_is_refused(small: ps.Dataset) -> None:
    """A map that holds something that cannot be pickled is refused with the remedy."""
    handle = Path(small.path).parent.joinpath("x").open("w")
    with handle, pytest.raises(ps.BadRequest, match=r"cannot be sent to workers.*num_workers=0"):
        list(ps.DataLoader(small, num_workers=1, map=lambda s: {"n": handle.fileno()}))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batched_map_sees_whole_batches(rows: ps.Dataset, num_workers: int) -> None:
    """A batched function gets the batch's columns and is never shown part of one."""

    def summed(batch: dict[str, Any]) -> dict[str, Any]:
        return {"total": np.full(len(batch["text"]), batch["x"].sum()), "size": np.full(len(batch["text"]), len(batch["text"]))}

    batches = list(ps.DataLoader(rows, batch_size=100, num_workers=num_workers, map=T.Map(summed, batched=True)))
    assert [int(b["size"][0]) for b in batches] == [100] * 10 + [3]


def test_random_map_is_keyed_by_sample_and_epoch(small: ps.Dataset) -> None:
    """A random function draws the same for a sample on every path, and otherwise in another epoch."""
    noisy = T.Map(lambda s, rng: {"n": s["n"], "noise": rng.random()}, random=True)
    one, two = (ps.DataLoader(small, batch_size=4, shuffle=True, map=noisy, num_workers=n, persistent_workers=bool(n)) for n in (0, 2))
    first, second = [plain(b) for b in one], [plain(b) for b in one]
    assert_same([plain(b) for b in two], first, "workers")
    by_sample = [dict(zip(np.concatenate([b["n"] for b in e]), np.concatenate([b["noise"] for b in e]), strict=True)) for e in (first, second)]
    assert all(by_sample[0][n] != by_sample[1][n] for n in range(23))
    two.close()


def test_workers_import_no_torch(small: ps.Dataset) -> None:
    """A worker never imports torch."""
    batch = next(iter(ps.DataLoader(small, batch_size=4, num_workers=1, map=lambda s: {"torch": "torch" in sys.modules, "n": s["n"]})))
    assert not batch["torch"].any()


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_a_function_that_ends_the_program_is_an_error(small: ps.Dataset, kind: type[BaseException]) -> None:
    """A worker whose function calls sys.exit tells so at once, instead of dying again and again."""

    def leaves(sample: dict[str, Any]) -> dict[str, Any]:
        if sample["n"] == 9:
            raise kind("enough")
        return {"n": sample["n"]}

    with pytest.raises(ps.WorkerFailed, match=f"{kind.__name__} while in stage 'map': enough"):
        list(ps.DataLoader(small, batch_size=4, num_workers=1, map=leaves))
