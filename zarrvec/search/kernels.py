"""Which entries of posting lists in memory are nearest, of those that each query probes?

The lists are scanned as they were read: bytes of `zarrvec.search.records.Layout`, found by address. A list is decoded
once for all queries that probe it. There are two implementations of one result (but for rounding): numpy, which starts at
once, and `zarrvec.search._numba_kernels`, ten times faster, which takes half a second to load, and so is loaded when numpy
has worked for as long.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from zarrvec.search.records import CODE_ZERO, Layout

NO_LIST: Final = -1
"""Number of a list that is not to be looked into."""
NO_HIT: Final = -1
"""Id of a place that no entry has taken; its score is infinite."""
BREAK_EVEN: Final = 400_000_000
"""Products (entries * width, over all queries so far) that take numpy, at 1 ns each, as long as numba and cached code take
to load. Only the first process on a machine compiles them, in 3 s."""
_BLOCK_SCORES: Final = 4 << 20
"""Scores that the numpy implementation holds at once."""
_UNTHREADED: Final = 1 << 18
"""Up to so many products OpenBLAS computes in the thread that asks. Above, it wakes others for microseconds of work, and
waits for milliseconds if the cores are busy."""
THREADS: Final = min(8, os.cpu_count() or 1)
"""As many as there are processors, and no more than a batch has work for."""
_QUERIES_A_THREAD: Final = 4
"""A thread is worth starting for that many queries."""

_LARGEST: Final = float(np.finfo(np.float32).max)
"""A larger score is that of an entry that may not be found."""

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

_NO_IDS: Final[Int64] = np.empty(0, dtype=np.int64)
_NO_MASK: Final = np.empty(0, dtype=np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanInput:
    """Posting lists in memory. The caller keeps their buffers alive while they are scanned."""

    layout: Layout
    """Of all lists."""
    addresses: npt.NDArray[np.uint64]
    """(nlist,) uint64: where the first byte of each list is; 0 for a list that isn't there."""
    counts: Int64
    """(nlist,) int64: entries of each list."""


class Found(NamedTuple):
    """The nearest entries of each query."""

    ids: Int64
    """(q, kept) int64, each id once; `NO_HIT` where there are fewer."""
    scores: Float32
    """(q, kept) float32, ascending, of one score the lower id first; infinite where there are fewer."""
    scanned: int
    """Entries compared with a query, over all queries."""


class _Numba:
    """What this process knows of numba. Threads may race for it: a count that gets lost costs nothing."""

    products = 0
    """Computed without it."""
    module: ModuleType | None = None
    """The compiled kernels, once they are loaded."""
    missing = False


_numba = _Numba()


def scan(
    lists: ScanInput,
    queries: Float32,
    probes: Int64,
    base: Float32,
    *,
    kept: int,
    bits: int = 8,
    allowed: npt.NDArray[np.bool_] | npt.NDArray[np.uint8] | None = None,
    threads: int = 1,
) -> Found:
    """Find the best entries of each query, each id once with its best score.

    The score, smaller for nearer, is ``norm - 2 * dot`` for a layout with norms (the squared distance less that of the
    query from the origin), else ``-dot``, where ``dot = base + scale * sum(query * (code - 128))``.

    Parameters
    ----------
    lists
        Posting lists, by address.
    queries
        (q, d) float32, finite, as wide as the layout says.
    probes
        (q, p) integers: the lists that each query looks into, none of them twice; negative for none. Fastest if the nearest
        list comes first.
    base
        (q, p) float32: inner product of the query and the centroid of the list.
    kept
        Entries kept for each query, at least 1.
    bits
        4 if only the high planes of the lists are in memory, else 8.
    allowed
        (n,) whether the row of that id may be found; ids from n on may not. None if all may.
    threads
        Threads to scan with, at most.

    Examples
    --------
    >>> from zarrvec.search.records import Entries
    >>> layout = Layout(width=2, id_bytes=4, has_norms=False)
    >>> codes, ones = np.array([[138, 128], [128, 138]], "u1"), np.ones(2, "f4")
    >>> data = layout.pack(Entries(np.array([7, 9]), ones, ones, None, codes))
    >>> lists = ScanInput(
    ...     layout=layout, addresses=np.array([data.ctypes.data], "u8"), counts=np.array([2])
    ... )
    >>> query, nothing = np.array([[1, 2]], "f4"), np.zeros((1, 1), "f4")
    >>> found = scan(lists, query, np.array([[0]]), nothing, kept=3)
    >>> found.ids.tolist(), found.scores.tolist(), found.scanned
    ([[9, 7, -1]], [[-20.0, -10.0, inf]], 2)
    """
    if not probes.size:
        return Found(*_nothing(len(queries), kept), 0)
    compiled = _numba.module
    if compiled is None:
        sizes = _sizes(lists, probes)
        scanned = int(sizes.sum())
        compiled = _compiled(scanned * lists.layout.width)
        if compiled is None:
            probes = np.where(sizes > 0, probes, NO_LIST)
            return Found(*_scan_numpy(lists, queries, probes, base, sizes, kept, bits, allowed), scanned)
    return _scan_compiled(compiled, lists, queries, probes, base, kept, bits, allowed, threads)


