"""How is an index made from all rows of an array?

Two passes over the array, one if it fits in memory: a sample to train the centroids, then every row to its lists. Entries
wait in a temporary file; memory holds the sample, the centroids and some numbers for each row.
Source: ``specs/vector-index.md``, section "Building"; SOAR is arXiv 2404.00774.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
from zarr.types import AnyArray

from zarrvec.errors import SearchError
from zarrvec.search.blocks import grid_of, plan_blocks
from zarrvec.search.calibrate import TRUTH_K, calibrate, limit_to_groups, list_ranks
from zarrvec.search.clustering import gain_threshold, similarity_order, train_centroids
from zarrvec.search.depth import Compass
from zarrvec.search.groups import Grouped, are_grouped, groups_of, ordered_in_groups
from zarrvec.search.head import Calibration
from zarrvec.search.metrics import Metric
from zarrvec.search.pairing import Pairing
from zarrvec.search.placing import Lister
from zarrvec.search.quantize import dequantize, quantize_centroids
from zarrvec.search.records import LIST_HEAD, Layout, ListTable
from zarrvec.search.space import beyond_float32, indexed_queries, indexed_rows
from zarrvec.search.spool import Spool
from zarrvec.search.stream import stream_blocks
from zarrvec.search.topk import NO_ID, TopK

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with the stage (``"read"``, ``"train"``, ``"assign"``, ``"write"``), what is done of it, and all of it."""


def silent(stage: str, done: int, total: int) -> None:
    """Report no progress."""
    del stage, done, total


BUILD_MEMORY_BYTES: Final = 2 << 30
LIST_ROWS: Final = 100
"""Rows for each list, their second places not counted."""
SAMPLE_ROWS: Final = 40
"""Rows for each list that the centroids are trained on."""
LEAST_SAMPLE: Final = 100_000
"""Rows that they are trained on at least, if there are so many."""
CALIBRATION_ROWS: Final = 1000
_THRESHOLD_ROWS: Final = 20_000
"""Rows on which it is decided how much a second list must help."""
_TRUTH_ROWS: Final = 8192
BLOCK_BYTES: Final = 64 << 20
"""Rows that are placed at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How an index is to be made."""

    metric: Metric
    """What rows are near by."""
    nlist: int | None = None
    """Lists; None for about one for 100 rows."""
    queries: npt.NDArray[np.float64] | None = None
    """(c, d) queries to calibrate on; None for rows of the array."""
    memory_bytes: int
    """Bound on sample and blocks."""
    seed: int
    """Of all that is random."""


@dataclass(slots=True, kw_only=True)
class Built:
    """An index that is not yet stored."""

    layout: Layout
    origin: Float32 | None
    """(d,) what is taken off rows and queries; ``l2`` only."""
    table: ListTable
    """With offsets of zero and no checksums: these are known when the lists are written."""
    groups: Grouped | None
    """Of the lists, if their table is too long to be read whole."""
    counts: Int64
    """(nlist,) entries of each list."""
    order: Int64
    """(m,) positions of the entries in the spool, list by list."""
    spool: Spool
    rows: int
    """Rows that are indexed."""
    beyond: Int64
    """Ids of finite rows that are not, since float32 can't hold them."""
    spread: float
    """Mean squared distance to the nearest centroid."""
    trained_spread: float
    """The same of the rows that the centroids were trained for."""
    second_from: float
    """Gain from which on a row got a second list."""
    calibration: Calibration
    left_out: Int64 = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    """Ids of rows that are not, since they were deleted."""
    seconds: dict[str, float] = field(default_factory=dict)
    """By stage."""


