"""How are posting lists scanned by compiled code?

Import it through `zarrvec.search.kernels`, which knows when that pays. Queries become int16, scaled each by itself, so that
an inner product with codes is exact in int32 and takes one instruction for 16 or 32 dimensions (vpdpwssd, vpmaddwd). A
few lists' rows at a time are decoded into a scratch that stays in the first-level cache, then multiplied with all queries
that probe the list, in tiles of rows and queries that stay in registers. LLVM finds neither the instruction nor the tile
by itself, so the tile is written as vectors of LLVM's; the rest it vectorises.

Memory whose address is taken belongs to an argument, never to a local: numba frees a local after the last line that names it.
"""

# numba infers types, and ignores annotations
# ruff: noqa: ANN001, ANN002, ANN202
# mypy: ignore-errors

from typing import Any, Final

import numba as nb
import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic

if nb.config.DISABLE_JIT:
    raise ImportError("NUMBA_DISABLE_JIT is set: nothing here runs uncompiled, numpy does.")

_LANES: Final = 32
"""Query and scratch are padded to so many dimensions, the most that one instruction takes."""
_SCRATCH_CODES: Final = 12288
"""Codes decoded at a time: at two bytes each they fill three quarters of a small first-level cache."""
_TOP: Final = 2**24
"""Sum of the absolute components of an int16 query: times 128, the largest code, it stays below 2**31."""

_I16, _I32, _I64 = (ir.IntType(bits) for bits in (16, 32, 64))


def _reader(numba_type: Any, llvm_type: Any) -> Any:
    """Return a function that reads a number at an address, which need not be aligned."""

    @intrinsic
    def read(_typing, address):  # noqa: ARG001
        def codegen(_context, builder, _signature, args):
            return builder.load(builder.inttoptr(args[0], llvm_type.as_pointer()), align=1)

        return numba_type(types.uint64), codegen

    return read


_float32_at = _reader(types.float32, ir.FloatType())
_uint32_at = _reader(types.uint32, _I32)
_uint64_at = _reader(types.uint64, _I64)


@intrinsic
def _pointer(_typing, address):  # noqa: ARG001
    def codegen(_context, builder, _signature, args):
        return builder.inttoptr(args[0], ir.IntType(8).as_pointer())

    return types.CPointer(types.uint8)(types.uint64), codegen


def _instruction(features: str) -> tuple[int, str | None]:
    """Return lanes of int16, and what multiplies two vectors of them and adds neighbouring products, if there is such."""
    for feature, lanes, name in (
        ("+avx512bw", 32, "llvm.x86.avx512.pmaddw.d.512"),
        ("+avx2", 16, "llvm.x86.avx2.pmadd.wd"),
    ):
        if feature in features.split(","):
            return lanes, name
    return 8, None


