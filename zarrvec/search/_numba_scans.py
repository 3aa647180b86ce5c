"""Which entries of a posting list are among the best of a query, in compiled code?

A list that one query probes is scanned by its high planes first: what can't be among the best by these, for as much as they
have been off so far, is not looked at again, and its low planes are not read. Source: ``specs/decisions/0019-high-planes-first.md``.

Whoever changes this file changes `zarrvec.search._numba_kernels.MADE_OF`.
"""

# numba infers types, and ignores annotations
# ruff: noqa: ANN001, ANN202
# mypy: ignore-errors

from typing import Final

import numpy as np

from zarrvec.search._numba_products import (
    QUERIES,
    ZERO,
    jit,
    multiply,
    places_of,
    read_scalars,
    uint32_at,
    uint64_at,
    unpack,
)
from zarrvec.search._numba_tiles import has_byte_products
from zarrvec.search._numpy_kernels import GLANCE, MANY, OCTETS

_FAR_OFF: Final = np.float32(4 * 4.61)
"""A product with codes whose low planes are left out is expected to be off by four times the standard deviation of these, at most."""
_MORE: Final = np.float32(1.5)
"""So many times as far as any of the entries of the first list it may be off."""
_MIDDLE: Final = np.float32(0.5)
"""A low plane holds so much less than what stands for it where it is left out, by chance."""
_FEW: Final = 8
"""One of so many entries may be multiplied again by itself: more are faster multiplied all."""
_MOST: Final = 7
"""So many queries are scanned for one by one: of more, the arithmetic takes longer than waiting for low planes."""
_BYTES: Final = has_byte_products()
"""Whether lists are multiplied as they are stored."""


@jit
def after(score, row, other_score, other_row):
    return score > other_score or (score == other_score and row > other_row)


@jit
def sift(ids, scores, at, size):
    """Let an element of a heap, the worst on top, sink to its place."""
    score, row = scores[at], ids[at]
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and after(scores[child + 1], ids[child + 1], scores[child], ids[child]):
            child += 1
        if not after(scores[child], ids[child], score, row):
            break
        scores[at], ids[at] = scores[child], ids[child]
        at = child
    scores[at], ids[at] = score, row


@jit
def _offer(ids, scores, row, score):
    known = False
    if ids.shape[0] <= MANY:
        for i in range(ids.shape[0]):  # no early end: this vectorises
            known |= ids[i] == row
    at = 0
    if known:
        while ids[at] != row:
            at += 1
        if not score < scores[at]:
            return
    ids[at], scores[at] = row, score
    sift(ids, scores, at, ids.shape[0])


@jit
def sort(ids, scores):
    for size in range(ids.shape[0] - 1, 0, -1):
        ids[0], ids[size] = ids[size], ids[0]
        scores[0], scores[size] = scores[size], scores[0]
        sift(ids, scores, 0, size)


@jit
def is_for_one(count, layout):
    """Return whether so many queries are to be scanned for one by one."""
    return _BYTES and count <= _MOST and layout[3] == 8 and layout[0] >= 2 * OCTETS


@jit
def expected_off(length):
    """Return how far the product of a query of this length with high planes may be off by chance, negative as long as that is all that is known."""
    return -_FAR_OFF * length


@jit
def _take(row_at, id_bytes, masked, allowed, score, ids, scores):
    """Offer an entry to the best of a query, if it may be found."""
    row = uint64_at(row_at) if id_bytes == 8 else np.uint64(uint32_at(row_at))
    if masked and (row >= np.uint64(allowed.shape[0]) or allowed[row] == 0):
        return
    if score < scores[0] or (score == scores[0] and np.int64(row) < ids[0]):
        _offer(ids, scores, np.int64(row), score)


@jit
def _is_near(found, first, limit):
    near = False
    for i in range(GLANCE):  # this vectorises, and most entries are not looked at again
        near |= found[first + i] <= limit
    return near


@jit
def _keep(found, size, ids_at, id_bytes, masked, allowed, ids, scores):
    """Offer the scores of so many consecutive entries to the best of a query."""
    for first in range(0, size, GLANCE):
        if not _is_near(found, first, scores[0]):
            continue
        for i in range(first, min(first + GLANCE, size)):
            if found[i] <= scores[0]:
                _take(ids_at + np.uint64(id_bytes * i), id_bytes, masked, allowed, found[i], ids, scores)


