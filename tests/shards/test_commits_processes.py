"""Two real processes at once: both land, nothing is lost, and a create has one winner."""

from __future__ import annotations

from pathlib import Path

from contracts import children

from penstock.shards import commits
from penstock.shards.dataset import Dataset

APPEND = """
for i in range(12):
    with Writer(folder, {"who": Scalar("int64"), "n": Scalar("int64")}, mode="append") as writer:
        for k in range(3):
            writer.write({"who": os.getpid(), "n": i * 3 + k})
answer(os.getpid())
"""


def test_two_processes_that_append_both_land(tmp_path: Path) -> None:
    """Every row of both is there once, in each process's own order, and no staging folder is left."""
    with children.start(APPEND, tmp_path / "ds") as one, children.start(APPEND, tmp_path / "ds") as two:
        pids = [children.answer(one), children.answer(two)]
    ds = Dataset(tmp_path / "ds")
    assert ds.version == 24
    rows = list(ds)
    for pid in pids:
        assert [row["n"] for row in rows if row["who"] == pid] == list(range(36))
    assert len(rows) == 72
    assert list((tmp_path / "ds" / "_penstock" / "tmp").iterdir()) == []
    ds.close()


CREATE = """
sys.stdin.readline()
writer = Writer(folder, {"who": Scalar("int64")})
writer.write({"who": os.getpid()})
answer("ready")
sys.stdin.readline()
try:
    writer.close()
    answer("won")
except AlreadyExists as error:
    answer(str(error))
"""


def test_of_two_processes_that_create_one_wins(tmp_path: Path) -> None:
    """Both had begun before either published; the loser is told, and none of its files stay."""
    with children.start(CREATE, tmp_path / "ds") as one, children.start(CREATE, tmp_path / "ds") as two:
        for _ in range(2):  # both open, then both close
            for child in (one, two):
                assert child.stdin is not None
                child.stdin.write("go\n")
                child.stdin.flush()
            answers = [children.answer(one), children.answer(two)]
    assert answers.count("won") == 1
    assert any("already holds version 1" in told for told in answers)
    assert len(list((tmp_path / "ds" / "data").iterdir())) == 1
    assert commits.load(tmp_path / "ds").rows == 1
    assert list((tmp_path / "ds" / "_penstock" / "tmp").iterdir()) == []


KILLED = """
with Writer(folder, {"n": Scalar("int64")}) as writer:
    writer.write({"n": 1})
import penstock.shards.storage as storage
def killed(*_):
    answer(tree(folder / "_penstock" / "commits"))
    os.kill(os.getpid(), signal.SIGKILL)
storage.os.link = killed
with Writer(folder, mode="append") as writer:
    writer.write({"n": 2})
"""


def test_what_a_killed_commit_left_is_swept_by_the_next_writer(tmp_path: Path) -> None:
    """SIGKILL between the writing of a commit and its publishing leaves a temporary file; the next writer's commit takes it away."""
    with children.start(KILLED, tmp_path / "ds") as child:
        before = children.answer(child)
        assert child.wait(60) == -9
    assert [name.endswith(".tmp") for name in before] == [True, False]
    children.run('with Writer(folder, mode="append") as writer: writer.write({"n": 3})\nanswer(1)', tmp_path / "ds")
    assert sorted(path.name for path in (tmp_path / "ds" / commits.COMMITS).iterdir()) == [f"{version:020d}.json" for version in (1, 2)]
    assert [row["n"] for row in Dataset(tmp_path / "ds")] == [1, 3]
