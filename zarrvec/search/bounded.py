"""Which rows can be among the nearest at all, as the index proves? Exact search reads only those.

The k-th least upper bound of distinct rows, see `zarrvec.search.bounds`, is a threshold: a list or a row whose lower bound
lies above it is out. What is left is compared by `zarrvec.search.exact`, so the answer is the same as if all rows had been.

Source: ``specs/vector-index.md``, section "Exact search".
"""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from zarrvec.search.blocks import grid_of, plan_blocks
from zarrvec.search.bounds import Centres, Gathered, Geometry
from zarrvec.search.cache import LISTS, ROOTS
from zarrvec.search.depth import waves
from zarrvec.search.editing import deleted_of
from zarrvec.search.exact import search_exact
from zarrvec.search.head import Head
from zarrvec.search.hits import Hits
from zarrvec.search.index import WHOLE_BYTES, Index, open_index
from zarrvec.search.inputs import as_queries
from zarrvec.search.lists import read_lists
from zarrvec.search.metrics import Metric, unit_rows
from zarrvec.search.places import Snapshot
from zarrvec.search.roots import Centroids
from zarrvec.search.space import indexed_queries, is_far
from zarrvec.search.topk import NO_ID

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

TRIED_SHARE: Final = 1 / 32
"""Opening the index and the first lists may cost this part of what reading the rows costs; it is lost if bounds don't help."""
GROWTH: Final = 8
"""A wave of lists has at most so many times the bytes of all before it, since each one lowers the thresholds."""
_WAVE_SHARE: Final = 16
"""A wave takes this part of the memory as it is stored, and about six times that as numbers."""
_TILE_SHARE: Final = 4
_PAIR_BYTES: Final = 96
"""Bytes for each pair of entry and query of a tile: a dozen float64 temporaries."""
_NEAR_SHARE: Final = 8
_NEAR_BYTES: Final = 24
_BEST_BYTES: Final = 160
"""Bytes for each of the k of a query while thresholds are lowered."""
_PLANNED_BYTES: Final = 32 << 20
_SAFE: Final = (1e-15, 1e15)
"""Lengths of queries between which no product with a float32 row over- or underflows; others are compared with all rows."""
_FAR: Final = 1e18
"""A tenth of the length, less the origin, from which on a row is too long for its square to be float32."""


@dataclass(slots=True, kw_only=True)
class Read:
    """What of an index was read."""

    lists: int = 0
    """Posting lists."""
    entries: int = 0
    """Pairs of entry and query."""


def search_bounded(
    snapshot: Snapshot,
    head: Head | None,
    queries: npt.ArrayLike,
    k: int,
    *,
    metric: Metric,
    where: Mask | None,
    include_vectors: bool,
    memory_bytes: int,
) -> Hits:
    """Find the k nearest rows of each query exactly, and read only what the bounds leave, if that is less.

    Parameters
    ----------
    snapshot
        Of the array.
    head
        Of its index; None if there is none. Where a store has no versions it is used for deleted rows only, for nobody
        would know that a row was overwritten after it was indexed.
    queries, k, metric, include_vectors, memory_bytes
        As for `zarrvec.search.exact.search_exact`.
    where
        Of the leading shape: rows that may be hits.

    Returns
    -------
    Hits
        Those of `search_exact`.
    """
    array = snapshot.array
    leading = array.shape[:-1]
    batch, _ = as_queries(queries, array.shape[-1])
    read, near = Read(), where
    if head is not None:
        fits = batch.size > 0 and _is_bounded(snapshot, head, batch, metric)
        whole = _row_bytes(snapshot, where) if fits else 0
        fits = fits and _opening_bytes(head) <= TRIED_SHARE * whole
        if fits:
            index = open_index(snapshot, head)
            near = _living(where, index.deleted, leading)
            if not is_far(index.centroids.origin) and _holds(head, len(batch), k, near, memory_bytes):
                found = _Narrowing(snapshot, index, batch, k, near, memory_bytes, whole).run(read)
                near = near if found is None else found.reshape(leading)
        else:
            near = _living(where, deleted_of(snapshot, head), leading)
    hits = search_exact(
        array,
        queries,
        k,
        metric=metric,
        where=near,
        include_vectors=include_vectors,
        memory_bytes=memory_bytes,
    )
    part = hits.stats.bytes_decoded / max(1, array.nbytes)
    stats = replace(hits.stats, lists=read.lists, entries=read.entries, part_read=part)
    if snapshot.is_versioned:
        spent = snapshot.stats
        stats = replace(stats, requests=spent.requests, bytes_read=spent.bytes, rounds=spent.rounds)
    return replace(hits, stats=stats)


