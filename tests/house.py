"""What the house rules are, as functions of a source tree that return the problems they find, one line each.

`test_house.py` asks them about this repository and about small fake trees with a planted violation. Nothing here imports the package: the
rules are read from the text, so a tree that does not even import is still judged. Cost: one parse of each file.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOMS = ("cli", "ingest", "integrations", "loaders", "shards", "transforms")
LAYER = {
    "errors": 0,
    "jit": 0.5,
    "jit_files": 0.4,
    "jit_compile": 0.4,
    "kernel_memory": 0.4,
    "order_kernel": 0.5,
    "order": 1,
    "metrics": 1,
    "fields": 1,
    "shards": 2,
    "transforms": 2,
    "ingest": 3,
    "loaders": 3,
    "cli": 4,
    "integrations": 4,
}
"""A file imports from lower layers and from its own room only."""

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60
BY_NAME = {
    "__init__.py",
    "jit.py",
    "jit_files.py",
    "transforms/__init__.py",
    "cli/app.py",
    "cli/bench_one.py",
    "ingest/part.py",
    "ingest/tokenize.py",
    "loaders/engines.py",
    "loaders/loader.py",
    "loaders/stored.py",
    "transforms/device_decode.py",
}
BY_NAME |= {"integrations/__init__.py", "loaders/worker_start.py", "shards/later.py", "shards/shardwriter.py", "shards/torch_views.py"}
"""Where modules are imported by name at run time, each with its reason in the file: a heavy library is paid for only when it is used."""

Def = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Import:
    """One imported module: `module` is dotted from the package's root when `internal`, "" being the root itself."""

    module: str
    internal: bool
    line: int
    lazy: bool
    typing: bool


@dataclass(frozen=True)
class Source:
    """One file of the package."""

    name: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        """Return the parsed file."""
        return ast.parse(self.text)

    @cached_property
    def lines(self) -> list[str]:
        """Return the lines."""
        return self.text.splitlines()

    @property
    def module(self) -> str:
        """Return the dotted name from the package's root, "" for the root."""
        return ".".join(Path(self.name).with_suffix("").parts).removesuffix("__init__").removesuffix(".")

    def walk(self, *kinds: type[ast.AST]) -> Iterator[ast.AST]:
        """Yield the nodes of these kinds."""
        return (node for node in ast.walk(self.tree) if isinstance(node, kinds))


def sources(root: Path) -> list[Source]:
    """Return the package's files: those at the root and those in its rooms."""
    paths = [*root.glob("*.py"), *(path for room in ROOMS for path in (root / room).rglob("*.py"))]
    return [Source(path.relative_to(root).as_posix(), path.read_text()) for path in sorted(paths)]


def may_import_torch(name: str) -> bool:
    """Tell whether a file is one of torch's leaves."""
    stem = Path(name).stem
    return (
        name in {"loaders/broadcast.py", "loaders/loader.py", "loaders/sampler.py", "shards/tar_write.py"}
        or stem == "device"
        or stem.startswith(("device_", "torch_"))
        or (name.startswith("integrations/") and stem != "__init__")
    )


