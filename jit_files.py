"""Machine code of kernels on disk: object files, the shared libraries that are made of them, and how either becomes a function in this process.

A file is found by its name, which says all that the code depends on, and carries a checksum; it appears whole or not at all. It lies beside the package
or, where that is not writable, in the user's cache folder. Never trusted: a file whose checksum is wrong, which is made anew.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import importlib
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import xxhash

_HOME = Path(__file__).parent
_MAGIC = b"penstock-kernel\n"
_LINK_S = 30.0
"""Seconds a linker may take."""

_COMPILE_S = 60.0
"""Seconds to wait for another process that compiles the same kernel; then this one compiles for itself."""

_RUNTIME = ("NRT_", "numba_")
"""Beginnings of the names of numba's runtime, which frees and raises; kernels do neither."""


def packed(symbol: str, missing: Sequence[str], codes: Sequence[bytes]) -> bytes:
    """Return a file of object files: what is called in them, what they need from elsewhere, and their bytes."""
    code = b"".join(codes)
    head = json.dumps({"symbol": symbol, "missing": missing, "sizes": [len(one) for one in codes], "xxh3": xxhash.xxh3_64_hexdigest(code)})
    return _MAGIC + head.encode() + b"\n" + code


@functools.cache
def _folders() -> tuple[Path, ...]:
    """Return where object files may lie: beside the package, then in the user's cache."""
    if chosen := os.environ.get("PENSTOCK_KERNEL_CACHE"):
        return (Path(chosen),)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return (_HOME / "__pycache__" / "kernels", cache / "penstock" / "kernels")


def find(name: str) -> bytes | None:
    """Return the file of a name, or None when there is none that is whole."""
    for folder in _folders():
        try:
            data = (folder / name).read_bytes()
        except OSError:
            continue
        with contextlib.suppress(ValueError, KeyError):  # a damaged file is made anew
            told, code = _parts(data)
            if data.startswith(_MAGIC) and told["xxh3"] == xxhash.xxh3_64_hexdigest(code):
                return data
    return None


def keep(name: str, data: bytes) -> None:
    """Store a file whole or not at all; where no folder can be written to, every process compiles for itself."""
    for folder in _folders():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor, made = tempfile.mkstemp(dir=folder)
        except OSError:
            continue
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            Path(made).replace(folder / name)
        except OSError:
            Path(made).unlink(missing_ok=True)  # a full disk keeps nothing of it
            continue
        return


def make_library(name: str, data: bytes) -> None:
    """Link the object file into a shared library, and keep that with its checksum in front of its name; without a linker, do nothing."""
    linker = shutil.which("cc") or shutil.which("gcc")
    if linker is None:
        return
    told, code = _parts(data)
    stubs = "".join(f"void {symbol}(void) {{ __builtin_trap(); }}\n" for symbol in told["missing"] if symbol.startswith(_RUNTIME))
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "stubs.c"), Path(folder, "kernel.so")
        made = [Path(folder, f"{number}.o") for number in range(len(told["sizes"]))]
        for path, one in zip(made, _objects(told, code), strict=True):
            path.write_bytes(one)
        source.write_text(stubs or "typedef int nothing;\n", encoding="ascii")
        command = [linker, "-shared", "-w", "-o", str(library), *map(str, made), str(source)]
        with contextlib.suppress(subprocess.SubprocessError, OSError):  # without a library the object file is linked in memory
            subprocess.run(command, capture_output=True, check=True, timeout=_LINK_S)  # noqa: S603  (cc on PATH)
            linked = library.read_bytes()
            keep(f"{name}.{xxhash.xxh3_64_hexdigest(linked)}.so", linked)


def open_library(name: str, data: bytes) -> int | None:
    """Return the address of the function in a shared library made from the object file, or None when there is none that fits."""
    for folder in _folders():
        for path in folder.glob(f"{name}.*.so"):
            with contextlib.suppress(OSError, AttributeError):  # it cannot be read or opened here: the object file still can
                if path.name.split(".")[-2] == xxhash.xxh3_64_hexdigest(path.read_bytes()):
                    return ctypes.cast(getattr(ctypes.CDLL(str(path)), _parts(data)[0]["symbol"]), ctypes.c_void_p).value
    return None


def _parts(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Return what is told about object files, and the files, one behind the other."""
    head, _, code = data.removeprefix(_MAGIC).partition(b"\n")
    return json.loads(head), code


def _objects(told: dict[str, Any], code: bytes) -> list[bytes]:
    """Return the object files one by one."""
    ends = list(itertools.accumulate(told["sizes"]))
    return [code[end - size : end] for end, size in zip(ends, told["sizes"], strict=True)]


@contextlib.contextmanager
def one_at_a_time(name: str) -> Iterator[None]:
    """Let one process compile a kernel while the others wait for it, as long as that may take; the lock ends with its holder."""
    path = next((folder / f"{name}.lock" for folder in _folders() if _made(folder)), None)
    descriptor = None if path is None else _locked(path, time.monotonic() + _COMPILE_S)
    try:
        yield
    finally:
        if path is not None and descriptor is not None:
            with contextlib.suppress(OSError):
                path.unlink()
            os.close(descriptor)


def _made(folder: Path) -> bool:
    """Return whether a folder is there to write to."""
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        return os.access(folder, os.W_OK)
    return False


def _locked(path: Path, deadline: float) -> int | None:
    """Return the descriptor of a file that is locked, and still the one of that name: its last holder removed it; or None at the deadline."""
    while time.monotonic() < deadline:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError:
            return None
        with contextlib.suppress(OSError):  # somebody else has it, or removed it just now
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        os.close(descriptor)
        time.sleep(0.05)  # a lock of a file cannot be waited for with an end
    return None


@functools.cache
def _linker() -> Any:
    """Return llvmlite's linker of this process; what it has linked stays for the life of the process."""
    llvm = importlib.import_module("llvmlite.binding")
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple().create_target_machine()
    return llvm, llvm.create_mcjit_compiler(llvm.parse_assembly(""), target)


def link(data: bytes) -> int:
    """Return the address of the function in an object file."""
    told, code = _parts(data)
    llvm, linker = _linker()
    for symbol in told["missing"]:
        if symbol.startswith(_RUNTIME) and not llvm.address_of_symbol(symbol):
            llvm.add_symbol(symbol, llvm.address_of_symbol("abort"))  # numba's runtime, for freeing and raising, which kernels do not
    for one in _objects(told, code):
        linker.add_object_file(llvm.ObjectFileRef.from_data(one))
    linker.finalize_object()
    return int(linker.get_function_address(told["symbol"]))
