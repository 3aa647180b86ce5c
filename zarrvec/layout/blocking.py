"""In which blocks is an array copied into other chunks, so that none is read more often than memory forces?

A block is a box of whole units of the destination (chunks, or shards), so that each of them is written once and whole.
A source unit is read by every block that it reaches into: once if no block ends inside of it. Of all boxes that memory
holds, one with the fewest reads is taken, and grown by whole multiples, which adds no reads, as far as memory goes.

The same trade as in rechunker and cubed, with repeated reads in place of an intermediate copy.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

Edges: TypeAlias = npt.NDArray[np.int64]
"""(units + 1,) int64: where the units of one axis begin, and the length of the axis."""
Box: TypeAlias = tuple[tuple[int, int], ...]
"""First cell and the one after the last, along each axis."""

_ALL_LENGTHS: Final = 4096
"""Of an axis with more units than this only some block lengths are tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocking:
    """The blocks of one copy."""

    units: tuple[int, ...]
    """Units of the destination along each axis of a block."""
    cells: int
    """Cells of a block."""
    reads: int
    """Reads of source units by all blocks together."""
    source_units: int
    """Units that the source has."""

    @property
    def amplification(self) -> float:
        """How often a source unit is read on average."""
        return self.reads / max(1, self.source_units)


def edges_of(length: int, unit: int) -> Edges:
    """Return the edges of units of one length along an axis.

    Examples
    --------
    >>> edges_of(10, 4).tolist(), edges_of(0, 4).tolist()
    ([0, 4, 8, 10], [0])
    """
    return (
        np.append(np.arange(0, length, max(1, unit), dtype=np.int64), length)
        if length
        else np.zeros(1, np.int64)
    )


def plan_blocks(source: Sequence[Edges], units: Sequence[int], *, cells: int) -> Blocking | None:
    """Choose the blocks of a copy; None if not even one unit of the destination fits.

    Parameters
    ----------
    source
        Edges of the units of the source, along each axis.
    units
        Lengths of the units of the destination.
    cells
        Cells that a block may have.

    Examples
    --------
    >>> rows, columns = edges_of(100, 1), edges_of(100, 100)  # rows into columns
    >>> plan_blocks([rows, columns], (100, 1), cells=10_000).amplification
    1.0
    >>> plan_blocks([rows, columns], (100, 1), cells=2_500).amplification
    4.0
    """
    frontier: list[tuple[int, int, tuple[int, ...]]] = [(1, 1, ())]
    for edges, unit in zip(source, units, strict=True):
        choices = _choices(edges, unit)
        frontier = _best(
            [
                (size * length, reads * more, (*counts, count))
                for (size, reads, counts), (length, more, count) in itertools.product(frontier, choices)
                if size * length <= cells
            ]
        )
    if not frontier:
        return None
    _, _, counts = min(frontier, key=lambda each: (each[1], each[0]))
    grown = _grown(source, units, list(counts), cells)
    return Blocking(
        units=tuple(grown),
        cells=_cells(source, units, grown),
        reads=math.prod(map(_reads, source, units, grown)),
        source_units=math.prod(len(edges) - 1 for edges in source),
    )


