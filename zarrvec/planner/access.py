"""Which part of an array does one read or write take, and how often?

Source: ``specs/planner.md``, section "Accesses".
"""

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from types import EllipsisType
from typing import Final, Literal, TypeAlias, TypeGuard

import numpy as np

from zarrvec.errors import PlanError

Kind: TypeAlias = Literal["read", "write"]
Start: TypeAlias = Literal["anywhere", "aligned"]
Extent: TypeAlias = int | slice | EllipsisType | None

KINDS: Final = ("read", "write")
STARTS: Final = ("anywhere", "aligned")
MOST_PICKED: Final = 64
"""One call takes scattered blocks of at most this many times the cells of their axis: more take all cells anyway."""


@dataclass(frozen=True, slots=True)
class Access:
    """A way in which an array is read or written.

    Parameters
    ----------
    kind
        ``"read"`` or ``"write"``.
    shape
        What one call takes along each axis: a number of cells, None for all of them, or a slice for exactly these cells.
        ``...`` stands for None along all axes in its place, and axes that are left out at the end are None.
    weight
        How often, beside the others.
    start
        Where a call may begin along the axes of which it takes a number of cells: ``"anywhere"``, or ``"aligned"`` at
        multiples of that number. None is ``"anywhere"`` for reads and ``"aligned"`` for writes. Aligned writes fill the array,
        each cell once and in order; others change what is there.
    scattered
        How many such blocks one call takes, each at a random place along `axis`; 0 for one block.
    axis
        The axis along which blocks are scattered.
    name
        What it is called in reports.

    Raises
    ------
    PlanError
        If a field makes no sense.

    Examples
    --------
    >>> Access("read", (1, 1, ...), weight=0.9).shape
    (1, 1, Ellipsis)
    >>> Access("read", (0, ...))
    Traceback (most recent call last):
    zarrvec.errors.PlanError: access (0, ...): takes 0 cells along axis 0; expected at least 1, or None for all.
    """

    kind: Kind
    shape: tuple[Extent, ...]
    _: KW_ONLY
    weight: float = 1.0
    start: Start | None = None
    scattered: int = 0
    axis: int = 0
    name: str = ""

    def __post_init__(self) -> None:
        given: object = self.shape
        shape = given if isinstance(given, tuple) else (given,)
        object.__setattr__(self, "shape", shape)
        called = _spelled(shape)
        if self.kind not in KINDS:
            raise PlanError(f"access {called}: kind={self.kind!r}, expected 'read' or 'write'.")
        if self.start is not None and self.start not in STARTS:
            raise PlanError(f"access {called}: start={self.start!r}, expected 'anywhere', 'aligned' or None.")
        if not is_positive(self.weight):
            raise PlanError(f"access {called}: weight={self.weight!r}, expected a positive number.")
        if sum(extent is ... for extent in shape) > 1:
            raise PlanError(f"access {called}: has more than one '...'; expected at most one.")
        if not is_whole(self.scattered) or self.scattered < 0:
            raise PlanError(f"access {called}: scattered={self.scattered!r}, expected a number of blocks.")
        for axis, extent in enumerate(shape):
            if extent is None or extent is ... or isinstance(extent, slice):
                continue
            if not is_whole(extent):
                raise PlanError(
                    f"access {called}: {extent!r} along axis {axis}; expected int, slice, None or '...'."
                )
            if extent < 1:
                raise PlanError(
                    f"access {called}: takes {extent} cells along axis {axis}; expected at least 1, or None for all."
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """An access to an array of a known shape."""

    name: str
    kind: Kind
    weight: float
    """Share of all accesses; those of a plan add up to 1."""
    shape: tuple[int, ...]
    """Of the array."""
    lengths: tuple[int, ...]
    """Cells that one call (or one of its scattered blocks) takes along each axis."""
    starts: tuple[int | None, ...]
    """Where a call begins along an axis if that is fixed; None where it moves."""
    aligned: bool
    """Whether it moves by multiples of its lengths."""
    scattered: int
    """Blocks in one call, at random places along `axis`; 0 for a single one."""
    axis: int

    @property
    def cells(self) -> int:
        """Cells that one call takes, those that two blocks share counted twice."""
        return math.prod(self.lengths) * max(1, self.scattered)

    @property
    def fills(self) -> bool:
        """Whether calls of it, one after the other, write the whole array."""
        return (
            self.kind == "write"
            and self.aligned
            and not self.scattered
            and not any(start for start in self.starts)
            and all(
                start is None or length == size
                for start, length, size in zip(self.starts, self.lengths, self.shape, strict=True)
            )
        )


def is_whole(value: object) -> TypeGuard[int]:
    """Return whether a value is a whole number, perhaps one of numpy, and no boolean."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_positive(value: object) -> bool:
    """Return whether a value is a finite number above 0, and no boolean."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def resolve(access: Access, shape: Sequence[int]) -> Pattern:
    """Return an access as it is to an array of this shape.

    Raises
    ------
    PlanError
        If it takes more axes or cells than there are.

    Examples
    --------
    >>> pattern = resolve(Access("read", (1, ..., slice(2, 5))), (10, 20, 30))
    >>> pattern.lengths, pattern.starts
    ((1, 20, 3), (None, 0, 2))
    """
    called = access.name or _spelled(access.shape)
    given = list(access.shape)
    fill = [None] * (len(shape) - len([extent for extent in given if extent is not ...]))
    if len(given) - (... in given) > len(shape):
        raise PlanError(f"access {called}: has {len(given)} axes, the array {len(shape)} {tuple(shape)}.")
    at = given.index(...) if ... in given else len(given)
    extents = [*given[:at], *fill, *given[at + 1 :]]
    lengths: list[int] = []
    starts: list[int | None] = []
    for axis, (extent, size) in enumerate(zip(extents, shape, strict=True)):
        start, length = _placed(extent, size, axis, called)
        lengths.append(length)
        starts.append(start)
    axis = access.axis + len(shape) if access.axis < 0 else access.axis
    if access.scattered and not 0 <= axis < len(shape):
        raise PlanError(f"access {called}: axis={access.axis}, the array has {len(shape)} axes.")
    if access.scattered and access.scattered * lengths[axis] > MOST_PICKED * shape[axis]:
        raise PlanError(
            f"access {called}: takes {access.scattered} scattered blocks along axis {axis}, which has {shape[axis]} cells; "
            f"expected no more than {MOST_PICKED} times as many, or None for all cells."
        )
    if access.scattered and starts[axis] is not None and lengths[axis] != shape[axis]:
        raise PlanError(
            f"access {called}: can't be scattered along axis {axis}, where it takes a fixed slice."
        )
    return Pattern(
        name=called,
        kind=access.kind,
        weight=float(access.weight),
        shape=tuple(shape),
        lengths=tuple(lengths),
        starts=tuple(starts),
        aligned=(access.start or ("aligned" if access.kind == "write" else "anywhere")) == "aligned",
        scattered=int(access.scattered),
        axis=axis if access.scattered else 0,
    )


def _placed(extent: Extent, size: int, axis: int, called: str) -> tuple[int | None, int]:
    """Return where an extent begins, None if it moves, and how many cells it has."""
    if extent is None or extent is ...:
        return 0, size
    if isinstance(extent, slice):
        if extent.step not in (None, 1):
            raise PlanError(f"access {called}: a step of {extent.step} along axis {axis}; expected none.")
        start, stop, _ = extent.indices(size)
        if stop <= start:
            raise PlanError(f"access {called}: {extent} is empty along axis {axis} of {size} cells.")
        return start, stop - start
    if extent > size:
        raise PlanError(
            f"access {called}: takes {extent} cells along axis {axis}, which has {size}; use None for all of them."
        )
    return (0 if extent == size else None), int(extent)


def _spelled(shape: tuple[object, ...]) -> str:
    words = ["..." if extent is ... else _spelled_slice(extent) for extent in shape]
    return f"({', '.join(words)}{',' if len(words) == 1 else ''})"


def _spelled_slice(extent: object) -> str:
    if not isinstance(extent, slice):
        return "all" if extent is None else repr(extent)
    return f"{'' if extent.start is None else extent.start}:{'' if extent.stop is None else extent.stop}"
