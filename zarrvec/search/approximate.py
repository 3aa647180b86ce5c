"""Which rows are nearest, by the index? One wave of posting lists, and a scan.

Rows that are in no list as they are now are compared exactly and merged in. Source: ``specs/vector-index.md``, section
"Search".
"""

import contextvars
import math
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from zarrvec.search.blocks import grid_of
from zarrvec.search.cache import CachedList
from zarrvec.search.depth import Depth, Probes, bytes_to_rank_again, candidates_for, depth_for, waves
from zarrvec.search.exact import search_exact
from zarrvec.search.hits import Hits
from zarrvec.search.index import Index, read_lists
from zarrvec.search.kernels import NO_HIT, Found, ScanInput, merge, scan
from zarrvec.search.metrics import Metric, pair_distances, unit_rows
from zarrvec.search.places import Snapshot
from zarrvec.search.reading import read_rows
from zarrvec.search.roots import Part
from zarrvec.search.space import distances_of, indexed_queries

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

THREADS: Final = min(8, os.cpu_count() or 1)
_WIDEN: Final = 2
"""Factor by which nprobe grows when too few of the selected rows were met."""
_FEWER: Final = 0.8
"""Too few are less than this part of what as many lists hold on average: then the selected rows lie elsewhere."""
_MORE_THERE: Final = 2.0
"""In that case so many times what they hold on average must be met, for what is far away is spread over many lists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is asked of an index."""

    queries: npt.NDArray[np.float64]
    """(q, d) as given."""
    k: int
    recall: float
    nprobe: int | None
    bits: int
    rerank: bool | None
    where: Mask | None
    """Of the leading shape: rows that may be hits."""
    memory_bytes: int


@dataclass(slots=True, kw_only=True)
class Answer:
    """The nearest rows, and what finding them took."""

    ids: Int64
    """(q, k) int64; fewer columns if fewer rows can match."""
    distances: npt.NDArray[np.float64]
    """(q, k) float64."""
    depth: Depth
    lists: int = 0
    entries: int = 0
    exact_rows: int = 0
    """Rows that were compared as they are since no list has them."""
    unlike: int = 0
    """Queries farther from the index than those it was calibrated on."""
    seconds: dict[str, float] = field(default_factory=dict)


def search_lists(snapshot: Snapshot, index: Index, asked: Asked) -> Answer:
    """Find the nearest rows.

    Parameters
    ----------
    snapshot
        Of the array.
    index
        Opened from it.
    asked
        Checked; there is at least one query.
    """
    return _Search(snapshot, index, asked).run()


