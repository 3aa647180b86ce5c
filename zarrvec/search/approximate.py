"""Which rows are nearest, by the index? One wave of posting lists, and a scan.

Rows that are in no list as they are now are compared exactly and merged in. Source: ``specs/vector-index.md``, section
"Search".
"""

import contextvars
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from zarrvec.engine.traffic import Traffic, counting
from zarrvec.search.depth import Depth, Probes, waves
from zarrvec.search.exact import Compared, compare_rows
from zarrvec.search.index import Index
from zarrvec.search.kernels import NO_HIT, THREADS, Found, ScanInput, Space, find, is_compiled, merge, scan
from zarrvec.search.lists import read_lists
from zarrvec.search.metrics import pair_distances, unit_rows
from zarrvec.search.places import Snapshot
from zarrvec.search.prepared import Prepared
from zarrvec.search.reading import read_rows
from zarrvec.search.resident import Lists
from zarrvec.search.roots import Centroids
from zarrvec.search.space import distances_of, indexed_queries

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_FEW: Final = 7
"""Up to so many queries one thread answers."""
_WIDEN: Final = 2
"""Factor by which nprobe grows when too few of the selected rows were met."""
_FEWER: Final = 0.8
"""Too few are less than this part of what as many lists hold on average: then the selected rows lie elsewhere."""
_MORE_THERE: Final = 6.0
"""In that case so many times what they hold on average must be met, for what is far away is spread over many lists."""
_PAIR_BYTES: Final = 48
"""What is held of a query and a list, at most: of all lists without compiled code, of those probed with it."""


@dataclass(slots=True, kw_only=True)
class Answer:
    """The nearest rows, and what finding them took."""

    ids: Int64
    """(q, k) int64; fewer columns if fewer rows can match."""
    distances: npt.NDArray[np.float32] | npt.NDArray[np.float64]
    """(q, k)."""
    depth: Depth
    lists: int = 0
    entries: int = 0
    exact_rows: int = 0
    """Rows that were compared as they are since no list has them."""
    unlike: int = 0
    """Queries farther from the index than those it was calibrated on."""
    seconds: dict[str, float] = field(default_factory=dict)


def search_lists(prepared: Prepared, snapshot: Snapshot, queries: npt.NDArray[np.float64]) -> Answer:
    """Find the nearest rows.

    Parameters
    ----------
    prepared
        For this view.
    snapshot
        Of the same view; notes what is read.
    queries
        (q, d) as given, at least one.
    """
    return _Search(prepared, snapshot, queries).run()


def answer_at_once(prepared: Prepared, queries: npt.NDArray[np.float64]) -> Answer | None:
    """Find the nearest rows for a few queries if that takes nothing but lists in memory; None if it takes more."""
    index, asked, root = prepared.index, prepared.asked, prepared.index.centroids
    lists = index.resident[asked.bits].lists
    if lists is None or len(queries) > _FEW or not prepared.is_plain or not isinstance(root, Centroids):
        return None
    started = time.perf_counter()
    compass, depth = root.compass, prepared.depth
    nprobe = min(depth.nprobe, len(compass.squares))
    found = find(
        ScanInput(layout=index.head.layout, addresses=lists.addresses, counts=index.part_counts),
        compass.coarse,
        queries,
        Space(prepared.metric, root.origin, nprobe, index.head.calibration.far),
        kept=asked.k,
        bits=asked.bits,
    )
    if found is None:
        return None
    return Answer(
        ids=found.ids,
        distances=found.distances,
        depth=depth,
        lists=found.lists,
        entries=found.entries,
        unlike=found.unlike,
        seconds={"probe": 0.0, "read": 0.0, "scan": time.perf_counter() - started},
    )


