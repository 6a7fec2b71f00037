"""A start of a group has a name: two nodes under torchrun lose a worker and gain a node, and each start begins an epoch of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
import torch.distributed
from ranks import run_ranks

import penstock as ps
from penstock.errors import BadRequest

HashStore: Any = vars(torch.distributed)["HashStore"]
TCPStore: Any = vars(torch.distributed)["TCPStore"]
WORKER = """
import json, os, signal, sys, time
import torch.distributed as dist
import penstock as ps

dist.init_process_group("gloo")
rank, world, lost = dist.get_rank(), dist.get_world_size(), sys.argv[2] + "/lost"
kind = "alone" if world == 1 else "last" if os.path.exists(lost) else "both"
dist.barrier()  # before anybody is lost
store = dist.TCPStore("127.0.0.1", int(sys.argv[3]), is_master=False)
loader = ps.DataLoader(ps.Dataset(sys.argv[1]), 20, shuffle=True, tickets=ps.Tickets(store, deadline_s=20, together=True), output="numpy")
with open(f"{sys.argv[2]}/{kind}{rank}", "w") as file:
    print(os.environ["NODE"], os.environ["TORCHELASTIC_RESTART_COUNT"], file=file, flush=True)
    for number, batch in enumerate(loader):
        if loader.confirm():
            print(json.dumps(batch["label"].tolist()), file=file, flush=True)
        if number == 2 and kind != "last":
            store.add(kind, 1)
            while store.add(kind, 0) < world:
                time.sleep(0.01)
            if kind == "both" and rank == 1:
                open(lost, "w").close()
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)  # torchrun ends it
loader.close()
dist.barrier()
dist.destroy_process_group()
"""
GROUPS = """
import json, os, sys
import torch.distributed as dist
from penstock.errors import BadRequest
from penstock.loaders.start import start_of

dist.init_process_group("gloo")
pairs = [dist.new_group([0, 1]), dist.new_group([2, 3])]
told = [start_of(True), start_of(True), start_of(pairs[dist.get_rank() // 2])]
try:
    start_of(pairs[1 - dist.get_rank() // 2])
except BadRequest as error:
    told.append(str(error))
print(json.dumps(told))
dist.barrier()
dist.destroy_process_group()
"""


def test_each_start_on_two_nodes_is_a_run_of_its_own(rows: ps.Dataset, tmp_path: Path) -> None:
    """A node alone, another that joins, a worker of it that is killed: restart counts of the nodes fall apart, and the last start still has every row once."""
    program = tmp_path / "worker.py"
    program.write_text(textwrap.dedent(WORKER), encoding="utf-8")
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = f"127.0.0.1:{free.getsockname()[1]}"
    torchrun = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--nnodes", "1:2", "--nproc-per-node", "1", "--max-restarts", "3"]
    torchrun += ["--monitor-interval", "0.3", "--rdzv-backend", "c10d", "--rdzv-endpoint", meeting, "--rdzv-conf", "last_call_timeout=1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}

    def node(name: str) -> subprocess.Popen[bytes]:
        command = [*torchrun, str(program), rows.path, str(tmp_path), str(store.port)]
        return subprocess.Popen(command, env={**environment, "NODE": name}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    nodes = [node("first")]
    try:
        ends = time.monotonic() + 60
        while store.add("alone", 0) < 1:
            assert time.monotonic() < ends
            time.sleep(0.05)
        nodes.append(node("second"))
        for one in nodes:
            assert one.communicate(timeout=90)[1] is not None
            assert one.returncode == 0
    finally:
        for one in nodes:
            one.kill()
            one.wait()
    told = {name: (tmp_path / name).read_text().splitlines() for name in ("alone0", "both0", "both1", "last0", "last1")}
    assert told["alone0"][0].split()[1] == told["both0"][0].split()[1] == "0"  # a node that joins is no restart
    assert {told["last0"][0].split()[1], told["last1"][0].split()[1]} == {"0", "1"}  # and a worker that is lost is one of its own node
    assert len(told["alone0"]) == len(told["both0"]) == len(told["both1"]) == 4
    assert sorted(label for name in ("last0", "last1") for line in told[name][1:] for label in json.loads(line)) == list(range(1003))


def test_all_ranks_learn_one_name_and_no_other_start_has_it() -> None:
    """Four ranks share a name, another one the next time; ranks of a group that is a part share theirs; who is not in a group is refused."""
    told = run_ranks(4, GROUPS)
    first, second, pair, refused = zip(*told, strict=True)
    assert len(set(first)) == len(set(second)) == 1
    assert len({*first, *second, *pair}) == 4
    assert pair[0] == pair[1] != pair[2] == pair[3]
    assert all("names no process group that this process is in" in one for one in refused)


@pytest.mark.parametrize("together", [True, None, 3])
def test_what_is_no_group_is_refused(together: Any) -> None:
    """Without torch.distributed nothing is started together, and None, which torch's WORLD is before it begins, is no way to say False."""
    with pytest.raises(BadRequest, match=f"together={together!r} names no process group"):
        ps.Tickets(HashStore(), together=together)
