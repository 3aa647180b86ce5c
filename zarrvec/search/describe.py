"""What does an index say of itself, and of a search before it is made?"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from zarr.types import AnyArray

from zarrvec.engine.traffic import Traffic
from zarrvec.errors import OptionError, SearchError
from zarrvec.search.blocks import grid_of, plan_blocks
from zarrvec.search.cache import LISTS
from zarrvec.search.depth import Depth, bytes_to_rank_again, candidates_for, depth_for, waves
from zarrvec.search.editing import fits, need_head, of_another, open_head, read_anew
from zarrvec.search.foresee import foresee
from zarrvec.search.head import Calibration, Head
from zarrvec.search.index import Index, open_index
from zarrvec.search.inputs import as_k, as_queries, as_selection, check_array, is_number, metric_of
from zarrvec.search.metrics import check_metric
from zarrvec.search.places import Snapshot
from zarrvec.search.reading import evaluated
from zarrvec.search.searching import Options, are_few_selected, codes_tell_too_little
from zarrvec.search.space import are_too_large, indexed_queries, is_far

Mask = npt.NDArray[np.bool_]

LATENCY_SECONDS: Final = 0.03
"""A request to object storage in the same region."""
BYTES_PER_SECOND: Final = 85e6
"""What one connection to it brings."""
DOLLARS_PER_REQUEST: Final = 0.0004 / 1000
"""GET of S3 Standard; bytes within a region cost nothing."""
_TYPICAL: Final = 64
"""Centroids that stand for queries where none are given."""
_BLOCK_BYTES: Final = 32 << 20


def info(array: AnyArray) -> dict[str, Any]:
    """Describe an index; see `zarrvec.search.accessor.VectorAccessor.info`."""
    return read_anew(array, lambda: _info(array))


def _info(array: AnyArray) -> dict[str, Any]:
    snapshot = Snapshot.of(array)
    head = need_head(snapshot)
    fresh = open_index(snapshot, head).uncovered
    return describe(head) | {
        "path": snapshot.index_path,
        "rows_out_of_lists": 0 if fresh is None else int(np.count_nonzero(fresh)),
    }


def describe(head: Head) -> dict[str, Any]:
    """Return what the head tells."""
    calibration, layout = head.calibration, head.layout
    entries = sum(segment.entries for segment in head.segments)
    groups = head.segments[0].groups
    rows_of_root = head.nlist + (0 if groups is None else groups.count)
    return {
        "metric": head.metric,
        "width": head.width,
        "rows": head.rows,
        "entries": entries,
        "lists": head.nlist,
        "segments": len(head.segments),
        "deleted": head.deleted,
        "bits": head.options.get("bits", 8),
        "bytes": entries * layout.entry_bytes + rows_of_root * layout.list_bytes,
        "calibration": {
            "measured_on": calibration.source,
            "queries": calibration.queries,
            "recall": {
                f"recall@{curve.k}": {
                    str(nprobe): recall
                    for nprobe, recall in zip(calibration.nprobe, curve.recall, strict=True)
                }
                for curve in calibration.curves
            },
            "lost_by_codes": {f"recall@{curve.k}": curve.loss for curve in calibration.curves},
        },
        "built": head.built,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a search is going to do, and what that costs.

    Requests, bytes and rounds are those of the index, as `zarrvec.search.hits.SearchStats` counts them, and as if the
    search had come in place of the question: what opening the index took is part of them. Rows of the array come on top.
    """

    way: str
    """``"lists"`` or ``"all rows"``."""
    because: str
    """Why."""
    queries: int
    """How many are searched for together."""
    typical: bool
    """Whether no queries were given: then the numbers are the mean of searches for a query at one of the centroids."""
    k: int
    """Hits for each."""
    recall: float | None
    """What the calibration promises at best; None beyond what was measured."""
    nprobe: int | None
    """Lists probed for each query, at first: more if few of the rows selected are in them."""
    rerank: bool
    """Whether the best are ranked again by their rows."""
    bits: int | None
    """Of each code that are read."""
    lists: float
    """Posting lists, those of later segments counted apart."""
    cached: float
    """Of these in memory."""
    segments: int
    """Of the index."""
    opening_requests: int
    """Requests that array, index and its table of lists took just now; none if they were in memory."""
    requests: float
    """All requests, after gaps between lists were merged."""
    bytes: float
    """All bytes that these bring."""
    rounds: float
    """Waves of requests that wait for one another."""
    rows: int
    """Rows compared as they are, at most: those in no list, those ranked again; or all that are selected."""
    chunks: int
    """Chunks of the array that these are in, at most."""
    chunk_bytes: int
    """Their decoded bytes."""
    latency_seconds: float
    """Assumed for a round."""
    bytes_per_second: float
    """Assumed for all that is read."""

    @property
    def seconds(self) -> float:
        """Estimated time for storage; computing comes on top."""
        rounds = self.rounds + (self.chunks > 0)
        return rounds * self.latency_seconds + (self.bytes + self.chunk_bytes) / self.bytes_per_second

    @property
    def dollars_per_million(self) -> float:
        """Price of the requests of 10^6 such queries; no more than that on a store that packs chunks."""
        return 1e6 * DOLLARS_PER_REQUEST * (self.requests + self.chunks) / max(1, self.queries)

    def to_dict(self) -> dict[str, Any]:
        """Return all as plain values."""
        return {
            **dataclasses.asdict(self),
            "seconds": self.seconds,
            "dollars_per_million": self.dollars_per_million,
        }

    def __str__(self) -> str:
        for_whom = (
            "a typical query"
            if self.typical
            else f"{self.queries} {'query' if self.queries == 1 else 'queries'}"
        )
        lines = [("way", f"{self.way}, {self.because}"), ("for", f"{for_whom}, k={self.k}")]
        if self.nprobe is not None:
            promised = "not measured" if self.recall is None else f"{self.recall:.3f}"
            again = ", the best ranked again by their rows" if self.rerank else ""
            lines += [
                ("recall", f"{promised} as calibrated"),
                ("lists", f"{self.lists:.4g}, {self.cached:.4g} in memory; {self.nprobe} a query{again}"),
                (
                    "requests",
                    f"{self.requests:.4g} in {self.rounds:.3g} rounds, {self.opening_requests} of them to open",
                ),
                ("bytes", f"{self.bytes:,.0f}"),
            ]
        lines += [
            ("rows", f"{self.rows:,} in {self.chunks:,} chunks, {self.chunk_bytes:,} bytes, at most"),
            (
                "seconds",
                f"{self.seconds:.3f} at {self.latency_seconds} s and {self.bytes_per_second / 1e6:g} MB/s",
            ),
            ("dollars", f"{self.dollars_per_million:.2f} for 10^6 queries"),
        ]
        return "\n".join(f"{name:9}{text}" for name, text in lines)


