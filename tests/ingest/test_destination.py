"""What may happen to a destination: the whole table of what stands there and what was asked, and nothing overwritten unasked."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contracts.raw import tree

import penstock as ps
from penstock.errors import AlreadyExists, BadRequest
from penstock.ingest.assign import Spans
from penstock.ingest.convert import convert
from penstock.ingest.destination import Decision, Step, decide, targets
from penstock.ingest.job import Job, Plan, fingerprint
from penstock.ingest.settings import Settings
from penstock.ingest.source import Described, Files
from penstock.shards import commits

SETTINGS = Settings(source="/raw/t.csv", kind="csv")
OTHER = Settings(source="/raw/t.csv", kind="csv", format="tar")
SPLIT = Settings(source="/raw/t.csv", kind="csv", splits={"train": 0.5, "val": 0.5})


def job_of(root: Path, settings: Settings) -> Job:
    """Return the job of some settings."""
    return Job(root, fingerprint(settings))


def plan(root: Path, settings: Settings = SETTINGS) -> None:
    """Leave an unfinished conversion."""
    job = job_of(root, settings)
    job.path.mkdir(parents=True)
    spans = Spans.from_json([[0, 0, 1, 0]])
    made = Plan(
        settings=settings,
        operation="create",
        bases=(0,),
        described=Described(schema={"x": ps.Scalar()}),
        files=Files(root="/raw", names=[b"t.csv"], sizes=np.array([1]), mtimes=np.array([1])),
        parts=(spans,),
        part_bytes=(1,),
        bad=(),
    )
    job.save(made)


def publish(root: Path, *, operation: str = "append", job: str | None = None) -> None:
    """Leave a version without rows."""
    commits.commit(root, operation=operation, schema={"x": ps.Scalar()}, added=[], job=job)


def stranger(root: Path) -> None:
    """Leave somebody's file."""
    root.mkdir(exist_ok=True)
    (root / "thesis.tex").write_text("x")


def asked(root: Path, settings: Settings = SETTINGS, **options: bool) -> Decision:
    """Decide."""
    return decide(root, settings, job_of(root, settings), **{"append": False, "overwrite": False, "resume": False, **options})


STANDING: dict[str, Any] = {
    "nothing": lambda root: None,
    "an empty folder": lambda root: root.mkdir(),
    "a dataset": publish,
    "our job": plan,
    "another's job": lambda root: plan(root, OTHER),
    "a dataset and our job": lambda root: (publish(root), plan(root)),  # type: ignore[func-returns-value]
    "a dataset made by our job": lambda root: publish(root, job=f"{fingerprint(SETTINGS)}.1"),
    "somebody's file": stranger,
}

START, RESUME, DONE = Step.START, Step.RESUME, Step.DONE

TABLE: dict[str, dict[str, Any]] = {
    "nothing": {"": (START, "create"), "append": (START, "create"), "overwrite": (START, "overwrite"), "resume": (START, "create")},
    "an empty folder": {"": (START, "create"), "append": (START, "create"), "overwrite": (START, "overwrite"), "resume": (START, "create")},
    "a dataset": {"": "already holds version 1", "append": (START, "append"), "overwrite": (START, "overwrite"), "resume": "no unfinished"},
    "our job": {"": "with these settings", "append": "with these settings", "overwrite": (START, "overwrite"), "resume": (RESUME, "")},
    "another's job": {
        "": "with other settings",
        "append": "with other settings",
        "overwrite": (START, "overwrite"),
        "resume": "format: 'tar' then, 'arrow' now",
    },
    "a dataset and our job": {"": "with these", "append": "with these", "overwrite": (START, "overwrite"), "resume": (RESUME, "")},
    "a dataset made by our job": {"": "already holds", "append": (START, "append"), "overwrite": (START, "overwrite"), "resume": (DONE, "")},
    "somebody's file": dict.fromkeys(("", "append", "overwrite", "resume"), r"holds 'thesis\.tex'"),
}
"""What stands there, what is asked, and what happens: a step and the operation of its commit, or words of the refusal."""


@pytest.mark.parametrize(("there", "option"), [(there, option) for there in STANDING for option in ("", "append", "overwrite", "resume")])
def test_table_of_decisions(tmp_path: Path, there: str, option: str) -> None:
    """Each thing that may stand there meets each option as the table says, and deciding changes nothing on disk."""
    root = tmp_path / "out"
    STANDING[there](root)
    before = tree(tmp_path)
    wanted = TABLE[there][option]
    options = {option: True} if option else {}
    if isinstance(wanted, str):
        with pytest.raises((AlreadyExists, BadRequest), match=wanted):
            asked(root, **options)  # type: ignore[arg-type]
    else:
        found = asked(root, **options)  # type: ignore[arg-type]
        assert (found.step, found.operation) == wanted
        gone = {other.name for other in found.discard}
        assert gone == ({path.name for path in (root / "_penstock" / "jobs").glob("*")} if option == "overwrite" else set())
    assert tree(tmp_path) == before


