"""How are posting lists scanned by compiled code?

Import it through `zarrvec.search.kernels`, which knows when that pays. LLVM finds neither the instructions nor the tiles
that inner products are made of by itself, so these are written for it (`zarrvec.search._numba_products`); the rest it
vectorises.

Memory whose address is taken belongs to an argument, never to a local: numba frees a local after the last line that names it.
"""

# numba infers types, and ignores annotations
# ruff: noqa: ANN001, ANN202
# mypy: ignore-errors

from typing import Any

import numba as nb
import numpy as np

from zarrvec.search._numba_products import (
    QUERIES,
    ROUGH,
    ZERO,
    code,
    dot,
    jit,
    multiply,
    unpack,
)
from zarrvec.search._numba_scans import after, expected_off, is_for_one, scan_alone, scan_together, sift, sort
from zarrvec.search._numpy_kernels import COSINE, GLANCE, IP, MIDDLE, NO_HIT, UNIT
from zarrvec.search.space import LONGEST, SHORTEST

if nb.config.DISABLE_JIT:
    raise ImportError("NUMBA_DISABLE_JIT is set: nothing here runs uncompiled, numpy does.")

MADE_OF = "afd6f3fe"
"""CRC32C of the modules with kernels that are compiled here: what numba has stored for later processes goes by the bytes of this
file alone. A test says what it is."""
_TOGETHER = 32
"""Queries whose products with all centroids are held at once."""
_FAR_OFF = np.float32(4)
"""Standard deviations that a rough product is expected to be off at most."""
_UNITS = np.float32(UNIT / 16)
_TWO = np.float32(2)


@jit
def _scan_parts(lists, queries, probes, order, base, mask, ids, scores):
    addresses, counts, layout = lists
    coded, codes, block = code(queries, layout)
    sums, pointers = np.empty((QUERIES, block), np.int32), np.empty(QUERIES, np.uint64)
    ids[:], scores[:] = -1, np.inf
    scanned = 0
    if is_for_one(queries.shape[0], layout):
        scratch = codes, pointers, sums, np.empty((QUERIES, block), np.int32)
        for row in range(queries.shape[0]):
            off = expected_off(np.float32(np.sqrt(dot(queries[row], queries[row]))))
            for part in range(addresses.shape[0]):
                those = addresses[part], counts[part], layout
                entries, off = scan_alone(
                    those, coded, row, probes[row], base[row], mask, scratch, off, ids[row], scores[row]
                )
                scanned += entries
    else:
        for part in range(addresses.shape[0]):
            those = addresses[part], counts[part], layout
            scanned += scan_together(
                those, coded, probes, order, base, mask, codes, pointers, sums, ids, scores
            )
    for row in range(ids.shape[0]):
        sort(ids[row], scores[row])
    return scanned


def _scan_all(lists, queries, probes, order, base, mask, ids, scores):
    return _scan_parts(lists, queries, probes, order, base, mask, ids, scores)


