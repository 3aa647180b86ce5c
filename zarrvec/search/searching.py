"""Which way does a search go: through the index or over all rows? And what does it bring besides ids?"""

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from operator import is_
from typing import Any, Final, NamedTuple, cast

import numpy as np
import numpy.typing as npt
from zarr.types import AnyArray

from zarrvec.engine.traffic import Traffic, counting
from zarrvec.errors import OptionError, SearchError
from zarrvec.search.approximate import Answer, answer_at_once, search_lists
from zarrvec.search.blocks import grid_of
from zarrvec.search.bounded import search_bounded
from zarrvec.search.depth import are_few, bytes_to_rank_again, depth_for
from zarrvec.search.editing import fits, of_another, open_head, read_anew
from zarrvec.search.head import Head
from zarrvec.search.hits import Hits, SearchStats
from zarrvec.search.index import index_in_memory, open_index
from zarrvec.search.inputs import (
    as_k,
    as_queries,
    as_selection,
    check_array,
    check_memory,
    is_integer,
    metric_of,
)
from zarrvec.search.metrics import check_metric
from zarrvec.search.places import Snapshot
from zarrvec.search.prepared import Asked, Prepared, prepare
from zarrvec.search.reading import evaluated, read_rows, sibling
from zarrvec.search.space import are_too_large, is_far

_MOST_LOST: Final = {8: 0.3, 4: 0.5}
"""Part of the nearest rows, by bits of codes, that ranking again can bring back: more candidates are ranked for 4 bits."""
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

    @classmethod
    def of(
        cls,
        metric: Any,
        recall: Any,
        exact: Any,
        where: Any,
        nprobe: Any,
        bits: Any,
        rerank: Any,
        include: Any,
        memory_bytes: Any,
    ) -> "Options":
        """Take what was given, and check what can be checked without an array."""
        return cls(
            metric=metric, recall=recall, exact=exact, where=where, nprobe=nprobe, bits=bits, rerank=rerank,
            include=as_include(include), memory_bytes=memory_bytes,
        )  # fmt: skip

    def __post_init__(self) -> None:
        """Check what can be checked without an array."""
        if not _is_share(self.recall):
            raise OptionError(f"recall={self.recall!r}: expected a share above 0 and up to 1")
        if self.bits is not None and not (is_integer(self.bits) and self.bits in (4, 8)):
            raise OptionError(f"bits={self.bits!r}: expected 4 or 8, the bits of each code that are read")
        if self.nprobe is not None and not (is_integer(self.nprobe) and self.nprobe >= 1):
            raise OptionError(
                f"nprobe={self.nprobe!r}: expected lists to probe, at least 1; or None to go by recall"
            )
        if not isinstance(self.exact, bool | np.bool_):
            raise OptionError(f"exact={self.exact!r}: expected True or False")
        if not isinstance(self.rerank, bool | np.bool_ | None):
            raise OptionError(f"rerank={self.rerank!r}: expected True or False; or None to go by recall")
        object.__setattr__(self, "exact", bool(self.exact))  # numpy's own are not what `is` asks for
        object.__setattr__(self, "rerank", None if self.rerank is None else bool(self.rerank))
        check_memory(self.memory_bytes)


def _is_share(value: object) -> bool:
    return (
        isinstance(value, float | int | np.floating) and not isinstance(value, bool) and 0 < float(value) <= 1
    )


