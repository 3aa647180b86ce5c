"""Which commit wrote each part of an array last?

A *unit* is what is stored under one key: a chunk, or a shard of chunks. Its generation is the number of the commit that
wrote it last, 0 if nothing is stored. Units are numbered in C order of their grid. Pages of the manifest never change, so
what was found in one is remembered.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from operator import lt
from typing import Any, Final, NamedTuple, Self, TypeAlias

import numpy as np
import numpy.typing as npt
from zarr.types import AnyArray

from zarrvec.engine.reader import Reader
from zarrvec.engine.version import View
from zarrvec.errors import SearchError
from zarrvec.faces import renumbering
from zarrvec.format.keys import is_below, is_metadata
from zarrvec.format.table import DELETED, Table
from zarrvec.layout.delta import Delta
from zarrvec.search.blocks import Edges, grid_of
from zarrvec.search.cache import ByteCache
from zarrvec.search.head import StoredAs
from zarrvec.types import Location

Generations: TypeAlias = npt.NDArray[np.uint64]
Pages: TypeAlias = list[tuple[Location, Table]]
"""Pages of a manifest, and where they stand."""

STAGED: Final = renumbering.STAGED
"""Generation of a unit that an open transaction wrote: its commit has no number yet."""
_MEMORY_BYTES: Final = 32 << 20
_NUMBER: Final = "(0|[1-9][0-9]{0,17})"
_PROBE: Final = 1_000_000_007


class _Rows(NamedTuple):
    """The units of one array that stand in one page."""

    rows: npt.NDArray[np.int64]
    """(n,) int64: their rows in the page."""
    positions: npt.NDArray[np.int64]
    """(n, axes) int64: where they are in the grid."""


_ROWS: Final[ByteCache[tuple[Location, str], _Rows]] = ByteCache(_MEMORY_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Units:
    """The units of an array, and how their keys are recognised.

    Examples
    --------
    >>> import zarr
    >>> array = zarr.create_array(zarr.storage.MemoryStore(), shape=(5, 8), chunks=(2, 8), dtype="f4")
    >>> units = Units.of(array, "emb")
    >>> units.grid, units.position("emb/c/2/0"), units.position("emb/zarr.json")
    ((3, 1), (2, 0), None)
    >>> units.rows(np.array([False, False, True])).tolist()
    [False, False, False, False, True]
    """

    path: str
    """Key of the array in its store."""
    edges: tuple[Edges, ...]
    """Where the units of each axis begin, and the length of the axis."""
    pattern: re.Pattern[str]
    """Matches the keys of units; its groups are the position."""

    @classmethod
    def of(cls, array: AnyArray, path: str) -> Self:
        """Look at the metadata of an array.

        Raises
        ------
        SearchError
            If its chunk keys don't hold the position of the chunk in decimal digits.
        """
        prefix = f"{path}/" if path else ""
        encode = array.metadata.encode_chunk_key
        numbers = tuple(_PROBE + axis for axis in range(array.ndim))
        pattern = re.escape(encode(numbers))
        found = all(pattern.count(str(number)) == 1 for number in numbers)
        for number in numbers:
            pattern = pattern.replace(str(number), _NUMBER)
        compiled = re.compile(re.escape(prefix) + pattern)
        first = f"{prefix}{encode((0,) * array.ndim)}"
        if not found or compiled.fullmatch(first) is None:
            raise SearchError(
                f"array {array.name!r}: its chunks have keys such as {first!r}, from which their positions can't be told; "
                "expected zarr's 'default' or 'v2' chunk key encoding. Copy it to an array with one of these."
            )
        return cls(path=path, edges=grid_of(array).units, pattern=compiled)

    @property
    def grid(self) -> tuple[int, ...]:
        """Units along each axis."""
        return tuple(len(edges) - 1 for edges in self.edges)

    def rows(self, which: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Return which vectors lie in some of the units, of the leading shape; `which` is (units,) bool."""
        rows: npt.NDArray[np.bool_] = np.logical_or.reduce(which.reshape(self.grid), axis=-1)
        for axis, edges in enumerate(self.edges[:-1]):
            rows = np.repeat(rows, np.diff(edges), axis=axis)
        return rows

    def position(self, key: str) -> tuple[int, ...] | None:
        """Return the position of the unit that has a key; None if it is no unit of the array's grid."""
        return self._position(key, self.grid)

    def generations(self, pages: Pages, changed: Delta) -> Generations:
        """Return the generation of each unit, (units,) uint64.

        Parameters
        ----------
        pages
            Manifest pages that may hold units, and where they stand.
        changed
            What is newer than the pages; generation 0 stands for an open transaction.
        """
        grid = self.grid
        generations = np.zeros(grid, dtype=np.uint64)
        for location, table in pages:
            known = self._rows(location, table)
            inside = np.all(known.positions < grid, axis=1)
            for clear in changed.clears:
                kept = [not is_below(table.keys[row], clear.prefix) for row in known.rows.tolist()]
                inside &= np.array(kept, dtype=np.bool_)
            there = table.pack_numbers[known.rows] != DELETED
            values = np.where(there, table.generations[known.rows], 0)
            generations[tuple(known.positions[inside].T)] = values[inside]
        for key, entry in changed.entries.items():
            position = self._position(key, grid)
            if position is not None:
                generations[position] = 0 if entry.is_deleted else entry.generation or STAGED
        return generations.reshape(-1)

    def _position(self, key: str, grid: tuple[int, ...]) -> tuple[int, ...] | None:
        """Do what `position` does, with the grid at hand: to make it takes as long as all else."""
        match = self.pattern.fullmatch(key)
        if match is None:
            return None
        position = tuple(map(int, match.groups()))
        return position if all(map(lt, position, grid)) else None

    def _rows(self, location: Location, table: Table) -> _Rows:
        identity = location, self.pattern.pattern
        known = _ROWS.get_many([identity]).get(identity)
        if known is None:
            matches = enumerate(map(self.pattern.fullmatch, table.keys))
            found = [(row, " ".join(match.groups())) for row, match in matches if match is not None]
            rows = np.array([row for row, _ in found], dtype=np.int64)
            # text to numbers all at once: one by one, this is half the time of a cold look at 10^5 units
            numbers = " ".join(position for _, position in found)
            positions = np.fromstring(numbers, dtype=np.int64, sep=" ") if found else np.empty(0, np.int64)
            known = _Rows(rows, positions.reshape(len(rows), len(self.grid)))
            _ROWS.put_many({identity: (known, rows.nbytes + positions.nbytes)})
        return known