def _grown(source: Sequence[Edges], units: Sequence[int], counts: list[int], cells: int) -> list[int]:
    """Grow a block along its axes, the last first: neighbours in the order of the grid are copied together."""
    for axis in reversed(range(len(counts))):
        times = cells // max(1, _cells(source, units, counts))
        there = -(-int(source[axis][-1]) // max(1, units[axis]))
        counts[axis] = max(counts[axis], min(there, counts[axis] * max(1, times)))
    return counts


def _cells(source: Sequence[Edges], units: Sequence[int], counts: Sequence[int]) -> int:
    lengths = (
        min(int(edges[-1]), unit * count) for edges, unit, count in zip(source, units, counts, strict=True)
    )
    return math.prod(lengths)


def _reads(edges: Edges, unit: int, count: int) -> int:
    """Return how many reads of source units the blocks of one axis make."""
    ends = np.arange(unit * count, int(edges[-1]), unit * count, dtype=np.int64)
    return len(edges) - 1 + int((~np.isin(ends, edges)).sum())


def _best(choices: list[tuple[int, int, tuple[int, ...]]]) -> list[tuple[int, int, tuple[int, ...]]]:
    """Return those that no other beats in both size and reads."""
    kept: list[tuple[int, int, tuple[int, ...]]] = []
    for choice in sorted(choices, key=lambda each: each[:2]):
        if not kept or choice[1] < kept[-1][1]:
            kept.append(choice)
    return kept


def _choices(edges: Edges, unit: int) -> list[tuple[int, int, int]]:
    """Return cells, reads of source units, and units of the destination, of the block lengths of one axis worth a thought."""
    length = int(edges[-1])
    if not length:
        return [(1, 1, 1)]
    unit = min(max(1, unit), length)
    count = -(-length // unit)
    ends = np.arange(1, count, dtype=np.int64) * unit
    cuts = ~np.isin(ends, edges)  # a block that ends there cuts a source unit in two
    lengths = range(1, count + 1) if count <= _ALL_LENGTHS else _some(count, edges, unit)
    choices: list[tuple[int, int, int]] = []
    for taken in lengths:
        reads = len(edges) - 1 + int(cuts[taken - 1 :: taken].sum())
        if not choices or reads < choices[-1][1]:
            choices.append((min(taken * unit, length), reads, taken))
    return choices


def _some(count: int, edges: Edges, unit: int) -> list[int]:
    longest = int(np.diff(edges).max())
    common = math.lcm(longest, unit) // unit
    lengths = {count, *(2**power for power in range(count.bit_length())), *range(1, 65)}
    lengths.update(common * times for times in range(1, 65))
    return sorted(each for each in lengths if each <= count)


def blocks(grid: Sequence[int], counts: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """Yield which units of the destination each block has, in C order.

    Examples
    --------
    >>> [[(part.start, part.stop) for part in block] for block in blocks((3, 1), (2, 1))]
    [[(0, 2), (0, 1)], [(2, 3), (0, 1)]]
    """
    axes = [
        [slice(start, min(start + count, length)) for start in range(0, length, count)]
        for length, count in zip(grid, counts, strict=True)
    ]
    return itertools.product(*axes)


def touched(box: Box, edges: Sequence[Edges]) -> tuple[slice, ...]:
    """Return which units a box touches, along each axis.

    Examples
    --------
    >>> touched(((3, 9),), [edges_of(20, 4)])
    (slice(0, 3, None),)
    """
    return tuple(
        slice(
            int(np.searchsorted(cut, first, side="right")) - 1, int(np.searchsorted(cut, stop, side="left"))
        )
        for (first, stop), cut in zip(box, edges, strict=True)
    )


def pieces(box: Box, edges: Sequence[Edges], *, cells: int) -> Iterator[Box]:
    """Cut a box between units, so that the units that each piece touches have at most so many cells, or it touches but one.

    Examples
    --------
    >>> list(pieces(((2, 10), (0, 5)), [edges_of(12, 4), edges_of(5, 5)], cells=40))
    [((2, 8), (0, 5)), ((8, 10), (0, 5))]
    """
    parts = touched(box, edges)
    size = math.prod(int(cut[part.stop] - cut[part.start]) for part, cut in zip(parts, edges, strict=True))
    counts = [part.stop - part.start for part in parts]
    if size <= cells or max(counts, default=1) <= 1:
        yield box
        return
    axis = next(axis for axis, count in enumerate(counts) if count > 1)
    at = int(edges[axis][parts[axis].start + -(-counts[axis] // 2)])
    for part in ((box[axis][0], at), (at, box[axis][1])):
        yield from pieces((*box[:axis], part, *box[axis + 1 :]), edges, cells=cells)
