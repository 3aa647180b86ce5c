"""Which chunks are read together, so that each is read once and memory stays bounded.

A pure plan: it reads nothing. The vector axis is always read whole. A block is a box of whole chunks over the leading
axes, grown from the last of them to the first until it holds as much as is allowed; at least one chunk.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from zarr.types import AnyArray

Edges: TypeAlias = npt.NDArray[np.int64]
"""(chunks + 1,) int64: where the chunks of one axis begin, and the length of the axis."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One read."""

    rows: slice | npt.NDArray[np.int64]
    """What is read of the first axis: a slice, or ascending positions when chunks in between are left out."""
    rest: tuple[slice, ...]
    """What is read of the other leading axes."""
    chunks: int
    """Chunks that are touched."""
    bytes_decoded: int
    """Their decoded size, clipped to the array."""

    def ids(self, leading: tuple[int, ...]) -> npt.NDArray[np.int64]:
        """Return the (n,) ids of the rows of the block, ascending, for an array of this leading shape.

        Examples
        --------
        >>> Block(rows=slice(1, 3), rest=(slice(0, 2),), chunks=1, bytes_decoded=8).ids((3, 5)).tolist()
        [5, 6, 10, 11]
        """
        rows = np.arange(self.rows.start, self.rows.stop) if isinstance(self.rows, slice) else self.rows
        ids = rows.astype(np.int64)
        for part, length in zip(self.rest, leading[1:], strict=True):
            ids = ids[..., None] * length + np.arange(part.start, part.stop)
        return ids.reshape(-1)

    def within(self, mask: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return what an array of the leading shape holds for the rows of the block, (n,)."""
        return mask[(self.rows, *self.rest)].reshape(-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Where chunks begin, and what is read as one."""

    chunks: tuple[Edges, ...]
    """Edges of the chunks of every axis; of the inner chunks if the array is sharded."""
    units: tuple[Edges, ...]
    """Edges of the shards if the array is sharded, else of the chunks."""
    itemsize: int
    """Bytes of one component."""

    @property
    def width(self) -> int:
        """Components of a vector."""
        return int(self.chunks[-1][-1])

    def rows_of(self, units: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Return which rows have a part in some units.

        Parameters
        ----------
        units
            (units,) bool, in C order.

        Returns
        -------
        Of the leading shape.

        Examples
        --------
        >>> import zarr
        >>> array = zarr.create_array(zarr.storage.MemoryStore(), shape=(5, 8), chunks=(2, 4), dtype="f4")
        >>> grid_of(array).rows_of(np.array([False, False, False, True, False, False])).tolist()
        [False, False, True, True, False]
        """
        rows: npt.NDArray[np.bool_] = np.any(units.reshape([len(edges) - 1 for edges in self.units]), axis=-1)
        for axis, edges in enumerate(self.units[:-1]):
            rows = np.repeat(rows, np.diff(edges), axis=axis)
        return rows

    def units_of(self, rows: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Return which units have a part of some rows, (units,) bool in C order.

        Parameters
        ----------
        rows
            Of the leading shape.

        Examples
        --------
        >>> import zarr
        >>> array = zarr.create_array(zarr.storage.MemoryStore(), shape=(5, 8), chunks=(2, 4), dtype="f4")
        >>> grid_of(array).units_of(np.array([False, False, False, True, False])).tolist()
        [False, False, True, True, False, False]
        """
        units = rows
        for axis, edges in enumerate(self.units[:-1]):
            if units.size:
                units = np.logical_or.reduceat(units, edges[:-1], axis=axis)
        return np.repeat(units.reshape(-1), len(self.units[-1]) - 1)


def grid_of(array: AnyArray) -> Grid:
    """Return the chunk grid of an array.

    Examples
    --------
    >>> import zarr
    >>> array = zarr.create_array(zarr.storage.MemoryStore(), shape=(5, 8), chunks=(2, 8), dtype="f4")
    >>> [edges.tolist() for edges in grid_of(array).chunks]
    [[0, 2, 4, 5], [0, 8]]
    """
    try:
        chunks = _regular(array.shape, array.chunks)
        units = _regular(array.shape, array.shards or array.chunks)
    except NotImplementedError:  # a rectilinear grid, zarr 3.2 and later
        sizes: Any = array
        chunks, units = _irregular(sizes.read_chunk_sizes), _irregular(sizes.write_chunk_sizes)
    return Grid(chunks=chunks, units=units, itemsize=np.dtype(array.dtype).itemsize)


def _regular(shape: tuple[int, ...], lengths: tuple[int, ...]) -> tuple[Edges, ...]:
    return tuple(
        np.append(np.arange(0, size, max(1, length), dtype=np.int64), size)
        for size, length in zip(shape, lengths, strict=True)
    )


def _irregular(sizes: Sequence[Sequence[int]]) -> tuple[Edges, ...]:
    return tuple(np.concatenate([[0], np.cumsum(axis, dtype=np.int64)]) for axis in sizes)


def plan_blocks(
    grid: Grid, *, block_bytes: int, mask: npt.NDArray[np.bool_] | None = None
) -> Iterator[Block]:
    """Yield the blocks that cover all rows, or all rows of a selection.

    Parameters
    ----------
    grid
        Of the array.
    block_bytes
        Decoded bytes of a block; one chunk (over the whole vector axis) is read even if it is larger. Shards are read
        whole if they fit, else in parts.
    mask
        Boolean, of the leading shape: blocks without a selected row are left out, and so are rows of the first axis
        outside the selection when whole chunks lie between them.

    Examples
    --------
    >>> import zarr
    >>> array = zarr.create_array(zarr.storage.MemoryStore(), shape=(5, 8), chunks=(2, 8), dtype="f4")
    >>> [block.rows for block in plan_blocks(grid_of(array), block_bytes=128)]
    [slice(0, 4, None), slice(4, 5, None)]
    """
    if any(edges[-1] == 0 for edges in grid.chunks):
        return
    units = grid.units[:-1]
    if _largest(units) * grid.width * grid.itemsize > block_bytes:
        units = grid.chunks[:-1]
    counts = _units_per_block(units, block_bytes / (grid.width * grid.itemsize))
    first, others = units[0], units[1:]
    tiles = [_spans(edges, count) for edges, count in zip(others, counts[1:], strict=True)]
    for rest in itertools.product(*tiles):
        if mask is None:
            for rows in _spans(first, counts[0]):
                yield _block(grid, rows, rest)
        else:
            yield from _selected_blocks(grid, mask, first, counts[0], rest)


def _largest(units: tuple[Edges, ...]) -> int:
    return int(np.prod([np.diff(edges).max() for edges in units], dtype=np.int64))


def _units_per_block(units: tuple[Edges, ...], rows: float) -> list[int]:
    """Return how many units of each leading axis a block of that many rows takes, the last axis filled first."""
    counts = [1] * len(units)
    room = rows / _largest(units)
    for axis in reversed(range(len(units))):
        available = len(units[axis]) - 1
        counts[axis] = max(1, min(available, int(room)))
        if counts[axis] < available:
            break
        room /= available
    return counts


def _spans(edges: Edges, count: int) -> list[slice]:
    stops = [*edges[count:-1:count].tolist(), int(edges[-1])]
    return [slice(start, stop) for start, stop in zip([0, *stops[:-1]], stops, strict=True)]


def _selected_blocks(
    grid: Grid, mask: npt.NDArray[np.bool_], first: Edges, count: int, rest: tuple[slice, ...]
) -> Iterator[Block]:
    other_axes = tuple(range(1, mask.ndim))
    tile = mask[(slice(None), *rest)]
    rows = np.flatnonzero(tile.any(axis=other_axes))
    if not rows.size:
        return
    unit = np.searchsorted(first, rows, side="right") - 1
    needed, starts = np.unique(unit, return_index=True)
    for begin in range(0, len(needed), count):
        group = needed[begin : begin + count]
        stop = starts[begin + count] if begin + count < len(starts) else len(rows)
        chosen = rows[starts[begin] : stop]
        gapless = group[-1] - group[0] + 1 == len(group)
        span = slice(int(chosen[0]), int(chosen[-1]) + 1)
        yield _block(grid, span if gapless else chosen, _trim(tile[chosen], rest))


def _trim(tile: npt.NDArray[np.bool_], rest: tuple[slice, ...]) -> tuple[slice, ...]:
    """Return the smallest box over the other leading axes that holds every selected row."""
    box = []
    for axis, part in enumerate(rest, start=1):
        used = np.flatnonzero(tile.any(axis=tuple(other for other in range(tile.ndim) if other != axis)))
        box.append(slice(part.start + int(used[0]), part.start + int(used[-1]) + 1))
    return tuple(box)


def _block(grid: Grid, rows: slice | npt.NDArray[np.int64], rest: tuple[slice, ...]) -> Block:
    chunks, size = 1, grid.itemsize
    for edges, part in zip(grid.chunks, (rows, *rest, slice(0, grid.width)), strict=True):
        if isinstance(part, slice):
            touched = np.arange(_chunk(edges, part.start), _chunk(edges, part.stop - 1) + 1)
        else:
            touched = np.unique(np.searchsorted(edges, part, side="right") - 1)
        chunks *= len(touched)
        size *= int((edges[touched + 1] - edges[touched]).sum())
    return Block(rows=rows, rest=rest, chunks=chunks, bytes_decoded=size)


def _chunk(edges: Edges, position: int) -> int:
    return int(np.searchsorted(edges, position, side="right")) - 1