def _tile(rows: int, queries: int) -> Any:
    """Return a function for the inner products of so many rows of codes with so many queries.

    Rows of the first halves of the codes follow each other, and so do, `codes_half` bytes further, those of the second.
    `pointers` is the address of the addresses of the queries, `sums` that of the result: int32, row after row, and
    `sums_stride` bytes further those of the next query. A row is `chunks` times 32 codes long; those beyond its end,
    which are of the next row, meet zeros of the query.
    """

    @intrinsic
    def tile(_typing, codes, stride, codes_half, pointers, query_half, chunks, sums, sums_stride):  # noqa: ARG001
        def codegen(context, builder, _signature, args):
            codes, stride, codes_half, pointers, query_half, chunks, sums, sums_stride = args
            lanes, instruction = _instruction(context.codegen().magic_tuple()[2])
            totals = lanes if instruction is None else lanes // 2
            vector, wide = ir.VectorType(_I16, lanes), ir.VectorType(_I32, totals)
            zero = ir.Constant(wide, [0] * totals)

            def call(result, name, *values):
                kind = ir.FunctionType(result, [value.type for value in values])
                return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), values)

            def multiply(first, second):
                if instruction is None:
                    return builder.mul(builder.sext(first, wide), builder.sext(second, wide))
                return call(wide, instruction, first, second)

            def moved(address, step, times=1):
                return builder.add(address, builder.mul(step, _I64(times)))

            def load(address, kind):
                return builder.load(builder.inttoptr(address, kind.as_pointer()), align=1)

            cells = [[cgutils.alloca_once(builder, wide) for _ in range(queries)] for _ in range(rows)]
            for cell in (cell for row in cells for cell in row):
                builder.store(zero, cell)
            starts = [load(moved(pointers, _I64(8), i), _I64) for i in range(queries)]
            for half in range(2):
                query_at = [moved(start, query_half, half) for start in starts]
                codes_at = [moved(moved(codes, codes_half, half), stride, i) for i in range(rows)]
                with cgutils.for_range(
                    builder, builder.mul(chunks, _I64(_LANES // lanes)), intp=_I64
                ) as loop:
                    step = builder.mul(loop.index, _I64(2 * lanes))
                    factors = [load(builder.add(address, step), vector) for address in query_at]
                    for row, address in zip(cells, codes_at, strict=True):
                        values = load(builder.add(address, step), vector)
                        for cell, factor in zip(row, factors, strict=True):
                            product = multiply(values, factor)
                            builder.store(builder.add(builder.load(cell), product), cell)
            for i in range(queries):
                for j in range(rows):
                    at = builder.add(moved(sums, sums_stride, i), _I64(4 * j))
                    value = call(_I32, f"llvm.vector.reduce.add.v{totals}i32", builder.load(cells[j][i]))
                    builder.store(value, builder.inttoptr(at, _I32.as_pointer()), align=4)
            return context.get_dummy_value()

        return types.void(*[types.uint64] * 8), codegen

    return tile


_ROWS: Final = 8
"""Rows are decoded in multiples of the longest tile."""
_QUERIES: Final = 4
"""Queries of the widest tile."""
_tile_8x1, _tile_4x4 = _tile(_ROWS, 1), _tile(4, _QUERIES)
_jit = nb.njit(nogil=True, error_model="numpy")


@_jit
def _quantize(queries, padded, coded, steps):
    width = queries.shape[1]
    half = (width + 1) // 2
    coded[:] = 0
    for row in range(queries.shape[0]):
        largest = np.float32(0)
        total = 0.0
        for j in range(width):
            size = abs(queries[row, j])
            largest = max(largest, size)
            total += size
        if largest == 0:
            steps[row] = 0
            continue
        factor = min(32767.0 / largest, (_TOP - width) / total)
        steps[row] = 1.0 / factor
        for j in range(width):
            at = j if j < half else padded + j - half
            coded[row, at] = np.int16(np.rint(queries[row, j] * factor))


@_jit
def _decode(high, low, first, second):
    for i in range(high.shape[0]):
        first[i] = np.int8((high[i] << 4 | low[i] & 15) ^ 128)
        second[i] = np.int8((high[i] & 240 | low[i] >> 4) ^ 128)


@_jit
def _decode_high(high, first, second):
    for i in range(high.shape[0]):
        first[i] = np.int8((high[i] << 4 | 8) ^ 128)
        second[i] = np.int8((high[i] & 240 | 8) ^ 128)


@_jit
def _decode_rows(address, layout, count, start, codes, scales, norms):
    """Decode as many entries from `start` on as there are scales."""
    width, id_bytes, has_norms, bits = layout
    half = (width + 1) // 2
    size = scales.shape[0]
    scales_at = address + np.uint64(count * id_bytes)
    norms_at = scales_at + np.uint64(8 * count)
    high_at = norms_at + np.uint64(4 * count if has_norms else 0) + np.uint64(start * half)
    for i in range(size):
        scales[i] = _float32_at(scales_at + np.uint64(4 * (start + i)))
    if has_norms:
        for i in range(size):
            norms[i] = _float32_at(norms_at + np.uint64(4 * (start + i)))
    high = carray(_pointer(high_at), (size * half,))
    if bits == 8:
        low = carray(_pointer(high_at + np.uint64(count * half)), (size * half,))
        _decode(high, low, codes[0], codes[1])
    else:
        _decode_high(high, codes[0], codes[1])


@_jit
def _multiply(size, taken, half, padded, codes, pointers, sums):
    """Let ``sums[i, j]`` be the inner product of the query at ``pointers[i]`` and row j of the codes."""
    stride, codes_half = np.uint64(2 * half), np.uint64(2 * codes.shape[1])
    query_half, chunks = np.uint64(2 * padded), np.uint64(padded // _LANES)
    sums_stride = np.uint64(4 * sums.shape[1])
    at = np.uint64(pointers.ctypes.data)
    for i in range(0, size, _ROWS if taken == 1 else 4):
        row = np.uint64(codes.ctypes.data) + np.uint64(i) * stride
        out = np.uint64(sums.ctypes.data) + np.uint64(4 * i)
        if taken == 1:
            _tile_8x1(row, stride, codes_half, at, query_half, chunks, out, sums_stride)
        else:
            _tile_4x4(row, stride, codes_half, at, query_half, chunks, out, sums_stride)


@_jit
def _after(score, row, other_score, other_row):
    return score > other_score or (score == other_score and row > other_row)


@_jit
def _sift(ids, scores, at, size):
    """Let an element of a heap, the worst on top, sink to its place."""
    score, row = scores[at], ids[at]
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and _after(scores[child + 1], ids[child + 1], scores[child], ids[child]):
            child += 1
        if not _after(scores[child], ids[child], score, row):
            break
        scores[at], ids[at] = scores[child], ids[child]
        at = child
    scores[at], ids[at] = score, row


@_jit
def _offer(ids, scores, row, score):
    known = False
    for i in range(ids.shape[0]):  # no early end: this vectorises
        known |= ids[i] == row
    at = 0
    if known:
        while ids[at] != row:
            at += 1
        if not score < scores[at]:
            return
    ids[at], scores[at] = row, score
    _sift(ids, scores, at, ids.shape[0])


@_jit
def _sort(ids, scores):
    for size in range(ids.shape[0] - 1, 0, -1):
        ids[0], ids[size] = ids[size], ids[0]
        scores[0], scores[size] = scores[size], scores[0]
        _sift(ids, scores, 0, size)


@_jit
def _keep(found, ids_at, id_bytes, masked, allowed, ids, scores):
    """Offer the scores of consecutive entries to the best of a query."""
    for i in range(found.shape[0]):
        score = found[i]
        if score <= scores[0]:
            if id_bytes == 8:
                row = _uint64_at(ids_at + np.uint64(8 * i))
            else:
                row = np.uint64(_uint32_at(ids_at + np.uint64(4 * i)))
            if masked and (row >= np.uint64(allowed.shape[0]) or allowed[row] == 0):
                continue
            if score < scores[0] or np.int64(row) < ids[0]:
                _offer(ids, scores, np.int64(row), score)


@_jit
def _scan(lists, coded, steps, probes, order, base, mask, codes, pointers, sums, ids, scores):
    addresses, counts, layout = lists
    masked, allowed = mask
    width, id_bytes, has_norms, _bits = layout
    half, padded = (width + 1) // 2, coded.shape[1] // 2
    block = sums.shape[1]
    scales, norms, found = (
        np.empty(block, np.float32),
        np.zeros(block, np.float32),
        np.empty(block, np.float32),
    )
    factor = np.float32(2 if has_norms else 1)
    end = scanned = 0
    while end < order.shape[0]:
        begin = end
        number = probes.flat[order[begin]]
        while end < order.shape[0] and probes.flat[order[end]] == number:
            end += 1
        if number < 0 or addresses[number] == 0:
            continue
        scanned += counts[number] * (end - begin)
        for start in range(0, counts[number], block):
            size = min(block, counts[number] - start)
            _decode_rows(addresses[number], layout, counts[number], start, codes, scales[:size], norms[:size])
            for at in range(begin, end, _QUERIES):
                taken = min(_QUERIES, end - at)
                for i in range(
                    _QUERIES
                ):  # places without a query repeat the last, and nobody looks at their sums
                    query = order[at + min(i, taken - 1)] // probes.shape[1]
                    pointers[i] = np.uint64(coded.ctypes.data) + np.uint64(query * 4 * padded)
                _multiply(size, taken, half, padded, codes, pointers, sums)
                for i in range(taken):
                    pair = order[at + i]
                    query = pair // probes.shape[1]
                    bias, step = base.flat[pair], steps[query]
                    for j in range(size):
                        dot = bias + scales[j] * (step * np.float32(sums[i, j]))
                        found[j] = norms[j] - factor * dot
                    ids_at = addresses[number] + np.uint64(start * id_bytes)
                    _keep(found[:size], ids_at, id_bytes, masked, allowed, ids[query], scores[query])
    return scanned


def _scan_all(lists, queries, probes, order, base, mask, ids, scores):
    half = (lists[2][0] + 1) // 2
    padded = (half + _LANES - 1) // _LANES * _LANES
    coded = np.empty((queries.shape[0], 2 * padded), np.int16)
    steps = np.empty(queries.shape[0], np.float32)
    _quantize(queries, padded, coded, steps)
    block = max(_ROWS, _SCRATCH_CODES // (2 * half) // _ROWS * _ROWS)
    codes = np.zeros((2, block * half + _LANES), np.int16)
    sums = np.empty((_QUERIES, block), np.int32)
    pointers = np.empty(_QUERIES, np.uint64)
    ids[:] = -1
    scores[:] = np.inf
    scanned = _scan(lists, coded, steps, probes, order, base, mask, codes, pointers, sums, ids, scores)
    for row in range(ids.shape[0]):
        _sort(ids[row], scores[row])
    return scanned


def _choose_all(products, squares, bias, factors, lists, keys, nearest):
    for row in range(products.shape[0]):
        lists[row], keys[row] = -1, np.inf
        factor = factors[row]
        least = np.float32(np.inf)
        for number in range(products.shape[1]):
            twice = np.float32(-2) * products[row, number]
            key = twice + factor * bias[number]
            least = min(least, squares[number] + twice)
            if key < keys[row, 0]:
                lists[row, 0], keys[row, 0] = number, key
                _sift(lists[row], keys[row], 0, lists.shape[1])
        nearest[row] = least
        _sort(lists[row], keys[row])
        for place in range(lists.shape[1]):
            keys[row, place] = products[row, lists[row, place]]


def _cached(function: Any) -> Any:
    """Compile for all later processes if there is a place that this one may write to, else for this one."""
    try:
        return nb.njit(nogil=True, error_model="numpy", cache=True)(function)
    except RuntimeError:  # "no locator available"
        return nb.njit(nogil=True, error_model="numpy")(function)


scan = _cached(_scan_all)
choose = _cached(_choose_all)
