"""Ranks killed at random steps and gone on with as other numbers of ranks, fifty times: the ledger is exact after each, and each row came once an epoch."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inside import stored_of

import penstock as ps
from penstock.loaders.coverage import Progression
from penstock.loaders.ledger import Digest

ROWS = 500
ROUNDS = 50


@pytest.fixture
def numbers(tmp_path: Path) -> str:
    """Return a dataset whose rows say which they are."""
    with ps.Writer(tmp_path / "data", fields={"label": ps.Scalar("int64"), "x": ps.Array((4,), "float32")}, shard_size="4KB") as writer:
        for n in range(ROWS):
            writer.write({"label": n, "x": np.full(4, n, np.float32)})
    return str(tmp_path / "data")


def rows_of(loader: ps.DataLoader, samples: dict[int, int]) -> Counter[tuple[int, int]]:
    """Return which rows the order itself puts at the first positions of epochs, drawn without any engine."""
    stream = stored_of(loader).stream
    return Counter((epoch, row) for epoch, count in samples.items() for row in stream.draw(epoch, np.arange(count)).rows.tolist())


@pytest.mark.timeout(600)
@pytest.mark.parametrize("options", [{"seed": 1}, {"seed": 2, "window_shards": 2, "lanes": 4, "epoch_samples": 730}], ids=["passes", "lanes"])
def test_killed_ranks_lose_and_double_nothing(numbers: str, tmp_path: Path, options: dict[str, Any]) -> None:
    """Each round of up to four gloo ranks ends by SIGKILL of one or more of them at some step, or by itself; the next has other numbers of ranks and rows."""
    dice = random.Random(options["seed"])
    whole: Digest | None = None
    expected: Digest | None = None
    seen: Counter[tuple[int, int]] = Counter()
    killed, rounds = 0, ROUNDS // 2  # of each kind of order
    length = options.get("epoch_samples", ROWS)
    program = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("killed_ranks.py"))]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as ranks:
        assert ranks.stdin is not None
        assert ranks.stdout is not None
        for number in range(rounds):
            world = dice.randint(1, 4)
            kills = [dice.randint(0, 30) if dice.random() < 0.5 else None for _ in range(world)]
            told = {"folder": str(tmp_path), "dataset": numbers, "round": number, "world": world, "size": dice.randint(1, 25)}
            ranks.stdin.write(json.dumps({**told, "workers": int(number % 10 == 9), "options": options, "kills": kills}) + "\n")
            ranks.stdin.flush()
            codes = json.loads(ranks.stdout.readline())
            assert set(codes) <= {0, 3, -9}, codes
            assert (-9 in codes) == any(kill is not None for kill in kills)
            killed += -9 in codes
            state = json.loads((tmp_path / "state.json").read_text()) if (tmp_path / "state.json").exists() else None
            if state is None or state["round"] != number:
                continue  # killed before its first checkpoint: nothing of it counts
            for rank in range(world):
                written = json.loads((tmp_path / f"round{number}.rank{rank}.step{state['step']}.json").read_text())
                digest = Digest.from_json(written["digest"])
                whole = digest if whole is None else whole.merge(digest)
                seen.update((epoch, label) for epoch, label in written["seen"])
            assert whole is not None
            epoch, samples = state["state"]["epoch"], state["state"]["samples"]
            epochs = {before: [Progression(0, length, length, 1)] for before in range(epoch)}
            expected = Digest(whole.plan, {**epochs, epoch: [Progression(0, samples, samples, 1)]})
            assert whole.differences(expected) == [], f"round {number}"
        ranks.stdin.close()
    assert killed > rounds // 3
    assert expected is not None
    assert len(expected.epochs) > 2
    assert seen == rows_of(ps.DataLoader(ps.Dataset(numbers), 1, shuffle=True, **options), {n: expected.samples(n) for n in expected.epochs})