class _Search:
    def __init__(self, prepared: Prepared, snapshot: Snapshot, queries: npt.NDArray[np.float64]) -> None:
        self._prepared = prepared
        self._snapshot = snapshot
        self._index = prepared.index
        self._asked = prepared.asked
        self._given = queries
        self._queries = indexed_queries(queries, prepared.metric, self._index.centroids.origin)
        self._seconds = {"probe": 0.0, "read": 0.0, "scan": 0.0}
        self._seen = np.zeros((len(self._index.parts), self._index.head.nlist), dtype=np.bool_)
        self._unlike = 0

    def run(self) -> Answer:
        prepared = self._prepared
        if prepared.fresh is None:
            ids, distances, entries = self._search_lists()
            exact_rows = 0
        else:
            spent = self._snapshot.stats
            rounds = spent.rounds
            with ThreadPoolExecutor(max_workers=1, thread_name_prefix="zarrvec-search") as pool:
                exact = pool.submit(contextvars.copy_context().run, self._search_fresh)
                with counting() as ranked:
                    ids, distances, entries = self._search_lists()
            compared, fresh = exact.result()
            spent.add(ranked)
            fresh.rounds -= min(fresh.rounds, spent.rounds - rounds)  # they went on side by side
            spent.add(fresh)
            exact_rows = compared.stats.vectors
            ids = np.concatenate([ids, compared.ids], axis=1)
            distances = np.concatenate([distances, compared.distances], axis=1)
        if prepared.depth.rerank or prepared.fresh is not None:
            ids, distances = _nearest(ids, distances, self._asked.k)
        ids, distances = _full(ids, distances)
        return Answer(
            ids=ids,
            distances=distances,
            depth=prepared.depth,
            lists=int(np.count_nonzero(self._seen)),
            entries=entries,
            exact_rows=exact_rows,
            unlike=self._unlike,
            seconds=self._seconds,
        )

    def _search_fresh(self) -> tuple[Compared, Traffic]:
        with counting() as traffic:
            compared = compare_rows(
                self._snapshot.array,
                self._given,
                self._asked.k,
                metric=self._prepared.metric,
                where=self._prepared.fresh,
                memory_bytes=self._asked.memory_bytes,
            )
        return compared, traffic

    def _search_lists(self) -> tuple[Int64, npt.NDArray[np.float64], int]:
        """Scan; scan more for queries that met too few of the selected rows, as where these lie far from them."""
        prepared, depth = self._prepared, self._prepared.depth
        nlist, nprobe, count = self._index.head.nlist, depth.nprobe, len(self._queries)
        ids = np.full((count, prepared.kept), NO_HIT, dtype=np.int64)
        scores = np.full((count, prepared.kept), np.inf, dtype=np.float32)
        asking, enough, entries = np.arange(count), np.zeros(count), 0
        while asking.size and prepared.selected:
            missed = np.zeros(len(asking), dtype=np.bool_)
            for part in _parts(len(asking), self._asked.memory_bytes // self._pair_bytes(nprobe)):
                some = asking[part]
                started = time.perf_counter()
                queries = self._queries if len(some) == count else self._queries[some]
                probes = self._index.centroids.probe(self._snapshot, queries, nprobe)
                self._seconds["probe"] += time.perf_counter() - started
                if nprobe == depth.nprobe:
                    self._unlike += int(np.count_nonzero(probes.nearest > self._index.head.calibration.far))
                    if prepared.allowed is not None:
                        met = self._index.counts()[probes.lists].sum(axis=1)
                        enough[part] = _FEWER * prepared.share * met
                found, passed = self._scan(queries, probes)
                ids[some], scores[some] = found.ids, found.scores
                entries += found.scanned
                missed[part] = found.ids[:, self._asked.k - 1] == NO_HIT
                if passed is not None and self._asked.nprobe is None:
                    missed[part] |= passed < enough[part]
            if nprobe >= nlist:
                break
            if nprobe == depth.nprobe:
                enough *= _MORE_THERE / _FEWER
            asking, enough = asking[missed], enough[missed]
            nprobe = min(nlist, _WIDEN * nprobe)
        if depth.rerank:
            return ids, self._distances_of_rows(ids), entries
        return ids, distances_of(scores, self._queries, prepared.metric).astype(np.float64), entries

    def _pair_bytes(self, nprobe: int) -> int:
        """Return about the bytes that a query takes while lists are chosen for it and scanned."""
        return _PAIR_BYTES * (nprobe if is_compiled() else self._index.head.nlist)

    def _scan(self, queries: Float32, probes: Probes) -> tuple[Found, Int64 | None]:
        """Return the best entries in the lists probed, and how many selected ones each query met."""
        index, bits, kept, allowed = (
            self._index,
            self._asked.bits,
            self._prepared.kept,
            self._prepared.allowed,
        )
        found: list[Found] = []
        passing = None if allowed is None else np.zeros(index.head.nlist, dtype=np.int64)
        numbers = np.flatnonzero(np.bincount(probes.lists.ravel(), minlength=index.head.nlist))
        counts = index.part_counts
        for wave in waves(numbers, index.sizes(bits, numbers), self._asked.memory_bytes):
            there = counts[:, wave] > 0
            self._seen[:, wave] |= there
            lists = self._lists(wave, there)
            started = time.perf_counter()
            now = probes.lists
            if len(wave) < len(numbers):
                now = np.where(np.isin(now, wave), now, -1)
            found.append(
                scan(
                    ScanInput(layout=index.head.layout, addresses=lists.addresses, counts=counts),
                    queries,
                    now,
                    probes.products,
                    kept=kept,
                    bits=bits,
                    allowed=allowed,
                    threads=THREADS,
                )
            )
            if passing is not None:
                _count_allowed(index, lists, wave, allowed, passing)
            self._seconds["scan"] += time.perf_counter() - started
        best = found[0] if len(found) == 1 else merge(found, kept)
        return best, None if passing is None else passing[probes.lists].sum(axis=1)

    def _lists(self, wave: Int64, there: Mask) -> Lists:
        """Return lists, as many of each segment as are there (parts, wave), from memory or by one wave of requests."""
        index, bits = self._index, self._asked.bits
        lists = index.resident[bits].lists
        if lists is not None and (lists.addresses[:, wave].astype(np.bool_) == there).all():
            return lists
        started = time.perf_counter()
        wanted = [(part, wave[row]) for part, row in zip(index.parts, there, strict=True)]
        lists = Lists(np.zeros(self._seen.shape, dtype=np.uint64), {})
        for row, (part, found) in enumerate(
            zip(index.parts, read_lists(self._snapshot, wanted, bits), strict=True)
        ):
            for number, kept in found.items():
                lists.held[part.id, number] = kept
                lists.addresses[row, number] = kept.address
        if is_compiled():
            index.resident[bits].borrow(lists.held)
        self._seconds["read"] += time.perf_counter() - started
        return lists

    def _distances_of_rows(self, ids: Int64) -> npt.NDArray[np.float64]:
        """Return the distances of the rows themselves, (q, kept) float64."""
        started = time.perf_counter()
        distances = np.full(ids.shape, np.inf)
        query, column = np.nonzero(ids != NO_HIT)
        unique, row = np.unique(ids[query, column], return_inverse=True)
        array, metric = self._snapshot.array, self._prepared.metric
        rows = read_rows(array, unique, array.ndim - 1)
        queries = unit_rows(self._given)[0] if metric == "cosine" else self._given
        distances[query, column] = pair_distances(metric, rows, row, queries, query)
        self._seconds["rerank"] = time.perf_counter() - started
        return distances


def _parts(count: int, most: int) -> Iterator[slice]:
    """Cut so many queries into parts of no more than that, at least one.

    Examples
    --------
    >>> [part.stop - part.start for part in _parts(10, 4)]
    [4, 4, 2]
    """
    step = max(1, most)
    for start in range(0, count, step):
        yield slice(start, min(count, start + step))


def _count_allowed(index: Index, lists: Lists, wave: Int64, allowed: Mask | None, passing: Int64) -> None:
    """Add to (nlist,) how many entries of each list may be found."""
    assert allowed is not None
    id_bytes = index.head.layout.id_bytes
    for part in index.parts:
        for number in wave.tolist():
            kept = lists.held.get((part.id, number))
            if kept is not None:
                ids = kept.data[: int(part.counts[number]) * id_bytes].view(f"<u{id_bytes}")
                passing[number] += np.count_nonzero(allowed[ids[ids < len(allowed)]])


def _nearest(ids: Int64, distances: npt.NDArray[np.float64], k: int) -> tuple[Int64, npt.NDArray[np.float64]]:
    """Return the k nearest by (distance, id), what is no hit at the end."""
    distances = np.where(ids == NO_HIT, np.inf, distances)
    order = np.lexsort((ids, distances, ids == NO_HIT), axis=1)[:, :k]  # rows may be infinitely far too
    return np.take_along_axis(ids, order, axis=1), np.take_along_axis(distances, order, axis=1)


def _full(ids: Int64, distances: npt.NDArray[np.float64]) -> tuple[Int64, npt.NDArray[np.float64]]:
    """Return as many columns as every query has hits."""
    columns = int((ids != NO_HIT).sum(axis=1).min(initial=ids.shape[1]))
    return ids[:, :columns], distances[:, :columns]