def explain(
    array: AnyArray,
    queries: npt.ArrayLike | None,
    k: object,
    options: Options,
    *,
    latency_seconds: float,
    bytes_per_second: float,
) -> Plan:
    """Tell what a search is going to do; see `zarrvec.search.accessor.VectorAccessor.explain`."""
    known = is_number(latency_seconds) and is_number(bytes_per_second)
    if not (known and latency_seconds >= 0 and bytes_per_second > 0):
        raise OptionError(
            f"latency_seconds={latency_seconds!r}, bytes_per_second={bytes_per_second!r}: expected numbers, 0 or more "
            "and more than 0"
        )
    check_array(array)
    if options.metric is not None:
        check_metric(options.metric)
    plan = read_anew(array, lambda: _plan(array, queries, k, options))
    return dataclasses.replace(plan, latency_seconds=latency_seconds, bytes_per_second=bytes_per_second)


def _plan(array: AnyArray, queries: npt.ArrayLike | None, k: object, options: Options) -> Plan:
    snapshot = Snapshot.of(array)
    source = snapshot.array
    batch = None if queries is None else as_queries(queries, source.shape[-1])[0]
    mask = as_selection(evaluated(options.where, source), source.shape[:-1])
    head = open_head(snapshot)
    metric = options.metric or (metric_of(array) if head is None else head.metric)
    because = _why_all_rows(snapshot, head, metric, options)
    if because is None and batch is not None and are_too_large(batch, metric):
        because = "queries are so large that products of float32 won't do"
    wanted = min(as_k(k), max(1, math.prod(source.shape[:-1])))
    bits = options.bits or (8 if head is None else int(head.options["bits"]))
    if because is None and head is not None:
        asked = 1 if batch is None else len(batch)
        if codes_tell_too_little(head, options, wanted, bits):
            because = (
                "codes don't tell the nearest rows apart; fewer are read if bounds of the index rule some out"
            )
        elif are_few_selected(source, mask, head, options, wanted, asked, bits):
            because = "so few are selected that they take fewer bytes than posting lists"
    index = None if because is not None or head is None else open_index(snapshot, head)
    if index is not None and is_far(index.centroids.origin):
        because = "rows are so far from 0 that products of float32 won't do"
    if because is None and index is not None:
        planner = _Planner(snapshot, index, wanted, mask, options)
        plan = planner.typical() if batch is None else planner.plan(batch)
    else:
        chunks, size = _chunks(snapshot, mask)
        plan = Plan(
            way="all rows", because=because or "", queries=1 if batch is None else len(batch),
            typical=batch is None, k=as_k(k), recall=1.0, nprobe=None, rerank=False, bits=None, lists=0, cached=0,
            segments=0 if head is None else len(head.segments), opening_requests=snapshot.stats.requests,
            requests=snapshot.stats.requests, bytes=snapshot.stats.bytes, rounds=snapshot.stats.rounds,
            rows=_count(mask, source.shape[:-1]), chunks=chunks, chunk_bytes=size,
            latency_seconds=LATENCY_SECONDS, bytes_per_second=BYTES_PER_SECOND,
        )  # fmt: skip
    return plan


