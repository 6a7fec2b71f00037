"""The house rules hold, and each of them would notice a violation."""

from __future__ import annotations

import ast
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import house
import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = house.sources(ROOT)
PYPROJECT = (ROOT / "pyproject.toml").read_text()
HEAD = '"""What it does."""\n'


@pytest.mark.parametrize("rule", house.RULES, ids=lambda rule: rule.__name__)
def test_rule_holds(rule: house.Rule) -> None:
    """No file of the package breaks a rule."""
    assert not rule(FILES)


def test_every_room_is_judged() -> None:
    """The rules see each room and each file at the root, so silence means that they hold."""
    rooms = {file.module.split(".")[0] for file in FILES}
    assert {*house.ROOMS, "errors", "fields", ""} <= rooms


FINE = {
    "__init__.py": HEAD,
    "errors.py": HEAD,
    "fields.py": HEAD + "from .errors import X\n",
    "shards/__init__.py": HEAD,
    "shards/manifest.py": HEAD + "from ..fields import Y\nfrom . import columns\n",
    "shards/columns.py": HEAD,
    "transforms/chain.py": HEAD,
    "ingest/convert.py": HEAD + "from ..shards.manifest import Z\n",
    "loaders/loader.py": HEAD + "import torch\n",
    "cli/show.py": HEAD + "from ..shards import manifest\n",
}
LONG = "def f() -> None:\n" + '    """Do."""\n' + "    x = 1\n" * 60


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a small tree that keeps every rule."""
    for name, text in FINE.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_a_fine_tree_passes(tree: Path) -> None:
    """The rules have nothing against a tree that keeps them, so a planted problem is found for its own sake."""
    assert house.problems(tree) == []


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("fields.py", "from .shards.manifest import M\n", "fields.py:2: fields (layer 1) imports shards (layer 2)"),
        ("fields.py", "from . import order\n", "fields.py:2: imports the front of the package, which has no layer"),
        ("shards/manifest.py", "from ..transforms.chain import C\n", "shards/manifest.py:2: shards (layer 2) imports transforms (layer 2)"),
        ("ingest/convert.py", "from ..loaders import loader\n", "ingest/convert.py:2: ingest (layer 3) imports loaders (layer 3)"),
        ("shards/manifest.py", "def f() -> None:\n    '''F.'''\n    from .columns import C\n", "shards/manifest.py:4: lazy import of shards.columns"),
        ("shards/columns.py", "from .manifest import M\n", "shards.columns: import cycle"),
        (
            "shards/columns.py",
            "import penstock.errors\n",
            "shards/columns.py:2: absolute import of penstock.errors; imports inside the package are relative",
        ),
        ("shards/columns.py", "from benchmarks import images\n", "shards/columns.py:2: imports benchmarks, which is imported by nobody"),
        ("shards/columns.py", "import torch.utils.data\n", "shards/columns.py:2: imports torch outside torch's leaves"),
        ("shards/columns.py", "from webdataset import TarWriter\n", "shards/columns.py:2: imports webdataset outside torch's leaves"),
        ("__init__.py", "from .errors import X\n", "__init__.py:2: the front imports errors when it is imported"),
        ("extra.py", "from .errors import X\n", "extra.py:2: extra has no layer; name it in the design and in tests/house.py"),
        ("shards/columns.py", "X = 1\n" * 500, "shards/columns.py: 501 lines, over 500"),
        ("shards/columns.py", LONG, "shards/columns.py:2: f has 61 lines of code, over 60"),
        ("shards/columns.py", "print(1)\n", "shards/columns.py:2: print in the library"),
        ("shards/columns.py", "def f() -> None:\n    '''F.'''\n    global X\n", "shards/columns.py:4: a global statement"),
        (
            "shards/columns.py",
            "def f(self: int) -> bool:\n    '''F.'''\n    return hasattr(self, 'x')\n",
            "shards/columns.py:4: hasattr(self, ...): give absence a name",
        ),
        (
            "shards/columns.py",
            "try:\n    X = 1\nexcept Exception:  # noqa: BLE001\n    X = 2\n",
            "shards/columns.py:4: a broad except without its reason in a comment on its line",
        ),
        (
            "shards/columns.py",
            "try:\n    X = 1\nexcept (OSError, BaseException):\n    X = 2\n",
            "shards/columns.py:4: a broad except without its reason in a comment on its line",
        ),
        (
            "shards/columns.py",
            "import importlib\nX = importlib.import_module('torch')\n",
            "shards/columns.py:3: import by name outside the files that have a reason",
        ),
        ("shards/columns.py", "def f(x) -> None:\n    '''F.'''\n", "shards/columns.py:2: f is not annotated"),
        ("shards/columns.py", "def f(x: int):\n    '''F.'''\n", "shards/columns.py:2: f is not annotated"),
        ("shards/columns.py", "def f() -> None:\n    pass\n", "shards/columns.py:2: f has no docstring"),
        ("shards/columns.py", "class C:\n    pass\n", "shards/columns.py:2: C has no docstring"),
        ("shards/columns.py", "X = 1  # noqa: E501\n", "shards/columns.py:2: noqa without its reason"),
    ],
)
def test_a_planted_violation_is_found(tree: Path, name: str, text: str, expected: str) -> None:
    """Each rule names the file and line of a violation planted in a tree that is otherwise fine."""
    (tree / name).write_text(HEAD + text)
    assert expected in house.problems(tree)


LATER = (
    HEAD
    + 'import importlib\n\nLATER = {\'x\': \'wide\'}\n\n\ndef load_later(name: str) -> object:\n    """Load."""\n    return importlib.import_module(name)\n'
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "shards/later.py: there is no shards.wide"),
        ("from . import columns\n", "shards/later.py: shards.wide imports shards.columns, which loads it"),
        ("from . import middle\n", "shards/later.py: shards.wide imports shards.columns, which loads it"),
        ("from ..errors import X\n", None),
    ],
)
def test_what_is_loaded_later_is_no_cycle_in_disguise(tree: Path, text: str | None, expected: str | None) -> None:
    """The table of modules that are loaded later names modules that exist and that import nothing that loads them, directly or not."""
    (tree / "shards/later.py").write_text(LATER)
    (tree / "shards/middle.py").write_text(HEAD + "from . import columns\n")
    (tree / "shards/columns.py").write_text(HEAD + "from .later import load_later\n\nX = load_later('x')\n")
    if text is not None:
        (tree / "shards/wide.py").write_text(HEAD + text)
    assert house.problems(tree) == ([] if expected is None else [expected])


def test_a_file_without_a_law_is_found(tree: Path) -> None:
    """A file that does not open with its docstring is named."""
    (tree / "shards/columns.py").write_text("X = 1\n")
    assert house.problems(tree) == ["shards/columns.py: no docstring"]


def functions() -> Iterator[house.Def]:
    """Yield the package's functions."""
    for file in FILES:
        yield from (node for node in file.walk(ast.FunctionDef, ast.AsyncFunctionDef) if isinstance(node, house.Def))