class Latest:
    """The latest search of an array that went through an index, as prepared: for the next one that asks for the same.

    It serves while it is known that nothing has changed, so on zarrvec stores only, and while the cache of roots holds the
    index. Any number of threads may share it.
    """

    __slots__ = ("_asked", "_held")

    def __init__(self) -> None:
        self._held: tuple[Options, Prepared] | None = None
        self._asked: tuple[tuple[object, ...], Options] | None = None

    def options(self, *asked: Any) -> Options:
        """Return what `Options.of` makes of this, made once for the same objects, as long as none of them can change."""
        held = self._asked
        if held is not None and all(map(is_, held[0], asked)):
            return held[1]
        options = Options.of(*asked)
        *_, include, _ = asked
        if options.where is None and isinstance(include, tuple):
            self._asked = asked, options
        return options

    def find(self, k: int, options: Options) -> Prepared | None:
        """Return what was prepared for the same."""
        held = self._held
        if held is None or options.where is not None:
            return None
        before, prepared = held
        if prepared.asked.k != k or before != options:
            return None
        if not prepared.snapshot.is_current() or index_in_memory(prepared.snapshot) is not prepared.index:
            self._held = None
            return None
        return prepared

    def keep(self, options: Options, prepared: Prepared) -> None:
        """Keep what was prepared, unless it holds the caller's own selection."""
        if options.where is None and prepared.snapshot.token is not None:
            self._held = options, prepared


class _Asking(NamedTuple):
    """Queries to an index."""

    prepared: Prepared
    queries: npt.NDArray[np.float64]
    """(q, d) as given."""
    single: bool
    """Whether it was one of shape (d,)."""
    answer: Answer | None
    """If lists in memory tell it at once."""
    started: float


def search(array: AnyArray, queries: npt.ArrayLike, k: object, options: Options, latest: Latest) -> Hits:
    """Find the nearest rows, through the index if there is one."""
    started = time.perf_counter()
    number = as_k(k)
    prepared = latest.find(number, options)
    asking = None
    if prepared is not None:
        batch, single = as_queries(queries, prepared.index.head.width)
        if batch.size and not are_too_large(batch, prepared.metric):
            asking = _Asking(prepared, batch, single, answer_at_once(prepared, batch), started)
            if asking.answer is not None and not options.include:
                return _hits_of(asking, asking.answer, Traffic())
    with counting() as rows:
        if asking is None:
            hits = read_anew(array, lambda: _search(array, queries, number, options, latest, started))
        else:
            hits = _through_lists(asking, asking.prepared.snapshot.again(), options)
    stats = hits.stats
    if stats.requests is None or stats.bytes_read is None or stats.rounds is None or not rows.requests:
        return hits
    total = Traffic(requests=stats.requests, bytes=stats.bytes_read, rounds=stats.rounds)
    total.add(rows)
    stats = replace(stats, requests=total.requests, bytes_read=total.bytes, rounds=total.rounds)
    return replace(hits, stats=stats)


def _search(
    array: AnyArray, queries: npt.ArrayLike, k: int, options: Options, latest: Latest, started: float
) -> Hits:
    check_array(array)
    snapshot = Snapshot.of(array)
    source = snapshot.array
    leading = source.shape[:-1]
    wanted = min(k, max(1, math.prod(leading)))
    batch, single = as_queries(queries, source.shape[-1])
    mask = as_selection(evaluated(options.where, source), leading)
    if options.metric is not None:
        check_metric(options.metric)
    head = open_head(snapshot)
    exact = options.exact or options.recall == 1 or head is None or not batch.size or not np.prod(leading)
    metric = check_metric(options.metric or (metric_of(array) if head is None else head.metric))
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
    exact = exact or are_too_large(batch, metric)
    if head is not None and not exact:
        exact = codes_tell_too_little(head, options, wanted, bits) or are_few_selected(
            source, mask, head, options, wanted, len(batch), bits
        )
    index = None if head is None or exact else open_index(snapshot, head)
    if index is None or is_far(index.centroids.origin):
        hits = search_bounded(
            snapshot,
            head,
            queries,
            wanted,
            metric=metric,
            where=mask,
            include_vectors=VECTORS in options.include,
            memory_bytes=options.memory_bytes,
        )
        return _with_columns(hits, snapshot, options, started)
    asked = Asked(
        k=wanted,
        recall=float(options.recall),
        nprobe=None if options.nprobe is None else int(options.nprobe),
        bits=bits,
        rerank=options.rerank,
        where=mask,
        memory_bytes=options.memory_bytes,
    )
    prepared = prepare(snapshot, index, asked)
    latest.keep(options, prepared)
    asking = _Asking(prepared, batch, single, answer_at_once(prepared, batch), started)
    return _through_lists(asking, snapshot, options)


