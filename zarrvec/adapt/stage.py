"""How far has a rechunking come, so that a call after a crash goes on, and which parts have to be copied again?

What was copied stands below a path beside the array, with a record of which of its units are still to do and which commit
wrote each unit of the source that the others were copied from. Source: ``specs/decisions/0008-rechunk-in-steps.md``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
from numcodecs.zstd import Zstd

from zarrvec.layout.blocking import Edges, edges_of, touched
from zarrvec.search.units import Generations, changed_units

Todo = npt.NDArray[np.bool_]
STATE: Final = "rechunk"
"""Key of the record, below the path of what was copied."""
_FORMAT: Final = 1


def stage_path_of(path: str) -> str:
    """Return where an array is copied to: beside it, or in it if it is the root of its store.

    Examples
    --------
    >>> stage_path_of("camera/rgb"), stage_path_of("")
    ('camera/rgb.rechunk', '.rechunk')
    """
    return f"{path}.rechunk"


class _Record(msgspec.Struct, forbid_unknown_fields=True):
    format: int
    source: str
    source_structure: bytes
    structure: bytes
    shape: tuple[int, ...]
    units: tuple[int, ...]
    todo: bytes
    grid: tuple[int, ...]
    generations: bytes | None


@dataclass(slots=True, kw_only=True)
class State:
    """What was copied so far."""

    source: str
    """What is copied."""
    source_structure: bytes
    """Its chunks and codecs."""
    structure: bytes
    """Those of the copy."""
    shape: tuple[int, ...]
    """Of both."""
    units: tuple[int, ...]
    """Lengths of the units of the copy."""
    todo: Todo
    """Which units of the copy are to be written, on the grid."""
    grid: tuple[int, ...]
    """Units of the source along each axis."""
    generations: Generations | None
    """Of the units of the source, (units,); None if its store has no versions."""

    def encode(self) -> bytes:
        """Return the record."""
        record = _Record(
            format=_FORMAT,
            source=self.source,
            source_structure=self.source_structure,
            structure=self.structure,
            shape=self.shape,
            units=self.units,
            todo=np.packbits(self.todo.reshape(-1)).tobytes(),
            grid=self.grid,
            generations=None if self.generations is None else self.generations.astype("<u8").tobytes(),
        )
        return bytes(Zstd(level=3).encode(msgspec.msgpack.encode(record)))

    @classmethod
    def decode(cls, data: bytes) -> "State | None":
        """Read a record; None if it is of another zarrvec, or none at all."""
        try:
            record = msgspec.msgpack.decode(bytes(Zstd().decode(data)), type=_Record)
            grid = tuple(-(-length // unit) for length, unit in zip(record.shape, record.units, strict=True))
            count = int(np.prod(grid, dtype=np.int64))
            todo = np.unpackbits(np.frombuffer(record.todo, np.uint8), count=count).astype(bool).reshape(grid)
            generations = record.generations
            known = None if generations is None else np.frombuffer(generations, "<u8").astype(np.uint64)
            if record.format != _FORMAT or (
                known is not None and known.size != np.prod(record.grid, dtype=np.int64)
            ):
                return None
        except (msgspec.MsgspecError, ValueError, RuntimeError, ZeroDivisionError):
            return None
        return cls(
            source=record.source,
            source_structure=record.source_structure,
            structure=record.structure,
            shape=record.shape,
            units=record.units,
            todo=todo,
            grid=record.grid,
            generations=known,
        )

    def is_of(self, other: "State") -> bool:
        """Whether another one is about the same copy of the same source, however large it has become."""
        return (self.source, self.source_structure, self.structure, self.units) == (
            other.source,
            other.source_structure,
            other.structure,
            other.units,
        )

    def going_on(self, before: "State", source: Sequence[Edges]) -> None:
        """Take over what was done before: to do are units that have grown, and those whose source has changed since.

        Parameters
        ----------
        before
            What was done; of the same copy.
        source
            Edges of the units of the source, along each axis.
        """
        self.todo = carried_over(before.todo, before.shape, self.shape, self.units)
        if self.generations is not None and before.generations is not None:
            which = changed_units(self.generations, self.grid, before.generations, before.grid)
            mark(self.todo, which.reshape(self.grid), source, self.edges)

    @property
    def edges(self) -> list[Edges]:
        """Edges of the units of the copy, along each axis."""
        return [edges_of(length, unit) for length, unit in zip(self.shape, self.units, strict=True)]


def mark(todo: Todo, changed: Todo, source: Sequence[Edges], edges: Sequence[Edges]) -> None:
    """Note as to do whatever touches a unit of the source that has changed.

    Parameters
    ----------
    todo
        Units of the copy, on their grid; changed in place.
    changed
        Units of the source, on theirs.
    source, edges
        Edges of both, along each axis.

    Examples
    --------
    >>> todo = np.zeros((3,), bool)
    >>> mark(todo, np.array([False, True]), [edges_of(10, 5)], [edges_of(10, 4)])
    >>> todo.tolist()
    [False, True, True]
    """
    if changed.all():
        todo[...] = True
        return
    for position in np.argwhere(changed).tolist():
        box = tuple((int(cut[at]), int(cut[at + 1])) for at, cut in zip(position, source, strict=True))
        todo[touched(box, edges)] = True


def carried_over(todo: Todo, before: Sequence[int], now: Sequence[int], units: Sequence[int]) -> Todo:
    """Return which units are to do after an array got another shape: those of before, and what grew.

    Examples
    --------
    >>> carried_over(np.array([False, False]), (7,), (12,), (4,)).tolist()
    [False, True, True]
    >>> carried_over(np.array([False, True]), (7,), (4,), (4,)).tolist()
    [False]
    """
    grid = tuple(-(-length // unit) for length, unit in zip(now, units, strict=True))
    result: Todo = np.ones(grid, dtype=bool)
    common = tuple(slice(0, min(pair)) for pair in zip(grid, todo.shape, strict=True))
    result[common] = todo[common]
    for axis, (old, new, unit) in enumerate(zip(before, now, units, strict=True)):
        if new > old:
            result[(slice(None),) * axis + (slice(old // unit, None),)] = True
    return result