def test_rooms_are_small() -> None:
    """The median file has at most 180 lines, and 95 of 100 functions at most 40."""
    assert statistics.median(len(file.lines) for file in FILES) <= 180
    lengths = sorted(house.code_lines(node) for node in functions())
    assert lengths[int(0.95 * (len(lengths) - 1))] <= 40


def test_errors_name_the_value() -> None:
    """At least 70 of 100 raises with a message show the value that was refused."""
    raises = [
        node for file in FILES for node in file.walk(ast.Raise) if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args
    ]
    naming = [
        node for node in raises if isinstance(node.exc, ast.Call) and any(isinstance(x, ast.JoinedStr) for a in node.exc.args for x in ast.walk(a))
    ]
    assert len(naming) >= 0.7 * len(raises)


def test_broad_excepts_are_rare() -> None:
    """There is at most one broad except in 1,000 lines."""
    found = [node for file in FILES for node in file.walk(ast.ExceptHandler) if isinstance(node, ast.ExceptHandler) and house.broad(node)]
    assert len(found) <= max(1, sum(len(file.lines) for file in FILES) // 1000)


def test_every_test_has_a_sentence() -> None:
    """Every test says what it proves."""
    silent = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.name}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, house.Def) and node.name.startswith("test") and not ast.get_docstring(node)
    ]
    assert not silent


def test_tests_outweigh_the_source() -> None:
    """There are at least as many lines of tests as of source."""
    tests = sum(path.read_text().count("\n") for path in (ROOT / "tests").rglob("*.py"))
    assert tests >= sum(len(file.lines) for file in FILES)


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ("project", "dependencies"),
        ("project.optional-dependencies", "dev"),
        ("tool.ruff.lint", "ignore"),
        ("tool.ruff.lint.per-file-ignores", '"[^"]+"'),
    ],
)
def test_every_dependency_and_waiver_has_its_reason(table: str, key: str) -> None:
    """Each dependency and each lint exception in pyproject.toml has its reason behind it."""
    assert house.bare_lines(PYPROJECT, table, key) == []


def test_a_waiver_without_a_reason_is_found() -> None:
    """The check of pyproject.toml names an entry that has no comment, and refuses a table it cannot find."""
    toml = '[a]\nkeep = [\n    "X1", # why\n    "X2",\n]\n[b]\nkeep = [\n    "X3",\n]\n'
    assert house.bare_lines(toml, "a", "keep") == ['"X2",']
    with pytest.raises(LookupError, match=r"\[a\] has no list other"):
        house.bare_lines(toml, "a", "other")


HEAVY = ("torch", "webdataset", "numba", "pyarrow", "pandas")
_OTHERS = [f"penstock.shards.{name}" for name in ("adopt", "foreign", "hf", "hfarrow", "npy", "parquet", "patterns", "tar", "tarindex", "tarkeep")]
NOT_FOR_OURS = ("torch", "pandas", "PIL", "pyarrow.compute", "pyarrow.parquet", "pyarrow.dataset", "pyarrow.fs", *_OTHERS)
"""What a process that opens an Arrow dataset of ours has no use for."""


