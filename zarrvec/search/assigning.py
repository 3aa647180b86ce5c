"""How do all rows of an array, or those of some blocks, get into lists, and what is learned of them on the way?

What a build in one process and the workers of one on a cluster have in common: the same rows in the same blocks give the
same entries.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from zarr.types import AnyArray

from zarrvec.search.blocks import Block
from zarrvec.search.list_table import ListTable
from zarrvec.search.metrics import Metric
from zarrvec.search.placing import Lister
from zarrvec.search.records import Layout
from zarrvec.search.space import beyond_float32, indexed_rows
from zarrvec.search.spool import Spool
from zarrvec.search.stream import stream_blocks
from zarrvec.search.truth import Truth

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """The space in which rows are compared."""

    metric: Metric
    origin: Float32 | None = None
    """(d,) what is taken off them; ``l2`` only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """By what rows are put into lists."""

    space: Space
    layout: Layout
    table: ListTable
    """The centroids, with their scales."""
    second_from: float
    """Gain from which on a row gets a second list."""
    queries: Float32
    """(c, d) whose true neighbours are sought among the rows."""
    columns: int
    """Neighbours that are sought of each."""


class Tally(NamedTuple):
    """What was learned of the rows."""

    rows: int
    radii: Float32
    """(nlist,) float32: none of the rows is farther from the centroid of a list that it is in."""
    squares: list[float]
    """Of each block, the sum of the squared distances to the nearest centroids."""
    truth: Truth


class Read(NamedTuple):
    """The rows of a block."""

    ids: Int64
    """(n,) of those that are indexed."""
    vectors: Float32
    """(n, d) in the space of the index."""
    beyond: Int64
    """Ids of finite rows that float32 can't hold."""
    rows: int
    """Rows that were read."""


def read_blocks(array: AnyArray, blocks: Iterable[Block], space: Space) -> Iterator[Read]:
    """Yield the rows of each block.

    Examples
    --------
    >>> import zarr
    >>> from zarrvec.search.blocks import grid_of, plan_blocks
    >>> array = zarr.create_array({}, data=np.array([[1, 2], [np.nan, 0]], "f4"), chunks=(2, 2))
    >>> blocks = plan_blocks(grid_of(array), block_bytes=100)
    >>> [(read.ids.tolist(), read.rows) for read in read_blocks(array, blocks, Space(metric="l2"))]
    [([0], 2)]
    """
    leading = array.shape[:-1]
    with closing(stream_blocks(array, blocks)) as stream:
        for block, rows in stream:
            vectors, kept = indexed_rows(rows, space.metric, space.origin)
            ids = block.ids(leading)
            yield Read(ids[kept], vectors, ids[beyond_float32(rows, kept)], len(rows))


def assign(
    given: Assignment,
    rows: Iterable[tuple[Int64, Float32]],
    spool: Spool,
    note: Callable[[Int64, npt.NDArray[np.int32], Int64], None],
) -> Tally:
    """Put rows into a spool.

    Parameters
    ----------
    given
        The lists.
    rows
        Ids and vectors, in the space of the index, block after block.
    spool
        Takes their entries.
    note
        Called with the ids of a block, the (n, 2) lists of its rows, -1 for none, and where in the spool the entries of
        the nearer of them are.
    """
    centroids = given.table.vectors()
    lister = Lister(centroids, given.second_from)
    truth = Truth(given.queries, given.space.metric, columns=given.columns)
    squares, count = [], 0
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="zarrvec-build") as pool:
        for ids, vectors in rows:
            offered = pool.submit(truth.add, ids, vectors)
            first = spool.count + np.arange(len(ids))
            placed = lister.place(ids, vectors, spool)
            note(ids, placed.lists, first)
            squares.append(placed.squares)
            count += len(ids)
            offered.result()
    return Tally(count, lister.radii, squares, truth)
