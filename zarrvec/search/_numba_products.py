"""How are inner products of queries with the rows of a posting list computed by compiled code?

Queries become int16, scaled each by itself, so that an inner product with codes is exact in int32. Where the processor
multiplies bytes, lists are multiplied as they are stored, in two passes with the halves of the query's numbers. Elsewhere a
few rows at a time are decoded to int16, into a scratch that stays in the first-level cache, and multiplied with all queries
that probe the list (vpmaddwd). Both give the same numbers, by tiles of rows and queries that stay in registers.

Whoever changes this file changes `zarrvec.search._numba_kernels.MADE_OF`.
"""

# numba infers types, and ignores annotations
# ruff: noqa: ANN001, ANN202, ARG001
# mypy: ignore-errors

from typing import Any, Final

import numba as nb
import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from zarrvec.search._numba_tiles import LANES, decoded_tile, has_byte_products, planes_tile
from zarrvec.search._numpy_kernels import OCTETS
from zarrvec.search.records import CODE_ZERO

_SCRATCH_CODES: Final = 12288
"""Codes decoded at a time: at two bytes each they fill three quarters of a small first-level cache."""
_TOP: Final = 2**24
"""Sum of the absolute components of an int16 query: times 128, the largest code, it stays below 2**31."""
_LARGEST: Final = 127 * 256 + 127
"""Component of an int16 query: its halves are int8."""
ROUGH: Final = 2
"""Bits of codes of which the high planes are multiplied with the high bytes of queries alone, the others being 0."""


def _reader(numba_type: Any, llvm_type: Any) -> Any:
    """Return a function that reads a number at an address, which need not be aligned."""

    @intrinsic
    def read(_typing, address):
        def codegen(_context, builder, _signature, args):
            return builder.load(builder.inttoptr(args[0], llvm_type.as_pointer()), align=1)

        return numba_type(types.uint64), codegen

    return read


float32_at = _reader(types.float32, ir.FloatType())
uint32_at = _reader(types.uint32, ir.IntType(32))
uint64_at = _reader(types.uint64, ir.IntType(64))


@intrinsic
def _pointer(_typing, address):
    def codegen(_context, builder, _signature, args):
        return builder.inttoptr(args[0], ir.IntType(8).as_pointer())

    return types.CPointer(types.uint8)(types.uint64), codegen


_ROWS: Final = 8
"""Rows are taken in multiples of the longest tile."""
QUERIES: Final = 4
"""Queries of the widest tile."""
BLOCK_ROWS: Final = 256
"""Rows multiplied at a time that are not decoded."""
_tile_8x1, _tile_4x4 = decoded_tile(_ROWS, 1), decoded_tile(4, QUERIES)
_planes_8x1, _planes_4x2 = planes_tile(_ROWS, 1, 8), planes_tile(4, 2, 8)
_high_8x1, _high_4x2 = planes_tile(_ROWS, 1, 4), planes_tile(4, 2, 4)
_rough_8x1, _rough_4x2 = planes_tile(_ROWS, 1, 4, whole=False), planes_tile(4, 2, 4, whole=False)
jit = nb.njit(nogil=True, error_model="numpy")


