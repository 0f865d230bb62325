"""Short vectors for numba: a few numbers that are loaded, multiplied, added and stored together.

LLVM turns them into the widest registers that the processor has, and into several where it has
none so wide; nothing here depends on the processor. Loop vectorisation alone would keep the sums
in memory, because it cannot know that input and output do not overlap.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

Code = tuple[Any, Any]
_generated: Any = intrinsic(prefer_literal=True)
"""Marks what compiled code may call: a signature, and the function that writes its LLVM code."""


class Vector(types.Type):
    """The numba type of ``lanes`` numbers."""

    def __init__(self, scalar: Any, lanes: int) -> None:
        self.scalar, self.lanes = scalar, lanes
        super().__init__(name=f"Vector({scalar}, {lanes})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector) -> None:
        scalar = manager.lookup(kind.scalar).get_value_type()
        vector = ir.VectorType(scalar, kind.lanes)
        super().__init__(manager, kind, vector)  # type: ignore[no-untyped-call]  # numba's


def _pointer(context: Any, builder: Any, kind: Any, array: Any, index: Any, lanes: int) -> Any:
    data = context.make_array(kind)(context, builder, array).data
    vector = ir.VectorType(context.get_value_type(kind.dtype), lanes)
    return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())


def _is_flat(array: Any) -> bool:
    return isinstance(array, types.Array) and array.ndim == 1 and array.layout == "C"


@_generated
def load(typing: Any, array: Any, index: Any, lanes: Any) -> Code | None:
    """Load ``lanes`` numbers of a flat, contiguous array from an index on."""
    if not _is_flat(array):
        return None

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = signature.args[0]
        pointer = _pointer(context, builder, kind, args[0], args[1], lanes.literal_value)
        value = builder.load(pointer)
        value.align = kind.dtype.bitwidth // 8
        return value

    return Vector(array.dtype, lanes.literal_value)(array, types.intp, lanes), code


@_generated
def store(typing: Any, array: Any, index: Any, value: Any) -> Code | None:
    """Store a vector into a flat, contiguous array from an index on."""
    if not _is_flat(array) or not isinstance(value, Vector):
        return None

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = signature.args[0]
        pointer = _pointer(context, builder, kind, args[0], args[1], value.lanes)
        builder.store(args[2], pointer).align = kind.dtype.bitwidth // 8
        return context.get_dummy_value()

    return types.void(array, types.intp, value), code


@_generated
def fill(typing: Any, number: Any, lanes: Any) -> Code:
    """Return a vector whose lanes all hold one number."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = ir.VectorType(args[0].type, lanes.literal_value)
        first = ir.Constant(ir.IntType(32), 0)
        start = builder.insert_element(ir.Constant(vector, ir.Undefined), args[0], first)
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), lanes.literal_value), None)
        return builder.shuffle_vector(start, ir.Constant(vector, ir.Undefined), zeros)

    number = types.unliteral(number)
    return Vector(number, lanes.literal_value)(number, lanes), code


@_generated
def multiply_add(typing: Any, a: Any, b: Any, c: Any) -> Code:
    """Return ``a * b + c``, rounded once."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = args[0].type
        name = f"llvm.fma.v{vector.count}f{a.scalar.bitwidth}"
        kind = ir.FunctionType(vector, [vector] * 3)
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)

    return a(a, b, c), code