def build(array: AnyArray, recipe: Recipe, spool_folder: str | None, progress: Progress) -> Built:
    """Make the lists of an array; the caller closes the spool.

    Raises
    ------
    SearchError
        If the array has no finite row.
    """
    builder = _Builder(array, recipe, progress)
    sample = builder.read_sample()
    centroids = builder.train(sample)
    return builder.assign(centroids, spool_folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trained:
    codes: npt.NDArray[np.int8]
    """(nlist, d) int8 centroids in the order of similarity."""
    scales: Float32
    group_sizes: Int64 | None
    """(groups,) lists in each group, if there are groups."""
    calibration_ids: Int64
    calibration_rows: Float32
    some_rows: Float32
    """Rows that stand for all."""


class _Builder:
    def __init__(self, array: AnyArray, recipe: Recipe, progress: Progress) -> None:
        self._array = array
        self._recipe = recipe
        self._progress = progress
        self._leading = array.shape[:-1]
        self._width = array.shape[-1]
        self._rows = int(np.prod(self._leading, dtype=np.int64))
        self._random = np.random.default_rng(recipe.seed)
        self._held: list[tuple[Int64, Float32]] | None = None
        self._origin: Float32 | None = None
        self._beyond: list[Int64] = []
        self._seconds: dict[str, float] = {}
        lists = recipe.nlist or max(1, round(self._rows / LIST_ROWS))
        self._nlist = lists

    def read_sample(self) -> tuple[Int64, Float32]:
        """Return ids and vectors of random finite rows; keep all rows if they fit in memory."""
        started = time.perf_counter()
        row_bytes = 4 * self._width
        budget = self._recipe.memory_bytes // 2
        if self._rows * row_bytes <= budget:
            self._held = list(self._blocks("read"))
            ids = (
                np.concatenate([ids for ids, _ in self._held]) if self._held else np.empty(0, dtype=np.int64)
            )
            vectors = (
                np.concatenate([part for _, part in self._held]) if len(ids) else np.empty((0, self._width))
            )
            chosen = self._choose(len(ids), len(ids))
            sample = ids[chosen], vectors[chosen].astype(np.float32, copy=False)
        else:
            wanted = np.zeros(self._rows, dtype=np.bool_)
            wanted[self._choose(self._rows, budget // row_bytes)] = True
            parts = [(ids[wanted[ids]], vectors[wanted[ids]]) for ids, vectors in self._blocks("read")]
            sample = np.concatenate([ids for ids, _ in parts]), np.concatenate([part for _, part in parts])
        self._seconds["read"] = time.perf_counter() - started
        if not len(sample[0]):
            raise SearchError(
                f"array {self._array.name!r} of shape {self._array.shape} has no finite row, or none whose squared length is below "
                "1e36: there is nothing to index"
            )
        return self._centred(sample)

    def _centred(self, sample: tuple[Int64, Float32]) -> tuple[Int64, Float32]:
        """Choose the origin, and take it off what is held."""
        if self._recipe.metric != "l2":
            return sample
        ids, vectors = sample
        origin = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
        self._origin = origin
        if self._held is not None:
            self._held = [(held, rows - origin) for held, rows in self._held]
        return ids, vectors - origin

    def _choose(self, available: int, most: int) -> Int64:
        wanted = min(available, most, max(SAMPLE_ROWS * self._nlist, LEAST_SAMPLE))
        return np.sort(self._random.choice(available, size=wanted, replace=False)).astype(np.int64)

    def _blocks(self, stage: str) -> Iterator[tuple[Int64, Float32]]:
        """Yield ids and indexed vectors of the finite rows, block after block."""
        if self._held is not None:
            done = 0
            for ids, vectors in self._held:
                yield ids, vectors
                done += len(ids)
                self._progress(stage, done, self._rows)
            return
        plan = plan_blocks(
            grid_of(self._array), block_bytes=max(1, min(BLOCK_BYTES, self._recipe.memory_bytes // 8))
        )
        done = 0
        with closing(stream_blocks(self._array, plan)) as stream:
            for block, rows in stream:
                vectors, kept = indexed_rows(rows, self._recipe.metric, self._origin)
                ids = block.ids(self._leading)
                self._beyond.append(ids[beyond_float32(rows, kept)])
                yield ids[kept], vectors
                done += len(rows)
                self._progress(stage, done, self._rows)

    def train(self, sample: tuple[Int64, Float32]) -> "_Trained":
        """Return quantized centroids in the order of similarity, and the rows to calibrate on."""
        started = time.perf_counter()
        ids, vectors = sample
        nlist = min(self._nlist, len(ids))
        self._progress("train", 0, nlist)
        centroids = train_centroids(
            vectors,
            nlist,
            seed=self._recipe.seed,
            progress=lambda part: self._progress("train", int(part * nlist), nlist),
        )
        sizes = None
        if are_grouped(*centroids.shape):
            order, sizes = ordered_in_groups(centroids, self._recipe.seed)
        else:
            order = similarity_order(centroids)
        codes, scales = quantize_centroids(centroids[order])
        self._progress("train", nlist, nlist)
        shuffled = self._random.permutation(len(ids))[: max(_THRESHOLD_ROWS, CALIBRATION_ROWS)]
        chosen = shuffled[:CALIBRATION_ROWS]
        self._seconds["train"] = time.perf_counter() - started
        return _Trained(
            codes=codes,
            scales=scales,
            group_sizes=sizes,
            calibration_ids=ids[chosen],
            calibration_rows=vectors[chosen],
            some_rows=vectors[shuffled],
        )

    def assign(self, trained: "_Trained", spool_folder: str | None) -> Built:
        """Put every row into its lists, and measure recall."""
        started = time.perf_counter()
        nlist = len(trained.scales)
        layout = Layout(
            width=self._width,
            id_bytes=4 if self._rows < 1 << 31 else 8,
            has_norms=self._recipe.metric == "l2",
        )
        heads = np.zeros(nlist, dtype=LIST_HEAD)
        heads["scale"] = trained.scales
        table = ListTable(heads, trained.codes)
        centroids = table.vectors()
        given = self._recipe.queries is not None
        queries = trained.calibration_rows
        if self._recipe.queries is not None:
            queries = indexed_queries(self._recipe.queries, self._recipe.metric, self._origin)
        truth = _Truth(queries, self._recipe.metric, columns=TRUTH_K + (not given))
        enough = gain_threshold(Pairing(centroids).find(trained.some_rows).gains)
        lists = np.full((self._rows, 2), -1, dtype=np.int32)
        first_entry = np.empty(self._rows, dtype=np.int64)
        lister = Lister(centroids, enough)
        total, rows = 0.0, 0
        spool = Spool(layout, folder=spool_folder)
        try:
            with ThreadPoolExecutor(max_workers=1, thread_name_prefix="zarrvec-build") as pool:
                for ids, vectors in self._blocks("assign"):
                    offered = pool.submit(truth.add, ids, vectors)
                    first_entry[ids] = spool.count + np.arange(len(ids))
                    placed = lister.place(ids, vectors, spool)
                    lists[ids] = placed.lists
                    total, rows = total + placed.squares, rows + len(ids)
                    offered.result()
            heads["radius"] = lister.radii
            order, counts = spool.sort(nlist)
            self._seconds["assign"] = time.perf_counter() - started
            started = time.perf_counter()
            neighbours = truth.neighbours(None if given else trained.calibration_ids)
            sizes = trained.group_sizes
            calibration, groups = _calibrate(
                truth.queries, neighbours, lists, first_entry, spool,
                Compass.of(centroids, lister.radii, self._recipe.metric),
                None if sizes is None else groups_of(centroids, sizes),
                source="queries" if given else "rows",
            )  # fmt: skip
            self._seconds["calibrate"] = time.perf_counter() - started
        except BaseException:
            spool.__exit__(None, None, None)
            raise
        return Built(
            layout=layout,
            origin=self._origin,
            table=table,
            groups=groups,
            counts=counts,
            order=order,
            spool=spool,
            rows=rows,
            beyond=np.unique(np.concatenate(self._beyond)),
            spread=total / max(1, rows),
            trained_spread=total / max(1, rows),
            second_from=enough,
            calibration=calibration,
            seconds=self._seconds,
        )


class _Truth:
    """The true nearest rows of some queries, in float32, as rows go by."""

    def __init__(self, queries: Float32, metric: Metric, *, columns: int) -> None:
        self.queries = queries
        self._has_norms = metric == "l2"
        self._top = TopK(queries=len(queries), k=columns)
        self._waiting: list[tuple[npt.NDArray[np.intp], Int64, Float32]] = []
        self._waiting_count = 0

    def add(self, ids: Int64, vectors: Float32) -> None:
        """Offer rows."""
        at, size = 0, self._top.k  # parts grow, so that few rows get past those before
        while at < len(ids):
            part = slice(at, at + size)
            scores = self.queries @ vectors[part].T
            scores *= -2 if self._has_norms else -1
            if self._has_norms:
                scores += np.einsum("ij,ij->i", vectors[part], vectors[part])
            query, row = np.nonzero(scores <= self._top.distances[:, -1:].astype(np.float32))
            self._waiting.append((query, ids[part][row], scores[query, row]))
            self._waiting_count += len(query)
            if self._waiting_count > self._top.ids.size:
                self._merge()  # seldom: it sorts
            at, size = at + size, min(2 * size, _TRUTH_ROWS)

    def _merge(self) -> None:
        if self._waiting:
            query, ids, scores = (np.concatenate(column) for column in zip(*self._waiting, strict=True))
            self._top.update(query, ids, scores.astype(np.float64))
        self._waiting, self._waiting_count = [], 0

    def neighbours(self, own: Int64 | None) -> Int64:
        """Return (c, t) ids, nearest first, without the queries' own if they are rows."""
        self._merge()
        ids = self._top.ids
        if own is not None:
            is_own = ids == own[:, None]
            is_own[~is_own.any(axis=1), -1] = True  # pushed out by others at the same place
            ids = ids[~is_own].reshape(len(ids), -1)
        return ids[:, : int((ids != NO_ID).sum(axis=1).min(initial=ids.shape[1]))]


def _calibrate(
    queries: Float32,
    neighbours: Int64,
    lists: npt.NDArray[np.int32],
    first_entry: Int64,
    spool: Spool,
    compass: Compass,
    groups: ListTable | None,
    *,
    source: str,
) -> tuple[Calibration, Grouped | None]:
    metric = compass.metric
    ranks, nearest = list_ranks(queries, compass, lists[neighbours])
    grouped = None
    if groups is not None:
        of_groups = Compass.of_table(groups, metric)
        seen, ranks = limit_to_groups(queries, lists[neighbours], ranks, groups, of_groups)
        grouped = Grouped(groups, seen)
    scores = {bits: np.empty(neighbours.shape, dtype=np.float32) for bits in (4, 8)}
    for query, ids in zip(range(len(queries)), neighbours, strict=True):
        entries = spool.entries(first_entry[ids])
        around = compass.vectors[lists[ids, 0]]
        for bits, scored in scores.items():
            codes = entries.codes if bits == 8 else entries.codes & np.uint8(0xF0) | np.uint8(8)
            decoded = dequantize(codes, entries.scales, around)
            scored[query] = decoded @ queries[query] * (-2 if metric == "l2" else -1)
            if entries.norms is not None:
                scored[query] += entries.norms
    calibration = calibrate(
        source=source, nlist=len(compass.vectors), ranks=ranks, nearest=nearest, scores=scores
    )
    return calibration, grouped
