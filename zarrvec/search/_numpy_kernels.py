"""How are posting lists scanned by numpy, and what goes in and comes out, whoever scans them?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from zarrvec.search.records import Columns, Layout, halves_of

NO_LIST: Final = -1
"""Number of a list that is not to be looked into."""
OCTETS: Final = 64
"""Bytes that one instruction of compiled code takes at most."""
MIDDLE: Final = 8
"""What stands for 0 where compiled code rounds centroids to four bits, as which 0 stays 0: or what is lost of all would point
the same way."""
UNIT: Final = 18
"""What these bits count: the largest numbers, of which each centroid has one, lose little."""
GLANCE: Final = 16
"""Scores, or lists, that compiled code looks at together: what is known of lists is padded to a multiple of that."""
MANY: Final = 1000
"""So many entries compiled code keeps for a query with each id once. Of more, whose comparison would take quadratic time, ids repeat."""
COSINE: Final = 0
IP: Final = 1
"""What compiled code calls these metrics; any other number is ``l2``."""
NO_HIT: Final = -1
"""Id of a place that no entry has taken; its score is infinite."""
_BLOCK_SCORES: Final = 4 << 20
"""Scores that the numpy implementation holds at once."""
_UNTHREADED: Final = 1 << 18
"""Up to so many products OpenBLAS computes in the thread that asks. Above, it wakes others for microseconds of work, and
waits for milliseconds if the cores are busy."""
_RUN_BYTES: Final = 24 << 10
"""Of the planes of lists that are compared with a single query together: fewer calls, yet each takes little fresh memory."""
_SIGNS: Final = np.uint8(0x88)
"""Makes of high planes those of ``code - 128`` as int8."""
_LARGEST: Final = float(np.finfo(np.float32).max)
"""A larger score is that of an entry that may not be found."""

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanInput:
    """Posting lists in memory. The caller keeps their buffers alive while they are scanned."""

    layout: Layout
    """Of all lists."""
    addresses: npt.NDArray[np.uint64]
    """(parts, nlist) uint64: where the first byte of each list of each segment is; 0 for a list that isn't there."""
    counts: Int64
    """(parts, nlist) int64: entries of each list."""


class Found(NamedTuple):
    """The nearest entries of each query."""

    ids: Int64
    """(q, kept) int64, each id once; `NO_HIT` where there are fewer."""
    scores: Float32
    """(q, kept) float32, ascending, of one score the lower id first; infinite where there are fewer."""
    scanned: int
    """Entries compared with a query, over all queries."""


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
    ids, scores = best_of(
        np.concatenate([part.ids for part in parts], axis=1),
        np.concatenate([part.scores for part in parts], axis=1),
        kept,
    )
    return Found(ids, scores, sum(part.scanned for part in parts))


def best_of(ids: Int64, scores: Float32, kept: int) -> tuple[Int64, Float32]:
    """Return the `kept` smallest scores of each row, ascending, each id once."""
    order = np.lexsort((scores, ids))
    ids, scores = np.take_along_axis(ids, order, axis=1), np.take_along_axis(scores, order, axis=1)
    scores[:, 1:][ids[:, 1:] == ids[:, :-1]] = np.inf
    order = np.lexsort((ids, scores))[:, :kept]
    best_ids, best_scores = nothing(len(ids), kept)
    best_scores[:, : order.shape[1]] = np.take_along_axis(scores, order, axis=1)
    best_ids[:, : order.shape[1]] = np.take_along_axis(ids, order, axis=1)
    best_ids[best_scores == np.inf] = NO_HIT
    return best_ids, best_scores


def nothing(queries: int, kept: int) -> tuple[Int64, Float32]:
    return np.full((queries, kept), NO_HIT, dtype=np.int64), np.full(
        (queries, kept), np.inf, dtype=np.float32
    )


def sizes_of(lists: ScanInput, probes: Int64) -> Int64:
    """Return (parts, q, p) int64: how many entries each pair of query and list takes; 0 where there is no list."""
    sizes = np.zeros((len(lists.counts), *probes.shape), dtype=np.int64)
    named = probes >= 0
    numbers = probes[named]
    sizes[:, named] = np.where(lists.addresses[:, numbers] == 0, 0, lists.counts[:, numbers])
    return sizes


