"""Which rows of an array are nearest, exactly, with no index and bounded memory.

The array is streamed in blocks of whole chunks, each chunk once, one read of the array for each block; a thread reads the
next block while the current one is compared with all queries at once.
"""

import time
from contextlib import closing
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from zarr.types import AnyArray

from zarrvec.search.blocks import grid_of, plan_blocks
from zarrvec.search.hits import Hits, SearchStats
from zarrvec.search.inputs import as_k, as_queries, as_selection, check_array, check_memory
from zarrvec.search.metrics import check_metric
from zarrvec.search.score import Scorer
from zarrvec.search.stream import stream_blocks
from zarrvec.search.topk import NO_ID

DEFAULT_MEMORY_BYTES: Final = 256 << 20
_BLOCK_SHARE: Final = 8
"""A block is this part of the memory: one is compared (and its selected rows copied), one is being read, which takes its
place, its encoded bytes and its decoded chunks at once; two more go to the comparison, the last is spare."""
_WORK_SHARE: Final = 4


def search_exact(
    array: AnyArray,
    queries: npt.ArrayLike,
    k: int,
    *,
    metric: str,
    where: object = None,
    include_vectors: bool = False,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
) -> Hits:
    """Find the k nearest rows of each query by looking at all rows.

    Parameters
    ----------
    array
        Vectors on the last axis, (..., d) with at least one leading axis, of float16, float32, float64, int8 or uint8.
    queries
        (d,) or (q, d), real and finite. Computed with in float64: they need not have the dtype of the array.
    k
        Number of hits, at least 1. If fewer rows can match, all of them are returned, so there are fewer columns.
    metric
        ``"cosine"``, ``"l2"`` (squared) or ``"ip"`` (negated): see `zarrvec.search.metrics`.
    where
        Search these rows only: booleans of the leading shape or flattened, integer ids, or a slice of ids. Chunks without
        a selected row are not read as far as blocks allow.
    include_vectors
        Whether to return the vectors of the hits.
    memory_bytes
        Bound on what is held beside queries and results; see Notes.

    Returns
    -------
    Hits
        In the order of (float64 distance, id). As computed by the difference form in float64, so any other order of
        summation agrees up to ties.

    Raises
    ------
    SearchError
        If array, queries, k or `where` can't be searched.
    OptionError
        If the metric is unknown or `memory_bytes` less than 1.

    Notes
    -----
    A row with a NaN or an infinity never matches. Under ``cosine`` a zero row, and any row to a zero query, is at 1.

    Peak memory is at most ``max(memory_bytes, 8 c) + 48 q d + 100 q k + 3 v + n``: c are the bytes of one chunk of rows over
    the whole vector axis (with the encoded bytes no larger than the decoded), v those of the vectors of the hits if asked
    for, n the number of rows if `where` is given (and is not itself a mask).

    Examples
    --------
    >>> import numpy as np, zarr
    >>> data = np.array([[[0, 1], [2, 2]], [[3, 0], [0, 0]]], "f4")
    >>> array = zarr.create_array(zarr.storage.MemoryStore(), data=data, chunks=(1, 2, 2))
    >>> hits = search_exact(array, [[1, 1], [0, -1]], k=3, metric="cosine")
    >>> hits.ids.tolist()
    [[1, 0, 2], [2, 3, 1]]
    >>> [index[0].tolist() for index in hits.indices]
    [[0, 0, 1], [1, 0, 0]]
    >>> search_exact(array, [1, 1], k=9, metric="l2", where=slice(0, 3)).distances.tolist()
    [1.0, 2.0, 5.0]
    """
    found = compare_rows(
        array,
        queries,
        k,
        metric=metric,
        where=where,
        include_vectors=include_vectors,
        memory_bytes=memory_bytes,
    )
    with np.errstate(over="ignore", under="ignore"):
        near = found.distances.astype(np.float32)
    shape = found.ids.shape[1:] if np.ndim(queries) == 1 else found.ids.shape
    ids = found.ids.reshape(shape)
    return Hits(
        ids=ids,
        distances=near.reshape(shape),
        indices=_indices(ids, array.shape[:-1]),
        vectors=None if found.vectors is None else found.vectors.reshape(*shape, array.shape[-1]),
        stats=found.stats,
    )


class Compared(NamedTuple):
    """The nearest rows of each query, of those that were compared."""

    ids: npt.NDArray[np.int64]
    """(q, k)."""
    distances: npt.NDArray[np.float64]
    """(q, k) ascending, of one distance the lower id first."""
    vectors: npt.NDArray[Any] | None
    """(q, k, d), if they were asked for."""
    stats: SearchStats


