"""Compiled kernels without the price of the compiler: numba makes machine code once per machine, later processes load it in milliseconds.

A kernel is a numba function in a module of its own, named here by module, function and signatures. The first process that calls it imports
numba, compiles, and keeps the object file, and beside it a shared library where the machine has a linker (`cc`). Every later process opens the
library, or without one hands the object file to llvmlite's linker, and calls the function through ctypes, with the GIL released. That matters
because a training process and each of its workers would otherwise spend 0.5 s importing numba and waking its caches before their first batch,
and 0.1 s importing llvmlite.

An object file is found by a hash over the sources it was made from, numba's and llvmlite's versions, and the processor with its features; any
change makes a new one. It lies beside the package or, where that is not writable, in the user's cache folder: the same trust as numba's own
cache. Arguments are checked for dtype, dimensions and contiguity, because the machine code will not.

Kernels may not allocate or raise. Arguments travel as one run of bytes, since ctypes takes 0.15 us for each and an array is seven. Cost of a call: about
2 us, and 1 us for each array that is not `Held`. Refused: numba's dispatcher (start-up, see above), and extensions built at install time, which need
a compiler on the user's machine and know nothing of its vector units.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import json
import logging
import os
import re
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash

from . import jit_files

_LOG = logging.getLogger("penstock")
_FORMAT = 3
_PACKAGE = __name__.rpartition(".")[0]
_HOME = Path(__file__).parent
_WORDS = {"b": "Q", "u": "Q", "i": "q", "f": "d"}
"""How `struct` packs a number of each kind into 64 bits."""

_TOKEN = re.compile(r"(void|b1|[iu][1248]|f[48])(\[:(?:,:)*\]|\*\d+)?")
_SCALARS: dict[str, Any] = {
    "b1": ctypes.c_uint8,
    "i1": ctypes.c_int8,
    "i2": ctypes.c_int16,
    "i4": ctypes.c_int32,
    "i8": ctypes.c_int64,
    "u1": ctypes.c_uint8,
    "u2": ctypes.c_uint16,
    "u4": ctypes.c_uint32,
    "u8": ctypes.c_uint64,
    "f4": ctypes.c_float,
    "f8": ctypes.c_double,
}


_ENTRY = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_char_p, ctypes.c_void_p)
"""What machine code is called with: the arguments, 64 bits each, and where the result goes."""


class _Parameter(NamedTuple):
    """One parameter: a scalar (`i8`), a tuple of equal scalars (`i8*3`), or a C-contiguous array (`f4[:,:]`)."""

    dtype: str
    dimensions: int = 0
    length: int = 0

    @property
    def numba_name(self) -> str:
        """Its type as numba's signatures spell it."""
        name = {"b1": "boolean", "void": "void"}.get(self.dtype) or np.dtype(self.dtype).name
        if self.length:
            return f"UniTuple({name}, {self.length})"
        return f"{name}[{', '.join([':'] * (self.dimensions - 1) + ['::1'])}]" if self.dimensions else name

    @property
    def words(self) -> str:
        """How `struct` packs the machine arguments it becomes, 64 bits each: of an array owner, parent, elements, item size, address, shape, strides."""
        if self.dimensions:
            return "QQqqQ" + "qq" * self.dimensions
        return _WORDS[self.dtype[0]] * max(self.length, 1)

    def flatten(self, value: Any, into: list[Any]) -> None:
        """Append the machine arguments of a number or a tuple of numbers."""
        if self.length:
            into += map(int, value)
        else:
            into.append(float(value) if self.dtype[0] == "f" else int(value))


def _parse(token: str) -> _Parameter:
    found = _TOKEN.fullmatch(token)
    assert found is not None, f"{token!r} is not a kernel parameter"
    extra = found[2] or ""
    return _Parameter(found[1], dimensions=extra.count(":"), length=int(extra[1:]) if extra.startswith("*") else 0)