def _holds(head: Head, queries: int, k: int, near: Mask | None, memory_bytes: int) -> bool:
    """Return whether more rows can be found than are asked for, and their thresholds and all bounds of lists fit."""
    rows = head.covered if near is None else int(np.count_nonzero(near))
    needed = queries * (4 * head.nlist + _BEST_BYTES * k)
    return k < rows and needed <= memory_bytes // _TILE_SHARE


def _living(where: Mask | None, deleted: Int64, leading: tuple[int, ...]) -> Mask | None:
    if not deleted.size:
        return where
    living = np.ones(leading, dtype=np.bool_) if where is None else where.copy()
    living.reshape(-1)[deleted[deleted < living.size]] = False
    return living


def _is_bounded(snapshot: Snapshot, head: Head, queries: Float64, metric: Metric) -> bool:
    """Return whether bounds can be had, whatever they are worth."""
    if metric != head.metric or not snapshot.is_versioned or head.leading[1:] != snapshot.array.shape[1:-1]:
        return False
    if metric == "ip" and head.rows < head.covered and np.dtype(snapshot.array.dtype).itemsize >= 4:
        return False  # a row that no list has may be a long one, which is near everything on its side
    lengths = unit_rows(queries)[1]
    if metric == "cosine":
        return bool(lengths.all())  # all rows tie for a query of zeros
    return bool((((lengths >= _SAFE[0]) | ((lengths == 0) & (metric == "l2"))) & (lengths <= _SAFE[1])).all())


def _opening_bytes(head: Head) -> int:
    """Return what of an index is read to open it, as far as it isn't in memory."""
    state = ("state", head.revision)
    held = ROOTS.get_many([state, *(("segment", segment.id) for segment in head.segments)])
    missing = [segment for segment in head.segments if ("segment", segment.id) not in held]
    entries = sum(segment.entries for segment in head.segments) * head.layout.entry_bytes
    size = 0 if state in held else 8 * (head.units + head.deleted)
    if head.segments[0] in missing or head.segments[0].groups is not None:
        size += head.nlist * head.layout.list_bytes
    if entries <= WHOLE_BYTES:  # it is read whole
        size += sum(segment.entries for segment in missing) * head.layout.entry_bytes
    return size


def _row_bytes(snapshot: Snapshot, mask: Mask | None) -> int:
    """Return the decoded bytes of the chunks that hold some rows."""
    blocks = plan_blocks(grid_of(snapshot.array), block_bytes=_PLANNED_BYTES, mask=mask)
    return sum(block.bytes_decoded for block in blocks)