def imports(source: Source, known: set[str]) -> list[Import]:
    """Return what a file imports; `known` are the package's modules."""
    found: list[Import] = []

    def visit(node: ast.AST, *, lazy: bool, typing: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found.extend(Import(alias.name, alias.name.split(".")[0] == "penstock", child.lineno, lazy, typing) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                found.extend(_from(source, child, known, lazy=lazy, typing=typing))
            else:
                only_types = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
                visit(child, lazy=lazy or isinstance(child, Def), typing=typing or only_types)

    visit(source.tree, lazy=False, typing=False)
    return found


def _from(source: Source, node: ast.ImportFrom, known: set[str], *, lazy: bool, typing: bool) -> Iterator[Import]:
    if not node.level:
        yield Import(node.module or "", (node.module or "").split(".")[0] == "penstock", node.lineno, lazy, typing)
        return
    parts = source.module.split(".") if source.module else []
    here = parts if source.name.endswith("__init__.py") else parts[:-1]
    base = [*here[: len(here) - node.level + 1], *(node.module or "").split(".")]
    for alias in node.names:
        whole = ".".join(part for part in (*base, alias.name) if part)
        yield Import(whole if whole in known else ".".join(part for part in base if part), True, node.lineno, lazy, typing)


def layer_problems(files: list[Source]) -> list[str]:
    """Find imports that point up or sideways, absolute ones, lazy ones, and torch outside its leaves."""
    known = {file.module for file in files}
    return [f"{file.name}:{i.line}: {why}" for file in files for i in imports(file, known) if (why := _layer_problem(file, i))]


def _layer_problem(file: Source, found: Import) -> str | None:
    if not found.internal:
        return _outside_problem(file, found)
    if file.name == "__init__.py":
        return None if found.typing else f"the front imports {found.module or 'itself'} when it is imported"
    if found.module.split(".")[0] == "penstock":
        return f"absolute import of {found.module}; imports inside the package are relative"
    mine, theirs = file.module.split(".")[0], found.module.split(".")[0]
    if theirs not in LAYER:
        return f"imports {found.module or 'the front of the package'}, which has no layer"
    if mine not in LAYER:
        return f"{mine} has no layer; name it in the design and in tests/house.py"
    if mine != theirs and LAYER[theirs] >= LAYER[mine]:
        return f"{mine} (layer {LAYER[mine]}) imports {theirs} (layer {LAYER[theirs]})"
    return f"lazy import of {found.module}" if found.lazy else None


def later_problems(files: list[Source]) -> list[str]:
    """Find modules that are loaded later and are not there, or that import what loads them, which would be a cycle in disguise."""
    known = {file.module for file in files}
    graph = {file.module: {i.module for i in imports(file, known) if i.internal and not i.lazy and not i.typing} for file in files}
    calls = {file.module: re.findall(r"load_later\(([^)]*)\)", file.text) for file in files if not file.name.endswith("/later.py")}
    found = []
    for file in files:
        if not file.name.endswith("/later.py"):
            continue
        table = next(node.value for node in file.tree.body if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name))
        for task, name in ast.literal_eval(table).items():
            loading = {module for module, arguments in calls.items() if any(a.strip("\"'") == task or a[0] not in "\"'" for a in arguments)}
            module = f"{file.module.rpartition('.')[0]}.{name}"
            if module not in known:
                found.append(f"{file.name}: there is no {module}")
            if back := sorted(loading & _reached(module, graph)):
                found.append(f"{file.name}: {module} imports {', '.join(back)}, which loads it")
    return found


def _reached(start: str, graph: dict[str, set[str]]) -> set[str]:
    """Return the modules that importing one imports."""
    seen: set[str] = set()
    todo = [start]
    while todo:
        fresh = graph.get(todo.pop(), set()) - seen
        seen |= fresh
        todo += fresh
    return seen


def _outside_problem(file: Source, found: Import) -> str | None:
    top = found.module.split(".")[0]
    if top in {"tests", "benchmarks"}:
        return f"imports {top}, which is imported by nobody"
    if top in {"torch", "torchvision", "webdataset"} and not may_import_torch(file.name):
        return f"imports {top} outside torch's leaves"
    return None


def cycle_problems(files: list[Source]) -> list[str]:
    """Find modules that reach themselves at import time."""
    known = {file.module for file in files}
    graph = {file.module: {i.module for i in imports(file, known) if i.internal and not i.lazy and not i.typing} - {file.module} for file in files}
    return [f"{module}: import cycle" for module in sorted(graph) if module in _reached(module, graph)]


def size_problems(files: list[Source]) -> list[str]:
    """Find files and functions over the wall."""
    long_files = [f"{file.name}: {len(file.lines)} lines, over {MAX_FILE_LINES}" for file in files if len(file.lines) > MAX_FILE_LINES]
    return long_files + [
        f"{file.name}:{node.lineno}: {node.name} has {code_lines(node)} lines of code, over {MAX_FUNCTION_LINES}"
        for file in files
        for node in file.walk(ast.FunctionDef, ast.AsyncFunctionDef)
        if isinstance(node, Def) and code_lines(node) > MAX_FUNCTION_LINES
    ]


def code_lines(node: Def) -> int:
    """Return a function's lines without its docstring."""
    doc = ast.get_docstring(node, clean=False)
    return (node.end_lineno or node.lineno) - node.lineno + 1 - (doc.count("\n") + 1 if doc else 0)


def broad(handler: ast.ExceptHandler) -> bool:
    """Tell whether an except clause catches everything."""
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(kind is None or getattr(kind, "id", "") in {"Exception", "BaseException"} for kind in kinds)


def _node_problem(file: Source, node: ast.AST) -> str | None:
    if isinstance(node, ast.Global):
        return "a global statement"
    if isinstance(node, ast.ExceptHandler) and broad(node) and not reason(file.lines[node.lineno - 1]):
        return "a broad except without its reason in a comment on its line"
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        if node.func.id == "print":
            return "print in the library"
        if node.func.id == "hasattr" and node.args and getattr(node.args[0], "id", "") == "self":
            return "hasattr(self, ...): give absence a name"
    if isinstance(node, ast.Attribute) and node.attr == "import_module" and file.name not in BY_NAME:
        return "import by name outside the files that have a reason"
    if isinstance(node, Def) and not annotated(node):
        return f"{node.name} is not annotated"
    return None


def habit_problems(files: list[Source]) -> list[str]:
    """Find prints, globals, unexplained broad excepts, functions without annotations, pickles, and waivers without a reason."""
    found = [
        f"{file.name}:{getattr(node, 'lineno', 0)}: {why}" for file in files for node in ast.walk(file.tree) if (why := _node_problem(file, node))
    ]
    for file in files:
        found += [f"{file.name}: no docstring" for _ in [0] if not ast.get_docstring(file.tree)]
        found += [f"{file.name}:{n}: noqa without its reason" for n, line in enumerate(file.lines, 1) if "# noqa" in line and not explained(line)]
    return found


def reason(line: str) -> str:
    """Return the words of a line's comment without its lint codes."""
    return re.sub(r"noqa(: [A-Z0-9, ]+)?", "", line.partition("#")[2]).strip(" -#")


def explained(line: str) -> bool:
    """Tell whether a noqa has words behind its codes."""
    return re.search(r"# noqa: [A-Z0-9, ]+ (- |\()\w+", line) is not None


def annotated(node: Def) -> bool:
    """Tell whether every argument and the result have a type."""
    arguments = [a for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs) if a.arg not in {"self", "cls"}]
    return all(a.annotation for a in arguments) and (node.returns is not None or node.name == "__init__")


