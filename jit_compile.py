"""Machine code of a kernel, by numba. Imported only to compile.

Beside the function there is an entry that takes all arguments from memory, 64 bits each. numba passes an array of one dimension as seven arguments
and one of three as eleven, and ctypes takes a sixth of a microsecond for each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numba
from llvmlite import ir
from numba.core.compiler_lock import global_compiler_lock

_WORD = ir.IntType(64)


def machine_code(function: Callable[..., Any], parameters: Sequence[str]) -> tuple[str, list[str], bytes]:
    """Return the entry's symbol, the symbols that the code needs from elsewhere, and an object file.

    Args:
        function: a kernel's Python function.
        parameters: their types, as numba's signatures spell them.
    """
    scope = {**vars(numba.types), "boolean": numba.types.boolean}
    signature = tuple(eval(name, scope) for name in parameters)  # noqa: S307  (our own table of types)
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True, "_nrt": False}
    made = numba.njit(**options)(function)
    made.compile(signature)
    with global_compiler_lock:
        return _with_entry(made.overloads[signature], function.__name__)


def _with_entry(compiled: Any, name: str) -> tuple[str, list[str], bytes]:
    """Return the entry's symbol, foreign symbols and object file of a compiled function."""
    library = compiled.target_context.codegen().create_library(f"{name}.entry")
    library.enable_object_caching()
    module = library.create_ir_module(library.name)
    symbol = _entry(module, compiled.target_context.call_conv.get_function_type(compiled.fndesc.restype, compiled.fndesc.argtypes), compiled)
    library.add_ir_module(module)
    library.add_linking_library(compiled.library)
    library.finalize()
    _, _, (code, _) = library.serialize_using_object_code()
    missing = sorted({f.name for f in library._final_module.functions if f.is_declaration})  # noqa: SLF001  (numba has no public way)
    return symbol, missing, bytes(code)


def _entry(module: Any, kind: Any, compiled: Any) -> str:
    """Add the entry to a module; return its symbol."""
    name = f"entry.{compiled.fndesc.llvm_func_name}"
    function = ir.Function(module, kind, compiled.fndesc.llvm_func_name)
    entry = ir.Function(module, ir.FunctionType(ir.IntType(32), [_WORD.as_pointer(), _WORD.as_pointer()]), name)
    builder = ir.IRBuilder(entry.append_basic_block())
    given, result = entry.args
    arguments = [_narrowed(builder, builder.load(builder.gep(given, [_WORD(i)])), wanted) for i, wanted in enumerate(kind.args[2:])]
    returned, error = (builder.alloca(pointer.pointee) for pointer in kind.args[:2])
    status = builder.call(function, [returned, error, *arguments])
    place = builder.bitcast(result, kind.args[0])
    builder.store(builder.load(returned), place)
    builder.ret(status)
    return name


def _narrowed(builder: Any, word: Any, wanted: Any) -> Any:
    """Return 64 bits as an argument of another type; a float of 32 bits comes as one of 64."""
    if isinstance(wanted, ir.PointerType):
        return builder.inttoptr(word, wanted)
    if isinstance(wanted, ir.IntType):
        return builder.trunc(word, wanted) if wanted.width < 64 else word
    double = builder.bitcast(word, ir.DoubleType())
    return double if isinstance(wanted, ir.DoubleType) else builder.fptrunc(double, wanted)