class _Variant:
    """One signature of a kernel, and its machine code once it is loaded."""

    def __init__(self, parameters: list[_Parameter], result: _Parameter) -> None:
        self.parameters = parameters
        self.result = result
        self.words = struct.Struct("".join(parameter.words for parameter in parameters))
        self.returned = _SCALARS.get(result.dtype, ctypes.c_uint64)  # numba writes something for a void function too
        self.call: Any = None

    def run(self, arguments: bytes) -> Any:
        """Call the machine code; return what it returns, which means nothing for a void function.

        Raises:
            RuntimeError: it failed, which kernels do not.
        """
        result = self.returned()
        status = self.call(arguments, ctypes.byref(result))
        if status not in {0, -2}:
            raise RuntimeError(f"a kernel ended with status {status}: kernels do not raise; please report this")
        return result.value


class Held:
    """An array that is handed to kernels again and again: checked and taken apart once."""

    def __init__(self, array: Any) -> None:
        """Take a C-contiguous array apart; it is kept alive, and must not be resized."""
        self.array = array
        self.dtype = array.dtype
        self.machine = (0, 0, array.size, array.itemsize, array.ctypes.data, *array.shape, *array.strides)
        if not array.flags.c_contiguous:
            raise TypeError(f"an array with strides {array.strides} is not C-contiguous")

    @property
    def ndim(self) -> int:
        """How many dimensions the array has."""
        return int(self.array.ndim)


class Kernel:
    """A compiled function, called by position with numbers, tuples and numpy arrays."""

    def __init__(self, module: str, name: str, *signatures: str, sources: Sequence[str] = ()) -> None:
        """Describe the kernel; nothing is compiled, loaded or imported.

        Args:
            module: the module it stands in, relative to the package, such as `"transforms.kernels"`.
            name: its name there.
            signatures: `"result(parameter parameter …)"` each; they differ in the dtypes of their arrays, which choose among them.
            sources: modules that the module takes code from; a change there makes new machine code too.
        """
        self.name = name
        self._module = module
        self._sources = (module, *sources)
        self._variants: dict[tuple[str, ...], _Variant] = {}
        self._signatures = {}
        for signature in signatures:
            result, _, inside = signature.rstrip(")").partition("(")
            parameters = [_parse(token) for token in inside.split()]
            key = tuple(p.dtype for p in parameters if p.dimensions)
            self._variants[key] = _Variant(parameters, _parse(result))
            self._signatures[key] = signature

    def __repr__(self) -> str:
        """Return where it stands."""
        return f"Kernel({self._module}.{self.name})"

    def __call__(self, *arguments: Any) -> Any:
        """Run the kernel.

        Raises:
            TypeError: an array has another dtype, other dimensions, or is not C-contiguous; or there are too many or too few arguments.
        """
        key = tuple(
            [value.dtype.str[1:] if value.dtype.isnative else value.dtype.str for value in arguments if isinstance(value, (np.ndarray, Held))]
        )
        variant = self._variants.get(key)
        if variant is None or len(arguments) != len(variant.parameters):
            raise TypeError(f"{self!r} takes {list(self._signatures.values())}, not {len(arguments)} arguments with arrays of {list(key)}")
        if variant.call is None:
            self._load(key)
        machine: list[Any] = []
        for parameter, value in zip(variant.parameters, arguments, strict=True):
            if parameter.dimensions == 0:
                parameter.flatten(value, machine)
            elif value.ndim == parameter.dimensions and isinstance(value, Held):
                machine += value.machine
            elif value.ndim == parameter.dimensions and value.flags.c_contiguous:
                machine += (0, 0, value.size, value.itemsize, value.ctypes.data, *value.shape, *value.strides)
            else:
                raise TypeError(f"{self!r}: an array of {value.ndim} dimensions that is perhaps not contiguous is no {parameter}")
        return variant.run(variant.words.pack(*machine))

    def bind(self, *first: Any) -> Bound:
        """Return the kernel with its first arguments fixed, for calls that must cost little: all others are numbers, and are not checked.

        A tuple among them is given as its numbers, one by one.

        Args:
            first: numbers, and arrays as `Held`, whose dtypes choose the signature.

        Raises:
            TypeError: an array has another dtype or other dimensions, or an argument that is left is no number.
        """
        given = tuple([value.dtype.str[1:] if value.dtype.isnative else value.dtype.str for value in first if isinstance(value, Held)])
        variant = self._variants.get(given)
        if variant is None or any(parameter.dimensions for parameter in variant.parameters[len(first) :]):
            raise TypeError(f"{self!r} takes {list(self._signatures.values())}, and not arrays of {list(given)} as its first arguments")
        fixed: list[Any] = []
        for parameter, value in zip(variant.parameters, first, strict=False):
            if isinstance(value, Held) and value.ndim == parameter.dimensions:
                fixed += value.machine
            else:
                parameter.flatten(value, fixed)

        head = struct.pack("".join(parameter.words for parameter in variant.parameters[: len(first)]), *fixed)
        rest = struct.Struct("".join(parameter.words for parameter in variant.parameters[len(first) :]))
        return Bound(variant, lambda: self._load(given), first, head, rest)

    def cold(self) -> bool:
        """Return whether a signature is still to be compiled on this machine."""
        return any(variant.call is None and jit_files.find(self._file_name(key)) is None for key, variant in self._variants.items())

    def load(self) -> int:
        """Have the machine code of every signature ready; return how many had to be compiled."""
        return sum(self._load(key) for key, variant in self._variants.items() if variant.call is None)

    def _file_name(self, key: tuple[str, ...]) -> str:
        hasher = xxhash.xxh3_128(json.dumps([_FORMAT, self._module, self.name, self._signatures[key], _machine()]).encode())
        for module in self._sources:
            hasher.update(_HOME.joinpath(*module.split(".")).with_suffix(".py").read_bytes())
        return f"{self.name}-{hasher.hexdigest()}.o"

    def _load(self, key: tuple[str, ...]) -> bool:
        """Load one signature, compiling it when no object file fits; return whether it was compiled."""
        name, variant = self._file_name(key), self._variants[key]
        data = jit_files.find(name)
        fresh = data is None
        if data is None:
            with jit_files.one_at_a_time(name):
                data = jit_files.find(name)  # another process may have made it meanwhile
                if data is None:
                    data = self._compile(variant)
                    jit_files.keep(name, data)
                    jit_files.make_library(name, data)
        variant.call = _ENTRY(jit_files.open_library(name, data) or jit_files.link(data))
        return fresh

    def _compile(self, variant: _Variant) -> bytes:
        _LOG.warning("penstock: compiling %s for this machine, once; this takes some seconds", self.name)
        compiler = importlib.import_module(".jit_compile", _PACKAGE)  # numba, here and nowhere else at run time: it takes half a second
        function = getattr(importlib.import_module(f".{self._module}", _PACKAGE), self.name).py_func
        symbol, missing, codes = compiler.machine_code(function, [parameter.numba_name for parameter in variant.parameters])
        assert not (wrong := [s for s in missing if s.startswith("NRT_") and s != "NRT_MemInfo_call_dtor"]), f"{self!r} allocates memory: {wrong}"
        return jit_files.packed(symbol, missing, codes)