def compare_rows(
    array: AnyArray,
    queries: npt.ArrayLike,
    k: int,
    *,
    metric: str,
    where: object = None,
    include_vectors: bool = False,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
) -> Compared:
    """Do what `search_exact` does, and keep the distances as they were measured."""
    started = time.perf_counter()
    known_metric = check_metric(metric)
    memory = check_memory(memory_bytes)
    check_array(array)
    leading, width = array.shape[:-1], array.shape[-1]
    wanted = as_k(k)
    batch, _ = as_queries(queries, width)
    mask = as_selection(where, leading)
    selected = int(np.prod(leading, dtype=np.int64)) if mask is None else int(np.count_nonzero(mask))
    columns = min(wanted, selected)
    dtype = np.dtype(array.dtype)
    read = _Vectors(width, dtype) if include_vectors else None
    chunks = bytes_decoded = matched = 0
    ids, distances = np.empty((len(batch), columns), dtype=np.int64), np.empty((len(batch), columns))
    if ids.size:
        scorer = Scorer(
            metric=known_metric,
            queries=batch,
            k=columns,
            dtype=dtype,
            fill=_fill_row(array),
            memory_bytes=memory // _WORK_SHARE,
        )
        plan = plan_blocks(grid_of(array), block_bytes=memory // _BLOCK_SHARE, mask=mask)
        with closing(stream_blocks(array, plan)) as stream:
            for block, rows in stream:
                chunks += block.chunks
                bytes_decoded += block.bytes_decoded
                block_ids = block.ids(leading)
                _compare(scorer, read, rows, block_ids, None if mask is None else block.within(mask))
                del rows, block_ids
        matched = scorer.rows
        columns = min(columns, matched)
        ids, distances = scorer.top.ids[:, :columns], scorer.top.distances[:, :columns]
    ids = np.ascontiguousarray(ids)
    return Compared(
        ids=ids,
        distances=distances,
        vectors=None if read is None else read.of(ids),
        stats=SearchStats(
            vectors=matched,
            bytes_decoded=bytes_decoded,
            chunks_read=chunks,
            seconds=time.perf_counter() - started,
        ),
    )


class _Vectors:
    """The rows that are among the nearest so far, each once, so that no chunk is read a second time for them."""

    def __init__(self, width: int, dtype: np.dtype[Any]) -> None:
        self._ids = np.empty(0, dtype=np.int64)
        self._rows = np.empty((0, width), dtype=dtype.newbyteorder("="))

    def keep(
        self, nearest: npt.NDArray[np.int64], ids: npt.NDArray[np.int64], rows: npt.NDArray[Any]
    ) -> None:
        """Keep the nearest of what is held and of the rows of this block, whose ids ascend."""
        kept = np.unique(nearest)
        kept = kept[kept != NO_ID]
        if np.array_equal(kept, self._ids):
            return
        table = np.empty((len(kept), self._rows.shape[1]), dtype=self._rows.dtype)
        for from_ids, from_rows in ((self._ids, self._rows), (ids, rows)):
            common, to, source = np.intersect1d(kept, from_ids, assume_unique=True, return_indices=True)
            del common
            table[to] = from_rows[source]
        self._ids, self._rows = kept, table

    def of(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Return the rows of the ids, (..., d)."""
        if not ids.size:
            return np.empty((*ids.shape, self._rows.shape[1]), dtype=self._rows.dtype)
        rows: npt.NDArray[Any] = self._rows[np.searchsorted(self._ids, ids)]
        return rows


def _compare(
    scorer: Scorer,
    read: _Vectors | None,
    rows: npt.NDArray[Any],
    ids: npt.NDArray[np.int64],
    selected: npt.NDArray[np.bool_] | None,
) -> None:
    if selected is not None and not selected.all():
        rows, ids = rows[selected], ids[selected]
    scorer.add(rows, ids)
    if read is not None:
        read.keep(scorer.top.ids, ids, rows)


def _fill_row(array: AnyArray) -> npt.NDArray[Any] | None:
    if array.fill_value is None:
        return None
    return np.full(array.shape[-1], array.fill_value, dtype=array.dtype)


def _indices(ids: npt.NDArray[np.int64], leading: tuple[int, ...]) -> tuple[npt.NDArray[np.int64], ...]:
    if not ids.size:  # unravel_index refuses a shape with a zero
        return tuple(ids.copy() for _ in leading)
    return tuple(index.astype(np.int64, copy=False) for index in np.unravel_index(ids, leading))
