"""How far must a search look for the recall asked for, and which posting lists are that?

Pure. Source: ``specs/vector-index.md``, section "Search".
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from zarrvec.search.blocks import Grid, plan_blocks
from zarrvec.search.coarse import Coarse
from zarrvec.search.head import Head
from zarrvec.search.kernels import THREADS, choose, is_compiled
from zarrvec.search.list_table import ListTable
from zarrvec.search.metrics import Metric
from zarrvec.search.probing import list_bias

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

RERANK_WORTH: Final = 2.0
"""Ranking again by the rows themselves pays when lists would be probed so many times as often without: it costs a round."""
_MISSED_POWER: Final = 0.15
_LEAST_MISSED: Final = 0.6
"""Of what may be missed by the recall asked for, a search of selected rows is to miss the share to this power, or this part."""
ALL_FROM: Final = 0.25
"""So large a part of all rows, as near as they may be to a query, lies in nearly all lists."""
_BLOCK_BYTES: Final = 1 << 20
_BLOCK_NUMBERS: Final = 1 << 15
"""Components of centroids that are decoded at once."""
_FEW: Final = 8
"""Up to so many queries are multiplied with centroids that are decoded for them alone."""
_MORE: Final = {8: (2, 10), 4: (6, 30)}
"""Rows that are ranked again, by bits: so many for each hit, and so many besides."""


class Depth(NamedTuple):
    """How far a search looks."""

    nprobe: int
    """Lists for each query."""
    rerank: bool
    """Whether hits are ranked again by their rows."""


def depth_for(
    head: Head,
    recall: float,
    k: int,
    *,
    share: float = 1.0,
    bits: int,
    nprobe: int | None,
    rerank: bool | None,
    reread_bytes: float,
) -> Depth:
    """Return how far to look.

    Parameters
    ----------
    recall
        Asked for.
    k
        Hits.
    share
        Part of the rows that may be hits.
    bits
        Of the codes that are read.
    nprobe
        What the caller asks for; None to go by the recall.
    rerank
        What the caller asks for; None to do it where the codes lose too much, or else so many more lists must be read that
        it pays.
    reread_bytes
        What ranking again reads, of `bytes_to_rank_again`.
    """
    if nprobe is not None:
        return Depth(min(nprobe, head.nlist), bool(rerank))
    wanted, surely = k / share, _among_selected(recall, share)
    by_codes = None if rerank else _nprobe(head, surely, wanted, bits) or _nprobe(head, recall, wanted, bits)
    if rerank is False:
        return Depth(head.nlist if by_codes is None else by_codes, rerank=False)
    by_rows = _nprobe(head, surely, wanted, None) or head.nlist
    if by_codes is None:
        return Depth(by_rows, rerank=True)
    saved_bytes = (by_codes - by_rows) * list_bytes(head, bits)
    if by_codes > RERANK_WORTH * by_rows and saved_bytes > reread_bytes:
        return Depth(by_rows, rerank=True)
    return Depth(by_codes, rerank=False)


def _among_selected(recall: float, share: float) -> float:
    """Return for what recall to look where a part of the rows is selected: they may lie otherwise than all do.

    Examples
    --------
    >>> [round(_among_selected(0.9, share), 3) for share in (1, 0.5, 0.1, 0.01)]
    [0.9, 0.91, 0.929, 0.94]
    """
    return 1 - (1 - recall) * max(_LEAST_MISSED, math.pow(share, _MISSED_POWER))


def list_bytes(head: Head, bits: int) -> float:
    """Return the bytes of a posting list on average, over all segments."""
    entry_bytes = head.layout.total_bytes(1) if bits == 8 else head.layout.head_bytes(1)
    return entry_bytes * sum(segment.entries for segment in head.segments) / head.nlist


def bytes_to_rank_again(grid: Grid, k: int, bits: int) -> float:
    """Return the decoded bytes of the chunks in which the rows lie that are ranked again for one query.

    Examples
    --------
    >>> import zarr
    >>> from zarrvec.search.blocks import grid_of
    >>> array = zarr.create_array(zarr.storage.MemoryStore(), shape=(1000, 8), chunks=(10, 8), dtype="f4")
    >>> bytes_to_rank_again(grid_of(array), 10, 8)
    9600.0
    """
    chunks = math.prod(len(edges) - 1 for edges in grid.chunks[:-1])
    rows = math.prod(int(edges[-1]) for edges in grid.chunks[:-1])
    part = min(1.0, candidates_for(k, bits) / max(1, chunks))
    return part * rows * grid.width * grid.itemsize


def are_few(
    grid: Grid, selected: npt.NDArray[np.bool_], head: Head, depth: Depth, *, queries: int, bits: int
) -> bool:
    """Return whether the chunks of the selected rows take no more bytes than the lists that a search reads instead.

    Parameters
    ----------
    grid
        Of the array.
    selected
        Of the leading shape.
    queries
        How many are searched for at once; they may share lists, which is not counted on.
    """
    left = list_bytes(head, bits) * min(head.nlist, queries * depth.nprobe)
    if np.count_nonzero(selected) * grid.width * grid.itemsize > left:
        return False
    for block in plan_blocks(grid, block_bytes=_BLOCK_BYTES, mask=selected):
        left -= block.bytes_decoded
        if left < 0:
            return False
    return True


def _nprobe(head: Head, recall: float, k: float, bits: int | None) -> int | None:
    """Return nprobe as calibrated; beyond the hits that were measured it grows as a power of them, to all lists."""
    nprobe, measured = head.calibration.nprobe_for(recall, k, bits=bits), head.calibration.curves[-1].k
    if nprobe is None or k <= measured:
        return nprobe
    if k >= ALL_FROM * head.rows:
        return head.nlist
    growth = math.log(head.nlist / nprobe) / math.log(ALL_FROM * head.rows / measured)
    grown: float = nprobe * (k / measured) ** growth
    return min(head.nlist, math.ceil(grown))


def candidates_for(k: int, bits: int) -> int:
    """Return how many rows are ranked again for k hits.

    Examples
    --------
    >>> candidates_for(10, 8), candidates_for(10, 4)
    (30, 90)
    """
    factor, more = _MORE[bits]
    return factor * k + more


class Probes(NamedTuple):
    """The lists of each query, the most promising first."""

    lists: Int64
    """(q, p) int64."""
    products: Float32
    """(q, p) float32: inner product of the query and the centroid."""
    nearest: Float32
    """(q,) float32: squared distance to the nearest centroid."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Compass:
    """Where lists lie, as seen by queries of one metric. Make it with `of` or `of_table`."""

    squares: Float32
    """(nlist,) float32: squared lengths of the centroids."""
    bias: Float32
    """(nlist,) float32: what is added to the products for the order in which lists are probed."""
    metric: Metric
    given: Float32 | None = None
    """(nlist, d) float32 centroids, if it was made of them."""
    table: ListTable | None = None
    """The centroids as they are stored, if it was made of these."""

    @classmethod
    def of(cls, vectors: Float32, radii: Float32, metric: Metric) -> Self:
        """Prepare the centroids and radii of lists."""
        squares = np.einsum("ij,ij->i", vectors, vectors)
        return cls(squares=squares, bias=list_bias(squares, radii, metric), metric=metric, given=vectors)

    @classmethod
    def of_table(cls, table: ListTable, metric: Metric) -> Self:
        """Prepare lists as they are stored; centroids are decoded a few at a time, for time goes by fresh memory."""
        squares = np.empty(len(table.heads), dtype=np.float32)
        for part, vectors in _decoded(table):
            np.einsum("ij,ij->i", vectors, vectors, out=squares[part])
        bias = list_bias(squares, table.heads["radius"], metric)
        return cls(squares=squares, bias=bias, metric=metric, table=table)

    @cached_property
    def vectors(self) -> Float32:
        """(nlist, d) float32 centroids."""
        if self.table is None:
            assert self.given is not None
            return self.given
        return self.table.vectors()

    @property
    def nbytes(self) -> int:
        """Bytes in memory, sooner or later: as they are stored, as float32, and for compiled code."""
        return 7 * self.table.centroids.nbytes if self.table is not None else self.vectors.nbytes

    def products(self, queries: Float32) -> Float32:
        """Return (q, nlist) float32: inner products of (q, d) queries and centroids."""
        if self.table is None or len(queries) > _FEW:
            return queries @ self.vectors.T
        products = np.empty((len(queries), len(self.squares)), dtype=np.float32)
        for part, vectors in _decoded(self.table):
            np.matmul(queries, vectors.T, out=products[:, part])
        return products

    @cached_property
    def coarse(self) -> Coarse:
        """The same for compiled code."""
        assert self.table is not None
        scales: Float32 = self.table.heads["scale"]
        return Coarse.of(self.table.centroids, scales, self.squares, self.bias)

    def keys(self, queries: Float32) -> tuple[Float32, Float32]:
        """Return (q, nlist) float32 each: by what lists are chosen, the least first, and products with the centroids."""
        products = self.products(queries)
        return self._keys(products, np.einsum("ij,ij->i", queries, queries)), products

    def probe(self, queries: Float32, nprobe: int) -> Probes:
        """Choose the lists of each query.

        Parameters
        ----------
        queries
            (q, d) float32.
        nprobe
            Lists for each query.

        Examples
        --------
        >>> centroids = np.array([[0, 0], [3, 0], [0, 9]], "f4")
        >>> probes = Compass.of(centroids, np.ones(3, "f4"), "l2").probe(np.array([[2, 0]], "f4"), 2)
        >>> probes.lists.tolist(), probes.products.tolist(), probes.nearest.tolist()
        ([[1, 0]], [[6.0, 0.0]], [1.0])
        """
        lengths = np.einsum("ij,ij->i", queries, queries)
        count = min(nprobe, len(self.squares))
        if self.table is not None and is_compiled():
            lists, theirs, nearest = choose(
                self.coarse, queries, self._factors(lengths), count, threads=THREADS
            )
        else:
            products = self.products(queries)
            lists = least(self._keys(products, lengths), count)
            theirs = np.take_along_axis(products, lists, axis=1)
            nearest = (self.squares - 2 * products).min(axis=1)
        return Probes(lists, theirs, np.maximum(nearest + lengths, 0))

    def _keys(self, products: Float32, lengths: Float32) -> Float32:
        return -2 * products + self._factors(lengths)[:, None] * self.bias

    def _factors(self, lengths: Float32) -> Float32:
        """Return (q,) float32: by what the bias is multiplied, for queries of these squared lengths."""
        factors: Float32 = np.sqrt(lengths) if self.metric == "ip" else np.ones_like(lengths)
        return factors