def stored_as(array: AnyArray) -> StoredAs:
    """Return how an array cuts rows into units, and what it holds where nothing is stored.

    Examples
    --------
    >>> import zarr
    >>> stored_as(zarr.create_array(zarr.storage.MemoryStore(), shape=(5, 8), chunks=(2, 8), dtype="f4"))
    StoredAs(unit=(2, 8), fill_value=0.0)
    """
    try:
        unit = array.shards or array.chunks
    except NotImplementedError:  # a rectilinear grid, zarr 3.2 and later
        unit = None
    return StoredAs(unit, _as_json(array.fill_value))


def _as_json(fill_value: Any) -> float | str | None:
    """Return the fill value as zarr's metadata documents of format 3 have it."""
    if fill_value is None:
        return None
    number = float(fill_value)
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


class Covered(NamedTuple):
    """Which units the lists of an index cover."""

    generations: Generations
    """(units,) of the units as they went into lists; `UNCOVERED` of the others."""
    written: set[str] | None
    """Keys that the open transaction has written since then, more as it writes them; None outside of one."""


async def pages_of(
    reader: Reader, view: View, path: str, *, also: Sequence[str] = (), arrays: Sequence[str] = ()
) -> Pages:
    """Return the manifest pages that may hold units of an array, and where they stand.

    Pages that may hold the keys `also`, or chunks of the arrays whose first keys are told, are read by the same requests,
    but for keys and arrays that stand in the delta.
    """
    root = await reader.root(view.version)

    def below(path: str) -> list[int]:
        return [page for page in root.pages_below(path) if not is_metadata(root.pages[page].last)]

    wanted = below(path)
    asked: set[Any] = {root.page_of(key) for key in also if view.find(key) is None}
    asked.update(page for key in arrays if view.find(key) is None for page in below(key.rpartition("/c/")[0]))
    refs = [root.pages[page] for page in (*wanted, *sorted(asked.difference(wanted, [None])))]
    tables = await reader.pages(refs)
    return [(ref.location, table) for ref, table in zip(refs, tables, strict=True)][: len(wanted)]


def changed_units(
    now: Generations,
    grid: tuple[int, ...],
    since: Generations,
    grid_since: tuple[int, ...],
    *,
    staged_at: int | None = None,
) -> npt.NDArray[np.bool_]:
    """Return which units differ from what they were, (units,) bool; units that were outside of the grid were empty.

    Parameters
    ----------
    now, grid
        Generations as they are, and the grid that they are numbered in.
    since, grid_since
        Generations as they were, and the grid of that time.
    staged_at
        What `STAGED` stands for in `since`: the number of the commit that came of the transaction. None if that is not
        known; such units count as changed.

    Examples
    --------
    >>> now, since = np.array([1, 3, 4], "u8"), np.array([1, 2], "u8")
    >>> changed_units(now, (3, 1), since, (2, 1)).tolist()
    [False, True, True]
    """
    before: Generations = np.zeros(grid, dtype=np.uint64)
    common = tuple(slice(0, min(pair)) for pair in zip(grid, grid_since, strict=True))
    before[common] = since.reshape(grid_since)[common]
    if staged_at is not None:
        before[before == STAGED] = staged_at
    return np.not_equal(before.reshape(-1), now) | np.equal(now, STAGED)