@jit
def _quantize(queries, layout, padded):
    """Return int16 queries, of halves so long, what a step of each is worth, and the sums of their numbers."""
    unit = np.float32(256 if layout[3] == ROUGH else 1)
    width = queries.shape[1]
    half = (width + 1) // 2
    # before numbers are rounded, which to a unit of more than 1 may double them
    top = np.float64(_TOP - width if unit == 1 else _TOP // 2)
    coded = np.zeros((queries.shape[0], 2 * padded), np.int16)
    steps, totals = np.zeros(queries.shape[0], np.float32), np.zeros(queries.shape[0], np.int32)
    for row in range(queries.shape[0]):
        largest = np.float32(0)
        total = 0.0
        for j in range(width):
            size = abs(queries[row, j])
            largest = max(largest, size)
            total += size
        if largest == 0:
            continue
        factor = min(_LARGEST / largest, top / total)
        steps[row] = 1.0 / factor
        for j in range(width):
            at = j if j < half else padded + j - half
            value = np.int16(unit * np.rint(queries[row, j] * factor / unit))
            coded[row, at] = value
            totals[row] += value
    return coded, steps, totals


@jit
def _split(coded, padded, halves):
    """Part int16 queries into high and low bytes, in the order in which a tile takes them."""
    for row in range(coded.shape[0]):
        for at in range(0, padded, OCTETS):
            for half in range(2):
                for j in range(OCTETS):
                    value = coded[row, half * padded + at + j]
                    low = np.int8(value)
                    place = 4 * at + 2 * OCTETS * half + j
                    halves[row, place] = np.int8((value - low) >> 8)
                    halves[row, place + OCTETS] = low


@jit
def places_of(address, layout, count):
    """Return where scales, norms, high and low planes of a list are."""
    width, id_bytes, has_norms, _bits = layout
    scales = address + np.uint64(count * id_bytes)
    norms = scales + np.uint64(8 * count)
    high = norms + np.uint64(4 * count if has_norms else 0)
    return scales, norms, high, high + np.uint64(count * ((width + 1) // 2))


@jit
def read_scalars(places, layout, start, scales, norms):
    """Read those of as many entries from `start` on as there is room for."""
    has_norms = layout[2]
    for i in range(scales.shape[0]):
        scales[i] = float32_at(places[0] + np.uint64(4 * (start + i)))
    if has_norms:
        for i in range(norms.shape[0]):
            norms[i] = float32_at(places[1] + np.uint64(4 * (start + i)))


@jit
def _decode(high, low, first, second):
    for i in range(high.shape[0]):
        first[i] = np.int8((high[i] << 4 | low[i] & 15) ^ 128)
        second[i] = np.int8((high[i] & 240 | low[i] >> 4) ^ 128)


@jit
def _decode_high(high, first, second):
    for i in range(high.shape[0]):
        first[i] = np.int8((high[i] << 4 | 8) ^ 128)
        second[i] = np.int8((high[i] & 240 | 8) ^ 128)


@jit
def _decode_rows(places, layout, start, size, codes):
    """Decode so many rows from `start` on."""
    width, _id_bytes, _has_norms, bits = layout
    half = (width + 1) // 2
    first = np.uint64(start * half)
    high = carray(_pointer(places[2] + first), (size * half,))
    if bits == 8:
        low = carray(_pointer(places[3] + first), (size * half,))
        _decode(high, low, codes[0], codes[1])
    else:
        _decode_high(high, codes[0], codes[1])


@jit
def _leave_rows(places, layout, start, size, codes):
    pass


@jit
def _multiply_decoded(places, layout, start, size, taken, stride, codes, pointers, sums):
    """Let ``sums[i, j]`` be the inner product of the query at ``pointers[i]`` and row j of the codes."""
    half = (layout[0] + 1) // 2
    row_bytes, codes_half = np.uint64(2 * half), np.uint64(2 * codes.shape[1])
    query_half, chunks = np.uint64(stride // 2), np.uint64(stride // (4 * LANES))
    sums_stride = np.uint64(4 * sums.shape[1])
    at = np.uint64(pointers.ctypes.data)
    for i in range(0, size, _ROWS if taken == 1 else 4):
        row = np.uint64(codes.ctypes.data) + np.uint64(i) * row_bytes
        out = np.uint64(sums.ctypes.data) + np.uint64(4 * i)
        if taken == 1:
            _tile_8x1(row, row_bytes, codes_half, at, query_half, chunks, out, sums_stride)
        else:
            _tile_4x4(row, row_bytes, codes_half, at, query_half, chunks, out, sums_stride)


@jit
def _multiply_planes(places, layout, start, size, taken, stride, codes, pointers, sums):
    """Let ``sums[i, j]`` be the inner product of the query at ``pointers[i]`` and row ``start + j`` of the list, plus its shift."""
    half, last = np.uint64((layout[0] + 1) // 2), np.uint64(start + size - 1)
    high, low, bits = places[2], places[3], layout[3]
    sums_stride, at = np.uint64(4 * sums.shape[1]), np.uint64(pointers.ctypes.data)
    for i in range(0, size, _ROWS if taken == 1 else 4):
        row = np.uint64(start + i)
        out = np.uint64(sums.ctypes.data) + np.uint64(4 * i)
        if taken == 1:
            if bits == 8:
                _planes_8x1(high, low, half, row, last, at, out, sums_stride)
            elif bits == 4:
                _high_8x1(high, low, half, row, last, at, out, sums_stride)
            else:
                _rough_8x1(high, low, half, row, last, at, out, sums_stride)
            continue
        for j in range(0, taken, 2):
            pair, sums_at = at + np.uint64(8 * j), out + np.uint64(j) * sums_stride
            if bits == 8:
                _planes_4x2(high, low, half, row, last, pair, sums_at, sums_stride)
            elif bits == 4:
                _high_4x2(high, low, half, row, last, pair, sums_at, sums_stride)
            else:
                _rough_4x2(high, low, half, row, last, pair, sums_at, sums_stride)


@jit
def _code_words(queries, layout):
    """Return int16 queries with steps and totals, room for so many decoded rows, and their number."""
    half = (layout[0] + 1) // 2
    padded = (half + LANES - 1) // LANES * LANES
    block = max(_ROWS, _SCRATCH_CODES // (2 * half) // _ROWS * _ROWS)
    return _quantize(queries, layout, padded), np.zeros((2, block * half + LANES), np.int16), block


@jit
def _code_bytes(queries, layout):
    """Return the halves of int16 queries in place of these."""
    half = (layout[0] + 1) // 2
    padded = (half + OCTETS - 1) // OCTETS * OCTETS
    coded, steps, totals = _quantize(queries, layout, padded)
    halves = np.empty((queries.shape[0], 4 * padded), np.int8)
    _split(coded, padded, halves)
    return (halves, steps, totals), np.empty((2, 0), np.int16), BLOCK_ROWS


@nb.njit(nogil=True, error_model="numpy", fastmath={"reassoc", "contract"})
def dot(numbers, query):
    """Return the inner product of two rows of numbers."""
    total = np.float32(0)
    for i in range(query.shape[0]):  # this vectorises, for sums may be taken in any order
        total += np.float32(numbers[i]) * query[i]
    return total


code, unpack, multiply, ZERO = (
    (_code_bytes, _leave_rows, _multiply_planes, CODE_ZERO)
    if has_byte_products()
    else (_code_words, _decode_rows, _multiply_decoded, 0)
)
