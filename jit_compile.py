"""Machine code of a kernel, by numba. Imported only to compile.

Beside the function there is an entry that takes all arguments from memory, 64 bits each. numba passes an array of one dimension as seven arguments
and one of three as eleven, and ctypes takes a sixth of a microsecond for each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numba
from llvmlite import binding as llvm
from llvmlite import ir

_WORD = ir.IntType(64)


def machine_code(function: Callable[..., Any], parameters: Sequence[str]) -> tuple[str, list[str], list[bytes]]:
    """Return the entry's symbol, the symbols that the code needs from elsewhere, and two object files: the function, and its entry.

    One file of both would have numba optimise the function twice, which is a third more to wait for.

    Args:
        function: a kernel's Python function.
        parameters: their types, as numba's signatures spell them.
    """
    scope = {**vars(numba.types), "boolean": numba.types.boolean}
    signature = tuple(eval(name, scope) for name in parameters)  # noqa: S307  (our own table of types)
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True, "_nrt": False}
    made = numba.njit(**options)(function)
    made.compile(signature)
    compiled = made.overloads[signature]
    _, _, (code, _) = compiled.library.serialize_using_object_code()
    missing = sorted({f.name for f in compiled.library._final_module.functions if f.is_declaration})  # noqa: SLF001  (numba has no public way)
    kind = compiled.target_context.call_conv.get_function_type(compiled.fndesc.restype, compiled.fndesc.argtypes)
    entry = _entry(kind, compiled.fndesc.llvm_func_name)
    target = llvm.Target.from_default_triple().create_target_machine(reloc="pic")
    return f"entry.{compiled.fndesc.llvm_func_name}", missing, [bytes(code), target.emit_object(llvm.parse_assembly(str(entry)))]


def _entry(kind: Any, symbol: str) -> Any:
    """Return a module with the entry of a function, which is called `entry.` and its symbol."""
    module = ir.Module(f"entry of {symbol}")
    module.triple = llvm.get_default_triple()
    function = ir.Function(module, kind, symbol)
    entry = ir.Function(module, ir.FunctionType(ir.IntType(32), [_WORD.as_pointer(), _WORD.as_pointer()]), f"entry.{symbol}")
    builder = ir.IRBuilder(entry.append_basic_block())
    given, result = entry.args
    arguments = [_narrowed(builder, builder.load(builder.gep(given, [_WORD(i)])), wanted) for i, wanted in enumerate(kind.args[2:])]
    returned, error = (builder.alloca(pointer.pointee) for pointer in kind.args[:2])
    status = builder.call(function, [returned, error, *arguments])
    place = builder.bitcast(result, kind.args[0])
    builder.store(builder.load(returned), place)
    builder.ret(status)
    return module


def _narrowed(builder: Any, word: Any, wanted: Any) -> Any:
    """Return 64 bits as an argument of another type; a float of 32 bits comes as one of 64."""
    if isinstance(wanted, ir.PointerType):
        return builder.inttoptr(word, wanted)
    if isinstance(wanted, ir.IntType):
        return builder.trunc(word, wanted) if wanted.width < 64 else word
    double = builder.bitcast(word, ir.DoubleType())
    return double if isinstance(wanted, ir.DoubleType) else builder.fptrunc(double, wanted)