def blocks_of(sizes: Int64, most: int) -> list[slice]:
    """Cut a sequence of (n,) sizes into blocks of about so much, each at least of one.

    Examples
    --------
    >>> blocks_of(np.array([4, 4, 4, 9]), 10), blocks_of(np.array([4]), 10), blocks_of(np.array([], "i8"), 10)
    ([slice(0, 2, None), slice(2, 3, None), slice(3, 4, None)], [slice(0, 1, None)], [])
    """
    ends = np.cumsum(sizes)
    if not len(ends) or ends[-1] < most:  # as nearly always
        return [slice(0, len(ends))] * bool(len(ends))
    edges = [0, *(np.flatnonzero(np.diff(ends // most)) + 1).tolist(), len(ends)]
    return list(map(slice, edges[:-1], edges[1:]))


def scan_numpy(
    lists: ScanInput,
    queries: Float32,
    probes: Int64,
    base: Float32,
    sizes: Int64,
    kept: int,
    bits: int,
    allowed: npt.NDArray[Any] | None,
) -> tuple[Int64, Float32]:
    """Do what `zarrvec.search.kernels.scan` does; `sizes` are those of `sizes_of`."""
    found = []
    for addresses, counts, lengths in zip(lists.addresses, lists.counts, sizes, strict=True):
        numbers = np.where(lengths > 0, probes, NO_LIST)
        ids, scores = nothing(len(queries), kept)
        for part in blocks_of(lengths.sum(axis=1), _BLOCK_SCORES):
            pairs = _Pairs(
                lists.layout, addresses, counts, queries[part], numbers[part], base[part], bits, allowed
            )
            for row in range(part.start, part.stop):
                ids[row], scores[row] = pairs.nearest(row - part.start, kept)
        found.append(Found(ids, scores, 0))
    best = found[0] if len(found) == 1 else merge(found, kept)
    return best.ids, best.scores


class _Pairs:
    """The products of a block of queries with all entries of the lists that they probe."""

    def __init__(
        self,
        layout: Layout,
        addresses: npt.NDArray[np.uint64],
        counts: Int64,
        queries: Float32,
        probes: Int64,
        base: Float32,
        bits: int,
        allowed: npt.NDArray[Any] | None,
    ) -> None:
        rows, columns = np.nonzero(probes >= 0)
        numbers = probes[rows, columns]
        self._sizes = counts[numbers]
        self._bases = base[rows, columns]
        self._allowed = allowed
        self._edges = np.searchsorted(rows, np.arange(len(queries) + 1)).tolist()
        """Where the pairs of each query with a list begin."""
        self._starts = [0, *np.cumsum(self._sizes).tolist()]
        """Where the products of each pair begin, query by query."""
        self._products = np.empty(self._starts[-1], dtype=np.float32)
        named = numbers.tolist()
        lists = {number: _list_at(layout, addresses[number], counts[number], bits) for number in set(named)}
        self._lists = [lists[number] for number in named]
        padded = np.zeros((len(queries), 2 * layout.half), dtype=np.float32)
        padded[:, : layout.width] = queries
        if len(queries) == 1:
            self._multiply_runs(padded, layout.half)
        else:
            self._multiply_lists(padded, layout.half, rows, numbers)

    def _multiply_runs(self, query: Float32, half: int) -> None:
        """Compare a single query with some lists at a time."""
        runs = [(run.start, run.stop) for run in blocks_of(self._sizes * half, _RUN_BYTES)]
        starts = self._starts
        scratch = _Scratch(max((starts[stop] - starts[start] for start, stop in runs), default=0), half)
        for start, stop in runs:
            residuals = scratch.residuals(self._lists[start:stop])
            np.matmul(query, residuals.T, out=self._products[None, starts[start] : starts[stop]])

    def _multiply_lists(
        self, queries: Float32, half: int, rows: npt.NDArray[np.intp], numbers: Int64
    ) -> None:
        """Compare each list with all queries that probe it."""
        order = np.argsort(numbers, kind="stable")
        scratch = _Scratch(int(self._sizes.max(initial=0)), half)
        for pairs in np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1) if len(order) else ():
            some = pairs.tolist()
            residuals = scratch.residuals([self._lists[pair] for pair in some[:1]])
            for pair, found in zip(some, _products(queries[rows[pairs]], residuals), strict=True):
                self._products[self._starts[pair] : self._starts[pair + 1]] = found

    def nearest(self, row: int, kept: int) -> tuple[Int64, Float32]:
        """Return the best of one query, each id once."""
        first, last = self._edges[row], self._edges[row + 1]
        lists = self._lists[first:last]
        if not lists:
            ids, scores = nothing(1, kept)
            return ids[0], scores[0]
        scales = np.concatenate([entries.scales for entries in lists])
        dots = self._products[self._starts[first] : self._starts[last]] * scales
        dots += np.repeat(self._bases[first:last], self._sizes[first:last])
        norms = [entries.norms for entries in lists if entries.norms is not None]
        scores = np.concatenate(norms) - 2 * dots if norms else np.negative(dots, out=dots)
        ids = np.concatenate([entries.ids for entries in lists])
        if self._allowed is not None:
            scores[~_among(self._allowed, ids)] = np.inf
        taken = 2 * kept
        while True:
            limit = _LARGEST
            if taken < len(scores):
                limit = min(limit, float(np.partition(scores, taken - 1)[taken - 1]))
            near = np.flatnonzero(scores <= limit)
            best_ids, best_scores = best_of(ids[None, near].astype(np.int64), scores[None, near], kept)
            if limit == _LARGEST or best_scores[0, -1] < np.inf:
                return best_ids[0], best_scores[0]
            taken *= 2


class _Scratch:
    """Memory in which the residuals of lists are made one after the other: fresh memory for each takes longer."""

    def __init__(self, entries: int, half: int) -> None:
        self._planes = np.empty((2, entries, half), dtype=np.uint8)
        self._residuals = np.empty((entries, 2 * half), dtype=np.float32)
        self._half = half

    def residuals(self, lists: Sequence[Columns]) -> Float32:
        """Return the residuals of some lists, one list after the other, in units of their scales; until the next call."""
        highs = [entries.high for entries in lists]
        lows = [entries.low for entries in lists if entries.low is not None]
        count = sum(map(len, highs))
        space = self._planes[:, :count]
        high = np.bitwise_xor(_joined(highs, space[0]), _SIGNS, out=space[0])
        low = _joined(lows, space[1]) if lows else None
        first, second = halves_of(high, low)
        residuals = self._residuals[:count]
        residuals[:, : self._half], residuals[:, self._half :] = first.view(np.int8), second.view(np.int8)
        return residuals


def _joined(planes: Sequence[npt.NDArray[np.uint8]], space: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return planes[0] if len(planes) == 1 else np.concatenate(planes, out=space)


def _products(queries: Float32, residuals: Float32) -> Float32:
    dots = np.empty((len(queries), len(residuals)), dtype=np.float32)
    step = max(1, _UNTHREADED // residuals.size)
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        np.matmul(queries[part], residuals.T, out=dots[part])
    return dots


def _list_at(layout: Layout, address: np.uint64, count: np.int64, bits: int) -> Columns:
    """Return the parts of a posting list in memory."""
    entries = int(count)
    size = layout.total_bytes(entries) if bits == 8 else layout.head_bytes(entries)
    return layout.columns(np.asarray(_Bytes(int(address), size)), entries, bits=bits)


class _Bytes:
    """Bytes at an address, as numpy asks for them."""

    def __init__(self, address: int, size: int) -> None:
        self.__array_interface__ = {"data": (address, True), "shape": (size,), "typestr": "|u1", "version": 3}


def _among(allowed: npt.NDArray[Any], ids: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    inside = (ids >= 0) & (ids < len(allowed))
    inside[inside] = allowed[ids[inside]]
    return inside
