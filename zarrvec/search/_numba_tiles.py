"""Inner products of a few rows of codes and a few queries, in registers: what LLVM doesn't find by itself.

Written as vectors of LLVM's, for `zarrvec.search._numba_products`. Whoever changes this file changes
`zarrvec.search._numba_kernels.MADE_OF`.
"""

# numba infers types, and ignores annotations
# ruff: noqa: ANN001, ANN002, ANN202, ARG001
# mypy: ignore-errors

from typing import Any, Final

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from zarrvec.search._numpy_kernels import OCTETS

LANES: Final = 32
"""Decoded queries and rows are padded to so many dimensions, the most that one instruction takes."""

_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))


def has_byte_products() -> bool:
    """Return whether the processor that is compiled for multiplies and adds up bytes in one instruction (vpdpbusd)."""
    features = cpu_target.target_context.codegen().magic_tuple()[2].split(",")
    return {"+avx512vnni", "+avx512bw"} <= set(features)


def _call(builder, result, name, *values):
    kind = ir.FunctionType(result, [value.type for value in values])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), values)


def _load(builder, address, kind):
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=1)


def _shuffled(builder, first, second, numbers):
    return builder.shuffle_vector(first, second, ir.Constant(ir.VectorType(_I32, len(numbers)), numbers))


def _fetch(builder, address):
    pointer = builder.inttoptr(address, _I8.as_pointer())
    _call(builder, ir.VoidType(), "llvm.prefetch.p0", pointer, _I32(0), _I32(3), _I32(1))


def _store_sums(builder, vectors, address):
    """Store the sum of each of four vectors of int32, one after the other."""
    count = vectors[0].type.count

    def added(first, second, low, high):
        """Add what is at some places of each four numbers to what is at others; from `count` on, of the second vector."""
        parts = [[at + number for at in range(0, count, 4) for number in numbers] for numbers in (low, high)]
        return builder.add(*(_shuffled(builder, first, second, part) for part in parts))

    pairs = [
        added(*pair, (0, count, 1, count + 1), (2, count + 2, 3, count + 3))
        for pair in (vectors[:2], vectors[2:])
    ]
    sums = added(*pairs, (0, 1, count, count + 1), (2, 3, count + 2, count + 3))
    while sums.type.count > len(vectors):
        size = sums.type.count // 2
        halves = [_shuffled(builder, sums, sums, list(range(at, at + size))) for at in (0, size)]
        sums = builder.add(*halves)
    builder.store(sums, builder.inttoptr(address, sums.type.as_pointer()), align=4)


def _least(builder, one, other):
    return builder.select(builder.icmp_unsigned("<", one, other), one, other)


def _instruction(features: str) -> tuple[int, str | None]:
    """Return lanes of int16, and what multiplies two vectors of them and adds neighbouring products, if there is such."""
    for feature, lanes, name in (
        ("+avx512bw", 32, "llvm.x86.avx512.pmaddw.d.512"),
        ("+avx2", 16, "llvm.x86.avx2.pmadd.wd"),
    ):
        if feature in features.split(","):
            return lanes, name
    return 8, None


