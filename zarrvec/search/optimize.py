"""How does an index that rows were added to become as good as a new one?

Its lists are copied without what is deleted or out of date, rows that are in none are put into them, and lists that have
grown too long are split. Where the rows are no longer what the centroids were trained on, the index is built anew.
Source: ``specs/vector-index.md``, section "Changes".
"""

import math
import time
from contextlib import closing
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
from zarr.types import AnyArray

from zarrvec.search.blocks import grid_of, plan_blocks
from zarrvec.search.build import BLOCK_BYTES, Built, Progress
from zarrvec.search.clustering import Assigner, train_centroids
from zarrvec.search.editing import check_writable, need_head, read_anew
from zarrvec.search.head import Head
from zarrvec.search.index import QUERIES, Index, open_index
from zarrvec.search.list_table import ListTable
from zarrvec.search.lists import read_lists
from zarrvec.search.manage import build_index, store
from zarrvec.search.merging import copy_lists
from zarrvec.search.places import Snapshot
from zarrvec.search.placing import Lister
from zarrvec.search.quantize import ROUNDED, quantize_centroids
from zarrvec.search.reading import read_rows
from zarrvec.search.records import LIST_HEAD
from zarrvec.search.roots import Centroids
from zarrvec.search.similarity import similarity_order
from zarrvec.search.sources import Want
from zarrvec.search.space import beyond_float32, indexed_rows
from zarrvec.search.spool import Spool
from zarrvec.search.storing import SpooledLists
from zarrvec.search.stream import stream_blocks

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

GROWTH: Final = 1.0
"""With so many rows that came later for each one at first, the index is built anew."""
DRIFT: Final = 1.25
"""So much farther from their centroids on average are later rows that the index is built anew."""
DRIFT_SHARE: Final = 0.02
"""Later rows must be this part of all before their drift counts."""
OVERGROWN: Final = 4.0
"""A list is split when it has so many times the entries of the mean one."""
LEAST_MEAN: Final = 64.0
"""Lists of small indexes are not worth splitting below this many entries on average."""


def optimize(array: AnyArray, progress: Progress) -> dict[str, Any]:
    """Put an index in order; see `zarrvec.search.accessor.VectorAccessor.optimize`."""
    check_writable(array)
    return read_anew(array, lambda: _optimize(array, progress))


def _optimize(array: AnyArray, progress: Progress) -> dict[str, Any]:
    started = time.perf_counter()
    snapshot = Snapshot.of(array)
    head = need_head(snapshot)
    index = open_index(snapshot, head)
    centroids = index.centroids.load(snapshot)
    fresh = 0 if index.uncovered is None else int(np.count_nonzero(index.uncovered))
    report: dict[str, Any] = {
        "action": "none",
        "because": "all rows are in one segment, and no list is too long",
        "segments": len(head.segments),
        "rows_out_of_lists": fresh,
        "deleted": head.deleted,
    }
    overgrown = _too_long(index.counts())
    because = _outgrown(snapshot, index, fresh)
    if because is None:
        to_split = np.count_nonzero(overgrown) > int(head.options.get("overgrown", 0))
        if not (len(head.segments) > 1 or fresh or to_split or _holds_waste(snapshot, head)):
            return report | _cost(snapshot, head, started)
        covered = snapshot.covered()
        built = _Merger(snapshot, index, centroids, overgrown, progress).run()
        if isinstance(built, Built):
            left = int(np.count_nonzero(_too_long(built.counts)))  # of rows that are alike
            options = {**head.options, "deleted": head.deleted, "overgrown": left}
            head = store(array, snapshot, covered, head, built, head.metric, options, None, started, progress)
            report |= {
                "action": "merged",
                "because": _why(report, overgrown),
                "lists_split": int(np.count_nonzero(overgrown)),
            }
            return report | _cost(snapshot, head, started)
        because = built
    queries = None
    if head.calibration.source == "queries":
        data = snapshot.read([Want(f"{QUERIES}/c/0/0")])[0]
        queries = np.frombuffer(data, dtype="<f4").reshape(-1, head.width)
    options = {name: head.options[name] for name in ("nlist", "bits", "memory_bytes", "seed")}
    head = build_index(array, metric=head.metric, queries=queries, progress=progress, **options)
    report |= {"action": "built anew", "because": because}
    return report | _cost(snapshot, head, started)


