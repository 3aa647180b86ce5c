"""How is an index built by the workers of a dask cluster?

Workers read the rows, place them and keep their entries; the coordinator, which called, has the sample, the centroids and
some numbers for each list. Then each worker gets the entries of some lists from all others, and writes them. One commit, or
the head on a store without versions, makes all of it visible.

The index is the same as one that is built in this process: of the same blocks, in the same order. Source:
``specs/decisions/0014-work-on-a-cluster.md``.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from zarr.core.sync import sync
from zarr.types import AnyArray

from zarrvec.engine.staging import HandedOver
from zarrvec.errors import ClusterError
from zarrvec.faces.cluster import Cluster
from zarrvec.faces.targets import repository_and_key
from zarrvec.search.assigning import Assignment, Tally
from zarrvec.search.below import PartsBelow
from zarrvec.search.build import Builder, Built, Progress, Recipe, Trained
from zarrvec.search.parts import (
    Found,
    Range,
    Summary,
    Target,
    cut,
    look_up,
    place_part,
    sample_part,
    summary_of,
    write_range,
)
from zarrvec.search.records import Checksums, Layout
from zarrvec.search.spool import entries_of
from zarrvec.search.truth import Truth
from zarrvec.types import PackRef

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

PART_BYTES: Final = 512 << 20
"""Rows that one task places, decoded."""
RANGE_BYTES: Final = 128 << 20
"""Entries that one task writes."""
_MOST: Final = 512
"""Parts, and ranges: each range takes something from each part, and dask has to know of it."""


class SharedBuilder(Builder):
    """Makes the lists of an array on a cluster.

    Parameters
    ----------
    array, recipe, progress
        As for `Builder`. The array must be one that workers can open.
    cluster
        The workers.
    """

    def __init__(self, array: AnyArray, recipe: Recipe, progress: Progress, cluster: Cluster) -> None:
        super().__init__(array, recipe, progress)
        self._cluster = cluster
        blocks = list(self.blocks())
        size = self.rows * self.width * np.dtype(array.dtype).itemsize
        count = _tasks(size, PART_BYTES, len(blocks), cluster)
        self._parts = [blocks[part] for part in _evenly(len(blocks), count)]

    def read_sample(self) -> tuple[Int64, Float32]:
        """Return ids and vectors of the same random finite rows that one process would take."""
        if not self.fits:
            _, sample = self._sample(np.sort(self.choose(self.rows, self.budget_rows)))
            return sample
        leading = self.array.shape[:-1]
        ids = [block.ids(leading) for part in self._parts for block in part]
        in_order = np.concatenate([np.empty(0, dtype=np.int64), *ids])
        finite, sample = self._sample(np.sort(in_order[self.choose(self.rows, self.rows)]))
        if len(finite) < self.rows:
            _, sample = self._sample(np.sort(finite[self.choose_again(len(finite), len(finite))]))
        return sample

    def _sample(self, wanted: Int64) -> tuple[Int64, tuple[Int64, Float32]]:
        shared = self._cluster.share(wanted)
        tasks = [
            self._cluster.submit(sample_part, self.array, part, self.space, shared, self.fits)
            for part in self._parts
        ]
        done = 0
        found = {}
        for position, sampled in self._cluster.results(tasks):
            found[position] = sampled
            done += sampled.rows
            self.progress("read", done, self.rows)
        parts = [found[position] for position in sorted(found)]
        finite, ids = (
            np.concatenate([np.empty(0, dtype=np.int64), *column])
            for column in ([part.finite for part in parts], [part.ids for part in parts])
        )
        vectors = np.concatenate(
            [np.empty((0, self.width), dtype=np.float32), *(part.vectors for part in parts)]
        )
        return finite, (ids, vectors)

    def assign(self, trained: Trained) -> Built:
        """Put every row into its lists, and measure recall."""
        started = time.perf_counter()
        given = self.assignment(trained)
        shared = self._cluster.share(given)
        parts = [self._cluster.submit(place_part, self.array, blocks, shared) for blocks in self._parts]
        tally, counts, beyond = self._tally(given, parts)
        self.seconds["assign"] = time.perf_counter() - started
        of_rows = self.recipe.queries is None
        neighbours, _ = tally.truth.neighbours(trained.calibration_ids if of_rows else None)
        found = self._found(parts, np.union1d(neighbours, trained.others(tally.rows).ids))

        def lists(ids: Int64) -> npt.NDArray[np.int32]:
            some: npt.NDArray[np.int32] = found.lists_of[np.searchsorted(found.ids, ids)]
            return some

        return self.finish(
            trained, given, tally, counts, beyond, SharedLists(self._cluster, parts),
            lists=lists,
            entries=lambda ids: entries_of(found.records[np.searchsorted(found.ids, ids)], given.layout),
        )  # fmt: skip

    def _tally(self, given: Assignment, parts: Sequence[Any]) -> tuple[Tally, Int64, list[Int64]]:
        """Put together what was learned of the parts, whichever is done first."""
        nlist = len(given.table.heads)
        counts, radii = np.zeros(nlist, dtype=np.int64), np.zeros(nlist, dtype=np.float32)
        truth = Truth(given.queries, given.space.metric, columns=given.columns)
        squares: dict[int, list[float]] = {}
        beyond = []
        rows = done = 0
        summaries = [self._cluster.submit(summary_of, part) for part in parts]
        summary: Summary
        for position, summary in self._cluster.results(summaries):
            counts[summary.lists] += summary.counts
            radii[summary.lists] = np.maximum(radii[summary.lists], summary.radii)
            truth.merge(summary.neighbours, summary.scores)
            squares[position] = summary.squares
            beyond.append(summary.beyond)
            rows += summary.rows
            done += summary.read
            self.progress("assign", done, self.rows)
        in_order = [each for position in sorted(squares) for each in squares[position]]
        return Tally(rows, radii, in_order, truth), counts, beyond

    def _found(self, parts: Sequence[Any], ids: Int64) -> Found:
        """Return some rows, ascending."""
        shared = self._cluster.share(ids)
        found: list[Found] = self._cluster.all(
            [self._cluster.submit(look_up, part, shared) for part in parts]
        )
        there = np.concatenate([some.ids for some in found])
        rising = np.argsort(there)
        if not np.array_equal(there[rising], ids):
            raise ClusterError(
                f"array {self.array.name!r}: of {len(ids):,} rows {len(there):,} were found again: it was changed meanwhile. "
                "Call again."
            )
        return Found(
            ids,
            np.concatenate([some.lists_of for some in found])[rising],
            np.concatenate([some.records for some in found])[rising],
        )


class SharedLists:
    """Lists whose entries are kept by workers.

    Parameters
    ----------
    cluster
        The workers.
    parts
        Tasks whose results are parts of the rows, in order.
    """

    ahead = False

    def __init__(self, cluster: Cluster, parts: Sequence[Any]) -> None:
        self._cluster = cluster
        self._parts = parts
        self._written: tuple[Checksums, HandedOver] | None = None
        """What is in packs already, with keys below the array's."""

    def write(
        self, array: AnyArray, counts: Int64, layout: Layout, progress: Callable[[int, int], None] | None
    ) -> Checksums:
        """See `zarrvec.search.storing.Lists`."""
        place = array.store_path
        found = repository_and_key(place.store, place.path)
        if found is None:
            crcs, _ = self._write(_beside(array), array, counts, layout, progress)
            return crcs
        repository, key = found
        if self._written is None:  # else the commit is tried again
            target = Target(repository.place, key, array.metadata.to_dict())
            crcs, handed = self._write(target, array, counts, layout, progress)
            entries = tuple((name.removeprefix(key), entry) for name, entry in handed.entries)
            self._written = crcs, HandedOver(entries, handed.packs)
        crcs, handed = self._written
        transaction = repository.transaction
        assert transaction is not None  # of `commit_once`
        transaction.staging.take_over(
            HandedOver(tuple((key + name, entry) for name, entry in handed.entries), handed.packs)
        )
        return crcs

    def _write(
        self,
        target: Target,
        array: AnyArray,
        counts: Int64,
        layout: Layout,
        progress: Callable[[int, int], None] | None,
    ) -> tuple[Checksums, HandedOver]:
        ranges = self._ranges(array, counts)
        tasks = []
        for wanted in ranges:
            first, stop = wanted.lists
            cuts = [self._cluster.submit(cut, part, first, stop) for part in self._parts]
            tasks.append(self._cluster.submit(write_range, target, wanted, counts[first:stop], layout, *cuts))
        crcs = np.zeros((len(counts), 2), dtype=np.uint32)
        entries: dict[str, Any] = {}
        packs: dict[bytes, int] = {}
        for done, (position, written) in enumerate(self._cluster.results(tasks), start=1):
            first, stop = ranges[position].lists
            crcs[first:stop] = written.crcs
            if written.handed is not None:
                entries.update(written.handed.entries)
                packs.update(written.handed.packs)
            if progress is not None:
                progress(len(counts) * done // len(tasks), len(counts))
        return crcs, HandedOver(tuple(entries.items()), tuple(PackRef(*item) for item in packs.items()))

    def _ranges(self, array: AnyArray, counts: Int64) -> list[Range]:
        """Cut the array between chunks, or shards."""
        unit = (array.shards or array.chunks)[0]
        rows, width = array.shape
        units = -(-rows // unit)
        count = _tasks(rows * width, RANGE_BYTES, units, self._cluster)
        ends = np.cumsum(counts)
        ranges = []
        for some in _evenly(units, count):
            start, stop = some.start * unit, min(rows, some.stop * unit)
            first = int(np.searchsorted(ends, start, side="right"))
            last = int(np.searchsorted(ends, stop, side="left")) + 1
            ranges.append(Range((start, stop), (first, last), int(ends[first] - counts[first])))
        return ranges

    def close(self) -> None:
        """See `zarrvec.search.storing.Lists`."""
        self._cluster.let_go(self._parts)


def _beside(array: AnyArray) -> Target:
    """Return where workers write an array of a store without versions, once its metadata are there."""
    store, path = array.store_path.store, array.store_path.path
    assert isinstance(store, PartsBelow)
    sync(store.settle())
    return Target(store.place_of(path), path, array.metadata.to_dict())


def _tasks(size: int, each: int, most: int, cluster: Cluster) -> int:
    """Return into how many tasks work is cut: no larger than that, and enough for all threads."""
    return max(1, min(most, _MOST, max(-(-size // each), cluster.wanted_tasks)))


def _evenly(count: int, parts: int) -> list[slice]:
    edges = np.linspace(0, count, parts + 1).round().astype(int).tolist()
    return [slice(start, stop) for start, stop in itertools.pairwise(edges)]