def decoded_tile(rows: int, queries: int) -> Any:
    """Return a function for the inner products of so many rows of codes with so many queries.

    Rows of the first halves of the codes follow each other, and so do, `codes_half` bytes further, those of the second.
    `pointers` is the address of the addresses of the queries, `sums` that of the result: int32, row after row, and
    `sums_stride` bytes further those of the next query. A row is `chunks` times 32 codes long; those beyond its end,
    which are of the next row, meet zeros of the query.
    """

    @intrinsic
    def tile(_typing, codes, stride, codes_half, pointers, query_half, chunks, sums, sums_stride):
        def codegen(context, builder, _signature, args):
            codes, stride, codes_half, pointers, query_half, chunks, sums, sums_stride = args
            lanes, instruction = _instruction(context.codegen().magic_tuple()[2])
            totals = lanes if instruction is None else lanes // 2
            vector, wide = ir.VectorType(_I16, lanes), ir.VectorType(_I32, totals)
            zero = ir.Constant(wide, [0] * totals)

            def multiply(first, second):
                if instruction is None:
                    return builder.mul(builder.sext(first, wide), builder.sext(second, wide))
                return _call(builder, wide, instruction, first, second)

            def moved(address, step, times=1):
                return builder.add(address, builder.mul(step, _I64(times)))

            cells = [[cgutils.alloca_once(builder, wide) for _ in range(queries)] for _ in range(rows)]
            for cell in (cell for row in cells for cell in row):
                builder.store(zero, cell)
            starts = [_load(builder, moved(pointers, _I64(8), i), _I64) for i in range(queries)]
            for half in range(2):
                query_at = [moved(start, query_half, half) for start in starts]
                codes_at = [moved(moved(codes, codes_half, half), stride, i) for i in range(rows)]
                with cgutils.for_range(builder, builder.mul(chunks, _I64(LANES // lanes)), intp=_I64) as loop:
                    step = builder.mul(loop.index, _I64(2 * lanes))
                    factors = [_load(builder, builder.add(address, step), vector) for address in query_at]
                    for row, address in zip(cells, codes_at, strict=True):
                        values = _load(builder, builder.add(address, step), vector)
                        for cell, factor in zip(row, factors, strict=True):
                            product = multiply(values, factor)
                            builder.store(builder.add(builder.load(cell), product), cell)
            for i in range(queries):
                for j in range(0, rows, 4):
                    at = builder.add(moved(sums, sums_stride, i), _I64(4 * j))
                    _store_sums(builder, [builder.load(row[i]) for row in cells[j : j + 4]], at)
            return context.get_dummy_value()

        return types.void(*[types.uint64] * 8), codegen

    return tile


def planes_tile(rows: int, queries: int, bits: int, *, whole: bool = True) -> Any:
    """Return a function for the inner products of so many rows of a posting list, as it is stored, with so many queries.

    `high` and `low` are the addresses of the planes, of rows of `half` bytes; rows from `last` on are that one again. Codes
    count from 0 here, 128 more than they mean. Queries are as `_split` leaves them, `sums` as for `decoded_tile`. Of queries
    that are not taken whole low bytes are left out.
    """

    @intrinsic
    def tile(_typing, high, low, half, first, last, pointers, sums, sums_stride):
        def codegen(context, builder, _signature, args):
            high, low, half, first, last, pointers, sums, sums_stride = args
            quads = ir.VectorType(_I32, OCTETS // 4)
            octets, words = ir.VectorType(_I8, OCTETS), ir.VectorType(_I16, OCTETS // 2)
            zero, low_bits = ir.Constant(quads, [0] * quads.count), ir.Constant(octets, [15] * OCTETS)

            def load_some(address, mask):
                pointer = builder.inttoptr(address, octets.as_pointer())
                name = f"llvm.masked.load.v{OCTETS}i8.p0"
                return _call(builder, octets, name, pointer, _I32(1), mask, ir.Constant(octets, [0] * OCTETS))

            def shifted(value, shift):
                value = builder.bitcast(value, words)
                return builder.bitcast(shift(value, ir.Constant(words, [4] * words.count)), octets)

            def joined(of_high, of_low):
                """Return bytes of the high bits of one and the low bits of the other."""
                return builder.or_(
                    builder.and_(of_high, builder.not_(low_bits)), builder.and_(of_low, low_bits)
                )

            cells = [
                [[cgutils.alloca_once(builder, quads) for _ in range(1 + whole)] for _ in range(queries)]
                for _ in range(rows)
            ]
            for cell in (cell for row in cells for pair in row for cell in pair):
                builder.store(zero, cell)
            starts = [_load(builder, builder.add(pointers, _I64(8 * i)), _I64) for i in range(queries)]
            numbers = [_least(builder, builder.add(first, _I64(i)), last) for i in range(rows)]
            offsets = [builder.mul(number, half) for number in numbers]

            def step(at, read, ahead=None):
                """Take in the bytes of each row from `at` on, and have those so many bytes ahead fetched."""
                factors_at = builder.mul(at, _I64(4))
                factors = [
                    [
                        _load(builder, builder.add(start, builder.add(factors_at, _I64(OCTETS * i))), quads)
                        for i in (range(4) if whole else (0, 2))
                    ]
                    for start in starts
                ]
                for row, offset in zip(cells, offsets, strict=True):
                    place = builder.add(offset, at)
                    for plane in (high, low)[: bits // 4] if ahead is not None else ():
                        _fetch(builder, builder.add(plane, builder.add(place, ahead)))
                    above = read(builder.add(high, place))
                    below = (
                        read(builder.add(low, place)) if bits == 8 else ir.Constant(octets, [0x88] * OCTETS)
                    )
                    halves = (
                        joined(shifted(above, builder.shl), below),
                        joined(above, shifted(below, builder.lshr)),
                    )
                    for pair, of_query in zip(row, factors, strict=True):
                        for i, codes in enumerate(halves):
                            factors_of_half = of_query[i * len(pair) : (i + 1) * len(pair)]
                            for cell, factor in zip(pair, factors_of_half, strict=True):
                                total = _call(
                                    builder,
                                    quads,
                                    "llvm.x86.avx512.vpdpbusd.512",
                                    builder.load(cell),
                                    builder.bitcast(codes, quads),
                                    factor,
                                )
                                builder.store(total, cell)

            octets_of_row = builder.lshr(half, _I64(OCTETS.bit_length() - 1))
            following = builder.mul(half, _I64(rows))
            with cgutils.for_range(builder, octets_of_row, intp=_I64) as loop:
                at = builder.mul(loop.index, _I64(OCTETS))
                step(at, lambda address: _load(builder, address, octets), following)
            left = builder.and_(half, _I64(OCTETS - 1))
            with builder.if_then(builder.icmp_unsigned("!=", left, _I64(0))):
                bit = builder.sub(builder.shl(_I64(1), left), _I64(1))
                mask = builder.bitcast(bit, ir.VectorType(ir.IntType(1), OCTETS))
                step(builder.mul(octets_of_row, _I64(OCTETS)), lambda address: load_some(address, mask))
            eight = ir.Constant(quads, [8] * quads.count)
            for i in range(queries):
                totals = []
                for row in cells:
                    parts = [builder.load(cell) for cell in row[i]]
                    parts[0] = builder.shl(parts[0], eight)
                    totals.append(builder.add(*parts) if whole else parts[0])
                for j in range(0, rows, 4):
                    at = builder.add(builder.add(sums, builder.mul(sums_stride, _I64(i))), _I64(4 * j))
                    _store_sums(builder, totals[j : j + 4], at)
            return context.get_dummy_value()

        return types.void(*[types.uint64] * 8), codegen

    return tile