@pytest.mark.parametrize("options", [pair for count in (2, 3) for pair in itertools.combinations(("append", "overwrite", "resume"), count)])
def test_contradictions_are_named(tmp_path: Path, options: tuple[str, ...]) -> None:
    """Two or three of the options at once are refused, each by name."""
    with pytest.raises(BadRequest, match=f"{' and '.join(options)} contradict each other"):
        asked(tmp_path / "out", **dict.fromkeys(options, True))  # type: ignore[arg-type]


def test_overwritten_rows_are_not_ours_any_more(tmp_path: Path) -> None:
    """A conversion whose rows another has overwritten is not done: `--resume` says what stands instead of reporting success."""
    (tmp_path / "t.csv").write_text("x\n1\n")
    (tmp_path / "u.csv").write_text("x\n2\n")
    root = tmp_path / "out"
    convert(tmp_path / "t.csv", root, workers=0)
    convert(tmp_path / "u.csv", root, workers=0, overwrite=True)
    with pytest.raises(AlreadyExists, match="holds version 2, and no unfinished conversion"):
        convert(tmp_path / "t.csv", root, workers=0, resume=True)
    convert(tmp_path / "t.csv", root, workers=0, append=True)
    assert convert(tmp_path / "t.csv", root, workers=0, resume=True).rows_out == 1
    assert convert(tmp_path / "u.csv", root, workers=0, resume=True).rows_out == 1


@pytest.mark.parametrize("overwrite", [False, True])
def test_file_where_a_split_should_go(tmp_path: Path, overwrite: bool) -> None:
    """A file named like a split is refused by name, and stays."""
    root = tmp_path / "out"
    root.mkdir()
    (root / "train").write_text("x")
    with pytest.raises(AlreadyExists, match="holds 'train'"):
        asked(root, SPLIT, overwrite=overwrite)
    assert (root / "train").read_text() == "x"


def test_splits_stand_beside_other_datasets(tmp_path: Path) -> None:
    """Datasets and empty folders of the splits' names are no strangers to a conversion with splits; a dataset at the root is."""
    publish(tmp_path / "out" / "older")
    (tmp_path / "out" / "train").mkdir()
    assert asked(tmp_path / "out", SPLIT).operation == "create"
    (tmp_path / "out" / "val").mkdir()
    (tmp_path / "out" / "val" / "x").write_text("x")
    with pytest.raises(AlreadyExists, match="holds 'val'"):
        asked(tmp_path / "out", SPLIT)
    publish(tmp_path / "one")
    with pytest.raises(AlreadyExists, match=r"is a dataset itself, so it cannot hold the splits train, val"):
        asked(tmp_path / "one", SPLIT)


def test_targets_are_the_root_or_one_folder_a_split(tmp_path: Path) -> None:
    """Without splits the dataset is the destination itself."""
    assert targets(tmp_path, SETTINGS) == {"": tmp_path}
    assert targets(tmp_path, SPLIT) == {"train": tmp_path / "train", "val": tmp_path / "val"}


@pytest.mark.parametrize("inside", ["out", "class/out", "."])
def test_destination_in_or_at_the_source_is_refused(tmp_path: Path, inside: str) -> None:
    """The source folder itself and any folder below it cannot be the destination; one beside it with a like name can."""
    settings = Settings(source=str(tmp_path), kind="files")
    with pytest.raises(BadRequest, match="lies in the source"):
        asked(tmp_path / inside, settings)
    assert asked(tmp_path.with_name(tmp_path.name + "-out"), settings).step is START


def test_killed_publishing_is_no_stranger(tmp_path: Path) -> None:
    """Shards that a kill left in `data/` without a commit do not keep `--overwrite` from starting again."""
    root = tmp_path / "out"
    plan(root)
    (root / "data").mkdir()
    (root / "data" / "part.arrow").write_bytes(b"x")
    assert asked(root, overwrite=True).operation == "overwrite"


@pytest.mark.parametrize("published", [False, True])
def test_the_hint_says_what_overwriting_would_cost(tmp_path: Path, published: bool) -> None:
    """Beside an unfinished append, `--overwrite` is said to replace the rows that are published, and not only to start again."""
    (tmp_path / "t.csv").write_text("x\n1\n2\n")
    root = tmp_path / "out"
    if published:
        convert(tmp_path / "t.csv", root, workers=0)
    plan(root)
    with pytest.raises(AlreadyExists, match="--overwrite replaces the 2 rows" if published else "--overwrite starts again"):
        asked(root, append=True)