class _Search:
    def __init__(self, snapshot: Snapshot, index: Index, asked: Asked) -> None:
        self._snapshot = snapshot
        self._index = index
        self._asked = asked
        self._metric: Metric = index.head.metric
        self._queries = indexed_queries(asked.queries, self._metric, index.centroids.origin)
        self._leading = snapshot.array.shape[:-1]
        self._rows = math.prod(self._leading)
        self._seconds = {"probe": 0.0, "read": 0.0, "scan": 0.0}
        self._lists: set[tuple[str, int]] = set()
        fresh = index.uncovered
        listed = asked.where
        if fresh is not None:
            listed = ~fresh if listed is None else listed & ~fresh
            fresh = fresh if asked.where is None else fresh & asked.where
        self._allowed = self._living(listed)
        """(rows,) bool: what may be found in lists; None if all may."""
        self._fresh = None if fresh is None else self._living(fresh)
        """(rows,) bool: what is compared exactly."""
        self._selected = self._rows if self._allowed is None else int(np.count_nonzero(self._allowed))

    def _living(self, mask: Mask | None) -> Mask | None:
        deleted = self._index.deleted
        deleted = deleted[deleted < self._rows]
        if mask is None and not deleted.size:
            return None
        living = np.ones(self._rows, dtype=np.bool_) if mask is None else mask.reshape(-1).copy()
        living[deleted] = False
        return living

    def run(self) -> Answer:
        asked = self._asked
        share = max(self._selected, 1) / max(self._rows, 1)
        depth = depth_for(
            self._index.head,
            asked.recall,
            asked.k / share,
            bits=asked.bits,
            nprobe=asked.nprobe,
            rerank=asked.rerank,
            reread_bytes=bytes_to_rank_again(grid_of(self._snapshot.array), asked.k, asked.bits),
        )
        if self._fresh is None or not self._fresh.any():
            ids, distances, entries = self._search_lists(depth, share)
            exact_rows = 0
        else:
            with ThreadPoolExecutor(max_workers=1, thread_name_prefix="zarrvec-search") as pool:
                exact = pool.submit(contextvars.copy_context().run, self._search_fresh)
                ids, distances, entries = self._search_lists(depth, share)
            hits = exact.result()
            exact_rows = hits.stats.vectors
            ids = np.concatenate([ids, hits.ids], axis=1)
            distances = np.concatenate([distances, hits.distances.astype(np.float64)], axis=1)
        ids, distances = _nearest(ids, distances, asked.k)
        return Answer(
            ids=ids,
            distances=distances,
            depth=depth,
            lists=len(self._lists),
            entries=entries,
            exact_rows=exact_rows,
            unlike=self._unlike,
            seconds=self._seconds,
        )

    def _search_fresh(self) -> Hits:
        return search_exact(
            self._snapshot.array,
            self._asked.queries,
            self._asked.k,
            metric=self._metric,
            where=self._fresh,
            memory_bytes=self._asked.memory_bytes,
        )

    def _search_lists(self, depth: Depth, share: float) -> tuple[Int64, npt.NDArray[np.float64], int]:
        """Scan; scan more for queries that met too few of the selected rows, as where these lie far from them."""
        nlist, nprobe, count = self._index.head.nlist, depth.nprobe, len(self._queries)
        kept = candidates_for(self._asked.k, self._asked.bits) if depth.rerank else self._asked.k
        ids = np.full((count, kept), NO_HIT, dtype=np.int64)
        scores = np.full((count, kept), np.inf, dtype=np.float32)
        asking, enough, entries = np.arange(count), np.zeros(count), 0
        self._unlike = 0
        while asking.size and self._selected:
            started = time.perf_counter()
            probes = self._index.centroids.probe(self._snapshot, self._queries[asking], nprobe)
            self._seconds["probe"] += time.perf_counter() - started
            if not entries:
                self._unlike = int(np.count_nonzero(probes.nearest > self._index.head.calibration.far))
                if self._allowed is not None:
                    enough = _FEWER * share * self._index.counts()[probes.lists].sum(axis=1)
            found, passed = self._scan(self._queries[asking], probes, kept)
            ids[asking], scores[asking] = found.ids, found.scores
            entries += found.scanned
            if nprobe >= nlist:
                break
            missed = (found.ids[:, : self._asked.k] == NO_HIT).any(axis=1)
            if passed is not None and self._asked.nprobe is None:
                missed |= passed < enough
            if nprobe == depth.nprobe:
                enough *= _MORE_THERE / _FEWER
            asking, enough = asking[missed], enough[missed]
            nprobe = min(nlist, _WIDEN * nprobe)
        if depth.rerank:
            return ids, self._distances_of_rows(ids), entries
        return ids, distances_of(scores, self._queries, self._metric).astype(np.float64), entries

    def _scan(self, queries: Float32, probes: Probes, kept: int) -> tuple[Found, Int64 | None]:
        """Return the best entries in the lists probed, and how many selected ones each query met."""
        index, asked = self._index, self._asked
        found: list[Found] = []
        passing = None if self._allowed is None else np.zeros(index.head.nlist, dtype=np.int64)
        numbers = np.flatnonzero(np.bincount(probes.lists.ravel(), minlength=index.head.nlist))
        sizes = index.sizes(asked.bits)[numbers]
        for wave in waves(numbers, sizes, asked.memory_bytes):
            started = time.perf_counter()
            wanted = [(part, wave[part.counts[wave] > 0]) for part in index.parts]
            lists = read_lists(self._snapshot, wanted, asked.bits)
            self._seconds["read"] += time.perf_counter() - started
            started = time.perf_counter()
            now = probes.lists
            if len(wave) < len(numbers):
                now = np.where(np.isin(now, wave), now, -1)
            for part, held in zip(index.parts, lists, strict=True):
                addresses = np.zeros(index.head.nlist, dtype=np.uint64)
                addresses[list(held)] = [kept.address for kept in held.values()]
                found.append(
                    scan(
                        ScanInput(layout=part.layout, addresses=addresses, counts=part.counts),
                        queries,
                        now,
                        probes.products,
                        kept=kept,
                        bits=asked.bits,
                        allowed=self._allowed,
                        threads=THREADS,
                    )
                )
                self._lists.update((part.id, number) for number in held)
                if passing is not None:
                    _count_allowed(part, held, self._allowed, passing)
            self._seconds["scan"] += time.perf_counter() - started
        best = found[0] if len(found) == 1 else merge(found, kept)
        return best, None if passing is None else passing[probes.lists].sum(axis=1)

    def _distances_of_rows(self, ids: Int64) -> npt.NDArray[np.float64]:
        """Return the distances of the rows themselves, (q, kept) float64."""
        started = time.perf_counter()
        distances = np.full(ids.shape, np.inf)
        query, column = np.nonzero(ids != NO_HIT)
        unique, row = np.unique(ids[query, column], return_inverse=True)
        rows = read_rows(self._snapshot.array, unique, len(self._leading))
        queries = self._asked.queries
        if self._metric == "cosine":
            queries = unit_rows(queries)[0]
        distances[query, column] = pair_distances(self._metric, rows, row, queries, query)
        self._seconds["rerank"] = time.perf_counter() - started
        return distances


def _count_allowed(part: Part, lists: dict[int, CachedList], allowed: Mask | None, passing: Int64) -> None:
    """Add to (nlist,) how many entries of each list may be found."""
    assert allowed is not None
    for number, kept in lists.items():
        end = int(part.counts[number]) * part.layout.id_bytes
        ids = kept.data[:end].view(f"<u{part.layout.id_bytes}")
        passing[number] += np.count_nonzero(allowed[ids[ids < len(allowed)]])


def _nearest(ids: Int64, distances: npt.NDArray[np.float64], k: int) -> tuple[Int64, npt.NDArray[np.float64]]:
    """Return the k nearest by (distance, id), or as many as every query has."""
    distances = np.where(ids == NO_HIT, np.inf, distances)
    order = np.lexsort((ids, distances), axis=1)[:, :k]
    ids, distances = np.take_along_axis(ids, order, axis=1), np.take_along_axis(distances, order, axis=1)
    columns = int((ids != NO_HIT).sum(axis=1).min(initial=k))
    return ids[:, :columns], distances[:, :columns]
