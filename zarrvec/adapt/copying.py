"""How are cells of one array written into another one, block by block, in bounded memory?"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
from zarr.types import AnyArray

from zarrvec.adapt.stage import Todo
from zarrvec.errors import OptionError
from zarrvec.layout.blocking import Blocking, Box, Edges, blocks, edges_of, pieces, plan_blocks

Tick: TypeAlias = Callable[[int], None]
"""Called with the cells that were read, and with those that were written."""
MEMORY_SHARE: Final = 8
"""Chunks that are decoded or encoded at once take this part of the memory, a block half of it."""
_OBJECT_BYTES: Final = 64
"""What a string is taken to need."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Copying:
    """What is copied, and in which blocks."""

    source: AnyArray
    edges: tuple[Edges, ...]
    """Of the units of the source, along each axis."""
    units: tuple[int, ...]
    """Lengths of the units of the copy."""
    blocking: Blocking
    part_cells: int
    """Cells of the units that are read or written at once."""

    def blocks_of(self, todo: Todo) -> list[tuple[slice, ...]]:
        """Return which units of the copy are written together, those alone that are to do."""
        found = []
        for block in blocks(todo.shape, self.blocking.units):
            there = np.argwhere(todo[block])
            if len(there):
                first, last = there.min(axis=0).tolist(), there.max(axis=0).tolist()
                found.append(
                    tuple(
                        slice(part.start + low, part.start + high + 1)
                        for part, low, high in zip(block, first, last, strict=True)
                    )
                )
        return found

    def cells(self, block: Sequence[slice]) -> int:
        """Return how many cells a block has."""
        return math.prod(stop - start for start, stop in self._box(block))

    def read(self, block: Sequence[slice], tick: Tick) -> npt.NDArray[Any]:
        """Read the cells of a block of units."""
        box = self._box(block)
        values = np.empty([stop - start for start, stop in box], dtype=self.source.dtype)
        for piece in pieces(box, self.edges, cells=self.part_cells):
            values[_inside(piece, box)] = self.source[_slices(piece)]
            tick(_size(piece))
        return values

    def write(self, block: Sequence[slice], values: npt.NDArray[Any], into: AnyArray, tick: Tick) -> None:
        """Write the cells of a block of units, each unit once and whole."""
        box = self._box(block)
        for piece in pieces(box, self._own_edges(), cells=self.part_cells):
            into[_slices(piece)] = values[_inside(piece, box)]
            tick(_size(piece))

    def _box(self, block: Sequence[slice]) -> Box:
        return tuple(
            (int(cut[part.start]), int(cut[part.stop]))
            for part, cut in zip(block, self._own_edges(), strict=True)
        )

    def _own_edges(self) -> list[Edges]:
        return [edges_of(length, unit) for length, unit in zip(self.source.shape, self.units, strict=True)]


def plan_copying(
    source: AnyArray, edges: Sequence[Edges], units: tuple[int, ...], memory_bytes: int
) -> Copying:
    """Choose the blocks of a copy.

    Parameters
    ----------
    source
        What is copied.
    edges
        Edges of its units, along each axis.
    units
        Lengths of the units of the copy.
    memory_bytes
        Bound on decoded cells in memory.

    Raises
    ------
    OptionError
        If memory does not suffice for one unit of either.
    """
    dtype = np.dtype(source.dtype)
    item = max(1, dtype.itemsize + (_OBJECT_BYTES if dtype.hasobject or dtype.kind == "T" else 0))
    cells = memory_bytes // item
    longest = [int(np.diff(cut).max()) if len(cut) > 1 else 1 for cut in edges]
    unit = [min(max(1, length), one) for length, one in zip(source.shape, units, strict=True)]
    largest = max(int(np.prod(longest, dtype=object)), int(np.prod(unit, dtype=object)))
    blocking = plan_blocks(edges, units, cells=cells // 2) if largest * 4 <= cells else None
    if blocking is None:
        raise OptionError(
            f"memory_bytes={memory_bytes:,}: too little for array {source.name!r}, of which one chunk (or shard) of those "
            f"that are read or written takes {largest * item:,} bytes; expected at least {4 * largest * item:,}."
        )
    return Copying(
        source=source,
        edges=tuple(edges),
        units=units,
        blocking=blocking,
        part_cells=max(1, cells // MEMORY_SHARE),
    )


def _slices(box: Box) -> tuple[slice, ...]:
    return tuple(slice(start, stop) for start, stop in box)


def _inside(piece: Box, box: Box) -> tuple[slice, ...]:
    return tuple(
        slice(start - first, stop - first) for (start, stop), (first, _) in zip(piece, box, strict=True)
    )


def _size(piece: Box) -> int:
    return math.prod(stop - start for start, stop in piece)
