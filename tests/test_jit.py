"""Kernels: compiled once per machine, then opened without the compiler; damage and missing linkers are survived; arguments are checked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from penstock import jit, order

PROGRAM = """
import sys
import numpy as np
from penstock import order
print(order._permute_small.cold(), order.permute(np.arange(5), 5, 1).tolist(), order._permute_small.load(), "numba" in sys.modules, "llvmlite" in sys.modules)
"""


def fresh(folder: Path, program: str = PROGRAM, **environment: str) -> tuple[str, str]:
    """Run a program with a kernel cache of its own; return what it printed."""
    env = {**os.environ, "PENSTOCK_KERNEL_CACHE": str(folder), **environment}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=env)
    return done.stdout.strip(), done.stderr


EXPECTED = [order.permute_reference(p, 5, 1) for p in range(5)]


def test_the_first_process_compiles_and_says_so_and_the_next_needs_no_compiler(tmp_path: Path) -> None:
    """A cold machine compiles with a message; the next process opens a library without numba and without llvmlite."""
    out, err = fresh(tmp_path)
    assert out == f"True {EXPECTED} 0 True True"
    assert "compiling permute_small for this machine, once" in err
    out, err = fresh(tmp_path)
    assert (out, err) == (f"False {EXPECTED} 0 False False", "")


def test_a_machine_without_a_linker_uses_the_object_file(tmp_path: Path) -> None:
    """Without cc on PATH no library is made, and the object file is linked in memory, still without numba."""
    fresh(tmp_path, PATH="/nowhere")
    assert not list(tmp_path.glob("*.so"))
    assert fresh(tmp_path, PATH="/nowhere")[0] == f"False {EXPECTED} 0 False True"


@pytest.mark.parametrize("damage", ["library cut", "object cut", "object emptied", "foreign object"])
def test_damaged_files_are_made_anew_or_passed_over(tmp_path: Path, damage: str) -> None:
    """A cut or foreign file in the cache never runs: its checksum fails, and the result stays right."""
    fresh(tmp_path)
    (library,), (made,) = list(tmp_path.glob("*.so")), list(tmp_path.glob("*.o"))
    if damage == "library cut":
        library.write_bytes(library.read_bytes()[:-100])
    elif damage == "object cut":
        made.write_bytes(made.read_bytes()[:-100])
    else:
        made.write_bytes(b"" if damage == "object emptied" else b"not a kernel\n{}\n")
    assert str(EXPECTED) in fresh(tmp_path)[0]


def test_a_folder_that_cannot_be_written_to_is_no_obstacle(tmp_path: Path) -> None:
    """Where nothing can be kept, the process compiles for itself."""
    (tmp_path / "file").write_text("")
    assert str(EXPECTED) in fresh(tmp_path / "file")[0]


def test_many_processes_compile_once(tmp_path: Path) -> None:
    """Processes that start together on a cold machine wait for one compilation."""
    env = {**os.environ, "PENSTOCK_KERNEL_CACHE": str(tmp_path)}
    started = [
        subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) for _ in range(3)
    ]
    told = [process.communicate() for process in started]
    assert all(str(EXPECTED) in out for out, _ in told)
    assert sum("compiling" in err for _, err in told) == 1
    assert not list(tmp_path.glob("*.lock"))


def test_a_process_that_reads_and_trains_never_imports_numba(tmp_path: Path) -> None:
    """Order, gather and the fused image pass all come from opened libraries."""
    program = """
import sys
import numpy as np
from penstock.transforms.random import Random
from penstock.transforms.resample import resampled
from penstock.transforms.geometry import View
from penstock.loaders import gather
from penstock import order
Random(1, 2).uniform(); resampled(np.zeros((9, 9, 3), np.uint8), View.whole(9, 9)); gather._gather.load(); order.permute(np.arange(3), 3, 1)
print(*(name for name in ("numba", "llvmlite", "scipy") if name in sys.modules))
"""
    fresh(tmp_path, program)
    assert fresh(tmp_path, program)[0] == ""


def test_arguments_are_checked() -> None:
    """A wrong dtype, number of arguments, dimension or stride is a TypeError, never a crash."""
    words, place = np.zeros(4, np.uint64), np.zeros(4, np.int64).ctypes.data
    rest = (words, words, 4, 2, 2, place, 4)
    for wrong in (
        (words.astype(np.int64), *rest),
        (words, *rest[:-1]),
        (words.astype(">u8"), *rest),
        (words.reshape(2, 2), *rest),
        (np.zeros(8, np.uint64)[::2], *rest),
    ):
        with pytest.raises(TypeError, match=r"order_kernel\.permute"):
            order._permute(*wrong)


def test_held_arrays_and_bound_arguments_are_taken_apart_once() -> None:
    """A held array, and arguments that are bound, give the same result as given anew, and an array that is not contiguous cannot be held."""
    keys = np.array(order.round_keys(10, 1), np.uint64)
    scratch = [np.empty(16, np.uint64) for _ in range(2)]
    found = [np.arange(10, dtype=np.int64) for _ in range(3)]
    order._permute(keys, *scratch, 10, 4, 3, found[0].ctypes.data, 10)
    order._permute(jit.Held(keys), *scratch, 10, 4, 3, found[1].ctypes.data, 10)
    bound = order._permute.bind(jit.Held(keys), *map(jit.Held, scratch), 10, 4, 3)
    bound(found[2].ctypes.data, 10)
    assert found[0].tolist() == found[1].tolist() == found[2].tolist() == [order.permute_reference(p, 10, 1) for p in range(10)]
    with pytest.raises(TypeError, match="not C-contiguous"):
        jit.Held(np.zeros((4, 4))[:, 1])


def test_what_is_bound_is_checked() -> None:
    """Arrays of another dtype, and a rest that is more than numbers, cannot be bound."""
    words = jit.Held(np.zeros(4, np.uint64))
    other = jit.Held(np.zeros(4, ">u8"))
    for wrong in ((words, words), (jit.Held(np.zeros(4, np.int64)), words, words), (other, words, words)):
        with pytest.raises(TypeError, match=r"order_kernel\.permute"):
            order._permute.bind(*wrong)


def test_sources_decide_the_name_of_the_machine_code() -> None:
    """The file name depends on signature and sources, so that an edited kernel is compiled anew."""
    one = jit.Kernel("order_kernel", "permute", "void(u8[:])")
    two = jit.Kernel("order_kernel", "permute", "void(i8[:])")
    three = jit.Kernel("order_kernel", "permute", "void(u8[:])", sources=("order",))
    names = {kernel._file_name(key) for kernel, key in ((one, ("u8",)), (two, ("i8",)), (three, ("u8",)))}
    assert len(names) == 3
