"""Which entries of posting lists in memory are nearest, of those that each query probes?

The lists are scanned as they were read: bytes of `zarrvec.search.records.Layout`, found by address. A list is decoded
once for all queries that probe it. There are two implementations of one result (but for rounding): numpy, which starts at
once, and `zarrvec.search._numba_kernels`, ten times faster, which takes half a second to load, and so is loaded when numpy
has worked for as long (`zarrvec.search.loading`).
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from zarrvec.search._numpy_kernels import (
    COSINE,
    IP,
    MANY,
    NO_HIT,
    NO_LIST,
    Found,
    ScanInput,
    blocks_of,
    merge,
    nothing,
    scan_numpy,
    sizes_of,
)
from zarrvec.search.coarse import Coarse, plain
from zarrvec.search.loading import Loader
from zarrvec.search.metrics import Metric

__all__ = [
    "NO_HIT",
    "NO_LIST",
    "THREADS",
    "Found",
    "Nearest",
    "ScanInput",
    "Space",
    "choose",
    "compile_now",
    "find",
    "is_compiled",
    "merge",
    "scan",
]

THREADS: Final = min(8, os.cpu_count() or 1)
"""As many as there are processors, and no more than a batch has work for."""
_QUERIES_A_THREAD: Final = 4
"""A thread is worth starting for that many queries."""
_PART_PRODUCTS: Final = 2_000_000_000
"""Products after which numpy, in half a second to two, looks whether compiled code has come. Parts much smaller would decode
the same lists again and again."""
_TOLD_APART: Final = 4 << 20
"""Entries that are held at once to be told apart by their ids, where many are kept: 48 MiB."""

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

T = TypeVar("T")
R = TypeVar("R")

_NO_MASK: Final = np.empty(0, dtype=np.uint8)
_NO_ORIGIN: Final = np.empty(0, dtype=np.float32)
_METRICS: Final = {"cosine": COSINE, "ip": IP}
_loader = Loader()


def scan(
    lists: ScanInput,
    queries: Float32,
    probes: Int64,
    base: Float32,
    *,
    kept: int,
    bits: int = 8,
    allowed: npt.NDArray[np.bool_] | npt.NDArray[np.uint8] | None = None,
    threads: int = 1,
) -> Found:
    """Find the best entries of each query, each id once with its best score.

    The score, smaller for nearer, is ``norm - 2 * dot`` for a layout with norms (the squared distance less that of the
    query from the origin), else ``-dot``, where ``dot = base + scale * sum(query * (code - 128))``.

    Parameters
    ----------
    lists
        Posting lists, by address.
    queries
        (q, d) float32, finite, as wide as the layout says.
    probes
        (q, p) integers: the lists that each query looks into, none of them twice; negative for none. Fastest if the nearest
        list comes first.
    base
        (q, p) float32: inner product of the query and the centroid of the list.
    kept
        Entries kept for each query, at least 1.
    bits
        4 if only the high planes of the lists are in memory, else 8.
    allowed
        (n,) whether the row of that id may be found; ids from n on may not. None if all may.
    threads
        Threads to scan with, at most.

    Examples
    --------
    >>> from zarrvec.search.records import Entries, Layout
    >>> layout = Layout(width=2, id_bytes=4, has_norms=False)
    >>> codes, ones = np.array([[138, 128], [128, 138]], "u1"), np.ones(2, "f4")
    >>> data = layout.pack(Entries(np.array([7, 9]), ones, ones, None, codes))
    >>> lists = ScanInput(
    ...     layout=layout, addresses=np.array([[data.ctypes.data]], "u8"), counts=np.array([[2]])
    ... )
    >>> query, nothing = np.array([[1, 2]], "f4"), np.zeros((1, 1), "f4")
    >>> found = scan(lists, query, np.array([[0]]), nothing, kept=3)
    >>> found.ids.tolist(), found.scores.round(2).tolist(), found.scanned
    ([[9, 7, -1]], [[-20.0, -10.0, inf]], 2)
    """
    if not probes.size:
        return Found(*nothing(len(queries), kept), 0)
    compiled = _loader.module
    if compiled is None:
        return _scan_meanwhile(lists, queries, probes, base, kept, bits, allowed, threads)
    return _scan_compiled(compiled, lists, queries, probes, base, kept, bits, allowed, threads)


def choose(
    coarse: Coarse, queries: Float32, factors: Float32, count: int, *, threads: int = 1
) -> tuple[Int64, Float32, Float32]:
    """Find the lists that each query is to probe, by compiled code: `is_compiled` must say that it is loaded.

    Parameters
    ----------
    coarse
        The centroids.
    queries
        (q, d) float32, finite.
    factors
        (q,) float32: by what the bias of the lists is multiplied.
    count
        Lists for each query, at most nlist.
    threads
        Threads to work with, at most.

    Returns
    -------
    lists
        (q, count) int64, the least first.
    products
        (q, count) float32: inner products of the query and their centroids.
    nearest
        (q,) float32: the least of ``squares - 2 * products``.
    """
    compiled = _loader.module
    assert compiled is not None
    queries, factors = plain(queries, np.float32), plain(factors, np.float32)
    lists = np.empty((len(queries), count), dtype=np.int64)
    theirs = np.empty((len(queries), count), dtype=np.float32)
    nearest = np.empty(len(queries), dtype=np.float32)

    def choose_part(part: slice) -> None:
        compiled.choose(tuple(coarse), queries[part], factors[part], lists[part], theirs[part], nearest[part])

    workers = max(1, min(threads, len(queries) // _QUERIES_A_THREAD))
    edges = [len(queries) * worker // workers for worker in range(workers + 1)]
    _in_threads(choose_part, list(map(slice, edges[:-1], edges[1:])))
    return lists, theirs, nearest


def _in_threads(work: Callable[[T], R], parts: Sequence[T]) -> list[R]:
    """Do all parts at once, the first in this thread."""
    if len(parts) == 1:
        return [work(parts[0])]
    with ThreadPoolExecutor(len(parts) - 1) as pool:
        others = [pool.submit(work, part) for part in parts[1:]]
        return [work(parts[0]), *(other.result() for other in others)]


class Space(NamedTuple):
    """Where a few queries are answered by one call of compiled code."""

    metric: Metric
    """What is near."""
    origin: Float32 | None
    """(d,) what is taken off queries; None for nothing."""
    nprobe: int
    """Lists for each query, at most nlist."""
    far: float
    """Queries whose squared distance to the nearest centroid is larger are counted."""


class Nearest(NamedTuple):
    """The nearest entries of a few queries, and what was counted."""

    ids: Int64
    """(q, kept)."""
    distances: Float32
    """(q, kept) ascending."""
    entries: int
    """Compared with a query, over all queries."""
    lists: int
    """Scanned, those of later segments counted apart."""
    unlike: int
    """Queries far from all centroids."""


def find(
    lists: ScanInput,
    coarse: Coarse,
    queries: npt.NDArray[np.float64],
    space: Space,
    *,
    kept: int,
    bits: int,
) -> Nearest | None:
    """Choose lists and scan them, by one call of compiled code.

    Parameters are those of `scan` and `choose`, but for the queries: (q, d) float64 as they were given, few and finite.

    Returns
    -------
    Nearest or None
        None if one of the lists is not in memory, a query has fewer hits than asked for or next to no length, so many are
        kept that their ids repeat, or no compiled code is loaded.
    """
    compiled = _loader.module
    if compiled is None or kept > MANY:
        return None
    ids = np.empty((len(queries), kept), dtype=np.int64)
    distances = np.empty((len(queries), kept), dtype=np.float32)
    tally = np.empty(3, dtype=np.int64)
    told = (
        _METRICS.get(space.metric, -1),
        _NO_ORIGIN if space.origin is None else plain(space.origin, np.float32),
        space.nprobe,
        float(space.far),
    )
    described, mask = _described(lists, bits), (False, _NO_MASK)
    done = compiled.find(
        tuple(coarse), described, plain(queries, np.float64), told, mask, ids, distances, tally
    )
    return Nearest(ids, distances, *tally.tolist()) if done else None


def is_compiled() -> bool:
    """Return whether compiled code is loaded."""
    return _loader.module is not None


def compile_now() -> bool:
    """Load compiled code before this returns, compiled here if it must be, for who measures it: return whether it is there."""
    _loader.load(elsewhere=False)
    return is_compiled()


def _scan_meanwhile(
    lists: ScanInput,
    queries: Float32,
    probes: Int64,
    base: Float32,
    kept: int,
    bits: int,
    allowed: npt.NDArray[Any] | None,
    threads: int,
) -> Found:
    """Scan with numpy, some queries after others, and with compiled code those that are left when it is there."""
    sizes = sizes_of(lists, probes)
    products = sizes.sum(axis=(0, 2)) * lists.layout.width
    _loader.count(int(products.sum()))
    found: list[Found] = []
    for block in blocks_of(products, _PART_PRODUCTS):
        compiled = _loader.module
        part = block if compiled is None else slice(block.start, None)
        given = queries[part], probes[part], base[part]
        if compiled is not None:
            found.append(_scan_compiled(compiled, lists, *given, kept, bits, allowed, threads))
            break
        scanned = int(sizes[:, part].sum())
        found.append(Found(*scan_numpy(lists, *given, sizes[:, part], kept, bits, allowed), scanned))
    if len(found) == 1:
        return found[0]
    ids, scores, scanned_each = zip(*found, strict=True)
    return Found(np.concatenate(ids), np.concatenate(scores), sum(scanned_each))


def _scan_compiled(
    compiled: ModuleType,
    lists: ScanInput,
    queries: Float32,
    probes: Int64,
    base: Float32,
    kept: int,
    bits: int,
    allowed: npt.NDArray[Any] | None,
    threads: int,
) -> Found:
    """Scan; where ids repeat, for twice as many, as a row stands in up to two lists of a segment, or more if that won't do."""

    def scan_for(part: npt.NDArray[np.intp] | slice, kept: int) -> Found:
        given = queries[part], probes[part], base[part]
        return _scan_once(compiled, lists, *given, kept, bits, allowed, threads)

    if kept <= MANY:
        return scan_for(slice(None), kept)
    ids, scores = nothing(len(queries), kept)
    scanned, step = 0, max(1, _TOLD_APART // (2 * kept))
    for start in range(0, len(queries), step):
        asking = np.arange(start, min(start + step, len(queries)))
        most = int(sizes_of(lists, probes[asking]).sum(axis=(0, 2)).max())
        scanned_by, taken = None, kept
        while asking.size:
            taken = max(1, min(2 * taken, most))
            found = scan_for(asking, taken)
            scanned_by = found.scanned if scanned_by is None else scanned_by
            for query, repeated, theirs in zip(asking, found.ids, found.scores, strict=True):
                _tell_apart(repeated, theirs, ids[query], scores[query])
            asking = asking[(ids[asking, -1] == NO_HIT) & (taken < most)]
        scanned += scanned_by or 0
    return Found(ids, scores, scanned)


def _tell_apart(repeated: Int64, theirs: Float32, ids: Int64, scores: Float32) -> None:
    """Write the best entries of one query, each id once, over what was found of them before."""
    _, first = np.unique(repeated[: np.count_nonzero(repeated != NO_HIT)], return_index=True)
    first = np.sort(first)[: len(ids)]
    ids[: len(first)], scores[: len(first)] = repeated[first], theirs[first]


def _scan_once(
    compiled: ModuleType,
    lists: ScanInput,
    queries: Float32,
    probes: Int64,
    base: Float32,
    kept: int,
    bits: int,
    allowed: npt.NDArray[Any] | None,
    threads: int,
) -> Found:
    described = _described(lists, bits)
    mask = (allowed is not None, _NO_MASK if allowed is None else plain(allowed).view(np.uint8))

    def scan_part(part: slice | npt.NDArray[np.intp]) -> Found:
        numbers = plain(probes[part], np.int64)
        ids = np.empty((len(numbers), kept), dtype=np.int64)
        scores = np.empty((len(numbers), kept), dtype=np.float32)
        scanned = compiled.scan(
            described,
            plain(queries[part], np.float32),
            numbers,
            _order(numbers, lists.counts.shape[1]),
            plain(base[part], np.float32),
            mask,
            ids,
            scores,
        )
        return Found(ids, scores, scanned)

    workers = min(threads, len(queries) // _QUERIES_A_THREAD)
    if workers <= 1:
        return scan_part(slice(None))
    # lists are in order of similarity, so queries of neighbouring first lists share more of them
    near = np.argsort(probes[:, 0])
    ids = np.empty((len(queries), kept), dtype=np.int64)
    scores = np.empty((len(queries), kept), dtype=np.float32)
    parts, scanned = np.array_split(near, workers), 0
    for part, found in zip(parts, _in_threads(scan_part, parts), strict=True):
        ids[part], scores[part] = found.ids, found.scores
        scanned += found.scanned
    return Found(ids, scores, scanned)


def _described(lists: ScanInput, bits: int) -> tuple[Any, ...]:
    layout = lists.layout
    return (
        plain(lists.addresses, np.uint64),
        plain(lists.counts, np.int64),
        (layout.width, layout.id_bytes, bool(layout.has_norms), bits),
    )


def _order(probes: Int64, nlist: int) -> npt.NDArray[np.intp]:
    """Return the order of the pairs of query and list, flattened: pairs of one list follow each other.

    The first list of each query goes before all others. Being the nearest, it sets a limit that few entries pass later.
    """
    if len(probes) == 1:
        return np.arange(probes.size)
    keys = probes.copy()
    keys[:, 1:] += nlist
    return np.argsort(keys, axis=None)
