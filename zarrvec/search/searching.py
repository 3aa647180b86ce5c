"""Which way does a search go: through the index or over all rows? And what does it bring besides ids?"""

import math
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from zarr.types import AnyArray

from zarrvec.errors import CorruptError, OptionError, SearchError
from zarrvec.search.approximate import Answer, Asked, search_lists
from zarrvec.search.blocks import grid_of
from zarrvec.search.bounded import search_bounded
from zarrvec.search.depth import are_few, bytes_to_rank_again, depth_for
from zarrvec.search.editing import fits, of_another, open_head
from zarrvec.search.head import Head
from zarrvec.search.hits import Hits, SearchStats
from zarrvec.search.index import open_index
from zarrvec.search.inputs import as_k, as_queries, as_selection, check_array, check_memory, is_integer
from zarrvec.search.metrics import check_metric
from zarrvec.search.places import Snapshot
from zarrvec.search.reading import Siblings, read_rows, sibling

_LARGEST: Final = 1e15
"""Components of queries up to which the products of float32 with indexed vectors are safe."""
VECTORS: Final = "vectors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to search; see `zarrvec.search.accessor.VectorAccessor.search`."""

    metric: str | None
    recall: float
    exact: bool
    where: object
    nprobe: int | None
    bits: int | None
    rerank: bool | None
    include: tuple[str, ...] = ()
    memory_bytes: int

    def __post_init__(self) -> None:
        """Check what can be checked without an array."""
        if not _is_share(self.recall):
            raise OptionError(f"recall={self.recall!r}: expected a share above 0 and up to 1")
        if self.bits not in (None, 4, 8):
            raise OptionError(f"bits={self.bits!r}: expected 4 or 8, the bits of each code that are read")
        if self.nprobe is not None and not (is_integer(self.nprobe) and self.nprobe >= 1):
            raise OptionError(
                f"nprobe={self.nprobe!r}: expected lists to probe, at least 1; or None to go by recall"
            )
        if self.rerank not in (None, True, False):
            raise OptionError(f"rerank={self.rerank!r}: expected True or False; or None to go by recall")
        check_memory(self.memory_bytes)


def _is_share(value: object) -> bool:
    return isinstance(value, float | int | np.floating) and 0 < float(value) <= 1


def search(array: AnyArray, queries: npt.ArrayLike, k: object, default_metric: str, options: Options) -> Hits:
    """Find the nearest rows, through the index if there is one.

    On a store without versions an index may be replaced while it is read; then the search begins anew.
    """
    revision = None
    while True:
        try:
            return _search(array, queries, k, default_metric, options)
        except CorruptError:
            snapshot = Snapshot.of(array)
            head = None if snapshot.is_versioned else open_head(snapshot)
            if head is None or head.revision == revision:
                raise
            revision = head.revision


def _search(
    array: AnyArray, queries: npt.ArrayLike, k: object, default_metric: str, options: Options
) -> Hits:
    started = time.perf_counter()
    check_array(array)
    snapshot = Snapshot.of(array)
    source = snapshot.array
    leading = source.shape[:-1]
    wanted = min(as_k(k), max(1, math.prod(leading)))
    batch, single = as_queries(queries, source.shape[-1])
    where = options.where
    if callable(where) and not hasattr(where, "__array__"):
        where = where(Siblings(source))
    mask = as_selection(where, leading)
    if options.metric is not None:
        check_metric(options.metric)
    head = open_head(snapshot)
    exact = options.exact or options.recall == 1 or head is None or not batch.size or not np.prod(leading)
    metric = options.metric or (default_metric if head is None else head.metric)
    if head is not None and metric != head.metric and not exact:
        raise SearchError(
            f"metric={metric!r}: the index of array {source.name!r} is for {head.metric!r}. Leave the metric out, ask for "
            f"exact=True, or build an index for this one: array.vec.build_index(metric={metric!r})"
        )
    if head is not None and not fits(source, head):
        if not exact:
            raise SearchError(of_another(snapshot, head))
        head = None
    bits = options.bits or (8 if head is None else int(head.options["bits"]))
    exact = exact or (metric != "cosine" and bool(np.abs(batch).max(initial=0) > _LARGEST))
    if head is None or exact or are_few_selected(source, mask, head, options, wanted, len(batch), bits):
        hits = search_bounded(
            snapshot,
            head,
            queries,
            wanted,
            metric=check_metric(metric),
            where=mask,
            include_vectors=VECTORS in options.include,
            memory_bytes=options.memory_bytes,
        )
    else:
        index = open_index(snapshot, head)
        asked = Asked(
            queries=batch,
            k=wanted,
            recall=float(options.recall),
            nprobe=None if options.nprobe is None else int(options.nprobe),
            bits=bits,
            rerank=options.rerank,
            where=mask,
            memory_bytes=options.memory_bytes,
        )
        answer = search_lists(snapshot, index, asked)
        hits = _hits(snapshot, answer, single=single, vectors=VECTORS in options.include)
    columns = {
        name: read_rows(sibling(source, name), hits.ids, len(leading))
        for name in options.include
        if name != VECTORS
    }
    stats = replace(hits.stats, seconds=time.perf_counter() - started)
    if hits.stats.nprobe is not None:
        traffic = snapshot.stats
        stats = replace(stats, requests=traffic.requests, bytes_read=traffic.bytes, rounds=traffic.rounds)
    return replace(hits, columns=columns, stats=stats)


def are_few_selected(
    source: AnyArray,
    selected: npt.NDArray[np.bool_] | None,
    head: Head,
    options: Options,
    k: int,
    queries: int,
    bits: int,
) -> bool:
    """Return whether so few rows are selected that they are compared one by one."""
    if selected is None or options.nprobe is not None:
        return False
    share = max(1, int(np.count_nonzero(selected))) / selected.size
    grid = grid_of(source)
    depth = depth_for(
        head,
        float(options.recall),
        k / share,
        bits=bits,
        nprobe=None,
        rerank=options.rerank,
        reread_bytes=bytes_to_rank_again(grid, k, bits),
    )
    return are_few(grid, selected, head, depth, queries=queries, bits=bits)


def _hits(snapshot: Snapshot, answer: Answer, *, single: bool, vectors: bool) -> Hits:
    leading = snapshot.array.shape[:-1]
    shape = answer.ids.shape[1:] if single else answer.ids.shape
    ids = np.ascontiguousarray(answer.ids).reshape(shape)
    with np.errstate(over="ignore"):
        distances = answer.distances.astype(np.float32).reshape(shape)
    places: tuple[Any, ...] = (
        np.unravel_index(ids, leading) if ids.size else tuple(ids.copy() for _ in leading)
    )
    return Hits(
        ids=ids,
        distances=distances,
        indices=tuple(place.astype(np.int64, copy=False) for place in places),
        vectors=read_rows(snapshot.array, ids, len(leading)) if vectors else None,
        stats=SearchStats(
            vectors=answer.exact_rows,
            bytes_decoded=0,
            chunks_read=0,
            seconds=0.0,
            nprobe=answer.depth.nprobe,
            reranked=answer.depth.rerank,
            lists=answer.lists,
            entries=answer.entries,
            unlike=answer.unlike,
            stages=answer.seconds,
        ),
    )


def as_include(include: Collection[str]) -> tuple[str, ...]:
    """Return names of what is to be brought along.

    Examples
    --------
    >>> as_include("vectors"), as_include(["text", "vectors"])
    (('vectors',), ('text', 'vectors'))
    """
    return (include,) if isinstance(include, str) else tuple(include)
