"""How are posting lists scanned by numpy, and what goes in and comes out, whoever scans them?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from zarrvec.search.records import CODE_ZERO, Layout

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
_LARGEST: Final = float(np.finfo(np.float32).max)
"""A larger score is that of an entry that may not be found."""

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

_NO_IDS: Final[Int64] = np.empty(0, dtype=np.int64)


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
        block = np.cumsum(lengths.sum(axis=1)) // _BLOCK_SCORES
        edges = np.flatnonzero(np.diff(block, prepend=-1, append=-1))
        ids, scores = nothing(len(queries), kept)
        for part in map(slice, edges[:-1], edges[1:]):
            pairs = _Pairs(
                lists.layout, addresses, counts, queries[part], numbers[part], base[part], bits, allowed
            )
            for row in range(part.start, part.stop):
                ids[row], scores[row] = pairs.nearest(row - part.start, kept)
        found.append(Found(ids, scores, 0))
    best = found[0] if len(found) == 1 else merge(found, kept)
    return best.ids, best.scores


class _Pairs:
    """The scores of a block of queries with all entries of the lists that they probe."""

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
        self._starts = np.concatenate([[0], np.cumsum(counts[numbers])])
        """Where the scores of each pair of query and list begin, query by query."""
        self._edges = np.searchsorted(rows, np.arange(len(queries) + 1))
        self._scores = np.empty(self._starts[-1], dtype=np.float32)
        self._ids: list[Int64] = [_NO_IDS] * len(rows)
        bases = base[rows, columns]
        order = np.argsort(numbers, kind="stable")
        heads = np.flatnonzero(np.diff(numbers[order], prepend=-1))
        longest = int(counts[numbers].max(initial=0))
        scratch = np.empty(
            (longest, layout.width), dtype=np.float32
        )  # fresh memory for each list takes longer
        for pairs in np.split(order, heads[1:]) if len(order) else []:
            number = numbers[pairs[0]]
            count = int(counts[number])
            size = layout.total_bytes(count) if bits == 8 else layout.head_bytes(count)
            data = np.asarray(_Memory(int(addresses[number]), size))
            entries = layout.unpack(data, count, bits=bits)
            residuals = scratch[:count]
            residuals[...] = (entries.codes ^ np.uint8(CODE_ZERO)).view(np.int8)  # less CODE_ZERO, cast once
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
            best_ids, best_scores = best_of(ids[None, near], scores[None, near], kept)
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
