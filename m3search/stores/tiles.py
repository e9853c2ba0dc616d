"""The innermost loop of MaxSim in float32: products of query vectors with a few vectors at once,
and their maxima, as vector instructions.

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

get_function: Any = cgutils.get_or_insert_function
unpack: Any = cgutils.unpack_tuple
FLOAT, INDEX, NUMBER = ir.FloatType(), ir.IntType(64), ir.IntType(32)
_LINE = ir.VectorType(FLOAT, LANES)


@intrinsic
def _half_at(context, content, place):  # type: ignore[no-untyped-def]
    """The float16 at bytes 2 * place and on of content (bytes,) uint8, as float32; exactly."""

    def write(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        held = context.make_array(signature.args[0])(context, builder, arguments[0])
        start = builder.mul(arguments[1], INDEX(2))
        bits = builder.bitcast(builder.gep(held.data, [start]), ir.IntType(16).as_pointer())
        half = builder.bitcast(builder.load(bits, align=1), ir.HalfType())
        return builder.fpext(half, FLOAT)

    return types.float32(content, types.int64), write


def _tile(groups: int) -> Any:
    @intrinsic
    def raise_tile(context, best, lanes, values, first):  # type: ignore[no-untyped-def]
        def write(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            made = [
                array if kind == types.int64 else context.make_array(kind)(context, builder, array)
                for kind, array in zip(signature.args, arguments, strict=True)
            ]
            _write_tile(builder, groups, *made)

        return types.void(best, lanes, values, types.int64), write

    return raise_tile


def _write_tile(
    builder: ir.IRBuilder, groups: int, best: Any, lanes: Any, values: Any, first: Any
) -> None:
    """Best (groups, LANES) becomes the maximum of itself and of products.

    These are of the query vectors side by side, lanes (groups, dim, LANES), with the TILE vectors
    from `first` on of values (vectors, dim).
    """
    _, dim = unpack(builder, values.shape)
    entry = builder.block
    loop, done = (builder.append_basic_block(name) for name in ("dimension", "done"))
    multiply_add = get_function(
        builder.module, ir.FunctionType(_LINE, [_LINE] * 3), f"llvm.fmuladd.v{LANES}f32"
    )
    starts = [builder.mul(builder.add(first, INDEX(number)), dim) for number in range(TILE)]
    builder.branch(loop)
    builder.position_at_end(loop)
    place = builder.phi(INDEX)
    sums = [[builder.phi(_LINE) for _ in range(groups)] for _ in range(TILE)]
    queries = []
    for group in range(groups):
        line = builder.add(builder.mul(INDEX(group), dim), place)
        queries.append(builder.load(line_at(builder, lanes.data, line, FLOAT), align=4))
    added = []
    for start, parts in zip(starts, sums, strict=True):
        value = builder.load(builder.gep(values.data, [builder.add(start, place)]))
        spread = spread_out(builder, value)
        pairs = zip(queries, parts, strict=True)
        added.append([builder.call(multiply_add, [query, spread, sum_]) for query, sum_ in pairs])
    following = builder.add(place, INDEX(1))
    place.add_incoming(INDEX(0), entry)
    place.add_incoming(following, loop)
    for parts, new in zip(sums, added, strict=True):
        for sum_, then in zip(parts, new, strict=True):
            sum_.add_incoming(ir.Constant(_LINE, [0.0] * LANES), entry)
            sum_.add_incoming(then, loop)
    builder.cbranch(builder.icmp_signed("<", following, dim), loop, done)
    builder.position_at_end(done)
    for group in range(groups):
        raise_line(builder, best, group, [parts[group] for parts in added])


def raise_line(builder: ir.IRBuilder, best: Any, group: int, products: Sequence[Any]) -> None:
    """Line `group` of best (groups, LANES) float32 becomes the maximum of itself and products."""
    target = line_at(builder, best.data, INDEX(group), FLOAT)
    highest = builder.load(target, align=4)
    for product in products:
        higher = builder.fcmp_ordered(">", product, highest)
        highest = builder.select(higher, product, highest)
    builder.store(highest, target, align=4)


def line_at(builder: ir.IRBuilder, data: Any, line: Any, kind: Any) -> Any:
    """Where line number `line`, of LANES numbers of 4 bytes, begins in what `data` points to."""
    lines = builder.bitcast(data, ir.VectorType(kind, LANES).as_pointer())
    return builder.gep(lines, [line])


def spread_out(builder: ir.IRBuilder, number: Any) -> Any:
    """The number in every lane."""
    nothing = ir.Constant(ir.VectorType(number.type, LANES), ir.Undefined)
    first = builder.insert_element(nothing, number, NUMBER(0))
    everywhere = ir.Constant(ir.VectorType(NUMBER, LANES), [0] * LANES)
    return builder.shuffle_vector(first, nothing, everywhere)


half_at: Any = _half_at
raise_one, raise_two = _tile(1), _tile(2)
"""for one group and for two"""