def _decoded(table: ListTable) -> Iterator[tuple[slice, Float32]]:
    """Yield the centroids of some lists after others."""
    step = max(1, _BLOCK_NUMBERS // max(1, table.centroids.shape[1]))
    for start in range(0, len(table.heads), step):
        part = slice(start, start + step)
        yield part, ListTable(table.heads[part], table.centroids[part]).vectors()


def least(keys: Float32, count: int) -> Int64:
    """Return (q, count) int64: where the least of (q, n) keys are, in their order; of equal ones the first.

    Examples
    --------
    >>> least(np.array([[3, 1, 2, 1, 1]], "f4"), 2).tolist()
    [[1, 3]]
    """
    if count == keys.shape[1]:
        return np.argsort(keys, axis=1, kind="stable").astype(np.int64, copy=False)
    last = np.partition(keys, count - 1, axis=1)[:, count - 1 : count]
    chosen, equal = keys < last, keys == last
    chosen |= equal & (equal.cumsum(axis=1) <= count - chosen.sum(axis=1, keepdims=True))
    some = np.nonzero(chosen)[1].reshape(len(keys), count)
    order = np.argsort(np.take_along_axis(keys, some, axis=1), axis=1, kind="stable")
    return np.take_along_axis(some, order, axis=1).astype(np.int64, copy=False)


def waves(lists: Int64, sizes: Int64, limit_bytes: int) -> Iterator[Int64]:
    """Split ascending list numbers into runs that fit in memory together; at least one list each.

    Examples
    --------
    >>> [run.tolist() for run in waves(np.array([2, 5, 6, 9]), np.array([4, 4, 4, 4]), 9)]
    [[2, 5], [6, 9]]
    """
    if sizes.sum() <= limit_bytes:  # as nearly always
        if len(lists):
            yield lists
        return
    start, held = 0, 0
    for position, size in enumerate(sizes.tolist()):
        if position > start and held + size > limit_bytes:
            yield lists[start:position]
            start, held = position, 0
        held += size
    if start < len(lists):
        yield lists[start:]