def _cost(snapshot: Snapshot, head: Head, started: float) -> dict[str, Any]:
    """Return what there is now, and what it took; rows of the array are read besides."""
    return {
        "rows": head.rows,
        "entries": sum(segment.entries for segment in head.segments),
        "lists": head.nlist,
        "requests": snapshot.stats.requests,
        "bytes_read": snapshot.stats.bytes,
        "seconds": round(time.perf_counter() - started, 3),
    }


def _holds_waste(snapshot: Snapshot, head: Head) -> bool:
    """Return whether there are entries of rows that were deleted or cut off."""
    rows = math.prod(snapshot.array.shape[:-1])
    return head.deleted > int(head.options.get("deleted", 0)) or rows < head.covered or head.cut


def _why(report: dict[str, Any], overgrown: Mask) -> str:
    reasons = []
    if report["segments"] > 1:
        reasons.append(f"{report['segments']} segments")
    if report["rows_out_of_lists"]:
        reasons.append(f"{report['rows_out_of_lists']} rows in no list")
    if report["deleted"]:
        reasons.append(f"{report['deleted']} deleted rows")
    if overgrown.any():
        reasons.append(f"{np.count_nonzero(overgrown)} lists too long")
    return ", ".join(reasons) or "rows were cut off"


def _too_long(counts: Int64) -> Mask:
    return counts > OVERGROWN * max(float(counts.mean()), LEAST_MEAN)


def _outgrown(snapshot: Snapshot, index: Index, fresh: int) -> str | None:
    """Return why the centroids no longer fit the rows, None if they do as far as is known."""
    head = index.head
    if snapshot.array.shape[1:] != (*head.leading[1:], head.width):
        return f"the array is of shape {snapshot.array.shape}, the lists have rows {head.width} wide of {head.leading}"
    first, later = head.segments[0], head.segments[1:]
    rows = sum(segment.rows for segment in later)
    if rows + fresh > GROWTH * first.rows:
        return f"{rows + fresh} rows came to the {first.rows} that the lists were made for"
    squares = sum(segment.rows * segment.spread for segment in later)
    return _drifted(head, rows, squares)


def _drifted(head: Head, rows: int, squares: float) -> str | None:
    if rows <= DRIFT_SHARE * head.rows or squares <= DRIFT * head.trained_spread * rows:
        return None
    return (
        f"{rows} later rows are at a mean squared distance of {squares / rows:.4g} from their centroids, those that they "
        f"were trained on at {head.trained_spread:.4g}"
    )


