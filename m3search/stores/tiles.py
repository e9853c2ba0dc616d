"""The innermost loop of MaxSim: products of query vectors with a few vectors at once, and their
maxima, as vector instructions.

Query vectors lie side by side, one in each lane, so that no sum runs across lanes: a loop over the
dimensions multiplies the lanes of one or two groups with one number of each vector of a tile. The
sums of a tile stay in registers. LLVM fits the lanes to the instructions that a processor has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

LANES = 16
"""query vectors of a group: 64 bytes, the widest registers there are"""
TILE = 8
"""vectors at once: with two groups 16 sums, which the registers of AVX-512 hold"""

_get_function: Any = cgutils.get_or_insert_function
_unpack: Any = cgutils.unpack_tuple
_FLOAT, _INDEX, _NUMBER = ir.FloatType(), ir.IntType(64), ir.IntType(32)
_LINE = ir.VectorType(_FLOAT, LANES)


@intrinsic
def _half_at(context, content, place):  # type: ignore[no-untyped-def]
    """The float16 at bytes 2 * place and on of content (bytes,) uint8, as float32; exactly."""

    def write(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        held = context.make_array(signature.args[0])(context, builder, arguments[0])
        start = builder.mul(arguments[1], _INDEX(2))
        bits = builder.bitcast(builder.gep(held.data, [start]), ir.IntType(16).as_pointer())
        half = builder.bitcast(builder.load(bits, align=1), ir.HalfType())
        return builder.fpext(half, _FLOAT)

    return types.float32(content, types.int64), write


def _tile(groups: int) -> Any:
    @intrinsic
    def raise_tile(context, best, lanes, values, first, scales):  # type: ignore[no-untyped-def]
        def write(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            made = [
                array if kind == types.int64 else context.make_array(kind)(context, builder, array)
                for kind, array in zip(signature.args, arguments, strict=True)
            ]
            _write_tile(builder, groups, *made)

        return types.void(best, lanes, values, types.int64, scales), write

    return raise_tile


def _write_tile(
    builder: ir.IRBuilder, groups: int, best: Any, lanes: Any, values: Any, first: Any, scales: Any
) -> None:
    """Best (groups, LANES) becomes the maximum of itself and of scaled products.

    These are of the query vectors side by side, lanes (groups, dim, LANES), with the TILE vectors
    from `first` on of values (planes, vectors, part) and scales (TILE,): dimension d of a vector is
    d % part of plane d // part.
    """
    planes, vectors, part = _unpack(builder, values.shape)
    plane_size = builder.mul(vectors, part)
    dim = builder.mul(planes, part)
    entry = builder.block
    loop, done = (builder.append_basic_block(name) for name in ("dimension", "done"))
    multiply_add = _get_function(
        builder.module, ir.FunctionType(_LINE, [_LINE] * 3), f"llvm.fmuladd.v{LANES}f32"
    )
    start = builder.mul(first, part)
    builder.branch(loop)
    builder.position_at_end(loop)
    place, within, base = (builder.phi(_INDEX) for _ in range(3))
    sums = [[builder.phi(_LINE) for _ in range(groups)] for _ in range(TILE)]
    queries = []
    for group in range(groups):
        line = builder.add(builder.mul(_INDEX(group), dim), place)
        queries.append(builder.load(_line_at(builder, lanes.data, line), align=4))
    added = []
    for number, parts in enumerate(sums):
        value = builder.add(builder.add(builder.mul(_INDEX(number), part), base), within)
        spread = _spread(builder, builder.load(builder.gep(values.data, [value])))
        pairs = zip(queries, parts, strict=True)
        added.append([builder.call(multiply_add, [query, spread, sum_]) for query, sum_ in pairs])
    following, next_within = (builder.add(each, _INDEX(1)) for each in (place, within))
    ends = builder.icmp_signed("==", next_within, part)
    for phi, begin, then in (
        (place, _INDEX(0), following),
        (within, _INDEX(0), builder.select(ends, _INDEX(0), next_within)),
        (base, start, builder.select(ends, builder.add(base, plane_size), base)),
    ):
        phi.add_incoming(begin, entry)
        phi.add_incoming(then, loop)
    for parts, new in zip(sums, added, strict=True):
        for sum_, then in zip(parts, new, strict=True):
            sum_.add_incoming(ir.Constant(_LINE, [0.0] * LANES), entry)
            sum_.add_incoming(then, loop)
    builder.cbranch(builder.icmp_signed("<", following, dim), loop, done)
    builder.position_at_end(done)
    _raise(builder, best, added, scales)


def _raise(builder: ir.IRBuilder, best: Any, sums: Sequence[Sequence[Any]], scales: Any) -> None:
    """Best (groups, LANES) becomes the maximum of itself and of the sums times their scales."""
    factors = [builder.load(builder.gep(scales.data, [_INDEX(number)])) for number in range(TILE)]
    for group in range(len(sums[0])):
        target = _line_at(builder, best.data, _INDEX(group))
        highest = builder.load(target, align=4)
        for parts, factor in zip(sums, factors, strict=True):
            product = builder.fmul(parts[group], _spread(builder, factor))
            higher = builder.fcmp_ordered(">", product, highest)
            highest = builder.select(higher, product, highest)
        builder.store(highest, target, align=4)


def _line_at(builder: ir.IRBuilder, array: Any, line: Any) -> Any:
    """Where line number `line`, of LANES floats, of an array begins."""
    return builder.bitcast(
        builder.gep(array, [builder.mul(line, _INDEX(LANES))]), _LINE.as_pointer()
    )


def _spread(builder: ir.IRBuilder, number: Any) -> Any:
    """The number in every lane."""
    nothing = ir.Constant(_LINE, ir.Undefined)
    first = builder.insert_element(nothing, number, _NUMBER(0))
    everywhere = ir.Constant(ir.VectorType(_NUMBER, LANES), [0] * LANES)
    return builder.shuffle_vector(first, nothing, everywhere)


half_at: Any = _half_at
raise_one, raise_two = _tile(1), _tile(2)
"""for one group and for two"""
