"""The innermost loop of MaxSim in whole numbers: levels of 8 bits or fewer are multiplied as they
are, four dimensions of a lane at a time.

Query vectors lie side by side as in `tiles`, each a scale and whole numbers of 16 bits, in two
planes of 8: high * 256 + low. Sums of products with levels from 0 to 255 are exact in 32 bits, so
that every processor finds the same ones: with VNNI by one instruction for four dimensions and 16
lanes, without by products of 16 bits, of which a line takes two to eight with their sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba.core import config, types
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic

from m3search.stores.tiles import (
    FLOAT,
    INDEX,
    LANES,
    NUMBER,
    TILE,
    get_function,
    line_at,
    raise_line,
    spread_out,
    unpack,
)

CHUNK = 16
"""bytes that are unpacked at once"""
PLANES = 2
"""of a query: the high bytes and the low ones"""
TOGETHER = 4
"""dimensions of a lane: its 32 bits"""
_LINE = ir.VectorType(NUMBER, LANES)
_HALF = ir.IntType(16)
_HALVES = ir.VectorType(_HALF, 2 * LANES)


@intrinsic
def _spread_bytes(  # type: ignore[no-untyped-def]
    context, content, start, levels, to, shift, mask, flip
):
    """Writes CHUNK bytes of content (bytes,) uint8, from `start` on, to levels (bytes,), from `to`
    on: shifted to the right, what the mask has of them, and with the bits of `flip` turned."""

    def write(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        line = ir.VectorType(_HALF, CHUNK // 2)
        places = []
        for number in (0, 2):
            array = context.make_array(signature.args[number])(context, builder, arguments[number])
            place = builder.gep(array.data, [arguments[number + 1]])
            places.append(builder.bitcast(place, line.as_pointer()))
        moved, held, turned = (_halves(builder, each) for each in arguments[4:])
        moved = builder.lshr(moved, ir.Constant(line, [8] * (CHUNK // 2)))
        found = builder.and_(builder.lshr(builder.load(places[0], align=1), moved), held)
        builder.store(builder.xor(found, turned), places[1], align=1)

    byte = types.uint8
    return types.void(content, types.int64, levels, types.int64, byte, byte, byte), write


def _halves(builder: ir.IRBuilder, byte: Any) -> Any:
    """The byte everywhere in a line of CHUNK bytes."""
    line = ir.VectorType(byte.type, CHUNK)
    nothing = ir.Constant(line, ir.Undefined)
    first = builder.insert_element(nothing, byte, NUMBER(0))
    everywhere = ir.Constant(ir.VectorType(NUMBER, CHUNK), [0] * CHUNK)
    spread = builder.shuffle_vector(first, nothing, everywhere)
    return builder.bitcast(spread, ir.VectorType(_HALF, CHUNK // 2))


class Fours:
    """Products of four bytes a lane by VNNI."""

    def __init__(self, builder: ir.IRBuilder) -> None:
        self._builder = builder
        self._add = get_function(
            builder.module, ir.FunctionType(_LINE, [_LINE] * 3), "llvm.x86.avx512.vpdpbusd.512"
        )

    def query(self, line: Any) -> Any:
        """What `add` takes of a line of four signed bytes a lane."""
        return line

    def levels(self, four: Any) -> Any:
        """What `add` takes of four levels, the same for all lanes."""
        return spread_out(self._builder, four)

    def add(self, total: Any, query: Any, levels: Any) -> Any:
        """The total (LANES,) and, for each lane, the products of its four bytes with the levels."""
        return self._builder.call(self._add, [total, levels, query])


class Pairs:
    """The same by products of two numbers of 16 bits a lane, which every processor has."""

    def __init__(self, builder: ir.IRBuilder) -> None:
        self._builder = builder

    def query(self, line: Any) -> Any:
        """The first and third bytes of each lane, and the second and fourth."""
        builder, eight = self._builder, ir.Constant(_HALVES, [8] * 2 * LANES)
        halves = builder.bitcast(line, _HALVES)
        return builder.ashr(builder.shl(halves, eight), eight), builder.ashr(halves, eight)

    def levels(self, four: Any) -> Any:
        """The same of four levels."""
        builder, eight = self._builder, ir.Constant(_HALVES, [8] * 2 * LANES)
        halves = builder.bitcast(spread_out(builder, four), _HALVES)
        first = builder.and_(halves, ir.Constant(_HALVES, [255] * 2 * LANES))
        return first, builder.lshr(halves, eight)

    def add(self, total: Any, query: Any, levels: Any) -> Any:
        """As `Fours.add`; LLVM knows what follows as one instruction for products and sums."""
        builder, wide = self._builder, ir.VectorType(NUMBER, 2 * LANES)
        nothing = ir.Constant(wide, ir.Undefined)
        for numbers, held in zip(query, levels, strict=True):
            products = builder.mul(builder.sext(numbers, wide), builder.sext(held, wide))
            for start in (0, 1):
                places = ir.Constant(_LINE, [*range(start, 2 * LANES, 2)])
                total = builder.add(total, builder.shuffle_vector(products, nothing, places))
        return total


def has_fours() -> bool:
    """Whether numba compiles for a processor with the instruction that `Fours` needs."""
    settings: Any = config  # numba adds its names at run time
    host: Any = get_host_cpu_features
    features: str | None = settings.CPU_FEATURES  # NUMBA_CPU_FEATURES
    if features is None:
        features = str(host())  # but what NUMBA_ENABLE_AVX and the like switch off
    return "+avx512vnni" in features.split(",")


def level_tile(products: type[Fours] | type[Pairs]) -> Any:
    """The loop as a function for compiled code; which products it uses changes no bit."""

    @intrinsic
    def raise_tile(  # type: ignore[no-untyped-def]
        context, best, lanes, offsets, levels, first, scales, factor
    ):
        def write(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            made = [
                array
                if isinstance(kind, types.Integer)
                else context.make_array(kind)(context, builder, array)
                for kind, array in zip(signature.args, arguments, strict=True)
            ]
            _write_tile(builder, products(builder), *made)

        arrays = best, lanes, offsets, levels
        return types.void(*arrays, types.int64, scales, types.int32), write

    return raise_tile


def _write_tile(
    builder: ir.IRBuilder, products: Fours | Pairs, best: Any, lanes: Any, offsets: Any,
    levels: Any, first: Any, scales: Any, factor: Any,
) -> None:  # fmt: skip
    """Best (LANES,) float32 becomes the maximum of itself and of scaled products.

    These are of the lanes (PLANES, quads, 4 * LANES) int8 of one group with the TILE vectors from
    `first` on of levels (vectors, 4 * quads) uint8. Of a sum of products becomes, by plane, sum *
    factor - offsets (PLANES, LANES) int32; of the planes 256 * high + low in float32; and that is
    multiplied by the vector's own of scales (TILE,).
    """
    _, stride = unpack(builder, levels.shape)
    quads = builder.udiv(stride, INDEX(TOGETHER))
    words = builder.bitcast(levels.data, NUMBER.as_pointer())
    starts = [builder.mul(builder.add(first, INDEX(number)), quads) for number in range(TILE)]
    entry = builder.block
    loop, done = (builder.append_basic_block(name) for name in ("quad", "done"))
    builder.branch(loop)
    builder.position_at_end(loop)
    place = builder.phi(INDEX)
    sums = [[builder.phi(_LINE) for _ in range(PLANES)] for _ in range(TILE)]
    queries = []
    for plane in range(PLANES):
        line = builder.add(builder.mul(INDEX(plane), quads), place)
        held = builder.load(line_at(builder, lanes.data, line, NUMBER), align=1)
        queries.append(products.query(held))
    added = []
    for start, parts in zip(starts, sums, strict=True):
        four = builder.load(builder.gep(words, [builder.add(start, place)]), align=1)
        spread, pairs = products.levels(four), zip(queries, parts, strict=True)
        added.append([products.add(total, query, spread) for query, total in pairs])
    following = builder.add(place, INDEX(1))
    place.add_incoming(INDEX(0), entry)
    place.add_incoming(following, loop)
    for parts, new in zip(sums, added, strict=True):
        for total, then in zip(parts, new, strict=True):
            total.add_incoming(ir.Constant(_LINE, [0] * LANES), entry)
            total.add_incoming(then, loop)
    builder.cbranch(builder.icmp_signed("<", following, quads), loop, done)
    builder.position_at_end(done)
    raise_line(builder, best, 0, _scaled(builder, added, offsets, scales, factor))


def _scaled(
    builder: ir.IRBuilder, sums: Sequence[Sequence[Any]], offsets: Any, scales: Any, factor: Any
) -> list[Any]:
    """Lines of float32: what the sums, by vector and plane, stand for."""
    line = ir.VectorType(FLOAT, LANES)
    times = spread_out(builder, factor)
    less = [
        builder.load(line_at(builder, offsets.data, INDEX(plane), NUMBER), align=4)
        for plane in range(PLANES)
    ]
    scaled = []
    for number, parts in enumerate(sums):
        high, low = (
            builder.sitofp(builder.sub(builder.mul(times, total), offset), line)
            for total, offset in zip(parts, less, strict=True)
        )
        whole = builder.fadd(builder.fmul(high, ir.Constant(line, [256.0] * LANES)), low)
        scale = builder.load(builder.gep(scales.data, [INDEX(number)]))
        scaled.append(builder.fmul(whole, spread_out(builder, scale)))
    return scaled


spread_bytes: Any = _spread_bytes
raise_levels: Any = level_tile(Fours if has_fours() else Pairs)
"""as fast as the processor can"""
