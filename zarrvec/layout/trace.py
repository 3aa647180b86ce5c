"""What shape has the selection of one array operation, and how are many of them counted in bounded memory?

A codec pipeline is given the chunks of an operation, what is taken of each, and where that goes. The first and the last of
them tell the shape of a box, and that is nearly all that is looked at: a thousandth of what reading 10,000 chunks takes.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import numpy as np

SHAPES: Final = 32
"""Shapes that are told apart for one array; the rest is counted together."""
ARRAYS: Final = 256
"""Arrays of a store that are told apart. With `SHAPES` for each, a trace takes less than 5 MiB."""

Kind: TypeAlias = Literal["read", "write"]
Position: TypeAlias = tuple[int, ...]
Batch: TypeAlias = Sequence[tuple[Any, ...]]
_TAKEN: Final = 2
_GOES: Final = 3
_WHOLE: Final = 4


class Shape(NamedTuple):
    """What operations have in common that are counted together."""

    kind: Kind
    """Whether cells are read or written."""
    cells: tuple[int, ...]
    """Cells along each axis. Of a selection of single points, 1 along each."""
    scattered: tuple[int, ...] = ()
    """Axes along which the cells are no run: by a list of positions, a mask, or with a step."""


@dataclass(slots=True, kw_only=True)
class Counts:
    """How often operations of one shape were made, and what they touched."""

    operations: int = 0
    """Operations."""
    boxes: int = 0
    """Boxes of that shape: one for each operation, of a selection of points one for each point."""
    chunks: int = 0
    """Chunks touched, or shards where the array is sharded."""
    whole: int = 0
    """Those of them that were touched whole."""
    aligned: int = 0
    """Operations that began, along every axis, at a multiple of the cells that they took there."""

    def add(self, other: "Counts") -> None:
        """Count other operations too."""
        self.operations += other.operations
        self.boxes += other.boxes
        self.chunks += other.chunks
        self.whole += other.whole
        self.aligned += other.aligned


class ChunkKey(NamedTuple):
    """The key of a chunk, taken apart."""

    array: str
    """Path of the array."""
    position: tuple[int, ...]
    """Where the chunk is in the grid."""


@lru_cache(maxsize=64)
def _pattern(axes: int, zarr_format: int) -> re.Pattern[str]:
    marked = "(?:c[/.])?" if zarr_format == 3 else ""
    more = axes - 1
    numbers = rf"{marked}(\d+(?:/\d+){{{more}}}|\d+(?:\.\d+){{{more}}})" if axes else "(c|0)"
    return re.compile(f"(?:(.*?)/)??{numbers}", re.DOTALL)


def split_chunk_key(key: str, axes: int, *, zarr_format: int) -> ChunkKey | None:
    """Take the key of a chunk apart, in zarr's ways to write them; None if it is of no such kind.

    Examples
    --------
    >>> split_chunk_key("camera/rgb/c/3/0", 2, zarr_format=3)
    ChunkKey(array='camera/rgb', position=(3, 0))
    >>> split_chunk_key("camera/c/3.0", 2, zarr_format=2)
    ChunkKey(array='camera/c', position=(3, 0))
    >>> split_chunk_key("c", 0, zarr_format=3)
    ChunkKey(array='', position=())
    """
    match = _pattern(axes, zarr_format).fullmatch(key)
    if match is None:
        return None
    path, numbers = match.groups()
    return ChunkKey(path or "", tuple(map(int, numbers.replace(".", "/").split("/"))) if axes else ())


def describe(
    kind: Kind, batch: Batch, ends: tuple[Position, Position], lengths: Position, dropped: Position = ()
) -> tuple[Shape | None, Counts]:
    """Return the shape of an operation, None if it can't be told, and its counts.

    Parameters
    ----------
    kind
        Of the operation.
    batch
        Its chunks, in the order of the grid, as zarr gives them to a codec pipeline: each a place, a spec, which cells are
        taken of it, where in the result they go, and whether it is taken whole.
    ends
        Where the first and the last of them are in the grid.
    lengths
        Of a chunk, along each axis.
    dropped
        Axes that zarr drops from the result by itself.

    Examples
    --------
    >>> first, last = (None, None, (slice(5, 10), 3), (slice(0, 5),), False), (None, None, (slice(0, 2), 3), (slice(5, 7),), False)
    >>> shape, counts = describe("read", [first, last], ((0, 0), (1, 0)), (10, 8))
    >>> shape.cells, shape.scattered, counts.boxes, counts.chunks, counts.aligned
    ((7, 1), (), 1, 2, 0)
    """
    counts = Counts(operations=1, boxes=1, chunks=len(batch), whole=sum(part[_WHOLE] for part in batch))
    taken, goes = _tuple(batch[0][_TAKEN]), _tuple(batch[-1][_GOES])
    if all(isinstance(part, slice | int | np.integer) for part in taken):
        going = iter(goes)
        cells = tuple(int(next(going).stop) if isinstance(part, slice) else 1 for part in taken)
        starts = [int(part.start or 0) if isinstance(part, slice) else int(part) for part in taken]
        scattered = [axis for axis, part in enumerate(taken) if getattr(part, "step", 1) not in (None, 1)]
    elif not all(isinstance(part, slice | np.ndarray) for part in taken):
        return None, counts
    elif len(taken) > 1 and all(isinstance(part, np.ndarray) and part.ndim == 1 for part in taken):
        counts.boxes = sum(int(part[_TAKEN][0].size) for part in batch)  # single points
        counts.aligned = 1
        return Shape(kind, (1,) * len(taken), tuple(range(len(taken)))), counts
    else:
        cells = _meshed(batch, len(taken), dropped)
        starts = [_run(part)[0] for part in taken]
        stops = [_run(part)[1] for part in _tuple(batch[-1][_TAKEN])]
        spans = [
            (end - first) * length + stop - start
            for first, end, length, start, stop in zip(*ends, lengths, starts, stops, strict=True)
        ]
        scattered = [axis for axis, span in enumerate(spans) if span != cells[axis]]
    counts.aligned = int(
        not any(
            (at * length + start) % max(1, cell)
            for at, length, start, cell in zip(ends[0], lengths, starts, cells, strict=True)
        )
    )
    return Shape(kind, cells, tuple(scattered)), counts


def _meshed(batch: Batch, axes: int, dropped: Position) -> Position:
    """Return the cells along each axis that lists of positions, one for each axis, take together."""
    kept = [axis for axis in range(axes) if axis not in dropped]
    cells = [1] * axes
    only_slices = all(isinstance(part, slice) for part in _tuple(batch[-1][_GOES]))
    for chunk in batch[-1:] if only_slices else batch:
        for axis, goes in zip(kept, _tuple(chunk[_GOES]), strict=True):
            cells[axis] = max(cells[axis], int(goes.stop if isinstance(goes, slice) else goes.max() + 1))
    return tuple(cells)


def _run(part: Any) -> tuple[int, int]:
    """Return the first position that a slice or a list of positions takes, and the one after the last."""
    if isinstance(part, slice):
        return int(part.start or 0), int(part.stop)
    return int(part.min()), int(part.max()) + 1


def _tuple(selection: Any) -> tuple[Any, ...]:
    return selection if isinstance(selection, tuple) else (selection,)


@dataclass(slots=True, kw_only=True)
class ArrayTrace:
    """The operations on one array."""

    shapes: dict[Shape, Counts] = field(default_factory=dict)
    """By shape; at most `SHAPES`."""
    rest: Counts = field(default_factory=Counts)
    """Those of other shapes."""

    def note(self, shape: Shape | None, counts: Counts) -> None:
        """Count operations. The rarest shape makes room for a new one, and is counted with the rest."""
        if shape is None:
            self.rest.add(counts)
            return
        known = self.shapes.get(shape)
        if known is None:
            if len(self.shapes) >= SHAPES:
                rarest = min(self.shapes, key=lambda each: self.shapes[each].operations)
                self.rest.add(self.shapes.pop(rarest))
            known = self.shapes[shape] = Counts()
        known.add(counts)


class Tally:
    """The operations on the arrays of a store.

    Examples
    --------
    >>> tally = Tally()
    >>> tally.note("images", Shape("read", (1, 224, 224)), Counts(operations=1, boxes=1, chunks=1))
    >>> tally.arrays["images"].shapes[Shape("read", (1, 224, 224))].operations
    1
    """

    __slots__ = ("arrays", "elsewhere")

    def __init__(self) -> None:
        self.arrays: dict[str, ArrayTrace] = {}
        self.elsewhere = Counts()
        """Operations on arrays beyond the first `ARRAYS`."""

    def note(self, array: str, shape: Shape | None, counts: Counts) -> None:
        """Count operations on an array; without a shape they are counted with the rest."""
        known = self.arrays.get(array)
        if known is None:
            if len(self.arrays) >= ARRAYS:
                self.elsewhere.add(counts)
                return
            known = self.arrays[array] = ArrayTrace()
        known.note(shape, counts)

    def add(self, other: "Tally") -> None:
        """Count the operations of another tally too."""
        for array, trace in other.arrays.items():
            for shape, counts in trace.shapes.items():
                self.note(array, shape, counts)
            if trace.rest.operations:
                self.note(array, None, trace.rest)
        self.elsewhere.add(other.elsewhere)
