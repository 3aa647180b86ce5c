"""How is an index made from all rows of an array?

Two passes over the array, one if it fits in memory: a sample to train the centroids, then every row to its lists. Entries
wait in a temporary file; memory holds the sample, the centroids and some numbers for each row. On a cluster workers make
both passes and keep the entries: `zarrvec.search.sharing`.
Source: ``specs/vector-index.md``, section "Building"; SOAR is arXiv 2404.00774.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
from zarr.types import AnyArray

from zarrvec.errors import SearchError
from zarrvec.search.assigning import Assignment, Space, Tally, assign, read_blocks
from zarrvec.search.blocks import Block, grid_of, plan_blocks
from zarrvec.search.calibrate import TRUTH_K, without_codes
from zarrvec.search.clustering import Assigner, gain_threshold, train_centroids
from zarrvec.search.depth import Compass
from zarrvec.search.groups import Grouped, are_grouped, groups_of, ordered_in_groups
from zarrvec.search.head import Calibration
from zarrvec.search.list_table import ListTable
from zarrvec.search.metrics import Metric
from zarrvec.search.origin import find_origin
from zarrvec.search.pairing import Pairing
from zarrvec.search.quantize import ROUNDED, quantize_centroids
from zarrvec.search.records import LIST_HEAD, Entries, Layout
from zarrvec.search.similarity import similarity_order
from zarrvec.search.space import indexed_queries
from zarrvec.search.spool import Spool
from zarrvec.search.storing import Lists, SpooledLists
from zarrvec.search.truth import Others, measure

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
_OTHERS: Final = 1024
"""Rows that stand for all in calibration."""
_SMALLEST: Final = 1e-16
"""Products of smaller numbers are next to nothing in float32."""
_THRESHOLD_ROWS: Final = 20_000
"""Rows on which it is decided how much a second list must help."""
_SPREAD_ROWS: Final = 256
"""Rows by whose distance from centroids it is decided how finely these are stored."""
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
    lists: Lists
    """The entries, list by list."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """Lists without rows."""

    codes: npt.NDArray[np.int8]
    """(nlist, d) int8 centroids in the order of similarity."""
    scales: Float32
    group_sizes: Int64 | None
    """(groups,) lists in each group, if there are groups."""
    calibration_ids: Int64
    calibration_rows: Float32
    some_ids: Int64
    some_rows: Float32
    """Rows that stand for all."""

    def others(self, rows: int) -> Others:
        """Return those that stand for all of so many in calibration."""
        return Others(self.some_ids[-_OTHERS:], self.some_rows[-_OTHERS:], rows)


class Builder:
    """Makes the lists of an array in this process.

    Parameters
    ----------
    array, recipe
        What is indexed, and how.
    progress
        Called with stages.
    spool_folder
        Where a temporary file may lie.
    """

    def __init__(
        self, array: AnyArray, recipe: Recipe, progress: Progress, spool_folder: str | None = None
    ) -> None:
        self.array = array
        self.recipe = recipe
        self.progress = progress
        self.width = array.shape[-1]
        self.rows = int(np.prod(array.shape[:-1], dtype=np.int64))
        self.seconds: dict[str, float] = {}
        self.space = Space(metric=recipe.metric)
        self._spool_folder = spool_folder
        self._random = np.random.default_rng(recipe.seed)
        self._held: list[tuple[Int64, Float32]] | None = None
        self._beyond: list[Int64] = []
        self._nlist = recipe.nlist or max(1, round(self.rows / LIST_ROWS))

    def run(self) -> Built:
        """Return the lists; the caller closes them.

        Raises
        ------
        SearchError
            If the array has no finite row.
        """
        started = time.perf_counter()
        if self.recipe.metric == "l2" and self.rows:
            origin = find_origin(self.array, self.recipe.memory_bytes)
            self.space = Space(metric="l2", origin=origin)
        sample = self.read_sample()
        if not len(sample[0]):
            raise SearchError(
                f"array {self.array.name!r} of shape {self.array.shape} has no finite row, or none whose squared length is below "
                "1e36: there is nothing to index"
            )
        self.seconds["read"] = time.perf_counter() - started
        return self.assign(self._train(sample))

    # -- the sample ---------------------------------------------------------------------------------------------------

    @property
    def budget_rows(self) -> int:
        """Rows that may be held."""
        return self.recipe.memory_bytes // 2 // (4 * self.width)

    @property
    def fits(self) -> bool:
        """Whether all rows may be held."""
        return self.rows <= self.budget_rows

    def blocks(self) -> Iterator[Block]:
        """Yield what is read at once."""
        block_bytes = max(1, min(BLOCK_BYTES, self.recipe.memory_bytes // 8))
        return plan_blocks(grid_of(self.array), block_bytes=block_bytes)

    def choose(self, available: int, most: int) -> Int64:
        """Draw which of so many rows are in the sample, ascending."""
        wanted = min(available, most, max(SAMPLE_ROWS * self._nlist, LEAST_SAMPLE))
        return np.sort(self._random.choice(available, size=wanted, replace=False)).astype(np.int64)

    def choose_again(self, available: int, most: int) -> Int64:
        """Draw as if nothing had been drawn before."""
        self._random = np.random.default_rng(self.recipe.seed)
        return self.choose(available, most)

    def read_sample(self) -> tuple[Int64, Float32]:
        """Return ids and vectors of random finite rows; all rows are kept if they fit in memory."""
        if self.fits:
            self._held = list(self._read("read"))
            ids = (
                np.concatenate([ids for ids, _ in self._held]) if self._held else np.empty(0, dtype=np.int64)
            )
            vectors = (
                np.concatenate([part for _, part in self._held]) if len(ids) else np.empty((0, self.width))
            )
            chosen = self.choose(len(ids), len(ids))
            return ids[chosen], vectors[chosen].astype(np.float32, copy=False)
        wanted = np.zeros(self.rows, dtype=np.bool_)
        wanted[self.choose(self.rows, self.budget_rows)] = True
        parts = [(ids[wanted[ids]], vectors[wanted[ids]]) for ids, vectors in self._read("read")]
        return np.concatenate([ids for ids, _ in parts]), np.concatenate([part for _, part in parts])

    def _read(self, stage: str) -> Iterator[tuple[Int64, Float32]]:
        """Yield ids and indexed vectors of the finite rows, block after block."""
        done = 0
        if self._held is not None:
            for ids, vectors in self._held:
                yield ids, vectors
                done += len(ids)
                self.progress(stage, done, self.rows)
            return
        for read in read_blocks(self.array, self.blocks(), self.space):
            self._beyond.append(read.beyond)
            yield read.ids, read.vectors
            done += read.rows
            self.progress(stage, done, self.rows)

    def _train(self, sample: tuple[Int64, Float32]) -> Trained:
        """Return quantized centroids in the order of similarity, and the rows to calibrate on."""
        started = time.perf_counter()
        ids, vectors = sample
        nlist = min(self._nlist, len(ids))
        self.progress("train", 0, nlist)
        centroids = train_centroids(
            vectors,
            nlist,
            seed=self.recipe.seed,
            progress=lambda part: self.progress("train", int(part * nlist), nlist),
        )
        sizes = None
        if are_grouped(*centroids.shape):
            order, sizes = ordered_in_groups(centroids, self.recipe.seed)
        else:
            order = similarity_order(centroids)
        shuffled = self._random.permutation(len(ids))[: max(_THRESHOLD_ROWS, CALIBRATION_ROWS)]
        error = 0.0  # a table that is read by groups is not compressed
        if sizes is None:
            error = ROUNDED * _spread(vectors[shuffled[:_SPREAD_ROWS]], centroids)
        codes, scales = quantize_centroids(centroids[order], error)
        self.progress("train", nlist, nlist)
        _, first = np.unique(vectors[shuffled], axis=0, return_index=True)
        # a row that is there thousands of times, as where there is nothing, tells of the others nothing
        chosen = shuffled[np.sort(first)[:CALIBRATION_ROWS]]
        self.seconds["train"] = time.perf_counter() - started
        return Trained(
            codes=codes,
            scales=scales,
            group_sizes=sizes,
            calibration_ids=ids[chosen],
            calibration_rows=vectors[chosen],
            some_ids=ids[shuffled],
            some_rows=vectors[shuffled],
        )

    # -- all rows -----------------------------------------------------------------------------------------------------

    def assignment(self, trained: Trained) -> Assignment:
        """Return by what rows are put into lists."""
        heads = np.zeros(len(trained.scales), dtype=LIST_HEAD)
        heads["scale"] = trained.scales
        table = ListTable(heads, trained.codes)
        queries, given = trained.calibration_rows, self.recipe.queries is not None
        if self.recipe.queries is not None:
            queries = indexed_queries(self.recipe.queries, self.recipe.metric, self.space.origin)
        return Assignment(
            space=self.space,
            layout=Layout(
                width=self.width,
                id_bytes=4 if self.rows < 1 << 31 else 8,
                has_norms=self.recipe.metric == "l2",
            ),
            table=table,
            second_from=gain_threshold(Pairing(table.vectors()).find(trained.some_rows).gains),
            queries=queries,
            columns=TRUTH_K + (not given),
        )

    def assign(self, trained: Trained) -> Built:
        """Put every row into its lists, and measure recall."""
        started = time.perf_counter()
        given = self.assignment(trained)
        lists = np.full((self.rows, 2), -1, dtype=np.int32)
        first_entry = np.empty(self.rows, dtype=np.int64)

        def note(ids: Int64, placed: npt.NDArray[np.int32], first: Int64) -> None:
            lists[ids], first_entry[ids] = placed, first

        spool = Spool(given.layout, folder=self._spool_folder)
        try:
            tally = assign(given, self._read("assign"), spool, note)
            order, counts = spool.sort(len(given.table.heads))
            self.seconds["assign"] = time.perf_counter() - started
            return self.finish(
                trained, given, tally, counts, self._beyond, SpooledLists(spool, order),
                lists=lambda ids: lists[ids],
                entries=lambda ids: spool.entries(first_entry[ids]),
            )  # fmt: skip
        except BaseException:
            spool.__exit__(None, None, None)
            raise

    def finish(
        self,
        trained: Trained,
        given: Assignment,
        tally: Tally,
        counts: Int64,
        beyond: list[Int64],
        stored: Lists,
        *,
        lists: Callable[[Int64], npt.NDArray[np.int32]],
        entries: Callable[[Int64], Entries],
    ) -> Built:
        """Measure recall, and put together what is known of the index.

        Parameters
        ----------
        trained, given, tally
            The lists, and what was learned of all rows.
        counts
            (nlist,) entries of each list.
        beyond
            Ids of finite rows that are not indexed; each may be there more than once.
        stored
            The entries.
        lists, entries
            As for `zarrvec.search.truth.measure`; asked for neighbours and others of the calibration only.
        """
        started = time.perf_counter()
        of_rows = self.recipe.queries is None
        centroids = given.table.vectors()
        given.table.heads["radius"] = tally.radii
        sizes = trained.group_sizes
        calibration, groups = measure(
            tally.truth, trained.calibration_ids if of_rows else None, trained.others(tally.rows), lists, entries,
            Compass.of(centroids, tally.radii, self.recipe.metric),
            None if sizes is None else groups_of(centroids, sizes),
            source="rows" if of_rows else "queries",
        )  # fmt: skip
        self.seconds["calibrate"] = time.perf_counter() - started
        if 0 < np.abs(trained.some_rows).max() < _SMALLEST:
            calibration = without_codes(calibration)
        spread = sum(tally.squares) / max(1, tally.rows)
        return Built(
            layout=given.layout,
            origin=given.space.origin,
            table=given.table,
            groups=groups,
            counts=counts,
            lists=stored,
            rows=tally.rows,
            beyond=np.unique(np.concatenate([np.empty(0, dtype=np.int64), *beyond])),
            spread=spread,
            trained_spread=spread,
            second_from=given.second_from,
            calibration=calibration,
            seconds=self.seconds,
        )


def _spread(rows: Float32, centroids: Float32) -> float:
    """Return the mean squared distance of rows to the nearest of all centroids."""
    squares = Assigner(centroids, flat_lists=len(centroids)).nearest(rows, 1)[1]
    return float(squares.mean(dtype=np.float64))