def codes_tell_too_little(head: Head, options: Options, k: int, bits: int) -> bool:
    """Return whether so many of the nearest rows are not among the nearest by their codes that ranking these again won't do.

    So it is with clusters of rows that differ by less than a step of their codes.
    """
    by_recall = options.nprobe is None and options.rerank is None
    return by_recall and head.calibration.loss_at(k, bits=bits) > _MOST_LOST[bits]


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
        k,
        share=share,
        bits=bits,
        nprobe=None,
        rerank=options.rerank,
        reread_bytes=bytes_to_rank_again(grid, k, bits),
    )
    return are_few(grid, selected, head, depth, queries=queries, bits=bits)


def _through_lists(asking: _Asking, snapshot: Snapshot, options: Options) -> Hits:
    prepared, answer = asking.prepared, asking.answer
    if answer is None:
        answer = search_lists(prepared, snapshot, asking.queries)
    hits = _hits_of(asking, answer, snapshot.stats)
    if VECTORS in options.include:
        hits = replace(hits, vectors=read_rows(snapshot.array, hits.ids, len(prepared.leading)))
    return _with_columns(hits, snapshot, options, asking.started)


def _hits_of(asking: _Asking, answer: Answer, traffic: Traffic) -> Hits:
    ids, distances = np.ascontiguousarray(answer.ids), answer.distances
    if distances.dtype == np.float64:
        with np.errstate(over="ignore"):
            distances = distances.astype(np.float32)
    if asking.single:
        ids, distances = ids[0], distances[0]
    return Hits(
        ids=ids,
        distances=cast("npt.NDArray[np.float32]", distances),
        indices=_places(ids, asking.prepared.leading),
        stats=SearchStats(
            vectors=answer.exact_rows,
            bytes_decoded=0,
            chunks_read=0,
            seconds=time.perf_counter() - asking.started,
            requests=traffic.requests,
            bytes_read=traffic.bytes,
            rounds=traffic.rounds,
            nprobe=answer.depth.nprobe,
            reranked=answer.depth.rerank,
            lists=answer.lists,
            entries=answer.entries,
            unlike=answer.unlike,
            stages=answer.seconds,
        ),
    )


def _places(ids: npt.NDArray[np.int64], leading: tuple[int, ...]) -> tuple[npt.NDArray[np.int64], ...]:
    """Return ids as positions on each axis."""
    if len(leading) == 1 or not ids.size:
        return (ids.copy(),) * len(leading)
    return tuple(place.astype(np.int64, copy=False) for place in np.unravel_index(ids, leading))


def _with_columns(hits: Hits, snapshot: Snapshot, options: Options, started: float) -> Hits:
    """Return the hits with what is asked for of the arrays beside, and the seconds up to now."""
    names = [name for name in options.include if name != VECTORS]
    if not names and hits.stats.nprobe is not None:
        return hits
    axes = snapshot.array.ndim - 1
    columns = {name: read_rows(sibling(snapshot.array, name), hits.ids, axes) for name in names}
    stats = replace(hits.stats, seconds=time.perf_counter() - started)
    return replace(hits, columns=columns, stats=stats)


def as_include(include: object) -> tuple[str, ...]:
    """Return names of what is to be brought along.

    Raises
    ------
    OptionError
        If they are none.

    Examples
    --------
    >>> as_include("vectors"), as_include(["text", "vectors"])
    (('vectors',), ('text', 'vectors'))
    """
    if isinstance(include, str):
        return (include,)
    names: tuple[object, ...] = tuple(include) if isinstance(include, Iterable) else (include,)
    if not all(isinstance(name, str) for name in names):
        raise OptionError(
            f"include={include!r}: expected {VECTORS!r}, which are the rows, and names of arrays beside this one"
        )
    return tuple(map(str, names))