class Bound:
    """A kernel whose first arguments are fixed; the others are numbers, and are not checked."""

    def __init__(self, variant: _Variant, load: Callable[[], object], first: tuple[Any, ...], head: bytes, rest: struct.Struct) -> None:
        """Made by `Kernel.bind`; the arrays in `first` are kept alive."""
        self._variant, self._load, self._alive = variant, load, first
        self._head, self._rest = head, rest

    def __call__(self, *numbers: int) -> Any:
        """Run the kernel."""
        variant = self._variant
        if variant.call is None:
            self._load()
        return variant.run(self._head + self._rest.pack(*numbers))

    def entry(self) -> int:
        """Return the address of the machine code: a function of the addresses of `arguments` and of 64 bits for the result, which returns an int32."""
        if self._variant.call is None:
            self._load()
        return ctypes.cast(self._variant.call, ctypes.c_void_p).value or 0

    def arguments(self, *numbers: int) -> bytes:
        """Return what the machine code is called with."""
        return self._head + self._rest.pack(*numbers)


@functools.cache
def _machine() -> list[str]:
    """Return what machine code depends on beside its source."""
    found = [importlib.util.find_spec(name) for name in ("numba", "llvmlite")]
    versions = [
        Path(spec.origin).with_name("_version.py").read_text(encoding="utf-8") for spec in found if spec is not None and spec.origin is not None
    ]
    first = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n", 1)[0].splitlines()
    lasting = ("vendor_id", "cpu family", "model", "model name", "flags", "Features", "CPU")
    return [*versions, os.uname().machine, *(line for line in first if line.startswith(lasting))]