def undocumented(files: list[Source]) -> list[str]:
    """Find classes, functions and methods that others can name and that have no docstring; what a function defines inside is its own affair."""
    found: list[str] = []

    def visit(file: Source, node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not (
                child.name.startswith("_") or ast.get_docstring(child)
            ):
                found.append(f"{file.name}:{child.lineno}: {child.name} has no docstring")
            if not isinstance(child, Def):
                visit(file, child)

    for file in files:
        visit(file, file.tree)
    return found


def bare_lines(toml: str, table: str, key: str) -> list[str]:
    """Return the entries of the list `key` in `[table]` that have no reason in a comment behind them; `key` is a pattern."""
    body = re.split(rf"^\[{re.escape(table)}\]\s*$", toml, flags=re.MULTILINE)[1]
    body = re.split(r"^\[", body, flags=re.MULTILINE)[0]
    entries = [line.strip() for block in re.findall(rf"^{key} = \[\n(.*?)^\]", body, re.MULTILINE | re.DOTALL) for line in block.splitlines()]
    if not entries:
        raise LookupError(f"[{table}] has no list {key}")
    return [entry for entry in entries if not re.search(r'^"[^"]+",\s*# \w+', entry)]


Rule = Callable[[list[Source]], list[str]]

RULES: tuple[Rule, ...] = (layer_problems, cycle_problems, later_problems, size_problems, habit_problems, undocumented)
"""Every rule that a source tree is held to."""


def problems(root: Path) -> list[str]:
    """Return what breaks a rule in the tree at `root`."""
    files = sources(root)
    return [problem for rule in RULES for problem in rule(files)]