def choose(
    products: Float32, squares: Float32, bias: Float32, factors: Float32, count: int, *, threads: int = 1
) -> tuple[Int64, Float32, Float32] | None:
    """Find the lists that each query is to probe, if compiled code for that is loaded; None if it isn't.

    Parameters
    ----------
    products
        (q, nlist) float32: inner products of queries and centroids.
    squares
        (nlist,) float32: squared lengths of the centroids.
    bias
        (nlist,) float32: what is added to ``-2 * products`` for the order of the lists, times a factor.
    factors
        (q,) float32: that factor.
    count
        Lists for each query, at most nlist.
    threads
        Threads to work with, at most.

    Returns
    -------
    lists
        (q, count) int64, the least first.
    products
        (q, count) float32: those of these lists.
    nearest
        (q,) float32: the least of ``squares - 2 * products``.
    """
    if _numba.module is None:
        return None
    compiled = _numba.module
    fixed = _plain(squares, np.float32), _plain(bias, np.float32)
    lists = np.empty((len(products), count), dtype=np.int64)
    theirs = np.empty((len(products), count), dtype=np.float32)
    nearest = np.empty(len(products), dtype=np.float32)

    def choose_part(part: slice) -> None:
        given = _plain(products[part], np.float32), *fixed, _plain(factors[part], np.float32)
        compiled.choose(*given, lists[part], theirs[part], nearest[part])

    workers = min(threads, len(products) // _QUERIES_A_THREAD)
    if workers <= 1:
        choose_part(slice(None))
    else:
        edges = [len(products) * worker // workers for worker in range(workers + 1)]
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(choose_part, map(slice, edges[:-1], edges[1:])))
    return lists, theirs, nearest


def _sizes(lists: ScanInput, probes: Int64) -> Int64:
    """Return how many entries each pair of query and list takes; 0 where there is no list."""
    sizes = np.zeros(probes.shape, dtype=np.int64)
    named = probes >= 0
    numbers = probes[named]
    sizes[named] = np.where(lists.addresses[numbers] == 0, 0, lists.counts[numbers])
    return sizes


def merge(parts: Sequence[Found], kept: int) -> Found:
    """Return the best of several scans for the same queries, each id once.

    Examples
    --------
    >>> first = Found(np.array([[4, 2]]), np.array([[0.5, 1]], "f4"), 9)
    >>> second = Found(np.array([[2, -1]]), np.array([[0.25, np.inf]], "f4"), 5)
    >>> merged = merge([first, second], kept=3)
    >>> merged.ids.tolist(), merged.scores.tolist(), merged.scanned
    ([[2, 4, -1]], [[0.25, 0.5, inf]], 14)
    """
    ids, scores = _best(
        np.concatenate([part.ids for part in parts], axis=1),
        np.concatenate([part.scores for part in parts], axis=1),
        kept,
    )
    return Found(ids, scores, sum(part.scanned for part in parts))


def _best(ids: Int64, scores: Float32, kept: int) -> tuple[Int64, Float32]:
    """Return the `kept` smallest scores of each row, ascending, each id once."""
    order = np.lexsort((scores, ids))
    ids, scores = np.take_along_axis(ids, order, axis=1), np.take_along_axis(scores, order, axis=1)
    scores[:, 1:][ids[:, 1:] == ids[:, :-1]] = np.inf
    order = np.lexsort((ids, scores))[:, :kept]
    best_ids, best_scores = _nothing(len(ids), kept)
    best_scores[:, : order.shape[1]] = np.take_along_axis(scores, order, axis=1)
    best_ids[:, : order.shape[1]] = np.take_along_axis(ids, order, axis=1)
    best_ids[best_scores == np.inf] = NO_HIT
    return best_ids, best_scores


def _nothing(queries: int, kept: int) -> tuple[Int64, Float32]:
    return np.full((queries, kept), NO_HIT, dtype=np.int64), np.full(
        (queries, kept), np.inf, dtype=np.float32
    )


def _compiled(products: int) -> ModuleType | None:
    """Return the compiled kernels if they are worth loading now, and loadable."""
    if not _numba.missing and sys.byteorder == "little":
        _numba.products += products
        if _numba.products >= BREAK_EVEN:
            try:
                _numba.module = importlib.import_module("zarrvec.search._numba_kernels")
            except ImportError:  # not installed, or not for this numpy or Python
                _numba.missing = True
    return _numba.module


def _scan_compiled(
    compiled: ModuleType,
    lists: ScanInput,
    queries: Float32,
    probes: Int64,
    base: Float32,
    kept: int,
    bits: int,
    allowed: npt.NDArray[Any] | None,
    threads: int,
) -> Found:
    layout = lists.layout
    described = (
        _plain(lists.addresses, np.uint64),
        _plain(lists.counts, np.int64),
        (layout.width, layout.id_bytes, bool(layout.has_norms), bits),
    )
    mask = (allowed is not None, _NO_MASK if allowed is None else _plain(allowed).view(np.uint8))

    def scan_part(part: slice | npt.NDArray[np.intp]) -> Found:
        numbers = _plain(probes[part], np.int64)
        ids = np.empty((len(numbers), kept), dtype=np.int64)
        scores = np.empty((len(numbers), kept), dtype=np.float32)
        scanned = compiled.scan(
            described,
            _plain(queries[part], np.float32),
            numbers,
            _order(numbers, len(lists.counts)),
            _plain(base[part], np.float32),
            mask,
            ids,
            scores,
        )
        return Found(ids, scores, scanned)

    workers = min(threads, len(queries) // _QUERIES_A_THREAD)
    if workers <= 1:
        return scan_part(slice(None))
    # lists are in order of similarity, so queries of neighbouring first lists share more of them
    near = np.argsort(probes[:, 0])
    ids = np.empty((len(queries), kept), dtype=np.int64)
    scores = np.empty((len(queries), kept), dtype=np.float32)
    parts, scanned = np.array_split(near, workers), 0
    with ThreadPoolExecutor(workers) as pool:
        for part, found in zip(parts, pool.map(scan_part, parts), strict=True):
            ids[part], scores[part] = found.ids, found.scores
            scanned += found.scanned
    return Found(ids, scores, scanned)


def _plain(array: npt.NDArray[Any], dtype: npt.DTypeLike | None = None) -> npt.NDArray[Any]:
    """Return an array as numba takes it: anything else, even one that is read-only, has it compile all anew."""
    array = np.ascontiguousarray(array, dtype=dtype)
    return array if array.flags.carray else array.copy()


def _order(probes: Int64, nlist: int) -> npt.NDArray[np.intp]:
    """Return the order of the pairs of query and list, flattened: pairs of one list follow each other.

    The first list of each query goes before all others. Being the nearest, it sets a limit that few entries pass later.
    """
    if len(probes) == 1:
        return np.arange(probes.size)
    keys = probes.copy()
    keys[:, 1:] += nlist
    return np.argsort(keys, axis=None)


def _scan_numpy(
    lists: ScanInput,
    queries: Float32,
    probes: Int64,
    base: Float32,
    sizes: Int64,
    kept: int,
    bits: int,
    allowed: npt.NDArray[Any] | None,
) -> tuple[Int64, Float32]:
    block = np.cumsum(sizes.sum(axis=1)) // _BLOCK_SCORES
    edges = np.flatnonzero(np.diff(block, prepend=-1, append=-1))
    ids = np.empty((len(queries), kept), dtype=np.int64)
    scores = np.empty((len(queries), kept), dtype=np.float32)
    for part in map(slice, edges[:-1], edges[1:]):
        pairs = _Pairs(lists, queries[part], probes[part], base[part], bits, allowed)
        for row in range(part.start, part.stop):
            ids[row], scores[row] = pairs.nearest(row - part.start, kept)
    return ids, scores


class _Pairs:
    """The scores of a block of queries with all entries of the lists that they probe."""

    def __init__(
        self,
        lists: ScanInput,
        queries: Float32,
        probes: Int64,
        base: Float32,
        bits: int,
        allowed: npt.NDArray[Any] | None,
    ) -> None:
        rows, columns = np.nonzero(probes >= 0)
        numbers = probes[rows, columns]
        self._starts = np.concatenate([[0], np.cumsum(lists.counts[numbers])])
        """Where the scores of each pair of query and list begin, query by query."""
        self._edges = np.searchsorted(rows, np.arange(len(queries) + 1))
        self._scores = np.empty(self._starts[-1], dtype=np.float32)
        self._ids: list[Int64] = [_NO_IDS] * len(rows)
        bases = base[rows, columns]
        order = np.argsort(numbers, kind="stable")
        heads = np.flatnonzero(np.diff(numbers[order], prepend=-1))
        for pairs in np.split(order, heads[1:]) if len(order) else []:
            number = numbers[pairs[0]]
            count = int(lists.counts[number])
            size = lists.layout.total_bytes(count) if bits == 8 else lists.layout.head_bytes(count)
            data = np.asarray(_Memory(int(lists.addresses[number]), size))
            entries = lists.layout.unpack(data, count, bits=bits)
            residuals = (entries.codes ^ np.uint8(CODE_ZERO)).view(np.int8).astype(np.float32)
            dots = _products(queries[rows[pairs]], residuals)
            dots *= entries.scales
            dots += bases[pairs, None]
            scores = np.negative(dots, out=dots) if entries.norms is None else entries.norms - 2 * dots
            ids = entries.ids.astype(np.int64)
            if allowed is not None:
                scores[:, ~_among(allowed, ids)] = np.inf
            for pair, found in zip(pairs.tolist(), scores, strict=True):
                self._scores[self._starts[pair] : self._starts[pair + 1]] = found
                self._ids[pair] = ids

    def nearest(self, row: int, kept: int) -> tuple[Int64, Float32]:
        """Return the best of one query, each id once."""
        first, last = self._edges[row], self._edges[row + 1]
        scores = self._scores[self._starts[first] : self._starts[last]]
        ids = np.concatenate([_NO_IDS, *self._ids[first:last]])
        taken = 2 * kept
        while True:
            limit = _LARGEST
            if taken < len(scores):
                limit = min(limit, float(np.partition(scores, taken - 1)[taken - 1]))
            near = np.flatnonzero(scores <= limit)
            best_ids, best_scores = _best(ids[None, near], scores[None, near], kept)
            if limit == _LARGEST or best_scores[0, -1] < np.inf:
                return best_ids[0], best_scores[0]
            taken *= 2


def _products(queries: Float32, residuals: Float32) -> Float32:
    dots = np.empty((len(queries), len(residuals)), dtype=np.float32)
    step = max(1, _UNTHREADED // residuals.size)
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        np.matmul(queries[part], residuals.T, out=dots[part])
    return dots


class _Memory:
    """Bytes at an address, as numpy asks for them."""

    def __init__(self, address: int, size: int) -> None:
        self.__array_interface__ = {"data": (address, True), "shape": (size,), "typestr": "|u1", "version": 3}


def _among(allowed: npt.NDArray[Any], ids: Int64) -> npt.NDArray[np.bool_]:
    inside = (ids >= 0) & (ids < len(allowed))
    inside[inside] = allowed[ids[inside]]
    return inside