@jit
def scan_together(lists, coded, probes, order, base, mask, codes, pointers, sums, ids, scores):
    """Scan the lists of a segment for all queries that probe them, by the order of these pairs; return the entries of all pairs."""
    addresses, counts, layout = lists
    masked, allowed = mask
    id_bytes, has_norms = layout[1], layout[2]
    rows_of_queries, steps, totals = coded
    stride = rows_of_queries.strides[0]
    block = sums.shape[1]
    scales, norms, found = (
        np.empty(block, np.float32),
        np.zeros(block, np.float32),
        np.zeros(block + GLANCE, np.float32),
    )
    factor = np.float32(2 if has_norms else 1)
    width, numbers, biases = probes.shape[1], probes.reshape(-1), base.reshape(-1)
    end = scanned = 0
    while end < order.shape[0]:
        begin = end
        number = numbers[order[begin]]
        while end < order.shape[0] and numbers[order[end]] == number:
            end += 1
        if number < 0 or addresses[number] == 0:
            continue
        places = places_of(addresses[number], layout, counts[number])
        scanned += counts[number] * (end - begin)
        for start in range(0, counts[number], block):
            size = min(block, counts[number] - start)
            read_scalars(places, layout, start, scales[:size], norms[:size])
            unpack(places, layout, start, size, codes)
            for at in range(begin, end, QUERIES):
                taken = min(QUERIES, end - at)
                for i in range(QUERIES):  # the last is repeated, and nobody looks at the sums
                    query = order[at + min(i, taken - 1)] // width
                    pointers[i] = np.uint64(rows_of_queries.ctypes.data) + np.uint64(query * stride)
                multiply(places, layout, start, size, taken, stride, codes, pointers, sums)
                for i in range(taken):
                    pair = order[at + i]
                    query = pair // width
                    bias, step, shift = biases[pair], steps[query], np.int32(ZERO * totals[query])
                    for j in range(size):
                        dotted = bias + scales[j] * (step * np.float32(np.int32(sums[i, j] - shift)))
                        found[j] = norms[j] - factor * dotted
                    ids_at = addresses[number] + np.uint64(start * id_bytes)
                    _keep(found, size, ids_at, id_bytes, masked, allowed, ids[query], scores[query])
    return scanned


@jit
def _score(found, sums, scales, norms, size, one, off):
    """Compute the scores of consecutive entries from sums of products of their codes, which may be more by `off`."""
    bias, step, shift, factor = one
    for j in range(size):
        dotted = bias + scales[j] * (step * np.float32(np.int32(sums[j] - shift)) + off)
        found[j] = norms[j] - factor * dotted


@jit
def _measure(off, sums, rough, size, step, middle):
    """Return how far products with high planes alone may be off, by those of so many entries."""
    largest = np.float32(0)
    for j in range(size):
        largest = max(largest, abs(np.float32(np.int32(sums[j] - rough[j])) + middle))
    return max(abs(off), _MORE * step * largest)


@jit
def scan_alone(lists, coded, query, probes, base, mask, scratch, off, ids, scores):
    """Scan the lists of a segment that one query probes; return their entries and how far products may be off.

    Most entries are scanned by their high planes alone, for low planes of those that can't be among the best by these need
    not be read. How far products with high planes are off is learned from all entries of the first list, and from those that
    are multiplied again; where so many are that it doesn't pay, all are.

    Parameters
    ----------
    lists, mask
        As for `zarrvec.search.kernels.scan`, for one segment.
    coded
        Of `zarrvec.search._numba_products.code`: all queries, what a step of each is worth, and the sums of their numbers.
    query
        Which it is.
    probes, base, ids, scores
        As for `scan`: of this query (p,) and (kept,).
    scratch
        Of `code`, addresses of queries, and two of (4, rows) int32.
    off
        Of `expected_off` at first, then as the segment before it returned it.
    """
    addresses, counts, layout = lists
    masked, allowed = mask
    width, id_bytes, has_norms, _bits = layout
    high_planes = width, id_bytes, has_norms, 4
    rows_of_queries, steps, totals = coded
    step, total, stride = steps[query], totals[query], rows_of_queries.strides[0]
    codes, pointers, sums, rough = scratch
    longest = sums.shape[1]
    scales, norms, found = (
        np.empty(longest, np.float32),
        np.zeros(longest, np.float32),
        np.zeros(longest + GLANCE, np.float32),
    )
    factor, middle = np.float32(2 if has_norms else 1), _MIDDLE * np.float32(total)
    scanned, zero = 0, np.float32(0)
    pointers[:] = np.uint64(rows_of_queries.ctypes.data) + np.uint64(query * stride)
    for place in range(probes.shape[0]):
        number = probes[place]
        if number < 0 or addresses[number] == 0:
            continue
        places = places_of(addresses[number], layout, counts[number])
        scanned += counts[number]
        one = base[place], step, np.int32(ZERO * total), factor
        for start in range(0, counts[number], longest):
            size = min(longest, counts[number] - start)
            ids_at = addresses[number] + np.uint64(start * id_bytes)
            read_scalars(places, layout, start, scales[:size], norms[:size])
            is_rough = off < np.inf
            if is_rough:
                multiply(places, high_planes, start, size, 1, stride, codes, pointers, rough)
            if is_rough and off >= 0 and scores[0] < np.inf:
                _score(found, rough[0], scales, norms, size, one, off - step * middle)
                near = 0
                for j in range(size):
                    near += found[j] <= scores[0]
                if near <= size // _FEW:
                    for i in range(size if near else 0):
                        if found[i] <= scores[0]:
                            multiply(places, layout, start + i, 1, 1, stride, codes, pointers, sums)
                            off = _measure(off, sums[0], rough[0, i:], 1, step, middle)
                            _score(found[i:], sums[0], scales[i:], norms[i:], 1, one, zero)
                            row_at = ids_at + np.uint64(id_bytes * i)
                            _take(row_at, id_bytes, masked, allowed, found[i], ids, scores)
                    continue
                off, is_rough = np.float32(np.inf), False
            multiply(places, layout, start, size, 1, stride, codes, pointers, sums)
            if is_rough:
                off = _measure(off, sums[0], rough[0], size, step, middle)
            _score(found, sums[0], scales, norms, size, one, zero)
            _keep(found, size, ids_at, id_bytes, masked, allowed, ids, scores)
    return scanned, off