def _why_all_rows(snapshot: Snapshot, head: Head | None, metric: str, options: Options) -> str | None:
    if head is None:
        return "there is no index"
    if options.exact or options.recall == 1:
        return "an exact answer is asked for; fewer are read if bounds of the index rule some out"
    if metric != head.metric:
        raise SearchError(
            f"metric={metric!r}: the index is for {head.metric!r}. Leave the metric out, or ask for exact=True"
        )
    if not fits(snapshot.array, head):
        raise SearchError(of_another(snapshot, head))
    return None


def _count(mask: Mask | None, leading: tuple[int, ...]) -> int:
    return int(np.prod(leading, dtype=np.int64)) if mask is None else int(np.count_nonzero(mask))


def _chunks(snapshot: Snapshot, mask: Mask | None) -> tuple[int, int]:
    """Return how many chunks hold some rows, and their decoded bytes."""
    blocks = list(plan_blocks(grid_of(snapshot.array), block_bytes=_BLOCK_BYTES, mask=mask))
    return sum(block.chunks for block in blocks), sum(block.bytes_decoded for block in blocks)


class _Planner:
    """Plans searches through lists."""

    def __init__(self, snapshot: Snapshot, index: Index, k: int, mask: Mask | None, options: Options) -> None:
        self._snapshot = snapshot
        self._index = index
        self._k = k
        self._options = options
        self._opening = dataclasses.replace(snapshot.stats)
        leading = snapshot.array.shape[:-1]
        listed = np.ones(leading, dtype=np.bool_) if mask is None else mask.copy()
        listed.reshape(-1)[index.deleted[index.deleted < listed.size]] = False
        self._fresh = np.zeros(leading, dtype=np.bool_)
        if index.uncovered is not None:
            self._fresh = listed & index.uncovered
            listed &= ~index.uncovered
        self._listed = listed
        self._bits = options.bits or int(index.head.options.get("bits", 8))
        share = max(1, int(np.count_nonzero(listed))) / max(1, listed.size)
        self._wanted = k / share
        self._depth = depth_for(
            index.head,
            float(options.recall),
            k,
            share=share,
            bits=self._bits,
            nprobe=None if options.nprobe is None else int(options.nprobe),
            rerank=options.rerank,
            reread_bytes=bytes_to_rank_again(grid_of(snapshot.array), k, self._bits),
        )

    def plan(self, queries: npt.NDArray[np.float64]) -> Plan:
        """Plan a search for queries as they are given."""
        metric, origin = self._index.head.metric, self._index.centroids.origin
        return self._plan(indexed_queries(queries, metric, origin))

    def typical(self) -> Plan:
        """Return the mean plan for a query at one of the centroids."""
        vectors = self._index.centroids.compass.vectors
        some = np.unique(np.linspace(0, len(vectors) - 1, _TYPICAL).astype(np.int64))
        plans = [self._plan(vectors[number : number + 1]) for number in some]
        means: dict[str, Any] = {
            name: float(np.mean([getattr(plan, name) for plan in plans]))
            for name in ("lists", "cached", "requests", "bytes", "rounds")
        }
        return dataclasses.replace(plans[0], typical=True, **means)

    def _plan(self, queries: npt.NDArray[np.float32]) -> Plan:
        depth, index = self._depth, self._index
        before = dataclasses.replace(self._snapshot.stats)
        numbers = np.unique(index.centroids.probe(self._snapshot, queries, depth.nprobe).lists)
        traffic = _with_more(self._opening, before, self._snapshot.stats)
        opened = traffic.requests
        lists = cached = 0
        for wave in waves(numbers, index.sizes(self._bits, numbers), self._options.memory_bytes):
            wants = []
            for part in index.parts:
                there = wave[part.counts[wave] > 0]
                held = LISTS.get_many([(part.id, number) for number in there.tolist()])
                known = [number for (_, number), kept in held.items() if kept.bits >= self._bits]
                wants += part.entries.wants(part.spans(np.setdiff1d(there, known), self._bits))
                lists, cached = lists + len(there), cached + len(known)
            traffic.add(foresee(self._snapshot, wants))
        rows, chunks, chunk_bytes = self._rows(len(queries), depth)
        return Plan(
            way="lists",
            because=f"{len(numbers)} of {index.head.nlist}",
            queries=len(queries),
            typical=False,
            k=self._k,
            recall=_promised(index.head.calibration, depth, self._wanted, self._bits),
            nprobe=depth.nprobe,
            rerank=depth.rerank,
            bits=self._bits,
            lists=lists,
            cached=cached,
            segments=len(index.parts),
            opening_requests=opened,
            requests=traffic.requests,
            bytes=traffic.bytes,
            rounds=traffic.rounds,
            rows=rows,
            chunks=chunks,
            chunk_bytes=chunk_bytes,
            latency_seconds=LATENCY_SECONDS,
            bytes_per_second=BYTES_PER_SECOND,
        )

    def _rows(self, queries: int, depth: Depth) -> tuple[int, int, int]:
        """Return how many rows of the array are compared, the chunks that they are in, and the bytes of these, at most."""
        fresh = int(np.count_nonzero(self._fresh))
        chunks, size = _chunks(self._snapshot, self._fresh) if fresh else (0, 0)
        if not depth.rerank:
            return fresh, chunks, size
        again = queries * candidates_for(self._k, self._bits)
        all_chunks, all_bytes = _chunks(self._snapshot, self._listed)
        few = min(again, all_chunks)
        return fresh + again, chunks + few, size + few * all_bytes // max(1, all_chunks)


def _with_more(opening: Traffic, before: Traffic, after: Traffic) -> Traffic:
    """Return what opening took, and what was read of the lists' table since then, between two looks."""
    return Traffic(
        requests=opening.requests + after.requests - before.requests,
        bytes=opening.bytes + after.bytes - before.bytes,
        rounds=opening.rounds + after.rounds - before.rounds,
    )


def _promised(calibration: Calibration, depth: Depth, k: float, bits: int) -> float | None:
    """Return the recall that was measured with as many lists; None if it wasn't for so many hits."""
    curve = next((curve for curve in calibration.curves if curve.k >= k), None)
    if curve is None:
        return None
    found = float(np.interp(depth.nprobe, calibration.nprobe, curve.recall))
    return max(0.0, found - (0.0 if depth.rerank else calibration.loss_at(k, bits=bits)))
