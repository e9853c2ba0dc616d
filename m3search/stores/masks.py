"""Comparisons of many numbers at once, as vector instructions, and the numbers of their bits."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from m3search.stores.tiles import INDEX, get_function

BITS = 64
"""numbers that are compared at once: a bit of the answer each"""
_DOUBLE = ir.DoubleType()


@intrinsic
def _reaching_mask(context, values, first, least):  # type: ignore[no-untyped-def]
    """Which of values [first, first + BITS) float64 are `least` or more, the first the lowest bit.

    They must all be there. What is no number is not among them.
    """

    def write(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        line = ir.VectorType(_DOUBLE, BITS)
        held = context.make_array(signature.args[0])(context, builder, arguments[0])
        start = builder.bitcast(builder.gep(held.data, [arguments[1]]), line.as_pointer())
        nothing = ir.Constant(line, ir.Undefined)
        bound = builder.insert_element(nothing, arguments[2], ir.IntType(32)(0))
        everywhere = ir.Constant(ir.VectorType(ir.IntType(32), BITS), [0] * BITS)
        bounds = builder.shuffle_vector(bound, nothing, everywhere)
        reached = builder.fcmp_ordered(">=", builder.load(start, align=8), bounds)
        return builder.bitcast(reached, ir.IntType(BITS))

    return types.uint64(values, types.int64, types.float64), write


@intrinsic
def _lowest_bit(context, mask):  # type: ignore[no-untyped-def]
    """The number of the lowest bit that is set; one must be."""

    def write(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        kind = ir.FunctionType(INDEX, [INDEX, ir.IntType(1)])
        count = get_function(builder.module, kind, "llvm.cttz.i64")
        return builder.call(count, [arguments[0], ir.IntType(1)(1)])

    return types.int64(types.uint64), write


reaching_mask: Any = _reaching_mask
lowest_bit: Any = _lowest_bit