class _Merger:
    def __init__(
        self,
        snapshot: Snapshot,
        index: Index,
        centroids: Centroids,
        overgrown: Mask,
        progress: Progress,
    ) -> None:
        self._snapshot = snapshot
        self._index = index
        self._centroids = centroids
        self._overgrown = overgrown
        self._progress = progress
        rows = int(np.prod(snapshot.array.shape[:-1], dtype=np.int64))
        fresh = index.uncovered
        self._fresh = np.zeros(rows, dtype=np.bool_) if fresh is None else fresh.reshape(-1).copy()
        alive = np.ones(rows, dtype=np.bool_)
        self._deleted = index.deleted[index.deleted < rows]
        alive[self._deleted] = False
        self._kept = alive & ~self._fresh
        self._fresh &= alive
        self._beyond: list[Int64] = []

    def run(self) -> Built | str:
        """Return the merged lists; or why the centroids don't fit the rows."""
        started = time.perf_counter()
        head, index = self._index.head, self._index
        spool = Spool(head.layout)
        try:
            numbers, table, split = self._split()
            lister = Lister(table.vectors(), head.second_from)
            squares = self._place_fresh(lister, spool)
            because = _drifted(head, int(np.count_nonzero(self._fresh)), squares)
            if because is not None:
                spool.__exit__(None, None, None)
                return because
            radii = np.zeros(len(table.heads), dtype=np.float32)
            for done, part in enumerate(index.parts):
                copy_lists(
                    self._snapshot, part, spool,
                    kept=self._kept, left_out=self._overgrown, numbers=numbers,
                )  # fmt: skip
                radii[numbers] = np.maximum(radii[numbers], part.radii)
                self._progress("merge", done + 1, len(index.parts))
            radii[split] = 0
            for number in np.flatnonzero(self._overgrown).tolist():
                self._place_split(number, int(numbers[number]), table, radii, spool)
            table.heads["radius"] = np.maximum(radii, lister.radii)
            order, counts = spool.sort(len(table.heads))
        except BaseException:
            spool.__exit__(None, None, None)
            raise
        rows = spool.rows()
        squares += sum(segment.rows * segment.spread for segment in head.segments)
        calibration = head.calibration
        return Built(
            layout=head.layout,
            origin=index.centroids.origin,
            table=table,
            groups=index.centroids.regrouped(self._pieces, table.vectors()),
            counts=counts,
            lists=SpooledLists(spool, order),
            rows=rows,
            beyond=_joined(self._beyond),
            left_out=self._deleted,
            spread=squares / max(1, head.rows + int(np.count_nonzero(self._fresh))),
            trained_spread=head.trained_spread,
            second_from=head.second_from,
            calibration=msgspec.structs.replace(
                calibration, nprobe=(*calibration.nprobe[:-1], len(table.heads))
            ),
            seconds={"merge": time.perf_counter() - started},
        )

    def _split(self) -> tuple[Int64, ListTable, Int64]:
        """Return the new number of each list, the new table, and the numbers of those that were split."""
        table = self._centroids.table
        counts = self._index.counts()
        pieces = np.ones(len(counts), dtype=np.int64)
        pieces[self._overgrown] = -(-counts[self._overgrown] // max(1, round(float(counts.mean()))))
        codes, scales, split = [], [], []
        head = self._index.head
        error = 0.0 if head.segments[0].groups is not None else ROUNDED * head.trained_spread
        self._rows_of: dict[int, tuple[Int64, Float32]] = {}
        for number, parts in enumerate(pieces.tolist()):
            if parts == 1:
                codes.append(table.centroids[number : number + 1])
                scales.append(table.heads["scale"][number : number + 1])
                continue
            ids = self._ids_in(number)
            rows = read_rows(self._snapshot.array, ids, self._snapshot.array.ndim - 1)
            vectors, finite = indexed_rows(rows, head.metric, self._index.centroids.origin)
            self._beyond.append(ids[beyond_float32(rows, finite)])
            self._rows_of[number] = ids[finite], vectors
            some = vectors if len(vectors) else table.vectors()[number : number + 1]
            centroids = train_centroids(some, min(parts, len(some)))
            nearest = Assigner(centroids).nearest(some, 1)[0]
            centroids = centroids[np.unique(nearest)]  # of equal rows all are nearest to one
            pieces[number] = len(centroids)
            own = quantize_centroids(centroids[similarity_order(centroids)], error)
            codes.append(own[0])
            scales.append(own[1])
            split.append(number)
        numbers = np.cumsum(pieces) - pieces
        heads = np.zeros(int(pieces.sum()), dtype=LIST_HEAD)
        heads["scale"] = np.concatenate(scales)
        self._pieces = pieces
        places = [np.arange(numbers[number], numbers[number] + pieces[number]) for number in split]
        return numbers, ListTable(heads, np.concatenate(codes)), _joined(places)

    def _ids_in(self, number: int) -> Int64:
        ids = []
        for part in self._index.parts:
            if part.counts[number]:
                (lists,) = read_lists(self._snapshot, [(part, np.array([number]))], 8)
                ids.append(
                    part.layout.unpack(lists[number].data, int(part.counts[number])).ids.astype(np.int64)
                )
        found = np.unique(_joined(ids))
        found = found[found < len(self._kept)]
        return found[self._kept[found]]

    def _place_split(self, number: int, first: int, table: ListTable, radii: Float32, spool: Spool) -> None:
        ids, vectors = self._rows_of.pop(number)
        centroids = table.vectors()[first : first + int(self._pieces[number])]
        lister = Lister(centroids, np.inf)
        lister.place(ids, vectors, spool, first=first)
        radii[first : first + len(centroids)] = lister.radii

    def _place_fresh(self, lister: Lister, spool: Spool) -> float:
        source, squares = self._snapshot.array, 0.0
        leading = source.shape[:-1]
        if not self._fresh.any():
            return squares
        mask = self._fresh.reshape(leading)
        plan = plan_blocks(grid_of(source), block_bytes=BLOCK_BYTES, mask=mask)
        with closing(stream_blocks(source, plan)) as stream:
            for block, rows in stream:
                chosen = block.within(mask)
                ids, fresh = block.ids(leading)[chosen], rows[chosen]
                vectors, kept = indexed_rows(fresh, self._index.head.metric, self._index.centroids.origin)
                self._beyond.append(ids[beyond_float32(fresh, kept)])
                squares += lister.place(ids[kept], vectors, spool).squares
        return squares


def _joined(parts: list[Int64]) -> Int64:
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
