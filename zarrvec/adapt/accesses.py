"""Which accesses does the planner make of a trace?

Pure. A shape that was counted is one access, as often as it was counted. Along an axis that an access takes whole it is
told so, which holds when the axis grows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from zarrvec.layout.trace import ArrayTrace, Counts, Shape
from zarrvec.planner.access import MOST_PICKED, Access


@dataclass(frozen=True, slots=True, kw_only=True)
class Accesses:
    """What a trace says of an array, for the planner."""

    reads: tuple[Access, ...]
    writes: tuple[Access, ...]
    operations: int
    """That they stand for."""
    left_out: int
    """Operations of shapes that were too many to be told apart, or that no longer fit the array."""


def accesses_of(trace: ArrayTrace, shape: Sequence[int]) -> Accesses:
    """Return the accesses of an array of this shape.

    Examples
    --------
    >>> told = ArrayTrace(shapes={Shape("read", (1, 8)): Counts(operations=3, boxes=3, chunks=3)})
    >>> found = accesses_of(told, (100, 8))
    >>> found.reads[0].shape, found.reads[0].weight, found.operations
    ((1, None), 3.0, 3)
    """
    found: dict[str, list[Access]] = {"read": [], "write": []}
    operations, left_out = 0, trace.rest.operations
    for traced, counts in trace.shapes.items():
        access = _access(traced, counts, shape)
        if access is None:
            left_out += counts.operations
            continue
        found[traced.kind].append(access)
        operations += counts.operations
    return Accesses(
        reads=tuple(found["read"]), writes=tuple(found["write"]), operations=operations, left_out=left_out
    )


def _access(traced: Shape, counts: Counts, shape: Sequence[int]) -> Access | None:
    if len(traced.cells) != len(shape) or not all(traced.cells) or not counts.operations:
        return None
    cells = [min(taken, length) for taken, length in zip(traced.cells, shape, strict=True)]
    blocks, axis = 0, 0
    if traced.scattered:
        axis = max(traced.scattered, key=lambda each: (cells[each], shape[each]))
        points = len(traced.scattered) == len(shape) and max(cells) == 1
        points_of_one = max(1, round(counts.boxes / counts.operations))
        blocks = min(points_of_one, MOST_PICKED * shape[axis]) if points else cells[axis]
        cells[axis] = 1
    lengths = tuple(
        None if taken == length and not (blocks and at == axis) else taken
        for at, (taken, length) in enumerate(zip(cells, shape, strict=True))
    )
    return Access(
        traced.kind,
        lengths,
        weight=float(counts.operations),
        start="aligned" if counts.aligned == counts.operations else "anywhere",
        scattered=blocks,
        axis=axis,
        name=_name(lengths, blocks, axis),
    )


def _name(lengths: Sequence[int | None], blocks: int, axis: int) -> str:
    box = f"({', '.join('all' if taken is None else str(taken) for taken in lengths)})"
    return f"{blocks} x {box} along axis {axis}" if blocks else box