@jit
def _choose_one(rough, coarse, query, length, factor, lists, keys, products):
    """Choose the lists of one query, and return the least of ``squares - 2 * products``; rough products are used up.

    Those that are nearest by rough products are multiplied anew, and then all others that may be as near. A rough product is
    not farther off, for the length of what is rounded away, than twice as far as any of the first, or than four times as far
    as chance would have it.
    """
    codes, _high, _low, scales, squares, bias, lost = coarse
    lists[:], keys[:] = -1, np.inf
    key, other = np.empty(GLANCE, np.float32), np.empty(GLANCE, np.float32)
    for first in range(0, rough.shape[0], GLANCE):
        limit, near = keys[0], False
        for i in range(GLANCE):  # this vectorises
            key[i] = factor * bias[first + i] - _TWO * rough[first + i]
            near |= key[i] < limit
        if not near:
            continue
        for i in range(GLANCE):
            if key[i] < keys[0]:
                lists[0], keys[0] = first + i, key[i]
                sift(lists, keys, 0, lists.shape[0])
    off, least = _FAR_OFF * length / np.float32(np.sqrt(query.shape[0])), np.float32(np.inf)
    for place in range(lists.shape[0]):
        number = lists[place]
        product = scales[number] * dot(codes[number], query)
        if lost[number] > 0:
            off = max(off, _TWO * abs(product - rough[number]) / lost[number])
        least = min(least, squares[number] - _TWO * product)
        keys[place], rough[number] = factor * bias[number] - _TWO * product, -np.inf
    for place in range(lists.shape[0] // 2 - 1, -1, -1):
        sift(lists, keys, place, lists.shape[0])
    for first in range(0, rough.shape[0], GLANCE):
        limit, near = keys[0], False
        for i in range(GLANCE):  # this vectorises
            most = _TWO * (rough[first + i] + off * lost[first + i])
            key[i], other[i] = factor * bias[first + i] - most, squares[first + i] - most
            near |= (key[i] <= limit) | (other[i] < least)
        if not near:
            continue
        for i in range(min(GLANCE, codes.shape[0] - first)):
            number = first + i
            if key[i] <= keys[0] or other[i] < least:
                product = scales[number] * dot(codes[number], query)
                least = min(least, squares[number] - _TWO * product)
                exact = factor * bias[number] - _TWO * product
                if after(keys[0], lists[0], exact, number):
                    lists[0], keys[0] = number, exact
                    sift(lists, keys, 0, lists.shape[0])
    sort(lists, keys)
    for place in range(lists.shape[0]):
        products[place] = scales[lists[place]] * dot(codes[lists[place]], query)
    return least


@jit
def _choose(coarse, queries, factors, lists, theirs, nearest):
    _codes, high, low, scales, _squares, _bias, _lost = coarse
    nlist = high.shape[0]
    is_whole = low.shape[0] == nlist
    layout = queries.shape[1], 4, False, 8 if is_whole else ROUGH
    places = np.uint64(0), np.uint64(0), np.uint64(high.ctypes.data), np.uint64(low.ctypes.data)
    (coded, steps, totals), scratch, block = code(queries, layout)
    stride = coded.strides[0]
    sums, pointers = np.empty((QUERIES, block), np.int32), np.empty(QUERIES, np.uint64)
    rough = np.zeros((min(_TOGETHER, queries.shape[0]), scales.shape[0]), np.float32)
    keys = np.empty(lists.shape[1], np.float32)
    for first in range(0, queries.shape[0], _TOGETHER):
        end = min(first + _TOGETHER, queries.shape[0])
        for start in range(0, nlist, block):
            size = min(block, nlist - start)
            unpack(places, layout, start, size, scratch)
            for at in range(first, end, QUERIES):
                taken = min(QUERIES, end - at)
                for i in range(QUERIES):
                    query = at + min(i, taken - 1)
                    pointers[i] = np.uint64(coded.ctypes.data) + np.uint64(query * stride)
                multiply(places, layout, start, size, taken, stride, scratch, pointers, sums)
                for i in range(taken):
                    query = at + i
                    step = steps[query] if is_whole else _UNITS * steps[query]
                    shift = np.int32((ZERO if is_whole else ZERO + MIDDLE) * totals[query])
                    for j in range(size):
                        dotted = step * np.float32(np.int32(sums[i, j] - shift))
                        rough[query - first, start + j] = scales[start + j] * dotted
        for query in range(first, end):
            length = np.float32(np.sqrt(dot(queries[query], queries[query])))
            nearest[query] = _choose_one(
                rough[query - first],
                coarse,
                queries[query],
                length,
                factors[query],
                lists[query],
                keys,
                theirs[query],
            )


def _choose_all(coarse, queries, factors, lists, theirs, nearest):
    _choose(coarse, queries, factors, lists, theirs, nearest)


@jit
def _indexed(given, metric, origin, queries):
    """Do what `zarrvec.search.space.indexed_queries` does; return whether no length is too small or too large for that."""
    for row in range(given.shape[0]):
        if metric == COSINE:
            square = 0.0
            for j in range(given.shape[1]):
                square += given[row, j] * given[row, j]
            length = np.sqrt(square)
            if not SHORTEST < length < LONGEST:
                return False
            for j in range(given.shape[1]):
                queries[row, j] = np.float32(given[row, j] / length)
        else:
            for j in range(given.shape[1]):
                queries[row, j] = np.float32(given[row, j] - (origin[j] if origin.shape[0] else 0))
    return True


@jit
def _count_lists(lists, chosen):
    """Return how many lists that are not empty were chosen, each counted once; -1 if one of them is not in memory."""
    addresses, counts, _layout = lists
    seen, total = np.zeros(addresses.shape[1], np.bool_), 0
    for number in chosen.flat:
        for part in range(addresses.shape[0]):
            if counts[part, number] > 0:
                if addresses[part, number] == 0:
                    return -1
                total += not seen[number]
        seen[number] = True
    return total


def _find_all(coarse, lists, given, space, mask, ids, distances, tally):
    """Answer queries as they were given, and return whether that could be done; see `zarrvec.search.kernels.find`.

    A mask that is made here would be of another type than that of `scan`, and have all of that compiled again.
    """
    metric, origin, nprobe, far = space
    count = given.shape[0]
    queries, factors = np.empty(given.shape, np.float32), np.ones(count, np.float32)
    if not _indexed(given, metric, origin, queries):
        return False
    squares = np.empty(count, np.float32)
    for row in range(count):
        square = 0.0
        for number in queries[row]:
            square += np.float64(number) * np.float64(number)
        squares[row] = square
        if metric == IP:
            factors[row] = np.sqrt(squares[row])
    chosen, base = np.empty((count, nprobe), np.int64), np.empty((count, nprobe), np.float32)
    nearest = np.empty(count, np.float32)
    _choose(coarse, queries, factors, chosen, base, nearest)
    tally[1], tally[2] = _count_lists(lists, chosen), 0
    if tally[1] < 0:
        return False
    tally[0] = _scan_parts(lists, queries, chosen, np.arange(chosen.size), base, mask, ids, distances)
    for row in range(count):
        if ids[row, ids.shape[1] - 1] == NO_HIT:
            return False
        tally[2] += max(nearest[row] + squares[row], np.float32(0)) > far
        if metric != IP:
            shift = np.float32(1) if metric == COSINE else squares[row]
            for i in range(ids.shape[1]):
                distances[row, i] = max(distances[row, i] + shift, np.float32(0))
    return True


def _cached(function: Any) -> Any:
    """Compile for all later processes if there is a place that this one may write to, else for this one."""
    try:
        return nb.njit(nogil=True, error_model="numpy", cache=True)(function)
    except RuntimeError:  # "no locator available"
        return nb.njit(nogil=True, error_model="numpy")(function)


scan = _cached(_scan_all)
choose = _cached(_choose_all)
find = _cached(_find_all)


def examples() -> list[tuple[Any, tuple[Any, ...]]]:
    """Return the kernels, each with arguments of the only types that it is ever called with: calling it compiles it."""

    def floats(*shape: int) -> Any:
        return np.zeros(shape, np.float32)

    def numbers(*shape: int) -> Any:
        return np.zeros(shape, np.int64)

    lists = np.zeros((1, 1), np.uint64), numbers(1, 1), (1, 4, False, 8)  # at address 0: nothing is read
    plane = np.zeros((1, 1), np.uint8)
    coarse = np.zeros((1, 1), np.int8), plane, plane, *(floats(GLANCE) for _ in range(4))
    mask = False, np.empty(0, np.uint8)
    chosen = numbers(1, 1), floats(1, 1), floats(1)
    found = numbers(1, 1), floats(1, 1)
    return [
        (scan, (lists, floats(1, 1), numbers(1, 1), numbers(1), floats(1, 1), mask, *found)),
        (choose, (coarse, floats(1, 1), floats(1), *chosen)),
        (find, (coarse, lists, np.zeros((1, 1)), (COSINE, floats(1), 1, 1.0), mask, *found, numbers(3))),
    ]


def is_cache_wanting() -> bool:
    """Return whether there is a place for compiled kernels, and one of them is not yet there."""

    def is_stored(kernel: Any, arguments: tuple[Any, ...]) -> bool:
        types = tuple(map(kernel.typeof_pyval, arguments))
        return kernel._cache.load_overload(types, kernel.targetctx) is not None

    return scan.stats.cache_path is not None and not all(is_stored(*example) for example in examples())