def brought_by(program: str, heavy: tuple[str, ...] = HEAVY) -> set[str]:
    """Return which heavy libraries a fresh interpreter holds after `program`."""
    tail = f"\nimport sys\nprint(','.join(m for m in {heavy!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", program + tail], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return {name for name in done.stdout.strip().split(",") if name}


def program_of(part: str) -> str:
    """Return a program that imports every module of a room, or one module, except torch's leaves."""
    modules = [file.module for file in FILES if file.module.split(".")[0] == part and not house.may_import_torch(file.name)]
    assert modules
    return "\n".join(f"import penstock.{module}" for module in modules if not module.endswith("__main__"))


@pytest.mark.parametrize("part", [*house.ROOMS, *(name for name in house.LAYER if (ROOT / f"{name}.py").exists())])
def test_torch_stays_in_its_leaves(part: str) -> None:
    """A fresh interpreter that imports a whole room, torch's leaves excepted, holds neither torch nor webdataset."""
    assert not brought_by(program_of(part)) & {"torch", "webdataset", "pandas"}


@pytest.mark.parametrize("program", ["import penstock", "import penstock; dir(penstock), penstock.__version__", "import penstock.cli.app"])
def test_the_front_brings_nothing(program: str) -> None:
    """Importing the package, listing its names, and the command line's group bring no heavy library."""
    assert not brought_by(program)


@pytest.mark.parametrize(
    ("program", "brings"), [("import torch", "torch"), ("import penstock; penstock.DataLoader", "torch"), ("import pyarrow", "pyarrow")]
)
def test_the_probe_can_fail(program: str, brings: str) -> None:
    """The probe of fresh interpreters does see a heavy library that is there."""
    assert brings in brought_by(program)


WRITES = """
fields = {"n": penstock.Scalar(), "ok": penstock.Scalar("bool"), "x": penstock.Array((2, 3)), "t": penstock.Tokens()}
fields |= {"text": penstock.Text(), "raw": penstock.Bytes(), "note": penstock.Json()}
with penstock.Writer(path, fields, format=FORMAT) as writer:
    for i in range(9):
        x, t = np.full((2, 3), i, np.float32), np.arange(i, dtype=np.int32)
        writer.write({"n": i, "ok": i > 3, "x": x, "t": t, "text": "é" * i, "raw": bytes(i), "note": [i]})
"""
READS = "assert [row['n'] for row in penstock.Dataset(path)[[0, 5, -1]]] == [0, 5, 8]"


def test_a_dataset_of_ours_is_opened_light(tmp_path: Path) -> None:
    """Writing, opening and reading an Arrow dataset, of every kind of column, brings none of what only others' files need."""
    head = f"import numpy as np, penstock; path = {str(tmp_path / 'ds')!r}\n"
    assert not brought_by(head + WRITES.replace("FORMAT", "'arrow'"), NOT_FOR_OURS)
    assert not brought_by(head + READS, ("pyarrow", *NOT_FOR_OURS))
    assert not brought_by(head + "penstock.Dataset(path, columns=['x', 'ok'])[3]", ("pyarrow", *NOT_FOR_OURS))


def test_a_dataset_of_many_versions_is_opened_light(tmp_path: Path) -> None:
    """Reading a checkpoint, which is an Arrow file, brings what reads such files and nothing more."""
    head = f"import numpy as np, penstock; path = {str(tmp_path / 'ds')!r}\n"
    again = "for i in range(65):\n    with penstock.Writer(path, mode='append' if i else 'create') as writer:\n        writer.write({'n': i})"
    subprocess.run([sys.executable, "-c", head + again], check=True, timeout=120)
    assert any((tmp_path / "ds/_penstock/checkpoints").iterdir())
    assert not brought_by(head + "assert penstock.Dataset(path)[64]['n'] == 64", NOT_FOR_OURS)


PARQUET = "import pyarrow as pa, pyarrow.parquet as pq; pq.write_table(pa.table({'n': list(range(9))}), path)"


@pytest.mark.parametrize(
    ("name", "writes", "brings"),
    [
        ("tar", WRITES.replace("FORMAT", "'tar'"), {"tar", "npy", "tarindex", "tarkeep"}),
        ("x.parquet", PARQUET, {"adopt", "foreign", "parquet"}),
    ],
)
def test_what_others_need_is_brought_when_it_is_needed(tmp_path: Path, name: str, writes: str, brings: set[str]) -> None:
    """The same program, pointed at tars or Parquet, works and brings what reads them: the probe does see it."""
    head = f"import numpy as np, penstock; path = {str(tmp_path / name)!r}\n"
    subprocess.run([sys.executable, "-c", head + writes], check=True, timeout=120)
    found = brought_by(head + READS, NOT_FOR_OURS)
    assert found >= {f"penstock.shards.{module}" for module in brings}
    assert ("pyarrow.parquet" in found) is ("parquet" in name)