class _Narrowing:
    """Reads lists until no other can matter."""

    def __init__(
        self,
        snapshot: Snapshot,
        index: Index,
        queries: Float64,
        k: int,
        where: Mask | None,
        memory_bytes: int,
        whole_bytes: int,
    ) -> None:
        self._snapshot = snapshot
        self._index = index
        self._queries = queries
        self._k = k
        self._memory_bytes = memory_bytes
        self._whole_bytes = whole_bytes
        rows = int(np.prod(snapshot.array.shape[:-1], dtype=np.int64))
        self._allowed = np.ones(rows, dtype=np.bool_) if where is None else where.reshape(-1).copy()
        self._fresh = np.zeros(rows, dtype=np.bool_)
        if index.uncovered is not None:
            self._fresh |= self._allowed & index.uncovered.reshape(-1)
            self._allowed &= ~self._fresh
        self._near: list[tuple[Int64, Int64, Float64]] = []
        """Queries, ids and lower bounds of the rows that may be among the nearest."""
        self._best_ids = np.full((len(queries), k), NO_ID, dtype=np.int64)
        self._best = np.full((len(queries), k), np.inf)
        """(q, k) least upper bounds of distinct rows, ascending."""

    def run(self, read: Read) -> Mask | None:
        """Return (rows,) what must be compared in full; None if that and the lists are more than all rows."""
        head = self._index.head
        centroids = self._index.centroids.load(self._snapshot)
        self._sizes = self._index.sizes(8)
        to_read = self._sizes_to_read()
        wave = self._first(to_read, centroids)
        if wave is None:
            return None
        self._geometry = Geometry(centroids.compass, centroids.origin, self._queries)
        bounds = self._list_bounds()
        left = self._index.counts() > 0
        before = 0
        while True:
            for part in waves(wave, self._sizes[wave], self._memory_bytes // _WAVE_SHARE):
                if not self._read(part, read):
                    return None
            left[wave] = False
            before += int(self._sizes[wave].sum())
            surplus = (bounds - self._best[:, -1:]).min(axis=0)
            needed = np.flatnonzero(left & (surplus <= 0))
            cost = int(to_read[needed].sum()) + _row_bytes(self._snapshot, self._compared())
            if cost >= self._whole_bytes:
                return None
            if not needed.size:
                break
            needed = needed[np.argsort(surplus[needed], kind="stable")]
            wave = np.sort(next(waves(needed, self._sizes[needed], GROWTH * before)))
        if head.rows < head.covered and not self._is_beyond_reach():
            return None
        return self._compared().reshape(-1)

    def _is_beyond_reach(self) -> bool:
        """Return whether a row cannot be among the nearest if it is in no list since it is too long for float32."""
        near = (self._best[:, -1] < _FAR**2).all() and (self._geometry.lengths < _FAR).all()
        return bool(near) or self._index.head.metric == "cosine"

    def _sizes_to_read(self) -> Int64:
        """Return the (nlist,) bytes of each list that are not in memory."""
        sizes = np.zeros_like(self._sizes)
        for part in self._index.parts:
            numbers = np.flatnonzero(part.counts)
            held = LISTS.get_many([(part.id, number) for number in numbers.tolist()])
            absent = part.sizes(8)
            absent[[number for (_, number), kept in held.items() if kept.bits == 8]] = 0
            sizes += absent
        return sizes

    def _first(self, to_read: Int64, centroids: Centroids) -> Int64 | None:
        """Return the lists nearest to the queries; None if even one for each takes too much to try."""
        head = self._index.head
        affordable = TRIED_SHARE * self._whole_bytes
        nprobe = head.calibration.nprobe_for(0.9, self._k, bits=None) or 1
        queries = indexed_queries(self._queries, head.metric, centroids.origin)
        while nprobe:
            numbers = np.unique(centroids.compass.probe(queries, nprobe).lists)
            if int(to_read[numbers].sum()) <= affordable:
                return numbers[self._sizes[numbers] > 0]
            nprobe //= 2
        return None

    def _list_bounds(self) -> Float32:
        """Return (q, nlist) lower bounds, rounded down."""
        radii = np.max([part.radii for part in self._index.parts], axis=0).astype(np.float64)
        bounds = np.empty((len(self._queries), len(radii)), dtype=np.float32)
        step = max(1, self._memory_bytes // (_TILE_SHARE * _PAIR_BYTES * len(self._queries)))
        for start in range(0, len(radii), step):
            tile = slice(start, start + step)
            found = self._geometry.of_lists(self._geometry.centres(tile), radii[tile])
            bounds[:, tile] = np.nextafter(found.astype(np.float32), np.float32(-np.inf))
        return bounds

    def _read(self, numbers: Int64, read: Read) -> bool:
        """Read some lists, and compare what they hold with all queries; return whether what is near fits into memory."""
        centres = self._geometry.centres(numbers)
        entries = self._gather(numbers, centres, read)
        count = len(entries.ids)
        if not count:
            return True
        read.entries += count * len(self._queries)
        step = max(1, self._memory_bytes // (_TILE_SHARE * _PAIR_BYTES * count))
        for start in range(0, len(self._queries), step):
            tile = slice(start, min(start + step, len(self._queries)))
            lower, upper = self._geometry.of_entries(centres, entries, tile)
            self._lower_thresholds(tile, entries.ids, upper)
            query, entry = np.nonzero(lower <= self._best[tile, -1:])
            self._near.append((query + start, entries.ids[entry], lower[query, entry]))
            if not self._fits():
                return False
        return True

    def _gather(self, numbers: Int64, centres: Centres, read: Read) -> Gathered:
        """Read some lists, and keep what may be found of them."""
        index = self._index
        wanted = [(part, numbers[part.counts[numbers] > 0]) for part in index.parts]
        gathered = []
        for part, lists in zip(index.parts, read_lists(self._snapshot, wanted, 8), strict=True):
            read.lists += len(lists)
            for number, kept in sorted(lists.items()):
                entries = part.layout.unpack(kept.data, int(part.counts[number]))
                place = int(np.searchsorted(numbers, number))
                gathered.append(Gathered.of(entries, centres.vectors[place], place, self._allowed))
        return Gathered(*map(np.concatenate, zip(*gathered, strict=True)))

    def _lower_thresholds(self, tile: slice, ids: Int64, upper: Float64) -> None:
        """Take in upper bounds, (q, m) for the queries of the tile."""
        some = min(2 * self._k, len(ids))  # a row stands in up to two lists
        if some < len(ids):
            least = np.argpartition(upper, some - 1, axis=1)[:, :some]
        else:
            least = np.broadcast_to(np.arange(some), upper.shape)
        bounds = np.concatenate([self._best[tile], np.take_along_axis(upper, least, axis=1)], axis=1)
        names = np.concatenate([self._best_ids[tile], ids[least]], axis=1)
        order = np.lexsort((bounds, names), axis=1)
        bounds, names = np.take_along_axis(bounds, order, axis=1), np.take_along_axis(names, order, axis=1)
        bounds[:, 1:][names[:, 1:] == names[:, :-1]] = np.inf
        order = np.argsort(bounds, axis=1, kind="stable")[:, : self._k]
        self._best[tile] = np.take_along_axis(bounds, order, axis=1)
        self._best_ids[tile] = np.take_along_axis(names, order, axis=1)

    def _fits(self) -> bool:
        """Drop rows that the thresholds rule out by now if all are too many; return whether they still are not."""
        most = self._memory_bytes // (_NEAR_SHARE * _NEAR_BYTES)
        if sum(len(ids) for _, ids, _ in self._near) > most:
            self._prune()
        return sum(len(ids) for _, ids, _ in self._near) <= most

    def _prune(self) -> None:
        """Drop rows that the thresholds rule out by now."""
        self._near = [
            (query[still], ids[still], lower[still])
            for query, ids, lower in self._near
            for still in [lower <= self._best[query, -1]]
        ]

    def _compared(self) -> Mask:
        """Return what must be compared in full as far as is known, of the leading shape."""
        self._prune()
        compared = self._fresh.copy()
        for _, ids, _ in self._near:
            compared[ids] = True
        return compared.reshape(self._snapshot.array.shape[:-1])
